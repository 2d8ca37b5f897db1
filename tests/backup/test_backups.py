"""Backups: consistent beside a writer, read back before they count, kept by number; and what is in them comes back."""
# ruff: noqa: ASYNC110, ASYNC240 - nothing else runs in these loops, and the writer is another task

from __future__ import annotations

import asyncio
import gzip
import io
import json
import sqlite3
import tarfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.backup import Backups, Plan, archive, lock_of, look_into, put_back, refuse_unfinished, taking
from lls.faults import RefusedDocument, SetupFault, StoreDown
from lls.identity import CREDENTIALS_VARIABLE, KEY_FILES
from lls.licensing.changes import Fact
from lls.signed.vault import VaultWriter
from lls.store import copies
from lls.store.sqlite import SqliteStore
from tests.backup.state import NOW, PASSPHRASE, Known, State, names_in

SEALED = lock_of(passphrase=PASSPHRASE)


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    made = State(tmp_path / "state")
    await made.start()
    await made.grant()
    yield made
    await made.store.close()


# ---------------------------------------------------------------- taking


async def test_a_copy_is_a_whole_number_of_commits_while_the_writer_goes_on(state: State, tmp_path: Path) -> None:
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            await state.grant()

    writing = asyncio.create_task(write())
    for number in range(5):
        before = state.ledger.batch.before.seq
        await state.store.copy(tmp_path / f"copy {number}")
        after = state.ledger.batch.before.seq
        look = copies.look(tmp_path / f"copy {number}", chain=True)
        assert before <= look.seq <= after + 1
        with sqlite3.connect(tmp_path / f"copy {number}") as copied:
            (leases,) = copied.execute("SELECT count(*) FROM leases").fetchone()
            assert look.seq == look.lines == leases + 1, "rows and lines are of the same commit"
        seats = state.seats
        while state.seats < seats + 3:
            await asyncio.sleep(0)
    stop.set()
    await writing


async def test_a_backup_holds_the_whole_state_and_only_its_owner_reads_it(state: State, tmp_path: Path) -> None:
    settings = tmp_path / "lls.toml"
    settings.write_text("# settings\n")
    others = {"lls.toml": settings, "policy.toml": tmp_path / "none"}
    taken = await state.backups(others=others).take(tmp_path / "out", lock=SEALED)

    found = await asyncio.to_thread(look_into, taken.path, Known(), room=tmp_path)
    assert 0o600 == taken.path.stat().st_mode & 0o777
    assert {
        "lls.sqlite3",
        "tls.crt",
        "tls.key",
        "config/lls.toml",
        *(f"keys/{name}" for name in ("encryption.pem", "server-id", "signing.pem", "site.key")),
    } == set(found.manifest.members)
    assert (state.server_id, state.ledger.head.seq) == (found.manifest.server_id, found.manifest.seq)
    assert [taken.path.name] == [path.name for path in (tmp_path / "out").iterdir()]
    assert ".backup" not in names_in(state.folder) or not any((state.folder / ".backup").iterdir())


async def test_keys_that_systemd_hands_over_are_in_it_too(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_over = (state.folder / "keys").rename(tmp_path / "credentials")
    with pytest.raises(StoreDown, match=r"server-id.* is not there; nothing was saved"):
        await state.backups().take(tmp_path / "out", lock=SEALED)
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(handed_over))
    taken = await state.backups().take(tmp_path / "out", lock=SEALED)
    assert {f"keys/{name}" for name in KEY_FILES} == {one for one in taken.manifest.members if one.startswith("keys/")}


