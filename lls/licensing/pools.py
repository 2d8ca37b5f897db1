"""The seats of each entitlement and who sits on them; all pools of a server by entitlement and by product.

Rules
1. A pool counts and finds: seats in use, what a checkout would newly take, who may come back to a lingering seat. Who
   adds and removes is the ledger.
2. A lingering seat is there for the same user on the same machine; a node-locked one for its machine, whoever sits
   there.
3. A pool enters, changes and leaves through ``Pools``, so that both views and the counts of the site's rules agree.
4. A product without limits and reservations is not counted for them, and pays nothing.

It refuses to decide (``seating``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeAlias

from lls.licensing.entitlement import Concurrency, Entitlement, Standing
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout, Holder, Lease, LeaseState
from lls.licensing.meter import FeatureLevel
from lls.licensing.occupancy import Occupancy, Place, groups, same_grouping, seat_key
from lls.licensing.policy import Policy, ProductRules
from lls.licensing.quotas import Tally

Comer: TypeAlias = tuple[str, str | None]


class ShortOf(Protocol):
    """The first feature of which not enough is there for all that is wanted together, and its figures."""

    def __call__(self, wanted: Iterable[tuple[str, int]], /, *, now: Now) -> tuple[str, FeatureLevel] | None:
        """See :meth:`lls.licensing.meters.Meters.short_of`."""


class Pool:
    """The seats of one entitlement and who sits on them.

    ``returning``: it goes back to the vendor and grants nothing new. ``assigned``: the casefolded names that the site
    has added to a named-user entitlement. ``short_of``: who judges counted features; None: nobody does.
    """

    __slots__ = (
        "_grouping",
        "_lingering",
        "_seats",
        "assigned",
        "entitlement",
        "leases",
        "over",
        "returning",
        "short_of",
        "tally",
    )

    def __init__(self, entitlement: Entitlement) -> None:
        self.entitlement = entitlement
        self._grouping = groups(entitlement)
        self.over = False
        self.returning = False
        self.assigned: frozenset[str] = frozenset()
        self.short_of: ShortOf | None = None
        self.leases: dict[str, Lease] = {}
        self.tally: Tally | None = None
        """The counts of the site's rules; None where none needs any."""
        self._seats = Occupancy()
        self._lingering: dict[Comer, dict[str, Lease]] = {}

    def add(self, lease: Lease) -> int:
        """Seat a lease; the seats that it newly occupies."""
        self.leases[lease.lease_id] = lease
        if lease.state is LeaseState.LINGERING:
            self._lingering.setdefault(self._comer(lease.holder), {})[lease.lease_id] = lease
        place = self.place(lease.holder, lease.seats)
        if self.tally is not None:
            self.tally.add(lease, place)
        return self._seats.add(place)

    def remove(self, lease: Lease) -> int:
        """Take a lease away; the seats that come free."""
        del self.leases[lease.lease_id]
        if lease.state is LeaseState.LINGERING:
            comer = self._comer(lease.holder)
            del self._lingering[comer][lease.lease_id]
            if not self._lingering[comer]:
                del self._lingering[comer]
        place = self.place(lease.holder, lease.seats)
        if self.tally is not None:
            self.tally.remove(lease, place)
        return self._seats.remove(place)

    def change(self, entitlement: Entitlement) -> None:
        """Other terms. Where others share seats now, everybody is seated again."""
        regroup = not same_grouping(entitlement, self.entitlement)
        self.entitlement = entitlement
        if regroup:
            self._grouping = groups(entitlement)
            self._seat_again()

    def govern(self, rules: ProductRules | None) -> None:
        """Count for these rules of the site from now on; a recount only where they count something else."""
        if rules is None or not rules.counting:
            self.tally = None
        elif self.tally is not None and self.tally.rules.counts_like(rules):
            self.tally.rules = rules
        else:
            self.tally = Tally(rules)
            for lease in self.leases.values():
                self.tally.add(lease, self.place(lease.holder, lease.seats))

    @property
    def in_use(self) -> int:
        """The seats that are taken."""
        return self._seats.level

    @property
    def has_room(self) -> bool:
        """Whether any seat is free."""
        capacity = self.entitlement.capacity
        return capacity is None or self._seats.level < capacity

    @property
    def over_by(self) -> int:
        """Seats in use beyond what was bought."""
        return 0 if self.entitlement.seats is None else max(0, self.in_use - self.entitlement.seats)

    @property
    def shares(self) -> bool:
        """Whether a checkout may sit down here and take no new seat: beside somebody, or on a seat of its own."""
        terms = self.entitlement
        return terms.concurrency is Concurrency.NODE_LOCK or terms.sharing != "none" or bool(self._lingering)

    @property
    def lingers(self) -> bool:
        """Whether any seat waits for its holder."""
        return bool(self._lingering)

    def lingering(self, holder: Holder) -> Lease | None:
        """The seat that still waits for this holder to come back; of several the one that was left last."""
        if not self._lingering:
            return None
        waiting = self._lingering.get(self._comer(holder))
        return None if waiting is None else next(reversed(waiting.values()))

    def newly_taken(self, checkout: Checkout) -> int:
        """Seats that this checkout would occupy on top; negative when it takes back a larger lingering seat."""
        if not self._grouping and not self._lingering:
            return checkout.seats
        back = self.lingering(checkout.holder)
        leaves = None if back is None else self.place(back.holder, back.seats)
        return self._seats.change(self.place(checkout.holder, checkout.seats), leaves)

    def frees(self, lease: Lease) -> int:
        """The seats that would come free without a lease that sits here."""
        return -self._seats.change(None, self.place(lease.holder, lease.seats))

    def grants(self, now: Now) -> bool:
        """Whether it gives seats to anybody at that instant."""
        return not self.returning and self.standing_for_new(now) in _GRANTING

    def standing_for_new(self, now: Now) -> Standing:
        """For granting, a clock that jumped ahead is believed at once where it refuses, never where it would allow.

        So a first lease begins no term that would be over by that clock: it would be used up by a mistake.
        """
        terms = self.entitlement
        if now.strict > now.wall and terms.starts_on_first_lease:
            terms = terms.begun(now.wall.replace(microsecond=0))
        standing = terms.standing(now.strict)
        return standing if standing is Standing.EXPIRED else self.entitlement.standing(now.wall)

    def place(self, holder: Holder, seats: int) -> Place:
        """Where a holder sits or would sit."""
        return seat_key(self.entitlement, holder) if self._grouping else None, seats

    def _comer(self, holder: Holder) -> Comer:
        """Who may take a lingering seat again."""
        node_lock = self.entitlement.concurrency is Concurrency.NODE_LOCK
        return holder.seat_id, None if node_lock else holder.user

    def _seat_again(self) -> None:
        leases = list(self.leases.values())
        self._seats, self.leases, self._lingering = Occupancy(), {}, {}
        if self.tally is not None:
            self.tally = Tally(self.tally.rules)
        for lease in leases:
            self.add(lease)


