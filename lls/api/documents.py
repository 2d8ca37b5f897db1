"""Who this server is, proved: its certificate, a statement about its TLS keys, the vendor's newer key sets.

Anybody may ask: a client must, before it sends anything secret (contract §2, *Trust of the channel*).
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from lls.api.edge import EDGE, Query, Route, answer, instant, number_of, parameters
from lls.api.wire import LARGEST, KeysAnswer, ServerAnswer
from lls.faults import BadRequest, NotPrimary

_NONCE = re.compile(r"(?=.{22,86}\Z)(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2,3})?")


async def server(request: web.Request) -> web.StreamResponse:
    """Identity and a signed statement over the caller's nonce."""
    edge = request.app[EDGE]
    nonce = parameters(request, "nonce").get("nonce")
    if nonce is not None and not _NONCE.fullmatch(nonce):
        raise BadRequest("nonce must be 16 to 64 bytes in base64url without padding.")
    now, airgap, setting = edge.writer.now(), edge.airgap, edge.setting
    server_id = airgap.identity.server_id
    statement = airgap.capabilities.statement(
        server_id=server_id, tls_spki_sha256=edge.tls_spki_sha256, nonce=nonce, issued_at=now.wall
    )
    return answer(
        ServerAnswer(
            server_id=server_id,
            name=setting.name,
            version=setting.version,
            certificate=airgap.certificate(),
            time=instant(now.wall),
            primary=not isinstance(edge.writer.down, NotPrimary),
            statement=statement,
        )
    )


async def keys(request: web.Request) -> web.StreamResponse:
    """The chain from the key set that an application carries to the newest."""
    since = number_of(parameters(request, "since").get("since"), "since", default=0, most=LARGEST)
    return answer(KeysAnswer(keys=request.app[EDGE].airgap.key_sets(since)))


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/server",
        handler=server,
        summary="Identity, certificate and a statement over the nonce",
        query=(Query(name="nonce", meaning="16-64 bytes in base64url"),),
        answers={200: ServerAnswer},
        faults=("bad_request", "too_many_requests", "internal"),
    ),
    Route(
        method="GET",
        path="/v1/keys",
        handler=keys,
        summary="The vendor's key sets after a version",
        query=(Query(name="since", meaning="a version; 0 for all", kind="integer"),),
        answers={200: KeysAnswer},
        faults=("bad_request", "too_many_requests", "internal"),
    ),
)
