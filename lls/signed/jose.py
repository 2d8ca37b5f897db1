"""Keys, signatures and encryption: the narrow JOSE profile of contract §3.

Owns: signing keys, encryption keys, JWS (compact and general JSON) and JWE (compact). The rules of a verified token:

1. It is no larger than its reader allows, and is strict JSON and canonical base64url (:mod:`lls.signed.encoding`).
2. Its form is compact, or general JSON of exactly ``payload`` and ``signatures`` (at most 16), each of exactly
   ``protected`` and ``signature``: nothing unprotected is ever read.
3. Each header has ``typ``, equal to the one its reader expects, and ``kid`` (RFC 7638 thumbprint).
4. ``crit``, ``jku``, ``x5u``, ``b64`` other than true, and ``jwk`` (outside self-signed documents) are refused.
5. The key decides the algorithm; the header only has to agree, so there is nothing to confuse. ES256 everywhere,
   EdDSA (Ed25519) where :func:`algorithms_of` says so.
6. A signature that is wrong, or by an unknown key, does not count. No signature left: ``signature``.
7. A payload is read after its signature was found right. What has to be read before (headers, the general form's outer
   object, small documents that say who they are) is bounded, because a stranger may have written it.

JWE is ECDH-ES+A256KW on P-256 with A256GCM, never ``zip``: a decompression bomb has no way in.

joserfc seals and opens bundles. Signatures go to ``cryptography`` directly: joserfc cannot sign by RFC 6979, does not
count signatures towards a threshold and accepts a member named twice. Tests check every form against PyJWT and
jwcrypto.

Refuses to own: who may sign what (:mod:`lls.signed.keys`), and what a payload means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from lls.faults import Refusal, RefusedDocument
from lls.signed.encoding import Json, b64decode, b64encode, malformed, read_json, write_json

ES256: Final = "ES256"
EDDSA: Final = "EdDSA"
MOST_TOKEN: Final = 256 * 1024
MOST_SEALED: Final = 64 * 1024 * 1024
MOST_SIGNATURES: Final = 16
MOST_HEADER: Final = 4096
_MOST_OUTER_STRUCTURE: Final = 1_000

Token: TypeAlias = bytes | str
Jwk: TypeAlias = Mapping[str, object]
_Native: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_EITHER_ALGORITHM = frozenset({"lls-bundle+jws", "lls-report+jws", "lls-receipt+jws"})
_REFUSED_HEADERS = ("crit", "jku", "x5u")
KEY_WRAP: Final = "ECDH-ES+A256KW"
CONTENT: Final = "A256GCM"
_JWE_ALGORITHMS = (KEY_WRAP, CONTENT)
_JWS_PARTS = 3
_JWE_PARTS = 5
_SIGNATURE_BYTES = 64
_COORDINATE_LENGTH = 43


class Signer(Protocol):
    """Whoever can sign, wherever the private key lies: in this process, in a token, behind a command."""

    @property
    def kid(self) -> str:
        """The RFC 7638 thumbprint of the public key."""

    @property
    def alg(self) -> str:
        """``ES256`` or ``EdDSA``."""

    def sign(self, message: bytes) -> bytes:
        """The raw JWS signature over the signing input: 64 bytes in both algorithms (RFC 7518 §3.4, RFC 8037 §3.1)."""


def algorithms_of(typ: str) -> frozenset[str]:
    """The algorithms that contract §3 accepts for documents of this ``typ``."""
    return frozenset({ES256, EDDSA}) if typ in _EITHER_ALGORITHM else frozenset({ES256})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A payload and the keys whose signatures on it are right; never empty."""

    payload: Json
    kids: frozenset[str]


def verify(
    token: Token,
    *,
    typ: str,
    key_of: Callable[[str], PublicKey | None],
    algs: Collection[str] | None = None,
    limit: int = MOST_TOKEN,
) -> Verified:
    """The payload of ``token`` if at least one key known to ``key_of`` signed it.

    ``algs`` defaults to what the contract accepts for ``typ``. Refusals: ``too_large``, ``malformed``, ``signature``.
    """
    parts = _split(token, limit)
    kids = _signers(parts, typ, key_of, algorithms_of(typ) if algs is None else algs)
    if not kids:
        raise RefusedDocument(Refusal.SIGNATURE, "No signature on the document is by a key that may sign it.")
    return Verified(payload=read_json(b64decode(parts.payload)), kids=kids)


