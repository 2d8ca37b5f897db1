"""Whose keys a backup holds and where they come from, whose the files are afterwards, and who may come in again."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from lls.backup import SEALED_TO, lock_of, look_into, put_back
from lls.backup.putting import Unlocks
from lls.faults import SetupFault, StoreDown
from lls.identity import CREDENTIALS_VARIABLE, KEY_FILES, credential, load_identity
from lls.licensing.account import ApiKey, Role, User
from lls.signed.vault import Opener, ToPassphrase
from lls.store.sqlite import SqliteStore
from tests.backup.state import NOW, PASSPHRASE, Known, State
from tests.ledgers import at

SEALED = lock_of(passphrase=PASSPHRASE)
NOBODY = 65_534


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    made = State(tmp_path / "state")
    await made.start()
    await made.grant()
    yield made
    await made.store.close()


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(folder))
    return folder


# ---------------------------------------------------------------- keys


async def test_keys_that_systemd_hands_over_are_in_the_backup_and_come_back(
    state: State, credentials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = state.folder / "keys"
    for name in KEY_FILES:
        shutil.copy(keys / name, credentials / name)
        (credentials / name).chmod(0o440)
    shutil.rmtree(keys)  # as the manual's last step says
    taken = await state.backups().take(tmp_path / "out", lock=SEALED)
    monkeypatch.delenv(CREDENTIALS_VARIABLE)
    there = tmp_path / "there"
    await asyncio.to_thread(put_back, taken.path, Known(), state_dir=there, force=False, now=NOW)
    assert state.server_id == load_identity(there / "keys", make=False).server_id
    assert {0o600} == {path.stat().st_mode & 0o777 for path in (there / "keys").iterdir()}


async def test_without_its_keys_there_is_no_backup(state: State, tmp_path: Path) -> None:
    (state.folder / "keys" / "site.key").unlink()
    with pytest.raises(StoreDown, match=r"site\.key is not there"):
        await state.backups().take(tmp_path / "out", lock=SEALED)


async def test_what_a_crash_has_left_beside_the_keys_is_not_saved(state: State, tmp_path: Path) -> None:
    (state.folder / "keys" / ".site.key.123").write_text("half")
    taken = await state.backups().take(tmp_path / "out", lock=SEALED)
    found = await asyncio.to_thread(look_into, taken.path, Known(), room=tmp_path)
    assert {f"keys/{name}" for name in KEY_FILES} == {name for name in found.manifest.members if "keys/" in name}


def test_no_keys_are_made_beside_a_history(tmp_path: Path) -> None:
    with pytest.raises(SetupFault, match="systemctl"):
        load_identity(tmp_path / "keys", make=False)
    assert not (tmp_path / "keys").exists()


def test_a_passphrase_may_be_handed_over_like_the_keys(credentials: Path) -> None:
    assert credential(SEALED_TO) is None
    (credentials / SEALED_TO).write_bytes(PASSPHRASE)
    assert credentials / SEALED_TO == credential(SEALED_TO)


# ---------------------------------------------------------------- owners


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder to which everybody may go, as /var/lib is."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


class RootsOwn(Unlocks):
    """A passphrase in a file that only root may read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def opener(self, *, passphrase: bool) -> Opener:
        assert passphrase
        return ToPassphrase(self._path.read_bytes())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")
@pytest.mark.parametrize("before", [False, True])
async def test_what_root_puts_back_belongs_to_the_owner_of_the_state_folder(
    state: State, tmp_path: Path, reachable: Path, before: bool
) -> None:
    file = (await state.backups(others={"lls.toml": _settings(tmp_path)}).take(tmp_path / "out", lock=SEALED)).path
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    (tmp_path / "passphrase").chmod(0o600)
    there = State(reachable / "lls").folder if before else reachable / "lls"
    there.mkdir(mode=0o700, exist_ok=True)
    for path in (there, *there.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    unlocks = RootsOwn(tmp_path / "passphrase")
    put = await asyncio.to_thread(put_back, file, unlocks, state_dir=there, force=True, now=NOW)
    assert before is (put.aside is not None)
    assert {(NOBODY, NOBODY)} == {(one.lstat().st_uid, one.lstat().st_gid) for one in there.rglob("*")}
    assert (0, 0) == (os.geteuid(), os.getegid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")
async def test_an_interrupted_one_of_roots_can_be_seen_by_the_service(
    state: State, tmp_path: Path, reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = (await state.backups().take(tmp_path / "out", lock=SEALED)).path
    there = reachable / "lls"
    there.mkdir(mode=0o700)
    os.chown(there, NOBODY, NOBODY)
    rename = Path.rename

    def cut_off(self: Path, target: Path) -> Path:
        if self.name == "keys":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", cut_off)
    with pytest.raises(KeyboardInterrupt):
        await asyncio.to_thread(put_back, file, Known(), state_dir=there, force=False, now=NOW)
    assert {NOBODY} == {one.lstat().st_uid for one in there.rglob("*")}


async def test_a_link_in_the_locks_place_is_not_followed(state: State, tmp_path: Path) -> None:
    file = (await state.backups().take(tmp_path / "out", lock=SEALED)).path
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "lls.lock").symlink_to(victim)
    with pytest.raises(SetupFault, match="cannot be written"):
        put_back(file, Known(), state_dir=tmp_path / "there", force=True, now=NOW)
    assert "precious" == victim.read_text()


def _settings(folder: Path) -> Path:
    (folder / "lls.toml").write_text("# settings\n")
    return folder / "lls.toml"


# ---------------------------------------------------------------- who may come in again


async def test_users_and_keys_of_then_are_named_and_open_invitations_end(state: State, tmp_path: Path) -> None:
    accounts = state.ledger.accounts
    user = User(name="ann", role=Role.ADMIN, made_at=NOW, invite=b"i" * 32, invite_until=NOW + timedelta(1))
    accounts.add_user(user, actor="root", now=at())
    key = ApiKey(key_id="key_1", name="monitoring", digest=b"d" * 32, role=Role.VIEWER, made_at=NOW)
    accounts.add_key(key, actor="root", now=at())
    await state.commit()
    file = (await state.backups().take(tmp_path / "out", lock=SEALED)).path
    put = await asyncio.to_thread(put_back, file, Known(), state_dir=tmp_path / "there", force=False, now=NOW)
    assert (("ann",), ("monitoring",)) == (put.users, put.api_keys)
    store = SqliteStore(tmp_path / "there")
    await store.take_writership()
    loaded = await store.load()
    await store.close()
    assert [("ann", None, None)] == [(one.name, one.invite, one.invite_until) for one in loaded.users]


async def test_a_backup_of_an_older_schema_is_put_back(state: State, tmp_path: Path) -> None:
    work = tmp_path / "older"
    await state.store.copy(work)
    with sqlite3.connect(work) as older:
        for table in ("users", "api_keys", "archives"):
            older.execute(f"DROP TABLE {table}")
        older.execute("DELETE FROM migrations WHERE version > 1")
    older.close()

    class Older:
        async def copy(self, target: Path) -> None:
            shutil.copy(work, target)

    backups = state.backups()
    backups._store = Older()  # noqa: SLF001 - a store of the release before
    file = (await backups.take(tmp_path / "out", lock=SEALED)).path
    put = await asyncio.to_thread(put_back, file, Known(), state_dir=tmp_path / "there", force=False, now=NOW)
    assert ((), ()) == (put.users, put.api_keys)
