"""The embedded store: what was reported committed is there, whoever else comes, whatever breaks."""
# ruff: noqa: ASYNC220, ASYNC240, SLF001 - nothing else runs in these loops; a limit needs the connection itself

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lls.faults import SetupFault, StoreDown, WritershipLost
from lls.licensing.journal import Head, verify_line
from lls.licensing.ledger import Ledger
from lls.store.sqlite import DATABASE, SqliteStore
from tests.ledgers import Vendor, at, checkout, commit_to, entitlement, secret_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path)
    yield opened
    await opened.close()


async def begun(store: SqliteStore, vendor: Vendor) -> tuple[Ledger, int]:
    epoch = await store.take_writership()
    ledger = vendor.build(await store.load(), at())
    ledger.install(vendor.bundle(entitlement("cad", linger_seconds=45)), actor="admin", now=at())
    await save(store, ledger, epoch)
    return ledger, epoch


async def save(store: SqliteStore, ledger: Ledger, epoch: int) -> None:
    await store.commit(ledger.batch, epoch=epoch, mark=at().wall)
    ledger.settle()


async def verified(store: SqliteStore) -> Head:
    """The end of the chain after every line was checked; it is the head that the store names."""
    head = Head()
    loaded = await store.load()
    async for chunk in store.lines(after=0, upto=loaded.head.seq):
        for line in chunk:
            read = verify_line(line, after=head)
            head = Head(seq=read["seq"], hash=read["hash"])
    assert loaded.head == head
    return head


async def test_what_is_committed_is_loaded_again(store: SqliteStore) -> None:
    vendor = Vendor()
    ledger, epoch = await begun(store, vendor)
    for name in ("a", "b", "c"):
        ledger.checkout(checkout(name, user="ann", host="ws1"), now=at(1))
    ledger.checkin("a", secret=secret_of("a"), now=at(2))
    ledger.release("b", actor="admin", reason="needed", now=at(3))
    ledger.seal("rpt_1", pseudonymised=True, actor="admin", now=at(4))
    await save(store, ledger, epoch)
    loaded = await store.load()
    again = vendor.build(loaded, at(5))
    assert {key: lease.facts() for key, lease in ledger.leases.items()} == {
        key: lease.facts() for key, lease in again.leases.items()
    }
    assert ledger.head == await verified(store)
    assert ledger.reports == again.reports
    assert ledger.placed == again.placed
    assert dict(ledger.facts) == dict(again.facts)
    assert {"b"} == set(loaded.ended)
    assert at(4).wall == loaded.last_at
    assert at().wall == await store.mark()
    assert 0 == await store.seq_at(at().wall)
    assert 1 == await store.seq_at(at(1).wall)
    assert [1] == [kept.sequence for kept in await store.bundles()]


async def test_a_writer_that_another_one_overtook_writes_nothing(store: SqliteStore, tmp_path: Path) -> None:
    ledger, epoch = await begun(store, Vendor())
    with sqlite3.connect(tmp_path / DATABASE) as thief:
        thief.execute("UPDATE writer SET epoch = epoch + 1")
    thief.close()
    head = await verified(store)
    ledger.checkout(checkout("a"), now=at(1))
    with pytest.raises(WritershipLost):
        await store.commit(ledger.batch, epoch=epoch, mark=at().wall)
    with pytest.raises(WritershipLost):
        await store.verify(epoch=epoch)
    assert head == await verified(store)
    assert [] == list((await store.load()).leases)


async def test_the_same_group_is_never_written_twice(store: SqliteStore) -> None:
    ledger, epoch = await begun(store, Vendor())
    ledger.checkout(checkout("a"), now=at(1))
    await store.commit(ledger.batch, epoch=epoch, mark=at().wall)
    with pytest.raises(WritershipLost):
        await store.commit(ledger.batch, epoch=epoch, mark=at().wall)
    assert ledger.head == await verified(store)


async def test_a_second_daemon_is_refused_and_told_who_runs(store: SqliteStore, tmp_path: Path) -> None:
    first = await store.take_writership()
    second = SqliteStore(tmp_path)
    with pytest.raises(SetupFault, match=f"process {os.getpid()}"):
        await second.take_writership()
    await second.close()
    await store.close()
    third = SqliteStore(tmp_path)
    assert first + 1 == await third.take_writership()
    await third.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("UPDATE migrations SET sha256 = 'other'", "Step 1 of the database's schema is not"),
        ("INSERT INTO migrations VALUES (9999, 'later')", "newer version of this server .schema 9999"),
    ],
)
async def test_a_database_of_another_program_is_refused(tmp_path: Path, change: str, sentence: str) -> None:
    first = SqliteStore(tmp_path)
    await first.take_writership()
    await first.close()
    with sqlite3.connect(tmp_path / DATABASE) as database:
        database.execute(change)
    database.close()
    second = SqliteStore(tmp_path)
    with pytest.raises(SetupFault, match=sentence):
        await second.take_writership()
    await second.close()


async def test_a_file_that_is_no_database_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"this is no database, however long it is " * 100)
    broken = SqliteStore(tmp_path)
    with pytest.raises(SetupFault, match=DATABASE):
        await broken.take_writership()
    await broken.close()


async def test_a_full_disk_is_store_down_and_later_all_is_well(store: SqliteStore) -> None:
    vendor = Vendor()
    ledger, epoch = await begun(store, vendor)
    head = ledger.head

    def fill(database: sqlite3.Connection) -> None:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")  # SQLITE_FULL, as a full disk gives

    await store._on_writer(fill)
    for number in range(40):
        ledger.checkout(checkout(f"lease-{number}"), now=at(1))
    with pytest.raises(StoreDown, match="full"):
        await store.commit(ledger.batch, epoch=epoch, mark=at().wall)
    assert head == await verified(store)  # a new connection, without the limit
    again = vendor.build(await store.load(), at(2))
    again.checkout(checkout("later"), now=at(2))
    await save(store, again, epoch)
    assert again.head == await verified(store)


