"""The ledger: every lease, seat and line of this server, decided in memory.

How it is used
- The writer runs a group of *verbs* (checkout, checkin, sweep, install …) one after the other, hands ``batch`` to the
  store, and calls ``settle`` when the store has taken it. When the store has not, this ledger is thrown away and a new
  one is loaded; nothing is ever patched back (design §2).
- Heartbeats and reads run at once, between groups and while one is being committed.

Rules
1. A verb checks everything, then posts. Nothing may raise after its first post. A refusal is a value (:class:`Denial`),
   a failure is raised (:class:`~lls.faults.Fault`).
2. State has one door: ``_post`` writes the line, ``_seat`` and ``_unseat`` move leases. Each remembers what was there
   before, so that reads can show the last commit and nothing of the group in flight.
3. The seats in use never rise above seats and overdraft by a grant.
4. Time comes in with each verb (``now``), the key for commitments at construction. No clock, no randomness, no logging
   here.

It refuses to own signatures (``signed``), SQL (``store``) and the queue of requests (``writer``).
"""

from __future__ import annotations

import hmac
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from types import MappingProxyType
from typing import Final

from lls.faults import (
    Fault,
    LeaseCloned,
    LeaseEnd,
    LeaseEnded,
    LeaseIdTaken,
    UnknownLease,
    UnknownProduct,
)
from lls.licensing.changes import Batch, Ended, Fact, KeptBundle, Loaded, Placed, SealedReport
from lls.licensing.deadlines import Deadlines
from lls.licensing.denials import Folding, Repeats
from lls.licensing.entitlement import Entitlement, Status
from lls.licensing.fields import write_instant
from lls.licensing.installing import judge
from lls.licensing.instant import Now
from lls.licensing.journal import Head, Kind
from lls.licensing.lease import Checkout, Lease, LeaseState
from lls.licensing.pools import Pools
from lls.licensing.posting import Posting
from lls.licensing.remembered import Remembered
from lls.licensing.seating import Denial, Pool, Seat, occupied, seat, waits_for
from lls.licensing.server import Server
from lls.licensing.terms import Acknowledgement, Change, Installation, Outcome, ServerTerms
from lls.licensing.waiting import Waiter, Waiting

SWEEP_LIMIT: Final = 2_000
FEW: Final = 64
"""Leases that a checkout sweeps at a time before it looks for a seat again."""
SHARE_OF_TTL: Final = 10
"""A client beats ten times in a lease's time, so that nine lost answers cost nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seated:
    """A granted lease; ``again`` when the same checkout had already been granted."""

    lease: Lease
    entitlement: Entitlement
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """The checkout waits; the answer comes through ``Ledger.resolved``."""

    lease_id: str
    position: int


Verdict = Seated | Denial | Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the site chose, in seconds and beats a second."""

    grace_seconds: float = 30.0
    heartbeats_per_second: int = 2_000


