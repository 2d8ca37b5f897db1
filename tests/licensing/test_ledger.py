"""Promises of the ledger that have a name in the contract."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from lls.faults import (
    ClockBehind,
    LeaseCloned,
    LeaseEnd,
    LeaseEnded,
    LeaseIdTaken,
    RequestIdTaken,
    UnknownLease,
)
from lls.licensing.changes import Fact, FeatureAct
from lls.licensing.entitlement import BorrowTerms, Entitlement, Sharing, Status
from lls.licensing.instant import ClockState, Now
from lls.licensing.ledger import Ledger, Queued, Seated
from lls.licensing.meters import FeatureLevel
from lls.licensing.policy_file import read_policy
from lls.licensing.seating import Denial
from lls.licensing.usage import Fold
from tests.ledgers import (
    GRACE,
    T0,
    Vendor,
    at,
    checkout,
    counted,
    entitlement,
    kinds,
    ledger_of,
    posted,
    secret_of,
    units,
)


def seated(ledger: Ledger, name: str, *, seconds: float = 0.0, **wish: object) -> Seated:
    verdict = ledger.checkout(checkout(name, **wish), now=at(seconds))  # type: ignore[arg-type]
    assert isinstance(verdict, Seated)
    return verdict


def beat(ledger: Ledger, name: str, number: int, nonce: str, *, seconds: float = 1.0) -> None:
    ledger.heartbeat(name, secret=secret_of(name), beat=number, nonce=nonce, now=at(seconds))


def test_two_processes_on_one_lease_are_told_and_change_nothing() -> None:
    ledger = ledger_of(entitlement())
    lease = seated(ledger, "a").lease
    beat(ledger, "a", 3, "x")
    beat(ledger, "a", 3, "x")
    deadline = lease.deadline
    for number, nonce in ((3, "other"), (2, "x"), (0, "nonce of a")):
        with pytest.raises(LeaseCloned):
            beat(ledger, "a", number, nonce, seconds=50)
    assert (deadline, 3, "x") == (lease.deadline, lease.beat, lease.nonce)
    assert (3, 3) == (lease.clone_alarms, ledger.clone_alarms)
    beat(ledger, "a", 99, "y")


def test_a_late_heartbeat_revives_a_lease_that_nobody_has_swept_and_no_other() -> None:
    ledger = ledger_of(entitlement(lease_seconds=60))
    seated(ledger, "a")
    beat(ledger, "a", 1, "x", seconds=60 + GRACE + 5)
    assert not ledger.sweep(now=at(60 + GRACE + 6))
    assert "a" in ledger.leases
    ledger.sweep(now=at(1_000))
    with pytest.raises(LeaseEnded) as ended:
        beat(ledger, "a", 2, "y", seconds=1_000)
    assert LeaseEnd.EXPIRED is ended.value.reason


def test_a_checkin_that_overtakes_its_checkout_wins() -> None:
    ledger = ledger_of(entitlement())
    ledger.checkin("a", secret=secret_of("a"), now=at())
    with pytest.raises(LeaseEnded):
        ledger.checkout(checkout("a"), now=at(599))
    assert isinstance(ledger.checkout(checkout("a", salt="another"), now=at(599)), Seated)
    ledger.checkin("b", secret=secret_of("b"), now=at())
    ledger.sweep(now=at(601))
    seated(ledger, "b", seconds=601)


def test_an_ended_id_is_never_granted_again_within_a_day() -> None:
    ledger = ledger_of(entitlement())
    seated(ledger, "a")
    ledger.checkin("a", secret=secret_of("a"), now=at(1))
    ledger.checkin("a", secret=secret_of("a"), now=at(1))
    ledger.settle()
    ledger.sweep(now=at(24 * 3_600 + 1))
    with pytest.raises(LeaseEnded):
        ledger.checkout(checkout("a"), now=at(24 * 3_600 + 1))
    with pytest.raises(LeaseIdTaken):
        ledger.checkout(checkout("a", salt="another"), now=at(24 * 3_600 + 1))
    ledger.sweep(now=at(25 * 3_600 + 2))
    assert T0 + timedelta(seconds=2) == ledger.batch.forget_ended_before


def test_a_wrong_secret_looks_like_an_unknown_lease() -> None:
    ledger = ledger_of(entitlement())
    seated(ledger, "a")
    for name in ("a", "nobody"):
        with pytest.raises(UnknownLease):
            ledger.heartbeat(name, secret=b"?" * 32, beat=1, nonce="x", now=at(1))
    ledger.checkin("a", secret=b"?" * 32, now=at(1))
    assert "a" in ledger.leases


def test_in_grace_leases_go_on_and_are_capped_at_its_end() -> None:
    terms = entitlement(expires_at=T0, grace=timedelta(seconds=100))
    ledger = ledger_of(terms, now=at(-10))
    lease = seated(ledger, "a", seconds=1).lease
    assert 99 == ledger.remaining(lease, at(1))
    beat(ledger, "a", 1, "x", seconds=50)
    assert 50 == ledger.remaining(lease, at(50))
    with pytest.raises(LeaseEnded):
        beat(ledger, "a", 2, "y", seconds=100)
    ledger.sweep(now=at(100))
    assert {} == ledger.leases


def test_the_grace_is_not_advertised() -> None:
    ledger = ledger_of(entitlement(lease_seconds=60))
    lease = seated(ledger, "a").lease
    assert 60 == ledger.remaining(lease, at())
    assert 0 == ledger.remaining(lease, at(75))


def test_beats_are_spread_and_stretched_when_the_fleet_is_large() -> None:
    ledger = ledger_of(entitlement(seats=None))
    paces = {ledger.pace(seated(ledger, f"lease {n}").lease) for n in range(100)}
    assert paces <= set(range(54, 67))
    assert len(paces) > 5
    lease = ledger.leases["lease 0"]
    ledger.setting = replace(ledger.setting, heartbeats_per_second=1)
    stretched = ledger.pace(lease)
    assert 89 < stretched <= 200 == lease.ttl // 3


def waiting_for(ledger: Ledger, *names: str) -> None:
    for name in names:
        assert isinstance(ledger.checkout(checkout(name), now=at(), wait=True), Queued)


def test_nothing_is_granted_out_of_the_queue_while_the_clock_is_behind() -> None:
    ledger = ledger_of(entitlement(seats=1))
    seated(ledger, "holder")
    waiting_for(ledger, "next")
    behind = at(1, state=ClockState.BEHIND)
    ledger.checkin("holder", secret=secret_of("holder"), now=behind)
    ledger.sweep(now=behind)
    assert {} == ledger.leases
    with pytest.raises(ClockBehind):
        ledger.stop_waiting("next", now=behind)
    assert {} == ledger.leases


def test_a_retry_whose_place_is_served_by_its_own_sweep_is_one_lease() -> None:
    ledger = ledger_of(entitlement(seats=2, lease_seconds=60))
    for name in ("one", "two"):
        seated(ledger, name)
    waiting_for(ledger, "next")
    verdict = ledger.checkout(checkout("next"), now=at(500), wait=True)
    assert isinstance(verdict, Seated)
    assert ["next"] == list(ledger.leases)
    assert 1 == ledger.pools[verdict.lease.entitlement_id].in_use
    assert 1 == kinds(ledger.batch).count("Granted") - 2


def test_a_wait_that_ends_looks_for_what_is_due_first() -> None:
    ledger = ledger_of(entitlement(seats=1, lease_seconds=60))
    seated(ledger, "holder")
    waiting_for(ledger, "next")
    assert isinstance(ledger.stop_waiting("next", now=at(500)), Seated)


def test_a_denial_says_the_rule_and_the_numbers() -> None:
    ledger = ledger_of(entitlement(seats=1))
    seated(ledger, "a")
    denied = ledger.checkout(checkout("b"), now=at())
    assert isinstance(denied, Denial)
    assert ("seats", 1, 1) == (denied.rule, denied.in_use, denied.seats)
    assert [1] == [data["count"] for data in posted(ledger.batch, "Denied")]


def level(ledger: Ledger, fold: Fold) -> int:
    for entry in ledger.batch.entries:
        fold.step({"at": entry.at, "kind": entry.kind, "data": entry.data})
    ledger.settle()
    return sum(pool["level"] for pool in fold.carry()["pools"])


def fresh(terms: Entitlement) -> tuple[Vendor, Ledger, Fold]:
    vendor = Vendor()
    return vendor, ledger_of(terms, vendor=vendor), Fold(server_id="lls_AAAAAAAAAAAAAAAAAAAAAA")


def test_other_sharing_terms_change_the_level_in_the_journal_too() -> None:
    terms = entitlement(seats=5)
    vendor, ledger, fold = fresh(terms)
    for name in ("a", "b"):
        seated(ledger, name, user="ann")
    assert 2 == level(ledger, fold)
    ledger.install(vendor.bundle(replace(terms, sequence=2, sharing=Sharing.USER)), actor="admin", now=at(1))
    assert 1 == ledger.pools[terms.entitlement_id].in_use == level(ledger, fold)


def test_who_comes_back_to_a_wider_seat_frees_some() -> None:
    terms = entitlement(seats=5, linger_seconds=60)
    _vendor, ledger, fold = fresh(terms)
    seated(ledger, "a", seat_id="s", seats=3)
    ledger.checkin("a", secret=secret_of("a"), now=at(1))
    seated(ledger, "b", seat_id="s", seats=1, seconds=2)
    assert 1 == ledger.pools[terms.entitlement_id].in_use == level(ledger, fold)


def test_after_a_failed_import_the_terms_of_the_last_commit_are_answered() -> None:
    vendor = Vendor()
    ledger = ledger_of(entitlement(), vendor=vendor)
    lease = seated(ledger, "a").lease
    ledger.settle()
    ends = T0 + timedelta(seconds=5)
    ledger.install(vendor.bundle(entitlement(sequence=2, expires_at=ends, grace=timedelta(0))), actor="ada", now=at(2))
    in_flight = ledger.changing
    ledger.abandon()
    assert (True, False) == (in_flight, ledger.changing)
    assert entitlement() == ledger.pools[lease.entitlement_id].entitlement
    assert (1, T0 + timedelta(days=365)) == (
        ledger.server.sequence_seen,
        ledger.pools[lease.entitlement_id].entitlement.ends_at,
    )
    beat(ledger, "a", 1, "x", seconds=60)
    assert 600 == ledger.remaining(lease, at(60))


def test_a_sealed_report_that_was_not_committed_is_not_shown() -> None:
    ledger = ledger_of(entitlement())
    ledger.settle()
    ledger.seal("rpt_one", pseudonymised=False, actor="ada", now=at(1))
    assert ledger.changing
    ledger.abandon()
    assert {} == ledger.reports


def test_a_denial_sweeps_its_own_product_only() -> None:
    ledger = ledger_of(entitlement(lease_seconds=60), entitlement("cam", product="cam", seats=1))
    seated(ledger, "a")
    ledger.checkout(checkout("b", product="cam"), now=at())
    late = at(60 + GRACE + 1)
    assert isinstance(ledger.checkout(checkout("c", product="cam"), now=late), Denial)
    assert "a" in ledger.leases
    ledger.sweep(now=late)
    assert "a" not in ledger.leases


def test_a_lease_granted_in_a_slow_commit_has_its_whole_time_when_it_is_answered() -> None:
    ledger = ledger_of(entitlement(lease_seconds=60))
    lease = seated(ledger, "a").lease
    ledger.settle(now=at(100))
    ledger.sweep(now=at(101))
    assert "a" in ledger.leases
    assert 60 == ledger.remaining(lease, at(100))


def test_many_wait_and_none_is_judged_twice_in_a_group() -> None:
    codes = [entitlement(name, seats=1, activation_codes=frozenset({name.upper()})) for name in ("one", "two")]
    ledger = ledger_of(*codes)
    for number in range(200):
        ledger.checkout(checkout(f"w{number}", activation_code="ONE"), now=at(), wait=True)
    waiters = [one for one in ledger.waiting if one.checkout.lease_id != "w0"]
    assert 199 == len(waiters)
    assert isinstance(ledger.checkout(checkout("late", activation_code="ONE"), now=at()), Denial)
    assert isinstance(ledger.checkout(checkout("other", activation_code="TWO"), now=at()), Seated)


def test_a_place_stays_open_while_another_request_of_its_client_waits() -> None:
    ledger = ledger_of(entitlement(seats=1))
    seated(ledger, "a")
    assert isinstance(ledger.checkout(checkout("w"), now=at(1), wait=True), Queued)
    assert isinstance(ledger.stop_waiting("w", now=at(2), keep=True), Denial)
    ledger.checkin("a", secret=secret_of("a"), now=at(3))
    assert isinstance(ledger.resolved["w"], Seated)


def test_a_slow_import_takes_no_time_from_leases_that_it_does_not_touch() -> None:
    vendor = Vendor()
    ledger = ledger_of(entitlement(lease_seconds=60), vendor=vendor)
    seated(ledger, "a")
    ledger.settle()
    ledger.install(vendor.bundle(entitlement("cam", product="cam")), actor="ada", now=at(40))
    ledger.settle(now=at(95))
    ledger.sweep(now=at(96))
    assert "a" in ledger.leases


def test_a_receipt_whose_commit_failed_is_not_known() -> None:
    vendor = Vendor()
    ledger = ledger_of(entitlement(), vendor=vendor)
    ledger.settle()
    installation = vendor.bundle(entitlement("cam", product="cam"))
    ledger.install(installation, actor="ada", now=at(1))
    ledger.abandon()
    assert not ledger.preview(installation, now=at(2)).already_applied


# -------------------------------------------------------------------- calls on features


def act(
    ledger: Ledger, name: str, request_id: str, *, key: str = "tokens", what: FeatureAct, amount: int = 1, now: Now
) -> FeatureLevel | Denial:
    return ledger.feature(
        name, secret=secret_of(name), key=key, act=what, amount=amount, request_id=request_id, now=now
    )


METERED = entitlement(lease_seconds=60, features=(units("tokens", 2), counted("frames", 10, undo_seconds=10_000)))


def end_of(ledger: Ledger, how: str) -> Now:
    """The lease ``a`` is over, in one of its ways; when that is seen."""
    if how == "checked in":
        ledger.checkin("a", secret=secret_of("a"), now=at(1))
    elif how == "released":
        ledger.release("a", actor="ada", reason="needed", now=at(1))
    elif how == "swept":
        ledger.sweep(now=at(500))
    return at(500)


@pytest.mark.parametrize("linger_seconds", [0, 900])
@pytest.mark.parametrize("how", ["checked in", "released", "swept", "late"])
def test_a_call_again_gets_its_answer_however_its_lease_has_ended(how: str, linger_seconds: int) -> None:
    ledger = ledger_of(replace(METERED, linger_seconds=linger_seconds))
    seated(ledger, "a")
    first = act(ledger, "a", "r", what=FeatureAct.CHECKOUT, now=at())
    now = end_of(ledger, how)
    ledger.settle()
    again = act(ledger, "a", "r", what=FeatureAct.CHECKOUT, now=now)
    assert isinstance(first, FeatureLevel)
    assert isinstance(again, FeatureLevel)
    assert (first.held, first.available, first.total) == (again.held, again.available, again.total)
    assert ledger.batch.empty
    with pytest.raises(RequestIdTaken):
        act(ledger, "a", "r", what=FeatureAct.CHECKOUT, amount=2, now=now)
    with pytest.raises(UnknownLease):
        ledger.feature("a", secret=b"?" * 32, key="tokens", act=FeatureAct.CHECKOUT, amount=1, request_id="r", now=now)


@pytest.mark.parametrize("how", ["checked in", "released", "swept"])
def test_a_new_call_of_an_ended_lease_takes_nothing(how: str) -> None:
    ledger = ledger_of(METERED)
    seated(ledger, "a")
    now = end_of(ledger, how)
    for what, key in ((FeatureAct.CHECKOUT, "tokens"), (FeatureAct.USE, "frames")):
        with pytest.raises(LeaseEnded):
            act(ledger, "a", "new", what=what, key=key, now=now)
    assert not ledger.batch.lots


def test_a_clock_that_is_behind_takes_nothing_and_gives_back() -> None:
    ledger = ledger_of(METERED)
    seated(ledger, "a")
    act(ledger, "a", "r1", what=FeatureAct.CHECKOUT, now=at())
    act(ledger, "a", "r2", what=FeatureAct.USE, key="frames", now=at())
    behind = at(1, state=ClockState.BEHIND)
    for what, key in ((FeatureAct.CHECKOUT, "tokens"), (FeatureAct.USE, "frames")):
        with pytest.raises(ClockBehind):
            act(ledger, "a", "r3", what=what, key=key, now=behind)
    returned = act(ledger, "a", "r4", what=FeatureAct.RETURN, now=behind)
    undone = ledger.undo("a", secret=secret_of("a"), key="frames", amount=1, request_id="r2", now=behind)
    assert isinstance(returned, FeatureLevel)
    assert (0, 10) == (returned.held, undone.available)


def test_nothing_is_taken_of_an_entitlement_that_is_out_of_force() -> None:
    vendor = Vendor()
    terms = replace(METERED, borrow=BorrowTerms(max_seconds=5_000, max_seats=1))
    ledger = ledger_of(terms, vendor=vendor)
    seated(ledger, "a", features=(("tokens", 1),))
    until = T0 + timedelta(seconds=600)
    ledger.borrow("a", secret=secret_of("a"), until=until, fingerprint="seat of a", now=at())
    ledger.install(vendor.bundle(replace(terms, sequence=2, status=Status.DISABLED)), actor="ada", now=at(1))
    refused = act(ledger, "a", "r1", what=FeatureAct.USE, key="frames", now=at(2))
    assert isinstance(refused, Denial)
    assert "entitlement_disabled" == refused.code
    assert isinstance(act(ledger, "a", "r2", what=FeatureAct.RETURN, now=at(2)), FeatureLevel)


def test_units_of_leases_that_are_over_are_there_for_who_asks() -> None:
    ledger = ledger_of(METERED)
    for name in "ab":
        seated(ledger, name, features=(("tokens", 1),))
    ledger.heartbeat("b", secret=secret_of("b"), beat=1, nonce="x", now=at(80))
    assert isinstance(act(ledger, "b", "r1", what=FeatureAct.CHECKOUT, now=at(60 + GRACE)), FeatureLevel)
    assert ["b"] == list(ledger.leases)


def test_who_asks_late_is_not_ended_by_its_own_call() -> None:
    ledger = ledger_of(METERED)
    for name in "ab":
        seated(ledger, name, features=(("tokens", 1),))
    answer = act(ledger, "b", "r1", what=FeatureAct.CHECKOUT, now=at(60 + GRACE + 5))
    assert isinstance(answer, FeatureLevel)
    assert {"b": 2} == {name: lease.features["tokens"] for name, lease in ledger.leases.items()}
    assert 2 == ledger.meters.of(METERED.entitlement_id)["tokens"].level


def test_a_lease_has_all_of_its_features_or_is_none() -> None:
    ledger = ledger_of(METERED)
    denied = ledger.checkout(checkout("a", features=(("frames", 3), ("tokens", 3))), now=at())
    assert isinstance(denied, Denial)
    assert ("no_feature_units", "tokens") == (denied.code, denied.feature)
    assert {} == ledger.leases
    seated(ledger, "b", features=(("frames", 3), ("tokens", 2)))
    level = ledger.meters.level(None, METERED.entitlement_id, "frames", now=at(), committed=False)
    assert 7 == level.available


# -------------------------------------------------------------------- the site's policy

DENIED = 'format = 1\n[[deny]]\nproduct = "cad"\nfor = { users = ["bob"] }\n'
FIRST = 'format = 1\n[[priority]]\nproduct = "cad"\nvalue = 5\nfor = { users = ["ann"] }\n'


def test_a_policy_ends_no_lease_and_lets_nobody_in_against_it() -> None:
    ledger = ledger_of(entitlement())
    seated(ledger, "a", user="bob")
    assert (["deny[1]"], []) == ledger.govern(read_policy(DENIED), text=DENIED, actor="ada", now=at(1))
    assert ["a"] == list(ledger.leases)
    denied = ledger.checkout(checkout("b", user="bob"), now=at(2))
    assert isinstance(denied, Denial)
    assert ("excluded", "deny[1]") == (denied.code, denied.rule)


def test_the_same_policy_again_is_no_news() -> None:
    ledger = ledger_of(entitlement())
    ledger.govern(read_policy(DENIED), text=DENIED, actor="ada", now=at())
    ledger.settle()
    assert ([], []) == ledger.govern(read_policy(DENIED), text=DENIED, actor="ada", now=at(1))
    assert ledger.batch.empty


def test_a_policy_whose_commit_failed_is_not_in_force() -> None:
    ledger = ledger_of(entitlement())
    ledger.govern(read_policy(DENIED), text=DENIED, actor="ada", now=at())
    ledger.abandon()
    assert ((), "") == (ledger.pools.policy.rules, ledger.facts.get(Fact.POLICY, ""))


def test_who_comes_with_priority_passes_those_who_wait() -> None:
    ledger = ledger_of(entitlement(seats=2))
    ledger.govern(read_policy(FIRST), text=FIRST, actor="ada", now=at())
    seated(ledger, "a")
    assert isinstance(ledger.checkout(checkout("large", seats=2, user="bob"), now=at(), wait=True), Queued)
    assert isinstance(ledger.checkout(checkout("other", user="cy"), now=at()), Denial)
    assert isinstance(ledger.checkout(checkout("first", user="ann"), now=at()), Seated)
