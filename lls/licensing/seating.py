"""May this holder sit here? A seat, or a denial that says which rule decided and what would have helped.

Rules, in the order in which they are asked (``BEFORE_SEATS``, ``FOR_SEATS``)
1. The activation code opens the entitlement, or the entitlement needs none. A wrong code is a fault, never journalled.
2. Standing: enabled, not past its grace (a new checkout in grace is granted: decision 0004), started, and not on its
   way back to the vendor.
3. Edition, version, features known and switched on.
4. A named-user entitlement is for its names: the vendor's and those that the site has added. Case does not count.
5. The site lets this holder in (``deny``, ``allow``).
6. Seats: what the checkout would newly occupy must fit into seats and overdraft. A checkout that shares a seat, or
   takes its own lingering one, occupies nothing new, and rules 6 to 9 let it pass.
7. The queue: free seats may be promised to a request that waits and came earlier, but for those that a reservation
   keeps for this very holder (decision 0005).
8. The site's limits, 9. the site's reservations (``quotas``).
10. Units of counted features are there, all that are wanted together.

Of several entitlements: first where nothing new is occupied, then those not in overdraft, then the longest lasting.
When none fits, the denial of the entitlement that came furthest in this list is the explanation.

It decides; it refuses to own seats (``pools``), leases, time and history (``ledger``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeAlias

from lls.faults import BadActivationCode
from lls.licensing.denial import Denial as Denial  # noqa: PLC0414 - for those that still import it from here
from lls.licensing.entitlement import Concurrency, Entitlement, FeatureType, Standing
from lls.licensing.fields import write_instant
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout, Lease
from lls.licensing.occupancy import same_grouping
from lls.licensing.policy import Asker, Deny, ProductRules
from lls.licensing.pools import Pool as Pool  # noqa: PLC0414 - for those that import it from here
from lls.licensing.pools import Pools
from lls.licensing.quotas import Quotas

RETRY_AFTER_SECONDS: Final = 30
_FOREVER = datetime.max.replace(tzinfo=UTC)


class Seat(NamedTuple):
    """Where the checkout may sit."""

    pool: Pool
    taken: int
    overdraft: bool


class QueueBefore(NamedTuple):
    """What stands before a checkout: the entitlements whose free seats are promised, and to whose reservations."""

    promised: Collection[str] = ()
    ahead: Collection[str | None] | None = None


NOBODY_WAITS: Final = QueueBefore()


def seat(
    checkout: Checkout,
    pools: Pools,
    *,
    now: Now,
    promised: Collection[str] = (),
    ahead: Collection[str | None] | None = None,
    without: Collection[str] = (),
) -> Seat | Denial:
    """The best seat for a checkout among its product's pools, or why there is none.

    ``promised`` are the ids of entitlements whose free seats belong to earlier open waiters, ``ahead`` the reservations
    (:meth:`~lls.licensing.policy.Policy.reservation`) that those belong to. Who draws on its own reservation, with
    nobody of it ahead, takes what no earlier waiter could have; None: that is not known, and nobody passes.
    Of the entitlements ``without`` none is wanted.
    Raises :class:`BadActivationCode`, which is a failed authentication and no denial.
    """
    best: Seat | None = None
    furthest, told = -1, None
    for case in cases(checkout, pools, now=now, promised=promised, ahead=ahead):
        if case.terms.entitlement_id in without:
            continue
        rank, verdict = _judge(case)
        if isinstance(verdict, Denial):
            if rank > furthest:
                furthest, told = rank, verdict
        elif best is None or _preference(verdict) < _preference(best):
            best = verdict
    if best is not None:
        return best
    if told is None:
        raise BadActivationCode
    return told


def waits_for(checkout: Checkout, pools: Pools, *, now: Now) -> list[Pool]:
    """The pools in which this checkout could be seated if enough seats came free, under the rules as they are now.

    Units of a feature are not waited for.
    """
    return [case.pool for case in cases(checkout, pools, now=now) if _could_sit(case)]


def wants(checkout: Checkout, pools: Pools, *, now: Now) -> list[Pool]:
    """The pools whose free seats are kept for this checkout while it waits (decision 0005): where it could be seated.

    Whom a limit of the site keeps out now wants none of them: its own holder must give something back first.
    """
    return [
        case.pool
        for case in cases(checkout, pools, now=now)
        if _could_sit(case) and (case.quotas is None or case.quotas.over_limit(case.pool) is None)
    ]


def occupied(terms: Entitlement, known: Pool | None, leases: Mapping[str, Lease]) -> int:
    """The seats that today's leases occupy under other terms: who shares with whom may have changed."""
    if known is not None and same_grouping(known.entitlement, terms):
        return known.in_use
    pool = Pool(terms)
    seated = (leases if known is None else known.leases).values()
    return sum(pool.add(lease) for lease in seated if lease.entitlement_id == terms.entitlement_id)


