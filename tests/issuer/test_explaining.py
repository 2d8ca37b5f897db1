"""Why a report does not fit: each case is told apart, in words that say what to do; nothing of it is counted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from lls.faults import Refusal, RefusedDocument
from lls.issuer import Issuer, ReportProblem, ReportRefused
from lls.issuer.explaining import Difference, Known, advice, diverged
from lls.issuer.refusals import NotKnown
from tests.issuer.appliance import NOW, Appliance, hosted

HOUR = timedelta(hours=1)


@pytest.fixture
def entitlement_id(issuer: Issuer, appliance: Appliance) -> str:
    return hosted(issuer, appliance).entitlements[0].entitlement_id


def worked(appliance: Appliance, entitlement_id: str, *, seats: int = 10, hours: float = 2) -> None:
    appliance.grant(entitlement_id, seats=seats)
    appliance.wait(hours=hours)
    appliance.give_back(entitlement_id, seats=seats)


def refused(issuer: Issuer, path: Path) -> ReportRefused:
    before = issuer.usage(), issuer.register.reports()
    with pytest.raises(ReportRefused) as caught:
        issuer.ingest(path, now=NOW)
    assert before == (issuer.usage(), issuer.register.reports())
    return caught.value


def test_a_snapshot_put_back_writes_its_other_past_later(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    snapshot = appliance.clone()
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "before")
    issuer.ingest(tmp_path / "before", now=NOW)
    snapshot.now = appliance.now + HOUR
    worked(snapshot, entitlement_id, seats=3)
    snapshot.report(tmp_path / "after")
    fault = refused(issuer, tmp_path / "after")
    assert ReportProblem.SET_BACK is fault.problem
    assert "Up to line 1 this report and the earlier ones agree, and line 2 is another one." in fault.detail


def test_a_snapshot_that_reports_less_than_before_is_told_too(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    snapshot = appliance.clone()
    for _ in range(3):
        worked(appliance, entitlement_id)
    appliance.report(tmp_path / "before")
    issuer.ingest(tmp_path / "before", now=NOW)
    snapshot.now = appliance.now + HOUR
    snapshot.report(tmp_path / "after")
    fault = refused(issuer, tmp_path / "after")
    assert ReportProblem.SET_BACK is fault.problem
    assert "It ends at line 2, before the stored one." in fault.detail


def test_two_copies_write_at_the_same_time(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    twin = appliance.clone()
    twin.wait(minutes=30)
    worked(appliance, entitlement_id)
    worked(twin, entitlement_id, seats=3, hours=9)
    appliance.report(tmp_path / "one")
    twin.report(tmp_path / "other")
    issuer.ingest(tmp_path / "one", now=NOW)
    fault = refused(issuer, tmp_path / "other")
    assert ReportProblem.TWO_COPIES is fault.problem
    assert "Both copies hand out the same seats" in fault.detail


def test_a_journal_that_begins_anew_is_a_reset(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "before")
    issuer.ingest(tmp_path / "before", now=NOW)
    appliance.entries.clear()
    appliance.wait(hours=1)
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "after")
    fault = refused(issuer, tmp_path / "after")
    assert ReportProblem.RESET is fault.problem
    assert "4 lines are stored" in fault.detail
    assert "lls-issuer server retire --lost" in fault.detail


def test_a_report_that_begins_too_late_says_what_to_ask_for(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    twin = appliance.clone()
    for one, name in ((appliance, "one"), (twin, "other")):
        worked(one, entitlement_id, seats=len(name))
        one.report(tmp_path / name)
    twin.report(tmp_path / "next", after=twin.head.seq)
    issuer.ingest(tmp_path / "one", now=NOW)
    fault = refused(issuer, tmp_path / "next")
    assert ReportProblem.FORK is fault.problem
    assert "line 4, behind which this report begins" in fault.detail


def test_the_newest_request_tells_what_a_late_report_does_not(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    snapshot = appliance.clone()
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "before")
    issuer.ingest(tmp_path / "before", now=NOW)
    snapshot.now = appliance.now + HOUR
    issuer.register_server(snapshot.request(), now=snapshot.now)
    worked(snapshot, entitlement_id, seats=3)
    snapshot.report(tmp_path / "acknowledged")
    snapshot.report(tmp_path / "after", after=snapshot.head.seq)
    fault = refused(issuer, tmp_path / "after")
    assert ReportProblem.SET_BACK is fault.problem
    assert "names line 1 as its last, and line 4 was reported before" in fault.detail


def test_a_gap_names_the_report_to_ask_for(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "lost")
    appliance.report(tmp_path / "r", after=appliance.head.seq)
    fault = refused(issuer, tmp_path / "r")
    assert ReportProblem.GAP is fault.problem
    assert "Lines 1 to 4 are missing" in fault.detail
    assert "the report that ends at line 4: lls report list" in fault.detail


KNOWN = Known(server_id="lls_x", end=9, end_at=NOW, request_seq=1, request_made_at=NOW - HOUR)


@pytest.mark.parametrize(
    ("seq", "later", "first", "expected"),
    [
        (1, HOUR, True, ReportProblem.RESET),
        (1, -HOUR, True, ReportProblem.TWO_COPIES),
        (5, HOUR, True, ReportProblem.SET_BACK),
        (5, timedelta(0), True, ReportProblem.TWO_COPIES),
        (5, -HOUR, True, ReportProblem.TWO_COPIES),
        (5, HOUR, False, ReportProblem.FORK),
        (5, -HOUR, False, ReportProblem.FORK),
    ],
)
def test_each_case_is_one_and_says_that_nothing_was_counted(
    seq: int,
    later: timedelta,
    first: bool,
    expected: ReportProblem,
) -> None:
    fault = diverged(KNOWN, Difference(seq=seq, at=NOW + later, first=first, report_ends=12))
    assert expected is fault.problem
    assert "Nothing of this report was counted" in fault.detail


def test_a_request_from_before_the_newest_line_proves_nothing() -> None:
    assert not KNOWN.request_fell_back


@pytest.mark.parametrize("reason", [Refusal.SIGNATURE, Refusal.DECRYPTION, Refusal.MALFORMED, Refusal.FORKED])
def test_a_document_that_does_not_hold_has_an_advice(reason: Refusal) -> None:
    assert "lls report export --report ID" in advice(RefusedDocument(reason, "…"))


@pytest.mark.parametrize("make", [lambda: NotKnown("…"), lambda: RefusedDocument(Refusal.AUDIENCE, "…")])
def test_whoever_says_it_all_gets_no_advice(make: Callable[[], NotKnown | RefusedDocument]) -> None:
    assert not advice(make())
