"""Putting a backup back, while no server runs: whole or not at all, and what was there before is kept.

Rules
1. The server's lock is taken first: a database that is in use is never exchanged.
2. Everything is unpacked and checked beside the state (hashes, seal, every line of the journal, keys that belong to
   the database); until then nothing of the state was touched.
3. State that is there is not replaced unless the administrator says so, and then it moves aside; it is never deleted.
4. Then a note is written that says what moves where, and only then does anything move. Whatever interrupts that, the
   same command goes on from the note, and no server starts before.
5. The database says that it comes from a backup (``Fact.RESTORING``), so the next start posts ``Restored``, once.

A state folder that was copied back by other means says nothing of it; the vendor's ingest notices that.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from lls.backup.archive import Manifest, opened, read_archive
from lls.backup.taking import KEYS, STATE_FILES
from lls.faults import RefusedDocument, SetupFault
from lls.identity import SERVER_ID_FILE, load_identity
from lls.licensing.fields import write_instant
from lls.signed.vault import Opener, VaultReader
from lls.store import copies
from lls.store.locking import give_lock_back, take_lock

WORK: Final = ".restore"
NOTE: Final = "ready.json"
CONFIG: Final = "config"
BESIDE: Final = "restored-config"
_MOVED_IN: Final = (copies.DATABASE, KEYS, *STATE_FILES, BESIDE)
_MOVED_ASIDE: Final = (f"{copies.DATABASE}-wal", f"{copies.DATABASE}-shm", "reports", *_MOVED_IN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a backup holds, after all of it was checked."""

    manifest: Manifest
    lines: int
    sealed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """What was put back; ``aside`` is where the state of before is, ``finished`` an interrupted restore."""

    server_id: str
    seq: int
    made_at: str
    aside: Path | None
    config: Path | None
    finished: bool


class Unlocks(Protocol):
    """How to open a sealed backup: asked once it is known what it takes."""

    def opener(self, *, passphrase: bool) -> Opener:
        """The passphrase or the private key."""


