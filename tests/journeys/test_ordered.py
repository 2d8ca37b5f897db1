"""What an order does reaches a running server with the next bundle: new, renewed, upgraded, more seats and units."""

from __future__ import annotations

import json
import random
import uuid
from datetime import UTC, datetime
from typing import Any

from lls.issuer import Issuer, sample_catalog
from tests.journeys.world import Asked, Https, Site

TWO = """
[offerings.CAD-STD-2]
name = "CAD Standard, two seats"
product = "cad"
edition = "std"
plan = "year"
seats = 2
"""


def cloud(https: Https, asked: Asked, amount: int) -> int:
    body = {"amount": amount, "request_id": str(uuid.uuid4())}
    return int(https.ask("POST", f"/v1/leases/{asked.lease_id}/features/cloud/use", body, secret=asked.secret).status)


class Shop:
    """The vendor's office, opened anew for each act, and the stick that goes to the site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        now = datetime.now(UTC)
        with Issuer.create(site.vendor, now=now, passphrase=None) as issuer:
            issuer.load_catalog(sample_catalog() + TWO, now=now)
            site.keys.write_text(issuer.keyring.newest.token, "ascii")
        site.start()
        request = site.admin_bytes("POST", "/v1/admin/server/request")
        with self.open() as issuer:
            self.server_id = issuer.register_server(request, now=now).server_id

    def open(self) -> Issuer:
        return Issuer(self.site.vendor, now=datetime.now(UTC))

    def order(self, ref: str, **members: Any) -> None:
        document = {
            "order_ref": ref, "account_ref": "ACME", "server_id": self.server_id, "customer": {"name": "Acme"},
            "lines": [{"line": 1, **members}],
        }  # fmt: skip
        for _ in range(2):  # the shop sends everything twice
            with self.open() as issuer:
                issuer.fulfil(json.dumps(document).encode(), now=datetime.now(UTC))
        self.carry()

    def carry(self) -> None:
        with self.open() as issuer:
            data = issuer.issue_bundle(self.server_id, now=datetime.now(UTC)).data
        assert self.site.admin("POST", "/v1/admin/bundles", data)["applied"]


def test_each_action_of_an_order_is_felt_at_the_site(site: Site) -> None:
    shop = Shop(site)
    shop.order("SO-1", action="new", sku="CAD-STD-2", quantity=1)
    https = site.https()
    seats = [Asked.new(random.Random(n)) for n in range(1, 15)]
    assert [201, 201, 409] == [https.checkout(asked).status for asked in seats[:3]]
    first = https.lease(seats[0]).body["lease"]
    assert "std" == first["edition"]

    shop.order("SO-2", action="add_seats", sku="CAD-SEATS-10", quantity=1)
    assert 10 == sum(https.checkout(asked).status == 201 for asked in seats[2:])

    shop.order("SO-3", action="upgrade", sku="CAD-TO-PRO")
    shop.order("SO-4", action="renew", sku="CAD-PRO-RENEW")
    now = https.lease(seats[0]).body["lease"]["entitlement"]
    assert int(first["entitlement"]["expires_at"][:4]) + 1 == int(now["expires_at"][:4])
    assert 204 == https.checkin(seats[0]).status
    again = Asked.new(random.Random(99))
    assert "pro" == https.checkout(again).body["lease"]["edition"]

    shop.order("SO-5", action="add_grant", sku="CLOUD-1000", quantity=1)
    assert 409 == cloud(https, again, 1)
    with shop.open() as issuer:
        assert 1 == len(issuer.balances.release("SO-5", now=datetime.now(UTC)))
    shop.carry()
    assert [200, 409] == [cloud(https, again, amount) for amount in (100_000, 1)]
    assert 0 == site.stop()
