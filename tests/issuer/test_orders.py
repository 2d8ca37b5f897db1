"""An order becomes entitlements, whole or not at all, once."""

from __future__ import annotations

import json

import pytest

from lls.issuer import Issuer
from lls.issuer.refusals import OrderRefused
from lls.licensing.entitlement import read_entitlement
from tests.issuer.appliance import NOW, Appliance, line, order


@pytest.fixture
def registered(issuer: Issuer, appliance: Appliance) -> Issuer:
    issuer.register_server(appliance.request(), now=NOW)
    return issuer


def test_a_line_takes_its_terms_from_the_catalogue(registered: Issuer, appliance: Appliance) -> None:
    (fulfilled,) = registered.fulfil(order(appliance), now=NOW)
    entitlement = read_entitlement(fulfilled.entitlements[0].document)
    assert ("SO-1001", "cad", "pro", "CAD-PRO-1Y", 50, 55, 1) == (
        entitlement.order_ref, entitlement.product, entitlement.edition, entitlement.sku, entitlement.seats,
        entitlement.capacity, entitlement.sequence,
    )  # fmt: skip
    assert {"max_layers": 64} == entitlement.attributes
    assert {"render": 1, "simulate": 1} == {feature.key: feature.value for feature in entitlement.features}


def test_a_term_begins_at_midnight_and_ends_a_term_after_the_order(registered: Issuer, appliance: Appliance) -> None:
    (fulfilled,) = registered.fulfil(order(appliance), now=NOW)
    document = fulfilled.entitlements[0].document
    assert ("2026-11-21T00:00:00Z", "2027-11-21T07:00:00Z") == (document["starts_at"], document["expires_at"])


def test_a_line_may_bring_its_own_terms(registered: Issuer, appliance: Appliance) -> None:
    own = line(
        starts_at="2027-01-31T00:00:00Z", overdraft={"type": "absolute", "value": 3}, lease_seconds=120,
        linger_seconds=5, grace_seconds=60, sharing="user", max_version="2027", features={"render": False},
        attributes={"max_layers": 8},
    )  # fmt: skip
    (fulfilled,) = registered.fulfil(order(appliance, own), now=NOW)
    entitlement = read_entitlement(fulfilled.entitlements[0].document)
    assert (53, 120, 5, 60, "user", "2027") == (
        entitlement.capacity, entitlement.lease_seconds, entitlement.linger_seconds, entitlement.grace.total_seconds(),
        entitlement.sharing, entitlement.max_version,
    )  # fmt: skip
    assert {"render": 0, "simulate": 1} == {feature.key: feature.value for feature in entitlement.features}
    assert "2028-01-31T00:00:00Z" == fulfilled.entitlements[0].document["expires_at"]


def test_unlimited_and_perpetual_are_null(registered: Issuer, appliance: Appliance) -> None:
    (fulfilled,) = registered.fulfil(order(appliance, line(sku="VIEWER-SITE", quantity=1)), now=NOW)
    document = fulfilled.entitlements[0].document
    assert (None, None, "2027-11-21") == (document["seats"], document["expires_at"], document["maintenance_expires_on"])


def test_offerings_choose_whether_codes_are_made(registered: Issuer, appliance: Appliance) -> None:
    (fulfilled,) = registered.fulfil(order(appliance, line(1), line(2, sku="CAD-PRO-TRIAL")), now=NOW)
    without, with_one = (sold.document["activation_codes"] for sold in fulfilled.entitlements)
    assert [] == without
    assert isinstance(with_one, list)
    assert [4, 4, 4, 4] == [len(group) for group in with_one[0].split("-")]
    assert set(with_one[0]) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ-")


def test_the_same_order_again_gives_the_same_entitlements(registered: Issuer, appliance: Appliance) -> None:
    (first,) = registered.fulfil(order(appliance), now=NOW)
    (again,) = registered.fulfil(json.dumps(json.loads(order(appliance)), indent=4).encode(), now=NOW)
    assert (False, True) == (first.again, again.again)
    assert first.entitlements == again.entitlements
    assert 1 == len(registered.register.entitlements())


