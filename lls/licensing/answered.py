"""Feature calls that were answered, by lease and request id: a repetition gets its answer and takes nothing.

Rules (contract §2)
1. Each is kept 25 hours of guarded time, across restarts, whatever became of its lease; a use that may still be undone
   is kept as long as it may.
2. Forgetting is bounded work: at most 10,000 a turn, and a turn a minute when there is no more to do.
3. Where the vendor set the clock back, a request lies in the future. It is kept 25 hours of elapsed time from then on,
   and is no obstacle to forgetting those behind it.

It refuses to own what a request did (``meters``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, TypeAlias

from lls.licensing.changes import AnsweredRequest
from lls.licensing.instant import Now

REQUESTS_KEPT: Final = timedelta(hours=25)
MOST_FORGOTTEN: Final = 10_000
FORGETTING_SECONDS: Final = 60.0

Key: TypeAlias = tuple[str, str]


class Answered:
    """The requests of one server; ``requests`` come in the order of their instants."""

    def __init__(self, requests: Iterable[AnsweredRequest]) -> None:
        self._fresh: dict[Key, AnsweredRequest] = {(kept.lease_id, kept.request_id): kept for kept in requests}
        self._late: dict[Key, AnsweredRequest] = {}
        """Past their 25 hours, kept because they may still be undone."""
        self._ahead: dict[Key, tuple[AnsweredRequest, float]] = {}
        """Of a future that the vendor took back, with the elapsed time at which that was seen."""
        self._before: dict[Key, AnsweredRequest | None] = {}
        self._next_turn = float("-inf")

    def get(self, lease_id: str, request_id: str) -> AnsweredRequest | None:
        """The request of that id."""
        key = lease_id, request_id
        kept = self._fresh.get(key) or self._late.get(key)
        if kept is None and key in self._ahead:
            return self._ahead[key][0]
        return kept

    def of(self, entitlement_id: str, feature: str) -> list[AnsweredRequest]:
        """All requests of one feature: a walk through everything, for the vendor's rare commands."""
        kept = [*self._fresh.values(), *self._late.values(), *(one for one, _seen in self._ahead.values())]
        return [one for one in kept if one.feature == feature and one.entitlement_id == entitlement_id]

    def keep(self, request: AnsweredRequest) -> None:
        """A new request, or another state of a known one."""
        key = request.lease_id, request.request_id
        if key not in self._before:
            self._before[key] = self.get(*key)
        self._put(key, request)

    def settle(self) -> None:
        """The store has the group in flight."""
        self._before.clear()

    def abandon(self) -> None:
        """The store has not taken the group in flight: what it answered was never answered."""
        for key, before in self._before.items():
            if before is None:
                for kept in (self._fresh, self._late, self._ahead):
                    kept.pop(key, None)
            else:
                self._put(key, before)
        self._before.clear()

    def forget(self, now: Now, *, undoable_for: Callable[[AnsweredRequest], timedelta]) -> datetime | None:
        """Drop what was kept long enough; the instant before which the store may drop its rows, when there are any."""
        if now.elapsed < self._next_turn:
            return None
        oldest = now.wall - REQUESTS_KEPT
        due = self._due(now, oldest)
        for key in due:
            request = self._fresh.pop(key)
            if request.at > now.wall:
                self._ahead[key] = request, now.elapsed
            elif now.wall - request.at < undoable_for(request):
                self._late[key] = request
        gone = [*self._gone_ahead(now), *self._gone_late(now, undoable_for)]
        if max(len(due), len(gone)) < MOST_FORGOTTEN:
            self._next_turn = now.elapsed + FORGETTING_SECONDS
        left = [next(iter(kept.values())).at for kept in (self._fresh, self._late) if kept]
        return min([oldest, *left]) if due or gone else None

    def _due(self, now: Now, oldest: datetime) -> list[Key]:
        due: list[Key] = []
        for key, request in islice(self._fresh.items(), MOST_FORGOTTEN):
            if oldest <= request.at <= now.wall:
                break
            due.append(key)
        return due

    def _gone_ahead(self, now: Now) -> list[Key]:
        seen_before = now.elapsed - REQUESTS_KEPT.total_seconds()
        gone = [key for key, (_one, seen) in islice(self._ahead.items(), MOST_FORGOTTEN) if seen < seen_before]
        for key in gone:
            del self._ahead[key]
        return gone

    def _gone_late(self, now: Now, undoable_for: Callable[[AnsweredRequest], timedelta]) -> list[Key]:
        gone: list[Key] = []
        for key, request in islice(self._late.items(), MOST_FORGOTTEN):
            if now.wall - request.at < undoable_for(request):
                break
            gone.append(key)
        for key in gone:
            del self._late[key]
        return gone

    def _put(self, key: Key, request: AnsweredRequest) -> None:
        if key in self._ahead:
            self._ahead[key] = request, self._ahead[key][1]
        elif key in self._late:
            self._late[key] = request
        else:
            self._fresh[key] = request
