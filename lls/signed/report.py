"""The usage report: the journal's lines, the table made of them and the clear names, in one signed archive.

A ZIP that any tool opens: ``manifest.jws`` (signed by the server), ``journal.ndjson``, ``usage.csv`` and, unless
pseudonymised, ``names.ndjson``; the whole encrypted to the vendor's ``report_key`` when the bundle has one.
:func:`open_report` judges in this order, and the code repeats the numbers:

1. Size, and decryption where the file is not a ZIP.
2. The archive's end record: at most four members, no ZIP64, before anything allocates memory for its directory.
3. Its members: exactly the known names, each once, neither folders nor paths nor links, nothing encrypted.
4. Declared sizes: each within its limit, and no more than 250 times its compressed size (a real journal reaches 10).
   The reader stops at the declared size, so that it cannot lie downwards.
5. The manifest's signature by the server's key, and its shape.
6. The SHA-256 of every member.

Writing and reading are streamed: memory does not grow with the report. The archive of the same content is the same
bytes (fixed dates, fixed order); encryption makes each copy different, so whoever must return the identical file keeps
it.

Limits: 2 GiB as a file, 8 GiB per member, 256 MiB of ``usage.csv``, 4 MiB a line.
Refuses to own: whether the chain and the table are right (``lls.licensing`` and the vendor's ingest).
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, TypeAlias, cast

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import Fields, write_instant
from lls.licensing.journal import LONGEST_LINE
from lls.signed.encoding import Json, hash_text, malformed, members, required
from lls.signed.jose import (
    MOST_TOKEN,
    EncryptionKey,
    Jwk,
    PublicKey,
    SigningKey,
    Verified,
    read_encryption_jwk,
    read_public_key,
    sign_compact,
    unverified_payload,
    verify,
)
from lls.signed.stream import MOST_STREAMED, SealedSink, Sink, open_sealed

TYP: Final = "lls-report+jws"
JOURNAL: Final = "journal.ndjson"
USAGE: Final = "usage.csv"
NAMES: Final = "names.ndjson"
MANIFEST: Final = "manifest.jws"
MOST_LINE: Final = LONGEST_LINE
_MOST_BYTES: Final = {JOURNAL: 8 * 2**30, NAMES: 8 * 2**30, USAGE: 256 * 2**20, MANIFEST: MOST_TOKEN}
_MOST_RATIO: Final = 250
_RATIO_FREE_BYTES: Final = 2**20
_CHUNK: Final = 64 * 1024
_END_RECORD: Final = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR_BYTES: Final = 20
_MOST_DIRECTORY: Final = 4096
_FIXED_DATE: Final = (1980, 1, 1, 0, 0, 0)
_MANIFEST_MEMBERS: Final = (
    "report_id",
    "server_id",
    "from_seq",
    "to_seq",
    "prev_head",
    "head",
    "members",
    "made_at",
    "pseudonymised",
)

KeyOfServer: TypeAlias = Callable[[str], Jwk | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a report covers. ``prev_head`` is the hash before ``from_seq``, ``head`` that of ``to_seq``."""

    report_id: str
    server_id: str
    from_seq: int
    to_seq: int
    prev_head: str
    head: str
    members: Mapping[str, str]
    made_at: datetime
    pseudonymised: bool


def write_report(
    path: str | os.PathLike[str],
    *,
    report_id: str,
    server_id: str,
    from_seq: int,
    to_seq: int,
    prev_head: str,
    head: str,
    made_at: datetime,
    lines: Iterable[bytes],
    usage_csv: bytes,
    names: Iterable[bytes] | None,
    key: SigningKey,
    report_key: Jwk | None,
) -> Manifest:
    """Write a report to ``path``: whole and with mode 0600, or not at all.

    ``lines`` and ``names`` are JSON lines without their newline, in order; without ``names`` the report is
    pseudonymised. ``report_key`` is the bundle's. Raises OSError when the disk does, ``too_large`` beyond 2 GiB.
    """
    with _atomic(Path(path)) as file:
        counted = _Bounded(file)
        sealed = None if report_key is None else SealedSink(counted, to=read_encryption_jwk(report_key))
        # ZipFile accepts any sink without tell(): it then writes sizes behind the data, and no plaintext touches the
        # disk.
        with zipfile.ZipFile(cast("BinaryIO", sealed or counted), "w") as archive:
            hashes = {JOURNAL: _write_member(archive, JOURNAL, (line + b"\n" for line in lines))}
            hashes[USAGE] = _write_member(archive, USAGE, [usage_csv])
            if names is not None:
                hashes[NAMES] = _write_member(archive, NAMES, (line + b"\n" for line in names))
            manifest = Manifest(
                report_id=report_id,
                server_id=server_id,
                from_seq=from_seq,
                to_seq=to_seq,
                prev_head=prev_head,
                head=head,
                members=hashes,
                made_at=made_at,
                pseudonymised=names is None,
            )
            token = sign_compact(_payload(manifest), key=key, typ=TYP)
            _write_member(archive, MANIFEST, [token.encode("ascii")])
        if sealed is not None:
            sealed.finish()
    return manifest


