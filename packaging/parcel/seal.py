"""Checksums, and the signature over them, which an installer verifies before it runs anything.

ECDSA on P-256 over SHA-256, in DER, because ``openssl dgst -verify`` of every distribution in service checks that and
needs no network and no keyring (docs/decisions/0024). The nonce is that of RFC 6979, so that the signature, too, is the
same for the same bytes. A key in a token signs the same file by its own command: docs/packaging.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from parcel.wheels import Refused

SUMS: Final = "SHA256SUMS"
SIGNATURE: Final = "SHA256SUMS.sig"


def sums(files: Iterable[tuple[str, bytes]]) -> bytes:
    """As ``sha256sum`` writes and checks them, by name."""
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files)).encode()


class Key:
    """The signing key of the project or the vendor."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise Refused(f"SIGN_KEY {path} is not there; docs/packaging.md (Keys) says how to make one.")
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise Refused(f"SIGN_KEY {path} is no unencrypted PEM key that can be read.") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Refused(f"SIGN_KEY {path} is not an EC key on P-256; make one as docs/packaging.md says.")
        self._key = key

    def sign(self, content: bytes) -> bytes:
        """The signature, in DER."""
        return self._key.sign(content, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key (SubjectPublicKeyInfo), as the manual has people compare it."""
        spki = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(spki).hexdigest()
