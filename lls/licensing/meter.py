"""One counted or tracked feature of one entitlement: what was given, what was taken, what is left.

Rules
1. Of every lot in force, used + remaining = amount. A lot that was ended is out for good, whatever the clock or the
   terms say later; what was left of it is lost.
2. Taking follows the order of the lots (``lots``). What goes beyond all of them is overdraft, counted under a lot of
   its own, within its limit: what the terms allow on top of the units in force.
3. Other terms change what was given, never what was taken. Where less was given than was taken, nothing remains; the
   excess is no overdraft. Where they move the start, the months have other names: what the month in force has counted,
   its overdraft too, goes on in the month that is in force then, so that no allowance is given twice.
4. An element pool and a tracked switch are held, not used up: their level is the sum over the leases.
5. No figure goes beyond 2**53 - 1, the largest integer that JSON and SQL carry exactly; nor may any lot.

Most calls find the lots of the call before: they change only at a lot's begin or end, so the sums are kept between.

It refuses to own lines, rows and requests (``meters``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from lls.licensing.entitlement import Entitlement, Feature, FeatureType
from lls.licensing.fields import LARGEST
from lls.licensing.instant import Now
from lls.licensing.lots import (
    ALLOWANCE,
    FIRST,
    LAST,
    OVERDRAFT,
    Lot,
    begins_within,
    is_monthly,
    months_named,
    order,
    period_lot,
    period_named,
    standing_lots,
)

Draws = tuple[tuple[str, int], ...]
"""Units by lot."""

_PERIOD: Final = f"{ALLOWANCE} "


class FeatureLevel(NamedTuple):
    """The figures of a feature's answer. A tuple, as several are made for each use and each checkout.

    ``available`` is what may still be taken, overdraft included, and ``total`` the units in force; None of the first is
    unlimited, of both: nothing is counted. ``consumed`` is what was taken of the lots in force, the ``overage`` beyond
    them included. ``ends_at`` is the end of the units that are taken next.
    """

    key: str
    type: FeatureType
    value: int
    unit: str | None
    currency: str | None
    held: int
    available: int | None
    total: int | None
    consumed: int
    overage: int
    ends_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LotAccount:
    """One lot as it is told: ``used`` + what remains, or was lost, = ``amount``. Of overdraft all is used."""

    lot: str
    amount: int
    used: int
    ended: bool


class Carried(NamedTuple):
    """Units that are counted under another lot from now on."""

    lot: str
    into: str
    units: int


class Meter:
    """See the module. Without terms (``feature`` None) it only keeps its counters."""

    __slots__ = (
        "_consumed",
        "_counted",
        "_first",
        "_left",
        "_limit",
        "_lots",
        "_next_end",
        "_overdraft",
        "_periods",
        "_since",
        "_standing",
        "_told",
        "_total",
        "_until",
        "ended",
        "entitlement_id",
        "feature",
        "is_pool",
        "key",
        "last",
        "level",
        "over",
        "terms",
        "used",
    )

    def __init__(self, entitlement_id: str, key: str) -> None:
        self.entitlement_id = entitlement_id
        self.key = key
        self.feature: Feature | None = None
        self.is_pool = False
        """Whether its units are held and may be too many."""
        self.last: Feature | None = None
        """The feature as terms named it last; None: none did since the server's start."""
        self.terms: Entitlement | None = None
        self.used: dict[str, int] = {}
        """By lot; a period's allowance stands here from the moment it is in force."""
        self.ended: set[str] = set()
        self.level = 0
        """Units held by leases."""
        self.over = False
        """Whether the journal says that more is held than there is."""
        self._standing: list[Lot] = []
        self._periods: dict[str, Lot] = {}
        self._lots: list[Lot] = []
        self._first = self._left = self._total = self._consumed = 0
        self._limit: int | None = 0
        self._overdraft = OVERDRAFT
        self._since, self._until, self._next_end = LAST, FIRST, LAST
        self._counted: tuple[int, ...] = ()
        self._told: FeatureLevel | None = None
        """The figures as they were told last, and of which counts: most checkouts ask for the same ones again."""

    # ---------------------------------------------------------------- terms

    def govern(self, feature: Feature | None, terms: Entitlement) -> list[Lot]:
        """Put terms in force; the lots, neither over nor ended, which they do not know any more.

        An allowance without periods is not among them: its count waits for terms that know it again.
        """
        known = {lot.lot_id: lot for lot in (*self._standing, *self._periods.values())}
        self.feature, self.terms, self.last = feature, terms, feature or self.last
        self.is_pool = feature is not None and feature.type is FeatureType.ELEMENT_POOL
        self._standing = [] if feature is None else standing_lots(feature, terms)
        self._periods = {}
        if feature is not None and is_monthly(feature):
            named = (period_named(lot, feature, terms) for lot in self.used if lot not in self.ended)
            self._periods = {lot.lot_id: lot for lot in named if lot is not None}
        self._since = LAST
        stays = {lot.lot_id for lot in self._standing} | self._periods.keys() | self.ended | {ALLOWANCE}
        gone = {lot for lot in (*known, *self.used) if lot not in stays and not lot.startswith(OVERDRAFT)}
        return sorted((known.get(lot) or Lot(lot_id=lot, amount=self.used[lot]) for lot in gone), key=order)

    def carry_month(self, feature: Feature | None, terms: Entitlement, now: Now) -> list[Carried]:
        """Before terms with this feature come in force: what the month in force has counted takes its name there.

        Before a start that is still to come, that is the first month. The month in force is the one of the terms so
        far; without them, and without a start, whichever its own name says.
        """
        if feature is None or not is_monthly(feature):
            return []
        here = period_lot(feature, terms, now.wall).lot_id.removeprefix(_PERIOD)
        months = months_named(self.used, now.wall)
        if self.feature is not None and self.terms is not None and is_monthly(self.feature):
            months.add(period_lot(self.feature, self.terms, now.wall).lot_id.removeprefix(_PERIOD))
        carried: list[Carried] = []
        for month in sorted(months - {here}):
            for kind in (ALLOWANCE, OVERDRAFT):
                lot, into = f"{kind} {month}", f"{kind} {here}"
                if lot in self.used and lot not in self.ended:
                    units = self.used.pop(lot)
                    self._periods.pop(lot, None)
                    self.used[into] = self.used.get(into, 0) + units
                    carried.append(Carried(lot, into, units))
        return carried

    # ---------------------------------------------------------------- figures

    def room(self, now: Now) -> int:
        """The units that may be taken; what is unlimited ends where integers do."""
        self._refresh(now)
        if self.is_pool:
            limit = LARGEST if self._limit is None else self._limit
            return max(0, min(LARGEST, self._total + limit) - self.level)
        return self._unused(self.used.get(self._overdraft, 0))

    def _unused(self, overage: int) -> int:
        """What may still be used up, after so much overdraft."""
        limit = LARGEST if self._limit is None else min(self._limit, LARGEST)
        return min(LARGEST, self._left + max(0, limit - overage))

    def figures(self, now: Now, *, held: int = 0, level: int | None = None) -> FeatureLevel:
        """Its figures, for a lease that holds ``held``; ``level`` in place of what leases hold now."""
        feature = self.feature
        if feature is None:
            raise LookupError(self.key)
        if not feature.counted:
            return switch_level(feature, held=held)
        self._refresh(now)
        used = self.level if level is None else level
        overage = 0 if self.is_pool else self.used.get(self._overdraft, 0)
        counted = used, self._consumed, self._left, overage, self._first
        if self._told is None or counted != self._counted:
            self._told, self._counted = self._figures(feature, used, overage), counted
        return self._told._replace(held=held) if held else self._told

    def _figures(self, feature: Feature, used: int, overage: int) -> FeatureLevel:
        if self.is_pool:
            limit = None if self._limit is None else min(LARGEST, self._total + self._limit)
            available = None if limit is None else max(0, limit - used)
            consumed = 0
        else:
            available = None if self._limit is None else self._unused(overage)
            consumed = min(LARGEST, self._consumed + overage)
        return FeatureLevel(
            key=feature.key,
            type=feature.type,
            value=feature.value,
            unit=feature.unit,
            currency=feature.currency,
            held=0,
            available=available,
            total=min(LARGEST, self._total),
            consumed=consumed,
            overage=overage,
            ends_at=self._ends_at(),
        )

    def capacity(self, now: Now) -> int | None:
        """All that could be taken by now: the units in force and the overdraft; None is unlimited."""
        self._refresh(now)
        return None if self._limit is None else min(LARGEST, self._total + self._limit)

    def size(self, now: Now) -> int | None:
        """The units of a pool in force; None of everything else."""
        self._refresh(now)
        return min(LARGEST, self._total) if self.is_pool else None

    def over_by(self, now: Now) -> int:
        """The units of a pool that are held beyond what is there."""
        self._refresh(now)
        return max(0, self.level - self._total) if self.is_pool else 0

    def was_over(self, now: Now) -> bool:
        """Whether more of a pool was held than there was before the end of the lots that are still to be ended."""
        self._refresh(now)
        return self.is_pool and self.level > self._total + sum(lot.amount for lot in self.due(now))

    def accounts(self, now: Now) -> list[LotAccount]:
        """Every lot that is known: of the terms, and of what was used before. A lot without terms tells its use."""
        self._refresh(now)
        known = {lot.lot_id: lot for lot in (*self._lots, *self._standing, *self._periods.values())}
        if self.feature is not None and self.terms is not None and is_monthly(self.feature):
            named = (period_named(lot, self.feature, self.terms) for lot in self.used if lot not in known)
            known.update({lot.lot_id: lot for lot in named if lot is not None})
        others = (Lot(lot_id=lot, amount=0) for lot in self.used.keys() - known.keys())
        return [
            LotAccount(
                lot=lot.lot_id,
                amount=max(lot.amount, self.used.get(lot.lot_id, 0)),
                used=self.used.get(lot.lot_id, 0),
                ended=lot.lot_id in self.ended,
            )
            for lot in sorted((*known.values(), *others), key=order)
        ]

    @property
    def next_change(self) -> datetime | None:
        """The next instant at which a lot begins or ends, as of the last look; None: nothing to wait for."""
        return None if self._until == LAST else self._until

    def _ends_at(self) -> datetime | None:
        """Of the first lot from which something can be taken; else of the first that ends."""
        lots = self._lots
        if not lots:
            return None
        return lots[self._first if self._first < len(lots) and not self.is_pool else 0].ends

    # ---------------------------------------------------------------- taking and giving back

    def draw(self, amount: int, now: Now) -> Draws:
        """Take units, whether there is room or not; from which lots. What no lot has is overdraft."""
        self._refresh(now)
        used, draws, need, lots = self.used, [], amount, self._lots
        while need and self._first < len(lots):
            lot = lots[self._first]
            before = used.get(lot.lot_id, 0)
            units = min(need, lot.amount - before)
            used[lot.lot_id] = before + units
            draws.append((lot.lot_id, units))
            need -= units
            if lot.lot_id.startswith(_PERIOD):
                self._periods[lot.lot_id] = lot
            if before + units == lot.amount:
                self._skip_empty()
        self._left -= amount - need
        self._consumed += amount - need
        if need:
            used[self._overdraft] = used.get(self._overdraft, 0) + need
            draws.append((self._overdraft, need))
        return tuple(draws)

    def give_back(self, draws: Draws) -> None:
        """Units go back to the very lots; into one that was ended they are lost."""
        for lot, units in draws:
            self.used[lot] = max(0, self.used.get(lot, 0) - units)
        self._since = LAST

    def begin_anew(self, now: Now) -> tuple[list[str], int, int]:
        """Lots that have not ended and the overdraft in force count from nothing: which had counted, how much, over.

        Also what a clock put forward hides: it is there again when that is put right, and the vendor, who reads the
        sums alone, takes all of it for cleared.
        """
        self._refresh(now)
        earlier = {lot for lot in self.used if lot.startswith(OVERDRAFT)} - {self._overdraft}
        return self._begin([lot for lot in self.used if lot not in earlier])

    def begin_blind(self) -> tuple[list[str], int, int]:
        """The same with all that was ever overdrawn, as no terms say which month is in force."""
        return self._begin(list(self.used))

    def _begin(self, lots: Iterable[str]) -> tuple[list[str], int, int]:
        changed = [lot for lot in lots if self.used[lot] and lot not in self.ended]
        consumed = sum(self.used[lot] for lot in changed)
        over = sum(self.used[lot] for lot in changed if lot.startswith(OVERDRAFT))
        for lot in changed:
            self.used[lot] = 0
        self._since = LAST
        return changed, consumed, over

    def know(self, lots: Collection[tuple[str, int, bool]]) -> list[str]:
        """Other counters: units by lot, and whether it has ended; the lots that changed."""
        told = {lot: units for lot, units, _ended in lots}
        ended = {lot for lot, _units, over in lots if over} - self.ended
        changed = [lot for lot in (*self.used, *told) if self.used.get(lot) != told.get(lot, 0) or lot in ended]
        self.used.update({lot: told.get(lot, 0) for lot in changed})
        self.ended |= ended
        self._since = LAST
        return list(dict.fromkeys(changed))

    # ---------------------------------------------------------------- the end of lots

    def has_due(self, now: Now) -> bool:
        """Whether any lot is to be ended: asked before every use, so without a walk."""
        self._refresh(now)
        return self._next_end <= now.wall

    def due(self, now: Now) -> list[Lot]:
        """The lots whose end has passed on guarded time and which were not ended yet."""
        lots = (*self._standing, *self._periods.values())
        return sorted((lot for lot in lots if lot.is_over(now.wall) and lot.lot_id not in self.ended), key=order)

    def end(self, lot_id: str) -> int:
        """A lot is out for good; what was used of it."""
        self.ended.add(lot_id)
        self._periods.pop(lot_id, None)
        self._since = LAST
        return self.used.setdefault(lot_id, 0)

    def see_period(self, now: Now) -> str | None:
        """Note the period in force (or the first, before the start), so that its end is told; its id if it is new."""
        feature, terms = self.feature, self.terms
        if feature is None or terms is None or terms.starts_at is None or not (is_monthly(feature) and feature.value):
            return None
        lot = period_lot(feature, terms, now.wall)
        if lot.lot_id in self.used or not begins_within(lot, terms):
            return None
        self.used[lot.lot_id] = 0
        self._periods[lot.lot_id] = lot
        self._since = LAST
        return lot.lot_id

    # ---------------------------------------------------------------- the lots in force

    def _refresh(self, now: Now) -> None:
        if not (self._since <= now.wall < self._until and now.strict < self._until):
            self._reckon(now)

    def _reckon(self, now: Now) -> None:
        """Find the lots in force and their sums; they stay until the next begin or end."""
        feature, terms = self.feature, self.terms
        lots, self._overdraft = self._standing, OVERDRAFT
        if feature is not None and terms is not None and is_monthly(feature):
            period = period_lot(feature, terms, now.wall)
            if begins_within(period, terms):
                lots = sorted((*lots, period), key=order)
            self._overdraft = OVERDRAFT + period.lot_id.removeprefix(ALLOWANCE)
        living = [lot for lot in lots if lot.lot_id not in self.ended]
        # Where the vendor set the clock back, an ended period is followed by another all the same.
        turns = (at for lot in lots for at in (lot.begins, lot.ends) if at is not None and at > now.wall)
        self._until = min(turns, default=LAST)
        # What a clock put forward hides is there again when it is put right: nothing of it is kept.
        self._since = now.wall if now.strict < self._until else LAST
        open_lots = (lot for lot in (*self._standing, *self._periods.values()) if lot.lot_id not in self.ended)
        self._next_end = min((lot.ends for lot in open_lots if lot.ends is not None), default=LAST)
        self._lots = [lot for lot in living if lot.in_force(now)]
        used = [self.used.get(lot.lot_id, 0) for lot in self._lots]
        self._total = sum(lot.amount for lot in self._lots)
        self._consumed = sum(used)
        self._left = sum(max(0, lot.amount - taken) for lot, taken in zip(self._lots, used, strict=True))
        self._limit = 0 if feature is None else feature.overdraft.on_top_of(self._total)
        self._first = 0
        self._told = None
        self._skip_empty()

    def _skip_empty(self) -> None:
        """Let ``_first`` be the first lot of which something remains."""
        lots, used = self._lots, self.used
        while self._first < len(lots) and lots[self._first].amount <= used.get(lots[self._first].lot_id, 0):
            self._first += 1


def switch_level(feature: Feature, *, held: int = 0) -> FeatureLevel:
    """The figures of a switch: nothing of it is counted."""
    return FeatureLevel(
        key=feature.key,
        type=feature.type,
        value=feature.value,
        unit=None,
        currency=None,
        held=held,
        available=None,
        total=None,
        consumed=0,
        overage=0,
        ends_at=None,
    )
