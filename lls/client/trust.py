"""Who is a genuine license server? This room decides it, from bytes alone: no network, no clock, no files.

The chain, and each link is one method that is callable only when the one above it has held:

1. A **key set** of the vendor, embedded in the application. It must carry enough signatures of its own root role. A
   later version (exactly n+1) must carry the root threshold of n *and* of n+1.
2. A **server certificate**, signed by the threshold of the key set's ``certificate`` role, names a server and its key.
3. A **statement**, signed by that key over our own nonce, lists the TLS keys of the server. The caller compares the
   list with the key of the connection that the statement came by: a relay between us and the server has another one.
4. A **capability**, signed by that key over our own nonce, is the proof of one lease.

Limits
- Only ES256 on P-256 and EdDSA on Ed25519. The key decides the algorithm; a header that disagrees is refused, and
  so are ``crit``, ``jku``, ``x5u``, ``b64`` and ``jwk``: nothing in a document may say by which key to check it.
- No dates are judged. A workstation's clock may be wrong by years, and an expired certificate stops new leases at the
  server, never a held one (contract §3). Freshness comes from the nonce.
- Unknown members are ignored, duplicate ones refused: two parsers must not see two documents.

Not ours: fetching (``transport``), counting time (``session``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from .errors import OtherKey, Untrusted

KEYS_TYP = "lls-keys+jws"
CERTIFICATE_TYP = "lls-server+jws"
STATEMENT_TYP = "lls-statement+jwt"
CAPABILITY_TYP = "lls-capability+jwt"

_MAX_DOCUMENT = 512 * 1024
_MAX_SIGNATURES = 32
_MAX_NUMBER = 1e12
_COMPACT_PARTS = 3
_COORDINATE = 32
_REFUSED_HEADERS = frozenset({"crit", "jku", "x5u", "b64", "jwk"})
_B64URL = re.compile(r"[A-Za-z0-9_-]*\Z")
_SHA256_HEX = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """One verification key; ``kid`` is its RFC 7638 thumbprint, whatever the document called it."""

    kid: str
    key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

    @property
    def alg(self) -> str:
        """The one algorithm that this key may be used with."""
        return "ES256" if isinstance(self.key, ec.EllipticCurvePublicKey) else "EdDSA"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """How many of which keys must sign."""

    threshold: int
    kids: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """The verified claims of one lease. ``ttl_seconds`` counts from the moment the nonce was *first* sent.

    ``issued_at`` and ``expires_at`` (UNIX seconds) decide for borrowed leases only; ``bound_to`` is the claim ``cnf``:
    the ``fingerprint`` of the machine or the thumbprint (``jkt``) of its key.
    """

    lease_id: str
    product: str
    server_id: str
    mode: str
    ttl_seconds: float
    expires_at: float
    entitlement_id: str
    seats: int
    seat_id: str
    features: Mapping[str, object]
    attributes: Mapping[str, object]
    edition: str | None = None
    nonce: str = ""
    issued_at: float = 0.0
    bound_to: Mapping[str, object] = field(default_factory=dict)
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCertificate:
    """The vendor's word that this key is this server's."""

    server_id: str
    products: tuple[str, ...]
    key: PublicKey
    token: str = field(repr=False)

    def statement(self, token: object, *, nonce: str) -> tuple[str, ...]:
        """The server's TLS keys: lower-case hex SHA-256 of each DER SubjectPublicKeyInfo.

        >>> certificate.statement(answer["statement"], nonce=nonce)  # doctest: +SKIP
        ('9f86d0…',)
        """
        claims = _one_signature(token, key=self.key, typ=STATEMENT_TYP)
        if self.server_id != claims.get("server_id"):
            raise Untrusted("The statement speaks of another server than the certificate.")
        _fresh(claims, nonce)
        listed = claims.get("tls_spki_sha256")
        if not isinstance(listed, list) or not all(
            isinstance(item, str) and _SHA256_HEX.match(item) for item in listed
        ):
            raise Untrusted("The statement's list of TLS keys is malformed.")
        return tuple(listed)

    def capability(self, token: object, *, nonce: str | None, lease_id: str, product: str) -> Capability:
        """The proof of one lease. ``nonce=None`` only for a borrowed lease read back from a file."""
        claims = _one_signature(token, key=self.key, typ=CAPABILITY_TYP)
        if self.server_id != claims.get("iss"):
            raise Untrusted("The capability was issued by another server.")
        if product != claims.get("aud"):
            raise Untrusted("The capability is for another product.")
        # An empty list binds the server to no product in particular.
        if self.products and product not in self.products:
            raise Untrusted("The vendor's certificate does not let this server lease that product.")
        if lease_id.lower() != _text(claims, "sub").lower():
            raise Untrusted("The capability is for another lease.")
        if nonce is not None:
            _fresh(claims, nonce)
        return Capability(
            lease_id=lease_id,
            product=product,
            server_id=self.server_id,
            mode=_text(claims, "mode"),
            ttl_seconds=_number(claims, "ttl"),
            expires_at=_number(claims, "exp"),
            entitlement_id=_text(claims, "ent", default=""),
            seats=int(_number(claims, "seats")),
            seat_id=_text(claims, "seat_id", default=""),
            features=_by_key(claims.get("features")),
            attributes=_by_key(claims.get("attributes")),
            edition=_text_or_none(claims.get("edition")),
            nonce=_text(claims, "nonce", default=""),
            issued_at=_number(claims, "iat") if "iat" in claims else 0.0,
            bound_to=_by_key(claims.get("cnf")),
            token=str(token),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """The vendor's keys, one version of them."""

    version: int
    roles: Mapping[str, Role]
    keys: Mapping[str, PublicKey]
    token: str = field(repr=False)

    @classmethod
    def read(cls, document: object) -> KeySet:
        """The version that came with the application: trusted as installed, checked against its own root."""
        found = _read_key_set(document)
        found.require(document, role="root", typ=KEYS_TYP)
        return found

    def successor(self, document: object) -> KeySet:
        """Version n+1, signed by the root of n and of n+1."""
        found = _read_key_set(document)
        if self.version + 1 != found.version:
            raise Untrusted(f"Key set version {found.version} does not follow version {self.version}.")
        self.require(document, role="root", typ=KEYS_TYP)
        found.require(document, role="root", typ=KEYS_TYP)
        return found

    def certificate(self, document: object) -> ServerCertificate:
        """The vendor's word about a server, signed by the threshold of the role ``certificate``."""
        claims = self.require(document, role="certificate", typ=CERTIFICATE_TYP)
        products = claims.get("products", [])
        if not isinstance(products, list) or not all(isinstance(item, str) for item in products):
            raise Untrusted("The server certificate's list of products is malformed.")
        return ServerCertificate(
            server_id=_text(claims, "server_id"),
            products=tuple(products),
            key=_public_key(claims.get("jwk")),
            token=_as_text(document),
        )

    def require(self, document: object, *, role: str, typ: str) -> Mapping[str, object]:
        """The payload, when enough *different* keys of the role have signed it."""
        wanted = self.roles.get(role)
        if wanted is None:
            raise Untrusted(f"Key set version {self.version} has no role “{role}”.")
        payload, signatures = _signatures(document)
        valid = {
            kid for protected, signature in signatures if (kid := self._signer(protected, payload, signature, typ))
        }
        if len(valid & wanted.kids) < wanted.threshold:
            raise OtherKey(
                f"{typ}: {len(valid & wanted.kids)} of the vendor's {role} keys signed, {wanted.threshold} are needed "
                f"(key set version {self.version})."
            )
        return _object(_decode(payload))

    def _signer(self, protected: str, payload: str, signature: str, typ: str) -> str | None:
        header = _header(protected, typ=typ)
        key = self.keys.get(_text(header, "kid"))
        if key is None:
            return None
        return key.kid if _verifies(key, header, f"{protected}.{payload}", signature) else None


