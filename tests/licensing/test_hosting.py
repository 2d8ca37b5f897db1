"""The life of an entitlement at a site: updates, first leases, machines, names, and its return."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lls.faults import Forbidden, LeaseEnd, LeaseEnded, NotFound, StillBorrowed, TooLarge
from lls.licensing.changes import FeatureAct, ReturnedEntitlement
from lls.licensing.entitlement import BorrowTerms, Concurrency, Entitlement, NamedUsers, Reset, Start
from lls.licensing.hosting import Draining
from lls.licensing.instant import Now
from lls.licensing.lease import LeaseState, Mode
from lls.licensing.ledger import Ledger, Queued, Seated
from lls.licensing.meters import FeatureLevel
from lls.licensing.seating import Denial
from lls.licensing.terms import Change
from tests.ledgers import (
    GRACE,
    T0,
    Vendor,
    at,
    checkout,
    counted,
    entitlement,
    grant,
    kinds,
    ledger_of,
    on_first_lease,
    posted,
    reset_of,
    secret_of,
)

DAY = 86_400
ENT = entitlement().entitlement_id


def seat(ledger: Ledger, name: str, *, seconds: float = 0.0, **wish: Any) -> Seated | Denial:
    verdict = ledger.checkout(checkout(name, **wish), now=at(seconds))
    assert isinstance(verdict, Seated | Denial)
    return verdict


def use(ledger: Ledger, name: str, amount: int, request_id: str, *, seconds: float = 0.0) -> FeatureLevel | Denial:
    return ledger.feature(
        name,
        secret=secret_of(name),
        key="frames",
        act=FeatureAct.USE,
        amount=amount,
        request_id=request_id,
        now=at(seconds),
    )


def update(ledger: Ledger, vendor: Vendor, terms: Entitlement, *, seconds: float = 0.0, **changes: Any) -> Entitlement:
    """The next sequence of the same hosting."""
    made = replace(terms, sequence=terms.sequence + 1, **changes)
    ledger.install(vendor.bundle(made, now=at(seconds)), actor="ada", now=at(seconds))
    return made


# -------------------------------------------------------------------- updates


def test_fewer_seats_end_no_lease_and_grant_none_until_the_number_fits() -> None:
    vendor, terms = Vendor(), entitlement(seats=3)
    ledger = ledger_of(terms, vendor=vendor)
    for name in "abc":
        seat(ledger, name)
    ledger.settle()
    update(ledger, vendor, terms, seats=1)
    assert {"a", "b", "c"} == ledger.leases.keys()
    assert [(3, 1, 2)] == [(line["in_use"], line["seats"], line["over"]) for line in posted(ledger.batch, "Overdraft")]
    ledger.checkin("a", secret=secret_of("a"), now=at(1))
    ledger.checkin("b", secret=secret_of("b"), now=at(1))
    assert isinstance(seat(ledger, "d", seconds=2), Denial)
    ledger.checkin("c", secret=secret_of("c"), now=at(3))
    assert isinstance(seat(ledger, "e", seconds=4), Seated)
    assert [2, 0] == [line["over"] for line in posted(ledger.batch, "Overdraft")]


def test_a_renewal_lets_running_leases_go_on() -> None:
    vendor, terms = Vendor(), entitlement(expires_at=T0 + timedelta(seconds=100), grace=timedelta(seconds=50))
    ledger = ledger_of(terms, vendor=vendor)
    seat(ledger, "a")
    update(ledger, vendor, terms, seconds=120, expires_at=T0 + timedelta(days=365))
    ledger.sweep(now=at(200))
    lease = ledger.leases["a"]
    assert ledger.remaining(lease, at(200)) > 0


def test_an_update_never_changes_what_was_used_only_the_vendors_command_does_and_once() -> None:
    vendor = Vendor()
    terms = entitlement(features=(counted("frames", 10, undo_seconds=1_000),))
    ledger = ledger_of(terms, vendor=vendor)
    seat(ledger, "a")
    use(ledger, "a", 8, "r1")
    terms = update(ledger, vendor, terms, features=(counted("frames", 12, undo_seconds=1_000),))
    level = ledger.meters.level(None, ENT, "frames", now=at(), committed=False)
    assert (8, 4) == (level.consumed, level.available)
    ledger.settle()
    command = {"cmd_one": reset_of(ENT, "frames")}
    ledger.install(vendor.bundle(commands=command), actor="ada", now=at(1))
    assert [[{"entitlement_id": ENT, "feature": "frames", "consumed": 8, "overage": 0}]] == [
        line["resets"] for line in posted(ledger.batch, "Installed")
    ]
    use(ledger, "a", 5, "r2", seconds=2)
    ledger.install(vendor.bundle(commands=command), actor="ada", now=at(3))
    again = ledger.meters.level(None, ENT, "frames", now=at(3), committed=False)
    assert (5, 7) == (again.consumed, again.available)


def test_a_grant_that_goes_with_an_update_is_lost_in_the_journal() -> None:
    vendor = Vendor()
    terms = entitlement(features=(counted("frames", 0, grant("a", 10)),))
    ledger = ledger_of(terms, vendor=vendor)
    seat(ledger, "a")
    use(ledger, "a", 4, "r1")
    update(ledger, vendor, terms, features=(counted("frames", 0),))
    assert [(10, 4, 6)] == [
        (line["amount"], line["consumed"], line["lost"]) for line in posted(ledger.batch, "GrantEnded")
    ]
    assert isinstance(use(ledger, "a", 1, "r2"), Denial)


# -------------------------------------------------------------------- the first lease


def test_the_first_lease_sets_the_dates_once() -> None:
    ledger = ledger_of(on_first_lease(days=30))
    ledger.sweep(now=at(99 * DAY))
    seat(ledger, "a", seconds=100 * DAY + 0.25)
    seat(ledger, "b", seconds=101 * DAY)
    assert [("2027-03-01T07:00:00Z", "2027-03-31T07:00:00Z")] == [
        (line["starts_at"], line["expires_at"]) for line in posted(ledger.batch, "Started")
    ]
    assert T0 + timedelta(days=130) == ledger.pools[ENT].entitlement.ends_at


def test_a_denied_checkout_starts_nothing() -> None:
    ledger = ledger_of(on_first_lease(seats=1))
    assert isinstance(seat(ledger, "a", seats=2), Denial)
    assert None is ledger.pools[ENT].entitlement.starts_at


def test_dates_of_the_first_lease_stay_under_updates_that_bring_none_and_yield_to_the_vendors() -> None:
    vendor, terms = Vendor(), on_first_lease(days=30)
    ledger = ledger_of(terms, vendor=vendor)
    seat(ledger, "a", seconds=10)
    terms = update(ledger, vendor, terms, seconds=DAY, seats=70)
    kept = ledger.pools[ENT].entitlement
    assert (T0 + timedelta(seconds=10), 70) == (kept.starts_at, kept.seats)
    dates = {"starts_at": T0, "expires_at": T0 + timedelta(days=400)}
    update(ledger, vendor, terms, seconds=2 * DAY, **dates)
    assert (T0, T0 + timedelta(days=400)) == (
        ledger.pools[ENT].entitlement.starts_at,
        ledger.pools[ENT].entitlement.expires_at,
    )


def test_whoever_sits_there_already_is_the_first() -> None:
    """Else leases of before would have no end, and every use a month's allowance of its own."""
    vendor, terms = Vendor(), entitlement()
    ledger = ledger_of(terms, vendor=vendor)
    seat(ledger, "a")
    undated = on_first_lease(days=30)
    update(ledger, vendor, replace(undated, session_id=terms.session_id), seconds=20)
    in_force = ledger.pools[ENT].entitlement
    assert (T0 + timedelta(seconds=20), T0 + timedelta(days=30, seconds=20)) == (in_force.starts_at, in_force.ends_at)
    assert ["Installed", "Started"] == kinds(ledger.batch)[-2:]


