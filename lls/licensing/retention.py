"""What may leave the journal: the one rule, and what stays behind of a range that left.

Rules
1. A line may leave when the vendor has acknowledged it, when it is older than the site wants to keep, and when another
   line stands behind it: the last line is what a start checks the head of the chain by.
2. It leaves the database only after it is in an archive that was read back.
3. Names of people go with the last line that needs them.

"Older" is judged by the journal's own numbers: everything before the first line that is young enough. So a clock that
was set back lets no line overtake another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from lls.licensing.journal import Head


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


def prunable(*, head: int, acknowledged: int, older_than: int) -> int:
    """The last line that may leave, 0 for none. ``older_than``: the line before the first that is young enough."""
    return max(0, min(acknowledged, older_than, head - 1))
