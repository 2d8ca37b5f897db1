"""Sessions of people who have logged in, and the lock-out of those who try to.

Rules
1. A session is known by the digest of a random id; the id itself is in the browser's cookie only. Every login makes a
   new one and ends the one that came with it.
2. It ends when nothing was asked for ``idle``, at the latest after ``most`` seconds, at its logout, and as soon as its
   user has another version (password, role, second factor) or is gone: that is looked at each time it is used.
3. Sessions live in memory: a restart logs everybody out, and nothing of them can be read from a disk.
4. An attempt is counted before it is judged, so that hanging up saves nobody a failure; a success forgets it. After
   five failures a user's logins pause: one second, doubled with each further failure, at most a quarter of an hour.
   Names that nobody has pause alike. A pause ends no session, and neither keys nor the admin socket know of it.

Limits: whoever knows a user's name can keep that user from logging in over the network, a quarter of an hour at a
time; the admin socket is the way around. The failures of unknown names are forgotten beyond 10,000 of them.
"""

from __future__ import annotations

import hmac
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

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
MOST_NAMES: Final = 10_000


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
    count: int
    last: float


class Lockout:
    """Rule 4."""

    def __init__(self) -> None:
        self._known: dict[str, _Failures] = {}
        self._strangers: OrderedDict[str, _Failures] = OrderedDict()

    def attempt(self, name: str, *, known: bool, elapsed: float) -> None:
        """Count an attempt. Raises TooManyRequests during a pause."""
        kept = self._known if known else self._strangers
        failures = kept.get(name)
        if failures is None or elapsed - failures.last >= FORGOTTEN_AFTER:
            failures = kept[name] = _Failures(0, -math.inf)
        wait = failures.last + pause(failures.count) - elapsed
        if wait > 0:
            raise TooManyRequests(
                "Too many logins of this user have failed; wait before the next, or ask for help at the server itself.",
                retry_after_seconds=math.ceil(wait),
            )
        failures.count += 1
        failures.last = elapsed
        if not known:
            self._strangers.move_to_end(name)
            if len(self._strangers) > MOST_NAMES:
                self._strangers.popitem(last=False)

    def forgive(self, name: str) -> None:
        """It succeeded, or the password was set anew."""
        self._known.pop(name, None)
        self._strangers.pop(name, None)


def pause(failures: int) -> float:
    """Seconds to wait after so many failures."""
    if failures < FREE_FAILURES:
        return 0.0
    return min(LONGEST_PAUSE, 2.0 ** min(failures - FREE_FAILURES, 20))