def test_terms_that_the_seated_begin_carry_a_months_count_on_once_under_its_new_name() -> None:
    vendor, feature = Vendor(), counted(value=10, reset=Reset.MONTHLY)
    ledger = ledger_of(entitlement(features=(feature,)), vendor=vendor)
    ledger.checkout(checkout("a"), now=at())
    ledger.feature("a", secret=secret_of("a"), key="frames", act=FeatureAct.USE, amount=4, request_id="r", now=at(1))
    ledger.settle()
    ledger.install(vendor.bundle(on_first_lease(session_id="ses_2", features=(feature,))), actor="ada", now=at(5.75))
    told = [(one["lot"], one["into"], one["consumed"]) for one in posted(ledger.batch, "GrantEnded")]
    assert [("allowance 2026-11-20T07:00:00Z", "allowance 2026-11-21T07:00:05Z", 4)] == told
    assert ["2026-11-21T07:00:05Z"] == [one["starts_at"] for one in posted(ledger.batch, "Started")]


def test_another_hosting_begins_with_its_own_first_lease() -> None:
    vendor, terms = Vendor(), on_first_lease(days=30)
    ledger = ledger_of(terms, vendor=vendor)
    seat(ledger, "a", seconds=10)
    ledger.checkin("a", secret=secret_of("a"), now=at(15))
    other = replace(terms, session_id="ses_other", sequence=1)
    ledger.install(vendor.bundle(other), actor="ada", now=at(20))
    assert None is ledger.pools[ENT].entitlement.starts_at
    seat(ledger, "b", seconds=30)
    assert T0 + timedelta(seconds=30) == ledger.placed[ENT].started_at


