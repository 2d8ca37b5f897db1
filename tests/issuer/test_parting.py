"""Some of the seats renew or upgrade: no seat twice, no unit twice, all or nothing, once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from lls.issuer import Fulfilled, Issuer, sample_catalog
from lls.issuer.refusals import Conflict, OrderRefused
from lls.issuer.register import Sold
from lls.licensing.entitlement import Entitlement, read_entitlement
from tests.issuer.appliance import NOW, Appliance, imported, line, order

END = "2027-11-21T07:00:00Z"
NEXT_END = "2028-11-21T07:00:00Z"


@pytest.fixture
def registered(issuer: Issuer, appliance: Appliance) -> Issuer:
    issuer.register_server(appliance.request(), now=NOW)
    return issuer


@pytest.fixture
def pro(registered: Issuer, appliance: Appliance) -> Sold:
    """50 professional seats."""
    return registered.fulfil(order(appliance), now=NOW)[0].entitlements[0]


@pytest.fixture
def std(registered: Issuer, appliance: Appliance) -> Sold:
    """20 standard seats."""
    new = line(sku="CAD-STD-1Y", quantity=20)
    return registered.fulfil(order(appliance, new, order_ref="SO-STD"), now=NOW)[0].entitlements[0]


def renews(quantity: int, number: int = 1, **members: object) -> dict[str, object]:
    return {"line": number, "action": "renew", "sku": "CAD-PRO-RENEW", "quantity": quantity, **members}


def upgrades(quantity: int, number: int = 1, **members: object) -> dict[str, object]:
    return {"line": number, "action": "upgrade", "sku": "CAD-TO-PRO", "quantity": quantity, **members}


def ordered(
    issuer: Issuer, appliance: Appliance, *lines: Mapping[str, object], ref: str = "SO-2", **changes: object
) -> Fulfilled:
    return issuer.fulfil(order(appliance, *lines, order_ref=ref, **changes), now=appliance.now)[0]


def now_of(issuer: Issuer, sold: Sold) -> Entitlement:
    return read_entitlement(issuer.entitlement(sold.entitlement_id).document)


def test_the_seats_that_are_renewed_begin_where_the_others_end(
    registered: Issuer, appliance: Appliance, pro: Sold
) -> None:
    (part,) = ordered(registered, appliance, renews(10)).entitlements
    document: Any = part.document
    assert (10, END, NEXT_END) == tuple(document[name] for name in ("seats", "starts_at", "expires_at"))
    assert (pro.document["group_id"], pro.document["product"], pro.document["edition"]) == (
        document["group_id"], document["product"], document["edition"],
    )  # fmt: skip
    assert pro.document == registered.entitlement(pro.entitlement_id).document  # until then nothing changes
    assert {pro.entitlement_id: 50, part.entitlement_id: 10} == {
        one.entitlement_id: one.seats for one in imported(registered, appliance).entitlements
    }
    registered.audit.verify()


def test_no_seat_is_renewed_twice(registered: Issuer, appliance: Appliance, pro: Sold) -> None:
    ordered(registered, appliance, renews(10))
    with pytest.raises(OrderRefused, match=r"is for 41 seats, and ent_.* has 50, of which 10 were renewed already"):
        ordered(registered, appliance, renews(41, entitlement_id=pro.entitlement_id), ref="SO-3")
    with pytest.raises(OrderRefused, match=r"10 of the 50 seats of ent_.* were renewed already"):
        ordered(registered, appliance, renews(50, entitlement_id=pro.entitlement_id), ref="SO-3")
    with pytest.raises(Conflict, match=r"10 of the 50 seats of ent_.* were renewed already"):
        registered.amending.renew(pro.entitlement_id, now=NOW)
    rest = ordered(registered, appliance, renews(40, entitlement_id=pro.entitlement_id), ref="SO-3").entitlements[0]
    assert 40 == rest.document["seats"]
    with pytest.raises(OrderRefused, match="50 were renewed already"):
        ordered(registered, appliance, renews(1, entitlement_id=pro.entitlement_id), ref="SO-4")


def test_a_year_later_the_sku_means_what_was_renewed(registered: Issuer, appliance: Appliance, pro: Sold) -> None:
    (part,) = ordered(registered, appliance, renews(10)).entitlements
    appliance.wait(days=400)
    registered.rotate_keys(now=appliance.now)
    again = ordered(registered, appliance, renews(10), ref="SO-3").entitlements[0]
    assert (part.entitlement_id, "2029-11-21T07:00:00Z") == (again.entitlement_id, again.document["expires_at"])


def test_behind_its_grace_the_part_begins_now(registered: Issuer, appliance: Appliance, pro: Sold) -> None:
    appliance.wait(days=365 + 8)
    part: Any = ordered(registered, appliance, renews(10)).entitlements[0].document
    assert ("2027-11-29T07:00:00Z", "2028-11-29T07:00:00Z") == (part["starts_at"], part["expires_at"])


def test_units_stay_with_what_they_were_given_to(registered: Issuer, appliance: Appliance, pro: Sold) -> None:
    (part,) = ordered(registered, appliance, renews(10)).entitlements
    for one in read_entitlement(part.document).features:
        assert () == one.grants
    (cloud,) = [one for one in now_of(registered, pro).features if one.key == "cloud"]
    assert [500_000] == [grant.amount for grant in cloud.grants]


@pytest.mark.parametrize("expiry", ["never", None])
def test_what_would_be_lost_or_given_twice_is_not_parted(
    registered: Issuer, appliance: Appliance, expiry: str | None
) -> None:
    catalog = sample_catalog()
    if expiry is None:
        catalog = catalog.replace('reset = "monthly" ', 'reset = "never" ')
    else:
        catalog = catalog.replace(
            'expiry = { type = "custom", unit = "month", count = 6 }', 'expiry = { type = "never" }'
        )
    registered.load_catalog(catalog, now=NOW)
    registered.fulfil(order(appliance), now=NOW)
    before = registered.register.entitlements()
    with pytest.raises(OrderRefused, match=r"units are not divided by seats\. Renew all of them and take seats away"):
        ordered(registered, appliance, renews(10))
    assert before == registered.register.entitlements()


def test_seats_that_are_upgraded_leave_the_others(registered: Issuer, appliance: Appliance, std: Sold) -> None:
    fulfilled = ordered(registered, appliance, upgrades(5))
    (part,) = fulfilled.entitlements
    assert (std.entitlement_id, 5, "pro") == tuple(
        fulfilled.lines[0].outcome[name] for name in ("part_of", "seats", "edition")
    )
    there = {one.entitlement_id: one for one in imported(registered, appliance).entitlements}
    assert {(std.entitlement_id, "std", 15, 2), (part.entitlement_id, "pro", 5, 1)} == {
        (one.entitlement_id, one.edition, one.seats, one.sequence) for one in there.values()
    }
    assert 1 == len({one.group_id for one in there.values()})
    assert 1 == len({(one.starts_at, one.expires_at) for one in there.values()})
    registered.audit.verify()


def test_several_parts_may_go_in_one_order(registered: Issuer, appliance: Appliance, std: Sold) -> None:
    fulfilled = ordered(
        registered, appliance, upgrades(5, entitlement_id=std.entitlement_id),
        upgrades(6, 2, entitlement_id=std.entitlement_id),
    )  # fmt: skip
    assert [5, 6] == [one.document["seats"] for one in fulfilled.entitlements]
    assert 9 == now_of(registered, std).seats


def test_an_order_with_a_part_is_done_once_and_whole_or_not_at_all(
    registered: Issuer, appliance: Appliance, pro: Sold, std: Sold
) -> None:
    before = registered.register.entitlements()
    with pytest.raises(OrderRefused, match="line 2"):
        ordered(registered, appliance, upgrades(5), renews(51, 2, entitlement_id=pro.entitlement_id))
    assert before == registered.register.entitlements()
    first = ordered(registered, appliance, upgrades(5), renews(10, 2, entitlement_id=pro.entitlement_id))
    again = ordered(registered, appliance, upgrades(5), renews(10, 2, entitlement_id=pro.entitlement_id))
    assert (True, first.entitlements) == (again.again, again.entitlements)
    assert 4 == len(registered.register.entitlements())
    told = [(line.kind, line.what.get("part_of"), line.what.get("seats")) for line in registered.audit.lines()]
    assert ("sold", std.entitlement_id, 5) in told
    assert ("sold", pro.entitlement_id, 10) in told
    assert 2 == [kind for kind, *_ in told].count("parted")
    registered.audit.verify()


def test_people_move_by_their_names(registered: Issuer, appliance: Appliance) -> None:
    new = line(sku="CAD-STD-NAMED", quantity=3, named_users=["ada", "bob", "eve"])
    (named,) = registered.fulfil(order(appliance, new), now=NOW)[0].entitlements
    with pytest.raises(
        OrderRefused, match=r"3 people would stay named for the 2 other seats of ent_.*: say in named_users"
    ):
        ordered(registered, appliance, upgrades(1))
    with pytest.raises(OrderRefused, match="mallory is not named for ent_"):
        ordered(registered, appliance, upgrades(1, named_users=["mallory"]))
    (part,) = ordered(registered, appliance, upgrades(1, named_users=["Bob"])).entitlements
    assert (["Bob"], ["ada", "eve"]) == (
        part.document["named_users"], registered.entitlement(named.entitlement_id).document["named_users"],
    )  # fmt: skip
    with pytest.raises(OrderRefused, match=r"line 1\.named_users must be left out: the line is for all seats"):
        ordered(registered, appliance, upgrades(2, named_users=["ada"]), ref="SO-3")


def test_a_part_has_an_activation_code_of_its_own(registered: Issuer, appliance: Appliance) -> None:
    catalog = sample_catalog().replace("[offerings.CAD-STD-1Y]", "[offerings.CAD-STD-1Y]\nactivation_codes = true")
    registered.load_catalog(catalog, now=NOW)
    (whole,) = registered.fulfil(order(appliance, line(sku="CAD-STD-1Y", quantity=9)), now=NOW)[0].entitlements
    (part,) = ordered(registered, appliance, upgrades(4)).entitlements
    codes: Any = [one.document["activation_codes"] for one in (whole, part)]
    assert [1, 1] == [len(one) for one in codes]
    assert codes[0] != codes[1]
    assert codes[1][0] not in json.dumps([line.what for line in registered.audit.lines()])


def test_what_lasts_for_ever_is_renewed_whole(registered: Issuer, appliance: Appliance) -> None:
    catalog = sample_catalog().replace(
        '[offerings.CAD-PRO-1Y]\nname = "CAD Professional, floating seat, one year"\nproduct = "cad"\nedition = "pro"\n'
        'plan = "year"', '[offerings.CAD-PRO-1Y]\nname = "CAD"\nproduct = "cad"\nedition = "pro"\nplan = "perpetual"',
    )  # fmt: skip
    registered.load_catalog(catalog, now=NOW)
    registered.fulfil(order(appliance), now=NOW)
    with pytest.raises(OrderRefused, match="has no end, so only its maintenance can be renewed"):
        ordered(registered, appliance, renews(10))


def test_a_deleted_customer_takes_its_parts_along(registered: Issuer, appliance: Appliance, std: Sold) -> None:
    ordered(registered, appliance, upgrades(5))
    registered.hosting.retire(appliance.server_id, lost=True, confirm="site", now=NOW + timedelta(days=1))
    registered.customers.delete("ACME", confirm="Acme GmbH", now=NOW + timedelta(days=1))
    assert [] == registered.register.entitlements()
