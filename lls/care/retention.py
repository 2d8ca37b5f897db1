"""Retention: acknowledged lines that are old enough go to an archive file, then leave the database.

Rules
1. What may leave is the domain's word (:mod:`lls.licensing.retention`), asked again by the verbs that do it.
2. Archive, read back, note, prune: in this order, each step on the disk before the next. A crash anywhere leaves a
   journal that is whole: what is noted and still there is pruned by the next turn, and a file that was not noted is
   written again.
3. Lines leave in small bites that ride along with the groups of the writer, with pauses, so that no checkout waits.
4. Names go when no line that stays needs them. Those that come again meanwhile stay.
5. It runs as an errand: no report is written while lines leave.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from lls.airgap import Airgap, commitments
from lls.faults import Fault, StoreDown
from lls.licensing.fields import read_instant
from lls.licensing.journal import Head, head_of, parse_line
from lls.licensing.retention import ArchivedRange, prunable
from lls.licensing.usage import Fold
from lls.store import Store
from lls.store.archive import archive_name, check_archive, write_archive
from lls.writer import Writer

MOST_IN_FILE: Final = 1_000_000
BITE: Final = 500
PAUSE_SECONDS: Final = 0.02

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What one turn did: the ranges that were archived now, the lines and names that left."""

    archived: tuple[ArchivedRange, ...]
    pruned: int
    names: int


