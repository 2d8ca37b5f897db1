"""How many denials other numbers of seats would have left: stories by hand, and a small server by chance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lls.faults import RefusedDocument
from lls.licensing.denial import Denial
from lls.licensing.denials import Folding
from lls.licensing.fields import write_instant
from lls.licensing.whatif import Outcome, WhatIf

CAD = "ent_CADCADCADCADCADCADCADC"
OLD = "ent_OLDOLDOLDOLDOLDOLDOLDO"
DAY = datetime(2026, 11, 21, tzinfo=UTC)
MANY = 10**9

Line = dict[str, Any]


def m(minutes: float) -> timedelta:
    return timedelta(minutes=minutes)


def line(after: timedelta, kind: str, **data: Any) -> Line:
    return {"at": write_instant(DAY + after), "kind": kind, "data": data}


def installed(after: timedelta, *, product: str = "cad", entitlement: str = CAD, **more: Any) -> Line:
    item = {"entitlement_id": entitlement, "sku": "S", "product": product, "seats": 1, **more}
    return line(after, "Installed", customer_ref="ACME", entitlements=[item])


def granted(after: timedelta, who: str, *, taken: int = 1, product: str = "cad", entitlement: str = CAD) -> Line:
    ids = {"lease_id": f"{who} {product}", "entitlement_id": entitlement, "product": product}
    return line(after, "Granted", **ids, taken=taken, seats=1, holder={"seat_id": who})


def returned(after: timedelta, who: str, *, freed: int = 1, entitlement: str = CAD, kind: str = "Returned") -> Line:
    return line(after, kind, lease_id=f"{who} cad", entitlement_id=entitlement, freed=freed)


def denied(
    after: timedelta, who: str | None, *, count: int = 1, code: str = "no_seat", seats: int = 1, product: str = "cad"
) -> Line:
    """A first denial; with a ``count`` beyond one the repeats that a minute's end tells."""
    data: Line = {"code": code, "product": product, "entitlement_id": None, "seats": seats, "holder": who}
    named = {"named": {"seat_id": who}} if count == 1 and who else {}
    return line(after, "Denied", **data, count=count, **named)


def ask(lines: Iterable[Line], seats: int, **more: Any) -> Outcome:
    replay = WhatIf("cad", seats=seats, **more)
    for each in lines:
        replay.step(each)
    return replay.result()


def left(lines: Iterable[Line], *numbers: int) -> list[int]:
    told = list(lines)
    return [ask(told, seats).would_remain for seats in numbers]


def test_the_answer_names_what_it_counted() -> None:
    day = [
        installed(m(0)),
        granted(m(1), "a"),
        denied(m(2), "b"),
        denied(m(2), "c"),
        denied(m(3), "b", count=4),
        denied(m(3), "d", code="reserved"),
        denied(m(3), "e", code="excluded"),
        denied(m(3), "e", code="entitlement_expired"),
        denied(m(3), "a", code="no_feature_units"),
        denied(m(3), "z", product="cam"),
        returned(m(9), "a"),
    ]
    outcome = ask(day, 2)
    assert outcome == Outcome(
        product="cad",
        seats=2,
        requests=11,
        denials=10,
        denied_holders=5,
        true_denials=6,
        policy_denials=2,
        would_remain=1,
        would_remain_holders=1,
        peak=2,
        lines_read=11,
        assumption=outcome.assumption,
    )
    assert "at least a minute" in outcome.assumption


def test_one_more_seat_seats_one_more_and_two_seat_both() -> None:
    day = [installed(m(0)), granted(m(1), "a"), denied(m(2), "b"), denied(m(2), "c"), returned(m(30), "a")]
    assert [2, 1, 0, 0] == left(day, 1, 2, 3, MANY)


def test_wider_wishes_need_wider_room() -> None:
    day = [installed(m(0)), granted(m(1), "a", taken=2), denied(m(2), "b", seats=3)]
    assert [1, 1, 0] == left(day, 2, 4, 5)


