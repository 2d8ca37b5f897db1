"""Borrowed leases on disk: one file each, readable by its owner alone, whole or not at all.

Rules
1. A file is written beside its place, synced, and moved there; then the folder is synced. A power cut leaves the old
   file or the new one. Nothing is answered as borrowed before that.
2. Only a regular file that belongs to this user is read: a symlink, a pipe or another user's file is ``Damaged``. One
   that others may read or write is closed to them at once: what they may have written is signed and checked, and what
   they may have read returns a seat but never uses one.
3. Changes are serialised between processes by a lock on the folder: a clock mark written by one program must not bring
   back the lease that another has just returned.
4. Whatever is not of the form is ``Damaged``, with the file's name and never with its content.
5. Nothing takes the place of a file that would not be read back as what it was written from.

Limits: nothing here is believed. Whoever owns the disk can edit the mark or put an old copy of a file back; only the
signatures (``borrowing``) and the server's own clock cannot be edited.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from .elapsed import HighWater
from .errors import Damaged, NotBorrowed
from .trust import strict_json

FORMAT = 1

_MAX_FILE = 2 * 1024 * 1024
_SUFFIX = ".json"
_PRIVATE_FILE = 0o600
_PRIVATE_FOLDER = 0o700
_OTHERS = 0o077
_OTHERS_WRITE = 0o022
_MAX_INSTANT = 1e11
_WORDS = ("lease_id", "product", "server_id", "capability", "certificate", "secret", "key", "nonce", "document")


class State(StrEnum):
    """How far a borrowing has come. Only ``held`` may count; what is ``returned`` never counts again."""

    ASKED = "asked"  # over the network; the answer is not here (yet)
    REQUESTED = "requested"  # by file; the grant is not here yet
    HELD = "held"
    RETURNING = "returning"  # over the network; no server confirmed it (yet)
    RETURNED = "returned"  # by file


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """All that is known of one borrowed lease. ``until`` is a UNIX time: the end granted, or asked for before that.

    ``secret`` speaks for a lease over the network, ``key`` (PKCS #8, PEM) for one by file. ``keys``: the vendor's key
    sets that came after the application's own. ``document``: the signed return, once it was made.

    By file alone: ``asked`` is what the request said beside its end and its code, ``coded`` whether it had a code;
    a request for a later end has to say the same. ``nonce`` is the one that the capability answers, ``nonces`` are
    those of the lease's other requests, the latest last.

    Over the network alone: ``shown_at`` is the UNIX time of the last attempt to show it to its server (0: never),
    ``shown_in_vain`` how many attempts since the last answer had none (``announcing``).
    """

    lease_id: str
    product: str
    state: State
    until: float
    server_id: str = ""
    servers: tuple[str, ...] = ()
    keys: tuple[str, ...] = field(default=(), repr=False)
    lease: Mapping[str, object] = field(default_factory=dict, repr=False)
    capability: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    nonce: str = ""
    nonces: tuple[str, ...] = ()
    asked: Mapping[str, object] = field(default_factory=dict, repr=False)
    coded: bool = False
    document: str = field(default="", repr=False)
    clock: HighWater | None = None
    shown_at: float = 0.0
    shown_in_vain: int = 0


class Store:
    """A folder of :class:`Kept`; made with its parents when the first lease is written."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()

    def __repr__(self) -> str:
        return f"<Store {self.folder}>"

    def read(self, lease_id: str) -> Kept:
        """``NotBorrowed`` when there is none, ``Damaged`` when there is something else."""
        path = self._path(lease_id)
        try:
            content = _read_private(path)
        except FileNotFoundError as error:
            raise NotBorrowed(f"No borrowed lease {lease_id} is kept in {self.folder}.") from error
        kept = _kept(content, path)
        if kept.lease_id != path.stem:
            raise Damaged(f"{path} speaks of another lease than its name says.")
        return kept

    def all(self) -> list[tuple[str, Kept | Damaged]]:
        """Everything that is kept here by its lease id, in no particular order; what cannot be read, as its error."""
        try:
            names = [path.stem for path in self.folder.iterdir() if path.suffix == _SUFFIX and _is_id(path.stem)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        found: list[tuple[str, Kept | Damaged]] = []
        for name in names:
            try:
                found.append((name, self.read(name)))
            except Damaged as damage:
                found.append((name, damage))
            except NotBorrowed:
                # Given back by another process between our two looks.
                continue
        return found

    def write(self, kept: Kept) -> None:
        """On disk, and there to stay, when this returns. ``OSError`` when the disk refuses.

        ``Damaged`` when it could not be read again; the former file stays (rule 5).
        """
        self._make()
        path = self._path(kept.lease_id)
        write_whole(path, _content(kept, path))

    def remove(self, lease_id: str) -> None:
        """Also when there is none."""
        self._path(lease_id).unlink(missing_ok=True)
        if self.folder.is_dir():
            _sync_folder(self.folder)

    def tidy(self, *, before: float) -> None:
        """Removes what ended before an instant that somebody trustworthy vouched for; never by this machine's clock."""
        with self.changing():
            for lease_id, kept in self.all():
                if isinstance(kept, Kept) and kept.until < before:
                    self.remove(lease_id)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """One process at a time (rule 3)."""
        self._make()
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | _no_follow(), _PRIVATE_FILE)
        try:
            _lock(descriptor)
            try:
                yield
            finally:
                # Closing is not enough: a child forked meanwhile has the same open file, and the lock with it.
                _unlock(descriptor)
        finally:
            os.close(descriptor)

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_FOLDER)
        about = self.folder.stat()
        if not _is_ours(about):
            raise Damaged(f"{self.folder} belongs to another user; name a folder of your own.")
        if hasattr(os, "fchmod") and about.st_mode & _OTHERS_WRITE:
            self.folder.chmod(stat.S_IMODE(about.st_mode) & ~_OTHERS)

    def _path(self, lease_id: str) -> Path:
        if not _is_id(lease_id):
            raise NotBorrowed("That is not the id of a lease.")
        return self.folder / f"{lease_id}{_SUFFIX}"


