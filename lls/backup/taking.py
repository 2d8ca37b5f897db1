"""Making backups while the server runs: on request, and by the clock with retention.

Rules
1. The copy of the database is one read transaction (``store.copies``); keys and the other files do not change while a
   server runs. Keys are taken from where the server has them, also where systemd hands them over. Nothing here holds up
   a commit; compressing and sealing run in a thread.
2. One at a time. A backup is written under another name, read back whole (every hash, the seal, the database's own
   check, the journal's head), and only then takes its name. What was not read back is no backup.
3. Old ones go after a new one is there, never before, and only files that bear this server's name.
4. One that failed leaves nothing behind and is told in the log and the metrics; the ones before it stay.

It refuses to own the clock's jobs (``schedule``) and where the file goes after that (``api``, ``cli``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from lls.backup.archive import Manifest, lock_of, measured, opened, read_archive, write_archive
from lls.faults import Fault, SetupFault, StoreDown
from lls.identity import KEY_FILES, key_files
from lls.signed.vault import Lock
from lls.store import copies

SUFFIX: Final = ".llsbackup"
KEYS: Final = "keys"
STATE_FILES: Final = ("tls.crt", "tls.key")
SEALED_TO: Final = "backup-passphrase"
"""Under this name systemd may hand over what scheduled backups are sealed to."""
_LARGEST_FILE: Final = 16 * 1024 * 1024
_STAMP: Final = "%Y%m%dT%H%M%SZ"

_log = logging.getLogger(__name__)


class Copied(Protocol):
    """A store that can be copied while it is written."""

    async def copy(self, target: Path) -> None:
        """A consistent copy in one new file. Raises StoreDown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the site wants by itself: where to, how many are kept, sealed to what (read anew each time)."""

    folder: Path
    keep: int
    passphrase_file: Path | None = None
    recipient_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A backup that was read back."""

    path: Path
    size: int
    sha256: str
    manifest: Manifest
    sealed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """What became of the last one that the clock asked for."""

    at: datetime
    path: str | None
    problem: str | None


class Backups:
    """See the module. ``others`` are files outside of the state folder, by their names in the archive."""

    def __init__(
        self,
        store: Copied,
        *,
        state_dir: Path,
        server_id: str,
        name: str,
        version: str,
        now: Callable[[], datetime],
        others: Mapping[str, Path],
        plan: Plan | None = None,
        observed: Callable[[Taken | None], None] = lambda _taken: None,
    ) -> None:
        self._store, self._state_dir, self._others = store, state_dir, others
        self._server_id, self._name, self._version = server_id, name, version
        self._now, self.plan, self._observed = now, plan, observed
        self._one = asyncio.Lock()
        self.last: Last | None = None

    async def take(self, folder: Path, *, lock: Lock | None) -> Taken:
        """Make one in ``folder``; who asks meanwhile waits. Raises StoreDown."""
        async with self._one:
            return await self._made(folder, lock)

    async def take_out(self, *, lock: Lock | None) -> tuple[Taken, BinaryIO]:
        """The same for who carries it away at once: an open file that has no name any more.

        The next one begins only then: it clears the folder of what a crash left there, keys included.
        """
        folder = self._state_dir / ".backup-out"
        async with self._one:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            taken = await self._made(folder, lock)
            return taken, await asyncio.to_thread(_unnamed, taken.path)

    async def _made(self, folder: Path, lock: Lock | None) -> Taken:
        work = await asyncio.to_thread(_work_folder, self._state_dir)
        try:
            await self._store.copy(work / copies.DATABASE)
            return await asyncio.to_thread(self._packed, work, folder, lock, self._now())
        except SetupFault as fault:  # what keeps a start from happening keeps nothing else from going on
            raise StoreDown(fault.detail) from fault
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    def newest_made_at(self) -> datetime | None:
        """When the newest scheduled one that is there was made, by its file's date."""
        try:
            return None if self.plan is None else newest_in(self.plan.folder, server_id=self._server_id)
        except OSError:
            return None  # the folder is not there yet; what is wrong with it the backup itself will say

    async def take_scheduled(self) -> None:
        """The one of the clock, and retention after it; never raises."""
        if self.plan is None:
            return
        await self._scheduled(self.plan)

    async def _scheduled(self, plan: Plan) -> None:
        at = self._now()
        try:
            lock = await asyncio.to_thread(_lock, plan)
            taken = await self.take(plan.folder, lock=lock)
            gone = await asyncio.to_thread(_prune, plan, self._server_id)
        except (Fault, OSError) as error:
            why = error.detail if isinstance(error, Fault) else str(error)
            self.last = Last(at=at, path=None, problem=why)
            self._observed(None)
            _log.error("backup_failed", extra={"fields": {"why": why}})
            return
        self.last = Last(at=at, path=str(taken.path), problem=None)
        self._observed(taken)
        fields = {"path": str(taken.path), "bytes": taken.size, "seq": taken.manifest.seq, "removed": gone}
        _log.info("backup_made", extra={"fields": {**fields, "sealed": taken.sealed}})

    def _packed(self, work: Path, folder: Path, lock: Lock | None, now: datetime) -> Taken:
        look = copies.look(work / copies.DATABASE)
        if look.server_id != self._server_id:
            raise SetupFault("The database is another server's than the keys beside it; nothing was saved.")
        files = [(copies.DATABASE, work / copies.DATABASE), *self._files(work)]
        manifest = Manifest(
            server_id=self._server_id,
            name=self._name,
            version=self._version,
            schema=look.schema,
            seq=look.seq,
            head=look.head,
            made_at=now,
            members={name: measured(path) for name, path in files},
        )
        _make_folder(folder)
        path = _free_name(folder, self._server_id, now)
        unfinished = path.with_name(f".{path.name}.part")
        try:
            unfinished.unlink(missing_ok=True)
            opener = write_archive(unfinished, manifest, files, lock=lock)
            with opened(unfinished) as vault:
                if lock is not None:
                    vault.unlock(opener)
                # Every member is compared with the hash of the very copy that ``look`` has checked.
                if read_archive(vault, into=None) != manifest:
                    raise SetupFault(f"What was read back from {unfinished} is not what was written.")
            whole = measured(unfinished)
            unfinished.rename(path)
            _settle(folder)
        except OSError as error:
            raise SetupFault(f"The backup could not be written to {folder}: {error.strerror or error}.") from error
        finally:
            unfinished.unlink(missing_ok=True)
        return Taken(path=path, size=whole.size, sha256=whole.sha256, manifest=manifest, sealed=lock is not None)

    def _files(self, work: Path) -> list[tuple[str, Path]]:
        """Copies of everything beside the database, so that what is measured is what is packed."""
        found: list[tuple[str, Path]] = []
        keys = key_files(self._state_dir / KEYS)
        if missing := [name for name in KEY_FILES if name not in keys]:
            # Such a backup could not be put back, and would be found out only then.
            raise SetupFault(f"Of the server's keys, {' and '.join(missing)} is not there; nothing was saved.")
        inside = {f"{KEYS}/{name}": path for name, path in sorted(keys.items())}
        inside |= {name: self._state_dir / name for name in STATE_FILES}
        for name, path in (inside | {f"config/{name}": path for name, path in self._others.items()}).items():
            if not path.is_file():
                continue
            if path.stat().st_size > _LARGEST_FILE:
                raise SetupFault(f"{path} is larger than a file of its kind can be; nothing was saved.")
            target = work / name
            target.parent.mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(path, target)
            found.append((name, target))
        return found