def test_a_hypothetical_seat_lasts_until_the_machine_really_gets_one() -> None:
    day = [installed(m(0)), granted(m(0), "x"), returned(m(60), "x")]  # leases last an hour
    day += [granted(m(61), "a"), denied(m(62), "b"), returned(m(63), "a"), granted(m(64), "b"), denied(m(65), "c")]
    assert [2, 0] == left(day, 1, 2)
    assert 2 == ask(day, 2).peak


def test_a_hypothetical_seat_lasts_for_the_mean_of_the_leases_before() -> None:
    day = [installed(m(0)), granted(m(0), "x"), granted(m(0), "y"), returned(m(10), "x"), returned(m(30), "y")]
    day += [granted(m(31), "a"), denied(m(32), "b")]
    assert [2, 1] == left([*day, denied(m(51), "c")], 1, 2)
    assert [2, 0] == left([*day, denied(m(52), "c")], 1, 2)


@pytest.mark.parametrize(("minutes", "expected"), [(0.9, 1), (1.0, 0)])
def test_a_hypothetical_seat_lasts_a_minute_at_least(minutes: float, expected: int) -> None:
    day = [installed(m(0)), granted(m(0), "x"), returned(m(0), "x"), granted(m(1), "a"), denied(m(2), "b")]
    assert [expected] == left([*day, denied(m(2 + minutes), "c")], 2)


def test_repeats_share_the_fate_of_the_first() -> None:
    day = [installed(m(0)), granted(m(0), "a"), denied(m(1), "b"), returned(m(1.5), "a"), denied(m(2.01), "b", count=9)]
    # At the minute's end a seat is free; when it was asked for, none was.
    assert [10, 0] == left(day, 1, 2)


def test_repeats_do_not_come_after_a_seat_that_the_machine_really_got() -> None:
    day = [installed(m(0)), granted(m(0), "a"), denied(m(1), "b"), returned(m(1.1), "a"), granted(m(1.2), "b")]
    assert [6, 0] == left([*day, denied(m(2.01), "b", count=5)], 1, 2)


def test_a_machine_that_would_sit_asks_for_no_second_seat() -> None:
    day = [installed(m(0)), granted(m(0), "x"), returned(m(60), "x"), granted(m(60), "a")]
    day += [denied(m(61), "b"), denied(m(70), "b"), denied(m(71.01), "b", count=3), denied(m(80), "c")]
    assert [6, 1, 0] == left(day, 1, 2, 3)


def test_a_refused_machine_is_judged_anew_when_it_asks_anew() -> None:
    day = [installed(m(0)), granted(m(0), "a"), granted(m(0), "b"), denied(m(1), "c"), returned(m(5), "b")]
    assert [1] == left([*day, denied(m(6), "c")], 2)


def test_denials_without_a_holder_are_as_many_wishes() -> None:
    day = [installed(m(0)), granted(m(0), "a"), denied(m(1), None, count=1000, seats=2)]
    assert [1000, 1000, 999, 990, 0, 0] == left(day, 1, 2, 3, 21, 2001, MANY)
    assert (0, 0) == (ask(day, 3).denied_holders, ask(day, 3).would_remain_holders)


def test_what_no_seat_would_have_helped_against_is_no_true_denial() -> None:
    codes = ["reserved", "holder_limit", "excluded", "no_feature_units", "not_entitled", "version_not_covered", "new"]
    outcome = ask([installed(m(0)), *(denied(m(1), code, code=code) for code in codes)], 0)
    assert (7, 0, 3, 0) == (outcome.denials, outcome.true_denials, outcome.policy_denials, outcome.would_remain)


def test_all_entitlements_of_a_product_are_one_pool() -> None:
    day = [installed(m(0)), installed(m(0), entitlement=OLD), granted(m(1), "a"), granted(m(1), "b", entitlement=OLD)]
    assert [1, 0] == left([*day, denied(m(2), "c")], 2, 3)


