"""The receipt: the vendor's signed word that it has read a report up to a line of the journal.

Rules
1. Signed by the threshold of the role ``bundle``; addressed to one server.
2. ``head`` is the hash of line ``up_to_seq`` as the vendor computed it. Whether that line is in this server's chain is
   for the ledger to judge: a receipt for another branch is how a fork comes to light.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import Fields, write_instant
from lls.signed.encoding import hash_text, required
from lls.signed.jose import Signer, Token, sign_compact, token_text
from lls.signed.keys import KeySet

TYP: Final = "lls-receipt+jws"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A verified receipt; ``made_at`` is the vendor's clock."""

    receipt_id: str
    server_id: str
    report_id: str
    up_to_seq: int
    head: str
    made_at: datetime
    token: str


def make_receipt(
    *, receipt_id: str, server_id: str, report_id: str, up_to_seq: int, head: str, made_at: datetime, signer: Signer
) -> str:
    """The signed receipt; where the threshold is higher, :func:`lls.signed.jose.add_signature` adds the others."""
    payload = receipt_payload(
        receipt_id=receipt_id, server_id=server_id, report_id=report_id, up_to_seq=up_to_seq, head=head, made_at=made_at
    )
    return sign_compact(payload, key=signer, typ=TYP)


def receipt_payload(
    *, receipt_id: str, server_id: str, report_id: str, up_to_seq: int, head: str, made_at: datetime
) -> dict[str, object]:
    """What a receipt says, before anybody has signed it."""
    return {
        "receipt_id": receipt_id,
        "server_id": server_id,
        "report_id": report_id,
        "up_to_seq": up_to_seq,
        "head": head,
        "made_at": write_instant(made_at),
    }


def read_receipt(data: Token, keys: KeySet, server_id: str) -> Receipt:
    """The receipt in ``data``. Refusals: ``signature``, ``threshold``, ``audience``, ``malformed``, ``too_large``."""
    payload = keys.verify(data, role="bundle", typ=TYP)
    required(payload, "receipt_id", "server_id", "report_id", "up_to_seq", "head", "made_at")
    fields = Fields(payload, place="receipt")
    if fields.id("server_id", "lls_") != server_id:
        raise RefusedDocument(Refusal.AUDIENCE, "The receipt is for another server.")
    return Receipt(
        receipt_id=fields.id("receipt_id", "rcp_"),
        server_id=server_id,
        report_id=fields.id("report_id", "rpt_"),
        up_to_seq=fields.integer("up_to_seq", least=1),
        head=hash_text(payload, "head"),
        made_at=fields.instant("made_at"),
        token=token_text(data),
    )
