"""Who may sit down, who waits, who is refused, and whose time is over.

Rules
1. A verb checks everything, then posts. Nothing may raise after its first post. A refusal is a value (:class:`Denial`),
   a failure is raised (:class:`~lls.faults.Fault`).
2. The seats in use never rise above seats and overdraft by a grant, and a lease is granted with all of its features or
   not at all.
3. Before a denial for want of something that expires, what is due is swept: no denial is false.
4. A seat goes to the first open waiter that can have it, and what is free is kept for it; but for what a reservation
   keeps for one behind it, and whom a limit keeps out has nothing kept (decision 0005).
5. The first lease sets the dates of a term that it starts.

It refuses to own the leases themselves (``leases``), the judging of one wish (``seating``) and what is hosted.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from lls.faults import (
    Fault,
    LeaseEnd,
    LeaseEnded,
    LeaseIdTaken,
    StillBorrowed,
    UnknownLease,
    UnknownProduct,
)
from lls.licensing.denial import Denial
from lls.licensing.entitlement import Concurrency, Entitlement
from lls.licensing.instant import Now
from lls.licensing.journal import Kind
from lls.licensing.lease import NOTHING_HELD, Checkout, Holder, Lease, LeaseState, Mode
from lls.licensing.leases import Leases, Queued, Seated, Verdict
from lls.licensing.policy import Asker
from lls.licensing.seating import NOBODY_WAITS, Pool, QueueBefore, Seat, seat, waits_for, wants
from lls.licensing.waiting import Waiter

SWEEP_LIMIT: Final = 2_000
FEW: Final = 64
"""Leases that a checkout sweeps at a time before it looks for a seat again."""
ROUNDS: Final = SWEEP_LIMIT // FEW
"""How often it does so for a denial that the end of leases may not cure."""
FOR_A_SEAT: Final = frozenset({"no_seat", "reserved", "holder_limit"})
"""Denials that pass when somebody leaves: who is refused so may wait."""
FOR_WHAT_EXPIRES: Final = FOR_A_SEAT | {"no_feature_units"}
"""Denials that must not be given before what is due was swept."""


class Seats(Leases):
    """The leases of one server and who may have one; see the module."""

    # ---------------------------------------------------------------- verbs

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
            return self._deny(refused, request.holder, now)
        verdict = self._sought(request, now)
        if request.lease_id in self.leases:  # what came free went to its own place in the queue
            return self._seated(self.leases[request.lease_id], again=False)
        if isinstance(verdict, Seat):
            return self._take(request, verdict, now)
        if wait and verdict.code in FOR_A_SEAT and waits_for(request, self.pools, now=now):
            self.waiting.enter(request, now=now, priority=self._priority(request))
            return Queued(lease_id=request.lease_id, position=self.waiting.position(request.lease_id) or 1)
        return self._deny(verdict, request.holder, now)

    def checkin(self, lease_id: str, *, secret: bytes, now: Now) -> None:
        """Give a seat back. Succeeds for an ended or unknown lease; a wrong secret looks the same, changes nothing."""
        waiter = self.waiting.get(lease_id)
        if waiter is not None and hmac.compare_digest(waiter.checkout.secret, secret):
            self._leave_queue(lease_id)
            self.resolved[lease_id] = LeaseEnded(LeaseEnd.CHECKED_IN)
            self._remembered.note_unknown(lease_id, secret=secret, now=now)
            self._serve(waiter.checkout.product, now)
            return
        lease = self.leases.get(lease_id)
        if lease is None:
            self._remembered.note_unknown(lease_id, secret=secret, now=now)
            return
        if not hmac.compare_digest(lease.secret, secret):
            return
        if lease.state is LeaseState.ACTIVE or lease.mode is Mode.NODE_LOCKED:
            self._return(lease, now)

    def release(self, lease_id: str, *, actor: str, reason: str, now: Now) -> None:
        """The administrator takes a seat back at once. Raises UnknownLease, StillBorrowed."""
        lease = self.leases.get(lease_id)
        if lease is None:
            raise UnknownLease
        if lease.until is not None and now.wall < lease.until:
            raise StillBorrowed(lease.until)
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
        return self._deny(replace(verdict, queue_position=position), waiter.checkout.holder, now)

    def serve(self, product: str, *, now: Now) -> None:
        """Look through the queue again because somebody in it went away: only a free seat can have been kept for it."""
        if any(pool.has_room for pool in self.pools.of(product)):
            self._serve(product, now)

    def sweep(self, *, now: Now, limit: int = SWEEP_LIMIT) -> bool:
        """End what is due, at most about ``limit`` leases; whether more may be due."""
        if self._folding.over(now.elapsed):
            self.post_folded(now)
        self.waiting.drop_stale(now.elapsed)
        self.meters.forget(now)
        forget = self._remembered.forget(now)
        if forget is not None:
            self.batch.forget_ended_before = forget
        finished = True
        for product in list(self._deadlines):
            ended, whole = self._expire(product, now, max(1, limit))
            limit, finished = limit - ended, finished and whole
        limit -= self._end(islice(self._over(now), max(0, limit)), now)
        limit -= self._end_borrowed(now, limit=max(1, limit))
        limited = self.meters.sweep(now, limit=max(1, limit))
        more = limit <= 0 or not finished or limited
        for product in self.waiting.products():
            self._serve(product, now)
        return more

    def _over(self, now: Now) -> Iterator[Lease]:
        """The leases of entitlements that have ended, or whose bundle did not verify again."""
        if self.problems:
            yield from [one for one in self.leases.values() if one.entitlement_id not in self.pools and not one.until]
        for pool in list(self.pools.values()):
            ends_at = pool.entitlement.ends_at
            if pool.leases and ends_at is not None and now.wall >= ends_at:
                yield from [lease for lease in pool.leases.values() if lease.until is None]

    def _end_borrowed(self, now: Now, *, limit: int) -> int:
        """End at most so many borrowed leases whose date has come; how many."""
        over = self.loans.due(now.wall, limit=limit)
        for lease in over:
            freed = self._unseat(lease, LeaseEnd.BORROW_ENDED, now)
            self._post_end(Kind.EXPIRED, lease, freed, now, reason="borrow_ended")
        for product in {lease.product for lease in over}:
            self._serve(product, now)
        return len(over)

    def adopt(self, old: Leases) -> None:
        """See :meth:`Leases.adopt`. The queue comes along in the order of the policy that was committed."""
        super().adopt(old)
        for waiter in self.waiting:
            waiter.judged = None
        self.waiting.reorder(self._priority)

    # ---------------------------------------------------------------- judging

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
        return self.server.refusal(request, now) or self._unknown_use_at_grant(request)

    def _unknown_use_at_grant(self, request: Checkout) -> Denial | None:
        """A checkout that uses up units with its grant, while nobody here knows what was used."""
        if not self.server.restored or not request.features:
            return None
        wanted = dict(request.features)
        for pool in self.pools.of(request.product):
            for feature in pool.entitlement.features:
                if feature.consumed and feature.key in wanted:
                    key = feature.key
                    return self.server.consuming(
                        product=request.product, feature=key, entitlement_id=None, asked=wanted[key]
                    )
        return None

    def _sought(self, request: Checkout, now: Now, *, without: Collection[str] = ()) -> Seat | Denial:
        """A seat; before a denial what is due of this product is swept, so that none is false.

        ``without`` are entitlements from which none is wanted. A lack that ends of leases may not cure (units, rules of
        the site) is not looked for through all that is due: the sweep of the next second ends the rest.
        """
        verdict, rounds = self._try(request, now, without), 0
        while isinstance(verdict, Denial) and verdict.code in FOR_WHAT_EXPIRES:
            rounds += 1
            if verdict.code != "no_seat" and rounds > ROUNDS:
                break
            ended, finished = self._expire(request.product, now, FEW)
            if request.lease_id in self.leases:
                break
            if ended:
                verdict = self._try(request, now, without)
            elif finished:
                break
        return verdict

    def _try(self, request: Checkout, now: Now, without: Collection[str]) -> Seat | Denial:
        """A seat, considering what earlier open waiters are promised."""
        queue = self._queue_before(request, now)
        return seat(request, self.pools, now=now, promised=queue.promised, ahead=queue.ahead, without=without)

    def _queue_before(self, request: Checkout, now: Now) -> QueueBefore:
        """What earlier open waiters are promised."""
        policy, product = self.pools.policy, request.product
        if not self.waiting.length(product):
            return NOBODY_WAITS
        ruled = policy.seats_ruled(product)
        mine = policy.reservation(product, asker(request)) if ruled else None
        promised: set[str] = set()
        ahead: set[str | None] = set()
        reachable = {pool.entitlement.entitlement_id for pool in waits_for(request, self.pools, now=now)}
        priority = self._priority(request)
        for waiter in self.waiting.queue(product):
            if waiter.checkout.lease_id == request.lease_id or waiter.priority < priority:
                break  # those behind it are promised nothing that it could have
            taken = promised >= reachable
            if taken and (mine is None or mine in ahead):
                break
            theirs = policy.reservation(product, asker(waiter.checkout)) if ruled else None
            if waiter.open and (not taken or theirs == mine):
                wanted = self._wants(waiter, now)
                promised |= wanted
                if wanted:
                    ahead.add(theirs)
        return QueueBefore(promised=promised, ahead=ahead if ruled else None)

    def _wants(self, waiter: Waiter, now: Now) -> frozenset[str]:
        """Where free seats are kept for a waiter; found once for all the verbs of a group."""
        moves = self._moves if self.pools.policy.seats_ruled(waiter.checkout.product) else 0
        judged = now.elapsed, self._generation, moves
        if waiter.judged != judged:
            found = wants(waiter.checkout, self.pools, now=now)
            waiter.wants, waiter.judged = frozenset(pool.entitlement.entitlement_id for pool in found), judged
        return waiter.wants

    def _serve(self, product: str, now: Now) -> None:
        """Seat the waiters that can be, in their order. A waiter that must wait on keeps what is free for itself."""
        if not self.waiting.length(product) or not self.server.may_grant(now):
            return
        pools = self.pools.of(product)
        # Whoever shares a seat or comes back to its own takes nothing from those before it.
        shared = any(pool.shares for pool in pools)
        policy = self.pools.policy
        ruled = policy.seats_ruled(product)
        promised: set[str] = set()
        ahead: set[str | None] = set()
        for waiter in self.waiting.queue(product):
            if not waiter.open:
                continue
            request = waiter.checkout
            mine = policy.reservation(product, asker(request)) if ruled else None
            if pools and len(promised) == len(pools):
                if not shared and not ruled:
                    break
                draws = mine is not None and mine not in ahead
                if not draws and (not shared or all(pool.newly_taken(request) > 0 for pool in pools)):
                    continue
            verdict = self._judged(request, promised, now, ahead=ahead if ruled else None)
            if isinstance(verdict, Denial) and verdict.code in FOR_A_SEAT:
                wanted = self._wants(waiter, now)
                promised |= wanted
                if wanted:
                    ahead.add(mine)
                continue
            self._leave_queue(request.lease_id)
            self.resolved[request.lease_id] = self._carried_out(request, verdict, now)
            if isinstance(verdict, Seat) and verdict.taken < 0:
                self._serve(product, now)  # it came back to less than it had kept: those before it may fit now
                return

    def _judged(
        self, request: Checkout, promised: set[str], now: Now, *, ahead: set[str | None] | None
    ) -> Seat | Denial | Fault:
        try:
            return self._refusal(request, now) or seat(request, self.pools, now=now, promised=promised, ahead=ahead)
        except Fault as fault:  # its product or code went with an import
            return fault

    def _carried_out(self, request: Checkout, verdict: Seat | Denial | Fault, now: Now) -> Verdict:
        match verdict:
            case Seat():
                return self._grant(request, verdict, now)
            case Denial():
                return self._deny(verdict, request.holder, now)
        return verdict

    def _take(self, request: Checkout, where: Seat, now: Now) -> Seated:
        self._leave_queue(request.lease_id)
        seated = self._grant(request, where, now)
        if where.taken < 0:
            self._serve(request.product, now)
        return seated

    def _grant(self, request: Checkout, where: Seat, now: Now) -> Seated:
        pool = where.pool
        if pool.entitlement.starts_on_first_lease:
            self._begin(pool, now)
        entitlement = pool.entitlement
        replaced = pool.lingering(request.holder)
        in_use = pool.in_use
        if replaced is not None:
            self._unseat(replaced, LeaseEnd.CHECKED_IN, now)
        held = self.meters.hold_at_grant(entitlement.entitlement_id, request.features) if request.features else None
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
            mode=Mode.NODE_LOCKED if entitlement.concurrency is Concurrency.NODE_LOCK else Mode.FLOATING,
            features=held or NOTHING_HELD,
            address=request.address,
            deadline=now.elapsed + entitlement.lease_seconds + self.setting.grace_seconds,
            beat=0,
            nonce=request.nonce,
        )
        self._seat(lease, pool)
        self._posting.granted(lease, now, taken=pool.in_use - in_use, replaces=replaced)
        if request.features:
            self.meters.take_at_grant(lease, request.features, now=now)
        self._note_overdraft(pool, now)
        return self._seated(lease, again=False)

    def _begin(self, pool: Pool, now: Now) -> None:
        """The first lease sets the dates."""
        self._keep_terms(pool)
        self.pools.change(pool, self._begun(pool.entitlement, now))
        self.meters.open(pool.entitlement, now=now)
        self._posting.started(pool.entitlement, now)

    def _begun(self, terms: Entitlement, now: Now) -> Entitlement:
        """The terms with the dates that a first lease sets, to the second: what a document can say of them."""
        started = now.wall.replace(microsecond=0)
        self._place_anew(replace(self.placed[terms.entitlement_id], started_at=started))
        return terms.begun(started)

    def _return(self, lease: Lease, now: Now) -> None:
        pool = self.pools.get(lease.entitlement_id)
        lingers = self._linger_seconds(lease, pool)
        if pool is not None and lingers and pool.lingering(lease.holder) is None:
            self._linger(lease, pool, lingers, now)
            self._post_end(Kind.RETURNED, lease, 0, now, lingers_seconds=lingers)
            self._serve(lease.product, now)  # its own holder may wait under another id
            return
        freed = self._unseat(lease, LeaseEnd.CHECKED_IN, now)
        self._post_end(Kind.RETURNED, lease, freed, now, lingers_seconds=0)
        self._serve(lease.product, now)

    def _expire(self, product: str, now: Now, limit: int) -> tuple[int, bool]:
        """End at most ``limit`` leases of a product that are due, and the loans that are: how many, is none left."""
        came_back = self._end_borrowed(now, limit=limit)
        wheel = self._deadlines.get(product)
        if wheel is None:
            return came_back, True
        due, finished = wheel.take(now.elapsed, limit=limit)
        for lease in due:
            if (
                lease.mode is Mode.NODE_LOCKED
                and lease.state is LeaseState.ACTIVE
                and self._left_to_machine(lease, now)
            ):
                continue
            lingered = lease.state is LeaseState.LINGERING and lease.mode is not Mode.NODE_LOCKED
            freed = self._unseat(lease, LeaseEnd.CHECKED_IN if lingered else LeaseEnd.EXPIRED, now)
            self._post_end(Kind.EXPIRED, lease, freed, now, reason="linger" if lingered else "expired")
        if due:
            self._serve(product, now)
        return came_back + len(due), finished

    def _left_to_machine(self, lease: Lease, now: Now) -> bool:
        """A node-locked lease is over: its seat stays with its machine, unless another lease there keeps it.

        A borrowed one keeps it only until its date.
        """
        pool = self.pools.get(lease.entitlement_id)
        if pool is None or pool.entitlement.concurrency is not Concurrency.NODE_LOCK:
            return False
        if pool.lingering(lease.holder) is not None:
            return False
        if not pool.frees(lease) and not self.loans.beside(lease):
            return False
        release = pool.entitlement.node_lock_release
        self._linger(lease, pool, 0 if release is None else release.total_seconds(), now)
        self._post_end(Kind.EXPIRED, lease, 0, now, reason="expired", kept=True)
        return True

    def _end(self, leases: Iterable[Lease], now: Now) -> int:
        """Their entitlement ended: so do these leases; how many."""
        ending = list(leases)
        for lease in ending:
            freed = self._unseat(lease, LeaseEnd.ENTITLEMENT_ENDED, now)
            self._post_end(Kind.EXPIRED, lease, freed, now, reason="entitlement_ended")
        return len(ending)

    # ---------------------------------------------------------------- refusing

    def _deny(self, denial: Denial, holder: Holder, now: Now) -> Denial:
        commitment = self._posting.commit_to(holder.seat_id)
        if self._folding.note(denial, commitment, elapsed=now.elapsed):
            self._folded.append((denial, commitment))
            self._posting.denied(denial, now, holder=commitment, count=1, named=holder)
        return denial

    def post_folded(self, now: Now) -> None:
        """Post the repeats of the running minute (its end, a report, a stop)."""
        for repeats in self._folding.take():
            self._taken.append(repeats)
            self._posting.denied(repeats.denial, now, holder=repeats.holder, count=repeats.count)

    def _priority(self, request: Checkout) -> int:
        policy = self.pools.policy
        return policy.priority(request.product, asker(request)) if policy.rules else 0


def asker(request: Checkout) -> Asker:
    """Whom the site's rules may name."""
    return Asker(user=request.holder.user, host=request.holder.host, address=request.address)
