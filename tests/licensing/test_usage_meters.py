"""What features add to a bill: levels of pools and switches, flows of what is used up, cut anywhere and still exact."""

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
from lls.licensing.usage import Bucket, Fold, UsageLine, merge, read_usage_csv, usage_csv

SERVER = "lls_AAAAAAAAAAAAAAAAAAAAAA"
CAD = "ent_CADCADCADCADCADCADCADC"
CAM = "ent_CAMCAMCAMCAMCAMCAMCAMC"
DAY = datetime(2026, 11, 21, tzinfo=UTC)

Line = dict[str, Any]


def h(hours: float) -> timedelta:
    return timedelta(hours=hours)


def line(after: timedelta, kind: str, **data: Any) -> Line:
    return {"at": write_instant(DAY + after), "kind": kind, "data": data}


def noted(after: timedelta) -> Line:
    return line(after, "ReportSealed", report_id="rpt_AAAAAAAAAAAAAAAAAAAAAA", from_seq=1)


def pool(limit: int, *, unit: str | None = "core", key: str = "render", **more: Any) -> Line:
    told = {"feature": key, "type": "element_pool", "unit": unit, "currency": None, "value": limit, "limit": limit}
    return told | more


def counted(*, key: str = "frames", unit: str | None = "frame") -> Line:
    return {"feature": key, "type": "usage_count", "unit": unit, "currency": None, "value": 9, "limit": None}


def credit(currency: str | None = "EUR") -> Line:
    return {"feature": "money", "type": "credit", "unit": None, "currency": currency, "value": 9, "limit": None}


def switch() -> Line:
    return {"feature": "export", "type": "bool", "unit": None, "currency": None, "value": 1, "limit": None}


def installed(after: timedelta, *features: Line, entitlement: str = CAD, sku: str = "CAD-1Y") -> Line:
    item = {"entitlement_id": entitlement, "sku": sku, "product": "cad", "seats": 2, "features": list(features)}
    return line(after, "Installed", customer_ref="ACME", entitlements=[item])


def former(after: timedelta) -> Line:
    """The line of a release that told no features."""
    item = {"entitlement_id": CAD, "sku": "CAD-1Y", "product": "cad", "seats": 2}
    return line(after, "Installed", customer_ref="ACME", entitlements=[item])


def moved(
    after: timedelta, kind: str, amount: int, *, key: str = "render", entitlement: str = CAD, **more: Any
) -> Line:
    return line(after, kind, entitlement_id=entitlement, feature=key, amount=amount, request_id=None, **more)


def out(after: timedelta, amount: int, *, key: str = "render", **more: Any) -> Line:
    return moved(after, "FeatureCheckedOut", amount, key=key, **more)


def back(after: timedelta, amount: int, *, key: str = "render") -> Line:
    return moved(after, "FeatureReturned", amount, key=key)


def used(after: timedelta, amount: int, *, over: int = 0, key: str = "frames", kind: str = "Used") -> Line:
    return moved(after, kind, amount, key=key, over=over, draws={"allowance": amount - over, "overdraft": over})


def undone(after: timedelta, amount: int, *, over: int = 0) -> Line:
    return used(after, amount, over=over, kind="Undone")


def ended(after: timedelta, features: Mapping[str, int], *, kind: str = "Returned", freed: int = 1) -> Line:
    return line(after, kind, entitlement_id=CAD, freed=freed, features=dict(features))


def grant_ended(after: timedelta, amount: int, *, key: str = "render", **more: Any) -> Line:
    return moved(after, "GrantEnded", amount, key=key, lot="grt_A", consumed=0, lost=amount, **more)


def denied(after: timedelta, feature: str | None, *, entitlement: str | None = CAD) -> Line:
    named = {"product": "cad", "entitlement_id": entitlement, "feature": feature}
    return line(after, "Denied", **named, holder="aa" * 32, count=2)


def gone(after: timedelta) -> Line:
    return line(after, "ReturnedEntitlement", entitlement_id=CAD, session_id="ses_A", meters=[])


