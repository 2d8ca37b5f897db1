"""The drop folder: a bundle or receipt laid in ``in`` is imported; a report appears in ``out``.

::

    in/       lay *.llsbundle and *.llsreceipt here; a file that has not changed between two looks is taken
    taken/    ours: what is being imported
    done/     what was imported, each with a .txt that says what it did
    refused/  what was not, each with a .txt that says why
    out/      reports, when ``drop.report_every`` says so

Rules
1. Who may write into ``in`` may hand documents in, and nothing else: their signatures decide, as on every other way.
   Only regular files are opened, never through a link, never a pipe, never more than 64 MiB. The rest goes to
   ``refused`` unread.
2. A file is moved to ``taken``, where nobody else can change it, before it is read.
3. A crash at any point costs nothing: what lies in ``taken`` is handed in again, and handing the same document in twice
   changes nothing. A report is sealed before it is written; at worst one more is sealed.
4. A store that is down, or a server that is busy, is no reason to refuse a document: it stays in ``taken`` for the next
   turn.
5. A document on which we fail ourselves (an exception that is no fault) is left for the next turn and holds no other
   up; after five tries it goes to ``refused`` like one that is, with words that say whose mistake it was. Each try is
   logged with its trace. A restart begins to count anew.
6. At most so many files a turn: a folder that somebody floods holds nothing else up.

Folders are opened without following links, and every file is named relative to its folder's descriptor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from lls.airgap import Airgap
from lls.config import ReportEvery
from lls.faults import BadRequest, Fault, NotFound, RefusedDocument, TooLarge
from lls.identity import write_private
from lls.writer import Writer

BUNDLE, RECEIPT = ".llsbundle", ".llsreceipt"
FOLDERS: Final = ("in", "taken", "done", "refused", "out")
LARGEST: Final = 64 * 1024 * 1024
MOST_LISTED: Final = 1_000
MOST_IN_TURN: Final = 20
MOST_NUMBERED: Final = 100
MOST_TRIES: Final = 5
MARKER: Final = "drop-report"
PERIODS: Final = {ReportEvery.DAY: timedelta(days=1), ReportEvery.WEEK: timedelta(days=7)}
_FINAL: Final = (RefusedDocument, BadRequest, TooLarge, NotFound)
"""What trying again would not change."""
_ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")

_log = logging.getLogger(__name__)


class DropFolder:
    """Looks into one folder now and then; see the module."""

    def __init__(
        self,
        folder: Path,
        *,
        airgap: Airgap,
        writer: Writer,
        state_dir: Path,
        report_every: ReportEvery = ReportEvery.NEVER,
        pseudonymise: bool = False,
    ) -> None:
        self._folder, self._airgap, self._writer = folder, airgap, writer
        self._period, self._pseudonymise = PERIODS.get(report_every), pseudonymise
        self._marker = state_dir / MARKER
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._told = ""
        self._failed: Counter[str] = Counter()
        """How often we have failed on what lies in ``taken``."""

    async def look(self) -> None:
        """One turn: hand in what lies there, write the report that is due. What goes wrong is a line of the log."""
        try:
            await asyncio.to_thread(self._take)
            for name in await asyncio.to_thread(self._taken):
                await self._hand_in(name)
            await self._report()
            self._told = ""
        except OSError as error:
            self._complain(f"{error.filename or self._folder}: {error.strerror}")
        except Fault as fault:
            self._complain(fault.detail)

    def _complain(self, why: str) -> None:
        if why != self._told:
            _log.error("drop_folder", extra={"fields": {"folder": str(self._folder), "why": why}})
        self._told = why

    # ---------------------------------------------------------------- in

    def _take(self) -> None:
        """Rule 2: whatever lay still since the last look is ours now."""
        for name in FOLDERS:
            (self._folder / name).mkdir(mode=0o770 if name in ("in", "out") else 0o700, exist_ok=True)
        with self._opened("in") as source, self._opened("taken") as target:
            present = dict(_documents(source))
            still = [name for name, mark in present.items() if self._seen.get(name) == mark]
            self._seen = present
            for name in still[:MOST_IN_TURN]:
                os.rename(name, _free_name(target, name), src_dir_fd=source, dst_dir_fd=target)
                del self._seen[name]

    def _taken(self) -> list[str]:
        with self._opened("taken") as folder:
            return sorted(os.listdir(folder))[:MOST_IN_TURN]  # noqa: PTH208 - of a descriptor

    async def _hand_in(self, name: str) -> None:
        try:
            data = await asyncio.to_thread(self._read, name)
            said = await self._import(name, data)
        except _FINAL as fault:
            await self._refuse(name, fault.detail)
            return
        except (Fault, OSError):
            raise  # rule 4
        except Exception as error:  # noqa: BLE001 - rule 5: logged with its trace, and told beside the document
            await self._fail(name, type(error).__name__)
            return
        del self._failed[name]
        await asyncio.to_thread(self._settle, name, "done", said)
        _log.info("drop_imported", extra={"fields": {"file": _plain(name)}})

    async def _refuse(self, name: str, why: str) -> None:
        del self._failed[name]
        await asyncio.to_thread(self._settle, name, "refused", why)
        _log.warning("drop_refused", extra={"fields": {"file": _plain(name), "why": why}})

    async def _fail(self, name: str, what: str) -> None:
        """Rule 5; the exception is the one under way."""
        self._failed[name] += 1
        tries = self._failed[name]
        _log.exception("drop_failed", extra={"fields": {"file": _plain(name), "tries": tries, "why": what}})
        if tries >= MOST_TRIES:
            await self._refuse(
                name,
                f"The server itself failed on it, {tries} times ({what}): that is a mistake in the server, not in the"
                " document. Make a support bundle (lls support-bundle -o FILE) and send it to your vendor; to try again"
                " after an upgrade, lay the document into in again.",
            )

    async def _import(self, name: str, data: bytes) -> str:
        if name.endswith(RECEIPT):
            receipt, known = await self._airgap.import_receipt(data, actor="drop folder")
            again = " It was known already." if known else ""
            return f"The vendor has acknowledged every line up to {receipt.up_to_seq}.{again}"
        imported = await self._airgap.import_bundle(data, actor="drop folder", dry_run=False)
        outcome = imported.outcome
        if outcome.already_applied:
            return f"Bundle {imported.bundle.bundle_id} was applied already; nothing was changed."
        steps = ", ".join(f"{step.entitlement.entitlement_id} {step.change}" for step in outcome.steps) or "none"
        warned = "".join(f"\n{warning}" for warning in outcome.warnings)
        return f"Bundle {imported.bundle.bundle_id} is applied. Entitlements: {steps}.{warned}"

    def _read(self, name: str) -> bytes:
        """Rule 1. Raises BadRequest, TooLarge."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self._opened("taken") as folder:
            try:
                number = os.open(name, flags, dir_fd=folder)
            except OSError as error:
                raise BadRequest(f"It is no file that can be read: {error.strerror}.") from error
        try:
            found = os.fstat(number)
            if not stat.S_ISREG(found.st_mode):
                raise BadRequest("It is no file: a folder, a pipe or a device.")
            if found.st_size > LARGEST:
                raise TooLarge(f"It is larger than {LARGEST} bytes, so it is no document of your vendor's.")
            with open(number, "rb", closefd=False) as file:
                return file.read(LARGEST)
        except OSError as error:  # a bad sector must not hold the other documents up
            raise BadRequest(f"It cannot be read: {error.strerror}.") from error
        finally:
            os.close(number)

    def _settle(self, name: str, where: str, said: str) -> None:
        """Rule 3: the words first, so that a file in ``done`` or ``refused`` is never without them."""
        with self._opened("taken") as source, self._opened(where) as target:
            free = _free_name(target, name)
            _write(target, f"{free}.txt", f"{said}\n".encode())
            os.rename(name, free, src_dir_fd=source, dst_dir_fd=target)

    # ---------------------------------------------------------------- out

    async def _report(self) -> None:
        if self._period is None or self._writer.ledger.server.terms is None:
            return
        now = self._writer.now().wall
        last = await asyncio.to_thread(self._last_report)
        if last is not None and last <= now < last + self._period:
            return
        report, path = await self._airgap.export_report(pseudonymise=self._pseudonymise, actor="drop folder")
        await asyncio.to_thread(self._lay_out, report.report_id, path, now)
        _log.info("drop_report", extra={"fields": {"report_id": report.report_id}})

    def _last_report(self) -> datetime | None:
        try:
            return datetime.fromisoformat(self._marker.read_text("ascii").strip())
        except (FileNotFoundError, ValueError):
            return None

    def _lay_out(self, report_id: str, path: Path, now: datetime) -> None:
        with self._opened("out") as folder:
            _write(folder, f"{report_id}.llsreport", path.read_bytes(), mode=0o660)
        write_private(self._marker, now.isoformat().encode())

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """A folder of ours; not through a link in its place. Raises OSError."""
        number = os.open(self._folder / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield number
        finally:
            os.close(number)


def _documents(folder: int) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Names that ask to be taken, and by what one sees that they lie still."""
    with os.scandir(folder) as entries:
        for _, entry in zip(range(MOST_LISTED), entries, strict=False):
            if entry.name.startswith(".") or not entry.name.endswith((BUNDLE, RECEIPT)):
                continue
            with suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                yield entry.name, (found.st_ino, found.st_size, found.st_mtime_ns)


def _plain(name: str) -> str:
    """A name for terminals and logs, its suffix kept: whoever lays a file down chooses its name."""
    return _ODD.sub("_", name[-100:]).lstrip(".") or "_"


def _free_name(folder: int, name: str) -> str:
    plain = _plain(name)
    for number in range(1, MOST_NUMBERED):
        free = plain if number == 1 else f"{number}-{plain}"
        try:
            os.stat(free, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return free
    return f"{secrets.token_hex(8)}-{plain}"  # a name that somebody has used up must not hold the others up


def _write(folder: int, name: str, content: bytes, *, mode: int = 0o640) -> None:
    """A file under its name, whole and on the disk, or not at all."""
    part = f".{name}.part"
    with suppress(FileNotFoundError):
        os.unlink(part, dir_fd=folder)
    number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
    with os.fdopen(number, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)
