"""What comes back from a site is counted once, and only if nobody touched it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.faults import Refusal, RefusedDocument
from lls.issuer import Issuer, ReportProblem, ReportRefused
from lls.licensing.fields import write_instant
from lls.licensing.journal import FIRST_PREV, Head, Kind, entry
from lls.licensing.usage import Fold
from tests.issuer.appliance import NOW, Appliance, hosted, metered


@pytest.fixture
def entitlement_id(issuer: Issuer, appliance: Appliance) -> str:
    return hosted(issuer, appliance).entitlements[0].entitlement_id


def worked(appliance: Appliance, entitlement_id: str, *, seats: int = 10, hours: float = 2) -> None:
    appliance.grant(entitlement_id, seats=seats)
    appliance.wait(hours=hours)
    appliance.give_back(entitlement_id, seats=seats)


def problem(refused: pytest.ExceptionInfo[ReportRefused]) -> ReportProblem:
    return refused.value.problem


def nothing_stored(issuer: Issuer, appliance: Appliance) -> bool:
    return not issuer.register.reports() and issuer.register.journal_end(appliance.server_id) is None


def test_a_report_is_verified_stored_and_billed(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id)
    report_id = appliance.report(tmp_path / "r")
    taken = issuer.ingest(tmp_path / "r", now=NOW)
    assert (report_id, 1, 4, 4) == (
        taken.report.report_id, taken.report.from_seq, taken.report.to_seq, taken.report.new_lines,
    )  # fmt: skip
    assert (4, appliance.head.hash) == issuer.register.journal_end(appliance.server_id)
    quantities = {str(line.meter): str(line.quantity) for line in issuer.usage()}
    assert {
        "seats_peak": "10",
        "seat_hours": "20.0000",
        "overdraft_peak": "0",
        "overdraft_hours": "0.0000",
    } == quantities


def test_the_same_report_again_changes_nothing(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    before = issuer.usage()
    assert issuer.ingest(tmp_path / "r", now=NOW).again
    assert before == issuer.usage()


def test_overlapping_reports_are_counted_once(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id, seats=10)
    appliance.report(tmp_path / "lost receipt")
    appliance.grant(entitlement_id, seats=4)
    appliance.wait(hours=1, microseconds=700_000)
    appliance.report(tmp_path / "everything again")
    issuer.ingest(tmp_path / "lost receipt", now=NOW)
    taken = issuer.ingest(tmp_path / "everything again", now=NOW)
    assert (1, 6, 2) == (taken.report.from_seq, taken.report.to_seq, taken.report.new_lines)
    quantities = {str(line.meter): str(line.quantity) for line in issuer.usage()}
    assert ("10", "24.0006") == (quantities["seats_peak"], quantities["seat_hours"])


def test_an_older_report_that_comes_late_adds_nothing(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "old")
    appliance.report(tmp_path / "new")
    issuer.ingest(tmp_path / "new", now=NOW)
    before = issuer.usage()
    assert 0 == issuer.ingest(tmp_path / "old", now=NOW).report.new_lines
    assert before == issuer.usage()


def test_a_report_follows_the_acknowledged_one_over_midnight(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.grant(entitlement_id, seats=3)
    appliance.wait(hours=1)
    appliance.report(tmp_path / "1")
    appliance.wait(hours=24)
    acknowledged = appliance.head.seq
    appliance.report(tmp_path / "2", after=acknowledged)
    issuer.ingest(tmp_path / "1", now=NOW)
    issuer.ingest(tmp_path / "2", now=NOW)
    assert ["75.0000"] == [str(line.quantity) for line in issuer.usage() if line.meter == "seat_hours"]


def test_a_range_may_begin_where_no_report_ended(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "1")
    appliance.report(tmp_path / "2", after=2)
    issuer.ingest(tmp_path / "1", now=NOW)
    assert 1 == issuer.ingest(tmp_path / "2", now=NOW).report.new_lines


def test_a_gap_is_named_with_its_lines(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "lost")
    appliance.report(tmp_path / "r", after=appliance.head.seq)
    with pytest.raises(ReportRefused, match="Lines 1 to 4 are missing") as refused:
        issuer.ingest(tmp_path / "r", now=NOW)
    assert ReportProblem.GAP is problem(refused)
    assert nothing_stored(issuer, appliance)


def test_two_clones_of_a_server_are_told(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    twin = appliance.clone()
    worked(appliance, entitlement_id)
    worked(twin, entitlement_id, seats=9)
    appliance.report(tmp_path / "one")
    twin.report(tmp_path / "other")
    issuer.ingest(tmp_path / "one", now=NOW)
    before = issuer.usage()
    with pytest.raises(ReportRefused, match=r"forked: two copies of it run.*line 2 is another one") as refused:
        issuer.ingest(tmp_path / "other", now=NOW)
    assert ReportProblem.TWO_COPIES is problem(refused)
    assert before == issuer.usage()
    assert 1 == len(issuer.register.reports())


def test_a_fork_behind_the_acknowledged_line_is_seen_at_the_beginning(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    twin = appliance.clone()
    worked(appliance, entitlement_id)
    worked(twin, entitlement_id, seats=9)
    appliance.report(tmp_path / "one")
    twin.report(tmp_path / "other")
    twin.report(tmp_path / "next", after=twin.head.seq)
    issuer.ingest(tmp_path / "one", now=NOW)
    with pytest.raises(ReportRefused) as refused:
        issuer.ingest(tmp_path / "next", now=NOW)
    assert ReportProblem.FORK is problem(refused)


def test_the_request_of_a_clone_is_refused_before_anything_is_sold_to_it(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    twin = appliance.clone()
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "one")
    issuer.ingest(tmp_path / "one", now=NOW)
    twin.grant(entitlement_id, seats=7)
    with pytest.raises(Exception, match="forked"):
        issuer.register_server(twin.request(), now=NOW)
    issuer.register_server(appliance.request(), now=NOW)


def test_a_report_of_an_unknown_server_is_refused_by_its_name(issuer: Issuer, tmp_path: Path) -> None:
    stranger = Appliance.new(seed=5)
    stranger.report(tmp_path / "r")
    with pytest.raises(ReportRefused, match=stranger.server_id) as refused:
        issuer.ingest(tmp_path / "r", now=NOW)
    assert ReportProblem.UNKNOWN_SERVER is problem(refused)


def test_a_report_of_another_server_than_asked_for_is_refused(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.report(tmp_path / "r")
    with pytest.raises(ReportRefused) as refused:
        issuer.ingest(tmp_path / "r", now=NOW, server_id=Appliance.new(seed=5).server_id)
    assert ReportProblem.WRONG_SERVER is problem(refused)


def test_a_report_signed_by_another_key_is_refused(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.signing_key = Appliance.new(seed=5).signing_key
    appliance.report(tmp_path / "r")
    with pytest.raises(RefusedDocument) as refused:
        issuer.ingest(tmp_path / "r", now=NOW)
    assert Refusal.SIGNATURE is refused.value.reason


def test_an_edited_usage_table_is_refused_with_its_line(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id)
    edited = appliance.table().replace(b"72000", b"36000")
    appliance.report(tmp_path / "r", table=edited)
    with pytest.raises(ReportRefused, match="line 2 says seat_seconds 36000, the journal gives 72000") as refused:
        issuer.ingest(tmp_path / "r", now=NOW)
    assert ReportProblem.USAGE_DIFFERS is problem(refused)
    assert nothing_stored(issuer, appliance)


def test_a_line_left_out_is_refused(issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path) -> None:
    worked(appliance, entitlement_id)
    whole = [each.line for each in appliance.entries]
    appliance.report(tmp_path / "r", lines=[whole[0], *whole[2:]])
    with pytest.raises(RefusedDocument, match="Journal line 2 is missing"):
        issuer.ingest(tmp_path / "r", now=NOW)
    assert nothing_stored(issuer, appliance)


def test_a_range_that_ends_before_its_manifest_says_is_refused(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "r", lines=[each.line for each in appliance.entries])
    with pytest.raises(ReportRefused) as refused:
        issuer.ingest(tmp_path / "r", now=NOW)
    assert ReportProblem.RANGE is problem(refused)


def test_a_range_that_goes_on_after_its_end_is_refused(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.report(tmp_path / "r")
    surplus = entry(appliance.head, at=NOW, kind=Kind.CLOCK_HEALED, data={})
    lines = [each.line for each in appliance.entries] + [surplus.line]
    sealed = appliance.entries[-1]
    appliance.entries.pop()
    appliance.report(tmp_path / "r", report_id=str(sealed.data["report_id"]), lines=lines)
    with pytest.raises(ReportRefused, match="goes on after line 2"):
        issuer.ingest(tmp_path / "r", now=NOW)


def test_a_range_without_its_seal_is_refused(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    last = appliance.entries[-1]
    appliance.report(
        tmp_path / "r", to_seq=last.seq, head=last.hash, lines=[each.line for each in appliance.entries],
    )  # fmt: skip
    with pytest.raises(ReportRefused, match="does not seal"):
        issuer.ingest(tmp_path / "r", now=NOW)


def test_another_report_under_a_known_id_is_refused(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    report_id = appliance.report(tmp_path / "1")
    issuer.ingest(tmp_path / "1", now=NOW)
    appliance.report(tmp_path / "2", report_id=report_id)
    with pytest.raises(ReportRefused) as refused:
        issuer.ingest(tmp_path / "2", now=NOW)
    assert ReportProblem.REPORT_ID_TAKEN is problem(refused)


def test_a_commitment_keeps_its_clear_value(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.report(tmp_path / "1")
    appliance.report(tmp_path / "2", names=[b'{"commitment":"aa","field":"user","value":"mallory"}'])
    issuer.ingest(tmp_path / "1", now=NOW)
    with pytest.raises(ReportRefused) as refused:
        issuer.ingest(tmp_path / "2", now=NOW)
    assert ReportProblem.NAMES_DIFFER is problem(refused)


def test_a_pseudonymised_report_counts_like_any_other(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "r", names=None)
    taken = issuer.ingest(tmp_path / "r", now=NOW)
    assert (True, 0) == (taken.report.pseudonymised, taken.names)
    assert ["20.0000"] == [str(line.quantity) for line in issuer.usage() if line.meter == "seat_hours"]


def test_a_long_report_is_stored_line_by_line_and_tells_its_progress(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    for _ in range(2_100):
        appliance.grant(entitlement_id)
        appliance.give_back(entitlement_id)
    appliance.report(tmp_path / "r")
    told: list[tuple[int, int]] = []
    issuer.ingest(tmp_path / "r", now=NOW, progress=lambda done, total: told.append((done, total)))
    assert [(2_000, 4_202), (4_000, 4_202), (4_202, 4_202)] == told
    stored = list(issuer.register.journal_lines(appliance.server_id, first=1, last=4_202))
    assert [each.line for each in appliance.entries] == stored


def test_a_first_report_must_begin_the_chain(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    assert Head().hash == FIRST_PREV
    appliance.report(tmp_path / "r", prev_head="f" * 64)
    with pytest.raises(ReportRefused) as refused:
        issuer.ingest(tmp_path / "r", now=NOW)
    assert ReportProblem.RANGE is problem(refused)


@pytest.mark.parametrize("days", [-1000 * 365, -401, 401, 7000 * 365])
def test_a_line_from_another_age_is_refused_in_its_own_words(
    days: int, issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    appliance.grant(entitlement_id)
    was, appliance.now = appliance.now, appliance.now + timedelta(days=days)
    appliance.report(tmp_path / "r", table=b"day\r\n", made_at=was)
    with pytest.raises(ReportRefused, match="ask the site about its clock") as refused:
        issuer.ingest(tmp_path / "r", now=NOW)
    assert ReportProblem.IMPLAUSIBLE is problem(refused)
    assert nothing_stored(issuer, appliance)


def test_a_report_that_was_made_in_another_age_is_refused(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    worked(appliance, entitlement_id)
    appliance.report(tmp_path / "r", made_at=NOW + timedelta(days=4000))
    with pytest.raises(ReportRefused, match="The report is stamped"):
        issuer.ingest(tmp_path / "r", now=NOW)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_journal_that_gives_more_lines_than_the_table_has_is_not_folded_to_its_end(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    *, overlap: bool,
) -> None:  # fmt: skip
    appliance.grant(entitlement_id)
    after = 0
    if overlap:
        appliance.report(tmp_path / "first")
        issuer.ingest(tmp_path / "first", now=NOW)
        after = appliance.head.seq
    appliance.wait(days=300)
    appliance.report(tmp_path / "r", after=after, table=b"day\r\n")
    taken: list[object] = []
    step = Fold.step

    def counted(fold: Fold, line: Mapping[str, Any]) -> None:
        taken.append(line["at"])
        step(fold, line)

    monkeypatch.setattr(Fold, "step", counted)
    with pytest.raises(ReportRefused, match="more lines than the table has") as refused:
        issuer.ingest(tmp_path / "r", now=appliance.now)
    assert ReportProblem.USAGE_DIFFERS is problem(refused)
    assert write_instant(appliance.now) not in taken


def test_an_amount_that_no_register_keeps_is_refused_in_words(
    issuer: Issuer, appliance: Appliance, entitlement_id: str, tmp_path: Path
) -> None:
    for _ in range(1025):
        appliance.post(Kind.DENIED, entitlement_id=entitlement_id, product="cad", count=2**53 - 1, code="no_seat")
    appliance.report(tmp_path / "r")
    with pytest.raises((ReportRefused, RefusedDocument)):
        issuer.ingest(tmp_path / "r", now=NOW)
    assert nothing_stored(issuer, appliance)


@pytest.mark.parametrize("text", ["", 'format = 1\n[[deny]]\nproduct = "cad"\n', "#" * (256 * 1024)])
def test_the_text_of_a_sites_policy_comes_with_the_names(
    issuer: Issuer, appliance: Appliance, tmp_path: Path, text: str
) -> None:
    metered(issuer, appliance)
    name = json.dumps({"commitment": "bb", "field": "policy", "value": text}).encode()
    path = tmp_path / "report"
    appliance.report(path, names=[name])
    assert 1 == issuer.ingest(path, now=NOW).names


def test_a_name_of_many_lines_is_refused_elsewhere(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    metered(issuer, appliance)
    path = tmp_path / "report"
    appliance.report(path, names=[json.dumps({"commitment": "bb", "field": "user", "value": "a\nb"}).encode()])
    with pytest.raises((ReportRefused, RefusedDocument)):
        issuer.ingest(path, now=NOW)
