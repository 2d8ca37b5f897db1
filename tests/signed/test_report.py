"""Usage reports: written in bounded memory, and every hostile archive refused."""

from __future__ import annotations

import errno
import io
import secrets
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import ECKey

from lls.faults import Refusal, RefusedDocument
from lls.signed import stream
from lls.signed.jose import SigningKey, encrypt, sign_compact
from lls.signed.report import MOST_LINE, Manifest, open_report, write_report
from tests.vendor import NO_HEAD, NOW, REMOVED, Site, Vendor, changed, encryption_key, new_id

SITE = Site.named()
VENDOR = Vendor()
LINES = [b'{"seq":1}', b'{"seq":2}', b'{"seq":3}']
USAGE = b"day,seats\r\n2026-11-21,3\r\n"
NAMES = ['{"value":"müller"}'.encode()]


def written(path: Path, **changes: Any) -> Manifest:
    arguments: dict[str, Any] = {
        "report_id": new_id("rpt_", "one"),
        "server_id": SITE.server_id,
        "from_seq": 1,
        "to_seq": 3,
        "prev_head": NO_HEAD,
        "head": "a" * 64,
        "made_at": NOW,
        "lines": LINES,
        "usage_csv": USAGE,
        "names": NAMES,
        "key": SITE.signing,
        "report_key": None,
    }
    return write_report(path, **{**arguments, **changes})


def refusal(path: Path, **changes: Any) -> Refusal:
    arguments: dict[str, Any] = {"report_key": VENDOR.report_key, "server_jwk": SITE.signing_jwk}
    with pytest.raises(RefusedDocument) as caught:
        open_report(path, **{**arguments, **changes}).close()
    return caught.value.reason


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repacked(path: Path, content: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("sealed", [True, False])
def test_what_the_server_wrote_the_vendor_reads(tmp_path: Path, *, sealed: bool) -> None:
    path = tmp_path / "site.llsreport"
    manifest = written(path, report_key=VENDOR.report_key.public_jwk() if sealed else None)

    with open_report(path, report_key=VENDOR.report_key, server_jwk=SITE.signing_jwk) as report:
        assert manifest == report.manifest
        assert list(report.lines()) == LINES
        assert list(report.lines()) == LINES
        assert report.usage_csv() == USAGE
        assert list(report.names()) == NAMES
    assert path.stat().st_mode & 0o777 == 0o600
    assert [path] == list(tmp_path.iterdir())


def test_a_pseudonymised_report_has_no_names(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    assert written(path, names=None).pseudonymised

    assert {"journal.ndjson", "usage.csv", "manifest.jws"} == members(path).keys()
    with open_report(path, report_key=None, server_jwk=SITE.signing_jwk) as report:
        assert [] == list(report.names())


def test_the_same_report_is_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    written(one)
    written(two)

    assert one.read_bytes() == two.read_bytes()


def test_a_report_that_fails_half_way_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    def lines() -> Iterator[bytes]:
        yield LINES[0]
        raise OSError(28, "No space left on device")

    path = tmp_path / "site.llsreport"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        written(path, lines=lines())

    assert b"old" == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("sealed", [True, False])
def test_memory_does_not_grow_with_the_report(tmp_path: Path, *, sealed: bool) -> None:
    path = tmp_path / "site.llsreport"
    lines = (b'{"seq":%d,"hash":"%064x"}' % (n, n * 7919**12) for n in range(100_000))
    tracemalloc.start()
    try:
        written(path, lines=lines, to_seq=100_000, report_key=VENDOR.report_key.public_jwk() if sealed else None)
        with open_report(path, report_key=VENDOR.report_key, server_jwk=SITE.signing_jwk) as report:
            count = sum(1 for _ in report.lines())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 100_000 == count
    assert peak < 2_000_000


def test_a_line_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path, lines=[secrets.token_hex(MOST_LINE // 2 + 1).encode()], to_seq=1)

    with open_report(path, report_key=None, server_jwk=SITE.signing_jwk) as report, pytest.raises(RefusedDocument):
        list(report.lines())


# Who signed it


def test_a_report_signed_by_another_server_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path, key=Site.named("other").signing)

    assert Refusal.SIGNATURE is refusal(path)


def test_the_vendor_finds_the_key_by_the_server_that_the_report_claims(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path)
    known = {SITE.server_id: SITE.signing_jwk}

    open_report(path, report_key=None, server_jwk=known.get).close()
    assert Refusal.AUDIENCE is refusal(path, server_jwk=lambda _: None)


@pytest.mark.parametrize("name", ["journal.ndjson", "usage.csv", "names.ndjson"])
def test_an_edited_member_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "site.llsreport"
    written(path)
    content = members(path)

    assert Refusal.SIGNATURE is refusal(repacked(path, {**content, name: content[name] + b"\n"}))


def manifest_of(path: Path, *, key: SigningKey = SITE.signing, typ: str = "lls-report+jws", **changes: object) -> bytes:
    manifest = written(path)
    payload: dict[str, object] = {
        "report_id": manifest.report_id,
        "server_id": manifest.server_id,
        "from_seq": 1,
        "to_seq": 3,
        "prev_head": NO_HEAD,
        "head": "a" * 64,
        "members": dict(manifest.members),
        "made_at": "2026-11-21T07:00:00Z",
        "pseudonymised": False,
    }
    return sign_compact(changed(payload, None, changes), key=key, typ=typ).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"typ": "lls-receipt+jws"},
        {"report_id": "../../x"},
        {"from_seq": 0},
        {"from_seq": 4},
        {"to_seq": 2**53},
        {"head": None},
        {"members": {}},
        {"members": {"journal.ndjson": "a" * 64}},
        {"members": REMOVED},
        {"pseudonymised": True},
        {"pseudonymised": 0},
        {"made_at": "now"},
    ],
)
def test_a_manifest_that_is_not_of_its_form_is_refused(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    path = tmp_path / "site.llsreport"
    token = manifest_of(path, **changes)

    assert Refusal.MALFORMED is refusal(repacked(path, {**members(path), "manifest.jws": token}))


# Hostile archives


@pytest.mark.parametrize(
    "name",
    [
        "../names.ndjson",
        "/etc/cron.d/x",
        "..\\names.ndjson",
        "sub/names.ndjson",
        "names.ndjson/",
        "NAMES.NDJSON",
        "extra.txt",
    ],
)
def test_a_member_of_another_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "site.llsreport"
    written(path)
    content = members(path)
    data = content.pop("names.ndjson")

    assert Refusal.MALFORMED is refusal(repacked(path, {**content, name: data}))


def test_a_name_that_only_begins_like_a_members_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path)
    content = members(path)
    repacked(path, {**content, "names.ndjson#": content.pop("names.ndjson")})
    path.write_bytes(path.read_bytes().replace(b"names.ndjson#", b"names.ndjson\0"))

    assert Refusal.MALFORMED is refusal(path)


