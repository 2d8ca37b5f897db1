"""May this holder sit here? A seat, or a denial that says which rule decided.

Rules, in the order in which they are asked
1. The activation code opens the entitlement, or the entitlement needs none. A wrong code is a fault, never journalled.
2. Standing: enabled, started, not past its grace (a new checkout in grace is granted: decision 0004).
3. Edition, version, features.
4. Seats: what the checkout would newly occupy must fit into seats and overdraft, and must not be promised to a request
   that waits and came earlier. A checkout that shares a seat, or takes its own lingering one, occupies nothing new.
5. Of several entitlements: first where nothing new is occupied, then those not in overdraft, then the longest lasting.
6. When none fits, the denial of the entitlement that came furthest in this list is the explanation.

It decides and counts; it refuses to own leases, time and history (``ledger``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from lls.faults import BadActivationCode
from lls.licensing.denial import Denial as Denial  # noqa: PLC0414 - for those that still import it from here
from lls.licensing.entitlement import Concurrency, Entitlement, Sharing, Standing
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout, Holder, Lease, LeaseState

if TYPE_CHECKING:
    from lls.licensing.meter import FeatureLevel
    from lls.licensing.pools import Pools

RETRY_AFTER_SECONDS: Final = 30
_FOREVER = datetime.max.replace(tzinfo=UTC)


class Pool:
    """The seats of one entitlement and who sits on them. Counts only; whoever adds and removes is the ledger."""

    __slots__ = (
        "_groups", "_lingering", "assigned", "entitlement", "in_use", "leases", "over", "returning", "short_of",
    )  # fmt: skip

    def __init__(self, entitlement: Entitlement) -> None:
        self.entitlement = entitlement
        self.in_use = 0
        self.over = False
        self.returning = False
        self.assigned: frozenset[str] = frozenset()
        self.short_of: Callable[..., tuple[str, FeatureLevel] | None] | None = None
        self.leases: dict[str, Lease] = {}
        self._groups: dict[tuple[str, str], dict[str, int]] = {}
        self._lingering: dict[tuple[str, str | None], Lease] = {}

    def add(self, lease: Lease) -> int:
        """Seat a lease; the seats that it newly occupies."""
        self.leases[lease.lease_id] = lease
        if lease.state is LeaseState.LINGERING:
            self._lingering[self._comes_back(lease.holder)] = lease
        taken, key = lease.seats, self._key(lease.holder)
        if key:
            before = self._level(key)
            self._groups.setdefault(key, {})[lease.lease_id] = lease.seats
            taken = self._level(key) - before
        self.in_use += taken
        return taken

    def remove(self, lease: Lease) -> int:
        """Take a lease away; the seats that come free."""
        key = self._key(lease.holder)
        before = self._level(key)
        del self.leases[lease.lease_id]
        if self._lingering.get(self._comes_back(lease.holder)) is lease:
            del self._lingering[self._comes_back(lease.holder)]
        if key and key in self._groups:
            self._groups[key].pop(lease.lease_id, None)
            if not self._groups[key]:
                del self._groups[key]
        freed = before - self._level(key) if key else lease.seats
        self.in_use -= freed
        return freed

    def change(self, entitlement: Entitlement) -> None:
        """Other terms. Where sharing has changed, everybody is seated again."""
        before = self.entitlement
        if (entitlement.sharing, entitlement.concurrency) == (before.sharing, before.concurrency):
            self.entitlement = entitlement
            return
        leases = list(self.leases.values())
        self.entitlement, self.in_use = entitlement, 0
        self.leases, self._groups, self._lingering = {}, {}, {}
        for lease in leases:
            self.add(lease)

    @property
    def has_room(self) -> bool:
        """Whether any seat is free."""
        capacity = self.entitlement.capacity
        return capacity is None or self.in_use < capacity

    def lingering(self, holder: Holder) -> Lease | None:
        """The seat that still waits for this holder to come back."""
        return self._lingering.get(self._comes_back(holder))

    def frees(self, lease: Lease) -> int:
        """The seats that would come free if this lease went."""
        key = self._key(lease.holder)
        return self._level(key) - self._level(key, without=lease.lease_id) if key else lease.seats

    @property
    def lingers(self) -> bool:
        """Whether any seat waits for its holder."""
        return bool(self._lingering)

    def newly_taken(self, checkout: Checkout) -> int:
        """Seats that this checkout would occupy on top; negative when it takes back a larger lingering seat."""
        replaced = self.lingering(checkout.holder)
        key = self._key(checkout.holder)
        if replaced is None:
            return max(0, checkout.seats - self._level(key)) if key else checkout.seats
        # Its old seat may be in another group (it came back from another host) and be shared there.
        old = self._key(replaced.holder)
        freed = self._level(old) - self._level(old, without=replaced.lease_id) if old else replaced.seats
        beside = self._level(key, without=replaced.lease_id)
        return (max(checkout.seats, beside) - beside if key else checkout.seats) - freed

    @property
    def over_by(self) -> int:
        """Seats in use beyond what was bought."""
        return 0 if self.entitlement.seats is None else max(0, self.in_use - self.entitlement.seats)

    def _level(self, key: tuple[str, str] | None, *, without: str = "") -> int:
        """A shared seat is as wide as the widest lease on it."""
        group = self._groups.get(key, {}) if key else {}
        return max((seats for lease_id, seats in group.items() if lease_id != without), default=0)

    def _key(self, holder: Holder) -> tuple[str, str] | None:
        """Who shares; None when this holder shares with nobody (a sharer must name itself)."""
        sharing = self.entitlement.sharing
        if self.entitlement.concurrency is Concurrency.NODE_LOCK:
            return "machine", holder.seat_id
        if sharing is Sharing.NONE:
            return None
        user, host = holder.user, holder.host
        match sharing:
            case Sharing.USER if user:
                return user, ""
            case Sharing.HOST if host:
                return "", host
            case Sharing.USER_HOST if user and host:
                return user, host
        return None


    def _comes_back(self, holder: Holder) -> tuple[str, str | None]:
        """Who may take a lingering seat again: the same user on the same machine; of a locked one, the machine."""
        return holder.seat_id, None if self.entitlement.concurrency is Concurrency.NODE_LOCK else holder.user


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where the checkout may sit."""

    pool: Pool
    taken: int
    overdraft: bool


