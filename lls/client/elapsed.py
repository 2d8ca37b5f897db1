"""Time as a lease needs it: elapsed time that goes on while the machine sleeps, and a way to see that it slept.

``elapsed`` includes sleep: ``CLOCK_BOOTTIME`` on Linux, ``CLOCK_MONOTONIC`` on macOS (there it does),
``time.monotonic`` on Windows (``GetTickCount64`` does). ``awake`` stands still during sleep; where the platform
offers no such clock it is ``None`` and the session falls back on gaps between two looks. ``wall`` decides for
borrowed leases and for nothing else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Three clocks read at once, each in seconds."""

    elapsed: float
    awake: float | None
    wall: float


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
