"""The borrowed leases of a server, by what is asked of them: how many seats are away, and whose time is over.

Rules
1. A loan is here from the moment it is granted until the lease ends; the ledger puts it in and takes it out.
2. Nothing here walks through all loans: sums are kept by entitlement and by product, ends in a heap that forgets
   lazily. A loan whose entitlement went back to the vendor is away all the same, so it stays in its product's sum.

It refuses to own leases and the caps on borrowing (``borrowing``).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from lls.licensing.lease import Lease


class Loans:
    """See the module; iterating gives the leases."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._seats: Counter[str] = Counter()
        self._products: Counter[str] = Counter()
        self._machines: dict[tuple[str, str], dict[str, Lease]] = {}
        self._ends: list[tuple[datetime, str]] = []
        self._awaited: set[tuple[datetime, str]] = set()
        """What stands in the heap: a lease that changes and stays away is put in again under the same end."""

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease_id: object) -> bool:
        return lease_id in self._leases

    def add(self, lease: Lease) -> None:
        """A lease with an ``until`` is away."""
        if lease.until is None:
            raise ValueError(lease.lease_id)
        self._leases[lease.lease_id] = lease
        self._seats[lease.entitlement_id] += lease.seats
        self._products[lease.product] += lease.seats
        self._machines.setdefault(_machine(lease), {})[lease.lease_id] = lease
        end = lease.until, lease.lease_id
        if end not in self._awaited:
            self._awaited.add(end)
            heapq.heappush(self._ends, end)

    def remove(self, lease: Lease) -> None:
        """It is back, or another state of it comes; no error when it was not away."""
        if self._leases.get(lease.lease_id) is not lease:
            return
        del self._leases[lease.lease_id]
        self._seats[lease.entitlement_id] -= lease.seats
        self._products[lease.product] -= lease.seats
        beside = self._machines[_machine(lease)]
        del beside[lease.lease_id]
        if not beside:
            del self._machines[_machine(lease)]

    def seats_of(self, entitlement_id: str, *, but: Lease | None = None) -> int:
        """The seats of an entitlement that are away, those of one lease left out."""
        own = but.seats if but is not None and but.lease_id in self._leases else 0
        return self._seats[entitlement_id] - own

    def seats_of_product(self, product: str, *, but: Lease | None = None) -> int:
        """The same of everything of a product, whether its entitlement is still here or not."""
        own = but.seats if but is not None and but.lease_id in self._leases and but.product == product else 0
        return self._products[product] - own

    def beside(self, lease: Lease) -> bool:
        """Whether the machine of that lease has borrowed a seat of the same entitlement."""
        return _machine(lease) in self._machines

    def due(self, wall: datetime, *, limit: int) -> list[Lease]:
        """At most so many whose date has come, the earliest first."""
        found: list[Lease] = []
        while self._ends and self._ends[0][0] <= wall and len(found) < limit:
            until, lease_id = end = heapq.heappop(self._ends)
            self._awaited.discard(end)
            lease = self._leases.get(lease_id)
            if lease is not None and lease.until == until:
                found.append(lease)
        return found


def _machine(lease: Lease) -> tuple[str, str]:
    return lease.entitlement_id, lease.holder.seat_id
