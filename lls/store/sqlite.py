"""The embedded store: one SQLite file, write-ahead log, every commit on the disk before its answer.

Rules
1. Writership is an ``flock`` on ``lls.lock`` beside the file. Holding it is proof enough: the kernel drops it with the
   process, whatever kills it. The epoch still rises at each start and fences every commit.
2. A group is one hop into the connection's thread: an awaited statement costs 76–86 µs, a hop 20–27 (design §8).
3. ``synchronous=FULL``: what was committed survives a power cut, if the disk tells the truth.
4. After any failure the connection is thrown away and the next ``load`` opens a new one. Nothing of its state is
   trusted.
5. Reads of the journal go over a connection of their own, so that an export never holds up a commit.
6. The schema moves forward only; each step's checksum is stored, and a database of a newer version is refused.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from importlib import resources
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import aiosqlite

from lls.faults import Fault, SetupFault, StoreDown, WritershipLost
from lls.licensing.changes import Batch, Fact, KeptBundle, Loaded, Rebase
from lls.licensing.journal import Entry, Head
from lls.store import copies, rows
from lls.store.locking import give_lock_back, take_lock

P = ParamSpec("P")
T = TypeVar("T")

CHUNK: Final = 5_000
MOST_ROWS: Final = 64
"""Rows in one statement; fewer where SQLite takes fewer parameters (999 before 3.32)."""
DATABASE: Final = copies.DATABASE


class SqliteStore:
    """The :class:`~lls.store.Store` of one daemon on one machine."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / DATABASE
        self._lock_path = state_dir / "lls.lock"
        self._lock: int | None = None
        self._writing: Connection | None = None
        self._reading: Connection | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def take_writership(self) -> int:
        self._lock = take_lock(self._lock_path)
        try:
            await self._on_writer(_migrate)
            return await self._on_writer(_next_epoch)
        except StoreDown as fault:
            raise SetupFault(f"The database {self._path} cannot be used: {fault.detail}") from fault

    async def mark(self) -> datetime | None:
        return await self._on_writer(_mark)

    async def load(self) -> Loaded:
        return await self._on_writer(_load)

    async def commit(self, batch: Batch, *, epoch: int, mark: datetime) -> None:
        await self._on_writer(_commit, batch, epoch, mark)

    async def verify(self, *, epoch: int) -> None:
        await self._on_writer(_verify, epoch)

    async def lines(self, *, after: int, upto: int) -> AsyncIterator[list[bytes]]:
        while after < upto:
            chunk = await self._on_reader(_lines, after, upto)
            if not chunk:
                return
            yield [line for _seq, line in chunk]
            after = chunk[-1][0]

    async def first_seq(self) -> int:
        return await self._on_reader(_first_seq)

    async def seq_at(self, at: datetime) -> int:
        return await self._on_reader(_seq_at, rows.to_micros(at))

    async def names(self, commitments: Collection[str], *, upto: int) -> list[tuple[str, str, str]]:
        return await self._on_reader(_names, sorted(commitments), upto)

    async def known_names(self, *, limit: int) -> list[tuple[str, str]]:
        return await self._on_reader(_known_names, limit)

    async def commitments(self, *, upto: int) -> set[str]:
        return await self._on_reader(_commitments, upto)

    async def bundles(self) -> list[KeptBundle]:
        return await self._on_reader(_bundles)

    async def copy(self, target: Path) -> None:
        """A consistent copy in one new file, while commits go on. Raises StoreDown."""
        await asyncio.to_thread(copies.copy, self._path, target)

    async def close(self) -> None:
        self._closed = True
        async with self._opening:  # who was opening a connection is done, and its connection is ours to close
            await self._drop()
        if self._lock is not None:
            give_lock_back(self._lock)
            self._lock = None

    async def _on_writer(
        self, step: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs
    ) -> T:
        try:
            return await (self._writing or await self._open_writer()).run(step, *args, **kw)
        except Fault:
            raise
        except Exception as error:  # however a commit fails, everybody in the group must hear of it
            await self._drop()
            raise StoreDown(_explain(error)) from error

    async def _on_reader(
        self, step: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs
    ) -> T:
        try:
            return await (self._reading or await self._open_reader()).run(step, *args, **kw)
        except (sqlite3.Error, OSError, ValueError) as error:
            await self._drop()
            raise StoreDown(_explain(error)) from error

    async def _open_writer(self) -> Connection:
        async with self._opening:
            self._writing = self._writing or await self._open()
            return self._writing

    async def _open_reader(self) -> Connection:
        # Two that ask at once must not open two: nobody would close the other, and its thread keeps the process alive.
        async with self._opening:
            self._reading = self._reading or await self._open()
            return self._reading

    async def _open(self) -> Connection:
        if self._closed:
            raise StoreDown("The server is stopping and its store is closed; nothing was changed.")
        return await connected(lambda: _connect(self._path))

    async def _drop(self) -> None:
        writing, reading, self._writing, self._reading = self._writing, self._reading, None, None
        for connection in (writing, reading):
            if connection is not None:
                await connection.close()


