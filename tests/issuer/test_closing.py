"""What was billed never changes, and together with what is not billed yet it is what the journal says."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lls.issuer import Issuer
from lls.issuer.billing import BillingLine, Meter, month_ends
from lls.issuer.refusals import Conflict, NotKnown
from lls.licensing.journal import Kind
from lls.licensing.usage import Fold, UsageLine
from tests.issuer.appliance import NOW, Appliance, Chance, hosted, metered, reported

DECEMBER, JANUARY = datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


def quantities(lines: list[BillingLine], meter: Meter = Meter.SEAT_HOURS) -> list[tuple[str, str, str, bool]]:
    return [(one.period, one.used_in, str(one.quantity), one.closed) for one in lines if one.meter is meter]


@pytest.fixture
def entitlement_id(issuer: Issuer, appliance: Appliance) -> str:
    return hosted(issuer, appliance).entitlements[0].entitlement_id


def test_a_closed_month_keeps_its_lines_and_ids(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.grant(entitlement_id, seats=2)
    appliance.wait(days=20)
    reported(issuer, appliance, tmp_path / "1")
    before = issuer.usage(period="2026-11")
    closed = issuer.closing.close("2026-11", now=appliance.now)
    assert [replace(one, closed=True) for one in before] == list(closed.lines) == issuer.usage(period="2026-11")
    assert (0, False) == (closed.awaited, closed.again)


def test_a_month_is_closed_once(issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path) -> None:
    appliance.grant(entitlement_id)
    appliance.wait(days=20)
    reported(issuer, appliance, tmp_path / "1")
    first = issuer.closing.close("2026-11", now=appliance.now)
    again = issuer.closing.close("2026-11", now=appliance.now + timedelta(days=1))
    assert replace(first, again=True, closed_at=again.closed_at) == again
    assert first.closed_at == again.closed_at


@pytest.mark.parametrize("period", ["2026-13", "2026", "", "2026-11-01", "'; --", "0000-01", "9999-12", "202\uff16-10"])
def test_what_is_no_month_that_is_over_is_refused(issuer: Issuer, period: str) -> None:
    with pytest.raises(Conflict):
        issuer.closing.close(period, now=NOW)


def test_a_month_that_is_not_over_is_refused(issuer: Issuer) -> None:
    with pytest.raises(Conflict, match="2026-11 is not over"):
        issuer.closing.close("2026-11", now=DECEMBER - timedelta(seconds=1))
    assert not issuer.closing.close("2026-11", now=DECEMBER).lines


def test_a_server_that_did_not_report_holds_the_closing_up_and_is_named(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    with pytest.raises(Conflict, match=f"{appliance.server_id} .never reported."):
        issuer.closing.close("2026-11", now=JANUARY)
    appliance.grant(entitlement_id)
    reported(issuer, appliance, tmp_path / "1")
    with pytest.raises(Conflict, match=f"{appliance.server_id} .reported until 2026-11-21."):
        issuer.closing.close("2026-11", now=JANUARY)
    assert 1 == issuer.closing.close("2026-11", now=JANUARY, anyway=True).awaited


def test_a_lost_server_holds_nothing_up(issuer: Issuer, appliance: Appliance, entitlement_id: str) -> None:
    issuer.hosting.retire(appliance.server_id, lost=True, confirm="site", now=NOW)
    assert 0 == issuer.closing.close("2026-11", now=JANUARY).awaited


def test_what_is_reported_late_is_billed_in_the_first_open_month(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.grant(entitlement_id)
    appliance.wait(hours=10)
    reported(issuer, appliance, tmp_path / "1")
    issuer.closing.close("2026-11", now=JANUARY, anyway=True)
    appliance.wait(hours=5)
    appliance.give_back(entitlement_id)
    reported(issuer, appliance, tmp_path / "2", after=appliance.reported)
    late = [("2026-11", "2026-11", "10.0000", True), ("2026-12", "2026-11", "5.0000", False)]
    assert late == quantities(issuer.usage())
    (line,) = [one for one in issuer.usage(period="2026-12") if one.meter is Meter.SEAT_HOURS]
    issuer.closing.close("2026-12", now=JANUARY, anyway=True)
    assert replace(line, closed=True) in issuer.usage(period="2026-12")
    assert not [one for one in issuer.usage() if not one.closed]


def test_a_month_of_which_nothing_was_known_is_billed_when_it_is(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    issuer.closing.close("2026-12", now=JANUARY, anyway=True)
    appliance.grant(entitlement_id)
    appliance.wait(hours=3)
    reported(issuer, appliance, tmp_path / "1")
    assert [("2027-01", "2026-11", "3.0000", False)] == quantities(issuer.usage())
    assert [] == issuer.usage(period="2026-11")


def test_a_higher_peak_is_billed_with_what_it_is_higher_by(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    for n, seats in enumerate((4, 3)):
        appliance.grant(entitlement_id, seats=seats)
        reported(issuer, appliance, tmp_path / str(n), after=appliance.reported)
        if not n:
            issuer.closing.close("2026-11", now=JANUARY, anyway=True)
    peaks = [("2026-11", "2026-11", "4", True), ("2026-12", "2026-11", "3", False)]
    assert peaks == quantities(issuer.usage(), Meter.SEATS_PEAK)


def test_a_customer_that_was_renamed_is_billed_as_it_was(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.grant(entitlement_id)
    appliance.wait(days=20)
    reported(issuer, appliance, tmp_path / "1")
    issuer.closing.close("2026-11", now=appliance.now)
    issuer.put_customer("ACME", name="Another", now=NOW)
    assert {("2026-11", "Acme GmbH"), ("2026-12", "Another")} == {(one.period, one.customer) for one in issuer.usage()}


def test_lines_of_a_customer_who_is_not_there_are_missed_in_words(issuer: Issuer) -> None:
    with pytest.raises(NotKnown):
        issuer.usage(customer="NOBODY")


# ---------------------------------------------------------------- whatever comes in whatever order

Sums = dict[tuple[str, str, str], Decimal]
STEPS = st.one_of(
    st.tuples(st.just("grant"), st.integers(1, 60)),
    st.tuples(st.just("give back"), st.integers(1, 60)),
    st.tuples(st.just("use"), st.integers(1, 200)),
    st.tuples(st.just("undo"), st.integers(1, 200)),
    st.tuples(st.just("hold"), st.integers(1, 6)),
    st.tuples(st.just("wait"), st.integers(1, 40 * 24 * 3600)),
    st.tuples(st.just("seal"), st.integers(0, 3)),
    st.tuples(st.just("ingest"), st.integers(0, 9)),
    st.tuples(st.just("close"), st.integers(0, 2)),
    st.tuples(st.just("report"), st.integers(0, 2)),
    st.tuples(st.just("month turns"), st.integers(1, 3)),
)


class Site:
    """A server, the reports that it sealed, and what the vendor has of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.issuer = Issuer.create(folder / "vendor", now=NOW, passphrase=None, random=Chance())
        self.appliance = Appliance.new()
        self.key = metered(self.issuer, self.appliance, quantity=3).entitlement_id
        self.sealed: list[tuple[Path, int, int]] = []
        self.known = 0
        self.billed: dict[str, BillingLine] = {}

    def do(self, step: str, number: int) -> None:
        self.happen(step, number)
        self.carry(step, number)

    def happen(self, step: str, number: int) -> None:
        """At the site."""
        match step:
            case "grant":
                self.appliance.grant(self.key, seats=number)
            case "give back":
                self.appliance.give_back(self.key, seats=number)
            case "use":
                self.appliance.use(self.key, "frames", {"allowance": number, "overdraft": 1}, over=1)
            case "undo":
                self.appliance.use(self.key, "frames", {"allowance": number}, kind=Kind.UNDONE)
            case "hold":
                self.appliance.hold(self.key, "gpu", number)
            case "wait":
                self.appliance.wait(seconds=number, microseconds=number)

    def carry(self, step: str, number: int) -> None:
        """From there to the vendor, and what it makes of it."""
        match step:
            case "seal":
                self.seal(number)
            case "ingest" if self.sealed:
                self.ingest(number)
            case "close":
                self.close(number)
            case "report":
                self.seal(number)
                self.ingest(len(self.sealed) - 1)
            case "month turns":  # and is closed before what happened in it is reported
                self.appliance.now = month_ends(f"{self.appliance.now:%Y-%m}") + timedelta(hours=number)
                self.close(0)

    def seal(self, back: int) -> None:
        """A report that begins behind one of the newest reports before."""
        ends = [0, *(end for _, _, end in self.sealed)]
        after = ends[max(0, len(ends) - 1 - back)]
        path = self.folder / f"{len(self.sealed)}.llsreport"
        self.appliance.report(path, after=after)
        self.sealed.append((path, after, self.appliance.head.seq))

    def ingest(self, number: int) -> None:
        path, after, end = self.sealed[number % len(self.sealed)]
        if after <= self.known:
            self.issuer.ingest(path, now=self.appliance.now)
            self.known = max(self.known, end)

    def close(self, back: int) -> None:
        """The month before the present one, or an earlier one."""
        at = self.appliance.now.replace(day=1)
        for _ in range(back + 1):
            at = (at - timedelta(days=1)).replace(day=1)
        closed = self.issuer.closing.close(f"{at:%Y-%m}", now=self.appliance.now, anyway=True)
        self.billed |= {one.line_id: one for one in closed.lines}

    def journalled(self) -> Sums:
        """What the lines that were taken in say, by (month, feature, meter): reckoned from the journal alone."""
        fold = Fold(server_id=self.appliance.server_id)
        for each in self.appliance.entries[: self.known]:
            fold.step(json.loads(each.line))
        months: dict[tuple[str, str], list[UsageLine]] = defaultdict(list)
        for line in fold.lines():
            if line.entitlement_id:
                months[line.day[:7], line.feature].append(line)
        sums: Sums = {}
        for (month, feature), lines in months.items():
            hours, over = sum(one.seat_seconds for one in lines), sum(one.overdraft_seconds for one in lines)
            peak, over_peak = max(one.peak for one in lines), max(one.overdraft_peak for one in lines)
            told = (
                {
                    "consumed": Decimal(sum(one.consumed - one.undone for one in lines)),
                    "overage": Decimal(sum(one.overage for one in lines)),
                    "units_peak": Decimal(peak),
                    "units_overdraft_peak": Decimal(over_peak),
                }
                if feature
                else {
                    "seats_peak": Decimal(peak),
                    "seat_hours": rounded(hours),
                    "overdraft_peak": Decimal(over_peak),
                    "overdraft_hours": rounded(over),
                }
            )
            sums |= {(month, feature, meter): quantity for meter, quantity in told.items() if quantity}
        return sums

    def check(self) -> None:
        lines = self.issuer.usage()
        told: Sums = defaultdict(Decimal)
        for one in lines:
            told[one.used_in, one.feature, one.meter] += one.quantity
        assert self.journalled() == {key: quantity for key, quantity in told.items() if quantity}
        assert self.billed == {one.line_id: one for one in lines if one.closed}
        assert {1} >= set(Counter(one.line_id for one in lines).values())
        through = self.issuer.closing.through()
        assert all(one.closed == (through is not None and one.period <= through) for one in lines)
        assert all(one.as_of < month_ends(one.used_in) <= month_ends(one.period) for one in lines)
        for period in {one.period for one in lines}:
            assert [one for one in lines if one.period == period] == self.issuer.usage(period=period)


def rounded(seconds: int) -> Decimal:
    return (Decimal(seconds) / 3600).quantize(Decimal("0.0001"), rounding=ROUND_HALF_UP)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(steps=st.lists(STEPS, min_size=8, max_size=30))
def test_billed_and_unbilled_are_what_was_journalled_and_no_report_counts_twice(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        with site.issuer:
            for step, number in steps:
                site.do(step, number)
                if step in ("ingest", "report", "close", "month turns"):
                    site.check()
            site.seal(0)
            for _, number in zip(site.sealed, range(len(site.sealed)), strict=True):
                site.ingest(number)
            site.close(0)
            site.check()