def signers_of(
    token: Token, *, typ: str, key_of: Callable[[str], PublicKey | None], limit: int = MOST_TOKEN
) -> frozenset[str]:
    """The keys whose signatures on ``token`` are right, of those known to ``key_of``. Reads nothing of the payload."""
    return _signers(_split(token, limit), typ, key_of, algorithms_of(typ))


def verify_self_signed(token: Token, *, typ: str, limit: int = MOST_TOKEN) -> tuple[Verified, PublicKey]:
    """For requests and returned borrowings only: the payload, and the key in the ``jwk`` header that signed it.

    It proves that the sender holds that key and nothing else; who the sender is, a person has to know.
    """
    parts = _split(token, limit)
    if len(parts.signatures) != 1:
        raise malformed("A self-signed document has one signature.")
    signature = parts.signatures[0]
    header = _header(signature, typ, self_signed=True)
    jwk = header.get("jwk")
    if not isinstance(jwk, dict):
        raise malformed("A self-signed document needs its public key in the header 'jwk'.")
    key = read_public_key(jwk)
    if not _is_right(signature, parts.payload, header, key if key.kid == signature.kid else None, algorithms_of(typ)):
        raise RefusedDocument(Refusal.SIGNATURE, "The document is not signed by the key that it names as its own.")
    return Verified(payload=read_json(b64decode(parts.payload)), kids=frozenset({key.kid})), key


def unverified_payload(token: Token, *, limit: int = MOST_TOKEN) -> Json:
    """The payload *before* its signature is known to be right: only to find out which key has to verify it."""
    return read_json(unverified_bytes(token, limit=limit))


def unverified_bytes(token: Token, *, limit: int = MOST_TOKEN) -> bytes:
    """The same, not even read: for documents too large to be read for a stranger."""
    return b64decode(_split(token, limit).payload)


def sign_compact(
    payload: Mapping[str, object] | bytes, *, key: Signer, typ: str, header: Mapping[str, object] | None = None
) -> str:
    """A compact JWS. ``header`` adds members after ``alg``, ``typ`` and ``kid``."""
    body = b64encode(payload if isinstance(payload, bytes) else write_json(payload))
    protected = _protected(key, typ, header)
    return f"{protected}.{body}.{b64encode(key.sign(f'{protected}.{body}'.encode('ascii')))}"


def sign_general(payload: Mapping[str, object] | bytes, *, keys: Sequence[Signer], typ: str) -> str:
    """A general JSON JWS with one signature per key."""
    body = b64encode(payload if isinstance(payload, bytes) else write_json(payload))
    return _general(body, [_signature(body, _protected(key, typ, None), key) for key in keys])


def sign_document(payload: Mapping[str, object] | bytes, *, signers: Sequence[Signer], typ: str) -> str:
    """Compact when one person signs, general JSON when several do."""
    if len(signers) == 1:
        return sign_compact(payload, key=signers[0], typ=typ)
    return sign_general(payload, keys=signers, typ=typ)


def add_signature(token: Token, *, key: Signer) -> str:
    """The same document with one more signature, as general JSON; a compact token is turned into one.

    The person who adds a signature vouches for the payload's bytes: nothing of it is re-encoded.
    """
    parts = _split(token, MOST_SEALED)
    typ = parts.signatures[0].header.get("typ")
    if not isinstance(typ, str):
        raise malformed("The header 'typ' is missing.")
    kept = [
        {"protected": signature.protected.decode("ascii"), "signature": b64encode(signature.raw)}
        for signature in parts.signatures
        if signature.kid != key.kid
    ]
    body = parts.payload.decode("ascii")
    return _general(body, [*kept, _signature(body, _protected(key, typ, None), key)])


def protected_header(signature: Mapping[str, object]) -> Json:
    """The header of one member of a general JWS's ``signatures``: to find out who says to have signed."""
    return _read_member(signature).header


