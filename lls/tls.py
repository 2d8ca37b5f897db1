"""The server's TLS certificate, made here or given, and the fingerprints that the ``statement`` binds to its key.

A self-made certificate needs no PKI at the site: a client trusts the vendor-signed server key, that key signs the list
of TLS public keys, and the client compares the connection's key with the list before it sends anything secret (contract
§2, *Trust of the channel*).

A certificate is exchanged while the server runs and no lease notices: living connections keep the key that they met,
and a client that meets another one asks for the statement again. The exchange happens in a thread, and the loop shakes
hands meanwhile: so a context that somebody may use is never changed (OpenSSL does not lock it, and between certificate
and key it has no pair), another one takes its place.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
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
RENEW_BEFORE: Final = timedelta(days=30)


class Doors:
    """What the network doors show: one certificate and its key, exchanged while connections live.

    ``context`` is the one that listens; each handshake is given the one of now. ``spki_sha256``: the key of now first,
    then those that older connections still have; a client may ask on such a connection which keys are ours. They are
    forgotten at the next start.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        *,
        names: Callable[[], list[str]] | None,
        now: Callable[[], datetime],
        client_ca: Path | None = None,
        required: bool = True,
    ) -> None:
        """``names`` None: the files are the site's. Else they are made here, for these names, where there are none.

        Raises SetupFault.
        """
        self._certificate, self._key, self._names, self._now = certificate, key, names, now
        self._client_ca, self._required = client_ca, required
        self._one = threading.RLock()
        """One exchange at a time: two renewals at once would put one's key beside the other's certificate."""
        if names is not None and not (certificate.exists() and key.exists()):
            make_certificate(certificate, key, names=names(), now=now())
        self._seen = self._stamps()
        try:
            self.context = self._now_shown = self._checked()
        except SetupFault:
            if names is None:
                raise
            # A power cut between the two files of a renewal. Nobody outside has to trust the new pair: the server's own
            # key vouches for it.
            make_certificate(certificate, key, names=names(), now=now())
            self._seen = self._stamps()
            self.context = self._now_shown = self._checked()
        self.context.sni_callback = self._show_now
        self.trouble = ""
        """Why the files as they are now are not shown; empty when they are."""
        self.shown = look_at(certificate)
        self.spki_sha256: tuple[str, ...] = (self.shown.spki_sha256,)

    @property
    def self_made(self) -> bool:
        """Whether the certificate is made here."""
        return self._names is not None

    @property
    def ends_at(self) -> datetime:
        """When the certificate that is shown expires."""
        return self.shown.not_after

    @property
    def names(self) -> list[str]:
        """The host names and addresses that the certificate that is shown is made out for."""
        return list(self.shown.names)

    def look(self) -> bool:
        """Show the files as they are now, if they have changed; renew one that is made here and ends soon.

        Whether anything has changed. Raises SetupFault, and goes on showing what it showed.
        """
        with self._one:
            try:
                if self.self_made and self.ends_at - self._now() < RENEW_BEFORE:
                    self.renew()
                    return True
                changed = self._stamps() != self._seen and self._show()
            except SetupFault as fault:
                self.trouble = fault.detail
                raise
            self.trouble = ""
            return changed

    def renew(self) -> None:
        """Make another key and certificate, and show it. Raises SetupFault where the files are the site's."""
        if self._names is None:
            raise SetupFault(
                f"The TLS certificate {self._certificate} is your own (tls.mode files): put another in its place, then"
                " lls reload."
            )
        with self._one:
            try:
                make_certificate(self._certificate, self._key, names=self._names(), now=self._now())
            except OSError as error:
                raise SetupFault(f"A TLS certificate cannot be written: {error.strerror or error}.") from error
            self._show()

    def _show(self) -> bool:
        seen, context = self._stamps(), self._checked()
        shown = look_at(self._certificate)
        if self._stamps() != seen:
            raise SetupFault(f"The TLS certificate {self._certificate} was changed while it was read.")
        # The key first: a client that meets the certificate must find it in the statement.
        self.spki_sha256 = tuple(dict.fromkeys((shown.spki_sha256, *self.spki_sha256)))
        self.shown, self._seen, self._now_shown = shown, seen, context
        return True

    def _show_now(self, handshake: ssl.SSLObject, _name: str | None, _listening: ssl.SSLContext) -> None:
        """OpenSSL asks at each handshake, whether or not the client names a host."""
        handshake.context = self._now_shown

    def _checked(self) -> ssl.SSLContext:
        """A context of its own: OpenSSL takes a certificate before it finds that the key does not fit."""
        return server_context(self._certificate, self._key, client_ca=self._client_ca, required=self._required)

    def _stamps(self) -> tuple[int, ...]:
        try:
            return tuple(part for file in (self._certificate, self._key) for part in _stamp(file))
        except OSError as error:
            raise SetupFault(f"{error.filename}: {error.strerror} (the TLS certificate or its key).") from error


def make_certificate(certificate: Path, key: Path, *, names: list[str], now: datetime) -> None:
    """Write a self-signed P-256 certificate and its key; ``names``: host names and addresses.

    The key is written first: a certificate is never there without its key, and :class:`Doors` takes a pair or none.
    """
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


def spki_of(certificate: Path) -> str:
    """The key of a certificate file, as ``server.proxy_spki_sha256`` names it. Raises SetupFault."""
    return look_at(certificate).spki_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a certificate says: the names and addresses that it is for, its dates, and its key.

    ``spki_sha256``: lower-case hex SHA-256 of the SubjectPublicKeyInfo (as RFC 7469 hashes it).
    """

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    spki_sha256: str


def look_at(certificate: Path) -> Seen:
    """The first certificate of a PEM file. Raises SetupFault."""
    try:
        first = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise SetupFault(f"The TLS certificate {certificate} cannot be read.") from error
    try:
        found = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]
    except x509.ExtensionNotFound:
        names = []
    public = first.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Seen(
        names=tuple(names),
        not_before=first.not_valid_before_utc,
        not_after=first.not_valid_after_utc,
        spki_sha256=hashlib.sha256(public).hexdigest(),
    )


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


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
