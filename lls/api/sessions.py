"""Sessions of people who have logged in, and the lock-out of those who try to.

Rules
1. A session is known by the digest of a random id; the id itself is in the browser's cookie only. Every login makes a
   new one and ends the one that came with it.
2. It ends when nothing was asked for ``idle``, at the latest after ``most`` seconds, at its logout, and as soon as its
   user has another version (password, role, second factor) or is gone: that is looked at each time it is used.
3. Sessions live in memory: a restart logs everybody out, and nothing of them can be read from a disk.
4. An attempt is counted before it is judged, so that hanging up saves nobody a failure. Names that nobody has pause
   alike. A pause ends no session, and neither keys nor the admin socket know of it.
5. What is counted first is a user's failures from one address: after five, that user's logins from there pause, one
   second, doubled with each further failure, at most a quarter of an hour. That is about a hundred guesses a day, and
   whoever fails elsewhere in somebody's name keeps nobody out. A success forgets what failed from its address.
6. Many addresses would multiply those guesses, so a user's failures from all of them are counted, too, in a bucket that
   leaks one in ten minutes: more than one address can fill by rule 5, so no single stranger slows anybody elsewhere.
   Above 100 the user's logins from anywhere pause, one second, doubled up to five minutes: after the first hundred,
   fewer than three hundred guesses a day from however many addresses. A success takes its own address's failures out
   of this bucket, as far as they have not leaked, and no others: else a user who logs in each morning would give every
   guesser a fresh hundred.
7. An address from which the user has logged in since the start is known by that, and rule 6 keeps nobody there waiting.
   Who guesses from there is one of the same machine, network or proxy, and rule 5 counts what they do.
8. Memory is bounded: of users, of other names and of known addresses 10,000 entries each, the oldest go first. Filling
   them takes failures, and where they all are in the name of one user, rule 6 has long begun.

Limits: who shares an address with a user (a terminal server, NAT, a proxy that is not named as trusted) can still pause
that user's logins from it; and while many addresses fail in a user's name, that user waits up to five minutes at a time
at an address that is not known, and may meet somebody else's attempt there. The admin socket is the way around.
"""

from __future__ import annotations

import hmac
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, TypeVar

from lls.api.auth import counted_as
from lls.api.credentials import digest, new_token
from lls.faults import TooManyRequests
from lls.licensing.account import User

COOKIE: Final = "__Host-lls"
TOKEN_HEADER: Final = "X-LLS-Token"  # noqa: S105  # a header's name
MOST_SESSIONS: Final = 1_000
MOST_OF_A_USER: Final = 16

FREE_FAILURES: Final = 5
LONGEST_PAUSE: Final = 900.0
FORGOTTEN_AFTER: Final = 6 * 3_600.0
FREE_ANYWHERE: Final = 100
LONGEST_ANYWHERE: Final = 300.0
LEAKS_EVERY: Final = 600.0
MOST_KEPT: Final = 10_000

_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry")


@dataclass(slots=True, kw_only=True)
class Session:
    """One login. ``*_at`` are elapsed seconds; ``token`` goes with every request that changes something."""

    user: str
    version: int
    begun_at: float
    used_at: float
    token: str = field(repr=False)


class Sessions:
    """Rules 1 to 3. ``elapsed`` are seconds that never go back."""

    def __init__(self, *, idle: float, most: float) -> None:
        self.idle, self.most = idle, most
        self._open: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        """How many are open, those included that nobody has looked at since they ended."""
        return len(self._open)

    def begin(self, user: User, *, elapsed: float) -> tuple[str, Session]:
        """A new session with its id. Beyond what memory is for, the user's oldest ends, then anybody's."""
        mine = [key for key, session in self._open.items() if session.user == user.name]
        for key in mine[: max(0, len(mine) - MOST_OF_A_USER + 1)]:
            del self._open[key]
        while len(self._open) >= MOST_SESSIONS:
            self._open.popitem(last=False)
        session_id = new_token()
        session = Session(user=user.name, version=user.version, begun_at=elapsed, used_at=elapsed, token=new_token())
        self._open[digest(session_id)] = session
        return session_id, session

    def find(self, session_id: str, *, elapsed: float) -> Session | None:
        """An open session, used again now."""
        key = digest(session_id)
        session = self._open.get(key)
        if session is None:
            return None
        if elapsed - session.used_at >= self.idle or elapsed - session.begun_at >= self.most:
            del self._open[key]
            return None
        session.used_at = elapsed
        return session

    def end(self, session_id: str) -> None:
        """Log out; again changes nothing."""
        self._open.pop(digest(session_id), None)

    def left(self, session: Session, *, elapsed: float) -> int:
        """Seconds until it ends if nothing is asked."""
        return max(0, int(min(session.used_at + self.idle, session.begun_at + self.most) - elapsed))


