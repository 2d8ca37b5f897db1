"""The file of a backup: a head, then a compressed tar of a manifest and what it names (decision 0020).

| member | what |
|---|---|
| ``manifest.json`` | first: format, server, version, schema, the journal's end; size and SHA-256 of each other |
| ``lls.sqlite3`` | the copy of the database |
| ``keys/…`` | who the server is: its id and its private keys |
| ``tls.crt``, ``tls.key`` | the certificate that it made for itself, where it did |
| ``config/…`` | settings, policy and the vendor's key set, as they were; put beside, never in force by themselves |

Rules
1. Written and read in one pass, in bounded memory.
2. What is read is named by the manifest, in its size and with its hash; anything else in the archive refuses it. Names
   are of the table above: no archive writes outside of its folder.
3. A file that holds private keys in clear is readable by its owner only, whoever made it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import Fields, write_instant
from lls.signed.vault import (
    LONGEST_PASSPHRASE,
    SHORTEST_PASSPHRASE,
    FileKey,
    Lock,
    Opener,
    ToPassphrase,
    VaultReader,
    VaultWriter,
    recipient_of,
)

MAGIC: Final = b"LLS-BACKUP-1"
FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_MOST_MANIFEST: Final = 1024 * 1024
_MOST_MEMBERS: Final = 100
_NAME: Final = re.compile(r"lls\.sqlite3|tls\.(crt|key)|(keys|config)/[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PIECE: Final = 1024 * 1024
_QUICK: Final = 1
"""How hard zlib tries: at the lowest level a journal shrinks to a third already, and much faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of a backup."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup holds: whose state, as of which line of the journal."""

    server_id: str
    name: str
    version: str
    schema: int
    seq: int
    head: str
    made_at: datetime
    members: Mapping[str, Member]

    def document(self) -> dict[str, Any]:
        """As it stands in the archive."""
        return {
            "format": FORMAT,
            "server_id": self.server_id,
            "name": self.name,
            "version": self.version,
            "schema": self.schema,
            "seq": self.seq,
            "head": self.head,
            "made_at": write_instant(self.made_at),
            "members": {name: {"size": one.size, "sha256": one.sha256} for name, one in self.members.items()},
        }


def lock_of(*, passphrase: bytes | None = None, recipient: bytes | None = None) -> Lock | None:
    """What a backup is sealed to; None: nothing. Refusal: ``malformed``."""
    if recipient is not None:
        return recipient_of(recipient)
    if passphrase is None:
        return None
    if not SHORTEST_PASSPHRASE <= len(passphrase) <= LONGEST_PASSPHRASE:
        raise RefusedDocument(
            Refusal.MALFORMED,
            f"A passphrase of {SHORTEST_PASSPHRASE} to {LONGEST_PASSPHRASE} bytes is needed: the backup holds the"
            " server's private keys.",
        )
    return ToPassphrase(passphrase)


