"""Long work in the loop, in slices, so that heartbeats are answered in between.

What is walked through is a list of its own: between two slices everybody else goes on, and may change what it was made
from. What may take longer than a moment and reads no ledger goes into a thread instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

AT_ONCE: Final = 100
"""Of things that take some ten microseconds each."""


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """All of them, with a turn for everybody else now and then."""
    for number, one in enumerate(list(items), 1):
        yield one
        if not number % AT_ONCE:
            await asyncio.sleep(0)
