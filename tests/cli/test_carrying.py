"""What is carried by hand: files that come in whole, files that leave whole or not at all; and a seat taken back."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lls.cli import files
from lls.signed.request import read_request
from tests.vendor import Site

if TYPE_CHECKING:
    from tests.cli.conftest import Daemon, Lls

BUNDLE: dict[str, Any] = {
    "bundle_id": "bnd_1",
    "sequence": 3,
    "server_id": "lls_1",
    "customer": {"name": "Example Works"},
    "issued_at": "2026-11-20T09:00:00Z",
    "not_after": "2026-12-20T09:00:00Z",
    "dry_run": True,
    "applied": False,
    "already_applied": False,
    "keys_added": [2, 3],
    "entitlements": [
        {
            "entitlement_id": "ent_1",
            "product": "cad",
            "sku": "CAD-PRO",
            "edition": "pro",
            "seats": 50,
            "change": "updated",
            "reason": None,
            "leases_ended": 2,
            "differences": [
                {"field": "seats", "old": 40, "new": 50},
                {"field": "expires_at", "old": None, "new": "2027-01-01T00:00:00Z"},
            ],
        },
        {
            "entitlement_id": "ent_2",
            "product": "cam",
            "sku": "CAM",
            "edition": None,
            "seats": None,
            "change": "skipped",
            "reason": "its hosting session is closed",
            "differences": [],
            "leases_ended": 0,
        },
    ],
    "receipt": {"report_id": "rpt_1", "up_to_seq": 90},
    "warnings": ["The certificate ends in 20 days."],
}

READ_OUT = (
    "Bundle         bnd_1, sequence 3\n"
    "For server     lls_1\n"
    "Customer       Example Works\n"
    "Issued         2026-11-20 09:00:00Z\n"
    "Import before  2026-12-20 09:00:00Z\n"
    "New key sets   version 2, version 3\n"
    "Receipt        for report rpt_1, up to journal line 90\n"
    "\n"
    "ENTITLEMENT  PRODUCT  EDITION  SKU          SEATS  CHANGE\n"
    "ent_1        cad      pro      CAD-PRO         50  updated\n"
    "ent_2        cam      –        CAM      unlimited  skipped: its hosting session is closed\n"
    "\n"
    "ent_1: seats: 40 → 50\n"
    "ent_1: expires_at: – → 2027-01-01 00:00:00Z\n"
    "ent_1: ends 2 leases.\n"
    "Warning: The certificate ends in 20 days.\n"
    "\n"
)


@pytest.fixture
def bundle(folder: Path) -> Path:
    file = folder / "x.llsbundle"
    file.write_bytes(b"sealed" * 100_000)
    return file


def test_showing_a_bundle_is_a_dry_run_that_says_for_whom_and_what_next(lls: Lls, daemon: Daemon, bundle: Path) -> None:
    daemon.says("POST bundles", BUNDLE)
    shown = lls("bundle", "show", bundle)
    assert (0, "") == (shown.status, shown.err)
    assert shown.out == READ_OUT + f"Nothing was changed.\nNext: lls bundle import {bundle}\n"
    (heard,) = daemon.heard
    assert ("/v1/admin/bundles?dry_run=1", "application/octet-stream") == (heard.target, heard.kind)
    assert bundle.read_bytes() == heard.body


def test_importing_a_bundle_reads_out_what_changed(lls: Lls, daemon: Daemon, bundle: Path) -> None:
    daemon.says("POST bundles", BUNDLE | {"dry_run": False, "applied": True})
    assert READ_OUT + "The bundle is applied.\nNext: lls entitlement list\n" == lls("bundle", "import", bundle).out
    assert "/v1/admin/bundles" == daemon.heard[0].target


def test_the_very_same_bundle_again_succeeds_and_says_so(lls: Lls, daemon: Daemon, bundle: Path) -> None:
    daemon.says("POST bundles", BUNDLE | {"already_applied": True, "entitlements": [], "warnings": []})
    for verb in ("show", "import"):
        shown = lls("bundle", verb, bundle)
        assert 0 == shown.status
        assert "This very bundle" in shown.out
        assert "The bundle names no entitlement." in shown.out
    assert BUNDLE["bundle_id"] == json.loads(lls("bundle", "import", bundle, "--json").out)["bundle_id"]


def test_a_refused_bundle_fails_with_the_daemons_sentence_and_reason(lls: Lls, daemon: Daemon, bundle: Path) -> None:
    detail = "The bundle is for server lls_2, this is lls_1; ask your vendor for the right one."
    daemon.refuses("POST bundles", 422, "refused_document", detail, reason="audience")
    shown = lls("bundle", "import", bundle)
    assert (1, "", f"lls: {detail} [refused_document: audience]\n") == (shown.status, shown.out, shown.err)


def test_a_receipt_says_what_the_vendor_has(lls: Lls, daemon: Daemon, folder: Path) -> None:
    receipt = folder / "x.llsreceipt"
    receipt.write_bytes(b"signed")
    answer = {"receipt_id": "rcp_1", "report_id": "rpt_1", "up_to_seq": 90, "already_applied": False}
    daemon.says("POST receipts", answer)
    daemon.says("POST receipts", answer | {"already_applied": True})
    told = "Your vendor has report rpt_1; the next one begins after journal line 90.\n"
    assert f"Receipt rcp_1 is imported.\n{told}" == lls("receipt", "import", receipt).out
    assert f"Receipt rcp_1 was imported before; nothing was changed.\n{told}" == lls("receipt", "import", receipt).out
    assert b"signed" == daemon.heard[0].body


@pytest.mark.parametrize("command", [("bundle", "show"), ("bundle", "import"), ("receipt", "import")])
def test_a_file_that_cannot_be_a_document_never_reaches_the_daemon(
    lls: Lls, daemon: Daemon, folder: Path, command: tuple[str, ...]
) -> None:
    empty, large = folder / "empty", folder / "large"
    empty.touch()
    with large.open("wb") as file:
        file.truncate(files.LARGEST + 1)
    os.mkfifo(folder / "pipe")
    words = {
        "missing": "no such file",
        "empty": "is empty",
        "large": "larger than 64.0 MiB",
        "pipe": "is not a file",
        ".": "is not a file",
    }
    for name, word in words.items():
        shown = lls(*command, folder / name)
        assert (1, "", True) == (shown.status, shown.out, word in shown.err), name
        assert 1 == shown.err.count("\n")
    assert [] == daemon.heard


def test_a_request_is_written_whole_and_names_the_next_step(lls: Lls, daemon: Daemon, folder: Path) -> None:
    request = Site.named().request().encode()
    daemon.says("POST server/request", body=request)
    shown = lls("server", "request", "-o", folder / "x.llsreq")
    assert 0 == shown.status, shown.err
    assert "Next: send it to your vendor" in shown.out
    assert f"key's fingerprint, by telephone: {read_request(request).fingerprint}\n" in shown.out
    assert request == (folder / "x.llsreq").read_bytes()


def test_a_report_is_private_and_asks_for_names_only_as_told(lls: Lls, daemon: Daemon, folder: Path) -> None:
    daemon.says("POST reports", body=b"r" * 3_000_000, headers={"X-Report-Id": "rpt_1"})
    shown = lls("report", "export", "-o", folder / "a", "--pseudonymise")
    assert shown.out.startswith(f"Wrote {folder / 'a'}: report rpt_1, 2.9 MiB.\n")
    assert 0o600 == stat.S_IMODE((folder / "a").stat().st_mode)
    lls("report", "export", "-o", folder / "b")
    assert [{"pseudonymise": True}, {"pseudonymise": False}] == [json.loads(one.body) for one in daemon.heard]
    assert {"admin.sock", "a", "b"} == {one.name for one in folder.iterdir()}


def test_an_earlier_report_is_fetched_again(lls: Lls, daemon: Daemon, folder: Path) -> None:
    daemon.says("GET reports/rpt_7", body=b"same")
    shown = lls("report", "export", "--report", "rpt_7", "-o", folder / "again")
    assert (0, b"same") == (shown.status, (folder / "again").read_bytes())
    assert "report rpt_7, 4 bytes" in shown.out


def test_a_file_that_exists_stays_and_nothing_is_sealed_for_it(lls: Lls, daemon: Daemon, folder: Path) -> None:
    daemon.says("POST reports", body=b"new", headers={"X-Report-Id": "rpt_1"})
    kept = folder / "kept"
    kept.write_bytes(b"old")
    refused = lls("report", "export", "-o", kept)
    assert (1, b"old", []) == (refused.status, kept.read_bytes(), daemon.heard)
    assert "--force" in refused.err
    assert 0 == lls("report", "export", "-o", kept, "--force").status
    assert (b"new", 0o600) == (kept.read_bytes(), stat.S_IMODE(kept.stat().st_mode))


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_sealed(
    lls: Lls, daemon: Daemon, folder: Path
) -> None:
    for place in (folder, folder / "no" / "x"):
        shown = lls("report", "export", "-o", place)
        assert (1, "", 1) == (shown.status, shown.out, shown.err.count("\n"))
    assert [] == daemon.heard


def test_a_document_cut_short_leaves_no_file(lls: Lls, daemon: Daemon, folder: Path) -> None:
    daemon.says("POST server/request", body=b"request" * 1000, cut_at=100)
    shown = lls("server", "request", "-o", folder / "x.llsreq")
    assert (3, ["admin.sock"]) == (shown.status, [one.name for one in folder.iterdir()])
    assert "broke after 100 of 7000 bytes" in shown.err


def test_a_full_stick_after_the_sealing_names_the_report_to_write_again(
    lls: Lls, daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.says("POST reports", body=b"report", headers={"X-Report-Id": "rpt_1"})

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lls.cli.files.os.fsync", full)
    shown = lls("report", "export", "-o", folder / "x")
    assert (1, ["admin.sock"]) == (shown.status, [one.name for one in folder.iterdir()])
    assert "No space left on device; make room" in shown.err
    assert "lls report export --report rpt_1 -o FILE" in shown.err


def test_a_seat_is_taken_back_with_its_reason(lls: Lls, daemon: Daemon) -> None:
    daemon.says("DELETE leases/0d9c", status=204)
    shown = lls("lease", "release", "0d9c", "--reason", " left for the day ")
    assert (0, "Lease 0d9c is released; its program learns it at its next heartbeat.\n") == (shown.status, shown.out)
    assert {"reason": "left for the day"} == json.loads(daemon.heard[0].body)
    assert "application/json" == daemon.heard[0].kind
