"""How many seats a set of leases occupies: who shares a seat with whom, and what that seat counts.

Rules
1. Leases with the same key sit on one seat together, which is as wide as the widest of them; a lease without a key sits
   alone.
2. The key comes from the terms: the machine of a node-locked entitlement, whatever its ``sharing`` says; else the user,
   the host or both. Who does not name itself shares with nobody.
3. Counts move with each lease and are never taken anew. A level is found in the number of *different* widths on one
   seat, which is one almost everywhere and never more than the seat is wide.

A pool counts its own leases with it, and the site's rules those of their members; so both mean the same by a seat. It
refuses to know why anybody is counted (``pools``, ``quotas``).
"""

from __future__ import annotations

from typing import TypeAlias

from lls.licensing.entitlement import Concurrency, Entitlement, Sharing
from lls.licensing.lease import Holder

SeatKey: TypeAlias = tuple[str, ...]
Place: TypeAlias = tuple[SeatKey | None, int]
"""A lease as it is counted: its key and its seats."""


class Occupancy:
    """The seats that some leases of one entitlement occupy: ``level`` in all."""

    __slots__ = ("_groups", "level")

    def __init__(self) -> None:
        self.level = 0
        self._groups: dict[SeatKey, dict[int, int]] = {}
        """How many leases of which width sit on a shared seat."""

    def add(self, place: Place) -> int:
        """Count a lease; the seats that it newly occupies."""
        key, seats = place
        taken = seats
        if key is not None:
            widths = self._groups.setdefault(key, {})
            taken = max(0, seats - max(widths, default=0))
            widths[seats] = widths.get(seats, 0) + 1
        self.level += taken
        return taken

    def remove(self, place: Place) -> int:
        """Count a lease no more; the seats that come free. It must have been added under the same key and width."""
        key, seats = place
        freed = seats
        if key is not None:
            freed = self._freed(key, seats)
            widths = self._groups[key]
            widths[seats] -= 1
            if not widths[seats]:
                del widths[seats]
                if not widths:
                    del self._groups[key]
        self.level -= freed
        return freed

    def change(self, comes: Place | None, leaves: Place | None = None) -> int:
        """By how much the level would rise if one lease came and another left at once; negative when it would fall."""
        if leaves is None:
            return 0 if comes is None else self._taken(comes)
        old, width = leaves
        freed = width if old is None else self._freed(old, width)
        if comes is None:
            return -freed
        if old is None or comes[0] != old:
            return self._taken(comes) - freed
        # It comes back to the very seat that it leaves: what others need of that seat stays.
        return max(0, comes[1] - (self._width(old) - freed)) - freed

    def _taken(self, place: Place) -> int:
        key, seats = place
        return seats if key is None else max(0, seats - self._width(key))

    def _freed(self, key: SeatKey, seats: int) -> int:
        """What comes free of a shared seat without one lease of that width."""
        widths = self._groups[key]
        if widths[seats] > 1 or len(widths) == 1:
            return 0 if widths[seats] > 1 else seats
        return max(0, seats - max(width for width in widths if width != seats))

    def _width(self, key: SeatKey) -> int:
        widths = self._groups.get(key)
        return max(widths) if widths else 0


def groups(terms: Entitlement) -> bool:
    """Whether any leases may share a seat under these terms; else everybody's key is None."""
    return terms.concurrency is Concurrency.NODE_LOCK or terms.sharing is not Sharing.NONE


def seat_key(terms: Entitlement, holder: Holder) -> SeatKey | None:
    """With whom a holder shares a seat; None: with nobody."""
    if terms.concurrency is Concurrency.NODE_LOCK:
        return (holder.seat_id,)
    sharing, user, host = terms.sharing, holder.user, holder.host
    if sharing is Sharing.NONE:
        return None
    match sharing:
        case Sharing.USER if user:
            return user, ""
        case Sharing.HOST if host:
            return "", host
        case Sharing.USER_HOST if user and host:
            return user, host
    return None


def same_grouping(one: Entitlement, other: Entitlement) -> bool:
    """Whether the same leases share the same seats under both terms."""
    return one.sharing is other.sharing and one.concurrency is other.concurrency