def test_a_first_lease_whose_commit_failed_has_begun_nothing() -> None:
    ledger = ledger_of(on_first_lease())
    seat(ledger, "a", seconds=10)
    ledger.abandon()
    assert (None, None) == (ledger.pools[ENT].entitlement.starts_at, ledger.placed[ENT].started_at)


# -------------------------------------------------------------------- machines


def locked(**changes: Any) -> Entitlement:
    wanted = {"seats": 1, "lease_seconds": 60, "concurrency": Concurrency.NODE_LOCK, **changes}
    return entitlement(**wanted)


def test_a_machines_seat_waits_for_it_when_its_lease_is_over() -> None:
    ledger = ledger_of(locked())
    assert isinstance(seat(ledger, "a", seat_id="mill", user="ann"), Seated)
    ledger.sweep(now=at(60 + GRACE))
    assert (LeaseState.LINGERING, Mode.NODE_LOCKED) == (ledger.leases["a"].state, ledger.leases["a"].mode)
    assert [(0, True)] == [(line["freed"], line["kept"]) for line in posted(ledger.batch, "Expired")]
    ledger.sweep(now=at(300 * DAY))
    assert isinstance(seat(ledger, "b", seat_id="lathe", seconds=300 * DAY), Denial)
    assert isinstance(seat(ledger, "c", seat_id="mill", user="bob", seconds=300 * DAY), Seated)
    assert ["c"] == list(ledger.leases)


@pytest.mark.parametrize("how", ["checkin", "release"])
def test_a_machines_seat_comes_free_by_its_return_or_the_administrator(how: str) -> None:
    ledger = ledger_of(locked())
    seat(ledger, "a", seat_id="mill")
    ledger.sweep(now=at(60 + GRACE))
    if how == "checkin":
        ledger.checkin("a", secret=secret_of("a"), now=at(200))
    else:
        ledger.release("a", actor="ada", reason="sold", now=at(200))
    assert isinstance(seat(ledger, "b", seat_id="lathe", seconds=201), Seated)


def test_a_machines_seat_comes_free_after_the_vendors_time() -> None:
    ledger = ledger_of(locked(node_lock_release=timedelta(seconds=500)))
    seat(ledger, "a", seat_id="mill")
    ledger.sweep(now=at(100))
    assert isinstance(seat(ledger, "b", seat_id="lathe", seconds=599), Denial)
    assert isinstance(seat(ledger, "c", seat_id="lathe", seconds=600), Seated)


