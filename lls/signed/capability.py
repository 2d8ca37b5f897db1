"""Capabilities and statements: what a server signs for its clients, thousands a second.

The hot path of the whole product: every checkout and every heartbeat carries one. The header is prepared once, the
payload is one dictionary in the contract's order, the signature one call into OpenSSL. joserfc would cost five times
as much.

Rules
1. ``alg`` is ES256 and the certificate names the key: a client needs no more than any JWT library and P-256.
2. The client's nonce comes back as it was sent; that is what makes an answer fresh.
3. ``exp`` is the lease's deadline without the grace. It decides only for borrowed leases; a floating lease is counted
   by its client, ``ttl`` seconds from the moment it sent the nonce (contract §3).
4. A borrowed one is good for weeks without the server, so it is bound to a machine (``cnf``); no other one is.

Refuses to own: whether a lease may have one, and the certificate's dates.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from json import JSONEncoder
from json.encoder import encode_basestring_ascii as _quoted
from typing import Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import Fields
from lls.licensing.lease import Carried, Mode
from lls.signed.certificate import ServerCertificate
from lls.signed.encoding import Json, b64encode, malformed, members, required, write_json
from lls.signed.jose import ES256, PublicKey, SigningKey, Token, is_compact, verify

CAPABILITY: Final = "lls-capability+jwt"
STATEMENT: Final = "lls-statement+jwt"
_CLAIMS: Final = (
    "iss",
    "aud",
    "sub",
    "iat",
    "exp",
    "ttl",
    "nonce",
    "mode",
    "ent",
    "seats",
    "seat_id",
    "features",
    "attributes",
)
_LONGEST_BINDING: Final = 100
_LAST_SECOND: Final = 253_402_300_799
"""Of the year 9999."""

_encode = JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def terms_claims(
    features: Mapping[str, object], attributes: Mapping[str, object], *, edition: str | None = None
) -> str:
    """The claims that an entitlement's leases share, as a piece of JSON for :meth:`CapabilitySigner.prepare`."""
    claims = f'"features":{_encode(dict(features))},"attributes":{_encode(dict(attributes))}'
    return claims if edition is None else f'{claims},"edition":{_quoted(edition)}'


class CapabilitySigner:
    """The server's voice: its key, its id and its headers, prepared."""

    __slots__ = ("_capability", "_key", "_statement", "server_id")

    def __init__(self, key: SigningKey, server_id: str) -> None:
        if key.alg != ES256:
            raise malformed("A server's signing key must be P-256.")
        self._key = key
        self._capability = _header(key, CAPABILITY)
        self._statement = _header(key, STATEMENT)
        self.server_id = server_id

    @property
    def kid(self) -> str:
        """The thumbprint of the key that signs."""
        return self._key.kid

    def prepare(
        self,
        *,
        product: str,
        lease_id: str,
        issued_at: int,
        expires_at: int,
        ttl: int,
        nonce: str,
        mode: str,
        entitlement_id: str,
        seats: int,
        seat_id: str,
        terms: str,
        cnf: Mapping[str, str] | None = None,
    ) -> bytes:
        """What :meth:`signed` makes a capability for one lease of: header and claims.

        ``issued_at`` and ``expires_at`` are NumericDates (RFC 7519 §2), ``ttl`` is in seconds. ``cnf`` (RFC 7800) binds
        a borrowed one to a machine: ``{"jkt": thumbprint}`` of a key of its own, or ``{"fingerprint": seat_id}``.

        ``terms`` comes from :func:`terms_claims`: it is the same for every lease of an entitlement. The claims are put
        together as text, because this runs for each heartbeat: 3 µs against 9 for a dictionary through the encoder.
        """
        claims = (
            f'{{"iss":"{self.server_id}","aud":{_quoted(product)},"sub":{_quoted(lease_id)},'
            f'"iat":{issued_at},"exp":{expires_at},"ttl":{ttl},'
            f'"nonce":{_quoted(nonce)},"mode":{_quoted(mode)},"ent":{_quoted(entitlement_id)},"seats":{seats},'
            f'"seat_id":{_quoted(seat_id)},{terms}'
        )
        claims += "}" if cnf is None else f',"cnf":{_encode(dict(cnf))}}}'
        return self._capability + _encoded(claims.encode("ascii"))

    def statement(
        self, *, server_id: str, tls_spki_sha256: Sequence[str], nonce: str | None, issued_at: datetime
    ) -> str:
        """Which TLS keys this server answers with (current, next, a proxy's), so that no PKI is needed at the site."""
        claims: Json = {
            "server_id": server_id,
            "tls_spki_sha256": list(tls_spki_sha256),
            "nonce": nonce,
            "iat": int(issued_at.timestamp()),
        }
        return self.signed(self._statement + _encoded(_encode(claims).encode("ascii")))

    def signed(self, message: bytes) -> str:
        """The compact JWS of a prepared message."""
        return (message + b"." + _encoded(self._key.sign(message))).decode("ascii")


