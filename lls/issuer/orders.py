"""From an order and the catalogue to the entitlements that a bundle carries (contract §3, *Entitlement*).

Rules
1. An order is all or none: one line that cannot be fulfilled refuses the order, and the sentence names the line.
2. Every line becomes one entitlement in a group and a hosting session of its own, with sequence 1. Action ``new``
   only; the others are refused by name until they are there.
3. A line's own values go before the offering's, these before the edition's, these before the product's defaults.
4. Dates: a term that starts on issue starts at that UTC day's midnight, so that a site whose clock is some minutes
   slow can use it at once, and ends one term after the *instant* of issue, so that nobody loses hours. Calendar
   arithmetic is UTC; the 31st plus a month is the month's last day.
5. A term that starts on the first lease has no dates here: the plan's term goes along, and the site's server sets them.
6. Grants that the offering brings are per unit ordered, those of the line are as the line says; both are in force from
   the start of the term, or from now where the first lease sets it.
7. Named users are the line's. No more of them than seats; and without any, the offering must let the site choose, or
   nobody could ever sit there.
8. The document is read back with the appliance's own reader before anybody may store it.

It refuses to own what was fulfilled before (``register``) and which server belongs to whom (``office``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Final

from lls.faults import RefusedDocument
from lls.issuer.catalog import (
    LONGEST_GRACE_SECONDS,
    Catalog,
    FeatureTerms,
    GrantTerms,
    Offering,
    Plan,
    one_of,
    only,
    read_attribute_values,
    read_feature_values,
    read_grants,
    read_overdraft,
    table,
)
from lls.issuer.ids import Random, new_activation_code, new_id
from lls.issuer.refusals import OrderRefused
from lls.licensing import calendar
from lls.licensing.calendar import Term
from lls.licensing.entitlement import (
    LONGEST_LEASE_SECONDS,
    MOST_SEATS,
    MOST_UNITS,
    SHORTEST_LEASE_SECONDS,
    Concurrency,
    Sharing,
    Start,
    Status,
    read_entitlement,
)
from lls.licensing.fields import Fields, malformed, write_instant

LARGEST_ORDER_BYTES: Final = 16 << 20
MOST_LINES: Final = 1_000
MOST_CUSTOM_FIELDS: Final = 100
MOST_NAMED_USERS: Final = 100_000
_ACTIONS_TO_COME: Final = ("renew", "add_seats", "upgrade")
_ORDER_MEMBERS: Final = ("order_ref", "account_ref", "server_id", "customer", "lines")
_LINE_MEMBERS: Final = (
    "line", "action", "sku", "quantity", "starts_at", "expires_at", "grace_seconds", "lease_seconds", "linger_seconds",
    "sharing", "overdraft", "max_version", "named_users", "features", "grants", "attributes",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCustomer:
    """The customer as the order describes it, for the case that the register has none of that account reference."""

    name: str
    custom_fields: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLine:
    """One line; ``fields`` holds the rest, which needs the catalogue to be judged."""

    line: int
    sku: str
    quantity: int
    document: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order of known form. ``sha256`` is over its content, whatever the file's spacing and order of members."""

    order_ref: str
    account_ref: str
    server_id: str
    customer: NewCustomer | None
    lines: tuple[OrderLine, ...]
    document: Mapping[str, object]
    sha256: str


def read_orders(data: bytes) -> list[Order]:
    """One order, or a list of them, in JSON. Raises :class:`OrderRefused` that names the place."""
    try:
        document = json.loads(data, object_pairs_hook=_no_twins)
    except RefusedDocument as refused:
        raise OrderRefused(f"The order was refused: {refused.detail}") from refused
    except (ValueError, RecursionError) as failure:
        raise OrderRefused(f"The order is not valid JSON: {failure}.") from failure
    several = isinstance(document, list)
    orders = [
        _read_order(item, place=f"orders[{n}]" if several else "order")
        for n, item in enumerate(document if several else [document])
    ]
    references = [order.order_ref for order in orders]
    seen: set[str] = set()
    for reference in references:
        if reference in seen:
            raise OrderRefused(
                f"The order {reference} stands in this file more than once; give each its own order_ref."
            )
        seen.add(reference)
    if not orders:
        raise OrderRefused("The file holds no order.")
    return orders


def fulfil(order: Order, catalog: Catalog, *, now: datetime, random: Random) -> list[dict[str, object]]:
    """The entitlement documents of an order, one per line and in its order. Raises :class:`OrderRefused`."""
    return [_entitlement(order, line, catalog, now=now, random=random) for line in order.lines]


