"""Borrowing: what may leave, for how long, and that nobody else gets the seat before its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from lls.faults import BadRequest, ClockBehind, LeaseEnd, LeaseEnded, StillBorrowed, UnknownLease
from lls.licensing.changes import FeatureAct
from lls.licensing.entitlement import BorrowTerms, Entitlement, Status
from lls.licensing.instant import ClockState, Now
from lls.licensing.lease import Mode
from lls.licensing.ledger import Ledger, Queued, Seated
from lls.licensing.policy_file import read_policy
from lls.licensing.seating import Denial
from tests.ledgers import T0, Vendor, at, checkout, entitlement, kinds, ledger_of, posted, secret_of, units

DAY = 86_400
LENT = BorrowTerms(max_seconds=10 * DAY, max_seats=2)


def lent(name: str = "cad", **changes: Any) -> Entitlement:
    return entitlement(name, **{"seats": 3, "borrow": LENT, **changes})


def until(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def seat(ledger: Ledger, name: str, *, seconds: float = 0.0, **wish: Any) -> Seated | Denial:
    verdict = ledger.checkout(checkout(name, **wish), now=at(seconds))
    assert isinstance(verdict, Seated | Denial)
    return verdict


def borrow(
    ledger: Ledger, name: str, seconds: float, *, now: Now | None = None, fingerprint: str | None = None
) -> Seated | Denial:
    return ledger.borrow(
        name,
        secret=secret_of(name),
        until=until(seconds),
        fingerprint=fingerprint or f"seat of {name}",
        now=now or at(),
    )


def borrowed(ledger: Ledger, name: str, seconds: float, **wish: Any) -> Seated:
    assert isinstance(seat(ledger, name, **wish), Seated)
    answer = borrow(ledger, name, seconds)
    assert isinstance(answer, Seated)
    return answer


def by_file(ledger: Ledger, name: str, seconds: float, *, key: str = "jkt", now: Now | None = None) -> Seated | Denial:
    return ledger.grant_borrow(
        checkout(name, salt=key), until=until(seconds), fingerprint=f"seat of {name}", key=key, now=now or at()
    )


# -------------------------------------------------------------------- caps


@pytest.mark.parametrize(
    ("changes", "seconds", "code", "rule"),
    [
        ({}, 10 * DAY, None, None),
        ({}, 10 * DAY + 60, None, None),
        ({}, 10 * DAY + 61, "borrow_too_long", "borrow"),
        ({"expires_at": until(DAY)}, DAY, None, None),
        ({"expires_at": until(DAY)}, DAY + 1, "borrow_too_long", "dates"),
        ({"expires_at": until(DAY), "grace": timedelta(days=1)}, 2 * DAY, None, None),
        ({"borrow": BorrowTerms()}, DAY, "borrow_not_allowed", "borrow"),
        ({"borrow": BorrowTerms(max_seconds=DAY)}, 60, "borrow_not_allowed", "borrow"),
        ({"borrow": BorrowTerms(max_seats=2)}, 60, "borrow_not_allowed", "borrow"),
    ],
)
def test_a_seat_leaves_for_no_longer_than_the_vendor_lends_it(
    changes: Mapping[str, Any], seconds: float, code: str | None, rule: str | None
) -> None:
    ledger = ledger_of(lent(**changes))
    seat(ledger, "a")
    answer = borrow(ledger, "a", seconds)
    if isinstance(answer, Denial):
        assert (code, rule) == (answer.code, answer.rule)
        assert answer.remedy
        assert Mode.FLOATING is ledger.leases["a"].mode
    else:
        assert code is None
        assert (Mode.BORROWED, until(seconds)) == (answer.lease.mode, answer.lease.until)


def test_no_more_seats_leave_than_the_vendor_lends() -> None:
    ledger = ledger_of(lent())
    for name in "abc":
        seat(ledger, name)
    assert isinstance(borrow(ledger, "a", DAY), Seated)
    assert isinstance(borrow(ledger, "b", DAY), Seated)
    refused = borrow(ledger, "c", DAY)
    assert isinstance(refused, Denial)
    assert ("borrow_not_allowed", "borrow_seats", 2, 2) == (refused.code, refused.rule, refused.in_use, refused.limit)
    ledger.checkin("a", secret=secret_of("a"), now=at(1))
    assert isinstance(borrow(ledger, "c", DAY, now=at(1)), Seated)


def test_a_loan_that_is_over_makes_room_although_nobody_has_swept() -> None:
    ledger = ledger_of(lent(seats=2, borrow=BorrowTerms(max_seconds=DAY, max_seats=1)))
    seat(ledger, "b")
    borrowed(ledger, "a", 600)
    assert isinstance(borrow(ledger, "b", 1_200, now=at(599)), Denial)
    assert isinstance(borrow(ledger, "b", 1_200, now=at(600)), Seated)
    assert isinstance(seat(ledger, "c", seconds=600), Seated)
    assert {"b", "c"} == ledger.leases.keys()


def test_the_sites_caps_come_on_top_of_the_vendors() -> None:
    text = """
