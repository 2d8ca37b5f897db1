"""What the lines of an order do: each once, and all or none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from lls.issuer import Fulfilled, Issuer, sample_catalog
from lls.issuer.catalog import Level
from lls.issuer.refusals import CatalogRefused, Conflict, NotKnown, OrderRefused
from lls.issuer.register import Sold
from lls.issuer.resolving import chains_in
from lls.licensing.entitlement import Entitlement, read_entitlement
from tests.issuer.appliance import NOW, Appliance, imported, line, order

YEARLY = timedelta(days=365)


@pytest.fixture
def registered(issuer: Issuer, appliance: Appliance) -> Issuer:
    issuer.register_server(appliance.request(), now=NOW)
    return issuer


@pytest.fixture
def sold(registered: Issuer, appliance: Appliance) -> Sold:
    """50 professional seats."""
    return registered.fulfil(order(appliance), now=NOW)[0].entitlements[0]


def does(action: str | None, sku: str, number: int = 1, **members: object) -> dict[str, object]:
    named = {} if action is None else {"action": action}
    return {"line": number, **named, "sku": sku, **members}


def ordered(
    issuer: Issuer, appliance: Appliance, *lines: Mapping[str, object], ref: str = "SO-2", **changes: object
) -> Fulfilled:
    now = appliance.now
    return issuer.fulfil(order(appliance, *lines, order_ref=ref, **changes), now=now)[0]


def terms(fulfilled: Fulfilled) -> Entitlement:
    return read_entitlement(fulfilled.entitlements[0].document)


def grants(fulfilled: Fulfilled) -> list[dict[str, Any]]:
    given: Any = fulfilled.lines[0].outcome["grants"]
    return list(given)


# -- actions ----------------------------------------------------------------------------------------------------------


def test_a_line_renews_what_is_there(registered: Issuer, appliance: Appliance, sold: Sold) -> None:
    fulfilled = ordered(registered, appliance, does("renew", "CAD-PRO-RENEW"))
    assert (sold.entitlement_id, NOW + 2 * YEARLY + timedelta(days=1)) == (
        fulfilled.entitlements[0].entitlement_id, terms(fulfilled).expires_at,
    )  # fmt: skip
    assert "2028-11-21T07:00:00Z" == fulfilled.lines[0].outcome["expires_at"]
    assert 2028 == imported(registered, appliance).entitlements[0].expires_at.year  # type: ignore[union-attr]


def test_a_renewal_by_another_plan_puts_it_on_that_plan(registered: Issuer, appliance: Appliance, sold: Sold) -> None:
    catalog = sample_catalog().replace(
        'edition = "pro"\nplan = "year"                                  # left out',
        'edition = "pro"\nplan = "partner"                                  # left out',
    )
    registered.load_catalog(catalog, now=NOW)
    (renewed,) = ordered(registered, appliance, does("renew", "CAD-PRO-RENEW")).entitlements
    plan = {"license_type": "subscription", "start": "on_issue", "term": {"unit": "year", "count": 1}}
    assert {**plan, "not_for_resale": True} == renewed.document["plan"]
    assert (0, True) == (renewed.document["grace_seconds"], renewed.origins["not_for_resale"])


def test_what_lasts_for_ever_is_renewed_in_its_maintenance(registered: Issuer, appliance: Appliance) -> None:
    maintained = """
