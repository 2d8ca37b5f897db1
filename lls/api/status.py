"""Is it alive, is it ready, how much does it do: for balancers, monitors and Prometheus.

Rules
1. ``/livez`` says that the loop runs, and asks nothing.
2. ``/readyz`` asks the store itself, within a time. A page that says "ready" from memory while the database is gone is
   worse than none. Not ready: the store does not answer, this daemon is not the writer, or it is stopping. A wrong
   clock, a missing licence or an overdue report do not stop what is held, so they are told and leave the server ready.
3. ``/metrics`` counts events as they happen; levels are set from the last commit when somebody reads them. On the
   network it is answered only where the site shows its seats to anybody, else to who may administer, by the scope
   ``metrics``; on the admin socket always. One page is made at a time, in slices and in a thread: with ten thousand
   entitlements it takes seconds, and anybody may ask.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import Final

from aiohttp import web
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lls.api import openapi, problems
from lls.api.callers import admitted
from lls.api.edge import EDGE, JSON, Edge, Route, answer, encode
from lls.api.roles import rule_of
from lls.faults import Draining, Fault, Forbidden, NotPrimary, StoreDown
from lls.licensing.changes import Fact
from lls.licensing.instant import ClockState, Now
from lls.licensing.lease import Mode
from lls.licensing.ledger import Ledger
from lls.telemetry import Metrics
from lls.turns import in_turns

METRICS_TEXT: Final = "text/plain"
_DAY_SECONDS: Final = 86_400


class Alive(Struct, kw_only=True, frozen=True):
    """``GET /livez``."""

    status: str = "ok"


class Trouble(Struct, kw_only=True, frozen=True):
    """One thing that keeps the server from being ready."""

    code: str
    detail: str


class Ready(Struct, kw_only=True, frozen=True):
    """``GET /readyz``, with the same body whether ready or not."""

    ready: bool
    troubles: list[Trouble]
    clock: str
    license: str
    chain: str
    binding: str
    disk: str


async def livez(_request: web.Request) -> web.StreamResponse:
    """The loop runs."""
    return answer(Alive())


async def readyz(request: web.Request) -> web.StreamResponse:
    """Rule 2."""
    edge = request.app[EDGE]
    troubles = await _troubles(edge)
    now, ledger = edge.writer.now(), edge.writer.ledger
    body = encode(
        Ready(
            ready=not troubles,
            troubles=[Trouble(code=fault.code, detail=fault.detail) for fault in troubles],
            clock=now.state,
            license=ledger.server.license(now),
            chain=chain_state(ledger),
            binding=binding_state(ledger),
            disk="ok" if edge.care is None else edge.care.disk.room,
        )
    )
    status = problems.KINDS[troubles[0].code].status if troubles else 200
    return web.Response(status=status, body=body, headers={"Content-Type": JSON, "Cache-Control": "no-store"})


async def metrics(request: web.Request) -> web.StreamResponse:
    """Rule 3."""
    return web.Response(body=await metrics_text(request.app[EDGE]), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def metrics_text(edge: Edge) -> bytes:
    """Prometheus' page; who asks while one is being made gets that one."""
    if edge.page is None or edge.page.done():
        edge.page = asyncio.create_task(_page(edge))
    return await asyncio.shield(edge.page)


async def _page(edge: Edge) -> bytes:
    await edge.writer.settled()
    edge.count()
    await set_levels(edge.metrics, edge, edge.writer.now())
    return await asyncio.to_thread(generate_latest, edge.metrics.registry)


async def lan_metrics(request: web.Request) -> web.StreamResponse:
    """Rule 3, for anybody."""
    edge = request.app[EDGE]
    if not edge.setting.show_products:
        if not edge.setting.admin_http:
            raise Forbidden("This site does not show its seats; the admin socket answers with metrics.")
        admitted(request, edge, rule_of("GET", "/metrics"))
    return await metrics(request)


async def described(request: web.Request) -> web.StreamResponse:
    """The OpenAPI document of this application."""
    return web.Response(body=request.app[openapi.DOCUMENT], headers={"Content-Type": JSON})


