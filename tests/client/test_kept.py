"""Promises about the files that borrowing keeps: always readable, never brought back, forgotten only when useless."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lls.client import (
    BadSetup,
    Borrowed,
    BorrowRequest,
    Damaged,
    LicenseServers,
    NotBorrowed,
    SeatLost,
    accept_grant,
    borrowed_leases,
    discard,
    make_return,
)
from lls.client import carried as carried_room
from lls.client.__main__ import main
from lls.client.borrowing import proved
from lls.client.keeping import Store
from lls.client.trust import strict_json
from tests.client.fakes import FakeServer, Vendor
from tests.client.folders import edit, in_days, kept, the_file

Connect = Callable[..., LicenseServers]


@pytest.fixture
def far(vendor: Vendor) -> FakeServer:
    """A server that this machine never reaches: it is not even started."""
    server = FakeServer(vendor)
    server.close()
    return server


@pytest.fixture
def request_made() -> BorrowRequest:
    return BorrowRequest.make("cad", until=in_days(5))


@pytest.fixture
def grant(request_made: BorrowRequest, far: FakeServer) -> bytes:
    return far.grant(request_made.document.encode())


def with_lease(grant: bytes, members: str) -> bytes:
    """More members in the unsigned lease, as text: no encoder would write some of them."""
    return grant.replace(b'"lease": {', b'"lease": {' + members.encode() + b", ", 1)


# ---------------------------------------------------------------- always readable


@pytest.mark.parametrize("depth", [1, 450, 700, 900])
def test_members_that_nobody_reads_are_not_kept_however_deep_they_are(
    grant: bytes, vendor: Vendor, state_folder: Path, depth: int
) -> None:
    accept_grant(with_lease(grant, f'"z": {"[" * depth}{"]" * depth}'), vendor_keys=vendor.first)
    assert "z" not in kept(state_folder)["lease"]
    assert Borrowed.load("cad", vendor_keys=vendor.first).valid


@pytest.mark.parametrize(
    "members",
    [
        '"z": 1e999',
        '"z": -1e999',
        '"z": NaN',
        '"heartbeat_seconds": 1e999',
        '"z": ' + "[" * 100_000 + "]" * 100_000,
        '"features": [' + ", ".join(['{"key": "k", "type": "bool", "held": 1e999}'] * 2) + "]",
    ],
)
def test_a_grant_that_could_not_be_kept_is_refused_and_the_former_file_stays(
    grant: bytes, vendor: Vendor, state_folder: Path, members: str
) -> None:
    accept_grant(grant, vendor_keys=vendor.first)
    before = the_file(state_folder).read_bytes()
    with pytest.raises(Damaged):
        accept_grant(with_lease(grant, members), vendor_keys=vendor.first)
    assert before == the_file(state_folder).read_bytes()
    assert accept_grant(grant, vendor_keys=vendor.first).valid


def test_a_grant_that_swells_beyond_a_kept_file_is_refused(grant: bytes, vendor: Vendor, state_folder: Path) -> None:
    swollen = json.loads(grant)
    swollen["lease"]["features"] = [{"key": f"k{n}", "type": "x"} for n in range(20_000)]
    before = the_file(state_folder).read_bytes()
    with pytest.raises(Damaged, match="left as it is"):
        accept_grant(json.dumps(swollen).encode(), vendor_keys=vendor.first)
    assert before == the_file(state_folder).read_bytes()


def _bottomless() -> list[Any]:
    found: list[Any] = []
    for _ in range(5_000):
        found = [found]
    return found


@pytest.mark.parametrize("lease", [{"z": float("inf")}, {"z": float("nan")}, {"z": (1,)}, {"z": _bottomless()}])
def test_nothing_is_written_that_would_not_be_read_back(
    request_made: BorrowRequest, state_folder: Path, lease: dict[str, Any]
) -> None:
    store, before = Store(), the_file(state_folder).read_bytes()
    with pytest.raises(Damaged, match="left as it is"):
        store.write(replace(store.read(request_made.lease_id), lease=lease))
    assert before == the_file(state_folder).read_bytes()


def test_what_a_server_shows_beside_the_lease_is_not_kept_either(
    server: FakeServer, connect: Connect, vendor: Vendor, state_folder: Path
) -> None:
    with connect(server).checkout("cad") as seat:
        seat.borrow(in_days(1)).extend(in_days(2))
    assert not {"of_a_later_version", "holder", "attributes"} & set(kept(state_folder)["lease"])
    assert {"max_layers": 64} == Borrowed.load("cad", vendor_keys=vendor.first).lease.attributes


@pytest.mark.parametrize("text", ["1e999", "-1e400", "[1, 2e308]", "NaN", "Infinity"])
def test_a_number_that_no_float_holds_is_not_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"beyond any|not JSON"):
        strict_json(text)


# ---------------------------------------------------------------- never brought back


def test_a_return_while_the_grant_is_being_proved_is_final(
    request_made: BorrowRequest,
    grant: bytes,
    vendor: Vendor,
    state_folder: Path,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept_grant(grant, vendor_keys=vendor.first)

    def meanwhile(*args: Any, **named: Any) -> Any:
        make_return(tmp_path / "back", lease_id=request_made.lease_id)
        return proved(*args, **named)

    monkeypatch.setattr(carried_room, "proved", meanwhile)
    with pytest.raises(SeatLost, match="new request"):
        accept_grant(grant, vendor_keys=vendor.first)
    assert "returned" == kept(state_folder)["state"]
    with pytest.raises(SeatLost):
        Borrowed.load("cad", vendor_keys=vendor.first)


def test_a_request_that_is_discarded_while_its_grant_is_being_proved_stays_so(
    request_made: BorrowRequest, grant: bytes, vendor: Vendor, state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*args: Any, **named: Any) -> Any:
        discard(request_made.lease_id)
        return proved(*args, **named)

    monkeypatch.setattr(carried_room, "proved", meanwhile)
    with pytest.raises(NotBorrowed):
        accept_grant(grant, vendor_keys=vendor.first)
    assert [] == list(state_folder.glob("*.json"))


def test_a_clock_that_is_a_little_behind_hides_no_return(
    server: FakeServer, connect: Connect, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lls.client import borrowing  # noqa: PLC0415  (its clock is turned here only)
    from lls.client.elapsed import read_clocks  # noqa: PLC0415

    with connect(server).checkout("cad") as seat:
        lent = seat.borrow(in_days(1))
    Borrowed.load("cad", vendor_keys=vendor.first).give_back()
    now = read_clocks()
    monkeypatch.setattr(borrowing, "read_clocks", lambda: replace(now, wall=now.wall - 120, elapsed=now.elapsed + 61))
    assert not lent.valid


# ---------------------------------------------------------------- given back by a return, never by a guess


@pytest.mark.parametrize("code", ["lease_ended", "unknown_lease"])
def test_a_server_that_calls_the_lease_ended_is_sent_the_return_all_the_same(
    server: FakeServer, connect: Connect, state_folder: Path, code: str
) -> None:
    with connect(server).checkout("cad") as seat:
        lent = seat.borrow(in_days(3))
    # Its entitlement went back to the vendor; the seat stays counted until its end or its return.
    server.lies.refuse_get = [(410, {"code": code, "reason": "entitlement_ended"})]
    assert lent.give_back()
    assert ([], []) == (server.active(), list(state_folder.glob("*.json")))


def test_a_return_that_nobody_confirmed_is_not_done(
    server: FakeServer, connect: Connect, state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lls.client.transport._ATTEMPTS", 1)
    with connect(server).checkout("cad") as seat:
        lent = seat.borrow(in_days(3))
    server.lies.refuse_get = [(410, {"code": "lease_ended"})]
    server.lies.lose_deletes = 100
    assert not lent.give_back()
    assert "returning" == kept(state_folder)["state"]
    assert not lent.valid
    server.lies.lose_deletes = 0
    assert lent.give_back()


# ---------------------------------------------------------------- forgotten only when useless


def test_a_request_without_its_grant_is_discarded(request_made: BorrowRequest, state_folder: Path) -> None:
    discard(request_made.lease_id.upper())
    assert [] == list(state_folder.glob("*.json"))
    with pytest.raises(NotBorrowed):
        discard(request_made.lease_id)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"format": 7}'])
def test_a_file_that_cannot_be_read_is_discarded(
    request_made: BorrowRequest, state_folder: Path, vendor: Vendor, content: bytes
) -> None:
    the_file(state_folder).write_bytes(content)
    (found,) = borrowed_leases(vendor_keys=vendor.first)
    discard(found.lease_id)
    assert [] == list(state_folder.glob("*.json"))


def test_a_pipe_or_a_link_is_discarded_and_nothing_behind_it(
    request_made: BorrowRequest, state_folder: Path, tmp_path: Path
) -> None:
    path, elsewhere = the_file(state_folder), tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    discard(request_made.lease_id)
    assert elsewhere.is_file()
    os.mkfifo(path)
    discard(request_made.lease_id)
    assert not path.exists()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("held", "give it back"),
        ("asked", "over the network"),
        ("returning", "give it back again"),
        ("returned", "goes in time"),
    ],
)
def test_what_can_be_used_or_given_back_is_not_discarded(
    request_made: BorrowRequest, state_folder: Path, state: str, words: str
) -> None:
    edit(state_folder, state=state)
    with pytest.raises(BadSetup, match=words):
        discard(request_made.lease_id)
    assert the_file(state_folder).is_file()


def test_the_command_discards(
    request_made: BorrowRequest, state_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == main(["discard", request_made.lease_id])
    assert "stays counted" in capsys.readouterr().out
    for named in (request_made.lease_id, "cad", "../../etc/passwd"):
        assert 1 == main(["discard", named])
        assert 1 == capsys.readouterr().err.count("\n")


def test_a_seat_is_named_by_its_product_beside_one_that_was_given_back(
    far: FakeServer, vendor: Vendor, tmp_path: Path
) -> None:
    for n in range(2):
        request = BorrowRequest.make("cad", until=in_days(5))
        accept_grant(far.grant(request.document.encode()), vendor_keys=vendor.first)
        assert 0 == main(["return", "cad", "-o", str(tmp_path / f"back {n}")])
    assert 2 == len(list(tmp_path.glob("back *")))
