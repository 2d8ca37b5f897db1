"""Copies of the embedded database: made while the server runs, looked at, and made ready to be put back.

Rules
1. A copy is one read transaction (SQLite's online backup in one step): a whole number of commits, never half of one.
   In write-ahead mode it holds up no commit, and no commit holds it up; what is committed meanwhile stands in the log.
2. The copy has connections of its own and runs in a thread; SQLite and the disk do the work outside of the
   interpreter's lock.
3. A copy is one file: it has no log beside it.
4. A copy that is looked at proves itself: SQLite's own check, the schema, and the journal's last line against its head;
   on request every line of the chain.

It refuses to own keys and files around it (``lls.backup``).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from lls.faults import Fault, SetupFault, StoreDown
from lls.licensing.changes import Fact
from lls.licensing.journal import Head, head_of, parse_line, verify_after_gap, verify_line

DATABASE: Final = "lls.sqlite3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a copy says of itself: whose it is, its schema, its journal's end and how many lines there are."""

    server_id: str
    schema: int
    seq: int
    head: str
    lines: int


def copy(source: Path, target: Path) -> None:
    """A consistent copy of a database that is being written. Raises StoreDown; ``target`` must be new."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(source, timeout=30.0)) as here, closing(sqlite3.connect(target)) as there:
            here.backup(there)
            there.execute("PRAGMA journal_mode=DELETE")
        _settle(target)
    except (sqlite3.Error, OSError) as error:
        raise StoreDown(f"The database could not be copied ({error}).") from error


def look(path: Path, *, chain: bool = False) -> Look:
    """Check a copy; ``chain``: every line of its journal too. Raises SetupFault that says what is wrong with it."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise SetupFault(f"The database in it is damaged: {verdict}.")
            (schema,) = database.execute("SELECT max(version) FROM migrations").fetchone()
            seq, head = database.execute("SELECT seq, head FROM writer").fetchone()
            (lines,) = database.execute("SELECT count(*) FROM journal").fetchone()
            facts = dict(database.execute("SELECT key, value FROM facts").fetchall())
            last = database.execute("SELECT line FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
            if _head_of(last) != Head(seq=seq, hash=head):
                raise SetupFault("The journal's last line in it does not fit the head of its chain.")
            if chain:
                _check_chain(database, Head(seq=seq, hash=head))
    except (sqlite3.Error, TypeError) as error:
        raise SetupFault(f"The database in it cannot be read ({error}).") from error
    server_id = facts.get(Fact.SERVER_ID.value, "")
    return Look(server_id=server_id, schema=int(schema), seq=int(seq), head=str(head), lines=int(lines))


def mark_restored(path: Path, *, restore_id: str, made_at: str) -> None:
    """Have the next start post ``Restored``, in one transaction with all that it changes."""
    told = json.dumps({"restore_id": restore_id, "made_at": made_at})
    with _changed(path) as database:
        database.execute("INSERT OR REPLACE INTO facts (key, value) VALUES (?, ?)", (Fact.RESTORING.value, told))
    _settle(path)


def highest_schema() -> int:
    """The newest step of the schema that this program knows."""
    folder = resources.files("lls.store") / "schema"
    return max(int(file.name[:4]) for file in folder.iterdir() if file.name.endswith(".sql"))


@contextmanager
def _changed(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path)) as database, database:
            yield database
    except sqlite3.Error as error:
        raise SetupFault(f"The database in it cannot be written ({error}).") from error


def _head_of(last: tuple[bytes] | None) -> Head | None:
    if last is None:
        return Head()
    try:
        line = parse_line(last[0])
        return head_of(verify_line(last[0], after=Head(seq=line["seq"] - 1, hash=line["prev"])))
    except Fault:
        return None


def _check_chain(database: sqlite3.Connection, end: Head) -> None:
    head = Head()
    try:
        for (line,) in database.execute("SELECT line FROM journal ORDER BY seq"):
            head = head_of(verify_after_gap(line, head=head) or verify_line(line, after=head))
    except Fault as fault:
        raise SetupFault(f"The journal in it does not hold: {fault.detail}") from fault
    if head != end:
        raise SetupFault("The journal in it does not end at the head of its chain.")


def _settle(path: Path) -> None:
    """What was written is on the disk."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
