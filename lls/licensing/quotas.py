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
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from lls.licensing.denial import Denial
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout, Holder, Lease
from lls.licensing.occupancy import Occupancy, Place
from lls.licensing.policy import Asker, Limit, Membership, Per, ProductRules, Reserve

if TYPE_CHECKING:
    from lls.licensing.pools import Pool

Count: TypeAlias = tuple[str | int, ...]
"""Of whom: the kind of the rule, its place, and for a limit whose."""

RETRY_AFTER_SECONDS: Final = 30


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


class Kept(NamedTuple):
    """One reservation in force beside a checkout.

    Of all seats it gets ``seats``; ``unmet`` of them are kept for members who have not come, and ``left`` are free
    after it and those before it. ``own``: the holder belongs to it, so it keeps nothing from this one.
    """

    rule: Reserve
    seats: int
    unmet: int
    left: int
    own: bool


class Stock(NamedTuple):
    """The seats of the pools that grant now: bought, with their overdraft, and free."""

    bought: int
    capacity: int
    free: int


class Quotas:
    """One checkout before the limits and reservations of its product; what it has to count it counts once."""

    def __init__(self, checkout: Checkout, pools: Sequence[Pool], rules: ProductRules, *, now: Now) -> None:
        self.rules = rules
        self._checkout, self._pools, self._now = checkout, pools, now
        self._levels: dict[Count, int] = {}

    def over_limit(self, pool: Pool) -> Denial | None:
        """The refusal of the first limit that the checkout would break by new seats in that pool."""
        if not self.rules.limits:
            return None
        found = next((one for one in self.limited(pool) if one.exceeded), None)
        return None if found is None else self._limit_reached(found, pool)

    def kept_for_others(self, pool: Pool, *, taken: int) -> Denial | None:
        """The refusal of the first reservation that leaves too little for so many new seats."""
        if not self.rules.reservations:
            return None
        found = next((one for one in self.kept(pool) if one.left < taken), None)
        return None if found is None else self._reserved(found, pool, taken)

    def draws_own(self, pool: Pool, *, taken: int) -> str | None:
        """The reservation that keeps all of these seats for the holder itself: nobody else can wait for them."""
        own = next((one for one in self.kept(pool) if one.own), None)
        return None if own is None or own.unmet < taken else own.rule.rule

    def never_fits(self, pool: Pool, *, taken: int) -> bool:
        """Whether these rules, as they are now, would refuse it even with nobody else there: waiting is in vain."""
        if any(self._checkout.seats > limit.seats for limit, _group in self.member.limits):
            return True
        there = self.stock if self.rules.reservations else None
        withheld = sum(one.seats for one in self.kept(pool) if not one.own)
        return there is not None and there.capacity - withheld < taken

    def limited(self, pool: Pool) -> Iterator[Counted]:
        """What each limit that counts the holder says, in the order of the file."""
        comes, leaves = pool.place(self._checkout.holder, self._checkout.seats), _leaves(pool, self._checkout)
        for limit, group in self.member.limits:
            count = _limited(limit, group, self._checkout.holder)
            level = self._level(count, self._pools)
            change = comes[1] if pool.tally is None else pool.tally.change(count, comes, leaves)
            yield Counted(limit=limit, whose=f"{count[2]} {count[3]}", level=level, change=change)

    def kept(self, pool: Pool) -> Iterator[Kept]:
        """What each reservation in force keeps, in the order of the file; nothing where seats are unlimited."""
        there = self.stock
        if there is None:
            return
        leaves = _leaves(pool, self._checkout)
        unshared, left = there.capacity, there.free
        for rule in self.rules.reservations:
            if not rule.in_force(self._now.wall):
                continue
            seats = min(rule.of(there.bought), unshared)
            unshared -= seats
            count = _reserved(rule)
            level = self._level(count, self._granting)
            if leaves is not None and pool.tally is not None:
                level += pool.tally.change(count, None, leaves)
            own, unmet = rule is self.member.reservation, max(0, seats - level)
            left -= 0 if own else unmet
            yield Kept(rule=rule, seats=seats, unmet=unmet, left=left, own=own)

    @cached_property
    def member(self) -> Membership:
        """What the rules say of the holder."""
        holder = self._checkout.holder
        return self.rules.member(Asker(holder.user, holder.host, self._checkout.address))

    @cached_property
    def stock(self) -> Stock | None:
        """All seats of the product; None: unlimited."""
        bought = capacity = free = 0
        for pool in self._granting:
            most = pool.entitlement.capacity
            if most is None:
                return None
            bought += pool.entitlement.seats or 0
            capacity += most
            free += max(0, most - pool.in_use)
        return Stock(bought=bought, capacity=capacity, free=free)

    @cached_property
    def _granting(self) -> list[Pool]:
        return [pool for pool in self._pools if pool.grants(self._now)]

    def _level(self, count: Count, pools: Sequence[Pool]) -> int:
        known = self._levels.get(count)
        if known is None:
            known = self._levels[count] = sum(one.tally.level(count) for one in pools if one.tally is not None)
        return known

    def _limit_reached(self, found: Counted, pool: Pool) -> Denial:
        limit, product, asked = found.limit, self._checkout.product, self._checkout.seats
        if asked > limit.seats:
            remedy = f"Ask for {limit.seats} at most, or raise {limit.rule} in the site's policy."
        else:
            remedy = f"Return one of theirs (a lingering one comes free by itself), or raise {limit.rule}."
        return Denial(
            code="holder_limit",
            rule=limit.rule,
            detail=(
                f"The {found.whose} occupies {_seats(found.level)} of {product}; with this one it would be"
                f" {found.level + found.change}, and {limit.words} allows {limit.seats}."
            ),
            product=product,
            entitlement_id=pool.entitlement.entitlement_id,
            asked=asked,
            in_use=found.level,
            limit=limit.seats,
            retry_after_seconds=RETRY_AFTER_SECONDS,
            remedy=remedy,
        )

    def _reserved(self, found: Kept, pool: Pool, taken: int) -> Denial:
        rule, product, there = found.rule, self._checkout.product, self.stock
        less = "asking outside its hours, or a policy" if rule.when is not None else "a policy"
        return Denial(
            code="reserved",
            rule=rule.rule,
            detail=(
                f"{rule.words} keeps {_seats(found.unmet)} of {product} for members who may still come;"
                f" {_seats(taken)} would be taken, and {max(0, found.left)} are left for this holder."
            ),
            product=product,
            entitlement_id=pool.entitlement.entitlement_id,
            asked=self._checkout.seats,
            in_use=None if there is None else there.capacity - there.free,
            seats=None if there is None else there.bought,
            limit=None if there is None else there.capacity,
            retry_after_seconds=RETRY_AFTER_SECONDS,
            remedy=f"{_seats(taken - found.left)} more; or {less} where {rule.rule} keeps less or names this holder.",
        )


def _leaves(pool: Pool, checkout: Checkout) -> tuple[Lease, Place] | None:
    """The lingering lease that the checkout would replace there."""
    back = pool.lingering(checkout.holder)
    return None if back is None else (back, pool.place(back.holder, back.seats))


def _seats(number: int) -> str:
    return f"{number} seat{'' if number == 1 else 's'}"


# -------------------------------------------------------------------- what is counted


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


_NOBODY: Final = Occupancy()


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