def measured(path: Path) -> Member:
    """Size and hash of a file, read in pieces."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return Member(size=file.tell(), sha256=digest.hexdigest())


# -------------------------------------------------------------------- writing


def write_archive(target: Path, manifest: Manifest, files: Sequence[tuple[str, Path]], *, lock: Lock | None) -> Opener:
    """Write the backup, on the disk when this returns; what opens it for being read back. ``target`` must be new."""
    number = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "wb") as file:
        head = {
            "server_id": manifest.server_id,
            "made_at": write_instant(manifest.made_at),
            "version": manifest.version,
        }
        vault = VaultWriter(file, magic=MAGIC, head=head, lock=lock)
        with (
            gzip.GzipFile(filename="", mode="wb", compresslevel=_QUICK, fileobj=vault, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            told = json.dumps(manifest.document(), sort_keys=True, indent=1).encode()
            tar.addfile(_entry(MANIFEST, len(told)), io.BytesIO(told))
            for name, path in files:
                with path.open("rb") as member:
                    tar.addfile(_entry(name, manifest.members[name].size), member)
        vault.finish()
        file.flush()
        os.fsync(file.fileno())
    return vault.key or FileKey(b"")


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


# -------------------------------------------------------------------- reading


@contextmanager
def opened(path: Path) -> Iterator[VaultReader]:
    """The head of a backup; its content after ``unlock``. Refusal: ``malformed``."""
    with path.open("rb") as file:
        yield VaultReader(file, magic=MAGIC)


def read_archive(vault: VaultReader, *, into: Path | None) -> Manifest:
    """Read the whole of an unlocked backup and check every member; ``into``: also write them there.

    Refusals: ``decryption``, ``format``, ``malformed`` with what is wrong. What was written before is left to the
    caller, who made the folder.
    """
    try:
        with (
            gzip.GzipFile(fileobj=io.BufferedReader(vault, _PIECE), mode="rb") as packed,
            tarfile.open(fileobj=packed, mode="r|") as tar,
        ):
            manifest = _read_members(tar, into)
            while packed.read(_PIECE):  # to its end: the checksum stands there
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RefusedDocument(
            Refusal.MALFORMED, f"The backup is damaged or cut off ({error}); use another one."
        ) from error
    return manifest


def _read_members(tar: tarfile.TarFile, into: Path | None) -> Manifest:
    manifest: Manifest | None = None
    found: set[str] = set()
    for entry in tar:
        content = tar.extractfile(entry) if entry.isreg() else None
        if content is None or entry.name in found:
            raise _strange(entry.name)
        if manifest is None:
            manifest = _read_manifest(entry, content)
            continue
        known = manifest.members.get(entry.name)
        if known is None or known.size != entry.size:
            raise _strange(entry.name)
        if _received(content, entry.name, into) != known.sha256:
            raise RefusedDocument(Refusal.MALFORMED, f"The backup is damaged: {entry.name} is not what was saved.")
        found.add(entry.name)
    if manifest is None or found != manifest.members.keys():
        raise RefusedDocument(Refusal.MALFORMED, "The backup is cut off: files that it names are missing.")
    return manifest


def _received(content: Any, name: str, into: Path | None) -> str:
    digest = hashlib.sha256()
    with _target(name, into) as file:
        while piece := content.read(_PIECE):
            digest.update(piece)
            if file is not None:
                file.write(piece)
    return digest.hexdigest()


@contextmanager
def _target(name: str, into: Path | None) -> Iterator[BinaryIO | None]:
    if into is None:
        yield None
        return
    path = into / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _read_manifest(entry: tarfile.TarInfo, content: Any) -> Manifest:
    if entry.name != MANIFEST or entry.size > _MOST_MANIFEST:
        raise _strange(entry.name)
    try:
        fields = Fields(json.loads(content.read()), place="manifest")
    except ValueError:
        raise RefusedDocument(Refusal.MALFORMED, "The backup's manifest is no JSON.") from None
    if fields.integer("format") != FORMAT:
        raise RefusedDocument(Refusal.FORMAT, "The backup is of a newer version of this server; install that version.")
    members = dict(_members(fields))
    return Manifest(
        server_id=fields.id("server_id", "lls_"),
        name=fields.text("name"),
        version=fields.text("version", most=50),
        schema=fields.integer("schema"),
        seq=fields.integer("seq"),
        head=fields.text("head", most=64),
        made_at=fields.instant("made_at"),
        members=members,
    )


def _members(fields: Fields) -> Iterator[tuple[str, Member]]:
    listed = fields.object("members")
    names = listed.names()
    if len(names) > _MOST_MEMBERS:
        raise _strange("more files than a server has")
    for name in names:
        if not _NAME.fullmatch(name):
            raise _strange(name)
        member = listed.object(name)
        yield name, Member(size=member.integer("size"), sha256=member.text("sha256", most=64))


def _strange(name: str) -> RefusedDocument:
    shown = name if name.isprintable() else "?"
    return RefusedDocument(Refusal.MALFORMED, f"The backup holds something that no server saves ({shown[:100]}).")
