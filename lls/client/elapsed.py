"""Time as a lease needs it: elapsed time that goes on while the machine sleeps, and a way to see that it slept.

``elapsed`` includes sleep: ``CLOCK_BOOTTIME`` on Linux, ``CLOCK_MONOTONIC`` on macOS (there it does),
``time.monotonic`` on Windows (``GetTickCount64`` does). ``awake`` stands still during sleep; where the platform
offers no such clock it is ``None`` and the session falls back on gaps between two looks. ``wall`` decides for
borrowed leases and for nothing else, and there :class:`HighWater` guards it:

1. The mark is the highest wall clock ever believed. A wall clock below it was set back.
2. A wall clock that ran a day ahead of elapsed time since the last believed look was mistyped, more likely than not.
   It decides while it lasts, but raises no mark until that look is a day of elapsed time old: whoever types the year
   wrong does not lose the seat for good.
3. Elapsed time compares within one boot only; after another the wall clock is believed.
"""

from __future__ import annotations

import functools
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

_A_DAY = 86400.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_THIS_PROCESS = uuid.uuid4().hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Three clocks read at once, each in seconds."""

    elapsed: float
    awake: float | None
    wall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HighWater:
    """The highest believed wall clock (UNIX seconds), and the last believed look with the boot it belongs to."""

    mark: float
    wall: float
    elapsed: float
    boot: str

    @classmethod
    def at(cls, wall: float, now: Reading) -> HighWater:
        """A beginning: it was ``wall`` just now, as somebody trustworthy said."""
        return cls(mark=wall, wall=wall, elapsed=now.elapsed, boot=boot_name())

    def behind(self, now: Reading) -> float:
        """By how many seconds the wall clock is below the mark; 0 when it is not."""
        return max(0.0, self.mark - now.wall)

    def raised(self, now: Reading, *, at_most: float) -> HighWater:
        """After a look at the clocks; the mark never falls, and never rises above ``at_most``."""
        boot = boot_name()
        passed = now.elapsed - self.elapsed
        same_boot = boot == self.boot and passed >= 0
        if same_boot and now.wall - self.wall > passed + _A_DAY and passed < _A_DAY:
            return self
        mark = max(self.mark, min(now.wall, at_most))
        return HighWater(mark=mark, wall=now.wall, elapsed=now.elapsed, boot=boot)


def read_clocks() -> Reading:
    """All three clocks, as near to one instant as they can be read."""
    return Reading(elapsed=_elapsed(), awake=_awake(), wall=time.time())


def _elapsed() -> float:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_UPTIME_RAW"):
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()


def _awake() -> float | None:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    if hasattr(time, "CLOCK_UPTIME_RAW"):
        return time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return None


@functools.cache
def boot_name() -> str:
    """Equal as long as ``elapsed`` may be compared; where the system names no boot, no longer than this process."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        return _THIS_PROCESS
