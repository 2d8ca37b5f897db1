"""Changes of entitlements as a feed, for an ERP or CRM that follows the register.

    feed = entitlement_feed(register, since=0, most=1_000)
    feed.next       # ask with this the next time

Rules
1. The numbers are those of the history (``history``): they rise, are never used twice and have gaps, because other
   acts stand between. Asking again with the same number gives the same changes, and perhaps newer ones.
2. A change says what became different, before and after, who did it and why; ``current`` is the entitlement as it is
   now, so that a reader that wants the state alone may skip to the newest change of each. Of one that was deleted since
   it is None.
3. Activation codes and the names of people are not in it: whoever reads a feed need not be who may read those.

It reads and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from lls.faults import RefusedDocument
from lls.issuer.history import Line
from lls.issuer.refusals import HistoryBroken
from lls.issuer.register import Register, Sold
from lls.licensing.fields import read_instant
from lls.licensing.journal import parse_line

_SHOWN: Final = ("status", "seats", "starts_at", "expires_at", "maintenance_expires_on", "sequence", "edition")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of one entitlement; ``change`` is the history's word for it."""

    number: int
    at: datetime
    change: str
    entitlement_id: str
    account_ref: str | None
    order_ref: str | None
    by: str
    reason: str | None
    changes: Mapping[str, Any]
    current: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """The changes after a number, oldest first; ``more``: there are others behind ``next``."""

    changes: tuple[Change, ...]
    next: int
    more: bool


def entitlement_feed(register: Register, *, since: int, most: int) -> Feed:
    """At most ``most`` changes after the number ``since``. Raises HistoryBroken."""
    lines = register.select(
        Line,
        """SELECT seq, hash, line FROM history WHERE seq > ? AND entitlement_id IS NOT NULL
           ORDER BY seq LIMIT ?""",
        since,
        most + 1,
    )
    accounts = {customer.customer_id: customer.account_ref for customer in register.customers()}
    changes = tuple(_change(line, register, accounts) for line in lines[:most])
    return Feed(changes=changes, next=changes[-1].number if changes else since, more=len(lines) > most)


def _change(line: Line, register: Register, accounts: Mapping[str, str]) -> Change:
    try:
        read = parse_line(line.line.encode())
        data, what = read["data"], read["data"]["what"]
        sold = register.entitlement(data["entitlement_id"])
        return Change(
            number=line.seq,
            at=read_instant(read["at"], place="history.at"),
            change=str(read["kind"]),
            entitlement_id=str(data["entitlement_id"]),
            account_ref=accounts.get(data["customer_id"]),
            order_ref=None if sold is None else sold.order_ref,
            by=str(data["by"]),
            reason=data["reason"],
            changes=what.get("changes", {}),
            current=None if sold is None else _current(sold),
        )
    except (RefusedDocument, KeyError, TypeError) as failure:
        raise HistoryBroken(
            f"Line {line.seq} of the history cannot be read: it was changed. See lls-issuer audit verify."
        ) from failure


def _current(sold: Sold) -> dict[str, Any]:
    document: Mapping[str, Any] = sold.document
    return {
        "sku": document["offering"]["sku"],
        "product": document["product"]["key"],
        **{key: document.get(key) for key in _SHOWN},
        "server_id": sold.server_id,
    }
