"""What would be decided of a checkout now, told rule by rule; nothing is posted, nothing is kept.

Rules
1. It asks the very functions that decide (``seating``, ``quotas``), in their order; the outcome is ``seat``'s own.
   Who waits comes from the ledger (:class:`Queue`), as a checkout of now would find it.
2. Each entitlement of the product has its steps. After the first refusal the rest are ``skipped``: nobody asked them.
3. A site rule that is not about this holder, this hour or this checkout is ``skipped``, and says so.

It refuses to know whether the server itself may grant (clock, licence): the ledger puts that first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

from lls.faults import UnknownProduct
from lls.licensing import seating
from lls.licensing.denial import Denial
from lls.licensing.entitlement import Concurrency
from lls.licensing.fields import write_instant
from lls.licensing.instant import Now
from lls.licensing.lease import Checkout
from lls.licensing.pools import Pools
from lls.licensing.seating import (
    BEFORE_SEATS,
    FOR_SEATS,
    NOBODY_WAITS,
    Case,
    QueueBefore,
    RuleOfSeating,
    Seat,
    cases,
    seat,
)


class StepVerdict(StrEnum):
    """What a rule said."""

    PASSED = "passed"
    REFUSED = "refused"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rule and what it says to the checkout; ``entitlement_id`` where it was asked for that entitlement."""

    rule: str
    verdict: StepVerdict
    words: str
    entitlement_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Every rule in the order in which it is asked, and the outcome."""

    steps: tuple[Step, ...]
    outcome: Seat | Denial


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Who waits for the product: ``before`` the checkout and ``behind`` it, and what is promised to those before."""

    before: int = 0
    behind: int = 0
    promises: QueueBefore = NOBODY_WAITS


def explain(checkout: Checkout, pools: Pools, *, now: Now, queue: Queue = Queue()) -> Explanation:
    """Why this checkout would get the seat that it would get, or none.

    A wish that names only a product and a holder will do. Raises UnknownProduct, BadActivationCode.
    """
    if not pools.of(checkout.product):
        raise UnknownProduct(f"No bundle imported here names the product {checkout.product}.")
    promised, ahead = queue.promises
    outcome = seat(checkout, pools, now=now, promised=promised, ahead=ahead)
    asked = cases(checkout, pools, now=now, promised=promised, ahead=ahead)
    opened = {case.terms.entitlement_id: case for case in asked}
    steps: list[Step] = []
    for pool in pools.of(checkout.product):
        case = opened.get(pool.entitlement.entitlement_id)
        steps += _locked(checkout, pool.entitlement.entitlement_id) if case is None else _steps(case, queue)
    return Explanation(steps=tuple(steps), outcome=outcome)


def _locked(checkout: Checkout, entitlement_id: str) -> Iterator[Step]:
    code = "It opens with another activation code." if checkout.activation_code else "It opens with an activation code."
    yield Step(rule="activation_code", verdict=StepVerdict.REFUSED, words=code, entitlement_id=entitlement_id)


def _steps(case: Case, queue: Queue) -> Iterator[Step]:
    key = case.terms.entitlement_id
    words = "The activation code fits." if case.checkout.activation_code else "It needs no activation code."
    yield Step(rule="activation_code", verdict=StepVerdict.PASSED, words=words, entitlement_id=key)
    refused = False
    for number, rule in enumerate((*BEFORE_SEATS, *FOR_SEATS)):
        if number == len(BEFORE_SEATS) and not refused:
            case.taken = case.pool.newly_taken(case.checkout)
        denial = None if refused else rule(case)
        for name, verdict, said in _told(rule, case, denial, queue, asked=not refused):
            yield Step(rule=name, verdict=verdict, words=said, entitlement_id=key)
        refused = refused or denial is not None


_Told = tuple[str, StepVerdict, str]
_NOT_ASKED: Final = "An earlier rule has refused."


def _told(rule: RuleOfSeating, case: Case, denial: Denial | None, queue: Queue, *, asked: bool) -> Iterator[_Told]:
    """One rule of seating; those of the site one by one."""
    if rule in _OF_THE_SITE:
        yield from _site(case, denial, _OF_THE_SITE[rule], asked=asked)
        return
    name, passed = ("queue", partial(_queue, queue=queue)) if rule is seating.not_promised else _PASSED[rule]
    if not asked:
        yield name, StepVerdict.SKIPPED, _NOT_ASKED
    elif denial is not None:
        yield denial.rule, StepVerdict.REFUSED, denial.detail
    else:
        yield name, *passed(case)


def _yes(words: str) -> tuple[StepVerdict, str]:
    return StepVerdict.PASSED, words


def _no_matter(words: str) -> tuple[StepVerdict, str]:
    return StepVerdict.SKIPPED, words


def _ends(case: Case) -> tuple[StepVerdict, str]:
    ends_at = case.terms.ends_at
    return _yes("It has no end." if ends_at is None else f"It ends {write_instant(ends_at)}, grace included.")


def _starts(case: Case) -> tuple[StepVerdict, str]:
    starts_at = case.terms.starts_at
    return _yes("The first lease starts it." if starts_at is None else f"It has started {write_instant(starts_at)}.")


