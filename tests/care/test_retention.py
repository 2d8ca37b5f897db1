"""Retention over a real store: archive, read back, prune; whole after a crash at any point; honest in every answer."""
# ruff: noqa: SLF001 - nothing else runs in these loops; a crash needs the inside

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.care import retention
from lls.care.retention import Retention
from lls.faults import NotFound, RefusedDocument, StoreDown
from lls.licensing.journal import Head, head_of, verify_line
from lls.licensing.usage import Bucket
from tests.ledgers import checkout
from tests.test_airgap import World
from tests.vendor import entitlement

DAY = timedelta(days=1)
KEEP = timedelta(days=30)


@pytest.fixture(autouse=True)
def small_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BITE", 3)
    monkeypatch.setattr(retention, "PAUSE_SECONDS", 0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = [await World(tmp_path).begin()]
    yield made[0]
    await made[0].end()


def kept_by(world: World, keep: timedelta | None = KEEP) -> Retention:
    return Retention(airgap=world.airgap, writer=world.writer, store=world.store, keep=keep)


async def lived(world: World, *, names: tuple[str, ...] = ("old", "both")) -> int:
    """A bundle, people, a report and its receipt; the line that was acknowledged."""
    await world.take(world.bundle(entitlements=[entitlement(seats=9)]))
    for name in names:
        await world.writer.checkout(checkout(name, user=name))
    sealed = await world.sealed()
    receipt = world.vendor.receipt(world.site, report_id=sealed.report_id, up_to_seq=sealed.to_seq, head=sealed.head)
    await world.airgap.import_receipt(receipt.encode(), actor="ann")
    acknowledged: int = sealed.to_seq
    return acknowledged


async def stored(world: World) -> list[int]:
    return [
        json.loads(line)["seq"]
        async for chunk in world.store.lines(after=0, upto=world.writer.ledger.batch.before.seq)
        for line in chunk
    ]


def files(world: World) -> list[str]:
    folder = world.folder / "archive"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


async def test_acknowledged_lines_that_are_old_leave_and_the_chain_holds(world: World) -> None:
    acknowledged = await lived(world)
    world.passes(31 * DAY)
    kept = await kept_by(world).turn()
    assert acknowledged == kept.pruned == kept.archived[0].end.seq
    assert [f"journal-{1:012}-{acknowledged:012}.ndjson.gz"] == files(world)
    assert acknowledged + 1 == (await stored(world))[0]
    check = await world.airgap.verify_journal()
    assert (True, acknowledged, 1, 0) == (check.ok, check.archived_lines, check.first_seq, check.left_out_upto)
    assert check.lines == check.last_seq == world.writer.ledger.batch.before.seq
    (act,) = [
        line["data"]
        async for chunk in world.store.lines(after=acknowledged, upto=check.last_seq)
        for line in map(json.loads, chunk)
        if line["data"].get("act") == "journal_archived"
    ]
    assert ("1", str(acknowledged)) == (act["from_seq"], act["to_seq"])


async def test_anybody_can_check_an_archive_with_public_tools(world: World) -> None:
    await lived(world)
    world.passes(31 * DAY)
    (archive,) = (await kept_by(world).turn()).archived
    header, *lines = gzip.decompress((world.folder / "archive" / archive.file).read_bytes()).splitlines()
    head = Head()
    for line in lines:
        head = head_of(verify_line(line, after=head))
    assert archive.end == head
    assert (1, world.site.server_id, head.seq) == tuple(
        json.loads(header)[key] for key in ("format", "server_id", "to_seq")
    )


@pytest.mark.parametrize("keep", [None, timedelta(days=32)])
async def test_what_is_young_or_kept_for_ever_stays(world: World, keep: timedelta | None) -> None:
    await lived(world)
    world.passes(31 * DAY)
    before = await stored(world)
    assert 0 == (await kept_by(world, keep).turn()).pruned
    assert (before, []) == (await stored(world), files(world))


async def test_what_the_vendor_has_not_acknowledged_stays_however_old(world: World) -> None:
    await world.take(world.bundle())
    for _ in range(9):
        await world.note()
    await world.sealed()
    world.passes(80 * DAY)
    before = await stored(world)
    assert 0 == (await kept_by(world).turn()).pruned
    assert before == await stored(world)


async def test_names_go_with_their_last_line_and_stay_where_they_are_needed(world: World) -> None:
    await lived(world)
    world.passes(31 * DAY)
    await world.writer.checkout(checkout("again", user="both"))
    await kept_by(world).turn()
    known = {value for _field, value in await world.store.known_names(limit=1_000)}
    assert "both" in known
    assert "old" not in known
    await world.writer.checkout(checkout("new", user="old"))
    assert "old" in {value for _field, value in await world.store.known_names(limit=1_000)}


@pytest.mark.parametrize("step", ["write_archive", "check_archive"])
async def test_a_crash_before_the_archive_is_noted_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    acknowledged = await lived(world)
    world.passes(31 * DAY)
    before = await stored(world)
    with monkeypatch.context() as broken:
        broken.setattr(retention, step, _crash)
        with pytest.raises(StoreDown):
            await kept_by(world).turn()
    assert before == await stored(world)
    assert acknowledged == (await kept_by(world).turn()).pruned
    assert 1 == len(files(world))


def _crash(*_args: object, **_more: object) -> Any:
    raise OSError(28, "No space left on device")


async def test_a_crash_in_the_middle_of_pruning_is_finished_by_the_next_turn(world: World) -> None:
    acknowledged = await lived(world)
    world.passes(31 * DAY)
    prune, bites = world.writer.do, []

    async def dies(verb: Any) -> Any:
        if "bite" in verb.__code__.co_varnames:
            bites.append(verb)
            if len(bites) > 1:
                raise StoreDown
        return await prune(verb)

    world.writer.do = dies  # type: ignore[method-assign]
    with pytest.raises(StoreDown):
        await kept_by(world).turn()
    world.writer.do = prune  # type: ignore[method-assign]
    assert 1 < (await stored(world))[0] <= acknowledged
    again = await world.again()
    try:
        assert (await again.airgap.verify_journal()).ok
        kept = await kept_by(again, None).turn()
        assert (acknowledged + 1, 0) == ((await stored(again))[0], len(kept.archived))
        assert 0 == (await kept_by(again, None).turn()).pruned
        assert (await again.airgap.verify_journal()).ok
    finally:
        await again.end()


async def test_a_file_that_is_damaged_before_its_lines_left_keeps_them(world: World) -> None:
    await lived(world)
    world.passes(31 * DAY)
    await _archived_only(world)
    (name,) = files(world)
    (world.folder / "archive" / name).write_bytes(b"no gzip")
    before = await stored(world)
    with pytest.raises(RefusedDocument):
        await kept_by(world).turn()
    (world.folder / "archive" / name).unlink()
    with pytest.raises(StoreDown):
        await kept_by(world).turn()
    assert before == await stored(world)


async def _archived_only(world: World) -> None:
    turn = kept_by(world)
    found = await turn._next_range(KEEP)
    assert found is not None
    await turn._archive(*found, actor="ann")


async def test_a_changed_archive_is_found(world: World) -> None:
    await lived(world)
    world.passes(31 * DAY)
    (archive,) = (await kept_by(world).turn()).archived
    path = world.folder / "archive" / archive.file
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"Granted", b"granted")))
    check = await world.airgap.verify_journal()
    assert (False, True) == (check.ok, "changed" in str(check.problem))


