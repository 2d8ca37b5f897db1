"""A server that can be put back: its store, its backups, and a vendor who takes lines in and answers restores.

The store is the real one (SQLite in memory); the vendor's counters are the real ones too (``lls.issuer.restoring``).
"""
# ruff: noqa: SLF001 - the store's own synchronous functions are what is used here

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lls.issuer.restoring import counters
from lls.licensing.changes import Fact
from lls.licensing.entitlement import Entitlement
from lls.licensing.instant import Now
from lls.licensing.journal import FIRST_PREV, Head, follow, head_of, parse_line, rechained, verify_line
from lls.licensing.ledger import Ledger
from lls.licensing.retention import ArchivedRange, count_of_ours, prunable
from lls.licensing.terms import (
    CHAIN_ADOPT,
    Acknowledgement,
    Adoption,
    Command,
    Installation,
    KnownMeter,
    Moved,
    Outcome,
)
from lls.licensing.usage import Fold, UsageLine
from lls.store import sqlite
from tests.ledgers import Vendor, at

SERVER = "lls_AAAAAAAAAAAAAAAAAAAAAA"


class Restorable:
    """One server at one site, and the lines of it that the vendor has."""

    def __init__(self, *entitlements: Entitlement) -> None:
        self.vendor, self.seconds, self.restores = Vendor(), 0.0, 0
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        sqlite._migrate(self.database)
        self.start()
        self.reported: list[bytes] = []
        self.hosted = entitlements
        self.ledger.install(self.vendor.bundle(*entitlements), actor="admin", now=self.now)
        self.commit()

    @property
    def now(self) -> Now:
        return at(self.seconds)

    def start(self) -> None:
        self.epoch = sqlite._next_epoch(self.database)
        loaded = sqlite._load(self.database)
        self.ledger: Ledger = self.vendor.build(loaded, self.now)
        self.ledger.note_restored(since=loaded.last_at or self.now.wall, now=self.now)
        if loaded.last_at is not None:
            self.ledger.resume(outage_from=loaded.last_at, outage_to=self.now.wall, cause="start", now=self.now)
        self.commit()

    def commit(self) -> None:
        if not self.ledger.batch.empty:
            sqlite._commit(self.database, self.ledger.batch, self.epoch, self.now.wall)
        self.ledger.settle()

    # ------------------------------------------------------------ backups

    def backup(self) -> bytes:
        self.commit()
        return self.database.serialize()

    def restore(self, backup: bytes) -> str:
        """Put it back, as ``lls restore`` does, and start."""
        self.database.close()
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.database.deserialize(backup)
        self.restores += 1
        restore_id = f"rst_{self.restores:0>22}"
        told = json.dumps({"restore_id": restore_id, "made_at": "2026-11-21T07:00:00Z"})
        self.database.execute("INSERT OR REPLACE INTO facts (key, value) VALUES (?, ?)", (Fact.RESTORING.value, told))
        self.seconds += 60
        self.start()
        return restore_id

    # ------------------------------------------------------------ the journal

    def lines(self, *, after: int = 0) -> list[bytes]:
        query = "SELECT line FROM journal WHERE seq > ? ORDER BY seq"
        return [bytes(line) for (line,) in self.database.execute(query, (after,))]

    def kinds(self, *, after: int = 0) -> list[str]:
        return [json.loads(line)["kind"] for line in self.lines(after=after)]

    def check_chain(self) -> None:
        """What ``lls journal verify`` asks."""
        archives = self.ledger.archives
        head = archives[-1].end if archives else Head()
        for line in self.lines():
            head = follow(line, head=head)
        assert self.ledger.head == head

    def known(self) -> dict[int, str]:
        """The hashes by which a line of the vendor's is told to be ours, as ``airgap.questions`` asks for them."""
        here = {read["seq"]: read["hash"] for read in map(parse_line, self.lines())}
        sealed = {one.to_seq: one.head for one in self.ledger.reports.values()}
        behind = {gap.upto: gap.head for gap in self.ledger.server.gaps}
        return sealed | here | behind | {0: FIRST_PREV}

    def acknowledge(self) -> None:
        """The vendor's receipt for all that he has, where that is ours and news."""
        end, server = self.end(), self.ledger.server
        if end.seq <= server.acknowledged.seq or self.known().get(end.seq) != end.hash:
            return
        carry = self.ledger.facts.get(Fact.USAGE_CARRY)
        lines = [line for line in self.lines(after=server.acknowledged.seq) if parse_line(line)["seq"] <= end.seq]
        told = self.fold(lines, json.loads(carry) if carry else None).carry()
        receipt = Acknowledgement(
            receipt_id=f"rcp_{end.seq:0>22}",
            report_id=f"rpt_{end.seq:0>22}",
            up_to_seq=end.seq,
            head=end.hash,
            made_at=self.now.wall,
        )
        self.ledger.acknowledge(receipt, usage_carry=json.dumps(told), actor="admin", now=self.now)
        self.commit()

    def archive(self, *, young: int) -> None:
        """What ``care.retention`` does, but for the file: all that may leave does, but for the last so many lines."""
        ledger, gaps = self.ledger, self.ledger.server.gaps
        last = ledger.archives[-1].end if ledger.archives else Head()
        acknowledged = ledger.server.acknowledged.seq
        upto = prunable(
            head=ledger.head.seq, acknowledged=acknowledged, older_than=max(0, acknowledged - young), gaps=gaps
        )
        if upto <= last.seq:
            return
        lines = [line for line in self.lines(after=last.seq) if parse_line(line)["seq"] <= upto]
        assert count_of_ours(last.seq + 1, upto, gaps) == len(lines)
        carry = json.loads(ledger.archives[-1].carry) if ledger.archives else None
        archive = ArchivedRange(
            from_seq=last.seq + 1,
            end=head_of(parse_line(lines[-1])),
            prev_head=last.hash,
            last_at=self.now.wall,
            made_at=self.now.wall,
            file="",
            sha256="",
            carry=json.dumps(self.fold(lines, carry).carry()),
        )
        assert upto == archive.end.seq
        ledger.archived(archive, actor="retention", now=self.now)
        self.commit()
        ledger.prune(upto)
        self.commit()

    # ------------------------------------------------------------ the vendor

    def report(self) -> list[UsageLine]:
        """Seal, carry and take in: every line follows the one before, and both sides reckon the same table."""
        self.ledger.seal(f"rpt_{len(self.reported):0>22}", pseudonymised=False, actor="admin", now=self.now)
        self.commit()
        server = self.ledger.server
        after = server.acknowledged
        carry = self.ledger.facts.get(Fact.USAGE_CARRY)
        ours = self.fold(self.lines(after=after.seq), json.loads(carry) if carry else None)
        known = self.end()
        theirs = self.fold(self.reported[: after.seq])
        new = [line for line in self.lines(after=after.seq) if parse_line(line)["seq"] > known.seq]
        for line in new:
            known = head_of(verify_line(line, after=known))
        self.reported += new
        again = Fold(theirs.carry(), server_id=SERVER)
        for line in self.reported[after.seq :]:
            again.step(json.loads(line))
        assert ours.lines() == again.lines(), "the vendor reckons another table"
        return ours.lines()

    @staticmethod
    def fold(lines: list[bytes], carry: Mapping[str, Any] | None = None) -> Fold:
        fold = Fold(carry, server_id=SERVER)
        for line in lines:
            fold.step(json.loads(line))
        return fold

    def end(self) -> Head:
        """The last line that the vendor has."""
        return head_of(parse_line(self.reported[-1])) if self.reported else Head(seq=0, hash=FIRST_PREV)

    def billed(self) -> int:
        """Units that the vendor has seen used."""
        return sum(line.consumed - line.undone for line in self.fold(self.reported).lines())

    def answer(self, *, restore_id: str | None = None, **changes: Any) -> Installation:
        """A bundle with the vendor's ``chain_adopt``, as he would reckon it now."""
        points, end = self.ledger.server.restores, self.end()
        keep = None
        for point in points:
            if point.seq >= end.seq:
                break
            line = json.loads(self.reported[point.seq])
            if line["kind"] != "Restored" or line["data"]["restore_id"] != point.restore_id:
                keep = point.seq
                break
        told = counters(map(json.loads, self.reported))
        meters = tuple(
            KnownMeter(
                entitlement_id=one["entitlement_id"],
                feature=one["feature"],
                lots=tuple((lot["lot"], lot["used"], lot["ended"]) for lot in one["lots"]),
            )
            for one in told
        )
        wanted = {
            "onto": end,
            "keep_seq": keep,
            "bundle_sequence": self.vendor.sequence,
            "meters": meters if keep is not None else (),
            "closed_sessions": frozenset[str](),
            "restore_id": restore_id or (points[-1].restore_id if points else f"rst_{'':0>22}"),
            **changes,
        }
        order = Command(type=CHAIN_ADOPT, adoption=Adoption(**wanted))
        return self.vendor.bundle(*self.hosted, commands={f"cmd_{self.vendor.sequence}": order}, now=self.now)

    def install(self, bundle: Installation) -> Outcome:
        """What the errand does: our lines behind the vendor's, where he has others."""
        (order,) = bundle.commands.values()
        adoption = order.adoption
        assert adoption is not None
        ours = self.known().get(adoption.onto.seq)
        moved = None
        if ours != adoption.onto.hash and adoption.keep_seq is not None:
            upto, head, entries = self.ledger.keep_tail(keep=True), adoption.onto, []
            self.commit()
            for line in self.lines(after=adoption.keep_seq):
                entries.append(rechained(line, after=head))
                head = Head(seq=entries[-1].seq, hash=entries[-1].hash)
            moved = Moved(upto=upto, entries=entries)
        acknowledged = self.ledger.server.acknowledged
        carry = self.ledger.facts.get(Fact.USAGE_CARRY)
        fold = Fold(json.loads(carry) if carry else None, server_id=SERVER)
        for line in self.lines(after=acknowledged.seq):
            if parse_line(line)["seq"] <= adoption.onto.seq:
                fold.step(json.loads(line))
        given: dict[str, Any] = {"adopted_hash": ours, "moved": moved}
        if ours == adoption.onto.hash:
            given["adopted_carry"] = json.dumps(fold.carry())
        outcome = self.ledger.install(replace(bundle, **given), actor="admin", now=self.now)
        self.commit()
        return outcome
