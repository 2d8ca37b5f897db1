"""What a bill is made of: levels over time, added up exactly, however the journal is cut into ranges."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lls.faults import RefusedDocument
from lls.licensing.fields import write_instant
from lls.licensing.journal import Head, Kind, entry
from lls.licensing.usage import COLUMNS, Bucket, Fold, UsageLine, merge, read_usage_csv, usage_csv

SERVER = "lls_AAAAAAAAAAAAAAAAAAAAAA"
CAD = "ent_CADCADCADCADCADCADCADC"
CAM = "ent_CAMCAMCAMCAMCAMCAMCAMC"
DAY = datetime(2026, 11, 21, tzinfo=UTC)

Line = dict[str, Any]


def line(after: timedelta, kind: str, **data: Any) -> Line:
    return {"at": write_instant(DAY + after), "kind": kind, "data": data}


def h(hours: float) -> timedelta:
    return timedelta(hours=hours)


def installed(after: timedelta, *, seats: int | None = 2, status: str = "active", entitlement: str = CAD) -> Line:
    item = {"entitlement_id": entitlement, "sku": "CAD-1Y", "product": "cad", "seats": seats, "status": status}
    return line(after, "Installed", customer_ref="ACME", entitlements=[item], skipped=[], commands=[])


def reset(after: timedelta, to: timedelta) -> Line:
    data = {"customer_ref": "ACME", "entitlements": [], "skipped": [], "commands": ["cmd_1"]}
    return line(after, "Installed", **data, clock_reset_to=write_instant(DAY + to))


def granted(after: timedelta, taken: int = 1, *, entitlement: str = CAD) -> Line:
    return line(after, "Granted", entitlement_id=entitlement, product="cad", taken=taken)


def returned(after: timedelta, freed: int = 1, *, kind: str = "Returned") -> Line:
    return line(after, kind, entitlement_id=CAD, freed=freed)


def denied(after: timedelta, holder: str | None, *, count: int = 1, entitlement: str | None = CAD) -> Line:
    return line(after, "Denied", product="cad", entitlement_id=entitlement, holder=holder, count=count)


def noted(after: timedelta) -> Line:
    return line(after, "ReportSealed", report_id="rpt_AAAAAAAAAAAAAAAAAAAAAA", from_seq=1)


def fold(lines: Iterable[Line], carry: Mapping[str, Any] | None = None, *, bucket: Bucket = Bucket.DAY) -> Fold:
    folded = Fold(carry, server_id=SERVER, bucket=bucket)
    for each in lines:
        folded.step(each)
    return folded


def test_a_day_is_told_in_one_line() -> None:
    day = [
        installed(h(6)),
        granted(h(7)),
        granted(h(8), 2),
        denied(h(8.5), "aa" * 32),
        denied(h(8.6), "aa" * 32, count=4),
        denied(h(8.7), None, count=10),
        returned(h(9), 2),
        returned(h(10), kind="Expired"),
        noted(h(12)),
    ]
    expected = UsageLine(
        day="2026-11-21",
        server_id=SERVER,
        customer_ref="ACME",
        entitlement_id=CAD,
        sku="CAD-1Y",
        product="cad",
        feature="",
        unit="seat",
        seats=2,
        peak=3,
        low=0,
        seat_seconds=(1 + 3 + 1) * 3600,
        checkouts=2,
        denials=15,
        denied_holders=1,
        overdraft_peak=1,
        overdraft_seconds=3600,
        period_start=DAY + h(6),
        period_end=DAY + h(12),
    )
    assert [expected] == fold(day).lines()


def test_days_without_a_line_of_their_own_are_told_while_seats_are_in_use() -> None:
    lines = fold([installed(h(0)), granted(h(12)), returned(h(72 + 6)), noted(h(24 * 9))]).lines()
    assert [43_200, 86_400, 86_400, 21_600] == [each.seat_seconds for each in lines]
    assert [0, 1, 1, 0] == [each.low for each in lines]
    assert [1, 1, 1, 1] == [each.peak for each in lines]
    assert DAY + h(24) == lines[0].period_end == lines[1].period_start
    assert DAY + h(96) == lines[3].period_end


def test_idle_days_give_no_line() -> None:
    lines = fold([installed(h(1)), noted(h(24 * 400)), granted(h(24 * 400 + 1)), noted(h(24 * 400 + 2))]).lines()
    assert ["2026-11-21", "2027-12-26"] == [each.day for each in lines]
    assert DAY + h(24 * 400) == lines[1].period_start


def test_ten_years_of_one_seat_in_use_are_whole() -> None:
    lines = fold([installed(h(0)), granted(h(0)), noted(h(24 * 3650))]).lines()
    assert 3651 == len(lines)
    assert 3650 * 86_400 == sum(each.seat_seconds for each in lines)


def test_hours_begin_on_the_hour() -> None:
    lines = fold([installed(h(6.5)), granted(h(6.75)), returned(h(8.25))], bucket=Bucket.HOUR).lines()
    assert ["2026-11-21T06:00:00Z", "2026-11-21T07:00:00Z", "2026-11-21T08:00:00Z"] == [each.day for each in lines]
    assert [900, 3600, 900] == [each.seat_seconds for each in lines]


def test_fewer_seats_end_no_lease_and_count_as_overdraft_until_they_fit() -> None:
    lines = fold(
        [installed(h(0), seats=3), granted(h(1), 3), installed(h(2), seats=1), returned(h(3), 2), noted(h(5))]
    ).lines()
    assert (1, 3, 2, 3600) == (
        lines[0].seats,
        lines[0].peak,
        lines[0].overdraft_peak,
        lines[0].overdraft_seconds,
    )


def test_more_seats_end_an_overdraft() -> None:
    lines = fold([installed(h(0), seats=1), granted(h(1), 2), installed(h(2), seats=5), noted(h(5))]).lines()
    assert (5, 1, 3600) == (lines[0].seats, lines[0].overdraft_peak, lines[0].overdraft_seconds)


def test_a_day_shows_the_limit_with_which_it_ended() -> None:
    lines = fold([installed(h(0), seats=1), granted(h(1)), installed(h(30), seats=None), noted(h(31))]).lines()
    assert [1, None] == [each.seats for each in lines]


def test_unlimited_seats_are_never_overdrawn() -> None:
    lines = fold([installed(h(0), seats=None), granted(h(1), 1000), noted(h(2))]).lines()
    assert (None, 1000, 0, 0) == (lines[0].seats, lines[0].peak, lines[0].overdraft_peak, lines[0].overdraft_seconds)


def test_a_disabled_entitlement_is_in_use_until_its_leases_end() -> None:
    lines = fold(
        [
            installed(h(0)),
            granted(h(1), 2),
            installed(h(2), status="disabled"),
            returned(h(3), 2, kind="Expired"),
            noted(h(4)),
        ]
    ).lines()
    assert (4 * 3600, 0) == (lines[0].seat_seconds, lines[0].overdraft_seconds)


def test_a_seat_taken_and_freed_in_one_instant_counts_as_a_peak_and_no_time() -> None:
    lines = fold([installed(h(0), seats=0), granted(h(1)), returned(h(1)), noted(h(2))]).lines()
    assert (1, 0, 1, 0) == (lines[0].peak, lines[0].seat_seconds, lines[0].overdraft_peak, lines[0].overdraft_seconds)


def test_a_lingering_seat_is_in_use_and_its_successor_takes_none() -> None:
    lines = fold([installed(h(0)), granted(h(1)), returned(h(2), 0), granted(h(3), 0), returned(h(4)), noted(h(5))])
    assert (1, 3 * 3600, 2) == (lines.lines()[0].peak, lines.lines()[0].seat_seconds, lines.lines()[0].checkouts)


def test_a_denial_that_falls_on_no_entitlement_stands_under_its_product() -> None:
    lines = fold([installed(h(0)), denied(h(1), "bb" * 32, count=3, entitlement=None), noted(h(48))]).lines()
    assert [("", "cad", 3, 1, None), (CAD, "cad", 0, 0, 2)] == [
        (each.entitlement_id, each.product, each.denials, each.denied_holders, each.seats) for each in lines
    ]


def test_denials_of_two_unknown_products_stand_apart_under_the_customer() -> None:
    other = denied(h(2), None, entitlement=None)
    other["data"]["product"] = "cam"
    lines = fold([installed(h(0)), denied(h(1), None, entitlement=None), other]).lines()
    assert [("ACME", "cad", 1), ("ACME", "cam", 1)] == [
        (each.customer_ref, each.product, each.denials) for each in lines if not each.entitlement_id
    ]


def test_an_overdraft_goes_on_over_days_without_a_line() -> None:
    lines = fold([installed(h(0), seats=1), granted(h(12), 3), noted(h(60))]).lines()
    assert [(2, 43_200), (2, 86_400), (2, 43_200)] == [(each.overdraft_peak, each.overdraft_seconds) for each in lines]


def test_millennia_of_nothing_take_no_time() -> None:
    end = {"at": "9999-12-31T23:59:59Z", "kind": "ClockHealed", "data": {}}
    assert 1 == len(fold([installed(h(0)), end], bucket=Bucket.HOUR).lines())


def test_a_holder_denied_on_two_days_counts_on_both() -> None:
    lines = fold([installed(h(0)), denied(h(1), "cc" * 32), denied(h(25), "cc" * 32)]).lines()
    assert [1, 1] == [each.denied_holders for each in lines]


def test_time_that_goes_back_counts_as_standing_still() -> None:
    lines = fold([installed(h(0)), granted(h(5)), noted(h(3)), noted(h(6))]).lines()
    assert 3600 == lines[0].seat_seconds
    assert DAY + h(6) == lines[0].period_end


def test_after_a_clock_reset_usage_counts_from_the_right_time() -> None:
    far = h(24 * 1000)
    lines = fold(
        [installed(far), granted(far + h(1)), reset(far + h(2), h(0)), noted(h(5)), granted(h(6)), noted(h(7))]
    ).lines()
    assert [("2026-11-21", 3 * 3600, 1, 1), ("2029-08-17", 3600, 1, 0)] == [
        (each.day, each.seat_seconds, each.checkouts, each.low) for each in lines
    ]
    assert (DAY + h(5), DAY + h(7)) == (lines[0].period_start, lines[0].period_end)


def test_the_rest_of_the_group_of_a_clock_reset_still_has_its_time() -> None:
    far = h(24 * 1000)
    lines = [installed(far), reset(far, h(0)), granted(far), noted(h(5)), noted(h(6))]
    assert [3600, 0] == [each.seat_seconds for each in fold(lines).lines()]


def test_a_day_that_comes_twice_is_one_line_with_the_last_words() -> None:
    lines = fold(
        [installed(h(10), seats=1), granted(h(11)), reset(h(20), h(3)), installed(h(4), seats=5), noted(h(6))]
    ).lines()
    assert [(9 * 3600 + 2 * 3600, 1, 5, DAY + h(4), DAY + h(20))] == [
        (each.seat_seconds, each.checkouts, each.seats, each.period_start, each.period_end) for each in lines
    ]


@pytest.mark.parametrize(
    "after",
    [
        [noted(h(2)), noted(h(6))],  # earlier than the vendor allowed
        [noted(h(5.5)), noted(h(5)), noted(h(6))],  # time had gone on
    ],
)
def test_a_clock_reset_allows_one_step_back_and_no_further(after: list[Line]) -> None:
    lines = fold([installed(h(4)), granted(h(5)), reset(h(5), h(3)), *after]).lines()
    assert [3600] == [each.seat_seconds for each in lines]


def test_more_freed_than_taken_leaves_nothing_in_use() -> None:
    folded = fold([installed(h(0)), granted(h(1)), returned(h(2), 5), granted(h(3)), noted(h(4))])
    assert (7200, 1) == (folded.lines()[0].seat_seconds, folded.lines()[0].peak)


def test_a_journal_read_from_its_middle_leaves_what_it_cannot_know_empty() -> None:
    lines = fold([granted(h(1)), noted(h(2))]).lines()
    assert ("", "", "cad", None, 3600) == (
        lines[0].customer_ref,
        lines[0].sku,
        lines[0].product,
        lines[0].seats,
        lines[0].seat_seconds,
    )


def test_a_range_begins_where_the_one_before_it_ended() -> None:
    before = fold([installed(h(0)), granted(h(1)), noted(h(2))])
    after = fold([noted(h(26))], before.carry()).lines()
    assert [(DAY + h(2), DAY + h(24)), (DAY + h(24), DAY + h(26))] == [
        (each.period_start, each.period_end) for each in after
    ]
    assert [22 * 3600, 7200] == [each.seat_seconds for each in after]
    assert [("ACME", "CAD-1Y", 1, 1)] * 2 == [(each.customer_ref, each.sku, each.peak, each.low) for each in after]


def test_nothing_was_folded_gives_nothing_and_carries_nothing() -> None:
    empty = fold([])
    assert [] == empty.lines()
    assert [installed(h(0))["at"]] == [fold([installed(h(0))], empty.carry()).carry()["at"]]


def test_lines_may_be_asked_for_in_between() -> None:
    folded = fold([installed(h(0)), granted(h(1)), noted(h(2))])
    assert [3600] == [each.seat_seconds for each in folded.lines()] == [each.seat_seconds for each in folded.lines()]
    folded.step(noted(h(3)))
    assert [7200] == [each.seat_seconds for each in folded.lines()]


def test_a_carry_of_another_bucket_width_keeps_the_levels() -> None:
    before = fold([installed(h(0)), granted(h(0.5)), noted(h(2) + timedelta(microseconds=1))])
    after = fold([noted(h(3))], before.carry(), bucket=Bucket.HOUR).lines()
    assert [("2026-11-21T02:00:00Z", 3599), ("2026-11-21T03:00:00Z", 0)] == [
        (each.day, each.seat_seconds) for each in after
    ]


def test_posted_entries_fold_like_their_parsed_lines() -> None:
    head, posted, parsed = Head(), [], []
    for each in [installed(h(0)), granted(h(1)), returned(h(2))]:
        at = datetime.fromisoformat(each["at"])
        made = entry(head, at=at, kind=Kind(each["kind"]), data=each["data"])
        head = Head(seq=made.seq, hash=made.hash)
        posted.append({"at": made.at, "kind": made.kind, "data": made.data})
        parsed.append(json.loads(made.line))
    assert fold(parsed).lines() == fold(posted).lines()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("Granted", {"entitlement_id": CAD, "product": "cad", "taken": "1"}),
        ("Granted", {"entitlement_id": CAD, "product": "cad", "taken": True}),
        ("Granted", {"entitlement_id": CAD, "product": "cad"}),
        ("Granted", {"entitlement_id": None, "product": "cad", "taken": 1}),
        ("Granted", {"entitlement_id": ["x"], "product": "cad", "taken": 1}),
        ("Returned", {"entitlement_id": CAD, "freed": -1}),
        ("Expired", {"freed": 1}),
        ("Denied", {"product": "cad", "entitlement_id": CAD, "holder": None, "count": 0}),
        ("Denied", {"product": "cad", "entitlement_id": CAD, "holder": "not hex", "count": 1}),
        ("Denied", {"product": None, "entitlement_id": None, "holder": None, "count": 1}),
        ("Installed", {"customer_ref": 7, "entitlements": []}),
        ("Installed", {"customer_ref": "ACME", "entitlements": {}}),
        ("Installed", {"customer_ref": "ACME", "entitlements": [{"entitlement_id": CAD}]}),
    ],
)
def test_what_no_ledger_writes_is_refused_by_name(kind: str, data: Mapping[str, Any]) -> None:
    with pytest.raises(RefusedDocument, match=r"^data\."):
        fold([noted(h(0)), {"at": write_instant(DAY), "kind": kind, "data": data}])


# --- ranges cut anywhere ----------------------------------------------------------------------------------------------

GAPS = st.one_of(
    st.just(0),
    st.integers(-5_000_000, 5_000_000),
    st.integers(0, 7_200_000_000),
    st.integers(0, 4 * 86_400_000_000),
    st.just(86_400_000_000),
)
SAID = st.one_of(
    st.tuples(st.just("Granted"), st.sampled_from([CAD, CAM]), st.integers(0, 3)),
    st.tuples(st.sampled_from(["Returned", "Expired", "Released"]), st.sampled_from([CAD, CAM]), st.integers(0, 3)),
    st.tuples(st.just("Installed"), st.sampled_from([CAD, CAM]), st.one_of(st.none(), st.integers(0, 3))),
    st.tuples(st.just("Denied"), st.sampled_from([CAD, CAM, None]), st.integers(1, 3)),
    st.tuples(st.just("ReportSealed"), st.none(), st.none()),
    st.tuples(st.just("Reset"), st.none(), st.integers(0, 4 * 86_400_000_000)),
)
BUCKETS = st.sampled_from(Bucket)


def told(said: Sequence[tuple[int, tuple[str, str | None, int | None]]]) -> list[Line]:
    at, lines = DAY, []
    for n, (gap, (kind, entitlement, amount)) in enumerate(said):
        at += timedelta(microseconds=gap)
        if kind == "Reset":
            back = max(timedelta(0), at - DAY - timedelta(microseconds=amount or 0))
            lines += [reset(at - DAY, back), noted(at - DAY), noted(back + timedelta(seconds=n))]
            at = DAY + back + timedelta(seconds=n)
            continue
        data: Line = {"entitlement_id": entitlement, "product": "cad", "taken": amount, "freed": amount}
        if kind == "Installed":
            data = installed(h(0), seats=amount, entitlement=entitlement or CAD)["data"] | {"customer_ref": f"C{n}"}
        elif kind == "Denied":
            data |= {"count": amount, "holder": None if n % 3 == 0 else f"{n % 4:064x}"}
        lines.append({"at": write_instant(at), "kind": kind, "data": data})
    return lines


JOURNALS = st.lists(st.tuples(GAPS, SAID), min_size=1, max_size=40).map(told)


def comparable(lines: Sequence[UsageLine]) -> list[UsageLine]:
    """Without what may differ by rule 5 of the module."""
    return [replace(each, denied_holders=0, period_start=DAY, period_end=DAY) for each in lines]


@settings(max_examples=300, deadline=None)
@given(JOURNALS, st.lists(st.integers(0, 40), max_size=4), BUCKETS)
def test_ranges_cut_anywhere_merge_to_the_whole(journal: list[Line], cuts: list[int], bucket: Bucket) -> None:
    whole = fold(journal, bucket=bucket)
    parts: list[UsageLine] = []
    carry: dict[str, Any] | None = None
    edges = [0, *sorted(min(cut, len(journal)) for cut in cuts), len(journal)]
    for start, end in pairwise(edges):
        part = fold(journal[start:end], carry, bucket=bucket)
        carry = json.loads(json.dumps(part.carry()))
        parts += part.lines()
    merged = merge(parts)
    assert comparable(whole.lines()) == comparable(merged)
    for one, other in zip(whole.lines(), merged, strict=True):
        assert one.denied_holders <= other.denied_holders
        assert one.period_start <= other.period_start <= other.period_end <= one.period_end
    assert carry is not None
    assert sorted(carry["pools"], key=str) == sorted(whole.carry()["pools"], key=str)
    assert whole.carry()["at"] == carry["at"]


@settings(max_examples=200, deadline=None)
@given(JOURNALS, BUCKETS)
def test_the_sums_are_those_of_a_plain_reckoning(journal: list[Line], bucket: Bucket) -> None:
    expected = {key: (used // 1_000_000, over // 1_000_000) for key, (used, over) in reckoned(journal, bucket).items()}
    actual = {
        (each.day, each.entitlement_id): (each.seat_seconds, each.overdraft_seconds)
        for each in fold(journal, bucket=bucket).lines()
        if each.peak
    }
    assert expected == {key: sums for key, sums in actual.items() if key in expected}
    assert all(sums == (0, 0) for key, sums in actual.items() if key not in expected)


def reckoned(journal: list[Line], bucket: Bucket) -> dict[tuple[str, str], tuple[int, int]]:
    """Seat- and overdraft-microseconds by bucket: between each two lines, each bucket in between, one by one.

    A clock reset drops what is below a second, as the fold does: what ran before it is told and closed.
    """
    width = timedelta(days=1) if bucket is Bucket.DAY else timedelta(hours=1)
    level: dict[str, int] = defaultdict(int)
    seats: dict[str, int | None] = {}
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    now = datetime.fromisoformat(journal[0]["at"])
    allowed: datetime | None = None
    for each in journal:
        at = datetime.fromisoformat(each["at"])
        if allowed is not None and allowed <= at < now:
            now, allowed = at, None
            sums = {key: (used // 1_000_000 * 1_000_000, over // 1_000_000 * 1_000_000)
                    for key, (used, over) in sums.items()}  # fmt: skip
        until = max(now, at)
        allowed = None if until > now else allowed
        while now < until:
            start = DAY + (now - DAY) // width * width
            end = min(until, start + width)
            name = start.date().isoformat() if bucket is Bucket.DAY else write_instant(start)
            gone = (end - now) // timedelta(microseconds=1)
            for entitlement in [key for key, value in level.items() if value]:
                used, over = sums.get((name, entitlement), (0, 0))
                limit = seats.get(entitlement)
                above = limit is not None and level[entitlement] > limit
                sums[name, entitlement] = (used + gone * level[entitlement], over + gone * above)
            now = end
        data = each["data"]
        if each["kind"] == "Granted":
            level[data["entitlement_id"]] += data["taken"]
        elif each["kind"] in ("Returned", "Expired", "Released"):
            level[data["entitlement_id"]] = max(0, level[data["entitlement_id"]] - data["freed"])
        elif each["kind"] == "Installed" and "clock_reset_to" in data:
            allowed = datetime.fromisoformat(data["clock_reset_to"])
        elif each["kind"] == "Installed":
            seats[data["entitlements"][0]["entitlement_id"]] = data["entitlements"][0]["seats"]
    return sums


# --- the table --------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(JOURNALS, BUCKETS)
def test_a_table_reads_back_as_it_was(journal: list[Line], bucket: Bucket) -> None:
    lines = fold(journal, bucket=bucket).lines()
    table = usage_csv(lines)
    assert lines == read_usage_csv(table)
    assert table == usage_csv(read_usage_csv(table))


def test_the_table_is_frozen() -> None:
    lines = fold([installed(h(6), seats=None), granted(h(7)), noted(h(8) + timedelta(microseconds=5))]).lines()
    assert (
        b"day,server_id,customer_ref,entitlement_id,sku,product,feature,unit,seats,peak,low,seat_seconds,checkouts,denials,"
        b"denied_holders,overdraft_peak,overdraft_seconds,consumed,undone,overage,period_start,period_end\r\n"
        b"2026-11-21,lls_AAAAAAAAAAAAAAAAAAAAAA,ACME,ent_CADCADCADCADCADCADCADC,CAD-1Y,cad,,seat,,1,0,3600,1,0,"
        b"0,0,0,0,0,0,2026-11-21T06:00:00Z,2026-11-21T08:00:00.000005Z\r\n"
    ) == usage_csv(lines)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "'", "'=", 'a "b", c', "Müller & Söhne"])
def test_no_text_becomes_a_formula_and_each_reads_back(text: str) -> None:
    lines = [replace(fold([installed(h(0))]).lines()[0], customer_ref=text)]
    table = usage_csv(lines)
    assert lines == read_usage_csv(table)
    cell = table.decode().split("\r\n")[1].split(",", 2)[2]
    assert not cell.startswith(("=", "+", "-", "@"))


def broken(column: str, cell: str) -> bytes:
    row = dict(
        zip(COLUMNS, usage_csv(fold([installed(h(0))]).lines()).decode().split("\r\n")[1].split(","), strict=True)
    )
    return (",".join(COLUMNS) + "\r\n" + ",".join((row | {column: cell}).values()) + "\r\n").encode()


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (b"", "columns"),
        (b"day,server_id\r\n", "columns"),
        (b"\xff\xfe", "UTF-8"),
        (b'"day', "no CSV"),
        (",".join(COLUMNS).encode() + b"\r\na,b\r\n", "line 2 must have 22 columns"),
        (broken("peak", ""), "line 2, peak"),
        (broken("peak", "-1"), "line 2, peak"),
        (broken("seats", "1.0"), "line 2, seats"),
        (broken("seat_seconds", "1_0"), "line 2, seat_seconds"),
        (broken("seat_seconds", "9" * 5000), "line 2, seat_seconds"),
        (broken("checkouts", "１"), "line 2, checkouts"),  # noqa: RUF001  # a full-width digit
        (broken("period_end", "2026-11-21"), "line 2, period_end"),
    ],
)
def test_a_table_that_is_none_is_refused_by_name(table: bytes, complaint: str) -> None:
    with pytest.raises(RefusedDocument, match=complaint):
        read_usage_csv(table)


def test_merging_takes_the_latest_words_and_keeps_servers_apart() -> None:
    first = fold([installed(h(0), seats=1), granted(h(1)), noted(h(2))]).lines()[0]
    later = replace(first, seats=5, sku="CAD-2Y", period_start=first.period_end, period_end=first.period_end + h(1))
    elsewhere = replace(first, server_id="lls_BBBBBBBBBBBBBBBBBBBBBB")
    merged = merge([first, elsewhere, later])
    assert [(SERVER, 5, "CAD-2Y", 7200), (elsewhere.server_id, 1, "CAD-1Y", 3600)] == [
        (each.server_id, each.seats, each.sku, each.seat_seconds) for each in merged
    ]
