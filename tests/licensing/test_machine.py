"""Any order of verbs, commits, failures and restarts: what must hold after each of them.

The store is the real one (SQLite in memory, ``lls.store.sqlite``). What the ledger should hold is told from outside:
seats are counted anew, ends judged by the model's own deadlines, denials by its own look at the seats.
"""
# ruff: noqa: SLF001 - the store's own synchronous functions are what is used here

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lls.faults import (
    BadActivationCode,
    ClockBehind,
    Fault,
    LeaseCloned,
    LeaseEnded,
    LeaseIdTaken,
    RefusedDocument,
    UnknownLease,
    UnknownProduct,
    WritershipLost,
)
from lls.licensing.entitlement import Entitlement, Sharing, Status
from lls.licensing.instant import ClockState, Now
from lls.licensing.journal import Head, verify_line
from lls.licensing.lease import Checkout, Holder, Lease, LeaseState
from lls.licensing.ledger import Ledger, Queued, Seated
from lls.licensing.seating import Denial
from lls.licensing.terms import License
from lls.licensing.usage import Fold
from lls.store import sqlite
from tests.ledgers import GRACE, T0, Vendor, checkout, entitlement, receipt
from tests.licensing.wishes import ACTIONS, IDS, NAMES, usable

SERVER = "lls_AAAAAAAAAAAAAAAAAAAAAA"

"""What may happen in a turn, how often in proportion, and with what."""

turns = st.sampled_from([name for name, (weight, _) in ACTIONS.items() for _ in range(weight)]).flatmap(
    lambda name: st.tuples(st.just(name), ACTIONS[name][1]),
)


