"""What may leave the journal: the one rule, and what stays behind of a range that left.

Rules
1. A line may leave when the vendor has acknowledged it, when it is older than the site wants to keep, and when another
   line stands behind it: the last line is what a start checks the head of the chain by.
2. It leaves the database only after it is in an archive that was read back.
3. Names of people go with the last line that needs them.

4. Where lines were lost with a restore (decision 0021), a range ends before that gap or behind it, never inside: the
   line there is none of ours.

"Older" is judged by the journal's own numbers: everything before the first line that is young enough. So a clock that
was set back lets no line overtake another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lls.licensing.journal import Gap, Head


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedRange:
    """Lines ``from_seq`` to ``end`` in an archive file; ``carry`` is the fold of usage at its end, JSON."""

    from_seq: int
    end: Head
    prev_head: str
    last_at: datetime
    made_at: datetime
    file: str
    sha256: str
    carry: str = field(repr=False)


def prunable(*, head: int, acknowledged: int, older_than: int, gaps: Sequence[Gap] = ()) -> int:
    """The last line that may leave, 0 for none. ``older_than``: the line before the first that is young enough."""
    return last_of_ours(max(0, min(acknowledged, older_than, head - 1)), gaps)


def last_of_ours(seq: int, gaps: Sequence[Gap]) -> int:
    """The last line at or before this one that was ever here."""
    for gap in reversed(gaps):
        if gap.after < seq <= gap.upto:
            seq = gap.after
    return seq


def first_of_ours(seq: int, gaps: Sequence[Gap]) -> int:
    """The first line at or behind this one that was ever here."""
    for gap in gaps:
        if gap.after < seq <= gap.upto:
            seq = gap.upto + 1
    return seq


def count_of_ours(first: int, last: int, gaps: Sequence[Gap]) -> int:
    """How many lines of a range were ever here."""
    lost = sum(max(0, min(gap.upto, last) - max(gap.after, first - 1)) for gap in gaps)
    return last - first + 1 - lost