async def _troubles(edge: Edge) -> list[Fault]:
    troubles: list[Fault] = [Draining()] if edge.draining else []
    try:
        async with asyncio.timeout(edge.setting.ready_seconds):
            await edge.writer.prove()
    except (StoreDown, NotPrimary) as fault:
        troubles.append(fault)
    except TimeoutError:
        troubles.append(StoreDown(f"The store did not answer within {edge.setting.ready_seconds:g} seconds."))
    return troubles


def chain_state(ledger: Ledger) -> str:
    """``forked`` when the vendor has acknowledged a line that our journal does not hold.

    ``restored`` while his answer to a restore from a backup is awaited.
    """
    if ledger.server.restored:
        return "restored"
    return "forked" if ledger.facts.get(Fact.CHAIN_FORKED) == "1" else "ok"


def binding_state(ledger: Ledger) -> str:
    """``key_only``: the vendor asks for no machine. ``unbound``: this is not the machine that was licensed."""
    terms = ledger.server.terms
    if terms is None or terms.binding is None:
        return "key_only"
    return "bound" if ledger.server.unbound_since is None else "unbound"


async def set_levels(metrics: Metrics, edge: Edge, now: Now) -> None:
    """Every gauge as of the last commit. Gauges by entitlement are cleared first: one that is gone must not stay."""
    ledger = edge.writer.ledger
    await _set_seats(metrics, ledger)
    live = Counter([lease.mode async for lease in in_turns(ledger.committed_leases())])
    for mode in Mode:
        metrics.leases_live.labels(mode).set(live[mode])
    metrics.queue_length.set(edge.writer.queued)
    metrics.store_up.set(edge.writer.down is None)
    metrics.primary.set(not isinstance(edge.writer.down, NotPrimary))
    for state in ClockState:
        metrics.clock_state.labels(state).set(state is now.state)
    metrics.clock_behind_seconds.set(now.behind_seconds)
    metrics.restored.set(ledger.server.restored)
    metrics.unbound.set(binding_state(ledger) == "unbound")
    metrics.bundle_sequence.set(max((kept.sequence for kept in ledger.bundles.values()), default=0))
    metrics.journal_seq.set(ledger.batch.before.seq)
    metrics.journal_unacknowledged.set(ledger.batch.before.seq - ledger.server.acknowledged.seq)
    due = ledger.server.terms.sync_due_at(ledger.server.sync_from) if ledger.server.terms else None
    metrics.report_due_days.set(math.inf if due is None else (due - now.wall).total_seconds() / _DAY_SECONDS)


async def _set_seats(metrics: Metrics, ledger: Ledger) -> None:
    for gauge in (metrics.seats, metrics.seats_in_use, metrics.seats_waiting, metrics.entitlement_expires):
        gauge.clear()
    async for pool in in_turns(ledger.pools.values()):
        terms = pool.entitlement
        labels = terms.product, terms.entitlement_id
        metrics.seats.labels(*labels).set(math.inf if terms.seats is None else terms.seats)
        metrics.seats_in_use.labels(*labels).set(ledger.in_use(terms.entitlement_id))
        if terms.ends_at is not None:
            metrics.entitlement_expires.labels(*labels).set(terms.ends_at.timestamp())
    async for product in in_turns(ledger.pools.products):
        metrics.seats_waiting.labels(product, "").set(ledger.waiting.length(product))


ROUTES: Final = (
    Route(method="GET", path="/livez", handler=livez, summary="Is it alive", answers={200: Alive}),
    Route(
        method="GET",
        path="/readyz",
        handler=readyz,
        summary="Is it ready; the same body where it is not",
        answers={200: Ready},
        faults=("store_down", "not_primary", "draining"),
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=described,
        summary="This document",
        answers={200: JSON},
    ),
)

_METRICS_SUMMARY: Final = "Metrics in Prometheus' text form"
METRICS: Final = Route(
    method="GET",
    path="/metrics",
    handler=metrics,
    summary=_METRICS_SUMMARY,
    answers={200: METRICS_TEXT},
    faults=("internal",),
)
LAN_METRICS: Final = Route(
    method="GET",
    path="/metrics",
    handler=lan_metrics,
    summary=_METRICS_SUMMARY,
    answers={200: METRICS_TEXT},
    faults=("unauthenticated", "forbidden", "internal"),
)