[offerings.VIEWER-CARE]
name = "Another year of updates"
actions = ["renew"]
product = "viewer"
plan = "perpetual"
"""
    registered.load_catalog(sample_catalog() + maintained, now=NOW)
    ordered(registered, appliance, line(sku="VIEWER-SITE", quantity=1), ref="SO-1")
    (renewed,) = ordered(registered, appliance, does("renew", "VIEWER-CARE")).entitlements
    assert (None, "2028-11-21") == (renewed.document["expires_at"], renewed.document["maintenance_expires_on"])


def test_seats_come_and_go_and_the_dates_stay(registered: Issuer, appliance: Appliance, sold: Sold) -> None:
    more = ordered(registered, appliance, does("add_seats", "CAD-SEATS-10", quantity=2))
    assert (70, NOW + YEARLY) == (terms(more).seats, terms(more).expires_at)
    fewer = ordered(registered, appliance, does("add_seats", "CAD-SEATS-10", quantity=-3), ref="SO-3")
    assert 40 == terms(fewer).seats
    assert [(40, 3)] == [(one.seats, one.sequence) for one in imported(registered, appliance).entitlements]


def test_people_can_be_named_for_seats_that_are_added(registered: Issuer, appliance: Appliance) -> None:
    ordered(registered, appliance, line(sku="CAD-STD-NAMED", quantity=2, named_users=["ann", "bo"]), ref="SO-1")
    with pytest.raises(OrderRefused, match=r"line 1: Somebody is named twice"):
        ordered(registered, appliance, does("add_seats", "CAD-SEATS-10", quantity=1, named_users=["Bo"]))
    more = ordered(registered, appliance, does("add_seats", "CAD-SEATS-10", quantity=1, named_users=["cy"]))
    assert (12, ("ann", "bo", "cy")) == (terms(more).seats, terms(more).named_users.names)


def test_an_upgrade_changes_the_edition_and_keeps_what_was_overridden(registered: Issuer, appliance: Appliance) -> None:
    own = line(sku="CAD-STD-1Y", quantity=5, features={"gpu": 9}, attributes={"max_layers": 20}, lease_seconds=120)
    (before,) = ordered(registered, appliance, own, ref="SO-1").entitlements
    upgraded = ordered(registered, appliance, does("upgrade", "CAD-TO-PRO"))
    there = terms(upgraded)
    assert ("pro", "CAD-PRO-1Y", 5, before.document["expires_at"], 2) == (
        there.edition, there.sku, there.seats, upgraded.entitlements[0].document["expires_at"], there.sequence,
    )  # fmt: skip
    values = {feature.key: feature.value for feature in there.features}
    assert {"render": 1, "simulate": 1, "gpu": 9, "frames": 1000, "cloud": 0} == values
    assert (20, 120, "percentage") == (there.attributes["max_layers"], there.lease_seconds, there.overdraft.type)
    chains = chains_in(upgraded.entitlements[0].origins)
    assert [(Level.PRODUCT, 0), (Level.EDITION, 4), (Level.ENTITLEMENT, 9)] == chains["features.gpu"]
    assert imported(registered, appliance).entitlements[0] == there


def test_an_upgrade_without_a_new_sku_keeps_its_own(registered: Issuer, appliance: Appliance) -> None:
    becomes = (
        'becomes = "CAD-PRO-1Y"                         # the SKU that it goes by afterwards; left out: the one that'
    )
    assert becomes in sample_catalog()
    registered.load_catalog(sample_catalog().replace(becomes, "#"), now=NOW)
    ordered(registered, appliance, line(sku="CAD-STD-1Y", quantity=5), ref="SO-1")
    there = terms(ordered(registered, appliance, does("upgrade", "CAD-TO-PRO")))
    assert ("pro", "CAD-STD-1Y", "none") == (there.edition, there.sku, there.overdraft.type)


def test_units_are_added_with_what_was_paid_for_them_beside(
    registered: Issuer, appliance: Appliance, sold: Sold
) -> None:
    price = {"amount": 170_000, "currency": "EUR"}
    fulfilled = ordered(registered, appliance, does("add_grant", "CLOUD-1000", quantity=2, price=price))
    (given,) = grants(fulfilled)
    assert ("pending", 200_000, price) == (given["state"], given["amount"], given["price"])
    balance = registered.balances.balance(given["grant_id"])
    assert ("SO-2", "invoice_paid") == (balance.invoice_ref, balance.given_on)
    assert 1 == fulfilled.entitlements[0].document["sequence"]
    (released,) = registered.balances.release("SO-2", now=NOW)
    cloud = read_entitlement(released.sold.document).feature("cloud")
    assert cloud is not None
    assert [500_000, 200_000] == [grant.amount for grant in cloud.grants]
    issued = registered.issue_bundle(appliance.server_id, now=NOW).bundle.payload
    assert "170000" not in json.dumps(issued)


def test_a_line_without_an_action_does_all_that_its_sku_does(
    registered: Issuer, appliance: Appliance, sold: Sold
) -> None:
    both = """
