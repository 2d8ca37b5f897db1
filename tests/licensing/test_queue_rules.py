"""The queue under the site's rules: who passes whom, and for whom a free seat is kept (decision 0005)."""

from __future__ import annotations

from typing import Any

import pytest

from lls.licensing.ledger import Ledger, Queued, Seated
from tests.ledgers import at, checkout, entitlement, ledger_of
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