def default_folder() -> Path:
    """``$XDG_STATE_HOME/lls/borrowed``, else ``~/.local/state/lls/borrowed``; on Windows below ``%LOCALAPPDATA%``."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        return Path(base) / "lls" / "borrowed"
    named = os.environ.get("XDG_STATE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    base_folder = Path(named) if named.startswith("/") else Path.home() / ".local" / "state"
    return base_folder / "lls" / "borrowed"


def write_whole(path: Path, content: bytes) -> None:
    """The whole file or the former one (rule 1), for its owner alone. A symlink in its place is replaced itself."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        _write_beside(beside, path, content)
    except OSError as error:
        # Nobody knows the name beside it; the error names the file that was to be written.
        raise OSError(error.errno, error.strerror, str(path)) from error
    _sync_folder(path.parent)


# -- behind them ---------------------------------------------------------------------------------------------------


def _write_beside(beside: Path, path: Path, content: bytes) -> None:
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _no_follow(), _PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _content(kept: Kept, path: Path) -> bytes:
    try:
        content = json.dumps({"format": FORMAT, **asdict(kept)}, indent=1, allow_nan=False).encode("utf-8")
        read = _from_record(_object(strict_json(content)))
    except (ValueError, KeyError, RecursionError) as error:
        raise Damaged(f"{path} was left as it is: what was to be kept there could not be read again.") from error
    if len(content) > _MAX_FILE or kept != read:
        raise Damaged(f"{path} was left as it is: what was to be kept there could not be read again.")
    return content


def _read_private(path: Path) -> bytes:
    # O_NONBLOCK: opening a pipe would wait for its other end for ever.
    flags = os.O_RDONLY | _no_follow() | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}.") from error
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or path.is_symlink():
            raise Damaged(f"{path} is not a plain file.")
        if not _is_ours(about):
            raise Damaged(f"{path} belongs to another user.")
        if hasattr(os, "fchmod") and about.st_mode & _OTHERS:
            os.fchmod(file.fileno(), _PRIVATE_FILE)
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise Damaged(f"{path} is larger than any borrowed lease.")
    return content


def _kept(content: bytes, path: Path) -> Kept:
    try:
        record = _object(strict_json(content))
        return _from_record(record)
    except (ValueError, KeyError) as error:
        raise Damaged(f"{path} is damaged, or was written by another version; it cannot be used.") from error


def _from_record(record: Mapping[str, object]) -> Kept:
    if record["format"] != FORMAT:
        raise ValueError("another format")
    words = {name: _text(record[name]) for name in _WORDS}
    return Kept(
        lease_id=words["lease_id"],
        product=words["product"],
        state=State(_text(record["state"])),
        until=_instant(record["until"]),
        server_id=words["server_id"],
        servers=tuple(map(_text, _list(record["servers"]))),
        keys=tuple(map(_text, _list(record["keys"]))),
        lease=_object(record["lease"]),
        capability=words["capability"],
        certificate=words["certificate"],
        secret=words["secret"],
        key=words["key"],
        nonce=words["nonce"],
        # Files of before there were requests for a later end name none of these.
        nonces=tuple(map(_text, _list(record.get("nonces", [])))),
        asked=_object(record.get("asked", {})),
        coded=record.get("coded", False) is True,
        document=words["document"],
        clock=None if record["clock"] is None else _clock(_object(record["clock"])),
        # Nor do files of before loans showed themselves.
        shown_at=_instant(record.get("shown_at", 0.0)),
        shown_in_vain=_count(record.get("shown_in_vain", 0)),
    )


def _clock(members: Mapping[str, object]) -> HighWater:
    mark, wall, elapsed = (_instant(members[name]) for name in ("mark", "wall", "elapsed"))
    return HighWater(mark=mark, wall=wall, elapsed=elapsed, boot=_text(members["boot"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")  # noqa: TRY004  (becomes Damaged with all the others)
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError("not a list")  # noqa: TRY004
    return value


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004
    return value


def _instant(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_INSTANT:
        raise ValueError("not an instant")
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("not a count")
    return value


def _is_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _is_ours(about: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or about.st_uid == os.geteuid()


def _no_follow() -> int:
    return getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return  # no folder can be opened there; NTFS keeps the rename in its own journal
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415  (exists on Windows only)

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
    else:
        import fcntl  # noqa: PLC0415  (does not exist on Windows)

        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _unlock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415

        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        import fcntl  # noqa: PLC0415

        fcntl.flock(descriptor, fcntl.LOCK_UN)
