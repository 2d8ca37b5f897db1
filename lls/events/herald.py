"""The herald looks at the world, remembers what it told, and sees to it that every destination hears of it.

One task looks, one task delivers for each destination. Nothing of it is ever waited for by a request, and none of it
holds the loop, though ten thousand entitlements end on one day. What nobody has thought of costs its turn and a line of
the log: a herald that has died in silence is worse than none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from lls.events.condition import CLEARED, RAISED, Condition, Event, Severity, Standing, Value, compare
from lls.events.looking import Look
from lls.events.outbox import Delivery, Outbox
from lls.events.senders import Destination, NotDelivered
from lls.turns import in_turns

LOOK_SECONDS: Final = 10.0
_FIRST_PAUSE: Final = timedelta(seconds=5)
_LONGEST_PAUSE: Final = timedelta(hours=1)
_MOST_DOUBLINGS: Final = 12
_PRUNE_EACH: Final = timedelta(days=1)

_log = logging.getLogger(__name__)


class Herald:
    """See the module. ``now`` gives guarded time; ``new_id`` makes an event's id; ``looks`` say what holds."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        looks: Sequence[Look],
        destinations: Sequence[Destination],
        now: Callable[[], datetime],
        new_id: Callable[[], str],
        retry_for: timedelta,
        look_seconds: float = LOOK_SECONDS,
        first_pause: timedelta = _FIRST_PAUSE,
    ) -> None:
        self.outbox, self.destinations = outbox, tuple(destinations)
        self._looks, self._now, self._new_id = tuple(looks), now, new_id
        self._retry_for, self._look_seconds, self._first_pause = retry_for, look_seconds, first_pause
        self._standing: list[Standing] | None = None
        self._pruned_at: datetime | None = None
        self._news = {one.name: asyncio.Event() for one in destinations}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to look and to deliver. Raises OSError when the outbox cannot be used."""
        await self._prune()

        async def look() -> None:
            await self.look()
            await self._prune()
            await asyncio.sleep(self._look_seconds)

        self._tasks = [asyncio.create_task(self._forever("look", look), name="herald")]
        for one in self.destinations:
            self._tasks.append(asyncio.create_task(self._deliver(one), name=f"herald to {one.name}"))

    async def stop(self) -> None:
        """End; what is not delivered waits for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _prune(self) -> None:
        """At the start, and then daily: a server may run for years."""
        now = self._now()
        if self._pruned_at is None or now - self._pruned_at >= _PRUNE_EACH:
            await asyncio.to_thread(self.outbox.prune, now=now, destinations=self._names)
            self._pruned_at = now

    async def look(self) -> list[Event]:
        """Tell of what has changed since the last look; what was told. Raises OSError."""
        first = self._standing is None
        before = await asyncio.to_thread(self.outbox.standing) if self._standing is None else self._standing
        holding = [condition for look in self._looks for condition in look()]
        change = await asyncio.to_thread(compare, before, holding, now=self._now())
        events = [self._raised(one) async for one in in_turns(change.raised)]
        events += [self._cleared(one) async for one in in_turns(change.cleared)]
        if events or set(change.standing) != set(before):
            await asyncio.to_thread(self.outbox.put, change, events, destinations=self._names)
        self._standing = list(change.standing)
        if first:  # the log of this start says all that holds, whoever was told before
            told = {(one.type, one.key) for one in change.raised}
            await _write(self._raised(one) for one in holding if (one.type, one.key) not in told)
        await self._tell(events)
        return events

    async def test(self) -> int:
        """Send every destination an event that means nothing; how many there are."""
        event = self._event("test", text="This is a test: events of this server reach you.")
        await asyncio.to_thread(self.outbox.put, None, [event], destinations=self._names)
        await self._tell([event])
        return len(self.destinations)

    async def retry(self) -> int:
        """Try dead deliveries again; how many."""
        revived = await asyncio.to_thread(self.outbox.revive, now=self._now())
        await self._tell([])
        return revived

    @property
    def _names(self) -> list[str]:
        return [one.name for one in self.destinations]

    async def _tell(self, events: Sequence[Event]) -> None:
        await _write(events)
        for news in self._news.values():
            news.set()

    def _raised(self, condition: Condition) -> Event:
        return self._event(
            condition.type, key=condition.key, severity=condition.severity, text=condition.text, data=condition.data
        )

    def _cleared(self, one: Standing) -> Event:
        name = one.type.replace("_", " ") + (f" ({one.key})" if one.key else "")
        return self._event(one.type, key=one.key, state=CLEARED, text=f"No longer so: {name}.")

    def _event(
        self,
        kind: str,
        *,
        key: str = "",
        state: str = RAISED,
        severity: Severity = Severity.INFO,
        text: str,
        data: Mapping[str, Value] | None = None,
    ) -> Event:
        return Event(
            event_id=self._new_id(),
            at=self._now(),
            type=kind,
            key=key,
            state=state,
            severity=severity,
            text=text,
            data=dict(data or {}),
        )

    async def _forever(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        failing = False
        while True:
            try:
                await step()
                failing = False
            except Exception as error:  # noqa: BLE001 - see the module
                if not failing:
                    known = isinstance(error, OSError)
                    fields = {"step": name, "why": str(error) if known else type(error).__name__}
                    _log.error("events_stopped", extra={"fields": fields}, exc_info=None if known else error)
                failing = True
                await asyncio.sleep(self._look_seconds)

    async def _deliver(self, destination: Destination) -> None:
        news = self._news[destination.name]

        async def all_due() -> None:
            while await self._deliver_one(destination):
                pass
            news.clear()
            # Not wait_for: before Python 3.12 it may swallow a cancellation that meets its timeout; stop would hang.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await news.wait()

        await self._forever(destination.name, all_due)

    async def _deliver_one(self, destination: Destination) -> bool:
        now = self._now()
        delivery = await asyncio.to_thread(self.outbox.due, destination.name, now=now)
        if delivery is None:
            return False
        try:
            await destination.send(delivery.event)
        except Exception as failed:  # noqa: BLE001 - see the module; an event that cannot be sent must end as dead
            why = str(failed) if isinstance(failed, NotDelivered) else f"It cannot be sent ({type(failed).__name__})."
            await self._failed(delivery, why, now=now)
            return False
        await asyncio.to_thread(self.outbox.settle, delivery, state="sent", next_at=now)
        return True

    async def _failed(self, delivery: Delivery, why: str, *, now: datetime) -> None:
        given_up = now - delivery.event.at >= self._retry_for
        pause = min(_LONGEST_PAUSE, self._first_pause * 2 ** min(delivery.attempts, _MOST_DOUBLINGS))
        await asyncio.to_thread(
            self.outbox.settle, delivery, state="dead" if given_up else "waiting", next_at=now + pause, error=why
        )
        fields = {"destination": delivery.destination, "type": delivery.event.type, "why": why}
        if given_up:
            _log.error("event_dead", extra={"fields": fields})
        elif not delivery.attempts:
            _log.warning("event_not_delivered", extra={"fields": fields})


async def _write(events: Iterable[Event]) -> None:
    async for event in in_turns(events):
        record = {"fields": {"type": event.type, "state": event.state, **event.data}}
        match event.severity:
            case Severity.CRITICAL:
                _log.error("condition", extra=record)
            case Severity.WARNING:
                _log.warning("condition", extra=record)
            case Severity.INFO:
                _log.info("condition", extra=record)
