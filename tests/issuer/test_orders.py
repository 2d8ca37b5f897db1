"""An order becomes entitlements, whole or not at all, once."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from lls.issuer import Issuer, sample_catalog
from lls.issuer.refusals import OrderRefused
from lls.licensing.calendar import Term, Unit
from lls.licensing.entitlement import Entitlement, read_entitlement
from tests.issuer.appliance import METERED, NOW, Appliance, line, order


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
    values = {"render": 1, "simulate": 1, "gpu": 4, "frames": 1000, "cloud": 0}
    assert values == {feature.key: feature.value for feature in entitlement.features}


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
    assert (0, 1) == tuple(feature.value for feature in entitlement.features[:2])
    assert "2028-01-31T00:00:00Z" == fulfilled.entitlements[0].document["expires_at"]


def sold(registered: Issuer, appliance: Appliance, *lines: dict[str, object]) -> list[Entitlement]:
    (fulfilled,) = registered.fulfil(order(appliance, *lines), now=NOW)
    return [read_entitlement(each.document) for each in fulfilled.entitlements]


def test_metered_features_are_sold_with_all_their_terms(registered: Issuer, appliance: Appliance) -> None:
    (entitlement,) = sold(registered, appliance, line(features={"frames": 7}))
    frames, cloud, simulate = (entitlement.feature(key) for key in ("frames", "cloud", "simulate"))
    assert frames is not None
    assert cloud is not None
    assert simulate is not None
    assert ("usage_count", 7, "frame", "monthly", 300, 10) == (
        frames.type, frames.value, frames.unit, frames.reset, frames.undo_seconds, frames.overdraft.value,
    )  # fmt: skip
    assert ("credit", "EUR") == (cloud.type, cloud.currency)
    assert simulate.tracked
    assert (1209600, 10) == (entitlement.borrow.max_seconds, entitlement.borrow.max_seats)


def test_grants_of_the_offering_are_per_unit_and_those_of_the_line_as_it_says(
    registered: Issuer, appliance: Appliance
) -> None:
    own = [
        {"feature": "cloud", "amount": 5, "active_from": "2027-01-01T00:00:00Z"},
        {"feature": "gpu", "amount": 2, "expiry": {"type": "at", "at": "2027-02-01T00:00:00Z"}},
    ]
    (entitlement,) = sold(registered, appliance, line(quantity=3, grants=own))
    told = {
        feature.key: [(grant.amount, grant.active_from.isoformat()[:10], grant.expiry) for grant in feature.grants]
        for feature in entitlement.features
        if feature.grants
    }
    assert {
        "cloud": [(30_000, "2026-11-21", "custom"), (5, "2027-01-01", "never")],
        "gpu": [(2, "2026-11-21", "at")],
    } == told
    ids = [grant.grant_id for feature in entitlement.features for grant in feature.grants]
    assert 3 == len(set(ids))


def test_more_units_than_anybody_counts_are_refused(registered: Issuer, appliance: Appliance) -> None:
    registered.load_catalog(METERED.replace("amount = 1000", "amount = 1000000000000000"), now=NOW)
    with pytest.raises(OrderRefused, match=r"line 1\.quantity makes more than 1,000,000,000,000,000 units of cloud"):
        registered.fulfil(order(appliance, line(sku="CAD", quantity=2)), now=NOW)


def test_named_users_and_machines_are_sold(registered: Issuer, appliance: Appliance) -> None:
    named, node = sold(
        registered,
        appliance,
        line(1, sku="CAD-STD-NAMED", quantity=3, named_users=["alice", "bob"]),
        line(2, sku="CAD-STD-NODE", quantity=1),
    )
    assert ("named_user", ("alice", "bob"), True, 2) == (
        named.concurrency, named.named_users.names, named.named_users.by_site, named.named_users.changes_per_month,
    )  # fmt: skip
    assert ("node_lock", timedelta(days=30)) == (node.concurrency, node.node_lock_release)


def test_seats_of_named_users_that_nobody_may_name_are_refused(registered: Issuer, appliance: Appliance) -> None:
    catalog = sample_catalog().replace("named_user_assignment = { by_site = true, changes_per_month = 2 }", "")
    registered.load_catalog(catalog, now=NOW)
    with pytest.raises(OrderRefused, match=r"line 1\.named_users is missing"):
        registered.fulfil(order(appliance, line(sku="CAD-STD-NAMED")), now=NOW)


def test_a_trial_that_starts_with_its_first_lease_has_no_dates_and_brings_its_term(
    registered: Issuer, appliance: Appliance
) -> None:
    (entitlement,) = sold(registered, appliance, line(sku="CAD-PRO-TRIAL"))
    assert ("trial", None, None, Term(unit=Unit.DAY, count=30)) == (
        entitlement.license_type, entitlement.starts_at, entitlement.expires_at, entitlement.term,
    )  # fmt: skip
    assert entitlement.starts_on_first_lease


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
        ({"lines": [line(3, sku="CAD-STD-NAMED", action="renew")]}, r"line 3\.action is renew, but .* is for new"),
        ({"lines": [line(3, action="buy")]}, r"line 3\.action must be one of new, renew"),
        ({"lines": [line(3, features={"fly": True})]}, r"line 3\.features names 'fly'"),
        ({"lines": [line(3, expires_at="2026-11-20T00:00:00Z")]}, r"line 3\.expires_at must be later"),
        ({"lines": [line(3, named_users=["alice"])]}, r"line 3\.named_users must be left out: .* are concurrent"),
        ({"lines": [line(3, sku="CAD-STD-NAMED", quantity=1, named_users=["a", "b"])]}, r"holds 2 names, .* 1 seats"),
        ({"lines": [line(3, sku="CAD-STD-NAMED", named_users=["Ann", "ann"])]}, r"names somebody twice"),
        ({"lines": [line(3, sku="CAD-STD-NAMED", named_users="ann")]}, r"named_users must be an array"),
        ({"lines": [line(3, sku="CAD-STD-NAMED", named_users=["\n"])]}, r"named_users\[0\] must be a printable text"),
        ({"lines": [line(3, grants=[{"feature": "frames"}])]}, r"line 3\.grants\[0\]\.amount is missing"),
        ({"lines": [line(3, grants=[{"feature": "frames", "amount": 10**15 + 1}])]}, r"amount must be an integer"),
        ({"lines": [line(3, grants=[{"feature": "fly", "amount": 1}])]}, r"grants\[0\]\.feature names 'fly'"),
        ({"lines": [line(3, grants=[None])]}, r"line 3\.grants\[0\] must be"),
        ({"lines": [line(3, grants=[{"feature": "frames", "amount": 1, "expiry": {"type": "at", "at": 3}}])]}, r"\.at"),
        ({"lines": [line(3, features={"frames": 1.0})]}, r"features\.frames\.value must be an integer"),
        ({"lines": [line(3, quantity=10**12)]}, r"quantity must be an integer from 1"),
        ({"lines": [line(3, sku="CAD-PRO-TRIAL", starts_at="2027-01-01T00:00:00Z")]}, r"starts on the first lease"),
        ({"lines": [line(3, starts_at="9999-06-01T00:00:00Z")]}, r"the plan's term goes beyond the calendar"),
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


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff",
        b"[" * 100_000,
        b'{"a":1,"a":2}',
        b'{"lines":NaN}',
        b'{"lines":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":' + b"[" * 985 + b"]" * 985 + b"}",
    ],
)
def test_what_is_no_order_is_refused_in_words(registered: Issuer, data: bytes) -> None:
    with pytest.raises(OrderRefused):
        registered.fulfil(data, now=NOW)
