"""What the site's rules decide: whom they name, when, and who gets a seat because of them."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lls.licensing.denial import Cause, Denial
from lls.licensing.entitlement import Concurrency, Overdraft, OverdraftType, Sharing, Status
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout, Lease, LeaseState
from lls.licensing.policy import Asker, Names, Policy, difference
from lls.licensing.policy_file import read_policy
from lls.licensing.pools import Pool, Pools
from lls.licensing.seating import Seat, seat, waits_for
from tests.ledgers import T0, at, checkout, entitlement

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


def policy(*rules: str, groups: str = "", zone: str = "UTC") -> Policy:
    """Rules written on one line each: ``reserve seats = 1; for = …``."""
    written = []
    for rule in rules:
        kind, body = rule.split(" ", 1)
        lines = "\n".join(part.strip() for part in body.split(";"))
        product = "" if "product" in body else 'product = "cad"'
        written.append(f"[[{kind}]]\n{product}\n{lines}\n")
    return read_policy(f'format = 1\ntimezone = "{zone}"\n{groups}\n{"".join(written)}')


def site(given: Policy, *terms: Any) -> Pools:
    pools = Pools()
    for one in terms or (entitlement(seats=4),):
        pools.open(one)
    pools.govern(given)
    return pools


def sit(pools: Pools, wish: Checkout, *, now: Now | None = None, state: LeaseState = LeaseState.ACTIVE) -> Lease:
    """Seat somebody as the ledger would: by the rules."""
    found = seat(wish, pools, now=now or at())
    assert isinstance(found, Seat), found
    back = found.pool.lingering(wish.holder)
    if back is not None:
        found.pool.remove(back)
    lease = Lease(
        lease_id=wish.lease_id,
        secret=wish.secret,
        content=wish.content,
        product=wish.product,
        entitlement_id=found.pool.entitlement.entitlement_id,
        holder=wish.holder,
        seats=wish.seats,
        ttl=600,
        overdraft=found.overdraft,
        granted_at=T0,
        state=state,
        address=wish.address,
    )
    found.pool.add(lease)
    return lease


def sit_users(pools: Pools, *users: str, now: Now | None = None) -> list[Lease]:
    return [sit(pools, checkout(f"{number} {user}", user=user), now=now) for number, user in enumerate(users)]


def refusal(pools: Pools, wish: Checkout, *, now: Now | None = None) -> Denial | None:
    verdict = seat(wish, pools, now=now or at())
    return verdict if isinstance(verdict, Denial) else None


def rule_of(pools: Pools, wish: Checkout, *, now: Now | None = None) -> str | None:
    """The rule that refuses, None when it sits."""
    denial = refusal(pools, wish, now=now)
    return None if denial is None else denial.rule


def on(wall: datetime) -> Now:
    return replace_wall(at(), wall)


def replace_wall(now: Now, wall: datetime) -> Now:
    return now._replace(wall=wall, strict=wall)


# -------------------------------------------------------------------- whom a rule names

NAMES: list[tuple[str, Asker, bool]] = [
    ("users = ['ann']", Asker(user="ann"), True),
    ("users = ['Ann']", Asker(user="aNN"), True),
    ("users = ['ann']", Asker(user="anna"), False),
    ("users = ['ann']", Asker(host="ann"), False),
    ("users = ['*']", Asker(), False),
    ("users = ['*']", Asker(user=""), True),
    ("users = ['a?n', 'b*']", Asker(user="BOB"), True),
    ("users = ['a?n', 'b*']", Asker(user="axn"), True),
    ("users = ['a?n', 'b*']", Asker(user="an"), False),
    ("users = ['[ab]nn']", Asker(user="Bnn"), True),
    ("users = ['[!ab]nn']", Asker(user="ann"), False),
    ("users = ['ann\\\\nb*']", Asker(user="ann"), False),
    ("users = ['a.n']", Asker(user="axn"), False),
    ("hosts = ['ws-*']", Asker(host="WS-17"), True),
    ("hosts = ['ws-*']", Asker(host="kiosk", user="ws-17"), False),
    ("networks = ['10.1.0.0/16']", Asker(address="10.1.2.3"), True),
    ("networks = ['10.1.0.0/16']", Asker(address="10.2.2.3"), False),
    ("networks = ['10.1.2.3']", Asker(address="10.1.2.3"), True),
    ("networks = ['10.1.0.0/16']", Asker(address="::ffff:10.1.2.3"), True),
    ("networks = ['::ffff:10.1.0.0/112']", Asker(address="10.1.2.3"), True),
    ("networks = ['2001:db8::/32']", Asker(address="2001:DB8:1::5"), True),
    ("networks = ['2001:db8::/32']", Asker(address="10.1.2.3"), False),
    ("networks = ['fe80::/10']", Asker(address="fe80::1%eth0"), True),
    ("networks = ['0.0.0.0/0']", Asker(address="192.0.2.1"), True),
    ("networks = ['0.0.0.0/0']", Asker(address="2001:db8::1"), False),
    ("networks = ['0.0.0.0/0']", Asker(address=""), False),
    ("networks = ['0.0.0.0/0']", Asker(address="/run/lls/admin.sock"), False),
    ("users = ['ann'], hosts = ['ws-1']", Asker(user="bob", host="ws-1"), True),
    ("users = ['ann'], hosts = ['ws-1']", Asker(user="bob", host="ws-2"), False),
]


@pytest.mark.parametrize(("who", "asker", "named"), NAMES)
def test_whom_a_rule_names(who: str, asker: Asker, named: bool) -> None:
    given = policy(f"reserve seats = 1; for = {{ {who} }}")
    assert ("reserve[1]" if named else None) == given.reservation("cad", asker)


def test_a_pattern_of_many_stars_costs_no_more_than_its_length() -> None:
    given = policy(f"reserve seats = 1; for = {{ users = ['{'a*' * 90}b'] }}")
    assert given.reservation("cad", Asker(user="a" * 5_000)) is None
    assert "reserve[1]" == given.reservation("cad", Asker(user="a" * 5_000 + "b"))


def test_the_first_that_names_a_holder_counts() -> None:
    given = policy(
        "reserve seats = 1; for = { users = ['a*'] }",
        "reserve seats = 1; for = { users = ['ann', 'bob'] }",
        "priority value = 5; for = { users = ['a*'] }",
        "priority value = -9; for = { users = ['ann', 'bob'] }",
        "borrow max_seconds = 60; for = { users = ['ann'] }",
        "borrow max_seats = 0",
    )
    ann, bob, eve = Asker(user="ann"), Asker(user="bob"), Asker(user="eve")
    assert ["reserve[1]", "reserve[2]", None] == [given.reservation("cad", one) for one in (ann, bob, eve)]
    assert [5, -9, 0] == [given.priority("cad", one) for one in (ann, bob, eve)]
    assert (60, None, "borrow[1]") == given.borrow_caps("cad", ann)
    assert (None, 0, "borrow[2]") == given.borrow_caps("cad", bob)


def test_a_policy_says_nothing_of_products_that_it_does_not_name() -> None:
    given = policy("linger seconds = 60", "idle seconds = 90", "priority value = 5; for = { users = ['*'] }")
    assert (60, 90, 5) == (given.linger("cad"), given.idle("cad"), given.priority("cad", Asker(user="ann")))
    for one, product in ((given, "cam"), (Policy(), "cad")):
        assert (0, None, 0) == (one.linger(product), one.idle(product), one.priority(product, Asker(user="ann")))
        assert (None, None, None) == one.borrow_caps(product, Asker(user="ann"))
        assert not one.seats_ruled(product)


# -------------------------------------------------------------------- when

HOURS: list[tuple[str, str, list[tuple[str, bool]]]] = [
    (
        "UTC",
        "days = ['mon'], from = '08:00', to = '18:00'",
        [("23T07:59:59", False), ("23T08:00:00", True), ("23T17:59:59", True), ("23T18:00:00", False)],
    ),
    ("UTC", "days = ['mon']", [("22T23:59:59", False), ("23T00:00:00", True), ("23T23:59:59", True)]),
    ("UTC", "from = '18:00'", [("23T17:59:00", False), ("23T18:00:00", True), ("24T00:00:00", False)]),
    ("UTC", "to = '06:00'", [("23T05:59:00", True), ("23T06:00:00", False)]),
    (
        "UTC",
        "days = ['fri'], from = '22:00', to = '06:00'",
        [("27T05:00:00", False), ("27T21:59:00", False), ("27T22:00:00", True)],
    ),
    (
        "UTC",
        "days = ['fri'], from = '22:00', to = '06:00'",
        [("28T05:59:00", True), ("28T06:00:00", False), ("28T22:00:00", False)],
    ),
    (
        "UTC",
        "days = ['sun'], from = '22:00', to = '06:00'",
        [("22T23:00:00", True), ("23T05:00:00", True), ("23T22:30:00", False)],
    ),
    ("UTC", "days = ['mon'], from = '09:00', to = '09:00'", [("23T09:00:00", True), ("24T08:59:00", True)]),
    ("UTC", "days = ['mon'], from = '09:00', to = '09:00'", [("23T08:59:00", False), ("24T09:00:00", False)]),
    # Auckland is 13 hours ahead in November: its Monday begins on our Sunday.
    ("Pacific/Auckland", "days = ['mon']", [("22T10:59:00", False), ("22T11:00:00", True), ("23T11:00:00", False)]),
]


@pytest.mark.parametrize(("zone", "when", "moments"), HOURS)
def test_when_a_rule_holds(zone: str, when: str, moments: list[tuple[str, bool]]) -> None:
    given = policy(f"reserve seats = 1; for = {{ users = ['ann'] }}; when = {{ {when} }}", zone=zone).of("cad")
    assert given is not None
    expected = [holds for _, holds in moments]
    assert expected == [
        given.reservations[0].in_force(datetime.fromisoformat(f"2026-11-{moment}+00:00")) for moment, _ in moments
    ]


def test_an_hour_that_the_clock_skips_never_comes_and_one_that_it_repeats_comes_twice() -> None:
    given = policy(
        "reserve seats = 1; for = { users = ['ann'] }; when = { from = '02:15', to = '02:45' }", zone="Europe/Vienna"
    ).of("cad")
    assert given is not None

    def minutes(day: str) -> int:
        midnight = datetime.fromisoformat(f"{day}T22:00:00+00:00")
        return sum(given.reservations[0].in_force(midnight + timedelta(minutes=n)) for n in range(300))

    assert [30, 0, 60] == [minutes("2026-06-01"), minutes("2026-03-28"), minutes("2026-10-24")]


# -------------------------------------------------------------------- allow and deny


def test_deny_wins_over_allow_and_with_allow_all_others_are_out() -> None:
    pools = site(
        policy(
            "allow for = { users = ['ann', 'bob'] }",
            "allow for = { hosts = ['ws-*'] }",
            "deny for = { users = ['nobody'] }",
            "deny for = { users = ['bob'] }",
        )
    )
    assert rule_of(pools, checkout("a", user="ann")) is None
    assert rule_of(pools, checkout("b", host="WS-1")) is None
    assert "deny[2]" == rule_of(pools, checkout("c", user="bob", host="ws-1"))
    assert "allow" == rule_of(pools, checkout("d", user="eve"))
    denial = refusal(pools, checkout("d", user="eve"))
    assert denial is not None
    assert ("excluded", Cause.POLICY) == (denial.code, denial.cause)


def test_who_is_excluded_is_refused_although_its_seat_is_shared_and_does_not_wait() -> None:
    pools = site(policy("deny for = { hosts = ['ws-9'] }"), entitlement(seats=1, sharing=Sharing.USER))
    sit(pools, checkout("a", user="ann", host="ws-1"))
    assert "deny[1]" == rule_of(pools, checkout("b", user="ann", host="ws-9"))
    assert [] == waits_for(checkout("b", user="ann", host="ws-9"), pools, now=at())
    assert 1 == len(waits_for(checkout("c", user="bob", host="ws-1"), pools, now=at()))


# -------------------------------------------------------------------- limits


def test_a_limit_counts_all_leases_of_a_user_over_all_entitlements() -> None:
    pools = site(policy("limit seats = 2; per = 'user'"), entitlement("one", seats=1), entitlement("two", seats=9))
    sit_users(pools, "ann", "Ann", "bob")
    denial = refusal(pools, checkout("third", user="ANN"))
    assert denial is not None
    assert ("holder_limit", "limit[1]", 2, 2, Cause.POLICY) == (
        denial.code,
        denial.rule,
        denial.in_use,
        denial.limit,
        denial.cause,
    )
    assert rule_of(pools, checkout("bob again", user="bob")) is None
    assert 2 == len(waits_for(checkout("third", user="ann"), pools, now=at()))


def test_who_does_not_say_its_user_is_counted_by_its_machine() -> None:
    pools = site(policy("limit seats = 1; per = 'user'"))
    sit(pools, checkout("a", seat_id="m1"))
    assert "limit[1]" == rule_of(pools, checkout("b", seat_id="m1"))
    assert rule_of(pools, checkout("c", seat_id="m2")) is None


def test_a_limit_is_for_those_whom_it_names() -> None:
    pools = site(policy("limit seats = 1; per = 'host'; for = { networks = ['10.0.0.0/8'] }"))
    sit(pools, checkout("a", host="ws-1", address="10.0.0.1"))
    assert "limit[1]" == rule_of(pools, checkout("b", host="WS-1", address="10.0.0.1"))
    assert rule_of(pools, checkout("c", host="ws-1", address="192.0.2.1")) is None


def test_each_group_of_a_limit_counts_on_its_own_and_whoever_is_in_two_must_fit_into_both() -> None:
    groups = "groups.a.users = ['ann', 'both']\ngroups.b.users = ['bob', 'both']"
    pools = site(policy("limit seats = 1; per = 'group'; for = { groups = ['a', 'b'] }", groups=groups))
    sit_users(pools, "ann")
    assert "limit[1]" == rule_of(pools, checkout("x", user="both"))
    sit_users(pools, "bob")
    assert rule_of(pools, checkout("y", user="eve")) is None


def test_a_limit_counts_a_shared_seat_once_and_lets_it_be_shared() -> None:
    pools = site(policy("limit seats = 1; per = 'user'"), entitlement(seats=9, sharing=Sharing.USER))
    sit_users(pools, "ann")
    sit(pools, checkout("beside", user="ann"))
    assert "limit[1]" == rule_of(pools, checkout("wider", user="ann", seats=2))


def test_who_comes_back_to_its_lingering_seat_is_within_its_limit() -> None:
    pools = site(policy("limit seats = 1; per = 'user'"))
    sit(pools, checkout("left", seat_id="m", user="ann"), state=LeaseState.LINGERING)
    assert "limit[1]" == rule_of(pools, checkout("elsewhere", seat_id="n", user="ann"))
    assert rule_of(pools, checkout("back", seat_id="m", user="ann")) is None
    assert "limit[1]" == rule_of(pools, checkout("wider", seat_id="m", user="ann", seats=2))


def test_a_lowered_limit_ends_nothing_and_refuses_only_what_adds() -> None:
    pools = site(policy("limit seats = 3; per = 'user'"))
    sit_users(pools, "ann", "ann", "ann")
    pools.govern(policy("limit seats = 1; per = 'user'"))
    assert 3 == pools.of("cad")[0].in_use
    assert "limit[1]" == rule_of(pools, checkout("more", user="ann"))


def test_who_asks_for_more_than_its_limit_at_once_does_not_wait() -> None:
    pools = site(policy("limit seats = 2; per = 'user'"))
    assert [] == waits_for(checkout("three", user="ann", seats=3), pools, now=at())
    denial = refusal(pools, checkout("three", user="ann", seats=3))
    assert denial is not None
    assert "Ask for 2 at most" in denial.remedy


# -------------------------------------------------------------------- reservations

FOR_ANN = "for = { users = ['ann'] }"
FOR_BOB = "for = { users = ['bob'] }"


def test_what_is_reserved_is_kept_until_its_members_come() -> None:
    pools = site(policy(f"reserve seats = 2; {FOR_ANN}"))
    sit_users(pools, "x", "y")
    denial = refusal(pools, checkout("z", user="z"))
    assert denial is not None
    assert ("reserved", "reserve[1]", 2, 4, Cause.POLICY) == (
        denial.code,
        denial.rule,
        denial.in_use,
        denial.seats,
        denial.cause,
    )
    sit_users(pools, "ann", "ann")
    assert "seats" == rule_of(pools, checkout("z", user="z"))


def test_members_take_free_seats_beyond_their_reservation_like_everybody_else() -> None:
    pools = site(policy(f"reserve seats = 1; {FOR_ANN}", f"reserve seats = 1; {FOR_BOB}"))
    sit_users(pools, "ann", "ann", "ann")
    assert "reserve[2]" == rule_of(pools, checkout("fourth", user="ann"))
    assert rule_of(pools, checkout("bob", user="bob")) is None


def test_whoever_came_first_keeps_its_seat_and_members_wait_for_one() -> None:
    pools = site(Policy())
    sit_users(pools, "x", "y", "z")
    pools.govern(policy(f"reserve seats = 3; {FOR_ANN}"))
    assert "reserve[1]" == rule_of(pools, checkout("w", user="w"))
    sit_users(pools, "ann")
    assert "seats" == rule_of(pools, checkout("ann again", user="ann"))


def test_percents_are_of_the_seats_bought_and_rounded_down() -> None:
    overdraft = Overdraft(type=OverdraftType.ABSOLUTE, value=3)
    pools = site(policy(f"reserve percent = 25; {FOR_ANN}"), entitlement(seats=7, overdraft=overdraft))
    sit_users(pools, *"abcdefghi")
    assert "reserve[1]" == rule_of(pools, checkout("tenth", user="j"))


@pytest.mark.parametrize("terms", [{"seats": None}, {"seats": 1, "overdraft": Overdraft(type=OverdraftType.UNLIMITED)}])
def test_where_seats_are_unlimited_nothing_need_be_kept(terms: dict[str, Any]) -> None:
    pools = site(policy(f"reserve percent = 100; {FOR_ANN}"), entitlement("ever", **terms), entitlement("two", seats=1))
    sit_users(pools, *"abcdef")
    assert 6 == sum(pool.in_use for pool in pools.values())


def test_reservations_share_what_there_is_in_the_order_of_the_file() -> None:
    pools = site(policy(f"reserve seats = 3; {FOR_ANN}", f"reserve seats = 3; {FOR_BOB}"))
    assert "reserve[2]" == rule_of(pools, checkout("two", user="ann", seats=4))
    sit_users(pools, "bob")
    assert "reserve[1]" == rule_of(pools, checkout("bob's second", user="bob"))
    sit_users(pools, "ann", "ann", "ann")


def test_a_holder_belongs_to_its_first_reservation_even_outside_its_hours() -> None:
    pools = site(
        policy(
            "reserve seats = 1; for = { users = ['ann'] }; when = { days = ['tue'] }",
            "reserve seats = 3; for = { users = ['ann', 'bob'] }",
        )
    )
    monday, tuesday = on(MONDAY), on(MONDAY + timedelta(days=1))
    sit_users(pools, "ann", now=monday)
    assert "reserve[2]" == rule_of(pools, checkout("more", user="ann"), now=monday)
    assert "reserve[2]" == rule_of(pools, checkout("more", user="ann"), now=tuesday)
    sit_users(pools, "bob", "bob", "bob", now=monday)


def test_reserved_seats_are_kept_in_their_hours_only() -> None:
    pools = site(policy(f"reserve seats = 4; {FOR_ANN}; when = {{ days = ['mon'], from = '08:00', to = '18:00' }}"))
    assert "reserve[1]" == rule_of(pools, checkout("x", user="x"), now=on(MONDAY + timedelta(hours=8)))
    assert rule_of(pools, checkout("x", user="x"), now=on(MONDAY + timedelta(hours=18))) is None
    denial = refusal(pools, checkout("x", user="x"), now=on(MONDAY + timedelta(hours=9)))
    assert denial is not None
    assert "outside its hours" in denial.remedy


@pytest.mark.parametrize(
    "gone", [{"status": Status.DISABLED}, {"expires_at": T0}, {"starts_at": T0 + timedelta(hours=1)}]
)
def test_only_pools_that_grant_are_kept_of(gone: dict[str, Any]) -> None:
    pools = site(policy(f"reserve percent = 50; {FOR_ANN}"), entitlement("live", seats=2), entitlement("dead", **gone))
    sit_users(pools, "x")
    assert "reserve[1]" == rule_of(pools, checkout("y", user="y"))


def test_whoever_shares_a_seat_or_comes_back_asks_no_reservation() -> None:
    pools = site(
        policy(f"reserve seats = 2; {FOR_ANN}", "reserve seats = 1; for = { networks = ['10.0.0.0/8'] }"),
        entitlement(seats=4, sharing=Sharing.HOST),
    )
    sit(pools, checkout("x", user="x", host="ws-1", seat_id="m1"), state=LeaseState.LINGERING)
    sit(pools, checkout("beside", user="y", host="ws-1"))
    sit(pools, checkout("back", user="x", host="ws-1", seat_id="m1"))
    assert 1 == pools.of("cad")[0].in_use
    assert "reserve[2]" == rule_of(pools, checkout("other", user="z", host="ws-2"))


def test_a_member_that_leaves_its_lingering_seat_for_a_wider_one_leaves_its_place_in_the_reservation() -> None:
    pools = site(policy("reserve seats = 2; for = { networks = ['10.0.0.0/8'] }"))
    sit(pools, checkout("in", user="x", seat_id="m", address="10.0.0.1"), state=LeaseState.LINGERING)
    sit_users(pools, "y")
    # 2 are free, 1 is kept; from outside the network it would take 1 more and fill nothing of the reservation.
    assert "reserve[1]" == rule_of(pools, checkout("out", user="x", seat_id="m", seats=2, address="192.0.2.1"))
    assert rule_of(pools, checkout("back", user="x", seat_id="m", seats=2, address="10.0.0.2")) is None


def test_who_could_not_sit_with_nobody_else_there_does_not_wait() -> None:
    pools = site(policy(f"reserve seats = 3; {FOR_ANN}"))
    sit_users(pools, "x")
    assert 1 == len(waits_for(checkout("one", user="y"), pools, now=at()))
    assert [] == waits_for(checkout("two", user="y", seats=2), pools, now=at())
    assert 1 == len(waits_for(checkout("three", user="ann", seats=3), pools, now=at()))


# -------------------------------------------------------------------- beside the queue


def test_who_draws_on_its_own_reservation_passes_waiters_who_could_not_have_that_seat() -> None:
    pools = site(policy(f"reserve seats = 2; {FOR_ANN}"), entitlement(seats=5))
    sit_users(pools, "x", "y")
    promised, ann = set(pools), checkout("ann", user="ann")

    def verdict(wish: Checkout, ahead: set[str | None] | None) -> str | None:
        found = seat(wish, pools, now=at(), promised=promised, ahead=ahead)
        return found.rule if isinstance(found, Denial) else None

    assert verdict(ann, {None}) is None
    assert "queue" == verdict(ann, {None, "reserve[1]"})
    assert "queue" == verdict(ann, None)
    assert "queue" == verdict(checkout("z", user="z"), {None})
    assert "queue" == verdict(checkout("three", user="ann", seats=3), {None})


# -------------------------------------------------------------------- beside another policy, and what is hosted


def test_a_difference_names_what_came_and_what_went() -> None:
    one, two, three = (f"reserve seats = {n}; {FOR_ANN}" for n in (1, 2, 3))
    limit = "limit seats = 1; per = 'user'"
    assert (["reserve[1]", "limit[1]"], []) == difference(Policy(), policy(one, limit))
    assert ([], ["reserve[1]"]) == difference(policy(one, two), policy(two))
    assert (["reserve[2]"], ["reserve[2]"]) == difference(policy(one, two), policy(one, three))
    assert ([], []) == difference(policy(one, f"{two}; name = 'old'"), policy(one, f"{two}; name = 'new'"))
    moved = difference(policy(one, two), policy(two, one))
    assert (1, 1) == (len(moved[0]), len(moved[1]))


def test_an_edited_group_edits_the_rules_that_name_it_and_no_others() -> None:
    rules = "reserve seats = 1; for = { groups = ['a'] }", f"limit seats = 1; per = 'user'; {FOR_BOB}"
    old, new = policy(*rules, groups="groups.a.users = ['x']"), policy(*rules, groups="groups.a.users = ['X', 'y']")
    assert (["reserve[1]"], ["reserve[1]"]) == difference(old, new)
    assert ([], []) == difference(old, policy(*rules, groups="groups.a.users = ['X', 'x']"))


def test_another_zone_is_another_rule_where_there_are_hours() -> None:
    rules = f"reserve seats = 1; {FOR_ANN}; when = {{ to = '12:00' }}", f"reserve seats = 1; {FOR_BOB}"
    assert (["reserve[1]"], ["reserve[1]"]) == difference(policy(*rules), policy(*rules, zone="Asia/Tokyo"))


def test_doubts_name_products_that_nobody_has_and_more_seats_than_were_bought() -> None:
    given = policy(
        f"reserve seats = 3; {FOR_ANN}",
        f"reserve percent = 50; {FOR_BOB}",
        "limit product = 'cam'; seats = 1; per = 'user'",
    )
    found = given.doubts(site(given, entitlement(seats=4)))
    assert 2 == len(found)
    assert "limit[1]: no product cam is hosted here" in found[1]
    assert "reserve[1], reserve[2]: 5 seats of cad are reserved at once, and 4 were bought." == found[0]
    assert ["cam" in one for one in given.doubts(site(given, entitlement(seats=6)))] == [True]
    assert 1 == len(given.doubts(site(given, entitlement(seats=None))))


def test_reservations_that_never_meet_may_each_have_all_seats() -> None:
    day, night = "when = { from = '08:00', to = '20:00' }", "when = { from = '20:00', to = '08:00' }"
    given = policy(f"reserve seats = 4; {FOR_ANN}; {day}", f"reserve seats = 4; {FOR_BOB}; {night}")
    assert [] == given.doubts(site(given, entitlement(seats=4)))


def test_a_change_of_policy_counts_those_who_sit_already() -> None:
    pools = site(Policy(), entitlement(seats=4, concurrency=Concurrency.NODE_LOCK))
    sit(pools, checkout("a", user="ann", seat_id="m1"))
    sit(pools, checkout("b", user="bob", seat_id="m1"))
    pools.govern(policy("limit seats = 1; per = 'user'", f"reserve seats = 3; {FOR_ANN}"))
    pool: Pool = pools.of("cad")[0]
    assert pool.tally is not None
    assert [1, 1, 1] == sorted(pool.tally.levels().values())
    pools.govern(Policy())
    assert pool.tally is None


def test_rules_that_only_moved_in_the_file_still_count_right() -> None:
    other = f"reserve product = 'cam'; seats = 1; {FOR_ANN}"
    pools = site(policy(other, f"reserve seats = 2; {FOR_ANN}"))
    sit_users(pools, "ann", "ann")
    pools.govern(policy(f"reserve seats = 2; {FOR_ANN}", other))
    sit_users(pools, "x", "y")


def test_terms_of_another_product_are_under_its_rules() -> None:
    pools = site(policy("limit product = 'cam'; seats = 1; per = 'user'"))
    sit_users(pools, "ann", "ann")
    pool = pools.of("cad")[0]
    pools.change(pool, replace(pool.entitlement, product="cam"))
    assert "limit[1]" == rule_of(pools, checkout("more", user="ann", product="cam"))
    assert rule_of(pools, checkout("bob", user="bob", product="cam")) is None


GROUPS = """
[groups.people]
users = ["ann", "b*"]
[groups.machines]
hosts = ["ws-*"]
networks = ["10.1.0.0/16"]
[groups.both]
groups = ["people", "machines"]
users = ["zoe"]
"""
WHOM = [
    "{ groups = ['people'] }",
    "{ groups = ['machines'] }",
    "{ groups = ['both'] }",
    "{ groups = ['machines', 'people'], users = ['cy'] }",
    "{ users = ['ann', 'b*'] }",
    "{ hosts = ['lab'] }",
]


@pytest.mark.parametrize(
    "asker",
    [
        Asker(user="ann"),
        Asker(user="BOB", host="ws-7"),
        Asker(host="ws-7"),
        Asker(user="nobody", address="10.1.2.3"),
        Asker(user="cy", host="lab"),
        Asker(user="zoe", host="elsewhere", address="10.2.2.3"),
        Asker(),
    ],
)
def test_each_group_is_looked_at_once_and_the_answer_is_that_of_each_rule_alone(asker: Asker) -> None:
    """Membership asks all rules of a product in one look; each rule by itself says the same."""
    groups = [f"limit seats = 9; per = 'group'; for = {one}" for one in WHOM if "groups" in one and "cy" not in one]
    users = [f"limit seats = 9; per = 'user'; for = {one}" for one in WHOM]
    made = policy(*groups, *users, *(f"reserve seats = 1; for = {one}" for one in WHOM), groups=GROUPS)
    rules = made.of("cad")
    assert rules is not None
    expected = [
        (rule.place, group.name) for rule in rules.limits for group in rule.who.groups
        if rule.per == "group" and group.names(asker)
    ] + [(rule.place, None) for rule in rules.limits if rule.per != "group" and rule.who.names(asker)]  # fmt: skip
    for _ in range(2):  # kept for those asked about before
        member = rules.member(asker)
        assert expected == [(limit.place, group) for limit, group in member.limits]
        first = next((rule for rule in rules.reservations if rule.who.names(asker)), None)
        assert first is member.reservation


def test_a_group_of_many_rules_is_matched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (f"limit seats = {n + 1}; per = 'user'; for = {{ groups = ['both'] }}" for n in range(50))
    rules = policy(*limits, groups=GROUPS).of("cad")
    asked: list[Asker] = []
    match = Names.match

    def counted(names: Names, asker: Asker) -> bool:
        asked.append(asker)
        return match(names, asker)

    monkeypatch.setattr(Names, "match", counted)
    assert rules is not None
    assert 50 == len(rules.member(Asker(host="ws-1")).limits)
    assert len(asked) <= 3, "a group is looked at once, not once a rule"


def test_rules_that_were_replaced_go_without_the_collector() -> None:
    """The writer freezes what it has loaded: a circle in there, with all answers that were kept, would never go."""
    given = policy('limit seats = 1; per = "user"', 'allow for = { users = ["*"] }')
    rules = given.of("cad")
    assert rules is not None
    gc.collect()
    try:
        gc.disable()
        rules.member(Asker("ann"))
        answer = weakref.finalize(rules.member, lambda: None)
        del given, rules
        assert not answer.alive
    finally:
        gc.enable()
