"""The queue under the site's rules: who passes whom, and for whom a free seat is kept (decision 0005)."""

from __future__ import annotations

from typing import Any

import pytest

from lls.licensing.ledger import Ledger, Queued, Seated
from tests.ledgers import Vendor, at, checkout, entitlement, ledger_of
from tests.licensing.test_policy import policy

RULES = (
    "reserve seats = 2; for = { users = ['ann'] }",
    "limit seats = 1; per = 'user'; for = { users = ['lim'] }",
)


@pytest.fixture
def ledger() -> Ledger:
    made = ledger_of(entitlement(seats=4))
    made.govern(policy(*RULES), text="rules", actor="admin", now=at())
    return made


def asks(ledger: Ledger, lease_id: str, *, user: str, **wish: Any) -> type:
    return type(ledger.checkout(checkout(lease_id, user=user, **wish), now=at(), wait=True))


def leaves(ledger: Ledger, lease_id: str) -> None:
    ledger.checkin(lease_id, secret=checkout(lease_id).secret, now=at())


def test_small_wishes_do_not_starve_a_large_one_that_a_reservation_keeps_out(ledger: Ledger) -> None:
    assert Seated is asks(ledger, "first", user="x")
    assert Queued is asks(ledger, "large", user="w", seats=2)
    assert Queued is asks(ledger, "small", user="v"), "the one free seat is kept for the large wish"
    leaves(ledger, "first")
    assert {"large"} == set(ledger.leases)


def test_a_member_passes_those_who_could_not_have_its_reserved_seat(ledger: Ledger) -> None:
    asks(ledger, "first", user="x")
    asks(ledger, "large", user="w", seats=2)
    assert [Seated, Seated, Queued] == [asks(ledger, f"ann {n}", user="ann") for n in range(3)]
    leaves(ledger, "ann 0")
    assert "ann 2" in ledger.leases, "what comes free of a reservation goes to its member"
    assert "large" not in ledger.leases


def test_whom_a_limit_keeps_out_has_nothing_kept_and_stands_in_front_again_afterwards(ledger: Ledger) -> None:
    assert [Seated, Queued] == [asks(ledger, f"lim {n}", user="lim") for n in range(2)]
    assert Seated is asks(ledger, "other", user="y"), "the free seat is not kept for who may not have it"
    assert Queued is asks(ledger, "late", user="z")
    leaves(ledger, "lim 0")
    assert "lim 1" in ledger.leases
    assert "late" not in ledger.leases


NIGHT_FIRST = policy(
    "priority value = 10; for = { users = ['night'] }", "priority value = -1; for = { users = ['idle'] }"
)


def waiting(ledger: Ledger) -> list[str]:
    return [one.checkout.lease_id for one in ledger.waiting]


def test_under_a_policy_file_with_priorities_waiters_of_one_priority_are_served_as_they_came() -> None:
    ledger = ledger_of(entitlement(seats=1))
    ledger.govern(NIGHT_FIRST, text="rules", actor="admin", now=at())
    assert Seated is asks(ledger, "first", user="x")
    for name, user in (("i1", "idle"), ("a1", "ann"), ("n1", "night"), ("b1", "bob"), ("n2", "night"), ("i2", "idle")):
        assert Queued is asks(ledger, name, user=user)
    served, sitting = [], "first"
    while waiting(ledger):
        leaves(ledger, sitting)
        (sitting,) = ledger.leases
        served.append(sitting)
    assert ["n1", "n2", "a1", "b1", "i1", "i2"] == served


def test_a_place_that_is_kept_is_found_again_among_its_equals_under_priorities() -> None:
    ledger = ledger_of(entitlement(seats=1))
    ledger.govern(NIGHT_FIRST, text="rules", actor="admin", now=at())
    asks(ledger, "first", user="x")
    for name, user in (("a1", "ann"), ("b1", "bob"), ("n1", "night")):
        asks(ledger, name, user=user)
    ledger.waiting.close("a1", elapsed=at().elapsed)
    asks(ledger, "c1", user="cy")
    asks(ledger, "a1", user="ann")
    assert ["n1", "a1", "b1", "c1"] == waiting(ledger)


def test_a_queue_stands_as_the_committed_policy_says_after_the_commit_of_another_failed() -> None:
    vendor, terms = Vendor(), entitlement(seats=1)
    ledger = ledger_of(terms, vendor=vendor)
    asks(ledger, "first", user="x")
    for name, user in (("a1", "ann"), ("n1", "night")):
        asks(ledger, name, user=user)
    ledger.settle()
    ledger.govern(NIGHT_FIRST, text="rules", actor="admin", now=at())
    assert ["n1", "a1"] == waiting(ledger)
    ledger.abandon()
    loaded = ledger_of(terms, vendor=vendor)
    loaded.adopt(ledger)
    assert ["a1", "n1"] == waiting(loaded)
