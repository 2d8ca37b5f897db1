"""The catalogue's file: TOML, read strictly.

Rules
1. An unknown name, a wrong type, or a reference to something that is not there refuses the whole file with the name of
   the place. A misspelt ``grace_second`` that is silently ignored would be sold to somebody.
2. Values: a ``bool`` feature is true or false; every other feature is a number of units. An attribute that nobody gives
   a value is left out.
3. A member that says nothing about its kind (the unit of a switch, the names of seats that anybody takes, the codes
   of a renewal) is refused like an unknown one: whoever wrote it expects something of it.
4. What the whole catalogue defines (``features``, ``attributes``) every product has; a product that defines the same
   key means its own.

It refuses to own what the values mean together (``catalog``).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Final, TypeAlias

from lls.faults import RefusedDocument
from lls.issuer.catalog import (
    Action,
    AttributeTerms,
    AttributeType,
    AttributeValue,
    Catalog,
    Edition,
    ExpiryTerms,
    FeatureTerms,
    GrantTerms,
    Level,
    Offering,
    OverdraftTerms,
    Plan,
    Price,
    Product,
    Stage,
)
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

LARGEST_CATALOG_BYTES: Final = 4 << 20
MOST_GRANTS: Final = 100
LONGEST_GRACE_SECONDS: Final = 3650 * 86_400
_MOST_SHOWN: Final = 12
_MOST_CHANGES: Final = 100_000
_LONGEST_TERM: Final = 36_500
_TermReader: TypeAlias = Callable[[Mapping[str, object], str, str], object]
"""The table, the member's name, the table's place → the value."""
_WORD = re.compile(r"[A-Za-z0-9._-]{1,50}")


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
    only(document, {"format", "defaults", "features", "attributes", "products", "plans", "offerings"}, place="")
    if Fields(document, place="").integer("format") != 1:
        raise malformed("format", "must be 1, the only format that this version reads")
    shared = _read_product("", "", _Table(document, place=""), shared=None)
    products = {
        key: _read_product(key, fields.fields.text("name"), fields, shared=shared)
        for key, fields in _tables(document, "products", place="")
    }
    plans = {key: _read_plan(key, fields) for key, fields in _tables(document, "plans", place="")}
    offerings = {
        sku: _read_offering(sku, fields, products=products, plans=plans)
        for sku, fields in _tables(document, "offerings", place="")
    }
    for offering in offerings.values():
        _check_becomes(offering, offerings)
    return Catalog(products=products, plans=plans, offerings=offerings, terms=shared.terms)


def _read_product(key: str, name: str, table: _Table, *, shared: Product | None) -> Product:
    """A product; or, with ``shared`` None, what the whole catalogue defines for every one."""
    level = Level.GLOBAL if shared is None else Level.PRODUCT
    features = {name: replace(_read_feature(name, inner), level=level) for name, inner in table.tables("features")}
    attributes = {
        name: replace(_read_attribute(name, inner), level=level) for name, inner in table.tables("attributes")
    }
    terms = _read_defaults(table)
    if shared is None:
        return Product(key=key, name=name, features=features, attributes=attributes, editions={}, terms=terms)
    table.only("name", "features", "attributes", "editions", "defaults")
    bare = Product(
        key=key,
        name=name,
        features={**shared.features, **features},
        attributes={**shared.attributes, **attributes},
        editions={},
        terms=terms,
    )
    return replace(
        bare, editions={name: _read_edition(name, inner, product=bare) for name, inner in table.tables("editions")}
    )


def _read_defaults(table: _Table) -> dict[str, object]:
    if not table.fields.has("defaults"):
        return {}
    inner = table.table("defaults")
    inner.only(*_TERMS)
    return read_terms(inner.document, place=inner.place)


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
    table.only("name", "features", "attributes", "defaults")
    return Edition(
        key=key,
        name=table.fields.optional_text("name") or key,
        features=read_feature_values(table.document, product, place=table.place),
        attributes=read_attribute_values(table.document, product, place=table.place),
        terms=_read_defaults(table),
    )


def _read_plan(key: str, table: _Table) -> Plan:
    table.only("name", "license_type", "start", "term", "maintenance", "grace_seconds", "not_for_resale")
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
        grace_seconds=fields.optional_integer("grace_seconds", most=LONGEST_GRACE_SECONDS),
        not_for_resale=fields.flag("not_for_resale") if fields.has("not_for_resale") else False,
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


def read_terms(document: Mapping[str, object], *, place: str) -> dict[str, object]:
    """Those of the terms (``catalog.TERMS``) that a table or an order's line names, as an entitlement carries them."""
    return {name: read(document, name, place) for name, read in _TERMS.items() if document.get(name) is not None}


