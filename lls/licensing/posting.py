"""The pen of the ledger: lines into the journal, rows into the batch, facts and names beside them.

Rules
1. A line and the rows it implies are in the same batch, so in the same transaction.
2. The shape of each kind's ``data`` is written down here and nowhere else; ``usage`` reads it.
3. A personal or free text enters a line as a commitment; the text itself goes into ``names``. The same holders come
   again and again, so the last commitments are kept: the four of a checkout cost as much as its line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from lls.licensing.changes import Batch, Fact
from lls.licensing.entitlement import Entitlement
from lls.licensing.fields import write_instant
from lls.licensing.instant import Now
from lls.licensing.journal import Head, Kind, entry
from lls.licensing.lease import Lease
from lls.licensing.seating import Denial
from lls.licensing.terms import Acknowledgement, Change, Installation, Outcome, Step

COMMITMENTS_KEPT: Final = 20_000


MOST_STORED: Final = 20_000


class Posting:
    """What the group in flight has posted so far."""

    def __init__(self, head: Head, facts: Mapping[Fact, str], *, commit_to: Callable[[str], str]) -> None:
        self.batch = Batch(before=head, head=head)
        self.facts = dict(facts)
        self._committed = dict(facts)
        self._stored: set[tuple[str, str]] = set()
        """Names that the store has: the same few people and machines come again and again."""
        self.commit_to = lru_cache(COMMITMENTS_KEPT)(commit_to)

    def settle(self) -> None:
        """The store has the batch; begin an empty one."""
        self._committed.update(self.batch.facts)
        if len(self._stored) > MOST_STORED:
            self._stored.clear()
        self._stored.update(self.batch.names)
        self.batch = Batch(before=self.batch.head, head=self.batch.head)

    def abandon(self) -> None:
        """The store has not taken the batch: show the facts of the last commit again."""
        self.facts = dict(self._committed)

    def post(self, kind: Kind, data: Mapping[str, Any], now: Now) -> None:
        """The next line of the journal."""
        line = entry(self.batch.head, at=now.wall, kind=kind, data=data)
        self.batch.entries.append(line)
        self.batch.head = Head(seq=line.seq, hash=line.hash)

    def name(self, field: str, value: str) -> str:
        """The commitment that stands for a text; the text goes beside the journal."""
        commitment = self.commit_to(value)
        if (commitment, field) not in self._stored:
            self.batch.names[commitment, field] = value
        return commitment

    def set_facts(self, facts: Mapping[Fact, str]) -> None:
        """Single values, with the group."""
        self.facts.update(facts)
        self.batch.facts.update(facts)

    def granted(self, lease: Lease, now: Now, *, taken: int, replaces: Lease | None) -> None:
        """A new lease and the seats that it newly occupies."""
        data = {
            "lease_id": lease.lease_id,
            "entitlement_id": lease.entitlement_id,
            "product": lease.product,
            "seats": lease.seats,
            "taken": taken,
            "overdraft": lease.overdraft,
            "ttl": lease.ttl,
            "replaces": replaces.lease_id if replaces else None,
            "holder": {field: self.name(field, value) for field, value in lease.holder.named().items()},
        }
        self.post(Kind.GRANTED, data, now)

    def ended(self, kind: Kind, lease: Lease, now: Now, *, freed: int, **data: object) -> None:
        """The end of a lease and the seats that came free."""
        ids = {"lease_id": lease.lease_id, "entitlement_id": lease.entitlement_id, "freed": freed}
        self.post(kind, {**ids, **data}, now)

    def denied(self, denial: Denial, now: Now, *, holder: str | None, count: int) -> None:
        """A refusal, or the count of its repeats."""
        data = {
            "code": denial.code,
            "rule": denial.rule,
            "product": denial.product,
            "entitlement_id": denial.entitlement_id,
            "seats": denial.asked,
            "in_use": denial.in_use,
            "limit": denial.limit,
            "holder": holder,
            "count": count,
        }
        self.post(Kind.DENIED, data, now)

    def overdraft(self, entitlement: Entitlement, now: Now, *, in_use: int, over: int) -> None:
        """A pool went over what was bought, or came back."""
        data = {"entitlement_id": entitlement.entitlement_id, "seats": entitlement.seats}
        self.post(Kind.OVERDRAFT, {**data, "in_use": in_use, "over": over}, now)

    def installed(
        self, installation: Installation, outcome: Outcome, now: Now, *, actor: str, in_use: Mapping[str, int]
    ) -> None:
        """A bundle went in; ``in_use`` are the seats in use under the new terms, before any lease ends with the old."""
        data = installed_data(installation, outcome, actor=self.name("actor", actor), in_use=in_use)
        self.post(Kind.INSTALLED, data, now)

    def acknowledged(self, receipt: Acknowledgement, now: Now, *, actor: str) -> None:
        """The vendor has taken in a range."""
        data = {"receipt_id": receipt.receipt_id, "report_id": receipt.report_id, "up_to_seq": receipt.up_to_seq}
        self.post(Kind.ACKNOWLEDGED, {**data, "actor": self.name("actor", actor)}, now)


def installed_data(
    installation: Installation, outcome: Outcome, *, actor: str, in_use: Mapping[str, int]
) -> dict[str, object]:
    """The data of an Installed line; ``actor`` is a commitment."""
    changed = [step for step in outcome.steps if step.change in (Change.NEW, Change.UPDATED)]
    data: dict[str, object] = {
        "bundle_id": installation.kept.bundle_id,
        "sequence": installation.kept.sequence,
        "customer_ref": installation.terms.account_ref,
        "actor": actor,
        "entitlements": [_installed_line(step, in_use=in_use[step.entitlement.entitlement_id]) for step in changed],
        "skipped": [s.entitlement.entitlement_id for s in outcome.steps if s.change is Change.SKIPPED],
        "commands": list(outcome.commands),
    }
    if outcome.clock_reset_to is not None:
        data["clock_reset_to"] = write_instant(outcome.clock_reset_to)
    return data


def _installed_line(step: Step, *, in_use: int) -> dict[str, object]:
    """What the journal keeps of an entitlement's terms: enough to fold usage, no code and no personal text."""
    terms = step.entitlement
    return {
        "entitlement_id": terms.entitlement_id,
        "session_id": terms.session_id,
        "sequence": terms.sequence,
        "change": step.change.value,
        "sku": terms.sku,
        "product": terms.product,
        "seats": terms.seats,
        "in_use": in_use,
        "status": terms.status.value,
        "overdraft_limit": 0 if terms.seats is None else terms.overdraft.on_top_of(terms.seats),
        "starts_at": write_instant(terms.starts_at) if terms.starts_at else None,
        "expires_at": write_instant(terms.expires_at) if terms.expires_at else None,
    }