_GRANTING = (Standing.ACTIVE, Standing.GRACE)


class Pools(dict[str, Pool]):
    """The pools by entitlement id, and the site's policy over them."""

    def __init__(self, policy: Policy = Policy()) -> None:  # noqa: B008 - frozen
        super().__init__()
        self._products: dict[str, list[Pool]] = {}
        self.policy = policy

    @property
    def products(self) -> Mapping[str, list[Pool]]:
        """The pools of each product that has any."""
        return self._products

    def of(self, product: str) -> list[Pool]:
        """The pools of one product."""
        return self._products.get(product, [])

    def govern(self, policy: Policy) -> None:
        """Put another policy in force; what either of them counts is counted anew. Nobody loses a seat."""
        touched = self.policy.products | policy.products
        self.policy = policy
        for product in touched:
            for pool in self.of(product):
                pool.govern(policy.of(product))

    def open(self, entitlement: Entitlement) -> Pool:
        """A new pool."""
        pool = self[entitlement.entitlement_id] = Pool(entitlement)
        self._list(pool)
        return pool

    def change(self, pool: Pool, entitlement: Entitlement) -> None:
        """Other terms, perhaps of another product; whoever sits there stays."""
        self._unlist(pool)
        pool.change(entitlement)
        self._list(pool)

    def drop(self, pool: Pool) -> None:
        """It is gone with all that sits there: the entitlement went back."""
        self._unlist(pool)
        del self[pool.entitlement.entitlement_id]

    def take_back(self, pool: Pool) -> None:
        """A pool that was dropped is there again, as it was."""
        self[pool.entitlement.entitlement_id] = pool
        self._list(pool)

    def put_back(self, entitlement_id: str, before: Entitlement | None) -> None:
        """The terms of the last commit again, seats as they are; ``None``: there was no such pool."""
        pool = self[entitlement_id]
        if before is None:
            self.drop(pool)
        else:
            self.change(pool, before)

    def _list(self, pool: Pool) -> None:
        product = pool.entitlement.product
        self._products.setdefault(product, []).append(pool)
        pool.govern(self.policy.of(product))

    def _unlist(self, pool: Pool) -> None:
        pools = self._products[pool.entitlement.product]
        pools.remove(pool)
        if not pools:
            del self._products[pool.entitlement.product]
