"""The watchdog is fed as long as a restart would mend nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lls.faults import Overloaded, StoreDown
from lls.watchdog import PROBE_FILE, SelfCheck, feed, interval_seconds, notify

PATIENCE = 0.2
WRITER_HANGS = "The writer gives no answer, though the disk does."
DOOR_HANGS = "The admin socket gives no answer."


class FakeWriter:
    """A writer that answers as it is told: with nothing, with a fault, or never."""

    def __init__(self) -> None:
        self.taken = self.proved = 0
        self.answer: Exception | None = None
        self.hangs_at = ""

    async def do(self, verb: Callable[[Any, Any], None]) -> None:
        verb(None, None)
        self.taken += 1
        await self._answer("do")

    async def prove(self) -> None:
        self.proved += 1
        await self._answer("prove")

    async def _answer(self, where: str) -> None:
        if self.hangs_at == where:
            await asyncio.Event().wait()
        if self.answer is not None:
            raise self.answer


class World:
    def __init__(self, folder: Path) -> None:
        self.writer = FakeWriter()
        self.says = b"HTTP/1.1 200 OK\r\n\r\n"
        self.socket, self.probe = folder / "admin.sock", folder / PROBE_FILE
        self.check = SelfCheck(
            writer=self.writer,  # type: ignore[arg-type]
            admin_socket=self.socket,
            state_dir=folder,
            patience_seconds=PATIENCE,
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.says)
            if self.says:
                writer.close()
            else:
                await reader.read()
                writer.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    async with await asyncio.start_unix_server(made.serve, tmp_path / "admin.sock"):
        yield made


async def test_a_server_that_answers_is_fed(world: World) -> None:
    assert "" == await world.check.complaint()
    assert (1, 1) == (world.writer.taken, world.writer.proved)
    assert not world.probe.exists()


@pytest.mark.parametrize("says", [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"HTTP/1.1 403 Forbidden\r\n\r\n"])
async def test_a_full_or_closed_door_still_answers(world: World, says: bytes) -> None:
    world.says = says
    assert "" == await world.check.complaint()


@pytest.mark.parametrize("says", [b"", b"HTTP", b"SSH-2.0-x\r\n"])
async def test_a_door_that_gives_no_answer_is_ours_to_restart(world: World, says: bytes) -> None:
    world.says = says
    assert DOOR_HANGS == await world.check.complaint()


async def test_a_door_that_is_gone_is_ours_to_restart(world: World) -> None:
    world.socket.unlink()
    assert DOOR_HANGS == await world.check.complaint()


@pytest.mark.parametrize("fault", [StoreDown("The disk is full."), Overloaded(retry_after_seconds=1)])
async def test_a_store_that_is_down_is_no_reason_to_restart(world: World, fault: Exception) -> None:
    world.writer.answer = fault
    assert "" == await world.check.complaint()


@pytest.mark.parametrize("where", ["do", "prove"])
async def test_a_writer_that_hangs_on_a_sound_disk_is_ours_to_restart(world: World, where: str) -> None:
    world.writer.hangs_at = where
    assert WRITER_HANGS == await world.check.complaint()


async def test_a_disk_that_hangs_is_no_reason_to_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mended, asked = threading.Event(), []

    def hang(handle: int) -> None:
        asked.append(handle)
        mended.wait(10)

    monkeypatch.setattr("lls.watchdog.os.fsync", hang)
    world.writer.hangs_at = "do"
    assert "" == await world.check.complaint()
    assert "" == await world.check.complaint()
    assert 1 == len(asked), "a disk that hangs is asked once, not once for every thread that there is"
    mended.set()
    assert WRITER_HANGS == await world.check.complaint()


async def test_a_disk_that_refuses_is_no_reason_to_restart(world: World, tmp_path: Path) -> None:
    world.writer.hangs_at = "do"
    world.check.state_dir = tmp_path / "gone"
    assert "" == await world.check.complaint()


async def test_a_complaint_is_not_followed_by_food(world: World) -> None:
    fed = asyncio.Queue[str]()
    feeding = asyncio.create_task(feed(world.check, every_seconds=0.01, tell=fed.put_nowait))
    assert "WATCHDOG=1" == await asyncio.wait_for(fed.get(), 10)
    world.socket.unlink()
    while not fed.empty():
        fed.get_nowait()
    await asyncio.wait([feeding], timeout=0.3)
    assert 1 >= fed.qsize(), "one that was under way may still come"
    feeding.cancel()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 7.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 7.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_who_is_watched_is_said_by_systemd(environ: dict[str, str], seconds: float) -> None:
    assert seconds == interval_seconds(environ)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_through_its_socket(tmp_path: Path, abstract: bool) -> None:
    name = f"@lls-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))
        notify("READY=1", {"NOTIFY_SOCKET": name})
        assert b"READY=1" == systemd.recv(100)
    notify("READY=1", {})