def _seconds(least: int, most: int) -> _TermReader:
    return lambda document, name, place: Fields(document, place=place).integer(name, least=least, most=most)


_TERMS: Final[Mapping[str, _TermReader]] = {
    "grace_seconds": _seconds(0, LONGEST_GRACE_SECONDS),
    "lease_seconds": _seconds(SHORTEST_LEASE_SECONDS, LONGEST_LEASE_SECONDS),
    "linger_seconds": _seconds(0, LONGEST_LEASE_SECONDS),
    "sharing": lambda document, name, place: Fields(document, place=place).kind(name, Sharing).value,
    "overdraft": lambda document, _, place: read_overdraft(document, place=place).document(),
    "borrow": lambda document, name, place: _read_borrow(_Table(document[name], place=_join(place, name))),
    "max_version": lambda document, name, place: Fields(document, place=place).text(name, most=50),
}


def _read_borrow(borrow: _Table) -> dict[str, object]:
    borrow.only("max_seconds", "max_seats")
    seconds = borrow.fields.integer("max_seconds", most=LONGEST_BORROW_SECONDS)
    return {"max_seconds": seconds, "max_seats": borrow.fields.integer("max_seats", most=MOST_SEATS)}


_FOR_ALL: Final = frozenset({"name", "actions", "product", "edition"})
_FOR: Final[Mapping[Action, frozenset[str]]] = {
    Action.NEW: frozenset({
        "plan", "seats", "activation_codes", "concurrency", "named_user_assignment", "node_lock_release_after_seconds",
        "features", "grants", "attributes", *_TERMS,
    }),
    Action.RENEW: frozenset({"plan", "seats", "grants"}),
    Action.ADD_SEATS: frozenset({"seats"}),
    Action.UPGRADE: frozenset({"seats", "upgrade_from", "becomes"}),
    Action.ADD_GRANT: frozenset({"grants"}),
}  # fmt: skip
"""Members that mean something for some actions only (rule 3)."""


def _read_actions(table: _Table) -> tuple[Action, ...]:
    names = table.fields.texts("actions", most=len(Action)) if "actions" in table.document else (Action.NEW.value,)
    place = f"{table.place}.actions"
    if not names:
        raise malformed(place, 'is empty: say what an order\'s line of it does, such as ["new"]')
    for name in names:
        one_of(name, [action.value for action in Action], place=place, what="action")
    if len(set(names)) != len(names):
        raise malformed(place, "names an action twice")
    return tuple(Action(name) for name in names)


def _check_members(table: _Table, actions: tuple[Action, ...]) -> None:
    table.only(*_FOR_ALL, *(name for names in _FOR.values() for name in names))
    meant = _FOR_ALL.union(*(_FOR[action] for action in actions))
    for name in table.document:
        if name not in meant:
            kinds = " or ".join(action for action in Action if name in _FOR[action])
            raise malformed(
                f"{table.place}.{name}",
                f"must be left out: it means something for {kinds}, and the actions are {', '.join(actions)}",
            )