def key_set_version(document: object) -> int:
    """The version that an unverified key set claims: enough to skip the known ones."""
    return _read_key_set(document).version


def nonce_text(random_bytes: bytes) -> str:
    """Random bytes as the wire carries them: base64url without padding."""
    return base64.urlsafe_b64encode(random_bytes).rstrip(b"=").decode("ascii")


# -- JOSE, the narrow profile --------------------------------------------------------------------------------------


def _one_signature(token: object, *, key: PublicKey, typ: str) -> Mapping[str, object]:
    payload, signatures = _signatures(token)
    if len(signatures) != 1:
        raise Untrusted(f"{typ}: exactly one signature was expected.")
    protected, signature = signatures[0]
    header = _header(protected, typ=typ)
    if key.kid != header.get("kid"):
        raise OtherKey(f"{typ}: signed by another key than the server certificate's.")
    if not _verifies(key, header, f"{protected}.{payload}", signature):
        raise Untrusted(f"{typ}: the signature is wrong.")
    return _object(_decode(payload))


def _signatures(document: object) -> tuple[str, Sequence[tuple[str, str]]]:
    """Payload and signatures, still encoded, of a compact or a general JSON serialisation (RFC 7515 §7.1, §7.2.1)."""
    text = _as_text(document)
    if len(text) > _MAX_DOCUMENT:
        raise Untrusted("A signed document is larger than any genuine one.")
    if not text.startswith("{"):
        parts = text.split(".")
        if len(parts) != _COMPACT_PARTS:
            raise Untrusted("A signed document is malformed.")
        return _base64url(parts[1]), [(_base64url(parts[0]), _base64url(parts[2]))]
    outer = _object(text)
    payload, entries = outer.get("payload"), outer.get("signatures")
    if not isinstance(payload, str) or not isinstance(entries, list) or not 1 <= len(entries) <= _MAX_SIGNATURES:
        raise Untrusted("A signed document is malformed.")
    # Only what is under the signature counts: an unprotected `header` is never looked at.
    members = [_mapping(item) for item in entries]
    return _base64url(payload), [
        (_base64url(_text(item, "protected")), _base64url(_text(item, "signature"))) for item in members
    ]