def public_key_pem(data: bytes) -> PublicKey:
    """A public signing key from PEM (SubjectPublicKeyInfo), as tokens and OpenSSL give it out."""
    try:
        native = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise malformed("The file holds no public key in PEM form.") from error
    if not isinstance(native, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise malformed("The file holds no P-256 or Ed25519 public key.")
    return read_public_key(jwk_of(native))


def is_compact(token: Token) -> bool:
    """Whether the token is of three parts, as every JWT library reads it."""
    dots = token.count(b".") if isinstance(token, bytes) else token.count(".")
    return dots == _JWS_PARTS - 1


def token_text(token: Token) -> str:
    """A token as text, for whoever keeps it after it was verified."""
    return _bytes(token, MOST_SEALED).decode("ascii")


def encrypt(payload: bytes, *, to: Jwk) -> str:
    """A compact JWE that only the holder of the private key of ``to`` (a P-256 JWK) can open."""
    public = read_encryption_jwk(to)
    header: Json = {"alg": KEY_WRAP, "enc": CONTENT, "kid": thumbprint(public)}
    return jwe.encrypt_compact(
        header, payload, ECKey.import_key(p256(public)), registry=_Sizes(algorithms=_JWE_ALGORITHMS)
    )


def decrypt(token: Token, *, key: EncryptionKey, limit: int = MOST_SEALED) -> bytes:
    """The plaintext of a compact JWE to ``key``. Refusals: ``too_large``, ``malformed``, ``decryption``."""
    parts = _bytes(token, limit).split(b".", _JWE_PARTS)  # a file of nothing but dots would be half a gigabyte of parts
    if len(parts) != _JWE_PARTS:
        raise malformed("The file is cut off, or is not an encrypted document of a license server.")
    check_sealed_header(_bounded_header(parts[0]), key)
    for part in parts[1:]:
        b64decode(part)
    try:
        opened = jwe.decrypt_compact(
            b".".join(parts), ECKey.import_key(key.native), registry=_Sizes(algorithms=_JWE_ALGORITHMS)
        )
    except (JoseError, ValueError, TypeError, AssertionError) as error:
        raise RefusedDocument(Refusal.DECRYPTION, "The file was changed on the way, or is not for this key.") from error
    if opened.plaintext is None:
        raise RefusedDocument(Refusal.DECRYPTION, "The file holds nothing.")
    return opened.plaintext


def check_sealed_header(header: bytes, key: EncryptionKey) -> ec.EllipticCurvePublicKey:
    """The sender's ephemeral key, when the JWE header keeps to the profile and names ``key``."""
    members = read_json(header)
    if members.get("alg") != KEY_WRAP or members.get("enc") != CONTENT:
        raise RefusedDocument(Refusal.DECRYPTION, f"The file is not encrypted by {KEY_WRAP} with {CONTENT}.")
    if unwanted := sorted({"zip", "crit", "jku", "x5u", "jwk", "b64", "apu", "apv"} & members.keys()):
        raise malformed(f"The encryption header has {unwanted[0]!r}, which is not accepted.")
    if members.get("kid") != key.kid:
        sentence = "The file is encrypted for another server, or for an earlier key of this one."
        raise RefusedDocument(Refusal.DECRYPTION, sentence)
    ephemeral = members.get("epk")
    if not isinstance(ephemeral, dict):
        raise malformed("The encryption header has no ephemeral key.")
    return p256(read_encryption_jwk(ephemeral))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A public signing key: P-256 (``ES256``) or Ed25519 (``EdDSA``)."""

    kid: str
    alg: str
    jwk: dict[str, str]
    native: _Native = field(repr=False, compare=False)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` (raw JWS form: 64 bytes in both algorithms) is this key's over ``message``."""
        if len(signature) != _SIGNATURE_BYTES:
            return False
        try:
            if isinstance(self.native, ed25519.Ed25519PublicKey):
                self.native.verify(signature, message)
            else:
                r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
                self.native.verify(encode_dss_signature(r, s), message, _ECDSA)
        except InvalidSignature:
            return False
        return True

    def raw_form(self, message: bytes, signature: bytes) -> bytes | None:
        """A signature that a token or a program made, as JWS wants it; None when it is not this key's.

        ECDSA is spelled in two ways: PKCS#11 gives ``r || s``, and so does JWS (RFC 7518 §3.4); OpenSSL and most
        others give DER. Which it is cannot be told by its length (DER of 64 bytes exists), so both are tried.
        """
        if self.verifies(message, signature):
            return signature
        try:
            r, s = decode_dss_signature(signature)
            raw = r.to_bytes(_SIGNATURE_BYTES // 2, "big") + s.to_bytes(_SIGNATURE_BYTES // 2, "big")
        except (ValueError, OverflowError):
            return None
        return raw if self.verifies(message, raw) else None


def read_public_key(jwk: Jwk) -> PublicKey:
    """A public signing key from its JWK; a private member, another use or a foreign ``kid`` is refused."""
    if jwk.get("use", "sig") != "sig":
        raise malformed("The key is not for signatures.")
    native: _Native
    if jwk.get("kty") == "OKP":
        public, alg = _coordinates(jwk, kty="OKP", crv="Ed25519", names=("x",)), EDDSA
        try:
            native = ed25519.Ed25519PublicKey.from_public_bytes(b64decode(public["x"].encode("ascii")))
        except ValueError as error:
            raise malformed("The key is not an Ed25519 key.") from error
    else:
        public, alg = _coordinates(jwk, kty="EC", crv="P-256", names=("x", "y")), ES256
        native = p256(public)
    if jwk.get("alg", alg) != alg:
        raise malformed("The key is marked for another algorithm than its own.")
    kid = thumbprint(public)
    if jwk.get("kid", kid) != kid:
        raise malformed("The key's 'kid' is not its thumbprint.")
    return PublicKey(kid=kid, alg=alg, jwk=public, native=native)


def read_encryption_jwk(jwk: Jwk) -> dict[str, str]:
    """The bare public P-256 JWK (``kty, crv, x, y``) of an encryption key."""
    if jwk.get("use", "enc") != "enc":
        raise malformed("The key is not for encryption.")
    public = _coordinates(jwk, kty="EC", crv="P-256", names=("x", "y"))
    p256(public)
    return public


def thumbprint(jwk: Mapping[str, str]) -> str:
    """RFC 7638: SHA-256 over the required members in lexicographic order, in base64url."""
    return b64encode(hashlib.sha256(write_json(dict(sorted(jwk.items())))).digest())


class _Sizes(jwe.JWERegistry):
    # joserfc stops at 64 KiB by default, which a bundle of a hundred entitlements passes; ours is checked before.
    max_ciphertext_length = MOST_SEALED


class SigningKey:
    """A private signing key. Its representation shows the ``kid`` alone."""

    __slots__ = ("_es256", "_native", "alg", "kid", "public")

    def __init__(self, native: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
        self._native = native
        self._es256 = native.sign if isinstance(native, ec.EllipticCurvePrivateKey) else None
        self.public = read_public_key(jwk_of(native.public_key()))
        self.kid = self.public.kid
        self.alg = self.public.alg

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.kid!r})"

    @classmethod
    def generate(cls) -> SigningKey:
        """A new P-256 key from the system's randomness."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def generate_ed25519(cls) -> SigningKey:
        """A new Ed25519 key: for bundles, reports and receipts only (contract §3)."""
        return cls(ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, data: bytes, password: bytes | None = None) -> SigningKey:
        """From PKCS #8; ``malformed`` when it is no P-256 or Ed25519 key, or the password does not open it."""
        native = _load_pem(data, password)
        if not isinstance(native, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
            raise malformed("The file holds no P-256 or Ed25519 private key.")
        return cls(native)

    def to_pem(self, password: bytes | None = None) -> bytes:
        """PKCS #8, encrypted when there is a password. Whoever writes it to a disk owes it mode 0600."""
        return _dump_pem(self._native, password)

    def public_jwk(self) -> dict[str, str]:
        """The public half, with its ``kid``, ``alg`` and ``use``."""
        return {**self.public.jwk, "kid": self.kid, "alg": self.alg, "use": "sig"}

    def sign(self, message: bytes) -> bytes:
        """The raw JWS signature, 64 bytes. 20 µs for ES256; RFC 6979 costs 2 of them and needs no good randomness."""
        if self._es256 is None:
            return self._native.sign(message)  # type: ignore[call-arg]  # Ed25519: no algorithm to choose
        # SEQUENCE { INTEGER r, INTEGER s } of at most 72 bytes: every length is one byte, a leading zero only a sign.
        der = self._es256(message, _SIGN_ECDSA)
        end = 4 + der[3]
        return der[4:end][-32:].rjust(32, b"\0") + der[end + 2 :][-32:].rjust(32, b"\0")


class EncryptionKey:
    """A private P-256 key that opens what was encrypted to it. Its representation shows the ``kid`` alone."""

    __slots__ = ("_jwk", "kid", "native")

    def __init__(self, native: ec.EllipticCurvePrivateKey) -> None:
        self.native = native
        self._jwk = jwk_of(native.public_key())
        self.kid = thumbprint(self._jwk)

    def __repr__(self) -> str:
        return f"EncryptionKey(kid={self.kid!r})"

    @classmethod
    def generate(cls) -> EncryptionKey:
        """A new P-256 key from the system's randomness."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, data: bytes, password: bytes | None = None) -> EncryptionKey:
        """From PKCS #8; ``malformed`` when it is no P-256 key, or the password does not open it."""
        native = _load_pem(data, password)
        if not isinstance(native, ec.EllipticCurvePrivateKey) or not isinstance(native.curve, ec.SECP256R1):
            raise malformed("The file holds no P-256 private key.")
        return cls(native)

    def to_pem(self, password: bytes | None = None) -> bytes:
        """PKCS #8, encrypted when there is a password. Whoever writes it to a disk owes it mode 0600."""
        return _dump_pem(self.native, password)

    def public_jwk(self) -> dict[str, str]:
        """The public half, with its ``kid``, ``alg`` and ``use``."""
        return {**self._jwk, "kid": self.kid, "alg": KEY_WRAP, "use": "enc"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signature:
    protected: bytes
    header: Json
    kid: str
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    payload: bytes
    signatures: tuple[_Signature, ...]


def _split(token: Token, limit: int) -> _Parts:
    data = _bytes(token, limit)
    if data.startswith(b"{"):
        return _split_general(read_json(data, most=_MOST_OUTER_STRUCTURE))
    parts = data.split(b".", _JWS_PARTS)
    if len(parts) != _JWS_PARTS:
        raise malformed("The document is cut off, or is not a signed document of a license server.")
    return _Parts(payload=parts[1], signatures=(_read_signature(parts[0], parts[2]),))


def _split_general(document: Json) -> _Parts:
    payload, signatures = document.get("payload"), document.get("signatures")
    if document.keys() != {"payload", "signatures"} or not isinstance(payload, str) or not isinstance(signatures, list):
        raise malformed("The signed document must have exactly 'payload' and 'signatures'.")
    if not 1 <= len(signatures) <= MOST_SIGNATURES:
        raise malformed(f"The signed document must have 1 to {MOST_SIGNATURES} signatures.")
    return _Parts(payload=payload.encode("utf-8"), signatures=tuple(_read_member(member) for member in signatures))


def _read_member(member: object) -> _Signature:
    if not isinstance(member, dict) or member.keys() != {"protected", "signature"}:
        raise malformed("Each signature must have exactly 'protected' and 'signature'.")
    protected, signature = member["protected"], member["signature"]
    if not isinstance(protected, str) or not isinstance(signature, str):
        raise malformed("Each signature must have 'protected' and 'signature' as texts.")
    return _read_signature(protected.encode("utf-8"), signature.encode("utf-8"))


def _read_signature(protected: bytes, signature: bytes) -> _Signature:
    header = read_json(_bounded_header(protected))
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise malformed("The header 'kid' is missing.")
    return _Signature(protected=protected, header=header, kid=kid, raw=b64decode(signature))


def _bounded_header(encoded: bytes) -> bytes:
    if len(encoded) > MOST_HEADER:
        raise RefusedDocument(Refusal.TOO_LARGE, f"A header of the document is larger than {MOST_HEADER} bytes.")
    return b64decode(encoded)


def _signers(
    parts: _Parts, typ: str, key_of: Callable[[str], PublicKey | None], algs: Collection[str]
) -> frozenset[str]:
    return frozenset(
        signature.kid
        for signature in parts.signatures
        if _is_right(signature, parts.payload, _header(signature, typ), key_of(signature.kid), algs)
    )


def _header(signature: _Signature, typ: str, *, self_signed: bool = False) -> Json:
    header = signature.header
    if header.get("typ") != typ:
        raise malformed(f"This is not a document of the type {typ!r}.")
    for name in _REFUSED_HEADERS:
        if name in header:
            raise malformed(f"The header {name!r} is not accepted.")
    if header.get("b64", True) is not True:
        raise malformed("The header 'b64' is not accepted.")
    if "jwk" in header and not self_signed:
        raise malformed("The header 'jwk' is accepted in self-signed documents only.")
    return header


def _is_right(
    signature: _Signature, payload: bytes, header: Json, key: PublicKey | None, algs: Collection[str]
) -> bool:
    if key is None or header.get("alg") != key.alg or key.alg not in algs:
        return False
    return key.verifies(signature.protected + b"." + payload, signature.raw)


def _protected(key: Signer, typ: str, header: Mapping[str, object] | None) -> str:
    return b64encode(write_json({"alg": key.alg, "typ": typ, "kid": key.kid, **(header or {})}))


def _signature(body: str, protected: str, key: Signer) -> dict[str, str]:
    return {"protected": protected, "signature": b64encode(key.sign(f"{protected}.{body}".encode("ascii")))}


def _general(body: str, signatures: Sequence[Mapping[str, str]]) -> str:
    return write_json({"payload": body, "signatures": list(signatures)}).decode("ascii")


def _bytes(token: Token, limit: int) -> bytes:
    if len(token) > limit:
        raise RefusedDocument(Refusal.TOO_LARGE, f"The document is larger than {limit} bytes.")
    try:
        return (token.decode("ascii") if isinstance(token, bytes) else token).strip(" \t\r\n").encode("ascii")
    except UnicodeError as error:
        raise malformed("The document holds characters that are not ASCII.") from error


def _coordinates(jwk: Jwk, *, kty: str, crv: str, names: tuple[str, ...]) -> dict[str, str]:
    if "d" in jwk:
        raise malformed("The document holds a private key, which must never leave its owner.")
    if jwk.get("kty") != kty or jwk.get("crv") != crv:
        raise malformed("The key is neither P-256 nor, where accepted, Ed25519.")
    found = {"kty": kty, "crv": crv}
    for name in names:
        value = jwk.get(name)
        if not isinstance(value, str) or len(value) != _COORDINATE_LENGTH:
            raise malformed(f"The key's member {name!r} is not 32 bytes in base64url.")
        b64decode(value.encode("utf-8"))
        found[name] = value
    return found


def p256(jwk: Jwk) -> ec.EllipticCurvePublicKey:
    """The P-256 point of a JWK, which is refused when it is not on the curve."""
    public = _coordinates(jwk, kty="EC", crv="P-256", names=("x", "y"))
    point = b"\x04" + b64decode(public["x"].encode("ascii")) + b64decode(public["y"].encode("ascii"))
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise malformed("The key is not a point on P-256.") from error


def jwk_of(native: _Native) -> dict[str, str]:
    """The bare JWK of a public key."""
    if isinstance(native, ed25519.Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": b64encode(native.public_bytes_raw())}
    if not isinstance(native.curve, ec.SECP256R1):
        raise malformed("The key is not on P-256.")
    numbers = native.public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "x": b64encode(numbers.x.to_bytes(32, "big")),
        "y": b64encode(numbers.y.to_bytes(32, "big")),
    }


def _load_pem(data: bytes, password: bytes | None) -> object:
    try:
        return serialization.load_pem_private_key(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise malformed("The file holds no private key in PEM form, or the password does not open it.") from error


def _dump_pem(native: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes | None) -> bytes:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return native.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


def _signing_ecdsa() -> ec.ECDSA:
    # OpenSSL before 3.2 cannot; the contract lets verifiers not require RFC 6979, so a plain signature is as good.
    try:
        return ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    except UnsupportedAlgorithm:
        return _ECDSA


_ECDSA = ec.ECDSA(hashes.SHA256())
_SIGN_ECDSA = _signing_ecdsa()