def _encoded(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def verify_capability(token: Token, *, certificate: ServerCertificate) -> Json:
    """The claims of a capability that the certificate's server signed; neither dates nor the nonce are judged.

    Refusals: ``signature``, ``audience`` (another server's, or a product that the certificate does not cover),
    ``malformed``.
    """
    if not is_compact(token):
        raise malformed("A capability is a compact JWS.")
    key = certificate.key
    claims = verify(token, typ=CAPABILITY, key_of=lambda kid: key if kid == key.kid else None).payload
    required(claims, *_CLAIMS)
    fields = Fields(claims, place="capability")
    for name in ("iat", "exp", "ttl", "seats"):
        fields.integer(name)
    if fields.text("iss") != certificate.server_id:
        raise RefusedDocument(Refusal.AUDIENCE, "The capability is by another server.")
    if fields.text("aud") not in certificate.products:
        raise RefusedDocument(Refusal.AUDIENCE, "The capability is for a product that the certificate does not cover.")
    if "cnf" in claims or claims["mode"] == Mode.BORROWED:
        _check_binding(claims)
    return claims


def read_own_loan(token: Token, *, key: PublicKey, server_id: str) -> Carried:
    """A borrowed lease of which this very server has signed a capability, for a backup that does not know it.

    Its dates are not judged here. Refusals: ``signature``, ``audience``, ``malformed``.
    """
    if not is_compact(token):
        raise malformed("A capability is a compact JWS.")
    claims = verify(token, typ=CAPABILITY, key_of=lambda kid: key if kid == key.kid else None).payload
    required(claims, *_CLAIMS)
    fields = Fields(claims, place="capability")
    if fields.text("iss") != server_id:
        raise RefusedDocument(Refusal.AUDIENCE, "The capability is by another server.")
    if claims["mode"] != Mode.BORROWED:
        raise malformed("The capability is not of a borrowed lease.")
    _check_binding(claims)
    bound = Fields(claims["cnf"], place="capability.cnf")
    features = members(claims, "features")
    return Carried(
        lease_id=fields.text("sub"),
        product=fields.word("aud"),
        entitlement_id=fields.id("ent", "ent_"),
        seats=fields.integer("seats", least=1),
        seat_id=fields.text("seat_id"),
        # Switches are claimed as on and off, units as numbers.
        features={key: units for key, units in features.items() if type(units) is int and units > 0},
        issued_at=datetime.fromtimestamp(fields.integer("iat", most=_LAST_SECOND), UTC),
        until=datetime.fromtimestamp(fields.integer("exp", most=_LAST_SECOND), UTC),
        key=bound.optional_text("jkt"),
    )


def _check_binding(claims: Json) -> None:
    """One way only: a reader that knows the one and a reader that knows the other must not believe two machines."""
    bound = {"jkt", "fingerprint"} & members(claims, "cnf").keys()
    if len(bound) != 1:
        raise malformed("A borrowed capability must be bound to a key or to a fingerprint, and to one of them.")
    Fields(claims["cnf"], place="capability.cnf").text(bound.pop(), most=_LONGEST_BINDING)


def _header(key: SigningKey, typ: str) -> bytes:
    return b64encode(write_json({"alg": key.alg, "typ": typ, "kid": key.kid})).encode("ascii") + b"."
