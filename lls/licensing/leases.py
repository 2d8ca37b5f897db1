"""The leases that are held: how they come, change, end, and what they look like while a commit is under way.

Rules
1. State has one door: ``_seat``, ``_unseat`` and ``_change`` move leases. Each remembers what was there before the
   group, so that reads can show the last commit and nothing of what is in flight.
2. A floating lease ends when its time and grace are over. A node-locked one leaves its seat to its machine then: it
   lingers, without an end where the vendor names none. A borrowed one ends at its date, whatever else happens: what
   left with a laptop is not lent a second time.
3. Heartbeats and reads touch nothing that the store keeps.
4. Time comes in with each call (``now``), the key for commitments at construction. No clock, no randomness, no logging
   here.

It refuses to own who may sit down (``seats``) and what is hosted (``hosting``).
"""

from __future__ import annotations

import hmac
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from lls.faults import Fault, LeaseCloned, LeaseEnd, LeaseEnded, StillBorrowed, UnknownLease
from lls.licensing.accounts import Accounts
from lls.licensing.changes import Batch, Ended, Fact, Loaded, Placed
from lls.licensing.deadlines import Deadlines
from lls.licensing.denial import Denial
from lls.licensing.denials import Folding, Repeats
from lls.licensing.entitlement import Concurrency, Entitlement
from lls.licensing.instant import Now
from lls.licensing.journal import Head, Kind
from lls.licensing.lease import NOTHING_HELD, Lease, LeaseState, Mode
from lls.licensing.loans import Loans
from lls.licensing.meters import Meters
from lls.licensing.policy import Policy
from lls.licensing.pools import Pools
from lls.licensing.posting import Posting
from lls.licensing.remembered import Remembered
from lls.licensing.seating import Pool
from lls.licensing.server import Server
from lls.licensing.terms import ServerTerms
from lls.licensing.waiting import Waiter, Waiting

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


