"""Events and their deliveries on disk: a database of its own, so that a full queue of mail never touches the journal.

Rules
1. One look is one transaction: standing conditions, new events, and a delivery of each event to each destination.
2. A delivery is taken by its destination in the order of the events. It is *sent*, or tried again later, or *dead*.
3. Events older than 90 days go, with their deliveries; what is still to be delivered stays.

Everything here blocks: call it in a thread. Each call opens the file anew, so any thread may.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from lls.events.condition import Change, Event, Severity, Standing

FILE: Final = "events.sqlite3"
KEPT: Final = timedelta(days=90)
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE standing (
    type TEXT NOT NULL, key TEXT NOT NULL, level INTEGER NOT NULL, severity TEXT NOT NULL, lasts REAL NOT NULL,
    gone_since TEXT, PRIMARY KEY (type, key)
) WITHOUT ROWID;
CREATE TABLE events (
    number INTEGER PRIMARY KEY, event_id TEXT NOT NULL, at TEXT NOT NULL, type TEXT NOT NULL, key TEXT NOT NULL,
    state TEXT NOT NULL, severity TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL
);
CREATE TABLE deliveries (
    number INTEGER NOT NULL REFERENCES events (number), destination TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, next_at TEXT NOT NULL, error TEXT NOT NULL, PRIMARY KEY (number, destination)
) WITHOUT ROWID;
CREATE INDEX waiting ON deliveries (destination, number) WHERE state = 'waiting';
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event on its way to one destination. ``state``: waiting, sent or dead; ``error``: why not, the last time."""

    number: int
    destination: str
    event: Event
    state: str
    attempts: int
    next_at: datetime
    error: str


class Outbox:
    """See the module. Raises OSError where the file cannot be used."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE

    def standing(self) -> list[Standing]:
        """The conditions that were told of."""
        with self._transaction() as database:
            rows = database.execute("SELECT type, key, level, severity, lasts, gone_since FROM standing").fetchall()
        return [
            Standing(
                type=kind,
                key=key,
                level=level,
                severity=Severity(severity),
                lasts=timedelta(seconds=lasts),
                gone_since=_instant(gone) if gone else None,
            )
            for kind, key, level, severity, lasts, gone in rows
        ]

    def put(self, change: Change | None, events: Sequence[Event], *, destinations: Sequence[str]) -> None:
        """Rule 1. ``change`` None: only an event, no condition has changed (a test)."""
        with self._transaction() as database:
            if change is not None:
                database.execute("DELETE FROM standing")
                database.executemany(
                    "INSERT INTO standing VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (
                            one.type,
                            one.key,
                            one.level,
                            one.severity.value,
                            one.lasts.total_seconds(),
                            _text(one.gone_since) if one.gone_since else None,
                        )
                        for one in change.standing
                    ],
                )
            for event in events:
                self._put(database, event, destinations)

    @staticmethod
    def _put(database: sqlite3.Connection, event: Event, destinations: Sequence[str]) -> None:
        at, data = _text(event.at), json.dumps(dict(event.data))
        row = (event.event_id, at, event.type, event.key, event.state, event.severity.value, event.text, data)
        number = database.execute(
            "INSERT INTO events (event_id, at, type, key, state, severity, text, data) VALUES (?,?,?,?,?,?,?,?)", row
        ).lastrowid
        database.executemany(
            "INSERT INTO deliveries VALUES (?, ?, 'waiting', 0, ?, '')", [(number, one, at) for one in destinations]
        )

    def due(self, destination: str, *, now: datetime) -> Delivery | None:
        """The oldest waiting delivery of a destination, if its time has come."""
        found = self._deliveries("d.destination = ? AND d.state = 'waiting' ORDER BY d.number LIMIT 1", destination)
        return next((one for one in found if one.next_at <= now), None)

    def settle(self, delivery: Delivery, *, state: str, next_at: datetime, error: str = "") -> None:
        """What became of an attempt."""
        with self._transaction() as database:
            database.execute(
                "UPDATE deliveries SET state = ?, attempts = attempts + 1, next_at = ?, error = ?"
                " WHERE number = ? AND destination = ?",
                (state, _text(next_at), error, delivery.number, delivery.destination),
            )

    def revive(self, *, now: datetime) -> int:
        """Dead deliveries are tried again; how many."""
        with self._transaction() as database:
            return database.execute(
                "UPDATE deliveries SET state = 'waiting', attempts = 0, next_at = ? WHERE state = 'dead'", (_text(now),)
            ).rowcount

    def deliveries(self, *, limit: int) -> list[Delivery]:
        """The newest deliveries, newest first."""
        return self._deliveries("TRUE ORDER BY d.number DESC, d.destination LIMIT ?", limit)

    def events(self, *, limit: int) -> list[Event]:
        """The newest events, newest first."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT event_id, at, type, key, state, severity, text, data FROM events ORDER BY number DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [_event(row) for row in rows]

    def count(self) -> dict[str, int]:
        """Deliveries by state."""
        with self._transaction() as database:
            return dict(database.execute("SELECT state, count(*) FROM deliveries GROUP BY state").fetchall())

    def prune(self, *, now: datetime, destinations: Sequence[str]) -> None:
        """Rule 3; what waits for a destination that is not configured any more goes, too."""
        with self._transaction() as database:
            marks = ",".join("?" * len(destinations))
            database.execute(f"DELETE FROM deliveries WHERE destination NOT IN ({marks})", destinations)  # noqa: S608
            old = (_text(now - KEPT),)
            database.execute(
                "DELETE FROM deliveries WHERE state <> 'waiting'"
                " AND number IN (SELECT number FROM events WHERE at < ?)",
                old,
            )
            database.execute(
                "DELETE FROM events WHERE at < ? AND number NOT IN (SELECT number FROM deliveries)",
                old,
            )

    def _deliveries(self, where: str, *values: object) -> list[Delivery]:
        with self._transaction() as database:
            rows = database.execute(
                "SELECT d.number, d.destination, d.state, d.attempts, d.next_at, d.error,"  # noqa: S608 - our own words
                " e.event_id, e.at, e.type, e.key, e.state, e.severity, e.text, e.data"
                f" FROM deliveries d JOIN events e USING (number) WHERE {where}",
                values,
            ).fetchall()
        return [
            Delivery(
                number=number,
                destination=destination,
                event=_event(event),
                state=state,
                attempts=attempts,
                next_at=_instant(next_at),
                error=error,
            )
            for number, destination, state, attempts, next_at, error, *event in rows
        ]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(self._opened()) as database, database:
                yield database
        except sqlite3.Error as error:
            raise OSError(f"The events' database {self._path} cannot be used: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        database = sqlite3.connect(self._path, timeout=10)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with database:
                database.execute("BEGIN IMMEDIATE")
                (version,) = database.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    for statement in _SCHEMA.strip().rstrip(";").split(";\n"):
                        database.execute(statement)
                    database.execute(f"PRAGMA user_version = {_VERSION}")
        elif version > _VERSION:
            database.close()
            raise OSError(f"The events' database {self._path} is of a newer version of this server; move it away.")
        return database


def _event(row: Sequence[str]) -> Event:
    event_id, at, kind, key, state, severity, text, data = row
    return Event(
        event_id=event_id,
        at=_instant(at),
        type=kind,
        key=key,
        state=state,
        severity=Severity(severity),
        text=text,
        data=json.loads(data),
    )


def _text(at: datetime) -> str:
    """Sorts as the instants do."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
