"""The state machine by table and by hand: no socket, no thread, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from lls.client.elapsed import Reading
from lls.client.errors import Busy, Refused, Unreachable
from lls.client.session import Phase, Question, Session
from lls.client.trust import Capability
from lls.client.values import EventKind, Grant, Holder, Order

ORDER = Order(product="cad", holder=Holder(seat_id="m"))
TTL, INTERVAL = 600.0, 60.0


def at(elapsed: float, *, slept: float = 0.0) -> Reading:
    return Reading(elapsed=elapsed, awake=elapsed - slept, wall=1e9 + elapsed)


def counting() -> Callable[[int], bytes]:
    count = 0

    def entropy(size: int) -> bytes:
        nonlocal count
        count += 1
        return count.to_bytes(size, "big")

    return entropy


def entering(*, wait: float = 0.0, patience: float = 10.0) -> Session:
    return Session(ORDER, wait_seconds=wait, patience_seconds=patience, entropy=counting(), now=at(0))


def asked(session: Session, now: Reading) -> Question:
    question = session.due(now)
    assert question is not None
    return question


def grant(question: Question) -> Grant:
    capability = Capability(
        lease_id=question.lease_id, product="cad", server_id="lls_x", mode="floating", ttl_seconds=TTL, expires_at=0,
        entitlement_id="", seats=1, seat_id="m", features={}, attributes={}, token="",
    )  # fmt: skip
    return Grant(capability=capability, heartbeat_seconds=INTERVAL)


def held() -> Session:
    session = entering()
    question = asked(session, at(0))
    assert [] == session.granted(question, grant(question), at(0))
    return session


def no(code: str, **fields: object) -> Refused:
    return Refused(code=code, status=409, detail=code, fields=fields)


def test_a_lease_counts_from_the_moment_its_nonce_was_first_sent() -> None:
    session = entering(patience=1000)
    first = asked(session, at(0))
    session.unanswered(first, Unreachable("x"), at(5))
    again = asked(session, at(50))
    assert (first.nonce, 0.0) == (again.nonce, again.asked_at)
    session.granted(again, grant(again), at(51))
    assert session.valid(at(599.9))
    assert not session.valid(at(600))


def test_an_answer_to_an_old_nonce_is_followed_by_a_fresh_beat_at_once() -> None:
    session = held()
    old = asked(session, at(60))
    session.unanswered(old, Unreachable("x"), at(61))
    session.granted(old, grant(old), at(300))
    fresh = asked(session, at(300))
    assert (2, 300.0) == (fresh.beat, fresh.asked_at)
    assert old.nonce != fresh.nonce


def test_a_late_answer_to_a_lease_given_up_changes_nothing() -> None:
    session = held()
    question = asked(session, at(60))
    session.refused(question, no("unknown_lease"), at(61))
    assert [] == session.granted(question, grant(question), at(62))
    assert not session.valid(at(62))


@pytest.mark.parametrize(
    ("refusal", "kind", "phase"),
    [
        (no("lease_ended", reason="expired"), EventKind.LEASE_ENDED, Phase.REGAINING),
        (no("lease_ended", reason="entitlement_ended"), EventKind.LEASE_ENDED, Phase.REGAINING),
        (no("lease_ended", reason="of_a_newer_server"), EventKind.LEASE_ENDED, Phase.REGAINING),
        (no("unknown_lease"), EventKind.LEASE_ENDED, Phase.REGAINING),
        (no("lease_ended", reason="released"), EventKind.TAKEN_BACK, Phase.PARKED),
        (no("lease_cloned"), EventKind.CLONED, Phase.REGAINING),
        (no("forbidden"), EventKind.REFUSED, Phase.HELD),
    ],
)
def test_each_refusal_of_a_beat_is_told_apart(refusal: Refused, kind: EventKind, phase: Phase) -> None:
    session = held()
    before = session.lease_id, session.secret
    question = asked(session, at(60))
    events = session.refused(question, refusal, at(61))
    assert [kind] == [event.kind for event in events]
    assert phase is session.phase
    assert (phase is Phase.REGAINING) == (before != (session.lease_id, session.secret))
    assert (phase is Phase.HELD) == session.valid(at(61))
    assert 539.0 == events[0].ttl_left_seconds


def test_sleep_is_seen_and_answered_by_a_beat_at_once() -> None:
    session = held()
    assert [] == session.tick(at(10))
    assert [EventKind.SLEPT] == [event.kind for event in session.tick(at(130, slept=118))]
    assert 1 == asked(session, at(130, slept=118)).beat
    assert [] == session.tick(at(131, slept=118))


def test_a_sleep_longer_than_the_lease_counts_as_lost_at_once() -> None:
    session = held()
    kinds = [event.kind for event in session.tick(at(5000, slept=4990))]
    assert [EventKind.SLEPT, EventKind.LEASE_ENDED] == kinds
    question = asked(session, at(5000, slept=4990))
    events = session.granted(question, grant(question), at(5001, slept=4990))
    assert [EventKind.REGAINED] == [event.kind for event in events]


def test_without_a_clock_that_stops_in_sleep_a_long_gap_tells_it() -> None:
    session = Session(
        ORDER, wait_seconds=0, patience_seconds=1, entropy=counting(), now=Reading(elapsed=0, awake=None, wall=0)
    )
    question = asked(session, at(0))
    session.granted(question, grant(question), at(0))
    assert [] == session.tick(replace(at(80), awake=None))
    assert [EventKind.SLEPT] == [event.kind for event in session.tick(replace(at(300), awake=None))]


def test_turning_the_wall_clock_changes_no_floating_lease() -> None:
    session = held()
    assert session.valid(Reading(elapsed=10, awake=10, wall=9e9))
    assert [] == session.tick(Reading(elapsed=10, awake=10, wall=0))


def test_an_outage_is_told_once_and_its_end_too() -> None:
    session = held()
    question = asked(session, at(60))
    told = session.unanswered(question, Unreachable("x"), at(61))
    told += session.unanswered(question, Unreachable("x"), at(70))
    told += session.granted(question, grant(question), at(80))
    assert [EventKind.NETWORK, EventKind.REGAINED] == [event.kind for event in told]


def test_retry_after_is_a_lower_bound_with_jitter_and_an_upper_limit() -> None:
    session = held()
    question = asked(session, at(60))
    session.unanswered(question, Busy("x", code="overloaded", retry_after_seconds=40.0), at(60))
    assert 100.0 <= session.next_at <= 110.0
    session.unanswered(question, Busy("x", code="overloaded", retry_after_seconds=1e6), at(60))
    assert 360.0 <= session.next_at <= 435.0


def test_without_the_servers_word_there_are_many_attempts_inside_one_lease() -> None:
    session, now, attempts = held(), 60.0, 0
    while now < TTL and attempts < 1000:
        question = asked(session, at(now))
        session.unanswered(question, Unreachable("x"), at(now))
        now, attempts = session.next_at, attempts + 1
    assert 15 <= attempts <= 60


def test_a_place_in_the_queue_is_asked_for_again_in_time_but_not_in_a_busy_loop() -> None:
    session = entering(wait=100)
    question = asked(session, at(0))
    assert 30 == question.wait_seconds
    session.refused(question, no("no_seat", retry_after_seconds=60), at(0.1))
    assert 5.1 == session.next_at
    question = asked(session, at(5.1))
    session.refused(question, no("no_seat"), at(35.1))
    assert 35.1 == session.next_at


def test_a_refused_regain_is_told_once_and_goes_on() -> None:
    session = held()
    question = asked(session, at(60))
    session.refused(question, no("unknown_lease"), at(60))
    told, now = [], 60.0
    for _ in range(5):
        question = asked(session, at(now))
        told += session.refused(question, no("no_seat"), at(now))
        now = session.next_at
    assert [EventKind.REFUSED] == [event.kind for event in told]
    assert Phase.REGAINING is session.phase
    question = asked(session, at(now))
    events = session.granted(question, grant(question), at(now))
    assert [EventKind.REGAINED] == [event.kind for event in events]


def test_a_checkout_that_ended_before_its_answer_came_is_asked_anew_but_not_for_ever() -> None:
    session = entering()
    ids = set()
    for _ in range(10):
        if session.failure is not None:
            break
        question = asked(session, at(1))
        ids.add(question.lease_id)
        session.refused(question, no("lease_ended", reason="expired"), at(1))
    assert 3 == len(ids)
    assert "lease_ended" == getattr(session.failure, "code", None)