@contextmanager
def nobody() -> Iterator[None]:
    """Root may write anywhere; the daemon is not root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_directory_that_cannot_be_written_is_refused_in_a_sentence() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        store = SqliteStore(Path(folder))
        with nobody(), pytest.raises(SetupFault, match=f"{folder} cannot be written"):
            await store.take_writership()
        await store.close()
        Path(folder).chmod(0o755)


VICTIM = """
import asyncio, sys
from pathlib import Path
from lls.store.sqlite import SqliteStore
from tests.ledgers import Vendor, at, checkout, entitlement

async def main():
    store, vendor = SqliteStore(Path(sys.argv[1])), Vendor()
    epoch = await store.take_writership()
    ledger = vendor.build(await store.load(), at())
    ledger.install(vendor.bundle(entitlement(seats=None)), actor="admin", now=at())
    for number in range(100_000):
        ledger.checkout(checkout(f"lease-{number}"), now=at(number / 100))
        await store.commit(ledger.batch, epoch=epoch, mark=at().wall)
        ledger.settle()
        print(ledger.head.seq, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("answers", [1, 7, 40])
async def test_a_killed_daemon_loses_nothing_that_it_reported(tmp_path: Path, answers: int) -> None:
    command = [sys.executable, "-c", VICTIM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as victim:
        assert victim.stdout is not None
        reported = [int(victim.stdout.readline()) for _ in range(answers)]
        victim.send_signal(signal.SIGKILL)
        reported += [int(line) for line in victim.stdout if line.endswith("\n")]
    store = SqliteStore(tmp_path)
    assert 2 == await store.take_writership()
    head = await verified(store)
    assert reported[-1] <= head.seq
    assert head.seq - 1 == len((await store.load()).leases)
    await store.close()


async def test_lines_are_found_by_time_also_where_the_vendor_set_the_clock_back(store: SqliteStore) -> None:
    ledger, epoch = await begun(store, Vendor())
    for seconds in (900, 910, 10, 20, 905, 950):  # lines 2 to 7
        ledger.note_act("noted", actor="ann", now=at(seconds))
        await save(store, ledger, epoch)
    assert {0: 0, 1: 1, 15: 1, 900: 1, 901: 2, 911: 6, 951: 7} == {
        seconds: await store.seq_at(at(seconds).wall) for seconds in (0, 1, 15, 900, 901, 911, 951)
    }


async def test_a_closed_store_stays_closed(store: SqliteStore) -> None:
    await begun(store, Vendor())
    lines = store.lines(after=0, upto=1)
    await store.close()
    with pytest.raises(StoreDown, match="stopping"):
        await anext(lines)
    with pytest.raises(StoreDown, match="stopping"):
        await store.load()


async def test_readers_that_come_at_once_leave_no_thread_behind(store: SqliteStore) -> None:
    await store.take_writership()
    before = threading.active_count()
    await asyncio.gather(*(store.bundles() for _ in range(5)))
    assert before + 1 == threading.active_count()


async def test_a_full_disk_does_not_keep_the_writership_from_us(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert 1 == await store.take_writership()


async def test_ends_are_forgotten_by_an_index_and_those_of_the_future_in_their_turn(
    store: SqliteStore, tmp_path: Path
) -> None:
    ledger, epoch = await begun(store, Vendor())
    for name, seconds in (("old", 1), ("future", 9_000_000), ("new", 100_000)):
        ledger.checkout(checkout(name), now=at(seconds))
        ledger.release(name, actor="ann", reason="", now=at(seconds))
    ledger.batch.forget_ended_before = at(2).wall
    await store.commit(ledger.batch, epoch=epoch, mark=at(100_001).wall)
    ledger.settle()
    assert {"new": at(100_000).wall, "future": at(100_001).wall} == {
        lease_id: ended.at for lease_id, ended in (await store.load()).ended.items()
    }
    with sqlite3.connect(tmp_path / DATABASE) as database:
        (plan,) = database.execute("EXPLAIN QUERY PLAN DELETE FROM ended WHERE at < 1").fetchall()
    database.close()
    assert "USING COVERING INDEX ended_at" in plan[-1] or "USING INDEX ended_at" in plan[-1]


async def test_a_name_is_known_from_the_group_that_brought_it(store: SqliteStore) -> None:
    ledger, epoch = await begun(store, Vendor())
    for place, actor in enumerate(("ann", "bob"), start=2):
        ledger.note_act("noted", actor=actor, now=at(place))
        await save(store, ledger, epoch)
    wanted = {commit_to(name) for name in ("ann", "bob")}
    assert ["ann"] == [value for _, _, value in await store.names(wanted, upto=2)]
    assert {"ann", "bob"} == {value for _, _, value in await store.names(wanted, upto=3)}


async def test_every_bundle_is_known_again_and_only_those_in_force_with_their_text(store: SqliteStore) -> None:
    vendor = Vendor()
    ledger, epoch = await begun(store, vendor)
    ledger.install(vendor.bundle(entitlement("cad", sequence=2)), actor="ann", now=at())
    await save(store, ledger, epoch)
    assert [(1, ""), (2, "bundle 2")] == [(kept.sequence, kept.jws) for kept in (await store.load()).bundles]
