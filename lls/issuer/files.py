"""Files that are either there whole or not at all, and reading with a limit.

A half-written bundle on a stick is found out at the customer's site, days later; so every file is written beside its
place, forced to the disk and renamed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from lls.issuer.refusals import HomeRefused

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644


def write_whole(path: Path, data: bytes, *, mode: int = PUBLIC) -> None:
    """Writes ``data`` to ``path`` atomically; the file has ``mode`` from its first moment. Raises OSError."""
    try:
        _write_whole(path, data, mode=mode)
    except OSError as failure:
        # Whoever reads the error knows the file that was asked for, not the one beside it.
        raise OSError(failure.errno, failure.strerror, str(path)) from failure


def _write_whole(path: Path, data: bytes, *, mode: int) -> None:
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def read_bounded(path: Path, *, what: str, most: int) -> bytes:
    """The file's content; a missing, unreadable or larger file is refused in words."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as failure:
        raise HomeRefused(f"The {what} {path} cannot be read: {failure.strerror}.") from failure
    if len(data) > most:
        raise HomeRefused(f"The {what} {path} is larger than {most:,} bytes, so it is not what it should be.")
    return data


def sync_directory(directory: Path) -> None:
    """Forces what was made or renamed in a directory to the disk: a rename, too, may be lost when the power fails."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
