"""What is asked of the journal: usage, denials, what other numbers of seats would have done, and whether it holds.

Rules
1. Whatever is asked over the whole journal runs in a thread, chunk by chunk, in bounded memory.
2. Only committed lines are read, so an answer is never taken back.
3. Holders are told in clear where their names are known; the journal itself holds commitments only.
4. What was archived is not asked again: usage goes on from the fold that was kept at its end, denials begin after it,
   and both say so (``archived``). Where an answer needs every line, the archive is read, or the answer is refused.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from lls.faults import NotFound, RefusedDocument, StoreDown, UnknownProduct
from lls.identity import Identity
from lls.licensing.changes import Fact
from lls.licensing.denial import cause_of, remedy_of
from lls.licensing.fields import read_instant
from lls.licensing.journal import FIRST_PREV, Head, Kind, follow, head_of, parse_line
from lls.licensing.retention import ArchivedRange
from lls.licensing.terms import Acknowledgement
from lls.licensing.usage import Bucket, Fold, UsageLine
from lls.licensing.whatif import Outcome, WhatIf
from lls.store import Store
from lls.store.archive import check_archive, read_archive
from lls.writer import Writer

MOST_DENIALS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DenialLine:
    """A refusal as the administrator reads it; ``holder`` in clear where its name is known."""

    at: datetime
    code: str
    rule: str
    product: str
    entitlement_id: str | None
    holder: Mapping[str, str]
    seats: int
    in_use: int | None
    limit: int | None
    feature: str | None
    cause: str
    remedy: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalCheck:
    """Whether the chain holds."""

    ok: bool
    lines: int
    first_seq: int
    last_seq: int
    head: str
    problem: str | None
    archived_lines: int = 0
    """How many of them were read from archives."""
    left_out_upto: int = 0
    """Lines up to this one are in archives that are not there; the check begins behind them."""
    gaps: tuple[tuple[int, int], ...] = ()
    """First and last of the lines that were lost here with a restore: the vendor has them."""


class Questions:
    """The reading half of the errands; see the module."""

    def __init__(self, *, identity: Identity, store: Store, archive_dir: Path) -> None:
        self.identity = identity
        self.archive_dir = archive_dir
        self._store = store
        self.writer: Writer

    @property
    def archived(self) -> ArchivedRange | None:
        """The last range that was archived: what came before its end is not in the database any more."""
        archives = self.writer.ledger.archives
        return archives[-1] if archives else None

    async def usage(self, *, since: datetime | None, until: datetime | None, bucket: Bucket) -> list[UsageLine]:
        """Usage by day or hour between two instants; from the beginning, up to now."""
        ledger = self.writer.ledger
        acknowledged, upto = ledger.server.acknowledged.seq, ledger.batch.before.seq
        recent = since is not None and await self._store.seq_at(_floor(since)) >= acknowledged > 0
        fold, first = (self._fold(bucket), acknowledged) if recent else self._first_fold(bucket)
        async for chunk in self._lines(after=first, upto=upto):
            await asyncio.to_thread(step_all, fold, chunk)
        return [line for line in fold.lines() if _within(line, since, until)]

    async def denials(self, *, since: datetime | None, limit: int = MOST_DENIALS) -> list[DenialLine]:
        """Who was refused, and by which rule, oldest first: the newest ``limit`` lines, earlier ones are left out."""
        after = max(self._archived_upto, 0 if since is None else await self._store.seq_at(since))
        upto = self.writer.ledger.batch.before.seq
        found: deque[Mapping[str, Any]] = deque(maxlen=limit)
        async for chunk in self._lines(after=after, upto=upto):
            found += await asyncio.to_thread(_denials, chunk, limit)
        wanted = set().union(*(_named(line["data"]).values() for line in found))
        clear = await self._store.names(wanted, upto=upto)
        return await asyncio.to_thread(_in_clear, found, clear)

    def journal(self, *, after: int, limit: int) -> AsyncIterator[list[bytes]]:
        """Committed lines after a number, at most ``limit``, in chunks; not those that were archived."""
        after = max(after, self._archived_upto)
        return self._store.lines(after=after, upto=min(after + limit, self.writer.ledger.batch.before.seq))

    async def verify_journal(self) -> JournalCheck:
        """Check every line against the one before it, those in archives first: it is one chain."""
        head, lines, archived, left_out = Head(), 0, 0, 0
        problem = None
        try:
            for archive in tuple(self.writer.ledger.archives):
                path = self.archive_dir / archive.file
                if not await asyncio.to_thread(path.exists):
                    head, lines, archived, left_out = archive.end, 0, 0, archive.end.seq
                    continue
                archived += await asyncio.to_thread(
                    check_archive, path, after=head, end=archive.end, sha256=archive.sha256
                )
                head = archive.end
            lines = archived
            async for chunk in self._store.lines(after=head.seq, upto=self.writer.ledger.batch.before.seq):
                head = await asyncio.to_thread(_verify_all, chunk, head)
                lines += len(chunk)
        except RefusedDocument as fault:
            problem = fault.detail
        except OSError as error:
            problem = f"An archive cannot be read: {error.strerror}."
        return JournalCheck(
            ok=problem is None,
            lines=lines,
            first_seq=left_out + 1 if lines else 0,
            last_seq=head.seq,
            head=head.hash,
            problem=problem,
            archived_lines=archived,
            left_out_upto=left_out,
            gaps=tuple((gap.after + 1, gap.upto) for gap in self.writer.ledger.server.gaps),
        )

    async def what_if(self, product: str, *, seats: int, since: datetime | None, until: datetime | None) -> Outcome:
        """How many denials so many seats of a product would have left. Raises UnknownProduct, NotFound.

        NotFound: it needs every line from the first one on, and archives are not where they were written.
        """
        if product not in self.writer.ledger.pools.products:
            raise UnknownProduct(f"No bundle imported here names the product {product}.")
        told = WhatIf(product, seats=seats, since=since, until=until)
        upto = self.writer.ledger.batch.before.seq
        for archive in tuple(self.writer.ledger.archives):
            await asyncio.to_thread(_replay_archive, told, self.archive_dir, archive)
        async for chunk in self._lines(after=self._archived_upto, upto=upto):
            await asyncio.to_thread(_replay, told, chunk)
        return told.result()

    async def _lines(self, *, after: int, upto: int) -> AsyncIterator[list[bytes]]:
        """Lines of a range that a fold needs without a gap. Raises StoreDown when some were archived meanwhile."""
        archives = len(self.writer.ledger.archives)
        async for chunk in self._store.lines(after=after, upto=upto):
            yield chunk
        if len(self.writer.ledger.archives) != archives:
            raise StoreDown("Lines were moved to the archive while they were read; ask again.")

    @property
    def _archived_upto(self) -> int:
        return 0 if self.archived is None else self.archived.end.seq

    # ---------------------------------------------------------------- folds

    def _fold(self, bucket: Bucket = Bucket.DAY) -> Fold:
        """A fold that goes on from the last acknowledged line."""
        carry = self.writer.ledger.facts.get(Fact.USAGE_CARRY)
        return Fold(json.loads(carry) if carry else None, server_id=self.identity.server_id, bucket=bucket)

    def _first_fold(self, bucket: Bucket = Bucket.DAY) -> tuple[Fold, int]:
        """A fold that goes on from the last archived line, and that line; from the first one where there is none."""
        carry = None if self.archived is None else json.loads(self.archived.carry)
        return Fold(carry, server_id=self.identity.server_id, bucket=bucket), self._archived_upto

    async def _fold_from_the_start(self, upto: int, bucket: Bucket = Bucket.DAY) -> Fold:
        fold, first = self._first_fold(bucket)
        async for chunk in self._lines(after=first, upto=upto):
            await asyncio.to_thread(step_all, fold, chunk)
        return Fold(fold.carry(), server_id=self.identity.server_id, bucket=bucket)

    async def _carry_at(self, seq: int) -> str:
        fold = self._fold()
        async for chunk in self._store.lines(after=self.writer.ledger.server.acknowledged.seq, upto=seq):
            await asyncio.to_thread(step_all, fold, chunk)
        return json.dumps(fold.carry())

    async def _head_known(self, receipt: Acknowledgement) -> str | None:
        """The hash of the line that a receipt names; what it says itself where only the vendor has that line."""
        for gap in self.writer.ledger.server.gaps:
            if gap.after < receipt.up_to_seq < gap.upto:
                return receipt.head
        return await self._hash_of(receipt.up_to_seq)

    async def _hash_of(self, seq: int) -> str | None:
        if seq == 0:
            return FIRST_PREV
        for gap in self.writer.ledger.server.gaps:
            if gap.upto == seq:  # a line of the vendor's alone, and ours goes on behind it
                return gap.head
        if seq <= self._archived_upto:
            # A receipt acknowledges the end of a report, and those are kept for good.
            return next((one.head for one in self.writer.ledger.reports.values() if one.to_seq == seq), None)
        async for chunk in self._store.lines(after=seq - 1, upto=seq):
            return head_of(parse_line(chunk[0])).hash
        return None


def _replay(told: WhatIf, chunk: list[bytes]) -> None:
    for text in chunk:
        told.step(json.loads(text))


def _replay_archive(told: WhatIf, folder: Path, archive: ArchivedRange) -> None:
    after = Head(seq=archive.from_seq - 1, hash=archive.prev_head)
    try:
        for chunk in read_archive(folder / archive.file, after=after, end=archive.end):
            _replay(told, chunk)
    except FileNotFoundError:
        raise NotFound(
            f"Lines {archive.from_seq} to {archive.end.seq} of the journal are archived, and {archive.file} is not in"
            f" {folder}; this question needs every line, so put the file back there."
        ) from None
    except OSError as error:
        raise NotFound(f"The archive {folder / archive.file} cannot be read: {error.strerror}.") from error


def step_all(fold: Fold, chunk: list[bytes]) -> Counter[str]:
    """Fold a chunk of lines; how many of each kind there were."""
    kinds = Counter[str]()
    for text in chunk:
        line = json.loads(text)
        fold.step(line)
        kinds[line["kind"]] += 1
    return kinds


def _verify_all(chunk: list[bytes], head: Head) -> Head:
    for line in chunk:
        head = follow(line, head=head)
    return head


def _denials(chunk: list[bytes], limit: int) -> list[Mapping[str, Any]]:
    """The newest denials in these lines."""
    spoken = [line for line in chunk if b'"kind":"Denied"' in line]
    return [line for line in map(json.loads, spoken) if line["kind"] == Kind.DENIED][-limit:]


def _in_clear(found: deque[Mapping[str, Any]], names: list[tuple[str, str, str]]) -> list[DenialLine]:
    named: dict[str, dict[str, str]] = {}
    for commitment, field, value in names:
        named.setdefault(commitment, {})[field] = value
    return [_denial(line, named) for line in found]


def _named(data: Mapping[str, Any]) -> dict[str, str]:
    """The commitments of a denied holder by field. Repeats name the machine only."""
    named = data.get("named") or ({"seat_id": data["holder"]} if data["holder"] else {})
    return dict(named)


def _denial(line: Mapping[str, Any], named: Mapping[str, Mapping[str, str]]) -> DenialLine:
    data = line["data"]
    return DenialLine(
        at=read_instant(line["at"], place="journal line"),
        code=data["code"],
        rule=data["rule"],
        product=data["product"],
        entitlement_id=data["entitlement_id"],
        holder={
            field: named[commitment][field]
            for field, commitment in _named(data).items()
            if field in named.get(commitment, {})
        },
        seats=data["seats"],
        in_use=data["in_use"],
        limit=data["limit"],
        feature=data["feature"],
        cause=cause_of(data["code"]).value,
        remedy=remedy_of(data["code"]),
        count=data["count"],
    )


def _within(line: UsageLine, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or line.period_end > since) and (until is None or line.period_start < until)


def _floor(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)
