"""A change under a reference of the vendor's own is made once.

Rules
1. The same again under the same reference changes nothing and gives the first outcome; other content under it is
   refused. Without a reference every call is a change of its own.
2. The reference is kept in the transaction of the change, so that neither is there without the other.
3. What was asked may name people, so it goes with the customer of the entitlement that it changed.

It refuses to own what is changed (``amending``, ``balances``).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from lls.issuer.refusals import Conflict
from lls.issuer.register import Act, Json, Register
from lls.licensing.fields import write_instant

LONGEST_REF: Final = 100


def once(
    register: Register, make: Callable[[], Json], *, content: Json, ref: str | None, now: datetime
) -> tuple[Json, bool]:
    """What ``make`` gave, now or the first time, and whether it was made before. Inside a transaction."""
    if ref is None:
        return make(), False
    if not (1 <= len(ref) <= LONGEST_REF and ref.isprintable()):
        raise Conflict(f"A reference is a printable text of 1 to {LONGEST_REF} characters.")
    before = register.act(ref)
    if before is None:
        outcome = make()
        register.add_act(Act(ref=ref, content=content, outcome=outcome, done_at=now))
        return outcome, False
    if before.content != content:
        raise Conflict(
            f"Under the reference {ref} something else was done at {write_instant(before.done_at)}; give this its own."
        )
    return before.outcome, True


def forget(register: Register, customer_id: str) -> None:
    """Rule 3, inside the transaction that deletes the customer, before its entitlements are gone."""
    register.change(
        """DELETE FROM act WHERE json_extract(content, '$.entitlement_id') IN (
               SELECT entitlement_id FROM entitlement WHERE customer_id = ?)""",
        customer_id,
    )
