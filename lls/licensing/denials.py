"""Folding: a client that asks a hundred times a second must not fill the journal.

Rules (design §2, *Answer only after the commit*)
1. The first denial of a holder, product, rule and feature in a minute is posted at once.
2. Its repeats are counted in memory and posted as one ``Denied`` with their count when the minute ends.
3. Beyond 1,000 distinct holders in a minute, one line per product and rule counts the rest, without a holder.

A crash loses the repeats of the running minute, never a first denial: that one was committed before its answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from lls.licensing.seating import Denial

MOST_HOLDERS: Final = 1_000
MINUTE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Repeats:
    """Denials of one holder (or of the many beyond the limit) that were answered and not yet posted."""

    denial: Denial
    holder: str | None
    count: int


class Folding:
    """The running minute."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._holders: set[str] = set()
        self._repeats: dict[_Key, Repeats] = {}

    def note(self, denial: Denial, holder: str, *, elapsed: float) -> bool:
        """Take a denial in; whether it is a first one, which must be posted at once."""
        if self._since is None:
            self._since = elapsed
        crowded = holder not in self._holders and len(self._holders) >= MOST_HOLDERS
        named = None if crowded else holder
        key = _key(denial, named)
        known = self._repeats.get(key)
        count = known.count + 1 if known else int(crowded)
        self._repeats[key] = Repeats(denial, named, count)
        if not crowded:
            self._holders.add(holder)
        return known is None and not crowded

    def forget(self, denial: Denial, holder: str) -> None:
        """A first denial's commit failed: the next one is a first one again."""
        self._repeats.pop(_key(denial, holder), None)

    def restore(self, taken: Iterable[Repeats]) -> None:
        """The commit of a taken minute failed: its repeats were answered, so they are posted with a later one."""
        for repeats in taken:
            denial = repeats.denial
            key = _key(denial, repeats.holder)
            known = self._repeats.get(key)
            self._repeats[key] = replace(repeats, count=repeats.count + (known.count if known else 0))

    def over(self, elapsed: float) -> bool:
        """Whether the minute has ended."""
        return self._since is not None and elapsed >= self._since + MINUTE_SECONDS

    def take(self) -> Iterator[Repeats]:
        """End the minute: what is still to be posted."""
        left = [replace(repeats) for repeats in self._repeats.values() if repeats.count]
        self._since, self._holders, self._repeats = None, set(), {}
        return iter(left)


_Key: TypeAlias = tuple[str | None, str, str, str, str | None]


def _key(denial: Denial, holder: str | None) -> _Key:
    """What makes two denials repeats of each other."""
    return holder, denial.product, denial.code, denial.rule, denial.feature
