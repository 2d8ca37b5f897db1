"""Guarded time: what the server believes the date to be, and what it does when the machine's clock says otherwise.

This room owns the high-water mark. It reads two raw sources that are passed in: ``wall`` (what the machine says, may be
turned) and ``elapsed`` (seconds since boot, cannot be turned), and makes one :class:`~lls.licensing.instant.Now` of
them.

Rules, in the order in which a reading is judged (design §3)
1. Guarded time never goes back, neither while running nor across restarts: the mark is the last guarded time, and it is
   stored with every commit and every minute. Only the vendor lowers it (:meth:`GuardedClock.reset`).
2. A leap forward, more than a day beyond elapsed time while running or more than 400 days past the mark at a start, is
   *jumped*: guarded time goes on from the mark with elapsed time, ``strict`` is the raw date and refuses new things.
   After 24 hours of elapsed time at the new date, or after :meth:`GuardedClock.accept`, the raw date is believed. So a
   mistyped year poisons nothing if it is corrected within a day.
3. Otherwise the raw clock is believed as far as it is ahead of the mark.
4. While the raw clock stands before guarded time, guarded time goes on at *half* the speed of elapsed time. More than
   the tolerance before it is *behind*: new checkouts, borrows and uses are refused, nothing else. Half speed is what
   lets the state heal by itself. At full speed a machine that booted on local time and was then put right would stay
   behind for ever, since both clocks run alike; standing still, a clock turned back would keep an expired entitlement
   alive. At half speed two hours heal in less than four, and whoever turns the clock back gains no new seat meanwhile.

Limits: before the first mark there is nothing to compare with, so the first start believes the machine. Time that
passes while the server is off is not seen. It stores nothing, logs nothing and decides no lease: who asks has to look
at ``state``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from lls.licensing.instant import ClockState, Now

LEAP_WHILE_RUNNING = timedelta(days=1)
LEAP_AT_START = timedelta(days=400)
BELIEVED_AFTER = timedelta(hours=24)
DEFAULT_TOLERANCE = timedelta(seconds=300)
_CALM_SECONDS = 3600.0


class Clock(Protocol):
    """What everybody but the daemon needs of a clock."""

    def now(self) -> Now:
        """Take one reading; a verb takes one and uses it throughout."""
        ...

    @property
    def mark(self) -> datetime:
        """The high-water mark to be stored with the next commit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a clock knows at one moment, for :meth:`GuardedClock.restore`."""

    mark: datetime
    seen_at: float
    seen_raw: datetime
    leap: timedelta
    jumped_at: float | None
    lost: timedelta


class GuardedClock:
    """The server's clock; see the rules above.

    ``wall`` gives aware UTC datetimes, ``elapsed`` seconds that never decrease, ``mark`` is the stored high-water mark
    or ``None`` on the very first start. Not thread-safe: it belongs to the event loop's thread.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], datetime],
        elapsed: Callable[[], float],
        mark: datetime | None = None,
        tolerance: timedelta = DEFAULT_TOLERANCE,
    ) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._tolerance = tolerance
        self._mark = mark or wall()
        self._seen_at = elapsed()
        self._seen_raw = wall()
        self._leap = LEAP_AT_START
        self._jumped_at: float | None = None
        self._lost = timedelta(0)  # by going at half speed; a clock that makes it good has not jumped

    def now(self) -> Now:
        """Read both sources and judge them; moves the mark."""
        raw, elapsed = self._wall(), self._elapsed()
        if self._is_calm(raw, elapsed):
            self._mark = self._seen_raw = raw
            self._seen_at, self._leap = elapsed, LEAP_WHILE_RUNNING
            return Now(raw, raw, elapsed)
        passed = timedelta(seconds=max(0.0, elapsed - self._seen_at))
        if self._is_jump(raw, passed=passed, elapsed=elapsed):
            self._mark += passed
        else:
            self._jumped_at = None
            slowed = self._mark + passed / 2
            self._lost = timedelta(0) if raw >= slowed else self._lost + passed / 2
            self._mark = max(raw, slowed)
        self._seen_at, self._seen_raw, self._leap = elapsed, raw, LEAP_WHILE_RUNNING
        return self._reading(raw, elapsed)

    @property
    def mark(self) -> datetime:
        """The guarded time of the last reading: never lower than any ``wall`` that was handed out."""
        return self._mark

    @property
    def raw(self) -> datetime:
        """What the machine says. A bundle's dates are judged by it while the state is *behind* (design §3)."""
        return self._wall()

    def accept(self) -> Now:
        """Believe a jump now (``lls clock accept``); other states stay: only the vendor turns time back."""
        if self._jumped_at is not None:
            self._mark, self._jumped_at = max(self._mark, self._seen_raw), None
        return self.now()

    def raise_to(self, lower_bound: datetime) -> None:
        """Take an instant that has certainly passed: the issue time of a bundle that was *applied*.

        Safe in every state. An earlier instant changes nothing. A later one is the vendor's word against a machine that
        was never right (a dead battery reads 1970): the mark rises, and the state becomes *behind* until the clock is
        set. A jump that the instant explains ends with the next reading. Never hand in the date of a document that was
        refused or only shown: whoever can make us believe a future date can stop the site. Before :meth:`reset`, never
        after it.
        """
        self.now()
        self._mark = max(self._mark, lower_bound)

    def reset(self, mark: datetime) -> None:
        """Replace a mark that is wrong (``clock_reset`` in a vendor-signed bundle); guarded time may go back, once.

        The next reading is judged like a start, because a bundle may travel for days.
        """
        self._mark = mark
        self._seen_at = self._elapsed()
        self._leap, self._jumped_at, self._lost = LEAP_AT_START, None, timedelta(0)

    def snapshot(self) -> Snapshot:
        """What :meth:`restore` needs to undo a :meth:`reset` that was never committed."""
        return Snapshot(
            mark=self._mark,
            seen_at=self._seen_at,
            seen_raw=self._seen_raw,
            leap=self._leap,
            jumped_at=self._jumped_at,
            lost=self._lost,
        )

    def restore(self, before: Snapshot) -> None:
        """Go on as if nothing had happened since ``before``: the time that has passed is judged by the next reading."""
        self._mark, self._seen_at, self._seen_raw = before.mark, before.seen_at, before.seen_raw
        self._leap, self._jumped_at, self._lost = before.leap, before.jumped_at, before.lost

    def _is_calm(self, raw: datetime, elapsed: float) -> bool:
        """Both clocks went on alike since the last reading, so there is nothing to judge: nearly every reading is so.

        The rules below come to the same; this answer is given for each heartbeat, in half the time.
        """
        if self._jumped_at is not None or self._lost or self._seen_raw is not self._mark:
            return False
        ahead, passed = (raw - self._mark).total_seconds(), elapsed - self._seen_at
        return passed <= 2 * ahead and passed >= 0 and ahead - passed <= _CALM_SECONDS

    def _is_jump(self, raw: datetime, *, passed: timedelta, elapsed: float) -> bool:
        """Rule 2. Another leap while jumped, in either direction, is another date: its 24 hours begin anew."""
        if raw - (self._mark + self._lost + passed) <= self._leap:
            return False
        moved = abs(raw - (self._seen_raw + passed)) > LEAP_WHILE_RUNNING
        if self._jumped_at is None or moved:
            self._jumped_at = elapsed
            return True
        return elapsed - self._jumped_at < BELIEVED_AFTER.total_seconds()

    def _reading(self, raw: datetime, elapsed: float) -> Now:
        lag = self._mark - raw
        if self._jumped_at is not None:
            state = ClockState.JUMPED
        elif lag > self._tolerance:
            state = ClockState.BEHIND
        else:
            state = ClockState.OK
        return Now(
            wall=self._mark,
            strict=max(self._mark, raw),
            elapsed=elapsed,
            state=state,
            behind_seconds=int(lag.total_seconds()) if state is ClockState.BEHIND else 0,
        )


def system_wall() -> datetime:
    """What the machine says: aware UTC."""
    return datetime.now(UTC)


def system_elapsed() -> float:
    """Seconds since boot, time asleep included where the system can tell (``CLOCK_BOOTTIME``, Linux)."""
    return _elapsed()


def _elapsed_source() -> Callable[[], float]:
    # CLOCK_MONOTONIC stands still while a Linux host sleeps: a lease would then outlive its time by the length of the
    # nap.
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    if clock is None:
        return time.monotonic
    return lambda: time.clock_gettime(clock)


_elapsed = _elapsed_source()
