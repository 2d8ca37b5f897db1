"""The disk: warned of early, held back for what gives seats back, and never a reason to throw anybody out.

What happens as the state folder's disk fills
1. Below ``disk.warn_mib``: a line of the log each hour, the metric and ``/readyz`` say so. Nothing else changes.
2. Below ``disk.stop_mib``: nothing new is granted (``store_down``). Checkins, expiries, receipts and bundles are taken,
   for they are what brings room and seats back, and take a few hundred bytes each. Heartbeats never touch the disk.
3. At the very end, when somebody else has filled the rest: the reserve, a file of ``disk.reserve_mib``, is given up, so
   that seats can still be returned. A commit that fails is a reason to look at once.
4. When even that is used up a commit fails whole (``store_down``); heartbeats still go on, and everything heals by
   itself when there is room. Then the reserve is set aside again.

The reserve counts as room, so that giving it up opens no door and setting it aside shuts none. Other places (archives,
the log, the drop folder) are watched and warned of; they stop nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from lls.care.machine import free_bytes
from lls.config import Disk
from lls.telemetry import Metrics
from lls.writer import Writer

RESERVE: Final = "lls.reserve"
STATE: Final = "state"
TOLD_EACH_SECONDS: Final = 3_600.0
_MIB: Final = 1024 * 1024
_LAST: Final = _MIB
"""With less than this a commit may fail at any moment: the write-ahead log grows in pieces."""

_log = logging.getLogger(__name__)


class Room(StrEnum):
    """How much there is."""

    OK = "ok"
    LOW = "low"
    FULL = "full"


class Reserve:
    """The file that is given up when nothing else is left."""

    def __init__(self, state_dir: Path, *, size: int) -> None:
        self._path, self._wanted = state_dir / RESERVE, size

    @property
    def held(self) -> int:
        """Bytes that it holds back now."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def give_up(self) -> bool:
        """Set its bytes free; whether there were any."""
        held = self.held
        with suppress(FileNotFoundError):
            self._path.unlink()
        return held > 0

    def set_aside(self) -> None:
        """Hold the bytes back (again), where there is room for twice as much; raises nothing: it is a courtesy."""
        if not self._wanted or self.held == self._wanted or free_bytes(self._path.parent) < 2 * self._wanted + _LAST:
            return
        try:
            number = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(number, 0, self._wanted)
            finally:
                os.close(number)
        except OSError as error:
            self.give_up()
            _log.warning("disk_reserve", extra={"fields": {"why": error.strerror}})


def make_room(state_dir: Path) -> None:
    """Before a start: a database cannot even be opened on a disk without a byte."""
    if state_dir.is_dir() and free_bytes(state_dir) < _LAST:
        Reserve(state_dir, size=0).give_up()


class DiskWatch:
    """Looks at the disks now and then; see the module."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        *,
        setting: Disk,
        writer: Writer,
        metrics: Metrics,
        free: Callable[[Path], int] = free_bytes,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders, self._setting, self._writer, self._metrics = dict(folders), setting, writer, metrics
        self._free, self._elapsed = free, elapsed
        self._reserve = Reserve(folders[STATE], size=setting.reserve_mib * _MIB)
        self._told: dict[str, tuple[Room, float]] = {}
        self._looking: asyncio.Task[None] | None = None
        self.room = Room.OK
        self.rooms: dict[str, tuple[Room, int]] = {}
        """How much room each place had at the last look, with its free bytes."""

    async def look(self) -> None:
        """Measure, tell, and open or shut the door for what is new."""
        found = await asyncio.to_thread(self._measure)
        for place, free in found.items():
            self._metrics.disk_free_bytes.labels(place).set(free)
            self.rooms[place] = self._judged(free, stops=place == STATE), free
            self._tell(place, self.rooms[place][0], free)
        state = found.get(STATE)
        if state is None:
            return
        self.room = self._judged(state, stops=True)
        self._writer.ledger.server.no_room = self.room is Room.FULL
        await asyncio.to_thread(self._mind_reserve)

    def hurry(self) -> None:
        """A commit has failed: look now."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self.look())

    def _measure(self) -> dict[str, int]:
        """Free bytes by place, the reserve counted as free. A place that is not there (yet) is left out."""
        found = {}
        for place, folder in self._folders.items():
            with suppress(OSError):
                found[place] = self._free(folder) + (self._reserve.held if place == STATE else 0)
        return found

    def _judged(self, free: int, *, stops: bool) -> Room:
        if stops and free < self._setting.stop_mib * _MIB:
            return Room.FULL
        return Room.LOW if free < self._setting.warn_mib * _MIB else Room.OK

    def _mind_reserve(self) -> None:
        folder = self._folders[STATE]
        try:
            if self._free(folder) < _LAST:
                if self._reserve.give_up():
                    _log.error("disk_reserve_given_up", extra={"fields": {"folder": str(folder)}})
            elif self.room is not Room.FULL:
                self._reserve.set_aside()
        except OSError as error:
            _log.warning("disk_reserve", extra={"fields": {"why": error.strerror}})

    def _tell(self, place: str, room: Room, free: int) -> None:
        before, at = self._told.get(place, (Room.OK, 0.0))
        now = self._elapsed()
        if room is before and (room is Room.OK or now - at < TOLD_EACH_SECONDS):
            return
        self._told[place] = room, now
        fields = {"place": place, "folder": str(self._folders[place]), "free_mib": free // _MIB}
        match room:
            case Room.OK:
                _log.info("disk_has_room", extra={"fields": fields})
            case Room.LOW:
                _log.warning("disk_low", extra={"fields": fields})
            case Room.FULL:
                _log.error("disk_full", extra={"fields": fields})