format = 1
[[borrow]]
product = "cad"
max_seconds = 3600
max_seats = 1
for = { users = ["ann"] }
[[borrow]]
product = "cad"
max_seats = 0
"""
    ledger = ledger_of(lent())
    ledger.govern(read_policy(text), text=text, actor="ada", now=at())
    for name, user in (("a", "ann"), ("b", "ann"), ("c", "bob")):
        assert isinstance(seat(ledger, name, user=user), Seated)
    long, never = borrow(ledger, "a", 3_661), borrow(ledger, "c", 60)
    assert isinstance(borrow(ledger, "a", 3_600), Seated)
    many = borrow(ledger, "b", 60)
    refusals = [(one.code, one.rule) for one in (long, never, many) if isinstance(one, Denial)]
    assert [
        ("borrow_too_long", "borrow[1]"),
        ("borrow_not_allowed", "borrow[2]"),
        ("borrow_not_allowed", "borrow[1]"),
    ] == refusals


def test_it_is_bound_to_the_machine_that_holds_the_lease() -> None:
    ledger = ledger_of(lent())
    seat(ledger, "a")
    refused = borrow(ledger, "a", DAY, fingerprint="another machine")
    assert isinstance(refused, Denial)
    assert "wrong_machine" == refused.code
    assert None is ledger.leases["a"].until


def test_a_date_that_is_not_ahead_is_no_date() -> None:
    ledger = ledger_of(lent())
    seat(ledger, "a")
    for seconds in (0, -1):
        with pytest.raises(BadRequest):
            borrow(ledger, "a", seconds)
    assert 0 == len(ledger.loans)


# -------------------------------------------------------------------- again, later, earlier


def test_the_same_date_again_changes_nothing_a_later_one_extends_an_earlier_one_is_refused() -> None:
    ledger = ledger_of(lent())
    borrowed(ledger, "a", DAY)
    ledger.settle()
    again = borrow(ledger, "a", DAY, now=at(60, state=ClockState.BEHIND))
    assert isinstance(again, Seated)
    assert again.again
    assert ledger.batch.empty
    with pytest.raises(StillBorrowed):
        borrow(ledger, "a", DAY - 1, now=at(60))
    assert isinstance(borrow(ledger, "a", 2 * DAY, now=at(60)), Seated)
    (line,) = posted(ledger.batch, "Borrowed")
    assert (True, "lan", "2026-11-23T07:00:00Z") == (line["extends"], line["by"], line["until"])


def test_an_extension_is_judged_from_now() -> None:
    ledger = ledger_of(lent())
    borrowed(ledger, "a", 10 * DAY)
    too_long = borrow(ledger, "a", 12 * DAY, now=at(DAY))
    assert isinstance(too_long, Denial)
    assert isinstance(borrow(ledger, "a", 12 * DAY, now=at(2 * DAY)), Seated)


def test_nothing_leaves_while_the_clock_is_behind() -> None:
    ledger = ledger_of(lent())
    seat(ledger, "a")
    with pytest.raises(ClockBehind):
        borrow(ledger, "a", DAY, now=at(1, state=ClockState.BEHIND))
    with pytest.raises(ClockBehind):
        by_file(ledger, "b", DAY, now=at(1, state=ClockState.BEHIND))
    assert 0 == len(ledger.loans)


# -------------------------------------------------------------------- until its end, and no longer


def test_it_needs_no_beats_and_a_beat_changes_nothing() -> None:
    ledger = ledger_of(lent(lease_seconds=60))
    lease = borrowed(ledger, "a", DAY).lease
    before = lease.facts(), lease.deadline, lease.beat
    ledger.heartbeat("a", secret=secret_of("a"), beat=7, nonce="x", now=at(3_600))
    ledger.sweep(now=at(DAY - 1))
    assert before == (lease.facts(), lease.deadline, lease.beat)
    assert 1 == ledger.remaining(lease, at(DAY - 1))


def test_it_ends_at_its_date_to_the_second() -> None:
    ledger = ledger_of(lent(seats=1))
    borrowed(ledger, "a", DAY)
    assert isinstance(seat(ledger, "b", seconds=DAY - 0.25), Denial)
    ledger.settle()
    assert not ledger.sweep(now=at(DAY))
    assert [("borrow_ended", 1)] == [(line["reason"], line["freed"]) for line in posted(ledger.batch, "Expired")]
    with pytest.raises(LeaseEnded) as ended:
        borrow(ledger, "a", 2 * DAY, now=at(DAY))
    assert LeaseEnd.BORROW_ENDED is ended.value.reason


def test_its_own_client_is_told_the_end_although_nobody_has_swept() -> None:
    ledger = ledger_of(lent())
    borrowed(ledger, "a", 60)
    with pytest.raises(LeaseEnded) as ended:
        ledger.heartbeat("a", secret=secret_of("a"), beat=1, nonce="x", now=at(60))
    assert LeaseEnd.BORROW_ENDED is ended.value.reason


def test_an_administrator_cannot_take_it_back_before_its_end_its_holder_can_return_it() -> None:
    ledger = ledger_of(lent(seats=1))
    borrowed(ledger, "a", DAY)
    with pytest.raises(StillBorrowed):
        ledger.release("a", actor="ada", reason="needed", now=at(60))
    assert isinstance(seat(ledger, "b", seconds=60), Denial)
    ledger.checkin("a", secret=secret_of("a"), now=at(61))
    assert isinstance(seat(ledger, "c", seconds=61), Seated)


@pytest.mark.parametrize("status", [Status.DISABLED, Status.CUSTOMER_DISABLED])
def test_a_disabled_entitlement_ends_what_is_here_and_counts_what_is_away(status: Status) -> None:
    vendor, terms = Vendor(), lent(seats=2)
    ledger = ledger_of(terms, vendor=vendor)
    borrowed(ledger, "a", DAY)
    seat(ledger, "b")
    ledger.install(vendor.bundle(replace(terms, sequence=2, status=status)), actor="ada", now=at(1))
    assert ["a"] == list(ledger.leases)
    ledger.heartbeat("a", secret=secret_of("a"), beat=1, nonce="x", now=at(2))
    longer = borrow(ledger, "a", 2 * DAY, now=at(3))
    assert isinstance(longer, Denial)
    assert "entitlement_disabled" == longer.code
    ledger.install(vendor.bundle(replace(terms, sequence=3)), actor="ada", now=at(4))
    assert 1 == ledger.pools[terms.entitlement_id].in_use
    ledger.sweep(now=at(DAY))
    assert 0 == ledger.pools[terms.entitlement_id].in_use


def test_the_end_of_an_entitlement_waits_for_what_is_away() -> None:
    ledger = ledger_of(lent(expires_at=until(DAY)))
    borrowed(ledger, "a", DAY)
    seat(ledger, "b")
    ledger.sweep(now=at(DAY - 1))
    assert "a" in ledger.leases
    ledger.sweep(now=at(DAY))
    assert {} == ledger.leases


def test_units_that_it_holds_stay_held() -> None:
    ledger = ledger_of(lent(features=(units("tokens", 4),)))
    seat(ledger, "a", features=(("tokens", 3),))
    borrow(ledger, "a", DAY)
    other = seat(ledger, "b", features=(("tokens", 2),), seconds=DAY - 1)
    assert isinstance(other, Denial)
    assert ("no_feature_units", "tokens") == (other.code, other.feature)
    assert isinstance(seat(ledger, "c", features=(("tokens", 2),), seconds=DAY), Seated)


def test_units_may_be_returned_while_it_is_away() -> None:
    ledger = ledger_of(lent(features=(units("tokens", 4),)))
    seat(ledger, "a", features=(("tokens", 3),))
    borrow(ledger, "a", DAY)
    ledger.feature(
        "a", secret=secret_of("a"), key="tokens", act=FeatureAct.RETURN, amount=3, request_id="r", now=at(60)
    )
    lease = ledger.leases["a"]
    assert ({}, Mode.BORROWED, until(DAY)) == (dict(lease.features), lease.mode, lease.until)
    assert lease in list(ledger.loans)


def test_a_lease_that_changed_while_it_was_away_ends_once() -> None:
    ledger = ledger_of(lent(features=(units("tokens", 4),)))
    borrowed(ledger, "a", 600)
    for number, act in enumerate((FeatureAct.CHECKOUT, FeatureAct.RETURN)):
        ledger.feature("a", secret=secret_of("a"), key="tokens", act=act, amount=2, request_id=f"r{number}", now=at(60))
    ledger.sweep(now=at(600))
    assert ["borrow_ended"] == [line["reason"] for line in posted(ledger.batch, "Expired")]


# -------------------------------------------------------------------- by file


def test_a_file_asks_once_however_often_it_is_brought() -> None:
    ledger = ledger_of(lent(seats=1))
    first, second = by_file(ledger, "a", DAY), by_file(ledger, "a", DAY, now=at(60))
    assert isinstance(first, Seated)
    assert isinstance(second, Seated)
    assert (False, True) == (first.again, second.again)
    assert ["Granted", "Borrowed"] == kinds(ledger.batch)
    assert "file" == posted(ledger.batch, "Borrowed")[0]["by"]
    assert "jkt" == second.lease.key


def test_a_loan_that_is_over_makes_room_for_a_file_although_nobody_has_swept() -> None:
    ledger = ledger_of(lent(borrow=BorrowTerms(max_seconds=DAY, max_seats=1)))
    borrowed(ledger, "a", 600)
    assert isinstance(by_file(ledger, "b", 1_200, now=at(599)), Denial)
    assert isinstance(by_file(ledger, "b", 1_200, now=at(600)), Seated)
    assert {"b"} == ledger.leases.keys()


def test_a_refused_loan_takes_no_seat() -> None:
    ledger = ledger_of(lent())
    refused = by_file(ledger, "a", 11 * DAY)
    assert isinstance(refused, Denial)
    assert {} == ledger.leases
    assert ["Denied"] == kinds(ledger.batch)


def test_only_the_machines_own_key_gives_it_back_and_twice_is_once() -> None:
    ledger = ledger_of(lent(seats=1))
    by_file(ledger, "a", DAY)
    with pytest.raises(UnknownLease):
        ledger.return_borrow("a", key="another", secret=secret_of("a", "another"), now=at(1))
    assert "a" in ledger.leases
    assert ledger.return_borrow("a", key="jkt", secret=secret_of("a", "jkt"), now=at(2))
    assert not ledger.return_borrow("a", key="jkt", secret=secret_of("a", "jkt"), now=at(3))
    with pytest.raises(UnknownLease):
        ledger.return_borrow("a", key="another", secret=secret_of("a", "another"), now=at(4))
    assert 1 == kinds(ledger.batch).count("Returned")


def test_a_member_who_passes_the_queue_borrows_where_it_is_lent() -> None:
    """The entitlement that does not lend is tried once, although nothing of it is promised to who waits."""
    keeps, lends = entitlement("a", seats=2), lent("b", seats=1, expires_at=T0 + timedelta(days=30))
    ledger = ledger_of(keeps, lends)
    text = 'format = 1\n[[reserve]]\nproduct = "cad"\nseats = 2\nfor = { users = ["ann"] }\n'
    ledger.govern(read_policy(text), text=text, actor="ada", now=at())
    assert isinstance(seat(ledger, "cy", user="cy"), Seated)
    assert isinstance(ledger.checkout(checkout("bob", user="bob"), now=at(), wait=True), Queued)
    wish = checkout("ann", salt="jkt", user="ann")
    answer = ledger.grant_borrow(wish, until=until(DAY), fingerprint="seat of ann", key="jkt", now=at())
    assert isinstance(answer, Seated), answer
    assert lends.entitlement_id == answer.lease.entitlement_id


def test_where_no_entitlement_lends_the_first_that_would_seat_it_says_why() -> None:
    ledger = ledger_of(entitlement("a", seats=1), entitlement("b", seats=1, activation_codes=frozenset({"X"})))
    refused = by_file(ledger, "a", DAY)
    assert isinstance(refused, Denial)
    assert ("borrow_not_allowed", {}) == (refused.code, ledger.leases)


@pytest.mark.parametrize("key", ["jkt", "another"])
def test_a_return_that_comes_days_after_is_told_what_to_make_of_it(key: str) -> None:
    ledger = ledger_of(lent(seats=1))
    by_file(ledger, "a", 600)
    ledger.sweep(now=at(600))
    assert not ledger.return_borrow("a", key="jkt", secret=secret_of("a", "jkt"), now=at(700))
    ledger.settle()
    ledger.sweep(now=at(600 + 26 * 3_600))
    with pytest.raises(UnknownLease) as told:
        ledger.return_borrow("a", key=key, secret=secret_of("a", key), now=at(601 + 26 * 3_600))
    assert "its seat is free" in told.value.detail
    assert "lls borrow list" in told.value.detail
