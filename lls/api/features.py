"""What a client does with a lease that it holds: features taken, given back, consumed, undone; the seat borrowed.

Rules (contract §2)
1. Each call runs in the writer's next group and is answered after the commit, with the feature's figures as they are
   then.
2. A ``request_id`` stands for one act of one lease: sent again it gets the same answer and takes nothing, so a client
   repeats what was not answered.
3. Borrowing answers like a checkout: the lease, now ``borrowed``, and a capability that is good until then.
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from lls.api.auth import bearer
from lls.api.edge import EDGE, Handler, Route, answer, read_form
from lls.api.lease_views import feature_view
from lls.api.leases import BODY, HELD, denied, granted_answer, lease_id_of
from lls.api.wire import BorrowForm, CheckoutAnswer, FeatureForm, FeatureView, Form
from lls.faults import UnknownFeature
from lls.licensing.changes import FeatureAct
from lls.licensing.denial import Denial

_FEATURE, _BORROW = Form(FeatureForm), Form(BorrowForm)
_KEY = re.compile(r"[A-Za-z0-9._-]{1,50}")


def acting(act: FeatureAct) -> Handler:
    """The handler of one act on a feature."""

    async def acted(request: web.Request) -> web.StreamResponse:
        edge, key = request.app[EDGE], _key(request)
        secret, lease_id = bearer(request), lease_id_of(request)
        form = await read_form(request, edge, _FEATURE)
        request_id = form.request_id.lower()
        verdict = await edge.writer.do(
            lambda ledger, now: ledger.feature(
                lease_id, secret=secret, key=key, act=act, amount=form.amount, request_id=request_id, now=now
            )
        )
        return denied(edge, verdict) if isinstance(verdict, Denial) else answer(feature_view(verdict))

    return acted


async def undo(request: web.Request) -> web.StreamResponse:
    """Take a consumption back."""
    edge, key = request.app[EDGE], _key(request)
    secret, lease_id = bearer(request), lease_id_of(request)
    form = await read_form(request, edge, _FEATURE)
    request_id = form.request_id.lower()
    level = await edge.writer.do(
        lambda ledger, now: ledger.undo(
            lease_id, secret=secret, key=key, amount=form.amount, request_id=request_id, now=now
        )
    )
    return answer(feature_view(level))


async def borrow(request: web.Request) -> web.StreamResponse:
    """Take the seat away from the network until a date."""
    edge = request.app[EDGE]
    secret, lease_id = bearer(request), lease_id_of(request)
    form = await read_form(request, edge, _BORROW)
    until, fingerprint = form.ends_at, form.fingerprint
    verdict = await edge.writer.do(
        lambda ledger, now: ledger.borrow(lease_id, secret=secret, until=until, fingerprint=fingerprint, now=now)
    )
    if isinstance(verdict, Denial):
        return denied(edge, verdict)
    return answer(await granted_answer(edge, verdict.lease, verdict.entitlement, edge.writer.now(), nonce=form.nonce))


def _key(request: web.Request) -> str:
    key = request.match_info["key"]
    if not _KEY.fullmatch(key):
        raise UnknownFeature
    return key


# ---------------------------------------------------------------- routes

_CALL: Final = (*BODY, *HELD, "overloaded", "unknown_feature", "request_id_taken")
_TAKES: Final = (
    *("not_entitled", "no_feature_units", "entitlement_expired", "entitlement_disabled", "clock_behind", "unbound"),
)


def _route(act: str, handler: Handler, summary: str, *faults: str) -> Route:
    return Route(
        method="POST",
        path=f"/v1/leases/{{lease_id}}/features/{{key}}/{act}",
        handler=handler,
        summary=summary,
        form=FeatureForm,
        answers={200: FeatureView},
        faults=(*_CALL, *faults),
        by="secret",
    )


ROUTES: Final = (
    # First what is called most, because the router tries them in this order.
    _route("use", acting(FeatureAct.USE), "Consume units of a feature", *_TAKES),
    _route("checkout", acting(FeatureAct.CHECKOUT), "Take units of a feature into the lease", *_TAKES),
    _route("return", acting(FeatureAct.RETURN), "Give units of a feature back", "not_held"),
    _route("undo", undo, "Take a consumption back", "not_held", "undo_too_late", "already_undone"),
    Route(
        method="POST",
        path="/v1/leases/{lease_id}/borrow",
        handler=borrow,
        summary="Take the seat away from the network until a date",
        form=BorrowForm,
        answers={200: CheckoutAnswer},
        faults=(
            *(*BODY, *HELD, "overloaded", "wrong_machine", "borrow_not_allowed", "borrow_too_long", "borrowed"),
            *("entitlement_expired", "entitlement_disabled", "clock_behind", "unbound"),
        ),
        by="secret",
    ),
)
