"""The TLS certificate as the administrator sees it, and another one."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

from aiohttp import web
from msgspec import Struct

from lls.api.admin import ALWAYS, WRITES
from lls.api.edge import ACTOR, EDGE, Edge, Route, answer
from lls.faults import BadRequest, SetupFault
from lls.tls import Doors


class TlsView(Struct, kw_only=True, frozen=True):
    """What the network doors show. ``spki_sha256``: every key that a client may meet, that of now first.

    ``mode``: self, files or off; ``trouble``: why the files as they are now are not shown.
    """

    mode: str
    names: list[str]
    ends_at: datetime | None
    spki_sha256: list[str]
    trouble: str


async def show(request: web.Request) -> web.StreamResponse:
    """Mode, names, end, keys."""
    return answer(_view(request.app[EDGE]))


async def renew(request: web.Request) -> web.StreamResponse:
    """Another key and certificate of our own making, at once."""
    edge, actor = request.app[EDGE], request[ACTOR]
    doors = _doors(edge)
    if not doors.self_made:
        raise BadRequest("The certificate is your own (tls.mode files): put another into its place, then lls reload.")
    await edge.writer.do(lambda ledger, now: ledger.note_act("tls_renew", actor=actor, now=now))
    try:
        await asyncio.to_thread(doors.renew)
    except SetupFault as fault:
        raise BadRequest(fault.detail) from fault
    return answer(_view(edge))


def _doors(edge: Edge) -> Doors:
    if edge.doors is None:
        raise BadRequest("The server speaks plain HTTP (tls.mode off); the certificate is the proxy's in front of it.")
    return edge.doors


def _view(edge: Edge) -> TlsView:
    doors = edge.doors
    if doors is None:
        return TlsView(mode="off", names=[], ends_at=None, spki_sha256=list(edge.tls_spki_sha256), trouble="")
    return TlsView(
        mode="self" if doors.self_made else "files",
        names=doors.names,
        ends_at=doors.ends_at,
        spki_sha256=list(edge.tls_spki_sha256),
        trouble=doors.trouble,
    )


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/tls",
        handler=show,
        summary="The TLS certificate that the network doors show",
        answers={200: TlsView},
        faults=ALWAYS,
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/tls",
        handler=renew,
        summary="Make another TLS key and certificate, where the server makes its own; no lease ends",
        answers={200: TlsView},
        faults=(*ALWAYS, *WRITES, "bad_request"),
        by="administrator",
    ),
)
