"""Events as the administrator sees them: what was told, to whom it is still on its way, a test, and dead ones again."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final, Literal

from aiohttp import web
from msgspec import Struct

from lls.api.admin import ALWAYS, BODY, WRITES
from lls.api.edge import ACTOR, EDGE, Edge, Query, Route, answer, number_of, parameters, read_form
from lls.api.wire import Form
from lls.events import Delivery, Event, Herald
from lls.faults import StoreDown

MOST_EVENTS: Final = 10_000
_USUAL: Final = 50


class EventView(Struct, kw_only=True, frozen=True):
    """A change of a condition; ``state``: raised or cleared."""

    event_id: str
    at: datetime
    type: str
    key: str
    state: str
    severity: str
    text: str
    data: dict[str, str | int | None]


class DeliveryView(Struct, kw_only=True, frozen=True):
    """One event on its way to one destination; ``state``: waiting, sent or dead."""

    event_id: str
    type: str
    destination: str
    state: str
    attempts: int
    next_at: datetime
    error: str


class EventsView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/events``, newest first. ``counts``: deliveries by state."""

    destinations: list[str]
    counts: dict[str, int]
    events: list[EventView]
    deliveries: list[DeliveryView]


class EventsAct(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/admin/events``: send a test to every destination, or try dead deliveries again."""

    act: Literal["test", "retry"]


class EventsActed(Struct, kw_only=True, frozen=True):
    """How many deliveries are on their way because of it."""

    deliveries: int


async def events(request: web.Request) -> web.StreamResponse:
    """What was told, and to whom."""
    given = parameters(request, "limit")
    limit = number_of(given.get("limit"), "limit", default=_USUAL, most=MOST_EVENTS)
    herald = _herald(request.app[EDGE])
    outbox = herald.outbox
    try:
        told = await asyncio.to_thread(outbox.events, limit=limit)
        deliveries = await asyncio.to_thread(outbox.deliveries, limit=limit)
        counts = await asyncio.to_thread(outbox.count)
    except OSError as error:
        raise StoreDown(str(error)) from error
    return answer(
        EventsView(
            destinations=[one.name for one in herald.destinations],
            counts=counts,
            events=[_event(one) for one in told],
            deliveries=[_delivery(one) for one in deliveries],
        )
    )


async def act(request: web.Request) -> web.StreamResponse:
    """A test, or another attempt."""
    edge = request.app[EDGE]
    wish = (await read_form(request, edge, _ACT)).act
    herald, actor = _herald(edge), request[ACTOR]
    await edge.writer.do(lambda ledger, now: ledger.note_act(f"events_{wish}", actor=actor, now=now))
    try:
        deliveries = await (herald.test() if wish == "test" else herald.retry())
    except OSError as error:
        raise StoreDown(str(error)) from error
    return answer(EventsActed(deliveries=deliveries))


def _herald(edge: Edge) -> Herald:
    if edge.herald is None:
        raise StoreDown("The server has not begun to tell events yet; try again shortly.")
    return edge.herald


def _event(one: Event) -> EventView:
    return EventView(
        event_id=one.event_id,
        at=one.at,
        type=one.type,
        key=one.key,
        state=one.state,
        severity=one.severity,
        text=one.text,
        data=dict(one.data),
    )


def _delivery(one: Delivery) -> DeliveryView:
    return DeliveryView(
        event_id=one.event.event_id,
        type=one.event.type,
        destination=one.destination,
        state=one.state,
        attempts=one.attempts,
        next_at=one.next_at,
        error=one.error,
    )


_ACT: Final = Form(EventsAct)

ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/events",
        handler=events,
        summary="What was told of itself, to whom, and what is still on its way",
        answers={200: EventsView},
        query=(Query(name="limit", meaning="how many, newest first; 50 if left out", kind="integer"),),
        faults=(*ALWAYS, "bad_request", "store_down"),
        by="administrator",
    ),
    Route(
        method="POST",
        path="/v1/admin/events",
        handler=act,
        summary="Send a test event to every destination, or try dead deliveries again",
        answers={200: EventsActed},
        form=EventsAct,
        faults=(*ALWAYS, *BODY, *WRITES),
        by="administrator",
    ),
)
