"""Stripe's events: Checkout says who bought, invoices say what, subscriptions say what became of it.

| event | means |
|---|---|
| ``checkout.session.completed`` | whose the subscription is; a purchase, where its metadata names the product |
| ``invoice.paid`` (``fulfil_on``) | of a new subscription: started; of a next period: renewed; of none: an order |
| its single lines, which are no subscription item | an order of their own, as the event ``evt_…:single`` |
| ``customer.subscription.created`` | whose it is, where its metadata say so |
| ``customer.subscription.updated`` | other items, quantities or prices; unpaid, paused, active again |
| ``customer.subscription.deleted`` | ended, with the period or at once |

Rules
1. ``metadata.account_ref`` or the session's ``client_reference_id`` is the vendor's account reference,
   ``metadata.server_id`` the server. With ``account = "source"`` the account is Stripe's customer.
2. An item is a subscription item (``si_…``), its product the price (``price_…``). Both the newer and the older place of
   a price, a subscription and a period in the objects are read.
3. An invoice names the items that it is for, and those are renewed, whatever else is told before or after.
4. ``created`` counts in whole seconds. An end is the last of its second, because a subscription that Stripe deleted
   never lives again; of two other states in one second the later comer counts.
5. An event shows at most the first items of a list. One that says that there are more is refused, not half fulfilled;
   only a renewal needs no list: without one it is for all that was in the subscription.
6. What is not of the live mode was not paid, and changes nothing, unless the settings say so.
7. A proration settles money between two states, and a line below zero gives some back: neither was bought.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from lls.issuer.catalog import Stage
from lls.issuer.intake.bodies import read_object
from lls.issuer.intake.facts import (
    Adapter,
    Bought,
    Buyer,
    Changed,
    Ended,
    Event,
    Fact,
    Introduced,
    Invoiced,
    Item,
    Nothing,
    Ordered,
    Renewed,
    Started,
)
from lls.issuer.intake.reading import LONGEST_ID, Told, buyer, order_of, quiet, trial
from lls.issuer.intake.settings import FulfilOn, Source
from lls.licensing.fields import malformed

_SESSIONS: Final = ("checkout.session.completed", "checkout.session.async_payment_succeeded")
_INVOICES: Final = {
    FulfilOn.CREATED: Stage.CREATED, FulfilOn.FINALIZED: Stage.APPROVED, FulfilOn.PAID: Stage.PAID,
}  # fmt: skip
_LIVES: Final = {"active": True, "trialing": True, "unpaid": False, "paused": False}
_SINGLE: Final = ":single"
_NEVER_BEGAN: Final = ("incomplete", "incomplete_expired")


def events(body: bytes, _media: str) -> list[Event]:
    """The one event of a body; beside it the single lines of a subscription's invoice, with a fate of their own."""
    document = read_object(body)
    told = Told(document, place="event")
    kind = told.text("type", most=100)
    about = told.part("data").part("object")
    whole = about.raw("id") if kind.startswith("customer.subscription.") else _subscription_of(about)
    event = Event(
        event_id=told.text("id", most=LONGEST_ID),
        kind=kind,
        document=document,
        subject=quiet(whole),
        sent_at=told.moment("created"),
        volatile=frozenset({"pending_webhooks", "request"}),
    )
    if kind in _INVOICES and event.subject and _has_single(about):
        return [event, replace(event, event_id=f"{event.event_id}{_SINGLE}", kind=f"{kind}{_SINGLE}")]
    return [event]


