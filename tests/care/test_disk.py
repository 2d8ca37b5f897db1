"""The disk as it fills and empties: what is told, what is held back, and that it opens again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lls.care import disk
from lls.care.disk import RESERVE, DiskWatch, Reserve, Room, make_room
from lls.config import Disk
from lls.faults import StoreDown
from lls.licensing.ledger import Seated
from lls.telemetry import metrics
from tests.ledgers import checkout, secret_of
from tests.test_airgap import World
from tests.vendor import entitlement

MIB = 1024 * 1024
SETTING = Disk(warn_mib=100, stop_mib=20, reserve_mib=2)


class Watched:
    """A watch over a disk whose free bytes a test sets."""

    def __init__(self, world: World) -> None:
        self.free, self.seconds = 1_000 * MIB, 0.0
        self.metrics = metrics()
        self.watch = DiskWatch(
            {"state": world.folder, "log": world.folder},
            setting=SETTING,
            writer=world.writer,
            metrics=self.metrics,
            free=lambda _folder: self.free,
            elapsed=lambda: self.seconds,
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await World(tmp_path).begin()
    await world.take(world.bundle(entitlements=[entitlement(seats=9)]))
    yield world
    await world.end()


@pytest.mark.parametrize(
    ("free_mib", "room"),
    [(1_000, Room.OK), (100, Room.OK), (99, Room.LOW), (20, Room.LOW), (17, Room.FULL), (0, Room.FULL)],
)
async def test_room_is_judged_by_the_settings(world: World, free_mib: int, room: Room) -> None:
    watched = Watched(world)
    watched.free = free_mib * MIB
    await watched.watch.look()
    assert (room, room is Room.FULL) == (watched.watch.room, world.writer.ledger.server.no_room)


async def test_a_nearly_full_disk_takes_what_gives_back_and_grants_nothing_new(world: World) -> None:
    watched = Watched(world)
    seated = await world.writer.checkout(checkout("held", user="ann"))
    assert isinstance(seated, Seated)
    watched.free = 10 * MIB
    await watched.watch.look()
    with pytest.raises(StoreDown, match="nearly full"):
        await world.writer.checkout(checkout("new", user="bob"))
    lease, _ = await world.writer.heartbeat("held", secret=secret_of("held"), beat=1, nonce="n")
    assert "held" == lease.lease_id
    await world.writer.do(lambda ledger, now: ledger.checkin("held", secret=secret_of("held"), now=now))
    assert [] == list(world.writer.ledger.leases)
    await world.sealed()
    watched.free = 500 * MIB
    await watched.watch.look()
    assert isinstance(await world.writer.checkout(checkout("new", user="bob")), Seated)


async def test_a_ledger_that_is_loaded_anew_still_knows_that_there_is_no_room(world: World) -> None:
    watched = Watched(world)
    watched.free = 0
    await watched.watch.look()
    world.store.fails = "before"
    before = world.writer.ledger
    with pytest.raises(StoreDown):
        await world.note()
    await world.reloaded()
    assert before is not world.writer.ledger
    assert world.writer.ledger.server.no_room


async def test_low_room_is_told_once_an_hour_and_its_end_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(world)
    caplog.set_level("INFO", logger="lls.care.disk")
    for free_mib, seconds in ((500, 1), (50, 2), (50, 3), (50, 3_700), (10, 3_701), (500, 3_702), (500, 3_703)):
        watched.free, watched.seconds = free_mib * MIB, float(seconds)
        await watched.watch.look()
    told = [record.getMessage() for record in caplog.records if record.fields.get("place") == "state"]  # type: ignore[attr-defined]
    assert ["disk_low", "disk_low", "disk_full", "disk_has_room"] == told


async def test_the_reserve_is_given_up_at_the_very_end_and_set_aside_again(world: World) -> None:
    watched, reserve = Watched(world), world.folder / RESERVE
    await watched.watch.look()
    assert 2 * MIB == reserve.stat().st_size
    assert 2 * MIB <= reserve.stat().st_blocks * 512, "really on the disk"
    watched.free = 10 * MIB
    await watched.watch.look()
    assert reserve.exists()
    watched.free = MIB // 2
    await watched.watch.look()
    assert not reserve.exists()
    watched.free = 500 * MIB
    await watched.watch.look()
    assert reserve.exists()


async def test_giving_the_reserve_up_opens_no_door(world: World) -> None:
    watched = Watched(world)
    await watched.watch.look()
    watched.free = 17 * MIB
    await watched.watch.look()
    assert (Room.FULL, True) == (watched.watch.room, (world.folder / RESERVE).exists())
    Reserve(world.folder, size=0).give_up()
    watched.free += 2 * MIB
    await watched.watch.look()
    assert Room.FULL is watched.watch.room


async def test_the_metric_tells_each_place(world: World) -> None:
    watched = Watched(world)
    await watched.watch.look()
    assert watched.free <= watched.metrics.disk_free_bytes.labels("state")._value.get()  # noqa: SLF001
    assert watched.free == watched.metrics.disk_free_bytes.labels("log")._value.get()  # noqa: SLF001


def test_a_start_on_a_disk_without_a_byte_begins_with_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / RESERVE).write_bytes(b"x")
    make_room(tmp_path)
    assert (tmp_path / RESERVE).exists()
    monkeypatch.setattr(disk, "free_bytes", lambda _folder: 0)
    make_room(tmp_path)
    assert not (tmp_path / RESERVE).exists()
    make_room(tmp_path / "nowhere")


def test_no_reserve_is_made_where_it_would_be_the_last_drop(tmp_path: Path) -> None:
    huge = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    Reserve(tmp_path, size=huge).set_aside()
    Reserve(tmp_path, size=0).set_aside()
    assert [] == list(tmp_path.iterdir())
