"""The verbs of seats, queues, bundles, reports and clocks, each with what must hold right after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lls.faults import (
    BadActivationCode,
    ClockBehind,
    Fault,
    LeaseCloned,
    LeaseEnded,
    LeaseIdTaken,
    RefusedDocument,
    StillBorrowed,
    UnknownLease,
    UnknownProduct,
)
from lls.licensing.entitlement import Concurrency, Entitlement, Start, Status
from lls.licensing.explaining import Explanation
from lls.licensing.instant import ClockState
from lls.licensing.lease import Checkout, Holder, Lease, LeaseState, Mode
from lls.licensing.ledger import Queued, Seated
from lls.licensing.seating import Denial, Seat
from lls.licensing.terms import Change
from tests.ledgers import GRACE, checkout, entitlement, receipt
from tests.licensing.accounts import lots_of
from tests.licensing.machine import Known, id_of
from tests.licensing.machine_judging import Judging
from tests.licensing.wishes import ADDRESSES, IDS

LICENSE_CODES = {"server_not_licensed", "report_overdue"}


class SeatVerbs(Judging):
    """See the module."""

    # ------------------------------------------------------------ bundles

    def install(self, name: str, wish: dict[str, Any], *, same: bool, session: bool = False) -> None:
        """``same``: nothing is changed; ``session``: under another hosting, as after a return."""
        made = self.made(name, wish, session=session)
        placed = self.ledger.placed.get(made.entitlement_id)
        if placed is not None:
            said = self.said(made.entitlement_id)
            made = replace(made, product=said.product)  # an entitlement is of one product for good
            if same:
                made = said
            elif not session:
                made = replace(made, session_id=placed.session_id, sequence=placed.sequence + 1)
        self.put(made)

    def made(self, name: str, wish: Mapping[str, Any], *, session: bool) -> Entitlement:
        """An entitlement as wished, in the session that is hosted or, with ``session``, in one that never was."""
        lasts, starts = wish["lasts"], wish["starts"]
        changes = {key: value for key, value in wish.items() if key not in {"lasts", "starts", "features"}}
        begins = self.now.wall.replace(microsecond=0)
        changes["starts_at"] = begins + timedelta(seconds=starts)
        changes["expires_at"] = None if lasts is None else begins + timedelta(seconds=lasts)
        if wish.get("start") is Start.ON_FIRST_LEASE:
            changes["starts_at"] = changes["expires_at"] = None
        features = tuple(one.made(begins) for one in wish.get("features", ()))
        made = entitlement(name, **changes, features=features)
        if session:
            self.sessions += 1
            return replace(made, session_id=f"ses_{name}{self.sessions:A>18}")
        return made

    def put(self, made: Entitlement) -> None:
        """Import a bundle with one entitlement and tell what it may have ended."""
        entitlement_id, sessions = made.entitlement_id, set(self.ledger.closed_sessions)
        placed = self.ledger.placed.get(entitlement_id)
        used = {key: dict(one.used) for key, one in self.books.accounts.items()}
        self.watch()
        outcome = self.ledger.install(self.vendor.bundle(made, now=self.now), actor="admin", now=self.now)
        (step,) = outcome.steps
        assert (made.session_id in sessions) == (step.change is Change.SKIPPED), "a closed session was hosted again"
        if step.change is not Change.SKIPPED:
            self.put_in_force(made, other_session=placed is not None and placed.session_id != made.session_id)
        assert used == {key: dict(one.used) for key, one in self.books.accounts.items()}
        self.judge()

    def put_in_force(self, made: Entitlement, *, other_session: bool) -> None:
        entitlement_id = made.entitlement_id
        if other_session:
            for kept in (self.books.started, self.books.assigned, self.books.taken_back):
                kept.pop(entitlement_id, None)
            self.books.returning.discard(entitlement_id)
        if made.status is not Status.ACTIVE:
            self.excused |= {key for key, known in self.known.items() if known.entitlement_id == entitlement_id}
        if self.sat_before(entitlement_id) and made.starts_on_first_lease and made.status is Status.ACTIVE:
            self.books.started.setdefault(entitlement_id, self.now.wall.replace(microsecond=0))
        begun = self.books.started.get(entitlement_id)
        in_force = self.ledger.pools[entitlement_id].entitlement
        if not self.new_leases():
            assert in_force == (made.begun(begun) if begun and made.starts_on_first_lease else made)
        if made.concurrency is Concurrency.NODE_LOCK:  # the time until release may be another now
            self.books.bound = {key: at for key, at in self.books.bound.items() if key[0] != entitlement_id}

    def sat_before(self, entitlement_id: str) -> bool:
        """Whether anybody sat there when the verb began."""
        return any(one[4] == entitlement_id for one in self.sitting)

    def switch(self, name: str, wanted: Status) -> None:
        if id_of(name) not in self.ledger.pools:
            return
        said = self.said(id_of(name))
        self.put(replace(said, status=wanted, sequence=said.sequence + 1))
        left = self.ledger.pools[said.entitlement_id].leases.values()
        assert wanted is Status.ACTIVE or not [one for one in left if one.until is None]

    def older_bundle(self, sequence: int) -> None:
        lower = self.ledger.server.sequence_seen - sequence
        old = self.vendor.bundle(entitlement("old"), now=self.now)
        self.vendor.sequence -= 1
        if lower < 1 or lower > self.ledger.server.sequence_seen:
            return
        with pytest.raises(RefusedDocument):
            self.ledger.install(replace(old, kept=replace(old.kept, sequence=lower)), actor="admin", now=self.now)

    def bundle_out_of_its_dates(self) -> None:
        self.vendor.sequence += 1
        self.ledger.server.remember_sequence(self.vendor.sequence)
        assert self.vendor.sequence == self.ledger.server.sequence_seen

    def check_out(
        self,
        lease_id: str,
        holder: Holder,
        seats: int,
        product: str,
        code: str | None,
        *,
        wait: bool,
        features: tuple[tuple[str, int], ...] = (),
    ) -> None:
        content = f"{holder} {seats} {product} {code} {features}"
        wish = checkout(
            lease_id, content=content, product=product, seats=seats, activation_code=code, features=features
        )
        self.ask(replace(wish, holder=holder, address=ADDRESSES.get(holder.seat_id.split()[0])), wait=wait)

    def check_out_again(self, lease_id: str, *, wait: bool, waiting: bool) -> None:
        lease_id = self.waits(lease_id) if waiting else self.live(lease_id)
        known, waiter = self.known.get(lease_id), self.ledger.waiting.get(lease_id)
        if known is not None:
            self.ask(replace(known.wish, nonce="another"), wait=wait)
        elif waiter is not None:
            self.ask(replace(waiter.checkout, nonce="another"), wait=wait)

    def check_out_as_somebody_else(self, lease_id: str, *, secret: bool, waiting: bool) -> None:
        lease_id = self.waits(lease_id) if waiting else self.live(lease_id)
        known, waiter = self.known.get(lease_id), self.ledger.waiting.get(lease_id)
        wish = known.wish if known else waiter.checkout if waiter else None
        if wish is None:
            return
        other = replace(wish, secret=b"?" * 32) if secret else replace(wish, content=b"?" * 32)
        before = self.fingerprint()
        with pytest.raises(LeaseIdTaken):
            self.ledger.checkout(other, now=self.now, wait=True)
        assert before == self.fingerprint()

    def check_out_plainly(self, lease_id: str, holder: Holder, seats: int, *, wait: bool) -> None:
        self.check_out(lease_id=lease_id, holder=holder, seats=seats, product="cad", code=None, wait=wait)

    def check_out_many(self, first: int, holder: Holder, count: int, seats: int) -> None:
        for lease_id in IDS[first : first + count]:
            other = replace(holder, seat_id=f"{holder.seat_id} {lease_id}")
            self.check_out(lease_id=lease_id, holder=other, seats=seats, product="cad", code=None, wait=True)

    def all_beat(self, lease_ids: list[str]) -> None:
        for lease_id in lease_ids:
            self.beat(lease_id=lease_id, step=1)

    def time_passes_and_all_is_swept(self, seconds: float, *, settle: bool) -> None:
        self.seconds += seconds
        self.sweep(limit=2_000)
        if settle:
            self.commit()

    def ask(self, wish: Checkout, *, wait: bool) -> None:
        self.watch()
        self.wished = wish
        before = self.fingerprint()
        lease = self.ledger.leases.get(wish.lease_id)
        known = self.known.get(wish.lease_id)
        told, sweeps = self.explained(wish), self.something_is_due(wish.product)
        assert before == self.fingerprint(), "an explanation changed something"
        try:
            verdict = self.ledger.checkout(wish, now=self.now, wait=wait)
        except Fault as fault:
            self.judge_refused_question(fault, known, lease)
            assert before == self.fingerprint()
            return
        if isinstance(verdict, Seated):
            assert verdict.lease is self.ledger.leases[wish.lease_id]
            if lease is not None:
                assert verdict.again
                assert before == self.fingerprint(), "a repeated checkout changed something"
        if lease is None and told is not None:
            self.was_explained(told.outcome, verdict, sweeps=sweeps)
        self.judge()
        if isinstance(verdict, Queued):
            waiting = self.ledger.waiting.get(wish.lease_id)
            assert waiting is not None
            assert waiting.open
        if isinstance(verdict, Denial | Queued):
            self.no_free_seat_was_withheld(wish, verdict)

    def judge_refused_question(self, fault: Fault, known: Known | None, lease: Lease | None) -> None:
        match fault:
            case LeaseEnded():
                over = known is not None and self.is_over(known)
                assert known is None or lease is None or lease.state is LeaseState.LINGERING or over
            case StillBorrowed():
                assert self.is_without_terms(known)
            case ClockBehind():
                assert self.state is ClockState.BEHIND
            case LeaseIdTaken() | BadActivationCode() | UnknownProduct():
                pass
            case _:
                raise fault

    def explained(self, wish: Checkout) -> Explanation | None:
        """What the administrator would be told of it now."""
        try:
            return self.ledger.explain(wish, now=self.now)
        except (BadActivationCode, UnknownProduct):
            return None

    def something_is_due(self, product: str) -> bool:
        return any(self.is_due(one) for one in self.ledger.leases.values() if one.product == product)

    def was_explained(self, outcome: Seat | Denial, verdict: Seated | Denial | Queued, *, sweeps: bool) -> None:
        """What was said beforehand is what came of it, but for what a denial sweeps first."""
        if isinstance(outcome, Seat):
            assert isinstance(verdict, Seated), "what was explained as granted was refused"
            assert outcome.pool.entitlement.entitlement_id == verdict.lease.entitlement_id
        elif not sweeps:
            assert not isinstance(verdict, Seated), "what was explained as refused was granted"
            assert isinstance(verdict, Queued) or (outcome.code, outcome.rule) == (verdict.code, verdict.rule)

    def no_free_seat_was_withheld(self, wish: Checkout, verdict: Denial | Queued) -> None:
        if isinstance(verdict, Denial) and verdict.code in LICENSE_CODES:
            return
        assert wish.lease_id not in self.ledger.leases, "denied and granted at once"
        pools = self.pools_of(wish.product)
        ahead = [waiter.checkout for waiter in self.ledger.waiting if waiter.open]
        mine = [one.lease_id for one in ahead]
        if wish.lease_id in mine:
            ahead = ahead[: mine.index(wish.lease_id)]
        rank = self.books.rules.priority if wish.product == "cad" else lambda _one: 0
        ahead = [one for one in ahead if rank(one) >= rank(wish)]
        for terms in pools:
            if not self.fits(wish, terms) or self.site_refuses(wish, terms):
                continue
            promised = any(
                self.eligible(one, terms) and self.site_refuses(one, terms) not in {"holder_limit", "excluded"}
                for one in ahead
            )
            assert promised, f"{wish.lease_id} was denied although {terms.entitlement_id} has a seat for it"

    def stop_waiting(self, lease_id: str) -> None:
        lease_id = self.waits(lease_id)
        waiter = self.ledger.waiting.get(lease_id)
        if waiter is None or not waiter.open:
            return
        self.watch()
        try:
            verdict = self.ledger.stop_waiting(lease_id, now=self.now)
        except Fault as fault:
            if not isinstance(fault, BadActivationCode | UnknownProduct | ClockBehind):
                raise
            return
        self.judge()
        if isinstance(verdict, Denial):
            assert verdict.queue_position is not None
            self.no_free_seat_was_withheld(waiter.checkout, verdict)

    def connection_lost(self, lease_id: str) -> None:
        lease_id = self.waits(lease_id)
        waiter = self.ledger.waiting.get(lease_id)
        self.watch()
        self.ledger.waiting.close(lease_id, elapsed=self.now.elapsed)
        if waiter is not None:
            self.ledger.serve(waiter.checkout.product, now=self.now)
            assert lease_id not in self.ledger.leases, "granted to somebody who has gone"
        self.judge()

    def beat(self, lease_id: str, step: int) -> None:
        lease_id = self.live(lease_id)
        known = self.known.get(lease_id)
        if known is None or self.ledger.is_pending(lease_id):
            return
        lease = self.ledger.leases[lease_id]
        number, nonce = (known.beat or 0) + step, f"nonce {step} {self.seconds}"
        before = lease.deadline, lease.beat, lease.nonce
        try:
            self.ledger.heartbeat(lease_id, secret=known.wish.secret, beat=number, nonce=nonce, now=self.now)
        except LeaseEnded:
            assert self.is_over(known) or lease.state is LeaseState.LINGERING
            return
        except StillBorrowed:
            assert self.is_without_terms(known)
            assert before == (lease.deadline, lease.beat, lease.nonce)
            return
        if known.until is not None:
            assert before == (lease.deadline, lease.beat, lease.nonce), "a beat changed a borrowed lease"
            return
        known.beat, known.nonce, known.deadline = number, nonce, self.now.elapsed + known.ttl + GRACE
        if lease_id in self.committed:
            self.committed[lease_id] = replace(known)

    def beat_of_a_clone(self, lease_id: str, *, lower: bool) -> None:
        lease_id = self.live(lease_id)
        known = self.known.get(lease_id)
        lease = self.ledger.leases.get(lease_id)
        if known is None or lease is None or lease.state is LeaseState.LINGERING or self.ledger.is_pending(lease_id):
            return
        if known.beat is None or known.until is not None:
            return
        before = lease.deadline, lease.beat, lease.nonce
        beat, nonce = (known.beat - 1, "x") if lower else (known.beat, "not mine")
        with pytest.raises((LeaseCloned, LeaseEnded)):
            self.ledger.heartbeat(lease_id, secret=known.wish.secret, beat=beat, nonce=nonce, now=self.now)
        with pytest.raises((UnknownLease, LeaseEnded)):
            self.ledger.heartbeat(lease_id, secret=b"?" * 32, beat=known.beat + 1, nonce="y", now=self.now)
        assert before == (lease.deadline, lease.beat, lease.nonce)

    def check_in(self, lease_id: str, *, right: bool, waiting: bool) -> None:
        lease_id = self.waits(lease_id) if waiting else self.live(lease_id)
        known, waiter = self.known.get(lease_id), self.ledger.waiting.get(lease_id)
        wish = known.wish if known else waiter.checkout if waiter else checkout(lease_id)
        before = self.fingerprint()
        self.watch()
        if right:
            self.excuse(lease_id)
        self.ledger.checkin(lease_id, secret=wish.secret if right else b"?" * 32, now=self.now)
        if not right:
            assert before == self.fingerprint(), "a wrong secret changed something"
        elif known is not None:
            left = self.ledger.leases.get(lease_id)
            assert left is None or left.state is LeaseState.LINGERING
        self.judge()

    def release(self, lease_id: str) -> None:
        lease_id = self.live(lease_id)
        if lease_id not in self.ledger.leases:
            return
        known = self.known.get(lease_id)
        self.watch()
        if known is not None and known.until is not None and self.now.wall < known.until:
            before = self.fingerprint()
            with pytest.raises(StillBorrowed):
                self.ledger.release(lease_id, actor="admin", reason="needed elsewhere", now=self.now)
            assert before == self.fingerprint()
            return
        self.excuse(lease_id)
        self.ledger.release(lease_id, actor="admin", reason="needed elsewhere", now=self.now)
        assert lease_id not in self.ledger.leases
        self.judge()

    def excuse(self, lease_id: str) -> None:
        """Its end has a reason; so has its machine's."""
        self.excused.add(lease_id)
        lease = self.ledger.leases.get(lease_id)
        if lease is not None:
            self.freed.add((lease.entitlement_id, lease.holder.seat_id))

    def time_passes(self, seconds: float) -> None:
        self.seconds += seconds

    def sweep(self, limit: int) -> None:
        self.watch()
        more = self.ledger.sweep(now=self.now, limit=limit)
        self.judge()
        if not more:
            assert [] == [one for one in self.ledger.leases.values() if self.is_due(one)], "the sweep left what is due"
            self.nothing_is_over()

    def is_due(self, lease: Lease) -> bool:
        if lease.until is not None:
            return self.now.wall >= lease.until
        pool = self.ledger.pools.get(lease.entitlement_id)
        terms = None if pool is None else pool.entitlement
        locked = terms is not None and terms.concurrency is Concurrency.NODE_LOCK
        stays = terms is not None and locked and terms.node_lock_release is None
        if lease.state is LeaseState.LINGERING and lease.mode is Mode.NODE_LOCKED and stays:
            return False
        return self.now.elapsed >= lease.deadline

    def nothing_is_over(self) -> None:
        """After a sweep that has looked at everything: what is over was told."""
        for (entitlement_id, key), account in self.books.accounts.items():
            pool = self.ledger.pools.get(entitlement_id)
            feature = None if pool is None else pool.entitlement.feature(key)
            if pool is None or feature is None:
                continue
            for lot in lots_of(feature, pool.entitlement, self.now.wall):
                assert lot.ends > self.now.wall or lot.lot_id in account.ended, "a lot is over and nobody was told"

    def clock(self, state: ClockState) -> None:
        self.state = state
        self.ledger.server.note_clock(now=self.now)

    def suspended(self) -> None:
        self.seconds += 7_000
        self.ledger.resume(outage_from=self.now.wall, outage_to=self.now.wall, cause="suspended", now=self.now)
        self.extend()

    def extend(self) -> None:
        for known in (*self.known.values(), *self.committed.values()):
            known.deadline = max(known.deadline, self.now.elapsed + known.ttl + GRACE)

    def seal(self) -> None:
        report_id = f"rpt_{self.ledger.head.seq:0>22}"
        before = self.ledger.server.acknowledged
        if report_id in self.ledger.reports:
            return
        report = self.ledger.seal(report_id, pseudonymised=False, actor="admin", now=self.now)
        assert before.seq + 1 == report.from_seq, "a line that nobody acknowledged is missing"
        assert before.hash == report.prev_head
        assert (self.ledger.head.seq, self.ledger.head.hash) == (report.to_seq, report.head)

    def acknowledge(self, pick: int) -> None:
        reports = list(self.ledger.reports.values())
        if not reports:
            return
        report = reports[pick % len(reports)]
        taken = receipt(
            report.report_id,
            up_to_seq=report.to_seq,
            head=report.head,
            name=f"{report.to_seq}",
            now=self.now,
        )
        before = self.ledger.server.acknowledged.seq
        self.ledger.acknowledge(taken, usage_carry="", actor="admin", now=self.now)
        assert max(before, report.to_seq) == self.ledger.server.acknowledged.seq