[offerings.CAD-MORE]
name = "Another year, ten seats and some credit"
actions = ["renew", "add_seats", "add_grant"]
product = "cad"
seats = 10
grants = [{ feature = "cloud", amount = 7 }]
"""
    registered.load_catalog(sample_catalog() + both, now=NOW)
    fulfilled = ordered(registered, appliance, does(None, "CAD-MORE", quantity=1))
    there = terms(fulfilled)
    assert (60, 2028) == (there.seats, there.expires_at and there.expires_at.year)
    (grant,) = grants(fulfilled)
    assert (7, "2027-11-21T07:00:00Z") == (grant["amount"], grant["active_from"])


def test_what_one_line_sells_the_next_may_not_renew_by_chance(registered: Issuer, appliance: Appliance) -> None:
    """A new order's own entitlement counts, like any other."""
    fulfilled = ordered(registered, appliance, line(), does("renew", "CAD-PRO-RENEW", 2))
    assert 1 == len(fulfilled.entitlements)
    assert 2028 == terms(fulfilled).expires_at.year  # type: ignore[union-attr]


# -- once -------------------------------------------------------------------------------------------------------------


def test_each_line_is_fulfilled_once_and_an_order_may_grow(
    registered: Issuer, appliance: Appliance, sold: Sold
) -> None:
    first = does("add_seats", "CAD-SEATS-10", quantity=1)
    ordered(registered, appliance, first)
    again = ordered(registered, appliance, first)
    assert (True, 60) == (again.again, terms(again).seats)
    grown = ordered(registered, appliance, first, does("renew", "CAD-PRO-RENEW", 2))
    assert ([True, False], False) == ([one.again for one in grown.lines], grown.again)
    assert (60, 2028, 3) == (terms(grown).seats, terms(grown).expires_at.year, terms(grown).sequence)  # type: ignore[union-attr]
    alone = ordered(registered, appliance, does("renew", "CAD-PRO-RENEW", 2))
    assert (True, 3) == (alone.again, terms(alone).sequence)
    assert [1, 2] == [one.line for one in registered.ordering.fulfilled("SO-2").lines]


