"""The watchdog's self-check: whether anything is wrong with this process that a restart would mend.

systemd ends and restarts a server that does not say for ``WatchdogSec=`` that it is well. A restart costs: every
application asks again, and a server that finds its disk dead at a start serves nobody, while one that runs goes on
answering heartbeats (design §2: a stalled disk throws no engineer out of a running program). So we feed it unless *we*
are what hangs.

Rules, in order; each is asked a few times within ``WatchdogSec=``
1. The loop turns: this is a task of it.
2. The doors answer: a connection to our own admin socket gets an HTTP answer, whatever it says.
3. The writer takes up a verb and the store answers it. A refusal is an answer: the store is down and is being loaded
   anew, the queue is full, the server drains. That is told by ``/readyz`` and by metrics, and mended by people.
4. When rule 3 gets no answer in time, the disk itself is asked, past the store: a small file beside the database,
   written through. Only when the disk answers and the writer does not is it ours, and nothing is fed. One question at
   a time: a disk that hangs holds a thread for each.

A writer that has ended needs no watchdog: the process ends with it (daemon, rule 3).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lls.faults import Fault
from lls.writer import Writer

BEATS: Final = 4
"""So many self-checks within ``WatchdogSec=``, of which one must do."""
PROBE_FILE: Final = ".watchdog"
_QUESTION: Final = b"GET /livez HTTP/1.1\r\nHost: lls\r\nConnection: close\r\n\r\n"
_ANSWER: Final = b"HTTP/1.1 "

_log = logging.getLogger(__name__)


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tell systemd, when it started us (sd_notify(3))."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
        told.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        told.sendall(state.encode())


@dataclass(slots=True, kw_only=True)
class SelfCheck:
    """What is asked. ``patience_seconds`` is how long each answer may take."""

    writer: Writer
    admin_socket: Path
    state_dir: Path
    patience_seconds: float
    _asking: asyncio.Task[bool] | None = field(default=None, repr=False)

    async def complaint(self) -> str:
        """What a restart would mend, as a sentence; empty when there is nothing."""
        if not await self._in_time(self._door()):
            return "The admin socket gives no answer."
        if await self._in_time(self._writer()) or not await self._in_time(self._disk()):
            return ""
        return "The writer gives no answer, though the disk does."

    async def _in_time(self, asked: Awaitable[bool]) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.patience_seconds):
                return await asked
        return False

    async def _door(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.admin_socket))
        except OSError:
            return False
        try:
            writer.write(_QUESTION)
            return (await reader.readexactly(len(_ANSWER))) == _ANSWER
        except (OSError, asyncio.IncompleteReadError):
            return False
        finally:
            writer.close()

    async def _writer(self) -> bool:
        with suppress(Fault):
            await self.writer.do(lambda _ledger, _now: None)
            await self.writer.prove()
        return True

    async def _disk(self) -> bool:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._write_through())
        return await asyncio.shield(self._asking)

    async def _write_through(self) -> bool:
        try:
            await asyncio.to_thread(_write_through, self.state_dir / PROBE_FILE)
        except OSError as error:  # full, read-only, broken: an answer, and none that a restart would change
            _log.warning("disk_refuses", extra={"fields": {"why": error.strerror}})
            return False
        return True


async def feed(check: SelfCheck, *, every_seconds: float, tell: Callable[[str], None] = notify) -> None:
    """Go on until cancelled: ``WATCHDOG=1`` after each check without a complaint."""
    while True:
        await asyncio.sleep(every_seconds)
        complaint = await check.complaint()
        if complaint:
            _log.error("watchdog_not_fed", extra={"fields": {"why": complaint}})
        else:
            tell("WATCHDOG=1")


def interval_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """Between two checks, by what systemd asks of this very process (sd_watchdog_enabled(3)); 0: nobody watches."""
    told, whom = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not told.isdecimal() or (whom and whom != str(os.getpid())):
        return 0.0
    return int(told) / 1_000_000 / BEATS


def _write_through(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, b"asked\n")
        os.fsync(handle)
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)