def fold(lines: Iterable[Line], carry: Mapping[str, Any] | None = None, *, bucket: Bucket = Bucket.DAY) -> Fold:
    folded = Fold(carry, server_id=SERVER, bucket=bucket)
    for each in lines:
        folded.step(each)
    return folded


def of(lines: Iterable[Line], feature: str = "render") -> list[UsageLine]:
    return [each for each in fold(lines).lines() if each.feature == feature]


def test_a_pool_of_units_is_told_in_one_line_beside_the_seats() -> None:
    day = [
        installed(h(6), pool(4)),
        line(h(7), "Granted", entitlement_id=CAD, product="cad", taken=1),
        out(h(7), 3),
        out(h(8), 2),
        back(h(9), 1),
        denied(h(9.5), "render"),
        ended(h(10), {"render": 4}),
        noted(h(12)),
    ]
    seats, units = fold(day).lines()
    assert ("", "seat", 2, 1, 1, 3 * 3600) == (
        seats.feature, seats.unit, seats.seats, seats.peak, seats.checkouts, seats.seat_seconds,
    )  # fmt: skip
    assert units == UsageLine(
        day="2026-11-21",
        server_id=SERVER,
        customer_ref="ACME",
        entitlement_id=CAD,
        sku="CAD-1Y",
        product="cad",
        feature="render",
        unit="core",
        seats=4,
        peak=5,
        low=0,
        seat_seconds=(3 + 5 + 4) * 3600,
        checkouts=2,
        denials=2,
        denied_holders=1,
        overdraft_peak=1,
        overdraft_seconds=3600,
        period_start=DAY + h(6),
        period_end=DAY + h(12),
    )


@pytest.mark.parametrize(
    ("feature", "unit", "limit"),
    [
        (pool(4), "core", 4),
        (pool(4, unit=None), "unit", 4),
        (counted(), "frame", None),
        (credit(), "EUR", None),
        (credit(None), "unit", None),
        (switch(), "lease", None),
    ],
)
def test_each_kind_of_feature_has_its_unit_and_its_limit(feature: Line, unit: str, limit: int | None) -> None:
    meter = fold([installed(h(0), feature)]).lines()[1]
    assert (feature["feature"], unit, limit) == (meter.feature, meter.unit, meter.seats)


def test_a_tracked_switch_counts_the_leases_that_have_it() -> None:
    lines = of(
        [installed(h(0), switch()), out(h(1), 1, key="export"), out(h(2), 1, key="export"),
         ended(h(3), {"export": 1}, kind="Expired"), noted(h(26))],
        "export",
    )  # fmt: skip
    assert [(2, 0, (1 + 2 + 21) * 3600, 2), (1, 1, 2 * 3600, 0)] == [
        (each.peak, each.low, each.seat_seconds, each.checkouts) for each in lines
    ]


def test_what_is_used_up_flows_and_has_no_level() -> None:
    lines = of(
        [installed(h(0), counted()), used(h(1), 9), used(h(2), 5, over=3), undone(h(3), 2, over=1), noted(h(60))],
        "frames",
    )
    assert [(None, 14, 2, 2, 0, 0)] == [
        (each.seats, each.consumed, each.undone, each.overage, each.peak, each.seat_seconds) for each in lines
    ]


def test_an_overage_that_is_undone_on_a_later_day_is_below_zero_there_so_that_the_sum_is_right() -> None:
    lines = of([installed(h(0), counted()), used(h(1), 5, over=3), undone(h(25), 5, over=3)], "frames")
    assert [(5, 0, 3), (0, 5, -3)] == [(each.consumed, each.undone, each.overage) for each in lines]
    assert lines == read_usage_csv(usage_csv(lines))
    assert b",-3," in usage_csv(lines)


def test_a_month_of_a_pool_in_use_is_told_by_days_without_lines() -> None:
    lines = of([installed(h(0), pool(4)), out(h(0), 2), noted(h(24 * 30))])
    assert 30 * 86_400 * 2 == sum(each.seat_seconds for each in lines)
    assert {2} == {each.peak for each in lines}


