"""Seats over HTTP: checkout, heartbeat, checkin, and who has how many. What is done with a held one: ``features``.

Rules (contract §2)
1. A lease is authorised by its secret on every call; a wrong one is answered like an unknown lease.
2. The answer to a checkout or beat carries a capability that is signed now, over the nonce of this very request.
3. ``Prefer: wait=N`` queues a checkout for at most 60 seconds; a longer wish is cut, and ``Preference-Applied`` says to
   what. A client that hangs up leaves its place to others (the handler is cancelled).
4. A server that stops grants nothing new; what is held goes on to the last moment.

Heartbeats are the hot path (design §8): from the bytes to the ledger and back there is one await, and no timer, log or
lock of our own.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from lls.api import problems
from lls.api.auth import bearer
from lls.api.edge import EDGE, Edge, Route, answer, created, done, read_form, second
from lls.api.lease_views import capability_of, expires_at, lease_view, product_view
from lls.api.wire import (
    MOST_BEATS,
    BeatForm,
    BeatsAnswer,
    BeatsForm,
    CheckoutAnswer,
    CheckoutForm,
    Form,
    HeartbeatAnswer,
    HeartbeatForm,
    LeaseAnswer,
    ProductsAnswer,
    secret_digest,
)
from lls.faults import BadRequest, Draining, Fault, Forbidden, LeaseCloned
from lls.licensing.denial import Denial
from lls.licensing.entitlement import Entitlement
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout, Lease
from lls.licensing.ledger import Seated
from lls.turns import in_turns

LONGEST_WAIT_SECONDS: Final = 60
BEATS_BYTES: Final = MOST_BEATS * 512
"""Five hundred beats are larger than an ordinary body may be."""
BEATS_IN_SLICE: Final = 32
"""About 2 ms of signing; then others have their turn (design §2)."""

_CHECKOUT, _HEARTBEAT, _BEATS = Form(CheckoutForm), Form(HeartbeatForm), Form(BeatsForm)


async def heartbeat(request: web.Request) -> web.StreamResponse:
    """Prolong a lease."""
    edge = request.app[EDGE]
    secret, lease_id = bearer(request), lease_id_of(request)
    form = await read_form(request, edge, _HEARTBEAT)
    if form.capability is not None:
        await edge.airgap.take_up(form.capability, lease_id=lease_id, secret=secret)
    beaten = await _beat(edge, lease_id, secret=secret, beat=form.beat, nonce=form.nonce)
    return answer(beaten.told(await beaten.capability))


async def heartbeats(request: web.Request) -> web.StreamResponse:
    """Prolong many leases (a host with many processes); each is answered as if it had come alone."""
    edge = request.app[EDGE]
    form = await read_form(request, edge, _BEATS, least_limit=BEATS_BYTES)
    results: list[dict[str, Any] | _Beaten] = [{}] * len(form.leases)
    pending: dict[str, list[int]] = {}
    for place, one in enumerate(form.leases):
        lease_id = one.lease_id.lower()
        # Who waits for a commit must not hold up the others; and a lease's own beats stay in their order.
        if lease_id in pending or edge.writer.ledger.is_pending(lease_id):
            pending.setdefault(lease_id, []).append(place)
            continue
        results[place] = await _one_of_many(edge, one)
        if place % BEATS_IN_SLICE == 0:
            await asyncio.sleep(0)
    for place in itertools.chain.from_iterable(pending.values()):
        results[place] = await _one_of_many(edge, form.leases[place])
    return answer({"results": [await _told(result) for result in results]})


async def checkout(request: web.Request) -> web.StreamResponse:
    """Take a seat, take it again, or wait for one."""
    edge = request.app[EDGE]
    secret = bearer(request)
    wait_seconds = _wait_seconds(request)
    wish = (await read_form(request, edge, _CHECKOUT)).as_checkout(secret, address=edge.origin.address(request) or None)
    if edge.draining:
        raise Draining
    if wish.activation_code is not None:
        # A right code among many wrong ones is a guess, too (auth, rule 3).
        edge.guesses.check(edge.origin.address(request), elapsed=edge.writer.now().elapsed)
    verdict = await _decided(edge, wish, wait_seconds)
    response = denied(edge, verdict) if isinstance(verdict, Denial) else await _granted(edge, verdict, nonce=wish.nonce)
    if wait_seconds:
        response.headers["Preference-Applied"] = f"wait={wait_seconds}"
    return response


async def show(request: web.Request) -> web.StreamResponse:
    """A live lease."""
    edge = request.app[EDGE]
    lease, now = await edge.writer.lease(lease_id_of(request), secret=bearer(request))
    terms = edge.writer.ledger.pools[lease.entitlement_id].entitlement
    return answer(LeaseAnswer(lease=lease_view(edge, lease, terms, now)))


async def checkin(request: web.Request) -> web.StreamResponse:
    """Give the seat back, leave the queue, or say that a checkout which may still arrive is not wanted any more."""
    secret, lease_id = bearer(request), lease_id_of(request)
    writer = request.app[EDGE].writer
    # A program that ends says so and is gone: what it asked for is done all the same.
    await asyncio.shield(writer.put(lambda ledger, now: ledger.checkin(lease_id, secret=secret, now=now)))
    return done()


async def products(request: web.Request) -> web.StreamResponse:
    """Seats per product, for anybody who wonders whether asking is worth it."""
    edge = request.app[EDGE]
    if not edge.setting.show_products:
        raise Forbidden("This site does not show its seats.")
    ledger, now = await edge.writer.settled(), edge.writer.now()
    known = sorted(ledger.pools.products.items())
    views = [product_view(ledger, product, pools, now) async for product, pools in in_turns(known)]
    return answer(ProductsAnswer(products=views))


# ---------------------------------------------------------------- deciding


class _Beaten(NamedTuple):
    """A beat that the ledger has taken, and the capability that will be signed for it."""

    lease: Lease
    expires_at: str
    left: int
    pace: int
    capability: asyncio.Future[str]

    def told(self, capability: str) -> HeartbeatAnswer:
        """The answer."""
        return HeartbeatAnswer(
            expires_at=self.expires_at,
            expires_in_seconds=self.left,
            heartbeat_seconds=self.pace,
            state=self.lease.state,
            capability=capability,
        )


async def _beat(edge: Edge, lease_id: str, *, secret: bytes, beat: int, nonce: str) -> _Beaten:
    writer = edge.writer
    try:
        lease, now = await writer.heartbeat(lease_id, secret=secret, beat=beat, nonce=nonce)
    except LeaseCloned:
        edge.clones += 1
        raise
    edge.beats += 1
    ledger = writer.ledger
    left, terms = ledger.remaining(lease, now), ledger.pools[lease.entitlement_id].entitlement
    issued_at = int(now.wall.timestamp())
    ends = expires_at(lease, issued_at=issued_at, left=left)
    return _Beaten(
        lease=lease,
        expires_at=second(ends),
        left=left,
        pace=ledger.pace(lease),
        capability=capability_of(edge, lease, terms, issued_at=issued_at, ends=ends, left=left, nonce=nonce),
    )


async def _one_of_many(edge: Edge, one: BeatForm) -> dict[str, Any] | _Beaten:
    lease_id = one.lease_id.lower()
    try:
        return await _beat(edge, lease_id, secret=secret_digest(one.secret), beat=one.beat, nonce=one.nonce)
    except Fault as fault:
        return {"lease_id": lease_id, **problems.of_fault(fault)}


async def _told(result: dict[str, Any] | _Beaten) -> dict[str, Any]:
    if not isinstance(result, _Beaten):
        return result
    told = msgspec.structs.asdict(result.told(await result.capability))
    return {"lease_id": result.lease.lease_id, "status": 200, **told}


async def _decided(edge: Edge, wish: Checkout, wait_seconds: int) -> Seated | Denial:
    """The writer's word; a stop of the server ends the waiting. Raises Draining."""
    if not wait_seconds:
        return await edge.writer.checkout(wish)
    try:
        async with asyncio.timeout(None) as patience:
            edge.waiting.add(patience)
            try:
                return await edge.writer.checkout(wish, wait_seconds=float(wait_seconds))
            finally:
                edge.waiting.discard(patience)
    except TimeoutError:
        raise Draining from None