async def test_what_cannot_be_read_back_is_no_backup(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(target: Path, *args: Any, **named: Any) -> Any:
        opener = archive.write_archive(target, *args, **named)
        data = bytearray(target.read_bytes())
        data[len(data) // 2] ^= 1
        target.write_bytes(data)
        return opener

    monkeypatch.setattr(taking, "write_archive", spoiled)
    with pytest.raises(RefusedDocument):
        await state.backups().take(tmp_path / "out", lock=SEALED)
    assert [] == list((tmp_path / "out").iterdir())


async def test_a_damaged_database_is_not_saved(state: State, tmp_path: Path) -> None:
    with sqlite3.connect(state.folder / "lls.sqlite3") as database:
        database.execute("UPDATE writer SET head = 'x'")
    with pytest.raises(StoreDown, match="head of its chain"):
        await state.backups().take(tmp_path / "out", lock=None)
    assert not (tmp_path / "out").exists() or [] == list((tmp_path / "out").iterdir())


async def test_old_ones_go_once_a_new_one_is_there(state: State, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    for stranger in ("notes.txt", f"lls_{'x' * 22}-20200101T000000Z.llsbackup"):
        (folder / stranger).write_text("not ours")
    backups = state.backups(plan=Plan(folder=folder, keep=2))
    for day in range(4):
        state.now = NOW + timedelta(days=day)
        await backups.take_scheduled()
    await backups.take_scheduled()
    kept = sorted(path.name for path in folder.glob(f"{state.server_id}*"))
    assert [f"{state.server_id}-20261124T070000Z-1.llsbackup", f"{state.server_id}-20261124T070000Z.llsbackup"] == kept
    assert 4 == len(list(folder.iterdir()))
    assert backups.last is not None
    assert (None, True) == (backups.last.problem, backups.last.path is not None)


async def test_one_that_fails_removes_none_and_is_told(state: State, tmp_path: Path) -> None:
    folder, told = tmp_path / "backups", list[object]()
    backups = state.backups(plan=Plan(folder=folder, keep=1))
    await backups.take_scheduled()
    backups.plan = Plan(folder=folder, keep=1, passphrase_file=tmp_path / "missing")
    backups._observed = told.append  # noqa: SLF001
    state.now += timedelta(days=1)
    await backups.take_scheduled()
    assert 1 == len(list(folder.iterdir()))
    assert backups.last is not None
    assert "cannot be read" in str(backups.last.problem)
    assert [None] == told
    assert backups.newest_made_at() is not None


@pytest.mark.parametrize("passphrase", [b"", b"short", b"x" * 1_025])
def test_a_passphrase_that_is_none_is_refused(passphrase: bytes) -> None:
    with pytest.raises(RefusedDocument, match="passphrase"):
        lock_of(passphrase=passphrase)


# ---------------------------------------------------------------- putting back


async def saved(state: State, folder: Path) -> Path:
    return (await state.backups().take(folder, lock=SEALED)).path


async def test_it_is_put_back_elsewhere_and_its_first_start_says_so(state: State, tmp_path: Path) -> None:
    file = await saved(state, tmp_path / "out")
    there = tmp_path / "there"
    put = await asyncio.to_thread(put_back, file, Known(), state_dir=there, force=False, now=NOW)
    assert (state.server_id, None, False) == (put.server_id, put.aside, put.finished)
    assert {"keys", "lls.sqlite3", "tls.crt", "tls.key"} == names_in(there)
    assert "private" == (there / "tls.key").read_text()
    store = SqliteStore(there)
    await store.take_writership()
    loaded = await store.load()
    await store.close()
    assert state.ledger.head == loaded.head
    assert {"restore_id", "made_at"} == json.loads(loaded.facts[Fact.RESTORING]).keys()


async def test_a_state_that_is_there_stays_unless_told_and_then_moves_aside(state: State, tmp_path: Path) -> None:
    file = await saved(state, tmp_path / "out")
    there = State(tmp_path / "there")
    before = (there.folder / "keys" / "server-id").read_text()
    with pytest.raises(SetupFault, match="--force"):
        put_back(file, Known(), state_dir=there.folder, force=False, now=NOW)
    assert {"keys", "tls.crt", "tls.key"} == names_in(there.folder)
    put = await asyncio.to_thread(put_back, file, Known(), state_dir=there.folder, force=True, now=NOW)
    assert put.aside is not None
    assert before == (put.aside / "keys" / "server-id").read_text()
    assert state.server_id == (there.folder / "keys" / "server-id").read_text().strip()


async def test_a_server_that_runs_is_not_exchanged(state: State, tmp_path: Path) -> None:
    file = await saved(state, tmp_path / "out")
    with pytest.raises(SetupFault, match="Another daemon"):
        put_back(file, Known(), state_dir=state.folder, force=True, now=NOW)


@pytest.mark.parametrize("step", range(9))
async def test_interrupted_anywhere_it_is_finished_by_the_same_command(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    file = await saved(state, tmp_path / "out")
    there = State(tmp_path / "there")
    (there.folder / "reports").mkdir()
    old = (there.folder / "keys" / "server-id").read_text()
    rename, moves = Path.rename, list[str]()

    def cut_off(self: Path, target: Path) -> Path:
        if len(moves) == step:
            raise KeyboardInterrupt
        moves.append(self.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", cut_off)
    with pytest.raises(KeyboardInterrupt):
        await asyncio.to_thread(put_back, file, Known(), state_dir=there.folder, force=True, now=NOW)
    monkeypatch.setattr(Path, "rename", rename)
    noted = (there.folder / ".restore" / "ready.json").exists()
    assert noted is (step > 0)
    if noted:
        with pytest.raises(SetupFault, match="interrupted"):
            refuse_unfinished(there.folder)
    else:
        assert old == (there.folder / "keys" / "server-id").read_text(), "nothing has moved before the note"
        refuse_unfinished(there.folder)
    put = await asyncio.to_thread(put_back, file, Known(), state_dir=there.folder, force=True, now=NOW)
    assert noted is put.finished
    assert put.aside is not None
    assert old == (put.aside / "keys" / "server-id").read_text()
    assert {"keys", "tls.crt", "tls.key", "reports"} == names_in(put.aside)
    assert {"keys", "lls.sqlite3", "tls.crt", "tls.key", put.aside.name} == names_in(there.folder)
    assert state.server_id == (there.folder / "keys" / "server-id").read_text().strip()
    refuse_unfinished(there.folder)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("sealed", [True, False])
async def test_a_byte_that_has_changed_is_noticed(state: State, tmp_path: Path, sealed: bool) -> None:
    taken = await state.backups().take(tmp_path / "out", lock=SEALED if sealed else None)
    whole, found = taken.path.read_bytes(), await asyncio.to_thread(look_into, taken.path, Known(), room=tmp_path)
    start = whole.index(b"\n", whole.index(b"\n") + 1) + 12  # behind the lines and what gzip does not check
    passed = 0
    for at in range(start, len(whole), max(1, len(whole) // 25)):
        taken.path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            assert found == look_into(taken.path, Known(), room=tmp_path), "what comes out has changed, unnoticed"
            passed += 1
        except (RefusedDocument, SetupFault):
            continue
    assert passed == 0 or not sealed, "compressed in another way it may be the same; sealed it may not be"
    assert passed < 10
    taken.path.write_bytes(whole[:-30])
    with pytest.raises((RefusedDocument, SetupFault)):
        look_into(taken.path, Known(), room=tmp_path)
    assert not list(tmp_path.glob(".check-*"))


async def test_another_passphrase_changes_nothing(state: State, tmp_path: Path) -> None:
    file = await saved(state, tmp_path / "out")
    with pytest.raises(RefusedDocument, match="passphrase"):
        put_back(file, Known(b"another passphrase"), state_dir=tmp_path / "there", force=False, now=NOW)
    assert set() == names_in(tmp_path / "there")


def packed(path: Path, members: dict[str, bytes], manifest: dict[str, Any]) -> Path:
    """An archive that nobody of ours would write."""
    with path.open("wb") as file:
        vault = VaultWriter(file, magic=archive.MAGIC, head={"server_id": manifest["server_id"]}, lock=None)
        with gzip.GzipFile(fileobj=vault, mode="wb") as zipped, tarfile.open(fileobj=zipped, mode="w|") as tar:
            for name, content in {"manifest.json": json.dumps(manifest).encode(), **members}.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        vault.finish()
    return path


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "keys/../../evil", "keys/.hidden", "lls.sqlite3-wal", "config/a/b", "keys/"]
)
def test_an_archive_writes_nowhere_but_into_its_folder(tmp_path: Path, name: str) -> None:
    manifest = {
        "format": 1,
        "server_id": f"lls_{'A' * 22}",
        "name": "x",
        "version": "1",
        "schema": 1,
        "seq": 0,
        "head": "0" * 64,
        "made_at": "2026-11-21T07:00:00Z",
        "members": {name: {"size": 1, "sha256": "x"}},
    }
    file = packed(tmp_path / "evil.llsbackup", {name: b"x"}, manifest)
    with pytest.raises(RefusedDocument, match="no server saves"):
        put_back(file, Known(), state_dir=tmp_path / "state" / "dir", force=False, now=NOW)
    assert set() == names_in(tmp_path / "state" / "dir")
    assert {"evil.llsbackup", "state"} == names_in(tmp_path)


async def test_the_keys_of_another_server_are_not_put_beside_its_database(state: State, tmp_path: Path) -> None:
    other = State(tmp_path / "other")
    mixed = Backups(
        state.store,
        state_dir=other.folder,
        server_id=state.server_id,
        name="lls",
        version="1",
        now=lambda: NOW,
        others={},
    )
    file = (await mixed.take(tmp_path / "out", lock=None)).path
    with pytest.raises(SetupFault, match="another server"):
        put_back(file, Known(), state_dir=tmp_path / "there", force=False, now=NOW)