@pytest.mark.parametrize("kind", ["Returned", "Expired", "Released"])
def test_the_end_of_a_lease_frees_all_that_it_held(kind: str) -> None:
    lines = [installed(h(0), pool(4), switch()), out(h(1), 3), out(h(1), 1, key="export")]
    folded = fold([*lines, ended(h(2), {"render": 3, "export": 1}, kind=kind), noted(h(3))])
    assert [0, 3 * 3600, 3600] == [each.seat_seconds for each in sorted(folded.lines(), key=by_meter)]
    assert 0 == folded.levels


def by_meter(told: UsageLine) -> int:
    return ["", "render", "export"].index(told.feature)


def test_more_given_back_than_was_out_leaves_nothing_out() -> None:
    folded = fold([installed(h(0), pool(4)), out(h(1), 1), back(h(2), 5), out(h(3), 2), noted(h(4))])
    assert [2] == [meter["level"] for meter in folded.carry()["meters"]]


def test_an_end_names_features_that_nobody_checked_out_and_nothing_happens() -> None:
    assert [""] == [each.feature for each in fold([installed(h(0)), ended(h(1), {"strange": 5})]).lines()]


# --- limits -----------------------------------------------------------------------------------------------------------


def test_fewer_units_end_no_lease_and_count_as_overdraft_until_they_fit() -> None:
    lines = of([installed(h(0), pool(9)), out(h(1), 5), installed(h(2), pool(3)), back(h(3), 2), noted(h(4))])
    assert (3, 5, 2, 3600) == (
        lines[0].seats, lines[0].peak, lines[0].overdraft_peak, lines[0].overdraft_seconds,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ends", "limit"),
    [
        (grant_ended(h(2), 6), 4),
        (grant_ended(h(2), 60), 0),  # it began after the import: nobody has told that it did
        (grant_ended(h(2), 60, limit=9), 9),
        (line(h(2), "Overdraft", entitlement_id=CAD, feature="render", seats=7, in_use=8, over=1), 7),
        (out(h(2), 1, limit=12), 12),
    ],
)
def test_the_limit_of_a_pool_follows_what_the_journal_says_of_its_grants(ends: Line, limit: int) -> None:
    assert [limit] == [each.seats for each in of([installed(h(0), pool(10)), ends])]


def test_a_grant_that_ends_under_units_in_use_is_an_overdraft_from_then_on() -> None:
    lines = of([installed(h(0), pool(10)), out(h(1), 8), grant_ended(h(2), 6), noted(h(4))])
    assert (4, 4, 7200) == (lines[0].seats, lines[0].overdraft_peak, lines[0].overdraft_seconds)


def test_a_grant_of_what_is_used_up_changes_no_limit() -> None:
    lines = of([installed(h(0), counted()), grant_ended(h(1), 6, key="frames")], "frames")
    assert [(None, 0)] == [(each.seats, each.consumed) for each in lines]


def test_an_overdraft_of_seats_says_nothing_of_features() -> None:
    told = line(h(1), "Overdraft", entitlement_id=CAD, seats=2, in_use=3, over=1)
    assert [""] == [each.feature for each in fold([installed(h(0)), told]).lines()]


# --- updates ----------------------------------------------------------------------------------------------------------


def test_units_that_are_out_when_a_feature_changes_its_type_stay_out_until_they_come_back() -> None:
    changed = counted(key="render", unit="core")
    lines = of([installed(h(0), pool(4)), out(h(1), 3), installed(h(2), changed), back(h(3), 3), noted(h(4))])
    assert [(None, 3, 2 * 3 * 3600, 0)] == [
        (each.seats, each.peak, each.seat_seconds, each.overdraft_peak) for each in lines
    ]


def test_another_unit_is_another_meter_and_takes_over_what_is_out() -> None:
    lines = of([installed(h(0), pool(4)), out(h(1), 3), installed(h(2), pool(4, unit="gpu")), noted(h(3))])
    assert [("core", 3, 3 * 3600), ("gpu", 3, 3 * 3600)] == [
        (each.unit, each.peak, each.seat_seconds) for each in lines
    ]


