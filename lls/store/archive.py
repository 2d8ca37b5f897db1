"""Archive files: a range of the journal as canonical lines, compressed, checked by reading it back.

A file ``journal-000000000001-000000012345.ndjson.gz`` is gzip of one header line and then the lines themselves, byte
for byte as they stood in the journal, so that anybody can check the chain with public tools. The header names server,
range and both ends of the chain.

Rules
1. A file has its name only when it is whole and on the disk.
2. Nothing is believed of a file: range, chain and count are checked line by line whenever it is read.
3. Everything here blocks; callers use a thread. Memory stays bounded by a chunk.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import write_instant
from lls.licensing.journal import LONGEST_LINE, Head, head_of, verify_line

FORMAT: Final = 1
KIND: Final = "lls-journal-archive"
CHUNK: Final = 5_000
LONGEST_HEADER: Final = 4_096
LEVEL: Final = 6


def archive_name(from_seq: int, to_seq: int) -> str:
    """The name of a range's file; names sort as their ranges do."""
    return f"journal-{from_seq:012}-{to_seq:012}.ndjson.gz"


def write_archive(
    folder: Path, lines: Iterable[bytes], *, server_id: str, after: Head, end: Head, made_at: datetime
) -> tuple[str, str]:
    """Write the lines after one head up to another; the file's name and SHA-256. Raises OSError, RefusedDocument.

    The lines are verified on their way. What is left of an earlier try is replaced; a file of another range never is.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = archive_name(after.seq + 1, end.seq)
    header = {
        "format": FORMAT,
        "kind": KIND,
        "server_id": server_id,
        "from_seq": after.seq + 1,
        "to_seq": end.seq,
        "prev_head": after.hash,
        "head": end.hash,
        "made_at": write_instant(made_at),
    }
    temporary = folder / f".{name}.{secrets.token_hex(6)}.part"
    try:
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(number, "wb") as file:
            # Without name and time in gzip's own header the same range makes the same bytes.
            with gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=file, mtime=0) as packed:
                packed.write(json.dumps(header, sort_keys=True).encode() + b"\n")
                head = after
                for line in lines:
                    head = head_of(verify_line(line, after=head))
                    packed.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if head != end:
            raise _damaged(name, f"ends at line {head.seq} and not at {end.seq}")
        temporary.replace(folder / name)
        _settle(folder)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return name, digest(folder / name)


def read_archive(path: Path, *, after: Head, end: Head) -> Iterator[list[bytes]]:
    """The lines in chunks, each verified; the whole must lead from one head to the other.

    Raises OSError where there is no such file, RefusedDocument where it is another one or was changed.
    """
    head, chunk = after, []
    try:
        with gzip.open(path, "rb") as packed:
            _check_header(path.name, packed.readline(LONGEST_HEADER), after=after, end=end)
            while line := packed.readline(LONGEST_LINE + 1):
                stripped = line.removesuffix(b"\n")
                head = head_of(verify_line(stripped, after=head))
                chunk.append(stripped)
                if len(chunk) >= CHUNK:
                    yield chunk
                    chunk = []
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path.name, f"cannot be unpacked ({error})") from error
    if chunk:
        yield chunk
    if head != end:
        raise _damaged(path.name, f"ends at line {head.seq} and not at {end.seq}")


def check_archive(path: Path, *, after: Head, end: Head, sha256: str) -> None:
    """Read a file back, whole. Raises OSError, RefusedDocument."""
    for _chunk in read_archive(path, after=after, end=end):
        pass
    if digest(path) != sha256:
        raise _damaged(path.name, "is not the file that was written")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_header(name: str, line: bytes, *, after: Head, end: Head) -> None:
    try:
        read = json.loads(line)
    except ValueError:
        read = None
    if not isinstance(read, dict) or read.get("kind") != KIND:
        raise _damaged(name, "is no archive of a journal")
    if read.get("format") != FORMAT:
        raise _damaged(name, f"has format {read.get('format')}, and this version reads {FORMAT}")
    told = tuple(read.get(key) for key in ("from_seq", "prev_head", "to_seq", "head"))
    if told != (after.seq + 1, after.hash, end.seq, end.hash):
        raise _damaged(name, "is of another range or another journal")


def _damaged(name: str, complaint: str) -> RefusedDocument:
    return RefusedDocument(Refusal.MALFORMED, f"The archive {name} {complaint}.")


def _settle(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
