"""What leases do with features: calls and their repetition, undo, reset, what is held, the group in flight."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lls.faults import AlreadyUndone, BadRequest, NotHeld, RequestIdTaken, UndoTooLate, UnknownFeature
from lls.licensing.answered import Answered
from lls.licensing.changes import AnsweredRequest, FeatureAct, LotUse
from lls.licensing.denial import Cause, Denial
from lls.licensing.entitlement import (
    MOST_UNITS,
    GrantExpiry,
    Overdraft,
    OverdraftType,
)
from lls.licensing.meters import FeatureLevel, Meters
from tests.licensing.metering import (
    DAY,
    ENT,
    INSTANT,
    T0,
    Site,
    figures,
    grant,
    lease,
    now_at,
    pool,
    switch,
    terms,
    uses,
)

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


def test_every_answered_call_has_a_number_of_its_own_that_an_undo_keeps() -> None:
    site = Site(terms(uses(10, undo_seconds=60), pool(1, overdraft=Overdraft(type=OverdraftType.ABSOLUTE, value=2))))
    site.use(3, request_id="a")
    site.check_out(3, request_id="b")  # goes over: a second line
    site.give_back(1, request_id="c")
    site.use(1, request_id="d")
    before = [site.request(one).seq for one in "abcd"]
    assert sorted(set(before)) == before
    site.undo(3, "a")
    assert before == [site.request(one).seq for one in "abcd"]
    site.restart()
    assert before == [site.request(one).seq for one in "abcd"]


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


def test_requests_are_forgotten_although_one_before_them_is_kept_for_a_year() -> None:
    site = Site(terms(uses(10**6, undo_seconds=365 * 86_400), uses(10**6, key="shots")))
    site.use(1, request_id="long")
    for days in range(1, 6):
        site.at = T0 + days * DAY
        for number in range(3):
            site.use(1, key="shots", request_id=f"{days} {number}")
        site.at += timedelta(hours=1)
        site.meters.forget(site.now)
        site.commit()
    assert {"long", "5 0", "5 1", "5 2", "4 0", "4 1", "4 2"} == {request_id for _, request_id in site.requests}
    assert site.meters.answered("one", "long") is not None
    site.undo(1, "long")
    site.at += timedelta(minutes=2)
    site.meters.forget(site.now)
    site.commit()
    assert site.meters.answered("one", "long") is None
    assert ("one", "long") not in site.requests


def test_a_year_of_uses_is_forgotten_each_at_its_time() -> None:
    site = Site(terms(uses(10**6, undo_seconds=30 * 86_400), uses(10**6, key="shots", undo_seconds=2 * 86_400)))
    site.use(1, request_id="long")
    site.use(1, key="shots", request_id="short")
    for days, left in ((1.5, {"long", "short"}), (2.5, {"long"}), (29.9, {"long"}), (30.1, set())):
        site.at = T0 + days * DAY
        site.meters.forget(site.now)
        site.commit()
        assert left == {request_id for _, request_id in site.requests}


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


@pytest.mark.parametrize("back", [timedelta(minutes=2), DAY, 365 * DAY])
def test_a_use_of_a_future_that_was_taken_back_is_never_undone(back: timedelta) -> None:
    site = Site(terms(uses(5, undo_seconds=60), starts_at=T0 - 400 * DAY))
    site.use(1, request_id="before")
    site.at += timedelta(minutes=10)
    site.use(2, request_id="r")
    site.at -= back
    for _ in range(2):
        with pytest.raises(UndoTooLate):
            site.undo(2, "r")
        site.meters.forget(site.now)
        site.commit()
        site.restart()
    site.at += back
    with pytest.raises(UndoTooLate):
        site.undo(2, "r")
    site.at += timedelta(hours=26)
    site.meters.forget(site.now)
    site.commit()
    assert {} == site.requests


def test_a_use_while_the_clock_is_ahead_may_be_undone_in_its_time() -> None:
    site = Site(terms(uses(5, undo_seconds=60)))
    site.ahead = DAY
    site.use(2, request_id="r")
    site.use(1, request_id="s")
    site.use(1, request_id="t")
    site.restart()
    site.at += timedelta(seconds=59)
    assert 2 == site.undo(2, "r").consumed
    site.ahead += timedelta(seconds=1)
    with pytest.raises(UndoTooLate):
        site.undo(1, "s")
    site.ahead = timedelta(0)
    assert 1 == site.undo(1, "s").consumed
    site.at += timedelta(seconds=1)
    with pytest.raises(UndoTooLate):
        site.undo(1, "t")


# -------------------------------------------------------------------- the vendor's reset


def test_a_reset_begins_all_lots_in_force_anew() -> None:
    over = Overdraft(type=OverdraftType.ABSOLUTE, value=9)
    ended = grant("ended", 2, GrantExpiry.AT, at=T0 + DAY)
    site = Site(terms(uses(5, grant("a", 4), ended, overdraft=over, undo_seconds=10**6), uses(5, key="shots"), pool(3)))
    site.use(13, request_id="r")
    site.use(1, key="shots")
    site.at = T0 + DAY
    told = site.meters.reset([(ENT, "frames")], now=site.now)
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


def test_a_reset_reaches_what_a_clock_put_forward_hides() -> None:
    """The line tells the sum alone, so the vendor takes all that has not ended for cleared; and so it is."""
    site = Site(terms(uses(5, grant("a", 10, GrantExpiry.AT, at=T0 + 30 * DAY))))
    site.use(12)
    site.ahead = 40 * DAY
    told = site.meters.reset([(ENT, "frames")], now=site.now)
    assert [(12, 0)] == [(one["consumed"], one["overage"]) for one in told]
    site.commit()
    site.ahead = timedelta(0)
    site.restart()
    assert (15, 15, 0, 0) == figures(site.level())


def test_a_reset_of_all_features_leaves_what_is_held() -> None:
    site = Site(terms(uses(5), uses(5, key="shots"), pool(3), switch()))
    site.use(2)
    site.check_out(3)
    told = site.meters.reset([(ENT, None)], now=site.now)
    assert [("frames", 2), ("shots", 0)] == [(one["feature"], one["consumed"]) for one in told]
    assert 0 == site.level("render", committed=False).available
    assert [] == site.meters.reset([("ent_unknown", None)], now=site.now)
    assert [] == site.meters.reset([(ENT, "render")], now=site.now)


def test_a_reset_finds_counters_without_terms() -> None:
    over = Overdraft(type=OverdraftType.ABSOLUTE, value=9)
    site = Site(terms(uses(5, overdraft=over, undo_seconds=60), uses(5, key="shots")))
    site.use(7, request_id="r")
    site.update(terms(uses(5, key="shots")))
    told = site.meters.reset([(ENT, None)], now=site.now)
    site.commit()
    assert [("frames", 7, 2), ("shots", 0, 0)] == [(one["feature"], one["consumed"], one["overage"]) for one in told]
    site.update(terms(uses(5, overdraft=over, undo_seconds=60)))
    assert (14, 5, 0, 0) == figures(site.level())
    with pytest.raises(UndoTooLate):
        site.undo(7, "r")


@pytest.mark.parametrize("lost", ["feature", "trust"])
def test_a_reset_reaches_what_its_own_bundle_brings_back(lost: str) -> None:
    bought = terms(uses(5, grant("a", 4, GrantExpiry.AT, at=T0 + DAY), undo_seconds=60))
    site = Site(bought)
    site.use(6)
    if lost == "feature":
        site.update(terms())
    else:
        site.distrust()
        site.at = T0 + DAY
    told = site.meters.reset([(ENT, "frames"), (ENT, None)], coming={ENT: bought}, now=site.now)
    assert [2] == [one["consumed"] for one in told]
    site.update(bought)
    assert (5, 5, 0, 0) == figures(site.level())
    assert [("grt_a", 4)] == [(one["lot"], one["consumed"]) for one in site.ended()]


def test_a_reset_of_many_features_walks_through_the_answered_calls_once(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(terms(*(uses(5, key=f"f{number}") for number in range(20))))
    walks: list[str] = []
    walk = Answered.open_uses

    def counted(self: Answered, entitlement_id: str) -> list[AnsweredRequest]:
        walks.append(entitlement_id)
        return walk(self, entitlement_id)

    monkeypatch.setattr(Answered, "open_uses", counted)
    site.meters.reset([(ENT, f"f{number}") for number in range(20)], now=site.now)
    assert [ENT] == walks


def test_what_went_back_is_not_undone_in_another_session() -> None:
    site = Site(terms(uses(10, undo_seconds=86_400)))
    site.use(10, request_id="r")
    site.meters.close(ENT)
    site.commit()
    site.update(site.entitlement)
    site.use(10, by="two")
    with pytest.raises(UndoTooLate):
        site.undo(10, "r")
    site.restart()
    with pytest.raises(UndoTooLate):
        site.undo(10, "r")
    assert 10 == site.level().consumed


def test_after_a_reset_a_use_may_be_undone_again() -> None:
    site = Site(terms(uses(5, undo_seconds=60)))
    site.use(2)
    site.meters.reset([(ENT, None)], now=site.now)
    site.use(3, request_id="new")
    assert 0 == site.undo(3, "new").consumed


# -------------------------------------------------------------------- element pools and switches


def test_a_pool_is_held_and_comes_back() -> None:
    site = Site(terms(pool(4, grant("a", 2))))
    level = site.check_out(5, request_id="r")
    assert isinstance(level, FeatureLevel)
    assert (5, 1, 6, 0) == (level.held, level.available, level.total, level.consumed)
    moved = {"lease_id": "one", "entitlement_id": ENT, "feature": "render", "amount": 5, "request_id": "r"}
    assert {"kind": "FeatureCheckedOut", **moved, "limit": 6} == site.journal[-1]
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
    assert (2, 0, 2, 1) == tuple(lines[0][name] for name in ("amount", "consumed", "lost", "limit"))
    assert {"render": 3} == site.leases["one"].features


def test_a_pool_whose_grant_ended_while_nobody_was_there_is_told_like_any() -> None:
    site = Site(terms(pool(1, grant("a", 3, GrantExpiry.AT, at=T0 + DAY))))
    site.check_out(4)
    site.at = T0 + 2 * DAY
    site.restart()
    assert [("GrantEnded", None), ("Overdraft", 3)] == [(line["kind"], line.get("over")) for line in site.sweep()]


def test_after_a_restart_reads_show_what_leases_hold() -> None:
    site = Site(terms(pool(4)))
    site.check_out(3)
    site.restart()
    assert 1 == site.level("render", committed=True).available


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
    site.meters.reset([(ENT, None)], now=site.now)
    site.meters.open(terms(uses(20), switch()), now=site.now)
    site.meters.put_back(ENT, site.entitlement)
    site.meters.abandon()
    assert before == site.meters.levels(None, ENT, now=site.now, committed=True)


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
