"""Feature calls that were answered, by lease and request id: a repetition gets its answer and takes nothing.

Rules (contract §2)
1. Each is kept 25 hours of guarded time, across restarts, whatever became of its lease; a use that may be undone for
   longer under the terms of its call is kept as long, until it is undone or closed.
2. The store drops its rows by the same instants, never one that is known here.
3. Forgetting is bounded work: at most 10,000 a turn, and a turn a minute when there is no more to do.
4. Where the vendor set the clock back, a request lies in the future. Nobody knows any more how long ago it was: it is
   kept 25 hours from when that was seen, and can never be undone, whatever the clock says later.

It refuses to own what a request did (``meters``), and to know what was answered before the group in flight: only verbs
ask, and none runs on a ledger whose commit failed.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Final, TypeAlias

from lls.licensing.changes import REQUESTS_KEPT, AnsweredRequest
from lls.licensing.instant import Now

MOST_FORGOTTEN: Final = 10_000
FORGETTING_SECONDS: Final = 60.0

Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What the store is to do: drop what was kept until ``before`` (None: nothing), write what is ``changed``."""

    before: datetime | None = None
    changed: Sequence[AnsweredRequest] = ()


class Answered:
    """The requests of one server; ``requests`` come in the order of their instants."""

    def __init__(self, requests: Iterable[AnsweredRequest]) -> None:
        self._fresh: dict[Key, AnsweredRequest] = {}
        """In the order of their instants, for 25 hours."""
        self._late: dict[Key, AnsweredRequest] = {}
        """With an end of their own: they may be undone for longer, or are of a future that was taken back."""
        self._ends: list[tuple[datetime, Key]] = []
        """Of the late ones, the earliest first; one too many does no harm."""
        self._latest = _LONG_AGO
        self._next_turn = float("-inf")
        for kept in requests:
            self._latest = max(self._latest, kept.at)
            if kept.kept_until is None or kept.kept_until > kept.at + REQUESTS_KEPT:
                self._fresh[kept.lease_id, kept.request_id] = kept
            else:
                self._keep_late((kept.lease_id, kept.request_id), kept)

    def get(self, lease_id: str, request_id: str) -> AnsweredRequest | None:
        """The request of that id."""
        key = lease_id, request_id
        return self._fresh.get(key) or self._late.get(key)

    def open_uses(self, entitlement_id: str) -> list[AnsweredRequest]:
        """The uses of an entitlement that were neither undone nor closed: a walk, for rare commands."""
        return [
            one
            for one in chain(self._fresh.values(), self._late.values())
            if one.draws and one.entitlement_id == entitlement_id and not one.undone
        ]

    def keep(self, request: AnsweredRequest) -> None:
        """A new request, or another state of a known one."""
        key = request.lease_id, request.request_id
        self._latest = max(self._latest, request.at)
        self._put(key, request)

    def forget(self, now: Now) -> Forgotten:
        """Drop what was kept long enough, a turn's worth."""
        if now.elapsed < self._next_turn:
            return _NOTHING
        changed = self._set_aside(now)
        due = self._due(now)
        for key in due:
            request = self._fresh.pop(key)
            if request.kept_until is not None and request.kept_until > now.wall:
                self._keep_late(key, request)
        gone = self._gone_late(now)
        if max(len(changed), len(due), gone) < MOST_FORGOTTEN:
            self._next_turn = now.elapsed + FORGETTING_SECONDS
        if not due and not gone:
            return Forgotten(changed=changed)
        left = [one.at + REQUESTS_KEPT for one in islice(self._fresh.values(), 1)] + [at for at, _ in self._ends[:1]]
        return Forgotten(before=min([now.wall, *left]), changed=changed)

    def _set_aside(self, now: Now) -> Sequence[AnsweredRequest]:
        """Those of the future, closed. Only a clock that was set back brings any, so mostly nobody looks."""
        if self._latest <= now.wall:
            return ()
        until = now.wall + REQUESTS_KEPT
        ahead = [
            (key, one)
            for key, one in chain(self._fresh.items(), self._late.items())
            if one.at > now.wall and (key in self._fresh or not _is_aside(one, until))
        ]
        changed = []
        for key, one in ahead[:MOST_FORGOTTEN]:
            closed = one if _is_aside(one, until) else replace(one, draws=(), kept_until=until)
            if closed is not one:
                changed.append(closed)
            self._fresh.pop(key, None)
            self._keep_late(key, closed)
        if len(ahead) <= MOST_FORGOTTEN:
            self._latest = now.wall
        return changed

    def _due(self, now: Now) -> list[Key]:
        oldest, due = now.wall - REQUESTS_KEPT, list[Key]()
        for key, request in islice(self._fresh.items(), MOST_FORGOTTEN):
            if request.at >= oldest:
                break
            due.append(key)
        return due

    def _gone_late(self, now: Now) -> int:
        """How many ends were looked at; of several ends of one request the last that it was given counts."""
        count = 0
        while self._ends and self._ends[0][0] < now.wall and count < MOST_FORGOTTEN:
            ends, key = heapq.heappop(self._ends)
            request = self._late.get(key)
            if request is not None and _end_of(request) <= ends:
                del self._late[key]
            count += 1
        return count

    def _put(self, key: Key, request: AnsweredRequest) -> None:
        if key in self._late:
            self._keep_late(key, request)
        else:
            self._fresh[key] = request

    def _keep_late(self, key: Key, request: AnsweredRequest) -> None:
        self._late[key] = request
        heapq.heappush(self._ends, (_end_of(request), key))


_NOTHING: Final = Forgotten()
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


def _end_of(request: AnsweredRequest) -> datetime:
    return request.kept_until or request.at + REQUESTS_KEPT


def _is_aside(request: AnsweredRequest, until: datetime) -> bool:
    return not request.draws and request.kept_until is not None and request.kept_until <= until
