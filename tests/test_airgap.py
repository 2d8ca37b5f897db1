"""The errands over a real writer and a real store: whole or not at all, whoever leaves, whatever the clock says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.airgap import Airgap
from lls.clock import GuardedClock
from lls.faults import Refusal, RefusedDocument, SetupFault, StoreDown
from lls.identity import (
    ENCRYPTION_FILE,
    SERVER_ID_FILE,
    SIGNING_FILE,
    SITE_KEY_FILE,
    Identity,
    load_identity,
)
from lls.licensing.changes import Loaded
from lls.licensing.instant import ClockState
from lls.licensing.ledger import Setting
from lls.licensing.seating import Denial
from lls.licensing.usage import Bucket
from lls.signed.report import open_report
from lls.writer import Writer
from tests.ledgers import checkout
from tests.test_writer import BOUND, Count, Held, until
from tests.vendor import NOW, Site, Vendor, entitlement, new_id

DAY = timedelta(days=1)
RESET = [{"command_id": "cmd_1", "type": "clock_reset"}]


class World:
    """One server: a writer over a store whose commits can be held up or made to fail, and the vendor beside it."""

    def __init__(
        self, folder: Path, *, vendor: Vendor | None = None, mark: datetime | None = None, raw: datetime = NOW
    ) -> None:
        self.folder, self.vendor, self.site = folder, vendor or Vendor(), Site.named()
        self.raw, self.elapsed = raw, 1_000.0
        self.store = Held(folder)
        self.clock = GuardedClock(wall=lambda: self.raw, elapsed=lambda: self.elapsed, mark=mark)
        self.airgap = self.made_for(self.site)

    def made_for(self, site: Site) -> Airgap:
        identity = Identity(
            server_id=site.server_id, signing=site.signing, encryption=site.encryption, site_key=b"k" * 32
        )
        airgap = Airgap(
            host=dict,
            identity=identity,
            name="site",
            version="1",
            vendor_keys=self.vendor.key_sets[0],
            store=self.store,
            clock=self.clock,
            state_dir=self.folder,
            setting=Setting(),
        )
        self.writer = airgap.writer = Writer(self.store, clock=self.clock, build=airgap.build, observer=Count())
        return airgap

    async def begin(self) -> World:
        await self.writer.start(await self.store.take_writership())
        return self

    async def end(self) -> None:
        self.store.open.set()
        async with asyncio.timeout(BOUND):
            await self.writer.stop()
        await self.store.close()

    async def again(self) -> World:
        """The same server after a restart."""
        await self.end()
        world = World(self.folder, vendor=self.vendor)
        world.raw, world.elapsed = self.raw, self.elapsed
        return await world.begin()

    def bundle(self, **members: Any) -> bytes:
        return self.vendor.bundle(self.site, **members)

    async def take(self, data: bytes, *, dry_run: bool = False) -> Any:
        return (await self.airgap.import_bundle(data, actor="ann", dry_run=dry_run)).outcome

    async def sealed(self) -> Any:
        report, _ = await self.airgap.export_report(pseudonymise=False, actor="ann")
        return report

    async def note(self, actor: str = "ann") -> None:
        await self.writer.do(lambda ledger, now: ledger.note_act("noted", actor=actor, now=now))

    def passes(self, span: timedelta) -> None:
        self.raw += span
        self.elapsed += span.total_seconds()

    async def reloaded(self) -> None:
        await until(lambda: self.writer.down is None)


@dataclass
class Worlds:
    """Opens worlds and closes them after the test."""

    folder: Path
    opened: list[World]

    async def begin(self, **members: Any) -> World:
        world = World(self.folder, **members)
        self.opened.append(world)
        return await world.begin()


@pytest.fixture
async def worlds(tmp_path: Path) -> AsyncIterator[Worlds]:
    made = Worlds(tmp_path, [])
    yield made
    for world in made.opened:
        await world.end()


async def settled(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task], timeout=BOUND)
    assert task.cancelled()


# --- who asked may leave ----------------------------------------------------------------------------------------------


async def test_an_import_whose_caller_left_during_the_commit_is_taken_in(worlds: Worlds) -> None:
    world = await worlds.begin()
    world.vendor.rotate()
    world.store.hold()
    task = asyncio.create_task(world.take(world.bundle()))
    await world.store.held.wait()
    task.cancel()
    await settled(task)
    world.store.open.set()
    await until(lambda: world.airgap.keys_version == 2)
    assert world.airgap.certificate() is not None
    await world.take(world.bundle())  # signed by the new keys alone


async def test_an_export_whose_caller_left_is_written_all_the_same(worlds: Worlds) -> None:
    world = await worlds.begin()
    await world.take(world.bundle())
    world.store.hold()
    task = asyncio.create_task(world.sealed())
    await world.store.held.wait()
    task.cancel()
    await settled(task)
    world.store.open.set()
    async with asyncio.timeout(BOUND):
        await world.airgap.import_bundle(world.bundle(), actor="ann", dry_run=True)  # waits for the errand before it
    (report,) = world.writer.ledger.reports
    assert [f"{report}.llsreport"] == [file.name for file in (worlds.folder / "reports").iterdir()]


async def test_an_export_that_the_end_of_the_store_overtakes_ends_too(worlds: Worlds, tmp_path: Path) -> None:
    world = await worlds.begin()
    await world.take(world.bundle())
    lines = world.store.lines
    closing = asyncio.Event()

    async def slow(*, after: int, upto: int) -> AsyncIterator[list[bytes]]:
        if closing.is_set():
            await world.store.close()
        closing.set()
        async for chunk in lines(after=after, upto=upto):
            yield chunk

    world.store.lines = slow  # type: ignore[method-assign]
    async with asyncio.timeout(BOUND):
        with pytest.raises(StoreDown):
            await world.sealed()
    assert [] == list((tmp_path / "reports").iterdir())


# --- the clock --------------------------------------------------------------------------------------------------------


async def test_a_fresh_bundle_is_taken_after_years_in_a_drawer(worlds: Worlds) -> None:
    world = await worlds.begin(mark=NOW - 500 * DAY)
    assert ClockState.JUMPED is world.writer.now().state
    await world.take(world.bundle())
    assert ClockState.OK is world.writer.now().state
    assert NOW == world.writer.now().wall


async def test_a_fresh_bundle_is_taken_while_a_dead_battery_reads_1970(worlds: Worlds) -> None:
    world = await worlds.begin(mark=NOW - 20 * DAY, raw=datetime(1970, 1, 1, tzinfo=NOW.tzinfo))
    assert ClockState.BEHIND is world.writer.now().state
    await world.take(world.bundle())
    assert NOW <= world.writer.now().wall


async def test_a_bundle_is_judged_by_the_machine_while_guarded_time_is_too_late(worlds: Worlds) -> None:
    world = await worlds.begin(mark=NOW + 300 * DAY)
    await world.take(world.bundle())
    world.passes(31 * DAY)
    with pytest.raises(RefusedDocument) as refused:
        await world.take(world.bundle())
    assert Refusal.EXPIRED is refused.value.reason


async def test_a_right_clock_refuses_a_bundle_from_the_future(worlds: Worlds) -> None:
    world = await worlds.begin()
    world.vendor.now = NOW + 2 * DAY
    with pytest.raises(RefusedDocument) as refused:
        await world.take(world.bundle())
    assert Refusal.NOT_YET_VALID is refused.value.reason


@pytest.mark.parametrize(("fails", "state"), [("before", ClockState.BEHIND), ("after", ClockState.OK)])
async def test_a_clock_reset_is_in_force_exactly_when_it_was_written(
    worlds: Worlds, fails: str, state: ClockState
) -> None:
    world = await worlds.begin(mark=NOW + 1_000 * DAY)
    world.store.fails = fails
    with pytest.raises(StoreDown):
        await world.take(world.bundle(commands=RESET))
    await world.reloaded()
    assert (fails == "after") == ("cmd_1" in world.writer.ledger.commands)
    assert state is world.writer.now().state
    await world.take(world.bundle(commands=RESET))
    assert ClockState.OK is world.writer.now().state
    assert NOW == world.writer.now().wall


async def test_what_is_used_after_a_clock_reset_is_billed(worlds: Worlds) -> None:
    world = await worlds.begin()
    await world.take(world.bundle())
    world.clock.reset(NOW + 1_000 * DAY)
    await world.note()
    await world.take(world.bundle(commands=RESET, entitlements=[]))
    world.passes(timedelta(hours=1))
    await world.writer.checkout(checkout("a"))
    world.passes(timedelta(seconds=4))
    await world.note()
    lines = await world.airgap.usage(since=None, until=None, bucket=Bucket.DAY)
    assert [("2026-11-21", 4, 1)] == [(line.day, line.seat_seconds, line.checkouts) for line in lines if line.checkouts]
    recent = await world.airgap.usage(since=NOW, until=NOW + DAY, bucket=Bucket.HOUR)
    assert [4] == [line.seat_seconds for line in recent if line.checkouts]


# --- bundles, receipts, reports ---------------------------------------------------------------------------------------


async def test_an_old_file_again_changes_nothing_also_after_a_restart(worlds: Worlds) -> None:
    world = await worlds.begin()
    first = world.bundle()
    await world.take(first)
    await world.take(world.bundle(entitlements=[entitlement(sequence=2, seats=7)]))
    for _ in range(2):
        outcome = await world.take(first)
        assert outcome.already_applied
        assert 7 == world.writer.ledger.pools[new_id("ent_", "cad")].entitlement.seats
        world = await world.again()
        worlds.opened.append(world)


@pytest.mark.parametrize("restart", [False, True])
async def test_another_file_under_an_old_id_is_a_replay_whatever_its_sequence(worlds: Worlds, restart: bool) -> None:
    world = await worlds.begin()
    await world.take(world.bundle())
    await world.take(world.bundle(entitlements=[entitlement(sequence=2)]))
    if restart:
        world = await world.again()
        worlds.opened.append(world)
    forged = world.bundle(bundle_id=new_id("bnd_", f"{world.site.server_id} 1"), sequence=9)
    with pytest.raises(RefusedDocument) as refused:
        await world.take(forged)
    assert Refusal.REPLAYED is refused.value.reason
    assert world.writer.down is None


async def test_a_receipt_for_another_journal_is_a_fork_also_where_more_is_acknowledged(worlds: Worlds) -> None:
    world = await worlds.begin()
    await world.take(world.bundle())
    report = await world.sealed()
    span = {"up_to_seq": report.to_seq, "head": report.head}
    taken = world.vendor.receipt(world.site, report_id=report.report_id, **span)
    assert not (await world.airgap.import_receipt(taken.encode(), actor="ann"))[1]
    same = world.vendor.receipt(world.site, report_id=new_id("rpt_", "same"), **span)
    assert (await world.airgap.import_receipt(same.encode(), actor="ann"))[1]
    assert not world.writer.ledger.server.forked
    clone = world.vendor.receipt(world.site, report_id=new_id("rpt_", "clone"), **(span | {"head": "f" * 64}))
    with pytest.raises(RefusedDocument) as refused:
        await world.airgap.import_receipt(clone.encode(), actor="ann")
    assert Refusal.FORKED is refused.value.reason
    assert world.writer.ledger.server.forked


async def test_such_a_receipt_inside_a_bundle_marks_the_fork_and_the_bundle_goes_in(worlds: Worlds) -> None:
    world = await worlds.begin()
    await world.take(world.bundle())
    report = await world.sealed()
    span = {"up_to_seq": report.to_seq, "head": report.head}
    taken = world.vendor.receipt(world.site, report_id=report.report_id, **span)
    await world.airgap.import_receipt(taken.encode(), actor="ann")
    clone = world.vendor.receipt(world.site, report_id=new_id("rpt_", "clone"), **(span | {"head": "f" * 64}))
    outcome = await world.take(world.bundle(receipt=clone))
    assert outcome.forked
    assert 1 == len(outcome.warnings)
    assert world.writer.ledger.server.forked


async def test_a_known_receipt_inside_a_bundle_may_be_signed_by_keys_that_are_gone(worlds: Worlds) -> None:
    world = await worlds.begin()
    await world.take(world.bundle())
    report = await world.sealed()
    taken = world.vendor.receipt(world.site, report_id=report.report_id, up_to_seq=report.to_seq, head=report.head)
    await world.airgap.import_receipt(taken.encode(), actor="ann")
    world.vendor.rotate()
    outcome = await world.take(world.bundle(receipt=taken))
    assert (None, False) == (outcome.acknowledged, outcome.forked)
    unknown = world.vendor.receipt(
        world.site,
        report_id=new_id("rpt_", "other"),
        up_to_seq=1,
        head="f" * 64,
        signers=[Vendor().bundle_keys[0]],
    )
    with pytest.raises(RefusedDocument) as refused:
        await world.take(world.bundle(receipt=unknown))
    assert Refusal.SIGNATURE is refused.value.reason


async def test_a_report_that_is_written_again_knows_no_name_that_came_later(worlds: Worlds) -> None:
    world = await worlds.begin()
    await world.take(world.bundle())
    await world.writer.checkout(checkout("a", user="alice"))
    report, path = await world.airgap.export_report(pseudonymise=False, actor="ann")
    members, names = [], []
    for _ in range(2):
        with open_report(
            path, report_key=world.vendor.report_key, server_jwk=world.site.signing.public_jwk()
        ) as opened:
            members.append(dict(opened.manifest.members))
            names = [json.loads(line) for line in opened.names()]
        await world.note(actor="alice")
        path.unlink()
        _, path = await world.airgap.report_file(report.report_id)
    assert members[0] == members[1]
    assert {"alice", "ann", "seat of a"} == {name["value"] for name in names}


async def test_only_the_newest_denials_are_told(worlds: Worlds) -> None:
    world = await worlds.begin()
    await world.take(world.bundle(entitlements=[entitlement(seats=0)]))
    for name in ("a", "b", "c"):
        assert isinstance(await world.writer.checkout(checkout(name)), Denial)
    told = await world.airgap.denials(since=None, limit=2)
    assert ["seat of b", "seat of c"] == [line.holder["seat_id"] for line in told]
    assert 3 == len(await world.airgap.denials(since=None))


# --- whose history it is ----------------------------------------------------------------------------------------------


async def test_a_server_that_lost_its_keys_does_not_start_as_another_one(worlds: Worlds) -> None:
    world = await worlds.begin()
    await world.end()
    other = World(worlds.folder)
    worlds.opened.append(other)
    other.airgap = other.made_for(Site.named("other"))
    with pytest.raises(SetupFault, match="put the keys folder back"):
        await other.begin()


async def test_a_build_that_fails_changes_nothing(worlds: Worlds) -> None:
    world = await worlds.begin()
    world.vendor.rotate()
    await world.take(world.bundle())
    before = world.airgap.keys_version, world.airgap.certificate()
    loaded = await world.store.load()

    def broken(change: Callable[[Loaded], Loaded]) -> None:
        with pytest.raises(SetupFault):
            world.airgap.build(change(loaded), world.writer.now())
        assert before == (world.airgap.keys_version, world.airgap.certificate())

    broken(lambda it: replace(it, last_line=None, key_sets={}))
    broken(lambda it: replace(it, facts={**it.facts, "server_id": new_id("lls_", "other")}, key_sets={}))  # type: ignore[dict-item]
    await asyncio.to_thread(world.airgap.build, loaded, world.writer.now())
    assert before == (world.airgap.keys_version, world.airgap.certificate())


FILES = (SERVER_ID_FILE, SIGNING_FILE, ENCRYPTION_FILE, SITE_KEY_FILE)


def test_an_identity_is_made_once_and_for_us_alone(tmp_path: Path) -> None:
    made = load_identity(tmp_path / "keys")
    again = load_identity(tmp_path / "keys")
    assert (made.server_id, made.site_key, made.signing.kid) == (again.server_id, again.site_key, again.signing.kid)
    assert set(FILES) == {file.name for file in (tmp_path / "keys").iterdir()}
    assert {0o600} == {file.stat().st_mode & 0o777 for file in (tmp_path / "keys").iterdir()}


@pytest.mark.parametrize("name", FILES)
def test_a_lost_key_file_is_not_made_anew(tmp_path: Path, name: str) -> None:
    load_identity(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(SetupFault, match=rf"{name} is missing"):
        load_identity(tmp_path)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"\xff", b"lls_short"])
def test_a_damaged_key_file_is_refused_with_its_name(tmp_path: Path, name: str, content: bytes) -> None:
    load_identity(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SetupFault, match=name):
        load_identity(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, name: str) -> None:
    load_identity(tmp_path)
    (tmp_path / name).chmod(0o640)
    with pytest.raises(SetupFault, match="chmod 600"):
        load_identity(tmp_path)


@pytest.mark.parametrize("renamed", [0, 1, 3])
def test_a_power_cut_while_keys_are_made_leaves_what_can_be_finished(tmp_path: Path, renamed: int) -> None:
    made = load_identity(tmp_path)
    for name in FILES[renamed:]:
        (tmp_path / name).rename(tmp_path / f"{name}.new")
    again = load_identity(tmp_path)
    assert (renamed > 0) == (made.server_id == again.server_id)
    assert (renamed > 0) == (made.site_key == again.site_key)
    assert set(FILES) == {file.name for file in tmp_path.iterdir()}