def test_the_same_reference_with_other_content_is_refused(registered: Issuer, appliance: Appliance) -> None:
    registered.fulfil(order(appliance), now=NOW)
    with pytest.raises(OrderRefused, match="fulfilled before with other content"):
        registered.fulfil(order(appliance, line(quantity=51)), now=NOW)


def test_a_later_catalogue_changes_nothing_that_was_sold(registered: Issuer, appliance: Appliance) -> None:
    (first,) = registered.fulfil(order(appliance), now=NOW)
    registered.load_catalog("format = 1", now=NOW)
    (again,) = registered.fulfil(order(appliance), now=NOW)
    assert first.entitlements == again.entitlements


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lines": [line(1), line(2, sku="CAD-PRO-1X")]}, r"line 2\.sku names 'CAD-PRO-1X'.*perhaps 'CAD-PRO-1Y'"),
        ({"lines": [line(1), line(1)]}, r"line 1 stands in the order twice"),
        ({"lines": []}, r"lines is empty"),
        ({"lines": [line(3, quantity=0)]}, r"line 3\.quantity must be an integer from 1"),
        ({"lines": [line(3, quantity=True)]}, r"line 3\.quantity must be an integer from 1"),
        ({"lines": [line(3, seats=4)]}, r"line 3\.seats is not known here"),
        ({"lines": [line(3, action="renew")]}, r"line 3\.action renew cannot be fulfilled by this version"),
        ({"lines": [line(3, action="buy")]}, r"line 3\.action must be new"),
        ({"lines": [line(3, features={"fly": True})]}, r"line 3\.features names 'fly'"),
        ({"lines": [line(3, expires_at="2026-11-20T00:00:00Z")]}, r"line 3\.expires_at must be later"),
        ({"lines": [line(3, starts_at="tomorrow")]}, r"line 3\.starts_at must be an instant"),
        ({"customer": None}, r"there is no customer ACME"),
        ({"customer": {"name": "Acme", "account_ref": "OTHER"}}, r"customer\.account_ref differs"),
        ({"priority": "high"}, r"order\.priority is not known here"),
        ({"server_id": "lls_0000000000000000000000"}, r"is not registered"),
        ({"server_id": "lls_1"}, r"server_id must be an id"),
    ],
)
def test_an_order_that_cannot_be_fulfilled_leaves_nothing(
    registered: Issuer, appliance: Appliance, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(OrderRefused, match=sentence):
        registered.fulfil(order(appliance, **change), now=NOW)
    assert ([], []) == (registered.register.entitlements(), registered.register.customers())


def test_one_bad_order_of_a_file_refuses_all(registered: Issuer, appliance: Appliance) -> None:
    good = json.loads(order(appliance))
    bad = {**good, "order_ref": "SO-2", "lines": [line(sku="NONE")]}
    with pytest.raises(OrderRefused, match="SO-2"):
        registered.fulfil(json.dumps([good, bad]).encode(), now=NOW)
    assert [] == registered.register.entitlements()


def test_one_reference_twice_in_a_file_is_refused(registered: Issuer, appliance: Appliance) -> None:
    good = json.loads(order(appliance))
    with pytest.raises(OrderRefused, match="more than once"):
        registered.fulfil(json.dumps([good, good]).encode(), now=NOW)


def test_an_order_for_another_customers_server_is_refused(registered: Issuer, appliance: Appliance) -> None:
    registered.fulfil(order(appliance), now=NOW)
    with pytest.raises(OrderRefused, match=r"for the account OTHER, but the server .* belongs to ACME"):
        registered.fulfil(order(appliance, order_ref="SO-2", account_ref="OTHER"), now=NOW)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"a":1,"a":2}', b'{"lines":NaN}'])
def test_what_is_no_order_is_refused_in_words(registered: Issuer, data: bytes) -> None:
    with pytest.raises(OrderRefused):
        registered.fulfil(data, now=NOW)
