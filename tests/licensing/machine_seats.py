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
from lls.licensing.instant import ClockState
from lls.licensing.lease import Checkout, Holder, LeaseState
from lls.licensing.ledger import Queued, Seated
from lls.licensing.seating import Denial
from lls.licensing.terms import Change
from tests.ledgers import GRACE, checkout, entitlement, receipt
from tests.licensing.machine import Machine, id_of
from tests.licensing.wishes import IDS

LICENSE_CODES = {"server_not_licensed", "report_overdue"}


class SeatVerbs(Machine):
    """See the module."""

    # ------------------------------------------------------------ bundles

    def install(self, name: str, wish: dict[str, Any], *, same: bool) -> None:
        lasts, starts = wish["lasts"], wish["starts"]
        changes = {key: value for key, value in wish.items() if key not in {"lasts", "starts"}}
        made = entitlement(
            name,
            **changes,
            starts_at=self.now.wall + timedelta(seconds=starts),
            expires_at=None if lasts is None else self.now.wall + timedelta(seconds=lasts),
        )
        pool = self.ledger.pools.get(made.entitlement_id)
        if pool is not None:
            made = pool.entitlement if same else replace(made, sequence=pool.entitlement.sequence + 1)
        self.watch()
        self.ledger.install(self.vendor.bundle(made, now=self.now), actor="admin", now=self.now)
        self.excused |= {key for key, known in self.known.items() if known.entitlement_id == made.entitlement_id
                         and made.status is not Status.ACTIVE}  # fmt: skip
        self.judge()

    def switch(self, name: str, wanted: Status) -> None:
        pool = self.ledger.pools.get(entitlement(name).entitlement_id)
        if pool is None:
            return
        terms = replace(pool.entitlement, status=wanted, sequence=pool.entitlement.sequence + 1)
        self.watch()
        self.ledger.install(self.vendor.bundle(terms, now=self.now), actor="admin", now=self.now)
        assert wanted is Status.ACTIVE or not self.ledger.pools[terms.entitlement_id].leases
        self.judge()

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
    ) -> None:
        content = f"{holder} {seats} {product} {code}"
        wish = checkout(lease_id, content=content, product=product, seats=seats, activation_code=code)
        self.ask(replace(wish, holder=holder), wait=wait)

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
        try:
            verdict = self.ledger.checkout(wish, now=self.now, wait=wait)
        except LeaseIdTaken:
            assert before == self.fingerprint()
            return
        except LeaseEnded:
            over = lease is not None and self.is_over(lease)
            assert known is None or lease is None or lease.state is LeaseState.LINGERING or over
            assert before == self.fingerprint()
            return
        except (BadActivationCode, ClockBehind, UnknownProduct) as fault:
            if isinstance(fault, ClockBehind) and self.state is not ClockState.BEHIND:
                raise
            assert before == self.fingerprint()
            return
        if isinstance(verdict, Seated):
            assert verdict.lease is self.ledger.leases[wish.lease_id]
            if lease is not None:
                assert verdict.again
                assert before == self.fingerprint(), "a repeated checkout changed something"
        self.judge()
        if isinstance(verdict, Queued):
            waiting = self.ledger.waiting.get(wish.lease_id)
            assert waiting is not None
            assert waiting.open
        if isinstance(verdict, Denial | Queued):
            self.no_free_seat_was_withheld(wish, verdict)

    def no_free_seat_was_withheld(self, wish: Checkout, verdict: Denial | Queued) -> None:
        if isinstance(verdict, Denial) and verdict.code in {"server_not_licensed", "report_overdue"}:
            return
        assert wish.lease_id not in self.ledger.leases, "denied and granted at once"
        pools = self.pools_of(wish.product)
        ahead = [waiter.checkout for waiter in self.ledger.waiting if waiter.open]
        mine = [one.lease_id for one in ahead]
        if wish.lease_id in mine:
            ahead = ahead[: mine.index(wish.lease_id)]
        for terms in pools:
            if not self.fits(wish, terms):
                continue
            promised = any(self.eligible(one, terms) for one in ahead)
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
        try:
            self.ledger.heartbeat(lease_id, secret=known.wish.secret, beat=number, nonce=nonce, now=self.now)
        except LeaseEnded:
            terms = self.ledger.pools.get(known.entitlement_id)
            ended = terms is None or (
                terms.entitlement.ends_at is not None and self.now.wall >= terms.entitlement.ends_at
            )
            assert ended or lease.state is LeaseState.LINGERING
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
        if known.beat is None:
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
            self.excused.add(lease_id)
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
        self.excused.add(lease_id)
        self.watch()
        self.ledger.release(lease_id, actor="admin", reason="needed elsewhere", now=self.now)
        assert lease_id not in self.ledger.leases
        self.judge()

    def time_passes(self, seconds: float) -> None:
        self.seconds += seconds

    def sweep(self, limit: int) -> None:
        self.watch()
        more = self.ledger.sweep(now=self.now, limit=limit)
        self.judge()
        if not more:
            due = [one for one in self.ledger.leases.values() if self.now.elapsed >= one.deadline]
            assert [] == due, "the sweep left what is due"

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
