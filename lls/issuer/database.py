"""The issuer's SQLite file: opened, brought up to date, changed by transactions, read as values.

Rules
1. SQLite with WAL, ``synchronous=FULL`` and foreign keys. Whatever changes runs inside ``transaction()``, which takes
   the write lock at once (``BEGIN IMMEDIATE``): two people at two terminals queue up instead of overwriting each
   other. What takes several looks to reckon reads inside ``snapshot()``: others may write meanwhile.
2. The schema only goes forward. Each file in ``schema/`` is applied once, in order, in a transaction of its own, and
   its SHA-256 is kept: a file that was changed afterwards, or a register written by a newer version, is refused
   instead of guessed at.
3. Rows come out as values: a column's name says what it holds (an instant, a document, a flag), whatever table it is
   in. What may be many is read as a stream, and then nothing of it stays in memory.
4. What is deleted is overwritten, however SQLite was built: a deleted name must not be found in the file. The log
   beside the file has it until ``sweep()``.

It refuses to own what any table means (``register``).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

from lls.issuer.files import PRIVATE
from lls.issuer.refusals import HomeRefused
from lls.licensing.fields import read_instant, write_instant

Json: TypeAlias = Mapping[str, object]
_Cell: TypeAlias = str | int | bytes | None
_Row = TypeVar("_Row")
_WAIT_SECONDS: Final = 30.0
_AT_ONCE: Final = 1_000
_BUSY: Final = "somebody else has been changing it for half a minute (a long report is ingested). Try again."


class SessionEnd(StrEnum):
    """How the hosting of an entitlement on a server came to its end."""

    RETURNED = "returned"
    LOST = "lost"


class Database:
    """An open register's file. A context manager; one thread at a time."""

    def __init__(self, path: Path, *, now: datetime, create: bool = False) -> None:
        """Opens the file and brings its schema up to date. Raises :class:`HomeRefused`."""
        if not create and not path.exists():
            raise HomeRefused(f"There is no register {path}; make one with lls-issuer init, or check --home.")
        self._reading = False
        if create:
            path.touch(mode=PRIVATE)  # the files beside it take their mode from it
        try:
            self._sql = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
            try:
                for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
                    self._sql.execute(f"PRAGMA {pragma}")
                self._migrate(path, now=now)
            except BaseException:
                self._sql.close()
                raise
        except sqlite3.DatabaseError as failure:
            raise HomeRefused(f"The register {path} cannot be opened: {failure}.") from failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; what was committed stays."""
        self._sql.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; inside another it joins that one. Raises :class:`HomeRefused` when the disk refuses."""
        if self._reading:
            raise RuntimeError("a change inside a snapshot would be lost with it")
        if self._sql.in_transaction:
            yield
            return
        try:
            self._sql.execute("BEGIN IMMEDIATE")
            yield
            self._sql.execute("COMMIT")
        except sqlite3.OperationalError as failure:
            why = _BUSY if failure.sqlite_errorcode == sqlite3.SQLITE_BUSY else f"{failure}."
            raise HomeRefused(f"The register did not take the change, so nothing was changed: {why}") from failure
        finally:
            self._roll_back()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Whatever is read inside is of one instant; inside a transaction or a snapshot it is that one's."""
        if self._sql.in_transaction:
            yield
            return
        self._sql.execute("BEGIN")
        self._reading = True
        try:
            yield
        finally:
            self._reading = False
            self._roll_back()

    def sweep(self) -> None:
        """Empties the log beside the file, where nobody reads it just now; else the last who closes the file does."""
        self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _roll_back(self) -> None:
        # A full disk makes SQLite roll back by itself; asking it again would be an error of its own.
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")

    # -- rows and values ----------------------------------------------------------------------------------------------

    def select(self, kind: type[_Row], statement: str, *values: _Cell) -> list[_Row]:
        """The rows as values of that kind, whose members are the columns."""
        return list(self.stream(kind, statement, *values))

    def stream(self, kind: type[_Row], statement: str, *values: _Cell) -> Iterator[_Row]:
        """The same, read as it is asked for."""
        cursor = self._sql.execute(statement, values)
        names = [column[0] for column in cursor.description]
        return (_value(kind, dict(zip(names, row, strict=True))) for row in _portions(cursor))

    def one(self, kind: type[_Row], statement: str, *values: _Cell) -> _Row | None:
        """The first row as a value of that kind, or None."""
        return next(iter(self.select(kind, statement, *values)), None)

    def cells(self, statement: str, *values: _Cell) -> Iterator[tuple[Any, ...]]:
        """The rows as SQLite has them, read as they are asked for."""
        return _portions(self._sql.execute(statement, values))

    def insert(self, table: str, value: object, *, otherwise: str = "") -> None:
        """A value, or columns by their names, as a new row; ``otherwise``: what SQL says to a conflict."""
        cells = cells_of(value)
        columns, places = ", ".join(cells), ", ".join(f":{name}" for name in cells)
        self._sql.execute(f"INSERT INTO {table} ({columns}) VALUES ({places}) {otherwise}", cells)  # noqa: S608 - our own names

    def update(self, statement: str, value: object) -> None:
        """Runs a statement whose marks (``:name``) are a value's members."""
        self._sql.execute(statement, cells_of(value))

    def change(self, statement: str, *values: _Cell) -> int:
        """Changes rows; how many."""
        return self._sql.execute(statement, values).rowcount

    def change_many(self, statement: str, rows: Iterable[tuple[_Cell, ...]]) -> None:
        """The same statement for each row of values."""
        self._sql.executemany(statement, rows)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._sql.in_transaction

    # -- the schema ---------------------------------------------------------------------------------------------------

    def _migrate(self, path: Path, *, now: datetime) -> None:
        if not self._unapplied(path):
            return  # without the write lock: reading must not wait for somebody's long ingest
        with self.transaction():
            self._sql.execute(
                """CREATE TABLE IF NOT EXISTS migration (
                       version INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at TEXT NOT NULL
                   ) STRICT"""
            )
            for version, name, text in self._unapplied(path):
                self._apply(text)
                self.insert(
                    "migration",
                    {"version": version, "name": name, "sha256": _sha256(text), "applied_at": write_instant(now)},
                )

    def _unapplied(self, path: Path) -> list[tuple[int, str, str]]:
        """The migrations to come, as (version, file name, text); refuses a register that is not ours to change."""
        begun = self._sql.execute("SELECT 1 FROM sqlite_schema WHERE name = 'migration'").fetchone()
        applied = dict(self._sql.execute("SELECT version, sha256 FROM migration").fetchall()) if begun else {}
        known = _migrations()
        if applied and max(applied) > len(known):
            raise HomeRefused(
                f"The register {path} has schema {max(applied)}, this version knows {len(known)}; update the issuer."
            )
        for version, name, text in known:
            if applied.get(version, _sha256(text)) != _sha256(text):
                raise HomeRefused(f"The register {path} was made with another {name} than this version has.")
        return [migration for migration in known if migration[0] not in applied]

    def _apply(self, text: str) -> None:
        # executescript would commit on its own; a schema that is half there must roll back.
        statement = ""
        for line in text.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                self._sql.execute(statement)
                statement = ""


