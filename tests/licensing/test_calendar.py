"""The calendar: months end where they end, and no error grows from period to period."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lls.licensing.calendar import Term, Unit, add, month_of

INSTANT = timedelta(microseconds=1)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "unit", "count", "expected"),
    [
        ("2026-12-31", Unit.DAY, 1, "2027-01-01"),
        ("2028-02-28", Unit.DAY, 1, "2028-02-29"),
        ("2026-12-28", Unit.WEEK, 1, "2027-01-04"),
        ("2026-01-31", Unit.MONTH, 1, "2026-02-28"),
        ("2028-01-31", Unit.MONTH, 1, "2028-02-29"),
        ("2026-10-31", Unit.MONTH, 1, "2026-11-30"),
        ("2026-12-15", Unit.MONTH, 1, "2027-01-15"),
        ("2026-11-30", Unit.MONTH, 3, "2027-02-28"),
        ("2026-08-31", Unit.MONTH, 6, "2027-02-28"),
        ("2028-02-29", Unit.YEAR, 1, "2029-02-28"),
        ("2028-02-29", Unit.YEAR, 4, "2032-02-29"),
        ("2096-02-29", Unit.YEAR, 4, "2100-02-28"),
    ],
)
def test_a_term_ends_on_its_day_or_on_the_months_last(at: str, unit: Unit, count: int, expected: str) -> None:
    assert day(expected) == add(day(at), Term(unit=unit, count=count))


def test_the_time_of_day_stays() -> None:
    assert day("2026-02-28 23:59:59.999999") == add(day("2026-01-31 23:59:59.999999"), Term(unit=Unit.MONTH, count=1))


def test_several_terms_are_reckoned_from_the_beginning() -> None:
    month = Term(unit=Unit.MONTH, count=1)
    ends = [add(day("2026-01-31"), month, times=times) for times in (1, 2, 3)]
    assert [day("2026-02-28"), day("2026-03-31"), day("2026-04-30")] == ends


@pytest.mark.parametrize(
    ("anchor", "at", "begins", "ends"),
    [
        ("2026-01-31", "2026-01-31", "2026-01-31", "2026-02-28"),
        ("2026-01-31", "2026-02-27", "2026-01-31", "2026-02-28"),
        ("2026-01-31", "2026-02-28", "2026-02-28", "2026-03-31"),
        ("2026-01-31", "2026-03-30", "2026-02-28", "2026-03-31"),
        ("2026-11-15", "2027-01-14", "2026-12-15", "2027-01-15"),
        ("2026-11-15", "2027-01-15", "2027-01-15", "2027-02-15"),
        ("2028-02-29", "2029-02-28", "2029-02-28", "2029-03-29"),
        ("2026-11-15", "2020-01-01", "2026-11-15", "2026-12-15"),
    ],
)
def test_a_month_begins_where_the_one_before_ended(anchor: str, at: str, begins: str, ends: str) -> None:
    assert (day(begins), day(ends)) == month_of(day(anchor), day(at))


def test_a_period_changes_within_an_instant() -> None:
    ends = day("2026-12-31 12:00")
    assert ends == month_of(day("2026-01-31 12:00"), ends - INSTANT)[1]
    assert ends == month_of(day("2026-01-31 12:00"), ends)[0]


@pytest.mark.parametrize(
    ("at", "unit", "count"),
    [
        ("9999-12-31", Unit.DAY, 1),
        ("9999-12-01", Unit.WEEK, 5),
        ("9999-12-01", Unit.MONTH, 1),
        ("2026-01-01", Unit.YEAR, 36_500),
    ],
)
def test_what_goes_beyond_the_calendar_is_told(at: str, unit: Unit, count: int) -> None:
    with pytest.raises(OverflowError):
        add(day(at), Term(unit=unit, count=count))


INSTANTS = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(INSTANTS, st.timedeltas(timedelta(0), timedelta(days=40_000)))
def test_every_instant_lies_in_one_month_and_the_months_touch(anchor: datetime, later: timedelta) -> None:
    at = anchor + later
    begins, ends = month_of(anchor, at)
    assert begins <= at < ends
    assert ends == month_of(anchor, ends)[0]
    assert timedelta(days=28) <= ends - begins <= timedelta(days=31)
