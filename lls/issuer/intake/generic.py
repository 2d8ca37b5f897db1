"""Any shop, CRM or billing system that can sign JSON: the facts themselves, as a documented form.

    {"event_id": "e-1", "type": "order", "occurred_at": "2026-11-21T07:00:00Z", "order": {…}}

| type | members |
|---|---|
| ``order`` | ``order``: as for ``lls-issuer order fulfil`` |
| ``subscription.started`` | ``subscription``, ``ref``, ``account_ref``, ``items``; ``customer_name``, ``server_id`` |
| ``subscription.renewed`` | ``subscription``, ``ref``; ``only`` (names of items), ``sequence`` |
| ``subscription.changed`` | ``subscription``; ``items`` (all of them), ``active``, ``sequence`` |
| ``invoice`` | ``ref``, ``stage``: ``invoice_created``, ``invoice_approved``, ``invoice_paid`` |
| ``subscription.ended`` | ``subscription``; ``paid_until``, ``sequence`` |

Rules
1. This is our own form, so it is judged whole before it is stored: whoever sends nonsense learns it at once.
2. An item is ``{item, product, quantity}``.
3. Numbers that begin with a source's name and a colon are those sources' own: an order may not call itself so, nor may
   an invoice but for ``generic:``. Else whoever may send here could take the number of another's sale beforehand.
"""

from __future__ import annotations

from typing import Any, Final

from lls.issuer.catalog import Stage
from lls.issuer.catalog_file import only, table
from lls.issuer.intake.bodies import read_object
from lls.issuer.intake.facts import (
    Adapter,
    Buyer,
    Changed,
    Ended,
    Event,
    Fact,
    Invoiced,
    Item,
    Ordered,
    Renewed,
    Started,
)
from lls.issuer.intake.reading import LONGEST_ID, Told
from lls.issuer.intake.settings import CUSTOMS, Source
from lls.issuer.orders import MOST_LINES
from lls.licensing.fields import LARGEST, malformed

_OWN: Final = "generic"
_COMMON: Final = ("event_id", "type", "occurred_at")
_MEMBERS: Final = {
    "order": ("order",),
    "invoice": ("ref", "stage"),
    "subscription.started": ("subscription", "ref", "account_ref", "customer_name", "server_id", "items"),
    "subscription.renewed": ("subscription", "ref", "only", "sequence"),
    "subscription.changed": ("subscription", "items", "active", "sequence"),
    "subscription.ended": ("subscription", "paid_until", "sequence"),
}


def events(body: bytes, _media: str) -> list[Event]:
    """The one event of a body."""
    document = read_object(body)
    told = Told(document, place="event")
    kind = told.text("type", most=50)
    if kind not in _MEMBERS:
        raise malformed("event.type", f"must be one of {', '.join(_MEMBERS)}")
    only(document, (*_COMMON, *_MEMBERS[kind]), place="event")
    event = Event(
        event_id=told.text("event_id", most=LONGEST_ID),
        kind=kind,
        document=document,
        subject="" if kind in ("order", "invoice") else told.text("subscription", most=LONGEST_ID),
        sent_at=told.instant("occurred_at"),
    )
    _meaning(event)
    return [event]


def fact(event: Event, _source: Source) -> Fact:
    """What a stored event says."""
    return _meaning(event)


def _meaning(event: Event) -> Fact:
    told = Told(event.document, place="event")
    match event.kind:
        case "order":
            order = table(event.document.get("order"), place="event.order")
            lines = order.get("lines")
            if not isinstance(lines, list) or len(lines) > MOST_LINES:
                raise malformed("event.order.lines", f"must be an array of at most {MOST_LINES} lines")
            for n, line in enumerate(lines):
                Told(line, place=f"event.order.lines[{n}]").text("sku")
            _check_own(Told(order, place="event.order"), "order_ref")
            return Ordered(orders=(order,))
        case "invoice":
            ref = told.text("ref", most=LONGEST_ID)
            if not ref.startswith(f"{_OWN}:"):
                _check_own(told, "ref")
            return Invoiced(ref=ref, stage=told.kind("stage", Stage))
        case "subscription.started":
            return Started(
                subscription=event.subject,
                ref=told.text("ref", most=LONGEST_ID),
                buyer=Buyer(
                    account_ref=told.text("account_ref", most=100),
                    name=told.optional_text("customer_name"),
                    server_id=told.id("server_id", "lls_") if told.has("server_id") else None,
                ),
                items=_items(told),
            )
        case "subscription.renewed":
            return Renewed(
                subscription=event.subject,
                ref=told.text("ref", most=LONGEST_ID),
                only=_only(told) if told.has("only") else None,
                **_when(told),
            )
        case "subscription.changed":
            return Changed(
                subscription=event.subject,
                **_when(told),
                items=_items(told) if told.has("items") else None,
                active=told.flag("active") if told.has("active") else None,
            )
        case _:
            return Ended(subscription=event.subject, **_when(told), paid_until=told.optional_instant("paid_until"))


def _check_own(told: Told, key: str) -> None:
    owner = told.text(key, most=100).partition(":")
    if owner[1] and owner[0].strip().casefold() in CUSTOMS:
        raise malformed(f"{told.place}.{key}", f"begins with {owner[0]}:, which the numbers of that source begin with")


def _when(told: Told) -> dict[str, Any]:
    """When it was so, and which of two of one instant is the later."""
    sequence = told.optional_integer("sequence", least=0, most=LARGEST)
    return {"at": told.instant("occurred_at"), "sequence": sequence or 0}


def _only(told: Told) -> frozenset[str]:
    named = told.list("only", most=MOST_LINES)
    if not named:
        raise malformed(f"{told.place}.only", "names no item; leave it out to mean all of them")
    return frozenset(Told({"item": one}, place=f"{told.place}.only").text("item", most=LONGEST_ID) for one in named)


def _items(told: Told) -> tuple[Item, ...]:
    items = []
    for n, one in enumerate(told.list("items", most=MOST_LINES)):
        place = f"{told.place}.items[{n}]"
        only(table(one, place=place), ("item", "product", "quantity"), place=place)
        inner = Told(one, place=place)
        items.append(
            Item(
                item=inner.text("item", most=LONGEST_ID),
                product=inner.text("product"),
                quantity=inner.whole("quantity", least=1),
            )
        )
    if len({item.item for item in items}) != len(items):
        raise malformed(f"{told.place}.items", "names an item twice")
    return tuple(items)


ADAPTER: Final = Adapter(
    source=_OWN,
    about="Any system that signs: orders and subscriptions in the neutral form",
    media=("application/json",),
    events=events,
    fact=fact,
)
