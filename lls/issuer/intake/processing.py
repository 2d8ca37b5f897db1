"""From a stored event to what it changes: one event, one transaction, once.

Rules
1. Order of arrival means nothing. Who bought and what was bought may come in either order; what is renewed, changed or
   ended before it was bought is *held* until it was. Every later word is kept, and what is true of a subscription is
   told again from all of them (``course``); what that makes different is done (``agreeing``).
2. Each order that is made here has a reference made of the source and its own number (``stripe:in_123``), so that a
   second event for the same invoice changes nothing, whatever its id.
3. An end with ``on_end = "period_end"`` is held until what was paid for is over, unless the subscription lives again by
   then. Without a date it counts at once.
4. What is of a disabled customer is held until the customer is enabled. What is told of the subscription of a deleted
   one changes nothing; an order for one fails, and does not bring it back.
5. What cannot be processed changes nothing and fails with its reason. A register that cannot be written is nobody's
   fault but the machine's: the event waits.

It refuses to own what an order does (``lls.issuer.ordering``) and the languages of the sources (their modules).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from lls.faults import BadRequest, Fault, NotFound, RefusedDocument, UnsupportedMediaType
from lls.issuer.catalog import Stage
from lls.issuer.history import whoever
from lls.issuer.intake import chargify, fastspring, generic, netsuite, salesforce, stripe, zuora
from lls.issuer.intake.agreeing import Agreement, said
from lls.issuer.intake.course import Said, Word, course, newest
from lls.issuer.intake.facts import (
    Adapter,
    Bought,
    Changed,
    Ended,
    Fact,
    Introduced,
    Invoiced,
    Nothing,
    Ordered,
    Renewed,
    Started,
)
from lls.issuer.intake.inbox import Inbox, Settled, Status, Stored
from lls.issuer.intake.products import Products
from lls.issuer.intake.settings import NO_PROOF, OnEnd, Settings, Source
from lls.issuer.intake.subscriptions import Subscription, Subscriptions
from lls.issuer.office import Issuer
from lls.issuer.ordering import Fulfilled
from lls.issuer.refusals import HomeRefused, IntakeRefused
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
    """Not yet: until ``due_at``, until a customer is enabled, or until something else is known of the subscription."""

    def __init__(self, why: str, *, due_at: datetime | None = None, held_for: str | None = None) -> None:
        self.why, self.due_at, self.held_for = why, due_at, held_for
        super().__init__(why)


class _Moot(Exception):
    """It changes nothing, and never will."""


class Intake:
    """The intake of one office. One thread at a time, like the office."""

    def __init__(self, issuer: Issuer, settings: Settings) -> None:
        self._issuer, self._settings = issuer, settings
        self._account_ref: str | None = None
        """Whose the event in hand is, also where it fails: with its customer its body goes."""
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
            return self._issuer.fulfil(json.dumps(wanted).encode(), now=now) if wanted else []

    def source(self, name: str) -> Source:
        """A source's settings. Raises NotFound for one that has none."""
        if name not in self._settings.sources:
            raise NotFound("No source of that name may send events here.")
        return self._settings.sources[name]

    def remove_bodies(self, *, now: datetime) -> int:
        """Those of events that were settled longer ago than the settings keep them; how many."""
        return self.inbox.remove_bodies(before=now - self._settings.keep, now=now)

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
                settled = self._settle(stored, now=now)
                self.inbox.settle(stored, settled, now=now)
                status, outcome = settled.status, settled.outcome
        except HomeRefused:
            raise
        except Fault as fault:
            if stored is None:
                raise
            status, outcome = Status.FAILED, fault.detail
            failed = Settled(status=status, outcome=outcome, account_ref=self._account_ref)
            self.inbox.settle(stored, failed, now=now)
        except Exception as failure:
            if stored is not None:
                # One document that nobody foresaw must not keep all others from being processed.
                told = f"A fault of this program ({type(failure).__name__}); please report it."
                self.inbox.settle(stored, Settled(status=Status.FAILED, outcome=told), now=now)
            raise
        return Fate(
            key=stored.key,
            source=stored.source,
            event_id=stored.event_id,
            kind=stored.kind,
            status=status,
            outcome=outcome,
        )

    def _settle(self, stored: Stored, *, now: datetime) -> Settled:
        self._account_ref = None
        if stored.source not in self._settings.sources:
            raise IntakeRefused(
                f"The intake's configuration has no table [{stored.source}] any more, so nobody knows what this means."
            )
        setting = self._settings.sources[stored.source]
        fact = ADAPTERS[stored.source].fact(stored.event, setting)
        if isinstance(fact, Nothing):
            return Settled(status=Status.IGNORED, outcome=fact.why)
        register = self._issuer.register
        before, register.who = register.who, whoever(stored.source, reason=f"event {stored.key}")
        applying = _Applying(self._issuer, self._settings, setting, event=stored.key, now=now)
        try:
            outcome = applying.apply(fact)
        except _Later as later:
            return Settled(
                status=Status.HELD, outcome=later.why, due_at=later.due_at, held_for=later.held_for,
                account_ref=applying.account_ref,
            )  # fmt: skip
        except _Moot as moot:
            return Settled(status=Status.IGNORED, outcome=str(moot))
        finally:
            register.who, self._account_ref = before, applying.account_ref
        if stored.subject:
            self.inbox.wake(stored.source, stored.subject)
        return Settled(status=Status.DONE, outcome=outcome, account_ref=applying.account_ref)