def look_into(file: Path, unlocks: Unlocks, *, room: Path) -> Found:
    """Read a backup and check everything, and change nothing; ``room`` is a folder for the time of it.

    Raises RefusedDocument and SetupFault with what is wrong.
    """
    folder = room / f".check-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    try:
        return _unpacked(file, unlocks, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_back(file: Path, unlocks: Unlocks, *, state_dir: Path, force: bool, now: datetime) -> Put:
    """Put a backup back into ``state_dir``. Raises SetupFault and RefusedDocument; then nothing was changed.

    Where a restore was interrupted after it had begun to move files, that one is finished, whatever ``file`` is.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupFault(f"The state directory {state_dir} cannot be made: {error.strerror}.") from error
    with _locked(state_dir):
        work = state_dir / WORK
        if (work / NOTE).exists():
            return _moved(state_dir, finished=True)
        there = [name for name in (copies.DATABASE, KEYS) if (state_dir / name).exists()]
        if there and not force:
            raise SetupFault(
                f"{state_dir} holds the state of a server already ({' and '.join(there)}). To put the backup in its"
                " place, add --force: the present state then moves aside, and nothing is deleted."
            )
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir(mode=0o700)
            found = _unpacked(file, unlocks, work)
            _note(work, found, now=now, aside=any(_exists(state_dir / name) for name in _MOVED_ASIDE))
        except OSError as error:
            shutil.rmtree(work, ignore_errors=True)
            raise SetupFault(f"The backup could not be unpacked: {error.strerror or error}.") from error
        except (RefusedDocument, SetupFault):
            shutil.rmtree(work, ignore_errors=True)
            raise
        return _moved(state_dir, finished=False)


def refuse_unfinished(state_dir: Path) -> None:
    """No server starts between two states. Raises SetupFault."""
    if (state_dir / WORK / NOTE).exists():
        raise SetupFault(
            f"A restore into {state_dir} was interrupted; run the same lls restore command again, which finishes it."
        )


def _unpacked(file: Path, unlocks: Unlocks, folder: Path) -> Found:
    with _named(file), opened(file) as vault:
        if vault.is_sealed:
            vault.unlock(unlocks.opener(passphrase=vault.wants_passphrase))
        manifest = read_archive(vault, into=folder)
        _check_head(vault, manifest)
        look = copies.look(folder / copies.DATABASE, chain=True)
        if look.schema > copies.highest_schema():
            raise SetupFault(
                f"The backup was made by version {manifest.version}, which is newer than this program; install that"
                " version, then restore."
            )
        if (look.seq, look.head, look.server_id) != (manifest.seq, manifest.head, manifest.server_id):
            raise SetupFault("The database in the backup is not the one that its manifest names.")
        if not (folder / KEYS / SERVER_ID_FILE).is_file():
            raise SetupFault("The backup has no keys in it, so it is not a server's whole state.")
        if load_identity(folder / KEYS).server_id != manifest.server_id:
            raise SetupFault("The keys in the backup are those of another server than its database.")
        return Found(manifest=manifest, lines=look.lines, sealed=vault.is_sealed)


def _check_head(vault: VaultReader, manifest: Manifest) -> None:
    if vault.head.get("server_id") != manifest.server_id:
        raise SetupFault("The backup's head names another server than its content.")


def _note(work: Path, found: Found, *, now: datetime, aside: bool) -> None:
    """From here on the restore happens: an interruption is gone on from."""
    made_at = write_instant(found.manifest.made_at)
    restore_id = "rst_" + urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode("ascii")
    copies.mark_restored(work / copies.DATABASE, restore_id=restore_id, made_at=made_at)
    if (work / CONFIG).exists():
        (work / CONFIG).rename(work / BESIDE)
    note = {
        "server_id": found.manifest.server_id,
        "seq": found.manifest.seq,
        "made_at": made_at,
        "moves": [name for name in _MOVED_IN if (work / name).exists()],
        "aside": f"before-restore-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}" if aside else None,
    }
    unfinished = work / f"{NOTE}.part"
    with unfinished.open("w") as file:
        json.dump(note, file)
        file.flush()
        os.fsync(file.fileno())
    _settle(work)
    unfinished.rename(work / NOTE)
    _settle(work)


def _moved(state_dir: Path, *, finished: bool) -> Put:
    """Follow the note. Each step is a rename that was made or was not, so that all may be gone through again."""
    work = state_dir / WORK
    note = json.loads((work / NOTE).read_text())
    aside = state_dir / note["aside"] if note["aside"] else None
    owner = state_dir.stat()
    for name in _MOVED_ASIDE if aside is not None else ():
        if name in note["moves"] and not _exists(work / name):
            continue  # moved in already: what stands there is the new one
        if aside is not None and _exists(state_dir / name):
            aside.mkdir(mode=0o700, exist_ok=True)
            (state_dir / name).rename(aside / name)
    if aside is not None and aside.exists():
        os.chown(aside, owner.st_uid, owner.st_gid)
    for name in note["moves"]:
        if _exists(work / name):
            _own(work / name, owner)
            (work / name).rename(state_dir / name)
    _settle(state_dir)
    (work / NOTE).unlink()
    shutil.rmtree(work, ignore_errors=True)
    config = state_dir / BESIDE
    return Put(
        server_id=note["server_id"],
        seq=note["seq"],
        made_at=note["made_at"],
        aside=aside if aside is not None and aside.exists() else None,
        config=config if config.exists() else None,
        finished=finished,
    )


def _own(path: Path, owner: os.stat_result) -> None:
    """Whoever the folder belongs to: root puts back what the server's own account is to read."""
    for one in (path, *path.rglob("*")) if path.is_dir() else (path,):
        os.chown(one, owner.st_uid, owner.st_gid)


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    lock = take_lock(state_dir / "lls.lock")
    try:
        os.chown(state_dir / "lls.lock", state_dir.stat().st_uid, state_dir.stat().st_gid)
        yield
    finally:
        give_lock_back(lock)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if error.filename != str(file):
            raise
        raise SetupFault(f"{file}: there is no such file.") from None
    except IsADirectoryError:
        raise SetupFault(f"{file} is a folder; name the backup in it.") from None


def _settle(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
