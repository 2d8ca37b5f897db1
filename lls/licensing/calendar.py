"""Calendar arithmetic: terms and periods in UTC, with the month's end clamped (contract §3).

Rules
1. A month or year after the 29th, 30th or 31st falls on that day where the month has it, else on its last day.
2. Several periods are reckoned from the anchor, never from the end of the one before: the 31st of January is followed
   by the 28th of February and the 31st of March.
3. What goes beyond the calendar (the year 9999) is ``OverflowError``; whoever reads a document refuses it first.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, datetime, timedelta
from enum import StrEnum
from typing import Final

_MONTHS_PER_YEAR: Final = 12


class Unit(StrEnum):
    """What a term is counted in."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A length of calendar time."""

    unit: Unit
    count: int


def add(at: datetime, term: Term, *, times: int = 1) -> datetime:
    """The instant so many terms after ``at``. Raises OverflowError beyond the calendar."""
    count = term.count * times
    match term.unit:
        case Unit.DAY:
            return at + timedelta(days=count)
        case Unit.WEEK:
            return at + timedelta(weeks=count)
        case Unit.MONTH:
            return _add_months(at, count)
        case Unit.YEAR:
            return _add_months(at, count * _MONTHS_PER_YEAR)


def month_of(anchor: datetime, at: datetime) -> tuple[datetime, datetime]:
    """The monthly period in which ``at`` lies: begin (included) and end (excluded), counted from ``anchor``.

    Before the anchor it is the first period: nothing has begun yet, and nothing may be counted twice.
    """
    months = max(0, (at.year - anchor.year) * _MONTHS_PER_YEAR + at.month - anchor.month)
    if months and _add_months(anchor, months) > at:
        months -= 1
    return _add_months(anchor, months), _add_months(anchor, months + 1)


def _add_months(at: datetime, months: int) -> datetime:
    year, month = divmod(at.year * _MONTHS_PER_YEAR + at.month - 1 + months, _MONTHS_PER_YEAR)
    if not MINYEAR <= year <= MAXYEAR:
        raise OverflowError("beyond the calendar")
    last = calendar.monthrange(year, month + 1)[1]
    return at.replace(year=year, month=month + 1, day=min(at.day, last))