class Case:
    """One checkout before one pool; ``taken`` is set when the rules about seats are asked."""

    __slots__ = ("ahead", "checkout", "now", "pool", "promised", "quotas", "rules", "standing", "taken", "terms")

    def __init__(
        self,
        checkout: Checkout,
        pool: Pool,
        *,
        now: Now,
        promised: Collection[str],
        ahead: Collection[str | None] | None,
        rules: ProductRules | None,
        quotas: Quotas | None,
    ) -> None:
        self.checkout, self.pool, self.now = checkout, pool, now
        self.terms = pool.entitlement
        self.promised, self.ahead = promised, ahead
        self.rules, self.quotas = rules, quotas
        """The site's; ``quotas`` only where any of them counts."""
        self.standing = pool.standing_for_new(now)
        self.taken = 0


def cases(
    checkout: Checkout,
    pools: Pools,
    *,
    now: Now,
    promised: Collection[str] = (),
    ahead: Collection[str | None] | None = None,
) -> Iterable[Case]:
    """The pools that this checkout opens, ready to be asked."""
    candidates = pools.of(checkout.product)
    rules = pools.policy.of(checkout.product)
    quotas = Quotas(checkout, candidates, rules, now=now) if rules is not None and rules.counting else None
    for pool in candidates:
        if pool.entitlement.opens_with(checkout.activation_code):
            yield Case(checkout, pool, now=now, promised=promised, ahead=ahead, rules=rules, quotas=quotas)


def _judge(case: Case) -> tuple[int, Seat | Denial]:
    for rank, rule in enumerate(BEFORE_SEATS):
        denial = rule(case)
        if denial is not None:
            return rank, denial
    pool, terms = case.pool, case.terms
    taken = case.taken = pool.newly_taken(case.checkout)
    for rank, rule in enumerate(FOR_SEATS, len(BEFORE_SEATS)):
        denial = rule(case)
        if denial is not None:
            return rank, denial
    overdraft = taken > 0 and terms.seats is not None and pool.in_use + taken > terms.seats
    return len(BEFORE_SEATS) + len(FOR_SEATS), Seat(pool=pool, taken=taken, overdraft=overdraft)


def _could_sit(case: Case) -> bool:
    if any(rule(case) is not None for rule in BEFORE_SEATS):
        return False
    pool, taken, capacity = case.pool, case.pool.newly_taken(case.checkout), case.terms.capacity
    if taken <= 0:
        return True
    if capacity is not None and taken > capacity:
        return False
    return case.quotas is None or not case.quotas.never_fits(pool, taken=taken)


def _preference(found: Seat) -> tuple[bool, bool, float, str]:
    entitlement = found.pool.entitlement
    lasts = (entitlement.ends_at or _FOREVER).timestamp()
    return found.taken > 0, found.overdraft, -lasts, entitlement.entitlement_id


# -------------------------------------------------------------------- the rules, in order

RuleOfSeating: TypeAlias = Callable[[Case], Denial | None]
"""Why not, or None."""


def enabled(case: Case) -> Denial | None:
    """Nobody has switched it off."""
    if case.standing is not Standing.DISABLED:
        return None
    detail = f"The entitlement of {case.checkout.product} is {case.terms.status.value}."
    return _denial(case, "entitlement_disabled", "status", detail, "Import a bundle in which the vendor enables it.")


def not_ended(case: Case) -> Denial | None:
    """Its grace is not over."""
    if case.standing is not Standing.EXPIRED:
        return None
    product, ends_at = case.checkout.product, case.terms.ends_at
    if ends_at is None or case.now.strict < ends_at:
        detail = f"The clock is so far ahead that a term of {product} would be over before its first lease began it."
        remedy = "Set the clock right, or have the server believe it (`lls clock accept`)."
        return _denial(case, "entitlement_expired", "dates", detail, remedy)
    detail = f"The entitlement of {product} ended {write_instant(ends_at)}."
    return _denial(case, "entitlement_expired", "dates", detail, "Renew it, and import the vendor's new bundle.")


