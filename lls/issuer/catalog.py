"""The vendor's catalogue: what can be sold, read from one TOML file.

Rules
1. A product has features, attributes and editions; an edition chooses a value for each. A plan says how long
   something lasts. An offering (SKU) is a product, an edition and a plan with the terms of its seats. The order of a
   customer names only the SKU.
2. The file is read strictly: an unknown name, a wrong type, or a reference to something that is not there refuses the
   whole file with the name of the place. A misspelt ``grace_second`` that is silently ignored would be sold to
   somebody.
3. The catalogue stays with the vendor. Entitlements carry resolved values (contract §3), so a later catalogue changes
   nothing that was sold.
4. Values: a ``bool`` feature is true or false; every other feature is a number of units. An attribute that an edition
   does not name has the product's default, and without a default it is left out.
5. A member that says nothing about its kind (the unit of a switch, the names of seats that anybody takes) is refused
   like an unknown one: whoever wrote it expects something of it.

It refuses to own prices, customers and what was ordered (``orders``).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Final, TypeAlias

from lls.faults import RefusedDocument
from lls.issuer.refusals import CatalogRefused
from lls.licensing.calendar import Term, Unit
from lls.licensing.entitlement import (
    LONGEST_BORROW_SECONDS,
    LONGEST_LEASE_SECONDS,
    LONGEST_UNDO_SECONDS,
    MOST_SEATS,
    MOST_UNITS,
    SHORTEST_LEASE_SECONDS,
    Concurrency,
    FeatureType,
    GrantExpiry,
    LicenseType,
    NamedUsers,
    OverdraftType,
    Reset,
    Sharing,
    Start,
)
from lls.licensing.fields import Fields, malformed, write_instant

AttributeValue: TypeAlias = int | str
LARGEST_CATALOG_BYTES: Final = 4 << 20
MOST_GRANTS: Final = 100
_MOST_SHOWN: Final = 12
_MOST_CHANGES: Final = 100_000
_LONGEST_TERM: Final = 36_500
LONGEST_GRACE_SECONDS: Final = 3650 * 86_400
_WORD = re.compile(r"[A-Za-z0-9._-]{1,50}")


class AttributeType(StrEnum):
    """What an attribute's value is."""

    NUMBER = "number"
    STRING = "string"
    DATE = "date"