def test_all_leases_of_a_machine_sit_on_one_seat_and_the_last_keeps_it() -> None:
    ledger = ledger_of(locked())
    assert isinstance(seat(ledger, "a", seat_id="mill", user="ann"), Seated)
    assert isinstance(seat(ledger, "b", seat_id="mill", user="bob"), Seated)
    assert 1 == ledger.pools[ENT].in_use
    ledger.sweep(now=at(60 + GRACE))
    assert 1 == len(ledger.leases)
    assert isinstance(seat(ledger, "c", seat_id="lathe", seconds=200), Denial)


def test_the_end_of_a_loan_takes_no_seat_from_a_machine_whose_lease_was_over_meanwhile() -> None:
    ledger = ledger_of(locked(borrow=BorrowTerms(max_seconds=DAY, max_seats=1)))
    seat(ledger, "a", seat_id="mill")
    ledger.borrow("a", secret=secret_of("a"), until=T0 + timedelta(seconds=600), fingerprint="mill", now=at())
    seat(ledger, "b", seat_id="mill")
    ledger.sweep(now=at(100))
    ledger.sweep(now=at(600))
    assert ["b"] == list(ledger.leases)
    assert isinstance(seat(ledger, "c", seat_id="lathe", seconds=601), Denial)


def test_terms_that_bind_no_machine_any_more_free_what_waited_for_one() -> None:
    vendor, terms = Vendor(), locked(seats=2)
    ledger = ledger_of(terms, vendor=vendor)
    seat(ledger, "a", seat_id="mill")
    ledger.sweep(now=at(100))
    seat(ledger, "b", seat_id="lathe", seconds=100)
    update(ledger, vendor, terms, seconds=101, concurrency=Concurrency.CONCURRENT)
    ledger.sweep(now=at(101))
    assert ["b"] == list(ledger.leases)
    ledger.sweep(now=at(300))
    assert {} == ledger.leases


# -------------------------------------------------------------------- names


def named(names: tuple[str, ...] = ("Ann",), **changes: Any) -> Entitlement:
    users = NamedUsers(names=names, by_site=changes.pop("by_site", True), changes_per_month=2)
    return entitlement(**{"seats": 3, "concurrency": Concurrency.NAMED_USER, "named_users": users, **changes})


@pytest.mark.parametrize(
    ("user", "code"), [("ann", None), ("ANN", None), ("bob", "not_a_named_user"), (None, "not_a_named_user")]
)
def test_only_a_named_user_sits_down(user: str | None, code: str | None) -> None:
    verdict = seat(ledger_of(named()), "a", user=user)
    assert code == (verdict.code if isinstance(verdict, Denial) else None)


def test_the_site_fills_the_places_that_are_left() -> None:
    ledger = ledger_of(named())
    for user in ("bob", "Cy", "BOB", "ann"):
        ledger.assign_user(ENT, user, actor="ada", now=at())
    with pytest.raises(Forbidden):
        ledger.assign_user(ENT, "dee", actor="ada", now=at())
    assert ("bob", "Cy") == ledger.placed[ENT].assigned
    assert isinstance(seat(ledger, "a", user="cy"), Seated)
    assert 2 == len(posted(ledger.batch, "AdminActed"))


def test_taking_a_name_back_ends_its_leases_and_is_counted_by_the_month() -> None:
    ledger = ledger_of(named((), seats=9))
    users = ("u1", "u2", "u3")
    for user in users:
        ledger.assign_user(ENT, user, actor="ada", now=at())
        seat(ledger, user, user=user)
    ledger.unassign_user(ENT, "U1", actor="ada", now=at())
    with pytest.raises(LeaseEnded) as ended:
        ledger.heartbeat("u1", secret=secret_of("u1"), beat=1, nonce="x", now=at(1))
    assert LeaseEnd.RELEASED is ended.value.reason
    ledger.unassign_user(ENT, "u2", actor="ada", now=at())
    with pytest.raises(Forbidden, match="2026-12-01"):
        ledger.unassign_user(ENT, "u3", actor="ada", now=at(9 * DAY))
    assert ["u3"] == list(ledger.leases)
    ledger.unassign_user(ENT, "u3", actor="ada", now=at(10 * DAY))
    assert {} == ledger.leases


