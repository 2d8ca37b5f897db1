"""The history: every act of the vendor's office, who did it and why, as a SHA-256 hash chain. Pure: no SQL, no clock.

The door for whoever changes something, inside the act's own transaction::

    register.note(Deed.BUNDLE_ISSUED, at=now, server_id=…, customer_id=…, what={"bundle_id": …, "sequence": 7})
    register.note_change(Deed.RENEWED, was=sold, became=changed, at=now, what={"ref": ref})   # an entitlement
    register.note_change(Deed.SOLD, was=None, became=sold, at=now)                            # a new one

Who and why are the register's (``Register.who``), set by whoever opens the office, and by the intake for as long as a
shop's event acts. A new kind of act is a new member of :class:`Deed`, and a row of the table in ``docs/issuer.md``.

Rules
1. A line is one of a journal, word for word by the rule of :mod:`lls.licensing.journal`: the canonical JSON of
   ``{at, data, hash, kind, prev, seq}``, whose ``hash`` is over the same without it, and whose ``prev`` is the former
   line's. So one verifier reads both, and a line that is changed, left out or put in is found.
2. ``data`` is ``{by, user, reason, customer_id, entitlement_id, server_id, what}``; ``by`` is who says to have done it,
   ``user`` the account of the operating system under which it was done.
3. The line of a changed entitlement says what changed, before and after, and the SHA-256 of the whole as it became.
4. What is secret or personal does not enter a line, because no line can ever be taken out: of activation codes and of
   named users only how many, of contacts and notes only that they changed. The reason is the operator's own text.
5. A chain shows that something in its middle was changed; of an end that was cut off it knows nothing. Whoever wants
   that too writes the head down elsewhere (``audit verify`` prints it, and takes it).

It refuses to own where lines are kept (``register``) and who reads them (``auditing``).
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from lls.issuer.refusals import Conflict
from lls.licensing.fields import write_instant
from lls.licensing.journal import Head

if TYPE_CHECKING:
    from lls.issuer.register import Sold

LONGEST_NAME: Final = 100
LONGEST_REASON: Final = 500
_LONGEST_VALUE: Final = 1_000
_COUNTED_ONLY: Final = frozenset({"activation_codes", "named_users"})
_IDS: Final = ("grant_id", "key")


class Deed(StrEnum):
    """What an act did."""

    KEYS_MADE = "keys_made"
    KEYS_ROTATED = "keys_rotated"
    CATALOG_LOADED = "catalog_loaded"
    CUSTOMER_FIELDS_LOADED = "customer_fields_loaded"
    CUSTOMER_ADDED = "customer_added"
    CUSTOMER_CHANGED = "customer_changed"
    CUSTOMER_DISABLED = "customer_disabled"
    CUSTOMER_ENABLED = "customer_enabled"
    CUSTOMER_DELETED = "customer_deleted"
    SERVER_REGISTERED = "server_registered"
    SERVER_RETIRED = "server_retired"
    SERVER_TERMS = "server_terms"
    CLOCK_RESET = "clock_reset"
    CHAIN_ADOPTED = "chain_adopted"
    ORDER_FULFILLED = "order_fulfilled"
    SOLD = "sold"
    RENEWED = "renewed"
    RENEWAL_TAKEN_BACK = "renewal_taken_back"
    SEATS_ADDED = "seats_added"
    UPGRADED = "upgraded"
    GRANT_ADDED = "grant_added"
    GRANT_RELEASED = "grant_released"
    GRANT_ALTERED = "grant_altered"
    GRANT_REVOKED = "grant_revoked"
    PARTED = "parted"
    USAGE_RESET = "usage_reset"
    DISABLED = "disabled"
    ENABLED = "enabled"
    BEGUN = "begun"
    HOSTED = "hosted"
    RETURNED = "returned"
    LOST = "lost"
    BUNDLE_ISSUED = "bundle_issued"
    REPORT_INGESTED = "report_ingested"
    REPORT_REFUSED = "report_refused"
    RECEIPT_ISSUED = "receipt_issued"
    PERIOD_CLOSED = "period_closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who acts, and why; ``user`` is the account of the operating system."""

    by: str
    user: str
    reason: str | None = None

    def __post_init__(self) -> None:
        """Raises Conflict where a text is too long or not printable."""
        for text, most, what in ((self.by, LONGEST_NAME, "who acts"), (self.reason, LONGEST_REASON, "the reason")):
            if text is not None and not (1 <= len(text) <= most and text.isprintable()):
                raise Conflict(f"The text that says {what} must be printable, of 1 to {most} characters.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line to be kept: its number, its hash and its text, word for word."""

    seq: int
    hash: str
    line: str


def whoever(by: str | None = None, *, reason: str | None = None) -> Who:
    """Who says to be ``by``, or the account of the operating system. Raises Conflict."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user that no list names
        user = f"uid {os.geteuid()}"
    return Who(by=user if by is None else by, user=user, reason=reason)


def following(head: Head, *, at: datetime, deed: Deed, who: Who, data: Mapping[str, Any]) -> Line:
    """The line that follows ``head``; ``data`` are the ids and ``what`` (rule 2)."""
    seq = head.seq + 1
    whose = {"by": who.by, "user": who.user, "reason": who.reason}
    members = {"at": write_instant(at), "data": {**whose, **data}, "kind": deed.value, "prev": head.hash, "seq": seq}
    digest = hashlib.sha256(_canonical(members).encode()).hexdigest()
    return Line(seq=seq, hash=digest, line=_canonical({**members, "hash": digest}))


def told_of(was: Sold | None, became: Sold) -> dict[str, Any]:
    """What the line of an entitlement says (rule 3); ``was`` None: it was sold."""
    told: dict[str, Any] = {"sha256": sha256_of(became.document)}
    if was is None:
        own = {key: became.document.get(key) for key in ("offering", "seats", "starts_at", "expires_at")}
        return {**told, "order_ref": became.order_ref, "line": became.line, **own}
    before, after = ({**one.document, "server_id": one.server_id} for one in (was, became))
    return {**told, "changes": changes(before, after)}


def sha256_of(document: Mapping[str, Any]) -> str:
    """The SHA-256 of a document's canonical form, in hex."""
    return hashlib.sha256(_canonical(document).encode()).hexdigest()


def changes(was: Mapping[str, Any], became: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What differs, by its path: ``{"features.render.value": [before, after]}``. Rule 4 is kept."""
    return {path: [_shown(path, before), _shown(path, after)] for path, before, after in _differing("", was, became)}


def _differing(path: str, was: Any, became: Any) -> Iterator[tuple[str, Any, Any]]:
    if _canonical(was) == _canonical(became):  # as JSON has them: true is no 1
        return
    before, after = _members(was), _members(became)
    inside: list[tuple[str, Any, Any]] = []
    if before is not None and after is not None and path.rpartition(".")[2] not in _COUNTED_ONLY:
        for key in {**before, **after}:
            inside += _differing(f"{path}.{key}" if path else key, before.get(key), after.get(key))
    # Where nothing inside differs, the whole does: another order, or an object for a list.
    yield from inside or [(path, was, became)]


def _members(value: Any) -> Mapping[str, Any] | None:
    """An object's members; those of a list of objects with ids, by id. None: there is nothing inside to compare."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        named = {str(item[name]): item for item in value for name in _IDS if name in item}
        return named if len(named) == len(value) else None
    return None


def _shown(path: str, value: Any) -> Any:
    if path.rpartition(".")[2] in _COUNTED_ONLY and isinstance(value, list):
        return {"count": len(value)}
    text = _canonical(value)
    return value if len(text) <= _LONGEST_VALUE else {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def _canonical(value: Any) -> str:
    # The journal's own form (decision 0006): no floats, ASCII keys; a test verifies each line by the journal's reader.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
