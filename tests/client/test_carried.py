"""Promises about borrowing by file: the grant opens one lease on one machine, and what was returned stays returned."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.client import (
    BadSetup,
    Borrowed,
    BorrowRequest,
    Damaged,
    Holder,
    LlsError,
    NotBorrowed,
    SeatLost,
    Untrusted,
    WrongMachine,
    accept_grant,
    borrowed_leases,
    make_return,
)
from lls.client.__main__ import main
from tests.client.fakes import FakeServer, Vendor

Run = Callable[..., int]


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def claims_of(document: str) -> dict[str, Any]:
    part = document.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


@pytest.fixture
def far(vendor: Vendor) -> FakeServer:
    """A server that this machine never reaches: it is not even started."""
    server = FakeServer(vendor)
    server.close()
    return server


@pytest.fixture
def keys(vendor: Vendor, tmp_path: Path) -> Path:
    path = tmp_path / "vendor.llskeys"
    path.write_text(vendor.first)
    return path


@pytest.fixture
def request_made() -> BorrowRequest:
    return BorrowRequest.make("cad", until=in_days(5))


@pytest.fixture
def lent(request_made: BorrowRequest, far: FakeServer, vendor: Vendor) -> Borrowed:
    return accept_grant(far.grant(request_made.document.encode()), vendor_keys=vendor.first)


def test_a_request_says_what_is_wanted_and_keeps_its_key_at_home(state_folder: Path, far: FakeServer) -> None:
    made = BorrowRequest.make(
        "cad", until=in_days(5), features={"gpu": 2}, version="2026.1", edition="pro", activation_code="Y64E-G6QX"
    )
    claims = claims_of(made.document)
    assert ("cad", {"gpu": 2}, "2026.1", "pro", "Y64E-G6QX") == tuple(
        claims[name] for name in ("product", "features", "version", "edition", "activation_code")
    )
    (kept,) = state_folder.glob("*.json")
    assert 0o600 == kept.stat().st_mode & 0o777
    assert "PRIVATE KEY" in kept.read_text()
    assert "PRIVATE" not in made.document
    assert made.document not in repr(made)
    assert far.grant(made.document.encode())


@pytest.mark.parametrize("until", [in_days(-1), datetime(2040, 1, 1)])  # noqa: DTZ001  (a mistake to be refused)
def test_an_end_that_makes_no_sense_leaves_no_key_behind(state_folder: Path, until: datetime) -> None:
    with pytest.raises(BadSetup):
        BorrowRequest.make("cad", until=until)
    assert not state_folder.exists()


def test_two_requests_have_two_keys() -> None:
    first, second = (BorrowRequest.make("cad", until=in_days(1)).document.split(".")[0] for _ in range(2))
    assert first != second


def test_a_granted_seat_counts_without_any_server(lent: Borrowed, vendor: Vendor) -> None:
    found = Borrowed.load("cad", vendor_keys=vendor.first)
    assert found.valid
    assert found.by_file
    assert lent.lease_id == found.lease_id
    assert {"max_layers": 64} == found.lease.attributes


def test_the_grant_brings_the_key_sets_that_came_after_the_applications(request_made: BorrowRequest) -> None:
    vendor = Vendor()
    vendor.rotate()
    vendor.rotate()
    server = FakeServer(vendor)
    server.close()
    accept_grant(server.grant(request_made.document.encode()), vendor_keys=vendor.first)
    assert Borrowed.load("cad", vendor_keys=vendor.first).valid


def test_accepting_again_changes_nothing(
    lent: Borrowed, request_made: BorrowRequest, far: FakeServer, vendor: Vendor
) -> None:
    again = accept_grant(far.grant(request_made.document.encode()), vendor_keys=vendor.first)
    assert (lent.lease_id, lent.until) == (again.lease_id, again.until)
    assert 1 == len(borrowed_leases(vendor_keys=vendor.first))


def test_a_request_without_its_grant_counts_for_nothing(request_made: BorrowRequest, vendor: Vendor) -> None:
    with pytest.raises(NotBorrowed):
        Borrowed.load("cad", vendor_keys=vendor.first)


def _with(document: bytes, **members: Any) -> bytes:
    return json.dumps(json.loads(document) | members).encode()


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (lambda grant: grant[:-1], Damaged),
        (lambda _: b"", Damaged),
        (lambda _: b"[]", Damaged),
        (lambda _: b" " * (2 << 20), Damaged),
        (lambda grant: _with(grant, format=2), Damaged),
        (lambda grant: _with(grant, keys=None), Damaged),
        (lambda grant: _with(grant, lease={}), Damaged),
        (lambda grant: _with(grant, lease={"lease_id": "../../etc/passwd"}), NotBorrowed),
        (lambda grant: _with(grant, lease={"lease_id": json.loads(grant)["lease"]["lease_id"]}), Damaged),
        (lambda grant: _with(grant, capability=None), Untrusted),
        (lambda grant: _with(grant, capability=json.loads(grant)["capability"][:-8] + "AAAAAAAA"), Untrusted),
        (lambda grant: _with(grant, certificate=json.loads(grant)["capability"]), Untrusted),
    ],
)
def test_a_grant_that_is_not_the_answer_is_refused_and_nothing_is_kept(
    request_made: BorrowRequest,
    far: FakeServer,
    vendor: Vendor,
    *,
    broken: Callable[[bytes], bytes],
    error: type[LlsError],
) -> None:
    grant = far.grant(request_made.document.encode())
    with pytest.raises(error):
        accept_grant(broken(grant), vendor_keys=vendor.first)
    with pytest.raises(NotBorrowed):
        Borrowed.load("cad", vendor_keys=vendor.first)
    assert accept_grant(grant, vendor_keys=vendor.first).valid


def test_a_grant_for_a_request_that_was_made_elsewhere_is_refused(
    request_made: BorrowRequest, far: FakeServer, vendor: Vendor, tmp_path: Path
) -> None:
    elsewhere = BorrowRequest.make("cad", until=in_days(1), folder=tmp_path / "elsewhere")
    with pytest.raises(NotBorrowed):
        accept_grant(far.grant(elsewhere.document.encode()), vendor_keys=vendor.first)


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"nonce": "AAAAAAAAAAAAAAAAAAAAAA"}, Untrusted),
        ({"mode": "floating"}, Untrusted),
        ({"cnf": {"jkt": "another"}}, WrongMachine),
        ({"cnf": {"fingerprint": "x"}}, WrongMachine),
        ({"cnf": {}}, Untrusted),
        ({"seat_id": "another machine"}, WrongMachine),
        ({"aud": "cam"}, Untrusted),
        ({"exp": 1}, Untrusted),
    ],
)
def test_a_signed_grant_for_somebody_else_is_refused(
    request_made: BorrowRequest, far: FakeServer, vendor: Vendor, claims: dict[str, Any], error: type[LlsError]
) -> None:
    far.lies.claims = claims
    with pytest.raises(error):
        accept_grant(far.grant(request_made.document.encode()), vendor_keys=vendor.first)


def test_the_whole_folder_copied_to_another_machine_lends_nothing(lent: Borrowed, vendor: Vendor) -> None:
    with pytest.raises(WrongMachine):
        Borrowed.load("cad", vendor_keys=vendor.first, fingerprint="f" * 32)


def test_another_holder_is_asked_for_by_its_own_name(far: FakeServer, vendor: Vendor) -> None:
    made = BorrowRequest.make("cad", until=in_days(1), holder=Holder(seat_id="press 7"))
    accept_grant(far.grant(made.document.encode()), vendor_keys=vendor.first, fingerprint="press 7")
    assert Borrowed.load("cad", vendor_keys=vendor.first, fingerprint="press 7").valid


def test_a_return_is_signed_by_the_same_key_and_the_seat_never_counts_again(
    lent: Borrowed, request_made: BorrowRequest, far: FakeServer, vendor: Vendor, tmp_path: Path
) -> None:
    make_return(tmp_path / "back.llsborrow", lease_id=lent.lease_id)
    first = (tmp_path / "back.llsborrow").read_bytes()
    with pytest.raises(SeatLost, match="by file"):
        Borrowed.load("cad", vendor_keys=vendor.first)
    with pytest.raises(SeatLost, match="new request"):
        accept_grant(far.grant(request_made.document.encode()), vendor_keys=vendor.first)
    far.take_return(first)
    assert [] == far.active()
    make_return(tmp_path / "again.llsborrow", lease_id=lent.lease_id)
    assert first == (tmp_path / "again.llsborrow").read_bytes()


def test_a_return_that_cannot_be_written_has_ended_the_seat_and_is_written_later(
    lent: Borrowed, vendor: Vendor, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="No such file"):
        make_return(tmp_path / "missing" / "back.llsborrow", lease_id=lent.lease_id)
    with pytest.raises(SeatLost):
        Borrowed.load("cad", vendor_keys=vendor.first)
    make_return(tmp_path / "back.llsborrow", lease_id=lent.lease_id)


def test_the_two_ways_are_not_mixed(lent: Borrowed, request_made: BorrowRequest, tmp_path: Path) -> None:
    with pytest.raises(BadSetup, match="by file"):
        lent.give_back()
    with pytest.raises(BadSetup, match="by file"):
        lent.extend(in_days(9))


def test_what_was_never_granted_cannot_be_returned(request_made: BorrowRequest, tmp_path: Path) -> None:
    with pytest.raises(NotBorrowed):
        make_return(tmp_path / "back", lease_id=request_made.lease_id)
    assert not (tmp_path / "back").exists()


# ---------------------------------------------------------------- the command


def test_the_command_carries_a_seat_out_and_back(
    far: FakeServer, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, grant, back = (tmp_path / name for name in ("out.llsborrow", "grant.llsborrow", "back.llsborrow"))
    assert 0 == main(["request", "cad", "--days", "3", "-o", str(out), "--feature", "gpu=2"])
    grant.write_bytes(far.grant(out.read_bytes()))
    assert 0 == main(["accept", str(grant), "--vendor-keys", str(keys)])
    assert 0 == main(["list", "--vendor-keys", str(keys)])
    assert "counts" in capsys.readouterr().out
    assert 0 == main(["return", "cad", "-o", str(back)])
    far.take_return(back.read_bytes())
    assert 0 == main(["list", "--json", "--vendor-keys", str(keys)])
    (listed,) = json.loads(capsys.readouterr().out.partition("[")[2].join(["[", ""]))
    assert ("returned", False, True) == (listed["state"], listed["counts"], listed["by_file"])


def test_the_command_returns_over_the_network_what_came_over_it(
    server: FakeServer, vendor: Vendor, keys: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from lls.client import checkout  # noqa: PLC0415  (here only)

    with checkout("cad", servers=server.url, vendor_keys=vendor.first) as seat:
        seat.borrow(in_days(2))
    assert 1 == main(["return", "cad", "-o", str(tmp_path / "back"), "--vendor-keys", str(keys)])
    server.stop()
    assert 1 == main(["return", "cad", "--vendor-keys", str(keys)])
    server.start()
    assert 0 == main(["return", "cad", "--vendor-keys", str(keys)])
    assert [] == server.active()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["request", "cad", "--until", "2001-01-01", "-o", "new"], "over already"),
        (["request", "cad", "--days", "1", "-o", "there"], "--force"),
        (["request", "cad", "--days", "1", "-o", "missing/new"], "No such file"),
        (["accept", "missing"], "No such file"),
        (["accept", "there"], "not a grant"),
        (["return", "cad"], "see: python -m lls.client list"),
    ],
)
def test_a_failure_is_one_sentence_and_status_1(
    arguments: list[str],
    words: str,
    keys: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    capsys: pytest.CaptureFixture[str],
    state_folder: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLS_VENDOR_KEYS", str(keys))
    Path("there").write_text("something")
    assert 1 == main(arguments)
    told = capsys.readouterr().err
    assert words in told
    assert 1 == told.count("\n")
    assert "something" == Path("there").read_text()
    assert [] == list(state_folder.glob("*.json"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["borrow"],
        ["request", "cad", "-o", "x"],
        ["request", "cad", "--until", "soon", "-o", "x"],
        ["request", "cad", "--days", "0", "-o", "x"],
        ["request", "cad", "--days", "nan", "-o", "x"],
        ["request", "cad", "--days", "1", "-o", "x", "--feature", "gpu=-1"],
        ["request", "cad", "--days", "1"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert 2 == caught.value.code


def test_an_empty_list_says_where_it_looked(keys: Path, capsys: pytest.CaptureFixture[str], state_folder: Path) -> None:
    assert 0 == main(["list", "--vendor-keys", str(keys)])
    assert str(state_folder) in capsys.readouterr().out