class Retention:
    """See the module. ``keep``: None keeps everything."""

    def __init__(self, *, airgap: Airgap, writer: Writer, store: Store, keep: timedelta | None) -> None:
        self._airgap, self._writer, self._store, self.keep = airgap, writer, store, keep
        self._forgot = False

    async def turn(self, *, actor: str = "retention") -> Kept:
        """Archive and prune what may leave; does nothing where nothing may. Raises StoreDown, RefusedDocument."""
        return await self._airgap.alone(lambda: self._turn(actor))

    async def daily(self) -> None:
        """A turn by the clock: what goes wrong is a line of the log, and the next day tries again."""
        try:
            await self.turn()
        except Fault as fault:
            _log.error("journal_not_archived", extra={"fields": {"why": fault.detail}})

    async def _turn(self, actor: str) -> Kept:
        pruned = await self._prune()  # what an earlier turn has archived and not pruned
        archived = []
        while self.keep is not None and (after := await self._next_range(self.keep)) is not None:
            archived.append(await self._archive(*after, actor=actor))
            pruned += await self._prune()
        names = await self._forget() if pruned or not self._forgot else 0
        if archived or pruned:
            fields = {"files": len(archived), "lines": pruned, "names": names}
            _log.info("journal_archived", extra={"fields": fields})
        return Kept(archived=tuple(archived), pruned=pruned, names=names)

    async def _next_range(self, keep: timedelta) -> tuple[Head, int] | None:
        """After which head, and up to which line the next file goes; None when nothing may leave."""
        ledger = self._writer.ledger
        last = ledger.archives[-1].end if ledger.archives else Head()
        older_than = await self._store.seq_at(self._writer.now().wall - keep)
        upto = prunable(
            head=ledger.batch.before.seq, acknowledged=ledger.server.acknowledged.seq, older_than=older_than
        )
        return (last, min(upto, last.seq + MOST_IN_FILE)) if upto > last.seq else None

    # ---------------------------------------------------------------- archive

    async def _archive(self, after: Head, upto: int, *, actor: str) -> ArchivedRange:
        folder, archives = self._airgap.archive_dir, self._writer.ledger.archives
        end, last_at = await self._end(upto)
        made_at, loop = self._writer.now().wall, asyncio.get_running_loop()
        carry = json.loads(archives[-1].carry) if archives else None
        fold = Fold(carry, server_id=self._airgap.identity.server_id)

        def pulled() -> Iterator[bytes]:
            chunks = self._store.lines(after=after.seq, upto=upto)

            async def step() -> list[bytes] | None:
                return await anext(chunks, None)

            while (chunk := asyncio.run_coroutine_threadsafe(step(), loop).result()) is not None:
                for line in chunk:
                    fold.step(json.loads(line))
                    yield line

        try:
            name, sha256 = await asyncio.to_thread(
                write_archive,
                folder,
                pulled(),
                server_id=self._airgap.identity.server_id,
                after=after,
                end=end,
                made_at=made_at,
            )
            await asyncio.to_thread(check_archive, folder / name, after=after, end=end, sha256=sha256)
        except OSError as error:
            raise StoreDown(
                f"The archive in {folder} cannot be written: {error.strerror}; nothing was pruned."
            ) from error
        archive = ArchivedRange(
            from_seq=after.seq + 1,
            end=end,
            prev_head=after.hash,
            last_at=last_at,
            made_at=made_at,
            file=name,
            sha256=sha256,
            carry=json.dumps(fold.carry()),
        )
        await self._writer.do(lambda ledger, now: ledger.archived(archive, actor=actor, now=now))
        await asyncio.to_thread(_clear, folder, archive)
        return archive

    async def _end(self, seq: int) -> tuple[Head, datetime]:
        async for chunk in self._store.lines(after=seq - 1, upto=seq):
            line = parse_line(chunk[0])
            return head_of(line), read_instant(line["at"], place="journal line")
        raise StoreDown(f"Line {seq} is not in the journal; nothing was archived.")

    # ---------------------------------------------------------------- prune

    async def _prune(self) -> int:
        """Let go what the last archive holds, if its file is what was written; how many lines."""
        archives = self._writer.ledger.archives
        if not archives:
            return 0
        last, first = archives[-1], await self._store.first_seq()
        if first > last.end.seq:
            return 0
        if first >= last.from_seq:
            await self._still_there(last)
        for upto in range(first + BITE - 1, last.end.seq + BITE, BITE):
            bite = min(upto, last.end.seq)
            await self._writer.do(lambda ledger, _now, bite=bite: ledger.prune(bite))  # type: ignore[misc]
            await asyncio.sleep(PAUSE_SECONDS)
        return last.end.seq - first + 1

    async def _still_there(self, archive: ArchivedRange) -> None:
        """A file that was lost between two turns must not cost the lines too."""
        path = self._airgap.archive_dir / archive.file
        after = Head(seq=archive.from_seq - 1, hash=archive.prev_head)
        try:
            await asyncio.to_thread(check_archive, path, after=after, end=archive.end, sha256=archive.sha256)
        except OSError as error:
            raise StoreDown(f"The archive {path} is noted and cannot be read; nothing was pruned.") from error

    async def _forget(self) -> int:
        """Rule 4; again after each start, because a crash may have come between."""
        archives = self._writer.ledger.archives
        if not archives:
            return 0
        await self._writer.do(lambda ledger, _now: ledger.watch_names())
        upto = self._writer.ledger.batch.before.seq
        gone = await self._store.commitments(upto=archives[-1].end.seq)
        if gone:
            async for chunk in self._store.lines(after=archives[-1].end.seq, upto=upto):
                gone -= await asyncio.to_thread(commitments, chunk)
        forgotten, waiting = 0, sorted(gone)
        for start in range(0, len(waiting), BITE):
            bite = frozenset(waiting[start : start + BITE])
            forgotten += await self._writer.do(lambda ledger, _now, bite=bite: ledger.forget_names(bite))  # type: ignore[misc]
            await asyncio.sleep(PAUSE_SECONDS)
        await self._writer.do(lambda ledger, _now: ledger.end_watch())
        self._forgot = True
        return forgotten


def _clear(folder: Path, archive: ArchivedRange) -> None:
    """Files of an earlier try that begin where this one does, and end before it: all their lines are in this one."""
    for path in folder.glob(f"journal-{archive.from_seq:012}-*.ndjson.gz"):
        if path.name < archive.file and path.name != archive_name(archive.from_seq, archive.end.seq):
            path.unlink(missing_ok=True)