def test_credit_in_another_currency_is_never_added_to_the_first() -> None:
    lines = of(
        [installed(h(0), credit()), used(h(1), 100, key="money"), installed(h(2), credit("USD")),
         used(h(3), 7, key="money"), installed(h(4), credit()), used(h(5), 11, key="money")],
        "money",
    )  # fmt: skip
    assert [("EUR", 111), ("USD", 7)] == [(each.unit, each.consumed) for each in lines]


def test_a_pool_that_an_update_drops_has_no_units_left_and_leaves_when_all_are_back() -> None:
    lines = [installed(h(0), pool(4)), out(h(1), 3), installed(h(2)), back(h(3), 3), installed(h(24)), noted(h(49))]
    assert [(0, 3, 3600)] == [
        (each.seats, each.overdraft_peak, each.overdraft_seconds) for each in of(lines) if each.peak
    ]
    assert [] == fold(lines).carry()["meters"]


def test_an_import_without_features_leaves_them_as_they_are() -> None:
    lines = of([installed(h(0), pool(4)), out(h(1), 3), former(h(2)), noted(h(3))])
    assert [(4, 6 * 3600)] == [(each.seats, each.seat_seconds) for each in lines]


def test_an_import_that_says_what_is_in_use_is_believed() -> None:
    lines = [installed(h(0), pool(4)), line(h(1), "Distrusted", entitlement_id=CAD), installed(h(2), pool(4, in_use=3))]
    assert [3] == [meter["level"] for meter in fold(lines).carry()["meters"]]


def test_a_feature_that_no_import_named_is_counted_in_units_without_a_limit() -> None:
    lines = of([former(h(0)), out(h(1), 3), noted(h(2))])
    assert [("unit", None, "CAD-1Y", "ACME", 3)] == [
        (each.unit, each.seats, each.sku, each.customer_ref, each.peak) for each in lines
    ]


# --- denials ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refused", "place"),
    [
        (denied(h(1), "render"), (CAD, "render")),
        (denied(h(1), "=strange thing"), (CAD, "")),
        (denied(h(1), None), (CAD, "")),
        (denied(h(1), "render", entitlement=None), ("", "")),
        (denied(h(1), "render", entitlement=CAM), ("", "")),
    ],
)
def test_a_denial_falls_on_the_feature_that_was_too_small(refused: Line, place: tuple[str, str]) -> None:
    lines = fold([installed(h(0), pool(4)), refused]).lines()
    assert [place] == [(each.entitlement_id, each.feature) for each in lines if each.denials]


def test_what_clients_ask_for_makes_no_meters() -> None:
    folded = fold([installed(h(0)), *(denied(h(1), f"made-up-{n}") for n in range(100))])
    assert [] == folded.carry()["meters"]
    assert 1 == len(folded.lines())


# --- the end of an entitlement ----------------------------------------------------------------------------------------


def test_an_entitlement_that_went_back_holds_nothing_and_leaves_the_state() -> None:
    granted = line(h(1), "Granted", entitlement_id=CAD, product="cad", taken=2)
    folded = fold([installed(h(0), pool(4)), granted, out(h(1), 3), gone(h(2)), noted(h(30))])
    assert [("", 2 * 3600, "CAD-1Y"), ("render", 3 * 3600, "CAD-1Y")] == [
        (each.feature, each.seat_seconds, each.sku) for each in folded.lines()
    ]
    assert ([], []) == (folded.carry()["pools"], folded.carry()["meters"])


def test_what_is_said_of_an_entitlement_after_it_went_back_spoils_no_line_of_its_day() -> None:
    late = [ended(h(3), {"render": 3}, kind="Expired"), denied(h(3), None), denied(h(3), "render")]
    folded = fold([installed(h(0), pool(4)), out(h(1), 3), gone(h(2)), *late, noted(h(4))])
    assert [("", "", 4), (CAD, "CAD-1Y", 0), (CAD, "CAD-1Y", 0)] == [
        (each.entitlement_id, each.sku, each.denials) for each in folded.lines()
    ]