def _entitlement(
    order: Order, line: OrderLine, catalog: Catalog, *, now: datetime, random: Random
) -> dict[str, object]:
    try:
        document = _resolve(order, line, catalog, now=now, random=random)
        read_entitlement(document, place=f"line {line.line}")
    except RefusedDocument as refused:
        raise OrderRefused(f"The order {order.order_ref} was refused: {refused.detail}") from refused
    return document


def _resolve(order: Order, line: OrderLine, catalog: Catalog, *, now: datetime, random: Random) -> dict[str, object]:
    place = f"line {line.line}"
    offering = catalog.offerings[one_of(line.sku, catalog.offerings, place=f"{place}.sku", what="SKU in the catalogue")]
    product, plan = catalog.products[offering.product], catalog.plans[offering.plan]
    own = Fields(line.document, place=place)
    features = catalog.feature_values(offering, overrides=read_feature_values(line.document, product, place=place))
    attributes = catalog.attribute_values(
        offering, overrides=read_attribute_values(line.document, product, place=place)
    )
    starts_at, expires_at = _dates(own, plan, now=now)
    overdraft = read_overdraft(line.document, place=place) if own.has("overdraft") else offering.overdraft
    begins = starts_at or now.astimezone(UTC).replace(microsecond=0)
    seats = _seats(offering, line, place=place)
    grants = _grants(offering, line, read_grants(line.document, product, place=place), place=place)
    return {
        "entitlement_id": new_id("ent", random),
        "group_id": new_id("egr", random),
        "session_id": new_id("ses", random),
        "sequence": 1,
        "order_ref": order.order_ref,
        "activation_codes": [new_activation_code(random)] if offering.activation_codes else [],
        "product": {"key": product.key, "name": product.name},
        "offering": {"sku": offering.sku, "name": offering.name},
        "edition": offering.edition,
        "plan": _plan_document(plan),
        "status": Status.ACTIVE.value,
        "starts_at": starts_at and write_instant(starts_at),
        "expires_at": expires_at and write_instant(expires_at),
        "grace_seconds": _either(own, "grace_seconds", plan.grace_seconds, most=LONGEST_GRACE_SECONDS),
        "maintenance_expires_on": (
            _after(begins, plan.maintenance, place="the plan's maintenance").date().isoformat()
            if plan.maintenance
            else None
        ),
        "concurrency": offering.concurrency.value,
        "named_users": _named_users(own, offering, seats),
        "named_user_assignment": _assignment(offering),
        "node_lock_release_after_seconds": offering.node_lock_release_seconds,
        "max_version": own.optional_text("max_version", most=50) or offering.max_version,
        "seats": seats,
        "overdraft": overdraft.document(),
        "sharing": (own.kind("sharing", Sharing) if own.has("sharing") else offering.sharing).value,
        "lease_seconds": _either(
            own, "lease_seconds", offering.lease_seconds, least=SHORTEST_LEASE_SECONDS, most=LONGEST_LEASE_SECONDS
        ),
        "linger_seconds": _either(own, "linger_seconds", offering.linger_seconds, most=LONGEST_LEASE_SECONDS),
        "borrow": {"max_seconds": offering.borrow_seconds, "max_seats": offering.borrow_seats},
        "features": [
            _feature_document(terms, value, grants.get(terms.key, ()), begins=begins, random=random)
            for terms, value in features
        ],
        "attributes": [{"key": terms.key, "type": terms.type.value, "value": value} for terms, value in attributes],
    }


def _feature_document(
    terms: FeatureTerms, value: int, grants: Sequence[tuple[GrantTerms, int]], *, begins: datetime, random: Random
) -> dict[str, object]:
    if not terms.counted:
        return {"key": terms.key, "type": terms.type.value, "value": value, "tracked": terms.tracked}
    return {
        "key": terms.key,
        "type": terms.type.value,
        "value": value,
        "unit": terms.unit,
        "currency": terms.currency,
        "overdraft": terms.overdraft.document(),
        "reset": terms.reset.value,
        "undo_seconds": terms.undo_seconds,
        "grants": [
            grant.document(grant_id=new_id("grt", random), amount=amount, otherwise_from=begins)
            for grant, amount in grants
        ],
    }


def _grants(
    offering: Offering, line: OrderLine, own: Sequence[GrantTerms], *, place: str
) -> dict[str, list[tuple[GrantTerms, int]]]:
    """What is given of each feature, with its amount."""
    given: dict[str, list[tuple[GrantTerms, int]]] = {}
    for grant in offering.grants:
        if grant.amount * line.quantity > MOST_UNITS:
            raise malformed(f"{place}.quantity", f"makes more than {MOST_UNITS:,} units of {grant.feature}")
        given.setdefault(grant.feature, []).append((grant, grant.amount * line.quantity))
    for grant in own:
        given.setdefault(grant.feature, []).append((grant, grant.amount))
    return given