class Connection(aiosqlite.Connection):
    """aiosqlite with one more door: a whole function in the connection's thread is one hop."""

    async def run(self, step: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs) -> T:
        result: T = await self._execute(step, self._conn, *args, **kw)  # type: ignore[no-untyped-call] # aiosqlite's own
        return result

    async def gone(self) -> None:
        """Wait for the thread of a connection that could not be opened: it would speak to a loop that is closed."""
        await asyncio.to_thread(self._thread.join)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("PRAGMA foreign_keys=ON")
    return database


async def connected(connector: Callable[[], sqlite3.Connection]) -> Connection:
    """A connection in a thread of its own, opened by ``connector`` there. Raises what that raises."""
    connection = Connection(connector, iter_chunk_size=64)
    try:
        await connection
    except Exception:
        await connection.gone()
        raise
    return connection


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


# -------------------------------------------------------------------- writing


def _commit(database: sqlite3.Connection, batch: Batch, epoch: int, mark: datetime) -> None:
    with _transaction(database):
        fenced = database.execute(
            "UPDATE writer SET seq = ?, head = ?, mark = ? WHERE id = 1 AND epoch = ? AND seq = ?",
            (batch.head.seq, batch.head.hash, rows.to_micros(mark), epoch, batch.before.seq),
        )
        if fenced.rowcount != 1:
            raise WritershipLost
        _write(database, batch, now=rows.to_micros(mark))


def _write(database: sqlite3.Connection, batch: Batch, *, now: int) -> None:
    many = database.executemany
    if batch.rebase is not None:
        _rebase(database, batch.rebase)
    if batch.entries:
        _append(database, batch.entries)
    gone = [(lease_id,) for lease_id, lease in batch.leases.items() if lease is None]
    live = [rows.lease_row(lease) for lease in batch.leases.values() if lease is not None]
    _put(database, "DELETE FROM leases WHERE (lease_id) IN (VALUES", gone, after=")")
    _put(database, f"INSERT OR REPLACE INTO leases ({rows.LEASE_COLUMNS}) VALUES", live)
    ended = [rows.ended_row(lease_id, one) for lease_id, one in batch.ended.items()]
    _put(database, "INSERT INTO ended (lease_id, secret, reason, at) VALUES", ended)
    if batch.lots or batch.requests:
        _write_uses(database, batch)
    if batch.archives or batch.prune_upto is not None or batch.forget_names:
        _write_retention(database, batch)
    first = batch.before.seq + 1 if batch.rebase is None else batch.rebase.entries[0].seq
    names = [(commitment, field, value, first) for (commitment, field), value in batch.names.items()]
    _put(database, "INSERT OR IGNORE INTO names (commitment, field, value, seq) VALUES", names)
    if batch.facts:
        facts = [(key.value, value) for key, value in batch.facts.items()]
        many("INSERT OR REPLACE INTO facts (key, value) VALUES (?, ?)", facts)
    _forget(database, batch, now=now)
    if batch.bundles or batch.placed or batch.key_sets or batch.receipts or batch.reports or batch.closed_sessions:
        _write_documents(database, batch)
    if batch.returns:
        returns = [rows.return_row(one) for one in batch.returns]
        _put(database, f"INSERT INTO returns ({rows.RETURN_COLUMNS}) VALUES", returns)
    if batch.users or batch.api_keys:
        _write_accounts(database, batch)


def _forget(database: sqlite3.Connection, batch: Batch, *, now: int) -> None:
    if batch.forget_ended_before is not None:
        _forget_ended(database, before=rows.to_micros(batch.forget_ended_before), now=now)
    if batch.forget_requests_before is not None:
        before = rows.to_micros(batch.forget_requests_before)
        database.execute("DELETE FROM requests WHERE kept_until < ?", (before,))