def _header(protected: str, *, typ: str) -> Mapping[str, object]:
    header = _object(_decode(protected))
    if typ != header.get("typ"):
        raise Untrusted(f"A document of type {typ} was expected.")
    if not _REFUSED_HEADERS.isdisjoint(header):
        raise Untrusted(f"{typ}: a header that is not allowed.")
    return header


def _verifies(key: PublicKey, header: Mapping[str, object], message: str, signature: str) -> bool:
    if key.alg != header.get("alg"):
        return False
    raw = _decode(signature)
    if len(raw) != 2 * _COORDINATE:
        return False
    try:
        if isinstance(key.key, ec.EllipticCurvePublicKey):
            der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            key.key.verify(der, message.encode("ascii"), ec.ECDSA(hashes.SHA256()))
        else:
            key.key.verify(raw, message.encode("ascii"))
    except InvalidSignature:
        return False
    return True


def thumbprint(jwk: Mapping[str, object]) -> str:
    """The RFC 7638 name of a P-256 key: what a capability's ``cnf.jkt`` says."""
    return _thumbprint(jwk, ("crv", "kty", "x", "y"))


def _public_key(jwk: object) -> PublicKey:
    members = _mapping(jwk)
    kind, curve = members.get("kty"), members.get("crv")
    try:
        if (kind, curve) == ("EC", "P-256"):
            x, y = _decode(_text(members, "x")), _decode(_text(members, "y"))
            if len(x) != _COORDINATE or len(y) != _COORDINATE:
                raise Untrusted("A P-256 key has coordinates of 32 bytes.")
            point = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1())
            return PublicKey(kid=_thumbprint(members, ("crv", "kty", "x", "y")), key=point.public_key())
        if (kind, curve) == ("OKP", "Ed25519"):
            key = ed25519.Ed25519PublicKey.from_public_bytes(_decode(_text(members, "x")))
            return PublicKey(kid=_thumbprint(members, ("crv", "kty", "x")), key=key)
    except ValueError as error:
        raise Untrusted("A public key is malformed.") from error
    raise Untrusted("Only P-256 and Ed25519 keys are accepted.")


