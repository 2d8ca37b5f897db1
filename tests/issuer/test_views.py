"""What sales, support and an ERP look at says how things stand, as of the last report and no newer."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from lls.issuer import Issuer
from lls.issuer.feed import entitlement_feed
from lls.issuer.plots import peaks_svg
from lls.issuer.refusals import NotKnown
from lls.issuer.views import CustomerView, Day, Ending, Standing, customer_view, renewals
from lls.licensing.journal import Kind
from tests.issuer.appliance import METERED, NOW, Appliance, hosted, line, metered, order, reported

DAY = timedelta(days=1)
YEAR_ENDS = NOW.replace(year=2027)


def view(issuer: Issuer, *, days: int = 30) -> CustomerView:
    return customer_view(issuer.register, "ACME", days=days, now=NOW)


def deny(appliance: Appliance, code: str, count: int = 1, **more: object) -> None:
    appliance.post(Kind.DENIED, **{"product": "cad", "entitlement_id": None, "code": code, "count": count, **more})


# ---------------------------------------------------------------- renewals


@pytest.mark.parametrize(
    ("days_before", "within", "windows"),
    [(91, 90, []), (90, 90, [90]), (31, 30, []), (30, 30, [30]), (8, 30, [30]), (7, 7, [7]), (1, 90, [7])],
)
def test_a_term_is_due_within_its_window(
    issuer: Issuer, appliance: Appliance, days_before: int, within: int, windows: list[int]
) -> None:
    hosted(issuer, appliance)
    due = renewals(issuer.register, within=within, now=YEAR_ENDS - days_before * DAY)
    assert windows == [one.within for one in due]
    assert [days_before] * len(due) == [one.days_left for one in due]


def test_what_is_in_its_grace_is_still_to_be_renewed_and_what_lapsed_is_not(
    issuer: Issuer, appliance: Appliance
) -> None:
    hosted(issuer, appliance)
    (due,) = renewals(issuer.register, within=7, now=YEAR_ENDS + DAY)
    assert (Ending.TERM, -1, YEAR_ENDS) == (due.ending, due.days_left, due.ends_at)
    assert [] == renewals(issuer.register, within=90, now=due.grace_until)


def test_maintenance_ends_on_its_own_where_it_ends_before_the_term(issuer: Issuer, appliance: Appliance) -> None:
    issuer.load_catalog(METERED, now=NOW)
    issuer.register_server(appliance.request(), now=NOW)
    late = line(1, sku="CAD", expires_at="2029-01-01T00:00:00Z")
    issuer.fulfil(order(appliance, late, line(2, sku="CAD")), now=NOW)
    due = renewals(issuer.register, within=30, now=YEAR_ENDS - 10 * DAY)
    assert [Ending.TERM, Ending.MAINTENANCE] == [one.ending for one in due]


def test_the_earliest_comes_first_and_what_has_no_end_never(issuer: Issuer, appliance: Appliance) -> None:
    issuer.load_catalog(METERED, now=NOW)
    issuer.register_server(appliance.request(), now=NOW)
    lines = [line(1, sku="CAD"), line(2, sku="CAD-EVER"), line(3, sku="CAD-TRY"),
             line(4, sku="CAD", expires_at="2026-12-01T00:00:00Z")]  # fmt: skip
    issuer.fulfil(order(appliance, *lines), now=NOW)
    due = renewals(issuer.register, within=3650, now=NOW)
    assert ["2026-12-01", "2027-11-21"] == [f"{one.ends_at:%Y-%m-%d}" for one in due if one.ending is Ending.TERM]


# ---------------------------------------------------------------- one customer


def test_a_customer_that_never_reported_is_said_so(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    seen = view(issuer)
    assert (None, None, ()) == (seen.as_of, seen.since, seen.days)
    assert [Standing.NEVER_REPORTED] == [one.standing for one in seen.servers]
    assert [(50, None)] == [(one.seats, one.in_use) for one in seen.entitlements]


def test_seats_in_use_are_those_of_the_last_report(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    key = hosted(issuer, appliance).entitlements[0].entitlement_id
    appliance.grant(key, seats=7)
    appliance.wait(days=1)
    appliance.give_back(key, seats=4)
    reported(issuer, appliance, tmp_path / "r")
    seen = view(issuer)
    assert (appliance.now, [(50, 3)]) == (seen.as_of, [(one.seats, one.in_use) for one in seen.entitlements])
    assert [("2026-11-21", 7, 119.0), ("2026-11-22", 7, 49.0)] == [
        (one.day.isoformat(), one.peak, one.seat_hours) for one in seen.days
    ]
    (server,) = seen.servers
    assert (Standing.REPORTING, appliance.head.seq) == (server.standing, server.last_line)


def test_only_the_last_days_are_shown(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    key = hosted(issuer, appliance).entitlements[0].entitlement_id
    appliance.grant(key)
    deny(appliance, "no_seat")
    appliance.wait(days=10)
    reported(issuer, appliance, tmp_path / "r")
    seen = view(issuer, days=3)
    assert [date(2026, 11, 29), date(2026, 11, 30), date(2026, 12, 1)] == [one.day for one in seen.days]
    assert () == seen.refused


def test_refusals_are_told_apart_by_who_could_have_helped(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    hosted(issuer, appliance)
    deny(appliance, "no_seat", 3)
    deny(appliance, "reserved", 2)
    deny(appliance, "version_not_covered")
    reported(issuer, appliance, tmp_path / "1")
    deny(appliance, "no_seat", 4)
    reported(issuer, appliance, tmp_path / "2")
    reported(issuer, appliance, tmp_path / "3", after=appliance.reported)
    told = [(one.code, one.cause, one.count) for one in view(issuer).refused]
    assert [("no_seat", "capacity", 7), ("reserved", "policy", 2), ("version_not_covered", "terms", 1)] == told


def test_a_day_keeps_a_bounded_number_of_reasons_and_counts_all(
    issuer: Issuer, appliance: Appliance, tmp_path: Path
) -> None:
    hosted(issuer, appliance)
    for n in range(1_200):
        deny(appliance, "not_entitled", product=f"product-{n}")
    reported(issuer, appliance, tmp_path / "r")
    refused = view(issuer).refused
    assert 1_200 == sum(one.count for one in refused)
    assert ("…", "other", 200) == (refused[0].product, refused[0].cause, refused[0].count)
    assert 1_001 == len(refused)


def test_a_server_is_overdue_when_its_bundle_says_so(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    hosted(issuer, appliance)
    due = NOW + 90 * DAY

    def standing(days: int) -> Standing:
        seen = customer_view(issuer.register, "ACME", days=1, now=due + timedelta(days=days, seconds=1))
        return seen.servers[0].standing

    assert (Standing.NEVER_REPORTED, Standing.OVERDUE) == (standing(-1), standing(0))
    appliance.wait(days=10)
    taken = reported(issuer, appliance, tmp_path / "r")
    assert Standing.OVERDUE is standing(0)
    issuer.issue_receipt(taken.report.report_id, now=appliance.now)
    assert (Standing.REPORTING, Standing.OVERDUE) == (standing(9), standing(10))


def test_a_lost_server_is_shown_as_lost(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    issuer.hosting.retire(appliance.server_id, lost=True, confirm="site", now=NOW)
    assert [Standing.LOST] == [one.standing for one in view(issuer).servers]


def test_a_customer_that_is_not_there_is_missed_in_words(issuer: Issuer) -> None:
    with pytest.raises(NotKnown):
        view(issuer)


# ---------------------------------------------------------------- the feed


def test_the_feed_gives_each_change_once_and_goes_on_where_it_ended(issuer: Issuer, appliance: Appliance) -> None:
    key = metered(issuer, appliance).entitlement_id
    first = entitlement_feed(issuer.register, since=0, most=10)
    assert ("sold", {key}, False) == (
        first.changes[0].change, {one.entitlement_id for one in first.changes}, first.more,
    )  # fmt: skip
    assert first == entitlement_feed(issuer.register, since=0, most=10)
    issuer.amending.disable(key, now=NOW)
    issuer.amending.enable(key, now=NOW)
    page = entitlement_feed(issuer.register, since=first.next, most=1)
    assert (["disabled"], True) == ([one.change for one in page.changes], page.more)
    assert ["active", "disabled"] == page.changes[0].changes["status"]
    last = entitlement_feed(issuer.register, since=page.next, most=1)
    assert (["enabled"], False) == ([one.change for one in last.changes], last.more)
    end = entitlement_feed(issuer.register, since=last.next, most=1)
    assert ((), last.next, False) == (end.changes, end.next, end.more)
    assert first.next < page.next < last.next


def test_the_feed_names_the_state_of_now_and_no_codes(issuer: Issuer, appliance: Appliance) -> None:
    issuer.register_server(appliance.request(), now=NOW)
    issuer.fulfil(order(appliance, line(sku="CAD-PRO-TRIAL")), now=NOW)
    (sold,) = issuer.register.entitlements()
    issuer.amending.disable(sold.entitlement_id, now=NOW)
    changes = entitlement_feed(issuer.register, since=0, most=10).changes
    assert {("ACME", "SO-1001", "disabled")} == {
        (one.account_ref, one.order_ref, (one.current or {})["status"]) for one in changes
    }
    codes: Any = sold.document["activation_codes"]
    assert [] == [code for code in codes if code in repr(changes)]
    assert codes


# ---------------------------------------------------------------- the picture


def drawn(*days: Day, title: str = "Acme") -> ET.Element:
    picture = peaks_svg(days, title=title, since=date(2026, 11, 1), until=date(2026, 11, 30))
    return ET.fromstring(picture)  # noqa: S314 - our own


def a_day(day: int, peak: int, *, seats: int | None = 10, product: str = "cad") -> Day:
    return Day(day=date(2026, 11, day), product=product, peak=peak, seats=seats, seat_hours=1.0, denials=0)


def of_class(svg: ET.Element, kind: str) -> list[ET.Element]:
    return [one for one in svg.iter() if one.get("class") == kind]


def test_a_bar_is_as_high_as_its_day() -> None:
    bars = of_class(drawn(a_day(1, 5), a_day(2, 10)), "bar")
    low, high = (float(bar.attrib["height"]) for bar in bars)
    assert abs(2 * low - high) < 0.2
    assert ["2026-11-01: 5 of 10", "2026-11-02: 10 of 10"] == [bar[0].text for bar in bars]


def test_what_is_beyond_the_seats_bought_is_drawn_apart() -> None:
    svg = drawn(a_day(1, 15), a_day(2, 10))
    assert (1, 2, 2) == (len(of_class(svg, "over")), len(of_class(svg, "bar")), len(of_class(svg, "limit")))


def test_unlimited_seats_have_no_line_and_products_their_own_panels() -> None:
    svg = drawn(a_day(1, 5, seats=None), a_day(1, 5, product="render"))
    assert 1 == len(of_class(svg, "limit"))
    assert {"cad", "render"} <= {one.text for one in svg.iter() if one.tag.endswith("text")}


@pytest.mark.parametrize("title", ["<script>alert(1)</script>", "a & b", '"', "\x00\x1b[31m\u202e", "株式会社"])
def test_no_name_breaks_out_of_the_picture(title: str) -> None:
    svg = drawn(a_day(1, 5), title=title)
    assert not [one for one in svg.iter() if one.tag.endswith("script")]


def test_a_month_without_use_is_a_picture_too() -> None:
    assert "Nothing was in use." in {one.text for one in drawn().iter()}


@pytest.mark.parametrize("peak", [0, 1, 3, 4, 5, 99, 100, 10**12])
def test_every_bar_stays_in_its_panel(peak: int) -> None:
    for bar in of_class(drawn(a_day(1, peak, seats=None)), "bar"):
        assert float(bar.attrib["y"]) >= 30
