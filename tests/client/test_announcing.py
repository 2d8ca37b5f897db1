"""Promises about a loan that shows itself: it is counted again after a restore, and nobody ever waits for that."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lls.client import (
    Borrowed,
    BorrowRequest,
    Damaged,
    LicenseServers,
    accept_grant,
    aio,
    borrowed_leases,
    seat_or_borrowed,
)
from lls.client import announcing as announcing_room
from lls.client.elapsed import Reading, read_clocks
from lls.client.keeping import Store
from tests.client.fakes import FakeServer, Vendor, running
from tests.client.folders import edit, in_days, kept, the_file

QUARTER, HALF_A_DAY = 900.0, 43_200.0

Load = Callable[[str, Vendor], object]


class Clock:
    def __init__(self) -> None:
        self.now = read_clocks()

    def __call__(self) -> Reading:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now = replace(self.now, wall=self.now.wall + seconds, elapsed=self.now.elapsed + seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(announcing_room, "read_clocks", made)
    monkeypatch.setattr(announcing_room, "ANSWER_SECONDS", 0.5)
    return made


@pytest.fixture
def lent(server: FakeServer, vendor: Vendor, clock: Clock) -> Iterator[Borrowed]:
    with LicenseServers(server.url, vendor_keys=vendor.first) as known, known.checkout("cad") as seat:
        borrowed = seat.borrow(in_days(10))
    yield borrowed
    quiet()


def load(servers: str, vendor: Vendor) -> Borrowed:
    return Borrowed.load("cad", vendor_keys=vendor.first, servers=servers)


def from_the_longer_form(url: str, vendor: Vendor) -> object:
    with LicenseServers(url, vendor_keys=vendor.first) as known:
        return known.borrowed("cad")


def wherever_it_is(url: str, vendor: Vendor) -> object:
    return seat_or_borrowed("cad", servers=url, vendor_keys=vendor.first)


def under_way() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lls-announce")]


def quiet() -> None:
    """All that was to be shown is shown, or given up."""
    for thread in under_way():
        thread.join(10)
        assert not thread.is_alive()


def shown(server: FakeServer) -> list[str]:
    """The capabilities that were shown, in their order."""
    return [
        body["capability"] for method, _, _, body in server.lease_calls() if method == "POST" and "capability" in body
    ]


# ---------------------------------------------------------------- shown


@pytest.mark.parametrize("start", [load, from_the_longer_form, wherever_it_is])
def test_a_loan_that_a_restored_server_forgot_is_counted_again_when_its_program_starts(
    start: Load, lent: Borrowed, server: FakeServer, vendor: Vendor
) -> None:
    server.restart(forget=True)
    start(server.url, vendor)
    quiet()
    assert ([lent.lease_id], ["borrowed"]) == (list(server.leases), [lease.mode for lease in server.active()])
    assert [lent.capability.token] == shown(server)


def test_servers_may_be_named_by_the_environment(
    lent: Borrowed, server: FakeServer, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLS_SERVER", server.url)
    Borrowed.load("cad", vendor_keys=vendor.first)
    quiet()
    assert 1 == len(shown(server))


async def test_the_same_for_asyncio(lent: Borrowed, server: FakeServer, vendor: Vendor, clock: Clock) -> None:
    found = await aio.load_borrowed("cad", vendor_keys=vendor.first, servers=server.url)
    quiet()
    clock.passes(HALF_A_DAY)
    found.announce_soon()
    quiet()
    assert 2 == len(shown(server))


def test_a_program_that_runs_for_weeks_may_ask_for_it_as_often_as_it_likes(
    lent: Borrowed, server: FakeServer, clock: Clock
) -> None:
    for _ in range(3):
        lent.announce_soon()
        quiet()
    assert 1 == len(shown(server))
    clock.passes(HALF_A_DAY)
    lent.announce_soon()
    quiet()
    assert 2 == len(shown(server))


# ---------------------------------------------------------------- silent


def test_a_program_that_knows_no_server_stays_silent(lent: Borrowed, server: FakeServer, vendor: Vendor) -> None:
    before = len(server.asked)
    assert Borrowed.load("cad", vendor_keys=vendor.first).valid
    assert [] == under_way()
    assert (before, 0.0) == (len(server.asked), kept(Store().folder)["shown_at"])


def test_a_list_of_what_is_borrowed_shows_nothing(lent: Borrowed, server: FakeServer, vendor: Vendor) -> None:
    before = len(server.asked)
    assert 1 == len(borrowed_leases(vendor_keys=vendor.first, servers=server.url))
    assert ([], before) == (under_way(), len(server.asked))


def test_a_loan_by_file_has_nobody_to_show_itself_to(server: FakeServer, vendor: Vendor, clock: Clock) -> None:
    grant = server.grant(BorrowRequest.make("cad", until=in_days(2)).document.encode())
    accept_grant(grant, vendor_keys=vendor.first)
    load(server.url, vendor).announce_soon()
    assert ([], []) == (under_way(), server.asked)


def test_what_was_given_back_meanwhile_is_not_shown(lent: Borrowed, server: FakeServer, vendor: Vendor) -> None:
    other = Borrowed.load("cad", vendor_keys=vendor.first)
    assert lent.give_back()
    other.announce_soon()
    quiet()
    assert ([], [], []) == (shown(server), server.active(), list(Store().folder.glob("*.json")))


def test_a_stranger_at_the_address_hears_no_secret(lent: Borrowed, vendor: Vendor) -> None:
    with running(FakeServer(Vendor())) as theirs, running(FakeServer(vendor)) as another_customers:
        load(f"{theirs.url},{another_customers.url}", vendor)
        quiet()
        assert ([], []) == (theirs.lease_calls(), another_customers.lease_calls())
    assert 1 == kept(Store().folder)["shown_in_vain"]


# ---------------------------------------------------------------- in nobody's way


def test_a_start_waits_for_no_answer_and_no_longer_than_its_time_is_asked(
    lent: Borrowed, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        found = load(f"https://127.0.0.1:{deaf.getsockname()[1]}", vendor)
        (thread,) = under_way()
        assert (True, True) == (thread.daemon, found.valid)
        quiet()
    assert found.valid


@pytest.mark.parametrize("servers", ["https://127.0.0.1:1", "http://lls.example", "https://:x"])
def test_what_cannot_be_asked_fails_no_start_and_shows_nothing(servers: str, lent: Borrowed, vendor: Vendor) -> None:
    assert load(servers, vendor).valid
    quiet()
    assert 1 == kept(Store().folder)["shown_in_vain"]


def test_where_the_attempt_cannot_be_kept_nobody_is_asked_and_the_loan_counts(
    lent: Borrowed, server: FakeServer, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Store, _kept: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "write", full)
    assert load(server.url, vendor).valid
    quiet()
    assert [] == shown(server)


def test_a_system_without_a_thread_to_give_fails_no_start(
    lent: Borrowed, server: FakeServer, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert load(server.url, vendor).valid


# ---------------------------------------------------------------- never a crowd


def test_of_many_programs_that_start_at_once_one_asks(lent: Borrowed, server: FakeServer, vendor: Vendor) -> None:
    loans = [Borrowed.load("cad", vendor_keys=vendor.first) for _ in range(12)]
    for loan in loans:
        loan.announce_soon()
    quiet()
    assert 1 == len(shown(server))


@pytest.mark.parametrize(
    ("in_vain", "pause"),
    [
        (0, HALF_A_DAY),
        (1, QUARTER),
        (2, 2 * QUARTER),
        (3, 4 * QUARTER),
        (6, 32 * QUARTER),
        (7, HALF_A_DAY),
        (99, HALF_A_DAY),
    ],
)
def test_it_is_quiet_for_half_a_day_and_sooner_ready_when_nobody_answered(
    in_vain: int, pause: float, lent: Borrowed, server: FakeServer, clock: Clock
) -> None:
    began = clock.now.wall
    for passed, asked in ((pause - 1, 0), (pause, 1), (-1.0, 1)):
        edit(Store().folder, shown_at=began, shown_in_vain=in_vain)
        clock.now = replace(clock.now, wall=began + passed)
        before = len(shown(server))
        lent.announce_soon()
        quiet()
        assert asked == len(shown(server)) - before, passed


def test_what_nobody_answered_is_counted_until_somebody_does(
    lent: Borrowed, server: FakeServer, vendor: Vendor, clock: Clock
) -> None:
    folder = Store().folder
    server.stop()
    for attempt in (1, 2):
        load(server.url, vendor)
        quiet()
        assert (attempt, clock.now.wall) == (kept(folder)["shown_in_vain"], kept(folder)["shown_at"])
        clock.passes(attempt * QUARTER)
    server.start()
    load(server.url, vendor)
    quiet()
    assert (0, clock.now.wall) == (kept(folder)["shown_in_vain"], kept(folder)["shown_at"])


def test_a_refusal_is_an_answer(lent: Borrowed, server: FakeServer, vendor: Vendor) -> None:
    server.lies.refuse_beat.append((404, {"code": "unknown_lease"}))
    assert load(server.url, vendor).valid
    quiet()
    assert (1, 0) == (len(shown(server)), kept(Store().folder)["shown_in_vain"])


# ---------------------------------------------------------------- on disk


def test_a_file_of_before_loans_showed_themselves_is_read(lent: Borrowed, server: FakeServer, vendor: Vendor) -> None:
    path = the_file(Store().folder)
    members = {name: value for name, value in kept(Store().folder).items() if not name.startswith("shown")}
    path.write_text(json.dumps(members))
    assert load(server.url, vendor).valid
    quiet()
    assert 1 == len(shown(server))


@pytest.mark.parametrize(
    "members", [{"shown_in_vain": -1}, {"shown_in_vain": True}, {"shown_in_vain": 0.5}, {"shown_at": "noon"}]
)
def test_what_is_no_count_and_no_instant_is_damaged(members: dict[str, object], lent: Borrowed, vendor: Vendor) -> None:
    edit(Store().folder, **members)
    with pytest.raises(Damaged):
        Borrowed.load("cad", vendor_keys=vendor.first)


def test_the_attempt_is_noted_in_the_loans_own_file_and_changes_nothing_else(
    lent: Borrowed, server: FakeServer, vendor: Vendor
) -> None:
    before = kept(Store().folder)
    load(server.url, vendor)
    quiet()
    after = kept(Store().folder)
    assert {"shown_at"} == {name for name in after if before[name] != after[name]}
    assert [Path(f"{lent.lease_id}.json")] == [Path(path.name) for path in Store().folder.glob("*.json")]
