"""A site under any order of verbs, commits, failures and restarts: its store, its vendor, and what a test knows of it.

The store is the real one (SQLite in memory, ``lls.store.sqlite``). What the ledger should hold is told from outside:
seats are counted anew, ends judged by the model's own deadlines and dates, units by ``accounts``, history by
``journal_state``. What must hold is in ``machine_judging``, the verbs in ``machine_seats`` and ``machine_life``;
``test_machine`` runs them.
"""
# ruff: noqa: SLF001 - the store's own synchronous functions are what is used here

from __future__ import annotations

import json
import sqlite3
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis.stateful import RuleBasedStateMachine

from lls.faults import WritershipLost
from lls.licensing.changes import FeatureAct, Loaded
from lls.licensing.entitlement import Concurrency, Entitlement, Feature, Sharing, Status
from lls.licensing.instant import ClockState, Now
from lls.licensing.journal import Head, verify_line
from lls.licensing.lease import Checkout, Holder, Lease, LeaseState, Mode
from lls.licensing.ledger import Ledger
from lls.licensing.usage import Fold
from lls.store import sqlite
from tests.ledgers import GRACE, T0, Vendor, entitlement
from tests.licensing.accounts import Account
from tests.licensing.journal_state import JournalState, told_by
from tests.licensing.site_rules import POLICIES, SiteRules
from tests.licensing.wishes import IDS

SERVER = "lls_AAAAAAAAAAAAAAAAAAAAAA"
REQUESTS_KEPT_SECONDS = 25 * 3_600


@dataclass(kw_only=True)
class Known:
    """What the model knows of a lease that was granted."""

    wish: Checkout
    entitlement_id: str
    ttl: int
    deadline: float
    mode: Mode = Mode.FLOATING
    beat: int | None = 0
    nonce: str | None = None
    until: datetime | None = None
    held: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Known:
        return replace(self, held=dict(self.held))


@dataclass(kw_only=True)
class Asked:
    """A call on a feature that was answered."""

    act: FeatureAct
    feature: str
    amount: int
    entitlement_id: str
    secret: bytes
    at: float
    answer: tuple[int, int | None, int | None] | None
    strict: float = 0.0
    """When, by a clock that may have jumped."""
    draws: dict[str, int] = field(default_factory=dict)
    undone: bool = False
    closed: bool = False


