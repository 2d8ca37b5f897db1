"""A site's authority for client certificates, which knows nothing of the house that is tested."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from lls.client import ClientCertificate


class Authority:
    """Issues pairs of files into its folder; ``file`` is what the server is given (``access.client_ca``)."""

    def __init__(self, folder: Path, name: str = "site") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._numbers = folder, itertools.count()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}-ca.pem"
        self.file.write_bytes(self._certify(self._subject, self._key, days=3650, authority=True))

    def issue(self, name: str = "", *, days: float = 30, passphrase: str | None = None) -> ClientCertificate:
        """A new key and its certificate; under a name that was issued before: a renewal, in the same place."""
        named = name or f"ws-{next(self._numbers)}"
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, named)])
        pair = ClientCertificate(self._folder / f"{named}.crt", self._folder / f"{named}.key", passphrase)
        sealed: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            sealed = BestAvailableEncryption(passphrase.encode())
        # Each file at once, as whoever renews certificates does it; the key in between fits none.
        replace(Path(str(pair.key)), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed), mode=0o600)
        replace(Path(pair.certificate), self._certify(subject, key, days=days), mode=0o644)
        return pair

    def _certify(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: float, authority: bool = False
    ) -> bytes:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=400))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )


def replace(path: Path, content: bytes, *, mode: int) -> None:
    """Another file in its place."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(content)
    beside.chmod(mode)
    beside.replace(path)
