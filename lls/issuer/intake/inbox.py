"""The inbox: every event of every source, stored before it is answered and processed once.

    waiting ──► done | ignored            processed; what it brought is in the same transaction
       │  ▲
       │  └── held                        something must come first: another event, or a day
       ▼
     failed ──► waiting (retry)           it could not be processed; ``outcome`` says why
       └──────► dropped                   somebody decided that it never will be

Rules
1. An event is known by its source and that source's id. The same again is the same event; other content under the same
   id is a Conflict, because one of the two is not from the source.
2. What an event brings and its status are one transaction. A crash before it leaves the event waiting, a crash after it
   leaves it done: there is no third state.
3. Events of one source are taken up in the order of their arrival. That is not the order in which things happened, so
   nothing may lean on it.
4. No event is deleted: one that was dropped says so, and its number is known for ever. Its body is kept for so long as
   it is needed, and then for as long as the vendor wants (``remove_bodies``): it names people.

It refuses to own what events mean (``processing``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from lls.issuer.intake.facts import Document, Event
from lls.issuer.refusals import Conflict, NotKnown
from lls.issuer.register import Register
from lls.licensing.fields import read_instant, write_instant

LONGEST_OUTCOME: Final = 1_000
_OVER: Final = "('done', 'ignored', 'dropped')"


class Status(StrEnum):
    """Where an event stands."""

    WAITING = "waiting"
    HELD = "held"
    DONE = "done"
    IGNORED = "ignored"
    FAILED = "failed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An event in the inbox; ``key`` is its number there."""

    key: int
    source: str
    event_id: str
    kind: str
    subject: str
    document: Document
    sent_at: datetime | None
    received_at: datetime
    status: Status
    due_at: datetime | None
    outcome: str
    attempts: int
    settled_at: datetime | None
    removed_at: datetime | None = None

    @property
    def event(self) -> Event:
        """As its adapter read it."""
        return Event(
            event_id=self.event_id,
            kind=self.kind,
            subject=self.subject,
            document=self.document,
            sent_at=self.sent_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of an event; a held one is taken up at ``due_at``, or when the customer ``held_for`` is enabled."""

    status: Status
    outcome: str
    due_at: datetime | None = None
    held_for: str | None = None
    account_ref: str | None = None


class Inbox:
    """The events of a register. Changes join the caller's transaction, or are one of their own."""

    def __init__(self, register: Register) -> None:
        self._register = register

    def add(self, source: str, event: Event, *, now: datetime) -> bool:
        """Stores an event; False when it was there before. Raises Conflict for other content under its id."""
        with self._register.transaction():
            before = self._register.select(
                dict, "SELECT sha256 FROM event WHERE source = ? AND event_id = ?", source, event.event_id
            )
            if before:
                if before[0]["sha256"] != event.sha256:
                    raise Conflict(
                        f"The event {event.event_id} of {source} was received before with other content; nothing of "
                        "this one was stored."
                    )
                return False
            self._register.change(
                """INSERT INTO event (source, event_id, kind, subject, sha256, document, sent_at, received_at, status,
                                      due_at, told, attempts, settled_at)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'waiting', NULL, '', 0, NULL)""",
                source,
                event.event_id,
                event.kind,
                event.subject,
                event.sha256,
                json.dumps(event.document, ensure_ascii=False, separators=(",", ":")),
                _written(event.sent_at),
                write_instant(now),
            )
        return True

    def next(self, *, now: datetime) -> Stored | None:
        """The first that waits, or that was held until now, or for a customer that is not disabled any more."""
        # Instants are compared as numbers: their texts differ in length where one has microseconds.
        found = self._read(
            # The first condition is that of the index: of a million events few are open.
            """SELECT * FROM event WHERE status IN ('waiting', 'held') AND (
                   status = 'waiting' OR (due_at IS NOT NULL AND julianday(due_at) <= julianday(?))
                   OR (held_for IS NOT NULL AND NOT EXISTS (
                       SELECT 1 FROM customer WHERE account_ref = held_for AND disabled_at IS NOT NULL)))
               ORDER BY event_key LIMIT 1""",
            write_instant(now),
        )
        return found[0] if found else None

    def get(self, key: int) -> Stored:
        """By its number. Raises NotKnown."""
        found = self._read("SELECT * FROM event WHERE event_key = ?", key)
        if not found:
            raise NotKnown(f"There is no event {key} in the inbox; see lls-issuer inbox list.")
        return found[0]

    def listed(self, *, status: Status | None = None, source: str | None = None, most: int = 1_000) -> Sequence[Stored]:
        """Those that fit every filter given, the newest ``most`` of them, oldest first."""
        found = self._read(
            """SELECT * FROM event WHERE status = ifnull(?, status) AND source = ifnull(?, source)
               ORDER BY event_key DESC LIMIT ?""",
            None if status is None else status.value,
            source,
            most,
        )
        return found[::-1]

    def counts(self) -> dict[Status, int]:
        """How many events stand where."""
        rows = self._register.select(dict, "SELECT status, count(*) AS events FROM event GROUP BY status")
        return {Status(row["status"]): row["events"] for row in rows}

    def settle(self, stored: Stored, settled: Settled, *, now: datetime) -> bool:
        """What became of it; False when somebody else was faster, and then nothing is changed."""
        with self._register.transaction():
            changed = self._register.change(
                """UPDATE event SET status = ?, told = ?, due_at = ?, held_for = ?, account_ref = ?,
                          attempts = attempts + 1, settled_at = ?
                   WHERE event_key = ? AND attempts = ? AND status = ?""",
                settled.status.value,
                settled.outcome[:LONGEST_OUTCOME],
                _written(settled.due_at),
                settled.held_for,
                settled.account_ref,
                write_instant(now),
                stored.key,
                stored.attempts,
                stored.status.value,
            )
        return changed == 1

    def remove_bodies(self, *, before: datetime, now: datetime) -> int:
        """Those of events that were settled for good before that instant; how many."""
        with self._register.transaction():
            return self._register.change(
                f"""UPDATE event SET document = '{{}}', removed_at = ?
                    WHERE removed_at IS NULL AND status IN {_OVER}
                      AND julianday(ifnull(settled_at, received_at)) < julianday(?)""",  # noqa: S608 - our own words
                write_instant(now),
                write_instant(before),
            )

    def wake(self, source: str, subject: str) -> None:
        """Something was learned of a subscription: what was held for that is tried again."""
        self._register.change(
            """UPDATE event SET status = 'waiting', told = ''
               WHERE source = ? AND subject = ? AND status = 'held' AND due_at IS NULL AND held_for IS NULL""",
            source,
            subject,
        )

    def retry(self, key: int) -> Stored:
        """Lets one be processed again, that failed or is held. Raises Conflict for any other."""
        return self._decide(key, Status.WAITING, "", of=(Status.FAILED, Status.HELD, Status.WAITING))

    def drop(self, key: int, *, reason: str) -> Stored:
        """Lets one never be processed, that is not yet. Raises Conflict for any other."""
        with self._register.transaction():
            stored = self._decide(key, Status.DROPPED, reason, of=(Status.FAILED, Status.HELD, Status.WAITING))
            # An end that waited for its day was heard already; now it was never said.
            self._register.change("DELETE FROM said WHERE event_key = ?", key)
            return stored

    def _decide(self, key: int, status: Status, outcome: str, *, of: tuple[Status, ...]) -> Stored:
        with self._register.transaction():
            stored = self.get(key)
            if stored.status not in of:
                raise Conflict(
                    f"The event {key} is {stored.status}, so there is nothing to decide: {stored.outcome or 'settled'}"
                )
            self._register.change(
                "UPDATE event SET status = ?, told = ?, due_at = NULL, held_for = NULL WHERE event_key = ?",
                status.value,
                outcome[:LONGEST_OUTCOME],
                key,
            )
            return self.get(key)

    def _read(self, statement: str, *values: str | int | None) -> list[Stored]:
        return [_stored(row) for row in self._register.select(dict, statement, *values)]


def _stored(row: Mapping[str, Any]) -> Stored:
    return Stored(
        key=row["event_key"],
        source=row["source"],
        event_id=row["event_id"],
        kind=row["kind"],
        subject=row["subject"],
        document=row["document"],
        sent_at=read(row["sent_at"], place="sent_at"),
        received_at=read_instant(row["received_at"], place="received_at"),
        status=Status(row["status"]),
        due_at=read(row["due_at"], place="due_at"),
        outcome=row["told"],
        attempts=row["attempts"],
        settled_at=read(row["settled_at"], place="settled_at"),
        removed_at=read(row["removed_at"], place="removed_at"),
    )


def read(cell: object, *, place: str) -> datetime | None:
    """A cell of the register as an instant, or None where it is NULL."""
    return None if cell is None else read_instant(cell, place=place)


def _written(at: datetime | None) -> str | None:
    return None if at is None else write_instant(at)