@dataclass(kw_only=True)
class Books:
    """What a failure takes back to the last commit."""

    accounts: dict[tuple[str, str], Account] = field(default_factory=dict)
    asked: dict[tuple[str, str, str], Asked] = field(default_factory=dict)
    """By lease, request id and, for what a checkout used up, feature."""
    assigned: dict[str, set[str]] = field(default_factory=dict)
    taken_back: dict[str, list[datetime]] = field(default_factory=dict)
    returned: dict[str, object] = field(default_factory=dict)
    returning: set[str] = field(default_factory=set)
    started: dict[str, datetime] = field(default_factory=dict)
    bound: dict[tuple[str, str], float] = field(default_factory=dict)
    """Machines whose lease was over, by entitlement and machine, with its deadline: their seats stay with them."""
    policy: int = 0

    def account(self, entitlement_id: str, key: str) -> Account:
        return self.accounts.setdefault((entitlement_id, key), Account())

    @property
    def rules(self) -> SiteRules:
        return POLICIES[self.policy]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a reader may see: the last commit."""

    leases: dict[str, tuple[object, ...]]
    in_use: dict[str, int]
    units: dict[tuple[str, str], tuple[object, ...]]
    at: tuple[float, ClockState]


JUMP_SECONDS = 2 * 86_400


class Machine(RuleBasedStateMachine):
    """One server, its store and its vendor; no verbs yet."""

    def set_up(self) -> None:
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        sqlite._migrate(self.database)
        self.epoch = sqlite._next_epoch(self.database)
        self.vendor = Vendor()
        self.seconds, self.state = 0.0, ClockState.OK
        self.distrusted: set[str] = set()  # bundles that do not verify any more
        self.blind: set[str] = set()  # entitlements that were without terms for a while
        self.ledger = self.build(sqlite._load(self.database))
        self.known: dict[str, Known] = {}
        self.committed: dict[str, Known] = {}
        self.books, self.committed_books = Books(), Books()
        self.excused: set[str] = set()  # leases whose end in the group in flight has a reason
        self.freed: set[tuple[str, str]] = set()  # and locked machines
        self.highest = 0
        self.read = 0  # lines of the group in flight that were looked at
        self.sessions = 0
        self.fold, self.history = Fold(server_id=SERVER), JournalState()
        self.chain = Head()
        self.remember()

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.commit()
            self.database.close()

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
        wall, strict = T0 + timedelta(seconds=self.seconds), T0 + timedelta(seconds=self.strict)
        behind = 600 if self.state is ClockState.BEHIND else 0
        return Now(wall=wall, strict=strict, elapsed=5_000 + self.seconds, state=self.state, behind_seconds=behind)

    @property
    def strict(self) -> float:
        """What the machine's clock says, where it runs ahead."""
        return self.seconds + (JUMP_SECONDS if self.state is ClockState.JUMPED else 0)

    def build(self, loaded: Loaded) -> Ledger:
        return self.vendor.build(loaded, self.now, distrusted=frozenset(self.distrusted))

    def remember(self) -> None:
        """The last commit, as readers must see it until the next."""
        leases = {lease_id: lease.facts() for lease_id, lease in self.ledger.leases.items()}
        self.shown = Shown(
            leases=leases,
            in_use={key: pool.in_use for key, pool in self.ledger.pools.items()},
            units=self.units_shown(committed=True),
            at=(self.seconds, self.state),
        )
        self.committed = {key: known.copy() for key, known in self.known.items()}
        self.committed_books = deepcopy(self.books)
        self.excused, self.freed = set(), set()

    def units_shown(self, *, committed: bool) -> dict[tuple[str, str], tuple[object, ...]]:
        return {
            (entitlement_id, one.key): (one.available, one.total, one.consumed, one.overage)
            for entitlement_id in self.ledger.pools
            for one in self.ledger.meters.levels(None, entitlement_id, now=self.now, committed=committed)
        }

    def occupied(
        self, entitlement_id: str, leases: list[Lease] | None = None, *, terms: Entitlement | None = None
    ) -> int:
        """Seats in use, counted anew: a shared seat is as wide as its widest lease."""
        terms = terms or self.ledger.pools[entitlement_id].entitlement
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
            locked = terms.concurrency is Concurrency.NODE_LOCK
            key = (lease.holder.seat_id,) if locked else keys.get(terms.sharing)
            if key is None or None in key:
                alone += lease.seats
            else:
                groups[key] = max(groups.get(key, 0), lease.seats)
        return alone + sum(groups.values())

    def fits(self, wish: Checkout, terms: Entitlement) -> bool:
        """Whether the wish could sit down now, were it not for the queue: judged by putting it there."""
        if not self.eligible(wish, terms) or not self.has_units(wish, terms):
            return False
        here = [one for one in self.ledger.leases.values() if one.entitlement_id == terms.entitlement_id]
        locked = terms.concurrency is Concurrency.NODE_LOCK
        back = next((one for one in here if waits_for_return(one, wish.holder, locked=locked)), None)
        before = self.occupied(terms.entitlement_id)
        after = self.occupied(terms.entitlement_id, [*(one for one in here if one is not back), as_lease(wish, terms)])
        return terms.capacity is None or after <= max(terms.capacity, before)

    def has_units(self, wish: Checkout, terms: Entitlement) -> bool:
        """Whether there are units for all that it wants."""
        for key, amount in wish.features:
            feature = terms.feature(key)
            if feature is not None and feature.counted:
                room = self.room(terms, feature)
                if room is not None and amount > room:
                    return False
        return True

    def eligible(self, wish: Checkout, terms: Entitlement) -> bool:
        opens = wish.activation_code in terms.activation_codes if wish.activation_code else not terms.activation_codes
        begun = terms.starts_at is None or self.now.wall >= terms.starts_at
        dated = terms.begun(self.now.wall.replace(microsecond=0)) if terms.starts_on_first_lease else terms
        over = dated.ends_at is not None and self.now.strict >= dated.ends_at
        features = [(terms.feature(key), amount) for key, amount in wish.features]
        sold = all(one is not None and (one.counted or (one.value and amount)) for one, amount in features)
        in_force = opens and begun and not over and terms.status is Status.ACTIVE and terms.product == wish.product
        return (
            in_force
            and sold
            and terms.entitlement_id not in self.books.returning
            and (terms.concurrency is not Concurrency.NAMED_USER or self.is_named(wish.holder, terms))
        )

    def is_named(self, holder: Holder, terms: Entitlement) -> bool:
        names = {one.lower() for one in terms.named_users.names}
        names |= self.books.assigned.get(terms.entitlement_id, set()) if terms.named_users.by_site else set()
        return holder.user is not None and holder.user.lower() in names

    def is_over(self, known: Known) -> bool:
        """Whether its entitlement (of a borrowed lease: its date) has ended, swept or not."""
        if known.until is not None:
            return self.now.wall >= known.until
        pool = self.ledger.pools.get(known.entitlement_id)
        ends_at = None if pool is None else pool.entitlement.ends_at
        return pool is None or (ends_at is not None and self.now.wall >= ends_at)

    def is_without_terms(self, known: Known | None) -> bool:
        """Whether it is away of an entitlement that is not here: the answer is `borrowed` (decision 0016)."""
        return (
            known is not None
            and known.until is not None
            and self.now.wall < known.until
            and known.entitlement_id not in self.ledger.pools
        )

    def pools_of(self, product: str) -> list[Entitlement]:
        every = [pool.entitlement for pool in self.ledger.pools.values()]
        return [terms for terms in every if terms.product == product]

    def level(self, entitlement_id: str, key: str) -> int:
        """Units that leases hold, as they were answered."""
        return sum(one.held.get(key, 0) for one in self.known.values() if one.entitlement_id == entitlement_id)

    def room(self, terms: Entitlement, feature: Feature) -> int | None:
        account, level = (
            self.books.account(terms.entitlement_id, feature.key),
            self.level(terms.entitlement_id, feature.key),
        )
        return account.room(feature, terms, self.now, level=level)

    # ------------------------------------------------------------ commit, failure, restart

    def commit(self) -> None:
        batch = self.ledger.batch
        if not batch.empty:
            sqlite._commit(self.database, batch, self.epoch, self.now.wall)
        else:
            rows = batch.leases, batch.ended, batch.placed, batch.bundles, batch.receipts, batch.lots, batch.requests
            assert not any(rows), "rows without a line"
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
            self.known = {key: known.copy() for key, known in self.committed.items()}
            self.books = deepcopy(self.committed_books)
        old, deadlines = self.ledger, {key: lease.deadline for key, lease in self.ledger.leases.items()}
        old.abandon()
        self.old_answers_the_last_commit(old)
        self.ledger = self.build(sqlite._load(self.database))
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

    def old_answers_the_last_commit(self, old: Ledger) -> None:
        """While another ledger is loaded, this one tells what was committed and nothing of the group that failed."""
        assert self.shown.leases == {lease.lease_id: lease.facts() for lease in old.committed_leases()}
        assert self.shown.in_use == {key: old.in_use(key) for key in old.pools}
        if self.shown.at == (self.seconds, self.state):
            assert self.shown.units == self.units_shown(committed=True)

    def restart(self, *, committed: bool, distrust: bool = False) -> None:
        """``distrust``: a stored bundle does not verify again, and takes out what it brought."""
        if committed:
            self.commit()
        self.known = {key: replace(known.copy(), beat=None, nonce=None) for key, known in self.committed.items()}
        self.books = deepcopy(self.committed_books)
        self.seconds += 5
        self.epoch = sqlite._next_epoch(self.database)
        loaded = sqlite._load(self.database)
        if distrust and loaded.placed:
            self.distrusted.add(min(loaded.placed, key=lambda one: one.entitlement_id).bundle_id)
        self.ledger = self.build(loaded)
        self.blind |= self.ledger.problems.keys()
        out = {one.entitlement_id for one in loaded.placed if one.bundle_id in self.distrusted}
        assert out == self.ledger.problems.keys()
        assert not out & self.ledger.pools.keys()
        self.extend()
        self.read = 0
        self.remember()
        self.ledger.note_problems(now=self.now)
        self.ledger.resume(outage_from=self.now.wall, outage_to=self.now.wall, cause="start", now=self.now)
        self.commit()

    def extend(self) -> None:
        for known in (*self.known.values(), *self.committed.values()):
            known.deadline = max(known.deadline, self.now.elapsed + known.ttl + GRACE)

    def read_journal(self) -> None:
        """Every line follows the one before it; what all lines tell is the state."""
        self.read = 0
        query = "SELECT line FROM journal WHERE seq > ? ORDER BY seq"
        for (line,) in self.database.execute(query, (self.chain.seq,)):
            read = verify_line(line, after=self.chain)
            self.chain = Head(seq=read["seq"], hash=read["hash"])
            told = json.loads(line)
            self.fold.step(told)
            self.history.step(told)
        assert self.chain == self.ledger.head
        assert told_by(self.ledger) == self.history.told(), "the journal says otherwise"
        carried = self.fold.carry()
        levels = {pool["entitlement_id"]: pool["level"] for pool in carried["pools"]}
        in_use = dict.fromkeys(self.ledger.problems, 0) | {key: one.in_use for key, one in self.ledger.pools.items()}
        assert in_use == levels, "the journal says otherwise"
        told = {(one["entitlement_id"], one["feature"]): one["level"] for one in carried["meters"] if one["level"]}
        held = {(one.entitlement_id, key) for one in self.known.values() for key in one.held if one.held[key]}
        # What a borrowed lease still holds of a feature that a new session does not name is nobody's to bill.
        named = {(key, one.key) for key, pool in self.ledger.pools.items() for one in pool.entitlement.features}
        here = {key: self.level(*key) for key in held if key in named or key in told}
        assert here == told, "the bill's levels are not what leases hold"

    def store_equals_memory(self) -> None:
        """All that a restart must bring back: everything but deadlines and beats."""
        loaded = self.build(sqlite._load(self.database))
        assert everything(self.ledger) == everything(loaded)
        mine, stored = asked_of(self.ledger), asked_of(loaded)
        assert mine.items() <= stored.items()
        oldest = self.now.wall - timedelta(seconds=REQUESTS_KEPT_SECONDS)
        assert all(stored[key].at < oldest for key in stored.keys() - mine.keys()), "an answer was forgotten too early"

    def fingerprint(self) -> tuple[object, ...]:
        """All that may matter to anybody; a verb that changes nothing leaves it alone."""
        ledger = self.ledger
        leases = [(*lease.facts(), lease.deadline, lease.beat, lease.nonce) for lease in ledger.leases.values()]
        waiting = [(waiter.checkout.lease_id, waiter.open) for waiter in ledger.waiting]
        units = self.units_shown(committed=False)
        return leases, waiting, ledger.head, ledger.facts, [pool.in_use for pool in ledger.pools.values()], units


