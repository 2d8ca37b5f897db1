"""Promises about counting features: each call counts once, and says what there is now."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from lls.client import EventKind, LicenseServers, NoAnswer, Refused, SeatLost, Use, aio
from tests.client.fakes import FakeServer, TlsKey, Vendor, running, twin_of
from tests.client.heard import Heard

Connect = Callable[..., LicenseServers]


@pytest.mark.parametrize("key", ["render", "cash", "metered", "gpu", "expert"])
def test_every_figure_of_a_feature_is_read(server: FakeServer, connect: Connect, key: str) -> None:
    with connect(server).checkout("cad") as seat:
        found = seat.lease.features[key]
        sold = server.counters.features[key]
        assert (sold.type, sold.value, sold.unit, sold.currency) == (
            found.type, found.value, found.unit, found.currency,
        )  # fmt: skip


def test_a_use_shows_what_is_left_beyond_and_until_when(server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat:
        after = seat.use("cash", 550).feature
        assert (550, 50, 50, "USD") == (after.consumed, after.overage, after.available, after.currency)
        assert datetime(2030, 1, 1, tzinfo=UTC) == after.ends_at
        assert after == seat.lease.features["cash"]
        assert 550 == seat.refresh().features["cash"].consumed


def test_what_has_no_limit_says_so(server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat:
        after = seat.use("metered", 1_000).feature
        assert (None, 1_000) == (after.available, after.overage)


def test_units_of_a_pool_are_held_and_go_back(server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat:
        assert (3, 1) == (seat.checkout_feature("gpu", 3).held, seat.lease.features["gpu"].available)
        assert (1, 3) == (seat.return_feature("gpu", 2).held, seat.lease.features["gpu"].available)
    assert {} == server.counters.held


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda seat: seat.use("render", 5), "no_feature_units"),
        (lambda seat: seat.checkout_feature("gpu", 5), "no_feature_units"),
        (lambda seat: seat.return_feature("gpu"), "not_held"),
        (lambda seat: seat.use("nothing"), "unknown_feature"),
        (lambda seat: seat.use("gpu"), "bad_request"),
        (lambda seat: seat.use("render", 0), "bad_request"),
        (lambda seat: seat.use("render", -1), "bad_request"),
        (lambda seat: seat.checkout_feature("render"), "bad_request"),
        (lambda seat: seat.checkout_feature("plain"), "bad_request"),
        (lambda seat: seat.checkout_feature("later"), "not_entitled"),
        (lambda seat: seat.undo(seat.use("cash")), "undo_too_late"),
        (lambda seat: seat.undo(Use(feature=seat.lease.features["render"], amount=1, request_id="?")), "not_held"),
    ],
)
def test_a_refusal_has_its_code_and_changes_no_figure(
    server: FakeServer, connect: Connect, act: Callable[[object], object], code: str
) -> None:
    with connect(server).checkout("cad") as seat:
        before = {key: one for key, one in seat.lease.features.items() if key != "cash"}
        with pytest.raises(Refused) as caught:
            act(seat)
        assert code == caught.value.code
        assert before == {key: one for key, one in seat.refresh().features.items() if key != "cash"}


def test_a_refusal_says_which_rule_and_what_would_have_helped(server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat, pytest.raises(Refused) as caught:
        seat.use("render", 6)
    assert ("feature units", "2 more would have helped.", "Only 4 are left.") == (
        caught.value.rule, caught.value.remedy, str(caught.value),
    )  # fmt: skip


def test_a_consumption_counts_once_however_often_its_answer_is_lost(server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat:
        server.lies.lose_answers = 2
        use = seat.use("render", 2)
        assert (2, 2) == (server.used, use.feature.consumed)
    named = [one[3] for one in server.counters.judged]
    assert 3 == len(named)
    assert {use.request_id} == set(named)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_an_undo_whose_answer_was_lost_is_done(server: FakeServer, connect: Connect, lost: int) -> None:
    with connect(server).checkout("cad") as seat:
        use = seat.use("render", 2)
        server.lies.lose_answers = lost
        after = seat.undo(use)
        assert (0, 0, 0) == (server.used, after.consumed, seat.lease.features["render"].consumed)


def test_a_second_undo_is_refused(server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat:
        use = seat.use("render", 2)
        seat.undo(use)
        with pytest.raises(Refused) as caught:
            seat.undo(use)
        assert "already_undone" == caught.value.code


def test_a_use_that_nobody_answered_is_asked_again_under_its_name(server: FakeServer, connect: Connect) -> None:
    named = str(uuid.uuid4())
    with connect(server, timeout=0.5).checkout("cad") as seat:
        server.lies.lose_answers = 100
        with pytest.raises(NoAnswer):
            seat.use("render", 2, request_id=named)
        server.lies.lose_answers = 0
        assert 2 == seat.use("render", 2, request_id=named).feature.consumed
        assert 2 == server.used


def test_one_name_for_two_different_acts_is_refused(server: FakeServer, connect: Connect) -> None:
    named = str(uuid.uuid4())
    with connect(server).checkout("cad") as seat:
        seat.use("render", 1, request_id=named)
        with pytest.raises(Refused) as caught:
            seat.use("render", 2, request_id=named)
        assert "request_id_taken" == caught.value.code


def test_the_repetition_goes_to_another_address_of_the_same_server_and_counts_once(
    server: FakeServer, connect: Connect
) -> None:
    with running(twin_of(server)) as twin, connect(server, twin).checkout("cad") as seat:
        server.lies.lose_answers = 100
        use = seat.use("render", 2)
        assert (2, 2) == (server.used, use.feature.consumed)
        assert {use.request_id} == {one[3] for one in server.counters.judged}
        assert any(call[1].endswith("/use") for call in twin.asked)


def test_a_use_is_never_shown_to_another_server_of_the_list(
    vendor: Vendor, server: FakeServer, connect: Connect, tls: TlsKey
) -> None:
    with running(FakeServer(vendor, tls=tls)) as stranger:
        seat = connect(server, stranger, timeout=0.5).checkout("cad")
        server.stop()
        with pytest.raises(NoAnswer):
            seat.use("render")
        assert [] == stranger.lease_calls()


def test_a_use_on_an_ended_lease_says_so(server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat:
        server.end("expired")
        with pytest.raises(Refused) as caught:
            seat.use("render")
        assert ("lease_ended", "expired") == (caught.value.code, caught.value.reason)


def test_figures_of_a_lost_lease_are_not_shown_as_the_new_ones(
    brisk: FakeServer, connect: Connect, heard: Heard
) -> None:
    with connect(brisk).checkout("cad", on_event=heard) as seat:
        seat.checkout_feature("gpu", 2)
        brisk.counters.held.clear()
        brisk.leases.clear()
        heard.wait_for(EventKind.REGAINED)
        assert 0 == seat.lease.features["gpu"].held


def test_before_the_seat_is_held_there_are_no_figures(server: FakeServer, connect: Connect) -> None:
    seat = connect(server).prepare("cad")
    with pytest.raises(SeatLost):
        seat.lease.features.get("render")


async def test_the_same_for_asyncio(server: FakeServer, vendor: Vendor) -> None:
    async with aio.checkout("cad", servers=server.url, vendor_keys=vendor.first) as seat:
        server.lies.lose_answers = 1
        use = await seat.use("render", 2)
        server.lies.lose_answers = 1
        assert 0 == (await seat.undo(use)).consumed
        assert 2 == (await seat.checkout_feature("gpu", 2)).held
        assert 2 == seat.lease.features["gpu"].held
        assert 0 == (await seat.return_feature("gpu", 2, request_id=str(uuid.uuid4()))).held
        with pytest.raises(Refused):
            await seat.use("render", 5)
