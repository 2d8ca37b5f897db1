"""What was given and what is left of it: order, ends, months, overdraft, updates, clocks, the last word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from lls.faults import UnknownFeature
from lls.licensing.calendar import Term, Unit
from lls.licensing.changes import FeatureAct, LotUse
from lls.licensing.denial import Cause
from lls.licensing.entitlement import (
    MOST_UNITS,
    FeatureType,
    GrantExpiry,
    Overdraft,
    OverdraftType,
    Reset,
    Start,
)
from lls.licensing.fields import LARGEST
from lls.licensing.meters import FeatureLevel
from lls.signed.jose import SigningKey
from lls.signed.returned import make_return
from tests.licensing.metering import (
    DAY,
    ENT,
    INSTANT,
    T0,
    Site,
    day,
    figures,
    grant,
    pool,
    switch,
    terms,
    uses,
)

# -------------------------------------------------------------------- the order of consumption


def test_units_are_taken_earliest_end_first_and_the_endless_last() -> None:
    late = grant("late", 2, GrantExpiry.AT, at=T0 + 9 * DAY)
    soon = grant("soon", 2, GrantExpiry.AT, at=T0 + 3 * DAY)
    site = Site(terms(uses(2, grant("ever", 2), late, soon)))
    orders = []
    for _ in range(4):
        site.use(2)
        orders.append(dict(site.journal[-1]["draws"]))
    assert [{"grt_soon": 2}, {"grt_late": 2}, {"allowance": 2}, {"grt_ever": 2}] == orders


def test_of_the_same_end_the_older_grant_goes_first_then_the_smaller_id() -> None:
    end: dict[str, Any] = {"expiry": GrantExpiry.AT, "at": T0 + 9 * DAY}
    older = grant("z", 1, active_from=T0 - DAY, **end)
    site = Site(terms(uses(0, grant("b", 1, **end), grant("a", 1, **end), older)))
    site.use(3)
    assert ["grt_z", "grt_a", "grt_b"] == [lot for lot, _ in next(iter(site.requests.values())).draws]


def test_one_use_may_take_from_several_lots_and_tells_which() -> None:
    soon = grant("soon", 3, GrantExpiry.AT, at=T0 + DAY)
    site = Site(terms(uses(5, soon)))
    level = site.use(7, request_id="r")
    assert (1, 8, 7, 0) == figures(level)
    expected = {
        "kind": "Used",
        "lease_id": "one",
        "entitlement_id": ENT,
        "feature": "frames",
        "amount": 7,
        "over": 0,
        "draws": {"grt_soon": 3, "allowance": 4},
        "request_id": "r",
    }
    assert expected == site.journal[-1]


def test_an_answer_has_all_figures() -> None:
    soon = grant("soon", 3, GrantExpiry.AT, at=T0 + DAY)
    feature = replace(uses(5, soon), type=FeatureType.CREDIT, unit="cent", currency="USD")
    expected = FeatureLevel(
        key="frames",
        type=FeatureType.CREDIT,
        value=5,
        unit="cent",
        currency="USD",
        held=0,
        available=6,
        total=8,
        consumed=2,
        overage=0,
        ends_at=T0 + DAY,
    )
    site = Site(terms(feature))
    assert expected == site.use(2)
    assert expected == site.level()
    assert site.use(1).ends_at is None


# -------------------------------------------------------------------- expiry


@pytest.mark.parametrize(
    ("expiry", "changes", "ends"),
    [
        (GrantExpiry.NEVER, {}, None),
        (GrantExpiry.END_OF_CONTRACT, {}, "2027-11-27 07:00"),
        (GrantExpiry.END_OF_PERIOD, {}, "2027-11-27 07:00"),
        (GrantExpiry.CUSTOM, {"term": Term(unit=Unit.DAY, count=10)}, "2026-11-30 07:00"),
        (GrantExpiry.CUSTOM, {"term": Term(unit=Unit.WEEK, count=2)}, "2026-12-04 07:00"),
        (GrantExpiry.CUSTOM, {"term": Term(unit=Unit.MONTH, count=3)}, "2027-02-20 07:00"),
        (GrantExpiry.CUSTOM, {"term": Term(unit=Unit.YEAR, count=2)}, "2028-11-20 07:00"),
        (GrantExpiry.AT, {"at": day("2026-12-31 23:59:59")}, "2026-12-31 23:59:59"),
    ],
)
def test_a_grant_lasts_to_its_end_and_not_an_instant_longer(
    expiry: GrantExpiry, changes: Mapping[str, Any], ends: str | None
) -> None:
    bought = terms(
        uses(0, grant("a", 10, expiry, **changes)), expires_at=day("2027-11-20 07:00"), grace=timedelta(days=7)
    )
    site = Site(bought)
    site.use(4)
    end = T0 + timedelta(days=3_000) if ends is None else day(ends)
    site.at = end - INSTANT
    assert [] == site.sweep()
    assert 6 == site.level().available
    site.at = end
    lost = {"feature": "frames", "lot": "grt_a", "amount": 10, "consumed": 4, "lost": 6}
    expected = [] if ends is None else [{"kind": "GrantEnded", "entitlement_id": ENT, **lost}]
    assert (6 if ends is None else 0) == site.level().available
    assert expected == site.sweep()
    assert [] == site.sweep()


@pytest.mark.parametrize(
    ("starts", "active_from", "ends"),
    [
        ("2026-01-31", "2026-01-31", "2026-02-28"),
        ("2026-01-31", "2026-02-28", "2026-03-31"),
        ("2028-01-31", "2028-02-01", "2028-02-29"),
        ("2028-02-29", "2029-02-28", "2029-03-29"),
        ("2026-11-15", "2026-12-31", "2027-01-15"),
    ],
)
def test_a_grant_to_the_end_of_the_period_ends_with_its_month(starts: str, active_from: str, ends: str) -> None:
    given_at = day(active_from)
    one = grant("a", 10, GrantExpiry.END_OF_PERIOD, active_from=given_at)
    site = Site(terms(uses(0, one, reset=Reset.MONTHLY), starts_at=day(starts)), at=given_at)
    assert day(ends) == site.level().ends_at


def test_a_leap_days_grant_of_a_year_ends_on_the_28th() -> None:
    leap = day("2028-02-29 12:00")
    one = grant("a", 10, GrantExpiry.CUSTOM, active_from=leap, term=Term(unit=Unit.YEAR, count=1))
    site = Site(terms(uses(0, one)), at=leap)
    site.at = day("2029-02-28 12:00") - INSTANT
    assert 10 == site.level().available
    site.at += INSTANT
    assert 0 == site.level().available
    assert 1 == len(site.sweep())


def test_a_grant_of_the_future_is_not_there_before_its_begin() -> None:
    site = Site(terms(uses(0, grant("a", 10, active_from=T0 + DAY))))
    assert (0, 0, 0, 0) == figures(site.level())
    site.at = T0 + DAY - INSTANT
    assert "no_feature_units" == site.refused().code
    site.at += INSTANT
    assert (9, 10, 1, 0) == figures(site.use())


def test_a_grant_that_is_over_before_it_begins_was_never_there() -> None:
    site = Site(terms(uses(0, grant("a", 10, GrantExpiry.AT, at=T0 - DAY, active_from=T0 + DAY))))
    assert [10] == [line["lost"] for line in site.ended()]
    site.at = T0 + 2 * DAY
    assert 0 == site.level().available


def test_an_empty_grant_is_ended_too() -> None:
    site = Site(terms(uses(0, grant("a", 10, GrantExpiry.AT, at=T0 + DAY))))
    site.use(10)
    site.at = T0 + DAY
    assert [(10, 10, 0)] == [(line["amount"], line["consumed"], line["lost"]) for line in site.sweep()]


def test_what_is_over_is_ended_before_the_next_use_is_judged() -> None:
    site = Site(terms(uses(5, grant("a", 10, GrantExpiry.AT, at=T0 + DAY))))
    site.use(4)
    site.at = T0 + DAY
    site.use(1)
    assert ["GrantEnded", "Used"] == [line["kind"] for line in site.journal[-2:]]
    assert {"allowance": 1} == site.journal[-1]["draws"]


def test_units_that_are_over_are_not_there_although_nobody_has_swept() -> None:
    site = Site(terms(uses(0, grant("a", 10, GrantExpiry.AT, at=T0 + DAY))))
    site.at = T0 + DAY
    assert 0 == site.level().available
    assert ("frames", site.level()) == site.meters.short_of(ENT, [("frames", 1)], now=site.now)


def test_a_renewal_lengthens_what_lasts_as_long_as_the_contract() -> None:
    feature = uses(0, grant("a", 10, GrantExpiry.END_OF_CONTRACT))
    site = Site(terms(feature, expires_at=T0 + 10 * DAY))
    site.use(3)
    site.at = T0 + 9 * DAY
    site.update(terms(feature, expires_at=T0 + 375 * DAY))
    site.at = T0 + 20 * DAY
    assert [] == site.sweep()
    assert 7 == site.level().available


# -------------------------------------------------------------------- periods


def test_a_monthly_allowance_begins_anew_on_its_day_clamped_to_the_months_end() -> None:
    site = Site(terms(uses(10, reset=Reset.MONTHLY), starts_at=day("2027-12-31 12:00")), at=day("2027-12-31 12:00"))
    for begins in ("2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30", "2028-05-31"):
        site.at = day(f"{begins} 12:00")
        site.sweep()
        assert (10, 10, 0, 0) == figures(site.level())
        site.use(4)
        site.at -= INSTANT
    lots = [(line["lot"], line["consumed"], line["lost"]) for line in site.ended()]
    assert ("allowance 2028-02-29T12:00:00Z", 4, 6) == lots[2]
    assert 5 == len(lots)


def test_a_year_ends_like_any_month() -> None:
    site = Site(terms(uses(10, reset=Reset.MONTHLY), starts_at=day("2026-12-01")), at=day("2026-12-31"))
    site.use(9)
    site.at = day("2027-01-01") - INSTANT
    assert "2 (frame) of frames were asked for; 1 are left." == site.refused(2).detail
    assert "2027-01-01T00:00:00Z" in site.refused(2).remedy
    site.at += INSTANT
    assert (8, 10, 2, 0) == figures(site.use(2))


def test_what_is_carried_over_stands_beside_the_months_allowance_and_goes_after_it() -> None:
    carried = grant("carried", 5)
    site = Site(terms(uses(10, carried, reset=Reset.MONTHLY)))
    site.use(12)
    assert {"allowance 2026-11-20T07:00:00Z": 10, "grt_carried": 2} == site.used()
    site.at = day("2026-12-20 07:00")
    assert (13, 15, 2, 0) == figures(site.level())
    site.use(11)
    expected = {"allowance 2026-11-20T07:00:00Z": 10, "allowance 2026-12-20T07:00:00Z": 10, "grt_carried": 3}
    assert expected == site.used()


def test_three_months_off_are_told_by_the_period_last_in_force_only() -> None:
    site = Site(terms(uses(10, reset=Reset.MONTHLY)))
    site.use(3)
    site.at = day("2027-02-25")
    site.restart()
    lines = site.sweep()
    assert [("allowance 2026-11-20T07:00:00Z", 3, 7)] == [(one["lot"], one["consumed"], one["lost"]) for one in lines]
    assert (10, 10, 0, 0) == figures(site.level())
    site.at = day("2027-03-20 07:00")
    site.restart()
    assert ["allowance 2027-02-20T07:00:00Z"] == [one["lot"] for one in site.sweep()]


def test_an_unused_period_is_told_although_nobody_was_there_at_its_end() -> None:
    site = Site(terms(uses(10, reset=Reset.MONTHLY)))
    site.at = day("2027-02-25")
    site.restart()
    assert [("allowance 2026-11-20T07:00:00Z", 10)] == [(one["lot"], one["lost"]) for one in site.sweep()]


def test_before_its_start_a_meter_gives_nothing() -> None:
    site = Site(terms(uses(10, reset=Reset.MONTHLY), starts_at=T0 + DAY))
    assert (0, 0, 0, 0) == figures(site.level())
    site.at = T0 + DAY
    site.sweep()
    assert (10, 10, 0, 0) == figures(site.level())
    site.at = day("2026-12-21 07:00")
    assert ["allowance 2026-11-21T07:00:00Z"] == [one["lot"] for one in site.sweep()]


def test_months_are_counted_from_the_first_lease_where_that_begins_the_term() -> None:
    waiting = terms(uses(10, reset=Reset.MONTHLY), start=Start.ON_FIRST_LEASE, starts_at=None)
    site = Site(waiting)
    assert (10, 10, 0, 0) == figures(site.level())
    site.at = day("2026-12-24 18:00")
    assert site.meters.short_of(ENT, [("frames", 10)], now=site.now) is None
    site.update(waiting.begun(site.at))
    site.use(3)
    assert {"allowance 2026-12-24T18:00:00Z": 3} == site.used()


def test_the_calendars_last_month_has_no_end() -> None:
    site = Site(terms(uses(10, reset=Reset.MONTHLY), starts_at=day("9999-01-31")), at=day("9999-12-31 05:00"))
    assert site.use(3).ends_at is None
    site.restart()
    assert 7 == site.level().available


# -------------------------------------------------------------------- overdraft


@pytest.mark.parametrize(
    ("overdraft", "first_refused", "available"),
    [
        (Overdraft(), 21, 20),
        (Overdraft(type=OverdraftType.ABSOLUTE, value=5), 26, 25),
        (Overdraft(type=OverdraftType.PERCENTAGE, value=33), 27, 26),
        (Overdraft(type=OverdraftType.UNLIMITED), LARGEST + 1, None),
    ],
)
def test_overdraft_goes_as_far_as_agreed(overdraft: Overdraft, first_refused: int, available: int | None) -> None:
    site = Site(terms(uses(10, grant("a", 10), overdraft=overdraft)))
    assert available == site.level().available
    if first_refused <= LARGEST:
        denial = site.refused(first_refused)
        assert ("no_feature_units", "units", Cause.CAPACITY) == (denial.code, denial.rule, denial.cause)
        assert (first_refused, 0, available, "frames") == (denial.asked, denial.in_use, denial.limit, denial.feature)
    site.use(20)
    assert 0 == site.level().overage
    if first_refused > 21:
        level = site.use(2)
        assert (None if available is None else available - 22, 20, 22, 2) == figures(level)
        assert 2 == site.journal[-1]["over"]
        assert {"overdraft": 2} == site.journal[-1]["draws"]
    else:
        assert "no_feature_units" == site.refused().code


def test_post_paid_is_metered_without_a_limit_and_without_a_grant() -> None:
    site = Site(terms(uses(0, overdraft=Overdraft(type=OverdraftType.UNLIMITED))))
    assert (None, 0, 1_000, 1_000) == figures(site.use(1_000))
    assert (1_000, 1_000) == (site.journal[-1]["amount"], site.journal[-1]["over"])


def test_a_months_overage_is_the_months_own() -> None:
    site = Site(terms(uses(10, reset=Reset.MONTHLY, overdraft=Overdraft(type=OverdraftType.ABSOLUTE, value=5))))
    assert 5 == site.use(15).overage
    site.at = day("2026-12-20 07:00")
    assert (15, 10, 0, 0) == figures(site.level())
    site.use(11)
    used = site.used()
    assert (5, 1) == (used["overdraft 2026-11-20T07:00:00Z"], used["overdraft 2026-12-20T07:00:00Z"])


def test_the_overdraft_of_a_percentage_shrinks_with_what_is_granted() -> None:
    feature = uses(
        10, grant("a", 10, GrantExpiry.AT, at=T0 + DAY), overdraft=Overdraft(type=OverdraftType.PERCENTAGE, value=50)
    )
    site = Site(terms(feature))
    assert 30 == site.level().available
    site.at = T0 + DAY
    assert 15 == site.level().available


# -------------------------------------------------------------------- updates


def test_an_update_never_changes_what_was_used() -> None:
    site = Site(terms(uses(10, grant("a", 10))))
    site.use(6)
    lines = site.update(terms(uses(20, grant("a", 10), grant("b", 1))))
    assert [] == lines
    assert (25, 31, 6, 0) == figures(site.level())


def test_less_than_was_used_leaves_nothing_and_is_no_overdraft() -> None:
    site = Site(terms(uses(10)))
    site.use(6)
    site.update(terms(uses(4)))
    assert (0, 4, 6, 0) == figures(site.level())
    assert "no_feature_units" == site.refused().code
    site.update(terms(uses(0)))
    site.update(terms(uses(7)))
    assert (1, 7, 6, 0) == figures(site.level())


def test_a_grant_lowered_below_its_use_ends_without_a_loss() -> None:
    site = Site(terms(uses(0, grant("a", 10, GrantExpiry.AT, at=T0 + DAY))))
    site.use(6)
    site.update(terms(uses(0, grant("a", 4, GrantExpiry.AT, at=T0 + DAY))))
    site.at = T0 + DAY
    assert [(6, 6, 0)] == [(line["amount"], line["consumed"], line["lost"]) for line in site.sweep()]


def test_a_grant_that_disappears_is_lost_and_does_not_come_back() -> None:
    site = Site(terms(uses(5, grant("a", 10))))
    site.use(7)
    assert {"allowance": 5, "grt_a": 2} == site.used()
    lines = site.update(terms(uses(5)))
    assert [("grt_a", 10, 2, 8)] == [(one["lot"], one["amount"], one["consumed"], one["lost"]) for one in lines]
    assert (
        LotUse(entitlement_id=ENT, feature="frames", lot="grt_a", used=2, ended=True)
        == site.rows[ENT, "frames", "grt_a"]
    )
    site.update(terms(uses(5, grant("a", 10))))
    site.restart()
    assert 0 == site.level().available


def test_a_grant_that_disappears_with_its_feature_is_lost_the_allowances_count_waits() -> None:
    site = Site(terms(uses(5, grant("a", 10))))
    site.use(3)
    assert [("grt_a", 10)] == [(one["lot"], one["lost"]) for one in site.update(terms())]
    with pytest.raises(UnknownFeature):
        site.level()
    site.restart()
    site.update(terms(uses(5)))
    assert (2, 5, 3, 0) == figures(site.level())


def test_from_one_allowance_to_months_and_back_nothing_is_given_twice() -> None:
    site = Site(terms(uses(10)))
    site.use(6)
    site.update(terms(uses(10, reset=Reset.MONTHLY)))
    site.use(1)
    assert ["allowance 2026-11-20T07:00:00Z"] == [one["lot"] for one in site.update(terms(uses(10)))]
    assert (4, 10, 6, 0) == figures(site.level())


@pytest.mark.parametrize(
    ("starts", "month"),
    [
        (T0 - 40 * DAY, "2026-11-11T07:00:00Z"),
        (T0 + 5 * DAY, "2026-11-25T07:00:00Z"),
        (T0 + 5 * DAY + timedelta(hours=1), "2026-11-25T08:00:00Z"),
    ],
)
def test_another_start_gives_the_month_another_name_and_no_allowance_anew(starts: datetime, month: str) -> None:
    over = Overdraft(type=OverdraftType.ABSOLUTE, value=5)
    feature = uses(10, reset=Reset.MONTHLY, overdraft=over, undo_seconds=30 * 86_400)
    site = Site(terms(feature))
    site.use(6, request_id="r")
    site.use(6)
    site.at = T0 + 5 * DAY
    lines = site.update(terms(feature, starts_at=starts))
    told = [(one["lot"], one["into"], one["amount"], one["consumed"], one["lost"]) for one in lines]
    assert [
        ("allowance 2026-11-20T07:00:00Z", f"allowance {month}", 10, 10, 0),
        ("overdraft 2026-11-20T07:00:00Z", f"overdraft {month}", 2, 2, 0),
    ] == told
    assert {f"allowance {month}": 10, f"overdraft {month}": 2} == site.used()
    site.at = max(site.at, starts)
    assert (3, 10, 12, 2) == figures(site.level())
    site.restart()
    assert (9, 10, 6, 2) == figures(site.undo(6, "r"))


def test_a_start_that_is_moved_and_moved_back_loses_nothing() -> None:
    feature = uses(10, reset=Reset.MONTHLY)
    site = Site(terms(feature))
    site.use(6)
    site.at = T0 + 5 * DAY
    for starts in (T0 + DAY, T0):
        site.update(terms(feature, starts_at=starts))
        site.restart()
        assert (4, 10, 6, 0) == figures(site.level())
    site.at = day("2026-12-20 07:00")
    site.sweep()
    assert (10, 10, 0, 0) == figures(site.level())
    assert [("allowance 2026-11-20T07:00:00Z", 6, 4)] == [
        (one["lot"], one["consumed"], one["lost"]) for one in site.ended() if "into" not in one
    ]


def test_a_start_that_is_moved_while_the_terms_are_not_trusted_gives_nothing_anew() -> None:
    feature = uses(10, reset=Reset.MONTHLY)
    site = Site(terms(feature))
    site.use(6)
    site.distrust()
    site.update(terms(feature, starts_at=T0 - 3 * DAY))
    assert (4, 10, 6, 0) == figures(site.level())


def test_no_month_begins_after_the_end() -> None:
    site = Site(terms(uses(10, reset=Reset.MONTHLY), expires_at=T0 + 10 * DAY))
    for days in range(1, 400, 10):
        site.at = T0 + days * DAY
        site.sweep()
        if days > 40:
            assert (0, 0, 0, 0) == figures(site.level())
    assert ["allowance 2026-11-20T07:00:00Z"] == [one["lot"] for one in site.ended()]
    site.update(terms(uses(10, reset=Reset.MONTHLY), expires_at=T0 + 1_000 * DAY))
    assert (10, 10, 0, 0) == figures(site.level())


# -------------------------------------------------------------------- clocks


def test_a_clock_that_is_ahead_refuses_and_ends_nothing() -> None:
    month = uses(10, reset=Reset.MONTHLY, key="month")
    site = Site(terms(uses(0, grant("a", 10, GrantExpiry.AT, at=T0 + DAY)), month))
    site.ahead = 40 * DAY
    assert "no_feature_units" == site.refused().code
    assert "no_feature_units" == site.refused(key="month").code
    assert [] == site.sweep()
    site.ahead = timedelta(0)
    assert (9, 10, 1, 0) == figures(site.use())
    assert (9, 10, 1, 0) == figures(site.use(key="month"))


def test_a_clock_that_is_ahead_gives_nothing_early() -> None:
    site = Site(terms(uses(0, grant("a", 10, active_from=T0 + DAY))))
    site.ahead = 2 * DAY
    assert "no_feature_units" == site.refused().code


@pytest.mark.parametrize("again", [False, True])
def test_what_was_ended_stays_ended_when_the_vendor_sets_the_clock_back(again: object) -> None:
    month = uses(10, reset=Reset.MONTHLY, key="month")
    site = Site(terms(uses(0, grant("a", 10, GrantExpiry.AT, at=T0 + DAY)), month))
    site.use(3, key="month")
    site.at = T0 + 40 * DAY
    site.sweep()
    site.use(4, key="month")
    site.at = T0
    if again:
        site.restart()
    assert (0, 0, 0, 0) == figures(site.level())
    assert (0, 0, 0, 0) == figures(site.level("month"))
    assert [] == site.sweep()
    site.at = T0 + 40 * DAY
    assert [] == site.sweep()
    assert (6, 10, 4, 0) == figures(site.level("month"))


# -------------------------------------------------------------------- amounts at their limits


def test_no_figure_is_larger_than_an_exact_integer() -> None:
    grants = [grant(f"{number}", MOST_UNITS) for number in range(20)]
    over = Overdraft(type=OverdraftType.PERCENTAGE, value=MOST_UNITS)
    site = Site(terms(uses(MOST_UNITS, *grants, overdraft=over), pool(MOST_UNITS, *grants, overdraft=over)))
    for key, act in (("frames", FeatureAct.USE), ("render", FeatureAct.CHECKOUT)):
        level = site.act(key, MOST_UNITS, act=act)
        assert isinstance(level, FeatureLevel)
        assert LARGEST >= (level.available or 0)
        assert LARGEST == level.total


def test_post_paid_use_stops_before_it_is_no_exact_integer() -> None:
    site = Site(terms(uses(0, overdraft=Overdraft(type=OverdraftType.UNLIMITED))))
    for _ in range(9):
        site.use(MOST_UNITS)
    assert "no_feature_units" == site.refused(MOST_UNITS).code
    site.use(LARGEST - 9 * MOST_UNITS)
    assert LARGEST == site.level().overage
    assert "no_feature_units" == site.refused().code


# -------------------------------------------------------------------- sweep and final word


def test_a_sweep_is_bounded_and_goes_on_where_it_was() -> None:
    features = [uses(0, grant("a", 1, GrantExpiry.AT, at=T0 + DAY), key=f"f{number}") for number in range(9)]
    site = Site(terms(*features))
    site.sweep()
    site.at = T0 + DAY
    assert site.meters.sweep(site.now, limit=4)
    assert 2 == len(site.commit())
    site.sweep(limit=1)
    assert 9 == len(site.ended())
    assert not site.meters.sweep(site.now, limit=1)


def test_a_meter_is_looked_at_once_however_often_its_terms_come() -> None:
    site = Site(terms(uses(10, reset=Reset.MONTHLY), uses(5, key="shots", reset=Reset.MONTHLY)))
    for _ in range(100):
        site.update(site.entitlement)
        site.sweep()
    assert 2 * 2 >= len(site.meters._due)  # noqa: SLF001 - nothing else shows what waits
    site.at = day("2026-12-20 07:00")
    assert ["frames", "shots"] == [line["feature"] for line in site.sweep()]


@pytest.mark.parametrize("restarted", [False, True])
def test_the_final_word_tells_what_the_last_terms_name_no_more(restarted: object) -> None:
    site = Site(terms(replace(uses(10, grant("a", 2)), type=FeatureType.CREDIT, unit="cent", currency="USD"), pool(4)))
    site.use(7)
    site.check_out(3)
    site.update(terms(switch()))
    if restarted:
        site.restart()
    final = [(one["feature"], one["type"], one["unit"]) for one in site.meters.final(ENT, now=site.now)]
    known = [("frames", "credit", "cent"), ("render", "element_pool", None)]
    unknown = [("frames", "usage_count", None), ("render", "element_pool", None)]
    assert [("simulate", "bool", None), *(unknown if restarted else known)] == final
    by_name = {str(one["feature"]): one for one in site.meters.final(ENT, now=site.now)}
    assert (7, 0, 3) == (by_name["frames"]["consumed"], by_name["frames"]["in_use"], by_name["render"]["in_use"])
    told = by_name["frames"]["lots"]
    assert isinstance(told, list)
    lots = {lot["lot"]: (lot["used"], lot["ended"]) for lot in told}
    assert {"allowance": (7, False), "grt_a": (0, True)} == lots
    ids: dict[str, Any] = {f"{name}_id": f"{name[:3]}_{'A' * 22}" for name in ("entitlement", "session")}
    rest: dict[str, Any] = {"up_to_seq": 1, "head": "0" * 64, "borrowed_until": None, "made_at": T0}
    key = SigningKey.generate()
    assert make_return(server_id=f"lls_{'A' * 22}", **ids, **rest, meters=list(by_name.values()), key=key)


def test_the_final_word_tells_every_lot() -> None:
    over = Overdraft(type=OverdraftType.ABSOLUTE, value=5)
    site = Site(
        terms(
            uses(5, grant("a", 4, GrantExpiry.AT, at=T0 + DAY), overdraft=over),
            pool(2),
            switch(),
            switch(key="plain", tracked=False),
        )
    )
    site.use(3)
    site.at = T0 + DAY
    site.use(7)
    site.check_out(1)
    site.check_out(key="simulate")
    lots = [
        {"lot": "grt_a", "amount": 4, "used": 3, "ended": True},
        {"lot": "allowance", "amount": 5, "used": 5, "ended": False},
        {"lot": "overdraft", "amount": 2, "used": 2, "ended": False},
    ]
    final = site.meters.final(ENT, now=site.now)
    by_name = {one["feature"]: one for one in final}
    frames = by_name["frames"]
    assert sorted(lots, key=str) == sorted(frames["lots"], key=str)  # type: ignore[call-overload]
    assert ("usage_count", "frame", 10, 2, 0) == tuple(
        frames[name] for name in ("type", "unit", "consumed", "overage", "in_use")
    )
    assert (1, 1) == (by_name["render"]["in_use"], by_name["simulate"]["in_use"])
    assert ["frames", "render", "simulate"] == list(by_name)
    site.restart()
    assert final == site.meters.final(ENT, now=site.now)
