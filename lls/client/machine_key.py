"""The key that a machine makes for one lease that it borrows by file: made, kept as text, and signed with.

It never leaves the machine; requests and returns carry its public half, and a grant is bound to its thumbprint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from .errors import Damaged
from .trust import nonce_text, thumbprint

_COORDINATE = 32


class MachineKey:
    """The P-256 key that a machine makes for one lease."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        numbers = key.public_key().public_numbers()
        x, y = (nonce_text(one.to_bytes(_COORDINATE, "big")) for one in (numbers.x, numbers.y))
        self.jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        self.thumbprint = thumbprint(self.jwk)

    @classmethod
    def make(cls) -> MachineKey:
        """A new one."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def read(cls, pem: str) -> MachineKey:
        """From :attr:`pem`; ``Damaged`` otherwise."""
        try:
            key = load_pem_private_key(pem.encode("ascii"), password=None)
        except (ValueError, TypeError) as error:
            raise Damaged("The key of a borrowed lease is damaged.") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Damaged("The key of a borrowed lease is not of the kind that this library makes.")
        return cls(key)

    @property
    def pem(self) -> str:
        """PKCS #8, not encrypted: the file that holds it is its owner's alone."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")

    def signed(self, claims: Mapping[str, object], *, typ: str) -> str:
        """A compact JWS (RFC 7515 §7.1, ES256) with the public key in its header."""
        header = {"alg": "ES256", "typ": typ, "kid": self.thumbprint, "jwk": self.jwk}
        message = ".".join(nonce_text(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(message.encode("ascii"), ec.ECDSA(hashes.SHA256())))
        return f"{message}.{nonce_text(r.to_bytes(_COORDINATE, 'big') + s.to_bytes(_COORDINATE, 'big'))}"