@dataclass(kw_only=True)
class Known:
    """What the model knows of a lease that was granted."""

    wish: Checkout
    entitlement_id: str
    ttl: int
    deadline: float
    beat: int | None = 0
    nonce: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a reader may see: the last commit."""

    leases: dict[str, tuple[object, ...]]
    in_use: dict[str, int]


class Site(RuleBasedStateMachine):
    """One server, its store and its vendor."""

    @initialize(wishes=st.lists(usable, min_size=1, max_size=2))
    def begin(self, wishes: list[dict[str, Any]]) -> None:
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        sqlite._migrate(self.database)
        self.epoch = sqlite._next_epoch(self.database)
        self.vendor = Vendor()
        self.seconds, self.state = 0.0, ClockState.OK
        self.ledger = self.vendor.build(sqlite._load(self.database), self.now)
        self.known: dict[str, Known] = {}
        self.committed: dict[str, Known] = {}
        self.excused: set[str] = set()  # leases whose end in the group in flight has a reason
        self.queue: list[str] = []  # lease ids in the order of first asking
        self.highest = 0
        self.fold = Fold(server_id=SERVER)
        self.chain = Head()
        self.remember()
        for name, wish in zip(NAMES, wishes, strict=False):
            self.install(name=name, wish=wish, same=False)
        self.commit()

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.commit()
            self.database.close()

    @rule(turn=turns, settle=st.booleans())
    def turn(self, turn: tuple[str, dict[str, Any]], *, settle: bool) -> None:
        """One rule for all: Hypothesis would pick rules evenly and leave most out of each run."""
        name, chosen = turn
        getattr(self, name)(**chosen)
        if settle:
            self.commit()

    def live(self, lease_id: str) -> str:
        """A lease that exists, for that draw, when there is one."""
        known = sorted(self.known)
        return known[IDS.index(lease_id) % len(known)] if known and lease_id in IDS else lease_id

    def waits(self, lease_id: str) -> str:
        """One that waits, when there is one."""
        waiting = [waiter.checkout.lease_id for waiter in self.ledger.waiting]
        return waiting[IDS.index(lease_id) % len(waiting)] if waiting and lease_id in IDS else lease_id

    # ------------------------------------------------------------ what the test knows

    @property
    def now(self) -> Now:
        wall = T0 + timedelta(seconds=self.seconds)
        behind = 600 if self.state is ClockState.BEHIND else 0
        return Now(wall=wall, strict=wall, elapsed=5_000 + self.seconds, state=self.state, behind_seconds=behind)

    def remember(self) -> None:
        """The last commit, as readers must see it until the next."""
        leases = {lease_id: lease.facts() for lease_id, lease in self.ledger.leases.items()}
        self.shown = Shown(leases=leases, in_use={key: pool.in_use for key, pool in self.ledger.pools.items()})
        self.committed = {key: replace(known) for key, known in self.known.items()}
        self.excused = set()

    def occupied(self, entitlement_id: str, leases: list[Lease] | None = None) -> int:
        """Seats in use, counted anew: a shared seat is as wide as its widest lease."""
        sharing = self.ledger.pools[entitlement_id].entitlement.sharing
        alone, groups = 0, dict[object, int]()
        for lease in leases if leases is not None else self.ledger.leases.values():
            if lease.entitlement_id != entitlement_id:
                continue
            user, host = lease.holder.user, lease.holder.host
            keys: dict[Sharing, tuple[str | None, ...]] = {
                Sharing.USER: (user,),
                Sharing.HOST: (host,),
                Sharing.USER_HOST: (user, host),
            }
            key = keys.get(sharing)
            if key is None or None in key:
                alone += lease.seats
            else:
                groups[key] = max(groups.get(key, 0), lease.seats)
        return alone + sum(groups.values())

    def fits(self, wish: Checkout, terms: Entitlement) -> bool:
        """Whether the wish could sit down now, were it not for the queue: judged by putting it there."""
        if not self.eligible(wish, terms):
            return False
        here = [one for one in self.ledger.leases.values() if one.entitlement_id == terms.entitlement_id]
        back = next((one for one in here if self.waits_for_return(one, wish.holder)), None)
        lease = Lease(
            lease_id=wish.lease_id,
            secret=b"",
            content=b"",
            product=wish.product,
            entitlement_id=terms.entitlement_id,
            holder=wish.holder,
            seats=wish.seats,
            ttl=1,
            overdraft=False,
            granted_at=T0,
        )
        before = self.occupied(terms.entitlement_id)
        after = self.occupied(terms.entitlement_id, [*(one for one in here if one is not back), lease])
        return terms.capacity is None or after <= max(terms.capacity, before)

    @staticmethod
    def waits_for_return(lease: Lease, holder: Holder) -> bool:
        same = (lease.holder.seat_id, lease.holder.user) == (holder.seat_id, holder.user)
        return lease.state is LeaseState.LINGERING and same

    def eligible(self, wish: Checkout, terms: Entitlement) -> bool:
        opens = wish.activation_code in terms.activation_codes if wish.activation_code else not terms.activation_codes
        begun = terms.starts_at is None or self.now.wall >= terms.starts_at
        over = terms.ends_at is not None and self.now.wall >= terms.ends_at
        return opens and begun and not over and terms.status is Status.ACTIVE and terms.product == wish.product

    def is_over(self, lease: Lease) -> bool:
        """Whether its entitlement has ended, swept or not."""
        ends_at = self.ledger.pools[lease.entitlement_id].entitlement.ends_at
        return ends_at is not None and self.now.wall >= ends_at

    def pools_of(self, product: str) -> list[Entitlement]:
        every = [pool.entitlement for pool in self.ledger.pools.values()]
        return [terms for terms in every if terms.product == product]

    # ------------------------------------------------------------ judging what happened

    def watch(self) -> None:
        """Before a verb."""
        self.levels = {key: (pool.in_use, pool.entitlement) for key, pool in self.ledger.pools.items()}
        self.seated = set(self.ledger.leases)
        self.waited = [(waiter.checkout, waiter.open) for waiter in self.ledger.waiting]

    def judge(self) -> None:
        """After a verb: grants fit, ends have reasons, the queue was kept."""
        for key, pool in self.ledger.pools.items():
            before, terms = self.levels.get(key, (0, pool.entitlement))
            capacity = pool.entitlement.capacity
            if capacity is not None and pool.in_use > before and terms is pool.entitlement:
                assert capacity >= pool.in_use, "a grant went beyond seats and overdraft"
        self.judge_ends()
        self.judge_queue()
        for lease_id in set(self.ledger.leases) - self.seated:
            lease = self.ledger.leases[lease_id]
            assert lease_id not in self.known, "an id was granted twice"
            assert self.state is not ClockState.BEHIND, "something new was granted while the clock is behind"
            assert self.ledger.server.license(self.now) is License.ACTIVE
            terms = self.ledger.pools[lease.entitlement_id].entitlement
            assert terms.ends_at is None or self.now.wall < terms.ends_at
            wish = next((one for one, _ in self.waited if one.lease_id == lease_id), None) or self.wished
            self.known[lease_id] = Known(
                wish=wish,
                entitlement_id=lease.entitlement_id,
                ttl=lease.ttl,
                deadline=self.now.elapsed + lease.ttl + GRACE,
                nonce=lease.nonce,
            )

    def judge_ends(self) -> None:
        for lease_id, known in list(self.known.items()):
            lease = self.ledger.leases.get(lease_id)
            if lease is not None and lease.state is LeaseState.ACTIVE:
                continue
            pool = self.ledger.pools.get(known.entitlement_id)
            terms = None if pool is None else pool.entitlement
            over = terms is None or terms.status is not Status.ACTIVE
            over = over or (terms is not None and terms.ends_at is not None and self.now.wall >= terms.ends_at)
            late = self.now.elapsed >= known.deadline
            assert late or over or lease_id in self.excused, "a lease that was beaten in time ended by itself"
            del self.known[lease_id]

    def judge_queue(self) -> None:
        """Whoever was seated out of the queue took nothing that an earlier open waiter could have had."""
        still = {waiter.checkout.lease_id: waiter.checkout for waiter in self.ledger.waiting if waiter.open}
        for place, (wish, _open) in enumerate(self.waited):
            lease = self.ledger.leases.get(wish.lease_id)
            if lease is None or wish.lease_id in self.seated:
                continue
            earlier = [still[one.lease_id] for one, is_open in self.waited[:place] if is_open and one.lease_id in still]
            terms = self.ledger.pools[lease.entitlement_id].entitlement
            # The first who could ever sit here is promised what is free; those behind it have no claim to it.
            first = next((one for one in earlier if one.product == wish.product and self.eligible(one, terms)), None)
            if first is not None and self.fits(first, terms):
                pytest.fail(f"{first.lease_id} stood before {wish.lease_id}, was open and would have fitted")

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

    # ------------------------------------------------------------ rules: commit, failure, restart

    def commit(self) -> None:
        batch = self.ledger.batch
        if not batch.empty:
            sqlite._commit(self.database, batch, self.epoch, self.now.wall)
        else:
            assert not (batch.leases)
            assert not (batch.ended)
            assert not (batch.placed)
            assert not (batch.bundles)
            assert not (batch.receipts)
        self.ledger.settle()
        self.read_journal()
        self.remember()
        self.store_equals_memory()

    def commit_fails(self, *, kept: bool) -> None:
        """The store answers with a failure; whether it has the batch, only the next load tells."""
        if self.ledger.batch.empty:
            return
        stale = replace(self.ledger.batch, before=Head(seq=self.ledger.batch.before.seq + 1))
        with pytest.raises(WritershipLost):
            sqlite._commit(self.database, stale, self.epoch, self.now.wall)
        if kept:
            sqlite._commit(self.database, self.ledger.batch, self.epoch, self.now.wall)
        else:
            self.known = {key: replace(known) for key, known in self.committed.items()}
        old, deadlines = self.ledger, {key: lease.deadline for key, lease in self.ledger.leases.items()}
        self.ledger = self.vendor.build(sqlite._load(self.database), self.now)
        self.ledger.adopt(old)
        self.extend()
        for lease_id, lease in self.ledger.leases.items():
            if lease.state is LeaseState.ACTIVE:
                known = self.known[lease_id]
                assert deadlines.get(lease_id, 0.0) <= lease.deadline or not kept
                assert (known.beat, known.nonce) == (lease.beat, lease.nonce), "a beat was forgotten"
        self.known = {key: known for key, known in self.known.items() if key in self.ledger.leases}
        self.read_journal()
        self.remember()
        self.store_equals_memory()

    def restart(self, *, committed: bool) -> None:
        if committed:
            self.commit()
        self.known = {key: replace(known, beat=None, nonce=None) for key, known in self.committed.items()}
        self.seconds += 5
        self.epoch = sqlite._next_epoch(self.database)
        loaded = sqlite._load(self.database)
        self.ledger = self.vendor.build(loaded, self.now)
        self.extend()
        self.remember()
        self.ledger.resume(outage_from=self.now.wall, outage_to=self.now.wall, cause="start", now=self.now)
        self.commit()

    def read_journal(self) -> None:
        """Every line follows the one before it; the fold of all lines is the seats in use."""
        query = "SELECT line FROM journal WHERE seq > ? ORDER BY seq"
        for (line,) in self.database.execute(query, (self.chain.seq,)):
            read = verify_line(line, after=self.chain)
            self.chain = Head(seq=read["seq"], hash=read["hash"])
            self.fold.step(json.loads(line))
        assert self.chain == self.ledger.head
        levels = {pool["entitlement_id"]: pool["level"] for pool in self.fold.carry()["pools"]}
        assert {key: pool.in_use for key, pool in self.ledger.pools.items()} == levels, "the journal says otherwise"

    def store_equals_memory(self) -> None:
        loaded = self.vendor.build(sqlite._load(self.database), self.now)
        assert everything(self.ledger) == everything(loaded)

    def fingerprint(self) -> tuple[object, ...]:
        """All that may matter to anybody; a verb that changes nothing leaves it alone."""
        ledger = self.ledger
        leases = [(*lease.facts(), lease.deadline, lease.beat, lease.nonce) for lease in ledger.leases.values()]
        waiting = [(waiter.checkout.lease_id, waiter.open) for waiter in ledger.waiting]
        return leases, waiting, ledger.head, ledger.facts, [pool.in_use for pool in ledger.pools.values()]

    @invariant()
    def seats_are_counted_right(self) -> None:
        pools = self.ledger.pools if hasattr(self, "ledger") else {}
        for key, pool in pools.items():
            assert self.occupied(key) == pool.in_use
            mine = {one.lease_id for one in self.ledger.leases.values() if one.entitlement_id == key}
            assert mine == set(pool.leases)

    @invariant()
    def readers_see_the_last_commit(self) -> None:
        if not hasattr(self, "ledger"):
            return
        seen = Counter(lease.lease_id for lease in self.ledger.committed_leases())
        assert set(self.shown.leases) == set(seen)
        assert all(count == 1 for count in seen.values())
        assert self.shown.leases == {lease.lease_id: lease.facts() for lease in self.ledger.committed_leases()}
        for entitlement_id, in_use in self.shown.in_use.items():
            assert in_use == self.ledger.in_use(entitlement_id)

    @invariant()
    def sequences_never_go_down(self) -> None:
        if not hasattr(self, "ledger"):
            return
        stored = int(dict(self.database.execute("SELECT key, value FROM facts")).get("sequence_seen", 0))
        assert self.highest <= stored
        self.highest = stored

    @invariant()
    def nobody_sits_and_waits(self) -> None:
        if hasattr(self, "ledger"):
            assert not [one for one in self.ledger.waiting if one.checkout.lease_id in self.ledger.leases]


def everything(ledger: Ledger) -> dict[str, object]:
    """All that a restart must bring back: everything but deadlines and beats."""
    return {
        "head": ledger.head,
        "facts": dict(ledger.facts),
        "leases": {key: lease.facts() for key, lease in ledger.leases.items()},
        "ended": dict(ledger._remembered._ended),
        "terms": ledger.server.terms,
        "pools": {key: (pool.entitlement, pool.in_use, pool.over) for key, pool in ledger.pools.items()},
        "products": {
            key: {pool.entitlement.entitlement_id for pool in one} for key, one in ledger.pools.products.items()
        },
        "placed": ledger.placed,
        "closed": ledger.closed_sessions,
        "commands": ledger.commands,
        "receipts": ledger.receipts,
        "reports": ledger.reports,
    }


TestSite = Site.TestCase
TestSite.settings = settings(
    max_examples=250,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