def test_an_entitlement_that_comes_back_on_the_same_day_goes_on_in_its_line() -> None:
    again = [installed(h(3), pool(9), sku="CAD-2Y"), out(h(4), 1), noted(h(5))]
    lines = of([installed(h(0), pool(4)), out(h(1), 3), gone(h(2)), *again])
    assert [(9, "CAD-2Y", 4 * 3600, 2)] == [(each.seats, each.sku, each.seat_seconds, each.checkouts) for each in lines]


def test_distrusted_terms_hold_no_units() -> None:
    lines = [installed(h(0), pool(4)), out(h(1), 3), line(h(2), "Distrusted", entitlement_id=CAD), noted(h(3))]
    assert [3 * 3600] == [each.seat_seconds for each in of(lines)]


# --- bad data ---------------------------------------------------------------------------------------------------------

BEYOND = 2**53


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *((kind, {"amount": amount}) for kind in ("FeatureCheckedOut", "FeatureReturned", "Used", "Undone")
          for amount in (0, -1, BEYOND, True, "1", 1.0, None)),
        *((kind, {"feature": name}) for kind in ("FeatureCheckedOut", "Used", "GrantEnded")
          for name in (None, "", "a b", 7, "x" * 51)),
        *((kind, {"entitlement_id": name}) for kind in ("FeatureCheckedOut", "Undone") for name in (None, 7)),
        *((kind, {"over": over}) for kind in ("Used", "Undone") for over in (-1, 6, None, "1")),
        ("GrantEnded", {"amount": -1}),
        ("GrantEnded", {"limit": -1}),
        ("FeatureCheckedOut", {"limit": -1}),
        ("Overdraft", {"seats": -1}),
        ("ReturnedEntitlement", {"entitlement_id": None}),
        ("Returned", {"features": []}),
        ("Returned", {"features": 7}),
        *(("Returned", {"features": {"render": amount}}) for amount in (0, -2, True, BEYOND, "1", None)),
    ],
)  # fmt: skip
def test_what_no_ledger_writes_is_refused_by_name(kind: str, change: Line) -> None:
    data = {"entitlement_id": CAD, "feature": "render", "amount": 5, "over": 0, "freed": 0, "seats": 1} | change
    with pytest.raises(RefusedDocument, match=rf"^data\.({'|'.join(change)})"):
        fold([installed(h(0), pool(4)), line(h(1), kind, **data)])


@pytest.mark.parametrize(
    "feature",
    [
        {"type": "element_pool"},
        pool(4, key="a b"),
        pool(-1),
        pool(BEYOND),
        pool(4) | {"type": "dust"},
        pool(4, unit="x" * 51),
        credit("EURO"),
    ],
)
def test_an_import_that_tells_no_proper_feature_is_refused_by_name(feature: Line) -> None:
    with pytest.raises(RefusedDocument, match=r"^data\.entitlements\[0\]\.features\[0\]\."):
        fold([installed(h(0), feature)])


def test_a_feature_that_is_named_twice_is_refused() -> None:
    with pytest.raises(RefusedDocument, match=r"features\[1\]\.feature is named twice"):
        fold([installed(h(0), pool(4), counted(key="render"))])


def test_the_largest_amounts_add_up_without_loss() -> None:
    most = BEYOND - 1
    lines = of([installed(h(0), counted()), *(used(h(1), most, over=most) for _ in range(100))], "frames")
    assert [(100 * most, 100 * most)] == [(each.consumed, each.overage) for each in lines]
    assert lines == read_usage_csv(usage_csv(lines))


# --- ranges -----------------------------------------------------------------------------------------------------------


def test_a_carry_of_the_release_before_is_taken_up() -> None:
    seat = {"entitlement_id": CAD, "product": "cad", "sku": "CAD-1Y", "customer_ref": "ACME", "seats": 2, "level": 1}
    carry = {
        "at": write_instant(DAY),
        "reset_to": None,
        "bucket": "day",
        "customer_ref": "ACME",
        "pools": [seat],
        "rests": [{"entitlement_id": CAD, "used": 600_000, "over": 0}],
    }
    folded = fold([out(h(1) + timedelta(microseconds=400_000), 3), noted(h(2))], carry)
    assert [("", "seat", 7200), ("render", "unit", 3 * 3600 - 2)] == [
        (each.feature, each.unit, each.seat_seconds) for each in folded.lines()
    ]
    assert [seat] == folded.carry()["pools"]