def test_what_is_away_stays_away_when_its_name_is_taken_back() -> None:
    ledger = ledger_of(named((), borrow=BorrowTerms(max_seconds=DAY, max_seats=1)))
    ledger.assign_user(ENT, "bob", actor="ada", now=at())
    seat(ledger, "a", user="bob", seat_id="s")
    ledger.borrow("a", secret=secret_of("a"), until=T0 + timedelta(seconds=600), fingerprint="s", now=at())
    ledger.unassign_user(ENT, "bob", actor="ada", now=at(1))
    assert 1 == ledger.pools[ENT].in_use


@pytest.mark.parametrize(
    ("terms", "fault"),
    [(named(by_site=False), Forbidden), (entitlement(), Forbidden), (entitlement("other"), NotFound)],
)
def test_names_are_the_sites_only_where_the_vendor_says_so(terms: Entitlement, fault: type[Exception]) -> None:
    ledger = ledger_of(terms)
    with pytest.raises(fault):
        ledger.assign_user(ENT, "bob", actor="ada", now=at())
    with pytest.raises(fault):
        ledger.unassign_user(ENT, "bob", actor="ada", now=at())
    assert ledger.batch.empty


# -------------------------------------------------------------------- going back


def give_back(ledger: Ledger, *, force: bool = False, now: Now | None = None) -> Draining | ReturnedEntitlement:
    return ledger.return_entitlement(ENT, force=force, actor="ada", now=now or at())


def test_a_return_waits_for_those_who_work_and_lets_nobody_in() -> None:
    ledger = ledger_of(entitlement(linger_seconds=600))
    for name in "ab":
        seat(ledger, name)
    assert Draining(leases=2) == give_back(ledger)
    ledger.heartbeat("a", secret=secret_of("a"), beat=1, nonce="x", now=at(1))
    refused = seat(ledger, "c", seconds=1)
    assert isinstance(refused, Denial)
    assert ("entitlement_disabled", "returning") == (refused.code, refused.rule)
    for name in "ab":
        ledger.checkin(name, secret=secret_of(name), now=at(2))
    answer = give_back(ledger, now=at(3))
    assert isinstance(answer, ReturnedEntitlement)
    assert {} == ledger.leases
    assert 1 == kinds(ledger.batch).count("ReturnedEntitlement")


def test_a_return_is_told_again_word_for_word() -> None:
    ledger = ledger_of(entitlement(features=(counted("frames", 10),)))
    seat(ledger, "a")
    use(ledger, "a", 4, "r1")
    first = give_back(ledger, force=True, now=at(5))
    assert isinstance(first, ReturnedEntitlement)
    ledger.settle()
    assert first == give_back(ledger, now=at(99))
    assert ledger.batch.empty
    (meter,) = json.loads(first.meters)
    assert ("frames", 4, 0) == (meter["feature"], meter["consumed"], meter["overage"])


def test_force_ends_what_is_here_and_says_until_when_the_rest_is_away() -> None:
    ledger = ledger_of(entitlement(borrow=BorrowTerms(max_seconds=DAY, max_seats=1)))
    until = T0 + timedelta(seconds=600)
    for name in "ab":
        seat(ledger, name, seat_id=name)
    ledger.borrow("a", secret=secret_of("a"), until=until, fingerprint="a", now=at())
    answer = give_back(ledger, force=True)
    assert isinstance(answer, ReturnedEntitlement)
    (line,) = posted(ledger.batch, "ReturnedEntitlement")
    assert (until, True, 1) == (answer.borrowed_until, line["forced"], line["leases_ended"])
    assert (["a"], answer.up_to_seq, answer.head) == (list(ledger.leases), ledger.head.seq, ledger.head.hash)


