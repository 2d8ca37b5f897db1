"""What is still to be told survives, in order, until it is told."""

from __future__ import annotations

import sqlite3
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lls.events import Condition, Event, Outbox, Severity
from lls.events.condition import Change, compare
from lls.events.outbox import FILE, KEPT

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NOTHING = Change(raised=(), cleared=(), standing=())


def event(number: int, *, at: datetime = NOW) -> Event:
    return Event(
        event_id=f"evt_{number}",
        at=at,
        type="test",
        key="",
        state="raised",
        severity=Severity.WARNING,
        text=f"number {number}",
        data={"number": number, "none": None},
    )


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path)


def test_each_destination_takes_its_own_in_their_order(outbox: Outbox) -> None:
    outbox.put(NOTHING, [event(1), event(2)], destinations=["hook", "mail"])
    first = outbox.due("hook", now=NOW)
    assert first is not None
    assert (event(1), 0) == (first.event, first.attempts)
    outbox.settle(first, state="sent", next_at=NOW)
    told = {name: delivery.event.event_id for name in ("hook", "mail") if (delivery := outbox.due(name, now=NOW))}
    assert {"hook": "evt_2", "mail": "evt_1"} == told
    assert {"waiting": 3, "sent": 1} == outbox.count()


def test_one_that_waits_for_its_time_holds_up_what_came_later(outbox: Outbox) -> None:
    outbox.put(NOTHING, [event(1), event(2)], destinations=["hook"])
    first = outbox.due("hook", now=NOW)
    assert first is not None
    outbox.settle(first, state="waiting", next_at=NOW + HOUR, error="It answered 500.")
    assert outbox.due("hook", now=NOW) is None
    again = outbox.due("hook", now=NOW + HOUR)
    assert again is not None
    assert ("evt_1", 1, "It answered 500.") == (again.event.event_id, again.attempts, again.error)


def test_dead_ones_let_others_pass_and_can_be_revived(outbox: Outbox) -> None:
    outbox.put(NOTHING, [event(1), event(2)], destinations=["hook"])
    first = outbox.due("hook", now=NOW)
    assert first is not None
    outbox.settle(first, state="dead", next_at=NOW, error="No.")
    second = outbox.due("hook", now=NOW)
    assert second is not None
    assert "evt_2" == second.event.event_id
    assert (1, 0) == (outbox.revive(now=NOW), outbox.revive(now=NOW))
    revived = outbox.due("hook", now=NOW)
    assert revived is not None
    assert ("evt_1", 0) == (revived.event.event_id, revived.attempts)


def test_what_was_told_is_known_after_a_restart(outbox: Outbox, tmp_path: Path) -> None:
    condition = Condition(type="full", key="ent_1", level=2, text="", lasts=HOUR)
    change = compare([], [condition], now=NOW)
    outbox.put(change, [], destinations=[])
    assert list(change.standing) == Outbox(tmp_path).standing()
    going = compare(change.standing, [], now=NOW)
    outbox.put(going, [], destinations=[])
    assert [NOW] == [one.gone_since for one in Outbox(tmp_path).standing()]


def test_a_failed_look_leaves_nothing_half(outbox: Outbox) -> None:
    change = compare([], [Condition(type="full", text="")], now=NOW)
    broken = replace(event(2), data={"bad": object()})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        outbox.put(change, [event(1), broken], destinations=["hook"])
    assert ([], {}) == (outbox.standing(), outbox.count())


def test_old_events_go_and_what_still_waits_stays(outbox: Outbox) -> None:
    old = NOW - KEPT - HOUR
    outbox.put(NOTHING, [event(1, at=old), event(2, at=old), event(3)], destinations=["hook", "gone"])
    first = outbox.due("hook", now=NOW)
    assert first is not None
    outbox.settle(first, state="sent", next_at=NOW)
    outbox.prune(now=NOW, destinations=["hook"])
    assert ["evt_3", "evt_2"] == [one.event_id for one in outbox.events(limit=10)]
    assert ["evt_3", "evt_2"] == [one.event.event_id for one in outbox.deliveries(limit=10)]


def test_the_file_is_ours_alone_and_of_no_newer_version(outbox: Outbox, tmp_path: Path) -> None:
    assert [] == outbox.standing()
    file = tmp_path / FILE
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(OSError, match="newer version"):
        outbox.standing()
    file.write_bytes(b"this is no database, and it is long enough to be looked at as one" * 20)
    with pytest.raises(OSError, match="cannot be used"):
        outbox.standing()
