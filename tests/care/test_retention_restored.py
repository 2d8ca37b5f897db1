"""Retention and restores together: a pruned journal is saved and put back, and archives go over what was lost."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.backup import Backups, look_into, put_back
from lls.care import retention
from lls.care.findings import State
from lls.care.retention import Retention
from lls.care.standing import examine_chain, examine_standing
from lls.faults import RefusedDocument, SetupFault
from lls.licensing.journal import Head
from lls.licensing.ledger import Ledger
from lls.licensing.usage import Bucket
from lls.store.archive import archive_name
from tests.backup.state import NOW, Known
from tests.ledgers import checkout
from tests.test_airgap import World
from tests.vendor import entitlement

DAY = timedelta(days=1)
KEEP = timedelta(days=30)


@pytest.fixture(autouse=True)
def small_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BITE", 3)
    monkeypatch.setattr(retention, "PAUSE_SECONDS", 0)


class Story:
    """One site over several machines, and the lines of it that its vendor has."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.acknowledged = (0, "0" * 64)
        self.world: World

    async def begin(self) -> Story:
        here = self.folder / "here"
        here.mkdir()
        self.world = await World(here).begin()
        _write_keys(self.world)
        await self.world.take(self.world.bundle(entitlements=[entitlement(seats=9)]))
        return self

    async def end(self) -> None:
        await self.world.end()

    @property
    def ledger(self) -> Ledger:
        return self.world.writer.ledger

    async def lives(self, rounds: int = 3) -> None:
        """People come and go, and what happened is reported and acknowledged."""
        for _ in range(rounds):
            self.count += 1
            await self.world.writer.checkout(checkout(f"lease {self.count}", user=f"user {self.count}"))
        sealed = await self.world.sealed()
        receipt = self.world.vendor.receipt(
            self.world.site,
            report_id=sealed.report_id,
            up_to_seq=sealed.to_seq,
            head=sealed.head,
            receipt_id=f"rcp_{self.count:0>22}",
        )
        await self.world.airgap.import_receipt(receipt.encode(), actor="ann")
        self.acknowledged = (sealed.to_seq, sealed.head)

    def later(self) -> None:
        self.world.passes(31 * DAY)
        self.world.vendor.now = self.world.raw

    async def archives(self) -> Any:
        """Everything that is acknowledged is old enough now, and leaves."""
        self.later()
        await self.world.note()
        turn = Retention(airgap=self.world.airgap, writer=self.world.writer, store=self.world.store, keep=KEEP)
        return await turn.turn()

    async def saved(self) -> Path:
        world = self.world
        backups = Backups(
            world.store,
            state_dir=world.folder,
            server_id=world.site.server_id,
            name="lls",
            version="1",
            now=lambda: NOW,
            others={},
        )
        return (await backups.take(self.folder / "saved", lock=None)).path

    async def restored(self, backup: Path, *, elsewhere: bool = False) -> None:
        """Put back, in place or on another machine, which does not have the archives."""
        await self.world.end()
        folder = self.folder / "there" if elsewhere else self.world.folder
        await asyncio.to_thread(put_back, backup, Known(), state_dir=folder, force=True, now=NOW)
        world = World(folder, vendor=self.world.vendor)
        world.raw, world.elapsed = self.world.raw, self.world.elapsed
        self.world = await world.begin()

    async def answered(self) -> None:
        """The vendor's bundle that says where to go on."""
        (*_, point) = self.ledger.server.restores
        seq, head = self.acknowledged
        order = {
            "command_id": f"cmd_{self.count}",
            "type": "chain_adopt",
            "restore_id": point.restore_id,
            "from_seq": seq + 1,
            "prev_head": head,
            "keep_seq": point.seq if seq > point.seq else None,
            "meters": [],
            "closed_sessions": [],
            "bundle_sequence": self.ledger.server.sequence_seen,
        }
        await self.world.take(self.world.bundle(entitlements=[], commands=[order]))

    async def doubts(self) -> set[str]:
        now, keys = self.world.writer.now(), self.world.airgap.newest_keys
        found = examine_standing(self.ledger, now=now, raw=self.world.raw, keys=keys, host={})
        return {one.check for one in found if one.state is State.WARN}

    async def holds(self) -> Any:
        """Every way in which the chain is looked at says that it holds."""
        check = await self.world.airgap.verify_journal()
        assert (None, self.ledger.batch.before.seq) == (check.problem, check.last_seq)
        first = self.ledger.archives[-1].end.seq + 1 if self.ledger.archives else 1
        for full in (False, True):
            found = await examine_chain(
                self.world.store,
                upto=self.ledger.batch.before,
                first=first,
                gaps=self.ledger.server.gaps,
                full=full,
            )
            assert State.OK is found.state, found.said
        found_in = await asyncio.to_thread(look_into, await self.saved(), Known(), room=self.folder)
        assert self.ledger.batch.before.seq == found_in.manifest.seq
        return check


def _write_keys(world: World) -> None:
    keys = world.folder / "keys"
    keys.mkdir(mode=0o700)
    for name, content in {
        "server-id": world.site.server_id.encode(),
        "signing.pem": world.site.signing.to_pem(),
        "encryption.pem": world.site.encryption.to_pem(),
        "site.key": b"k" * 32,
    }.items():
        (keys / name).write_bytes(content)
        (keys / name).chmod(0o600)


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    made = await Story(tmp_path).begin()
    yield made
    await made.end()


