"""The course of a subscription: all that was ever said of it, in its right order, becomes what is true now. Pure.

    course(words, unsold=frozenset({"price_setup"})) -> Course(things, suspended, ended)

Rules
1. The order of arrival is nowhere in it: the same words give the same course, whenever each of them came. What a
   subscription is now, is never changed by an event; it is told again from all of them.
2. The beginning is the first word. The others follow by their instant; of one instant by the source's own count, then
   a change before a renewal before an end, because a renewal is for what the change left, and an end is final where
   nothing later says otherwise. What then still is equal, follows as it came.
3. A renewal is for the items that it names, or for all that were in the subscription at that time. It takes back an end
   that was before it: who is invoiced a next period, lives again. A suspension it leaves alone.
4. Only a word that says so (``active``) ends a suspension; it takes back an end, too.
5. An item whose product sells no licence (``unsold``) is as if it were not in it.

It refuses to own what was made of it so far (``agreeing``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeAlias

from lls.issuer.intake.facts import Changed, Ended, Item, Renewed, Started

Said: TypeAlias = Started | Renewed | Changed | Ended
_RANKS: Final = {Started: 0, Changed: 1, Renewed: 2, Ended: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A fact and the number of its event in the inbox, which tells in which order they came."""

    event: int
    fact: Said


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A term that was sold of a thing: by which invoice or charge, and when."""

    ref: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """An item that is or was in it: as it is, or was when it was taken out; with all its renewals."""

    item: str
    product: str
    quantity: int
    present: bool
    renewals: tuple[Due, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is true of a subscription; ``ended`` where nothing says that it lives again."""

    things: tuple[Thing, ...]
    suspended: bool
    ended: Ended | None

    def over(self, now: datetime, *, at_once: bool) -> bool:
        """Whether it ended, and what was paid for is over, or its end counts ``at_once``."""
        if self.ended is None:
            return False
        return at_once or self.ended.paid_until is None or self.ended.paid_until <= now

    def off(self, now: datetime, *, at_once: bool) -> bool:
        """Whether nothing of it may be used now."""
        return self.suspended or self.over(now, at_once=at_once)


def in_order(words: Iterable[Word]) -> list[Word]:
    """Rule 2."""
    return sorted(words, key=_key)


def newest(words: Iterable[Word], word: Word) -> bool:
    """Whether nothing later is known of what a word speaks of: of its items, or of whether it lives."""
    mine, mine_key = _subjects(word.fact), _key(word)
    return not any(_key(other) > mine_key and mine & _subjects(other.fact) for other in words)


def course(words: Iterable[Word], *, unsold: frozenset[str] = frozenset()) -> Course:
    """See the module."""
    things: dict[str, Thing] = {}
    renewals: list[tuple[Renewed, frozenset[str]]] = []
    suspended, ended, bought = False, None, ""
    for word in in_order(words):
        match word.fact:
            case Started(items=items, ref=bought):
                _put(things, items, unsold)
            case Renewed(ref=ref) if ref == bought:
                pass
            case Changed() as fact:
                if fact.items is not None:
                    _put(things, fact.items, unsold, whole=fact.whole)
                if fact.active is not None:
                    suspended, ended = not fact.active, None if fact.active else ended
            case Renewed() as fact:
                ended = None
                renewals.append((fact, _renewed(things, fact)))
            case Ended() as fact:
                ended = fact
    return Course(
        things=tuple(replace(one, renewals=_dues(one, renewals)) for one in things.values()),
        suspended=suspended,
        ended=ended,
    )


def _put(things: dict[str, Thing], items: Iterable[Item], unsold: frozenset[str], *, whole: bool = False) -> None:
    listed = {one.item: one for one in items}
    there = {name for name, one in listed.items() if one.quantity and one.product not in unsold}
    for name, one in things.items():
        if one.present and name not in there and (whole or name in listed):
            things[name] = replace(one, present=False)
    for name, new in listed.items():
        if name in there:
            things[name] = Thing(item=name, product=new.product, quantity=new.quantity, present=True)


def _renewed(things: dict[str, Thing], fact: Renewed) -> frozenset[str]:
    """The items that a renewal is for."""
    return fact.only if fact.only is not None else frozenset(name for name, one in things.items() if one.present)


def _dues(thing: Thing, renewals: Iterable[tuple[Renewed, frozenset[str]]]) -> tuple[Due, ...]:
    return tuple(Due(ref=fact.ref, at=fact.at) for fact, items in renewals if thing.item in items)


def _key(word: Word) -> tuple[object, ...]:
    fact = word.fact
    if isinstance(fact, Started):
        return (0, word.event)
    return (1, fact.at, fact.sequence, _RANKS[type(fact)], word.event)


def _subjects(fact: Said) -> frozenset[str]:
    """What a word speaks of; a source tells of its items either whole or one by one."""
    found: set[str] = set()
    if isinstance(fact, Changed) and fact.items is not None:
        found |= {"items"} if fact.whole else {f"item {one.item}" for one in fact.items}
    if isinstance(fact, Ended) or (isinstance(fact, Changed) and fact.active is not None):
        found.add("state")
    return frozenset(found)
