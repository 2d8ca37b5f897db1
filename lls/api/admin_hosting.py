"""What the administrator does with what is hosted: lends seats by file, names users, gives entitlements back.

Rules
1. What was asked for is done even if the caller has gone: the errands run to their end by themselves.
2. A borrow request comes in as a file and a grant goes out as one; a refusal is a problem, as for a checkout.
3. Giving an entitlement back is asked again and again: first it drains, then it is returned, and after that the answer
   is the identical document each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

import msgspec
from aiohttp import web

from lls.api.admin import ALWAYS, BODY, WRITES
from lls.api.admin_views import borrows_view
from lls.api.admin_wire import BorrowReturnedView, BorrowsView, ReturnForm, ReturnView
from lls.api.edge import ACTOR, BYTES, EDGE, Route, answer, done, file_answer, read_document, read_form
from lls.api.leases import denied, granted_answer
from lls.api.wire import Form
from lls.faults import BadRequest
from lls.licensing.denial import Denial
from lls.licensing.ledger import Draining

LONGEST_USER: Final = 200

_RETURN = Form(ReturnForm)


async def borrows(request: web.Request) -> web.StreamResponse:
    """Which seats are away."""
    writer = request.app[EDGE].writer
    return answer(await borrows_view(await writer.settled(), writer.now()))


async def grant_borrow(request: web.Request) -> web.StreamResponse:
    """A seat for a machine without the network: its request in, the grant out."""
    edge = request.app[EDGE]
    lent = await edge.airgap.grant_borrow(await read_document(request), actor=request[ACTOR])
    if isinstance(lent, Denial):
        return denied(edge, lent)
    seated = lent.seated
    if not seated.again:
        edge.grants[seated.lease.product, seated.lease.entitlement_id] += 1
    granted = await granted_answer(edge, seated.lease, seated.entitlement, edge.writer.now(), nonce=lent.nonce)
    lease: dict[str, Any] = msgspec.to_builtins(granted.lease)
    document = edge.airgap.grant_document(capability=granted.capability, lease=lease)
    return file_answer(document, f"{seated.lease.lease_id}.llsborrow")


async def return_borrow(request: web.Request) -> web.StreamResponse:
    """The machine's signed word that it uses the seat no more."""
    data = await read_document(request)
    return answer(BorrowReturnedView(lease_id=await request.app[EDGE].airgap.return_borrow(data, actor=request[ACTOR])))


async def return_entitlement(request: web.Request) -> web.StreamResponse:
    """Drain it; when nothing is held any more, give it back."""
    edge = request.app[EDGE]
    form = await read_form(request, edge, _RETURN)
    verdict = await edge.airgap.return_entitlement(_entitlement_id(request), force=form.force, actor=request[ACTOR])
    if isinstance(verdict, Draining):
        return answer(ReturnView(state="draining", leases=verdict.leases))
    return answer(ReturnView(state="returned", document=verdict))


async def keep_entitlement(request: web.Request) -> web.StreamResponse:
    """It stays after all."""
    keeping = request.app[EDGE].airgap.keep_entitlement(_entitlement_id(request), actor=request[ACTOR])
    return await _carried_out(keeping)


async def assign_user(request: web.Request) -> web.StreamResponse:
    """Give a named place to a user of the site's choice."""
    airgap = request.app[EDGE].airgap
    return await _carried_out(airgap.assign_user(_entitlement_id(request), _user(request), actor=request[ACTOR]))


async def unassign_user(request: web.Request) -> web.StreamResponse:
    """Take a named place back."""
    airgap = request.app[EDGE].airgap
    return await _carried_out(airgap.unassign_user(_entitlement_id(request), _user(request), actor=request[ACTOR]))


async def _carried_out(act: Awaitable[None]) -> web.StreamResponse:
    await asyncio.shield(act)
    return done()


def _entitlement_id(request: web.Request) -> str:
    return request.match_info["entitlement_id"]


def _user(request: web.Request) -> str:
    user = request.match_info["user"].strip()
    if not user.isprintable() or not 1 <= len(user) <= LONGEST_USER:
        raise BadRequest(f"A user has 1 to {LONGEST_USER} printable characters.")
    return user


# ---------------------------------------------------------------- routes

_ENTITLEMENT: Final = "/v1/admin/entitlements/{entitlement_id}"

ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/borrows",
        handler=borrows,
        summary="Which seats are away, until when",
        answers={200: BorrowsView},
        faults=ALWAYS,
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/borrows",
        handler=grant_borrow,
        summary="Lend a seat to a machine without the network: its request in, the grant out",
        answers={200: BYTES},
        media=BYTES,
        faults=(
            *(*ALWAYS, *BODY, *WRITES, "refused_document", "bad_activation_code", "not_entitled"),
            *("entitlement_not_started", "entitlement_expired", "entitlement_disabled", "edition_not_covered"),
            *("version_not_covered", "server_not_licensed", "report_overdue", "excluded", "not_a_named_user"),
            *("wrong_machine", "borrow_not_allowed", "unknown_product", "unknown_feature", "no_seat", "reserved"),
            *("holder_limit", "no_feature_units", "borrow_too_long", "borrowed", "lease_id_taken", "lease_ended"),
            *("clock_behind", "unbound"),
        ),
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/borrows/return",
        handler=return_borrow,
        summary="Take a borrowed seat back on its machine's signed word",
        answers={200: BorrowReturnedView},
        media=BYTES,
        faults=(*ALWAYS, *BODY, *WRITES, "refused_document", "unknown_lease"),
        by="administrator",
    ),
    Route(
        method="POST",
        path=f"{_ENTITLEMENT}/return",
        handler=return_entitlement,
        summary="Give an entitlement back to the vendor: drain it, then the signed return",
        answers={200: ReturnView},
        form=ReturnForm,
        faults=(*ALWAYS, *BODY, *WRITES, "not_found"),
        by="administrator",
    ),
    Route(
        method="DELETE",
        path=f"{_ENTITLEMENT}/return",
        handler=keep_entitlement,
        summary="Keep an entitlement that is being drained",
        answers={204: None},
        faults=(*ALWAYS, *WRITES, "not_found"),
        by="administrator",
    ),
    Route(
        method="POST",
        path=f"{_ENTITLEMENT}/users/{{user}}",
        handler=assign_user,
        summary="Give a named place to a user",
        answers={204: None},
        faults=(*ALWAYS, *WRITES, "bad_request", "not_found"),
        by="administrator",
    ),
    Route(
        method="DELETE",
        path=f"{_ENTITLEMENT}/users/{{user}}",
        handler=unassign_user,
        summary="Take a named place back; the user's leases end",
        answers={204: None},
        faults=(*ALWAYS, *WRITES, "bad_request", "not_found"),
        by="administrator",
    ),
)
