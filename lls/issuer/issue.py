"""Makes what is signed: the server certificate, the bundle and the receipt. Pure: keys, time and ids are passed in.

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
6. Everything is read back with the appliance's own reader before it leaves; what that refuses was never issued.

It refuses to own sequences and what is remembered (``office``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from lls.faults import RefusedDocument
from lls.issuer.consumption import left_of
from lls.issuer.keyring import Signers
from lls.issuer.register import Customer, IssuedReceipt, Json, Server, Sold
from lls.licensing.fields import write_instant
from lls.signed.bundle import FORMAT, TYP, seal_signed, verify_stored
from lls.signed.certificate import ServerCertificate, make_certificate, read_certificate
from lls.signed.jose import add_signature, sign_document
from lls.signed.keys import KeySet
from lls.signed.receipt import make_receipt, read_receipt

MOST_COMMANDS: Final = 1_000
REBIND_GRACE: Final = timedelta(days=7)
"""How long leases go on after the machine under a host-bound server has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The vendor's terms for bundles; each has an option of ``bundle issue``."""

    bundle_life: timedelta = timedelta(days=60)
    certificate_life: timedelta = timedelta(days=400)
    sync_within_days: int = 90


def certificate_for(
    server: Server,
    customer: Customer,
    *,
    products: Sequence[str],
    keys: KeySet,
    signers: Signers,
    terms: Terms,
    now: datetime,
) -> ServerCertificate:
    """The server's certificate as it is, or a new one, by rule 2."""
    present = _present(server, keys)
    if (
        present is not None
        and present.jwk == server.signing_jwk
        and present.customer_id == customer.customer_id
        and set(present.products) == set(products)
        and now < present.issued_at + (present.not_after - present.issued_at) / 2
    ):
        return present
    issued_at = now.replace(microsecond=0)
    token = make_certificate(
        server_id=server.server_id,
        customer_id=customer.customer_id,
        jwk=server.signing_jwk,
        products=sorted(products),
        issued_at=issued_at,
        not_after=issued_at + terms.certificate_life,
        signers=signers.certificate,
    )
    return read_certificate(token, keys)


def _present(server: Server, keys: KeySet) -> ServerCertificate | None:
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
    certificate: ServerCertificate,
    key_sets: Sequence[str],
    report_key: Json,
    receipt: str | None,
    commands: Sequence[Json],
    terms: Terms,
    now: datetime,
) -> dict[str, object]:
    """A bundle's payload (contract §3)."""
    issued_at = now.replace(microsecond=0)
    return {
        "format": FORMAT,
        "bundle_id": bundle_id,
        "server_id": server.server_id,
        "sequence": sequence,
        "certificate": certificate.token,
        "keys": list(key_sets),
        "issued_at": write_instant(issued_at),
        "not_after": write_instant(issued_at + terms.bundle_life),
        "report_key": dict(report_key),
        "server_license": {
            "expires_at": write_instant(certificate.not_after),
            "sync_within_days": terms.sync_within_days,
            "binding": _binding(server),
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


def _binding(server: Server) -> dict[str, object]:
    grace_seconds = int(REBIND_GRACE.total_seconds())
    if server.binding == "key_only":
        return {"policy": "key_only", "required": 0, "components": {}, "grace_seconds": grace_seconds}
    # Three of five: a new disk and a new network card leave the machine itself.
    required = ceil(len(server.host) * 3 / 5)
    return {"policy": "host", "required": required, "components": dict(server.host), "grace_seconds": grace_seconds}


def seal(payload: Json, server: Server, *, keys: KeySet, signers: Signers) -> bytes:
    """The file: signed, read back as the server will read it, and encrypted to the server."""
    jws = sign_document(payload, signers=signers.bundle, typ=TYP)
    verify_stored(jws, keys=keys, server_id=server.server_id, server_jwk=server.signing_jwk)
    return seal_signed(jws, encryption_jwk=server.encryption_jwk)


def sign_receipt(
    *, receipt_id: str, server_id: str, report_id: str, up_to_seq: int, head: str, made_at: datetime, signers: Signers
) -> str:
    """A receipt signed by the threshold of the role ``bundle``."""
    first, *others = signers.bundle
    token = make_receipt(
        receipt_id=receipt_id,
        server_id=server_id,
        report_id=report_id,
        up_to_seq=up_to_seq,
        head=head,
        made_at=made_at,
        signer=first,
    )
    for key in others:
        token = add_signature(token, key=key)
    return token


def current_receipt(receipt: IssuedReceipt, *, head: str, keys: KeySet, signers: Signers) -> str:
    """The receipt as the key set in force verifies it, by rule 3."""
    try:
        return read_receipt(receipt.token, keys, receipt.server_id).token
    except RefusedDocument:
        return sign_receipt(
            receipt_id=receipt.receipt_id,
            server_id=receipt.server_id,
            report_id=receipt.report_id,
            up_to_seq=receipt.up_to_seq,
            head=head,
            made_at=receipt.made_at,
            signers=signers,
        )
