"""What the register knows of the sources' subscriptions: whose they are, and which entitlement each item is.

Rules
1. Who bought and what was bought may be told by different events, in either order; each is kept as it comes. A later
   word for the account does not move what was sold.
2. What is older than the newest known changes nothing. Whether it is active, what is in it as a whole, and an item of
   which a source tells alone, are three things: an old word for one is no reason to miss a newer one for another.
3. Rows change inside the transaction of the event that changes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from lls.issuer.intake.facts import Buyer
from lls.issuer.intake.inbox import read
from lls.issuer.register import Register
from lls.licensing.fields import write_instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A subscription of a source; ``started`` once it was fulfilled, ``suspended`` while its source says so."""

    source: str
    subscription: str
    buyer: Buyer = field(default_factory=Buyer)
    started: bool = False
    suspended: bool = False
    state_at: datetime | None = None
    items_at: datetime | None = None

    def told(self, buyer: Buyer) -> Subscription:
        """With what is newly known of who bought; what was known before stays."""
        mine = self.buyer
        return replace(
            self,
            buyer=Buyer(
                account_ref=mine.account_ref or buyer.account_ref,
                name=mine.name or buyer.name,
                server_id=mine.server_id or buyer.server_id,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An item of a subscription and the entitlement that it is."""

    item: str
    sku: str
    quantity: int
    entitlement_id: str
    seen_at: datetime | None = None


def overtaken(at: datetime, newest: datetime | None) -> bool:
    """Whether something newer is known; of two of one instant the later comer wins."""
    return newest is not None and at < newest


_COLUMNS: Final = ("account_ref", "name", "server_id", "started", "suspended", "state_at", "items_at")


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
            suspended=bool(row["suspended"]),
            state_at=read(row["state_at"], place="state_at"),
            items_at=read(row["items_at"], place="items_at"),
        )

    def put(self, known: Subscription) -> None:
        """New, or as it is now."""
        updates = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)
        self._register.change(
            f"""INSERT INTO subscription (source, subscription, {", ".join(_COLUMNS)})
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (source, subscription) DO UPDATE SET {updates}""",  # noqa: S608 - our own names
            known.source,
            known.subscription,
            known.buyer.account_ref,
            known.buyer.name,
            known.buyer.server_id,
            int(known.started),
            int(known.suspended),
            _written(known.state_at),
            _written(known.items_at),
        )

    def items(self, subscription: str) -> dict[str, Held]:
        """What is in it and was, by item; with the quantity 0: it was taken out."""
        rows = self._register.select(
            dict,
            """SELECT item, sku, quantity, entitlement_id, seen_at FROM subscribed
               WHERE source = ? AND subscription = ? ORDER BY item""",
            self._source,
            subscription,
        )
        return {row["item"]: Held(**{**row, "seen_at": read(row["seen_at"], place="seen_at")}) for row in rows}

    def put_item(self, subscription: str, held: Held) -> None:
        """New in it, or changed."""
        self._register.change(
            """INSERT INTO subscribed (source, subscription, item, sku, quantity, entitlement_id, seen_at)
               VALUES (?, ?, ?, ?, ?, ?, ?)
               ON CONFLICT (source, subscription, item) DO UPDATE
               SET sku = excluded.sku, quantity = excluded.quantity, entitlement_id = excluded.entitlement_id,
                   seen_at = excluded.seen_at""",
            self._source,
            subscription,
            held.item,
            held.sku,
            held.quantity,
            held.entitlement_id,
            _written(held.seen_at),
        )


def _written(at: datetime | None) -> str | None:
    return None if at is None else write_instant(at)
