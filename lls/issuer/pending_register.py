"""What waits for signatures, as the register remembers it: that this office made it, and with which fingerprint.

Rules
1. Before a file is passed around it stands here; what is sealed must have that very fingerprint (``pending``, rule 1).
2. It is sealed under the key set in force, and under no other: a file that waits while keys rotate is made anew.

Raises :class:`~lls.issuer.refusals.PendingRefused`. It refuses to own what the papers say.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lls.issuer.pending import Pending
from lls.issuer.refusals import PendingRefused
from lls.issuer.register import Register
from lls.licensing.fields import write_instant
from lls.signed.keys import KeySet


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A row of the table ``pending``; ``done_at`` once it was sealed."""

    pending_id: str
    kind: str
    server_id: str | None
    fingerprint: str
    made_at: datetime
    not_after: datetime
    done_at: datetime | None = None


class PendingRegister:
    """The table ``pending``."""

    def __init__(self, register: Register) -> None:
        self._register = register

    def add(self, pending: Pending, *, server_id: str | None = None) -> None:
        """Remembers what is about to be passed around."""
        row = Waiting(
            pending_id=pending.pending_id,
            kind=pending.kind.value,
            server_id=server_id,
            fingerprint=pending.fingerprint,
            made_at=pending.made_at,
            not_after=pending.not_after,
        )
        self._register.insert("pending", row)

    def waiting(self, server_id: str) -> list[Waiting]:
        """What of a server was not sealed, the oldest first."""
        return self._register.select(
            Waiting,
            "SELECT * FROM pending WHERE server_id = ? AND done_at IS NULL ORDER BY made_at, rowid",
            server_id,
        )

    def check(self, pending: Pending, *, keys: KeySet | None, now: datetime) -> None:
        """Rules 1 and 2, and that its time is not over."""
        pending.check_time(now)
        known = self._register.select(Waiting, "SELECT * FROM pending WHERE pending_id = ?", pending.pending_id)
        if not known:
            raise PendingRefused("This was not made by this office, so it is not sealed here.")
        if known[0].fingerprint != pending.fingerprint:
            raise PendingRefused(
                "This file does not say any more what this office wrote into it. Whoever signed it signed something "
                "else; find out who changed it, and make a new one."
            )
        if (pending.keys and pending.keys.token) != (keys and keys.token):
            theirs, ours = (0 if one is None else one.version for one in (pending.keys, keys))
            raise PendingRefused(
                f"This was made for key set {theirs}, and key set {ours} is in force by now. Make a new one."
            )

    def note_sealed(self, pending: Pending, *, now: datetime) -> None:
        """It is done."""
        self._register.change(
            "UPDATE pending SET done_at = ? WHERE pending_id = ? AND done_at IS NULL",
            write_instant(now.replace(microsecond=0)),
            pending.pending_id,
        )
