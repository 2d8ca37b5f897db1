"""The server's upkeep on the admin socket: examinations and what the administrator starts by hand.

Handlers only read the request and write the answer; the work is done in :mod:`lls.care`.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import msgspec
from aiohttp import web

from lls.api.admin import ALWAYS, BODY, WRITES
from lls.api.admin_views import bundles_view, entitlements_view, reports_view, server_view
from lls.api.admin_wire import ArchivedView, ExaminationView, FindingView, LogForm, LogView, PartView, SupportView
from lls.api.edge import ACTOR, EDGE, Query, Route, answer, parameters, read_form
from lls.api.status import metrics_text
from lls.api.wire import Form
from lls.care.log import LevelTold
from lls.care.upkeep import Care
from lls.faults import BadRequest, NotFound

_LOG: Final = Form(LogForm)


async def doctor(request: web.Request) -> web.StreamResponse:
    """Every check that the server can make of itself."""
    full = parameters(request, "full").get("full", "0")
    if full not in ("0", "1"):
        raise BadRequest("full must be 0 or 1.")
    care = _care(request)
    found = await request.app[EDGE].costly.read(f"doctor {full}", lambda: care.examine(full=full == "1"))
    return answer(
        ExaminationView(
            findings=[
                FindingView(check=one.check, state=one.state, said=one.said, advice=one.advice or None) for one in found
            ]
        )
    )


async def support(request: web.Request) -> web.StreamResponse:
    """What the server adds to a support bundle."""
    edge, care = request.app[EDGE], _care(request)
    ledger, now = await edge.writer.settled(), edge.writer.now()
    await edge.writer.prove()
    views: dict[str, tuple[str, object]] = {
        "server.json": ("identity, licence, clock, writership", server_view(edge)),
        "entitlements.json": ("what is hosted; no activation codes", await entitlements_view(ledger, now)),
        "reports.json": ("which reports were made", reports_view(ledger)),
        "bundles.json": ("which bundles were imported", await bundles_view(edge)),
        "metrics.json": ("the metrics as they stood", (await metrics_text(edge)).decode().splitlines()),
    }
    built = {name: (holds, msgspec.to_builtins(value)) for name, (holds, value) in views.items()}
    parts = await care.support(built)
    return answer(SupportView(parts=[PartView(name=one.name, holds=one.holds, text=one.text) for one in parts]))


async def archive(request: web.Request) -> web.StreamResponse:
    """Archive and prune now what the daily turn would."""
    care, actor = _care(request), request[ACTOR]
    if care.retention.keep is None:
        raise BadRequest("journal.keep_days is 0: every line stays in the database. Set it, and restart the server.")
    kept = await asyncio.shield(care.retention.turn(actor=actor))
    return answer(ArchivedView(files=[one.file for one in kept.archived], lines=kept.pruned, names=kept.names))


async def log(request: web.Request) -> web.StreamResponse:
    """Which level is written."""
    return answer(_log_view(_care(request).logs.tell()))


async def set_log(request: web.Request) -> web.StreamResponse:
    """Write more, or less, for a while."""
    edge, care = request.app[EDGE], _care(request)
    form = await read_form(request, edge, _LOG)
    lasting = None if form.for_seconds is None else timedelta(seconds=form.for_seconds)
    told = care.logs.set_level(form.level, lasting=lasting, now=edge.writer.now().wall, actor=request[ACTOR])
    return answer(_log_view(told))


def _log_view(told: LevelTold) -> LogView:
    return LogView(level=told.level, usual=told.usual, until=told.until)


def _care(request: web.Request) -> Care:
    care = request.app[EDGE].care
    if care is None:
        raise NotFound("This process serves without upkeep; ask the daemon.")
    return care


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/doctor",
        handler=doctor,
        summary="What an examination of the server finds",
        answers={200: ExaminationView},
        query=(Query(name="full", meaning="1: check every line of the journal"),),
        faults=(*ALWAYS, "bad_request", "not_found", "overloaded"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/support",
        handler=support,
        summary="The server's part of a support bundle, without names and secrets",
        answers={200: SupportView},
        faults=(*ALWAYS, "not_found", "store_down", "not_primary"),
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/journal/archive",
        handler=archive,
        summary="Archive acknowledged lines that are old enough, now",
        answers={200: ArchivedView},
        faults=(*ALWAYS, *WRITES, "bad_request", "not_found", "refused_document"),
        by="administrator",
    ),
    Route(
        method="GET",
        path="/v1/admin/log",
        handler=log,
        summary="Which level of the log is written",
        answers={200: LogView},
        faults=(*ALWAYS, "not_found"),
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/log",
        handler=set_log,
        summary="Write another level of the log, for a while or until the next start",
        answers={200: LogView},
        form=LogForm,
        faults=(*ALWAYS, *BODY, "not_found"),
        by="administrator",
    ),
)
