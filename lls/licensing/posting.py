"""The pen of the ledger: lines into the journal, rows into the batch, facts and names beside them.

Rules
1. A line and the rows it implies are in the same batch, so in the same transaction.
2. The shape of each kind's ``data`` is written down here and nowhere else; ``usage`` reads it.
3. A personal or free text enters a line as a commitment; the text itself goes into ``names``. The same holders come
   again and again, so the last commitments are kept: the four of a checkout cost as much as its line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from lls.licensing.changes import Batch, Fact, Rebase
from lls.licensing.denial import Denial
from lls.licensing.entitlement import Entitlement, Feature, FeatureType
from lls.licensing.fields import write_instant
from lls.licensing.instant import Now
from lls.licensing.journal import LONGEST_LINE, Entry, Head, Kind, entry, rechained
from lls.licensing.lease import Holder, Lease
from lls.licensing.lots import standing_lots
from lls.licensing.terms import Acknowledgement, Change, Installation, Moved, Outcome, Step

COMMITMENTS_KEPT: Final = 20_000


MOST_STORED: Final = 20_000
MOST_IN_LINE: Final = 1_000
"""Entitlements in a Restored line: an import of ten times as many fits into its own."""


class LineTooLong(Exception):
    """A line that no reader would take was to be posted: an error of ours, never an answer."""


class Posting:
    """What the group in flight has posted so far."""

    def __init__(self, head: Head, facts: Mapping[Fact, str], *, commit_to: Callable[[str], str]) -> None:
        self.batch = Batch(before=head, head=head)
        self.facts = dict(facts)
        self._committed = dict(facts)
        self._stored: set[tuple[str, str]] = set()
        """Names that the store has: the same few people and machines come again and again."""
        self._watched: set[str] | None = None
        self.commit_to = lru_cache(COMMITMENTS_KEPT)(commit_to)
        self._tail: list[Entry] | None = None

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
        if len(line.line) > LONGEST_LINE:
            # Whoever reads the journal refuses it, this server's next start first of all. Verbs judge what may be long
            # before they post; what was forgotten there must cost the group, not the server.
            raise LineTooLong(f"{kind} of {len(line.line)} bytes")
        self.batch.entries.append(line)
        self.batch.head = Head(seq=line.seq, hash=line.hash)
        if self._tail is not None:
            self._tail.append(line)

    def keep_tail(self, *, keep: bool) -> None:
        """Remember every line from now on, for :meth:`rebase`; or no more."""
        self._tail = [] if keep else None

    def rebase(self, keep: int, moved: Moved) -> bool:
        """Let the lines after ``keep`` stand behind another head; False where the last of them are not known here.

        ``moved`` are those up to the moment at which :meth:`keep_tail` was called; the others were kept since.
        """
        if self._tail is None:
            return False
        entries = list(moved.entries)
        for line in self._tail:
            after = entries[-1]
            entries.append(rechained(line.line, after=Head(seq=after.seq, hash=after.hash)))
        self.batch.rebase = Rebase(keep=keep, entries=entries)
        self.batch.entries.clear()
        self.batch.head = Head(seq=entries[-1].seq, hash=entries[-1].hash)
        self._tail = None
        return True

    def name(self, field: str, value: str) -> str:
        """The commitment that stands for a text; the text goes beside the journal."""
        commitment = self.commit_to(value)
        if self._watched is not None:
            self._watched.add(commitment)
        if (commitment, field) not in self._stored:
            self.batch.names[commitment, field] = value
        return commitment

    def watch_names(self) -> None:
        """From now on note which commitments lines are given: those must not be forgotten."""
        self._watched = {commitment for commitment, _field in self.batch.names}

    def end_watch(self) -> None:
        """Note no more."""
        self._watched = None

    def forget_names(self, commitments: AbstractSet[str]) -> int:
        """Let the store drop names that no line needs any more; how many. Without a watch nothing goes."""
        if self._watched is None:
            return 0
        gone = commitments - self._watched
        self.batch.forget_names |= gone
        self._stored = {known for known in self._stored if known[0] not in gone}
        return len(gone)

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
            "mode": lease.mode.value,
            "replaces": replaces.lease_id if replaces else None,
            "holder": {field: self.name(field, value) for field, value in lease.holder.named().items()},
        }
        self.post(Kind.GRANTED, data, now)

    def ended(self, kind: Kind, lease: Lease, now: Now, *, freed: int, **data: object) -> None:
        """The end of a lease and the seats that came free, with the units that it held."""
        ids = {"lease_id": lease.lease_id, "entitlement_id": lease.entitlement_id, "freed": freed}
        held = {"features": dict(lease.features)} if lease.features else {}
        self.post(kind, {**ids, **held, **data}, now)

    def started(self, entitlement: Entitlement, now: Now) -> None:
        """The first lease has set the dates of an entitlement."""
        dates = {"starts_at": _instant(entitlement.starts_at), "expires_at": _instant(entitlement.expires_at)}
        self.post(Kind.STARTED, {"entitlement_id": entitlement.entitlement_id, **dates}, now)

    def borrowed(self, lease: Lease, now: Now, *, extends: bool, by: str) -> None:
        """A lease left the network until a date."""
        ids = {"lease_id": lease.lease_id, "entitlement_id": lease.entitlement_id}
        self.post(Kind.BORROWED, {**ids, "until": _instant(lease.until), "extends": extends, "by": by}, now)

    def policy_changed(
        self, text: str, now: Now, *, actor: str, added: Sequence[str], removed: Sequence[str], rules: int
    ) -> None:
        """Other rules of the site, told by their places in the file; the text itself as a commitment."""
        data = {"policy": self.name("policy", text), "actor": self.name("actor", actor)}
        self.post(Kind.POLICY_CHANGED, {**data, "added": list(added), "removed": list(removed), "rules": rules}, now)

    def returned_entitlement(
        self,
        entitlement: Entitlement,
        now: Now,
        *,
        forced: bool,
        leases_ended: int,
        meters: Sequence[Mapping[str, object]],
        borrowed_until: datetime | None,
        actor: str,
    ) -> None:
        """An entitlement went back to the vendor, with what its meters said last."""
        data = {
            "entitlement_id": entitlement.entitlement_id,
            "session_id": entitlement.session_id,
            "forced": forced,
            "leases_ended": leases_ended,
            "meters": list(meters),
            "borrowed_until": _instant(borrowed_until),
            "actor": self.name("actor", actor),
        }
        self.post(Kind.RETURNED_ENTITLEMENT, data, now)

    def denied(self, denial: Denial, now: Now, *, holder: str | None, count: int, named: Holder | None = None) -> None:
        """A refusal, or the count of its repeats; ``holder`` stands for the machine, ``named`` for all that it said."""
        data: dict[str, object] = {
            "code": denial.code,
            "rule": denial.rule,
            "product": denial.product,
            "entitlement_id": denial.entitlement_id,
            "seats": denial.asked,
            "in_use": denial.in_use,
            "limit": denial.limit,
            "feature": denial.feature,
            "holder": holder,
            "count": count,
        }
        if named is not None:
            data["named"] = {field: self.name(field, value) for field, value in named.named().items()}
        self.post(Kind.DENIED, data, now)

    def overdraft(
        self,
        entitlement: Entitlement,
        now: Now,
        *,
        in_use: int,
        over: int,
        feature: str | None = None,
        total: int | None = None,
    ) -> None:
        """Seats, or with ``feature`` its units in use of ``total``, went over what was bought, or came back."""
        data: dict[str, object] = {"entitlement_id": entitlement.entitlement_id, "in_use": in_use, "over": over}
        data["seats"] = entitlement.seats if feature is None else total
        if feature is not None:
            data["feature"] = feature
        self.post(Kind.OVERDRAFT, data, now)

    def feature_moved(
        self,
        kind: Kind,
        lease: Lease,
        feature: str,
        now: Now,
        *,
        amount: int,
        request_id: str | None,
        limit: int | None = None,
    ) -> None:
        """Units that a lease holds were checked out or came back; without ``request_id`` at the lease's own grant.

        ``limit`` are the units of a pool in force now: a grant that begins has no line of its own.
        """
        data: dict[str, object] = {
            "lease_id": lease.lease_id,
            "entitlement_id": lease.entitlement_id,
            "feature": feature,
            "amount": amount,
            "request_id": request_id,
        }
        if limit is not None:
            data["limit"] = limit
        self.post(kind, data, now)

    def used(
        self, kind: Kind, lease: Lease, feature: str, now: Now, *, draws: Mapping[str, int], over: int, request_id: str
    ) -> None:
        """Units were used up, or a use was undone. ``draws`` are the units of each lot, ``over`` those beyond them."""
        data = {
            "lease_id": lease.lease_id,
            "entitlement_id": lease.entitlement_id,
            "feature": feature,
            "amount": sum(draws.values()),
            "over": over,
            "draws": draws,
            "request_id": request_id,
        }
        self.post(kind, data, now)

    def grant_ended(
        self,
        entitlement_id: str,
        feature: str,
        lot: str,
        now: Now,
        *,
        amount: int,
        consumed: int,
        lost: int,
        limit: int | None = None,
        into: str | None = None,
    ) -> None:
        """What is left of a lot is lost; ``limit`` are the units of a pool that are in force after that.

        With ``into`` nothing is lost: what was consumed is counted there from now on, and no more under ``lot``.
        """
        data: dict[str, object] = {"entitlement_id": entitlement_id, "feature": feature, "lot": lot}
        data |= {"amount": amount, "consumed": consumed, "lost": lost}
        if limit is not None:
            data["limit"] = limit
        if into is not None:
            data["into"] = into
        self.post(Kind.GRANT_ENDED, data, now)

    def installed(
        self,
        installation: Installation,
        outcome: Outcome,
        now: Now,
        *,
        actor: str,
        in_use: Mapping[str, int],
        held: Callable[[str, str], int],
        resets: Sequence[Mapping[str, object]],
    ) -> None:
        """A bundle went in; ``in_use`` and ``held`` are seats and units under the new terms, before any lease ends."""
        name = self.name("actor", actor)
        data = installed_data(installation, outcome, now, actor=name, in_use=in_use, held=held)
        if resets:
            data["resets"] = list(resets)
        self.post(Kind.INSTALLED, data, now)

    def restored(
        self,
        hosted: Sequence[Entitlement],
        now: Now,
        *,
        restore_id: str,
        made_at: str,
        account_ref: str,
        in_use: Mapping[str, int],
        held: Callable[[str, str], int],
    ) -> None:
        """The server goes on from a backup: what is hosted and in use by it, so that whoever reads on needs no more.

        One line tells the first thousand entitlements, further ones the others.
        """
        end = self.batch.head
        parts = [hosted[n : n + MOST_IN_LINE] for n in range(0, len(hosted), MOST_IN_LINE)] or [()]
        for number, part in enumerate(parts, start=1):
            told = [
                _installed_line(
                    Step(entitlement=one, before=None, change=Change.UNCHANGED),
                    now,
                    in_use=in_use[one.entitlement_id],
                    held=held,
                )
                for one in part
            ]
            data = {
                "restore_id": restore_id,
                "backup": {"seq": end.seq, "head": end.hash, "made_at": made_at},
                "customer_ref": account_ref or None,
                "part": number,
                "entitlements": told,
            }
            self.post(Kind.RESTORED, data, now)

    def acknowledged(self, receipt: Acknowledgement, now: Now, *, actor: str) -> None:
        """The vendor has taken in a range."""
        data = {"receipt_id": receipt.receipt_id, "report_id": receipt.report_id, "up_to_seq": receipt.up_to_seq}
        self.post(Kind.ACKNOWLEDGED, {**data, "actor": self.name("actor", actor)}, now)


def _instant(at: datetime | None) -> str | None:
    return None if at is None else write_instant(at)


def installed_data(
    installation: Installation,
    outcome: Outcome,
    now: Now,
    *,
    actor: str,
    in_use: Mapping[str, int],
    held: Callable[[str, str], int],
) -> dict[str, object]:
    """The data of an Installed line; ``actor`` is a commitment, ``held`` the units of an entitlement's feature."""
    changed = [step for step in outcome.steps if step.change in (Change.NEW, Change.UPDATED)]
    data: dict[str, object] = {
        "bundle_id": installation.kept.bundle_id,
        "sequence": installation.kept.sequence,
        "customer_ref": installation.terms.account_ref,
        "actor": actor,
        "entitlements": [
            _installed_line(step, now, in_use=in_use[step.entitlement.entitlement_id], held=held) for step in changed
        ],
        "skipped": [s.entitlement.entitlement_id for s in outcome.steps if s.change is Change.SKIPPED],
        "commands": list(outcome.commands),
    }
    if outcome.clock_reset_to is not None:
        data["clock_reset_to"] = write_instant(outcome.clock_reset_to)
    return data


def _installed_line(step: Step, now: Now, *, in_use: int, held: Callable[[str, str], int]) -> dict[str, object]:
    """What the journal keeps of an entitlement's terms: enough to fold usage, no code and no personal text."""
    terms = step.entitlement
    key = terms.entitlement_id
    told = [feature for feature in terms.features if feature.counted or feature.tracked]
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
        "starts_at": _instant(terms.starts_at),
        "expires_at": _instant(terms.expires_at),
        "features": [_installed_feature(one, terms, now, in_use=held(key, one.key)) for one in told],
    }


def _installed_feature(feature: Feature, terms: Entitlement, now: Now, *, in_use: int) -> dict[str, object]:
    pooled = feature.type is FeatureType.ELEMENT_POOL
    return {
        "feature": feature.key,
        "type": feature.type.value,
        "unit": feature.unit,
        "currency": feature.currency,
        "value": feature.value,
        "limit": sum(lot.amount for lot in standing_lots(feature, terms) if lot.in_force(now)) if pooled else None,
        "in_use": 0 if feature.consumed else in_use,
    }
