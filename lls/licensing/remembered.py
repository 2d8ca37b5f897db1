"""Lease ids that must not be granted: those that ended, and those that were given back before they ever arrived.

Rules (contract §2)
1. An ended id is kept at least 24 hours, across restarts, with its secret and the reason: a late retry gets the truth,
   never a second seat.
2. A checkin of an unknown id is remembered for ten minutes, in memory: its checkout, or the loan that is shown after a
   restore, may have been overtaken on the way. It binds only who brings the same secret, so nobody can spoil another's
   id. At most 10,000 are kept.
3. Forgetting is bounded work: at most 10,000 ids a turn, and a turn a minute when there is no more to do.
4. Where the vendor set the clock back, an end lies in the future. It counts as one of now: kept no shorter than it
   should be, and no obstacle to forgetting those behind it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, TypeVar

from lls.faults import LeaseEnd, LeaseEnded, LeaseIdTaken
from lls.licensing.changes import Ended
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout

T = TypeVar("T")

ENDED_KEPT: Final = timedelta(hours=25)
UNKNOWN_KEPT_SECONDS: Final = 600.0
MOST_UNKNOWN: Final = 10_000
MOST_FORGOTTEN: Final = 10_000
FORGETTING_SECONDS: Final = 60.0


class Remembered:
    """The ids of one ledger; ``ended`` is in the order of its instants."""

    def __init__(self, ended: Mapping[str, Ended]) -> None:
        self._ended = dict(ended)
        self._unknown: dict[str, tuple[bytes, float]] = {}
        self._next_turn = float("-inf")

    def end(self, lease_id: str, ended: Ended) -> None:
        """A lease ended."""
        self._ended[lease_id] = ended

    def ended(self, lease_id: str) -> Ended | None:
        """How a lease of that id ended."""
        return self._ended.get(lease_id)

    def refuse(self, request: Checkout) -> None:
        """Raise LeaseIdTaken or LeaseEnded when this id must not be granted."""
        ended = self._ended.get(request.lease_id)
        if ended is not None:
            if not hmac.compare_digest(ended.secret, request.secret):
                raise LeaseIdTaken
            raise LeaseEnded(ended.reason)
        if self.given_back(request.lease_id, secret=request.secret):
            raise LeaseEnded(LeaseEnd.CHECKED_IN)

    def given_back(self, lease_id: str, *, secret: bytes) -> bool:
        """Whether its holder gave an id back that nobody had seen (rule 2)."""
        unknown = self._unknown.get(lease_id)
        return unknown is not None and hmac.compare_digest(unknown[0], secret)

    def note_unknown(self, lease_id: str, *, secret: bytes, now: Now) -> None:
        """A checkin came for an id that nobody has seen."""
        if lease_id in self._ended:
            return
        self._unknown.pop(lease_id, None)  # the newest stands last
        self._unknown[lease_id] = secret, now.elapsed
        if len(self._unknown) > MOST_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]

    def adopt(self, old: Remembered) -> None:
        """Take over what lives in memory only."""
        self._unknown = old._unknown

    def forget(self, now: Now) -> datetime | None:
        """Drop what was kept long enough; the instant before which the store may drop its rows, when there are any."""
        for lease_id in list(_until(self._unknown.items(), lambda kept: kept[1] > now.elapsed - UNKNOWN_KEPT_SECONDS)):
            del self._unknown[lease_id]
        if now.elapsed < self._next_turn:
            return None
        oldest = now.wall - ENDED_KEPT
        due = list(islice(_until(self._ended.items(), lambda ended: oldest <= ended.at <= now.wall), MOST_FORGOTTEN))
        for lease_id in due:
            ended = self._ended.pop(lease_id)
            if ended.at > now.wall:
                self._ended[lease_id] = replace(ended, at=now.wall)
        if len(due) < MOST_FORGOTTEN:
            self._next_turn = now.elapsed + FORGETTING_SECONDS
            return oldest if due else None
        left = next(iter(self._ended.values()), None)
        return oldest if left is None else min(oldest, left.at)


def _until(items: Iterable[tuple[str, T]], keep: Callable[[T], bool]) -> Iterator[str]:
    """The keys of an insertion-ordered mapping up to the first value that is to be kept."""
    for key, value in items:
        if keep(value):
            return
        yield key
