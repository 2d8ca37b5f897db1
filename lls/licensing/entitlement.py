"""What was bought, and whether it is in force at an instant.

Rules
1. An entitlement is a value: what the vendor resolved and signed (contract §3, *Entitlement*). Nothing here changes it.
2. ``standing`` is the one place that judges dates and status: not started → active → grace → expired, disabled at any
   time.
3. The seats that may be taken are ``seats`` and the overdraft on top; ``None`` means that there is no limit.
4. A term that starts on the first lease has no dates until the server has set them (``begun``); until then it is in
   force. The vendor's own dates, when a later bundle brings them, win.
5. A counted feature has ``value`` units of its own (an element pool's size, or the allowance of each period) and its
   dated grants beside them (``meters`` says how they are consumed).

It refuses to own seats in use (``ledger``), what was consumed (``meters``) and the site's own rules (``policy``).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final

from lls.licensing import calendar
from lls.licensing.calendar import Term, Unit
from lls.licensing.fields import Fields, malformed

MOST_SEATS: Final = 1_000_000_000
MOST_UNITS: Final = 10**15
"""Units of a counted feature: their sums stay exact integers in JSON (2**53) and in SQL (2**63)."""
LONGEST_LEASE_SECONDS: Final = 30 * 86_400
LONGEST_BORROW_SECONDS: Final = 3650 * 86_400
LONGEST_UNDO_SECONDS: Final = 366 * 86_400
SHORTEST_LEASE_SECONDS: Final = 3

_LATEST_START: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""No first lease comes later than this; a term that is longer from here on is refused at its import."""
_VERSION_PART = re.compile(r"([0-9]{1,18})([^.]*)")


class Standing(StrEnum):
    """Where an entitlement is in its life at one instant."""

    NOT_STARTED = "not_started"
    ACTIVE = "active"
    GRACE = "grace"
    EXPIRED = "expired"
    DISABLED = "disabled"


class Status(StrEnum):
    """The vendor's or the customer account's switch."""

    ACTIVE = "active"
    DISABLED = "disabled"
    CUSTOMER_DISABLED = "customer_disabled"


class Sharing(StrEnum):
    """Whose leases sit on one seat together."""

    NONE = "none"
    USER = "user"
    HOST = "host"
    USER_HOST = "user_host"


class Concurrency(StrEnum):
    """How a seat is bound."""

    CONCURRENT = "concurrent"
    NODE_LOCK = "node_lock"
    NAMED_USER = "named_user"


class LicenseType(StrEnum):
    """The kind of plan."""

    SUBSCRIPTION = "subscription"
    PERPETUAL = "perpetual"
    TRIAL = "trial"


class Start(StrEnum):
    """When the term begins."""

    ON_ISSUE = "on_issue"
    ON_FIRST_LEASE = "on_first_lease"
    FIXED = "fixed"


class FeatureType(StrEnum):
    """How a feature is counted."""

    BOOL = "bool"
    ELEMENT_POOL = "element_pool"
    USAGE_COUNT = "usage_count"
    CREDIT = "credit"


class OverdraftType(StrEnum):
    """How far a pool may go beyond its seats."""

    NONE = "none"
    ABSOLUTE = "absolute"
    PERCENTAGE = "percentage"
    UNLIMITED = "unlimited"


class Reset(StrEnum):
    """When the allowance of a counted feature begins anew. ``on_renewal`` comes as the vendor's command."""

    NEVER = "never"
    ON_RENEWAL = "on_renewal"
    MONTHLY = "monthly"