def started(case: Case) -> Denial | None:
    """Its first day has come."""
    starts_at = case.terms.starts_at
    if case.standing is not Standing.NOT_STARTED or starts_at is None:
        return None
    begins = write_instant(starts_at)
    detail = f"The entitlement of {case.checkout.product} starts {begins}."
    return _denial(case, "entitlement_not_started", "dates", detail, f"Wait until {begins}.")


def kept_here(case: Case) -> Denial | None:
    """It is not on its way back to the vendor."""
    if not case.pool.returning:
        return None
    key = case.terms.entitlement_id
    detail = f"The entitlement of {case.checkout.product} is being returned to the vendor; nothing new is granted."
    remedy = f"Keep it (`lls entitlement keep {key}`), or import another entitlement."
    return _denial(case, "entitlement_disabled", "returning", detail, remedy)


def edition_covered(case: Case) -> Denial | None:
    """The edition that is asked for is the one that was bought."""
    asked, bought = case.checkout.edition, case.terms.edition
    if asked is None or asked == bought:
        return None
    detail = f"Edition {asked} of {case.checkout.product} is not covered; {bought or 'none'} is."
    remedy = f"Order edition {asked}" + (f", or run edition {bought}." if bought else ".")
    return _denial(case, "edition_not_covered", "edition", detail, remedy)


def version_covered(case: Case) -> Denial | None:
    """The build is no newer than maintenance and version allow."""
    wish, terms = case.checkout, case.terms
    if terms.covers(version=wish.version, released_on=wish.released_on):
        return None
    if not terms.covers(version=None, released_on=wish.released_on):
        day = terms.maintenance_expires_on
        detail = f"This build of {wish.product} was released {wish.released_on}; maintenance ended {day}."
        remedy = f"Renew the maintenance, or run a build that was released until {day}."
    else:
        detail = f"Version {wish.version} of {wish.product} is newer than {terms.max_version}, the latest covered."
        remedy = f"Order a newer version, or run {terms.max_version} or an older one."
    return _denial(case, "version_not_covered", "version", detail, remedy)


def features_known(case: Case) -> Denial | None:
    """The entitlement has every feature that is wanted."""
    for key, amount in case.checkout.features:
        if case.terms.feature(key) is None:
            detail = f"{case.checkout.product} has no feature {key} here."
            remedy = f"Ask for a feature that it has (`lls entitlement show {case.terms.entitlement_id}`), or order it."
            return _denial(case, "unknown_feature", "feature", detail, remedy, feature=(key, amount))
    return None


def features_on(case: Case) -> Denial | None:
    """Every switch that is wanted is on."""
    for key, amount in case.checkout.features:
        feature = case.terms.feature(key)
        if feature is not None and feature.type is FeatureType.BOOL and not feature.value:
            product = case.checkout.product
            detail = f"Feature {key} of {product} is not part of what was bought."
            remedy = f"Order an offering of {product} that contains {key}, or ask without it."
            return _denial(case, "not_entitled", "feature", detail, remedy, feature=(key, amount))
    return None


def named(case: Case) -> Denial | None:
    """The user has a place by name, where places have names."""
    terms = case.terms
    if terms.concurrency is not Concurrency.NAMED_USER:
        return None
    user, names = case.checkout.holder.user, {name.casefold() for name in terms.named_users.names}
    if user is not None and (user.casefold() in names or user.casefold() in case.pool.assigned):
        return None
    product, key = case.checkout.product, terms.entitlement_id
    if user is None:
        detail, remedy = f"{product} is for named users, and no user was named.", "Say who the user is when asking."
    else:
        detail = f"{user} is not one of the named users of {product}."
        free = terms.seats is None or len(names | case.pool.assigned) < terms.seats
        if not terms.named_users.by_site:
            remedy = "Ask the vendor for a bundle that names this user."
        elif free:
            remedy = f"Give this user a place: `lls entitlement assign {key} USER`."
        else:
            remedy = (
                f"All {terms.seats} places have a name: take one back (`lls entitlement unassign {key} USER`) first."
            )
    return _denial(case, "not_a_named_user", "named_user", detail, remedy)


def let_in(case: Case) -> Denial | None:
    """The site's policy does not keep the holder out."""
    if case.rules is None:
        return None
    holder, product = case.checkout.holder, case.checkout.product
    excluded = case.rules.member(Asker(holder.user, holder.host, case.checkout.address)).excluded
    if excluded is None:
        return None
    if isinstance(excluded, Deny):
        detail = f"The site's policy keeps this holder from {product}: {excluded.words}."
        return _denial(case, "excluded", excluded.rule, detail, f"Change {excluded.rule} in the site's policy.")
    detail = f"The site's policy names those who may use {product}, and this holder is not among them."
    return _denial(case, "excluded", "allow", detail, "Name this holder in an allow rule of the site's policy.")


