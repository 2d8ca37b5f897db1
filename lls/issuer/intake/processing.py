"""From a stored event to what it changes: one event, one transaction, once.

Rules
1. Order of arrival means nothing. Who bought and what was bought may come in either order; what is renewed, changed or
   ended before it was bought is *held* until it was; a state older than the newest known changes nothing.
2. Each order that is made here has a reference made of the source and its own number (``stripe:in_123``), so that a
   second event for the same invoice changes nothing, whatever its id.
3. A renewal renews what is in the subscription. A change becomes the difference: seats more or fewer, another edition,
   a new item. An item that was taken out is not renewed any more, or ends at once, as the source's ``on_end`` says;
   put in again while it still runs, it is the same entitlement.
4. An end with ``on_end = "period_end"`` is held until what was paid for is over, unless the subscription lives again by
   then. Without a date it counts at once.
5. What cannot be processed changes nothing and fails with its reason. A register that cannot be written is nobody's
   fault but the machine's: the event waits.

It refuses to own what an order does (``lls.issuer.ordering``) and the languages of the sources (their modules).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from lls.faults import BadRequest, Fault, NotFound, RefusedDocument, UnsupportedMediaType
from lls.issuer.catalog import Action, Stage
from lls.issuer.changing import read_back
from lls.issuer.history import whoever
from lls.issuer.intake import chargify, fastspring, generic, netsuite, salesforce, stripe, zuora
from lls.issuer.intake.facts import (
    Adapter,
    Changed,
    Ended,
    Fact,
    Introduced,
    Invoiced,
    Item,
    Nothing,
    Ordered,
    Renewed,
    Started,
)
from lls.issuer.intake.inbox import Inbox, Status, Stored
from lls.issuer.intake.products import Products
from lls.issuer.intake.settings import NO_PROOF, OnEnd, Sale, Settings, Source
from lls.issuer.intake.subscriptions import Held, Subscription, Subscriptions, overtaken
from lls.issuer.office import Issuer
from lls.issuer.ordering import Fulfilled
from lls.issuer.refusals import HomeRefused, IntakeRefused
from lls.licensing.entitlement import Status as EntitlementStatus
from lls.licensing.fields import write_instant

ADAPTERS: Final[Mapping[str, Adapter]] = {
    one.ADAPTER.source: one.ADAPTER for one in (generic, stripe, fastspring, chargify, zuora, salesforce, netsuite)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An event that was received; ``again`` when it was there before."""

    event_id: str
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of an event."""

    key: int
    source: str
    event_id: str
    kind: str
    status: Status
    outcome: str


class _Later(Exception):
    """Not yet: until ``due_at``, or until something else is known of the subscription."""

    def __init__(self, why: str, *, due_at: datetime | None = None) -> None:
        self.why, self.due_at = why, due_at
        super().__init__(why)


class Intake:
    """The intake of one office. One thread at a time, like the office."""

    def __init__(self, issuer: Issuer, settings: Settings) -> None:
        self._issuer, self._settings = issuer, settings
        self.inbox = Inbox(issuer.register)

    def receive(self, source: str, body: bytes, *, media: str, proof: str | None, now: datetime) -> list[Taken]:
        """Stores the events in ``body``, all or none, if ``proof``, the value of the source's header, proves it.

        Raises NotFound, UnsupportedMediaType, Unauthenticated, BadRequest, Conflict; HomeRefused when nothing can be
        stored.
        """
        setting, adapter = self.source(source), ADAPTERS[source]
        if media not in adapter.media:
            raise UnsupportedMediaType(f"Events of {source} come as {' or '.join(adapter.media)}.")
        setting.proof.check(proof, body, now=now)
        try:
            events = adapter.events(body, media)
        except RefusedDocument as refused:
            raise BadRequest(refused.detail) from refused
        with self._issuer.register.transaction():
            return [
                Taken(event_id=event.event_id, again=not self.inbox.add(source, event, now=now)) for event in events
            ]

    def import_orders(self, source: str, data: bytes, *, media: str, now: datetime) -> list[Fulfilled]:
        """Fulfils an order file at once, all or none, without the inbox: somebody sits there and reads what is wrong.

        Raises BadRequest, RefusedDocument, IntakeRefused, OrderRefused.
        """
        adapter = ADAPTERS[source]
        setting = self._settings.sources.get(source) or Source(name=source, proof=NO_PROOF)
        products = Products(self._issuer, self._settings.skus)
        with self._issuer.register.transaction():
            facts = [adapter.fact(event, setting) for event in adapter.events(data, media)]
            orders = [products.order(order) for fact in facts if isinstance(fact, Ordered) for order in fact.orders]
            wanted = [order for order in orders if order["lines"]]
            return self._issuer.fulfil(_json(wanted), now=now) if wanted else []

    def source(self, name: str) -> Source:
        """A source's settings. Raises NotFound for one that has none."""
        if name not in self._settings.sources:
            raise NotFound("No source of that name may send events here.")
        return self._settings.sources[name]

    def process(self, *, now: datetime) -> list[Fate]:
        """Everything that can be processed now."""
        fates = []
        while (fate := self.process_next(now=now)) is not None:
            fates.append(fate)
        return fates

    def process_next(self, *, now: datetime) -> Fate | None:
        """One event; None when nothing is to be done. Raises HomeRefused when the register cannot be written."""
        if self.inbox.next(now=now) is None:
            return None  # without the write lock: looking must not wait for somebody's long ingest
        stored: Stored | None = None
        try:
            with self._issuer.register.transaction():
                # Somebody else may have processed it by now; from here on nobody can.
                stored = self.inbox.next(now=now)
                if stored is None:
                    return None
                status, outcome, due_at = self._settle(stored, now=now)
                self.inbox.settle(stored, status, outcome, due_at=due_at, now=now)
        except HomeRefused:
            raise
        except Fault as fault:
            if stored is None:
                raise
            status, outcome = Status.FAILED, fault.detail
            self.inbox.settle(stored, status, outcome, now=now)
        except Exception as failure:
            if stored is not None:
                # One document that nobody foresaw must not keep all others from being processed.
                told = f"A fault of this program ({type(failure).__name__}); please report it."
                self.inbox.settle(stored, Status.FAILED, told, now=now)
            raise
        return Fate(
            key=stored.key,
            source=stored.source,
            event_id=stored.event_id,
            kind=stored.kind,
            status=status,
            outcome=outcome,
        )

    def _settle(self, stored: Stored, *, now: datetime) -> tuple[Status, str, datetime | None]:
        if stored.source not in self._settings.sources:
            raise IntakeRefused(
                f"The intake's configuration has no table [{stored.source}] any more, so nobody knows what this means."
            )
        setting = self._settings.sources[stored.source]
        fact = ADAPTERS[stored.source].fact(stored.event, setting)
        if isinstance(fact, Nothing):
            return Status.IGNORED, fact.why, None
        register = self._issuer.register
        before, register.who = register.who, whoever(stored.source, reason=f"event {stored.key}")
        try:
            outcome = _Applying(self._issuer, self._settings, setting, now=now).apply(fact)
        except _Later as later:
            return Status.HELD, later.why, later.due_at
        finally:
            register.who = before
        if stored.subject:
            self.inbox.wake(stored.source, stored.subject)
        return Status.DONE, outcome, None


