"""The store: where the ledger's history and rows survive, as a protocol: the ledger never knows which database it is.

Rules (design §2)
1. ``take_writership`` makes this daemon the only writer and gives the epoch that fences every later commit.
2. ``commit`` writes a batch in one transaction whose first statement moves ``(epoch, seq)``; when that does not hit
   exactly one row, somebody else has written, and nothing is written here.
3. Whatever goes wrong in a commit is :class:`~lls.faults.StoreDown` (or ``WritershipLost``); whether it was written
   after all is for the next ``load`` to say. Nobody guesses.
4. ``load`` reads everything anew and opens whatever is broken.
5. After ``close`` everything is StoreDown: whoever is left over (a thread that writes a report) must not open it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import datetime
from typing import Protocol

from lls.licensing.changes import Batch, KeptBundle, Loaded

__all__ = ["Store"]


class Store(Protocol):
    """What the writer and the errands ask of a database."""

    async def take_writership(self) -> int:
        """Become the writer; the new epoch. Raises SetupFault when another daemon is."""

    async def mark(self) -> datetime | None:
        """The clock's high-water mark as of the last commit; None before the first."""

    async def load(self) -> Loaded:
        """Everything that a ledger is built from. Raises StoreDown."""

    async def commit(self, batch: Batch, *, epoch: int, mark: datetime) -> None:
        """Write a batch and the clock's high-water mark. Raises StoreDown, WritershipLost."""

    async def verify(self, *, epoch: int) -> None:
        """Ask the database itself whether it answers and we are still the writer. Raises StoreDown, WritershipLost."""

    def lines(self, *, after: int, upto: int) -> AsyncIterator[list[bytes]]:
        """Journal lines after one number up to and including another, in order, in chunks. Raises StoreDown."""

    async def first_seq(self) -> int:
        """The number of the first line that is still in the database; 1 where there is none. Raises StoreDown."""

    async def seq_at(self, at: datetime) -> int:
        """The number before the first line stamped at this instant or later; the last number when there is none.

        Exact also where the vendor set the clock back and stamps come twice: then later lines may be stamped earlier.
        """

    async def names(self, commitments: Collection[str], *, upto: int) -> list[tuple[str, str, str]]:
        """``(commitment, field, value)`` of those that were known at a line's commit, in a fixed order."""

    async def known_names(self, *, limit: int) -> list[tuple[str, str]]:
        """``(field, value)`` of the names that were stored last, at most so many. Raises StoreDown."""

    async def commitments(self, *, upto: int) -> set[str]:
        """What stands for the names that came with lines up to this one. Raises StoreDown."""

    async def bundles(self) -> list[KeptBundle]:
        """Every bundle ever applied, newest first, without its text."""

    async def close(self) -> None:
        """Give the database and the writership back."""