def seats_free(case: Case) -> Denial | None:
    """What would be taken fits into seats and overdraft."""
    capacity, taken, in_use = case.terms.capacity, case.taken, case.pool.in_use
    if taken <= 0 or capacity is None or in_use + taken <= capacity:
        return None
    product, asked, missing = case.checkout.product, case.checkout.seats, in_use + taken - capacity
    more = f"{missing} more seat{'' if missing == 1 else 's'}"
    if asked > capacity:
        detail = f"{asked} seats were asked for; {product} has {capacity} in all."
        remedy = f"Ask for {capacity} at most, or order {more}." if capacity else f"Order {more}."
    else:
        detail = f"{in_use} of {capacity} seats of {product} are in use; wait, or try again."
        remedy = (
            f"{more} would do: order them, or have them returned (`lls lease list --product {product}` shows whose)."
        )
    return _no_seat(case, "seats", detail, remedy)


def not_promised(case: Case) -> Denial | None:
    """No earlier waiter is promised what would be taken."""
    if case.taken <= 0 or case.terms.entitlement_id not in case.promised:
        return None
    if case.quotas is not None and case.ahead is not None:
        own = case.quotas.draws_own(case.pool, taken=case.taken)
        if own is not None and own not in case.ahead:
            return None
    product = case.checkout.product
    detail = f"The free seats of {product} are promised to requests that wait longer; wait in the queue."
    return _no_seat(case, "queue", detail, "Wait (`Prefer: wait=60`): whoever waits is served in turn.")


def within_limits(case: Case) -> Denial | None:
    """No user, host or group gets more than the site allows it."""
    return None if case.quotas is None or case.taken <= 0 else case.quotas.over_limit(case.pool)


def not_reserved(case: Case) -> Denial | None:
    """What would be taken is not kept for others."""
    if case.quotas is None or case.taken <= 0:
        return None
    return case.quotas.kept_for_others(case.pool, taken=case.taken)


def units_left(case: Case) -> Denial | None:
    """There is enough of every counted feature that is wanted."""
    wanted, short_of = case.checkout.features, case.pool.short_of
    if not wanted or short_of is None:
        return None
    short = short_of(wanted, now=case.now)
    if short is None:
        return None
    key, level = short
    feature, total, left = case.terms.feature(key), level.total or 0, level.available or 0
    on_top = None if feature is None else feature.overdraft.on_top_of(total)
    limit = None if on_top is None else total + on_top
    asked = sum(amount for one, amount in wanted if one == key)
    pool = level.type is FeatureType.ELEMENT_POOL
    helps = "wait until others return some, or order more" if pool else "order a grant"
    return Denial(
        code="no_feature_units",
        rule="units",
        detail=f"{asked} ({level.unit or 'units'}) of {key} were asked for; {left} are left.",
        product=case.checkout.product,
        entitlement_id=case.terms.entitlement_id,
        feature=key,
        asked=asked,
        in_use=level.consumed if not pool else None if limit is None else limit - left,
        limit=limit,
        retry_after_seconds=RETRY_AFTER_SECONDS if pool else None,
        remedy=f"{asked - left} more of {key} would do: {helps}.",
    )


BEFORE_SEATS: Final[tuple[RuleOfSeating, ...]] = (
    enabled,
    not_ended,
    started,
    kept_here,
    edition_covered,
    version_covered,
    features_known,
    features_on,
    named,
    let_in,
)
FOR_SEATS: Final[tuple[RuleOfSeating, ...]] = (seats_free, not_promised, within_limits, not_reserved, units_left)


def _denial(
    case: Case, code: str, rule: str, detail: str, remedy: str, *, feature: tuple[str, int] | None = None
) -> Denial:
    return Denial(
        code=code,
        rule=rule,
        detail=detail,
        remedy=remedy,
        product=case.checkout.product,
        entitlement_id=case.terms.entitlement_id,
        feature=None if feature is None else feature[0],
        asked=case.checkout.seats if feature is None else feature[1],
    )


def _no_seat(case: Case, rule: str, detail: str, remedy: str) -> Denial:
    return Denial(
        code="no_seat",
        rule=rule,
        detail=detail,
        remedy=remedy,
        product=case.checkout.product,
        entitlement_id=case.terms.entitlement_id,
        asked=case.checkout.seats,
        in_use=case.pool.in_use,
        seats=case.terms.seats,
        limit=case.terms.capacity,
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