@pytest.mark.parametrize("name", ["manifest.jws", "journal.ndjson", "usage.csv", "names.ndjson"])
def test_a_missing_member_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "site.llsreport"
    written(path)
    content = members(path)
    del content[name]

    assert Refusal.MALFORMED is refusal(repacked(path, content))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path, names=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("journal.ndjson", b"forged")

    assert Refusal.MALFORMED is refusal(path)


def test_a_decompression_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path)

    for name in ("usage.csv", "journal.ndjson"):
        repacked(path, {**members(path), name: bytes(20_000_000)})
        assert Refusal.TOO_LARGE is refusal(path)


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path)
    repacked(path, {**members(path), "journal.ndjson": bytes(20_000_000)})
    honest, lie = struct.pack("<L", 20_000_000), struct.pack("<L", 100)
    path.write_bytes(path.read_bytes().replace(honest, lie))

    assert Refusal.MALFORMED is refusal(path)


def test_an_archive_with_very_many_members_is_refused_unread(tmp_path: Path) -> None:
    path = repacked(tmp_path / "site.llsreport", {f"{n}": b"" for n in range(2000)})

    assert Refusal.MALFORMED is refusal(path)


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path)

    assert Refusal.MALFORMED is refusal(repacked(path, members(path), method=zipfile.ZIP_BZIP2))
    assert Refusal.MALFORMED is refusal(repacked(path, members(path), method=zipfile.ZIP_LZMA))


