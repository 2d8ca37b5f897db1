"""Where the log goes, how much of it there is, and what the last lines were.

Rules
1. Standard error always. When that is systemd's journal (``JOURNAL_STREAM``, systemd.exec(5)), a line begins with its
   priority and carries no time: the journal has its own, and would show ours as a second one.
2. A file when ``log.file`` names one: ours alone (0600), turned over at ``log.max_mib``, opened anew on SIGHUP, so that
   logrotate may move it away. A file that cannot be written costs its lines and nothing else: that is said on standard
   error once, and again with the number of lost lines when it works.
3. The last lines stay in memory for the support bundle, whatever the level of the file.
4. The level can be changed while running, for a while; then it goes back by itself.

A change of the level is a line of the log and none of the journal: the journal goes to the vendor, and a full disk,
when one wants to see more, would refuse it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, TextIO

from lls.config import Config, LogFormat, LogLevel
from lls.faults import SetupFault
from lls.telemetry import JsonLine, TextLine, set_up_logging

LINES_KEPT: Final = 2_000
LONGEST_KEPT: Final = 4_096
_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelTold:
    """The level in force, the one of the settings, and when it goes back to that; None: not by itself."""

    level: LogLevel
    usual: LogLevel
    until: datetime | None


class Logs:
    """The log of one process; :meth:`set_up` makes it, :meth:`close` takes it down again."""

    def __init__(self, *, usual: LogLevel = LogLevel.INFO) -> None:
        self._usual = self._level = usual
        self._until: datetime | None = None
        self._back: asyncio.TimerHandle | None = None
        self._ring = Ring()
        self._file: LogFile | None = None
        self._handlers: list[logging.Handler] = []

    @classmethod
    def set_up(cls, config: Config) -> Logs:
        """Begin to write as the settings say. Raises SetupFault when the file cannot be opened."""
        logs = cls(usual=config.server.log_level)
        as_json = config.server.log_format is LogFormat.JSON
        stderr = set_up_logging(level=config.server.log_level.value, as_json=as_json)
        if is_journal(sys.stderr, os.environ.get("JOURNAL_STREAM", "")):
            stderr.setFormatter(JournalLine())
        logs._handlers = [stderr, logs._ring]
        if config.log.file:
            logs._file = _open(Path(config.log.file), max_mib=config.log.max_mib, keep=config.log.keep)
            logs._file.setFormatter(JsonLine() if as_json else TextLine())
            logs._handlers.append(logs._file)
        for handler in logs._handlers[1:]:
            logging.getLogger().addHandler(handler)
        return logs

    def close(self) -> None:
        """Write no more."""
        if self._back is not None:
            self._back.cancel()
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
        self._handlers.clear()

    def reopen(self) -> None:
        """The file was moved away: the next line begins a new one."""
        if self._file is not None:
            self._file.reopen()

    @property
    def last(self) -> list[str]:
        """The last lines, oldest first."""
        return list(self._ring.lines)

    # ---------------------------------------------------------------- level

    def tell(self) -> LevelTold:
        """What is written now, and until when."""
        return LevelTold(level=self._level, usual=self._usual, until=self._until)

    def set_level(self, level: str, *, lasting: timedelta | None, now: datetime, actor: str) -> LevelTold:
        """Write from this level on; after ``lasting``, if given, as the settings say again."""
        wanted = LogLevel(level)
        if self._back is not None:
            self._back.cancel()
            self._back = None
        self._until = None
        if lasting is not None and wanted is not self._usual:
            self._until = now + lasting
            self._back = asyncio.get_running_loop().call_later(lasting.total_seconds(), self._go_back)
        self._apply(wanted, actor)
        return self.tell()

    def _go_back(self) -> None:
        self._back = self._until = None
        self._apply(self._usual, "time")

    def _apply(self, level: LogLevel, by: str) -> None:
        root, self._level = logging.getLogger(), level
        # At the more talkative of the two levels: who silences the log is its last line.
        root.setLevel(min(root.level, logging.WARNING))
        _log.warning("log_level", extra={"fields": {"level": level.value, "until": self._until, "by": by}})
        root.setLevel(level.value.upper())


class Ring(logging.Handler):
    """Rule 3."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.setFormatter(TextLine())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(self.format(record)[:LONGEST_KEPT])


class JournalLine(logging.Formatter):
    """``<6>lls.writer granted lease_id=…`` (sd-daemon(3)): priority in front, no time."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        _at, _level, rest = TextLine().format(record).split(" ", 2)
        return f"<{_PRIORITIES.get(record.levelno, 5)}>{rest}"


class LogFile(RotatingFileHandler):
    """Rule 2."""

    _lost = 0

    def reopen(self) -> None:
        """Close it; the next line opens it anew."""
        self.acquire()
        try:
            stream, self.stream = self.stream, None
            if stream is not None:
                with suppress(OSError):  # the rest of lines that were counted as lost
                    stream.close()
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or count it as lost."""
        lost = self._lost
        super().emit(record)
        if lost and lost == self._lost:
            self._lost = 0
            sys.stderr.write(f"lls: {self.baseFilename} is written again; {lost} lines are missing in it.\n")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the name of the standard library
        """A full disk must not stop the server, and not fill standard error either."""
        self._lost += 1
        self.reopen()  # or its buffer would be tried again with every line, and at the end
        if self._lost == 1:
            sys.stderr.write(f"lls: {self.baseFilename} cannot be written: {sys.exc_info()[1]}.\n")


def is_journal(stream: TextIO, journal_stream: str) -> bool:
    """Whether a stream is the one of which systemd says that it leads to its journal."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{found.st_dev}:{found.st_ino}"


def _open(path: Path, *, max_mib: int, keep: int) -> LogFile:
    previous = os.umask(0o077)
    try:
        return LogFile(path, maxBytes=max_mib * 1024 * 1024, backupCount=keep, encoding="utf-8")
    except OSError as error:
        raise SetupFault(f"The log file {path} (log.file) cannot be written: {error.strerror}.") from error
    finally:
        os.umask(previous)
