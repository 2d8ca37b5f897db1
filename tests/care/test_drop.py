"""The drop folder: what is laid in is imported once, whatever crashes; what is hostile is refused and harms nobody."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.care import drop
from lls.care.drop import DropFolder
from lls.config import ReportEvery
from lls.faults import StoreDown
from tests.test_airgap import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "state").mkdir()
    world = await World(tmp_path / "state").begin()
    yield world
    await world.end()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "drop"
    made.mkdir()
    return made


def watcher(world: World, folder: Path, **more: Any) -> DropFolder:
    return DropFolder(folder, airgap=world.airgap, writer=world.writer, state_dir=world.folder, **more)


async def looked(watch: DropFolder, times: int = 2) -> None:
    for _ in range(times):
        await watch.look()


def names(folder: Path) -> dict[str, list[str]]:
    return {one: sorted(path.name for path in (folder / one).iterdir()) for one in ("in", "taken", "done", "refused")}


def imports(world: World) -> int:
    return len(world.writer.ledger.bundles)


async def test_a_bundle_and_a_receipt_are_imported_and_told(world: World, folder: Path) -> None:
    watch = watcher(world, folder)
    await watch.look()
    (folder / "in" / "site.llsbundle").write_bytes(world.bundle())
    await looked(watch)
    assert {"in": [], "taken": [], "done": ["site.llsbundle", "site.llsbundle.txt"], "refused": []} == names(folder)
    assert "is applied" in (folder / "done" / "site.llsbundle.txt").read_text()
    sealed = await world.sealed()
    receipt = world.vendor.receipt(world.site, report_id=sealed.report_id, up_to_seq=sealed.to_seq, head=sealed.head)
    (folder / "in" / "site.llsreceipt").write_text(receipt)
    await looked(watch)
    assert sealed.to_seq == world.writer.ledger.server.acknowledged.seq
    assert str(sealed.to_seq) in (folder / "done" / "site.llsreceipt.txt").read_text()


async def test_a_file_that_still_grows_waits(world: World, folder: Path) -> None:
    watch, data = watcher(world, folder), world.bundle()
    await watch.look()
    path = folder / "in" / "site.llsbundle"
    for end in (10, 200, len(data)):
        path.write_bytes(data[:end])
        await watch.look()
        assert [path.name] == names(folder)["in"]
    await watch.look()
    assert 1 == imports(world)


async def test_other_files_and_half_names_are_left_alone(world: World, folder: Path) -> None:
    watch = watcher(world, folder)
    await watch.look()
    for name in ("readme.txt", ".site.llsbundle", "site.llsbundle.part"):
        (folder / "in" / name).write_bytes(b"x")
    await looked(watch, 3)
    assert 3 == len(names(folder)["in"])


async def test_the_same_bundle_again_changes_nothing(world: World, folder: Path) -> None:
    watch, data = watcher(world, folder), world.bundle()
    await watch.look()
    for _ in range(2):
        (folder / "in" / "site.llsbundle").write_bytes(data)
        await looked(watch)
    assert 1 == imports(world)
    assert "already" in (folder / "done" / "2-site.llsbundle.txt").read_text()


HOSTILE = {
    "link": lambda path, secret: path.symlink_to(secret),
    "dangling": lambda path, _secret: path.symlink_to("nowhere"),
    "pipe": lambda path, _secret: os.mkfifo(path),
    "folder": lambda path, _secret: path.mkdir(),
    "empty": lambda path, _secret: path.touch(),
    "forged": lambda path, _secret: path.write_bytes(b"no bundle"),
    "huge": lambda path, _secret: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), drop.LARGEST + 1),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
@pytest.mark.parametrize("suffix", [".llsbundle", ".llsreceipt"])
async def test_what_is_hostile_is_refused_with_a_reason_and_holds_nothing_up(
    world: World, folder: Path, tmp_path: Path, kind: str, suffix: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of the server")
    watch = watcher(world, folder)
    await watch.look()
    HOSTILE[kind](folder / "in" / f"a{suffix}", secret)  # type: ignore[no-untyped-call]
    (folder / "in" / "b.llsbundle").write_bytes(world.bundle())
    await looked(watch)
    assert [f"a{suffix}", f"a{suffix}.txt"] == names(folder)["refused"]
    said = (folder / "refused" / f"a{suffix}.txt").read_text()
    assert said.strip()
    assert "secret of" not in said
    assert 1 == imports(world)
    assert "a secret of the server" == secret.read_text()


@pytest.mark.parametrize("name", ["a\nb; rm -rf.llsbundle", "é" * 80 + ".llsbundle", "-rf.llsbundle", "..llsbundle"])
async def test_a_hostile_name_becomes_a_plain_one(world: World, folder: Path, name: str) -> None:
    watch = watcher(world, folder)
    await watch.look()
    (folder / "in" / name).write_bytes(world.bundle())
    await looked(watch)
    if name.startswith("."):
        assert [name] == names(folder)["in"]
        return
    (document, _) = names(folder)["done"]
    assert document.isascii()
    assert document.isprintable()
    assert " " not in document


async def test_a_link_in_the_place_of_a_folder_is_not_followed(
    world: World, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.llsbundle").write_bytes(world.bundle())
    (folder / "in").symlink_to(tmp_path / "elsewhere")
    await looked(watcher(world, folder), 3)
    assert 0 == imports(world)
    assert (tmp_path / "elsewhere" / "x.llsbundle").exists()
    assert 1 == [record.getMessage() for record in caplog.records].count("drop_folder")


async def test_a_store_that_is_down_is_no_reason_to_refuse(world: World, folder: Path) -> None:
    watch = watcher(world, folder)
    await watch.look()
    (folder / "in" / "site.llsbundle").write_bytes(world.bundle())
    world.store.fails = "before"
    await looked(watch)
    assert ["site.llsbundle"] == names(folder)["taken"]
    await world.reloaded()
    await watch.look()
    assert (1, []) == (imports(world), names(folder)["refused"])


@pytest.mark.parametrize("crash", ["_read", "_import", "_settle"])
async def test_a_crash_anywhere_imports_once(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    watch = watcher(world, folder)
    await watch.look()
    (folder / "in" / "site.llsbundle").write_bytes(world.bundle())

    def dies(*_args: object) -> Any:
        raise StoreDown("killed")

    with monkeypatch.context() as broken:
        broken.setattr(watch, crash, dies)
        await looked(watch)
    assert ["site.llsbundle"] == names(folder)["taken"]
    await watcher(world, folder).look()
    assert (1, 2, []) == (imports(world), len(names(folder)["done"]), names(folder)["taken"])


async def test_a_document_that_we_fail_on_is_put_aside_as_our_mistake_and_holds_no_other_up(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch, real, bundle = watcher(world, folder), world.airgap.import_bundle, world.bundle()

    async def breaks(data: bytes, **named: Any) -> Any:
        if data == b"cursed":
            raise KeyError("secret of the document")
        return await real(data, **named)

    monkeypatch.setattr(world.airgap, "import_bundle", breaks)
    await watch.look()
    (folder / "in" / "a.llsbundle").write_bytes(b"cursed")
    (folder / "in" / "b.llsbundle").write_bytes(bundle)
    await looked(watch)
    assert (["a.llsbundle"], ["b.llsbundle", "b.llsbundle.txt"]) == (names(folder)["taken"], names(folder)["done"])
    await looked(watch, drop.MOST_TRIES - 2)
    assert (["a.llsbundle"], []) == (names(folder)["taken"], names(folder)["refused"])
    await looked(watch, 3)
    assert ([], ["a.llsbundle", "a.llsbundle.txt"]) == (names(folder)["taken"], names(folder)["refused"])
    said = (folder / "refused" / "a.llsbundle.txt").read_text()
    assert "The server itself failed on it, 5 times (KeyError)" in said
    assert "lls support-bundle" in said
    assert "secret" not in said
    tries = [record.__dict__["fields"]["tries"] for record in caplog.records if record.getMessage() == "drop_failed"]
    assert list(range(1, drop.MOST_TRIES + 1)) == tries


async def test_a_document_laid_down_again_after_our_mistake_is_tried_as_often_again(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watcher(world, folder)
    await watch.look()
    with monkeypatch.context() as broken:
        broken.setattr(watch, "_import", None)  # what calls it fails with TypeError
        (folder / "in" / "a.llsbundle").write_bytes(world.bundle())
        await looked(watch, 1 + drop.MOST_TRIES)
        assert ["a.llsbundle", "a.llsbundle.txt"] == names(folder)["refused"]
        (folder / "refused" / "a.llsbundle").rename(folder / "in" / "a.llsbundle")
        await looked(watch)
        assert ["a.llsbundle"] == names(folder)["taken"]
    await watch.look()
    assert 1 == imports(world)


async def test_a_report_appears_as_often_as_was_asked(world: World, folder: Path) -> None:
    watch = watcher(world, folder, report_every=ReportEvery.DAY)
    await watch.look()
    assert [] == list((folder / "out").iterdir()), "nothing is reported before there is a vendor"
    await world.take(world.bundle())
    await looked(watch, 3)
    assert 1 == len(list((folder / "out").glob("*.llsreport")))
    world.passes(timedelta(hours=23))
    await watcher(world, folder, report_every=ReportEvery.DAY).look()
    assert 1 == len(list((folder / "out").iterdir()))
    world.passes(timedelta(hours=2))
    await watch.look()
    files = {path.stem: path for path in (folder / "out").iterdir()}
    assert set(world.writer.ledger.reports) == set(files)
    for report_id, path in files.items():
        assert (await world.airgap.report_file(report_id))[1].read_bytes() == path.read_bytes()


async def test_a_flood_is_taken_in_turns(world: World, folder: Path) -> None:
    watch = watcher(world, folder)
    await watch.look()
    for number in range(drop.MOST_IN_TURN + 5):
        (folder / "in" / f"{number:03}.llsreceipt").write_bytes(b"x")
    await looked(watch)
    assert 5 == len(names(folder)["in"])
    await looked(watch)
    assert [] == names(folder)["in"]


async def test_a_name_that_somebody_has_used_up_holds_nothing_up(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop, "MOST_NUMBERED", 3)
    watch = watcher(world, folder)
    await watch.look()
    for _ in range(4):
        (folder / "in" / "a.llsbundle").write_bytes(b"no bundle")
        await looked(watch)
    (folder / "in" / "b.llsbundle").write_bytes(world.bundle())
    await looked(watch)
    assert 4 == len([name for name in names(folder)["refused"] if name.endswith("a.llsbundle")])
    assert 1 == imports(world)