def _unnamed(path: Path) -> BinaryIO:
    file = path.open("rb")
    path.unlink()
    return file


def _lock(plan: Plan) -> Lock | None:
    try:
        passphrase = plan.passphrase_file and plan.passphrase_file.read_bytes().rstrip(b"\r\n")
        recipient = plan.recipient_file and plan.recipient_file.read_bytes()
    except OSError as error:
        raise SetupFault(f"{error.filename} (backup) cannot be read: {error.strerror}.") from error
    return lock_of(passphrase=passphrase or None, recipient=recipient or None)


def _prune(plan: Plan, server_id: str) -> int:
    """Keep the newest; how many went. Names begin with the instant, so their order is that of time."""
    old = sorted(_ours(plan.folder, server_id), key=_age)[: -plan.keep]
    for path in old:
        path.unlink()
    return len(old)


def newest_in(folder: Path, *, server_id: str) -> datetime | None:
    """When the newest scheduled backup of a server was made that is in a folder, by its date. Raises OSError."""
    found = _ours(folder, server_id)
    return max((datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in found), default=None)


def _ours(folder: Path, server_id: str) -> list[Path]:
    name = re.compile(rf"{re.escape(server_id)}-\d{{8}}T\d{{6}}Z(-\d+)?{re.escape(SUFFIX)}")
    return [path for path in folder.iterdir() if name.fullmatch(path.name)]


def _age(path: Path) -> tuple[str, int]:
    stamp, _, number = path.name.removesuffix(SUFFIX).rpartition("Z")
    return stamp, int(number.removeprefix("-") or 0)


def _free_name(folder: Path, server_id: str, now: datetime) -> Path:
    name = f"{server_id}-{now:{_STAMP}}"
    numbered = [f"{name}{SUFFIX}", *(f"{name}-{number}{SUFFIX}" for number in range(1, 1_000))]
    for one in numbered:
        if not (folder / one).exists():
            return folder / one
    raise SetupFault(f"{folder} holds a thousand backups of this second; look at the clock.")


def _work_folder(state_dir: Path) -> Path:
    """Beside the database: there is room for it where there is room for the original; what a crash left goes."""
    parent = state_dir / ".backup"
    try:
        shutil.rmtree(parent, ignore_errors=True)
        parent.mkdir(mode=0o700)
        return Path(tempfile.mkdtemp(dir=parent))
    except OSError as error:
        raise StoreDown(f"{parent} cannot be made: {error.strerror}.") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupFault(f"The folder for backups {folder} cannot be made: {error.strerror}.") from error


def _settle(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