def test_a_line_with_other_content_is_refused_by_its_number(
    registered: Issuer, appliance: Appliance, sold: Sold
) -> None:
    ordered(registered, appliance, does("add_seats", "CAD-SEATS-10", quantity=1))
    with pytest.raises(OrderRefused, match=r"SO-2 was refused: line 1 was fulfilled before with other content"):
        ordered(registered, appliance, does("add_seats", "CAD-SEATS-10", quantity=2))
    with pytest.raises(OrderRefused, match=r"other content \(customer, server or invoice\)"):
        ordered(registered, appliance, does("add_seats", "CAD-SEATS-10", quantity=1), invoice_ref="INV-1")


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([does("renew", "CAD-PRO-RENEW", 3, quantity=51)], r"line 3: the line is for 51 seats, and ent_.* has 50"),
        ([does("upgrade", "CAD-TO-PRO", 3)], r"line 3: ACME has nothing on lls_.* that CAD-TO-PRO is for"),
        ([does("renew", "CAD-SEATS-10", 3)], r"line 3\.action is renew, but CAD-SEATS-10 is for add_seats"),
        ([does("add_seats", "CAD-SEATS-10", 3)], r"line 3\.quantity is missing"),
        ([does("add_seats", "CAD-SEATS-10", 3, quantity=-5)], r"line 3: .* has 50 seats, and -50 would make 0"),
        ([does("add_seats", "CAD-SEATS-10", 3, quantity=0)], r"line 3\.quantity must not be 0"),
        ([does("renew", "CAD-PRO-RENEW", 3, quantity=-1)], r"line 3\.quantity must be an integer from 1"),
        ([does(None, "CAD-PRO-RENEW", 3, quantity=-1)], r"line 3\.quantity must be above zero"),
        ([does("renew", "CAD-PRO-RENEW", 3, starts_at="2027-01-01T00:00:00Z")], r"3\.starts_at must be left out: it"),
        ([does("add_seats", "CAD-SEATS-10", 3, quantity=1, price={})], r"line 3\.price must be left out"),
        ([does("add_seats", "CAD-SEATS-10", 3, quantity=1, named_users=["a"])], r"nobody is named for them"),
        ([does("renew", "CAD-PRO-RENEW", 3, entitlement_id="ent_1")], r"line 3\.entitlement_id must be an id"),
        ([does("renew", "CAD-PRO-RENEW", 3, entitlement_id="ent_" + 22 * "a")], r"line 3: there is no entitlement"),
        ([does("renew", "CAD-PRO-RENEW", 3, of_sku="CAD-PRO-1X")], r"of_sku names 'CAD-PRO-1X'.* 'CAD-PRO-1Y'"),
        ([does("renew", "CAD-PRO-RENEW", 3, of_sku="VIEWER-SITE")], r"line 3: ACME has nothing"),
        ([does("renew", "CAD-PRO-RENEW", 1), does("renew", "CAD-PRO-RENEW", 2)], r"line 2: it contradicts line 1"),
        (
            [does("add_seats", "CAD-SEATS-10", 1, quantity=1), does("add_seats", "CAD-SEATS-10", 2, quantity=-1)],
            r"line 2: it contradicts line 1: together the order adds and takes seats",
        ),
        ([does("add_grant", "CLOUD-1000", 3, price={"amount": 1})], r"line 3\.price\.currency is missing"),
        ([does("add_grant", "CLOUD-1000", 3, price={"amount": -1, "currency": "EUR"})], r"price\.amount must be an"),
        (
            [does("add_grant", "CLOUD-1000", 3, price={"amount": 1, "currency": "EUR"},
                  grants=[{"feature": "cloud", "amount": 1}])],
            r"line 3\.price must be left out: the line gives 2 grants",
        ),
        ([does("new", "CAD-PRO-1Y", 3, quantity=1, of_sku="X")], r"line 3\.of_sku must be left out: it means nothing"),
        ([does("renew", "CAD-PRO-RENEW", 3, entitlement_id="ent_" + 22 * "a", of_sku="X")], r"3\.of_sku must be left"),
        ([does("renew", "CAD-PRO-RENEW"), line(2, sku="NONE")], r"line 2\.sku names 'NONE'"),
    ],
)  # fmt: skip
def test_one_line_that_cannot_be_fulfilled_refuses_the_order_and_changes_nothing(
    registered: Issuer, appliance: Appliance, sold: Sold, lines: list[dict[str, object]], sentence: str
) -> None:
    with pytest.raises(OrderRefused, match=sentence):
        ordered(registered, appliance, *lines)
    assert [sold] == registered.register.entitlements()
    assert None is registered.register.sale("SO-2")
    assert ([], []) == (registered.register.sale_lines("SO-2"), registered.balances.balances()[1:])


def test_two_that_fit_are_told_apart_by_id(registered: Issuer, appliance: Appliance) -> None:
    pair = ordered(registered, appliance, line(1), line(2), ref="SO-1").entitlements
    with pytest.raises(OrderRefused, match=r"ACME has 2 entitlements .*; say which in entitlement_id, or in of_sku"):
        ordered(registered, appliance, does("renew", "CAD-PRO-RENEW"))
    key = pair[1].entitlement_id
    (renewed,) = ordered(registered, appliance, does("renew", "CAD-PRO-RENEW", entitlement_id=key)).entitlements
    assert (key, 2) == (renewed.entitlement_id, renewed.document["sequence"])


def test_two_of_two_skus_are_told_apart_by_sku(registered: Issuer, appliance: Appliance) -> None:
    ordered(registered, appliance, line(1), line(2, sku="CAD-STD-1Y"), ref="SO-1")
    (changed,) = ordered(
        registered, appliance, does("add_seats", "CAD-SEATS-10", quantity=1, of_sku="CAD-STD-1Y")
    ).entitlements
    assert ("std", 60) == (changed.document["edition"], changed.document["seats"])


def test_what_belongs_to_somebody_else_is_not_touched(registered: Issuer, appliance: Appliance, sold: Sold) -> None:
    other = Appliance.new(seed=99)
    registered.register_server(other.request(), now=NOW)
    mine = does("renew", "CAD-PRO-RENEW", entitlement_id=sold.entitlement_id)
    with pytest.raises(OrderRefused, match=r"line 1: the entitlement ent_.* belongs to another customer than OTHER"):
        ordered(registered, other, mine, account_ref="OTHER", customer={"name": "Other"})
    with pytest.raises(
        OrderRefused, match=r"line 1: the order is for the server .*, but the entitlement .* is hosted by"
    ):
        ordered(registered, other, mine)
    assert [sold] == registered.register.entitlements()
    assert ["ACME"] == [customer.account_ref for customer in registered.register.customers()]


