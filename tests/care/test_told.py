"""Whether there is something to put back, and whether anybody is told."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lls.backup import Last
from lls.care.findings import State
from lls.care.told import examine_backups, examine_events
from lls.config import Backup

NOW = datetime(2026, 11, 21, 7, tzinfo=UTC)
SERVER = f"lls_{'A' * 22}"


@pytest.mark.parametrize(
    ("hours", "problem", "expected"),
    [
        (None, None, [State.WARN]),
        (2, None, [State.OK]),
        (49, None, [State.WARN]),
        (2, "No space left.", [State.FAIL]),
        (49, "No space left.", [State.FAIL, State.WARN]),
    ],
)
def test_the_last_good_backup_and_the_last_failure_are_told(
    tmp_path: Path, hours: int | None, problem: str | None, expected: list[State]
) -> None:
    if hours is not None:
        file = tmp_path / f"{SERVER}-20261121T050000Z.llsbackup"
        file.touch()
        made = (NOW - timedelta(hours=hours)).timestamp()
        os.utime(file, (made, made))
    (tmp_path / f"lls_{'B' * 22}-20261121T060000Z.llsbackup").touch()
    last = None if problem is None else Last(at=NOW, path=None, problem=problem)
    settings = Backup(folder=str(tmp_path), every_hours=24)
    found = list(examine_backups(settings, server_id=SERVER, last=last, now=NOW))
    assert expected == [one.state for one in found]
    assert problem is None or problem in found[0].said


def test_none_is_asked_for_where_none_is_scheduled_and_a_missing_folder_is_told(tmp_path: Path) -> None:
    (unscheduled,) = examine_backups(Backup(), server_id=SERVER, now=NOW)
    (missing,) = examine_backups(Backup(folder=str(tmp_path / "none")), server_id=SERVER, now=NOW)
    assert (State.OK, State.WARN) == (unscheduled.state, missing.state)


def test_deliveries_that_were_given_up_are_told() -> None:
    assert State.OK is examine_events({"sent": 5, "waiting": 2}).state
    dead = examine_events({"sent": 5, "dead": 3})
    assert (State.WARN, True) == (dead.state, "3 deliveries" in dead.said)