class GrantExpiry(StrEnum):
    """When what is left of a grant is lost."""

    NEVER = "never"
    END_OF_CONTRACT = "end_of_contract"
    END_OF_PERIOD = "end_of_period"
    CUSTOM = "custom"
    AT = "at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdraft:
    """What may be taken on top of what was bought."""

    type: OverdraftType = OverdraftType.NONE
    value: int = 0

    def on_top_of(self, base: int) -> int | None:
        """Units on top of ``base``; None is unlimited. A percentage is rounded down: never more than was agreed."""
        match self.type:
            case OverdraftType.NONE:
                return 0
            case OverdraftType.ABSOLUTE:
                return self.value
            case OverdraftType.PERCENTAGE:
                return base * self.value // 100
            case OverdraftType.UNLIMITED:
                return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Units given at a date: ``amount`` from ``active_from`` on. ``term`` counts for ``custom``, ``at`` for ``at``."""

    grant_id: str
    amount: int
    active_from: datetime
    expiry: GrantExpiry
    term: Term | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A part of the product that is switched or counted; ``value`` of a ``bool`` is 1 or 0.

    ``tracked`` (bool only): who has it checked out is journalled and reported. ``currency`` is an ISO 4217 code, the
    amounts of a credit are its minor units.
    """

    key: str
    type: FeatureType
    value: int
    unit: str | None = None
    currency: str | None = None
    overdraft: Overdraft = Overdraft()
    reset: Reset = Reset.NEVER
    undo_seconds: int = 0
    grants: tuple[Grant, ...] = ()
    tracked: bool = False

    @property
    def counted(self) -> bool:
        """Whether amounts are kept of it."""
        return self.type is not FeatureType.BOOL

    @property
    def consumed(self) -> bool:
        """Whether what is taken is gone for good."""
        return self.type in (FeatureType.USAGE_COUNT, FeatureType.CREDIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class BorrowTerms:
    """How long and how many seats may be borrowed; zero of either: none."""

    max_seconds: int = 0
    max_seats: int = 0

    @property
    def allowed(self) -> bool:
        """Whether there is borrowing at all."""
        return self.max_seconds > 0 and self.max_seats > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedUsers:
    """Who may sit here: the vendor's ``names``, and ``by_site`` the site's own choice for the places that are left."""

    names: tuple[str, ...] = ()
    by_site: bool = False
    changes_per_month: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """What a customer bought, resolved (contract §3). Instants are aware UTC; ``None`` seats are unlimited seats."""

    entitlement_id: str
    group_id: str
    session_id: str
    sequence: int
    order_ref: str
    activation_codes: frozenset[str] = field(repr=False)
    product: str
    product_name: str
    sku: str
    offering: str
    edition: str | None
    license_type: LicenseType
    start: Start
    status: Status
    starts_at: datetime | None
    expires_at: datetime | None
    grace: timedelta
    maintenance_expires_on: date | None
    concurrency: Concurrency
    max_version: str | None
    seats: int | None
    overdraft: Overdraft
    sharing: Sharing
    lease_seconds: int
    linger_seconds: int
    features: tuple[Feature, ...]
    attributes: Mapping[str, str | int]
    term: Term | None = None
    """How long it lasts where the first lease starts it."""
    borrow: BorrowTerms = BorrowTerms()
    named_users: NamedUsers = NamedUsers()
    node_lock_release: timedelta | None = None
    """After how long without a beat a machine's seat comes free; None: only by its return."""
    ends_at: datetime | None = field(init=False, compare=False, repr=False)
    """The instant at which its leases end: the end of the grace. None: never. Asked for by every heartbeat."""

    def __post_init__(self) -> None:
        """Reckon the end."""
        ends_at = None if self.expires_at is None else self.expires_at + self.grace
        object.__setattr__(self, "ends_at", ends_at)

    def standing(self, at: datetime) -> Standing:
        """Its standing at the guarded instant ``at``."""
        if self.status is not Status.ACTIVE:
            return Standing.DISABLED
        if self.starts_at is not None and at < self.starts_at:
            return Standing.NOT_STARTED
        if self.expires_at is None or at < self.expires_at:
            return Standing.ACTIVE
        return Standing.GRACE if at < self.expires_at + self.grace else Standing.EXPIRED

    @property
    def capacity(self) -> int | None:
        """Seats and overdraft together; None is unlimited."""
        if self.seats is None:
            return None
        on_top = self.overdraft.on_top_of(self.seats)
        return None if on_top is None else self.seats + on_top

    def opens_with(self, activation_code: str | None) -> bool:
        """Whether this code (normalised) opens it; an entitlement without codes opens only without one."""
        if activation_code is None:
            return not self.activation_codes
        # Each is compared in constant time: a code is worth money, and its first letters must not be guessable.
        given = activation_code.encode()
        return sum(hmac.compare_digest(given, code.encode()) for code in self.activation_codes) > 0

    def feature(self, key: str) -> Feature | None:
        """The feature of that key."""
        return next((feature for feature in self.features if feature.key == key), None)

    def covers(self, *, version: str | None, released_on: date | None) -> bool:
        """Whether a build of that version and release day is covered by ``max_version`` and the maintenance date."""
        if released_on and self.maintenance_expires_on and released_on > self.maintenance_expires_on:
            return False
        return not (version and self.max_version) or _version(version) <= _version(self.max_version, ceiling=True)

    @property
    def starts_on_first_lease(self) -> bool:
        """Whether its dates are still to be set by the first lease."""
        return self.start is Start.ON_FIRST_LEASE and self.starts_at is None

    def begun(self, at: datetime) -> Entitlement:
        """The same terms, in force from ``at`` on; an end that the vendor has named is not passed."""
        ends = [self.expires_at, None if self.term is None else calendar.add(at, self.term)]
        return replace(self, starts_at=at, expires_at=min((end for end in ends if end is not None), default=None))


def normalise_code(activation_code: str) -> str:
    """People type codes by hand: case and surrounding white space do not count."""
    return activation_code.strip().upper()


def read_entitlement(document: object, *, place: str = "entitlement") -> Entitlement:
    """One entitlement of a bundle's payload.

    Raises :class:`~lls.faults.RefusedDocument` (``malformed``) that names the member. Unknown members are ignored.
    """
    fields = Fields(document, place=place)
    product, offering, plan = fields.object("product"), fields.object("offering"), fields.object("plan")
    start = plan.kind("start", Start)
    expires_at = fields.optional_instant("expires_at")
    grace = timedelta(seconds=fields.integer("grace_seconds", most=3650 * 86_400))
    if expires_at and expires_at > datetime.max.replace(tzinfo=UTC) - grace:
        raise malformed(f"{place}.expires_at", "and grace_seconds go beyond the calendar")
    entitlement = Entitlement(
        entitlement_id=fields.id("entitlement_id", "ent_"),
        group_id=fields.id("group_id", "egr_"),
        session_id=fields.id("session_id", "ses_"),
        sequence=fields.integer("sequence", least=1),
        order_ref=fields.text("order_ref"),
        activation_codes=frozenset(map(normalise_code, fields.texts("activation_codes", most=10_000))),
        product=product.word("key"),
        product_name=product.text("name"),
        sku=offering.word("sku"),
        offering=offering.text("name"),
        edition=fields.optional_word("edition"),
        license_type=plan.kind("license_type", LicenseType),
        start=start,
        status=fields.kind("status", Status),
        starts_at=fields.optional_instant("starts_at"),
        expires_at=expires_at,
        grace=grace,
        maintenance_expires_on=fields.optional_day("maintenance_expires_on"),
        concurrency=fields.kind("concurrency", Concurrency),
        max_version=fields.optional_text("max_version", most=50),
        seats=fields.optional_integer("seats", most=MOST_SEATS),
        overdraft=_read_overdraft(fields),
        sharing=fields.kind("sharing", Sharing),
        lease_seconds=fields.integer("lease_seconds", least=SHORTEST_LEASE_SECONDS, most=LONGEST_LEASE_SECONDS),
        linger_seconds=fields.integer("linger_seconds", most=LONGEST_LEASE_SECONDS),
        features=tuple(_read_feature(feature) for feature in fields.objects("features", most=1_000)),
        attributes=_read_attributes(fields),
        term=_read_term(plan) if start is Start.ON_FIRST_LEASE else None,
        borrow=_read_borrow(fields),
        named_users=_read_named_users(fields),
        node_lock_release=_seconds(fields, "node_lock_release_after_seconds"),
    )
    _check(entitlement, place=place)
    return entitlement


def _check(entitlement: Entitlement, *, place: str) -> None:
    if entitlement.starts_at is None and entitlement.start is not Start.ON_FIRST_LEASE:
        raise malformed(f"{place}.starts_at", "is missing")
    if entitlement.expires_at and entitlement.starts_at and entitlement.expires_at < entitlement.starts_at:
        raise malformed(f"{place}.expires_at", "lies before starts_at")
    if entitlement.starts_on_first_lease and entitlement.term is not None:
        _within_calendar(_LATEST_START, entitlement.term, place=f"{place}.plan.term")
    keys = [feature.key for feature in entitlement.features]
    if len(keys) != len(set(keys)):
        raise malformed(f"{place}.features", "names a feature twice")


def _read_overdraft(fields: Fields, *, most: int = MOST_SEATS) -> Overdraft:
    if not fields.has("overdraft"):
        return Overdraft()
    overdraft = fields.object("overdraft")
    kind = overdraft.kind("type", OverdraftType)
    counted = kind in (OverdraftType.ABSOLUTE, OverdraftType.PERCENTAGE)
    return Overdraft(type=kind, value=overdraft.integer("value", most=most) if counted else 0)


def _read_feature(feature: Fields) -> Feature:
    kind = feature.kind("type", FeatureType)
    if kind is FeatureType.BOOL:
        tracked = feature.flag("tracked") if feature.has("tracked") else False
        return Feature(key=feature.word("key"), type=kind, value=feature.integer("value", most=1), tracked=tracked)
    grants = tuple(_read_grant(grant) for grant in feature.objects("grants", most=1_000))
    if len(grants) != len({grant.grant_id for grant in grants}):
        raise malformed(f"{feature.place}.grants", "names a grant twice")
    return Feature(
        key=feature.word("key"),
        type=kind,
        value=feature.integer("value", most=MOST_UNITS),
        unit=feature.optional_text("unit", most=50),
        currency=feature.optional_text("currency", most=3),
        overdraft=_read_overdraft(feature, most=MOST_UNITS),
        reset=feature.kind("reset", Reset) if feature.has("reset") else Reset.NEVER,
        undo_seconds=feature.optional_integer("undo_seconds", most=LONGEST_UNDO_SECONDS) or 0,
        grants=grants,
    )


def _read_grant(grant: Fields) -> Grant:
    expiry = grant.object("expiry")
    kind = expiry.kind("type", GrantExpiry)
    active_from = grant.instant("active_from")
    term = _read_term(expiry) if kind is GrantExpiry.CUSTOM else None
    if kind is GrantExpiry.CUSTOM and term is None:
        raise malformed(f"{expiry.place}.unit", "is missing")
    if term is not None:
        _within_calendar(active_from, term, place=expiry.place)
    return Grant(
        grant_id=grant.id("grant_id", "grt_"),
        amount=grant.integer("amount", least=1, most=MOST_UNITS),
        active_from=active_from,
        expiry=kind,
        term=term,
        at=expiry.instant("at") if kind is GrantExpiry.AT else None,
    )


def _read_term(fields: Fields) -> Term | None:
    """``plan.term``, or the members of an expiry."""
    source = fields.object("term") if fields.has("term") else fields
    if not source.has("unit"):
        return None
    return Term(unit=source.kind("unit", Unit), count=source.integer("count", least=1, most=36_500))


def _within_calendar(at: datetime, term: Term, *, place: str) -> None:
    try:
        calendar.add(at, term)
    except OverflowError:
        raise malformed(place, "goes beyond the calendar") from None


def _read_borrow(fields: Fields) -> BorrowTerms:
    if not fields.has("borrow"):
        return BorrowTerms()
    borrow = fields.object("borrow")
    return BorrowTerms(
        max_seconds=borrow.integer("max_seconds", most=LONGEST_BORROW_SECONDS),
        max_seats=borrow.integer("max_seats", most=MOST_SEATS),
    )


def _read_named_users(fields: Fields) -> NamedUsers:
    names = fields.texts("named_users", most=100_000)
    if not fields.has("named_user_assignment"):
        return NamedUsers(names=names)
    assignment = fields.object("named_user_assignment")
    return NamedUsers(
        names=names,
        by_site=assignment.flag("by_site"),
        changes_per_month=assignment.integer("changes_per_month", most=100_000),
    )


def _seconds(fields: Fields, key: str) -> timedelta | None:
    seconds = fields.optional_integer(key, least=1, most=LONGEST_BORROW_SECONDS)
    return None if seconds is None else timedelta(seconds=seconds)


def _read_attributes(fields: Fields) -> Mapping[str, str | int]:
    attributes: dict[str, str | int] = {}
    for item in fields.objects("attributes", most=1_000):
        key = item.word("key")
        if key in attributes:
            raise malformed(f"{item.place}.key", "is given twice")
        match item.text("type", most=10):
            case "number":
                attributes[key] = item.integer("value", least=-(2**53) + 1)
            case "string":
                attributes[key] = item.text("value", most=1_000)
            case "date":
                day = item.optional_day("value")
                attributes[key] = day.isoformat() if day else item.text("value")
            case _:
                raise malformed(f"{item.place}.type", "must be one of number, string, date")
    return attributes


def _version(text: str, *, ceiling: bool = False) -> tuple[tuple[int, str], ...]:
    """Dotted versions compare number by number. A ceiling of ``2026`` covers ``2026.4``.

    A part without a number in front (``v2027``) is above every number: what cannot be compared is not covered.
    """
    parts = [_VERSION_PART.fullmatch(part) for part in text.split(".")]
    numbered = tuple((int(part[1]), part[2]) if part else (2**62, text) for part in parts)
    return (*numbered, (2**63, "")) if ceiling else numbered
