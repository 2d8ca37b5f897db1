"""TLS from this side: how a server is checked, and the certificate that we show where a site asks for one.

Rules
1. What we show vouches for us, never for the server: whose word counts is decided as without it (``transport``).
2. The files are read at once, so that a mistake is told to whoever made it (``BadSetup``), and again for the next
   connection after they have changed: a renewal needs no restart. A new pair that cannot be used (half of it is there
   yet) leaves the former one in use; it is told when a server hangs up.
3. A key that everybody on the machine may read is refused. The group may read it: a machine's certificate serves the
   programs of several people.
4. The dates of our certificate are not judged here: a workstation's clock is often wrong, and the server decides. They
   are told when it has hung up.

Limits: PEM files only, no smart card and no key in a TPM. Who stands in the server's place learns what the certificate
says (its name); the handshake proves our key to that connection alone and is worth nothing on another one.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from .errors import BadSetup

_EVERYBODY = 0o007
_GROUP_WRITE = 0o020
_MISMATCH = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"})

Stamp = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The certificate that is shown to a server which asks for one (mutual TLS), as PEM files.

    ``certificate``: the certificate, then those between it and the site's authority, if any. ``key``: ``None`` when it
    lies in the same file. ``passphrase`` of an encrypted key: a text, or what is called for it each time the files are
    read, in the thread that connects (default: ``LLS_CLIENT_KEY_PASSPHRASE``).
    """

    certificate: str | Path
    key: str | Path | None = None
    passphrase: str | Callable[[], str] | None = field(default=None, repr=False)


class Tls:
    """What connections are made with. ``ca_file`` as for ``LicenseServers``; ``ours``: what we show, if anything."""

    def __init__(self, *, ca_file: str | None, ours: ClientCertificate | None) -> None:
        self._ca_file = ca_file
        self._certificate = None if ours is None else Path(ours.certificate)
        self._key = self._certificate if ours is None or ours.key is None else Path(ours.key)
        self._passphrase = None if ours is None else ours.passphrase
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._seen: Stamp = ()
        self._ends_at: datetime | None = None
        self._trouble = ""

    @property
    def by_list(self) -> bool:
        """Is the server's key checked by its signed list, and not by certificates of the site."""
        return self._ca_file is None

    def context(self) -> ssl.SSLContext:
        """For the next connection. ``BadSetup`` while there has never been a usable one."""
        with self._lock:
            try:
                # Looked at before they are read: whatever changes meanwhile is another change, and read again.
                stamp = self._stamp()
                if self._context is None or stamp != self._seen:
                    self._context, self._ends_at = self._made()
                    self._seen = stamp
                self._trouble = ""
            except BadSetup as problem:
                if self._context is None:
                    raise
                self._trouble = f" What lies there now is not used: {problem}"
            return self._context

    def advice(self) -> str:
        """What may help when a server hung up before it answered anything; begins with a blank."""
        if self._certificate is None:
            return (
                " A license server that asks for client certificates hangs up on whoever shows none: if it does, pass"
                " `client_certificate`, or set LLS_CLIENT_CERT and LLS_CLIENT_KEY to the files that the site gave you."
            )
        shown = f" The client certificate {self._certificate} was shown"
        if self._ends_at is not None and self._ends_at < datetime.now(UTC):
            return (
                f"{shown}, and it expired on {self._ends_at:%Y-%m-%d}: put a renewed one in its place.{self._trouble}"
            )
        return (
            f"{shown}; a license server hangs up on one that its authority (access.client_ca) did not issue."
            f" Ask the site for one that is meant for this server.{self._trouble}"
        )

    def forget_in_child(self) -> None:
        """After a fork: the lock may be held by a thread that is not here."""
        self._lock = threading.Lock()

    # -- behind them --

    def _made(self) -> tuple[ssl.SSLContext, datetime | None]:
        """Always a new one: another thread may be shaking hands with the former."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _trust(context, self._ca_file)
        return context, self._load(context)

    def _load(self, context: ssl.SSLContext) -> datetime | None:
        """Our certificate into the context; when it ends."""
        certificate, key = self._certificate, self._key
        if certificate is None or key is None:
            return None
        asked: list[str] = []

        def passphrase() -> str:
            # Without this OpenSSL would ask at the terminal, whosever it is.
            asked.append("")
            return self._told_passphrase(key)

        _require_private(key)
        first = _first_of(certificate)
        try:
            context.load_cert_chain(certificate, key, password=passphrase)
        except BadSetup:
            raise
        except ssl.SSLError as error:
            if error.reason in _MISMATCH:
                raise BadSetup(f"The key {key} does not fit the client certificate {certificate}.") from error
            if asked:
                raise BadSetup(f"The passphrase does not open the key {key} of the client certificate.") from error
            raise BadSetup(f"{key} holds no key in PEM form for the client certificate {certificate}.") from error
        except OSError as error:
            raise _unreadable(certificate, error) from error
        except ValueError:
            # Of an encoding it holds the passphrase itself.
            raise BadSetup(
                f"The passphrase of {key} cannot be tried: it is longer than 1024 bytes, or not UTF-8."
            ) from None
        return first.not_valid_after_utc

    def _told_passphrase(self, key: Path) -> str:
        if callable(self._passphrase):
            try:
                told = self._passphrase()
            except Exception as error:  # noqa: BLE001  (its kind is told)
                # Its words may be anything; a passphrase, too.
                raise BadSetup(f"The passphrase of {key} was not told: {type(error).__name__}.") from None
        else:
            told = self._passphrase or ""
        if not told:
            raise BadSetup(
                f"The key {key} of the client certificate is encrypted: pass its `passphrase`,"
                " or set LLS_CLIENT_KEY_PASSPHRASE."
            )
        return told

    def _stamp(self) -> Stamp:
        if self._certificate is None or self._key is None:
            return ()
        found: list[int] = []
        for path in (self._certificate, self._key):
            try:
                about = path.stat()
            except OSError as error:
                raise _unreadable(path, error) from error
            found += (about.st_mtime_ns, about.st_size, about.st_ino, about.st_mode)
        return tuple(found)


def _trust(context: ssl.SSLContext, ca_file: str | None) -> None:
    if ca_file is None:
        # Not “no check”: the handshake still proves possession of the key, and `transport` decides whose it must be.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return
    try:
        if ca_file == "system":
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=ca_file)
    except OSError as error:
        raise BadSetup(f"The certificates in {ca_file} cannot be read: {error}.") from error


def _require_private(key: Path) -> None:
    """``BadSetup`` when everybody may read the key, or others may put another in its place (not on Windows)."""
    try:
        with key.open("rb") as file:
            about = os.fstat(file.fileno())
    except OSError as error:
        raise _unreadable(key, error) from error
    if hasattr(os, "geteuid") and about.st_mode & (_EVERYBODY | _GROUP_WRITE):
        raise BadSetup(f"The key {key} of the client certificate is open to other users; run: chmod g-w,o= {key}")


def _first_of(certificate: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes())
    except OSError as error:
        raise _unreadable(certificate, error) from error
    except ValueError as error:
        raise BadSetup(f"{certificate} holds no certificate in PEM form that can be shown.") from error


def _unreadable(path: Path, error: OSError) -> BadSetup:
    return BadSetup(f"{path} (the client certificate or its key) cannot be read: {error.strerror or error}.")
