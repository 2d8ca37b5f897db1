"""Maxio Advanced Billing (Chargify): webhooks as forms, with the names of Rails, or as JSON of the same shape.

| event | means |
|---|---|
| ``signup_success`` | started, with the product |
| ``component_allocation_change`` | a component's quantity: a new item, or more or fewer of it |
| ``renewal_success`` | renewed |
| ``subscription_product_change`` | another product: another edition |
| ``subscription_state_change`` | ``canceled``, ``expired``: ended; ``unpaid``, ``on_hold``, ``active``: off, on |

Rules
1. The customer's ``reference`` is the vendor's account reference; with ``account = "source"`` it is Maxio's customer.
   The server is named by the subscription's ``reference``, where that is a server's id.
2. Products and components are named by their handle, else by their id. A product that only carries components is mapped
   to ``""``.
3. ``id`` is Maxio's number of the webhook, the same in every retry and replay. Nothing signed says when the event was
   sent, so a state is as new as its ``updated_at``, else its own ``timestamp`` or the event's ``created_at``. These
   are whole seconds; of two in one second the webhook with the higher number is the later.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

from lls.issuer.catalog import Stage
from lls.issuer.intake.bodies import read_form, read_object
from lls.issuer.intake.facts import Adapter, Buyer, Changed, Ended, Event, Fact, Item, Nothing, Renewed, Started
from lls.issuer.intake.reading import LONGEST_ID, Told, buyer, quiet
from lls.issuer.intake.settings import Source
from lls.licensing.fields import malformed

FORM: Final = "application/x-www-form-urlencoded"
_OVER: Final = ("canceled", "expired", "trial_ended")
_LIVES: Final = {"active": True, "trialing": True, "unpaid": False, "on_hold": False, "suspended": False}
_PRODUCT: Final = "product"
_NUMBER: Final = re.compile(r"[0-9]{1,15}")


def events(body: bytes, media: str) -> list[Event]:
    """The one event of a body."""
    document = read_form(body) if media == FORM else read_object(body)
    told = Told(document, place="event")
    return [
        Event(
            event_id=told.ref("id"),
            kind=told.text("event", most=100),
            document=document,
            subject=quiet(_id_of(told.part("payload").part("subscription"))),
            sent_at=told.optional_moment("created_at"),
        )
    ]


def _id_of(told: Told) -> object:
    found = told.raw("id")
    return str(found) if isinstance(found, int) else found


def fact(event: Event, source: Source) -> Fact:
    """What a stored event means."""
    told = Told(event.document, place="event")
    payload = told.part("payload")
    subscription = payload.part("subscription")
    match event.kind:
        case "signup_success":
            return Started(
                subscription=subscription.ref("id"),
                ref=subscription.ref("id"),
                buyer=_buyer(payload, source),
                items=(_product(subscription.part("product")),),
                stage=Stage.PAID,
            )
        case "renewal_success":
            return Renewed(
                subscription=subscription.ref("id"),
                ref=_charge(payload) or f"renewal-{event.event_id}",
                **_when(event, told),
                stage=Stage.PAID,
            )
        case "component_allocation_change":
            return Changed(
                subscription=subscription.ref("id"),
                **_when(event, told),
                items=_component(payload),
                whole=False,
            )
        case "subscription_product_change":
            return Changed(
                subscription=subscription.ref("id"),
                **_when(event, told),
                items=(_product(subscription.part("product")),),
                whole=False,
            )
        case "subscription_state_change":
            return _state(event, told, subscription)
        case kind:
            return Nothing(why=f"Events of the type {kind} change nothing here.")


def _state(event: Event, told: Told, subscription: Told) -> Fact:
    state = subscription.text("state", most=50)
    if state in _OVER:
        until = subscription.optional_moment("current_period_ends_at", "expires_at")
        return Ended(subscription=subscription.ref("id"), **_when(event, told), paid_until=until)
    if state not in _LIVES:
        return Nothing(why=f"The state {state} changes nothing here.")
    return Changed(subscription=subscription.ref("id"), **_when(event, told), active=_LIVES[state])


def _when(event: Event, told: Told) -> dict[str, Any]:
    """Rule 3."""
    number = event.event_id
    return {"at": _at(told), "sequence": int(number) if _NUMBER.fullmatch(number) else 0}


def _at(told: Told) -> datetime:
    payload = told.part("payload")
    at = (
        payload.part("subscription").optional_moment("updated_at")
        or payload.optional_moment("timestamp")
        or told.optional_moment("created_at")
    )
    if at is None:
        raise malformed("event.created_at", "is missing, so nobody knows which of two states is the newer")
    return at


def _charge(payload: Told) -> str | None:
    """What was paid, by its invoice or transaction; a renewal that is told twice is one."""
    for name, key in (("invoice", "uid"), ("invoice", "id"), ("transaction", "id")):
        if payload.part(name).has(key):
            return f"{name}-{payload.part(name).ref(key)}"
    return None


def _buyer(payload: Told, source: Source) -> Buyer:
    subscription = payload.part("subscription")
    customer = subscription.part("customer") if subscription.has("customer") else payload.part("customer")
    person = " ".join(part for part in (customer.short("first_name"), customer.short("last_name")) if part)
    own = Told({"server_id": _server(subscription)}, place=subscription.place)
    return buyer(
        source,
        own=own,
        customer=customer.optional_ref("id"),
        name=customer.short("organization") or person or None,
        account=customer.short("reference"),
    )


def _server(subscription: Told) -> str | None:
    found = subscription.short("reference")
    return found if found is not None and found.startswith("lls_") else None


def _name(told: Told) -> str:
    return told.text("handle", most=LONGEST_ID) if told.raw("handle") else told.ref("id")


def _product(told: Told) -> Item:
    return Item(item=_PRODUCT, product=_name(told), quantity=1)


def _component(payload: Told) -> tuple[Item, ...]:
    component = payload.part("component")
    name = _name(component)
    quantity = payload.whole("new_allocation")
    return (Item(item=f"component:{component.ref('id')}"[:LONGEST_ID], product=name, quantity=quantity),)


ADAPTER: Final = Adapter(
    source="chargify",
    about="The webhook of Maxio Advanced Billing (Chargify)",
    media=(FORM, "application/json"),
    events=events,
    fact=fact,
)
