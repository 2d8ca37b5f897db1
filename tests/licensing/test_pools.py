"""Counting: a shared seat once, a pool like its leases, and the site's rules like their members, after any moves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lls.licensing.entitlement import Concurrency, Entitlement, Overdraft, OverdraftType, Sharing
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout, Lease, LeaseState
from lls.licensing.occupancy import Occupancy, seat_key
from lls.licensing.policy import Policy
from lls.licensing.policy_file import read_policy
from lls.licensing.pools import Pool, Pools
from lls.licensing.quotas import Quotas
from lls.licensing.seating import Seat, seat
from tests.ledgers import T0, at, checkout, entitlement

Placed = tuple[tuple[str, ...] | None, int]


def recount(places: Iterable[Placed]) -> int:
    """Seats, counted anew: alone each for itself, together as wide as the widest."""
    alone, together = 0, defaultdict[tuple[str, ...], int](int)
    for key, seats in places:
        if key is None:
            alone += seats
        else:
            together[key] = max(together[key], seats)
    return alone + sum(together.values())


places = st.tuples(st.sampled_from([None, ("a",), ("b",), ("c", "")]), st.integers(1, 3))


@settings(max_examples=300, deadline=None)
@given(there=st.lists(places, min_size=1, max_size=12), comes=st.none() | places, pick=st.none() | st.integers(0, 11))
def test_a_level_and_every_change_of_it_equal_a_recount(
    there: list[Placed], comes: Placed | None, pick: int | None
) -> None:
    occupancy = Occupancy()
    assert recount(there) == sum(occupancy.add(place) for place in there) == occupancy.level
    leaves = None if pick is None else there[pick % len(there)]
    after = list(there)
    if leaves is not None:
        after.remove(leaves)
    if comes is not None:
        after.append(comes)
    assert recount(after) - recount(there) == occupancy.change(comes, leaves)
    assert recount(there) == sum(occupancy.remove(place) for place in reversed(there))
    assert 0 == occupancy.level


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, [None, None, None]),
        ({"sharing": Sharing.USER}, [("ann", ""), None, ("ann", "")]),
        ({"sharing": Sharing.HOST}, [None, ("", "w1"), ("", "w1")]),
        ({"sharing": Sharing.USER_HOST}, [None, None, ("ann", "w1")]),
        ({"concurrency": Concurrency.NODE_LOCK, "sharing": Sharing.USER}, [("m",), ("m",), ("m",)]),
        ({"concurrency": Concurrency.NAMED_USER, "sharing": Sharing.USER}, [("ann", ""), None, ("ann", "")]),
    ],
)
def test_with_whom_a_seat_is_shared(changes: dict[str, Any], keys: list[tuple[str, ...] | None]) -> None:
    named = [{"user": "ann"}, {"host": "w1"}, {"user": "ann", "host": "w1"}]
    holders = [checkout("a", seat_id="m", **names).holder for names in named]
    assert keys == [seat_key(entitlement(**changes), holder) for holder in holders]


def test_a_pool_that_was_dropped_comes_back_with_all_who_sit_there() -> None:
    pools = Pools()
    pool = pools.open(entitlement())
    pool.add(_lease(checkout("a"), pool))
    pools.drop(pool)
    assert ([], {}) == (pools.of("cad"), dict(pools))
    pools.take_back(pool)
    assert ([pool], 1) == (pools.of("cad"), pool.in_use)


def test_a_pool_dropped_under_one_policy_comes_back_under_the_one_in_force() -> None:
    pools = Pools()
    pool = pools.open(entitlement())
    pool.add(_lease(checkout("a", user="ann"), pool))
    pools.drop(pool)
    pools.govern(POLICIES[1])
    pools.take_back(pool)
    assert pool.tally is not None
    assert pool.tally.levels()


# -------------------------------------------------------------------- any moves

HEAD = "format = 1\n[groups.lab]\nusers = ['ann']\nnetworks = ['10.0.0.0/8']\n[groups.desk]\nhosts = ['w*']\n"
POLICIES = (
    Policy(),
    read_policy(
        HEAD
        + """
        [[reserve]]
        product = "cad"
        seats = 2
        for = { groups = ["lab"] }
        [[reserve]]
        product = "cad"
        percent = 40
        for = { users = ["b*"], hosts = ["w2"] }
        [[limit]]
        product = "cad"
        seats = 3
        per = "user"
        """
    ),
    read_policy(
        HEAD
        + """
        [[reserve]]
        product = "cam"
        seats = 1
        for = { users = ["ann"] }
        [[limit]]
        product = "cad"
        seats = 4
        per = "group"
        for = { groups = ["lab", "desk"] }
        [[limit]]
        product = "cad"
        seats = 2
        per = "host"
        for = { users = ["*"] }
        [[reserve]]
        product = "cad"
        seats = 9
        for = { groups = ["desk"] }
        when = { days = ["sat", "sun"] }
        [[reserve]]
        product = "cad"
        seats = 2
        for = { users = ["ann"] }
        """
    ),
)
wishes = st.builds(
    checkout,
    st.integers(0, 10**9).map(str),
    seat_id=st.sampled_from(("m1", "m2", "m3")),
    user=st.sampled_from(("ann", "Ann", "bob", "eve", None)),
    host=st.sampled_from(("w1", "w2", "x", None)),
    address=st.sampled_from(("10.1.1.1", "::ffff:10.1.1.2", "192.0.2.1", None)),
    seats=st.sampled_from((1, 1, 1, 2, 3)),
)
terms = st.fixed_dictionaries(
    {
        "product": st.sampled_from(("cad", "cad", "cam")),
        "seats": st.sampled_from((2, 5, 8, None)),
        "sharing": st.sampled_from(list(Sharing)),
        "concurrency": st.sampled_from((Concurrency.CONCURRENT, Concurrency.NODE_LOCK)),
        "overdraft": st.sampled_from((Overdraft(), Overdraft(type=OverdraftType.ABSOLUTE, value=2))),
    }
)
nows = st.sampled_from((at(), at()._replace(wall=datetime(2026, 11, 24, 9, tzinfo=UTC))))


def _lease(wish: Checkout, pool: Pool, *, state: LeaseState = LeaseState.ACTIVE) -> Lease:
    return Lease(
        lease_id=wish.lease_id,
        secret=wish.secret,
        content=wish.content,
        product=pool.entitlement.product,
        entitlement_id=pool.entitlement.entitlement_id,
        holder=wish.holder,
        seats=wish.seats,
        ttl=600,
        overdraft=False,
        granted_at=T0,
        state=state,
        address=wish.address,
    )


class Moves(RuleBasedStateMachine):
    """Leases come, linger and go; terms and policies change; counts stay right."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = Pools()
        for name in ("one", "two"):
            self.pools.open(entitlement(name, seats=5))
        self.dropped: list[Pool] = []

    def pool(self, pick: int) -> Pool | None:
        pools = list(self.pools.values())
        return pools[pick % len(pools)] if pools else None

    @rule(wish=wishes, product=st.sampled_from(("cad", "cad", "cam")), now=nows)
    def check_out(self, wish: Checkout, product: str, now: Now) -> None:
        if not self.pools.of(product) or any(wish.lease_id in pool.leases for pool in self.pools.values()):
            return
        wish = replace(wish, product=product)
        found = seat(wish, self.pools, now=now)
        if not isinstance(found, Seat):
            return
        pool, before = found.pool, found.pool.in_use
        back = pool.lingering(wish.holder)
        if back is not None:
            pool.remove(back)
        pool.add(_lease(wish, pool))
        assert found.taken == pool.in_use - before
        if found.taken > 0:
            self.keeps_to_the_rules(wish, pool, now)

    def keeps_to_the_rules(self, wish: Checkout, pool: Pool, now: Now) -> None:
        """After a grant of new seats: what is free covers what the others still have kept; pools are not overfull."""
        capacity = pool.entitlement.capacity
        assert capacity is None or pool.in_use <= capacity
        rules = self.pools.policy.of(wish.product)
        if rules is None or not rules.counting:
            return
        quotas = Quotas(wish, self.pools.of(wish.product), rules, now=now)
        kept, stock = list(quotas.kept(pool)), quotas.stock
        if stock is not None:
            assert sum(one.seats for one in kept) <= stock.capacity
            assert all(one.left >= 0 for one in kept)

    @rule(wish=wishes, pick=st.integers(0, 9), state=st.sampled_from(list(LeaseState)))
    def restore(self, wish: Checkout, pick: int, state: LeaseState) -> None:
        """Whoever sits there already, whatever the rules say: loaded from the store."""
        pool = self.pool(pick)
        if pool is not None and not any(wish.lease_id in one.leases for one in self.pools.values()):
            pool.add(_lease(wish, pool, state=state))

    @rule(pick=st.integers(0, 9), which=st.integers(0, 99))
    def leave(self, pick: int, which: int) -> None:
        pool = self.pool(pick)
        if pool is not None and pool.leases:
            lease = list(pool.leases.values())[which % len(pool.leases)]
            freed = pool.frees(lease)
            assert freed == pool.remove(lease)

    @rule(pick=st.integers(0, 9), which=st.integers(0, 99))
    def linger(self, pick: int, which: int) -> None:
        pool = self.pool(pick)
        if pool is not None and pool.leases:
            lease = list(pool.leases.values())[which % len(pool.leases)]
            pool.remove(lease)
            pool.add(replace(lease, state=LeaseState.LINGERING))

    @rule(pick=st.integers(0, 9), wish=terms, back=st.booleans())
    def change_terms(self, pick: int, wish: dict[str, Any], back: bool) -> None:
        pool = self.pool(pick)
        if pool is None:
            return
        before: Entitlement = pool.entitlement
        self.pools.change(pool, replace(before, **wish))
        if back:
            self.pools.put_back(before.entitlement_id, before)

    @rule(which=st.sampled_from(POLICIES))
    def govern(self, which: Policy) -> None:
        self.pools.govern(which)

    @rule(pick=st.integers(0, 9))
    def drop(self, pick: int) -> None:
        pool = self.pool(pick)
        if pool is not None:
            self.pools.drop(pool)
            self.dropped.append(pool)

    @rule()
    def take_back(self) -> None:
        if self.dropped:
            self.pools.take_back(self.dropped.pop())

    @invariant()
    def a_pool_counts_its_leases(self) -> None:
        for pool in self.pools.values():
            assert recount(pool.place(one.holder, one.seats) for one in pool.leases.values()) == pool.in_use

    @invariant()
    def rules_count_their_members(self) -> None:
        for pool in self.pools.values():
            assert self.told_anew(pool) == ({} if pool.tally is None else pool.tally.levels())

    def told_anew(self, pool: Pool) -> dict[tuple[str | int, ...], int]:
        """The counts of the two policies above, written down without them."""
        number = POLICIES.index(self.pools.policy)
        found = defaultdict[tuple[str | int, ...], list[Placed]](list)
        for lease in pool.leases.values():
            for count in self.counted_as(number, pool.entitlement.product, lease):
                found[count].append(pool.place(lease.holder, lease.seats))
        return {count: recount(members) for count, members in found.items()}

    def counted_as(self, number: int, product: str, lease: Lease) -> list[tuple[str | int, ...]]:
        user, host = (lease.holder.user or "").lower(), lease.holder.host or ""
        inside = "10.1.1" in (lease.address or "")
        if (number, product) == (1, "cad"):
            mine = [2] if user == "bob" or host == "w2" else []
            reserved = [1] if user == "ann" or inside else mine
            whose = ("user", user) if user else ("machine", lease.holder.seat_id)
            return [("limit", 1, *whose), *(("reserve", place) for place in reserved)]
        if (number, product) == (2, "cad"):
            groups = [name for name, fits in (("lab", user == "ann" or inside), ("desk", host[:1] == "w")) if fits]
            by_host = ("host", host) if host else ("machine", lease.holder.seat_id)
            reserved = [2] if host[:1] == "w" else [3] if user == "ann" else []
            return [
                *(("limit", 1, "group", name) for name in groups),
                *([("limit", 2, *by_host)] if user else []),
                *(("reserve", place) for place in reserved),
            ]
        if (number, product) == (2, "cam"):
            return [("reserve", 1)] if user == "ann" else []
        return []


TestMoves = Moves.TestCase
TestMoves.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