def _read_offering(sku: str, table: _Table, *, products: Mapping[str, Product], plans: Mapping[str, Plan]) -> Offering:
    actions = _read_actions(table)
    _check_members(table, actions)
    fields, place = table.fields, table.place
    product = products[one_of(fields.word("product"), products, place=f"{place}.product", what="product")]
    edition = _read_chosen_edition(table, product, actions)
    concurrency = fields.kind("concurrency", Concurrency) if fields.has("concurrency") else Concurrency.CONCURRENT
    grants = read_grants(table.document, product, place=place)
    if actions == (Action.ADD_GRANT,) and not grants:
        raise malformed(f"{place}.grants", "is missing: say what is given of which feature")
    return Offering(
        sku=sku,
        name=fields.text("name"),
        actions=actions,
        product=product.key,
        edition=edition,
        plan=_read_chosen_plan(table, plans, actions),
        seats=_read_seats(table, actions),
        activation_codes=fields.flag("activation_codes") if fields.has("activation_codes") else False,
        concurrency=concurrency,
        named_users=_read_assignment(table, concurrency),
        node_lock_release_seconds=_read_release(table, concurrency),
        features=read_feature_values(table.document, product, place=place),
        grants=grants,
        attributes=read_attribute_values(table.document, product, place=place),
        terms=read_terms(table.document, place=place),
        upgrade_from=_read_upgrade_from(table, product, edition),
        becomes=fields.optional_word("becomes"),
    )


def _read_chosen_edition(table: _Table, product: Product, actions: tuple[Action, ...]) -> str | None:
    edition = table.fields.optional_word("edition")
    place = f"{table.place}.edition"
    if edition is not None:
        return one_of(edition, product.editions, place=place, what=f"edition of {product.key}")
    if product.editions and {Action.NEW, Action.UPGRADE} & set(actions):
        raise malformed(place, f"is missing: {product.key} has {', '.join(product.editions)}")
    if Action.UPGRADE in actions:
        raise malformed(f"{table.place}.actions", f"names upgrade, but {product.key} has no editions")
    return None


def _read_chosen_plan(table: _Table, plans: Mapping[str, Plan], actions: tuple[Action, ...]) -> str | None:
    place = f"{table.place}.plan"
    if Action.NEW not in actions and not table.fields.has("plan"):
        return None
    key = one_of(table.fields.word("plan"), plans, place=place, what="plan")
    if Action.RENEW in actions and plans[key].term is None and plans[key].maintenance is None:
        raise malformed(place, f"names {key}, which has neither term nor maintenance: a renewal would add nothing")
    return key


def _read_upgrade_from(table: _Table, product: Product, edition: str | None) -> tuple[str, ...]:
    place = f"{table.place}.upgrade_from"
    editions = table.fields.texts("upgrade_from", most=1_000)
    for key in editions:
        one_of(key, product.editions, place=place, what=f"edition of {product.key}")
    if edition in editions:
        raise malformed(place, f"names {edition}, which is the edition that the upgrade leads to")
    return editions


def _check_becomes(offering: Offering, offerings: Mapping[str, Offering]) -> None:
    if offering.becomes is None:
        return
    place = f"offerings.{offering.sku}.becomes"
    there = offerings[one_of(offering.becomes, offerings, place=place, what="SKU")]
    if Action.NEW not in there.actions:
        raise malformed(place, f"names {there.sku}, which is not sold new")
    if (there.product, there.edition) != (offering.product, offering.edition):
        raise malformed(
            place, f"names {there.sku}, which is {there.product} {there.edition}, not "
            f"{offering.product} {offering.edition}"
        )  # fmt: skip


def _read_seats(table: _Table, actions: tuple[Action, ...]) -> int | None:
    if table.document.get("seats") == "unlimited":
        if Action.ADD_SEATS in actions:
            raise malformed(f"{table.place}.seats", "must be a number where seats are added")
        return None
    return table.fields.integer("seats", least=1, most=MOST_SEATS) if table.fields.has("seats") else 1


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
    grant.only("feature", "amount", "expiry", "active_from", "price", "given_on")
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
        price=read_price(grant.document["price"], place=f"{place}.price") if grant.fields.has("price") else None,
        given_on=grant.fields.kind("given_on", Stage) if grant.fields.has("given_on") else None,
    )


def read_price(document: object, *, place: str) -> Price:
    """``{amount, currency}``: minor units, and an ISO 4217 code."""
    price = _Table(document, place=place)
    price.only("amount", "currency")
    amount, currency = price.fields.integer("amount", most=MOST_UNITS), _currency(price.fields)
    if currency is None:
        raise malformed(f"{place}.currency", "is missing: say which money, such as EUR")
    return Price(amount=amount, currency=currency)


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