@dataclass(frozen=True, slots=True, kw_only=True)
class OverdraftTerms:
    """Units on top of what was bought; ``value`` counts for ``absolute`` and ``percentage`` only."""

    type: OverdraftType = OverdraftType.NONE
    value: int = 0

    def document(self) -> dict[str, object]:
        """As an entitlement carries it."""
        counted = self.type in (OverdraftType.ABSOLUTE, OverdraftType.PERCENTAGE)
        return {"type": self.type.value, "value": self.value} if counted else {"type": self.type.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTerms:
    """Units of a counted feature to be given once. ``active_from`` None: from the day of the sale on."""

    feature: str
    amount: int
    expiry: GrantExpiry = GrantExpiry.NEVER
    term: Term | None = None
    at: datetime | None = None
    active_from: datetime | None = None

    def document(self, *, grant_id: str, amount: int, otherwise_from: datetime) -> dict[str, object]:
        """As an entitlement carries it."""
        expiry: dict[str, object] = {"type": self.expiry.value}
        if self.term is not None:
            expiry |= {"unit": self.term.unit.value, "count": self.term.count}
        if self.at is not None:
            expiry["at"] = write_instant(self.at)
        active_from = write_instant(self.active_from or otherwise_from)
        return {"grant_id": grant_id, "amount": amount, "active_from": active_from, "expiry": expiry}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureTerms:
    """A feature of a product; ``value`` is what an edition gets that does not name it."""

    key: str
    name: str
    type: FeatureType
    value: int
    unit: str | None
    currency: str | None
    reset: Reset
    undo_seconds: int
    overdraft: OverdraftTerms
    tracked: bool

    @property
    def counted(self) -> bool:
        """Whether amounts are kept of it."""
        return self.type is not FeatureType.BOOL


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeTerms:
    """An attribute of a product, with its default."""

    key: str
    type: AttributeType
    value: AttributeValue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """What an edition sets; keys are the product's."""

    key: str
    name: str
    features: Mapping[str, int]
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product with its parts, in the file's order."""

    key: str
    name: str
    features: Mapping[str, FeatureTerms]
    attributes: Mapping[str, AttributeTerms]
    editions: Mapping[str, Edition]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long something lasts. No ``term``: for ever. No ``maintenance``: builds of any day are covered."""

    key: str
    name: str
    license_type: LicenseType
    start: Start
    term: Term | None
    maintenance: Term | None
    grace_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Offering:
    """What a SKU sells. ``seats`` and ``grants`` are per unit ordered; None is unlimited. No seconds: no borrowing."""

    sku: str
    name: str
    product: str
    edition: str | None
    plan: str
    seats: int | None
    activation_codes: bool
    concurrency: Concurrency
    sharing: Sharing
    lease_seconds: int
    linger_seconds: int
    overdraft: OverdraftTerms
    borrow_seconds: int
    borrow_seats: int
    max_version: str | None
    named_users: NamedUsers
    node_lock_release_seconds: int | None
    features: Mapping[str, int]
    grants: tuple[GrantTerms, ...]
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The whole catalogue; every reference in it holds."""

    products: Mapping[str, Product]
    plans: Mapping[str, Plan]
    offerings: Mapping[str, Offering]

    def feature_values(self, offering: Offering, *, overrides: Mapping[str, int]) -> list[tuple[FeatureTerms, int]]:
        """Each feature of the product with its value for this offering: override, offering, edition, default."""
        product = self.products[offering.product]
        edition = product.editions[offering.edition].features if offering.edition else {}
        return [
            (terms, {**edition, **offering.features, **overrides}.get(key, terms.value))
            for key, terms in product.features.items()
        ]

    def attribute_values(
        self, offering: Offering, *, overrides: Mapping[str, AttributeValue]
    ) -> list[tuple[AttributeTerms, AttributeValue]]:
        """Each attribute that has a value, in the same order of precedence."""
        product = self.products[offering.product]
        edition = product.editions[offering.edition].attributes if offering.edition else {}
        chosen = {**edition, **offering.attributes, **overrides}
        values = ((terms, chosen.get(key, terms.value)) for key, terms in product.attributes.items())
        return [(terms, value) for terms, value in values if value is not None]


def read_catalog(text: str) -> Catalog:
    """A catalogue file's text → the catalogue. Raises :class:`CatalogRefused` that names the place."""
    try:
        document = tomllib.loads(text)
    except RecursionError as failure:
        raise CatalogRefused("The catalogue is not valid TOML: it is nested too deeply.") from failure
    except ValueError as failure:  # TOMLDecodeError, and what int() says of thousands of digits
        raise CatalogRefused(f"The catalogue is not valid TOML: {failure}.") from failure
    try:
        return _read(document)
    except RefusedDocument as refused:
        raise CatalogRefused(f"The catalogue was refused: {refused.detail}") from refused


def _read(document: Mapping[str, object]) -> Catalog:
    only(document, {"format", "products", "plans", "offerings"}, place="")
    if Fields(document, place="").integer("format") != 1:
        raise malformed("format", "must be 1, the only format that this version reads")
    products = {key: _read_product(key, fields) for key, fields in _tables(document, "products", place="")}
    plans = {key: _read_plan(key, fields) for key, fields in _tables(document, "plans", place="")}
    offerings = {
        sku: _read_offering(sku, fields, products=products, plans=plans)
        for sku, fields in _tables(document, "offerings", place="")
    }
    return Catalog(products=products, plans=plans, offerings=offerings)


def _read_product(key: str, table: _Table) -> Product:
    table.only("name", "features", "attributes", "editions")
    features = {name: _read_feature(name, inner) for name, inner in table.tables("features")}
    attributes = {name: _read_attribute(name, inner) for name, inner in table.tables("attributes")}
    bare = Product(key=key, name=table.fields.text("name"), features=features, attributes=attributes, editions={})
    editions = {name: _read_edition(name, inner, product=bare) for name, inner in table.tables("editions")}
    return Product(key=key, name=bare.name, features=features, attributes=attributes, editions=editions)


def _read_feature(key: str, table: _Table) -> FeatureTerms:
    table.only("name", "type", "value", "unit", "currency", "reset", "undo_seconds", "overdraft", "tracked")
    fields = table.fields
    kind = fields.kind("type", FeatureType)
    for member, kinds in _MEANT_FOR.items():
        if member in table.document and kind not in kinds:
            raise malformed(f"{table.place}.{member}", f"must be left out: it means nothing for {kind}")
    if kind is FeatureType.CREDIT and not fields.has("currency"):
        raise malformed(f"{table.place}.currency", "is missing: a credit is money, so say which, such as EUR")
    return FeatureTerms(
        key=key,
        name=fields.optional_text("name") or key,
        type=kind,
        value=_feature_value(table.document["value"], kind, place=f"{table.place}.value") if fields.has("value") else 0,
        unit=fields.optional_text("unit", most=50),
        currency=_currency(fields),
        reset=fields.kind("reset", Reset) if fields.has("reset") else Reset.NEVER,
        undo_seconds=fields.optional_integer("undo_seconds", most=LONGEST_UNDO_SECONDS) or 0,
        overdraft=read_overdraft(table.document, place=table.place, most=MOST_UNITS),
        tracked=fields.flag("tracked") if fields.has("tracked") else False,
    )


_CONSUMED: Final = frozenset({FeatureType.USAGE_COUNT, FeatureType.CREDIT})
_COUNTED: Final = _CONSUMED | {FeatureType.ELEMENT_POOL}
_MEANT_FOR: Final[Mapping[str, frozenset[FeatureType]]] = {
    "unit": _COUNTED,
    "overdraft": _COUNTED,
    "currency": frozenset({FeatureType.CREDIT}),
    "reset": _CONSUMED,
    "undo_seconds": _CONSUMED,
    "tracked": frozenset({FeatureType.BOOL}),
}
"""Members that mean something for some kinds of feature only (rule 5)."""


def _read_attribute(key: str, table: _Table) -> AttributeTerms:
    table.only("type", "value")
    kind = table.fields.kind("type", AttributeType)
    value = table.document.get("value")
    place = f"{table.place}.value"
    return AttributeTerms(
        key=key, type=kind, value=None if value is None else _attribute_value(value, kind, place=place)
    )


def _read_edition(key: str, table: _Table, *, product: Product) -> Edition:
    table.only("name", "features", "attributes")
    return Edition(
        key=key,
        name=table.fields.optional_text("name") or key,
        features=read_feature_values(table.document, product, place=table.place),
        attributes=read_attribute_values(table.document, product, place=table.place),
    )


def _read_plan(key: str, table: _Table) -> Plan:
    table.only("name", "license_type", "start", "term", "maintenance", "grace_seconds")
    fields = table.fields
    kind = fields.kind("license_type", LicenseType)
    term = _read_term(table, "term")
    if term is None and kind is not LicenseType.PERPETUAL:
        raise malformed(f"{table.place}.term", f"is missing: a {kind} ends, so say when, such as {_TERM_EXAMPLE}")
    if term is not None and kind is LicenseType.PERPETUAL:
        raise malformed(f"{table.place}.term", "must be left out: a perpetual licence has no end")
    return Plan(
        key=key,
        name=fields.optional_text("name") or key,
        license_type=kind,
        start=fields.kind("start", Start) if fields.has("start") else Start.ON_ISSUE,
        term=term,
        maintenance=_read_term(table, "maintenance"),
        grace_seconds=fields.optional_integer("grace_seconds", most=LONGEST_GRACE_SECONDS) or 0,
    )


_TERM_EXAMPLE: Final = '{ unit = "year", count = 1 }'


def _read_term(table: _Table, key: str) -> Term | None:
    if not table.fields.has(key):
        return None
    inner = table.table(key)
    inner.only("unit", "count")
    return read_term(inner.fields)


def read_term(fields: Fields) -> Term:
    """The members ``unit`` and ``count``."""
    return Term(unit=fields.kind("unit", Unit), count=fields.integer("count", least=1, most=_LONGEST_TERM))


def _read_offering(sku: str, table: _Table, *, products: Mapping[str, Product], plans: Mapping[str, Plan]) -> Offering:
    table.only(
        "name", "product", "edition", "plan", "seats", "activation_codes", "concurrency", "sharing", "lease_seconds",
        "linger_seconds", "overdraft", "borrow", "max_version", "named_user_assignment",
        "node_lock_release_after_seconds", "features", "grants", "attributes",
    )  # fmt: skip
    fields, place = table.fields, table.place
    product = products[one_of(fields.word("product"), products, place=f"{place}.product", what="product")]
    edition = fields.optional_word("edition")
    if edition is not None:
        one_of(edition, product.editions, place=f"{place}.edition", what=f"edition of {product.key}")
    elif product.editions:
        raise malformed(f"{place}.edition", f"is missing: {product.key} has {', '.join(product.editions)}")
    borrow_seconds, borrow_seats = _read_borrow(table)
    concurrency = fields.kind("concurrency", Concurrency) if fields.has("concurrency") else Concurrency.CONCURRENT
    return Offering(
        sku=sku,
        name=fields.text("name"),
        product=product.key,
        edition=edition,
        plan=one_of(fields.word("plan"), plans, place=f"{place}.plan", what="plan"),
        seats=_read_seats(table),
        activation_codes=fields.flag("activation_codes") if fields.has("activation_codes") else False,
        concurrency=concurrency,
        sharing=fields.kind("sharing", Sharing) if fields.has("sharing") else Sharing.NONE,
        lease_seconds=fields.optional_integer(
            "lease_seconds", least=SHORTEST_LEASE_SECONDS, most=LONGEST_LEASE_SECONDS
        ) or 600,
        linger_seconds=fields.optional_integer("linger_seconds", most=LONGEST_LEASE_SECONDS) or 0,
        overdraft=read_overdraft(table.document, place=place),
        borrow_seconds=borrow_seconds,
        borrow_seats=borrow_seats,
        max_version=fields.optional_text("max_version", most=50),
        named_users=_read_assignment(table, concurrency),
        node_lock_release_seconds=_read_release(table, concurrency),
        features=read_feature_values(table.document, product, place=place),
        grants=read_grants(table.document, product, place=place),
        attributes=read_attribute_values(table.document, product, place=place),
    )  # fmt: skip


def _read_seats(table: _Table) -> int | None:
    if table.document.get("seats") == "unlimited":
        return None
    return table.fields.integer("seats", least=1, most=MOST_SEATS) if table.fields.has("seats") else 1


def _read_borrow(table: _Table) -> tuple[int, int]:
    if not table.fields.has("borrow"):
        return 0, 0
    borrow = table.table("borrow")
    borrow.only("max_seconds", "max_seats")
    seconds = borrow.fields.integer("max_seconds", most=LONGEST_BORROW_SECONDS)
    return seconds, borrow.fields.integer("max_seats", most=MOST_SEATS)


def _read_assignment(table: _Table, concurrency: Concurrency) -> NamedUsers:
    if not table.fields.has("named_user_assignment"):
        return NamedUsers()
    inner = table.table("named_user_assignment")
    if concurrency is not Concurrency.NAMED_USER:
        raise malformed(inner.place, f"must be left out: the seats are {concurrency}, so nobody is named for them")
    inner.only("by_site", "changes_per_month")
    by_site = inner.fields.flag("by_site")
    return NamedUsers(by_site=by_site, changes_per_month=inner.fields.integer("changes_per_month", most=_MOST_CHANGES))


def _read_release(table: _Table, concurrency: Concurrency) -> int | None:
    key = "node_lock_release_after_seconds"
    if table.fields.has(key) and concurrency is not Concurrency.NODE_LOCK:
        raise malformed(f"{table.place}.{key}", f"must be left out: the seats are {concurrency}, not node_lock")
    return table.fields.optional_integer(key, least=1, most=LONGEST_BORROW_SECONDS)


def read_grants(document: Mapping[str, object], product: Product, *, place: str) -> tuple[GrantTerms, ...]:
    """The member ``grants`` of an offering or an order's line: a list of ``{feature, amount, expiry, active_from}``."""
    listed = Fields(document, place=place).list("grants", most=MOST_GRANTS)
    return tuple(_read_grant(item, product, place=f"{_join(place, 'grants')}[{n}]") for n, item in enumerate(listed))


def _read_grant(item: object, product: Product, *, place: str) -> GrantTerms:
    grant = _Table(_with_instants(item, "active_from"), place=place)
    grant.only("feature", "amount", "expiry", "active_from")
    key = one_of(grant.fields.word("feature"), product.features, place=f"{place}.feature", what="feature")
    if product.features[key].type not in _COUNTED:
        raise malformed(f"{place}.feature", f"names {key}, which is a switch: there is nothing to count of it")
    expiry = read_expiry(grant.document.get("expiry", {"type": GrantExpiry.NEVER.value}), place=f"{place}.expiry")
    return GrantTerms(
        feature=key,
        amount=grant.fields.integer("amount", least=1, most=MOST_UNITS),
        expiry=expiry.expiry,
        term=expiry.term,
        at=expiry.at,
        active_from=grant.fields.optional_instant("active_from"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryTerms:
    """When what is left of a grant is lost. ``term`` is there for ``custom``, ``at`` for ``at``."""

    expiry: GrantExpiry
    term: Term | None = None
    at: datetime | None = None


def read_expiry(document: object, *, place: str) -> ExpiryTerms:
    """``{type}``, with ``unit`` and ``count`` for ``custom`` and ``at`` for ``at``."""
    table = _Table(_with_instants(document, "at"), place=place)
    kind = table.fields.kind("type", GrantExpiry)
    match kind:
        case GrantExpiry.CUSTOM:
            table.only("type", "unit", "count")
            return ExpiryTerms(expiry=kind, term=read_term(table.fields))
        case GrantExpiry.AT:
            table.only("type", "at")
            return ExpiryTerms(expiry=kind, at=table.fields.instant("at"))
        case _:
            table.only("type")
            return ExpiryTerms(expiry=kind)


def _with_instants(document: object, key: str) -> object:
    """TOML has instants of its own; elsewhere they are texts."""
    if not isinstance(document, Mapping) or not isinstance(document.get(key), datetime):
        return document
    at: datetime = document[key]
    if at.tzinfo is None:
        return document  # an instant without its place; the reader's sentence fits it
    return {**document, key: write_instant(at.astimezone(UTC))}


def read_overdraft(document: Mapping[str, object], *, place: str, most: int = MOST_SEATS) -> OverdraftTerms:
    """The member ``overdraft`` of a table or of an order's line."""
    if "overdraft" not in document:
        return OverdraftTerms()
    table = _Table(document["overdraft"], place=_join(place, "overdraft"))
    table.only("type", "value")
    kind = table.fields.kind("type", OverdraftType)
    if kind in (OverdraftType.ABSOLUTE, OverdraftType.PERCENTAGE):
        return OverdraftTerms(type=kind, value=table.fields.integer("value", most=most))
    if "value" in table.document:
        raise malformed(f"{table.place}.value", f"must be left out for the type {kind}")
    return OverdraftTerms(type=kind)


def read_feature_values(document: Mapping[str, object], product: Product, *, place: str) -> dict[str, int]:
    """The member ``features`` ``{key: value}`` of an edition, an offering or an order's line."""
    table = _Table(document.get("features", {}), place=_join(place, "features"))
    for key in table.document:
        one_of(key, product.features, place=table.place, what=f"feature of {product.key}")
    return {
        key: _feature_value(value, product.features[key].type, place=_join(table.place, key))
        for key, value in table.document.items()
    }


def read_attribute_values(document: Mapping[str, object], product: Product, *, place: str) -> dict[str, AttributeValue]:
    """The member ``attributes`` ``{key: value}`` of an edition, an offering or an order's line."""
    table = _Table(document.get("attributes", {}), place=_join(place, "attributes"))
    for key in table.document:
        one_of(key, product.attributes, place=table.place, what=f"attribute of {product.key}")
    return {
        key: _attribute_value(value, product.attributes[key].type, place=_join(table.place, key))
        for key, value in table.document.items()
    }


def _feature_value(value: object, kind: FeatureType, *, place: str) -> int:
    if kind is FeatureType.BOOL:
        if not isinstance(value, bool):
            raise malformed(place, "must be true or false")
        return int(value)
    return Fields({"value": value}, place=place).integer("value", most=MOST_UNITS)


def _attribute_value(value: object, kind: AttributeType, *, place: str) -> AttributeValue:
    fields = Fields({"value": value}, place=place)
    match kind:
        case AttributeType.NUMBER:
            return fields.integer("value", least=-(2**53) + 1)
        case AttributeType.STRING:
            return fields.text("value", most=1_000)
        case AttributeType.DATE:
            if isinstance(value, date) and not isinstance(value, datetime):
                return value.isoformat()
            day = fields.optional_day("value")
            if day is None:
                raise malformed(place, "must be a day like 2026-11-21")
            return day.isoformat()


def _currency(fields: Fields) -> str | None:
    code = fields.optional_text("currency", most=3)
    if code is not None and not re.fullmatch(r"[A-Z]{3}", code):
        raise malformed(f"{fields.place}.currency", "must be an ISO 4217 code such as EUR")
    return code


class _Table:
    """A TOML table with its place; every member must be asked for by name."""

    __slots__ = ("document", "fields", "place")

    def __init__(self, document: object, *, place: str) -> None:
        self.document = table(document, place=place)
        self.place = place
        self.fields = Fields(self.document, place=place)

    def only(self, *names: str) -> None:
        only(self.document, names, place=self.place)

    def table(self, key: str) -> _Table:
        return _Table(self.document[key], place=_join(self.place, key))

    def tables(self, key: str) -> list[tuple[str, _Table]]:
        return _tables(self.document, key, place=self.place)


def _tables(document: Mapping[str, object], key: str, *, place: str) -> list[tuple[str, _Table]]:
    table = _Table(document.get(key, {}), place=_join(place, key))
    for name in table.document:
        if not _WORD.fullmatch(name):
            raise malformed(f"{table.place}.{name!r}", "must be named with 1 to 50 characters of A-Z a-z 0-9 . _ -")
    return [(name, table.table(name)) for name in table.document]


def table(value: object, *, place: str) -> Mapping[str, object]:
    """``value`` as a table of TOML or an object of JSON, or a refusal."""
    if not isinstance(value, Mapping):
        raise malformed(place, "must be a table or object")
    return value


def only(document: Mapping[str, object], names: Iterable[str], *, place: str) -> None:
    """Refuses every member that is not among ``names``, with the nearest name that is."""
    allowed = sorted(names)
    for name in document:
        if name not in allowed:
            raise malformed(_join(place, name), f"is not known here{_nearest(name, allowed)}")


def one_of(key: str, known: Iterable[str], *, place: str, what: str) -> str:
    """``key`` itself, if it is known; else a refusal that says what it might have meant."""
    names = list(known)
    if key not in names:
        raise malformed(place, f"names {key!r}, but there is no such {what}{_nearest(key, names)}")
    return key


def _nearest(name: str, names: Iterable[str]) -> str:
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; perhaps {near[0]!r} is meant"
    return f"; there are {', '.join(names)}" if 0 < len(names) <= _MOST_SHOWN else ""


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
