"""Seats that leave the network: a laptop that borrows over it, and a machine that never sees it.

What has to hold
1. The laptop works on while no server lives; the other machine's grant proves itself where there is no network at all.
2. The server counts both seats as borrowed, by their leases, before it is killed and after.
3. The laptop's seat is given back long before its end: then it is free, and counts on the laptop no more. The other one
   stays away.
"""

from __future__ import annotations

import re
from typing import Any, Final

from lls.client import borrowed_leases
from lls.demo.screen import Screen
from lls.demo.world import Trouble, World, found

AWAY: Final = 2
"""Seats that the road needs; the vendor lends no more than these (``world.CATALOG``)."""
BORROWED: Final = "borrowed"
"""The mode of a lease that is away."""
_LEASE_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LAPTOP: Final = ("--folder", "laptop/seats", "--vendor-keys", "site/vendor.llskeys")


class Road:
    """Who is away, from the borrowing to the way home."""

    def __init__(self, world: World, screen: Screen) -> None:
        self._world, self._screen = world, screen
        self._laptop = self._island = ""
        self.worked = False

    def leave(self) -> None:
        """Both seats are borrowed."""
        world = self._world
        self._screen.title("A laptop borrows a seat and leaves; a machine without any network borrows one by stick")
        borrowed = world.laptop("borrow", *_LAPTOP, "--server", world.url, "--hours", "8")
        self._laptop = found(_LEASE_ID, borrowed, "lease")
        asked = ("request", "cad", "--days", "1", "--folder", "island/seats", "-o", "stick/island.llsborrow")
        self._island = found(_LEASE_ID, world.client("island", *asked), "lease")
        world.carry("island.llsborrow", to="site")
        world.lls("borrow", "grant", "stick/island.llsborrow", "-o", "stick/grant.llsborrow")
        world.carry("grant.llsborrow", to="island")
        accepted = ("accept", "stick/grant.llsborrow", "--folder", "island/seats", *_LAPTOP[2:])
        world.client("island", *accepted)
        self.counted()

    def work(self) -> None:
        """On the laptop, which knows no server; Trouble when its seat does not count."""
        self._world.laptop("work", *_LAPTOP)
        self.worked = True

    def counted(self) -> int:
        """How many seats are away, by the server's word; Trouble when it forgot one, or keeps none free for it."""
        watch = self._world.watch
        away, sight = set(away_of(watch.leases())), watch.look()
        ours = {lease_id for lease_id in (self._laptop, self._island) if lease_id}
        taken = sum(min(pool.away, pool.in_use) for pool in sight.pools) if sight else 0
        if away != ours or taken != len(ours):
            raise Trouble(f"{len(ours)} seats are away; the license server names {len(away)} and counts {taken}.")
        return len(ours)

    def come_home(self) -> None:
        """The laptop is in the office again."""
        self._world.client("laptop", "return", "cad", *_LAPTOP)
        self._laptop = ""
        self.counted()
        kept = borrowed_leases(vendor_keys=self._world.site / "vendor.llskeys", folder=self._world.laptop_seats)
        if kept:
            raise Trouble("The laptop gave its seat back and has it still.")


def away_of(leases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of the server's leases that are away."""
    return {lease_id: lease for lease_id, lease in leases.items() if lease["mode"] == BORROWED}