def test_other_products_take_no_seats() -> None:
    other = installed(m(0), product="cam", entitlement=OLD)
    day = [installed(m(0)), other, granted(m(1), "a", product="cam", entitlement=OLD, taken=50), denied(m(2), "b")]
    assert [0] == left(day, 1)


@pytest.mark.parametrize("kind", ["Distrusted", "ReturnedEntitlement"])
def test_an_entitlement_that_is_gone_holds_nothing(kind: str) -> None:
    day = [installed(m(0)), granted(m(1), "a"), line(m(2), kind, entitlement_id=CAD), returned(m(3), "a")]
    assert [0] == left([*day, denied(m(4), "b")], 1)


def test_an_import_says_what_is_in_use() -> None:
    day = [installed(m(0)), granted(m(1), "a", taken=4), installed(m(2), in_use=1), denied(m(3), "b")]
    assert [1, 0] == left(day, 1, 2)


def test_an_entitlement_that_becomes_another_product_takes_its_seats_along() -> None:
    day = [installed(m(0)), granted(m(1), "a"), installed(m(2), product="cam"), denied(m(3), "b")]
    assert [0] == left(day, 1)


def test_only_the_range_is_counted_and_what_was_before_it_still_sits() -> None:
    day = [installed(m(0)), granted(m(1), "a"), denied(m(2), "b"), denied(m(60), "c"), denied(m(120), "d")]
    outcome = ask(day, 1, since=DAY + m(60), until=DAY + m(120))
    assert (1, 1, 1, 1, 5) == (
        outcome.requests, outcome.true_denials, outcome.would_remain, outcome.peak, outcome.lines_read,
    )  # fmt: skip


def test_nothing_was_read_and_nothing_happened() -> None:
    outcome = WhatIf("cad", seats=3).result()
    assert (0, 0, 0, 0, 0) == (
        outcome.requests, outcome.denials, outcome.would_remain, outcome.peak, outcome.lines_read,
    )  # fmt: skip


def test_a_clock_that_is_put_right_ends_what_is_hypothetical_and_spoils_no_mean() -> None:
    far = m(60 * 24 * 1000)
    put_right = {"customer_ref": "ACME", "entitlements": [], "clock_reset_to": write_instant(DAY)}
    day = [installed(far), granted(far, "a"), denied(far + m(1), "b"), line(far + m(2), "Installed", **put_right)]
    day += [returned(m(1), "a"), granted(m(2), "c"), denied(m(3), "d"), denied(m(4.5), "e")]
    # "b" would not sit for a thousand days more, and "a" did not sit for minus a thousand.
    assert [0] == left(day, 2)


def test_time_that_goes_back_counts_as_standing_still() -> None:
    day = [installed(m(5)), granted(m(6), "a"), denied(m(7), "b"), denied(m(1), "c"), denied(m(7.5), "d")]
    assert [2] == left(day, 2)


def test_fewer_than_no_seats_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="no seats"):
        WhatIf("cad", seats=-1)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"kind": "Granted", "taken": "1"}, "data.taken"),
        ({"kind": "Granted", "holder": None}, "data.holder"),
        ({"kind": "Granted", "lease_id": 7}, "data.lease_id"),
        ({"kind": "Returned", "freed": -1}, "data.freed"),
        ({"kind": "Denied", "count": 0}, "data.count"),
        ({"kind": "Denied", "seats": 0}, "data.seats"),
        ({"kind": "Denied", "code": None}, "data.code"),
        ({"kind": "Installed", "entitlements": {}}, "data.entitlements"),
        ({"kind": "Distrusted", "entitlement_id": None}, "data.entitlement_id"),
    ],
)
def test_what_no_ledger_writes_is_refused_by_name(change: Line, place: str) -> None:
    data = {"entitlement_id": CAD, "product": "cad", "lease_id": "x", "taken": 1, "freed": 1, "code": "no_seat"}
    data |= {"seats": 1, "count": 1, "holder": {"seat_id": "a"} if change["kind"] == "Granted" else "a"}
    with pytest.raises(RefusedDocument, match=place.replace(".", r"\.")):
        ask([line(m(0), change["kind"], **data | {key: value for key, value in change.items() if key != "kind"})], 1)