class _Applying:
    """One fact, inside the transaction of its event."""

    def __init__(self, issuer: Issuer, settings: Settings, source: Source, *, now: datetime) -> None:
        self._issuer, self._source, self._now = issuer, source, now
        self._known = Subscriptions(issuer.register, source.name)
        self._products = Products(issuer, settings.skus)

    def apply(self, fact: Fact) -> str:
        match fact:
            case Ordered():
                return self._ordered(fact)
            case Invoiced():
                return self._invoiced(fact)
            case Introduced():
                self._known.put(self._known.get(fact.subscription).told(fact.buyer))
                return f"The subscription {fact.subscription} is of {fact.buyer.account_ref or 'nobody known'}."
            case Started():
                return self._started(fact)
            case Renewed():
                return self._renewed(fact)
            case Changed():
                return self._changed(fact)
            case Ended():
                return self._ended(fact)
            case Nothing():
                return fact.why

    # -- what a fact does ---------------------------------------------------------------------------------------------

    def _ordered(self, fact: Ordered) -> str:
        orders = [self._products.order(order) for order in fact.orders]
        wanted = [order for order in orders if order["lines"]]
        if not wanted:
            return "Nothing of it sells a licence."
        fulfilled = self._issuer.fulfil(_json(wanted), now=self._now)
        for one in fulfilled:
            self._release(one.order_ref, fact.stage)
        return _said(fulfilled)

    def _invoiced(self, fact: Invoiced) -> str:
        self._release(fact.ref, fact.stage)
        return f"The invoice {fact.ref} has come to {fact.stage}."

    def _release(self, invoice_ref: str, stage: Stage | None) -> None:
        """Grants that waited for an invoice to come so far, are given."""
        if stage is not None:
            self._issuer.balances.release(invoice_ref, stage=stage, now=self._now)

    def _started(self, fact: Started) -> str:
        known = self._known.get(fact.subscription).told(fact.buyer)
        if known.started:
            return f"The subscription {fact.subscription} was fulfilled before."
        if known.buyer.account_ref is None:
            raise _Later(
                f"Nobody has said yet whose the subscription {fact.subscription} is. It is taken up when an event says "
                f'so; or let the source\'s own customer be the account: account = "source" in [{self._source.name}].'
            )
        self._known.put(replace(known, started=True))
        sold = self._products.subscribed(fact.items)
        if not sold:
            return "Nothing of it sells a licence yet."
        fulfilled = self._sell(known, fact.ref, sold)
        self._release(fulfilled.order_ref, fact.stage)
        return _said([fulfilled])

    def _renewed(self, fact: Renewed) -> str:
        known = self._begun(fact.subscription)
        order_ref = f"{self._source.name}:{fact.ref}"
        before = self._issuer.register.sale_lines(order_ref)
        if before and all(line.document.get("action") == Action.RENEW.value for line in before):
            # Rule 2: what came into the subscription since, this invoice never paid for.
            self._release(order_ref, fact.stage)
            return f"The order {order_ref} was fulfilled before."
        held = [one for one in self._known.items(fact.subscription).values() if one.quantity]
        if not held:
            return f"There is nothing in the subscription {fact.subscription} that could be renewed."
        lines = [
            {
                "action": Action.RENEW.value,
                "sku": self._products.sku_of(one.sku, Action.RENEW),
                "entitlement_id": one.entitlement_id,
            }
            for one in held
        ]
        fulfilled = self._fulfil(known, fact.ref, lines)
        self._release(fulfilled.order_ref, fact.stage)
        return _said([fulfilled])

    def _changed(self, fact: Changed) -> str:
        known = self._begun(fact.subscription)
        outcomes: list[str] = []
        if fact.items is not None and not (fact.whole and overtaken(fact.at, known.items_at)):
            outcomes += self._differences(known, fact, fact.items)
            known = replace(known, items_at=fact.at) if fact.whole else known
        elif fact.items is not None:
            outcomes.append(f"What is in {fact.subscription} is known from a newer event; this is older.")
        if fact.active is not None and overtaken(fact.at, known.state_at):
            outcomes.append(f"The state of {fact.subscription} is known from a newer event; this is older.")
        elif fact.active is not None:
            if fact.active == known.suspended:
                outcomes.append(self._switch(fact.subscription, on=fact.active))
            known = replace(known, state_at=fact.at, suspended=not fact.active)
        self._known.put(known)
        return " ".join(outcomes) or "It is as it was."

    def _ended(self, fact: Ended) -> str:
        known = self._begun(fact.subscription)
        if overtaken(fact.at, known.state_at):
            return f"The state of {fact.subscription} is known from a newer event; this is older."
        known = replace(known, state_at=fact.at)
        self._known.put(known)
        if self._source.on_end is OnEnd.PERIOD_END and fact.paid_until is not None and fact.paid_until > self._now:
            raise _Later(f"Ends with what was paid for, at {write_instant(fact.paid_until)}.", due_at=fact.paid_until)
        self._known.put(replace(known, suspended=True))
        return self._switch(fact.subscription, on=False)

    # -- the difference that a change makes ---------------------------------------------------------------------------

    def _differences(self, known: Subscription, fact: Changed, items: Sequence[Item]) -> list[str]:
        before = self._known.items(fact.subscription)
        if not fact.whole:
            newer = [one for one in items if one.item not in before or not overtaken(fact.at, before[one.item].seen_at)]
            if len(newer) < len(items):
                return [f"What is in {fact.subscription} is known from a newer event; this is older."]
        sold = self._products.subscribed(item for item in items if item.quantity)
        held = {item: one for item, one in before.items() if one.quantity}
        kept = {item.item for item, _ in sold}
        # None of it is left, or it became a product that sells no licence.
        none_left = {item.item for item in items} - kept
        out = [one for one in held.values() if one.item not in kept and (fact.whole or one.item in none_left)]
        outcomes = [self._taken_out(fact, one) for one in out]
        for name in none_left - set(before):
            # Remembered, so that an older word for it is known to be one.
            unsold = Held(item=name, sku="", quantity=0, entitlement_id="", seen_at=fact.at)
            self._known.put_item(fact.subscription, unsold)
        for item, sale in sold:
            back = None if item.item in held else self._back_again(before.get(item.item), item, sale)
            if back is not None:
                held[item.item] = back
                outcomes.append(f"{back.entitlement_id} is in it again.")
        changes: list[dict[str, Any]] = []
        for item, sale in sold:
            if item.item in held:
                one = held[item.item]
                changes += self._changes_of(one, item, sale)
                one = replace(one, sku=sale.sku, quantity=item.quantity, seen_at=fact.at)
                self._known.put_item(fact.subscription, one)
        if changes:
            outcomes.append(_said([self._fulfil(known, fact.ref, changes)]))
        added = [(item, sale) for item, sale in sold if item.item not in held]
        if added:
            outcomes.append(_said([self._sell(known, f"{fact.ref}:new", added, at=fact.at)]))
        return outcomes

    def _changes_of(self, before: Held, item: Item, sale: Sale) -> list[dict[str, Any]]:
        target = {"entitlement_id": before.entitlement_id}
        lines: list[dict[str, Any]] = []
        if sale.sku != before.sku:
            lines.append({"action": Action.UPGRADE.value, "sku": sale.sku_of(Action.UPGRADE), **target})
        if item.quantity != before.quantity:
            more = item.quantity - before.quantity
            lines.append({
                "action": Action.ADD_SEATS.value, "sku": sale.sku_of(Action.ADD_SEATS), "quantity": more, **target,
            })  # fmt: skip
        return lines

    def _back_again(self, gone: Held | None, item: Item, sale: Sale) -> Held | None:
        """What was taken out and still runs, as it runs: with a new one beside it the seats would be there twice."""
        sold = None if gone is None else self._issuer.register.entitlement(gone.entitlement_id)
        offering = self._issuer.catalog().offerings.get(sale.sku)
        if gone is None or sold is None or offering is None or gone.sku != sale.sku:
            return None
        terms = read_back(sold.document)
        if terms.status is not EntitlementStatus.ACTIVE or (terms.expires_at and terms.expires_at <= self._now):
            return None
        if terms.seats is None or offering.seats is None:
            return replace(gone, quantity=item.quantity)
        return replace(gone, quantity=terms.seats // offering.seats) if terms.seats % offering.seats == 0 else None

    def _taken_out(self, fact: Changed, one: Held) -> str:
        self._known.put_item(fact.subscription, replace(one, quantity=0, seen_at=fact.at))
        if self._source.on_end is OnEnd.PERIOD_END:
            return f"{one.entitlement_id} was taken out and is not renewed any more."
        self._issuer.amending.disable(one.entitlement_id, now=self._now)
        return f"{one.entitlement_id} was taken out and is disabled."

    def _switch(self, subscription: str, *, on: bool) -> str:
        change = self._issuer.amending.enable if on else self._issuer.amending.disable
        # What was taken out ends with its own term, or did at once: it is neither switched off nor on again.
        held = [one for one in self._known.items(subscription).values() if one.quantity]
        for one in held:
            change(one.entitlement_id, now=self._now)
        listed = ", ".join(one.entitlement_id for one in held)
        return f"{listed}: {'enabled again' if on else 'disabled'}." if held else "There is nothing in it."

    # -- orders -------------------------------------------------------------------------------------------------------

    def _begun(self, subscription: str) -> Subscription:
        known = self._known.get(subscription)
        if not known.started:
            raise _Later(f"The subscription {subscription} was not bought yet, as far as is known here.")
        return known

    def _fulfil(
        self, known: Subscription, ref: str, lines: Sequence[Mapping[str, Any]], *, server_id: str | None = None
    ) -> Fulfilled:
        """An order of these lines. A change names no server: an entitlement may have moved since it was sold."""
        order: dict[str, Any] = {
            "order_ref": f"{self._source.name}:{ref}",
            "account_ref": known.buyer.account_ref,
            "lines": [{"line": n, **line} for n, line in enumerate(lines, start=1)],
        }
        if server_id is not None:
            order["server_id"] = server_id
        if known.buyer.name is not None:
            order["customer"] = {"name": known.buyer.name}
        (fulfilled,) = self._issuer.fulfil(_json(order), now=self._now)
        return fulfilled

    def _sell(
        self, known: Subscription, ref: str, sold: Sequence[tuple[Item, Sale]], *, at: datetime | None = None
    ) -> Fulfilled:
        """What is new in a subscription, and which entitlement each item became."""
        lines = [{"action": Action.NEW.value, "sku": sale.sku, "quantity": item.quantity} for item, sale in sold]
        fulfilled = self._fulfil(known, ref, lines, server_id=known.buyer.server_id)
        for (item, sale), line in zip(sold, fulfilled.lines, strict=True):
            held = Held(
                item=item.item,
                sku=sale.sku,
                quantity=item.quantity,
                entitlement_id=line.sold.entitlement_id,
                seen_at=at,
            )
            self._known.put_item(known.subscription, held)
        return fulfilled


def _said(fulfilled: Iterable[Fulfilled]) -> str:
    return " ".join(
        f"The order {one.order_ref} {'was fulfilled before' if one.again else 'is fulfilled'}: "
        f"{', '.join(sold.entitlement_id for sold in one.entitlements) or 'nothing new'}."
        for one in fulfilled
    )


def _json(document: object) -> bytes:
    return json.dumps(document).encode()
