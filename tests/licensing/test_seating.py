"""Which rule refuses, which entitlement is taken, and what a seat is worth when it is shared or waits."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from lls.faults import BadActivationCode
from lls.licensing.denial import Cause
from lls.licensing.entitlement import (
    Concurrency,
    Entitlement,
    Feature,
    FeatureType,
    NamedUsers,
    Overdraft,
    OverdraftType,
    Sharing,
    Status,
)
from lls.licensing.instant import Now
from lls.licensing.lease import Lease, LeaseState
from lls.licensing.meters import FeatureLevel
from lls.licensing.pools import Pool, Pools
from lls.licensing.seating import Denial, Seat, occupied, seat, waits_for
from tests.ledgers import T0, at, checkout, entitlement, on_first_lease

HOUR = timedelta(hours=1)
NO_RENDER = Feature(key="render", type=FeatureType.BOOL, value=0)
ONE_OVER = Overdraft(type=OverdraftType.ABSOLUTE, value=1)


def lease(lease_id: str, pool: Pool, *, state: LeaseState = LeaseState.ACTIVE, seats: int = 1, **holder: Any) -> Lease:
    wish = checkout(lease_id, seats=seats, **holder)
    return Lease(
        lease_id=lease_id,
        secret=wish.secret,
        content=wish.content,
        product="cad",
        entitlement_id=pool.entitlement.entitlement_id,
        holder=wish.holder,
        seats=seats,
        ttl=600,
        overdraft=False,
        granted_at=T0,
        state=state,
    )


def hosting(*pools: Pool) -> Pools:
    """The pools of a server, in that order, seats as they are."""
    hosted = Pools()
    for pool in pools:
        hosted.take_back(pool)
    return hosted


def full(terms: Entitlement, *, by: int = 1) -> Pool:
    pool = Pool(terms)
    pool.add(lease(f"full {terms.entitlement_id}", pool, seats=by))
    return pool


REFUSALS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"status": Status.DISABLED}, {}, "entitlement_disabled"),
    ({"status": Status.CUSTOMER_DISABLED}, {}, "entitlement_disabled"),
    ({"expires_at": T0 - HOUR}, {}, "entitlement_expired"),
    ({"starts_at": T0 + HOUR}, {}, "entitlement_not_started"),
    ({}, {"edition": "basic"}, "edition_not_covered"),
    ({"max_version": "2025"}, {"version": "2026.1"}, "version_not_covered"),
    ({"maintenance_expires_on": date(2026, 1, 1)}, {"released_on": date(2026, 2, 1)}, "version_not_covered"),
    ({}, {"features": (("render", 1),)}, "unknown_feature"),
    ({"features": (NO_RENDER,)}, {"features": (("render", 1),)}, "not_entitled"),
    ({"seats": 0}, {}, "no_seat"),
    ({"seats": 2}, {"seats": 3}, "no_seat"),
]  # fmt: skip


@pytest.mark.parametrize(("terms", "wish", "code"), REFUSALS)
def test_each_rule_refuses_with_its_code(terms: dict[str, Any], wish: dict[str, Any], code: str) -> None:
    verdict = seat(checkout("a", **wish), hosting(Pool(entitlement(**terms))), now=at())
    assert isinstance(verdict, Denial)
    assert code == verdict.code


@pytest.mark.parametrize(("terms", "wish", "code"), REFUSALS)
def test_each_refusal_says_what_would_have_helped_and_whose_it_is(
    terms: dict[str, Any], wish: dict[str, Any], code: str
) -> None:
    verdict = seat(checkout("a", **wish), hosting(Pool(entitlement(**terms))), now=at())
    assert isinstance(verdict, Denial)
    assert verdict.remedy.endswith(".")
    assert (Cause.CAPACITY if code == "no_seat" else Cause.TERMS) == verdict.cause


@pytest.mark.parametrize(("terms", "wish"), [(terms, wish) for terms, wish, _ in REFUSALS if terms])
def test_the_entitlement_that_came_furthest_explains(terms: dict[str, Any], wish: dict[str, Any]) -> None:
    asked = {key: value for key, value in wish.items() if key in {"version", "released_on"}}
    early = {"starts_at": T0 + HOUR, "expires_at": None} if "status" not in terms else {}
    pools = [Pool(entitlement("one", **{**terms, **early})), full(entitlement("two", seats=1))]
    for order in (pools, pools[::-1]):
        verdict = seat(checkout("a", **asked), hosting(*order), now=at())
        assert isinstance(verdict, Denial)
        assert ("no_seat", pools[1].entitlement.entitlement_id) == (verdict.code, verdict.entitlement_id)


def test_a_code_opens_its_entitlement_only() -> None:
    pools = [Pool(entitlement("one", activation_codes=frozenset({"ONE"}))), Pool(entitlement("two"))]
    for code, expected in (("ONE", pools[0]), (None, pools[1])):
        verdict = seat(checkout("a", activation_code=code), hosting(*pools), now=at())
        assert isinstance(verdict, Seat)
        assert expected is verdict.pool
    with pytest.raises(BadActivationCode):
        seat(checkout("a", activation_code="TWO"), hosting(*pools), now=at())


def chosen(*pools: Pool, **wish: Any) -> str:
    found = seat(checkout("a", **wish), hosting(*pools), now=at())
    assert isinstance(found, Seat)
    return found.pool.entitlement.entitlement_id[4:].rstrip("A")


def test_seats_not_in_overdraft_come_first() -> None:
    over = full(entitlement("over", seats=1, overdraft=ONE_OVER, expires_at=None))
    assert "free" == chosen(over, Pool(entitlement("free", seats=1)))
    assert "over" == chosen(over, full(entitlement("full", seats=1)))


def test_the_longest_lasting_comes_first() -> None:
    short, ever = Pool(entitlement("short")), Pool(entitlement("ever", expires_at=None))
    assert "ever" == chosen(short, ever) == chosen(ever, short)


def test_a_shared_seat_costs_nothing_and_comes_first() -> None:
    shared = Pool(entitlement("shared", seats=1, sharing=Sharing.USER, expires_at=T0 + HOUR))
    shared.add(lease("first", shared, user="ann"))
    assert "shared" == chosen(shared, Pool(entitlement("other")), user="ann")
    assert "other" == chosen(shared, Pool(entitlement("other")), user="bob")
    assert "other" == chosen(shared, Pool(entitlement("other")))


@pytest.mark.parametrize(
    ("sharing", "in_use"), [(Sharing.NONE, 4), (Sharing.USER, 3), (Sharing.HOST, 2), (Sharing.USER_HOST, 4)]
)
def test_who_shares_with_whom(sharing: Sharing, in_use: int) -> None:
    pool = Pool(entitlement(sharing=sharing))
    for number, (user, host) in enumerate([("ann", "w1"), ("ann", "w2"), ("bob", "w1"), (None, "w2")]):
        pool.add(lease(f"lease {number}", pool, user=user, host=host))
    assert in_use == pool.in_use


def test_promised_seats_are_refused_to_others_but_not_shared_ones() -> None:
    pool = Pool(entitlement("cad", seats=3, sharing=Sharing.USER))
    pool.add(lease("first", pool, user="ann"))
    promised = {pool.entitlement.entitlement_id}
    refused = seat(checkout("b", user="bob"), hosting(pool), now=at(), promised=promised)
    assert isinstance(refused, Denial)
    assert ("no_seat", "queue") == (refused.code, refused.rule)
    assert isinstance(seat(checkout("b", user="ann"), hosting(pool), now=at(), promised=promised), Seat)


def test_who_comes_back_takes_its_lingering_seat() -> None:
    pool = Pool(entitlement(seats=1))
    pool.add(lease("left", pool, seat_id="s", user="ann", state=LeaseState.LINGERING))
    assert 0 == pool.newly_taken(checkout("back", seat_id="s", user="ann"))
    assert 1 == pool.newly_taken(checkout("other", seat_id="s", user="bob"))
    assert 1 == pool.newly_taken(checkout("other", seat_id="t", user="ann"))


def test_a_lingering_seat_that_others_share_is_not_given_to_who_comes_back_from_elsewhere() -> None:
    pool = Pool(entitlement(seats=1, sharing=Sharing.HOST))
    pool.add(lease("left", pool, seat_id="s", host="w1", state=LeaseState.LINGERING))
    pool.add(lease("stays", pool, seat_id="t", host="w1"))
    assert 1 == pool.newly_taken(checkout("back", seat_id="s"))
    assert isinstance(seat(checkout("back", seat_id="s"), hosting(pool), now=at()), Denial)


def test_a_jumped_clock_refuses_and_never_allows() -> None:
    late = at()
    jumped = type(late)(wall=late.wall, strict=late.wall + timedelta(days=900), elapsed=late.elapsed)
    ended = seat(checkout("a"), hosting(Pool(entitlement())), now=jumped)
    assert isinstance(ended, Denial)
    assert "entitlement_expired" == ended.code
    early = seat(checkout("a"), hosting(Pool(entitlement(starts_at=T0 + HOUR))), now=jumped)
    assert isinstance(early, Denial)


@pytest.mark.parametrize("ends", [None, T0 + timedelta(days=100)])
@pytest.mark.parametrize(("days_ahead", "sits"), [(0, True), (29, True), (30, False)])
def test_a_first_lease_begins_no_term_that_a_jumped_clock_says_is_over(
    ends: datetime | None, days_ahead: int, *, sits: bool
) -> None:
    terms = replace(on_first_lease(days=30), expires_at=ends)
    jumped = Now(wall=T0, strict=T0 + timedelta(days=days_ahead), elapsed=0.0)
    found = seat(checkout("a"), hosting(Pool(terms)), now=jumped)
    assert sits is isinstance(found, Seat)
    if isinstance(found, Denial):
        assert ("entitlement_expired", "dates") == (found.code, found.rule)
        assert "clock is so far ahead" in found.detail


# -------------------------------------------------------------------- kinds of seats


def refused(verdict: Seat | Denial) -> Denial:
    assert isinstance(verdict, Denial)
    return verdict


def test_a_machine_has_one_seat_whoever_sits_there_and_however_seats_are_shared() -> None:
    pool = Pool(entitlement(seats=2, concurrency=Concurrency.NODE_LOCK, sharing=Sharing.USER))
    for number, (machine, user) in enumerate([("m1", "ann"), ("m1", "bob"), ("m2", "ann"), ("m2", None)]):
        pool.add(lease(f"lease {number}", pool, seat_id=machine, user=user))
    assert 2 == pool.in_use
    assert isinstance(seat(checkout("more", seat_id="m1", user="eve"), hosting(pool), now=at()), Seat)
    assert "no_seat" == refused(seat(checkout("third", seat_id="m3", user="ann"), hosting(pool), now=at())).code


def test_a_machines_seat_is_as_wide_as_its_widest_lease() -> None:
    pool = Pool(entitlement(seats=5, concurrency=Concurrency.NODE_LOCK))
    wide = lease("wide", pool, seats=3, seat_id="m1")
    assert 3 == pool.add(wide)
    assert 0 == pool.add(lease("narrow", pool, seats=2, seat_id="m1"))
    assert 1 == pool.frees(wide)
    assert 1 == pool.remove(wide)
    assert 2 == pool.in_use


def test_any_user_of_a_machine_takes_its_lingering_seat_over() -> None:
    pool = Pool(entitlement(seats=1, concurrency=Concurrency.NODE_LOCK))
    left = lease("left", pool, seat_id="m1", user="ann", state=LeaseState.LINGERING)
    pool.add(left)
    assert left is pool.lingering(checkout("b", seat_id="m1", user="bob").holder)
    assert 0 == pool.newly_taken(checkout("b", seat_id="m1", user="bob"))
    assert pool.lingering(checkout("b", seat_id="m2", user="ann").holder) is None


def test_seats_are_counted_anew_when_they_become_node_locked() -> None:
    terms = entitlement(seats=9)
    pool = Pool(terms)
    for number in range(3):
        pool.add(lease(f"lease {number}", pool, seat_id="m1", user=f"user {number}"))
    locked = entitlement(seats=9, concurrency=Concurrency.NODE_LOCK)
    assert (3, 1) == (pool.in_use, occupied(locked, pool, {}))
    pool.change(locked)
    assert 1 == pool.in_use


NAMED = entitlement(
    seats=3, concurrency=Concurrency.NAMED_USER, named_users=NamedUsers(names=("Ann", "STRASSE"), by_site=True)
)


@pytest.mark.parametrize(
    ("user", "sits"),
    [("Ann", True), ("ANN", True), ("straße", True), ("carl", True), ("bob", False), (None, False), ("", False)],
)
def test_a_named_seat_is_for_its_names_and_case_does_not_count(user: str | None, sits: bool) -> None:
    pool = Pool(NAMED)
    pool.assigned = frozenset({"carl"})
    verdict = seat(checkout("a", user=user), hosting(pool), now=at())
    assert sits is isinstance(verdict, Seat)
    if not sits:
        assert ("not_a_named_user", "named_user") == (refused(verdict).code, refused(verdict).rule)


def test_who_has_no_name_is_told_how_to_get_one() -> None:
    pool = Pool(NAMED)
    assert "lls entitlement assign" in refused(seat(checkout("a", user="bob"), hosting(pool), now=at())).remedy
    pool.assigned = frozenset({"carl"})
    assert "unassign" in refused(seat(checkout("a", user="bob"), hosting(pool), now=at())).remedy
    vendors = entitlement(concurrency=Concurrency.NAMED_USER, named_users=NamedUsers(names=("ann",)))
    assert "vendor" in refused(seat(checkout("a", user="bob"), hosting(Pool(vendors)), now=at())).remedy


def test_an_entitlement_that_goes_back_grants_nothing_new_and_nobody_waits_for_it() -> None:
    pool = Pool(entitlement())
    pool.returning = True
    verdict = refused(seat(checkout("a"), hosting(pool), now=at()))
    assert ("entitlement_disabled", "returning") == (verdict.code, verdict.rule)
    assert [] == waits_for(checkout("a"), hosting(pool), now=at())
    other = Pool(entitlement("other"))
    assert [other] == waits_for(checkout("a"), hosting(pool, other), now=at())


# -------------------------------------------------------------------- features


def level(key: str, *, left: int, total: int) -> FeatureLevel:
    return FeatureLevel(
        key=key,
        type=FeatureType.ELEMENT_POOL,
        value=total,
        unit="core",
        currency=None,
        held=0,
        available=left,
        total=total,
        consumed=0,
        overage=0,
        ends_at=None,
    )


def short(wanted: Any, *, now: Now) -> tuple[str, FeatureLevel] | None:
    """Of ``render`` one core is left of four."""
    amount = dict(wanted).get("render", 0)
    return ("render", level("render", left=1, total=4)) if amount > 1 else None


RENDER = Feature(key="render", type=FeatureType.ELEMENT_POOL, value=4)


def test_a_lack_of_units_refuses_last_and_says_how_many_are_missing() -> None:
    pool = Pool(entitlement(seats=1, features=(RENDER,)))
    pool.short_of = short
    assert isinstance(seat(checkout("a", features=(("render", 1),)), hosting(pool), now=at()), Seat)
    verdict = refused(seat(checkout("a", features=(("render", 3),)), hosting(pool), now=at()))
    assert ("no_feature_units", "units", "render", 3, 3, 4) == (
        verdict.code,
        verdict.rule,
        verdict.feature,
        verdict.asked,
        verdict.in_use,
        verdict.limit,
    )
    assert Cause.CAPACITY == verdict.cause
    assert "2 more" in verdict.remedy
    pool.add(lease("other", pool))
    assert "no_seat" == refused(seat(checkout("a", features=(("render", 3),)), hosting(pool), now=at())).code


def test_a_counted_feature_without_units_of_its_own_is_judged_by_its_grants() -> None:
    empty = Feature(key="render", type=FeatureType.USAGE_COUNT, value=0)
    pool = Pool(entitlement(features=(empty,)))
    assert isinstance(seat(checkout("a", features=(("render", 1),)), hosting(pool), now=at()), Seat)


def test_nobody_queues_for_units_but_for_a_seat() -> None:
    pool = full(entitlement(seats=1, features=(RENDER,)))
    pool.short_of = short
    assert [pool] == waits_for(checkout("a", features=(("render", 3),)), hosting(pool), now=at())


# -------------------------------------------------------------------- the best explanation


def test_the_furthest_rule_of_all_kinds_explains() -> None:
    """From a switched-off entitlement to one where only units are missing: each beats all before it."""
    off = Pool(entitlement("off", status=Status.DISABLED))
    old = Pool(entitlement("old", expires_at=T0 - HOUR))
    early = Pool(entitlement("early", starts_at=T0 + HOUR))
    going = Pool(entitlement("going"))
    going.returning = True
    basic = Pool(entitlement("basic", edition="basic"))
    versions = Pool(entitlement("versions", max_version="2025"))
    plain = Pool(entitlement("plain"))
    switched = Pool(entitlement("switched", features=(NO_RENDER,)))
    users = Pool(entitlement("users", features=(RENDER,), concurrency=Concurrency.NAMED_USER))
    taken = full(entitlement("taken", features=(RENDER,), seats=1))
    units = Pool(entitlement("units", features=(RENDER,)))
    units.short_of = short
    pools = [off, old, early, going, basic, versions, plain, switched, users, taken, units]
    wish = checkout("a", user="bob", edition="pro", version="2026", features=(("render", 2),))
    for last in range(1, len(pools) + 1):
        for order in (pools[:last], pools[:last][::-1]):
            verdict = refused(seat(wish, hosting(*order), now=at()))
            assert pools[last - 1].entitlement.entitlement_id == verdict.entitlement_id