async def test_archives_that_were_carried_away_are_told_not_guessed(world: World) -> None:
    acknowledged = await lived(world)
    world.passes(31 * DAY)
    (archive,) = (await kept_by(world).turn()).archived
    (world.folder / "archive" / archive.file).rename(world.folder / "elsewhere.gz")
    check = await world.airgap.verify_journal()
    assert (True, acknowledged, acknowledged + 1) == (check.ok, check.left_out_upto, check.first_seq)
    with pytest.raises(NotFound, match="archived"):
        await world.airgap.what_if("cad", seats=3, since=None, until=None)
    (world.folder / "elsewhere.gz").rename(world.folder / "archive" / archive.file)
    assert 2 == (await world.airgap.what_if("cad", seats=3, since=None, until=None)).requests


async def test_usage_goes_on_from_what_was_held_when_lines_left(world: World) -> None:
    await lived(world)
    world.passes(31 * DAY)
    await world.note()
    before = await world.airgap.usage(since=None, until=None, bucket=Bucket.DAY)
    await kept_by(world).turn()
    after = await world.airgap.usage(since=None, until=None, bucket=Bucket.DAY)
    assert 2 == after[-1].peak == before[-1].peak
    assert before[-1].seat_seconds == after[-1].seat_seconds
    assert world.airgap.archived is not None
    assert [] == await world.airgap.denials(since=None)