def test_an_archive_behind_other_data_or_before_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path)
    data = path.read_bytes()
    for hostile in (data + b"#!/bin/sh", b"MZ" + data, b"", b"PK", data[:-1], data[:200], data[200:]):
        path.write_bytes(hostile)
        assert refusal(path) in {Refusal.MALFORMED, Refusal.DECRYPTION}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.booleans(),
    st.integers(min_value=0, max_value=100_000),
    st.integers(min_value=0, max_value=20),
    st.binary(max_size=20),
)
def test_a_damaged_report_is_refused_and_nothing_else(
    tmp_path: Path, sealed: bool, place: int, removed: int, inserted: bytes
) -> None:
    path = tmp_path / "site.llsreport"
    written(path, report_key=VENDOR.report_key.public_jwk() if sealed else None)
    data = path.read_bytes()
    place %= len(data)
    path.write_bytes(data[:place] + inserted + data[place + removed :])
    try:
        with open_report(path, report_key=VENDOR.report_key, server_jwk=SITE.signing_jwk) as report:
            # Dates and flags of a ZIP are nobody's business; what the vendor bills from is.
            assert (LINES, USAGE, NAMES) == (list(report.lines()), report.usage_csv(), list(report.names()))
    except RefusedDocument:
        pass


# Encryption


def test_any_jose_library_opens_a_sealed_report(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path, report_key=VENDOR.report_key.public_jwk())
    plain = jwe.decrypt_compact(path.read_bytes(), ECKey.import_key(VENDOR.report_key.native)).plaintext

    assert plain is not None
    assert zipfile.ZipFile(io.BytesIO(plain)).read("usage.csv") == USAGE


def test_a_report_sealed_by_another_library_is_read(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path)
    path.write_text(encrypt(path.read_bytes(), to=VENDOR.report_key.public_jwk()))

    with open_report(path, report_key=VENDOR.report_key, server_jwk=SITE.signing_jwk) as report:
        assert list(report.lines()) == LINES


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 196_607, 196_608, 196_609, 400_000])
def test_chunks_join_to_one_text_whatever_their_length(tmp_path: Path, length: int) -> None:
    path, plain = tmp_path / "sealed", bytes(range(256)) * (length // 256 + 1)
    with path.open("wb") as file:
        sink = stream.SealedSink(file, to=VENDOR.report_key.public_jwk())
        for start in range(0, length, 1000):
            sink.write(plain[start : min(start + 1000, length)])
        sink.finish()

    with path.open("rb") as sealed, stream.open_sealed(sealed, key=VENDOR.report_key) as opened:
        assert plain[:length] == opened.read()


def test_a_sealed_report_needs_the_right_key(tmp_path: Path) -> None:
    path = tmp_path / "site.llsreport"
    written(path, report_key=VENDOR.report_key.public_jwk())

    assert Refusal.DECRYPTION is refusal(path, report_key=None)
    assert Refusal.DECRYPTION is refusal(path, report_key=encryption_key("another"))


def cut(count: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:-count]


@pytest.mark.parametrize(
    "damage",
    [
        cut(1),
        cut(22),
        cut(23),
        cut(1000),
        lambda data: data + b"\n",
        lambda data: data[:-30] + b"AAAA" + data[-26:],
        lambda data: data.replace(b".", b"", 1),
        lambda data: data.replace(b".", b"..", 1),
        lambda data: data[:4],
        lambda data: b"." * len(data),
    ],
)
def test_a_changed_sealed_report_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "site.llsreport"
    written(path, report_key=VENDOR.report_key.public_jwk())
    path.write_bytes(damage(path.read_bytes()))

    assert refusal(path) in {Refusal.MALFORMED, Refusal.DECRYPTION}


def test_a_report_beyond_the_limit_is_neither_written_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "site.llsreport"
    written(path)
    monkeypatch.setattr("lls.signed.report.MOST_STREAMED", 500)

    assert Refusal.TOO_LARGE is refusal(path)
    with pytest.raises(RefusedDocument):
        written(tmp_path / "second")
    assert [path] == list(tmp_path.iterdir())


def test_a_failing_disk_is_told_as_such_and_not_as_a_forged_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    written(tmp_path / "r", report_key=None)
    with (
        open_report(tmp_path / "r", report_key=None, server_jwk=SITE.signing_jwk) as report,
        monkeypatch.context() as patched,
    ):
        patched.setattr(zipfile.ZipExtFile, "read", fails)
        with pytest.raises(OSError, match="Input/output"):
            list(report.lines())