def test_nothing_is_sold_to_a_disabled_customer_and_an_old_order_stays_what_it_was(
    registered: Issuer, appliance: Appliance, sold: Sold
) -> None:
    registered.customers.disable("ACME", now=NOW)
    with pytest.raises(OrderRefused, match="the customer ACME is disabled"):
        ordered(registered, appliance, does("renew", "CAD-PRO-RENEW"))
    assert registered.fulfil(order(appliance), now=NOW)[0].again


def test_an_order_without_a_server_is_hosted_later(registered: Issuer, appliance: Appliance) -> None:
    (kept,) = ordered(registered, appliance, line(), server_id=None).entitlements
    assert None is kept.server_id
    (renewed,) = ordered(registered, appliance, does("renew", "CAD-PRO-RENEW"), ref="SO-3", server_id=None).entitlements
    assert kept.entitlement_id == renewed.entitlement_id
    registered.hosting.host(kept.entitlement_id, server_id=appliance.server_id, now=NOW)
    (there,) = imported(registered, appliance).entitlements
    assert (kept.entitlement_id, 3) == (there.entitlement_id, there.sequence)


# -- the same by hand -------------------------------------------------------------------------------------------------


def test_an_upgrade_by_hand_is_made_once_under_its_reference(registered: Issuer, appliance: Appliance) -> None:
    (std,) = ordered(registered, appliance, line(sku="CAD-STD-1Y"), ref="SO-1").entitlements
    key = std.entitlement_id
    first = registered.upgrade(key, sku="CAD-TO-PRO", ref="T-1", now=NOW)
    again = registered.upgrade(key, sku="CAD-TO-PRO", ref="T-1", now=NOW)
    assert (False, True, first.outcome, 2) == (
        first.again, again.again, again.outcome, again.sold.document["sequence"],
    )  # fmt: skip
    with pytest.raises(Conflict, match="is pro already"):
        registered.upgrade(key, sku="CAD-TO-PRO", now=NOW)
    with pytest.raises(NotKnown, match="no SKU CAD-STD-1Y that upgrades"):
        registered.upgrade(key, sku="CAD-STD-1Y", now=NOW)


def test_a_feature_that_is_counted_in_another_way_now_is_not_upgraded(registered: Issuer, appliance: Appliance) -> None:
    ordered(registered, appliance, line(sku="CAD-STD-1Y"), ref="SO-1")
    changed = sample_catalog().replace(
        'type = "element_pool"                          # held', 'type = "usage_count" #'
    )
    registered.load_catalog(changed, now=NOW)
    with pytest.raises(OrderRefused, match=r"The feature gpu of ent_.* was sold as element_pool"):
        ordered(registered, appliance, does("upgrade", "CAD-TO-PRO"))


# -- the catalogue's versions -----------------------------------------------------------------------------------------


def test_every_version_of_the_catalogue_is_kept_and_each_sale_says_which(
    registered: Issuer, appliance: Appliance, sold: Sold
) -> None:
    registered.load_catalog(sample_catalog(), now=NOW)  # the same again is no new version
    registered.load_catalog(sample_catalog() + "# changed\n", now=NOW)
    assert [1, 2] == [kept.version for kept in registered.register.catalogs()]
    (later,) = ordered(registered, appliance, line()).entitlements
    assert (1, 2) == (sold.origins["catalog_version"], later.origins["catalog_version"])
    assert sample_catalog() == registered.catalog_version(1)[1].text
    with pytest.raises(NotKnown, match="no version 3"):
        registered.catalog(3)


def test_an_issuer_without_a_catalogue_says_so(issuer: Issuer, appliance: Appliance) -> None:
    issuer.register.change("DELETE FROM catalog")
    issuer.register_server(appliance.request(), now=NOW)
    with pytest.raises(CatalogRefused, match="No catalogue is loaded yet"):
        issuer.fulfil(order(appliance), now=NOW)
