"""What is to be signed, in the contract's words: certificate, bundle and receipt. Pure: keys, time, ids are passed in.

Rules
1. A bundle carries the current state of everything its server hosts, and every key set after the one the server had
   when it made its newest request, because it may have missed any bundle in between (contract §3).
2. The certificate is renewed when half of its life is over, or when it no longer fits: another signing key, another
   product, another customer, or a key set in force that does not verify it. Otherwise the same certificate goes out
   again.
3. A receipt signed before a rotation is signed again, word for word the same, because the bundle that carries it
   brings the new keys.
4. What an entitlement's earlier servers used up of its lots is taken off (``consumption``).
5. Commands that no report has shown applied ride along, the oldest 1,000, which is as many as a server reads.
6. The server's licence ends when its terms say so; where they say nothing, with its certificate.

It refuses to own who signs (``pending``, ``keyring``), sequences and what is remembered (``issuing``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from lls.faults import RefusedDocument
from lls.issuer.binding import binding_member
from lls.issuer.consumption import left_of
from lls.issuer.register import Customer, IssuedReceipt, Json, Server, Sold
from lls.licensing.fields import write_instant
from lls.signed.bundle import FORMAT
from lls.signed.certificate import ServerCertificate, certificate_payload, read_certificate
from lls.signed.keys import KeySet
from lls.signed.receipt import read_receipt, receipt_payload

MOST_COMMANDS: Final = 1_000
REBIND_GRACE: Final = timedelta(days=7)
"""How long leases go on after the machine under a host-bound server has changed, unless its terms say otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The vendor's terms for a server's bundles; each has an option of ``server terms`` or ``bundle issue``.

    ``license_until`` None: as long as the certificate; ``required`` None: see :func:`lls.issuer.binding.host_binding`.
    """

    bundle_life: timedelta = timedelta(days=60)
    certificate_life: timedelta = timedelta(days=400)
    sync_within_days: int = 90
    license_until: datetime | None = None
    required: int | None = None
    rebind_grace: timedelta = REBIND_GRACE


def present_certificate(
    server: Server, customer: Customer, *, products: Sequence[str], keys: KeySet, now: datetime
) -> ServerCertificate | None:
    """The server's certificate where it still fits, by rule 2."""
    present = _verified(server, keys)
    if (
        present is not None
        and present.jwk == server.signing_jwk
        and present.customer_id == customer.customer_id
        and set(present.products) == set(products)
        and now < present.issued_at + (present.not_after - present.issued_at) / 2
    ):
        return present
    return None


def next_certificate(
    server: Server, customer: Customer, *, products: Sequence[str], terms: Terms, now: datetime
) -> dict[str, object]:
    """What a new certificate says."""
    issued_at = now.replace(microsecond=0)
    return certificate_payload(
        server_id=server.server_id,
        customer_id=customer.customer_id,
        jwk=server.signing_jwk,
        products=sorted(products),
        issued_at=issued_at,
        not_after=issued_at + terms.certificate_life,
    )


def _verified(server: Server, keys: KeySet) -> ServerCertificate | None:
    if server.certificate is None:
        return None
    try:
        return read_certificate(server.certificate, keys)
    except RefusedDocument:
        return None  # signed before a rotation; rule 2 makes a new one


def bundle_payload(
    server: Server,
    customer: Customer,
    entitlements: Sequence[Sold],
    *,
    bundle_id: str,
    sequence: int,
    certificate: str | None,
    certificate_ends_at: datetime,
    key_sets: Sequence[str],
    report_key: Json,
    receipt: str | None,
    commands: Sequence[Json],
    terms: Terms,
    now: datetime,
) -> dict[str, object]:
    """A bundle's payload (contract §3); ``certificate`` None: its place is filled once enough have signed it."""
    issued_at = now.replace(microsecond=0)
    return {
        "format": FORMAT,
        "bundle_id": bundle_id,
        "server_id": server.server_id,
        "sequence": sequence,
        "certificate": certificate,
        "keys": list(key_sets),
        "issued_at": write_instant(issued_at),
        "not_after": write_instant(issued_at + terms.bundle_life),
        "report_key": dict(report_key),
        "server_license": {
            "expires_at": write_instant(terms.license_until or certificate_ends_at),
            "sync_within_days": terms.sync_within_days,
            "binding": binding_member(server, terms),
        },
        "customer": {
            "customer_id": customer.customer_id,
            "name": customer.name,
            "account_ref": customer.account_ref,
            "custom_fields": dict(customer.custom_fields),
        },
        "entitlements": [left_of(sold.document, sold.carried) for sold in entitlements],
        "receipt": receipt,
        "commands": list(commands[:MOST_COMMANDS]),
    }


def receipt_words(receipt: IssuedReceipt, *, head: str) -> dict[str, object]:
    """What a receipt says; signed again after a rotation, word for word the same."""
    return receipt_payload(
        receipt_id=receipt.receipt_id,
        server_id=receipt.server_id,
        report_id=receipt.report_id,
        up_to_seq=receipt.up_to_seq,
        head=head,
        made_at=receipt.made_at,
    )


def still_verifies(receipt: IssuedReceipt, keys: KeySet) -> bool:
    """Whether the key set in force verifies a receipt, or it has to be signed again (rule 3)."""
    try:
        read_receipt(receipt.token, keys, receipt.server_id)
    except RefusedDocument:
        return False
    return True
