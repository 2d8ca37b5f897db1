"""Which rule refuses, which entitlement is taken, and what a seat is worth when it is shared or waits."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from lls.faults import BadActivationCode
from lls.licensing.entitlement import Entitlement, Feature, FeatureType, Overdraft, OverdraftType, Sharing, Status
from lls.licensing.lease import Lease, LeaseState
from lls.licensing.seating import Denial, Pool, Seat, seat
from tests.ledgers import T0, at, checkout, entitlement

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
    verdict = seat(checkout("a", **wish), [Pool(entitlement(**terms))], now=at())
    assert isinstance(verdict, Denial)
    assert code == verdict.code


@pytest.mark.parametrize(("terms", "wish"), [(terms, wish) for terms, wish, _ in REFUSALS if terms])
def test_the_entitlement_that_came_furthest_explains(terms: dict[str, Any], wish: dict[str, Any]) -> None:
    asked = {key: value for key, value in wish.items() if key in {"version", "released_on"}}
    early = {"starts_at": T0 + HOUR, "expires_at": None} if "status" not in terms else {}
    pools = [Pool(entitlement("one", **{**terms, **early})), full(entitlement("two", seats=1))]
    for order in (pools, pools[::-1]):
        verdict = seat(checkout("a", **asked), order, now=at())
        assert isinstance(verdict, Denial)
        assert ("no_seat", pools[1].entitlement.entitlement_id) == (verdict.code, verdict.entitlement_id)


def test_a_code_opens_its_entitlement_only() -> None:
    pools = [Pool(entitlement("one", activation_codes=frozenset({"ONE"}))), Pool(entitlement("two"))]
    for code, expected in (("ONE", pools[0]), (None, pools[1])):
        verdict = seat(checkout("a", activation_code=code), pools, now=at())
        assert isinstance(verdict, Seat)
        assert expected is verdict.pool
    with pytest.raises(BadActivationCode):
        seat(checkout("a", activation_code="TWO"), pools, now=at())


def chosen(*pools: Pool, **wish: Any) -> str:
    found = seat(checkout("a", **wish), pools, now=at())
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
    refused = seat(checkout("b", user="bob"), [pool], now=at(), promised=promised)
    assert isinstance(refused, Denial)
    assert ("no_seat", "queue") == (refused.code, refused.rule)
    assert isinstance(seat(checkout("b", user="ann"), [pool], now=at(), promised=promised), Seat)


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
    assert isinstance(seat(checkout("back", seat_id="s"), [pool], now=at()), Denial)


def test_a_jumped_clock_refuses_and_never_allows() -> None:
    late = at()
    jumped = type(late)(wall=late.wall, strict=late.wall + timedelta(days=900), elapsed=late.elapsed)
    ended = seat(checkout("a"), [Pool(entitlement())], now=jumped)
    assert isinstance(ended, Denial)
    assert "entitlement_expired" == ended.code
    early = seat(checkout("a"), [Pool(entitlement(starts_at=T0 + HOUR))], now=jumped)
    assert isinstance(early, Denial)