def _has_single(about: Told) -> bool:
    listed = about.part("lines").raw("data")
    lines = [Told(one, place="line") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return any(_was_bought(one) and not _names_item(one) for one in lines)


def _subscription_of(about: Told) -> object:
    """Of a session, or of an invoice, whose newer form names it below ``parent``."""
    details = about.part("parent").part("subscription_details")
    for place in (about, details):
        found = place.raw("subscription")
        if isinstance(found, dict):
            return found.get("id")
        if found is not None:
            return found
    return None


def fact(event: Event, source: Source) -> Fact:
    """What a stored event means."""
    told = Told(event.document, place="event")
    about = told.part("data").part("object")
    if (tried := trial(told, "livemode", source)) is not None:
        return tried
    if event.kind in _SESSIONS:
        return _session(event, about, source)
    if event.kind.removesuffix(_SINGLE) in _INVOICES:
        return _invoice(event, about, source, at=told.moment("created"))
    if event.kind == "customer.subscription.created":
        who = _buyer(about, source)
        if who.account_ref is None:
            return Nothing(why="It does not say whose it is; the session or the invoice does.")
        return Introduced(subscription=about.ref("id"), buyer=who)
    if event.kind == "customer.subscription.updated":
        return _updated(about, at=told.moment("created"))
    if event.kind == "customer.subscription.deleted":
        if about.raw("status") in _NEVER_BEGAN:
            return Nothing(why="The subscription was never paid, so nothing was given for it.")
        return Ended(subscription=about.ref("id"), at=told.moment("created"), paid_until=_paid_until(about))
    return Nothing(why=f"Events of the type {event.kind} change nothing here.")


def _buyer(about: Told, source: Source, *, account: str | None = None) -> Buyer:
    own = about.part("metadata")
    for place in (about.part("parent").part("subscription_details"), about.part("subscription_details")):
        if own.short("account_ref") is None and place.part("metadata").short("account_ref") is not None:
            own = place.part("metadata")
    details = about.part("customer_details")
    name = about.short("customer_name") or details.short("business_name") or details.short("name")
    return buyer(source, own=own, customer=about.optional_ref("customer"), name=name, account=account)


def _session(event: Event, about: Told, source: Source) -> Fact:
    who = _buyer(about, source, account=about.short("client_reference_id"))
    if about.has("subscription"):
        return Introduced(subscription=event.subject, buyer=who)
    if about.raw("payment_status") == "unpaid":
        return Nothing(why="It is not paid yet; another event follows when it is.")
    own = about.part("metadata")
    if about.has("invoice") or not own.has("product"):
        return Nothing(why="It does not say what was bought (metadata.product); an invoice would.")
    line: dict[str, object] = {
        "line": 1, "sku": own.text("product"), "quantity": own.whole("quantity", least=1, otherwise=1),
    }  # fmt: skip
    if own.has("entitlement_id"):
        line["entitlement_id"] = own.text("entitlement_id")
    return Ordered(orders=(_order(about, who, [line]),), stage=Stage.PAID)


def _invoice(event: Event, about: Told, source: Source, *, at: datetime) -> Fact:
    kind, _, single = event.kind.partition(_SINGLE[0])
    stage = _INVOICES[FulfilOn(kind)]
    if kind != source.fulfil_on:
        return Invoiced(ref=f"stripe:{about.ref('id')}", stage=stage)
    if single:
        lines = _lines(about, lambda line: not _names_item(line))
        return Bought(subscription=event.subject, ref=about.ref("id"), lines=lines, stage=stage)
    who = _buyer(about, source)
    if not event.subject:
        return Ordered(orders=(_order(about, who, _lines(about, lambda _line: True)),), stage=stage)
    match about.raw("billing_reason"):
        case "subscription_create" | "subscription":
            return Started(
                subscription=event.subject,
                ref=about.ref("id"),
                buyer=who,
                items=_items(about.part("lines"), _names_item),
                stage=stage,
            )
        case "subscription_cycle":
            only = _renewed(about.part("lines"))
            return Renewed(subscription=event.subject, ref=about.ref("id"), at=at, only=only, stage=stage)
        case _:
            return Nothing(why="The invoice begins and renews nothing; what changed is told by the subscription.")


def _renewed(listed: Told) -> frozenset[str] | None:
    """Rules 3 and 5."""
    if listed.raw("has_more") is True:
        return None
    return frozenset(item.item for item in _items(listed, _names_item)) or None


def _order(about: Told, who: Buyer, lines: Sequence[Mapping[str, object]]) -> dict[str, object]:
    return order_of(f"stripe:{about.ref('id')}", who, lines, place=f"{about.place}.metadata.account_ref")


def _lines(about: Told, wanted: Callable[[Told], bool]) -> tuple[Mapping[str, object], ...]:
    """An invoice's lines as those of an order; the invoice may name the entitlement that they are for."""
    target = about.part("metadata").optional_text("entitlement_id")
    own = {} if target is None else {"entitlement_id": target}
    items = _items(about.part("lines"), wanted)
    return tuple(
        {"line": n, "sku": item.product, "quantity": item.quantity, **own} for n, item in enumerate(items, start=1)
    )


def _items(listed: Told, wanted: Callable[[Told], bool] = lambda _line: True) -> tuple[Item, ...]:
    if listed.raw("has_more") is True:
        raise malformed(f"{listed.place}.has_more", "says that not all items are in the event")
    items: dict[str, Item] = {}
    for one in listed.parts("data"):
        if not _was_bought(one) or not wanted(one):
            continue
        product = one.part("pricing").part("price_details").optional_ref("price") or one.ref("price", "plan")
        name = _item_of(one) or one.ref("id")
        # One price may stand on several lines of an invoice; what is in the subscription is their sum.
        before = items[name].quantity if name in items else 0
        count = before + one.whole("quantity", otherwise=1)
        if count:
            items[name] = Item(item=name, product=product, quantity=count)
    return tuple(items.values())


def _was_bought(line: Told) -> bool:
    """Rule 7."""
    amount = line.raw("amount")
    if isinstance(amount, int) and amount < 0:
        return False
    parent = line.part("parent")
    places = (line, parent.part("subscription_item_details"), parent.part("invoice_item_details"))
    return not any(place.raw("proration") is True for place in places)


def _item_of(line: Told) -> str | None:
    return _details(line).optional_ref("subscription_item") or line.optional_ref("subscription_item")


def _names_item(line: Told) -> bool:
    return _details(line).has("subscription_item") or line.has("subscription_item")


def _details(line: Told) -> Told:
    return line.part("parent").part("subscription_item_details")


def _updated(about: Told, *, at: datetime) -> Fact:
    status = about.text("status", most=50)
    if status in _NEVER_BEGAN:
        return Nothing(why="The subscription is not paid yet; the invoice begins it.")
    return Changed(
        subscription=about.ref("id"),
        at=at,
        items=_items(about.part("items")),
        active=_LIVES.get(status),
    )


def _paid_until(about: Told) -> datetime | None:
    """The end of the period, which newer versions tell of each item."""
    if about.has("current_period_end"):
        return about.moment("current_period_end")
    ends = [one.moment("current_period_end") for one in about.parts("items", "data") if one.has("current_period_end")]
    return max(ends, default=None)


ADAPTER: Final = Adapter(
    source="stripe",
    about="Stripe's webhook",
    media=("application/json",),
    events=events,
    fact=fact,
)