def _migrations() -> list[tuple[int, str, str]]:
    folder = resources.files(__package__).joinpath("schema")
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    texts = (folder.joinpath(name).read_text(encoding="utf-8") for name in names)
    return [(version, name, text) for version, (name, text) in enumerate(zip(names, texts, strict=True), start=1)]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_INSTANTS: Final = frozenset(
    {
        "created_at",
        "registered_at",
        "request_made_at",
        "fulfilled_at",
        "issued_at",
        "not_after",
        "made_at",
        "ingested_at",
        "period_start",
        "period_end",
        "retired_at",
        "disabled_at",
        "free_from",
        "began_at",
        "ended_at",
        "borrowed_until",
        "ordered_at",
        "applied_at",
        "done_at",
        "loaded_at",
        "refused_at",
        "reported_at",
    }
)
_DOCUMENTS: Final = frozenset(
    {
        "custom_fields",
        "signing_jwk",
        "encryption_jwk",
        "host",
        "document",
        "payload",
        "carried",
        "origins",
        "content",
        "outcome",
        "terms",
        "price",
    }
)
_FLAGS: Final = frozenset({"pseudonymised", "lost"})


def _portions(cursor: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(_AT_ONCE):
        yield from rows


def _value(kind: type[_Row], cells: Mapping[str, _Cell]) -> _Row:
    return kind(**{name: _from_cell(name, cell) for name, cell in cells.items()})


def _from_cell(name: str, cell: _Cell) -> object:
    if cell is None:
        return None
    if name in _INSTANTS:
        return read_instant(cell, place=name)
    if name in _DOCUMENTS:
        return json.loads(str(cell))
    if name == "ending":
        return SessionEnd(str(cell))
    return bool(cell) if name in _FLAGS else cell


def cells_of(value: object) -> dict[str, _Cell]:
    """A value's members, or columns by their names, as the register keeps them."""
    if isinstance(value, Mapping):
        return {str(name): _cell(own) for name, own in value.items()}
    return {field.name: _cell(getattr(value, field.name)) for field in fields(value)}  # type: ignore[arg-type]


def _cell(value: object) -> _Cell:
    match value:
        case datetime():
            return write_instant(value)
        case Mapping():
            return json_text(value)
        case bool():
            return int(value)
        case str() | int() | bytes() | None:
            return value
    raise TypeError(f"the register keeps no {type(value).__name__}")


def json_text(document: Json) -> str:
    """A document as the register keeps it."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
