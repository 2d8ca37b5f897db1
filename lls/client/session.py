"""One seat's life as a pure state machine: what to send next, and what an answer means. No I/O, no clock, no thread.

States: *entering* (the first checkout), *held*, *regaining* (lost, checking out again), *parked* (lost, and asking
again would be wrong), *borrowed*, *closed*.

Rules
1. An unanswered question is repeated with its nonce, on any server of that lease, until it is answered; a new nonce
   comes with a higher beat. Otherwise the server would take us for two processes (contract §2, *Beats*).
2. A proof counts for its ``ttl`` from the moment its nonce was *first* sent, on the clock that includes sleep. An
   answer to a nonce older than one interval is followed by a fresh beat at once, so that an old nonce never sets
   the deadline for long.
3. ``lease_cloned``: drop the lease, *never* DELETE it (the other process may be the rightful one), new id and new
   secret.
4. ``unknown_lease`` and ``lease_ended``: the seat is gone; new id and secret, and ``regained`` when that worked. Except
   ``released``: an administrator took it back, and taking it again behind their back would make that command a joke.
5. ``Retry-After`` is a lower bound; jitter comes on top, because a whole fleet heard the same number.
6. An outage is told once when it begins and once when it is over, not at every attempt.

Limits: the caller serialises the calls; time and randomness are passed in.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from .elapsed import Reading
from .errors import NoAnswer, Refused, Untrusted
from .trust import Capability, nonce_text
from .values import Event, EventKind, Grant, Lease, Order

Entropy = Callable[[int], bytes]

_LONGEST_ASK_SECONDS = 30
_NO_TIME_LEFT_SECONDS = 0.5
_LONGEST_RETRY_AFTER_SECONDS = 300.0
_SLEEP_JUMP_SECONDS = 2.0
_GAP_THAT_MEANS_SLEEP_SECONDS = 90.0
_MOST_NEW_IDS_WHILE_ENTERING = 3
_LOST_CODES = frozenset({"unknown_lease", "lease_ended", "lease_cloned"})


class Phase(StrEnum):
    """Where in its life a seat is."""

    ENTERING = "entering"
    HELD = "held"
    REGAINING = "regaining"
    PARKED = "parked"
    BORROWED = "borrowed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A checkout (beat 0) or a heartbeat, to be asked again unchanged until it is answered."""

    lease_id: str
    secret: str = field(repr=False)
    beat: int
    nonce: str
    asked_at: float
    wait_seconds: int = 0

    @property
    def is_checkout(self) -> bool:
        """A checkout is beat 0."""
        return self.beat == 0