async def test_an_acknowledged_report_is_written_again_from_its_file_and_refused_clearly_without(world: World) -> None:
    await lived(world)
    (report_id,) = world.writer.ledger.reports
    _, path = await world.airgap.report_file(report_id)
    content = path.read_bytes()
    world.passes(31 * DAY)
    await kept_by(world).turn()
    assert content == (await world.airgap.report_file(report_id))[1].read_bytes()
    path.unlink()
    with pytest.raises(NotFound, match="archived"):
        await world.airgap.report_file(report_id)


async def test_a_receipt_for_lines_that_left_is_known_and_a_forged_one_is_a_fork(world: World) -> None:
    acknowledged = await lived(world)
    world.passes(31 * DAY)
    await kept_by(world).turn()
    (report,) = world.writer.ledger.reports.values()
    for head, refused in ((report.head, False), ("e" * 64, True)):
        again = world.vendor.receipt(
            world.site, report_id=report.report_id, up_to_seq=acknowledged, head=head, receipt_id="rcp_" + "B" * 22
        )
        if refused:
            with pytest.raises(RefusedDocument):
                await world.airgap.import_receipt(again.encode(), actor="ann")
        else:
            assert (await world.airgap.import_receipt(again.encode(), actor="ann"))[1]


async def test_many_turns_make_one_chain_of_files(world: World) -> None:
    await lived(world)
    for number in range(3):
        world.passes(31 * DAY)
        await world.writer.checkout(checkout(f"later-{number}", user=f"later-{number}"))
        sealed = await world.sealed()
        receipt = world.vendor.receipt(
            world.site, report_id=sealed.report_id, up_to_seq=sealed.to_seq, head=sealed.head
        )
        await world.airgap.import_receipt(receipt.encode(), actor="ann")
        await kept_by(world).turn()
    assert 3 == len(files(world))
    check = await world.airgap.verify_journal()
    assert (True, 1, 0) == (check.ok, check.first_seq, check.left_out_upto)
    again = await world.again()
    assert (await again.airgap.verify_journal()).ok
    await again.end()


async def test_checkouts_go_on_while_lines_leave(world: World) -> None:
    await lived(world)
    for _ in range(60):
        await world.note()
    sealed = await world.sealed()
    receipt = world.vendor.receipt(world.site, report_id=sealed.report_id, up_to_seq=sealed.to_seq, head=sealed.head)
    await world.airgap.import_receipt(receipt.encode(), actor="ann")
    world.passes(31 * DAY)
    turn = asyncio.create_task(kept_by(world).turn())
    granted = 0
    while not turn.done():
        granted += bool(await world.writer.checkout(checkout(f"during-{granted}", user="x")))
    assert sealed.to_seq == (await turn).pruned
    assert granted > 10
    assert (await world.airgap.verify_journal()).ok
