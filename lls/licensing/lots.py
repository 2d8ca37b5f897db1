"""The lots of a counted feature: units that are given together, begin together and end together.

Rules
1. Each grant is a lot under its own id. ``value`` is the *allowance*: one lot without an end, or with a monthly reset
   one lot per period, named by the period's begin. The periods are reckoned from the entitlement's start; none begins
   at its end or later.
2. When a lot ends: never, with the entitlement (its grace included: work goes on in grace), with the monthly period in
   which it begins (without monthly periods with the entitlement), after a term, or at an instant.
3. A lot is in force from its begin on guarded time until its end on the *later* of guarded and strict time: a clock
   that was put forward gives nothing early and nothing late.
4. Lots are consumed in the order of their ends, those without one last; then by begin, then by id.
5. An end beyond the calendar (the year 9999) is no end.

It refuses to own what was taken of a lot, and whether it was ended (``meters``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime
from typing import Final

from lls.faults import RefusedDocument
from lls.licensing import calendar
from lls.licensing.entitlement import Entitlement, Feature, Grant, GrantExpiry, Reset
from lls.licensing.fields import read_instant, write_instant
from lls.licensing.instant import Now

ALLOWANCE: Final = "allowance"
OVERDRAFT: Final = "overdraft"
FIRST: Final = datetime.min.replace(tzinfo=UTC)
LAST: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lot:
    """Units with one life. ``begins`` None: from ever; ``ends`` None: no end of its own."""

    lot_id: str
    amount: int
    begins: datetime | None = None
    ends: datetime | None = None

    def in_force(self, now: Now) -> bool:
        """Whether its units may be taken."""
        if self.begins is not None and now.wall < self.begins:
            return False
        return self.ends is None or max(now.wall, now.strict) < self.ends

    def is_over(self, at: datetime) -> bool:
        """Whether its end has passed."""
        return self.ends is not None and self.ends <= at


def order(lot: Lot) -> tuple[datetime, datetime, str]:
    """The key by which lots are consumed and told."""
    return lot.ends or LAST, lot.begins or FIRST, lot.lot_id


def standing_lots(feature: Feature, terms: Entitlement) -> list[Lot]:
    """The lots that the terms name one by one, in the order of their consumption; none for a switch."""
    if not feature.counted:
        return []
    lots = [_grant(grant, feature, terms) for grant in feature.grants]
    if not is_monthly(feature):
        # What is held may be held by a lease of before; what is used up begins with the entitlement.
        begins = terms.starts_at if feature.consumed else None
        lots.append(Lot(lot_id=ALLOWANCE, amount=feature.value, begins=begins))
    return sorted(lots, key=order)


def is_monthly(feature: Feature) -> bool:
    """Whether its allowance comes by the month. The size of an element pool does not: it is not used up."""
    return feature.consumed and feature.reset is Reset.MONTHLY


def period_lot(feature: Feature, terms: Entitlement, at: datetime) -> Lot:
    """The allowance of the monthly period in which ``at`` lies; before the entitlement's start, of the first.

    Where the first lease is still to set the start, the period begins at ``at``.
    """
    begins, ends = _month(terms.starts_at or at, at)
    return Lot(lot_id=f"{ALLOWANCE} {write_instant(begins)}", amount=feature.value, begins=begins, ends=ends)


def period_named(lot_id: str, feature: Feature, terms: Entitlement) -> Lot | None:
    """The period of that id; None when these terms have no such period."""
    try:
        begins = read_instant(lot_id.removeprefix(f"{ALLOWANCE} "), place="lot")
    except RefusedDocument:  # the allowance that has no periods
        return None
    lot = period_lot(feature, terms, begins)
    return lot if lot.lot_id == lot_id else None


def begins_within(period: Lot, terms: Entitlement) -> bool:
    """Whether the entitlement has not ended when the period begins."""
    return terms.ends_at is None or period.begins is None or period.begins < terms.ends_at


def months_named(lot_ids: Iterable[str], at: datetime) -> set[str]:
    """The names of months (what follows the kind in an id), by which these lots should be in force at an instant."""
    return {month for lot_id in lot_ids if (month := lot_id.partition(" ")[2]) and _is_month_of(month, at)}


def _is_month_of(month: str, at: datetime) -> bool:
    try:
        begins = read_instant(month, place="lot")
    except RefusedDocument:  # a grant's id
        return False
    return begins <= at and _month(begins, at)[0] == begins


def _grant(grant: Grant, feature: Feature, terms: Entitlement) -> Lot:
    ends = _end_of(grant, feature, terms)
    return Lot(lot_id=grant.grant_id, amount=grant.amount, begins=grant.active_from, ends=ends)


def _end_of(grant: Grant, feature: Feature, terms: Entitlement) -> datetime | None:
    match grant.expiry:
        case GrantExpiry.NEVER:
            return None
        case GrantExpiry.END_OF_CONTRACT:
            return terms.ends_at
        case GrantExpiry.AT:
            return grant.at
        case GrantExpiry.CUSTOM:
            return _after(grant)
        case GrantExpiry.END_OF_PERIOD:
            if feature.reset is not Reset.MONTHLY or terms.starts_at is None:
                return terms.ends_at
            return _month(terms.starts_at, grant.active_from)[1]


def _after(grant: Grant) -> datetime | None:
    try:
        return None if grant.term is None else calendar.add(grant.active_from, grant.term)
    except OverflowError:
        return None


def _month(anchor: datetime, at: datetime) -> tuple[datetime, datetime | None]:
    """The monthly period of ``at``; the calendar's last one has no end."""
    try:
        return calendar.month_of(anchor, at)
    except OverflowError:
        return anchor.replace(year=MAXYEAR, month=12), None
