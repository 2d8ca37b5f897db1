"""Billing lines as CloudEvents 1.0, for metering and billing systems that take usage as events.

Rules (CloudEvents 1.0, and its JSON format)
1. One event a line of JSON (structured mode), in ASCII. ``type`` is ``lls.usage.v1``, ``source`` names this issuer for
   good: the thumbprint of the first root key that it ever had, which no rotation changes.
2. ``id`` is derived from the line's id and from all that may change of it while its month is open. So the same content
   has the same id in every export, and a receiver that drops what it has seen (``source`` and ``id``) drops nothing
   else. Of a closed line there is one event, for ever.
3. ``subject`` is the account reference, ``time`` the instant up to which the line is known (``as_of``), which lies in
   the month of use. ``data`` is the billing line; an event replaces an earlier one with the same ``data.line_id``.

Pure. It refuses to own delivery: whatever posts lines to an address can post these.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

from lls.issuer.billing import BillingLine, billing_document
from lls.licensing.fields import write_instant
from lls.signed.keys import KeySet

TYPE: Final = "lls.usage.v1"


def source_of(first: KeySet) -> str:
    """The issuer's name as a URN; ``first`` is version 1 of its key set."""
    return f"urn:lls-issuer:{min(first.roles['root'].kids)}"


def usage_event(line: BillingLine, *, source: str) -> dict[str, Any]:
    """The event of one billing line."""
    return {
        "specversion": "1.0",
        "id": _event_id(line),
        "source": source,
        "type": TYPE,
        "subject": line.account_ref,
        "time": write_instant(line.as_of),
        "datacontenttype": "application/json",
        "data": billing_document(line),
    }


def usage_events(lines: Iterable[BillingLine], *, source: str) -> bytes:
    """All of them, one a line."""
    return "".join(json.dumps(usage_event(line, source=source)) + "\n" for line in lines).encode()


def _event_id(line: BillingLine) -> str:
    changing = f"{line.quantity}\n{line.final}\n{line.closed}\n{write_instant(line.as_of)}"
    digest = hashlib.sha256(changing.encode()).digest()[:9]
    return f"{line.line_id}.{base64.urlsafe_b64encode(digest).decode()}"
