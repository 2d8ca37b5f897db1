"""Promises about a later end by file: the same lease and key, a question of its own, and never an earlier end."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lls.client import (
    BadSetup,
    Borrowed,
    BorrowRequest,
    LicenseServers,
    NotBorrowed,
    SeatLost,
    Untrusted,
    accept_grant,
    make_return,
)
from lls.client.__main__ import main
from tests.client.fakes import FakeServer, Vendor
from tests.client.folders import edit, in_days, kept, the_file


def part(document: str, n: int) -> dict[str, Any]:
    text = document.split(".")[n]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found


@pytest.fixture
def far(vendor: Vendor) -> FakeServer:
    """A server that this machine never reaches: it is not even started."""
    server = FakeServer(vendor)
    server.close()
    return server


@pytest.fixture
def first() -> BorrowRequest:
    return BorrowRequest.make("cad", until=in_days(5), features={"gpu": 2}, edition="pro", version="2026.1")


@pytest.fixture
def lent(first: BorrowRequest, far: FakeServer, vendor: Vendor) -> Borrowed:
    return accept_grant(far.grant(first.document.encode()), vendor_keys=vendor.first)


def whole(days: float) -> datetime:
    return in_days(days).replace(microsecond=0)


def test_a_second_request_repeats_the_first_under_a_nonce_of_its_own(lent: Borrowed, first: BorrowRequest) -> None:
    second = BorrowRequest.extend(lent, until=in_days(9))
    assert part(first.document, 0) == part(second.document, 0)
    before, after = part(first.document, 1), part(second.document, 1)
    assert before["nonce"] != after["nonce"]
    assert before["until"] < after["until"]
    own = ("until", "nonce", "made_at")
    assert {name: before[name] for name in before if name not in own} == {
        name: after[name] for name in after if name not in own
    }


def test_its_grant_lasts_longer_and_until_then_nothing_changes(lent: Borrowed, far: FakeServer, vendor: Vendor) -> None:
    until = whole(9)
    second = BorrowRequest.extend(lent.lease_id, until=until)
    assert lent.until == Borrowed.load("cad", vendor_keys=vendor.first).until
    extended = accept_grant(far.grant(second.document.encode()), vendor_keys=vendor.first)
    assert (lent.lease_id, until) == (extended.lease_id, extended.until)
    assert until == Borrowed.load("cad", vendor_keys=vendor.first).until


def test_an_earlier_grant_changes_nothing(
    lent: Borrowed, first: BorrowRequest, far: FakeServer, vendor: Vendor
) -> None:
    old = [far.grant(first.document.encode())]
    for days in (7, 9):
        request = BorrowRequest.extend(lent, until=in_days(days))
        old.append(far.grant(request.document.encode()))
    until = accept_grant(old[2], vendor_keys=vendor.first).until
    for grant in old:
        assert until == accept_grant(grant, vendor_keys=vendor.first).until
        assert until == Borrowed.load("cad", vendor_keys=vendor.first).until


def test_a_grant_for_a_question_that_was_not_asked_here_is_refused(
    lent: Borrowed, far: FakeServer, vendor: Vendor
) -> None:
    second = BorrowRequest.extend(lent, until=in_days(9))
    far.lies.claims = {"nonce": "AAAAAAAAAAAAAAAAAAAAAA"}
    with pytest.raises(Untrusted, match="another request"):
        accept_grant(far.grant(second.document.encode()), vendor_keys=vendor.first)
    assert Borrowed.load("cad", vendor_keys=vendor.first).valid


def test_the_highest_clock_seen_outlives_an_extension(
    lent: Borrowed, far: FakeServer, vendor: Vendor, state_folder: Path
) -> None:
    assert lent.valid
    clock = kept(state_folder)["clock"] | {"mark": in_days(4).timestamp()}
    edit(state_folder, clock=clock)
    second = BorrowRequest.extend(lent, until=in_days(9))
    accept_grant(far.grant(second.document.encode()), vendor_keys=vendor.first)
    assert clock["mark"] == kept(state_folder)["clock"]["mark"]


def test_a_return_after_an_extension_is_for_good(
    lent: Borrowed, far: FakeServer, vendor: Vendor, tmp_path: Path
) -> None:
    grant = far.grant(BorrowRequest.extend(lent, until=in_days(9)).document.encode())
    make_return(tmp_path / "back", lease_id=lent.lease_id)
    with pytest.raises(SeatLost, match="new request"):
        accept_grant(grant, vendor_keys=vendor.first)
    with pytest.raises(SeatLost, match="new request"):
        BorrowRequest.extend(lent, until=in_days(20))
    far.take_return((tmp_path / "back").read_bytes())


def test_an_activation_code_is_said_again_and_never_kept(
    far: FakeServer, vendor: Vendor, state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = BorrowRequest.make("cad", until=in_days(1), activation_code="Y64E-G6QX")
    lent = accept_grant(far.grant(made.document.encode()), vendor_keys=vendor.first)
    with pytest.raises(BadSetup, match="activation code"):
        BorrowRequest.extend(lent, until=in_days(2))
    monkeypatch.setenv("LLS_CODE", "Y64E-G6QX")
    assert "Y64E-G6QX" == part(BorrowRequest.extend(lent, until=in_days(2)).document, 1)["activation_code"]
    assert "Y64E" not in the_file(state_folder).read_text()


def test_a_code_of_the_environment_is_left_out_where_none_was_asked_with(
    lent: Borrowed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLS_CODE", "Y64E-G6QX")
    assert "activation_code" not in part(BorrowRequest.extend(lent, until=in_days(9)).document, 1)


def _an_earlier_version(folder: Path) -> None:
    members = kept(folder)
    for name in ("asked", "coded", "nonces"):
        del members[name]
    the_file(folder).write_text(json.dumps(members))


def test_a_file_of_an_earlier_version_counts_and_cannot_be_extended(
    lent: Borrowed, vendor: Vendor, state_folder: Path
) -> None:
    _an_earlier_version(state_folder)
    assert Borrowed.load("cad", vendor_keys=vendor.first).valid
    with pytest.raises(BadSetup, match="new request"):
        BorrowRequest.extend(lent, until=in_days(9))


@pytest.mark.parametrize(("until", "words"), [(in_days(-1), "over already"), (in_days(2), "already; name a later end")])
def test_an_end_that_is_no_extension_is_refused(lent: Borrowed, until: datetime, words: str) -> None:
    with pytest.raises(BadSetup, match=words):
        BorrowRequest.extend(lent, until=until)


def test_only_what_was_granted_by_file_is_extended_by_file(
    first: BorrowRequest, server: FakeServer, connect: Callable[..., LicenseServers]
) -> None:
    with pytest.raises(NotBorrowed):
        BorrowRequest.extend(first.lease_id, until=in_days(9))
    with pytest.raises(NotBorrowed):
        BorrowRequest.extend("00000000-0000-4000-8000-000000000000", until=in_days(9))
    with connect(server).checkout("cad") as seat:
        borrowed = seat.borrow(in_days(1))
    with pytest.raises(BadSetup, match=r"Borrowed\.extend"):
        BorrowRequest.extend(borrowed, until=in_days(9))


def test_the_way_by_file_is_named_where_the_other_is_tried(lent: Borrowed) -> None:
    with pytest.raises(BadSetup, match=r"extended by file: see `BorrowRequest\.extend`"):
        lent.extend(in_days(9))
    with pytest.raises(BadSetup, match="given back by file: see `make_return`"):
        lent.give_back()


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("by_product", [True, False])
def test_the_command_asks_for_a_later_end(
    lent: Borrowed,
    far: FakeServer,
    vendor: Vendor,
    tmp_path: Path,
    *,
    capsys: pytest.CaptureFixture[str],
    by_product: bool,
) -> None:
    asked, grant, keys = tmp_path / "more.llsborrow", tmp_path / "grant.llsborrow", tmp_path / "keys"
    keys.write_text(vendor.first)
    named = "cad" if by_product else lent.lease_id
    assert 0 == main(["request", "--extend", named, "--days", "9", "-o", str(asked)])
    assert "longer" in capsys.readouterr().out
    grant.write_bytes(far.grant(asked.read_bytes()))
    assert 0 == main(["accept", str(grant), "--vendor-keys", str(keys)])
    assert Borrowed.load("cad", vendor_keys=vendor.first).until > in_days(8.9)


def test_an_extension_that_cannot_be_written_leaves_the_seat(lent: Borrowed, vendor: Vendor, tmp_path: Path) -> None:
    assert 1 == main(["request", "--extend", "cad", "--days", "9", "-o", str(tmp_path / "missing" / "more")])
    assert Borrowed.load("cad", vendor_keys=vendor.first).valid


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--extend", "cad", "cad"],
        ["--extend", "cad", "--feature", "gpu=1"],
        ["--extend", "cad", "--edition", "pro"],
    ],
)
def test_an_extension_takes_no_new_wishes(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["request", "--days", "9", "-o", "new", *more])
    assert 2 == caught.value.code
    assert "extend" in capsys.readouterr().err


def test_a_refused_extension_is_one_sentence(lent: Borrowed, capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == main(["request", "--extend", "cad", "--days", "1", "-o", "new"])
    assert "name a later end" in capsys.readouterr().err
