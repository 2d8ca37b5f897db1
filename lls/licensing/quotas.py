"""The site's limits and reservations: what their members occupy now, and what that leaves for a checkout.

Rules
1. Both are judged only for a checkout that would newly take seats of a pool; over all pools of the product.
2. A limit counts the seats that the leases of its user, host or group would occupy if they were alone. Whom it counts
   by user or host, and who does not say it, is counted by the machine. It refuses what makes that number higher than
   it may be, never what leaves it as it is.
3. A reservation is judged over the pools that grant now. Of their seats, overdraft included, each reservation in force
   keeps what it asks for, in the order of the file, until nothing is left. A checkout may take what is free beyond what
   the *other* reservations keep for members who have not come yet. Where seats are unlimited nothing needs to be kept.
4. Counts move with each lease (``Tally``, one for each pool); a checkout reads them and scans nothing.

It refuses to own rules (``policy``), seats (``pools``) and the order of judgement (``seating``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lls.licensing.denial import Denial
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout, Holder, Lease
from lls.licensing.occupancy import Occupancy, Place
from lls.licensing.policy import Asker, Limit, Per, ProductRules, Reserve

if TYPE_CHECKING:
    from lls.licensing.pools import Pool

Count: TypeAlias = tuple[str | int, ...]
"""Of whom: the kind of the rule, its place, and for a limit whose."""

RETRY_AFTER_SECONDS = 30


class Tally:
    """What those occupy in one pool whom a product's reservations and limits name."""

    __slots__ = ("_levels", "rules")

    def __init__(self, rules: ProductRules) -> None:
        self.rules = rules
        self._levels: dict[Count, Occupancy] = {}

    def add(self, lease: Lease, place: Place) -> None:
        """Count a lease that sits at that place."""
        for count in counts(self.rules, lease.holder, lease.address):
            occupancy = self._levels.get(count)
            if occupancy is None:
                occupancy = self._levels[count] = Occupancy()
            occupancy.add(place)

    def remove(self, lease: Lease, place: Place) -> None:
        """Count it no more."""
        for count in counts(self.rules, lease.holder, lease.address):
            occupancy = self._levels[count]
            occupancy.remove(place)
            if not occupancy.level:
                del self._levels[count]

    def level(self, count: Count) -> int:
        """The seats that they occupy in this pool."""
        occupancy = self._levels.get(count)
        return 0 if occupancy is None else occupancy.level

    def change(self, count: Count, comes: Place | None, leaves: tuple[Lease, Place] | None) -> int:
        """By how much that would rise if one of them came; ``leaves`` counts only if it is one of them, too."""
        gone = None
        if leaves is not None and count in counts(self.rules, leaves[0].holder, leaves[0].address):
            gone = leaves[1]
        return (self._levels.get(count) or _NOBODY).change(comes, gone)

    def levels(self) -> dict[Count, int]:
        """All counts."""
        return {count: occupancy.level for count, occupancy in self._levels.items()}


_NOBODY = Occupancy()


def counts(rules: ProductRules, holder: Holder, address: str | None) -> list[Count]:
    """Under what a holder's leases are counted."""
    member = rules.member(Asker(holder.user, holder.host, address))
    found = [_limited(limit, group, holder) for limit, group in member.limits]
    if member.reservation is not None:
        found.append(_reserved(member.reservation))
    return found


def _reserved(rule: Reserve) -> Count:
    return "reserve", rule.place


def _limited(limit: Limit, group: str | None, holder: Holder) -> Count:
    if group is not None:
        return "limit", limit.place, "group", group
    named = holder.user if limit.per is Per.USER else holder.host
    if named:
        return "limit", limit.place, limit.per.value, named.casefold()
    return "limit", limit.place, "machine", holder.seat_id


# -------------------------------------------------------------------- limits


class Counted(NamedTuple):
    """One limit and whom it counts: ``level`` seats now, ``change`` more with the checkout."""

    limit: Limit
    whose: str
    level: int
    change: int

    @property
    def exceeded(self) -> bool:
        """Whether the checkout would make it more than it may be."""
        return self.change > 0 and self.level + self.change > self.limit.seats


def limited(checkout: Checkout, pool: Pool, pools: Sequence[Pool], rules: ProductRules) -> Iterator[Counted]:
    """What each limit that counts the holder says, in the order of the file."""
    holder = checkout.holder
    comes = pool.place(holder, checkout.seats)
    back = pool.lingering(holder)
    leaves = None if back is None else (back, pool.place(back.holder, back.seats))
    for limit, group in rules.member(Asker(holder.user, holder.host, checkout.address)).limits:
        count = _limited(limit, group, holder)
        level = sum(one.tally.level(count) for one in pools if one.tally is not None)
        change = comes[1] if pool.tally is None else pool.tally.change(count, comes, leaves)
        yield Counted(limit=limit, whose=f"{count[2]} {count[3]}", level=level, change=change)


