"""Zuora's callouts, with the body that ``docs/issuer.md`` gives for the callout template.

A callout's body is what the tenant's template makes of its merge fields; so here the shape is ours and the names and
values are Zuora's::

    {
        "EventType": "SubscriptionCreated",
        "EventDate": "2026-11-21T07:00:00Z",
        "Account": {"AccountNumber": "C-42", "Name": "Example Works"},
        "Subscription": {"SubscriptionNumber": "A-S1", "Version": "1", "TermEndDate": "2027-11-21"},
        "Charges": [{"ChargeNumber": "C-1", "ProductRatePlanChargeId": "…", "Quantity": "50"}],
    }

Rules
1. ``SubscriptionCreated`` starts, ``SubscriptionRenewed`` renews, ``SubscriptionUpdated`` tells all charges as they are
   now, ``SubscriptionSuspended`` and ``SubscriptionResumed`` switch, ``SubscriptionCancelled`` ends. ``InvoicePosted``
   and ``PaymentProcessed`` say how far the invoice of that version has come.
2. The body proves nothing about itself with Basic authentication, and Zuora's notification id is no part of it. So an
   event is known by its content: a retry has the same. Orders carry the subscription's version, so that even an event
   that was made up from an older one changes nothing.
3. Values come as texts; ``50`` and ``50.0`` are fifty. ``TermEndDate`` is a day: it is paid until that day begins in
   UTC.
4. ``Account.AccountNumber`` is the account reference; with ``account = "source"`` it is ``Account.Id``.
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any, Final

from lls.issuer.catalog import Stage
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
    Nothing,
    Renewed,
    Started,
)
from lls.issuer.intake.reading import LONGEST_ID, Told, buyer, quiet
from lls.issuer.intake.settings import Source
from lls.issuer.orders import content_hash
from lls.licensing.fields import malformed


def events(body: bytes, _media: str) -> list[Event]:
    """The one event of a body."""
    document = read_object(body)
    told = Told(document, place="event")
    return [
        Event(
            event_id=content_hash(document),
            kind=told.text("EventType", most=100),
            document=document,
            subject=quiet(told.part("Subscription").raw("SubscriptionNumber")),
            sent_at=told.moment("EventDate"),
        )
    ]


def fact(event: Event, source: Source) -> Fact:
    """What a stored event means."""
    told = Told(event.document, place="event")
    subscription = told.part("Subscription")
    named: dict[str, Any] = {"subscription": event.subject}
    if not event.subject:
        raise malformed("event.Subscription.SubscriptionNumber", "is missing")
    if event.kind in _SWITCHES:
        return Changed(**_when(told), active=_SWITCHES[event.kind], **named)
    if event.kind in _STAGES:
        return Invoiced(ref=f"zuora:{_version(subscription)}", stage=_STAGES[event.kind])
    match event.kind:
        case "SubscriptionCreated":
            return Started(ref=_version(subscription), buyer=_buyer(told, source), items=_items(told), **named)
        case "SubscriptionRenewed":
            return Renewed(ref=_version(subscription), **_when(told), only=_charges(told), **named)
        case "SubscriptionUpdated":
            return Changed(**_when(told), items=_items(told), **named)
        case "SubscriptionCancelled":
            return Ended(**_when(told), paid_until=_paid_until(subscription), **named)
        case kind:
            return Nothing(why=f"Callouts of the type {kind} change nothing here.")


_SWITCHES: Final = {"SubscriptionSuspended": False, "SubscriptionResumed": True}
_STAGES: Final = {"InvoicePosted": Stage.APPROVED, "PaymentProcessed": Stage.PAID}


def _when(told: Told) -> dict[str, Any]:
    """Each order makes a new version of a subscription, so of two in one instant the higher is the later."""
    return {"at": told.moment("EventDate"), "sequence": told.part("Subscription").whole("Version", otherwise=0)}


def _charges(told: Told) -> frozenset[str] | None:
    """What was renewed, where the callout lists it."""
    return frozenset(item.item for item in _items(told)) or None


def _version(subscription: Told) -> str:
    number = subscription.text("SubscriptionNumber", most=LONGEST_ID - 12)
    return f"{number}-v{subscription.whole('Version', least=1)}"


def _buyer(told: Told, source: Source) -> Buyer:
    account = told.part("Account")
    return buyer(
        source,
        own=told.part("Licensing"),
        customer=account.optional_ref("Id"),
        name=account.short("Name"),
        account=account.short("AccountNumber"),
    )


def _items(told: Told) -> tuple[Item, ...]:
    items = tuple(
        Item(
            item=one.text("ChargeNumber", most=LONGEST_ID),
            product=one.text("ProductRatePlanChargeId", most=LONGEST_ID),
            quantity=one.whole("Quantity", least=1, otherwise=1),
        )
        for one in told.parts("Charges")
    )
    if len({item.item for item in items}) != len(items):
        raise malformed("event.Charges", "names a charge twice")
    return items


def _paid_until(subscription: Told) -> datetime | None:
    for key in ("CancelledDate", "TermEndDate"):
        if subscription.raw(key) not in (None, ""):
            day = subscription.optional_day(key)
            return None if day is None else datetime.combine(day, time(), tzinfo=UTC)
    return None


ADAPTER: Final = Adapter(
    source="zuora",
    about="Zuora's callout, with the documented body",
    media=("application/json",),
    events=events,
    fact=fact,
)