def _write_accounts(database: sqlite3.Connection, batch: Batch) -> None:
    many = database.executemany
    many("DELETE FROM users WHERE name = ?", [(name,) for name, user in batch.users.items() if user is None])
    users = [rows.user_row(user) for user in batch.users.values() if user is not None]
    many(f"INSERT OR REPLACE INTO users ({rows.USER_COLUMNS}) VALUES ({_marks(rows.USER_COLUMNS)})", users)
    many("DELETE FROM api_keys WHERE key_id = ?", [(key_id,) for key_id, key in batch.api_keys.items() if key is None])
    keys = [rows.key_row(key) for key in batch.api_keys.values() if key is not None]
    many(f"INSERT OR REPLACE INTO api_keys ({rows.KEY_COLUMNS}) VALUES ({_marks(rows.KEY_COLUMNS)})", keys)


def _write_retention(database: sqlite3.Connection, batch: Batch) -> None:
    archives = [rows.archive_row(archive) for archive in batch.archives]
    _put(database, f"INSERT INTO archives ({rows.ARCHIVE_COLUMNS}) VALUES", archives)
    if batch.prune_upto is not None:
        database.execute("DELETE FROM journal WHERE seq <= ?", (batch.prune_upto,))
    database.executemany("DELETE FROM names WHERE commitment = ?", [(one,) for one in sorted(batch.forget_names)])


def _append(database: sqlite3.Connection, posted: Sequence[Entry]) -> None:
    stamps = [rows.to_micros(entry.at) for entry in posted]
    latest = islice(accumulate(stamps, max, initial=_latest(database)), 1, None)
    entries = [(e.seq, at, high, e.line) for e, at, high in zip(posted, stamps, latest, strict=True)]
    _put(database, "INSERT INTO journal (seq, at, latest, line) VALUES", entries)


def _rebase(database: sqlite3.Connection, rebase: Rebase) -> None:
    """The lines after ``keep`` stand behind another head. Their names may be told in any report from there on."""
    database.execute("DELETE FROM journal WHERE seq > ?", (rebase.keep,))
    database.execute("DELETE FROM reports WHERE to_seq > ?", (rebase.keep,))
    database.execute("DELETE FROM returns WHERE up_to_seq > ?", (rebase.keep,))
    database.execute("UPDATE names SET seq = ? WHERE seq > ?", (rebase.entries[0].seq, rebase.keep))
    _append(database, rebase.entries)


def _write_uses(database: sqlite3.Connection, batch: Batch) -> None:
    gone = [key for key, lot in batch.lots.items() if lot is None]
    lots = [rows.lot_row(lot) for lot in batch.lots.values() if lot is not None]
    # One by one: SQLite looks through the whole table for a list of keys of several columns. They are few.
    database.executemany("DELETE FROM lots WHERE entitlement_id = ? AND feature = ? AND lot = ?", gone)
    _put(database, f"INSERT OR REPLACE INTO lots ({rows.LOT_COLUMNS}) VALUES", lots)
    requests = [rows.request_row(request) for request in batch.requests.values()]
    _put(database, f"INSERT OR REPLACE INTO requests ({rows.REQUEST_COLUMNS}) VALUES", requests)


def _put(database: sqlite3.Connection, before: str, many: Sequence[rows.Row], *, after: str = "") -> None:
    """Many rows in few statements, each of a power of two of them, so that the same few statements stay prepared.

    ``executemany`` gives the interpreter's lock away for every row, and a busy loop takes its time to give it back.
    """
    if not many:
        return
    most = _most_rows(len(many[0]), database.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER))
    done = 0
    while done < len(many):
        size = min(most, 1 << (len(many) - done).bit_length() - 1)
        chunk = many[done : done + size]
        database.execute(f"{before} {_values(len(chunk[0]), size)}{after}", list(chain.from_iterable(chunk)))
        done += size


