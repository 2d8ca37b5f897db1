"""Reading the history: what was done to a customer or an entitlement, and whether the whole of it still holds.

What ``verify`` finds
1. A line that was changed, left out or put in: the chain does not fit (``lls.licensing.journal``).
2. A head that was written down earlier and is not in the chain any more: its end was cut off and written anew.
3. An entitlement that is not as its newest line says, a bundle or a report without a line: somebody went past the
   office.

It refuses to own what is written (``history``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from lls.faults import RefusedDocument
from lls.issuer.history import Deed, Line, sha256_of
from lls.issuer.lookup import entitlement_in
from lls.issuer.refusals import HistoryBroken, NotKnown
from lls.issuer.register import Register
from lls.licensing.fields import read_instant
from lls.licensing.journal import Head, head_of, parse_line, verify_line

_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One act, as its line tells it."""

    seq: int
    at: datetime
    kind: str
    by: str
    user: str
    reason: str | None
    customer_id: str | None
    entitlement_id: str | None
    server_id: str | None
    what: Mapping[str, Any]
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A history that holds: how many lines, and the head to write down."""

    lines: int
    head: str


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What the lines say of what must be there."""

    head_found: bool
    entitlements: dict[str, str]
    bundles: set[str]
    reports: set[str]

    def step(self, line: Mapping[str, Any]) -> None:
        """The next line."""
        data, what = line["data"], line["data"]["what"]
        if data["entitlement_id"] is not None and "sha256" in what:
            self.entitlements[data["entitlement_id"]] = what["sha256"]
        if line["kind"] == Deed.BUNDLE_ISSUED:
            self.bundles.add(what["bundle_id"])
        if line["kind"] == Deed.REPORT_INGESTED:
            self.reports.add(what["report_id"])


class Audit:
    """See the module. It changes nothing."""

    def __init__(self, register: Register) -> None:
        self._register = register

    def lines(
        self, *, customer: str | None = None, entitlement: str | None = None, since: datetime | None = None
    ) -> Iterator[Told]:
        """What fits every filter given, oldest first. Raises NotKnown.

        ``customer`` and ``entitlement`` may be gone by now; the history still knows them by their ids, and a customer
        by its account reference.
        """
        customer_id = None if customer is None else self._customer_id(customer)
        if entitlement is not None and not self._told_of("entitlement_id", entitlement):
            entitlement_in(self._register, entitlement)
        for line in self._read(customer_id=customer_id, entitlement_id=entitlement):
            told = _told(line)
            if since is None or told.at >= since:
                yield told

    def verify(self, *, head: str | None = None) -> Verified:
        """The whole chain and what it says. Raises HistoryBroken."""
        with self._register.snapshot():  # what is done meanwhile is no forgery
            return self._verify(head)

    def _verify(self, head: str | None) -> Verified:
        seen = _Seen(head_found=head is None, entitlements={}, bundles=set(), reports=set())
        end = Head()
        for line in self._read():
            end = _verified(line, after=end, seen=seen)
            seen.head_found = seen.head_found or line.hash == head
        if not seen.head_found:
            raise HistoryBroken(
                f"The history holds in itself, but the head {head} is not in it: lines were cut off its end, or it is "
                "another register's."
            )
        self._check_register(seen)
        return Verified(lines=end.seq, head=end.hash)

    def _check_register(self, seen: _Seen) -> None:
        for sold in self._register.entitlements():
            if seen.entitlements.get(sold.entitlement_id) != sha256_of(sold.document):
                raise HistoryBroken(
                    f"The entitlement {sold.entitlement_id} is not as the history left it: it was changed past the "
                    "office. Compare it with the newest bundle that carried it."
                )
        for server in self._register.servers():
            for bundle in self._register.bundles(server.server_id):
                if bundle.bundle_id not in seen.bundles:
                    raise HistoryBroken(f"The bundle {bundle.bundle_id} has no line in the history.")
        for report in self._register.reports():
            if report.report_id not in seen.reports:
                raise HistoryBroken(f"The report {report.report_id} has no line in the history.")

    def _customer_id(self, key: str) -> str:
        known = self._register.customer(key)
        if known is not None:
            return known.customer_id
        if self._told_of("customer_id", key):
            return key
        gone = self._register.select(
            _Gone,
            """SELECT customer_id FROM history
               WHERE kind = 'customer_deleted' AND json_extract(line, '$.data.what.account_ref') = ?
               ORDER BY seq DESC LIMIT 1""",
            key,
        )
        if not gone:
            raise NotKnown(f"There is no customer {key}, and the history knows of none; see lls-issuer customer list.")
        return gone[0].customer_id

    def _told_of(self, column: str, value: str) -> bool:
        statement = f"SELECT seq, hash, line FROM history WHERE {column} = ? LIMIT 1"  # noqa: S608 - our own names
        return bool(self._register.select(Line, statement, value))

    def _read(self, *, customer_id: str | None = None, entitlement_id: str | None = None) -> Iterator[Line]:
        """In portions, so that a long history does not stand in memory."""
        after = -1
        while True:
            portion = self._register.select(
                Line,
                """SELECT seq, hash, line FROM history
                   WHERE seq > ?1 AND (?2 IS NULL OR customer_id = ?2) AND (?3 IS NULL OR entitlement_id = ?3)
                   ORDER BY seq LIMIT ?4""",
                after,
                customer_id,
                entitlement_id,
                _AT_ONCE,
            )
            yield from portion
            if len(portion) < _AT_ONCE:
                return
            after = portion[-1].seq


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gone:
    customer_id: str


def _verified(line: Line, *, after: Head, seen: _Seen) -> Head:
    try:
        read = verify_line(line.line.encode(), after=after)
        if (line.seq, line.hash) != (read["seq"], read["hash"]):
            raise HistoryBroken(f"The history is broken: line {line.seq} stands under another number or hash.")
        seen.step(read)
    except RefusedDocument as refused:
        raise HistoryBroken(
            f"The history is broken after line {after.seq}: {refused.detail} What follows proves nothing. Compare with "
            "a backup of the register."
        ) from refused
    except (KeyError, TypeError) as failure:
        raise HistoryBroken(f"The history is broken: line {line.seq} is none that this office writes.") from failure
    return head_of(read)


def _told(line: Line) -> Told:
    try:
        read = parse_line(line.line.encode())
        data = read["data"]
        return Told(
            seq=line.seq,
            at=read_instant(read["at"], place="history.at"),
            kind=str(read["kind"]),
            by=str(data["by"]),
            user=str(data["user"]),
            reason=data["reason"],
            customer_id=data["customer_id"],
            entitlement_id=data["entitlement_id"],
            server_id=data["server_id"],
            what=data["what"],
            hash=line.hash,
        )
    except (RefusedDocument, KeyError, TypeError) as failure:
        raise HistoryBroken(
            f"Line {line.seq} of the history cannot be read: it was changed. See lls-issuer audit verify."
        ) from failure