def right_token(session: Session, given: str | None) -> bool:
    """Whether the request carries the session's token."""
    return given is not None and hmac.compare_digest(session.token.encode(), given.encode("utf-8", "surrogateescape"))


@dataclass(slots=True)
class _Failures:
    """``level``: how many of them may still be in the bucket of rule 6; it leaks as that one does."""

    count: int
    last: float
    level: float = 0.0

    def level_at(self, elapsed: float) -> float:
        """What has not leaked by then."""
        return max(0.0, self.level - (elapsed - self.last) / LEAKS_EVERY)


class _Kept:
    """Failures of names: from each address, and from all of them."""

    def __init__(self) -> None:
        self.here: OrderedDict[tuple[str, str], _Failures] = OrderedDict()
        self.anywhere: OrderedDict[str, _Failures] = OrderedDict()


class Lockout:
    """Rules 4 to 8."""

    def __init__(self) -> None:
        self._users, self._strangers = _Kept(), _Kept()
        self._familiar: OrderedDict[tuple[str, str], None] = OrderedDict()

    def attempt(self, name: str, *, address: str, known: bool, elapsed: float) -> None:
        """Count an attempt. Raises TooManyRequests during a pause."""
        place = name, counted_as(address)
        kept = self._users if known else self._strangers
        here = kept.here.get(place)
        if here is None or elapsed - here.last >= FORGOTTEN_AFTER:
            here = _Failures(0, -math.inf)
        anywhere = kept.anywhere.get(name) or _Failures(0, elapsed)
        level = anywhere.level_at(elapsed)
        ends = here.last + pause(here.count)
        if place not in self._familiar:
            ends = max(ends, anywhere.last + pause(level, free=FREE_ANYWHERE, longest=LONGEST_ANYWHERE))
        if ends > elapsed:
            raise TooManyRequests(
                "Too many logins of this user have failed; wait before the next, or ask for help at the server itself.",
                retry_after_seconds=math.ceil(ends - elapsed),
            )
        _keep(kept.here, place, _Failures(here.count + 1, elapsed, here.level_at(elapsed) + 1))
        _keep(kept.anywhere, name, _Failures(anywhere.count + 1, elapsed, level + 1))

    def succeeded(self, name: str, *, address: str) -> None:
        """The user was there, at this address."""
        place = name, counted_as(address)
        failed, anywhere = self._users.here.pop(place, None), self._users.anywhere.get(name)
        if failed is not None and anywhere is not None:
            anywhere.level = max(0.0, anywhere.level - failed.level)
        _keep(self._familiar, place, None)

    def forgive(self, name: str) -> None:
        """The password was set anew: whatever failed before, from wherever."""
        for kept in (self._users, self._strangers):
            kept.anywhere.pop(name, None)
            for place in [place for place in kept.here if place[0] == name]:
                del kept.here[place]


def _keep(entries: OrderedDict[_Key, _Entry], key: _Key, entry: _Entry) -> None:
    entries[key] = entry
    entries.move_to_end(key)
    if len(entries) > MOST_KEPT:
        entries.popitem(last=False)


def pause(failures: float, *, free: int = FREE_FAILURES, longest: float = LONGEST_PAUSE) -> float:
    """Seconds to wait after so many failures."""
    if failures < free:
        return 0.0
    return min(longest, math.pow(2.0, min(failures - free, 20.0)))