def over_limit(checkout: Checkout, pool: Pool, pools: Sequence[Pool], rules: ProductRules) -> Denial | None:
    """The refusal of the first limit that the checkout would break."""
    found = next((one for one in limited(checkout, pool, pools, rules) if one.exceeded), None)
    if found is None:
        return None
    limit, product = found.limit, checkout.product
    most = f"{limit.seats} seat{'' if limit.seats == 1 else 's'}"
    if checkout.seats > limit.seats:
        remedy = f"Ask for {limit.seats} at most, or raise {limit.rule} in the site's policy."
    else:
        remedy = f"Return one of these seats (one that lingers comes free by itself), or raise {limit.rule}."
    return Denial(
        code="holder_limit",
        rule=limit.rule,
        detail=f"The {found.whose} occupies {found.level} of {product} and may have {most}: {limit.words}.",
        product=product,
        entitlement_id=pool.entitlement.entitlement_id,
        asked=checkout.seats,
        in_use=found.level,
        limit=limit.seats,
        retry_after_seconds=RETRY_AFTER_SECONDS,
        remedy=remedy,
    )


# -------------------------------------------------------------------- reservations


class Kept(NamedTuple):
    """One reservation beside a checkout: what it keeps, and the seats that are free after it and those before it.

    ``seats`` is what it gets of what there is; ``unmet`` is kept for members who have not come. ``own``: the holder
    belongs to it, so it keeps nothing from this one.
    """

    rule: Reserve
    seats: int
    unmet: int
    left: int
    own: bool


class Stock(NamedTuple):
    """The seats of the pools that grant now."""

    bought: int
    capacity: int
    free: int


def stock(pools: Sequence[Pool], *, now: Now) -> Stock | None:
    """All seats of a product together; None: unlimited."""
    bought = capacity = free = 0
    for pool in pools:
        if not pool.grants(now):
            continue
        most = pool.entitlement.capacity
        if most is None:
            return None
        bought += pool.entitlement.seats or 0
        capacity += most
        free += max(0, most - pool.in_use)
    return Stock(bought=bought, capacity=capacity, free=free)


def reserved(
    checkout: Checkout, pool: Pool, pools: Sequence[Pool], rules: ProductRules, *, now: Now
) -> Iterator[Kept]:
    """What each reservation in force keeps, in the order of the file; nothing where seats are unlimited."""
    there = stock(pools, now=now)
    if there is None:
        return
    holder = checkout.holder
    mine = rules.member(Asker(holder.user, holder.host, checkout.address)).reservation
    back = pool.lingering(holder)
    leaves = None if back is None else (back, pool.place(back.holder, back.seats))
    granting = [one for one in pools if one.tally is not None and one.grants(now)]
    unshared, left = there.capacity, there.free
    for rule in rules.reservations:
        if not rule.in_force(now.wall):
            continue
        seats = min(rule.of(there.bought), unshared)
        unshared -= seats
        count = _reserved(rule)
        level = sum(one.tally.level(count) for one in granting if one.tally is not None)
        if leaves is not None and pool.tally is not None:
            level += pool.tally.change(count, None, leaves)
        own, unmet = rule is mine, max(0, seats - level)
        left -= 0 if own else unmet
        yield Kept(rule=rule, seats=seats, unmet=unmet, left=left, own=own)


def kept_for_others(
    checkout: Checkout, pool: Pool, pools: Sequence[Pool], rules: ProductRules, *, taken: int, now: Now
) -> Denial | None:
    """The refusal of the first reservation that leaves too little for this checkout."""
    if not rules.reservations:
        return None
    found = next((one for one in reserved(checkout, pool, pools, rules, now=now) if one.left < taken), None)
    if found is None:
        return None
    there, rule, product = stock(pools, now=now), found.rule, checkout.product
    hours = "" if rule.when is None else " outside its hours,"
    return Denial(
        code="reserved",
        rule=rule.rule,
        detail=(
            f"{max(0, found.left)} of the free seats of {product} are left for this holder, {taken} would be taken:"
            f" {found.unmet} are kept for the members of {rule.words}."
        ),
        product=product,
        entitlement_id=pool.entitlement.entitlement_id,
        asked=checkout.seats,
        in_use=None if there is None else there.capacity - there.free,
        seats=None if there is None else there.bought,
        limit=None if there is None else there.capacity,
        retry_after_seconds=RETRY_AFTER_SECONDS,
        remedy=(
            f"{taken - found.left} more free; or,{hours or ' in the site policy,'} {rule.rule} made smaller"
            " or naming this holder."
            if not hours
            else f"{taken - found.left} more free; asking outside the hours of {rule.rule}; or a policy that keeps less."
        ),
    )


# -------------------------------------------------------------------- what waiting can and cannot change


def draws_own(checkout: Checkout, pool: Pool, pools: Sequence[Pool], rules: ProductRules, *, taken: int, now: Now) -> (
    str | None
):
    """The reservation that keeps all of these seats for the holder itself: they are withheld from everybody else."""
    for one in reserved(checkout, pool, pools, rules, now=now):
        if one.own:
            return one.rule.rule if one.unmet >= taken else None
    return None


def never_fits(
    checkout: Checkout, pool: Pool, pools: Sequence[Pool], rules: ProductRules, *, taken: int, now: Now
) -> bool:
    """Whether limits and reservations would refuse it even with nobody else there: then waiting is in vain."""
    holder = checkout.holder
    member = rules.member(Asker(holder.user, holder.host, checkout.address))
    if any(checkout.seats > limit.seats for limit, _ in member.limits):
        return True
    there = stock(pools, now=now) if rules.reservations else None
    if there is None:
        return False
    withheld = sum(one.seats for one in reserved(checkout, pool, pools, rules, now=now) if not one.own)
    return there.capacity - withheld < taken
