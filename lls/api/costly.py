"""Readings that walk the journal or examine the machine: one of each kind at a time, however often they are asked for.

Rules
1. Of one kind one runs; it goes on when who asked for it has hung up: else asking and hanging up would be a way to
   start many.
2. Who asks for the very same meanwhile gets its outcome. It is of an instant after which the journal may have grown,
   as every answer is by the time it is read.
3. Other questions of the kind wait their turn, few of them; one more is ``overloaded`` at once.

It refuses to own answers in pieces (the lines of the journal, the leases): those go at the pace of who reads them, and
a turn that a slow reader holds would be a way to keep the others out.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, TypeVar

from lls.faults import Overloaded

MOST_UNDER_WAY: Final = 4
"""Of one kind: the one that runs, and those that wait for their turn."""

T = TypeVar("T")


class Costly:
    """See the module."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, Hashable], asyncio.Task[Any]] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, kind: str, reading: Callable[[], Coroutine[Any, Any, T]], *, asked: Hashable = None) -> T:
        """The outcome of a reading; ``asked`` tells one question of the kind from another. Raises Overloaded."""
        key = kind, asked
        task: asyncio.Task[T] | None = self._under_way.get(key)
        if task is None:
            if sum(one == kind for one, _ in self._under_way) >= MOST_UNDER_WAY:
                raise Overloaded("Several of these readings are under way already; ask again when they have ended.")
            task = asyncio.create_task(self._in_turn(kind, reading))
            self._under_way[key] = task
            task.add_done_callback(lambda ended: self._ended(key, ended))
        try:
            return await asyncio.shield(task)
        finally:
            del task  # a failure holds this frame: with its task in it they would hold each other

    async def _in_turn(self, kind: str, reading: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._turns[kind]:
            return await reading()

    def _ended(self, key: tuple[str, Hashable], ended: asyncio.Task[Any]) -> None:
        del self._under_way[key]
        if not ended.cancelled():
            ended.exception()  # whoever still waits is told; where nobody does, there is nobody to tell