def files(story: Story) -> list[str]:
    return sorted(path.name for path in (story.world.folder / "archive").iterdir())


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_pruned_journal_is_saved_put_back_and_goes_on(story: Story, elsewhere: bool) -> None:
    await story.lives()
    assert (await story.archives()).pruned > 0
    backup = await story.saved()
    await story.restored(backup, elsewhere=elsewhere)
    assert "restored" in await story.doubts()
    check = await story.holds()
    assert elsewhere is (check.left_out_upto > 0)
    await story.answered()
    assert not story.ledger.server.restored
    assert "restored" not in await story.doubts()
    await story.lives()
    assert (await story.archives()).pruned > 0
    await story.holds()


async def test_a_backup_in_the_middle_of_pruning_is_whole(story: Story) -> None:
    await story.lives()
    await story.archives()
    await story.lives(9)
    story.later()
    await story.world.note()
    turn = Retention(airgap=story.world.airgap, writer=story.world.writer, store=story.world.store, keep=KEEP)
    found = await turn._next_range(KEEP)  # noqa: SLF001 - what a crash between two bites leaves
    assert found is not None
    archive = await turn._archive(*found, actor="ann")  # noqa: SLF001
    await story.world.writer.do(lambda ledger, _now: ledger.prune(archive.from_seq + 1))
    await story.restored(await story.saved())
    await story.holds()
    await story.answered()
    await story.archives()
    assert (await story.holds()).left_out_upto == 0


async def test_a_saved_journal_whose_lines_are_not_those_that_were_archived_is_refused(story: Story) -> None:
    await story.lives()
    await story.archives()
    await story.world.end()
    with sqlite3.connect(story.world.folder / "lls.sqlite3") as database:
        database.execute("UPDATE archives SET head = ?", ("e" * 64,))
    story.world = await World(story.world.folder, vendor=story.world.vendor).begin()
    with pytest.raises(SetupFault, match="does not hold"):
        await asyncio.to_thread(look_into, await story.saved(), Known(), room=story.folder)


async def test_archives_go_over_the_lines_that_a_restore_has_lost(story: Story) -> None:
    await story.lives()
    backup = await story.saved()
    end = story.ledger.batch.before.seq
    await story.lives(4)
    lost = story.acknowledged[0]
    await story.archives()
    before = files(story)
    assert [archive_name(1, lost)] == before
    await story.restored(backup)
    await story.holds()
    await story.answered()
    check = await story.holds()
    assert ((end + 1, lost),) == check.gaps
    assert 0 == check.left_out_upto
    await story.archives()
    await story.lives()
    usage = await story.world.airgap.usage(since=None, until=None, bucket=Bucket.DAY)
    kept = await story.archives()
    assert kept.pruned > 0
    assert set(before) < set(files(story)), "the lines that were lost with the restore are in that file alone"
    check = await story.holds()
    assert (0, check.lines) == (check.left_out_upto, check.last_seq - (lost - end))
    again = await story.world.airgap.usage(since=None, until=None, bucket=Bucket.DAY)
    (same,) = [line for line in again if line.day == usage[-1].day]
    assert (3, 0) == (usage[-1].checkouts, same.checkouts), "what was archived is not told again"
    await story.world.airgap.what_if("cad", seats=3, since=None, until=None)
    story.world = await story.world.again()
    await story.holds()


async def test_a_second_restore_to_before_the_first_one_archives_too(story: Story) -> None:
    await story.lives()
    backup = await story.saved()
    for _ in range(2):
        await story.lives()
        await story.archives()
        await story.restored(backup)
        await story.answered()
        await story.holds()
    await story.lives()
    await story.archives()
    await story.archives()
    check = await story.holds()
    assert 1 == len(check.gaps)
    shutil.rmtree(story.world.folder / "archive")
    assert (await story.holds()).left_out_upto > 0
    lines = [json.loads(line) async for chunk in story.world.airgap.journal(after=0, limit=10_000) for line in chunk]
    assert lines


@pytest.mark.parametrize("archived", [False, True])
async def test_a_backup_from_behind_the_vendors_answer_is_answered_before_anything_is_reported(
    story: Story, archived: bool
) -> None:
    """The vendor's last line of this server is the end of what the first restore lost: no line of the journal here."""
    await story.lives()
    first = await story.saved()
    await story.lives()
    await story.restored(first)
    await story.answered()
    first.unlink()
    if archived:
        await story.archives()
    second = await story.saved()
    story.count += 1
    await story.restored(second)
    was = story.ledger.server.restored
    await story.answered()
    assert [True, False] == [was, story.ledger.server.restored]
    assert 1 == len((await story.holds()).gaps)


@pytest.mark.parametrize("same_range", [True, False])
async def test_archives_of_another_server_in_the_same_folder_are_neither_replaced_nor_removed(
    story: Story, same_range: bool
) -> None:
    await story.lives()
    name = archive_name(1, story.acknowledged[0] - (not same_range))
    folder = story.world.folder / "archive"
    folder.mkdir()
    head = Head(seq=story.acknowledged[0] - (not same_range), hash="b" * 64)
    header = {"format": 1, "kind": "lls-journal-archive", "server_id": "lls_other", "from_seq": 1, "to_seq": head.seq}
    theirs = gzip.compress(json.dumps(header | {"prev_head": "0" * 64, "head": head.hash}).encode() + b"\n")
    (folder / name).write_bytes(theirs)
    if same_range:
        with pytest.raises(RefusedDocument, match="archive_dir of its own"):
            await story.archives()
        assert story.ledger.archives == []
    else:
        assert (await story.archives()).pruned > 0
    assert theirs == (folder / name).read_bytes()
    await story.holds()
