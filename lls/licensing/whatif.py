"""What if: how many of the denials that the journal tells another number of seats would have left.

The model, in order
1. Only ``no_seat`` counts as a true denial: nobody could have been seated. What a rule of the site or the terms refused
   more seats would have refused as well; missing units of a feature are no missing seats.
2. All entitlements of the product are one pool of ``seats``. Its real level is what the journal says is taken, whatever
   was bought at that moment.
3. A true denial would have been a seat where the real level, the hypothetical seats and what was asked for together are
   at most ``seats`` at the instant of its line.
4. Such a seat is held until the same machine's next real lease of the product, else for the mean duration of the real
   leases that have ended by then, at least a minute. The mean runs along with the lines, so one pass is enough and the
   same lines always give the same answer.
5. A machine's repeats within a minute are one wish with its first denial and share its fate: the journal tells the
   first at once (with its holder's names) and counts the rest in a line at the minute's end, when the level may be
   another one. A machine that would have a seat asks for no second one. Denials without a holder (beyond 1,000 a
   minute) are as many wishes, judged where they stand.
6. What was really granted stays granted. So hypothetical and real seats together may pass ``seats`` later on, and fewer
   seats than there were make no denial that there was not.

What follows: never more remain than there were. From the peak of an unlimited number of seats on, none remain (asked
of the whole journal). With today's seats and overdraft all remain, except where a seat was free and yet not to be had:
it was promised to somebody who waits; it belonged to another entitlement (code, edition, version); or the line has no
holder, or is from a release that did not tell a first denial from repeats.

State is held per lease that runs, per hypothetical seat and per denied machine; never per line.

It refuses to own what the denial itself judged (``seating``) and the levels that are billed (``usage``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import takewhile
from typing import Any, Final

from lls.licensing.denial import Cause, cause_of
from lls.licensing.fields import LARGEST, Fields, read_instant
from lls.licensing.journal import Kind

ASSUMPTION: Final = (
    "All entitlements of the product are one pool. Whoever would have found a seat keeps it until the same machine's"
    " next real lease, else for the mean time of the leases that had ended by then, at least a minute. What was really"
    " granted stays granted."
)

_NO_SEAT: Final = "no_seat"
_FREEING: Final = {Kind.RETURNED, Kind.EXPIRED, Kind.RELEASED}
_EMPTYING: Final = {Kind.DISTRUSTED, Kind.RETURNED_ENTITLEMENT}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SHORTEST: Final = 60_000_000
"""How long a hypothetical seat is held at least, in microseconds like all that follows."""
_SAME_WISH: Final = _SHORTEST + 15_000_000
"""A minute of denials, and some: the ledger looks for its end from time to time."""
_NOWHERE: Final = -(2**62)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What so many seats of a product would have done, in the lines of the range."""

    product: str
    seats: int
    requests: int
    """How often a seat was asked for: leases that were granted, and ``denials``."""
    denials: int
    """Refused requests, whatever refused them."""
    denied_holders: int
    """Machines among them; those that the server no longer told apart are not counted."""
    true_denials: int
    """Denials because all seats were taken."""
    policy_denials: int
    """Denials because of the site's own rules."""
    would_remain: int
    """How many of the true denials would have been left."""
    would_remain_holders: int
    """Machines among those."""
    peak: int
    """The most seats that would have been in use, real and hypothetical ones."""
    lines_read: int
    assumption: str
    """What the answer rests on, in words."""