class Session:
    """The decider: ``due``, send, then ``granted``, ``refused`` or ``unanswered``; ``tick`` when time has passed."""

    def __init__(
        self, order: Order, *, wait_seconds: float, patience_seconds: float, entropy: Entropy, now: Reading
    ) -> None:
        self.order = order
        self.phase = Phase.ENTERING
        self.failure: Refused | NoAnswer | None = None
        self.lease: Lease | None = None
        self.capability: Capability | None = None
        self.next_at = now.elapsed
        self._entropy = entropy
        self._wait_until = now.elapsed + wait_seconds
        self._patience_until = now.elapsed + max(wait_seconds, patience_seconds)
        self._ids_used = 0
        self._valid_until = float("-inf")
        self._interval = 60.0
        self._attempts = 0
        self._beat = 0
        self._pending: Question | None = None
        self._outage: EventKind | None = None
        self._refused_code = ""
        self._lost = False
        self._entered = False
        self._last = now
        self._take_new_id()

    # -- what the engine asks --

    @property
    def lease_id(self) -> str:
        """The id in use now; it changes when a lost seat is regained."""
        return self._lease_id

    @property
    def secret(self) -> str:
        """The secret that belongs to ``lease_id``."""
        return self._secret

    def valid(self, now: Reading) -> bool:
        """Is the seat proved at this instant."""
        if self.phase is Phase.BORROWED:
            return self.capability is not None and now.wall < self.capability.expires_at
        return self.phase is Phase.HELD and now.elapsed < self._valid_until

    def valid_seconds(self, now: Reading) -> float:
        """For how long the last proof still counts."""
        if not self.valid(now):
            return 0.0
        if self.phase is Phase.BORROWED and self.capability is not None:
            return self.capability.expires_at - now.wall
        return self._valid_until - now.elapsed

    def due(self, now: Reading) -> Question | None:
        """The question to send now; ``None``: not before ``next_at``, or never when parked, borrowed or closed."""
        if self.phase not in (Phase.ENTERING, Phase.HELD, Phase.REGAINING) or now.elapsed < self.next_at:
            return None
        if self._pending is None:
            if self.phase is Phase.HELD:
                self._beat += 1
            self._pending = Question(
                lease_id=self._lease_id,
                secret=self._secret,
                beat=self._beat,
                nonce=nonce_text(self._entropy(32)),
                asked_at=now.elapsed,
            )
        # `Prefer: wait` is not part of the content, so each repetition asks for what is left.
        return replace(self._pending, wait_seconds=self._wait_left(now) if self.phase is Phase.ENTERING else 0)

    # -- what the engine tells --

    def granted(self, question: Question, grant: Grant, now: Reading) -> list[Event]:
        """A verified answer came."""
        if not self._awaits(question):
            return []
        self._pending = None
        self._attempts = 0
        self._refused_code = ""
        self.phase = Phase.HELD
        self.capability = grant.capability
        self.lease = grant.lease or self.lease
        self._interval = grant.heartbeat_seconds
        self._valid_until = max(self._valid_until, question.asked_at + grant.capability.ttl_seconds)
        stale = now.elapsed - question.asked_at > self._interval
        self.next_at = now.elapsed if stale else now.elapsed + self._interval
        self._entered = self._entered or self.valid(now)
        if not self.valid(now) or not (self._lost or self._outage):
            return []
        detail = "The seat is held again." if self._lost else "The license server answers again."
        self._lost, self._outage = False, None
        return [self._event(EventKind.REGAINED, detail, now)]

    def refused(self, question: Question, refusal: Refused, now: Reading) -> list[Event]:
        """A genuine server said no."""
        if not self._awaits(question):
            return []
        self._pending = None
        self._outage = None
        if question.is_checkout:
            return self._checkout_refused(question, refusal, now)
        if refusal.code in _LOST_CODES:
            return self._lose(refusal, now)
        # Anything else (a mistyped proxy rule, a rule of a newer server) changes nothing in the lease: it stays
        # until its ttl.
        self.next_at = now.elapsed + self._delay(None)
        return self._told_once(refusal, now)

    def unanswered(self, question: Question, failure: NoAnswer, now: Reading) -> list[Event]:
        """The question stays pending, nonce and all."""
        if not self._awaits(question):
            return []
        delay = self._delay(failure.retry_after_seconds)
        self.next_at = now.elapsed + delay
        if not self._entered:
            if self.next_at >= self._patience_until:
                self._fail(failure)
            return []
        kind = EventKind.UNTRUSTED if isinstance(failure, Untrusted) else EventKind.NETWORK
        if self._outage is kind:
            return []
        self._outage = kind
        return [self._event(kind, str(failure), now, code=failure.code)]

    def tick(self, now: Reading) -> list[Event]:
        """Sees sleep and the end of the last proof. Call it after every nap and before trusting ``due``."""
        slept = _slept_seconds(self._last, now)
        self._last = now
        events: list[Event] = []
        if slept and self._entered and self.phase in (Phase.HELD, Phase.REGAINING):
            self.next_at = now.elapsed
            self._attempts = 0
            events.append(self._event(EventKind.SLEPT, f"The machine slept for about {slept:.0f} seconds.", now))
        if self._entered and not self._lost and self.phase in (Phase.HELD, Phase.BORROWED) and not self.valid(now):
            self._lost = True
            detail = "The seat could not be proved in time; it counts as lost until the server answers."
            events.append(self._event(EventKind.LEASE_ENDED, detail, now, code="lease_ended", reason="unproved"))
        return events

    def refresh(self, lease: Lease) -> None:
        """The lease shown by a later read, unless the session has gone on to another one meanwhile."""
        if lease.lease_id == self._lease_id:
            self.lease = lease

    def beat_now(self, now: Reading) -> None:
        """Ask at once; from *parked*, the person at the keyboard asked for the seat again."""
        if self.phase is Phase.PARKED:
            self._take_new_id()
            self.phase = Phase.REGAINING
        self.next_at = now.elapsed

    def borrowed(self, lease: Lease, capability: Capability) -> None:
        """The lease became one that needs no server."""
        self.phase = Phase.BORROWED
        self._pending = None
        self.lease, self.capability = lease, capability

    def close(self) -> None:
        """Nothing more is asked, and late answers change nothing."""
        self.phase = Phase.CLOSED
        self._pending = None

    # -- behind them --

    def _checkout_refused(self, question: Question, refusal: Refused, now: Reading) -> list[Event]:
        entering = self.phase is Phase.ENTERING
        if refusal.code in {"lease_ended", "unknown_lease", "lease_id_taken"}:
            # The checkout was granted, its answer was lost, and the lease ended before we asked again.
            self._take_new_id()
            if entering and self._ids_used > _MOST_NEW_IDS_WHILE_ENTERING:
                self._fail(refusal)
            self.next_at = now.elapsed + (0.0 if entering else self._delay(None))
            return []
        if not entering:
            self.next_at = now.elapsed + self._delay(_retry_after(refusal))
            return self._told_once(refusal, now)
        if refusal.code != "no_seat" or not self._wait_left(now):
            self._fail(refusal)
            return []
        # The place in the queue is kept for 10 seconds only. A server that does not queue answers at once: no busy
        # loop.
        answered_early = now.elapsed - question.asked_at < 1.0
        self.next_at = now.elapsed + (min(5.0, _retry_after(refusal) or 1.0) if answered_early else 0.0)
        return []

    def _lose(self, refusal: Refused, now: Reading) -> list[Event]:
        left = max(0.0, self._valid_until - now.elapsed)
        if not self._entered:
            self._take_new_id()
            self.phase = Phase.ENTERING
            self.next_at = now.elapsed + self._delay(None)
            return []
        told_before, self._lost = self._lost, True
        self._valid_until = float("-inf")
        self._attempts = 0
        if refusal.reason == "released":
            self.phase = Phase.PARKED
            kind, detail = EventKind.TAKEN_BACK, "The administrator took the seat back."
        else:
            self.phase = Phase.REGAINING
            self._take_new_id()
            self.next_at = now.elapsed
            if refusal.code == "lease_cloned":
                kind, detail = EventKind.CLONED, "Another process uses the same lease; this one asks for its own."
            elif told_before:
                return []
            else:
                kind, detail = EventKind.LEASE_ENDED, str(refusal)
        event = self._event(kind, detail, now, code=refusal.code, reason=refusal.reason)
        return [replace(event, ttl_left_seconds=left)]

    def _told_once(self, refusal: Refused, now: Reading) -> list[Event]:
        if self._refused_code == refusal.code:
            return []
        self._refused_code = refusal.code
        return [self._event(EventKind.REFUSED, str(refusal), now, code=refusal.code, reason=refusal.reason)]

    def _take_new_id(self) -> None:
        self._lease_id = str(uuid.UUID(bytes=self._entropy(16), version=4))
        self._secret = nonce_text(self._entropy(32))
        self._beat = 0
        self._pending = None
        self._ids_used += 1

    def _fail(self, failure: Refused | NoAnswer) -> None:
        self.failure = failure
        self._pending = None
        self.phase = Phase.CLOSED

    def _awaits(self, question: Question) -> bool:
        """Late answers, to a lease that was given up or a seat that was released meanwhile, change nothing."""
        return self._pending is not None and self._pending.nonce == question.nonce

    def _wait_left(self, now: Reading) -> int:
        left = self._wait_until - now.elapsed
        return 0 if left < _NO_TIME_LEFT_SECONDS else min(_LONGEST_ASK_SECONDS, round(left) or 1)

    def _delay(self, retry_after: float | None) -> float:
        """Seconds to the next attempt: the server's word plus a quarter of jitter, else doubling with full jitter.

        Without the server's word there are always several attempts left inside the lease: never more than an eighth
        of it.
        """
        self._attempts += 1
        luck = int.from_bytes(self._entropy(4), "big") / 2**32
        if retry_after is not None:
            bounded = min(retry_after, _LONGEST_RETRY_AFTER_SECONDS)
            return bounded + luck * max(0.2, bounded / 4)
        ceiling = min(30.0, self._interval)
        if self.capability is not None and self.phase is Phase.HELD:
            ceiling = min(ceiling, self.capability.ttl_seconds / 8)
        return float(min(ceiling, 0.5 * 2 ** min(self._attempts - 1, 10))) * (0.5 + luck / 2)

    def _event(self, kind: EventKind, detail: str, now: Reading, *, code: str = "", reason: str = "") -> Event:
        return Event(
            kind=kind,
            detail=detail,
            held=self.valid(now),
            regaining=self.phase in (Phase.HELD, Phase.REGAINING),
            ttl_left_seconds=self.valid_seconds(now),
            lease_id=self._lease_id,
            code=code,
            reason=reason,
        )


def _slept_seconds(before: Reading, after: Reading) -> float:
    passed = after.elapsed - before.elapsed
    if before.awake is None or after.awake is None:
        return passed if passed > _GAP_THAT_MEANS_SLEEP_SECONDS else 0.0
    slept = passed - (after.awake - before.awake)
    return slept if slept > _SLEEP_JUMP_SECONDS else 0.0


def _retry_after(refusal: Refused) -> float | None:
    value = refusal.fields.get("retry_after_seconds")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None
