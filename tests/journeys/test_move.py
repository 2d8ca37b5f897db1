"""An entitlement moves from one real server to another, and nothing of it is given out twice."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lls.issuer import Issuer
from lls.issuer.refusals import Conflict
from tests.issuer.appliance import METERED
from tests.journeys.world import Asked, Https, Site


@pytest.fixture
def second(site: Site, tmp_path: Path) -> Iterator[Site]:
    """Another server of the same customer."""
    other = Site(tmp_path / "second")
    try:
        yield other
    finally:
        other.close()


class Vendor:
    """The vendor's office, opened anew for each act, as by its commands."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def open(self) -> Issuer:
        return Issuer(self.home, now=datetime.now(UTC))

    def license(self, site: Site) -> str:
        """The server's id; whatever it hosts comes with a bundle."""
        now = datetime.now(UTC)
        with self.open() as issuer:
            server = issuer.register_server(
                site.admin_bytes("POST", "/v1/admin/server/request"), customer="ACME", now=now
            )
        return server.server_id

    def sell(self, server_id: str, sku: str) -> str:
        lines = [{"line": 1, "action": "new", "sku": sku, "quantity": 1}]
        order = {"order_ref": f"SO-{sku}", "account_ref": "ACME", "server_id": server_id, "lines": lines}
        with self.open() as issuer:
            (fulfilled,) = issuer.fulfil(json.dumps(order).encode(), now=datetime.now(UTC))
        return fulfilled.entitlements[0].entitlement_id

    def bundle(self, site: Site, server_id: str) -> None:
        with self.open() as issuer:
            data = issuer.issue_bundle(server_id, now=datetime.now(UTC)).data
        assert site.admin("POST", "/v1/admin/bundles", data)["applied"]


@pytest.fixture
def vendor(site: Site, second: Site) -> Vendor:
    now = datetime.now(UTC)
    with Issuer.create(site.vendor, now=now, passphrase=None) as issuer:
        issuer.load_catalog(METERED, now=now)
        issuer.put_customer("ACME", name="ACME", now=now)
        for each in (site, second):
            each.keys.write_text(issuer.keyring.newest.token, "ascii")
    return Vendor(site.vendor)


def use(https: Https, asked: Asked, feature: str, amount: int) -> Any:
    body = {"amount": amount, "request_id": str(uuid.uuid4())}
    return https.ask("POST", f"/v1/leases/{asked.lease_id}/features/{feature}/use", body, secret=asked.secret)


def test_what_one_server_used_up_the_next_does_not_give_again(site: Site, second: Site, vendor: Vendor) -> None:
    site.start()
    second.start()
    here, there = vendor.license(site), vendor.license(second)
    key = vendor.sell(here, "CAD")
    vendor.bundle(site, here)

    https, asked = site.https(), Asked.new(random.Random(1))
    assert 201 == https.checkout(asked).status
    assert 200 == use(https, asked, "frames", 130).status
    assert 200 == use(https, asked, "cloud", 999).status
    assert 204 == https.checkin(asked).status

    returned = site.admin("POST", f"/v1/admin/entitlements/{key}/return", b'{"force": false}')
    document = str(returned["document"])
    with vendor.open() as issuer, pytest.raises(Conflict, match="Ingest the report"):
        issuer.hosting.accept_return(document, now=datetime.now(UTC))
    site.reported()
    with vendor.open() as issuer:
        accepted = issuer.hosting.accept_return(document, now=datetime.now(UTC))
        assert {"frames": 130, "pages": 0, "cloud": 999, "gpu": 0} == {
            each.feature: each.consumed for each in accepted.meters
        }
        assert issuer.hosting.accept_return(document, now=datetime.now(UTC)).again
        issuer.hosting.host(key, server_id=there, now=datetime.now(UTC))
    vendor.bundle(second, there)
    vendor.bundle(site, here)

    refused = https.checkout(Asked.new(random.Random(2)))
    assert (404, "unknown_product") == (refused.status, refused.code)
    elsewhere, again = second.https(), Asked.new(random.Random(4))
    assert 201 == elsewhere.checkout(again).status
    assert [409, 200, 409, 200] == [
        use(elsewhere, again, feature, amount).status
        for feature, amount in (("frames", 21), ("frames", 20), ("cloud", 2), ("cloud", 1))
    ]
    assert 0 == site.stop()
    assert 0 == second.stop()


def test_a_term_that_the_first_lease_began_comes_back_with_the_vendors_dates(site: Site, vendor: Vendor) -> None:
    site.start()
    here = vendor.license(site)
    key = vendor.sell(here, "CAD-TRY")
    vendor.bundle(site, here)
    https, asked = site.https(), Asked.new(random.Random(1))
    granted = https.checkout(asked).body["lease"]["entitlement"]
    site.reported()
    with vendor.open() as issuer:
        document = issuer.entitlement(key).document
        assert (granted["expires_at"], 2) == (document["expires_at"], document["sequence"])
        issuer.amending.renew(key, now=datetime.now(UTC))
    vendor.bundle(site, here)
    assert granted["expires_at"] < https.lease(asked).body["lease"]["entitlement"]["expires_at"]
    assert 0 == site.stop()
