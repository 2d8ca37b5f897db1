"""When leases are due: a wheel of one-second slots, re-armed lazily.

Rules
1. One entry per lease. A heartbeat moves only the lease's own deadline; the wheel learns of it when the old slot comes
   up (measured: 0.8 ms a tick at a million leases, a lazy heap 15 ms, a full scan 20 ms; design §8).
2. A lease is due when boot-time has reached its deadline, to the fraction of a second: a slot that is only partly over
   is looked through, so that no denial is given for a seat whose time is up.
3. An ended lease leaves its slot at once, so short leases with long times leave nothing behind.
"""

from __future__ import annotations

from typing import Final

from lls.licensing.lease import Lease

MOST_MOVED: Final = 10_000


class _Slot:
    """The leases of one second. They share its number: a hundred thousand of their own would be 3 MB."""

    __slots__ = ("leases", "second")

    def __init__(self, second: int) -> None:
        self.second = second
        self.leases: dict[str, Lease] = {}


class Deadlines:
    """The slots; ``Lease.armed`` is the slot in which a lease stands, -1 for none."""

    def __init__(self) -> None:
        self._slots: dict[int, _Slot] = {}
        self._cursor: int | None = None

    def arm(self, lease: Lease) -> None:
        """Put a lease into the slot of its deadline."""
        if lease.armed >= 0:
            self.disarm(lease)
        second = int(lease.deadline)
        if self._cursor is not None and second < self._cursor:
            # Overdue already, or the caller's time went on: the next look must find it.
            second = self._cursor
        slot = self._slots.get(second)
        if slot is None:
            slot = self._slots[second] = _Slot(second)
        lease.armed = slot.second
        slot.leases[lease.lease_id] = lease

    def disarm(self, lease: Lease) -> None:
        """Take a lease out of its slot; no error when it stands in none."""
        slot = self._slots.get(lease.armed)
        if slot is not None and slot.leases.get(lease.lease_id) is lease:
            del slot.leases[lease.lease_id]
            if not slot.leases:
                del self._slots[lease.armed]
        lease.armed = -1

    def take(self, elapsed: float, *, limit: int) -> tuple[list[Lease], bool]:
        """At most ``limit`` leases that are due at this boot-time, earliest slot first, taken out of their slots.

        The flag says whether the look came to its end. It is bounded: after a restart all leases stand in one slot, and
        moving a hundred thousand beaten ones on would hold everybody up; the rest is for the next look.
        """
        upto, due, moved = int(elapsed), list[Lease](), 0
        for second in self._passed(upto):
            self._cursor = second
            for lease in list(self._slots[second].leases.values()):
                if lease.deadline <= elapsed:
                    self.disarm(lease)
                    due.append(lease)
                elif int(lease.deadline) != second:
                    self.arm(lease)
                    moved += 1
                if len(due) >= limit or moved >= MOST_MOVED:
                    return due, False
        self._cursor = upto
        return due, True

    def _passed(self, upto: int) -> list[int]:
        """The slots that hold something, up to and including this second."""
        if self._cursor is not None and upto - self._cursor < len(self._slots):
            return [second for second in range(self._cursor, upto + 1) if second in self._slots]
        return sorted(second for second in self._slots if second <= upto)
