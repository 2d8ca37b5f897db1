"""The server certificate: the vendor's signed word that a signing key belongs to a server.

It is the middle link of the chain that a client checks: vendor key → certificate → capability (design §4).

Rules
1. Signed by the threshold of the role ``certificate``; compact where that is one, so that any JOSE library reads it.
2. ``jwk`` is a P-256 key: capabilities are ES256 and nothing else.
3. Its dates are for its user to judge: an expired certificate stops new leases, never a heartbeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from lls.licensing.fields import Fields, write_instant
from lls.signed.encoding import malformed, members, required
from lls.signed.jose import ES256, Jwk, PublicKey, Signer, Token, read_public_key, sign_document, token_text
from lls.signed.keys import KeySet

TYP: Final = "lls-server+jws"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCertificate:
    """A verified certificate; ``token`` is the signed document that clients are given."""

    server_id: str
    customer_id: str
    key: PublicKey
    products: tuple[str, ...]
    issued_at: datetime
    not_after: datetime
    token: str = field(repr=False)

    @property
    def jwk(self) -> dict[str, str]:
        """The server's bare public key (``kty, crv, x, y``)."""
        return self.key.jwk

    @property
    def kid(self) -> str:
        """The thumbprint that the server's capabilities name."""
        return self.key.kid


def make_certificate(
    *,
    server_id: str,
    customer_id: str,
    jwk: Jwk,
    products: Sequence[str],
    issued_at: datetime,
    not_after: datetime,
    signers: Sequence[Signer],
) -> str:
    """The signed certificate of one server's public key."""
    payload = certificate_payload(
        server_id=server_id,
        customer_id=customer_id,
        jwk=jwk,
        products=products,
        issued_at=issued_at,
        not_after=not_after,
    )
    return sign_document(payload, signers=signers, typ=TYP)


def certificate_payload(
    *, server_id: str, customer_id: str, jwk: Jwk, products: Sequence[str], issued_at: datetime, not_after: datetime
) -> dict[str, object]:
    """What a certificate says, before anybody has signed it."""
    return {
        "server_id": server_id,
        "customer_id": customer_id,
        "jwk": dict(jwk),
        "products": list(products),
        "issued_at": write_instant(issued_at),
        "not_after": write_instant(not_after),
    }


def read_certificate(token: Token, keys: KeySet) -> ServerCertificate:
    """The certificate in ``token``. Refusals: ``signature``, ``threshold``, ``malformed``, ``too_large``."""
    payload = keys.verify(token, role="certificate", typ=TYP)
    required(payload, "server_id", "customer_id", "jwk", "products", "issued_at", "not_after")
    fields = Fields(payload, place="certificate")
    key = read_public_key(members(payload, "jwk"))
    if key.alg != ES256:
        raise malformed("The certificate's key must be P-256.")
    return ServerCertificate(
        server_id=fields.id("server_id", "lls_"),
        customer_id=fields.id("customer_id", "cus_"),
        key=key,
        products=fields.texts("products"),
        issued_at=fields.instant("issued_at"),
        not_after=fields.instant("not_after"),
        token=token_text(token),
    )