Verdict: TypeAlias = Seated | Denial | Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the site chose, in seconds and beats a second."""

    grace_seconds: float = 30.0
    heartbeats_per_second: int = 2_000


class Leases:
    """The leases of one server; see the module."""

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
        policy: Policy = Policy(),  # noqa: B008 - frozen
    ) -> None:
        """Build from what a store loaded; every floating lease gets a full time to live and grace.

        ``entitlements`` come from verified bundles; ``problems`` name those that did not verify again.
        """
        self.setting = setting
        self._posting = Posting(loaded.head, loaded.facts, commit_to=commit_to)
        self.server = Server(self._posting, terms=terms, host=host)
        self.accounts = Accounts(self._posting, users=loaded.users, keys=loaded.api_keys)
        self.problems = dict(problems)
        self.placed: dict[str, Placed] = {placed.entitlement_id: placed for placed in loaded.placed}
        self.meters = Meters(self._posting, lots=loaded.lots, requests=loaded.requests)
        self.pools = Pools()
        self.pools.govern(policy)
        for entitlement in entitlements.values():
            self._open_pool(self.dated(entitlement), now=None)
        self.leases: dict[str, Lease] = {}
        self.loans = Loans()
        self._deadlines: dict[str, Deadlines] = {}
        self._remembered = Remembered(loaded.ended)
        self.waiting = Waiting()
        self._left: list[Waiter] = []
        """Who gave a place up in the group in flight, served or not."""
        self._folding = Folding()
        self._folded: list[tuple[Denial, str]] = []
        self._taken: list[Repeats] = []
        self.resolved: dict[str, Verdict] = {}
        self.clone_alarms = 0
        self._before: dict[str, Lease | None] = {}
        self._seats_before: dict[str, int] = {}
        self._terms_before: dict[str, Entitlement | None] = {}
        self._placed_before: dict[str, Placed | None] = {}
        self._generation = self._moves = 0
        self._built_at = now.elapsed
        for lease in loaded.leases:
            self._restore(lease, now)
        for pool in self.pools.values():
            pool.over = pool.over_by > 0
        self.meters.resume(now)

    def dated(self, entitlement: Entitlement) -> Entitlement:
        """The terms with the dates that the first lease has set, where the vendor left them to it."""
        placed = self.placed.get(entitlement.entitlement_id)
        started = placed.started_at if placed is not None else None
        return entitlement.begun(started) if started is not None and entitlement.starts_on_first_lease else entitlement

    def _open_pool(self, entitlement: Entitlement, *, now: Now | None) -> Pool:
        key = entitlement.entitlement_id
        pool = self.pools.open(entitlement)
        self.meters.open(entitlement, now=now)
        pool.short_of = partial(self.meters.short_of, key)
        self._tell(pool, self.placed.get(key))
        return pool

    @staticmethod
    def _tell(pool: Pool, placed: Placed | None) -> None:
        """What seating must know of an entitlement beside its terms."""
        pool.returning = placed is not None and placed.returning
        named = placed is not None and pool.entitlement.named_users.by_site
        pool.assigned = frozenset(map(str.casefold, placed.assigned)) if placed is not None and named else frozenset()

    def _restore(self, lease: Lease, now: Now) -> None:
        lease.deadline = now.elapsed + self._time_of(lease, now)
        self.leases[lease.lease_id] = lease
        pool = self.pools.get(lease.entitlement_id)
        if pool is not None:
            pool.add(lease)
        if lease.features:
            self.meters.add(lease)
        self._arm(lease)

    def _arm(self, lease: Lease) -> None:
        """Have the lease end when its time is over: by the wheel, by its date, or not at all."""
        if lease.until is not None:
            self.loans.add(lease)
        elif not self._stays(lease):
            self._wheel(lease).arm(lease)

    def _disarm(self, lease: Lease) -> None:
        if lease.until is not None:
            self.loans.remove(lease)
        self._wheel(lease).disarm(lease)

    def _stays(self, lease: Lease) -> bool:
        """Whether it waits for its machine without an end."""
        if lease.state is not LeaseState.LINGERING or lease.mode is not Mode.NODE_LOCKED:
            return False
        pool = self.pools.get(lease.entitlement_id)
        if pool is None:
            return True
        terms = pool.entitlement
        return terms.node_lock_release is None and terms.concurrency is Concurrency.NODE_LOCK

    def _wheel(self, lease: Lease) -> Deadlines:
        """One for each product: who is denied a seat of one product need not sweep the others first."""
        wheel = self._deadlines.get(lease.product)
        if wheel is None:
            wheel = self._deadlines[lease.product] = Deadlines()
        return wheel

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

    def settle(self, *, now: Now | None = None) -> None:
        """The store has taken the batch: what was in flight is now the state that everybody sees.

        ``now`` after a slow commit: whoever was granted in it could not beat meanwhile, so its time begins anew.
        """
        if now is not None:
            for lease in list(self._held_up()):
                lease.deadline = max(lease.deadline, now.elapsed + self._time_of(lease, now))
        self._posting.settle()
        self.meters.settle()
        self.accounts.settle()
        self._terms_before.clear()
        self._placed_before.clear()
        self._before.clear()
        self._seats_before.clear()
        self._folded.clear()
        self._taken.clear()
        self._left.clear()
        self.resolved = {}

    def _held_up(self) -> Iterable[Lease]:
        """The leases whose beats had to wait for this commit."""
        return (lease for lease in self.batch.leases.values() if lease is not None)

    def abandon(self) -> None:
        """The store has not taken the batch: until it is replaced, this ledger answers under the last commit's terms.

        Seats are not put back: reads take them from before the group, and no verb runs here any more.
        """
        for entitlement_id, before in self._terms_before.items():
            self.pools.put_back(entitlement_id, before)
            self.meters.put_back(entitlement_id, before)
        for entitlement_id, placed in self._placed_before.items():
            if placed is None:
                self.placed.pop(entitlement_id, None)
            else:
                self.placed[entitlement_id] = placed
            if entitlement_id in self.pools:
                self._tell(self.pools[entitlement_id], placed)
        self.meters.abandon()
        self.accounts.abandon()
        self._posting.abandon()
        self._posting.batch.facts.clear()
        self._terms_before.clear()
        self._placed_before.clear()

    def is_pending(self, lease_id: str) -> bool:
        """Whether the group in flight touches this lease: whoever asks about it waits for the commit."""
        return lease_id in self._before

    def adopt(self, old: Leases) -> None:
        """Take over what lives in memory only from the ledger that this one replaces after a failed commit.

        The later deadline, beats, waiters, folded repeats; nothing of the failed group comes along. Whom it served or
        refused was told that it failed, so each has its place again, kept for when it asks anew.
        """
        for lease_id, lease in self.leases.items():
            known = old._before.get(lease_id) or old.leases.get(lease_id)
            if known is not None and known.state is lease.state:
                lease.deadline = max(lease.deadline, known.deadline)
                lease.beat, lease.nonce, lease.clone_alarms = known.beat, known.nonce, known.clone_alarms
        self.clone_alarms, self.server.no_room = old.clone_alarms, old.server.no_room
        self._remembered.adopt(old._remembered)
        self.waiting, self._folding = old.waiting, old._folding
        for waiter in old._left:
            if waiter.checkout.lease_id not in self.leases:
                self.waiting.take_back(waiter, elapsed=self._built_at)
        if self.head == old.head:
            return  # the store has the group all the same, with its denials
        for denial, holder in old._folded:
            self._folding.forget(denial, holder)
        self._folding.restore(old._taken)

    # ---------------------------------------------------------------- at once, between and during groups

    def heartbeat(self, lease_id: str, *, secret: bytes, beat: int, nonce: str, now: Now) -> Lease:
        """Prolong a lease. The caller has made sure that it is not pending.

        Raises UnknownLease (also for a wrong secret), LeaseEnded, LeaseCloned, StillBorrowed.
        """
        lease = self.lease(lease_id, secret=secret, now=now)
        if lease.until is not None:
            return lease
        if lease.beat is not None and (beat < lease.beat or (beat == lease.beat and nonce != lease.nonce)):
            lease.clone_alarms += 1
            self.clone_alarms += 1
            raise LeaseCloned
        lease.beat, lease.nonce = beat, nonce
        lease.deadline = now.elapsed + lease.ttl + self.setting.grace_seconds
        return lease

    def lease(self, lease_id: str, *, secret: bytes, now: Now) -> Lease:
        """A live lease. Raises UnknownLease (also for a wrong secret), LeaseEnded, StillBorrowed (without terms)."""
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
            raise LeaseEnded(LeaseEnd.EXPIRED if lease.mode is Mode.NODE_LOCKED else LeaseEnd.CHECKED_IN)
        pool = self.pools.get(lease.entitlement_id)
        if lease.until is not None:
            if now.wall >= lease.until:
                raise LeaseEnded(LeaseEnd.BORROW_ENDED)
            if pool is None:  # it is away all the same (decision 0016)
                raise StillBorrowed(lease.until, hosted=False)
            return
        if pool is None or (pool.entitlement.ends_at is not None and now.wall >= pool.entitlement.ends_at):
            raise LeaseEnded(LeaseEnd.ENTITLEMENT_ENDED)

    def remaining(self, lease: Lease, now: Now) -> int:
        """Whole seconds that the client may count on: without the grace, and never past the entitlement's end."""
        if lease.until is not None:
            return max(0, int((lease.until - now.wall).total_seconds()))
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
        before = self._seats_before.get(entitlement_id)
        return self.pools[entitlement_id].in_use if before is None else before

    # ---------------------------------------------------------------- what stands above the leases

    def _leave_queue(self, lease_id: str) -> None:
        """Give its place up, if it has one."""
        waiter = self.waiting.leave(lease_id)
        if waiter is not None:
            self._left.append(waiter)

    def _keep_terms(self, pool: Pool) -> None:
        """Remember the terms of the last commit."""
        self._terms_before.setdefault(pool.entitlement.entitlement_id, pool.entitlement)

    def _place_anew(self, placed: Placed) -> None:
        """Another row for an entitlement that is hosted."""
        key = placed.entitlement_id
        self._placed_before.setdefault(key, self.placed.get(key))
        self.placed[key] = self.batch.placed[key] = placed
        if key in self.pools:
            self._tell(self.pools[key], placed)

    # ---------------------------------------------------------------- how leases move

    def _linger_seconds(self, lease: Lease, pool: Pool | None) -> int:
        """How long its seat stays for a floating lease that comes back: the vendor's time, or the site's longer one."""
        if pool is None or lease.mode is not Mode.FLOATING:
            return 0
        return max(pool.entitlement.linger_seconds, self.pools.policy.linger(lease.product))

    def _linger(self, lease: Lease, pool: Pool, seconds: float, now: Now) -> None:
        """Its holder has left, its seat stays: the same seats in use, another state, and nothing held any more."""
        self.meters.remove(lease)
        self._change(
            lease,
            pool,
            state=LeaseState.LINGERING,
            deadline=now.elapsed + seconds,
            features=NOTHING_HELD,
            silent_since=now.wall if lease.mode is Mode.NODE_LOCKED else None,
        )

    def _change(self, lease: Lease, pool: Pool | None, **changes: Any) -> Lease:
        """Another state of a lease that keeps its seats. Units are counted by the caller."""
        self._touch(lease.lease_id, lease, pool)
        self._disarm(lease)
        changed = replace(lease, armed=-1, **changes)
        if pool is not None:
            pool.remove(lease)
            pool.add(changed)
        self.leases[changed.lease_id] = self.batch.leases[changed.lease_id] = changed
        self._arm(changed)
        return changed

    def _seat(self, lease: Lease, pool: Pool) -> None:
        self._touch(lease.lease_id, None, pool)
        pool.add(lease)
        if lease.features:
            self.meters.add(lease)
        self.leases[lease.lease_id] = lease
        self.batch.leases[lease.lease_id] = lease
        self._arm(lease)

    def _unseat(self, lease: Lease, reason: LeaseEnd, now: Now) -> int:
        pool = self.pools.get(lease.entitlement_id)
        self._touch(lease.lease_id, lease, pool)
        self._disarm(lease)
        if lease.features:
            self.meters.remove(lease)
        del self.leases[lease.lease_id]
        self.batch.leases[lease.lease_id] = None
        ended = Ended(secret=lease.secret, reason=reason, at=now.wall)
        self._remembered.end(lease.lease_id, ended)
        self.batch.ended[lease.lease_id] = ended
        return pool.remove(lease) if pool is not None else 0

    def _touch(self, lease_id: str, before: Lease | None, pool: Pool | None) -> None:
        """Remember what was there before this group, once."""
        self._moves += 1
        self._before.setdefault(lease_id, before)
        if pool is not None:
            self._seats_before.setdefault(pool.entitlement.entitlement_id, pool.in_use)

    def _post_end(self, kind: Kind, lease: Lease, freed: int, now: Now, **data: object) -> None:
        self._posting.ended(kind, lease, now, freed=freed, **data)
        pool = self.pools.get(lease.entitlement_id)
        if pool is not None:
            self._note_overdraft(pool, now)
            if lease.features:
                self.meters.note_overdraft(lease.entitlement_id, now)

    def _note_overdraft(self, pool: Pool, now: Now) -> None:
        """Post when a pool goes over what was bought and when it comes back, not each step between."""
        over = pool.over_by
        if (over > 0) == pool.over:
            return
        pool.over = over > 0
        self._posting.overdraft(pool.entitlement, now, in_use=pool.in_use, over=over)

    def _seated(self, lease: Lease, *, again: bool) -> Seated:
        return Seated(lease=lease, entitlement=self.pools[lease.entitlement_id].entitlement, again=again)

    def _rearm(self, pool: Pool, now: Now) -> None:
        """Other terms may end what stayed with its machine, or let it stay."""
        for lease in pool.leases.values():
            if lease.mode is Mode.NODE_LOCKED and lease.state is LeaseState.LINGERING:
                self._disarm(lease)
                lease.deadline = now.elapsed + self._time_of(lease, now)
                self._arm(lease)

    def _time_of(self, lease: Lease, now: Now) -> float:
        """A full time for a lease after an outage of ours; for a seat that its machine has left, what is left of it."""
        if lease.state is not LeaseState.LINGERING:
            return lease.ttl + self.setting.grace_seconds
        pool = self.pools.get(lease.entitlement_id)
        if pool is None or lease.mode is not Mode.NODE_LOCKED:
            return float(self._linger_seconds(lease, pool))
        release = pool.entitlement.node_lock_release
        if release is None or lease.silent_since is None:
            return 0.0
        return min(release, max(timedelta(0), lease.silent_since + release - now.wall)).total_seconds()