def _named_users(own: Fields, offering: Offering, seats: int | None) -> list[str]:
    names = own.texts("named_users", most=MOST_NAMED_USERS)
    place = f"{own.place}.named_users"
    if offering.concurrency is not Concurrency.NAMED_USER:
        if names:
            raise malformed(place, f"must be left out: the seats of {offering.sku} are {offering.concurrency}")
        return []
    distinct = {name.casefold() for name in names}
    if len(distinct) != len(names):
        raise malformed(place, "names somebody twice (upper and lower case are the same person)")
    if seats is not None and len(names) > seats:
        raise malformed(place, f"holds {len(names)} names, and the line sells {seats} seats")
    if not names and not offering.named_users.by_site:
        raise malformed(place, f"is missing: the site may not choose the users of {offering.sku}, so the order must")
    return list(names)


def _assignment(offering: Offering) -> dict[str, object] | None:
    if offering.concurrency is not Concurrency.NAMED_USER:
        return None
    users = offering.named_users
    return {"by_site": users.by_site, "changes_per_month": users.changes_per_month}


def _plan_document(plan: Plan) -> dict[str, object]:
    term = {"unit": plan.term.unit.value, "count": plan.term.count} if plan.term else None
    return {"license_type": plan.license_type.value, "start": plan.start.value, "term": term}


def _either(own: Fields, key: str, otherwise: int, *, least: int = 0, most: int) -> int:
    return own.integer(key, least=least, most=most) if own.has(key) else otherwise


def _seats(offering: Offering, line: OrderLine, *, place: str) -> int | None:
    if offering.seats is None:
        return None
    if offering.seats * line.quantity > MOST_SEATS:
        raise malformed(f"{place}.quantity", f"makes more than {MOST_SEATS:,} seats")
    return offering.seats * line.quantity


def _dates(own: Fields, plan: Plan, *, now: datetime) -> tuple[datetime | None, datetime | None]:
    starts_at, expires_at = own.optional_instant("starts_at"), own.optional_instant("expires_at")
    if plan.start is Start.ON_FIRST_LEASE:
        for key in ("starts_at", "expires_at"):
            if own.has(key):
                raise malformed(f"{own.place}.{key}", "must be left out: the plan starts on the first lease")
        return None, None
    if plan.start is Start.FIXED and starts_at is None:
        raise malformed(f"{own.place}.starts_at", "is missing: the plan's start is fixed by the order")
    issued = now.astimezone(UTC).replace(microsecond=0)
    begins, counted_from = (starts_at, starts_at) if starts_at else (_midnight(issued), issued)
    if expires_at is None and plan.term is not None:
        expires_at = _after(counted_from, plan.term, place="the plan's term")
    if expires_at is not None and expires_at <= begins:
        raise malformed(f"{own.place}.expires_at", f"must be later than starts_at ({write_instant(begins)})")
    return begins, expires_at


def _midnight(at: datetime) -> datetime:
    return datetime.combine(at.date(), time(), tzinfo=UTC)


def _after(at: datetime, term: Term, *, place: str) -> datetime:
    try:
        return calendar.add(at, term)
    except OverflowError as failure:
        raise malformed(place, "goes beyond the calendar") from failure


def _read_order(document: object, *, place: str) -> Order:
    try:
        order = table(document, place=place)
        only(order, _ORDER_MEMBERS, place=place)
        fields = Fields(order, place=place)
        return Order(
            order_ref=fields.text("order_ref", most=100),
            account_ref=fields.text("account_ref", most=100),
            server_id=fields.id("server_id", "lls_"),
            customer=_read_customer(fields, order) if fields.has("customer") else None,
            lines=_read_lines(fields),
            document=order,
            sha256=hashlib.sha256(json.dumps(order, sort_keys=True, separators=(",", ":")).encode()).hexdigest(),
        )
    except RefusedDocument as refused:
        raise OrderRefused(f"The order was refused: {refused.detail}") from refused


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
    only(own, _LINE_MEMBERS, place=fields.place)
    action = fields.text("action", most=20)
    if action in _ACTIONS_TO_COME:
        raise malformed(f"{fields.place}.action", f"{action} cannot be fulfilled by this version, only new")
    if action != "new":
        raise malformed(f"{fields.place}.action", "must be new")
    return OrderLine(
        line=number,
        sku=fields.word("sku"),
        quantity=fields.integer("quantity", least=1, most=MOST_SEATS),
        document=own,
    )


def _no_twins(members: list[tuple[str, object]]) -> dict[str, object]:
    # The last of two members would win silently, and a quantity would be billed that nobody meant.
    document = dict(members)
    if len(document) != len(members):
        names = [name for name, _ in members]
        twin = next(name for name in names if names.count(name) > 1)
        raise malformed(f"the member {twin}", "stands in one object twice")
    return document
