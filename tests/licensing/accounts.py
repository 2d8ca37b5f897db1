"""What a counted feature should say, reckoned a second time: from the terms and from the answers that were given.

Nothing of ``lots``, ``meter`` and ``calendar`` is called here; the same rules of the contract, written once more and
plainly, without a thought for speed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from lls.licensing.calendar import Unit
from lls.licensing.entitlement import Entitlement, Feature, FeatureType, Grant, GrantExpiry, OverdraftType, Reset
from lls.licensing.instant import Now

EVER = datetime.min.replace(tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Lot:
    """Units with one begin and one end."""

    lot_id: str
    amount: int
    begins: datetime
    ends: datetime

    def in_force(self, now: Now) -> bool:
        return self.begins <= now.wall and max(now.wall, now.strict) < self.ends


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What an answer should say."""

    available: int | None
    total: int
    consumed: int
    overage: int


@dataclass(kw_only=True)
class Account:
    """What was taken of one feature, by lot. ``known`` are the lots that any terms have named so far."""

    used: dict[str, int] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    known: dict[str, Lot] = field(default_factory=dict)

    def lots(self, feature: Feature, terms: Entitlement, now: Now) -> list[Lot]:
        """The lots in force, in the order in which they are taken."""
        living = [lot for lot in lots_of(feature, terms, now.wall) if lot.lot_id not in self.ended]
        return [lot for lot in living if lot.in_force(now)]

    def left(self, lots: Iterable[Lot]) -> int:
        return sum(max(0, lot.amount - self.used.get(lot.lot_id, 0)) for lot in lots)

    def room(self, feature: Feature, terms: Entitlement, now: Now, *, level: int) -> int | None:
        """What may still be taken, overdraft included; None is unlimited. ``level`` of a pool is held by leases."""
        lots = self.lots(feature, terms, now)
        granted = sum(lot.amount for lot in lots)
        limit = allowed_over(feature, granted)
        if limit is None:
            return None
        if feature.type is FeatureType.ELEMENT_POOL:
            return max(0, granted + limit - level)
        return self.left(lots) + max(0, limit - self.used.get(overdraft_lot(feature, terms, now.wall), 0))

    def figures(self, feature: Feature, terms: Entitlement, now: Now, *, level: int) -> Figures:
        lots = self.lots(feature, terms, now)
        over = self.used.get(overdraft_lot(feature, terms, now.wall), 0) if feature.consumed else 0
        taken = sum(self.used.get(lot.lot_id, 0) for lot in lots) + over if feature.consumed else 0
        return Figures(
            available=self.room(feature, terms, now, level=level),
            total=sum(lot.amount for lot in lots),
            consumed=taken,
            overage=over,
        )

    def take(self, amount: int, feature: Feature, terms: Entitlement, now: Now) -> dict[str, int]:
        """Use units up: of which lots."""
        draws: dict[str, int] = {}
        for lot in self.lots(feature, terms, now):
            units = min(amount, max(0, lot.amount - self.used.get(lot.lot_id, 0)))
            if units:
                draws[lot.lot_id] = units
                amount -= units
        if amount:
            draws[overdraft_lot(feature, terms, now.wall)] = amount
        for lot_id, units in draws.items():
            self.used[lot_id] = self.used.get(lot_id, 0) + units
        return draws

    def give_back(self, draws: dict[str, int]) -> None:
        for lot_id, units in draws.items():
            self.used[lot_id] -= units

    def begin_anew(self, feature: Feature, terms: Entitlement, now: Now) -> None:
        for lot in self.lots(feature, terms, now):
            self.used[lot.lot_id] = 0
        self.used[overdraft_lot(feature, terms, now.wall)] = 0

    def learn(self, feature: Feature, terms: Entitlement, at: datetime) -> None:
        self.known.update({lot.lot_id: lot for lot in lots_of(feature, terms, at)})


def lots_of(feature: Feature, terms: Entitlement, at: datetime) -> list[Lot]:
    """Each grant, and the allowance (of the month in which ``at`` lies, where it comes by the month)."""
    if feature.type is FeatureType.BOOL:
        return []
    lots = [
        Lot(lot_id=one.grant_id, amount=one.amount, begins=one.active_from, ends=end_of(one, feature, terms))
        for one in feature.grants
    ]
    if monthly(feature):
        begins, ends = month(terms.starts_at or at, at)
        if terms.ends_at is None or begins < terms.ends_at:
            lots.append(Lot(lot_id=f"allowance {stamp(begins)}", amount=feature.value, begins=begins, ends=ends))
    else:
        begins = (terms.starts_at or EVER) if feature.consumed else EVER
        lots.append(Lot(lot_id="allowance", amount=feature.value, begins=begins, ends=NEVER))
    return sorted(lots, key=lambda lot: (lot.ends, lot.begins, lot.lot_id))


def monthly(feature: Feature) -> bool:
    return feature.consumed and feature.reset is Reset.MONTHLY


def overdraft_lot(feature: Feature, terms: Entitlement, at: datetime) -> str:
    return f"overdraft {stamp(month(terms.starts_at or at, at)[0])}" if monthly(feature) else "overdraft"


def allowed_over(feature: Feature, granted: int) -> int | None:
    return {
        OverdraftType.NONE: 0,
        OverdraftType.ABSOLUTE: feature.overdraft.value,
        OverdraftType.PERCENTAGE: granted * feature.overdraft.value // 100,
        OverdraftType.UNLIMITED: None,
    }[feature.overdraft.type]


def end_of(grant: Grant, feature: Feature, terms: Entitlement) -> datetime:
    contract = NEVER if terms.expires_at is None else terms.expires_at + terms.grace
    if grant.expiry is GrantExpiry.AT:
        return grant.at or NEVER
    if grant.expiry is GrantExpiry.CUSTOM and grant.term is not None:
        count = grant.term.count
        days = {Unit.DAY: 1, Unit.WEEK: 7}.get(grant.term.unit)
        if days is not None:
            return grant.active_from + timedelta(days=days * count)
        return later(grant.active_from, count if grant.term.unit is Unit.MONTH else 12 * count)
    if grant.expiry is GrantExpiry.END_OF_PERIOD and feature.reset is Reset.MONTHLY and terms.starts_at is not None:
        return month(terms.starts_at, grant.active_from)[1]
    return NEVER if grant.expiry is GrantExpiry.NEVER else contract


def month(anchor: datetime, at: datetime) -> tuple[datetime, datetime]:
    """The month, counted from ``anchor``, in which ``at`` lies; before the anchor the first."""
    count = 0
    while later(anchor, count + 1) <= at:
        count += 1
    return later(anchor, count), later(anchor, count + 1)


def later(at: datetime, months: int) -> datetime:
    """So many months later, on the last day where the month is too short."""
    year, index = divmod(at.year * 12 + at.month - 1 + months, 12)
    for day in range(at.day, at.day - 4, -1):
        try:
            return at.replace(year=year, month=index + 1, day=day)
        except ValueError:
            continue
    raise AssertionError(at)


def stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}Z"
