"""FastSpring's events: one post may carry several, each is stored and processed by itself.

| event | means |
|---|---|
| ``order.completed`` | an order of the items that belong to no subscription |
| ``subscription.activated`` | started |
| ``subscription.charge.completed`` | renewed (FastSpring sends none for the first charge) |
| ``subscription.updated``, ``subscription.uncanceled`` | other quantity, product or add-ons; active again |
| ``subscription.deactivated`` | ended; ``subscription.canceled`` only says that it will be |

Rules
1. ``tags.account_ref``, or the account's ``lookup.custom``, is the vendor's account reference, ``tags.server_id`` the
   server. With ``account = "source"`` the account is FastSpring's.
2. Accounts, subscriptions and products come as ids or, with *webhook expansion*, as objects; both are read.
3. An event with ``live`` false is of a trial purchase, which anybody can make: it changes nothing, unless the settings
   say so.
4. ``changed`` (milliseconds) orders the states of a subscription, else the event's ``created``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from lls.faults import BadRequest
from lls.issuer.catalog import Stage
from lls.issuer.intake.bodies import read_object
from lls.issuer.intake.facts import (
    Adapter,
    Buyer,
    Changed,
    Ended,
    Event,
    Fact,
    Item,
    Nothing,
    Ordered,
    Renewed,
    Started,
)
from lls.issuer.intake.reading import LONGEST_ID, Told, buyer, order_of, quiet, trial
from lls.issuer.intake.settings import Source
from lls.licensing.fields import malformed

_MOST_EVENTS: Final = 1_000
_MILLI: Final = 1_000
_ACTIVE: Final = {"active": True, "trial": True, "canceled": True, "deactivated": False}


def events(body: bytes, _media: str) -> list[Event]:
    """The events of a body; twice the same counts once."""
    told = Told(read_object(body), place="body")
    listed = told.parts("events")
    if not 1 <= len(listed) <= _MOST_EVENTS:
        raise BadRequest(f"The body must hold 1 to {_MOST_EVENTS} events.")
    return [_event(one, told.list("events")[n]) for n, one in enumerate(listed)]


def _event(told: Told, document: Any) -> Event:
    data = told.part("data")
    return Event(
        event_id=told.text("id", most=LONGEST_ID),
        kind=told.text("type", most=100),
        document=document,
        subject=quiet(_subscription(told.raw("type"), data)),
        sent_at=told.optional_moment("created", per_second=_MILLI),
        volatile=frozenset({"processed"}),
    )


def _subscription(kind: object, data: Told) -> object:
    if not isinstance(kind, str) or not kind.startswith("subscription."):
        return None
    named = data.raw("subscription")
    found = named.get("id") if isinstance(named, dict) else named
    return found or data.raw("id")


def fact(event: Event, source: Source) -> Fact:
    """What a stored event means."""
    told = Told(event.document, place="event")
    data = told.part("data")
    if (tried := trial(told, "live", source)) is not None:
        return tried
    match event.kind:
        case "order.completed":
            return _order(data, source)
        case "subscription.activated":
            return Started(
                subscription=_named(event),
                ref=_named(event),
                buyer=_buyer(data, source),
                items=_items(data),
                stage=Stage.PAID,
            )
        case "subscription.charge.completed":
            if data.raw("status") not in (None, "successful"):
                return Nothing(why="The charge was not successful.")
            return Renewed(
                subscription=_named(event),
                ref=data.optional_ref("order") or event.event_id,
                at=_at(told, data),
                stage=Stage.PAID,
            )
        case "subscription.updated" | "subscription.uncanceled":
            return Changed(
                subscription=_named(event),
                at=_at(told, data),
                items=_items(data) if data.has("product") else None,
                active=_ACTIVE.get(str(data.raw("state"))),
            )
        case "subscription.deactivated":
            return Ended(
                subscription=_named(event),
                at=_at(told, data),
                paid_until=data.optional_moment("end", "deactivationDate", per_second=_MILLI),
            )
        case "subscription.canceled":
            return Nothing(why="It goes on until it is deactivated; it is not renewed.")
        case kind:
            return Nothing(why=f"Events of the type {kind} change nothing here.")


def _named(event: Event) -> str:
    if not event.subject:
        raise malformed("event.data.id", "is missing: it names the subscription")
    return event.subject


def _at(told: Told, data: Told) -> datetime:
    return data.optional_moment("changed", per_second=_MILLI) or told.moment("created", per_second=_MILLI)


def _buyer(data: Told, source: Source) -> Buyer:
    account = data.part("account")
    contact = data.part("customer") if data.has("customer") else account.part("contact")
    person = " ".join(part for part in (contact.short("first"), contact.short("last")) if part)
    return buyer(
        source,
        own=data.part("tags"),
        customer=data.optional_ref("account"),
        name=contact.short("company") or person or None,
        account=account.part("lookup").short("custom"),
    )


def _items(data: Told) -> tuple[Item, ...]:
    items = [_item(data, "subscription")]
    items += [_item(one, f"addon:{_product(one)}"[:LONGEST_ID]) for one in data.parts("addons")]
    if len({one.item for one in items}) != len(items):
        raise malformed(f"{data.place}.addons", "names an add-on twice")
    return tuple(items)


def _item(data: Told, name: str) -> Item:
    return Item(item=name, product=_product(data), quantity=data.whole("quantity", least=1, otherwise=1))


def _product(data: Told) -> str:
    """The product's path, which an expanded product holds by that very name."""
    if isinstance(data.raw("product"), dict):
        return data.part("product").text("product")
    return data.text("product")


def _order(data: Told, source: Source) -> Fact:
    single = [one for one in data.parts("items") if not one.has("subscription")]
    if not single:
        return Nothing(why="All of it are subscriptions, which have events of their own.")
    lines: list[dict[str, object]] = [
        {"line": n, "sku": _product(one), "quantity": one.whole("quantity", least=1, otherwise=1)}
        for n, one in enumerate(single, start=1)
    ]
    order_ref = f"fastspring:{data.ref('id', 'order')}"
    return Ordered(orders=(order_of(order_ref, _buyer(data, source), lines, place=f"{data.place}.tags.account_ref"),))


ADAPTER: Final = Adapter(
    source="fastspring",
    about="FastSpring's webhook",
    media=("application/json",),
    events=events,
    fact=fact,
)