def test_memory_grows_with_features_and_not_with_lines() -> None:
    small = [installed(h(0), pool(4), counted()), *([out(h(1), 2), used(h(1), 1), back(h(1), 2)] * 2), noted(h(2))]
    large = [installed(h(0), pool(4), counted()), *([out(h(1), 2), used(h(1), 1), back(h(1), 2)] * 500), noted(h(2))]
    assert fold(small).carry() == fold(large).carry()


def key_of(feature: Line) -> str:
    return str(feature["feature"])


GAPS = st.one_of(
    st.just(0),
    st.integers(-5_000_000, 5_000_000),
    st.integers(0, 7_200_000_000),
    st.integers(0, 3 * 86_400_000_000),
    st.just(86_400_000_000),
)
ENTITLEMENTS = st.sampled_from([CAD, CAM])
KEYS = st.sampled_from(["render", "frames"])
AMOUNTS = st.integers(1, 4)
LIMITS = st.one_of(st.none(), st.integers(0, 4))
TOLD: st.SearchStrategy[Line] = st.one_of(
    st.builds(pool, st.integers(0, 4), key=KEYS, in_use=LIMITS, unit=st.sampled_from(["core", "gpu", None])),
    st.builds(counted, key=KEYS, unit=st.sampled_from(["core", "frame"])),
    st.just(switch()),
)
FEATURES: st.SearchStrategy[list[Line]] = st.lists(TOLD, max_size=3, unique_by=key_of)
SAID = st.one_of(
    st.fixed_dictionaries({"kind": st.sampled_from(["FeatureCheckedOut", "FeatureReturned"]),
                           "entitlement_id": ENTITLEMENTS, "feature": KEYS, "amount": AMOUNTS, "limit": LIMITS}),
    st.fixed_dictionaries({"kind": st.sampled_from(["Used", "Undone"]), "entitlement_id": ENTITLEMENTS,
                           "feature": KEYS, "amount": AMOUNTS, "over": st.integers(0, 1)}),
    st.fixed_dictionaries({"kind": st.sampled_from(["Returned", "Expired", "Released"]),
                           "entitlement_id": ENTITLEMENTS, "freed": st.integers(0, 2),
                           "features": st.dictionaries(KEYS, AMOUNTS)}),
    st.fixed_dictionaries({"kind": st.just("Granted"), "entitlement_id": ENTITLEMENTS, "product": st.just("cad"),
                           "taken": st.integers(0, 2)}),
    st.fixed_dictionaries({"kind": st.just("GrantEnded"), "entitlement_id": ENTITLEMENTS, "feature": KEYS,
                           "amount": AMOUNTS, "limit": LIMITS}),
    st.fixed_dictionaries({"kind": st.just("Overdraft"), "entitlement_id": ENTITLEMENTS, "seats": LIMITS,
                           "feature": st.one_of(st.none(), KEYS)}),
    st.fixed_dictionaries({"kind": st.just("Denied"), "product": st.just("cad"), "count": AMOUNTS,
                           "entitlement_id": st.one_of(st.none(), ENTITLEMENTS),
                           "feature": st.one_of(st.none(), KEYS), "holder": st.just("aa" * 32)}),
    st.fixed_dictionaries({"kind": st.sampled_from(["Distrusted", "ReturnedEntitlement"]),
                           "entitlement_id": ENTITLEMENTS}),
    st.fixed_dictionaries({"kind": st.just("Installed"), "entitlement_id": ENTITLEMENTS,
                           "features": FEATURES}),
    st.fixed_dictionaries({"kind": st.just("Reset"), "back": st.integers(0, 3 * 86_400_000_000)}),
)  # fmt: skip


