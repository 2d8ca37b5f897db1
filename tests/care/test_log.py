"""Where lines go: the journal's form, a file that turns over and survives a full disk, a level that goes back."""

from __future__ import annotations

import asyncio
import io
import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from lls.care import log
from lls.care.log import JournalLine, LogFile, Logs, is_journal
from lls.config import Config, Log, LogLevel, Server
from lls.faults import SetupFault
from tests.test_writer import until
from tests.vendor import NOW

LOG = logging.getLogger("lls.writer")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lls.log"


@pytest.fixture
def logs(file: Path) -> Iterator[Logs]:
    before = logging.getLogger().level
    made = Logs.set_up(Config(server=Server(log_level=LogLevel.INFO), log=Log(file=str(file))))
    yield made
    made.close()
    logging.getLogger().setLevel(before)


def test_a_line_goes_to_the_file_and_stays_in_memory(logs: Logs, file: Path) -> None:
    LOG.info("reloaded", extra={"fields": {"seq": 3, "token": "plain-looking"}})
    (line,) = file.read_text().splitlines()
    assert line.endswith("INFO lls.writer reloaded seq=3 token=[removed]")
    assert [line] == logs.last
    assert 0o600 == file.stat().st_mode & 0o777


def test_a_file_that_was_moved_away_is_begun_anew_when_asked(logs: Logs, file: Path, tmp_path: Path) -> None:
    LOG.info("first")
    file.rename(tmp_path / "lls.log.1")
    LOG.info("second")
    logs.reopen()
    LOG.info("third")
    assert ["first", "second"] == [line.split()[-1] for line in (tmp_path / "lls.log.1").read_text().splitlines()]
    assert ["third"] == [line.split()[-1] for line in file.read_text().splitlines()]


def test_a_file_is_turned_over_and_the_oldest_goes(tmp_path: Path) -> None:
    handler = LogFile(tmp_path / "lls.log", maxBytes=100, backupCount=2, encoding="utf-8")
    for number in range(20):
        handler.emit(logging.LogRecord("lls", logging.INFO, "", 0, f"{number:050}", None, None))
    handler.close()
    assert ["lls.log", "lls.log.1", "lls.log.2"] == sorted(path.name for path in tmp_path.iterdir())
    assert f"{19:050}" in (tmp_path / "lls.log").read_text()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_costs_lines_says_so_once_and_tells_how_many(
    logs: Logs, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.unlink()
    file.symlink_to("/dev/full")
    logs.reopen()
    for _ in range(5):
        LOG.info("lost")
    file.unlink()
    logs.reopen()
    LOG.info("kept")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lls: ")]
    assert 2 == len(said)
    assert "No space left" in said[0]
    assert "5 lines are missing" in said[1]
    assert "kept" in file.read_text()


def test_a_file_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupFault, match=r"log\.file"):
        Logs.set_up(Config(log=Log(file=str(tmp_path / "nowhere" / "lls.log"))))


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_a_line_for_the_journal_begins_with_its_priority_and_has_no_time(level: str, priority: int) -> None:
    record = logging.LogRecord("lls.api", getattr(logging, level.upper()), "", 0, "seen", None, None)
    record.fields = {"lease_id": "x"}
    assert f"<{priority}>lls.api seen lease_id=x" == JournalLine().format(record)


def test_the_journal_is_known_by_the_file_that_systemd_names(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        assert is_journal(stream, f"{found.st_dev}:{found.st_ino}")
        assert not is_journal(stream, f"{found.st_dev}:{found.st_ino + 1}")
        assert not is_journal(stream, "")
    assert not is_journal(io.StringIO(), "")


async def test_a_level_holds_for_its_time_and_goes_back_by_itself(logs: Logs) -> None:
    told = logs.set_level(LogLevel.DEBUG, lasting=timedelta(seconds=0.05), now=NOW, actor="ann")
    assert (LogLevel.DEBUG, LogLevel.INFO, NOW + timedelta(seconds=0.05)) == (told.level, told.usual, told.until)
    LOG.debug("seen")
    await until(lambda: logs.tell().level is LogLevel.INFO)
    LOG.debug("unseen")
    words = "\n".join(logs.last)
    assert " seen" in words
    assert "unseen" not in words
    assert "by=ann" in words
    assert logs.tell().until is None


async def test_the_latest_word_about_the_level_counts(logs: Logs) -> None:
    logs.set_level(LogLevel.DEBUG, lasting=timedelta(seconds=0.02), now=NOW, actor="ann")
    logs.set_level(LogLevel.ERROR, lasting=None, now=NOW, actor="ann")
    await asyncio.sleep(0.05)
    assert (LogLevel.ERROR, None) == (logs.tell().level, logs.tell().until)


@pytest.mark.parametrize("level", [LogLevel.ERROR, LogLevel.WARNING, LogLevel.DEBUG])
async def test_who_changes_the_level_is_written_though_it_silences_the_log(logs: Logs, level: LogLevel) -> None:
    logs.set_level(level, lasting=None, now=NOW, actor="mallory")
    logs.set_level(LogLevel.INFO, lasting=None, now=NOW, actor="mallory")
    changes = [line for line in logs.last if "log_level" in line]
    assert [True, True] == ["by=mallory" in line for line in changes]
    assert f"level={level.value}" in changes[0]


def test_memory_for_the_last_lines_is_bounded(logs: Logs) -> None:
    for number in range(log.LINES_KEPT + 5):
        LOG.info("x" * 10_000 if not number else str(number))
    assert log.LINES_KEPT == len(logs.last)
    assert max(map(len, logs.last)) <= log.LONGEST_KEPT
