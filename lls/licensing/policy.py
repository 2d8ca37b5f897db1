"""What the site adds. (Interface only: the rules follow.)"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Whom a rule may name."""

    user: str | None = None
    host: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules in force."""

    rules: tuple[object, ...] = ()

    def linger(self, _product: str) -> int:
        """Seconds."""
        return 0

    def idle(self, _product: str) -> int | None:
        """Seconds."""
        return None

    def borrow_caps(self, _product: str, _asker: Asker) -> tuple[int | None, int | None, str | None]:
        """Caps."""
        return None, None, None

    def priority(self, _product: str, _asker: Asker) -> int:
        """In the queue."""
        return 0

    def seats_ruled(self, _product: str) -> bool:
        """Whether reservations or limits."""
        return False

    def doubts(self, _pools: object) -> list[str]:
        """Against what is hosted."""
        return []


def difference(_old: Policy, _new: Policy) -> tuple[list[str], list[str]]:
    """Added and removed rule ids."""
    return [], []
