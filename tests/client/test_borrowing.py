"""Promises about seats for the road: proved without a network, guarded against clocks and copies, given back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.client import (
    Borrowed,
    ClockSetBack,
    Damaged,
    LicenseServers,
    LlsError,
    NoAnswer,
    NotBorrowed,
    Refused,
    Seat,
    SeatLost,
    Untrusted,
    WrongMachine,
    aio,
    borrowed_leases,
    seat_or_borrowed,
)
from lls.client import borrowing as borrowing_room
from lls.client import elapsed as elapsed_room
from lls.client import seat as seat_room
from lls.client.elapsed import HighWater, Reading, read_clocks
from tests.client.fakes import FakeServer, Vendor

Connect = Callable[..., LicenseServers]
DAY = 86400.0


class Clock:
    """The machine's clocks, turned by hand: ``passes`` lets time pass, ``turn`` sets the wall clock alone."""

    def __init__(self) -> None:
        self.now = read_clocks()

    def __call__(self) -> Reading:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now = replace(self.now, wall=self.now.wall + seconds, elapsed=self.now.elapsed + seconds)

    def turn(self, seconds: float) -> None:
        self.now = replace(self.now, wall=self.now.wall + seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(borrowing_room, "read_clocks", made)
    monkeypatch.setattr(seat_room, "read_clocks", made)
    return made


@pytest.fixture
def folder(state_folder: Path) -> Path:
    return state_folder


@pytest.fixture
def lent(server: FakeServer, connect: Connect, clock: Clock) -> Borrowed:
    """Ten days, and the program that borrowed has ended."""
    with connect(server).checkout("cad") as seat:
        return seat.borrow(in_days(10))


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def the_file(folder: Path) -> Path:
    (found,) = folder.glob("*.json")
    return found


def edit(folder: Path, **members: Any) -> None:
    path = the_file(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


def later(vendor: Vendor, **more: Any) -> Borrowed:
    """Another process on the road: no server."""
    return Borrowed.load("cad", vendor_keys=vendor.first, **more)


# ---------------------------------------------------------------- lent, and read again


def test_a_borrowed_seat_survives_the_end_of_the_program(
    server: FakeServer, connect: Connect, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = in_days(2)
    with connect(server).checkout("cad") as seat:
        borrowed = seat.borrow(until)
        assert seat.valid_seconds > DAY
        assert seat.valid
        seat.check()
    assert 1 == len(server.active())
    assert "DELETE" not in [call[0] for call in server.lease_calls()]
    server.stop()
    found = later(vendor)
    assert found.valid
    assert (borrowed.lease_id, until.replace(microsecond=0), "borrowed") == (
        found.lease_id, found.until, found.lease.mode,
    )  # fmt: skip
    assert {"max_layers": 64} == found.lease.attributes


def test_nothing_secret_shows_in_a_repr(lent: Borrowed, folder: Path) -> None:
    kept = json.loads(the_file(folder).read_text())
    shown = repr(lent) + "".join(map(repr, vars(lent).values()))
    assert not [word for word in (kept["secret"], kept["capability"]) if word in shown]


def test_the_file_is_its_owners_alone_and_so_is_the_folder(lent: Borrowed, folder: Path) -> None:
    assert 0o600 == the_file(folder).stat().st_mode & 0o777
    assert 0o700 == folder.stat().st_mode & 0o777
    assert [] == [path for path in folder.iterdir() if path.suffix != ".json" and path.name != ".lock"]


def test_the_end_is_the_servers_and_then_it_is_over_for_good(lent: Borrowed, vendor: Vendor, clock: Clock) -> None:
    clock.passes(10 * DAY - 60)
    lent.check()
    clock.passes(120)
    with pytest.raises(SeatLost, match="ended on"):
        lent.check()
    clock.turn(-240)
    assert not lent.valid
    with pytest.raises(SeatLost):
        later(vendor)


def test_it_is_proved_by_the_first_key_set_after_the_vendor_rotated(tmp_path: Path, clock: Clock) -> None:
    vendor = Vendor()
    vendor.rotate()
    server = FakeServer(vendor)
    server.start()
    try:
        with LicenseServers(server.url, vendor_keys=vendor.first) as known, known.checkout("cad") as seat:
            seat.borrow(in_days(3))
    finally:
        server.close()
    assert later(vendor).valid


def test_an_expired_certificate_ends_no_borrowed_seat(lent: Borrowed, vendor: Vendor) -> None:
    # The fake's certificate expired in 2020; whether it may lend is the server's to know.
    assert later(vendor).valid


def test_of_several_the_longest_counts(server: FakeServer, connect: Connect, vendor: Vendor, clock: Clock) -> None:
    leases = []
    for days in (3, 9, 6):
        with connect(server).checkout("cad") as seat:
            leases.append(seat.borrow(in_days(days)).lease_id)
    assert leases[1] == later(vendor).lease_id
    assert [leases[1], leases[2], leases[0]] == [one.lease_id for one in borrowed_leases(vendor_keys=vendor.first)]


def test_a_folder_of_ones_own_is_used_alone(
    server: FakeServer, vendor: Vendor, tmp_path: Path, folder: Path, clock: Clock
) -> None:
    mine = tmp_path / "mine"
    with LicenseServers(server.url, vendor_keys=vendor.first, borrowed_folder=mine) as known:
        with known.checkout("cad") as seat:
            seat.borrow(in_days(2))
        assert known.borrowed("cad").valid
    assert later(vendor, folder=mine).valid
    assert not folder.exists()


def test_what_ended_long_ago_by_the_servers_word_is_tidied_up(
    lent: Borrowed, server: FakeServer, connect: Connect, folder: Path
) -> None:
    edit(folder, until=datetime.now(UTC).timestamp() - 31 * DAY)
    with connect(server).checkout("cad") as seat:
        borrowed = seat.borrow(in_days(1))
    assert f"{borrowed.lease_id}.json" == the_file(folder).name


# ---------------------------------------------------------------- refused, lost, asked again


@pytest.mark.parametrize(
    ("caps", "until", "code"),
    [
        ((0, 14 * 86400), in_days(1), "borrow_not_allowed"),
        ((5, 60), in_days(1), "borrow_too_long"),
        ((5, 60), in_days(-1), "bad_request"),
    ],
)
def test_a_refusal_to_lend_leaves_a_floating_seat_and_no_file(
    server: FakeServer, connect: Connect, *, caps: tuple[int, int], until: datetime, code: str, folder: Path
) -> None:
    server.borrow_seats, server.borrow_seconds = caps
    with connect(server).checkout("cad") as seat:
        with pytest.raises(Refused) as caught:
            seat.borrow(until)
        assert code == caught.value.code
        assert seat.valid
        assert [] == list(folder.glob("*.json"))
    assert [] == server.active()


def test_a_foreign_fingerprint_is_refused(server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat, pytest.raises(Refused) as caught:
        seat.borrow(in_days(1), fingerprint="another machine")
    assert "wrong_machine" == caught.value.code


def test_an_end_without_a_time_zone_is_refused_before_anything_is_asked(server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat, pytest.raises(ValueError, match="time zone"):
        seat.borrow(datetime(2030, 1, 1))  # noqa: DTZ001  (the mistake)
    assert not [call for call in server.lease_calls() if call[1].endswith("/borrow")]


def test_a_lost_answer_is_asked_for_again_with_its_nonce(server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat:
        server.lies.lose_answers = 2
        assert seat.borrow(in_days(1)).valid
    bodies = [call[3] for call in server.lease_calls() if call[1].endswith("/borrow")]
    assert 3 == len(bodies)
    assert 1 == len({json.dumps(body) for body in bodies})


def test_a_seat_lent_in_an_answer_that_never_came_can_be_given_back_later(
    server: FakeServer, connect: Connect, vendor: Vendor, folder: Path
) -> None:
    seat = connect(server, timeout=0.3).checkout("cad")
    server.lies.lose_answers = 100
    with pytest.raises(NoAnswer):
        seat.borrow(in_days(5))
    server.stop()
    assert not seat.release()
    (found,) = borrowed_leases(vendor_keys=vendor.first)
    assert isinstance(found.problem, NotBorrowed)
    server.lies.lose_answers = 0
    server.start()
    command = [sys.executable, "-m", "lls.client", "return", "cad", "--vendor-keys", str(keys_of(vendor, folder))]
    subprocess.run(command, check=True, timeout=30, env=os.environ | {"LLS_SERVER": server.url})
    assert ([], []) == (server.active(), list(folder.glob("*.json")))


@pytest.mark.parametrize(
    "claims",
    [
        {"mode": "floating"},
        {"cnf": {}},
        {"cnf": {"fingerprint": "another"}},
        {"cnf": {"fingerprint": "another", "jkt": "x"}},
        {"exp": 1},
        {"exp": 9e11},
        {"aud": "cam"},
        {"sub": "00000000-0000-4000-8000-000000000000"},
    ],
)
def test_a_capability_that_lends_nothing_to_this_machine_is_not_kept(
    server: FakeServer, connect: Connect, vendor: Vendor, claims: dict[str, Any]
) -> None:
    with connect(server).checkout("cad") as seat:
        server.lies.claims = claims
        with pytest.raises(Untrusted):
            seat.borrow(in_days(1))
        with pytest.raises(NotBorrowed):
            later(vendor)


def test_a_clock_behind_the_servers_is_told_before_anything_is_lent(
    server: FakeServer, connect: Connect, clock: Clock
) -> None:
    server.lies.claims = {"iat": int(clock.now.wall)}
    with connect(server).checkout("cad") as seat:
        clock.turn(-3600)
        with pytest.raises(ClockSetBack) as caught:
            seat.borrow(in_days(1))
        assert 3590 < caught.value.behind_seconds < 3610
    assert not [call for call in server.lease_calls() if call[1].endswith("/borrow")]


# ---------------------------------------------------------------- extended, given back


def test_it_is_extended_from_the_process_that_borrowed_and_from_a_later_one(
    server: FakeServer, connect: Connect, vendor: Vendor, clock: Clock
) -> None:
    with connect(server).checkout("cad") as seat:
        seat.borrow(in_days(1))
        seat.borrow(in_days(2))
    found = later(vendor)
    found.extend(in_days(3))
    assert found.valid_seconds > 2.9 * DAY
    assert later(vendor).valid_seconds > 2.9 * DAY
    for until, code in ((in_days(2), "borrowed"), (in_days(30), "borrow_too_long")):
        with pytest.raises(Refused) as caught:
            found.extend(until)
        assert code == caught.value.code
    assert found.valid_seconds > 2.9 * DAY


def test_giving_back_frees_the_seat_and_removes_the_file(
    lent: Borrowed, server: FakeServer, vendor: Vendor, folder: Path
) -> None:
    assert later(vendor).give_back()
    assert ([], []) == (server.active(), list(folder.glob("*.json")))
    with pytest.raises(NotBorrowed):
        later(vendor)


def test_releasing_the_seat_that_borrowed_gives_back_too(server: FakeServer, connect: Connect, folder: Path) -> None:
    seat = connect(server).checkout("cad")
    borrowed = seat.borrow(in_days(1))
    assert seat.release()
    assert not borrowed.valid
    assert ([], []) == (server.active(), list(folder.glob("*.json")))


def test_a_seat_is_released_also_after_its_block_left_it_borrowed(server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat:
        seat.borrow(in_days(1))
    assert 1 == len(server.active())
    assert seat.release()
    assert seat.release()
    assert [] == server.active()


def test_without_a_network_nothing_is_given_back_and_nothing_is_lost(
    lent: Borrowed, server: FakeServer, vendor: Vendor
) -> None:
    server.stop()
    assert not later(vendor).give_back()
    assert later(vendor).valid


def test_a_lost_answer_to_the_return_counts_as_given_back_until_a_server_says_so(
    lent: Borrowed, server: FakeServer, vendor: Vendor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = later(vendor)
    monkeypatch.setattr("lls.client.transport._ATTEMPTS", 1)
    server.lies.lose_deletes = 100
    assert not found.give_back()
    assert not found.valid
    with pytest.raises(SeatLost, match="no server confirmed"):
        later(vendor)
    server.lies.lose_deletes = 0
    assert found.give_back()
    assert [] == list(folder.glob("*.json"))


@pytest.mark.parametrize("forgets", [True, False])
def test_a_server_that_knows_the_lease_no_more_ends_it_here(
    lent: Borrowed, server: FakeServer, folder: Path, *, forgets: bool
) -> None:
    server.end("borrow_ended")
    if forgets:
        server.leases.clear()
    assert lent.give_back()
    assert [] == list(folder.glob("*.json"))


def test_a_seat_whose_entitlement_went_back_is_given_back_all_the_same(
    lent: Borrowed, server: FakeServer, folder: Path
) -> None:
    """The server counts it and has nothing of it to show: `borrowed`, and its return is confirmed."""
    server.lies.refuse_get = [(409, {"code": "borrowed", "until": "2027-01-01T00:00:00Z"})]
    assert lent.give_back()
    assert ([], []) == (server.active(), list(folder.glob("*.json")))


def test_a_refused_return_keeps_everything(lent: Borrowed, server: FakeServer, vendor: Vendor) -> None:
    server.lies.refuse_get = [(403, {"code": "of_a_newer_server", "detail": "No."})]
    with pytest.raises(Refused):
        lent.give_back()
    assert later(vendor).valid


def test_another_process_that_gives_back_is_noticed(lent: Borrowed, vendor: Vendor, clock: Clock) -> None:
    assert lent.valid
    later(vendor).give_back()
    clock.passes(61)
    with pytest.raises(SeatLost, match="given back"):
        lent.check()


# ---------------------------------------------------------------- clocks


def test_a_clock_set_back_is_noticed_and_heals(lent: Borrowed, vendor: Vendor, clock: Clock) -> None:
    clock.passes(5 * DAY)
    lent.check()
    clock.turn(-2 * DAY)
    assert not lent.valid
    assert 0 == lent.valid_seconds
    with pytest.raises(ClockSetBack, match="set back"):
        lent.check()
    with pytest.raises(ClockSetBack):
        later(vendor)
    clock.passes(2 * DAY)
    lent.check()
    assert later(vendor).valid


def test_a_clock_before_the_lending_is_noticed_without_any_mark(
    lent: Borrowed, vendor: Vendor, clock: Clock, folder: Path
) -> None:
    edit(folder, clock=None)
    clock.turn(-400)
    with pytest.raises(ClockSetBack):
        later(vendor)


@pytest.mark.parametrize(("back", "counts"), [(290, True), (310, False)])
def test_five_minutes_are_no_offence(lent: Borrowed, clock: Clock, *, back: float, counts: bool) -> None:
    clock.passes(DAY)
    lent.check()
    clock.turn(-back)
    assert counts == lent.valid


def test_the_mark_is_on_disk_at_most_once_a_minute(lent: Borrowed, clock: Clock, folder: Path) -> None:
    clock.passes(120)
    lent.check()
    written = the_file(folder).stat().st_mtime_ns
    for _ in range(5):
        clock.passes(10)
        lent.check()
    assert written == the_file(folder).stat().st_mtime_ns
    clock.passes(10)
    lent.check()
    assert clock.now.wall == json.loads(the_file(folder).read_text())["clock"]["mark"]


def test_a_mistyped_year_costs_the_seat_only_while_it_lasts(lent: Borrowed, vendor: Vendor, clock: Clock) -> None:
    clock.passes(3600)
    lent.check()
    clock.turn(365 * DAY)
    assert not lent.valid
    with pytest.raises(SeatLost):
        later(vendor)
    clock.turn(-365 * DAY)
    lent.check()
    assert later(vendor).valid


def test_a_leap_is_believed_after_a_day_and_after_a_restart_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = Reading(elapsed=1_000.0, awake=None, wall=1_000_000.0)
    water = HighWater.at(now.wall, now)
    leapt = replace(now, wall=now.wall + 3 * DAY)
    assert now.wall == water.raised(leapt, at_most=1e9).mark
    aged = replace(leapt, elapsed=now.elapsed + DAY)
    assert leapt.wall == water.raised(aged, at_most=1e9).mark
    monkeypatch.setattr(elapsed_room, "boot_name", lambda: "another boot")
    assert leapt.wall == water.raised(leapt, at_most=1e9).mark


def test_a_mark_never_falls_and_never_passes_the_end() -> None:
    now = Reading(elapsed=1_000.0, awake=None, wall=1_000_000.0)
    water = HighWater.at(now.wall, now)
    assert now.wall == water.raised(replace(now, wall=now.wall - 60), at_most=1e9).mark
    assert now.wall + 50 == water.raised(replace(now, wall=now.wall + 60), at_most=now.wall + 50).mark


def test_a_machine_that_slept_for_a_week_has_not_leapt(lent: Borrowed, clock: Clock, folder: Path) -> None:
    clock.passes(7 * DAY)
    lent.check()
    assert clock.now.wall == json.loads(the_file(folder).read_text())["clock"]["mark"]


def test_a_full_disk_costs_nobody_the_seat_and_is_told_once(
    lent: Borrowed, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lls.client.keeping.write_whole", full)
    clock.passes(DAY)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert lent.valid
    clock.passes(DAY)
    assert lent.valid
    clock.turn(-DAY)
    assert not lent.valid


# ---------------------------------------------------------------- attacks on the file


def test_a_copy_on_another_machine_is_refused(lent: Borrowed, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borrowing_room, "machine_fingerprint", lambda: "f" * 32)
    with pytest.raises(WrongMachine):
        later(vendor)


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"product": "cam"}, NotBorrowed),
        ({"capability": "e30.e30.AAAA"}, Untrusted),
        ({"capability": ""}, Untrusted),
        ({"certificate": ""}, Untrusted),
        ({"keys": ["{}"]}, Untrusted),
        ({"until": 9e10}, None),
        ({"until": -1}, Damaged),
        ({"until": "tomorrow"}, Damaged),
        ({"state": "lost"}, Damaged),
        ({"state": "returned"}, SeatLost),
        ({"state": "asked"}, NotBorrowed),
        ({"format": 2}, Damaged),
        ({"clock": {}}, Damaged),
        ({"clock": {"mark": 9e10, "wall": 0, "elapsed": 0, "boot": ""}}, SeatLost),
        ({"clock": {"mark": True, "wall": 0, "elapsed": 0, "boot": ""}}, Damaged),
        ({"lease": []}, Damaged),
        ({"lease": {}}, Damaged),
        ({"lease_id": "00000000-0000-4000-8000-000000000000"}, Damaged),
        ({"secret": None}, Damaged),
        ({"key": "no key"}, Damaged),
    ],
)
def test_a_tampered_file_lends_nothing_that_was_not_lent(
    lent: Borrowed, vendor: Vendor, folder: Path, members: dict[str, Any], error: type[LlsError] | None
) -> None:
    edit(folder, **members)
    if error is None:
        assert lent.until == later(vendor).until
        return
    with pytest.raises(error):
        later(vendor)


def test_a_capability_of_a_floating_lease_lends_nothing(
    server: FakeServer, connect: Connect, lent: Borrowed, vendor: Vendor, folder: Path
) -> None:
    path = the_file(folder)
    with connect(server).checkout("cad") as seat:
        kept = json.loads(path.read_text()) | {
            "lease_id": seat.lease.lease_id, "capability": seat.capability.token,
        }  # fmt: skip
        path.unlink()
        (folder / f"{seat.lease.lease_id}.json").write_text(json.dumps(kept))
        with pytest.raises(Untrusted, match="floating"):
            later(vendor)


def test_a_capability_for_another_product_lends_nothing(
    server: FakeServer, connect: Connect, vendor: Vendor, folder: Path
) -> None:
    with connect(server).checkout("cad") as seat:
        seat.borrow(in_days(1))
    edit(folder, product="cam")
    with pytest.raises(Untrusted, match="another product"):
        Borrowed.load("cam", vendor_keys=vendor.first)


def test_another_vendors_chain_lends_nothing(lent: Borrowed) -> None:
    with pytest.raises(Untrusted):
        later(Vendor())


def test_what_is_shown_is_what_is_signed(server: FakeServer, connect: Connect, vendor: Vendor, folder: Path) -> None:
    with connect(server).checkout("cad") as seat:
        seat.checkout_feature("gpu", 2)
        seat.checkout_feature("expert")
        seat.borrow(in_days(1))
    shown = json.loads(the_file(folder).read_text())["lease"]
    shown |= {"attributes": {"max_layers": 9999}, "seats": 99, "edition": "pro"}
    for feature in shown["features"]:
        feature |= {"value": 1, "held": 99}
    edit(folder, lease=shown)
    lease = later(vendor).lease
    assert ({"max_layers": 64}, 1) == (lease.attributes, lease.seats)
    assert 2 == lease.features["gpu"].held
    assert {"expert", "plain"} <= set(lease.features)
    assert "later" not in lease.features


@pytest.mark.parametrize("left", [0, 1, 100, -1])
def test_a_truncated_file_is_damaged_and_others_still_count(
    lent: Borrowed, server: FakeServer, connect: Connect, vendor: Vendor, folder: Path, *, left: int
) -> None:
    path = the_file(folder)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(Damaged):
        later(vendor)
    with connect(server).checkout("cad") as seat:
        seat.borrow(in_days(1))
    assert later(vendor).valid


def test_a_file_of_noise_is_damaged(lent: Borrowed, vendor: Vendor, folder: Path) -> None:
    path = the_file(folder)
    for noise in (b"\xff\xfe\x00", b"[]", b"[" * 100_000, b'{"format": 1, "format": 1}', b"x" * (3 << 20)):
        path.write_bytes(noise)
        with pytest.raises(Damaged):
            later(vendor)


def test_a_symlink_in_the_folder_is_neither_read_nor_written_through(
    lent: Borrowed, vendor: Vendor, folder: Path, tmp_path: Path, clock: Clock
) -> None:
    path, elsewhere = the_file(folder), tmp_path / "elsewhere"
    path.rename(elsewhere)
    before = elsewhere.read_bytes()
    path.symlink_to(elsewhere)
    with pytest.raises(Damaged):
        later(vendor)
    clock.passes(DAY)
    assert not lent.valid
    assert before == elsewhere.read_bytes()


def test_a_pipe_in_the_folder_keeps_nobody_waiting(lent: Borrowed, vendor: Vendor, folder: Path) -> None:
    path = the_file(folder)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Damaged, match="plain file"):
        later(vendor)


def test_a_file_that_others_may_read_is_closed_to_them(lent: Borrowed, vendor: Vendor, folder: Path) -> None:
    the_file(folder).chmod(0o666)
    assert later(vendor).valid
    assert 0o600 == the_file(folder).stat().st_mode & 0o777


def test_a_file_of_another_user_is_refused(lent: Borrowed, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 123_456)
    with pytest.raises(Damaged, match="another user"):
        later(vendor)


def test_files_that_are_no_leases_are_left_alone(lent: Borrowed, vendor: Vendor, folder: Path) -> None:
    (folder / "notes.json").write_text("mine")
    (folder / "..json").write_text("mine")
    assert 1 == len(borrowed_leases(vendor_keys=vendor.first))


def test_a_write_that_fails_leaves_the_former_file_whole(
    lent: Borrowed, clock: Clock, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = the_file(folder).read_bytes()

    def torn(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", torn)
    clock.passes(DAY)
    with pytest.warns(RuntimeWarning, match="Input/output"):
        assert lent.valid
    assert before == the_file(folder).read_bytes()
    assert [] == [path for path in folder.iterdir() if path.suffix != ".json" and path.name != ".lock"]


def test_a_forked_child_sees_the_seat_and_gives_nothing_back(
    server: FakeServer, vendor: Vendor, folder: Path, tmp_path: Path
) -> None:
    script = (
        "import lls.client,os,sys,datetime as d\n"
        "s=lls.client.checkout('cad',servers=sys.argv[1],vendor_keys=sys.argv[2])\n"
        "b=s.borrow(d.datetime.now(d.UTC)+d.timedelta(days=1))\n"
        "b._lock.acquire()\n"
        "pid=os.fork()\n"
        "if pid==0: sys.exit(0 if b.valid and s.valid else 3)\n"
        "b._lock.release()\n"
        "_,status=os.waitpid(pid,0); assert status==0, status; assert b.valid\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, server.url, str(keys_of(vendor, tmp_path))]
    subprocess.run(command, check=True, timeout=30)
    assert (1, 1) == (len(server.active()), len(list(folder.glob("*.json"))))


# ---------------------------------------------------------------- the same lines everywhere


def test_the_same_lines_in_the_office_and_on_the_road(
    server: FakeServer, vendor: Vendor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seat_or_borrowed("cad", servers=server.url, vendor_keys=vendor.first) as seat:
        assert isinstance(seat, Seat)
        seat.borrow(in_days(2))
    server.stop()
    with seat_or_borrowed("cad", vendor_keys=vendor.first) as seat:
        assert isinstance(seat, Borrowed)
        seat.check()
        assert 64 == seat.lease.attributes["max_layers"]
    server.start()
    with seat_or_borrowed("cad", servers=server.url, vendor_keys=vendor.first) as seat:
        assert seat.valid
    assert 1 == len(server.leases)


def test_a_checkout_never_uses_a_borrowed_seat_by_itself(lent: Borrowed, server: FakeServer, connect: Connect) -> None:
    with connect(server).checkout("cad") as seat:
        assert lent.lease_id != seat.lease.lease_id


def test_a_borrowed_seat_that_does_not_count_is_no_hindrance_in_the_office_and_is_told_on_the_road(
    lent: Borrowed, server: FakeServer, connect: Connect, vendor: Vendor, clock: Clock
) -> None:
    clock.passes(DAY)
    lent.check()
    clock.turn(-DAY)
    known = connect(server, timeout=0.5)
    with known.seat_or_borrowed("cad") as seat:
        assert isinstance(seat, Seat)
    server.stop()
    with pytest.raises(ClockSetBack):
        known.seat_or_borrowed("cad", patience=0.1)
    with pytest.raises(ClockSetBack):
        seat_or_borrowed("cad", vendor_keys=vendor.first)


async def test_the_same_for_asyncio(server: FakeServer, vendor: Vendor, folder: Path) -> None:
    async with await aio.seat_or_borrowed("cad", servers=server.url, vendor_keys=vendor.first) as seat:
        assert isinstance(seat, aio.AsyncSeat)
        lent = await seat.borrow(in_days(2))
        assert lent.valid
        assert seat.valid_seconds > DAY
    async with await aio.seat_or_borrowed("cad", vendor_keys=vendor.first) as found:
        assert isinstance(found, aio.AsyncBorrowed)
        found.check()
        assert "borrowed" == found.lease.mode
        await found.extend(in_days(3))
        assert found.until > in_days(2.9)
    known = aio.AsyncLicenseServers(server.url, vendor_keys=vendor.first)
    async with await known.seat_or_borrowed("cad") as again:
        assert await again.release()
    assert ([], []) == (server.active(), list(folder.glob("*.json")))  # noqa: ASYNC240  (nobody waits)
    with pytest.raises(NotBorrowed):
        await aio.load_borrowed("cad", vendor_keys=vendor.first)


def keys_of(vendor: Vendor, folder: Path) -> Path:
    path = folder.parent / "vendor.llskeys"
    path.write_text(vendor.first)
    return path