# --- a small server by chance -----------------------------------------------------------------------------------------


@dataclass
class Small:
    """Grants and denies as a server with one entitlement does, and writes what it would write."""

    seats: int
    lines: list[Line] = field(default_factory=lambda: [installed(m(0))])
    folding: Folding = field(default_factory=Folding)
    seated: dict[str, int] = field(default_factory=dict)
    denials: int = 0
    now: float = 0.0

    def wait(self, seconds: float) -> None:
        """Time goes on; the minute's end is noticed within a second."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1)
            if self.folding.over(self.now):
                self.close()

    def close(self) -> None:
        after = timedelta(seconds=self.now)
        for repeats in self.folding.take():
            told = denied(after, repeats.holder, count=2, seats=repeats.denial.asked)
            told["data"]["count"] = repeats.count
            self.lines.append(told)

    def ask(self, who: str, seats: int) -> None:
        after = timedelta(seconds=self.now)
        if who in self.seated:
            self.lines.append(returned(after, who, freed=self.seated.pop(who)))
        elif sum(self.seated.values()) + seats <= self.seats:
            self.seated[who] = seats
            self.lines.append(granted(after, who, taken=seats))
        else:
            self.denials += 1
            refusal = Denial(code="no_seat", rule="seats", detail="", product="cad", asked=seats)
            if self.folding.note(refusal, who, elapsed=self.now):
                self.lines.append(denied(after, who, seats=seats))


ACTS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1, 7, 20, 59, 61, 300, 4000]), st.sampled_from("abcdef"), st.integers(1, 2)),
    min_size=5,
    max_size=60,
)


def lived(seats: int, acts: list[tuple[float, str, int]]) -> Small:
    server = Small(seats)
    for gap, who, wide in acts:
        server.wait(gap)
        server.ask(who, wide)
    server.wait(62)
    return server


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 4), ACTS)
def test_with_todays_seats_all_true_denials_remain(seats: int, acts: list[tuple[float, str, int]]) -> None:
    server = lived(seats, acts)
    outcome = ask(server.lines, seats)
    assert server.denials == outcome.true_denials == outcome.would_remain


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 4), ACTS)
def test_from_the_peak_of_the_demand_on_none_remain(seats: int, acts: list[tuple[float, str, int]]) -> None:
    lines = lived(seats, acts).lines
    demand = ask(lines, MANY).peak
    assert [0, 0, 0] == left(lines, demand, demand + 1, MANY)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 4), ACTS, st.integers(0, 12))
def test_never_more_remain_than_there_were(seats: int, acts: list[tuple[float, str, int]], other: int) -> None:
    outcome = ask(lived(seats, acts).lines, other)
    assert outcome.would_remain <= outcome.true_denials <= outcome.denials
    assert outcome.would_remain_holders <= outcome.denied_holders


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 4), ACTS, st.integers(0, 12))
def test_lines_of_the_release_before_keep_the_bounds(
    seats: int, acts: list[tuple[float, str, int]], other: int
) -> None:
    lines = lived(seats, acts).lines
    for each in lines:
        each["data"].pop("named", None)
    outcome = ask(lines, other)
    assert outcome.would_remain <= outcome.true_denials
    assert 0 == ask(lines, ask(lines, MANY).peak).would_remain


def test_a_promised_seat_is_where_todays_seats_leave_fewer() -> None:
    # "a" has returned, and the seat waits for "w", who was before "b": the journal does not tell of waiting.
    day = [installed(m(0)), granted(m(1), "a"), returned(m(2), "a"), denied(m(2), "b"), granted(m(2.1), "w")]
    assert [0] == left(day, 1)