def seat(checkout: Checkout, pools: Pools, *, now: Now, promised: Iterable[str] = ()) -> Seat | Denial:
    """The best seat for a checkout among a product's pools, or why there is none.

    ``promised`` are the ids of entitlements whose free seats belong to earlier open waiters.
    Raises :class:`BadActivationCode`, which is a failed authentication and no denial.
    """
    judged = [
        _judge(checkout, pool, now=now, promised=promised)
        for pool in pools.of(checkout.product)
        if pool.entitlement.opens_with(checkout.activation_code)
    ]
    if not judged:
        raise BadActivationCode
    seats = [verdict for _rank, verdict in judged if isinstance(verdict, Seat)]
    return min(seats, key=_preference) if seats else max(judged, key=lambda one: one[0])[1]


def occupied(terms: Entitlement, known: Pool | None, leases: Mapping[str, Lease]) -> int:
    """The seats that today's leases occupy under other terms: sharing may have changed."""
    if known is not None and known.entitlement.sharing is terms.sharing:
        return known.in_use
    pool = Pool(terms)
    seated = (leases if known is None else known.leases).values()
    return sum(pool.add(lease) for lease in seated if lease.entitlement_id == terms.entitlement_id)


def waits_for(checkout: Checkout, pools: Pools, *, now: Now) -> list[Pool]:
    """The pools in which this checkout could ever be seated if enough seats came free."""
    return [
        pool
        for pool in pools.of(checkout.product)
        if pool.entitlement.opens_with(checkout.activation_code)
        and _refused(checkout, pool, now=now) is None
        and (pool.entitlement.capacity is None or pool.newly_taken(checkout) <= pool.entitlement.capacity)
    ]


def _preference(seat_: Seat) -> tuple[bool, bool, float, str]:
    entitlement = seat_.pool.entitlement
    lasts = (entitlement.ends_at or _FOREVER).timestamp()
    return seat_.taken > 0, seat_.overdraft, -lasts, entitlement.entitlement_id