async def _granted(edge: Edge, seated: Seated, *, nonce: str) -> web.Response:
    lease, terms, now = seated.lease, seated.entitlement, edge.writer.now()
    granted = await granted_answer(edge, lease, terms, now, nonce=nonce)
    if seated.again:
        return answer(granted)
    edge.grants[lease.product, lease.entitlement_id] += 1
    return created(granted)


async def granted_answer(edge: Edge, lease: Lease, terms: Entitlement, now: Now, *, nonce: str) -> CheckoutAnswer:
    """The lease as it is now, and the server's word for it."""
    view = lease_view(edge, lease, terms, now)
    issued_at, left = int(now.wall.timestamp()), view.expires_in_seconds
    ends = expires_at(lease, issued_at=issued_at, left=left)
    capability = await capability_of(edge, lease, terms, issued_at=issued_at, ends=ends, left=left, nonce=nonce)
    return CheckoutAnswer(lease=view, capability=capability)


def denied(edge: Edge, denial: Denial) -> web.Response:
    """The problem of a denial, which is counted."""
    edge.denials[denial.code] += 1
    edge.denied[denial.product] += 1
    return problems.response(problems.of_denial(denial))


# ---------------------------------------------------------------- reading


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_WAIT = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?', re.IGNORECASE)


def lease_id_of(request: web.Request) -> str:
    """The id in the path, in lower case. Raises BadRequest."""
    lease_id = request.match_info["lease_id"].lower()
    if not _UUID.fullmatch(lease_id):
        raise BadRequest("A lease id is a UUID.")
    return lease_id