def _edition(case: Case) -> tuple[StepVerdict, str]:
    asked = case.checkout.edition
    return _no_matter("No edition was asked for.") if asked is None else _yes(f"Edition {asked} is covered.")


def _version(case: Case) -> tuple[StepVerdict, str]:
    wish = case.checkout
    if wish.version is None and wish.released_on is None:
        return _no_matter("No version was named.")
    return _yes(f"The build is covered ({wish.version or wish.released_on}).")


def _features(words: str) -> Callable[[Case], tuple[StepVerdict, str]]:
    return lambda case: _yes(words) if case.checkout.features else _no_matter("No feature was asked for.")


def _names(case: Case) -> tuple[StepVerdict, str]:
    if case.terms.concurrency is not Concurrency.NAMED_USER:
        return _no_matter("Its seats have no names.")
    return _yes(f"{case.checkout.holder.user} is one of its named users.")


def _seats(case: Case) -> tuple[StepVerdict, str]:
    pool, capacity = case.pool, case.terms.capacity
    used = f"{pool.in_use} of {'unlimited' if capacity is None else capacity} seats are in use"
    if case.taken <= 0:
        return _yes(f"{used}; this checkout shares a seat or comes back to its own, and takes no new one.")
    return _yes(f"{used}; this checkout takes {case.taken}.")


def _queue(case: Case, queue: Queue) -> tuple[StepVerdict, str]:
    waiting = queue.before + queue.behind
    if case.taken <= 0:
        return _no_matter("No new seat would be taken.")
    if not waiting:
        return _yes("Nobody waits.")
    who = f"{waiting} {'waits' if waiting == 1 else 'wait'} for {case.checkout.product}"
    if case.terms.entitlement_id in case.promised:
        return _yes(f"{who}; this holder draws on its own reservation, which nobody before it is to have.")
    if not queue.before:
        return _yes(f"{who}, of lower priority: it would go before them.")
    return _yes(f"{who}, {queue.before} before it; none of them is promised a seat of this entitlement.")


_PASSED: Final[dict[RuleOfSeating, tuple[str, Callable[[Case], tuple[StepVerdict, str]]]]] = {
    seating.enabled: ("status", lambda _case: _yes("It is enabled.")),
    seating.not_ended: ("dates", _ends),
    seating.started: ("dates", _starts),
    seating.kept_here: ("returning", lambda _case: _yes("It is not being returned.")),
    seating.edition_covered: ("edition", _edition),
    seating.version_covered: ("version", _version),
    seating.features_known: ("feature", _features("It has all of these features.")),
    seating.features_on: ("feature", _features("All of these features are switched on.")),
    seating.named: ("named_user", _names),
    seating.seats_free: ("seats", _seats),
    seating.units_left: ("units", _features("Enough units are left.")),
}


# -------------------------------------------------------------------- the site's rules, one by one


def _site(case: Case, denial: Denial | None, which: _SiteRules, *, asked: bool) -> Iterator[_Told]:
    for name, verdict, words in which(case):
        if not asked:
            yield name, StepVerdict.SKIPPED, _NOT_ASKED
        elif denial is not None and denial.rule == name:
            yield name, StepVerdict.REFUSED, denial.detail
            asked = False
        else:
            yield name, verdict, words


_SiteRules = Callable[[Case], Iterator[_Told]]


def _admission(case: Case) -> Iterator[_Told]:
    if case.rules is None:
        return
    for rule in case.rules.denies:
        yield rule.rule, *_no_matter(f"It does not name this holder: {rule.words}.")
    if case.rules.allows:
        yield "allow", *_yes("An allow rule names this holder.")


def _limits(case: Case) -> Iterator[_Told]:
    if case.quotas is None:
        return
    counting = {id(one.limit): one for one in case.quotas.limited(case.pool)}
    for rule in case.quotas.rules.limits:
        one = counting.get(id(rule))
        if one is None:
            yield rule.rule, *_no_matter(f"It does not count this holder: {rule.words}.")
        elif case.taken <= 0:
            yield rule.rule, *_no_matter("No new seat would be taken.")
        else:
            after = one.level + one.change
            yield rule.rule, *_yes(f"The {one.whose} would occupy {after} of {rule.seats} seats: {rule.words}.")


def _reservations(case: Case) -> Iterator[_Told]:
    if case.quotas is None:
        return
    keeping = {id(one.rule): one for one in case.quotas.kept(case.pool)}
    for rule in case.quotas.rules.reservations:
        one = keeping.get(id(rule))
        if one is None and not rule.in_force(case.now.wall):
            yield rule.rule, *_no_matter(f"This is not its hour: {rule.words}.")
        elif one is None:
            yield rule.rule, *_no_matter("Seats are unlimited, so none need be kept.")
        elif case.taken <= 0:
            yield rule.rule, *_no_matter("No new seat would be taken.")
        elif one.own:
            yield rule.rule, *_yes(f"It keeps {one.unmet} seats for its members, and this holder is one: {rule.words}.")
        else:
            yield rule.rule, *_yes(f"It keeps {one.unmet} seats for others; {one.left} are left: {rule.words}.")


_OF_THE_SITE: Final[dict[RuleOfSeating, _SiteRules]] = {
    seating.let_in: _admission,
    seating.within_limits: _limits,
    seating.not_reserved: _reservations,
}