def _judge(checkout: Checkout, pool: Pool, *, now: Now, promised: Iterable[str]) -> tuple[int, Seat | Denial]:
    entitlement = pool.entitlement
    refused = _refused(checkout, pool, now=now)
    if refused is not None:
        return refused
    short = pool.short_of(checkout.features, now=now) if checkout.features and pool.short_of else None
    if short is not None:
        key, level = short
        detail = f"Not enough of {key} is left: {level.available} of {level.total}."
        return 9, Denial(
            code="no_feature_units", rule="units", detail=detail, product=checkout.product, feature=key,
            entitlement_id=entitlement.entitlement_id, asked=dict(checkout.features)[key], limit=level.total,
        )  # fmt: skip
    taken = pool.newly_taken(checkout)
    level, capacity = pool.in_use + taken, entitlement.capacity
    if taken > 0 and capacity is not None and level > capacity:
        return 10, _no_seat(checkout, pool, rule="seats")
    if taken > 0 and entitlement.entitlement_id in promised:
        return 11, _no_seat(checkout, pool, rule="queue")
    overdraft = taken > 0 and entitlement.seats is not None and level > entitlement.seats
    return 12, Seat(pool=pool, taken=taken, overdraft=overdraft)


def _no_seat(checkout: Checkout, pool: Pool, *, rule: str) -> Denial:
    entitlement = pool.entitlement
    if rule == "queue":
        detail = f"The free seats of {checkout.product} are promised to requests that wait longer; wait in the queue."
    elif entitlement.capacity is not None and checkout.seats > entitlement.capacity:
        detail = f"{checkout.seats} seats were asked for; {checkout.product} has {entitlement.capacity} in all."
    else:
        detail = f"{pool.in_use} of {entitlement.capacity} seats of {checkout.product} are in use; wait, or try again."
    return Denial(
        code="no_seat",
        rule=rule,
        detail=detail,
        product=checkout.product,
        entitlement_id=entitlement.entitlement_id,
        asked=checkout.seats,
        in_use=pool.in_use,
        seats=entitlement.seats,
        limit=entitlement.capacity,
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _refused(checkout: Checkout, pool: Pool, *, now: Now) -> tuple[int, Denial] | None:
    """The first rule before the seats that refuses, with how far it came."""
    entitlement = pool.entitlement

    def denial(rank: int, code: str, rule: str, detail: str) -> tuple[int, Denial]:
        return rank, Denial(
            code=code,
            rule=rule,
            detail=detail,
            product=checkout.product,
            entitlement_id=entitlement.entitlement_id,
            asked=checkout.seats,
        )

    product = checkout.product
    if pool.returning:
        return denial(1, "entitlement_disabled", "returning", f"The entitlement of {product} is being returned.")
    if entitlement.concurrency is Concurrency.NAMED_USER:
        user = (checkout.holder.user or "").casefold()
        if user not in pool.assigned and user not in map(str.casefold, entitlement.named_users.names):
            return denial(8, "not_a_named_user", "named_user", f"No place of {product} has this user's name.")
    match _standing_for_new(entitlement, now=now):
        case Standing.DISABLED:
            return denial(1, "entitlement_disabled", "status", f"The entitlement of {product} is {entitlement.status}.")
        case Standing.EXPIRED:
            return denial(
                2, "entitlement_expired", "dates", f"The entitlement of {product} ended {entitlement.ends_at}."
            )
        case Standing.NOT_STARTED:
            starts = entitlement.starts_at
            return denial(3, "entitlement_not_started", "dates", f"The entitlement of {product} starts {starts}.")
    if checkout.edition is not None and checkout.edition != entitlement.edition:
        detail = f"Edition {checkout.edition} of {product} is not covered; {entitlement.edition or 'none'} is."
        return denial(4, "edition_not_covered", "edition", detail)
    if not entitlement.covers(version=checkout.version, released_on=checkout.released_on):
        detail = f"This build of {product} is newer than the entitlement covers; renew the maintenance."
        return denial(5, "version_not_covered", "version", detail)
    for key, _amount in checkout.features:
        feature = entitlement.feature(key)
        if feature is None:
            return denial(6, "unknown_feature", "feature", f"{product} has no feature {key} here.")
        if not feature.value and not feature.counted:
            return denial(7, "not_entitled", "feature", f"Feature {key} of {product} is not part of what was bought.")
    return None


def _standing_for_new(entitlement: Entitlement, *, now: Now) -> Standing:
    """For granting, a clock that jumped ahead is believed at once where it refuses, never where it would allow."""
    guarded, strict = entitlement.standing(now.wall), entitlement.standing(now.strict)
    return strict if strict is Standing.EXPIRED else guarded