def test_a_return_can_be_taken_back_until_it_is_done() -> None:
    ledger = ledger_of(entitlement())
    seat(ledger, "a")
    with pytest.raises(NotFound):
        ledger.keep_entitlement(ENT, actor="ada", now=at())
    give_back(ledger)
    ledger.keep_entitlement(ENT, actor="ada", now=at(1))
    assert isinstance(seat(ledger, "b", seconds=2), Seated)
    give_back(ledger, force=True, now=at(3))
    with pytest.raises(NotFound):
        ledger.keep_entitlement(ENT, actor="ada", now=at(4))


def test_a_session_that_went_back_is_never_hosted_again_another_one_is() -> None:
    vendor, terms = Vendor(), entitlement()
    ledger = ledger_of(terms, vendor=vendor)
    give_back(ledger)
    later = replace(terms, sequence=9)
    (step,) = ledger.install(vendor.bundle(later), actor="ada", now=at(1)).steps
    assert Change.SKIPPED is step.change
    assert {} == ledger.pools
    (step,) = ledger.install(vendor.bundle(replace(terms, session_id="ses_two")), actor="ada", now=at(2)).steps
    assert Change.NEW is step.change
    assert isinstance(seat(ledger, "a", seconds=3), Seated)


def test_a_seat_that_is_away_is_counted_when_its_entitlement_is_hosted_again() -> None:
    vendor, terms = Vendor(), entitlement(seats=1, borrow=BorrowTerms(max_seconds=DAY, max_seats=1))
    ledger = ledger_of(terms, vendor=vendor)
    seat(ledger, "a", seat_id="s")
    ledger.borrow("a", secret=secret_of("a"), until=T0 + timedelta(seconds=600), fingerprint="s", now=at())
    give_back(ledger, force=True)
    ledger.install(vendor.bundle(replace(terms, session_id="ses_two")), actor="ada", now=at(1))
    assert 1 == ledger.pools[ENT].in_use
    assert isinstance(seat(ledger, "b", seconds=599), Denial)
    assert isinstance(seat(ledger, "c", seconds=600), Seated)


def test_who_waits_for_a_product_that_went_back_is_told() -> None:
    ledger = ledger_of(entitlement(seats=1))
    seat(ledger, "a")
    assert isinstance(ledger.checkout(checkout("w"), now=at(), wait=True), Queued)
    give_back(ledger, force=True)
    assert "unknown_product" == getattr(ledger.resolved["w"], "code", None)


def test_a_return_whose_commit_failed_has_not_happened() -> None:
    vendor, terms = Vendor(), entitlement()
    ledger = ledger_of(terms, vendor=vendor)
    seat(ledger, "a")
    ledger.settle()
    give_back(ledger, force=True)
    ledger.install(vendor.bundle(replace(terms, session_id="ses_two")), actor="ada", now=at(1))
    assert ledger.changing
    ledger.abandon()
    assert terms == ledger.pools[ENT].entitlement
    assert [ledger.pools[ENT]] == ledger.pools.of("cad")
    assert ({}, set(), 1) == (ledger.returns, ledger.closed_sessions, ledger.in_use(ENT))
    assert ["a"] == [lease.lease_id for lease in ledger.committed_leases()]


def test_a_hosted_start_is_no_part_of_a_fixed_term() -> None:
    ledger = ledger_of(entitlement(start=Start.FIXED))
    seat(ledger, "a")
    assert [] == posted(ledger.batch, "Started")


# -------------------------------------------------------------------- what went back while a seat of it is away


