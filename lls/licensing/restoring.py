"""After a restore: what a backup does not contain is not known, and what follows from that (decision 0021).

Rules (design §4)
1. The first start after a restore posts ``Restored``, once: the end of the backup, and all that is hosted and in use by
   it. Floating leases and seats go on.
2. What is consumed is refused until the vendor has answered this very restore with ``chain_adopt``; an answer to
   another restore is passed over, so that no answer can be used twice.
3. Where the line that the answer names is one of ours, the counters here are right, and the journal goes on as it is:
   all that the vendor has is in the backup. Else the vendor has lines that were lost here. Then those that were written
   here since the restore stand behind his last one, word for word; the counters are those that he names; and what was
   used before can be undone no more, because nobody here knows whether it was.
4. A borrowed lease that is shown with a capability which this server signed is taken up as it is, to its end, also
   beyond the seats: what left with a laptop is not lent a second time.
5. A hosting session that is over for the vendor ends here: another server may host it by now.

It refuses to own signatures (``signed``) and who judges a bundle (``installing``).
"""

from __future__ import annotations

import hmac
from datetime import datetime

from lls.faults import Restored, UnknownLease
from lls.licensing.changes import Fact, Rebase
from lls.licensing.instant import Now
from lls.licensing.journal import Gap
from lls.licensing.lease import NOTHING_HELD, Carried, Holder, Lease, LeaseState, Mode
from lls.licensing.seats import Seats
from lls.licensing.server import RestorePoint
from lls.licensing.terms import Adoption, Installation


class Restoring(Seats):
    """The seats of a server that may have been put back; see the module."""

    # ---------------------------------------------------------------- at the start

    def note_restored(self, *, since: datetime, now: Now) -> bool:
        """Post that this state comes from a backup, at its first start; whether it does.

        ``since`` is the instant of the backup's last line: what came then is not known.
        """
        restoring = self.server.restoring
        if restoring is None:
            return False
        end = self.head
        terms = self.server.terms
        self._posting.restored(
            [pool.entitlement for pool in self.pools.values()],
            now,
            restore_id=restoring["restore_id"],
            made_at=restoring["made_at"],
            account_ref="" if terms is None else terms.account_ref,
            in_use={key: pool.in_use for key, pool in self.pools.items()},
            held=self.meters.held,
        )
        point = RestorePoint(restore_id=restoring["restore_id"], seq=end.seq, head=end.hash)
        self.server.note_restore(point, since=since, now=now)
        return True

    # ---------------------------------------------------------------- verbs: the vendor's answer

    def keep_tail(self, *, keep: bool) -> int:
        """Remember every line from now on, because they are about to be moved; the last one's number."""
        self._posting.keep_tail(keep=keep)
        return self.head.seq

    def _go_on(self, adoption: Adoption, installation: Installation) -> Rebase | None:
        """Carry out a ``chain_adopt``, as ``installing`` has judged it: which lines moved.

        Raises Restored before anything is changed.
        """
        gap, onto = None, adoption.onto
        if installation.adopted_hash != onto.hash:
            keep = adoption.keep_seq or 0
            if installation.moved is None or not self._posting.rebase(keep, installation.moved):
                raise Restored(
                    "The journal was loaded anew meanwhile, so nothing was changed; import the bundle again."
                )
            gap = Gap(after=keep, upto=onto.seq, head=onto.hash)
        if onto.seq > self.server.acknowledged.seq:
            self._posting.set_facts(
                {
                    Fact.ACKNOWLEDGED: str(onto.seq),
                    Fact.ACKNOWLEDGED_HEAD: onto.hash,
                    Fact.USAGE_CARRY: installation.adopted_carry or "",
                }
            )
        self.server.note_adopted(gap)
        return self.batch.rebase if gap is not None else None

    # ---------------------------------------------------------------- verbs: what was lent before

    def take_up(self, shown: Carried, *, secret: bytes, now: Now) -> bool:
        """Count a borrowed lease that the backup does not know; whether it is news.

        ``shown`` is what a capability of this server's own says; ``secret`` is its holder's. Raises UnknownLease where
        it is not a loan of the time that was lost, and StillBorrowed never: a longer loan than is known here counts.
        """
        known = self.leases.get(shown.lease_id)
        if known is not None:
            return hmac.compare_digest(known.secret, secret) and self._prolong(known, shown, now)
        pool = self.pools.get(shown.entitlement_id)
        lost = any(begin <= shown.issued_at <= end for begin, end in self.server.lost_times)
        ended = self._remembered.ended(shown.lease_id) is not None
        if not lost or ended or self._remembered.given_back(shown.lease_id, secret=secret) or shown.until <= now.wall:
            raise UnknownLease
        if pool is None or pool.entitlement.product != shown.product:
            raise UnknownLease("The entitlement of this lease is not hosted here; import the vendor's newest bundle.")
        terms, in_use, metered = pool.entitlement, pool.in_use, self.meters.of(shown.entitlement_id)
        lease = Lease(
            lease_id=shown.lease_id,
            secret=secret,
            content=b"",
            product=shown.product,
            entitlement_id=shown.entitlement_id,
            holder=Holder(seat_id=shown.seat_id),
            seats=shown.seats,
            ttl=terms.lease_seconds,
            overdraft=terms.seats is not None and in_use + shown.seats > terms.seats,
            granted_at=shown.issued_at,
            mode=Mode.BORROWED,
            features={key: units for key, units in shown.features.items() if key in metered} or NOTHING_HELD,
            until=shown.until,
            key=shown.key,
        )
        self._seat(lease, pool)
        self._posting.granted(lease, now, taken=pool.in_use - in_use, replaces=None)
        self.meters.take_at_grant(lease, (), now=now)
        self._posting.borrowed(lease, now, extends=False, by="restored")
        self._note_overdraft(pool, now)
        return True

    def _prolong(self, known: Lease, shown: Carried, now: Now) -> bool:
        """It was lent, or lent for longer, after the backup was made."""
        lost = any(begin <= shown.issued_at <= end for begin, end in self.server.lost_times)
        later = known.until is None or known.until < shown.until
        pool = self.pools.get(known.entitlement_id)
        if not (lost and later) or pool is None or known.state is not LeaseState.ACTIVE or shown.until <= now.wall:
            return False
        key = known.key or shown.key
        lent = self._change(known, pool, mode=Mode.BORROWED, until=shown.until, key=key)
        self._posting.borrowed(lent, now, extends=known.until is not None, by="restored")
        return True
