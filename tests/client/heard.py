"""An ``on_event`` that a test can wait for."""

from __future__ import annotations

import threading

from lls.client import Event, EventKind


class Heard:
    """What was told, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._told = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._told:
            self.events.append(event)
            self._told.notify_all()

    @property
    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events]

    def wait_for(self, kind: EventKind, seconds: float = 8.0) -> Event:
        with self._told:
            assert self._told.wait_for(lambda: kind in self.kinds, seconds), f"{kind} was not told: {self.kinds}"
            return next(event for event in self.events if event.kind is kind)
