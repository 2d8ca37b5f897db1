"""Billing lines keep their ids, and say whether they may still grow."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from lls.issuer import Issuer
from lls.issuer.billing import billing_csv, billing_document, billing_lines
from lls.licensing.journal import Kind
from lls.licensing.usage import UsageLine
from tests.issuer.appliance import NOW, Appliance, hosted, line, metered, order, reported


def test_a_later_report_changes_quantities_and_keeps_ids(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    entitlement_id = hosted(issuer, appliance).entitlements[0].entitlement_id
    appliance.grant(entitlement_id, seats=60)
    appliance.wait(days=1)
    appliance.report(tmp_path / "1")
    issuer.ingest(tmp_path / "1", now=NOW)
    before = issuer.usage(period="2026-11")
    assert ["60", "1440.0000", "10", "24.0000"] == [str(each.quantity) for each in before]
    assert {False} == {each.final for each in before}
    appliance.wait(days=20)
    appliance.report(tmp_path / "2", after=appliance.head.seq)
    issuer.ingest(tmp_path / "2", now=NOW)
    after = issuer.usage(period="2026-11")
    assert [each.line_id for each in before] == [each.line_id for each in after]
    assert "13980.0000" == str(after[1].quantity)
    assert {True} == {each.final for each in after}
    assert {"2026-12"} == {each.period for each in issuer.usage(period="2026-12")}
    assert not {each.line_id for each in after} & {each.line_id for each in issuer.usage(period="2026-12")}


def test_peaks_of_several_entitlements_of_a_sku_add_up(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    issuer.register_server(appliance.request(), now=NOW)
    issuer.fulfil(order(appliance, line(1), line(2)), now=NOW)
    bundle, _ = appliance.open(issuer.issue_bundle(appliance.server_id, now=NOW).data, issuer.keyring.newest)
    for entitlement in bundle.entitlements:
        appliance.grant(entitlement.entitlement_id, seats=20)
    appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    assert ["40"] == [str(each.quantity) for each in issuer.usage() if each.meter == "seats_peak"]


def test_each_customer_gets_its_own_lines(issuer: Issuer, tmp_path: Path) -> None:
    for seed, account in ((1, "ACME"), (10_000, "OTHER")):
        site = Appliance.new(seed=seed)
        issuer.register_server(site.request(), now=NOW)
        issuer.fulfil(order(site, order_ref=f"SO-{account}", account_ref=account), now=NOW)
        bundle, _ = site.open(issuer.issue_bundle(site.server_id, now=NOW).data, issuer.keyring.newest)
        site.grant(bundle.entitlements[0].entitlement_id)
        site.report(tmp_path / account)
        issuer.ingest(tmp_path / account, now=NOW)
    assert ["ACME"] * 4 + ["OTHER"] * 4 == [each.account_ref for each in issuer.usage()]
    assert {"OTHER"} == {each.account_ref for each in issuer.usage(customer="OTHER")}


def test_the_table_is_csv_that_no_spreadsheet_executes(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    hosted(issuer, appliance)
    issuer.put_customer("ACME", name="=cmd()", now=NOW)
    appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    lines = issuer.usage()
    rows = list(csv.DictReader(io.StringIO(billing_csv(lines).decode())))
    assert {"'=cmd()"} == {row["customer"] for row in rows}
    assert {"=cmd()"} == {billing_document(each)["customer"] for each in lines}


def test_december_ends_with_the_year(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    appliance.now = datetime(2026, 12, 31, 23, tzinfo=UTC)
    issuer.register_server(appliance.request(), now=appliance.now)
    issuer.fulfil(order(appliance), now=appliance.now)
    data = issuer.issue_bundle(appliance.server_id, now=appliance.now).data
    bundle, _ = appliance.open(data, issuer.keyring.newest)
    appliance.grant(bundle.entitlements[0].entitlement_id)
    appliance.wait(hours=2)
    appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    assert [("2026-12", True), ("2027-01", False)] == sorted({(each.period, each.final) for each in issuer.usage()})


def told(issuer: Issuer, period: str = "2026-11") -> dict[tuple[str, str], tuple[str, str]]:
    return {
        (each.feature, str(each.meter)): (str(each.quantity), each.unit)
        for each in issuer.usage(period=period)
        if each.feature
    }


def test_what_was_used_up_is_billed_less_what_was_undone(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    key = metered(issuer, appliance).entitlement_id
    appliance.use(key, "frames", {"allowance": 100, "overdraft": 20}, over=20)
    appliance.use(key, "frames", {"allowance": 5, "overdraft": 5}, over=5, kind=Kind.UNDONE)
    appliance.use(key, "cloud", {"grant": 250})
    reported(issuer, appliance, tmp_path / "r")
    assert {
        ("frames", "consumed"): ("110", "frame"),
        ("frames", "overage"): ("15", "frame"),
        ("cloud", "consumed"): ("250", "EUR"),
        ("cloud", "overage"): ("0", "EUR"),
    } == told(issuer)


def test_an_undo_counts_in_the_month_in_which_it_was_made(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    key = metered(issuer, appliance).entitlement_id
    appliance.use(key, "frames", {"overdraft": 7}, over=7)
    reported(issuer, appliance, tmp_path / "1")
    appliance.wait(days=20)
    appliance.use(key, "frames", {"overdraft": 7}, over=7, kind=Kind.UNDONE)
    reported(issuer, appliance, tmp_path / "2", after=appliance.reported)
    assert {("frames", "consumed"): ("7", "frame"), ("frames", "overage"): ("7", "frame")} == told(issuer)
    later = told(issuer, "2026-12")
    assert {("frames", "consumed"): ("-7", "frame"), ("frames", "overage"): ("-7", "frame")} == later


def test_pools_are_billed_by_their_peak_and_what_lay_beyond_them(
    issuer: Issuer, appliance: Appliance, tmp_path: Path
) -> None:
    key = metered(issuer, appliance).entitlement_id
    appliance.hold(key, "gpu", 3)
    appliance.hold(key, "gpu", 2)
    reported(issuer, appliance, tmp_path / "r")
    assert {("gpu", "units_peak"): ("5", "unit"), ("gpu", "units_overdraft_peak"): ("1", "unit")} == told(issuer)


def test_a_features_lines_keep_their_ids_and_never_share_one(
    issuer: Issuer, appliance: Appliance, tmp_path: Path
) -> None:
    key = metered(issuer, appliance).entitlement_id
    for n, feature in enumerate(("frames", "pages")):
        appliance.use(key, feature, {"allowance": 1})
        reported(issuer, appliance, tmp_path / str(n), after=appliance.reported)
    before = {(each.feature, each.meter): each.line_id for each in issuer.usage()}
    appliance.use(key, "pages", {"allowance": 1})
    reported(issuer, appliance, tmp_path / "again", after=appliance.reported)
    assert before == {(each.feature, each.meter): each.line_id for each in issuer.usage()}
    assert len(before) == len(set(before.values())) == 8


def test_units_are_counted_once_whatever_reports_overlap(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    key = metered(issuer, appliance).entitlement_id
    for n in range(3):
        appliance.use(key, "frames", {"allowance": 10})
        reported(issuer, appliance, tmp_path / str(n))
    assert ("30", "frame") == told(issuer)["frames", "consumed"]


def test_of_all_that_was_ever_used_one_customers_month_at_a_time_is_in_memory(
    issuer: Issuer, appliance: Appliance, tmp_path: Path
) -> None:
    bundle = hosted(issuer, appliance)
    (sold,) = bundle.entitlements
    for n in range(4):
        appliance.grant(sold.entitlement_id)
        appliance.wait(days=31)
        appliance.give_back(sold.entitlement_id)
        appliance.report(tmp_path / str(n), after=appliance.reported)
        issuer.ingest(tmp_path / str(n), now=appliance.now)
    drawn: list[str] = []

    def watched() -> Iterator[UsageLine]:
        for one in issuer.register.usage():
            drawn.append(one.day[:7])
            yield one

    owner = issuer.customer("ACME")
    lines = billing_lines(
        watched(), owners={appliance.server_id: owner}, reported_until={appliance.server_id: appliance.now}
    )
    assert "2026-11" == next(lines).period
    assert {"2026-11", "2026-12"} == set(drawn)
    assert "2026-12" == drawn[-1] != drawn[-2]  # one line further than the month
    assert ["2026-11"] * 3 + ["2026-12"] * 4 == [one.period for one in lines][:7]
