"""The wheel gives out what is due, once, and nothing early."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lls.licensing.deadlines import Deadlines
from lls.licensing.lease import Holder, Lease
from tests.ledgers import T0


def lease(name: str, deadline: float) -> Lease:
    holder = Holder(seat_id=name)
    return Lease(
        lease_id=name, secret=b"", content=b"", product="cad", entitlement_id="e", holder=holder,
        seats=1, ttl=60, overdraft=False, granted_at=T0, deadline=deadline,
    )  # fmt: skip


def test_a_lease_is_due_to_the_fraction_of_a_second() -> None:
    wheel, one = Deadlines(), lease("one", 10.5)
    wheel.arm(one)
    assert [] == wheel.take(10.4, limit=100)[0]
    assert [one] == wheel.take(10.5, limit=100)[0]
    assert [] == wheel.take(99.0, limit=100)[0]


def test_a_heartbeat_only_moves_the_leases_own_deadline() -> None:
    wheel, one = Deadlines(), lease("one", 10.0)
    wheel.arm(one)
    one.deadline = 70.0
    assert [] == wheel.take(10.0, limit=100)[0]
    assert [] == wheel.take(69.9, limit=100)[0]
    assert [one] == wheel.take(70.0, limit=100)[0]


def test_an_abandoned_look_leaves_the_rest_armed() -> None:
    wheel, leases = Deadlines(), [lease(str(number), 10.0 + number / 10) for number in range(5)]
    for one in leases:
        wheel.arm(one)
    assert ([leases[0]], False) == wheel.take(12.0, limit=1)
    assert leases[1:] == wheel.take(12.0, limit=100)[0]


def test_an_ended_lease_is_not_given_out() -> None:
    wheel, one = Deadlines(), lease("one", 10.0)
    wheel.arm(one)
    wheel.disarm(one)
    wheel.disarm(one)
    assert [] == wheel.take(11.0, limit=100)[0]


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(0, 30), st.sampled_from(("arm", "beat", "look", "end"))), max_size=60
    )
)
def test_whatever_happens_it_agrees_with_a_full_scan(steps: list[tuple[int, float, str]]) -> None:
    wheel, live, elapsed = Deadlines(), dict[str, Lease](), 0.0
    for number, seconds, what in steps:
        name = str(number)
        if what == "arm" and name not in live:
            live[name] = lease(name, elapsed + seconds)
            wheel.arm(live[name])
        elif what == "beat" and name in live:
            live[name].deadline = max(live[name].deadline, elapsed + seconds)
        elif what == "end" and name in live:
            wheel.disarm(live.pop(name))
        elif what == "look":
            elapsed += seconds
            due = {name for name, one in live.items() if one.deadline <= elapsed}
            assert due == {one.lease_id for one in wheel.take(elapsed, limit=1_000)[0]}
            live = {name: one for name, one in live.items() if name not in due}
