"""Brings what was sold into agreement with the course of its subscription: the difference becomes orders.

    Agreement(issuer, products, source, known, event=7, now=now).reach(course)  -> sentences for the inbox

Rules
1. A thing that is or was in it is an entitlement. One that was bought and taken out again is sold, too, even if both
   are heard of at once: it was paid for.
2. Seats more or fewer, another edition: an order of the event's own, ``stripe:event-7``. What a product is called here
   counts when it is sold; other settings afterwards change nothing of that.
3. Each renewal of the course is carried out once for each thing that it is for, under its own number (``stripe:in_2``).
   One that the course does not have any more, because something earlier was told late, is taken back; so are those
   after it, and then carried out again. A grant that it gave is revoked; a counter that began anew stays so.
4. What was taken out is not renewed any more, or rests at once, as ``on_end`` says. In again while it still runs, it is
   the same entitlement; after its end it is sold anew.
5. Off and on follow the course when it turns, and not in between: who enables by hand what the source suspended, has
   it enabled. Only what the source disabled itself is enabled again; what somebody else disabled, stays so.

It refuses to own what is true of a subscription (``course``) and what an order does (``lls.issuer.ordering``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from lls.issuer.catalog import Action
from lls.issuer.changing import read_back
from lls.issuer.intake.course import Course, Due, Thing, Word
from lls.issuer.intake.facts import Changed, Item, Started
from lls.issuer.intake.products import Products
from lls.issuer.intake.settings import OnEnd, Sale, Source
from lls.issuer.intake.subscriptions import Given, Held, Subscription, Subscriptions
from lls.issuer.office import Issuer
from lls.issuer.ordering import Fulfilled
from lls.issuer.refusals import IntakeRefused, NotKnown
from lls.issuer.register import Sold
from lls.licensing.entitlement import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A thing of the course and the entitlement that it is."""

    thing: Thing
    held: Held