def _wait_seconds(request: web.Request) -> int:
    """``wait`` of RFC 7240 §4.3; the first one counts, and a preference that cannot be read is no preference (§2)."""
    preferences = request.headers.getall("Prefer", ())
    for preference in ",".join(preferences).split(",") if preferences else ():
        name, *_parameters = preference.split(";")
        found = _WAIT.fullmatch(name.strip())
        if found:
            return min(int(found[1]), LONGEST_WAIT_SECONDS)
    return 0


# ---------------------------------------------------------------- routes

BODY = ("bad_request", "too_large", "unsupported_media_type", "timeout", "too_many_requests")
HELD = ("unauthenticated", "unknown_lease", "lease_ended", "borrowed", "store_down", "not_primary", "internal")

ROUTES: Final = (
    # First, because the router tries them in this order.
    Route(
        method="POST",
        path="/v1/leases/{lease_id}/heartbeat",
        handler=heartbeat,
        summary="Prolong a lease",
        form=HeartbeatForm,
        answers={200: HeartbeatAnswer},
        faults=(*BODY, *HELD, "lease_cloned", "refused_document", "overloaded"),
        by="secret",
    ),
    Route(
        method="POST",
        path="/v1/leases",
        handler=checkout,
        summary="Check out a seat",
        form=CheckoutForm,
        answers={201: CheckoutAnswer, 200: CheckoutAnswer},
        headers={"Prefer": "wait=N: queue for a seat, at most 60 seconds"},
        faults=(
            *BODY,
            *("unauthenticated", "bad_activation_code", "not_entitled", "entitlement_not_started"),
            *("entitlement_expired", "entitlement_disabled", "edition_not_covered", "version_not_covered"),
            *("server_not_licensed", "report_overdue", "excluded", "not_a_named_user", "unknown_product"),
            *("unknown_feature", "no_seat", "reserved", "holder_limit", "no_feature_units", "lease_id_taken"),
            *("lease_ended", "overloaded", "not_primary", "store_down", "clock_behind", "unbound", "draining"),
            "internal",
        ),
        by="secret",
    ),
    Route(
        method="POST",
        path="/v1/heartbeats",
        handler=heartbeats,
        summary="Prolong up to 500 leases; each result is a single answer or a problem",
        form=BeatsForm,
        answers={200: BeatsAnswer},
        faults=(*BODY, "internal"),
    ),
    Route(
        method="GET",
        path="/v1/leases/{lease_id}",
        handler=show,
        summary="Show a lease",
        answers={200: LeaseAnswer},
        faults=("bad_request", "too_many_requests", *HELD),
        by="secret",
    ),
    Route(
        method="DELETE",
        path="/v1/leases/{lease_id}",
        handler=checkin,
        summary="Give a seat back, or leave the queue",
        answers={204: None},
        faults=(
            *("bad_request", "too_many_requests", "unauthenticated", "overloaded", "not_primary", "store_down"),
            "internal",
        ),
        by="secret",
    ),
    Route(
        method="GET",
        path="/v1/products",
        handler=products,
        summary="Seats, in use and available per product",
        answers={200: ProductsAnswer},
        faults=("forbidden", "internal"),
    ),
)
