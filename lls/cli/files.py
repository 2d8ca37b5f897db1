"""Files that are carried by hand: read whole within a bound, written whole or not at all.

Rules
1. What is read is a regular file of 1 byte to 64 MiB; anything else is refused before the daemon hears of it.
2. What is written appears under its name only when it is complete and on the disk: a stick that is pulled out early
   holds the old state or the new one.
3. A file that exists stays, unless the user said ``--force`` (``--overwrite`` where that word means something else);
   that is asked *before* the daemon makes the document.

A hard link would close the race between rule 3 and the rename, and sticks formatted with FAT have none; so it is asked
twice instead, and two commands that write one name at one instant are left to whoever does that.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from lls.cli.frame import Failure

LARGEST: Final = 64 * 1024 * 1024
PRIVATE: Final = 0o600
SHARED: Final = 0o644
_STEP: Final = 1_024


def content(path: Path) -> bytes:
    """A document to hand in."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise Failure(f"{path} is not a file; name the file that your vendor sent.")
        if found.st_size > LARGEST:
            raise Failure(
                f"{path} is larger than {size(LARGEST)}, so it is not a document of your vendor's; check its name."
            )
        with path.open("rb") as file:
            read = file.read(LARGEST)
    except FileNotFoundError:
        raise Failure(f"{path}: there is no such file; check the name, and whether the stick is mounted.") from None
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}.") from None
    if not read:
        raise Failure(f"{path} is empty; copy it again from where it came.")
    return read


@contextmanager
def written(path: Path, *, mode: int, force: bool, option: str = "--force") -> Iterator[BinaryIO]:
    """A file that takes its name when the block ends without an error, and leaves nothing when it does not."""
    free(path, force=force, option=option)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.part")
    try:
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}; choose another place with -o.") from None
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        free(path, force=force, option=option)
        temporary.replace(path)
    except OSError as error:
        raise Failure(
            f"{path} could not be written: {error.strerror}; make room or choose another place with -o."
        ) from None
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    _settle(path.parent)


def free(path: Path, *, force: bool, option: str = "--force") -> None:
    """Raise Failure when something stands at ``path`` that stays; ``option`` is what the user would have to say."""
    if path.is_dir():
        raise Failure(f"{path} is a folder; name the file in it with -o.")
    if not force and os.path.lexists(path):
        raise Failure(f"{path} exists and was left as it is; choose another name, or replace it with {option}.")


def size(count: int) -> str:
    """Bytes, as people say them."""
    amount, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < _STEP:
            break
        amount, unit = amount / _STEP, larger
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"


def _settle(folder: Path) -> None:
    """Put the new name on the disk, too. Some file systems cannot; the file itself is safe by now."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(number)
        finally:
            os.close(number)
