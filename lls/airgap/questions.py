"""What is asked of the journal: usage, denials, what other numbers of seats would have done, and whether it holds.

Rules
1. Whatever is asked over the whole journal runs in a thread, chunk by chunk, in bounded memory.
2. Only committed lines are read, so an answer is never taken back.
3. Holders are told in clear where their names are known; the journal itself holds commitments only.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from lls.faults import RefusedDocument, UnknownProduct
from lls.identity import Identity
from lls.licensing.changes import Fact
from lls.licensing.denial import cause_of, remedy_of
from lls.licensing.fields import read_instant
from lls.licensing.journal import FIRST_PREV, Head, Kind, head_of, parse_line, verify_after_gap, verify_line
from lls.licensing.terms import Acknowledgement
from lls.licensing.usage import Bucket, Fold, UsageLine
from lls.licensing.whatif import Outcome, WhatIf
from lls.store import Store
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


class Questions:
    """The reading half of the errands; see the module."""

    def __init__(self, *, identity: Identity, store: Store) -> None:
        self.identity = identity
        self._store = store
        self.writer: Writer

    async def usage(self, *, since: datetime | None, until: datetime | None, bucket: Bucket) -> list[UsageLine]:
        """Usage by day or hour between two instants; from the beginning, up to now."""
        ledger = self.writer.ledger
        acknowledged, upto = ledger.server.acknowledged.seq, ledger.batch.before.seq
        recent = since is not None and await self._store.seq_at(_floor(since)) >= acknowledged > 0
        fold = self._fold(bucket) if recent else Fold(server_id=self.identity.server_id, bucket=bucket)
        async for chunk in self._store.lines(after=acknowledged if recent else 0, upto=upto):
            await asyncio.to_thread(step_all, fold, chunk)
        return [line for line in fold.lines() if _within(line, since, until)]

    async def denials(self, *, since: datetime | None, limit: int = MOST_DENIALS) -> list[DenialLine]:
        """Who was refused, and by which rule, oldest first: the newest ``limit`` lines, earlier ones are left out."""
        after = 0 if since is None else await self._store.seq_at(since)
        upto = self.writer.ledger.batch.before.seq
        found: deque[Mapping[str, Any]] = deque(maxlen=limit)
        async for chunk in self._store.lines(after=after, upto=upto):
            found += await asyncio.to_thread(_denials, chunk, limit)
        wanted = set().union(*(_named(line["data"]).values() for line in found))
        clear = await self._store.names(wanted, upto=upto)
        return await asyncio.to_thread(_in_clear, found, clear)

    def journal(self, *, after: int, limit: int) -> AsyncIterator[list[bytes]]:
        """Committed lines after a number, at most ``limit``, in chunks."""
        return self._store.lines(after=after, upto=min(after + limit, self.writer.ledger.batch.before.seq))

    async def verify_journal(self) -> JournalCheck:
        """Check every line that is stored against the one before it."""
        head, lines, first = Head(), 0, 0
        try:
            async for chunk in self._store.lines(after=0, upto=self.writer.ledger.batch.before.seq):
                first = first or 1
                head = await asyncio.to_thread(_verify_all, chunk, head)
                lines += len(chunk)
        except RefusedDocument as fault:
            return JournalCheck(
                ok=False, lines=lines, first_seq=first, last_seq=head.seq, head=head.hash, problem=fault.detail
            )
        return JournalCheck(ok=True, lines=lines, first_seq=first, last_seq=head.seq, head=head.hash, problem=None)

    async def what_if(self, product: str, *, seats: int, since: datetime | None, until: datetime | None) -> Outcome:
        """How many denials so many seats of a product would have left. Raises UnknownProduct."""
        if product not in self.writer.ledger.pools.products:
            raise UnknownProduct(f"No bundle imported here names the product {product}.")
        told = WhatIf(product, seats=seats, since=since, until=until)
        upto = self.writer.ledger.batch.before.seq
        async for chunk in self._store.lines(after=0, upto=upto):
            await asyncio.to_thread(_replay, told, chunk)
        return told.result()

    # ---------------------------------------------------------------- folds

    def _fold(self, bucket: Bucket = Bucket.DAY) -> Fold:
        """A fold that goes on from the last acknowledged line."""
        carry = self.writer.ledger.facts.get(Fact.USAGE_CARRY)
        return Fold(json.loads(carry) if carry else None, server_id=self.identity.server_id, bucket=bucket)

    async def _fold_from_the_start(self, upto: int, bucket: Bucket = Bucket.DAY) -> Fold:
        fold = Fold(server_id=self.identity.server_id, bucket=bucket)
        async for chunk in self._store.lines(after=0, upto=upto):
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
            if gap.after < receipt.up_to_seq <= gap.upto:
                return gap.head if receipt.up_to_seq == gap.upto else receipt.head
        return await self._hash_of(receipt.up_to_seq)

    async def _hash_of(self, seq: int) -> str | None:
        if seq == 0:
            return FIRST_PREV
        async for chunk in self._store.lines(after=seq - 1, upto=seq):
            return head_of(parse_line(chunk[0])).hash
        return None


def _replay(told: WhatIf, chunk: list[bytes]) -> None:
    for text in chunk:
        told.step(json.loads(text))


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
        head = head_of(verify_after_gap(line, head=head) or verify_line(line, after=head))
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
