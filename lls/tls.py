"""The server's TLS certificate, made here or given, and the fingerprints that the ``statement`` binds to its key.

A self-made certificate needs no PKI at the site: a client trusts the vendor-signed server key, that key signs the list
of TLS public keys, and the client compares the connection's key with the list before it sends anything secret (contract
§2, *Trust of the channel*).
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lls.faults import SetupFault

LIFETIME: Final = timedelta(days=3650)
"""Clients pin the key, not the dates; a short life would only make an appliance stop one day."""


def make_certificate(certificate: Path, key: Path, *, names: list[str], now: datetime) -> None:
    """Write a self-signed P-256 certificate and its key, unless both are there; ``names``: host names and addresses."""
    if certificate.exists() and key.exists():
        return
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    _write(key, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    _write(certificate, built.public_bytes(Encoding.PEM), mode=0o644)


def server_context(
    certificate: Path, key: Path, *, client_ca: Path | None = None, required: bool = True
) -> ssl.SSLContext:
    """TLS 1.2 or later with this certificate. Raises SetupFault with a sentence that names the file.

    With ``client_ca`` clients show a certificate of that authority: all of them, or (``required`` off) those that have
    one. One of another authority ends the handshake either way.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        reason = (
            getattr(error, "strerror", None) or getattr(error, "reason", None) or "not a PEM certificate and its key"
        )
        raise SetupFault(f"The TLS certificate {certificate} and key {key} cannot be used: {reason}.") from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise SetupFault(f"The authority of clients {client_ca} (access.client_ca) cannot be used.") from error
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def spki_sha256(certificate: Path) -> str:
    """The lower-case hex SHA-256 of the first certificate's SubjectPublicKeyInfo (as RFC 7469 hashes it)."""
    try:
        first = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise SetupFault(f"The TLS certificate {certificate} cannot be read.") from error
    public = first.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        # RFC 5280 §4.2.1.6: DNS names are IA5; a machine may be called otherwise.
        try:
            return x509.DNSName(name if name.isascii() else name.encode("idna").decode("ascii"))
        except UnicodeError as error:
            raise SetupFault(f"{name!a} is no host name that a TLS certificate can carry.") from error


def _write(path: Path, content: bytes, *, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
