"""Ctrl-C, ``kill`` and a closed terminal: all of them end the demonstration in order, never in the middle of a fork.

Python raises KeyboardInterrupt wherever the main thread stands. Inside ``Popen`` that is after the child has begun and
before anybody knows its number: the child would live on for ever. So whoever starts or ends processes does it under
``held``: a signal that comes meanwhile counts when that is done.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Final, Self

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """The three signals as KeyboardInterrupt, while this context lasts. For the main thread."""

    def __init__(self) -> None:
        self._depth = 0
        self._missed = False
        self._before: dict[signal.Signals, signal.Handlers] = {}

    def __enter__(self) -> Self:
        for number in ENDING:
            self._before[number] = signal.signal(number, self._came)  # type: ignore[assignment] # what was, goes back
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """No interrupt in here; one that came is raised at the end."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._missed and not self._depth:
            self._missed = False
            raise KeyboardInterrupt

    def _came(self, _number: int, _frame: FrameType | None) -> None:
        if self._depth:
            self._missed = True
        else:
            raise KeyboardInterrupt