class Agreement:
    """One subscription, inside the transaction of the event ``word`` that made its course another."""

    def __init__(
        self, issuer: Issuer, products: Products, source: Source, known: Subscription, *, word: Word, now: datetime
    ) -> None:
        self._issuer, self._products, self._source, self._now = issuer, products, source, now
        self._known, self._word = known, word
        self._subscriptions = Subscriptions(issuer.register, source.name)
        self._sentences: list[str] = []

    def unsold(self, words: Iterable[Word]) -> frozenset[str]:
        """Those of the products named that sell no licence."""
        named = {item.product for word in words for item in getattr(word.fact, "items", None) or ()}
        return frozenset(product for product in named if (sale := self._sale(product)) is not None and not sale.sku)

    def reach(self, course: Course) -> list[str]:
        """Does what it takes; what was done, in sentences."""
        before = self._subscriptions.items(self._known.subscription)
        pairs = self._sold([self._paired(thing, before.get(thing.item)) for thing in course.things])
        pairs = self._adjusted(pairs)
        pairs = self._renewed(pairs)
        for pair in pairs:
            self._subscriptions.put_item(self._known.subscription, self._rested(pair, course))
        return self._sentences

    def order_ref(self, ref: str) -> str:
        """An order's reference here: the source's own number, below its name."""
        return f"{self._source.name}:{ref}"

    # -- what is new --------------------------------------------------------------------------------------------------

    def _paired(self, thing: Thing, held: Held | None) -> tuple[Thing, Held | None]:
        """Rule 4; None where it is to be sold."""
        if held is not None and thing.present and not held.present:
            if not self._runs(held):
                return thing, None
            self._sentences.append(f"{held.entitlement_id} is in it again.")
            return thing, replace(held, present=True)
        if held is not None and held.present and not thing.present:
            if self._source.on_end is OnEnd.PERIOD_END:
                self._sentences.append(f"{held.entitlement_id} was taken out and is not renewed any more.")
            return thing, replace(held, present=False)
        return thing, held

    def _sold(self, paired: Sequence[tuple[Thing, Held | None]]) -> list[_Pair]:
        new = [(thing, sale) for thing, held in paired if held is None and (sale := self._newly(thing)) is not None]
        made: dict[str, Held] = {}
        if new:
            fact = self._word.fact
            ref = fact.ref if isinstance(fact, Started) else f"event-{self._word.event}:new"
            lines = [{"action": Action.NEW.value, "sku": sale.sku, "quantity": thing.quantity} for thing, sale in new]
            fulfilled = self._fulfil(ref, lines, server_id=self._known.buyer.server_id)
            before = self._subscriptions.items(self._known.subscription)
            for (thing, sale), line in zip(new, fulfilled.lines, strict=True):
                made[thing.item] = Held(
                    item=thing.item,
                    product=thing.product,
                    sku=sale.sku,
                    quantity=thing.quantity,
                    entitlement_id=line.sold.entitlement_id,
                    present=thing.present,
                    since=fact.at if isinstance(fact, Changed) and thing.item in before else None,
                )
        found = [(thing, held or made.get(thing.item)) for thing, held in paired]
        return [_Pair(thing=thing, held=held) for thing, held in found if held is not None]

    def _newly(self, thing: Thing) -> Sale | None:
        """What it is called here; None where that cannot be known any more, of what is in it no longer."""
        if not thing.present and self._sale(thing.product) is None:
            return None
        ((_, sale),) = self._products.subscribed(
            [Item(item=thing.item, product=thing.product, quantity=thing.quantity)]
        )
        return sale

    def _runs(self, held: Held) -> bool:
        sold = self._entitlement(held)
        terms = read_back(sold.document)
        rests = terms.status is not Status.ACTIVE and not (held.off and self._is_ours(held))
        return not rests and (terms.expires_at is None or terms.expires_at > self._now)

    # -- what is different --------------------------------------------------------------------------------------------

    def _adjusted(self, pairs: Sequence[_Pair]) -> list[_Pair]:
        lines: list[dict[str, Any]] = []
        became: list[_Pair] = []
        for pair in pairs:
            thing, held = pair.thing, pair.held
            target = {"entitlement_id": held.entitlement_id}
            if thing.product != held.product:
                sale = self._products.sale(thing.product)
                if sale.sku != held.sku:
                    lines.append({"action": Action.UPGRADE.value, "sku": sale.sku_of(Action.UPGRADE), **target})
                held = replace(held, product=thing.product, sku=sale.sku)
            if thing.quantity != held.quantity:
                sku = self._sku_of_seats(held)
                more = thing.quantity - held.quantity
                lines.append({"action": Action.ADD_SEATS.value, "sku": sku, "quantity": more, **target})
                held = replace(held, quantity=thing.quantity)
            became.append(replace(pair, held=held))
        if lines:
            self._fulfil(f"event-{self._word.event}", lines)
        return became

    def _sku_of_seats(self, held: Held) -> str:
        sale = self._sale(held.product)
        if sale is not None and sale.sku == held.sku:
            return sale.sku_of(Action.ADD_SEATS)
        return self._products.sku_of(held.sku, Action.ADD_SEATS)

    # -- renewals -----------------------------------------------------------------------------------------------------

    def _renewed(self, pairs: Sequence[_Pair]) -> list[_Pair]:
        kept = {pair.thing.item: replace(pair, held=self._taken_back(pair)) for pair in pairs}
        missing: dict[tuple[datetime, str], list[_Pair]] = {}
        for pair in kept.values():
            done = {given.ref for given in pair.held.renewals}
            for due in self._dues(pair):
                if due.ref not in done:
                    missing.setdefault((due.at, due.ref), []).append(pair)
        for (_, ref), wanted in sorted(missing.items(), key=lambda one: one[0]):
            self._renew(ref, [kept[pair.thing.item] for pair in wanted], kept)
        return list(kept.values())

    def _renew(self, ref: str, pairs: Sequence[_Pair], kept: dict[str, _Pair]) -> None:
        before = [self._terms(pair.held) for pair in pairs]
        lines = [
            {
                "action": Action.RENEW.value,
                "sku": self._products.sku_of(pair.held.sku, Action.RENEW),
                "entitlement_id": pair.held.entitlement_id,
            }
            for pair in pairs
        ]
        fulfilled = self._fulfil(ref, lines)
        for pair, was, line in zip(pairs, before, fulfilled.lines, strict=True):
            grants: Any = line.outcome.get("grants", ())
            given = Given(
                ref=ref,
                was=was,
                became=self._terms(pair.held),
                grants=tuple(str(grant["grant_id"]) for grant in grants),
            )
            held = replace(pair.held, renewals=(*pair.held.renewals, given))
            kept[pair.thing.item] = replace(pair, held=held)

    def _terms(self, held: Held) -> dict[str, Any]:
        return self._issuer.amending.moved_by_renewal(self._entitlement(held))

    def _taken_back(self, pair: _Pair) -> Held:
        """Rule 3: without those that the course does not have, and without those that came after them."""
        held, wanted = pair.held, {due.ref for due in self._dues(pair)}
        while any(given.ref not in wanted for given in held.renewals):
            last = held.renewals[-1]
            for grant in last.grants:
                self._issuer.balances.revoke(grant, now=self._now)
            self._issuer.amending.take_back_renewal(
                held.entitlement_id, was=last.was, became=last.became, now=self._now
            )
            self._sentences.append(f"The renewal {self.order_ref(last.ref)} of {held.entitlement_id} is taken back.")
            held = replace(held, renewals=held.renewals[:-1])
        return held

    def _dues(self, pair: _Pair) -> list[Due]:
        since = pair.held.since
        return [due for due in pair.thing.renewals if since is None or due.at >= since]

    # -- off and on ---------------------------------------------------------------------------------------------------

    def _rested(self, pair: _Pair, course: Course) -> Held:
        """Rule 5."""
        held, at_once = pair.held, self._source.on_end is OnEnd.AT_ONCE
        off = course.off(self._now, at_once=at_once) or (at_once and not held.present)
        if off == held.off:
            return held
        status = read_back(self._entitlement(held).document).status
        if off and status is Status.ACTIVE:
            self._issuer.amending.disable(held.entitlement_id, now=self._now)
            self._sentences.append(f"{held.entitlement_id} is disabled.")
        elif not off and status is Status.DISABLED and self._is_ours(held):
            self._issuer.amending.enable(held.entitlement_id, now=self._now)
            self._sentences.append(f"{held.entitlement_id} is enabled again.")
        elif status is Status.DISABLED:
            self._sentences.append(f"{held.entitlement_id} stays disabled, as somebody else had it.")
        return replace(held, off=off)

    def _is_ours(self, held: Held) -> bool:
        return self._issuer.amending.switched_by(held.entitlement_id) == self._source.name

    # -- how ----------------------------------------------------------------------------------------------------------

    def _sale(self, product: str) -> Sale | None:
        try:
            return self._products.sale(product)
        except IntakeRefused:
            return None

    def _entitlement(self, held: Held) -> Sold:
        sold = self._issuer.register.entitlement(held.entitlement_id)
        if sold is None:
            raise NotKnown(f"There is no entitlement {held.entitlement_id} any more, which {held.item} became.")
        return sold

    def _fulfil(self, ref: str, lines: Sequence[Mapping[str, Any]], *, server_id: str | None = None) -> Fulfilled:
        """An order of these lines, after those that it has. A change names no server: what was sold may have moved."""
        order_ref = self.order_ref(ref)
        before = max((line.line for line in self._issuer.register.sale_lines(order_ref)), default=0)
        order: dict[str, Any] = {
            "order_ref": order_ref,
            "account_ref": self._known.buyer.account_ref,
            "lines": [{"line": n, **line} for n, line in enumerate(lines, start=before + 1)],
        }
        if server_id is not None:
            order["server_id"] = server_id
        if self._known.buyer.name is not None:
            order["customer"] = {"name": self._known.buyer.name}
        (fulfilled,) = self._issuer.fulfil(json.dumps(order).encode(), now=self._now)
        if self._known.buyer.name is not None:
            self._known = self._known.sold_to()
            self._subscriptions.put(self._known)
        self._sentences.append(said([fulfilled]))
        return fulfilled


def said(fulfilled: Iterable[Fulfilled]) -> str:
    """Orders in a sentence each."""
    return " ".join(
        f"The order {one.order_ref} {'was fulfilled before' if one.again else 'is fulfilled'}: "
        f"{', '.join(sold.entitlement_id for sold in one.entitlements) or 'nothing new'}."
        for one in fulfilled
    )