def waits_for_return(lease: Lease, holder: Holder, *, locked: bool) -> bool:
    same = lease.holder.seat_id == holder.seat_id and (locked or lease.holder.user == holder.user)
    return lease.state is LeaseState.LINGERING and same


def as_lease(wish: Checkout, terms: Entitlement) -> Lease:
    return Lease(
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
        address=wish.address,
    )


def id_of(name: str) -> str:
    return entitlement(name).entitlement_id


def asked_of(ledger: Ledger) -> dict[Any, Any]:
    kept = ledger.meters._answered
    return {**kept._fresh, **kept._late}


def everything(ledger: Ledger) -> dict[str, object]:
    """All that a restart must bring back: everything but deadlines and beats, and old answers."""
    meters = {
        (entitlement_id, key): (meter.used, meter.ended, meter.level)
        for entitlement_id, hosted in ledger.meters._hosted.items()
        for key, meter in hosted.meters.items()
        if meter.used or meter.ended or meter.level
    }
    return {
        "head": ledger.head,
        "facts": dict(ledger.facts),
        "leases": {key: lease.facts() for key, lease in ledger.leases.items()},
        "ended": dict(ledger._remembered._ended),
        "terms": ledger.server.terms,
        "pools": {
            key: (pool.entitlement, pool.in_use, pool.over, pool.returning, pool.assigned)
            for key, pool in ledger.pools.items()
        },
        "products": {
            key: {pool.entitlement.entitlement_id for pool in one} for key, one in ledger.pools.products.items()
        },
        "placed": ledger.placed,
        "closed": ledger.closed_sessions,
        "commands": ledger.commands,
        "receipts": ledger.receipts,
        "reports": ledger.reports,
        "returns": ledger.returns,
        "borrowed": {one.lease_id for one in ledger.loans},
        "meters": meters,
        "policy": ledger.pools.policy,
    }
