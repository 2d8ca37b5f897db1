"""What the intake knows of a customer, counted and forgotten: called by whoever deletes one, in that transaction.

Rules
1. The bodies of its events go, and so does what was said of its subscriptions. Events that were not processed yet never
   will be.
2. The numbers stay, the source's own of each event and each subscription, without a name: a shop that repeats itself
   for weeks must not bring back whom the vendor has deleted.
3. A purchase of an unknown subscription by the same account is not known to be late. It fails when its order is to be
   fulfilled (``lls.issuer.ordering``), until somebody adds the customer anew.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from lls.issuer.register import Register
from lls.licensing.fields import write_instant

_OF_SUBSCRIPTION: Final = (
    "(source, subscription) IN (SELECT source, subscription FROM subscription WHERE account_ref = ?1)"
)
_OF_EVENT: Final = (
    "(account_ref = ?1 OR (source, subject) IN (SELECT source, subscription FROM subscription WHERE account_ref = ?1))"
)


def known_of(register: Register, account_ref: str) -> dict[str, int]:
    """How many rows a deletion empties, by table; tables with none are left out."""
    counts = {
        "event": f"SELECT count(*) AS n FROM event WHERE {_OF_EVENT} AND removed_at IS NULL",  # noqa: S608 - our own words
        "subscription": "SELECT count(*) AS n FROM subscription WHERE account_ref = ?1",
    }
    found = {table: int(register.select(dict, statement, account_ref)[0]["n"]) for table, statement in counts.items()}
    return {table: count for table, count in found.items() if count}


def forget(register: Register, account_ref: str, *, now: datetime) -> None:
    """Rules 1 and 2."""
    told = "Its customer was deleted."
    register.change(
        f"""UPDATE event SET document = '{{}}', removed_at = ?2, told = ?3, account_ref = NULL, held_for = NULL,
                due_at = NULL, status = iif(status IN ('done', 'ignored', 'dropped'), status, 'dropped')
            WHERE {_OF_EVENT}""",  # noqa: S608 - our own words
        account_ref,
        write_instant(now),
        told,
    )
    for table in ("said", "subscribed"):
        register.change(f"DELETE FROM {table} WHERE {_OF_SUBSCRIPTION}", account_ref)  # noqa: S608 - our own words
    register.change(
        """UPDATE subscription SET account_ref = NULL, name = NULL, server_id = NULL, gone_at = ?2
           WHERE account_ref = ?1""",
        account_ref,
        write_instant(now),
    )
