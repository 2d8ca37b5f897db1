"""What the register knows of the sources' subscriptions: whose they are, all that was said, and what that became.

Rules
1. Who bought and what was bought may be told by different events, in either order; each is kept as it comes. A later
   word for the account does not move what was sold.
2. Every word is kept as long as the subscription is, without anybody's name: what is true is told again from all of
   them (``course``). Two events of one invoice are one word, with the earlier of the two instants.
3. Rows change inside the transaction of the event that changes them.
4. With its customer a subscription is forgotten, but for its number: by that a late event is known to be of nobody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from lls.issuer.intake.course import Said, Word
from lls.issuer.intake.facts import Buyer, Changed, Ended, Item, Renewed, Started
from lls.issuer.intake.inbox import read
from lls.issuer.register import Register
from lls.licensing.fields import read_instant, write_instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A subscription of a source; ``started`` once it was fulfilled, ``gone_at`` once its customer was deleted."""

    source: str
    subscription: str
    buyer: Buyer = field(default_factory=Buyer)
    started: bool = False
    gone_at: datetime | None = None

    def told(self, buyer: Buyer) -> Subscription:
        """With what is newly known of who bought; what was known before stays, and all of it once it was fulfilled."""
        if self.started:
            return self
        mine = self.buyer
        return replace(
            self,
            buyer=Buyer(
                account_ref=mine.account_ref or buyer.account_ref,
                name=mine.name or buyer.name,
                server_id=mine.server_id or buyer.server_id,
            ),
        )

    def sold_to(self) -> Subscription:
        """After its first order: from now on the customer's name is the register's own."""
        return replace(self, buyer=replace(self.buyer, name=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A renewal that was carried out: the terms that it moved, as they were and became, and the grants that it gave."""

    ref: str
    was: Mapping[str, Any]
    became: Mapping[str, Any]
    grants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An item of a subscription and the entitlement that it is.

    ``present`` False: it was taken out. ``off``: it was asked to rest. ``since`` when it was sold in the place of one
    that had ended; renewals before that are none of its.
    """

    item: str
    product: str
    sku: str
    quantity: int
    entitlement_id: str
    present: bool = True
    off: bool = False
    since: datetime | None = None
    renewals: tuple[Given, ...] = ()


_COLUMNS: Final = ("account_ref", "name", "server_id", "started", "gone_at")


class Subscriptions:
    """The subscriptions of one source."""

    def __init__(self, register: Register, source: str) -> None:
        self._register, self._source = register, source

    def get(self, subscription: str) -> Subscription:
        """As it is known; one never heard of is empty."""
        found = self._register.select(
            dict, "SELECT * FROM subscription WHERE source = ? AND subscription = ?", self._source, subscription
        )
        if not found:
            return Subscription(source=self._source, subscription=subscription)
        row = found[0]
        return Subscription(
            source=self._source,
            subscription=subscription,
            buyer=Buyer(account_ref=row["account_ref"], name=row["name"], server_id=row["server_id"]),
            started=bool(row["started"]),
            gone_at=read(row["gone_at"], place="gone_at"),
        )

    def put(self, known: Subscription) -> None:
        """New, or as it is now."""
        updates = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)
        self._register.change(
            f"""INSERT INTO subscription (source, subscription, {", ".join(_COLUMNS)})
                VALUES (?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (source, subscription) DO UPDATE SET {updates}""",  # noqa: S608 - our own names
            known.source,
            known.subscription,
            known.buyer.account_ref,
            known.buyer.name,
            known.buyer.server_id,
            int(known.started),
            _written(known.gone_at),
        )

    # -- what was said ------------------------------------------------------------------------------------------------

    def say(self, word: Word) -> bool:
        """Keeps a word; False where it was known: the same event again, or another of the same invoice (rule 2)."""
        key = f"renewed {word.fact.ref}" if isinstance(word.fact, Renewed) else f"event {word.event}"
        where = (self._source, word.fact.subscription, key)
        known = self._register.select(
            dict, "SELECT event_key, at FROM said WHERE source = ? AND subscription = ? AND word = ?", *where
        )
        at = None if isinstance(word.fact, Started) else word.fact.at
        if known and (at is None or read_instant(known[0]["at"], place="at") <= at):
            return False
        self._register.change(
            """INSERT INTO said (source, subscription, word, event_key, kind, at, told) VALUES (?, ?, ?, ?, ?, ?, ?)
               ON CONFLICT (source, subscription, word) DO UPDATE SET at = excluded.at, told = excluded.told,
                   event_key = excluded.event_key""",
            *where,
            word.event,
            type(word.fact).__name__.lower(),
            _written(at),
            json.dumps(_told(word.fact), ensure_ascii=False, separators=(",", ":")),
        )
        return not known

    def words(self, subscription: str) -> list[Word]:
        """All that was said of it, as it came."""
        rows = self._register.select(
            dict,
            "SELECT * FROM said WHERE source = ? AND subscription = ? ORDER BY event_key",
            self._source,
            subscription,
        )
        return [Word(event=row["event_key"], fact=_fact(row)) for row in rows]

    # -- what it became -----------------------------------------------------------------------------------------------

    def items(self, subscription: str) -> dict[str, Held]:
        """What is in it and was, by item."""
        rows = self._register.select(
            dict,
            """SELECT item, product, sku, quantity, entitlement_id, present, off, since, renewals FROM subscribed
               WHERE source = ? AND subscription = ? ORDER BY item""",
            self._source,
            subscription,
        )
        return {row["item"]: _held(row) for row in rows}

    def put_item(self, subscription: str, held: Held) -> None:
        """New in it, or changed."""
        self._register.change(
            """INSERT INTO subscribed (source, subscription, item, product, sku, quantity, entitlement_id, present, off,
                                       since, renewals)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
               ON CONFLICT (source, subscription, item) DO UPDATE
               SET product = excluded.product, sku = excluded.sku, quantity = excluded.quantity,
                   entitlement_id = excluded.entitlement_id,
                   present = excluded.present, off = excluded.off, since = excluded.since,
                   renewals = excluded.renewals""",
            self._source,
            subscription,
            held.item,
            held.product,
            held.sku,
            held.quantity,
            held.entitlement_id,
            int(held.present),
            int(held.off),
            _written(held.since),
            json.dumps([_given(one) for one in held.renewals], separators=(",", ":")),
        )


def paying_for(register: Register, entitlement_id: str) -> tuple[str, str] | None:
    """The source and its subscription that an entitlement is in, and is not asked to rest by; None: none."""
    found = register.select(
        dict,
        "SELECT source, subscription FROM subscribed WHERE entitlement_id = ? AND present AND NOT off",
        entitlement_id,
    )
    return (found[0]["source"], found[0]["subscription"]) if found else None


def _held(row: Mapping[str, Any]) -> Held:
    return Held(
        item=row["item"],
        product=row["product"],
        sku=row["sku"],
        quantity=row["quantity"],
        entitlement_id=row["entitlement_id"],
        present=bool(row["present"]),
        off=bool(row["off"]),
        since=read(row["since"], place="since"),
        renewals=tuple(Given(**{**one, "grants": tuple(one["grants"])}) for one in json.loads(row["renewals"])),
    )


def _given(one: Given) -> dict[str, object]:
    return {"ref": one.ref, "was": one.was, "became": one.became, "grants": list(one.grants)}


def _told(fact: Said) -> dict[str, object]:
    """A word without who bought."""
    match fact:
        case Started():
            return {"ref": fact.ref, "items": _items(fact.items)}
        case Renewed():
            only = None if fact.only is None else sorted(fact.only)
            return {"ref": fact.ref, "sequence": fact.sequence, "only": only}
        case Changed():
            items = None if fact.items is None else _items(fact.items)
            return {"sequence": fact.sequence, "items": items, "whole": fact.whole, "active": fact.active}
        case Ended():
            return {"sequence": fact.sequence, "paid_until": _written(fact.paid_until)}


def _items(items: tuple[Item, ...]) -> list[list[object]]:
    return [[one.item, one.product, one.quantity] for one in items]


def _fact(row: Mapping[str, Any]) -> Said:
    told = json.loads(row["told"])
    subscription = row["subscription"]
    items = (
        None
        if told.get("items") is None
        else tuple(Item(item=item, product=product, quantity=quantity) for item, product, quantity in told["items"])
    )
    if row["kind"] == "started":
        return Started(subscription=subscription, ref=told["ref"], buyer=Buyer(), items=items or ())
    at, sequence = read_instant(row["at"], place="at"), told["sequence"]
    match row["kind"]:
        case "renewed":
            only = None if told["only"] is None else frozenset(told["only"])
            return Renewed(subscription=subscription, ref=told["ref"], at=at, sequence=sequence, only=only)
        case "changed":
            return Changed(
                subscription=subscription, at=at, sequence=sequence, items=items, whole=told["whole"],
                active=told["active"],
            )  # fmt: skip
        case _:
            until = read(told["paid_until"], place="paid_until")
            return Ended(subscription=subscription, at=at, sequence=sequence, paid_until=until)


def _written(at: datetime | None) -> str | None:
    return None if at is None else write_instant(at)