class _Applying:
    """One fact, inside the transaction of its event. Whose it is, is known afterwards (``account_ref``)."""

    def __init__(self, issuer: Issuer, settings: Settings, source: Source, *, event: int, now: datetime) -> None:
        self._issuer, self._source, self._event, self._now = issuer, source, event, now
        self._known = Subscriptions(issuer.register, source.name)
        self._products = Products(issuer, settings.skus)
        self.account_ref: str | None = None

    def apply(self, fact: Fact) -> str:
        match fact:
            case Ordered():
                return self._ordered(fact)
            case Invoiced():
                self._release(fact.ref, fact.stage)
                return f"The invoice {fact.ref} has come to {fact.stage}."
            case Introduced():
                self._known.put(self._living(fact.subscription).told(fact.buyer))
                return f"The subscription {fact.subscription} is of {fact.buyer.account_ref or 'nobody known'}."
            case Started():
                return self._started(fact)
            case Bought():
                return self._bought(fact)
            case Renewed() | Changed() | Ended():
                return self._followed(fact)
            case Nothing():
                return fact.why

    # -- what a fact does ---------------------------------------------------------------------------------------------

    def _ordered(self, fact: Ordered) -> str:
        orders = [self._products.order(order) for order in fact.orders]
        wanted = [order for order in orders if order["lines"]]
        for order in wanted:
            self._check_enabled(str(order.get("account_ref")))
        if not wanted:
            return "Nothing of it sells a licence."
        fulfilled = self._issuer.fulfil(json.dumps(wanted).encode(), now=self._now)
        for one in fulfilled:
            self._release(one.order_ref, fact.stage)
        return said(fulfilled)

    def _release(self, invoice_ref: str, stage: Stage | None) -> None:
        """Grants that waited for an invoice to come so far, are given."""
        if stage is not None:
            self._issuer.balances.release(invoice_ref, stage=stage, now=self._now)

    def _started(self, fact: Started) -> str:
        known = self._living(fact.subscription).told(fact.buyer)
        if known.started:
            return f"The subscription {fact.subscription} was fulfilled before."
        if known.buyer.account_ref is None:
            raise _Later(
                f"Nobody has said yet whose the subscription {fact.subscription} is. It is taken up when an event says "
                f'so; or let the source\'s own customer be the account: account = "source" in [{self._source.name}].'
            )
        self._check_enabled(known.buyer.account_ref)
        known = replace(known, started=True)
        self._known.put(known)
        agreement, words = self._say(known, fact)
        # In it or not, what stands on the first invoice must be a product that somebody has named.
        self._products.subscribed(fact.items)
        sentences = agreement.reach(course(words, unsold=agreement.unsold(words)))
        self._release(agreement.order_ref(fact.ref), fact.stage)
        return " ".join(sentences) or "Nothing of it sells a licence yet."

    def _bought(self, fact: Bought) -> str:
        known = self._begun(fact.subscription)
        order_ref = f"{self._source.name}:{fact.ref}"
        order = self._products.order({
            "order_ref": f"{order_ref}:single", "invoice_ref": order_ref, "account_ref": known.buyer.account_ref,
            "lines": fact.lines,
        })  # fmt: skip
        outcome = self._ordered(Ordered(orders=(order,)))
        self._release(order_ref, fact.stage)
        return outcome

    def _followed(self, fact: Renewed | Changed | Ended) -> str:
        known = self._begun(fact.subscription)
        agreement, words = self._say(known, fact)
        told = course(words, unsold=agreement.unsold(words))
        sentences = agreement.reach(told)
        if isinstance(fact, Renewed):
            order_ref = agreement.order_ref(fact.ref)
            self._release(order_ref, fact.stage)
            return " ".join(sentences) or self._renewed_before(fact, order_ref)
        if isinstance(fact, Ended) and told.ended == fact and not told.over(self._now, at_once=self._at_once):
            raise _Later(
                " ".join(
                    [*sentences, f"Ends with what was paid for, at {write_instant(fact.paid_until or self._now)}."]
                ),
                due_at=fact.paid_until,
            )
        if not newest(words, Word(event=self._event, fact=fact)) or (isinstance(fact, Ended) and told.ended != fact):
            sentences.insert(0, f"Something newer is known of {fact.subscription}; this is older.")
        return " ".join(sentences) or "It is as it was."

    def _renewed_before(self, fact: Renewed, order_ref: str) -> str:
        if self._issuer.register.sale(order_ref) is not None:
            return f"The order {order_ref} was fulfilled before."
        return f"There is nothing in the subscription {fact.subscription} that could be renewed."

    # -- whose it is --------------------------------------------------------------------------------------------------

    @property
    def _at_once(self) -> bool:
        return self._source.on_end is OnEnd.AT_ONCE

    def _say(self, known: Subscription, fact: Said) -> tuple[Agreement, list[Word]]:
        """Keeps the word; all words there are, and who acts by them."""
        word = Word(event=self._event, fact=fact)
        self._known.say(word)
        agreement = Agreement(self._issuer, self._products, self._source, known, word=word, now=self._now)
        return agreement, self._known.words(fact.subscription)

    def _living(self, subscription: str) -> Subscription:
        known = self._known.get(subscription)
        if known.gone_at is not None:
            raise _Moot(
                f"The customer of the subscription {subscription} was deleted on {known.gone_at:%Y-%m-%d}, so this "
                "changes nothing."
            )
        self.account_ref = known.buyer.account_ref
        return known

    def _begun(self, subscription: str) -> Subscription:
        known = self._living(subscription)
        if not known.started:
            raise _Later(f"The subscription {subscription} was not bought yet, as far as is known here.")
        self._check_enabled(str(known.buyer.account_ref))
        return known

    def _check_enabled(self, account_ref: str) -> None:
        self.account_ref = account_ref
        customer = self._issuer.register.customer_by_account(account_ref)
        if customer is not None and customer.disabled_at is not None:
            raise _Later(
                f"The customer {account_ref} is disabled since {customer.disabled_at:%Y-%m-%d}; this is taken up when "
                f"it is enabled: lls-issuer customer enable {account_ref}.",
                held_for=account_ref,
            )
