"""What was given, what was taken and what is left: at every instant, after every restart, and in the journal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lls.faults import AlreadyUndone, BadRequest, NotHeld, RequestIdTaken, UndoTooLate, UnknownFeature
from lls.licensing.calendar import Term, Unit
from lls.licensing.changes import AnsweredRequest, Batch, FeatureAct, LotUse
from lls.licensing.denial import Cause, Denial
from lls.licensing.entitlement import (
    MOST_UNITS,
    Concurrency,
    Entitlement,
    Feature,
    FeatureType,
    Grant,
    GrantExpiry,
    LicenseType,
    Overdraft,
    OverdraftType,
    Reset,
    Sharing,
    Start,
    Status,
)
from lls.licensing.fields import LARGEST
from lls.licensing.instant import Now
from lls.licensing.journal import Head
from lls.licensing.lease import Holder, Lease
from lls.licensing.meters import FeatureLevel, Meters
from lls.licensing.posting import Posting

T0 = datetime(2026, 11, 20, 7, 0, tzinfo=UTC)
ENT = "ent_cad"
INSTANT = timedelta(microseconds=1)
DAY = timedelta(days=1)


def now_at(at: datetime, *, ahead: timedelta = timedelta(0)) -> Now:
    """Guarded time; ``ahead`` is by how much the raw clock was put forward."""
    return Now(wall=at, strict=at + ahead, elapsed=(at - T0).total_seconds())


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def grant(name: str, amount: int = 10, expiry: GrantExpiry = GrantExpiry.NEVER, **changes: Any) -> Grant:
    return replace(Grant(grant_id=f"grt_{name}", amount=amount, active_from=T0, expiry=expiry), **changes)


def uses(value: int = 0, *grants: Grant, key: str = "frames", **changes: Any) -> Feature:
    made = Feature(key=key, type=FeatureType.USAGE_COUNT, value=value, unit="frame", grants=grants)
    return replace(made, **changes)


def pool(value: int = 0, *grants: Grant, key: str = "render", **changes: Any) -> Feature:
    return replace(Feature(key=key, type=FeatureType.ELEMENT_POOL, value=value, grants=grants), **changes)


def switch(value: int = 1, *, key: str = "simulate", tracked: bool = True) -> Feature:
    return Feature(key=key, type=FeatureType.BOOL, value=value, tracked=tracked)


def terms(*features: Feature, **changes: Any) -> Entitlement:
    made = Entitlement(
        entitlement_id=ENT,
        group_id="egr_",
        session_id="ses_",
        sequence=1,
        order_ref="SO-1",
        activation_codes=frozenset(),
        product="cad",
        product_name="CAD",
        sku="CAD",
        offering="CAD",
        edition=None,
        license_type=LicenseType.SUBSCRIPTION,
        start=Start.FIXED,
        status=Status.ACTIVE,
        starts_at=T0,
        expires_at=None,
        grace=timedelta(0),
        maintenance_expires_on=None,
        concurrency=Concurrency.CONCURRENT,
        max_version=None,
        seats=50,
        overdraft=Overdraft(),
        sharing=Sharing.NONE,
        lease_seconds=600,
        linger_seconds=0,
        features=features,
        attributes={},
    )
    return replace(made, **changes)


def lease(name: str = "one", **features: int) -> Lease:
    return Lease(
        lease_id=name,
        secret=b"",
        content=b"",
        product="cad",
        entitlement_id=ENT,
        holder=Holder(seat_id="alpha"),
        seats=1,
        ttl=600,
        overdraft=False,
        granted_at=T0,
        features=features,
    )


class Site:
    """The meters of a server with a store that keeps rows, and a journal."""

    def __init__(self, entitlement: Entitlement, *, at: datetime = T0, ahead: timedelta = timedelta(0)) -> None:
        self.rows: dict[tuple[str, str, str], LotUse] = {}
        self.requests: dict[tuple[str, str], AnsweredRequest] = {}
        self.journal: list[dict[str, Any]] = []
        self.forgotten: list[datetime] = []
        self.leases: dict[str, Lease] = {}
        self.entitlement = entitlement
        self.at, self.ahead, self.calls = at, ahead, 0
        self.posting = Posting(Head(), {}, commit_to=str)
        self.meters = Meters(self.posting)
        self.meters.open(entitlement, now=self.now)
        self.commit()

    @property
    def now(self) -> Now:
        return now_at(self.at, ahead=self.ahead)

    def commit(self) -> list[dict[str, Any]]:
        """The store takes the group; its lines."""
        batch: Batch = self.posting.batch
        for key, row in batch.lots.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        self.requests.update(batch.requests)
        if batch.forget_requests_before is not None:
            self.forgotten.append(batch.forget_requests_before)
            kept = {key: one for key, one in self.requests.items() if one.at >= batch.forget_requests_before}
            self.requests = kept
        lines = [{"kind": str(one.kind), **json.loads(one.line)["data"]} for one in batch.entries]
        self.journal += lines
        self.posting.settle()
        self.meters.settle()
        return lines

    def restart(self) -> None:
        """Nothing but rows and leases comes back."""
        kept = sorted(self.requests.values(), key=lambda one: one.at)
        self.meters = Meters(self.posting, lots=self.rows.values(), requests=kept)
        self.meters.open(self.entitlement, now=None)
        for one in self.leases.values():
            self.meters.add(one)
        self.meters.resume(self.now)

    def update(self, entitlement: Entitlement) -> list[dict[str, Any]]:
        self.entitlement = entitlement
        self.meters.open(entitlement, now=self.now)
        return self.commit()

    def sweep(self, *, limit: int = 2_000) -> list[dict[str, Any]]:
        while self.meters.sweep(self.now, limit=limit):
            pass
        return self.commit()

    def act(
        self,
        key: str,
        amount: int = 1,
        *,
        act: FeatureAct = FeatureAct.USE,
        request_id: str | None = None,
        by: str = "one",
    ) -> FeatureLevel | Denial:
        self.calls += 1
        held = self.leases.setdefault(by, lease(by))
        did = self.meters.act(
            held, key, act=act, amount=amount, request_id=request_id or f"call {self.calls}", now=self.now
        )
        if isinstance(did, Denial):
            return did
        self.leases[by] = replace(held, features=did[0])
        self.commit()
        return did[1]

    def use(self, amount: int = 1, *, key: str = "frames", **call: Any) -> FeatureLevel:
        """A use that is expected to be granted."""
        level = self.act(key, amount, **call)
        assert isinstance(level, FeatureLevel)
        return level

    def refused(self, amount: int = 1, *, key: str = "frames", **call: Any) -> Denial:
        denial = self.act(key, amount, **call)
        assert isinstance(denial, Denial)
        assert not self.posting.batch.entries or not self.posting.batch.requests
        return denial

    def check_out(self, amount: int = 1, *, key: str = "render", **call: Any) -> FeatureLevel | Denial:
        return self.act(key, amount, act=FeatureAct.CHECKOUT, **call)

    def give_back(self, amount: int = 1, *, key: str = "render", **call: Any) -> FeatureLevel | Denial:
        return self.act(key, amount, act=FeatureAct.RETURN, **call)

    def undo(self, amount: int, request_id: str, *, key: str = "frames", by: str = "one") -> FeatureLevel:
        level = self.meters.undo(self.leases[by], key, amount=amount, request_id=request_id, now=self.now)
        self.commit()
        return level

    def level(self, key: str = "frames", *, committed: bool = True) -> FeatureLevel:
        return self.meters.level(None, ENT, key, now=self.now, committed=committed)

    def used(self, key: str = "frames") -> dict[str, int]:
        """By lot, as the store has it."""
        return {row.lot: row.used for row in self.rows.values() if row.feature == key and row.used}

    def ended(self) -> list[dict[str, Any]]:
        return [line for line in self.journal if line["kind"] == "GrantEnded"]


def figures(level: FeatureLevel) -> tuple[int | None, int | None, int, int]:
    return level.available, level.total, level.consumed, level.overage


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


def test_another_start_begins_other_months() -> None:
    feature = uses(10, reset=Reset.MONTHLY)
    site = Site(terms(feature))
    site.use(6)
    site.at = T0 + 5 * DAY
    lines = site.update(terms(feature, starts_at=T0 + 5 * DAY))
    assert [("allowance 2026-11-20T07:00:00Z", 6, 4)] == [(one["lot"], one["consumed"], one["lost"]) for one in lines]
    assert (10, 10, 0, 0) == figures(site.level())


# -------------------------------------------------------------------- requests


def test_the_same_call_gets_the_same_answer_and_takes_nothing() -> None:
    site = Site(terms(uses(10)))
    first = site.use(3, request_id="r")
    site.use(1)
    lines = len(site.journal)
    again = site.use(3, request_id="r")
    assert (first.available, first.total, first.held) == (again.available, again.total, again.held)
    assert lines == len(site.journal)
    assert 4 == site.level().consumed


@pytest.mark.parametrize(
    ("key", "amount", "act"),
    [
        ("frames", 4, FeatureAct.USE),
        ("shots", 3, FeatureAct.USE),
        ("render", 3, FeatureAct.CHECKOUT),
        ("frames", 3, FeatureAct.RETURN),
    ],
)
def test_a_request_id_with_other_content_is_refused(key: str, amount: int, act: FeatureAct) -> None:
    site = Site(terms(uses(10), uses(10, key="shots"), pool(10)))
    site.use(3, request_id="r")
    with pytest.raises(RequestIdTaken):
        site.act(key, amount, act=act, request_id="r")


def test_request_ids_belong_to_their_lease() -> None:
    site = Site(terms(uses(10)))
    site.use(3, request_id="r")
    assert 7 == site.use(4, request_id="r", by="two").consumed


def test_a_request_is_known_after_a_restart_and_after_its_lease() -> None:
    site = Site(terms(uses(10), pool(4)))
    first = site.use(3, request_id="r")
    held = site.check_out(2, request_id="s")
    site.restart()
    assert first == site.use(3, request_id="r")
    assert held == site.check_out(2, request_id="s")
    assert 2 == site.level("render").total - (site.level("render").available or 0)  # type: ignore[operator]
    known = site.meters.answered("one", "r")
    assert known is not None
    assert first == site.meters.repeated(known, now=site.now)


def test_a_refusal_is_not_kept() -> None:
    site = Site(terms(uses(10)))
    site.refused(11, request_id="r")
    assert site.meters.answered("one", "r") is None
    assert 10 == site.use(10, request_id="r").consumed


def test_a_request_is_forgotten_after_25_hours_and_not_before() -> None:
    site = Site(terms(uses(10)))
    site.use(3, request_id="r")
    site.at = T0 + timedelta(hours=25)
    site.meters.forget(site.now)
    assert site.meters.answered("one", "r") is not None
    site.at += timedelta(minutes=2)
    site.meters.forget(site.now)
    site.commit()
    assert site.meters.answered("one", "r") is None
    assert {} == site.requests


def test_a_use_that_may_be_undone_is_kept_as_long_as_it_may() -> None:
    site = Site(terms(uses(10, undo_seconds=10 * 86_400), uses(10, key="shots")))
    site.use(3, key="shots", request_id="short")
    site.at += timedelta(minutes=1)
    site.use(3, request_id="long")
    site.at = T0 + 9 * DAY
    site.use(1, key="shots", request_id="new")
    site.meters.forget(site.now)
    site.commit()
    assert {"long", "new"} == {request_id for _, request_id in site.requests}
    site.restart()
    assert 0 == site.undo(3, "long").consumed
    site.at = T0 + 11 * DAY
    site.meters.forget(site.now)
    site.commit()
    assert {} == site.requests


def test_requests_of_a_future_that_was_taken_back_do_not_stay_for_ever() -> None:
    site = Site(terms(uses(10)), at=T0 + 100 * DAY)
    site.use(1, request_id="future")
    site.at = T0
    site.use(1, request_id="present")
    site.meters.forget(now_at(T0))
    assert site.meters.answered("one", "future") is not None
    site.meters.forget(now_at(T0 + 2 * DAY))
    assert site.meters.answered("one", "future") is None
    assert site.meters.answered("one", "present") is None


# -------------------------------------------------------------------- undo


def test_an_undo_gives_units_back_to_the_very_lots() -> None:
    soon = grant("soon", 3, GrantExpiry.AT, at=T0 + DAY)
    feature = uses(5, soon, undo_seconds=60, overdraft=Overdraft(type=OverdraftType.ABSOLUTE, value=5))
    site = Site(terms(feature))
    site.use(10, request_id="r")
    site.at += timedelta(seconds=60) - INSTANT
    assert (13, 8, 0, 0) == figures(site.undo(10, "r"))
    assert {} == site.used()
    line = site.journal[-1]
    assert ("Undone", 10, 2) == (line["kind"], line["amount"], line["over"])
    assert {"grt_soon": 3, "allowance": 5, "overdraft": 2} == line["draws"]


@pytest.mark.parametrize(
    ("undo_seconds", "later", "fault"),
    [
        (60, timedelta(seconds=60), UndoTooLate),
        (60, timedelta(days=1), UndoTooLate),
        (0, timedelta(0), UndoTooLate),
    ],
)
def test_after_its_time_a_use_stays(undo_seconds: int, later: timedelta, fault: type[Exception]) -> None:
    site = Site(terms(uses(5, undo_seconds=undo_seconds)))
    site.use(2, request_id="r")
    site.at += later
    with pytest.raises(fault):
        site.undo(2, "r")
    assert 2 == site.level().consumed


def test_a_use_is_undone_once_also_across_a_restart() -> None:
    site = Site(terms(uses(5, undo_seconds=60)))
    site.use(2, request_id="r")
    site.undo(2, "r")
    with pytest.raises(AlreadyUndone):
        site.undo(2, "r")
    site.restart()
    with pytest.raises(AlreadyUndone):
        site.undo(2, "r")
    assert 5 == site.level().available


def test_only_a_use_of_this_lease_feature_and_amount_is_undone() -> None:
    site = Site(terms(uses(5, undo_seconds=60), uses(5, key="shots", undo_seconds=60), pool(5)))
    site.use(2, request_id="r")
    site.check_out(1, request_id="c")
    site.use(1, by="two")
    with pytest.raises(NotHeld):
        site.undo(2, "never heard of")
    with pytest.raises(NotHeld):
        site.undo(2, "r", by="two")
    with pytest.raises(RequestIdTaken):
        site.undo(1, "r")
    with pytest.raises(RequestIdTaken):
        site.undo(2, "r", key="shots")
    with pytest.raises(RequestIdTaken):
        site.undo(1, "c")
    with pytest.raises(BadRequest):
        site.undo(1, "c", key="render")
    with pytest.raises(UnknownFeature):
        site.undo(1, "r", key="nothing")
    assert (2, 3) == (site.used("frames")["allowance"] - 1, site.level().consumed)


def test_what_comes_back_to_an_ended_lot_is_lost_with_it() -> None:
    site = Site(terms(uses(5, grant("a", 4, GrantExpiry.AT, at=T0 + DAY), undo_seconds=7 * 86_400)))
    site.use(6, request_id="r")
    site.at = T0 + DAY
    site.sweep()
    assert (5, 5, 0, 0) == figures(site.undo(6, "r"))
    assert (
        LotUse(entitlement_id=ENT, feature="frames", lot="grt_a", used=0, ended=True)
        == site.rows[ENT, "frames", "grt_a"]
    )


def test_a_clock_that_is_ahead_undoes_nothing_that_is_late_by_it() -> None:
    site = Site(terms(uses(5, undo_seconds=60)))
    site.use(2, request_id="r")
    site.ahead = DAY
    with pytest.raises(UndoTooLate):
        site.undo(2, "r")
    site.ahead = timedelta(0)
    assert 0 == site.undo(2, "r").consumed


def test_a_use_of_a_future_that_was_taken_back_is_not_undone() -> None:
    site = Site(terms(uses(5, undo_seconds=60), starts_at=T0 - 400 * DAY))
    site.use(2, request_id="r")
    site.at = T0 - 365 * DAY
    with pytest.raises(UndoTooLate):
        site.undo(2, "r")


# -------------------------------------------------------------------- the vendor's reset


def test_a_reset_begins_all_lots_in_force_anew() -> None:
    over = Overdraft(type=OverdraftType.ABSOLUTE, value=9)
    ended = grant("ended", 2, GrantExpiry.AT, at=T0 + DAY)
    site = Site(terms(uses(5, grant("a", 4), ended, overdraft=over, undo_seconds=10**6), uses(5, key="shots"), pool(3)))
    site.use(13, request_id="r")
    site.use(1, key="shots")
    site.at = T0 + DAY
    told = site.meters.reset(ENT, "frames", now=site.now)
    site.commit()
    assert [{"entitlement_id": ENT, "feature": "frames", "consumed": 11, "overage": 2}] == told
    assert (18, 9, 0, 0) == figures(site.level())
    assert {"grt_ended": 2} == site.used()
    assert 1 == site.level("shots").consumed
    with pytest.raises(UndoTooLate):
        site.undo(13, "r")
    site.restart()
    with pytest.raises(UndoTooLate):
        site.undo(13, "r")
    assert 18 == site.level().available


def test_a_reset_of_all_features_leaves_what_is_held() -> None:
    site = Site(terms(uses(5), uses(5, key="shots"), pool(3), switch()))
    site.use(2)
    site.check_out(3)
    told = site.meters.reset(ENT, None, now=site.now)
    assert [("frames", 2), ("shots", 0)] == [(one["feature"], one["consumed"]) for one in told]
    assert 0 == site.level("render", committed=False).available
    assert [] == site.meters.reset("ent_unknown", None, now=site.now)
    assert [] == site.meters.reset(ENT, "render", now=site.now)


def test_after_a_reset_a_use_may_be_undone_again() -> None:
    site = Site(terms(uses(5, undo_seconds=60)))
    site.use(2)
    site.meters.reset(ENT, None, now=site.now)
    site.use(3, request_id="new")
    assert 0 == site.undo(3, "new").consumed


# -------------------------------------------------------------------- element pools and switches


def test_a_pool_is_held_and_comes_back() -> None:
    site = Site(terms(pool(4, grant("a", 2))))
    level = site.check_out(5, request_id="r")
    assert isinstance(level, FeatureLevel)
    assert (5, 1, 6, 0) == (level.held, level.available, level.total, level.consumed)
    moved = {"lease_id": "one", "entitlement_id": ENT, "feature": "render", "amount": 5, "request_id": "r"}
    assert {"kind": "FeatureCheckedOut", **moved} == site.journal[-1]
    denial = site.check_out(2, by="two")
    assert isinstance(denial, Denial)
    assert ("no_feature_units", 2, 5, 6) == (denial.code, denial.asked, denial.in_use, denial.limit)
    back = site.give_back(5)
    assert isinstance(back, FeatureLevel)
    assert (0, 6) == (back.held, back.available)
    assert {} == site.leases["one"].features
    assert "FeatureReturned" == site.journal[-1]["kind"]


def test_more_than_is_held_does_not_come_back() -> None:
    site = Site(terms(pool(4)))
    site.check_out(2)
    with pytest.raises(NotHeld):
        site.give_back(3)
    with pytest.raises(NotHeld):
        site.give_back(1, by="two")
    assert 2 == site.level("render").available


def test_a_pool_goes_over_by_an_update_and_comes_back_and_both_are_told_once() -> None:
    site = Site(terms(pool(4)))
    site.check_out(4)
    (line,) = site.update(terms(pool(2)))
    over = {"entitlement_id": ENT, "feature": "render", "seats": 2, "in_use": 4, "over": 2}
    assert {"kind": "Overdraft", **over} == line
    assert 0 == site.level("render").available
    site.restart()
    assert [] == site.sweep()
    site.give_back(1)
    assert "FeatureReturned" == site.journal[-1]["kind"]
    site.give_back(1)
    assert {"kind": "Overdraft", **over, "in_use": 2, "over": 0} == site.journal[-1]


def test_a_pool_goes_over_when_its_grant_ends() -> None:
    site = Site(terms(pool(1, grant("a", 2, GrantExpiry.AT, at=T0 + DAY))))
    site.check_out(3)
    site.at = T0 + DAY
    lines = site.sweep()
    assert ["GrantEnded", "Overdraft"] == [line["kind"] for line in lines]
    assert (2, 0, 2) == (lines[0]["amount"], lines[0]["consumed"], lines[0]["lost"])
    assert {"render": 3} == site.leases["one"].features


def test_a_pool_of_the_future_brings_back_what_was_over() -> None:
    site = Site(terms(pool(3)))
    site.check_out(3)
    site.update(terms(pool(1, grant("a", 2, active_from=T0 + DAY))))
    site.at = T0 + DAY
    assert [("Overdraft", 0)] == [(line["kind"], line["over"]) for line in site.sweep()]


def test_a_pool_may_have_overdraft() -> None:
    site = Site(terms(pool(2, overdraft=Overdraft(type=OverdraftType.ABSOLUTE, value=1))))
    site.check_out(3)
    assert [("FeatureCheckedOut", None), ("Overdraft", 1)] == [(one["kind"], one.get("over")) for one in site.journal]
    assert isinstance(site.check_out(1, by="two"), Denial)
    free = Site(terms(pool(2, overdraft=Overdraft(type=OverdraftType.UNLIMITED))))
    level = free.check_out(1_000)
    assert isinstance(level, FeatureLevel)
    assert (None, 2, 1_000) == (level.available, level.total, level.held)


def test_a_tracked_switch_is_held_once() -> None:
    site = Site(terms(switch()))
    level = site.check_out(key="simulate")
    assert isinstance(level, FeatureLevel)
    assert (1, None, None) == (level.held, level.available, level.total)
    with pytest.raises(BadRequest):
        site.check_out(key="simulate")
    back = site.give_back(key="simulate")
    assert isinstance(back, FeatureLevel)
    assert 0 == back.held
    with pytest.raises(NotHeld):
        site.give_back(key="simulate")
    assert ["FeatureCheckedOut", "FeatureReturned"] == [line["kind"] for line in site.journal]


@pytest.mark.parametrize(
    ("key", "amount", "act", "fault"),
    [
        ("nothing", 1, FeatureAct.USE, UnknownFeature),
        ("frames", 0, FeatureAct.USE, BadRequest),
        ("frames", -1, FeatureAct.USE, BadRequest),
        ("frames", MOST_UNITS + 1, FeatureAct.USE, BadRequest),
        ("frames", 2**53, FeatureAct.USE, BadRequest),
        ("frames", 2**63, FeatureAct.USE, BadRequest),
        ("frames", 1, FeatureAct.CHECKOUT, BadRequest),
        ("frames", 1, FeatureAct.RETURN, BadRequest),
        ("render", 1, FeatureAct.USE, BadRequest),
        ("render", 0, FeatureAct.CHECKOUT, BadRequest),
        ("render", -1, FeatureAct.RETURN, BadRequest),
        ("simulate", 1, FeatureAct.USE, BadRequest),
        ("simulate", 2, FeatureAct.CHECKOUT, BadRequest),
        ("plain", 1, FeatureAct.CHECKOUT, BadRequest),
        ("plain", 1, FeatureAct.RETURN, BadRequest),
        ("plain", 1, FeatureAct.USE, BadRequest),
    ],
)
def test_what_does_not_fit_the_feature_is_refused_and_changes_nothing(
    key: str, amount: int, act: FeatureAct, fault: type[Exception]
) -> None:
    site = Site(terms(uses(5), pool(5), switch(), switch(key="plain", tracked=False)))
    with pytest.raises(fault):
        site.act(key, amount, act=act)
    assert [] == site.journal
    assert {} == site.requests


@pytest.mark.parametrize("tracked", [True, False])
def test_a_switch_that_is_off_was_not_bought(tracked: object) -> None:
    denial = Site(terms(switch(0, tracked=bool(tracked)))).check_out(key="simulate")
    assert isinstance(denial, Denial)
    assert ("not_entitled", "simulate", Cause.TERMS) == (denial.code, denial.feature, denial.cause)


def test_a_lease_that_ends_frees_what_it_holds() -> None:
    site = Site(terms(pool(4), switch()))
    one = lease("one", render=3, simulate=1)
    site.meters.add(one)
    assert 1 == site.level("render", committed=False).available
    site.meters.remove(one)
    assert 4 == site.level("render", committed=False).available


# -------------------------------------------------------------------- a lease's checkout


def test_a_checkouts_features_are_held_or_used_and_told() -> None:
    site = Site(
        terms(uses(5, undo_seconds=60), pool(4), switch(), switch(key="plain", tracked=False), uses(5, key="shots"))
    )
    wanted = (("frames", 2), ("plain", 1), ("render", 3), ("shots", 1), ("simulate", 1))
    assert site.meters.short_of(ENT, wanted, now=site.now) is None
    held = site.meters.hold_at_grant(ENT, wanted)
    assert {"render": 3, "simulate": 1} == held
    one = site.leases["one"] = lease("one", **held)
    site.meters.add(one)
    site.meters.take_at_grant(one, wanted, now=site.now)
    lines = site.commit()
    expected = [
        ("FeatureCheckedOut", "render", 3, None),
        ("FeatureCheckedOut", "simulate", 1, None),
        ("Used", "frames", 2, "one"),
        ("Used", "shots", 1, "one"),
    ]
    assert expected == [(line["kind"], line["feature"], line["amount"], line["request_id"]) for line in lines]
    assert (1, 3, 4) == (site.level("render").available, site.level().available, site.level("shots").available)
    assert FeatureAct.USE is (site.meters.answered("one", "one") or pytest.fail("not kept")).act
    levels = site.meters.levels(one, ENT, now=site.now, committed=True)
    assert [("frames", 0), ("render", 3), ("simulate", 1), ("plain", 0), ("shots", 0)] == [
        (level.key, level.held) for level in levels
    ]
    assert 0 == site.undo(2, "one").consumed
    with pytest.raises(UndoTooLate):
        site.undo(1, "one", key="shots")


def test_the_first_feature_that_is_short_is_named() -> None:
    site = Site(terms(uses(5), pool(4), switch(), uses(5, key="shots")))
    short = site.meters.short_of(ENT, (("frames", 5), ("simulate", 1), ("render", 5), ("shots", 6)), now=site.now)
    assert short is not None
    assert ("render", 4) == (short[0], short[1].available)
    assert site.meters.short_of(ENT, (("frames", 3), ("frames", 3)), now=site.now) is not None
    assert site.meters.short_of("ent_unknown", (("frames", 3),), now=site.now) is None


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


# -------------------------------------------------------------------- the group in flight


def test_reads_show_the_last_commit_and_nothing_of_the_group_in_flight() -> None:
    site = Site(terms(uses(10), pool(4)))
    site.use(1)
    before = site.level(), site.level("render")
    one = lease("two", render=2)
    site.meters.add(one)
    site.meters.act(one, "frames", act=FeatureAct.USE, amount=5, request_id="r", now=site.now)
    site.meters.act(one, "render", act=FeatureAct.CHECKOUT, amount=1, request_id="s", now=site.now)
    site.meters.open(terms(uses(20), pool(9), switch()), now=site.now)
    assert before == (site.level(), site.level("render"))
    assert ["frames", "render"] == [one.key for one in site.meters.levels(None, ENT, now=site.now, committed=True)]
    assert (14, 20, 6, 0) == figures(site.level(committed=False))
    assert 6 == site.level("render", committed=False).available
    site.commit()
    assert 14 == site.level().available
    assert 6 == site.level("render").available


def test_after_a_failed_commit_reads_go_on_with_the_last_one() -> None:
    site = Site(terms(uses(10), pool(4)))
    site.use(1, request_id="old")
    before = site.meters.levels(None, ENT, now=site.now, committed=True)
    site.meters.act(lease(), "frames", act=FeatureAct.USE, amount=5, request_id="r", now=site.now)
    site.meters.reset(ENT, None, now=site.now)
    site.meters.open(terms(uses(20), switch()), now=site.now)
    site.meters.put_back(ENT, site.entitlement)
    site.meters.abandon()
    assert before == site.meters.levels(None, ENT, now=site.now, committed=True)
    assert site.meters.answered("one", "r") is None
    known = site.meters.answered("one", "old")
    assert known is not None
    assert (("allowance", 1),) == known.draws


def test_an_entitlement_that_was_never_committed_is_not_shown() -> None:
    site = Site(terms(uses(10)))
    site.meters.open(terms(uses(1), entitlement_id="ent_new"), now=site.now)
    assert [] == site.meters.levels(None, "ent_new", now=site.now, committed=True)
    site.meters.abandon()
    assert {} == site.meters.of("ent_new")
    assert [] == site.meters.levels(None, "ent_new", now=site.now, committed=True)


@pytest.mark.parametrize("committed", [True, False])
def test_what_went_back_leaves_no_row_unless_the_commit_fails(committed: object) -> None:
    site = Site(terms(uses(10, grant("a", 3)), pool(4)))
    site.use(2)
    site.check_out(1)
    before = site.meters.levels(None, ENT, now=site.now, committed=True)
    site.meters.close(ENT)
    assert {} == site.meters.of(ENT)
    assert before == site.meters.levels(None, ENT, now=site.now, committed=True)
    if committed:
        site.commit()
        assert {} == site.rows
        assert [] == site.meters.levels(None, ENT, now=site.now, committed=True)
        return
    site.meters.abandon()
    assert before == site.meters.levels(None, ENT, now=site.now, committed=True)


def test_what_a_borrowed_lease_holds_is_counted_when_its_entitlement_comes_again() -> None:
    site = Site(terms(pool(4)))
    site.check_out(3)
    site.meters.close(ENT)
    site.commit()
    site.update(terms(pool(4)))
    assert 1 == site.level("render").available
    site.meters.remove(site.leases["one"])
    site.commit()
    assert 4 == site.level("render").available


def test_counters_of_an_entitlement_that_is_not_trusted_wait_for_it() -> None:
    site = Site(terms(uses(10), pool(4)))
    site.use(3)
    site.check_out(1)
    site.meters = Meters(site.posting, lots=site.rows.values())
    site.meters.add(site.leases["one"])
    assert [] == site.meters.levels(None, ENT, now=site.now, committed=True)
    with pytest.raises(UnknownFeature):
        site.act("frames")
    site.update(site.entitlement)
    assert (7, 3) == (site.level().available, site.level("render").available)


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


# -------------------------------------------------------------------- the reckoning


EXPIRIES: st.SearchStrategy[tuple[GrantExpiry, dict[str, Any]]] = st.one_of(
    st.just((GrantExpiry.NEVER, {})),
    st.just((GrantExpiry.END_OF_CONTRACT, {})),
    st.just((GrantExpiry.END_OF_PERIOD, {})),
    st.integers(1, 60).map(lambda days: (GrantExpiry.CUSTOM, {"term": Term(unit=Unit.DAY, count=days)})),
    st.integers(-5, 90).map(lambda days: (GrantExpiry.AT, {"at": T0 + days * DAY})),
)
GRANTS = st.lists(st.tuples(st.integers(1, 30), st.integers(-10, 40), EXPIRIES), max_size=4).map(
    lambda wishes: tuple(
        grant(f"{number}", amount, expiry[0], active_from=T0 + begins * DAY, **expiry[1])
        for number, (amount, begins, expiry) in enumerate(wishes)
    )
)
FEATURES = st.builds(
    lambda value, grants, reset, over: uses(value, *grants, reset=reset, overdraft=over, undo_seconds=20 * 86_400),
    st.integers(0, 30),
    GRANTS,
    st.sampled_from([*Reset, Reset.MONTHLY]),
    st.sampled_from(
        [
            Overdraft(),
            Overdraft(type=OverdraftType.ABSOLUTE, value=4),
            Overdraft(type=OverdraftType.PERCENTAGE, value=10),
            Overdraft(type=OverdraftType.UNLIMITED),
        ]
    ),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(1, 12)),
        st.tuples(st.just("undo"), st.integers(0, 5)),
        st.tuples(st.just("pass"), st.sampled_from([1, 24, 24 * 7, 24 * 40])),
        st.tuples(st.just("sweep"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("reset"), st.just(0)),
        st.tuples(st.just("drop a grant"), st.integers(0, 3)),
    ),
    max_size=25,
)


class Reckoning:
    """Kept by nothing but the journal: what each lot gave, lost and has."""

    def __init__(self) -> None:
        self.used: dict[str, int] = {}
        self.ended: dict[str, int] = {}

    def take(self, line: Mapping[str, Any]) -> None:
        sign = {"Used": 1, "Undone": -1}.get(line["kind"], 0)
        for lot, units in line.get("draws", {}).items():
            self.used[lot] = self.used.get(lot, 0) + sign * units
        if line["kind"] == "GrantEnded":
            assert line["lot"] not in self.ended, "a lot was ended twice"
            assert line["consumed"] == self.used.get(line["lot"], 0)
            assert line["consumed"] + line["lost"] == line["amount"]
            self.ended[line["lot"]] = line["amount"]


def lots_at(feature: Feature, at: datetime, bought: Entitlement) -> dict[str, tuple[int, datetime | None]]:
    """Amount and end of each lot that should be in force, by the words of the contract and no code of the meters."""
    lots: dict[str, tuple[int, datetime | None]] = {}
    twentieths = (f"{2026 + month // 12}-{month % 12 + 1:02}-20 07:00" for month in range(10, 130))
    months = [day(text) for text in twentieths]
    begins, ends = next((first, last) for first, last in pairwise(months) if first <= at < last)
    monthly = feature.reset is Reset.MONTHLY
    if monthly:
        lots[f"allowance {begins.isoformat().replace('+00:00', 'Z')}"] = feature.value, ends
    else:
        lots["allowance"] = feature.value, None
    for one in feature.grants:
        end: datetime | None
        match one.expiry:
            case GrantExpiry.NEVER:
                end = None
            case GrantExpiry.AT:
                end = one.at
            case GrantExpiry.CUSTOM:
                assert one.term is not None
                end = one.active_from + one.term.count * DAY
            case GrantExpiry.END_OF_PERIOD if monthly:
                end = next(month for month in months[1:] if one.active_from < month)
            case _:
                end = bought.expires_at
        if one.active_from <= at and (end is None or at < end):
            lots[one.grant_id] = one.amount, end
    return lots


class Story:
    """A site and, beside it, the reckoning of its journal."""

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        self.site = Site(terms(feature, expires_at=T0 + 200 * DAY))
        self.told = Reckoning()
        self.made: list[tuple[str, int]] = []
        self._read = 0
        self.read()

    def step(self, name: str, number: int) -> None:
        site = self.site
        match name:
            case "use":
                self.use(number)
            case "undo" if number < len(self.made):
                request_id, amount = self.made[-1 - number]
                with suppress(UndoTooLate, AlreadyUndone):
                    site.undo(amount, request_id)
            case "pass":
                site.at += timedelta(hours=number)
            case "sweep":
                site.sweep()
            case "restart":
                site.restart()
            case "reset":
                self.reset()
            case "drop a grant" if number < len(self.feature.grants):
                left = self.feature.grants[:number] + self.feature.grants[number + 1 :]
                self.feature = replace(self.feature, grants=left)
                site.update(replace(site.entitlement, features=(self.feature,)))
        self.read()

    def read(self) -> None:
        for line in self.site.journal[self._read :]:
            self.told.take(line)
        self._read = len(self.site.journal)

    def use(self, amount: int) -> None:
        request_id = f"r{len(self.made)}"
        if isinstance(self.site.act("frames", amount, request_id=request_id), FeatureLevel):
            self.made.append((request_id, amount))
        self.site.commit()

    def reset(self) -> None:
        self.site.sweep()
        self.read()
        self.site.meters.reset(ENT, None, now=self.site.now)
        for row in self.site.posting.batch.lots.values():
            assert row is not None
            self.told.used[row.lot] = row.used
        self.site.commit()

    def check(self) -> None:
        told, site = self.told, self.site
        expected = lots_at(self.feature, site.at, site.entitlement)
        living = {lot: amount for lot, (amount, _) in expected.items() if lot not in told.ended}
        used = {lot: told.used.get(lot, 0) for lot in living}
        level, accounts = site.level(), {one.lot: one for one in site.meters.of(ENT)["frames"].accounts(site.now)}
        assert (used, living) == (
            {lot: accounts[lot].used for lot in living},
            {lot: accounts[lot].amount for lot in living},
        )
        assert all(0 <= used[lot] <= amount for lot, amount in living.items())
        assert sum(living.values()) == level.total
        remaining = sum(living.values()) - sum(used.values())
        over = told.used.get(next(lot for lot in expected if lot.startswith("a")).replace("allowance", "overdraft"), 0)
        limit = self.feature.overdraft.on_top_of(sum(living.values()))
        assert (sum(used.values()) + over, over) == (level.consumed, level.overage)
        assert (None if limit is None else remaining + max(0, limit - over)) == level.available
        assert set(told.ended) == {lot for lot, one in accounts.items() if one.ended}
        assert {lot: units for lot, units in told.used.items() if units} == site.used()


@settings(max_examples=150, deadline=None)
@given(FEATURES, STEPS)
def test_used_and_remaining_is_what_was_given_at_every_instant(feature: Feature, steps: list[tuple[str, int]]) -> None:
    story = Story(feature)
    story.check()
    for name, number in steps:
        story.step(name, number)
        story.check()
