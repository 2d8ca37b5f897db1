"""The vendor's catalogue: what can be sold, and how a value is found that several levels name.

Rules
1. A product has features, attributes and editions. A plan says how long something lasts. An offering (SKU) says what an
   order's line of it does (``actions``), and with which product, edition, plan and seats.
2. A value is looked for from the general to the particular, and the last level that names it wins: what is built in,
   the whole catalogue, the product, the edition, the plan, the offering, the entitlement itself (``Level``). The whole
   chain is kept beside what was sold, so that anybody can be told which value was overridden, and where.
3. The catalogue stays with the vendor. Entitlements carry resolved values (contract §3), so a later catalogue changes
   nothing that was sold.

It refuses to own the file (``catalog_file``), customers and what was ordered (``orders``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias

from lls.licensing.calendar import Term
from lls.licensing.entitlement import (
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
from lls.licensing.fields import write_instant

AttributeValue: TypeAlias = int | str


class Action(StrEnum):
    """What a line of an order does."""

    NEW = "new"
    RENEW = "renew"
    ADD_SEATS = "add_seats"
    UPGRADE = "upgrade"
    ADD_GRANT = "add_grant"


class Level(StrEnum):
    """Who says a value, from the general to the particular."""

    BUILT_IN = "built_in"
    GLOBAL = "global"
    PRODUCT = "product"
    EDITION = "edition"
    PLAN = "plan"
    OFFERING = "offering"
    ENTITLEMENT = "entitlement"


Chain: TypeAlias = list[tuple[Level, object]]
"""Who said what of one value, the most particular last: that one is in force. Values are JSON."""

TERMS: Final[Mapping[str, object]] = {
    "grace_seconds": 0,
    "lease_seconds": 600,
    "linger_seconds": 0,
    "sharing": Sharing.NONE.value,
    "overdraft": {"type": OverdraftType.NONE.value},
    "borrow": {"max_seconds": 0, "max_seats": 0},
    "max_version": None,
}
"""The terms that every level may name, with what is built in."""


class Stage(StrEnum):
    """How far an invoice has come, in this order; a later stage includes the earlier ones."""

    CREATED = "invoice_created"
    APPROVED = "invoice_approved"
    PAID = "invoice_paid"

    @property
    def rank(self) -> int:
        """Its place in that order."""
        return list(Stage).index(self)


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
class Price:
    """What was paid: minor units of a currency (ISO 4217). It stays in the register and is in no bundle."""

    amount: int
    currency: str

    def times(self, quantity: int) -> Price:
        """For so many."""
        return Price(amount=self.amount * quantity, currency=self.currency)

    def document(self) -> dict[str, object]:
        """As the register keeps it."""
        return {"amount": self.amount, "currency": self.currency}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryTerms:
    """When what is left of a grant is lost. ``term`` is there for ``custom``, ``at`` for ``at``."""

    expiry: GrantExpiry
    term: Term | None = None
    at: datetime | None = None

    def document(self) -> dict[str, object]:
        """As an entitlement carries it."""
        told: dict[str, object] = {"type": self.expiry.value}
        if self.term is not None:
            told |= {"unit": self.term.unit.value, "count": self.term.count}
        if self.at is not None:
            told["at"] = write_instant(self.at)
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTerms:
    """Units of a counted feature to be given once. ``active_from`` None: from when they are given on.

    ``price`` is what they cost, ``given_on`` how far the invoice must have come before they are given (None: at once).
    """

    feature: str
    amount: int
    expiry: GrantExpiry = GrantExpiry.NEVER
    term: Term | None = None
    at: datetime | None = None
    active_from: datetime | None = None
    price: Price | None = None
    given_on: Stage | None = None

    def document(self, *, grant_id: str, amount: int, otherwise_from: datetime) -> dict[str, object]:
        """As an entitlement carries it."""
        active_from = write_instant(self.active_from or otherwise_from)
        return {"grant_id": grant_id, "amount": amount, "active_from": active_from, "expiry": self.expiry_document()}

    def expiry_document(self) -> dict[str, object]:
        """When what is left of it is lost."""
        return ExpiryTerms(expiry=self.expiry, term=self.term, at=self.at).document()


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
    level: Level = Level.PRODUCT

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
    level: Level = Level.PRODUCT


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """What an edition sets; keys are the product's. ``terms`` are some of :data:`TERMS`."""

    key: str
    name: str
    features: Mapping[str, int]
    attributes: Mapping[str, AttributeValue]
    terms: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product with its parts; what the whole catalogue defines for every product is among them."""

    key: str
    name: str
    features: Mapping[str, FeatureTerms]
    attributes: Mapping[str, AttributeTerms]
    editions: Mapping[str, Edition]
    terms: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long something lasts. No ``term``: for ever. No ``maintenance``: builds of any day are covered."""

    key: str
    name: str
    license_type: LicenseType
    start: Start
    term: Term | None
    maintenance: Term | None
    grace_seconds: int | None
    not_for_resale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Offering:
    """What a SKU sells. ``seats`` and ``grants`` are per unit ordered; None is unlimited.

    ``plan`` is None where nothing of the actions takes one. ``upgrade_from`` empty: from any other edition; ``becomes``
    is the SKU that an upgraded entitlement goes by afterwards.
    """

    sku: str
    name: str
    actions: tuple[Action, ...]
    product: str
    edition: str | None
    plan: str | None
    seats: int | None
    activation_codes: bool
    concurrency: Concurrency
    named_users: NamedUsers
    node_lock_release_seconds: int | None
    features: Mapping[str, int]
    grants: tuple[GrantTerms, ...]
    attributes: Mapping[str, AttributeValue]
    terms: Mapping[str, object] = field(default_factory=dict)
    upgrade_from: tuple[str, ...] = ()
    becomes: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The whole catalogue; every reference in it holds. ``terms`` are those of every product."""

    products: Mapping[str, Product]
    plans: Mapping[str, Plan]
    offerings: Mapping[str, Offering]
    terms: Mapping[str, object] = field(default_factory=dict)

    def plan_of(self, offering: Offering) -> Plan | None:
        """The offering's plan."""
        return None if offering.plan is None else self.plans[offering.plan]

    def chains(self, product: Product, edition: str | None, *, offering: Offering | None = None) -> dict[str, Chain]:
        """The chain of each value, by its path: ``lease_seconds``, ``features.KEY``, ``attributes.KEY``.

        ``offering`` None: only what the levels above it say.
        """
        chosen = product.editions[edition] if edition else None
        plan = self.plan_of(offering) if offering else None
        found: dict[str, Chain] = {path: [(Level.BUILT_IN, value)] for path, value in TERMS.items()}
        for level, terms in (
            (Level.GLOBAL, self.terms),
            (Level.PRODUCT, product.terms),
            (Level.EDITION, chosen.terms if chosen else {}),
            (Level.PLAN, plan_terms(plan)),
            (Level.OFFERING, offering.terms if offering else {}),
        ):
            _say(found, level, terms)
        for group, defined in (("features", product.features), ("attributes", product.attributes)):
            _say_defined(found, group, defined.values())
            _say(found, Level.EDITION, getattr(chosen, group) if chosen else {}, group=group)
            _say(found, Level.OFFERING, getattr(offering, group) if offering else {}, group=group)
        return found


def plan_terms(plan: Plan | None) -> dict[str, object]:
    """What a plan says of the terms."""
    return {} if plan is None or plan.grace_seconds is None else {"grace_seconds": plan.grace_seconds}


def _say_defined(found: dict[str, Chain], group: str, defined: Iterable[FeatureTerms | AttributeTerms]) -> None:
    for one in defined:
        if one.value is not None:
            found[f"{group}.{one.key}"] = [(one.level, one.value)]


def _say(found: dict[str, Chain], level: Level, values: Mapping[str, object], *, group: str | None = None) -> None:
    for key, value in values.items():
        found.setdefault(key if group is None else f"{group}.{key}", []).append((level, value))


def in_force(chain: Chain) -> object:
    """The value that counts."""
    return chain[-1][1]