class WhatIf:
    """Replays a journal for one product: ``step`` each line in order from the first one on, then ask ``result``.

    ``since`` (included) and ``until`` (not included) bound what is counted; lines outside only move the levels. Raises
    ValueError for less than no seats.
    """

    def __init__(
        self, product: str, *, seats: int, since: datetime | None = None, until: datetime | None = None
    ) -> None:
        if seats < 0:
            raise ValueError("There are no fewer than no seats.")
        self._product = product
        self._seats = seats
        self._since = since
        self._until = until
        self._count = _Count()
        self._now = _NOWHERE
        self._reset_to: int | None = None
        self._counting = False
        self._levels: dict[str, int] = {}
        self._real = 0
        self._granted_at: dict[str, int] = {}
        self._leases_ended = 0
        self._time_leased = 0
        self._guests = _Guests()
        self._wishes: dict[str, _Wish] = {}

    def step(self, line: Mapping[str, Any]) -> None:
        """The next line of the journal: an object with ``at``, ``kind`` and ``data``.

        Raises :class:`~lls.faults.RefusedDocument` (``malformed``) that names a member which the ledger never writes.
        """
        at = line["at"]
        at = at if isinstance(at, datetime) else read_instant(at, place="at")
        self._advance((at - _EPOCH) // _MICROSECOND)
        self._count.lines += 1
        self._counting = (self._since is None or self._since <= at) and (self._until is None or at < self._until)
        self._note_peak()
        data, kind = Fields(line["data"], place="data"), line["kind"]
        if kind == Kind.GRANTED:
            self._granted(data)
        elif kind in _FREEING:
            self._freed(data)
        elif kind == Kind.DENIED:
            self._denied(data)
        elif kind == Kind.INSTALLED:
            self._installed(data)
        elif kind == Kind.RESTORED:
            self._restored(data)
        elif kind in _EMPTYING:
            self._take(data.text("entitlement_id"), None)
        self._note_peak()

    def result(self) -> Outcome:
        """The answer of all that was stepped so far; the replay may go on afterwards."""
        count = self._count
        return Outcome(
            product=self._product,
            seats=self._seats,
            requests=count.granted + count.denials,
            denials=count.denials,
            denied_holders=len(count.holders),
            true_denials=count.true_denials,
            policy_denials=count.policy_denials,
            would_remain=count.left,
            would_remain_holders=len(count.left_holders),
            peak=count.peak,
            lines_read=count.lines,
            assumption=ASSUMPTION,
        )

    def _advance(self, at: int) -> None:
        """Time goes on. Back it goes only where the vendor put a clock right: what was hypothetical is over then."""
        if at > self._now:
            self._now, self._reset_to = at, None
        elif self._reset_to is not None and self._reset_to <= at < self._now:
            self._now, self._reset_to = at, None
            self._guests, self._wishes = _Guests(), {}
        self._guests.end(self._now)
        for holder in [*takewhile(lambda one: self._wishes[one].until < self._now, self._wishes)]:
            del self._wishes[holder]

    def _granted(self, data: Fields) -> None:
        if data.text("product") != self._product:
            return
        entitlement_id = data.text("entitlement_id")
        self._take(entitlement_id, self._levels.get(entitlement_id, 0) + data.integer("taken", least=-LARGEST))
        self._granted_at[data.text("lease_id")] = self._now
        self._guests.leave(data.object("holder").text("seat_id"))
        self._count.granted += self._counting

    def _freed(self, data: Fields) -> None:
        entitlement_id, freed = data.text("entitlement_id"), data.integer("freed")
        if entitlement_id in self._levels:
            self._take(entitlement_id, max(0, self._levels[entitlement_id] - freed))
        granted_at = self._granted_at.pop(data.text("lease_id"), None)
        if granted_at is not None and granted_at <= self._now:  # not where a clock was put right in between
            self._leases_ended += 1
            self._time_leased += self._now - granted_at

    def _installed(self, data: Fields) -> None:
        if data.has("clock_reset_to"):
            self._reset_to = (data.instant("clock_reset_to") - _EPOCH) // _MICROSECOND
        for item in data.objects("entitlements"):
            entitlement_id, in_use = item.text("entitlement_id"), item.optional_integer("in_use")
            if item.text("product") != self._product:
                self._take(entitlement_id, None)
            else:
                self._take(entitlement_id, self._levels.get(entitlement_id, 0) if in_use is None else in_use)

    def _restored(self, data: Fields) -> None:
        """The server begins here from a backup: what was known before of leases and machines is known no more."""
        if data.integer("part", least=1) == 1:
            self._levels, self._real, self._granted_at = {}, 0, {}
            self._guests, self._wishes = _Guests(), {}
        self._installed(data)

    def _denied(self, data: Fields) -> None:
        if data.text("product") != self._product:
            return
        code, count, holder = data.text("code"), data.integer("count", least=1), data.optional_text("holder")
        true = code == _NO_SEAT
        asked, first = data.integer("seats", least=1), data.has("named")
        left = self._left(holder, asked=asked, count=count, first=first) if true else 0
        if self._counting:
            self._count.note(holder, count=count, true=true, by_policy=cause_of(code) is Cause.POLICY, left=left)

    def _left(self, holder: str | None, *, asked: int, count: int, first: bool) -> int:
        """How many of these true denials would have been left."""
        if holder is None:
            return count - self._seat_strangers(asked, count)
        wish = None if first else self._wishes.get(holder)
        if wish is None:
            wish = self._wish(holder, asked)
        return 0 if wish.granted else count

    def _seat_strangers(self, asked: int, count: int) -> int:
        seated = min(count, self._free // asked)
        if seated:
            self._guests.seat(None, asked * seated, until=self._now + self._stay)
        return seated

    def _wish(self, holder: str, asked: int) -> _Wish:
        sits = holder in self._guests.by_holder
        granted = sits or asked <= self._free
        if granted and not sits:
            self._guests.seat(holder, asked, until=self._now + self._stay)
        self._wishes.pop(holder, None)  # they stand in the order of their ends
        wish = self._wishes[holder] = _Wish(until=self._now + _SAME_WISH, granted=granted)
        return wish

    def _take(self, entitlement_id: str, level: int | None) -> None:
        """The real level of an entitlement; None: it is none of the product's any more."""
        self._real += (level or 0) - self._levels.pop(entitlement_id, 0)
        if level is not None:
            self._levels[entitlement_id] = level

    @property
    def _level(self) -> int:
        return self._real + self._guests.seats

    @property
    def _free(self) -> int:
        return max(0, self._seats - self._level)

    @property
    def _stay(self) -> int:
        """How long a hypothetical seat is held that begins now."""
        return max(_SHORTEST, self._time_leased // self._leases_ended if self._leases_ended else 0)

    def _note_peak(self) -> None:
        if self._counting:
            self._count.peak = max(self._count.peak, self._level)


@dataclass(slots=True)
class _Count:
    """What the range gave so far."""

    lines: int = 0
    granted: int = 0
    denials: int = 0
    true_denials: int = 0
    policy_denials: int = 0
    left: int = 0
    peak: int = 0
    holders: set[str] = field(default_factory=set)
    left_holders: set[str] = field(default_factory=set)

    def note(self, holder: str | None, *, count: int, true: bool, by_policy: bool, left: int) -> None:
        self.denials += count
        self.true_denials += count if true else 0
        self.policy_denials += count if by_policy else 0
        self.left += left
        if holder is not None:
            self.holders.add(holder)
            if left:
                self.left_holders.add(holder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """A machine's first denial of a minute, and whether it would have been a seat."""

    until: int
    granted: bool


class _Guests:
    """Those who would have a seat, by the instant at which they would leave it."""

    def __init__(self) -> None:
        self.seats = 0
        self.by_holder: dict[str, int] = {}
        """Which of the seatings is the holder's own."""
        self._held: dict[int, int] = {}
        self._ends: list[tuple[int, int, str | None]] = []
        self._seatings = 0

    def seat(self, holder: str | None, seats: int, *, until: int) -> None:
        self._seatings += 1
        self._held[self._seatings] = seats
        self.seats += seats
        if holder is not None:
            self.by_holder[holder] = self._seatings
        heappush(self._ends, (until, self._seatings, holder))

    def leave(self, holder: str) -> None:
        """Its next real lease takes the place of the hypothetical one."""
        seating = self.by_holder.pop(holder, None)
        if seating is not None:
            self.seats -= self._held.pop(seating)

    def end(self, now: int) -> None:
        """All whose time is over leave."""
        while self._ends and self._ends[0][0] <= now:
            _, seating, holder = heappop(self._ends)
            self.seats -= self._held.pop(seating, 0)
            if holder is not None and self.by_holder.get(holder) == seating:
                del self.by_holder[holder]