@cache
def _most_rows(columns: int, parameters: int) -> int:
    return min(MOST_ROWS, 1 << (parameters // columns).bit_length() - 1)


@cache
def _values(columns: int, size: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * size)


def _write_documents(database: sqlite3.Connection, batch: Batch) -> None:
    many = database.executemany
    bundles = [rows.bundle_row(kept) for kept in batch.bundles]
    many(f"INSERT INTO bundles ({rows.BUNDLE_COLUMNS}) VALUES ({_marks(rows.BUNDLE_COLUMNS)})", bundles)
    gone = [(entitlement_id,) for entitlement_id, placed in batch.placed.items() if placed is None]
    placed = [rows.placed_row(one) for one in batch.placed.values() if one is not None]
    many("DELETE FROM placed WHERE entitlement_id = ?", gone)
    many(f"INSERT OR REPLACE INTO placed ({rows.PLACED_COLUMNS}) VALUES ({_marks(rows.PLACED_COLUMNS)})", placed)
    many("INSERT OR REPLACE INTO key_sets (version, token) VALUES (?, ?)", batch.key_sets.items())
    many("INSERT OR IGNORE INTO closed_sessions (session_id) VALUES (?)", [(one,) for one in batch.closed_sessions])
    many("INSERT OR IGNORE INTO commands (command_id) VALUES (?)", [(one,) for one in batch.commands])
    many("INSERT OR IGNORE INTO receipts (receipt_id) VALUES (?)", [(one,) for one in batch.receipts])
    reports = [rows.report_row(report) for report in batch.reports]
    many(f"INSERT INTO reports ({rows.REPORT_COLUMNS}) VALUES ({_marks(rows.REPORT_COLUMNS)})", reports)


def _forget_ended(database: sqlite3.Connection, *, before: int, now: int) -> None:
    """What is of the future is from before the vendor set the clock back: it counts as of now."""
    database.execute("UPDATE ended SET at = ? WHERE at > ?", (now, now))
    database.execute("DELETE FROM ended WHERE at < ?", (before,))


def _marks(columns: str) -> str:
    return ", ".join("?" * (columns.count(",") + 1))


def _next_epoch(database: sqlite3.Connection) -> int:
    with _transaction(database):
        database.execute("UPDATE writer SET epoch = epoch + 1 WHERE id = 1")
        (epoch,) = database.execute("SELECT epoch FROM writer").fetchone()
    return int(epoch)


# -------------------------------------------------------------------- reading


def _load(database: sqlite3.Connection) -> Loaded:
    """One read transaction; the collector is off because it would walk a growing heap again and again (design §8)."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        database.execute("BEGIN")
        loaded = _read(database)
        database.execute("COMMIT")
    finally:
        if collecting:
            gc.enable()
    return loaded


def _read(database: sqlite3.Connection) -> Loaded:
    def column(query: str) -> frozenset[str]:
        return frozenset(value for (value,) in database.execute(query))

    def every(query: str) -> Iterable[rows.Row]:
        return database.execute(query)  # row by row: a list of them all would take as much memory again

    seq, head = database.execute("SELECT seq, head FROM writer").fetchone()
    last = database.execute("SELECT at, line FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    return Loaded(
        head=Head(seq=seq, hash=head),
        last_at=None if last is None else rows.from_micros(last[0]),
        last_line=None if last is None else last[1],
        leases=rows.read_leases(every(f"SELECT {rows.LEASE_COLUMNS} FROM leases")),
        # Sorted (+), not walked by the index, which would fetch each row from another page.
        ended=rows.read_ended(every("SELECT lease_id, secret, reason, at FROM ended ORDER BY +at")),
        bundles=list(map(rows.read_bundle, every(_BUNDLES))),
        placed=list(map(rows.read_placed, every(f"SELECT {rows.PLACED_COLUMNS} FROM placed"))),
        key_sets=dict(database.execute("SELECT version, token FROM key_sets ORDER BY version").fetchall()),
        closed_sessions=column("SELECT session_id FROM closed_sessions"),
        commands=column("SELECT command_id FROM commands"),
        receipts=column("SELECT receipt_id FROM receipts"),
        reports=list(map(rows.read_report, every(f"SELECT {rows.REPORT_COLUMNS} FROM reports ORDER BY to_seq"))),
        facts={Fact(key): value for key, value in every("SELECT key, value FROM facts")},
        archives=list(map(rows.read_archive, every(f"SELECT {rows.ARCHIVE_COLUMNS} FROM archives ORDER BY to_seq"))),
        lots=list(map(rows.read_lot, every(f"SELECT {rows.LOT_COLUMNS} FROM lots"))),
        requests=rows.read_requests(every(f"SELECT {rows.REQUEST_COLUMNS} FROM requests ORDER BY +at")),
        returns=list(map(rows.read_return, every(f"SELECT {rows.RETURN_COLUMNS} FROM returns ORDER BY up_to_seq"))),
        users=list(map(rows.read_user, every(f"SELECT {rows.USER_COLUMNS} FROM users"))),
        api_keys=list(map(rows.read_key, every(f"SELECT {rows.KEY_COLUMNS} FROM api_keys"))),
    )


# The text of a bundle that is out of force is not needed, and together they may be large.
_BUNDLES: Final = (
    f"SELECT {rows.BUNDLE_COLUMNS.removesuffix('jws')} CASE WHEN bundle_id IN (SELECT bundle_id FROM placed)"
    " OR bundle_id = (SELECT value FROM facts WHERE key = 'terms_from') THEN jws ELSE '' END"
    " FROM bundles ORDER BY sequence"
)


def _mark(database: sqlite3.Connection) -> datetime | None:
    (mark,) = database.execute("SELECT mark FROM writer").fetchone()
    return None if mark is None else rows.from_micros(mark)


def _verify(database: sqlite3.Connection, epoch: int) -> None:
    (mine,) = database.execute("SELECT epoch FROM writer").fetchone()
    if mine != epoch:
        raise WritershipLost


def _lines(database: sqlite3.Connection, after: int, upto: int) -> list[tuple[int, bytes]]:
    query = "SELECT seq, line FROM journal WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
    return database.execute(query, (after, upto, CHUNK)).fetchall()


def _first_seq(database: sqlite3.Connection) -> int:
    (first,) = database.execute("SELECT COALESCE(MIN(seq), 1) FROM journal").fetchone()
    return int(first)


def _seq_at(database: sqlite3.Connection, at: int) -> int:
    """``latest`` never goes back, so the numbers are in its order: a search by halves needs no index."""
    (low,), (high,) = (
        database.execute("SELECT COALESCE(MIN(seq), 1) - 1 FROM journal").fetchone(),
        database.execute("SELECT COALESCE(MAX(seq), 0) FROM journal").fetchone(),
    )
    while low < high:
        middle = (low + high + 1) // 2
        # Or the last one before it: after a restore there are ranges of which only the vendor has the lines.
        find = "SELECT latest FROM journal WHERE seq <= ? ORDER BY seq DESC LIMIT 1"
        (stamp,) = database.execute(find, (middle,)).fetchone()
        if stamp < at:
            low = middle
        else:
            high = middle - 1
    return int(low)


def _latest(database: sqlite3.Connection) -> int:
    row = database.execute("SELECT latest FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    return _LONG_AGO if row is None else int(row[0])


_LONG_AGO: Final = -(2**62)


def _names(database: sqlite3.Connection, commitments: list[str], upto: int) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for start in range(0, len(commitments), 500):
        part = commitments[start : start + 500]
        marks = ", ".join("?" * len(part))
        query = f"SELECT commitment, field, value FROM names WHERE seq <= ? AND commitment IN ({marks})"
        found += database.execute(query, (upto, *part)).fetchall()
    return sorted(found)


def _known_names(database: sqlite3.Connection, limit: int) -> list[tuple[str, str]]:
    return database.execute("SELECT field, value FROM names ORDER BY seq DESC LIMIT ?", (limit,)).fetchall()


def _commitments(database: sqlite3.Connection, upto: int) -> set[str]:
    query = "SELECT DISTINCT commitment FROM names WHERE seq <= ?"
    return {commitment for (commitment,) in database.execute(query, (upto,))}


def _bundles(database: sqlite3.Connection) -> list[KeptBundle]:
    query = f"SELECT {rows.BUNDLE_COLUMNS.removesuffix('jws')}'' FROM bundles ORDER BY sequence DESC"
    return [rows.read_bundle(row) for row in database.execute(query)]


# -------------------------------------------------------------------- opening


def _migrate(database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, sha256 TEXT NOT NULL)")
    done = dict(database.execute("SELECT version, sha256 FROM migrations").fetchall())
    steps = known_steps()
    if newer := sorted(set(done) - set(steps)):
        raise SetupFault(
            f"The database is of a newer version of this server (schema {newer[-1]}, this program knows {max(steps)});"
            " install that version again, or restore a backup made by this one."
        )
    for version, script in steps.items():
        checksum = hashlib.sha256(script.encode()).hexdigest()
        if version not in done:
            with _transaction(database):
                for statement in _statements(script):
                    database.execute(statement)
                database.execute("INSERT INTO migrations (version, sha256) VALUES (?, ?)", (version, checksum))
        elif done[version] != checksum:
            raise SetupFault(f"Step {version} of the database's schema is not the one that this program knows.")


def known_steps() -> dict[int, str]:
    """The steps of the schema that this program knows, by number, in order."""
    return dict(_steps())


def _steps() -> Iterator[tuple[int, str]]:
    folder = resources.files("lls.store") / "schema"
    for file in sorted(folder.iterdir(), key=lambda one: one.name):
        if file.name.endswith(".sql"):
            yield int(file.name[:4]), file.read_text("utf-8")


def _statements(script: str) -> Iterator[str]:
    """One by one: ``executescript`` would commit the surrounding transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _explain(error: Exception) -> str:
    """What the database said, in a sentence for the administrator; it never quotes data."""
    return f"The store did not take the change ({error}); nothing was changed, try again shortly."
