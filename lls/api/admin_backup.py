"""Backups on request: made while the server runs, read back, handed out once.

Rules
1. Nothing is answered before the backup was read back whole; its SHA-256 goes along (``Content-Digest``, RFC 9530), so
   that whoever writes it down can tell that it arrived.
2. It leaves no copy here: the file has no name any more when its first byte goes out.
   That holds when the journal refuses its line or the caller hangs up, too: it holds the server's keys.
3. A passphrase comes in the body and is neither kept nor logged.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Coroutine
from typing import Any, BinaryIO, Final

from aiohttp import web

from lls.api.admin import ALWAYS, BODY, WRITES
from lls.api.admin_wire import BackupForm, BackupsView
from lls.api.edge import ACTOR, BYTES, EDGE, Pieces, Route, answer, optional_instant, read_form
from lls.api.wire import Form
from lls.backup import Backups, Taken, lock_of
from lls.faults import NotFound

_PIECE: Final = 1024 * 1024
_BACKUP: Final = Form(BackupForm)


async def take(request: web.Request) -> web.StreamResponse:
    """Make one, read it back, hand it out."""
    edge = request.app[EDGE]
    form = await read_form(request, edge, _BACKUP)
    lock = lock_of(
        passphrase=None if form.passphrase is None else form.passphrase.encode(),
        recipient=None if form.recipient is None else form.recipient.encode(),
    )
    backups = _backups(edge.backups)
    taken, file = await _held(backups.take_out(lock=lock))
    with file:
        actor = request[ACTOR]
        await edge.writer.do(lambda ledger, now: ledger.note_act("backup_taken", actor=actor, now=now))
        return await _handed_out(request, taken, file)


async def show(request: web.Request) -> web.StreamResponse:
    """What the clock does, and what became of its last one."""
    backups = _backups(request.app[EDGE].backups)
    plan, last = backups.plan, backups.last
    return answer(
        BackupsView(
            folder=None if plan is None else str(plan.folder),
            keep=None if plan is None else plan.keep,
            sealed=plan is not None and (plan.passphrase_file or plan.recipient_file) is not None,
            last_at=optional_instant(None if last is None else last.at),
            last_path=None if last is None else last.path,
            problem=None if last is None else last.problem,
        )
    )


def _backups(backups: Backups | None) -> Backups:
    if backups is None:
        raise NotFound("This server's store has its own backups.")
    return backups


async def _held(taking: Coroutine[Any, Any, tuple[Taken, BinaryIO]]) -> tuple[Taken, BinaryIO]:
    """A backup without a name, whether or not somebody still waits for it."""
    making = asyncio.create_task(taking)
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(_let_go)
        raise


def _let_go(making: asyncio.Task[tuple[Taken, BinaryIO]]) -> None:
    if not making.cancelled() and making.exception() is None:
        making.result()[1].close()


async def _handed_out(request: web.Request, taken: Taken, file: BinaryIO) -> web.StreamResponse:
    digest = base64.b64encode(bytes.fromhex(taken.sha256)).decode("ascii")
    headers = {
        "Content-Disposition": f'attachment; filename="{taken.path.name}"',
        "Content-Digest": f"sha-256=:{digest}:",
        "X-Journal-Seq": str(taken.manifest.seq),
    }
    response = Pieces(BYTES, **headers)
    response.content_length = taken.size
    await response.prepare(request)
    while piece := await asyncio.to_thread(file.read, _PIECE):
        await response.write(piece)
    await response.write_eof()
    return response


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/admin/backup",
        handler=take,
        summary="Make a backup and read it back; its SHA-256 stands in Content-Digest",
        answers={200: BYTES},
        form=BackupForm,
        faults=(*ALWAYS, *BODY, *WRITES, "refused_document", "not_found"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/backup",
        handler=show,
        summary="Scheduled backups, and what became of the last one",
        answers={200: BackupsView},
        faults=(*ALWAYS, "not_found"),
        by="administrator",
    ),
)