def test_a_seat_that_is_away_is_never_told_to_have_ended_because_its_terms_are_gone() -> None:
    """Decision 0016: it is held until its date, so neither its own program nor a repetition hears of an end."""
    ledger = ledger_of(entitlement(borrow=BorrowTerms(max_seconds=DAY, max_seats=1)))
    seat(ledger, "a", seat_id="a")
    until, secret = T0 + timedelta(seconds=600), secret_of("a")
    ledger.borrow("a", secret=secret, until=until, fingerprint="a", now=at())
    give_back(ledger, force=True)
    ledger.settle()
    asks: list[Callable[[], object]] = [
        lambda: ledger.lease("a", secret=secret, now=at(599)),
        lambda: ledger.heartbeat("a", secret=secret, beat=3, nonce="n", now=at(599)),
        lambda: ledger.checkout(checkout("a", seat_id="a"), now=at(599)),
        lambda: ledger.borrow("a", secret=secret, until=until + timedelta(days=1), fingerprint="a", now=at(599)),
        lambda: use(ledger, "a", 1, "r", seconds=599),
    ]
    for ask in asks:
        with pytest.raises(StillBorrowed, match="not hosted here any more") as told:
            ask()
        assert "2026-11-21T07:10:00Z" == told.value.fields["until"]
    assert ledger.batch.empty
    with pytest.raises(LeaseEnded) as ended:
        ledger.lease("a", secret=secret, now=at(600))
    assert LeaseEnd.BORROW_ENDED is ended.value.reason
    ledger.checkin("a", secret=secret, now=at(601))
    assert {} == ledger.leases


# -------------------------------------------------------------------- names that the vendor takes into its own hands


def test_names_of_the_site_have_no_place_while_the_vendor_names_alone() -> None:
    vendor, terms = Vendor(), named()
    ledger = ledger_of(terms, vendor=vendor)
    ledger.assign_user(ENT, "bob", actor="ada", now=at())
    seat(ledger, "old", user="bob")
    vendors_own = replace(terms, sequence=2, named_users=NamedUsers(names=("Ann",)))
    ledger.install(vendor.bundle(vendors_own), actor="ada", now=at(1))
    ledger.heartbeat("old", secret=secret_of("old"), beat=1, nonce="x", now=at(2))
    refused = seat(ledger, "new", seconds=2, user="bob")
    assert isinstance(refused, Denial)
    assert ("not_a_named_user", "Ask the vendor") == (refused.code, refused.remedy[:14])
    assert isinstance(seat(ledger, "ann", seconds=2, user="ann"), Seated)
    with pytest.raises(Forbidden):
        ledger.assign_user(ENT, "cy", actor="ada", now=at(3))


def test_names_of_the_site_have_their_places_again_when_the_vendor_leaves_them_to_it_again() -> None:
    vendor, terms = Vendor(), named()
    ledger = ledger_of(terms, vendor=vendor)
    for user in ("bob", "cy"):
        ledger.assign_user(ENT, user, actor="ada", now=at())
    ledger.install(
        vendor.bundle(replace(terms, sequence=2, named_users=NamedUsers(names=("Ann",)))), actor="ada", now=at(1)
    )
    ledger.unassign_user(ENT, "cy", actor="ada", now=at(2))
    ledger.install(vendor.bundle(replace(terms, sequence=3)), actor="ada", now=at(3))
    assert isinstance(seat(ledger, "b", seconds=4, user="BOB"), Seated)
    assert isinstance(seat(ledger, "c", seconds=4, user="cy"), Denial)


# -------------------------------------------------------------------- a return that no line could tell


def test_a_return_that_no_line_could_tell_is_refused_before_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledger_of(entitlement(features=(counted("frames", 10, *(grant(f"g{n}", 1) for n in range(9))),)))
    seat(ledger, "a")
    ledger.settle()
    whole = len(json.dumps(ledger.meters.final(ENT, now=at())))
    monkeypatch.setattr("lls.licensing.hosting.LONGEST_METERS", whole - 1)
    for force in (False, True):
        with pytest.raises(TooLarge, match="without the grants that are over"):
            give_back(ledger, force=force)
    assert (True, False, ["a"]) == (ledger.batch.empty, ledger.placed[ENT].returning, list(ledger.leases))
    monkeypatch.setattr("lls.licensing.hosting.LONGEST_METERS", whole)
    assert isinstance(give_back(ledger, force=True), ReturnedEntitlement)
