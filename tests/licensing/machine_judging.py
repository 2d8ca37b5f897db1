"""What must hold after each verb, and at every instant: of seats, ends, queues, units, loans and the site's rules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis.stateful import invariant

from lls.faults import Fault
from lls.licensing.changes import FeatureAct
from lls.licensing.entitlement import Concurrency, Entitlement, Feature, FeatureType, Sharing, Status
from lls.licensing.instant import ClockState
from lls.licensing.journal import Kind
from lls.licensing.lease import Checkout, Lease, LeaseState, Mode
from lls.licensing.terms import License
from tests.ledgers import GRACE
from tests.licensing.accounts import Account, lots_of, overdraft_lot
from tests.licensing.machine import Asked, Known, Machine, as_lease, waits_for_return
from tests.licensing.site_rules import SiteRules


class Judging(Machine):
    """See the module."""

    wished: Checkout
    """What was asked for last."""

    # ------------------------------------------------------------ judging what happened

    def watch(self) -> None:
        """Before a verb."""
        self.levels = {key: (pool.in_use, pool.entitlement) for key, pool in self.ledger.pools.items()}
        self.seated = set(self.ledger.leases)
        self.sitting = [lease.facts() for lease in self.ledger.leases.values()]
        self.waited = [(waiter.checkout, waiter.open) for waiter in self.ledger.waiting]

    def judge_fault(self, fault: Fault, *, expected: str | None, before: tuple[object, ...]) -> None:
        """A verb failed for the expected reason, and nothing has changed."""
        assert expected == fault.code
        assert before == self.fingerprint()

    def judge(self) -> None:
        """After a verb: grants fit, ends have reasons, the queue was kept."""
        for key, pool in self.ledger.pools.items():
            before, terms = self.levels.get(key, (self.orphaned(key), pool.entitlement))
            now = pool.entitlement
            same = (terms.capacity, terms.sharing, terms.concurrency) == (now.capacity, now.sharing, now.concurrency)
            if now.capacity is not None and pool.in_use > before and same:
                assert now.capacity >= pool.in_use, "a grant went beyond seats and overdraft"
        self.judge_lines()
        self.judge_ends()
        self.judge_queue()
        for lease_id in [key for key in self.ledger.leases if key not in self.seated]:
            self.judge_grant(self.ledger.leases[lease_id])
        self.judge_machines()

    def orphaned(self, entitlement_id: str) -> int:
        """Seats that were away with laptops when their entitlement came back."""
        away = [one for one in self.ledger.leases.values() if one.lease_id in self.seated]
        return self.occupied(entitlement_id, away)

    def judge_grant(self, lease: Lease) -> None:
        assert lease.lease_id not in self.known, "an id was granted twice"
        assert self.state is not ClockState.BEHIND, "something new was granted while the clock is behind"
        assert self.ledger.server.license(self.now) is License.ACTIVE
        terms = self.ledger.pools[lease.entitlement_id].entitlement
        assert terms.ends_at is None or self.now.strict < terms.ends_at
        wish = next((one for one, _ in self.waited if one.lease_id == lease.lease_id), None) or self.wished
        assert self.eligible(wish, terms)
        self.judge_policy(lease)
        self.begin_term(terms)
        locked = terms.concurrency is Concurrency.NODE_LOCK
        known = Known(
            wish=wish,
            entitlement_id=lease.entitlement_id,
            ttl=lease.ttl,
            deadline=self.now.elapsed + lease.ttl + GRACE,
            mode=Mode.NODE_LOCKED if locked else Mode.FLOATING,
            nonce=lease.nonce,
        )
        self.known[lease.lease_id] = known
        self.books.bound.pop((lease.entitlement_id, wish.holder.seat_id), None)
        for key, amount in wish.features:
            feature = terms.feature(key)
            assert feature is not None
            if feature.consumed:
                self.take(known, feature, amount, request_id=lease.lease_id, answer=None)
            elif feature.counted or feature.tracked:
                known.held[key] = amount if feature.counted else 1

    def begin_term(self, terms: Entitlement) -> None:
        """The first lease sets the dates, and nobody after it."""
        begun = self.books.started.get(terms.entitlement_id)
        undated = self.said(terms.entitlement_id).starts_on_first_lease
        if begun is None and undated:
            begun = self.books.started[terms.entitlement_id] = self.now.wall.replace(microsecond=0)
        assert not undated or begun == terms.starts_at

    def said(self, entitlement_id: str) -> Entitlement:
        """The terms as the vendor wrote them last."""
        return self.vendor.said[self.ledger.placed[entitlement_id].bundle_id][entitlement_id]

    def take(
        self,
        known: Known,
        feature: Feature,
        amount: int,
        *,
        request_id: str,
        answer: tuple[int, int | None, int | None] | None,
    ) -> None:
        """Units were used up, says an answer."""
        terms = self.ledger.pools[known.entitlement_id].entitlement
        account = self.books.account(known.entitlement_id, feature.key)
        room = account.room(feature, terms, self.now, level=0)
        assert room is None or amount <= room, "more was used than there was"
        own = feature.key if request_id == known.wish.lease_id else ""
        self.books.asked[known.wish.lease_id, request_id, own] = Asked(
            act=FeatureAct.USE,
            feature=feature.key,
            amount=amount,
            entitlement_id=known.entitlement_id,
            secret=known.wish.secret,
            at=self.seconds,
            strict=self.strict,
            answer=answer,
            draws=account.take(amount, feature, terms, self.now),
        )

    def judge_lines(self) -> None:
        """What the group in flight says of lots that ended: each is over, or nobody names it any more."""
        entries = self.ledger.batch.entries
        for entry in entries[self.read :]:
            if entry.kind is Kind.GRANT_ENDED:
                self.judge_lost(entry.data["entitlement_id"], entry.data["feature"], entry.data)
        self.read = len(entries)

    def judge_lost(self, entitlement_id: str, key: str, data: Any) -> None:
        account = self.books.account(entitlement_id, key)
        pool = self.ledger.pools.get(entitlement_id)
        lot_id, used = data["lot"], account.used.get(data["lot"], 0)
        assert used == data["consumed"], "the journal tells another use of a lot than was answered"
        assert data["amount"] == data["consumed"] + data["lost"]
        assert lot_id not in account.ended, "a lot ended twice"
        if "into" in data:
            self.judge_carried(entitlement_id, key, data)
            return
        account.ended.add(lot_id)
        known, feature = account.known.get(lot_id), None if pool is None else pool.entitlement.feature(key)
        given = {known.amount if known is not None else used} | ({used} if entitlement_id in self.blind else set())
        if feature is not None:
            given |= {one.amount for one in feature.grants if one.grant_id == lot_id} | {feature.value}
        assert data["amount"] in {max(amount, used) for amount in given}
        if pool is None:
            return
        named = [] if feature is None else lots_of(feature, pool.entitlement, self.now.wall)
        lot = next((one for one in named if one.lot_id == lot_id), known if lot_id.startswith("allowance 2") else None)
        gone = lot_id not in {one.lot_id for one in named}
        assert gone or (lot is not None and lot.ends <= self.now.wall), "a lot ended before its end"

    def judge_carried(self, entitlement_id: str, key: str, data: Any) -> None:
        """Another start gives the month in force another name; what was used goes on there, and can be undone there."""
        account, lot, into = self.books.account(entitlement_id, key), data["lot"], data["into"]
        terms = self.ledger.pools[entitlement_id].entitlement
        feature = terms.feature(key)
        assert feature is not None
        month = overdraft_lot(feature, terms, self.now.wall).removeprefix("overdraft")
        assert into == lot.partition(" ")[0] + month != lot
        assert not data["lost"]
        account.used[into] = account.used.get(into, 0) + account.used.pop(lot)
        for asked in self.books.asked.values():
            if (asked.entitlement_id, asked.feature) == (entitlement_id, key) and lot in asked.draws:
                asked.draws[into] = asked.draws.pop(lot)

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
            if known.until is not None:
                late, over = False, self.now.wall >= known.until
                assert over or lease_id in self.excused, "a borrowed seat came back before its end"
            assert late or over or lease_id in self.excused, "a lease that was beaten in time ended by itself"
            if known.mode is Mode.NODE_LOCKED and late and not over and lease_id not in self.excused:
                key = known.entitlement_id, known.wish.holder.seat_id
                self.books.bound[key] = max(known.deadline, self.books.bound.get(key, 0.0))
            del self.known[lease_id]

    def judge_machines(self) -> None:
        """The seat of a machine whose lease is over waits for that machine."""
        for (entitlement_id, machine), deadline in list(self.books.bound.items()):
            pool = self.ledger.pools.get(entitlement_id)
            kept = pool is not None and any(one.holder.seat_id == machine for one in pool.leases.values())
            terms = None if pool is None else pool.entitlement
            if kept and terms is not None and terms.concurrency is Concurrency.NODE_LOCK:
                continue
            over = terms is None or terms.status is not Status.ACTIVE or terms.concurrency is not Concurrency.NODE_LOCK
            over = over or (terms is not None and terms.ends_at is not None and self.now.wall >= terms.ends_at)
            release = None if terms is None else terms.node_lock_release
            late = release is not None and self.now.elapsed >= deadline + release.total_seconds()
            freed = (entitlement_id, machine) in self.freed
            assert over or late or freed, "a machine's seat was taken from it"
            del self.books.bound[entitlement_id, machine]

    def judge_policy(self, lease: Lease) -> None:
        """What a new lease may not have broken, whatever else the verb did: all of it still holds afterwards."""
        rules = self.books.rules
        if lease.product != "cad" or not rules.text:
            return
        assert not rules.excluded(lease), "somebody who is excluded was let in"
        pools = self.pools_of("cad")
        shared = any(one.sharing is not Sharing.NONE or one.concurrency is Concurrency.NODE_LOCK for one in pools)
        crowded = any(one.capacity is not None and self.occupied(one.entitlement_id) > one.capacity for one in pools)
        # Who leaves a shared seat, or one too many, frees nothing, and is missing in its reservation all the same.
        several = len(self.new_leases()) > 1 or bool(self.seated - set(self.ledger.leases))
        if self.taken(lease) <= 0 or (several and (shared or crowded)):
            return
        here = self.counted()
        for limit in rules.most:
            for whose in limit.of(lease):
                theirs = [one for one in here if whose in limit.of(one)]
                assert self.seats_of(theirs, pools) <= limit.seats, "a grant went over a limit"
        left = self.left_by_reservations(lease, here)
        assert left is None or left >= 0, "a reserved seat was given to somebody else"

    def taken(self, lease: Lease) -> int:
        """The seats that it newly occupied, as its line says."""
        lines = (entry.data for entry in self.ledger.batch.entries if entry.kind is Kind.GRANTED)
        return next(int(data["taken"]) for data in lines if data["lease_id"] == lease.lease_id)

    def new_leases(self) -> set[str]:
        return self.ledger.leases.keys() - self.seated

    def counted(self) -> list[Lease]:
        """Who sits in a pool of cad."""
        here = [one for one in self.ledger.leases.values() if one.product == "cad"]
        return [one for one in here if one.entitlement_id in self.ledger.pools]

    def seats_of(self, leases: list[Lease], pools: list[Entitlement]) -> int:
        """The seats that these leases would occupy alone."""
        return sum(self.occupied(one.entitlement_id, leases, terms=one) for one in pools)

    def left_by_reservations(self, one: Checkout | Lease, here: list[Lease]) -> int | None:
        """What is free for it beyond what is kept for others; None: nothing need be kept. At most all is ever kept."""
        rules = self.books.rules
        pools = [terms for terms in self.pools_of("cad") if self.is_in_force(terms)]
        in_force = [(place, kept) for place, kept in enumerate(rules.kept) if kept.hour(self.now.wall)]
        if not in_force or any(terms.capacity is None for terms in pools):
            return None
        capacity = sum(terms.capacity or 0 for terms in pools)
        free = sum(max(0, (terms.capacity or 0) - self.occupied(terms.entitlement_id)) for terms in pools)
        own, bought, unshared = self.belongs(one, rules), sum(terms.seats or 0 for terms in pools), capacity
        for place, kept in in_force:
            seats = min(kept.seats(bought), unshared)
            unshared -= seats
            theirs = [lease for lease in here if self.belongs(lease, rules) == place]
            if place != own:
                free -= max(0, seats - self.seats_of(theirs, pools))
        return free

    @staticmethod
    def belongs(one: Checkout | Lease, rules: SiteRules) -> int | None:
        return next((place for place, kept in enumerate(rules.kept) if kept.who(one)), None)

    def is_in_force(self, terms: Entitlement) -> bool:
        begun = terms.starts_at is None or self.now.wall >= terms.starts_at
        # A first lease begins no term that would be over by a clock that jumped: no seat of it can be had now.
        dated = terms.begun(self.now.wall.replace(microsecond=0)) if terms.starts_on_first_lease else terms
        over = dated.ends_at is not None and self.now.strict >= dated.ends_at
        coming = terms.status is Status.ACTIVE and terms.entitlement_id not in self.books.returning
        return begun and not over and coming

    def site_refuses(self, wish: Checkout, terms: Entitlement) -> str | None:
        """The site's rules once more: which code stands against a seat there now; None: none."""
        rules = self.books.rules
        if wish.product != "cad" or not rules.text:
            return None
        if rules.excluded(wish):
            return "excluded"
        here, pools = self.counted(), self.pools_of("cad")
        mine = [one for one in here if one.entitlement_id == terms.entitlement_id]
        locked = terms.concurrency is Concurrency.NODE_LOCK
        back = next((one for one in reversed(mine) if waits_for_return(one, wish.holder, locked=locked)), None)
        stay = [one for one in here if one is not back]
        then = [*stay, as_lease(wish, terms)]
        taken = self.seats_of(then, [terms]) - self.seats_of(here, [terms])
        if taken <= 0:
            return None
        for limit in rules.most:
            for whose in limit.of(wish):
                before = self.seats_of([one for one in here if whose in limit.of(one)], pools)
                after = self.seats_of([one for one in then if whose in limit.of(one)], pools)
                if before < after > limit.seats:
                    return "holder_limit"
        left = self.left_by_reservations(wish, stay)
        return "reserved" if left is not None and left < taken else None

    def judge_queue(self) -> None:
        """Whoever was seated out of the queue took nothing that an earlier open waiter could have had."""
        if self.books.rules.counting:
            return
        still = {waiter.checkout.lease_id: waiter.checkout for waiter in self.ledger.waiting if waiter.open}
        for place, (wish, _open) in enumerate(self.waited):
            lease = self.ledger.leases.get(wish.lease_id)
            if lease is None or wish.lease_id in self.seated:
                continue
            earlier = [still[one.lease_id] for one, is_open in self.waited[:place] if is_open and one.lease_id in still]
            terms = self.ledger.pools[lease.entitlement_id].entitlement
            # The first who could ever sit here is promised what is free; those behind it have no claim to it.
            first = next((one for one in earlier if one.product == wish.product and self.eligible(one, terms)), None)
            if first is not None and not self.site_refuses(first, terms) and self.fits(first, terms):
                pytest.fail(f"{first.lease_id} stood before {wish.lease_id}, was open and would have fitted")

    # ------------------------------------------------------------ at every instant

    @invariant()
    def seats_are_counted_right(self) -> None:
        pools = self.ledger.pools if hasattr(self, "ledger") else {}
        for key, pool in pools.items():
            assert self.occupied(key) == pool.in_use
            mine = {one.lease_id for one in self.ledger.leases.values() if one.entitlement_id == key}
            assert mine == set(pool.leases)

    @invariant()
    def a_borrowed_seat_is_counted_until_its_end(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for lease_id, known in self.known.items():
            if known.until is None:
                continue
            lease = self.ledger.leases[lease_id]
            assert (known.until, Mode.BORROWED) == (lease.until, lease.mode)
            assert lease_id in self.ledger.loans
            pool = self.ledger.pools.get(known.entitlement_id)
            assert pool is None or pool.leases[lease_id] is lease
        away = {lease_id for lease_id, known in self.known.items() if known.until is not None}
        assert away == {one.lease_id for one in self.ledger.loans}

    @invariant()
    def units_are_what_was_answered(self) -> None:
        """used + remaining = amount, of every lot in force; used + lost = amount, of every lot that ended."""
        for entitlement_id, pool in self.ledger.pools.items() if hasattr(self, "ledger") else ():
            terms, meters = pool.entitlement, self.ledger.meters.of(entitlement_id)
            assert {one.key for one in terms.features if one.counted or one.tracked} == set(meters)
            for feature in terms.features:
                level, account = (
                    self.level(entitlement_id, feature.key),
                    self.books.account(entitlement_id, feature.key),
                )
                if feature.key in meters:
                    assert level == meters[feature.key].level, "the meter is not what leases hold"
                if not feature.counted:
                    continue
                expected = account.figures(feature, terms, self.now, level=level)
                found = self.ledger.meters.level(None, entitlement_id, feature.key, now=self.now, committed=False)
                assert (expected.available, expected.total) == (found.available, found.total)
                assert (expected.consumed, expected.overage) == (found.consumed, found.overage)
                for told in meters[feature.key].accounts(self.now):
                    assert account.used.get(told.lot, 0) == told.used
                    assert (told.lot in account.ended) == told.ended
                    assert told.used <= told.amount
                account.learn(feature, terms, self.now.wall)
                self.what_remains(account, feature, terms, found.available)

    def what_remains(self, account: Account, feature: Feature, terms: Entitlement, available: int | None) -> None:
        if feature.type is FeatureType.ELEMENT_POOL or available is None:
            return
        lots = account.lots(feature, terms, self.now)
        granted, over = sum(lot.amount for lot in lots), account.figures(feature, terms, self.now, level=0).overage
        used = sum(min(lot.amount, account.used.get(lot.lot_id, 0)) for lot in lots)
        limit = feature.overdraft.on_top_of(granted)
        assert limit is not None
        assert granted == used + available - max(0, limit - over), "units were made or lost"

    @invariant()
    def readers_see_the_last_commit(self) -> None:
        if not hasattr(self, "ledger"):
            return
        seen = Counter(lease.lease_id for lease in self.ledger.committed_leases())
        assert set(self.shown.leases) == set(seen)
        assert all(count == 1 for count in seen.values())
        assert self.shown.leases == {lease.lease_id: lease.facts() for lease in self.ledger.committed_leases()}
        for entitlement_id in self.shown.in_use.keys() & self.ledger.pools.keys():
            assert self.shown.in_use[entitlement_id] == self.ledger.in_use(entitlement_id)
        if self.shown.at == (self.seconds, self.state):
            told = self.units_shown(committed=True)
            assert self.shown.units.items() >= {key: told[key] for key in told if key in self.shown.units}.items()

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

    @invariant()
    def who_has_priority_stands_before_the_others(self) -> None:
        if not hasattr(self, "ledger"):
            return
        queue = [one for one in self.ledger.waiting if one.checkout.product == "cad"]
        places = [(-self.books.rules.priority(one.checkout), one.number) for one in queue]
        assert sorted(places) == places, "not by priority, or not by first asking within one"