def _thumbprint(jwk: Mapping[str, object], members: Sequence[str]) -> str:
    canonical = json.dumps({name: jwk[name] for name in members}, separators=(",", ":"), sort_keys=True)
    return nonce_text(hashlib.sha256(canonical.encode("utf-8")).digest())


def _read_key_set(document: object) -> KeySet:
    payload, _ = _signatures(document)
    claims = _object(_decode(payload))
    version = claims.get("version")
    roles, keys = claims.get("roles"), claims.get("keys")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise Untrusted("The key set has no version.")
    if not isinstance(roles, Mapping) or not isinstance(keys, list):
        raise Untrusted("The key set is malformed.")
    read = [_public_key(jwk) for jwk in keys]
    return KeySet(
        version=version,
        roles={name: _role(value) for name, value in roles.items()},
        keys={key.kid: key for key in read},
        token=_as_text(document),
    )


# -- strict reading ------------------------------------------------------------------------------------------------


def strict_json(text: str | bytes) -> object:
    """JSON without duplicate members, NaN, numbers beyond a float or bottomless nesting; ``ValueError`` otherwise."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    # `1e999` would be read as a number that no JSON can say again.
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number beyond any")
    return value


def _object(text: str | bytes) -> Mapping[str, object]:
    try:
        return _mapping(strict_json(text))
    except ValueError as error:
        raise Untrusted("A signed document is not proper JSON.") from error


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Untrusted("A signed document is malformed.")
    return value


def _base64url(text: str) -> str:
    # Before anything is made of it: JSON's escapes bring in characters that no signature can cover.
    if not _B64URL.match(text):
        raise Untrusted("A signed document is not base64url.")
    return text


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(_base64url(text) + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise Untrusted("A signed document is not base64url.") from error


def _as_text(document: object) -> str:
    """Servers may embed a general JSON document as text or as an object; signatures are unaffected."""
    if isinstance(document, bytes):
        try:
            document = document.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Untrusted("A signed document is not text.") from error
    if isinstance(document, dict):
        return json.dumps(document)
    if not isinstance(document, str) or not document.isascii():
        raise Untrusted("A signed document is missing or malformed.")
    return document.strip()


def _fresh(claims: Mapping[str, object], nonce: str) -> None:
    told = _base64url(_text(claims, "nonce"))
    if not hmac.compare_digest(nonce.encode("ascii"), told.encode("ascii")):
        raise Untrusted("The answer was made for another question: it is a replay.")


def _role(value: object) -> Role:
    members = _mapping(value)
    threshold, kids = members.get("threshold"), members.get("kids")
    if not isinstance(threshold, int) or isinstance(threshold, bool) or threshold < 1:
        raise Untrusted("A role of the key set has no threshold.")
    if not isinstance(kids, list) or not all(isinstance(kid, str) for kid in kids):
        raise Untrusted("A role of the key set names no keys.")
    return Role(threshold=threshold, kids=frozenset(kids))


def _text(claims: Mapping[str, object], name: str, *, default: str | None = None) -> str:
    value = claims.get(name, default)
    if not isinstance(value, str):
        raise Untrusted(f"“{name}” is missing.")
    return value


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_NUMBER:
        raise Untrusted(f"“{name}” is missing.")
    return float(value)


def _by_key(value: object) -> Mapping[str, object]:
    """A mapping, or the wire's list of ``{"key": …}`` objects, by key."""
    if isinstance(value, list):
        return {str(item["key"]): item for item in value if isinstance(item, dict) and "key" in item}
    return dict(value) if isinstance(value, dict) else {}