def told(said: Sequence[tuple[int, Line]]) -> list[Line]:
    at, lines = DAY, [installed(h(0), pool(3), counted()), installed(h(0), pool(2), entitlement=CAM)]
    for n, (gap, each) in enumerate(said):
        at += timedelta(microseconds=gap)
        data = {name: value for name, value in each.items() if name != "kind"}
        kind = each["kind"]
        if kind == "Installed":
            data = installed(h(0), *data["features"], entitlement=data["entitlement_id"], sku=f"S{n}")["data"]
        elif kind == "Reset":
            kind, to = "Installed", max(DAY, at - timedelta(microseconds=data["back"]))
            data = {"customer_ref": f"C{n}", "entitlements": [], "clock_reset_to": write_instant(to)}
            lines.append({"at": write_instant(at), "kind": kind, "data": data})
            at, kind, data = to, "ReportSealed", {}
        lines.append({"at": write_instant(at), "kind": kind, "data": data})
    return lines


JOURNALS = st.lists(st.tuples(GAPS, SAID), min_size=1, max_size=40).map(told)
BUCKETS = st.sampled_from(Bucket)


def comparable(lines: Sequence[UsageLine]) -> list[UsageLine]:
    """Without what may differ by rule 5 of the module."""
    return [replace(each, denied_holders=0, period_start=DAY, period_end=DAY) for each in lines]


@settings(max_examples=400, deadline=None)
@given(JOURNALS, st.lists(st.integers(0, 40), max_size=5), BUCKETS)
def test_ranges_cut_anywhere_merge_to_the_whole(journal: list[Line], cuts: list[int], bucket: Bucket) -> None:
    whole = fold(journal, bucket=bucket)
    parts: list[UsageLine] = []
    carry: dict[str, Any] | None = None
    for start, end in pairwise([0, *sorted(min(cut, len(journal)) for cut in cuts), len(journal)]):
        part = fold(journal[start:end], carry, bucket=bucket)
        carry = json.loads(json.dumps(part.carry()))
        parts += part.lines()
    assert carry is not None
    assert comparable(merge(whole.lines())) == comparable(whole.lines()) == comparable(merge(parts))
    for name in ("pools", "meters"):
        assert sorted(whole.carry()[name], key=str) == sorted(carry[name], key=str)


@settings(max_examples=200, deadline=None)
@given(JOURNALS, BUCKETS)
def test_flows_and_checkouts_are_those_of_a_plain_count(journal: list[Line], bucket: Bucket) -> None:
    expected: dict[tuple[str, str, str], int] = defaultdict(int)
    for each in journal:
        data = each["data"]
        place = (data.get("entitlement_id") or "", data.get("feature") or "")
        if each["kind"] in ("Used", "Undone"):
            sign = 1 if each["kind"] == "Used" else -1
            expected[*place, each["kind"]] += data["amount"]
            expected[*place, "over"] += sign * data["over"]
        elif each["kind"] == "FeatureCheckedOut":
            expected[*place, "checkouts"] += 1
    actual: dict[tuple[str, str, str], int] = defaultdict(int)
    for usage in fold(journal, bucket=bucket).lines():
        place = (usage.entitlement_id, usage.feature)
        if usage.feature:
            actual[*place, "Used"] += usage.consumed
            actual[*place, "Undone"] += usage.undone
            actual[*place, "over"] += usage.overage
            actual[*place, "checkouts"] += usage.checkouts
    assert {key: value for key, value in expected.items() if value} == {
        key: value for key, value in actual.items() if value
    }


@settings(max_examples=100, deadline=None)
@given(JOURNALS, BUCKETS)
def test_a_table_with_features_reads_back_as_it_was(journal: list[Line], bucket: Bucket) -> None:
    lines = fold(journal, bucket=bucket).lines()
    assert lines == read_usage_csv(usage_csv(lines))


@settings(max_examples=100, deadline=None)
@given(JOURNALS)
def test_a_day_without_a_line_is_told_once_for_each_level(journal: list[Line]) -> None:
    folded = fold(journal)
    end = datetime.fromisoformat(folded.carry()["at"])
    levels = folded.levels
    after = fold([{"at": write_instant(end + timedelta(days=2)), "kind": "ReportSealed", "data": {}}], folded.carry())
    idle_day = (end + timedelta(days=1)).date().isoformat()
    assert levels == sum(1 for each in after.lines() if each.day == idle_day)
