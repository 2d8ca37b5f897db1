"""Usage reports: sealed in the journal first, written to their files afterwards.

Rules
1. A report that was sealed can always be written again from the journal: the same lines, the same signature (RFC 6979).
2. One errand at a time; one runs to its end whatever becomes of who asked: a commit cannot be called back, so what
   follows it must happen too.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lls.airgap.questions import Questions, step_all
from lls.faults import NotFound
from lls.identity import Identity, new_id
from lls.licensing.changes import SealedReport
from lls.licensing.usage import Fold, UsageLine, usage_csv
from lls.signed.bundle import Bundle
from lls.signed.report import write_report
from lls.store import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPreview:
    """What the next report would carry."""

    from_seq: int
    to_seq: int
    lines: int
    kinds: Mapping[str, int]
    usage: list[UsageLine]


class Reports(Questions):
    """Reports out; see the module."""

    def __init__(self, *, identity: Identity, store: Store, state_dir: Path, archive_dir: Path | None = None) -> None:
        super().__init__(identity=identity, store=store, archive_dir=archive_dir or state_dir / "archive")
        self._reports = state_dir / "reports"
        self._newest: Bundle | None = None
        self._errand = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()

    async def _to_its_end(self, errand: Callable[[], Awaitable[T]]) -> T:
        """One at a time, in a task that nobody's going away cancels."""

        async def alone() -> T:
            async with self._errand:
                return await errand()

        task = asyncio.create_task(alone())
        self._under_way.add(task)  # the loop itself keeps weak references only
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def alone(self, errand: Callable[[], Awaitable[T]]) -> T:
        """Run something as an errand, while no other is under way."""
        return await self._to_its_end(errand)

    async def preview_report(self) -> ReportPreview:
        """Exactly what the next report would carry, but for the line that seals it."""
        ledger = self.writer.ledger
        after, upto = ledger.server.acknowledged.seq, ledger.batch.before.seq
        fold, kinds = self._fold(), Counter[str]()
        async for chunk in self._store.lines(after=after, upto=upto):
            kinds.update(await asyncio.to_thread(step_all, fold, chunk))
        return ReportPreview(from_seq=after + 1, to_seq=upto, lines=kinds.total(), kinds=kinds, usage=fold.lines())

    async def export_report(self, *, pseudonymise: bool, actor: str) -> tuple[SealedReport, Path]:
        """Seal the range since the last acknowledged line and write its file. Raises StoreDown."""

        async def errand() -> tuple[SealedReport, Path]:
            report_id = new_id("rpt_")
            report = await self.writer.do(
                lambda ledger, now: ledger.seal(report_id, pseudonymised=pseudonymise, actor=actor, now=now)
            )
            return report, await self._write(report, self._fold())

        return await self._to_its_end(errand)

    async def report_file(self, report_id: str) -> tuple[SealedReport, Path]:
        """A sealed report's file again. Raises NotFound."""
        report = self.writer.ledger.reports.get(report_id)
        if report is None:
            raise NotFound(f"No report {report_id} was ever sealed here; `lls report list` shows them.")
        path = self._path(report)
        if path.exists():
            return report, path
        if report.from_seq <= self._archived_upto:
            raise NotFound(
                f"The file of report {report_id} is gone, and its lines are archived, so it cannot be made again;"
                f" your vendor has acknowledged it, and {self.archive_dir} holds the lines."
            )

        async def errand() -> tuple[SealedReport, Path]:
            fold = self._fold() if report.from_seq == self.writer.ledger.server.acknowledged.seq + 1 else None
            return report, await self._write(report, fold or await self._fold_from_the_start(report.from_seq - 1))

        return await self._to_its_end(errand)

    async def _write(self, report: SealedReport, fold: Fold) -> Path:
        loop = asyncio.get_running_loop()
        path = self._path(report)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        async for chunk in self._store.lines(after=report.from_seq - 1, upto=report.to_seq):
            await asyncio.to_thread(step_all, fold, chunk)
        lines = self._store.lines(after=report.from_seq - 1, upto=report.to_seq)
        names = None if report.pseudonymised else self._names(report)
        key = self._newest.report_key if self._newest is not None else None
        await asyncio.to_thread(
            write_report,
            path,
            report_id=report.report_id,
            server_id=self.identity.server_id,
            from_seq=report.from_seq,
            to_seq=report.to_seq,
            prev_head=report.prev_head,
            head=report.head,
            made_at=report.made_at,
            lines=_pulled(lines, loop),
            usage_csv=usage_csv(fold.lines()),
            names=None if names is None else _pulled(names, loop),
            key=self.identity.signing,
            report_key=key,
        )
        return path

    async def _names(self, report: SealedReport) -> AsyncIterator[list[bytes]]:
        """What stands behind the range's commitments. A name may come again in a later chunk: memory stays bounded."""
        async for chunk in self._store.lines(after=report.from_seq - 1, upto=report.to_seq):
            wanted = await asyncio.to_thread(commitments, chunk)
            found = await self._store.names(wanted, upto=report.to_seq)
            yield [_name_line(*name) for name in found]

    def _path(self, report: SealedReport) -> Path:
        return self._reports / f"{report.report_id}.llsreport"


def commitments(chunk: list[bytes]) -> set[str]:
    """Every commitment in these lines: holders, actors and reasons."""
    found: set[str] = set()
    for text in chunk:
        data = json.loads(text)["data"]
        for holder in (data.get("holder"), data.get("named")):
            found.update(holder.values() if isinstance(holder, dict) else [holder] if holder else [])
        found.update(data[key] for key in ("actor", "reason", "user", "policy") if isinstance(data.get(key), str))
    return found


def _name_line(commitment: str, field: str, value: str) -> bytes:
    line = {"commitment": commitment, "field": field, "value": value}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode()


def _pulled(chunks: AsyncIterator[list[bytes]], loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
    """The lines of an asynchronous source, for a thread that writes a file."""

    async def step() -> list[bytes] | None:
        return await anext(chunks, None)

    while (chunk := asyncio.run_coroutine_threadsafe(step(), loop).result()) is not None:
        yield from chunk
