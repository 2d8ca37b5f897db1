"""The server's upkeep on the admin socket: examinations and what the administrator starts by hand.

Handlers only read the request and write the answer; the work is done in :mod:`lls.care`.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from lls.api.admin import ALWAYS
from lls.api.admin_wire import ExaminationView, FindingView
from lls.api.edge import EDGE, Query, Route, answer, parameters
from lls.care.upkeep import Care
from lls.faults import BadRequest, NotFound


async def doctor(request: web.Request) -> web.StreamResponse:
    """Every check that the server can make of itself."""
    full = parameters(request, "full").get("full", "0")
    if full not in ("0", "1"):
        raise BadRequest("full must be 0 or 1.")
    found = await _care(request).examine(full=full == "1")
    return answer(
        ExaminationView(
            findings=[
                FindingView(check=one.check, state=one.state, said=one.said, advice=one.advice or None) for one in found
            ]
        )
    )


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
        faults=(*ALWAYS, "bad_request", "not_found"),
        by="administrator",
    ),
)
