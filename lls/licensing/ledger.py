"""The ledger: every lease, seat, unit and line of this server, decided in memory.

How it is used
- The writer runs a group of *verbs* (checkout, use, checkin, sweep, install …) one after the other, hands ``batch`` to
  the store, and calls ``settle`` when the store has taken it. When the store has not, this ledger is thrown away and a
  new one is loaded; nothing is ever patched back (design §2).
- Heartbeats and reads run at once, between groups and while one is being committed.

Three floors, each a module with its rules: ``seats`` (who sits where), ``hosting`` (what is hosted), and this one: what
is done with a lease that is held, and the server's own standing.

Rules here
1. A call on a feature is judged once: its repetition gets the answer that was given, also after the lease has ended.
2. What consumes or takes away is refused while the clock is behind and where the entitlement is not in force; what
   gives back never is.
3. A borrowed lease is bound to its machine: by the fingerprint it was granted to, or by a key that the machine made.
4. The site's policy is journalled with its difference before it decides anything.

It refuses to own signatures (``signed``), SQL (``store``) and the queue of requests (``writer``).
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Final

from lls.faults import BadActivationCode, Fault, LeaseEnd, RequestIdTaken, Restored, StillBorrowed, UnknownLease
from lls.licensing import borrowing
from lls.licensing.borrowing import Loan, SiteCaps
from lls.licensing.changes import AnsweredRequest, Fact, FeatureAct
from lls.licensing.denial import Denial
from lls.licensing.entitlement import Standing
from lls.licensing.explaining import Explanation, Queue, Step, StepVerdict, explain
from lls.licensing.fields import write_instant
from lls.licensing.hosting import Draining, Hosting
from lls.licensing.instant import Now
from lls.licensing.journal import Kind
from lls.licensing.lease import Checkout, Lease, Mode
from lls.licensing.leases import Queued, Seated, Setting, Verdict
from lls.licensing.meters import FeatureLevel
from lls.licensing.policy import Asker, Policy, difference
from lls.licensing.seating import Pool, Seat
from lls.licensing.seats import FEW, ROUNDS, SWEEP_LIMIT, asker

__all__ = ["Draining", "Ledger", "Queued", "Seated", "Setting", "Verdict"]


_NOT_AWAY: Final = (
    "No seat is away under that lease and key. If it came back or ended more than a day ago, its seat is free and"
    " nothing is left to do; `lls borrow list` shows what is away. Else the file is not of the machine that borrowed."
)


class Ledger(Hosting):
    """All state of one server; see the module."""

    _policy_before: Policy | None = None

    def settle(self, *, now: Now | None = None) -> None:
        """See :meth:`Seats.settle`."""
        super().settle(now=now)
        self._policy_before = None

    def abandon(self) -> None:
        """See :meth:`Seats.abandon`."""
        super().abandon()
        if self._policy_before is not None:
            self.pools.govern(self._policy_before)
            self._policy_before = None

    # ---------------------------------------------------------------- verbs: the server itself

    def resume(self, *, outage_from: datetime, outage_to: datetime, cause: str, now: Now) -> None:
        """We were away: every floating lease gets a full time to live and grace, before anything is swept."""
        if now.elapsed > self._built_at:  # at a start everybody has just been given all of it
            for lease in self.leases.values():
                lease.deadline = max(lease.deadline, now.elapsed + self._time_of(lease, now))
        away = {"outage_from": write_instant(outage_from), "outage_to": write_instant(outage_to)}
        self._posting.post(Kind.RESUMED, {**away, "cause": cause, "leases": len(self.leases)}, now)

    def note_problems(self, *, now: Now, known: Collection[str] = ()) -> None:
        """Post which entitlements are out of force because their stored bundle did not verify again; not the known."""
        for entitlement_id in sorted(self.problems.keys() - set(known)):
            bundle_id = self.placed[entitlement_id].bundle_id
            self._posting.post(Kind.DISTRUSTED, {"entitlement_id": entitlement_id, "bundle_id": bundle_id}, now)

    # ---------------------------------------------------------------- verbs: features

    def feature(
        self, lease_id: str, *, secret: bytes, key: str, act: FeatureAct, amount: int, request_id: str, now: Now
    ) -> FeatureLevel | Denial:
        """Take units into a lease, give them back, or consume them; the feature's figures after that.

        Raises UnknownLease, LeaseEnded, UnknownFeature, BadRequest, NotHeld, RequestIdTaken, ClockBehind, Unbound.
        """
        again = self._repeated(lease_id, request_id, secret)
        if again is not None:
            if (again.act, again.feature, again.amount) != (act, key, amount):
                raise RequestIdTaken
            return self.meters.repeated(again, now=now)
        lease = self.lease(lease_id, secret=secret, now=now)
        pool = self.pools[lease.entitlement_id]
        if act is not FeatureAct.RETURN:
            self.server.refuse_new(now)
            refused = self._out_of_force(lease, pool, amount, now) or self._unknown_use(lease, pool, key, act, amount)
            if refused is not None:
                return self._deny(refused, lease.holder, now)
        acted = self.meters.act(lease, key, act=act, amount=amount, request_id=request_id, now=now)
        for _round in range(ROUNDS if self._expires(acted) else 0):
            if not isinstance(acted, Denial) or not self._expire_beside(lease, now):
                break
            acted = self.meters.act(lease, key, act=act, amount=amount, request_id=request_id, now=now)
        if isinstance(acted, Denial):
            return self._deny(acted, lease.holder, now)
        features, level = acted
        if features != lease.features:
            self._touch(lease_id, lease, pool)
            changed = replace(lease, features=features)
            self.leases[lease_id] = pool.leases[lease_id] = self.batch.leases[lease_id] = changed
            self._disarm(lease)
            self._arm(changed)
            self.meters.note_overdraft(lease.entitlement_id, now)
        return level

    def _expires(self, acted: object) -> bool:
        """Whether units may come free with leases: what is used up never does."""
        if not isinstance(acted, Denial) or acted.entitlement_id is None or acted.feature is None:
            return False
        return self.meters.held(acted.entitlement_id, acted.feature) > 0

    def _expire_beside(self, lease: Lease, now: Now) -> bool:
        """End what is due of a lease's product; not itself, although its time may be over: who asks is still there."""
        self._disarm(lease)
        ended, _finished = self._expire(lease.product, now, FEW)
        self._arm(lease)
        return ended > 0

    def undo(self, lease_id: str, *, secret: bytes, key: str, amount: int, request_id: str, now: Now) -> FeatureLevel:
        """Take a consumption back, named by its request id.

        Raises UnknownLease, LeaseEnded, UnknownFeature, NotHeld, UndoTooLate, AlreadyUndone, RequestIdTaken, Restored.
        """
        if self.server.restored:  # it may have been undone already
            raise Restored
        lease = self.lease(lease_id, secret=secret, now=now)
        return self.meters.undo(lease, key, amount=amount, request_id=request_id, now=now)

    def feature_levels(self, lease: Lease, now: Now) -> list[FeatureLevel]:
        """What a lease sees of its entitlement's features, as of the last commit."""
        return self.meters.levels(lease, lease.entitlement_id, now=now, committed=True)

    def _repeated(self, lease_id: str, request_id: str, secret: bytes) -> AnsweredRequest | None:
        """The call that was answered already. Who asks must have the lease's secret: raises UnknownLease."""
        known = self.meters.answered(lease_id, request_id)
        if known is None:
            return None
        kept = self.leases.get(lease_id) or self._remembered.ended(lease_id)
        if kept is None or not hmac.compare_digest(kept.secret, secret):
            raise UnknownLease
        return known

    def _unknown_use(self, lease: Lease, pool: Pool, key: str, act: FeatureAct, amount: int) -> Denial | None:
        feature = pool.entitlement.feature(key)
        if act is not FeatureAct.USE or feature is None or not feature.consumed:
            return None
        entitlement_id = lease.entitlement_id
        return self.server.consuming(product=lease.product, feature=key, entitlement_id=entitlement_id, asked=amount)

    def _out_of_force(self, lease: Lease, pool: Pool, amount: int, now: Now) -> Denial | None:
        standing = pool.entitlement.standing(max(now.wall, now.strict))
        if standing in (Standing.ACTIVE, Standing.GRACE):
            return None
        code = "entitlement_disabled" if standing is Standing.DISABLED else "entitlement_expired"
        return Denial(
            code=code,
            rule="status" if standing is Standing.DISABLED else "dates",
            detail=f"The entitlement of {lease.product} is not in force, so nothing more of it can be taken.",
            remedy="Import a newer bundle of the vendor.",
            product=lease.product,
            entitlement_id=lease.entitlement_id,
            asked=amount,
        )

    # ---------------------------------------------------------------- verbs: borrowing

    def borrow(self, lease_id: str, *, secret: bytes, until: datetime, fingerprint: str, now: Now) -> Seated | Denial:
        """Let a held lease leave the network until a date; a later date extends, the same one is a repetition.

        Raises UnknownLease, LeaseEnded, StillBorrowed (an earlier date), BadRequest, ClockBehind, Unbound.
        """
        lease = self.lease(lease_id, secret=secret, now=now)
        return self._lend_longer(lease, until, fingerprint, now)

    def grant_borrow(
        self, request: Checkout, *, until: datetime, fingerprint: str, key: str, now: Now
    ) -> Seated | Denial:
        """A seat for a machine that never sees the network: checked out and borrowed at once, bound to its key.

        Raises LeaseIdTaken, LeaseEnded, UnknownProduct, BadActivationCode, BadRequest, ClockBehind, Unbound.
        """
        known = self._known(request, now)
        if known is not None:
            return self._lend_longer(known.lease, until, fingerprint, now)
        self.server.refuse_new(now)
        loan = Loan(holder=request.holder, seats=request.seats, until=until, fingerprint=fingerprint)
        borrowing.check(loan, now=now)
        where = self._refusal(request, now) or self._lendable(request, loan, now)
        if isinstance(where, Denial):
            if self._end_borrowed(now, limit=SWEEP_LIMIT):  # what is over is not away any more
                return self.grant_borrow(request, until=until, fingerprint=fingerprint, key=key, now=now)
            return self._deny(where, request.holder, now)
        lease = self._take(request, where, now).lease
        return self._lend(lease, self.pools[lease.entitlement_id], until, now, by="file", key=key)

    def _lendable(self, request: Checkout, loan: Loan, now: Now) -> Seat | Denial:
        """A seat that may leave: where one entitlement of the product does not lend, another one may."""
        first: Denial | None = None
        tried: set[str] = set()
        while True:
            try:
                verdict = self._sought(request, now, without=tried)
            except BadActivationCode:
                if first is None:
                    raise
                return first  # it opens no entitlement that was not tried
            if isinstance(verdict, Denial):
                return first or verdict
            refusal = self._loan_refusal(loan, verdict.pool, asker(request), now=now)
            if refusal is None:
                return verdict
            first = first or refusal
            tried.add(verdict.pool.entitlement.entitlement_id)

    def return_borrow(self, lease_id: str, *, key: str, secret: bytes, now: Now) -> bool:
        """The machine gives its seat back by a file; False when it had come back already. Raises UnknownLease.

        After a restore a loan that the backup does not know is not counted, so it is back, and nothing changes.
        """
        lease = self.leases.get(lease_id)
        if lease is None:
            ended = self._remembered.ended(lease_id)
            if ended is None and self.server.lost_times:
                return False
            if ended is None or not hmac.compare_digest(ended.secret, secret):
                raise UnknownLease(_NOT_AWAY)
            return False
        if lease.key != key:
            raise UnknownLease(_NOT_AWAY)
        freed = self._unseat(lease, LeaseEnd.CHECKED_IN, now)
        self._post_end(Kind.RETURNED, lease, freed, now, lingers_seconds=0)
        self._serve(lease.product, now)
        return True

    def _lend_longer(self, lease: Lease, until: datetime, fingerprint: str, now: Now) -> Seated | Denial:
        """A lease that is held, to that date: for the first time, again, or for longer."""
        if lease.until is not None:
            if lease.until == until and fingerprint == lease.holder.seat_id:
                return self._seated(lease, again=True)
            if until < lease.until:
                raise StillBorrowed(lease.until)
        self.server.refuse_new(now)
        pool = self.pools[lease.entitlement_id]
        who = Asker(user=lease.holder.user, host=lease.holder.host, address=lease.address)
        loan = Loan(holder=lease.holder, seats=lease.seats, until=until, fingerprint=fingerprint)
        borrowing.check(loan, now=now)
        self._end_borrowed(now, limit=SWEEP_LIMIT)  # whose end has come is not away any more
        refused = self._loan_refusal(loan, pool, who, now=now, but=lease)
        if refused is not None:
            return self._deny(refused, lease.holder, now)
        return self._lend(lease, pool, until, now, by="lan" if lease.key is None else "file")

    def _loan_refusal(self, loan: Loan, pool: Pool, who: Asker, *, now: Now, but: Lease | None = None) -> Denial | None:
        """Why a seat of that pool must stay; ``but``: the lease itself, which may be away already."""
        terms = pool.entitlement
        if terms.starts_on_first_lease:
            terms = terms.begun(now.wall.replace(microsecond=0))
        if pool.returning:
            return borrowing.of_returning(loan, terms)
        max_seconds, max_seats, rule = self.pools.policy.borrow_caps(terms.product, who)
        counted = replace(
            loan,
            away=self.loans.seats_of(terms.entitlement_id, but=but),
            away_in_all=self.loans.seats_of_product(terms.product, but=but),
        )
        caps = SiteCaps(max_seconds=max_seconds, max_seats=max_seats, rule=rule)
        return borrowing.refusal(counted, terms, caps=caps, now=now)

    def _lend(self, lease: Lease, pool: Pool, until: datetime, now: Now, *, by: str, key: str | None = None) -> Seated:
        extends = lease.until is not None
        lent = self._change(lease, pool, mode=Mode.BORROWED, until=until, key=key or lease.key)
        self._posting.borrowed(lent, now, extends=extends, by=by)
        return self._seated(lent, again=False)

    # ---------------------------------------------------------------- verbs: the site's policy

    def govern(self, policy: Policy, *, text: str, actor: str, now: Now) -> tuple[list[str], list[str]]:
        """Put the site's rules in force: which were added and which removed. The same text again changes nothing."""
        if self.facts.get(Fact.POLICY, "") == text:
            return [], []
        if self._policy_before is None:
            self._policy_before = self.pools.policy
        added, removed = difference(self.pools.policy, policy)
        self._posting.policy_changed(text, now, actor=actor, added=added, removed=removed, rules=len(policy.rules))
        self._posting.set_facts({Fact.POLICY: text})
        self.pools.govern(policy)
        self._generation += 1
        self.waiting.reorder(self._priority)
        for product in self.waiting.products():
            self._serve(product, now)
        return added, removed

    def explain(self, request: Checkout, *, now: Now) -> Explanation:
        """What would be decided of a checkout now, and by which rules; nothing is posted.

        Raises UnknownProduct, BadActivationCode.
        """
        told = explain(request, self.pools, now=now, queue=self._queue_of(request, now))
        stopped = self._stopped(request, now)
        if stopped is None:
            words = "The server may grant: its licence, its reports, its clock and its machine are in order."
            return replace(told, steps=(Step(rule="server", verdict=StepVerdict.PASSED, words=words), *told.steps))
        refused = Step(rule=stopped.rule, verdict=StepVerdict.REFUSED, words=stopped.detail)
        return Explanation(steps=(refused, *told.steps), outcome=stopped)

    def _queue_of(self, request: Checkout, now: Now) -> Queue:
        """Who waits for its product, as this checkout would find them."""
        priority = self._priority(request)
        before = [waiter.priority >= priority for waiter in self.waiting.queue(request.product) if waiter.open]
        promises = self._queue_before(request, now)
        return Queue(before=sum(before), behind=len(before) - sum(before), promises=promises)

    def _stopped(self, request: Checkout, now: Now) -> Denial | None:
        """What the server itself would say to a newcomer."""
        try:
            self.server.refuse_new(now)
        except Fault as fault:
            return Denial(code=fault.code, rule="server", detail=fault.detail, product=request.product)
        return self.server.refusal(request, now)