def open_report(
    path: str | os.PathLike[str], *, report_key: EncryptionKey | None, server_jwk: Jwk | KeyOfServer
) -> Report:
    """The verified report in a ``.llsreport`` file; close it, or use it in a ``with``.

    ``server_jwk`` is the public key of the server that must have signed it, or a function that finds the key by the
    server id that the manifest claims (None: not a server of ours, ``audience``). A file that is not encrypted is read
    as it is: its signature says who made it. Raises OSError when the file cannot be read. Refusals: ``too_large``,
    ``malformed``, ``decryption``, ``audience``, ``signature``.
    """
    file: BinaryIO = Path(path).open("rb")  # noqa: SIM115  # the report holds it open
    try:
        file = _decrypted(file, report_key)  # 1
        with _broken_archive_refused():
            _check_end_record(file)  # 2
            archive = zipfile.ZipFile(file)
            _check_members(archive)  # 3, 4
            verified = _verify_manifest(archive.read(MANIFEST), server_jwk)  # 5
            manifest = _read_manifest(verified.payload)
            _check_hashes(archive, manifest)  # 6
    except BaseException:
        file.close()
        raise
    return Report(manifest=manifest, _archive=archive, _file=file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report whose signature and hashes are right. Its iterators read from the file, line by line."""

    manifest: Manifest
    _archive: zipfile.ZipFile = field(repr=False)
    _file: BinaryIO = field(repr=False)

    def lines(self) -> Iterator[bytes]:
        """The journal's lines without their newline, in order."""
        return self._lines(JOURNAL)

    def names(self) -> Iterator[bytes]:
        """The lines ``{commitment, field, value}``; none when the report is pseudonymised."""
        return iter(()) if self.manifest.pseudonymised else self._lines(NAMES)

    def usage_csv(self) -> bytes:
        """The usage table as the server wrote it."""
        with _broken_archive_refused():
            return self._archive.read(USAGE)

    def close(self) -> None:
        """Let go of the file."""
        self._archive.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lines(self, name: str) -> Iterator[bytes]:
        # The archive's own readline with a limit goes through Python once per line.
        with _broken_archive_refused(), io.BufferedReader(cast("io.RawIOBase", self._archive.open(name))) as member:
            while line := member.readline(MOST_LINE + 1):
                if len(line) > MOST_LINE:
                    raise malformed(f"The report's {name} has a line of more than {MOST_LINE} bytes.")
                yield line.removesuffix(b"\n")


def _payload(manifest: Manifest) -> Json:
    return {
        "report_id": manifest.report_id,
        "server_id": manifest.server_id,
        "from_seq": manifest.from_seq,
        "to_seq": manifest.to_seq,
        "prev_head": manifest.prev_head,
        "head": manifest.head,
        "members": dict(manifest.members),
        "made_at": write_instant(manifest.made_at),
        "pseudonymised": manifest.pseudonymised,
    }


def _read_manifest(payload: Json) -> Manifest:
    required(payload, *_MANIFEST_MEMBERS)
    fields = Fields(payload, place="manifest")
    pseudonymised = fields.flag("pseudonymised")
    named = members(payload, "members")
    if named.keys() != ({JOURNAL, USAGE} if pseudonymised else {JOURNAL, USAGE, NAMES}):
        raise malformed("The report's manifest does not name the members that a report has.")
    from_seq = fields.integer("from_seq", least=1)
    return Manifest(
        report_id=fields.id("report_id", "rpt_"),
        server_id=fields.id("server_id", "lls_"),
        from_seq=from_seq,
        to_seq=fields.integer("to_seq", least=from_seq),
        prev_head=hash_text(payload, "prev_head"),
        head=hash_text(payload, "head"),
        members={name: hash_text(named, name) for name in named},
        made_at=fields.instant("made_at"),
        pseudonymised=pseudonymised,
    )


def _verify_manifest(token: bytes, server_jwk: Jwk | KeyOfServer) -> Verified:
    if callable(server_jwk):
        claimed = Fields(unverified_payload(token), place="manifest").id("server_id", "lls_")
        jwk = server_jwk(claimed)
        if jwk is None:
            raise RefusedDocument(Refusal.AUDIENCE, f"The report is from {claimed}, which is not a server known here.")
    else:
        jwk = server_jwk
    key: PublicKey = read_public_key(jwk)
    return verify(token, typ=TYP, key_of=lambda kid: key if kid == key.kid else None)


def _decrypted(file: BinaryIO, report_key: EncryptionKey | None) -> BinaryIO:
    if os.fstat(file.fileno()).st_size > MOST_STREAMED:
        raise RefusedDocument(Refusal.TOO_LARGE, f"The report is larger than {MOST_STREAMED} bytes.")
    is_archive = file.read(2) == b"PK"
    file.seek(0)
    if is_archive:
        return file
    if report_key is None:
        raise RefusedDocument(Refusal.DECRYPTION, "The report is encrypted, and there is no report key here.")
    plain = open_sealed(file, key=report_key)
    file.close()
    return plain


def _check_end_record(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    begin = size - _END_RECORD.size - _ZIP64_LOCATOR_BYTES
    if begin < 0:
        raise malformed("The report is not a ZIP archive.")
    file.seek(begin)
    locator, record = file.read(_ZIP64_LOCATOR_BYTES), file.read(_END_RECORD.size)
    signature, _, _, _, count, directory_bytes, _, comment_bytes = _END_RECORD.unpack(record)
    if signature != b"PK\x05\x06" or comment_bytes:
        raise malformed("The report is cut off, or is not a ZIP archive.")
    if locator.startswith(b"PK\x06\x07") or count > len(_MOST_BYTES) or directory_bytes > _MOST_DIRECTORY:
        raise malformed("The report's archive has more members than a report has.")
    file.seek(0)


def _check_members(archive: zipfile.ZipFile) -> None:
    names = archive.namelist()
    if len(set(names)) != len(names) or not {JOURNAL, USAGE, MANIFEST} <= set(names) <= _MOST_BYTES.keys():
        raise malformed("The report must have exactly the members that a report has, each once.")
    for info in archive.infolist():
        if info.orig_filename != info.filename or info.flag_bits & 0x1 or info.compress_type not in _METHODS:
            raise malformed(f"The report's member {info.filename} is encrypted or compressed in an unknown way.")
        allowed = min(_MOST_BYTES[info.filename], info.compress_size * _MOST_RATIO + _RATIO_FREE_BYTES)
        if info.file_size > allowed:
            raise RefusedDocument(Refusal.TOO_LARGE, f"The report's {info.filename} is larger than it may be.")


_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


def _check_hashes(archive: zipfile.ZipFile, manifest: Manifest) -> None:
    if manifest.members.keys() | {MANIFEST} != set(archive.namelist()):
        raise malformed("The report's manifest names other members than the archive has.")
    for name, expected in manifest.members.items():
        if _hash_member(archive, name) != expected:
            raise RefusedDocument(Refusal.SIGNATURE, f"The report's {name} is not the one that was signed.")


def _hash_member(archive: zipfile.ZipFile, name: str) -> str:
    digest = hashlib.sha256()
    with archive.open(name) as member:
        while chunk := member.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _write_member(archive: zipfile.ZipFile, name: str, chunks: Iterable[bytes]) -> str:
    info = zipfile.ZipInfo(name, date_time=_FIXED_DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # UNIX, whatever wrote it: the bytes must not depend on the platform
    info.external_attr = 0o600 << 16
    digest = hashlib.sha256()
    with archive.open(info, "w", force_zip64=True) as member:
        for chunk in chunks:
            digest.update(chunk)
            member.write(chunk)
    return digest.hexdigest()


class _Bounded:
    # No tell() on purpose, see write_report.
    __slots__ = ("_file", "_left")

    def __init__(self, file: Sink) -> None:
        self._file = file
        self._left = MOST_STREAMED

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise RefusedDocument(Refusal.TOO_LARGE, "The report would be larger than 2 GiB; import a receipt first.")
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def _atomic(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` (mode 0600) that takes its place when all went well, and is gone when not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _broken_archive_refused() -> Iterator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
        struct.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        OverflowError,
    ) as error:
        # What zipfile and zlib raise on hostile input is nowhere promised; these are what reading their source gives.
        raise malformed("The report's archive is damaged.") from error
    except OSError as error:
        # zipfile seeks where the archive says, before the file's beginning too. Any other error is the disk's own, and
        # a report on a bad disk is not a forged one.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise malformed("The report's archive is damaged.") from error