class Ledger:
    """All state of one server; see the module."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        terms: ServerTerms | None,
        entitlements: Mapping[str, Entitlement],
        problems: Mapping[str, str],
        now: Now,
        commit_to: Callable[[str], str],
        setting: Setting,
        host: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Build from what a store loaded; every floating lease gets a full time to live and grace.

        ``entitlements`` come from verified bundles; ``problems`` name those that did not verify again.
        """
        self.setting = setting
        self._posting = Posting(loaded.head, loaded.facts, commit_to=commit_to)
        self.server = Server(self._posting, terms=terms, host=host)
        self.problems = dict(problems)
        self.bundles: dict[str, KeptBundle] = {kept.bundle_id: replace(kept, jws="") for kept in loaded.bundles}
        self.placed: dict[str, Placed] = {placed.entitlement_id: placed for placed in loaded.placed}
        self._key_sets = dict(loaded.key_sets)
        self.closed_sessions = set(loaded.closed_sessions)
        self.commands, self.receipts = set(loaded.commands), set(loaded.receipts)
        self.reports: dict[str, SealedReport] = {report.report_id: report for report in loaded.reports}
        self.pools = Pools()
        for entitlement in entitlements.values():
            self.pools.open(entitlement)
        self.leases: dict[str, Lease] = {}
        self._deadlines: dict[str, Deadlines] = {}
        self._remembered = Remembered(loaded.ended)
        self.waiting = Waiting()
        self._folding = Folding()
        self._folded: list[tuple[Denial, str]] = []
        self._taken: list[Repeats] = []
        self.resolved: dict[str, Verdict] = {}
        self.clone_alarms = 0
        self._before: dict[str, Lease | None] = {}
        self._seats_before: dict[str, int] = {}
        self._terms_before: dict[str, Entitlement | None] = {}
        self._server_terms_before, self._placed_before = terms, self.placed
        self._generation = 0
        self.installing = False
        for lease in loaded.leases:
            self._restore(lease, now)
        for pool in self.pools.values():
            pool.over = pool.over_by > 0

    def _restore(self, lease: Lease, now: Now) -> None:
        lease.deadline = now.elapsed + self._time_of(lease)
        self.leases[lease.lease_id] = lease
        if lease.entitlement_id in self.pools:
            self.pools[lease.entitlement_id].add(lease)
        self._wheel(lease).arm(lease)

    def _wheel(self, lease: Lease) -> Deadlines:
        """One for each product: who is denied a seat of one product need not sweep the others first."""
        return self._deadlines.setdefault(lease.product, Deadlines())

    # ---------------------------------------------------------------- the group in flight

    @property
    def batch(self) -> Batch:
        """What the store must take before anybody is answered."""
        return self._posting.batch

    @property
    def facts(self) -> Mapping[Fact, str]:
        """Single values of this server."""
        return self._posting.facts

    @property
    def head(self) -> Head:
        """The chain's end, the group in flight included."""
        return self.batch.head

    @property
    def changing(self) -> bool:
        """Whether the group in flight changes what stands above the leases: terms, facts, reports. Reads of it wait."""
        return self.installing or bool(self.batch.facts) or bool(self.batch.reports)

    def settle(self, *, now: Now | None = None) -> None:
        """The store has taken the batch: what was in flight is now the state that everybody sees.

        ``now`` after a slow commit: whoever was granted in it could not beat meanwhile, so its time begins anew.
        """
        if now is not None:
            # While an import is in flight every beat waits for it, not only those of the leases that it touches.
            for lease in list((self.leases if self.installing else self.batch.leases).values()):
                if lease is not None:
                    lease.deadline = max(lease.deadline, now.elapsed + self._time_of(lease))
        self._posting.settle()
        self._terms_before.clear()
        self._before.clear()
        self._seats_before.clear()
        self._folded.clear()
        self._taken.clear()
        self.resolved = {}
        self.installing = False

    def abandon(self) -> None:
        """The store has not taken the batch: until it is replaced, this ledger answers under the last commit's terms.

        Seats are not put back: reads take them from before the group, and no verb runs here any more.
        """
        for entitlement_id, before in self._terms_before.items():
            self.pools.put_back(entitlement_id, before)
        if self.installing:
            self.server.terms, self.placed = self._server_terms_before, self._placed_before
        for report in self.batch.reports:
            del self.reports[report.report_id]
        for kept in self.batch.bundles:
            self.bundles.pop(kept.bundle_id, None)
        self.receipts -= self.batch.receipts
        self.commands -= self.batch.commands
        self._posting.abandon()
        self._posting.batch.facts.clear()
        self._posting.batch.reports.clear()
        self._terms_before.clear()
        self.installing = False

    def is_pending(self, lease_id: str) -> bool:
        """Whether the group in flight touches this lease: whoever asks about it waits for the commit."""
        return lease_id in self._before

    def adopt(self, old: Ledger) -> None:
        """Take over what lives in memory only from the ledger that this one replaces after a failed commit.

        The later deadline, beats, waiters, folded repeats; nothing of the failed group comes along.
        """
        for lease_id, lease in self.leases.items():
            known = old._before.get(lease_id) or old.leases.get(lease_id)
            if known is not None and known.state is lease.state:
                lease.deadline = max(lease.deadline, known.deadline)
                lease.beat, lease.nonce, lease.clone_alarms = known.beat, known.nonce, known.clone_alarms
        self.clone_alarms = old.clone_alarms
        self._remembered.adopt(old._remembered)
        self.waiting, self._folding = old.waiting, old._folding
        for denial, holder in old._folded:
            self._folding.forget(denial, holder)
        self._folding.restore(old._taken)

    # ---------------------------------------------------------------- verbs: seats

    def checkout(self, request: Checkout, *, now: Now, wait: bool = False) -> Seated | Denial | Queued:
        """Grant, repeat, queue or deny.

        Raises LeaseIdTaken, LeaseEnded, UnknownProduct, BadActivationCode, ClockBehind.
        """
        known = self._known(request, now)
        if known is not None:
            return known
        self.server.refuse_new(now)
        refused = self._refusal(request, now)
        if refused is not None:
            return self._deny(refused, request, now)
        verdict = self._sought(request, now)
        if request.lease_id in self.leases:  # what came free went to its own place in the queue
            return self._seated(self.leases[request.lease_id], again=False)
        if isinstance(verdict, Seat):
            return self._take(request, verdict, now)
        if wait and verdict.code == "no_seat" and waits_for(request, self.pools.of(request.product), now=now):
            self.waiting.enter(request, now=now)
            return Queued(lease_id=request.lease_id, position=self.waiting.position(request.lease_id) or 1)
        return self._deny(verdict, request, now)

    def checkin(self, lease_id: str, *, secret: bytes, now: Now) -> None:
        """Give a seat back. Succeeds for an ended or unknown lease; a wrong secret looks the same, changes nothing."""
        waiter = self.waiting.get(lease_id)
        if waiter is not None and hmac.compare_digest(waiter.checkout.secret, secret):
            self.waiting.leave(lease_id)
            self.resolved[lease_id] = LeaseEnded(LeaseEnd.CHECKED_IN)
            self._remembered.note_unknown(lease_id, secret=secret, now=now)
            self._serve(waiter.checkout.product, now)
            return
        lease = self.leases.get(lease_id)
        if lease is None:
            self._remembered.note_unknown(lease_id, secret=secret, now=now)
            return
        if lease.state is LeaseState.LINGERING or not hmac.compare_digest(lease.secret, secret):
            return
        self._return(lease, now)

    def release(self, lease_id: str, *, actor: str, reason: str, now: Now) -> None:
        """The administrator takes a seat back at once. Raises UnknownLease."""
        lease = self.leases.get(lease_id)
        if lease is None:
            raise UnknownLease
        freed = self._unseat(lease, LeaseEnd.RELEASED, now)
        data = {"actor": self._posting.name("actor", actor), "reason": self._posting.name("reason", reason)}
        self._post_end(Kind.RELEASED, lease, freed, now, **data)
        self._serve(lease.product, now)

    def stop_waiting(self, lease_id: str, *, now: Now, keep: bool = False) -> Verdict:
        """The wait is over: the lease if it was granted in the last moment, else a denial with the queue position.

        ``keep``: another request of the same client still waits, so the place stays open.
        """
        waiter = self.waiting.get(lease_id)
        lease = self.leases.get(lease_id)
        if lease is not None:
            self._refuse_ended(lease, now)
            return self._seated(lease, again=True)
        if waiter is None:
            known = self._remembered.ended(lease_id)
            return LeaseEnded(known.reason if known else LeaseEnd.CHECKED_IN)
        position = self.waiting.position(lease_id)
        if not keep:
            self.waiting.close(lease_id, elapsed=now.elapsed)
        self.server.refuse_new(now)
        verdict = self._refusal(waiter.checkout, now) or self._sought(waiter.checkout, now)
        if lease_id in self.leases:
            return self._seated(self.leases[lease_id], again=True)
        if isinstance(verdict, Seat):
            return self._take(waiter.checkout, verdict, now)
        self.serve(waiter.checkout.product, now=now)
        return self._deny(replace(verdict, queue_position=position), waiter.checkout, now)

    def serve(self, product: str, *, now: Now) -> None:
        """Look through the queue again because somebody in it went away: only a free seat can have been kept for it."""
        if any(pool.has_room for pool in self.pools.of(product)):
            self._serve(product, now)

    def sweep(self, *, now: Now, limit: int = SWEEP_LIMIT) -> bool:
        """End what is due, at most about ``limit`` leases; whether more may be due."""
        if self._folding.over(now.elapsed):
            self.post_folded(now)
        self.waiting.drop_stale(now.elapsed)
        forget = self._remembered.forget(now)
        if forget is not None:
            self.batch.forget_ended_before = forget
        finished = True
        for product in list(self._deadlines):
            ended, whole = self._expire(product, now, max(1, limit))
            limit, finished = limit - ended, finished and whole
        limit -= self._end(islice(self._over(now), max(0, limit)), now)
        more = limit <= 0 or not finished
        for product in self.waiting.products():
            self._serve(product, now)
        return more

    def _over(self, now: Now) -> Iterator[Lease]:
        """The leases of entitlements that have ended, or whose bundle did not verify again."""
        if self.problems:
            yield from [lease for lease in self.leases.values() if lease.entitlement_id not in self.pools]
        for pool in list(self.pools.values()):
            ends_at = pool.entitlement.ends_at
            if pool.leases and ends_at is not None and now.wall >= ends_at:
                yield from list(pool.leases.values())

    # ---------------------------------------------------------------- at once, between and during groups

    def heartbeat(self, lease_id: str, *, secret: bytes, beat: int, nonce: str, now: Now) -> Lease:
        """Prolong a lease. The caller has made sure that it is not pending.

        Raises UnknownLease (also for a wrong secret), LeaseEnded, LeaseCloned.
        """
        lease = self.lease(lease_id, secret=secret, now=now)
        if lease.beat is not None and (beat < lease.beat or (beat == lease.beat and nonce != lease.nonce)):
            lease.clone_alarms += 1
            self.clone_alarms += 1
            raise LeaseCloned
        lease.beat, lease.nonce = beat, nonce
        lease.deadline = now.elapsed + lease.ttl + self.setting.grace_seconds
        return lease

    def lease(self, lease_id: str, *, secret: bytes, now: Now) -> Lease:
        """A live lease. Raises UnknownLease (also for a wrong secret) and LeaseEnded."""
        lease = self.leases.get(lease_id)
        if lease is None:
            ended = self._remembered.ended(lease_id)
            if ended is None or not hmac.compare_digest(ended.secret, secret):
                raise UnknownLease
            raise LeaseEnded(ended.reason)
        if not hmac.compare_digest(lease.secret, secret):
            raise UnknownLease
        self._refuse_ended(lease, now)
        return lease

    def _refuse_ended(self, lease: Lease, now: Now) -> None:
        """A lease whose end the sweep has not posted yet is over for its client all the same."""
        if lease.state is LeaseState.LINGERING:
            raise LeaseEnded(LeaseEnd.CHECKED_IN)
        pool = self.pools.get(lease.entitlement_id)
        if pool is None or (pool.entitlement.ends_at is not None and now.wall >= pool.entitlement.ends_at):
            raise LeaseEnded(LeaseEnd.ENTITLEMENT_ENDED)

    def remaining(self, lease: Lease, now: Now) -> int:
        """Whole seconds that the client may count on: without the grace, and never past the entitlement's end."""
        left = lease.deadline - self.setting.grace_seconds - now.elapsed
        pool = self.pools.get(lease.entitlement_id)
        if pool is not None and pool.entitlement.ends_at is not None:
            left = min(left, (pool.entitlement.ends_at - now.wall).total_seconds())
        return max(0, int(left))

    def pace(self, lease: Lease) -> int:
        """Seconds to the client's next beat: spread by lease, stretched when the fleet is large (after Nomad)."""
        wanted = max(lease.ttl / SHARE_OF_TTL, len(self.leases) / self.setting.heartbeats_per_second)
        spread = 0.9 + zlib.crc32(lease.lease_id.encode()) % 21 / 100
        return max(1, int(min(wanted * spread, lease.ttl / 3)))

    def committed_leases(self) -> Iterator[Lease]:
        """Every lease as of the last commit."""
        for lease_id, lease in self.leases.items():
            if lease_id not in self._before:
                yield lease
        yield from (lease for lease in self._before.values() if lease is not None)

    def in_use(self, entitlement_id: str) -> int:
        """Seats in use as of the last commit."""
        return self._seats_before.get(entitlement_id, self.pools[entitlement_id].in_use)

    # ---------------------------------------------------------------- verbs: bundles, reports, time

    def preview(self, installation: Installation, *, now: Now) -> Outcome:
        """What ``install`` would do; raises what it would raise."""
        return judge(self, installation, now=now)

    def install(self, installation: Installation, *, actor: str, now: Now) -> Outcome:
        """Apply a verified bundle, whole or not at all. Raises RefusedDocument."""
        outcome = judge(self, installation, now=now)
        if outcome.already_applied:
            return outcome
        self.installing = True
        kept = installation.kept
        self._server_terms_before, self._placed_before = self.server.terms, dict(self.placed)
        self.server.terms = installation.terms
        self.bundles[kept.bundle_id] = replace(kept, jws="")
        self.batch.bundles.append(kept)
        self.keep_key_sets(installation.key_sets)
        self._posting.set_facts({Fact.SEQUENCE_SEEN: str(kept.sequence), Fact.TERMS_FROM: kept.bundle_id})
        if self.server.sync_from is None:
            self._posting.set_facts({Fact.SYNC_FROM: write_instant(kept.issued_at)})
        self.commands.update(outcome.commands)
        self.batch.commands.update(outcome.commands)
        changed = [step.entitlement for step in outcome.steps if step.change in (Change.NEW, Change.UPDATED)]
        in_use = {
            one.entitlement_id: occupied(one, self.pools.get(one.entitlement_id), self._orphans(one.entitlement_id))
            for one in changed
        }
        self._posting.installed(installation, outcome, now, actor=actor, in_use=in_use)
        ended = {step.entitlement.entitlement_id: self._place(step.entitlement, kept.bundle_id, now)
                 for step in outcome.steps if step.change in (Change.NEW, Change.UPDATED)}  # fmt: skip
        for step in outcome.steps:
            if step.change is Change.UNCHANGED:
                self._note_placed(step.entitlement, kept.bundle_id)
        if outcome.acknowledged is not None:
            self._acknowledge(outcome.acknowledged, installation.usage_carry, actor, now)
        if outcome.forked:
            self.server.mark_forked()
        self.server.note_binding(now=now)
        for product in self.waiting.products():
            self._serve(product, now)
        return replace(outcome, leases_ended=ended)

    def keep_key_sets(self, key_sets: Mapping[int, str]) -> None:
        """Have the vendor's key sets stored that are not yet."""
        for version, token in key_sets.items():
            if self._key_sets.get(version) != token:
                self._key_sets[version] = self.batch.key_sets[version] = token

    def seal(self, report_id: str, *, pseudonymised: bool, actor: str, now: Now) -> SealedReport:
        """Close the range after the last acknowledged line with a line of its own; the report ends with that line."""
        self.post_folded(now)
        before = self.server.acknowledged
        data = {"report_id": report_id, "from_seq": before.seq + 1, "actor": self._posting.name("actor", actor)}
        self._posting.post(Kind.REPORT_SEALED, data, now)
        report = SealedReport(
            report_id=report_id,
            from_seq=before.seq + 1,
            to_seq=self.head.seq,
            prev_head=before.hash,
            head=self.head.hash,
            made_at=now.wall,
            pseudonymised=pseudonymised,
        )
        self.reports[report_id] = report
        self.batch.reports.append(report)
        return report

    def acknowledge(self, receipt: Acknowledgement, *, usage_carry: str, actor: str, now: Now) -> bool:
        """Take in a receipt whose head was found in our chain; False when it was known already."""
        if receipt.receipt_id in self.receipts or receipt.up_to_seq <= self.server.acknowledged.seq:
            return False
        self._acknowledge(receipt, usage_carry, actor, now)
        return True

    def resume(self, *, outage_from: datetime, outage_to: datetime, cause: str, now: Now) -> None:
        """We were away: every floating lease gets a full time to live and grace, before anything is swept."""
        for lease in self.leases.values():
            lease.deadline = max(lease.deadline, now.elapsed + self._time_of(lease))
        away = {"outage_from": write_instant(outage_from), "outage_to": write_instant(outage_to)}
        self._posting.post(Kind.RESUMED, {**away, "cause": cause, "leases": len(self.leases)}, now)

    def note_problems(self, *, now: Now) -> None:
        """Post which entitlements are out of force because their stored bundle did not verify again."""
        for entitlement_id in sorted(self.problems):
            bundle_id = self.placed[entitlement_id].bundle_id
            self._posting.post(Kind.DISTRUSTED, {"entitlement_id": entitlement_id, "bundle_id": bundle_id}, now)

    def note_act(self, act: str, *, actor: str, now: Now, **ids: str) -> None:
        """Journal what an administrator did where no other line says it."""
        self._posting.post(Kind.ADMIN_ACTED, {"act": act, "actor": self._posting.name("actor", actor), **ids}, now)

    def post_folded(self, now: Now) -> None:
        """Post the repeats of the running minute (its end, a report, a stop)."""
        for repeats in self._folding.take():
            self._taken.append(repeats)
            self._posting.denied(repeats.denial, now, holder=repeats.holder, count=repeats.count)

    # ---------------------------------------------------------------- how seats move

    def _known(self, request: Checkout, now: Now) -> Seated | None:
        """The same checkout again, or why its id cannot be used."""
        lease = self.leases.get(request.lease_id)
        if lease is not None:
            if not hmac.compare_digest(lease.secret, request.secret) or lease.content != request.content:
                raise LeaseIdTaken
            self._refuse_ended(lease, now)
            return self._seated(lease, again=True)
        waiter = self.waiting.get(request.lease_id)
        if waiter is not None and (waiter.checkout.secret, waiter.checkout.content) != (
            request.secret,
            request.content,
        ):
            raise LeaseIdTaken
        self._remembered.refuse(request)
        return None

    def _refusal(self, request: Checkout, now: Now) -> Denial | None:
        """What refuses a new lease before any seat is looked at. Raises UnknownProduct."""
        if request.product not in self.pools.products:
            raise UnknownProduct(f"No bundle imported here names the product {request.product}.")
        return self.server.refusal(request, now)

    def _sought(self, request: Checkout, now: Now) -> Seat | Denial:
        """A seat; before a denial what is due of this product is swept, so that none is false."""
        verdict = self._try(request, now)
        while isinstance(verdict, Denial) and verdict.code == "no_seat":
            ended, finished = self._expire(request.product, now, FEW)
            if request.lease_id in self.leases:
                break
            if ended:
                verdict = self._try(request, now)
            elif finished:
                break
        return verdict

    def _try(self, request: Checkout, now: Now) -> Seat | Denial:
        """A seat, considering what earlier open waiters are promised."""
        pools = self.pools.of(request.product)
        if not self.waiting.length(request.product):
            return seat(request, pools, now=now)
        promised: set[str] = set()
        reachable = {pool.entitlement.entitlement_id for pool in waits_for(request, pools, now=now)}
        for waiter in self.waiting.queue(request.product):
            if waiter.checkout.lease_id == request.lease_id or promised >= reachable:
                break
            if waiter.open:
                promised |= self._wants(waiter, pools, now)
        return seat(request, pools, now=now, promised=promised)

    def _wants(self, waiter: Waiter, pools: list[Pool], now: Now) -> frozenset[str]:
        """Where a waiter could ever be seated; found once for all the verbs of a group."""
        judged = now.elapsed, self._generation
        if waiter.judged != judged:
            found = waits_for(waiter.checkout, pools, now=now)
            waiter.wants, waiter.judged = frozenset(pool.entitlement.entitlement_id for pool in found), judged
        return waiter.wants

    def _serve(self, product: str, now: Now) -> None:
        """Seat the waiters that can be, in their order. A waiter that must wait on keeps what is free for itself."""
        if not self.waiting.length(product) or not self.server.may_grant(now):
            return
        pools = self.pools.of(product)
        # Whoever shares a seat or comes back to its own takes nothing from those before it.
        shared = any(pool.entitlement.sharing != "none" or pool.lingers for pool in pools)
        promised: set[str] = set()
        for waiter in self.waiting.queue(product):
            if not waiter.open:
                continue
            request = waiter.checkout
            if len(promised) == len(pools):
                if not shared:
                    break
                if all(pool.newly_taken(request) > 0 for pool in pools):
                    continue
            verdict = self._judged(request, pools, promised, now)
            if isinstance(verdict, Denial) and verdict.code == "no_seat":
                promised |= self._wants(waiter, pools, now)
                continue
            self.waiting.leave(request.lease_id)
            self.resolved[request.lease_id] = self._carried_out(request, verdict, now)
            if isinstance(verdict, Seat) and verdict.taken < 0:
                self._serve(product, now)  # it came back to less than it had kept: those before it may fit now
                return

    def _judged(self, request: Checkout, pools: list[Pool], promised: set[str], now: Now) -> Seat | Denial | Fault:
        try:
            return self._refusal(request, now) or seat(request, pools, now=now, promised=promised)
        except Fault as fault:  # its product or code went with an import
            return fault

    def _carried_out(self, request: Checkout, verdict: Seat | Denial | Fault, now: Now) -> Verdict:
        match verdict:
            case Seat():
                return self._grant(request, verdict, now)
            case Denial():
                return self._deny(verdict, request, now)
        return verdict

    def _take(self, request: Checkout, where: Seat, now: Now) -> Seated:
        self.waiting.leave(request.lease_id)
        seated = self._grant(request, where, now)
        if where.taken < 0:
            self._serve(request.product, now)
        return seated

    def _grant(self, request: Checkout, where: Seat, now: Now) -> Seated:
        pool, entitlement = where.pool, where.pool.entitlement
        replaced = pool.lingering(request.holder)
        in_use = pool.in_use
        if replaced is not None:
            self._unseat(replaced, LeaseEnd.CHECKED_IN, now)
        lease = Lease(
            lease_id=request.lease_id,
            secret=request.secret,
            content=request.content,
            product=entitlement.product,
            entitlement_id=entitlement.entitlement_id,
            holder=request.holder,
            seats=request.seats,
            ttl=entitlement.lease_seconds,
            overdraft=where.overdraft,
            granted_at=now.wall,
            deadline=now.elapsed + entitlement.lease_seconds + self.setting.grace_seconds,
            beat=0,
            nonce=request.nonce,
        )
        self._seat(lease, pool)
        self._posting.granted(lease, now, taken=pool.in_use - in_use, replaces=replaced)
        self._note_overdraft(pool, now)
        return self._seated(lease, again=False)

    def _return(self, lease: Lease, now: Now) -> None:
        pool = self.pools.get(lease.entitlement_id)
        lingers = pool.entitlement.linger_seconds if pool is not None else 0
        if pool is not None and lingers and pool.lingering(lease.holder) is None:
            self._linger(lease, pool, lingers, now)
            self._post_end(Kind.RETURNED, lease, 0, now, lingers_seconds=lingers)
            self._serve(lease.product, now)  # its own holder may wait under another id
            return
        freed = self._unseat(lease, LeaseEnd.CHECKED_IN, now)
        self._post_end(Kind.RETURNED, lease, freed, now, lingers_seconds=0)
        self._serve(lease.product, now)

    def _linger(self, lease: Lease, pool: Pool, seconds: int, now: Now) -> None:
        """Its holder has left, its seat stays for a while: the same seats in use, another state."""
        self._touch(lease.lease_id, lease, pool)
        self._wheel(lease).disarm(lease)
        pool.remove(lease)
        kept = replace(lease, state=LeaseState.LINGERING, deadline=now.elapsed + seconds)
        pool.add(kept)
        self.leases[kept.lease_id] = kept
        self.batch.leases[kept.lease_id] = kept
        self._wheel(kept).arm(kept)

    def _expire(self, product: str, now: Now, limit: int) -> tuple[int, bool]:
        """End at most ``limit`` leases of a product that are due: how many, and whether none is left."""
        wheel = self._deadlines.get(product)
        if wheel is None:
            return 0, True
        due, finished = wheel.take(now.elapsed, limit=limit)
        for lease in due:
            lingered = lease.state is LeaseState.LINGERING
            freed = self._unseat(lease, LeaseEnd.CHECKED_IN if lingered else LeaseEnd.EXPIRED, now)
            self._post_end(Kind.EXPIRED, lease, freed, now, reason="linger" if lingered else "expired")
        if due:
            self._serve(product, now)
        return len(due), finished

    def _end(self, leases: Iterable[Lease], now: Now) -> int:
        """Their entitlement ended: so do these leases; how many."""
        ending = list(leases)
        for lease in ending:
            freed = self._unseat(lease, LeaseEnd.ENTITLEMENT_ENDED, now)
            self._post_end(Kind.EXPIRED, lease, freed, now, reason="entitlement_ended")
        return len(ending)

    def _seat(self, lease: Lease, pool: Pool) -> None:
        self._touch(lease.lease_id, None, pool)
        pool.add(lease)
        self.leases[lease.lease_id] = lease
        self.batch.leases[lease.lease_id] = lease
        self._wheel(lease).arm(lease)

    def _unseat(self, lease: Lease, reason: LeaseEnd, now: Now) -> int:
        pool = self.pools.get(lease.entitlement_id)
        self._touch(lease.lease_id, lease, pool)
        self._wheel(lease).disarm(lease)
        del self.leases[lease.lease_id]
        self.batch.leases[lease.lease_id] = None
        ended = Ended(secret=lease.secret, reason=reason, at=now.wall)
        self._remembered.end(lease.lease_id, ended)
        self.batch.ended[lease.lease_id] = ended
        return pool.remove(lease) if pool is not None else 0

    def _touch(self, lease_id: str, before: Lease | None, pool: Pool | None) -> None:
        """Remember what was there before this group, once."""
        self._before.setdefault(lease_id, before)
        if pool is not None:
            self._seats_before.setdefault(pool.entitlement.entitlement_id, pool.in_use)

    def _seated(self, lease: Lease, *, again: bool) -> Seated:
        return Seated(lease=lease, entitlement=self.pools[lease.entitlement_id].entitlement, again=again)

    # ---------------------------------------------------------------- how entitlements are placed

    def _place(self, entitlement: Entitlement, bundle_id: str, now: Now) -> int:
        """Put new terms in force; how many leases ended with the old ones."""
        self._note_placed(entitlement, bundle_id)
        self._generation += 1
        pool = self.pools.get(entitlement.entitlement_id)
        self._terms_before.setdefault(entitlement.entitlement_id, None if pool is None else pool.entitlement)
        if pool is None:
            pool = self.pools.open(entitlement)
            for lease in self._orphans(entitlement.entitlement_id).values():
                pool.add(lease)
            self.problems.pop(entitlement.entitlement_id, None)
        else:
            self._seats_before.setdefault(entitlement.entitlement_id, pool.in_use)
            self.pools.change(pool, entitlement)
        ended = 0
        if entitlement.status is not Status.ACTIVE:
            ended = self._end(pool.leases.values(), now)
        self._note_overdraft(pool, now)
        return ended

    def _note_placed(self, entitlement: Entitlement, bundle_id: str) -> None:
        placed = Placed(
            entitlement_id=entitlement.entitlement_id,
            session_id=entitlement.session_id,
            sequence=entitlement.sequence,
            bundle_id=bundle_id,
        )
        self.placed[placed.entitlement_id] = placed
        self.batch.placed[placed.entitlement_id] = placed

    def _orphans(self, entitlement_id: str) -> Mapping[str, Lease]:
        """Leases whose terms did not verify at the last start."""
        if entitlement_id not in self.problems:
            return {}
        return {key: lease for key, lease in self.leases.items() if lease.entitlement_id == entitlement_id}

    # ---------------------------------------------------------------- what is posted

    def _post_end(self, kind: Kind, lease: Lease, freed: int, now: Now, **data: object) -> None:
        self._posting.ended(kind, lease, now, freed=freed, **data)
        pool = self.pools.get(lease.entitlement_id)
        if pool is not None:
            self._note_overdraft(pool, now)

    def _note_overdraft(self, pool: Pool, now: Now) -> None:
        """Post when a pool goes over what was bought and when it comes back, not each step between."""
        over = pool.over_by
        if (over > 0) == pool.over:
            return
        pool.over = over > 0
        self._posting.overdraft(pool.entitlement, now, in_use=pool.in_use, over=over)

    def _deny(self, denial: Denial, request: Checkout, now: Now) -> Denial:
        holder = self._posting.commit_to(request.holder.seat_id)
        if self._folding.note(denial, holder, elapsed=now.elapsed):
            self._posting.name("seat_id", request.holder.seat_id)
            self._folded.append((denial, holder))
            self._posting.denied(denial, now, holder=holder, count=1)
        return denial

    def _acknowledge(self, receipt: Acknowledgement, usage_carry: str | None, actor: str, now: Now) -> None:
        report = self.reports.get(receipt.report_id)
        self.receipts.add(receipt.receipt_id)
        self.batch.receipts.add(receipt.receipt_id)
        self._posting.acknowledged(receipt, now, actor=actor)
        self._posting.set_facts(
            {
                Fact.ACKNOWLEDGED: str(receipt.up_to_seq),
                Fact.ACKNOWLEDGED_HEAD: receipt.head,
                Fact.USAGE_CARRY: usage_carry or "",
                Fact.SYNC_FROM: write_instant(report.made_at if report is not None else receipt.made_at),
            }
        )

    # ---------------------------------------------------------------- what is kept for a while

    def _time_of(self, lease: Lease) -> float:
        """A full time for a lease after an outage of ours."""
        if lease.state is LeaseState.LINGERING:
            pool = self.pools.get(lease.entitlement_id)
            return float(pool.entitlement.linger_seconds if pool is not None else 0)
        return lease.ttl + self.setting.grace_seconds
