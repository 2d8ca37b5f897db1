"""Orders as they come in: one in JSON, or a list of them (for tables see ``order_table``).

Rules
1. Read strictly: an unknown member, a wrong type or two lines of one number refuse the whole file, and the sentence
   names the order and the line.
2. What a line does is its ``action``, or, without one, all the actions of its SKU. Members that mean nothing for what
   it does are refused by :meth:`OrderLine.check`, once the catalogue has told what that is.
3. Each line has a hash of its content, whatever the file's spacing and order of members: a line is fulfilled once.

It refuses to own what an order does (``ordering``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from lls.faults import RefusedDocument
from lls.issuer.catalog import Action
from lls.issuer.catalog_file import only, table
from lls.issuer.refusals import OrderRefused
from lls.licensing.entitlement import MOST_SEATS
from lls.licensing.fields import Fields, malformed

LARGEST_ORDER_BYTES: Final = 16 << 20
MOST_LINES: Final = 1_000
MOST_CUSTOM_FIELDS: Final = 100
_ORDER_MEMBERS: Final = ("order_ref", "account_ref", "server_id", "customer", "invoice_ref", "lines")
_LINE_MEMBERS: Final = ("line", "action", "sku", "quantity")
_TARGET: Final = frozenset({"entitlement_id", "of_sku"})
_GIVING: Final = frozenset({"grants", "price"})
_FOR: Final[Mapping[Action, frozenset[str]]] = {
    Action.NEW: frozenset({
        "starts_at", "expires_at", "grace_seconds", "lease_seconds", "linger_seconds", "sharing", "overdraft", "borrow",
        "max_version", "named_users", "features", "attributes", *_GIVING,
    }),
    Action.RENEW: _TARGET | _GIVING | {"named_users"},
    Action.ADD_SEATS: _TARGET | {"named_users"},
    Action.UPGRADE: _TARGET | {"named_users"},
    Action.ADD_GRANT: _TARGET | _GIVING,
}  # fmt: skip
"""Members that mean something for some actions only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCustomer:
    """The customer as the order describes it, for the case that the register has none of that account reference."""

    name: str
    custom_fields: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLine:
    """One line; ``document`` is all of it, of which much needs the catalogue to be judged.

    ``quantity`` None: not said. ``entitlement_id`` names what it changes; else ``of_sku``, or what its own SKU says.
    """

    line: int
    action: Action | None
    sku: str
    quantity: int | None
    entitlement_id: str | None
    of_sku: str | None
    document: Mapping[str, Any]
    sha256: str

    @property
    def place(self) -> str:
        """Its name in a refusal."""
        return f"line {self.line}"

    def check(self, actions: Iterable[Action]) -> None:
        """Refuse members that mean nothing for what the line does (rule 2)."""
        does = tuple(actions)
        meant = frozenset(_LINE_MEMBERS).union(*(_FOR[action] for action in does))
        for name, value in self.document.items():
            if name not in meant and value is not None:
                raise malformed(f"{self.place}.{name}", f"must be left out: it means nothing for {', '.join(does)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order of known form. ``server_id`` None: nobody knows yet which server will host it.

    ``invoice_ref`` names the invoice that grants may wait for; without one that is the order's own reference.
    """

    order_ref: str
    account_ref: str
    server_id: str | None
    customer: NewCustomer | None
    invoice_ref: str
    lines: tuple[OrderLine, ...]
    document: Mapping[str, object]

    @property
    def sha256(self) -> str:
        """Over what all of its lines share."""
        return content_hash(
            {"account_ref": self.account_ref, "server_id": self.server_id, "invoice_ref": self.invoice_ref}
        )


def content_hash(content: object) -> str:
    """SHA-256 in hex over values of JSON, whatever their spacing and order of members."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_orders(data: bytes) -> list[Order]:
    """One order, or a list of them, in JSON. Raises :class:`OrderRefused` that names the place."""
    try:
        document = json.loads(data, object_pairs_hook=_no_twins, parse_constant=_no_number)
        # What gets past here can be hashed, stored and printed: no infinity (1e999), no half of a surrogate pair.
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        several = isinstance(document, list)
        return orders_of(
            (f"orders[{n}]" if several else "order", item) for n, item in enumerate(document if several else [document])
        )
    except RefusedDocument as refused:
        raise OrderRefused(f"The order was refused: {refused.detail}") from refused
    except UnicodeError as failure:
        raise OrderRefused("The order is not valid JSON: it holds text that is not UTF-8.") from failure
    except (ValueError, RecursionError) as failure:
        raise OrderRefused(f"The order is not valid JSON: {failure}.") from failure


def orders_of(documents: Iterable[tuple[str, object]]) -> list[Order]:
    """Orders of documents with their places. Raises :class:`OrderRefused`."""
    orders = [_read_order(document, place=place) for place, document in documents]
    seen: set[str] = set()
    for order in orders:
        if order.order_ref in seen:
            raise OrderRefused(
                f"The order {order.order_ref} stands in this file more than once; give each its own order_ref."
            )
        seen.add(order.order_ref)
    if not orders:
        raise OrderRefused("The file holds no order.")
    return orders


def _read_order(document: object, *, place: str) -> Order:
    try:
        order = table(document, place=place)
        only(order, _ORDER_MEMBERS, place=place)
        fields = Fields(order, place=place)
        order_ref = fields.text("order_ref", most=100)
    except RefusedDocument as refused:
        raise OrderRefused(f"The order was refused: {refused.detail}") from refused
    try:
        return Order(
            order_ref=order_ref,
            account_ref=fields.text("account_ref", most=100),
            server_id=fields.id("server_id", "lls_") if fields.has("server_id") else None,
            customer=_read_customer(fields, order) if fields.has("customer") else None,
            invoice_ref=fields.optional_text("invoice_ref", most=100) or order_ref,
            lines=_read_lines(fields),
            document=order,
        )
    except RefusedDocument as refused:
        raise OrderRefused(f"The order {order_ref} was refused: {refused.detail}") from refused


def _read_customer(fields: Fields, document: Mapping[str, object]) -> NewCustomer:
    customer = fields.object("customer")
    inner = table(document["customer"], place=customer.place)
    only(inner, ("name", "account_ref", "custom_fields"), place=customer.place)
    if customer.has("account_ref") and customer.text("account_ref", most=100) != fields.text("account_ref", most=100):
        raise malformed(f"{customer.place}.account_ref", f"differs from {fields.place}.account_ref")
    return NewCustomer(
        name=customer.text("name"),
        custom_fields=read_custom_fields(inner.get("custom_fields", {}), place=f"{customer.place}.custom_fields"),
    )


def read_custom_fields(document: object, *, place: str) -> dict[str, str]:
    """The vendor's own fields of a customer: short texts by short names."""
    given = table(document, place=place)
    if len(given) > MOST_CUSTOM_FIELDS or not all(re.fullmatch(r"[A-Za-z0-9._-]{1,50}", key) for key in given):
        raise malformed(place, f"must hold at most {MOST_CUSTOM_FIELDS} fields with names of A-Z a-z 0-9 . _ -")
    return {key: Fields(given, place=place).text(key, most=1_000) for key in given}


def _read_lines(fields: Fields) -> tuple[OrderLine, ...]:
    items: Sequence[object] = fields.list("lines", most=MOST_LINES)
    if not items:
        raise malformed(f"{fields.place}.lines", "is empty: nothing is ordered")
    lines: list[OrderLine] = []
    for n, item in enumerate(items):
        line = _read_line(item, place=f"{fields.place}.lines[{n}]")
        if any(line.line == other.line for other in lines):
            raise malformed(f"line {line.line}", "stands in the order twice; give each line its own number")
        lines.append(line)
    return tuple(lines)


def _read_line(item: object, *, place: str) -> OrderLine:
    number = Fields(item, place=place).integer("line", least=1, most=1_000_000)
    own = table(item, place=place)
    fields = Fields(own, place=f"line {number}")
    only(own, {*_LINE_MEMBERS, *(name for names in _FOR.values() for name in names)}, place=fields.place)
    action = fields.kind("action", Action) if fields.has("action") else None
    if fields.has("entitlement_id") and fields.has("of_sku"):
        raise malformed(f"{fields.place}.of_sku", "must be left out where entitlement_id says which one is meant")
    return OrderLine(
        line=number,
        action=action,
        sku=fields.word("sku"),
        quantity=_read_quantity(fields, action),
        entitlement_id=fields.id("entitlement_id", "ent_") if fields.has("entitlement_id") else None,
        of_sku=fields.optional_word("of_sku"),
        document=own,
        sha256=content_hash(own),
    )


def _read_quantity(fields: Fields, action: Action | None) -> int | None:
    if action is Action.NEW:
        return fields.integer("quantity", least=1, most=MOST_SEATS)
    fewer = action in (None, Action.ADD_SEATS)
    quantity = fields.optional_integer("quantity", least=-MOST_SEATS if fewer else 1, most=MOST_SEATS)
    if quantity == 0:
        raise malformed(f"{fields.place}.quantity", "must not be 0: the line would do nothing")
    return quantity


def _no_number(name: str) -> NoReturn:
    raise malformed(name, "is no number that JSON has")


def _no_twins(members: list[tuple[str, object]]) -> dict[str, object]:
    # The last of two members would win silently, and a quantity would be billed that nobody meant.
    document = dict(members)
    if len(document) != len(members):
        names = [name for name, _ in members]
        twin = next(name for name in names if names.count(name) > 1)
        raise malformed(f"the member {twin}", "stands in one object twice")
    return document
