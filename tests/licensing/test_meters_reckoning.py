"""Used and remaining is what was given: an independent reckoning from the journal, at every instant."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lls.faults import AlreadyUndone, UndoTooLate
from lls.licensing.calendar import Term, Unit
from lls.licensing.entitlement import (
    Entitlement,
    Feature,
    GrantExpiry,
    Overdraft,
    OverdraftType,
    Reset,
)
from lls.licensing.meters import FeatureLevel
from tests.licensing.metering import (
    DAY,
    ENT,
    T0,
    Site,
    day,
    grant,
    terms,
    uses,
)

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
        self.site.meters.reset([(ENT, None)], now=self.site.now)
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
