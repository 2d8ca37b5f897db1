"""How an event reaches somebody: a signed webhook, a mail through the site's relay, a line to a syslog server.

Rules
1. A webhook is one POST of JSON, signed as *Standard Webhooks* describes: ``webhook-id``, ``webhook-timestamp`` and
   ``webhook-signature: v1,`` with the HMAC-SHA256 of ``id.timestamp.body`` under the shared secret. The id stays the
   same when it is sent again, so that a receiver can count it once. 2xx is an answer; everything else is tried again.
   Redirects are not followed: the body is for this receiver.
2. A mail says who speaks in its subject and what to do in its body. A syslog line is RFC 5424.
3. Why an attempt failed is one short sentence for the administrator. What the other side said is not in it: it may hold
   anything.
4. A destination's name is shown in lists and logs, so it never holds a password, a path or a query: who knows a
   webhook's whole address may often write to it. Eight digits of its hash tell two of one host apart.
5. What blocks runs in a thread that nobody waits for: a relay or a name server that takes its time must not hold up the
   server's stop. Such a stop ends the attempt without an outcome, so the delivery still waits and is made by the next
   start; a mail that was taken in that moment comes twice, under one Message-ID.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import smtplib
import socket
import ssl
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from threading import Thread
from typing import Final, Protocol, TypeVar, cast
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from lls.config import Events, SmtpSecurity
from lls.events.condition import CLEARED, Event, Severity
from lls.faults import SetupFault

SECONDS: Final = 15.0
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what stands before a secret
_LEAST_SECRET: Final = 24
_FACILITY_DAEMON: Final = 3
_SEVERITIES: Final = {Severity.CRITICAL: 2, Severity.WARNING: 4, Severity.INFO: 6}
_SYSLOG_PORT: Final = 514
_MOST_SECRET_FILE: Final = 4_096

T = TypeVar("T")


class NotDelivered(Exception):
    """An attempt failed; the sentence says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who speaks: this server, in every message."""

    server_id: str
    name: str


class Destination(Protocol):
    """Where events go. ``name`` is stable across restarts: deliveries wait under it."""

    @property
    def name(self) -> str:
        """Unique among the destinations."""

    async def send(self, event: Event) -> None:
        """One attempt. Raises NotDelivered."""


def destinations(settings: Events, sender: Sender, *, now: Callable[[], datetime]) -> list[Destination]:
    """Everything that is configured. Raises SetupFault for a secret or a certificate that cannot be used."""
    found: list[Destination] = []
    context = _context(settings)
    if settings.webhook_urls:
        secret = _secret(settings.webhook_secret_file)
        for url in settings.webhook_urls:
            name = _unique(_shown(url), found)
            found.append(Webhook(name=name, url=url, secret=secret, tls=context, sender=sender, now=now))
    if settings.smtp_server:
        password = _first_line(settings.smtp_password_file) if settings.smtp_password_file else ""
        found.append(Mail(settings=settings, password=password, tls=context, sender=sender))
    if settings.syslog:
        found.append(Syslog(url=settings.syslog, sender=sender))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Rule 1."""

    name: str
    url: str
    secret: bytes = field(repr=False)
    tls: ssl.SSLContext
    sender: Sender
    now: Callable[[], datetime]

    async def send(self, event: Event) -> None:
        """One attempt. Raises NotDelivered."""
        body = json.dumps(self._document(event), separators=(",", ":")).encode()
        stamp = str(int(self.now().timestamp()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": event.event_id,
            "webhook-timestamp": stamp,
            "webhook-signature": signature(self.secret, event.event_id, stamp, body),
        }
        patience = aiohttp.ClientTimeout(total=SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=patience, connector=aiohttp.TCPConnector(resolver=_Names())) as session,
                session.post(self.url, data=body, headers=headers, ssl=self.tls, allow_redirects=False) as answer,
            ):
                if not 200 <= answer.status < 300:  # noqa: PLR2004 - RFC 9110: the successful ones
                    raise NotDelivered(f"It answered {answer.status}.")
        except TimeoutError:
            raise NotDelivered(f"It did not answer within {SECONDS:g} seconds.") from None
        except aiohttp.ClientConnectorCertificateError:
            raise NotDelivered("Its TLS certificate is not one that events.ca_file vouches for.") from None
        except aiohttp.ClientError as error:
            raise NotDelivered(f"It cannot be reached ({_reason(error)}).") from None

    def _document(self, event: Event) -> dict[str, object]:
        return {
            "type": event.type,
            "state": event.state,
            "severity": event.severity.value,
            "timestamp": _stamp(event.at),
            "server_id": self.sender.server_id,
            "server_name": self.sender.name,
            "text": event.text,
            "data": dict(event.data),
        }


def signature(secret: bytes, event_id: str, stamp: str, body: bytes) -> str:
    """The value of ``webhook-signature``."""
    signed = f"{event_id}.{stamp}.".encode() + body
    return "v1," + b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """Rule 2. One connection for each mail: there are few."""

    settings: Events
    password: str = field(repr=False)
    tls: ssl.SSLContext
    sender: Sender

    @property
    def name(self) -> str:
        """Its receivers, or its address."""
        return f"mail {', '.join(self.settings.smtp_to)}"

    async def send(self, event: Event) -> None:
        """One attempt. Raises NotDelivered."""
        try:
            await _aside(lambda: self._send(event))
        except smtplib.SMTPAuthenticationError:
            raise NotDelivered("The relay does not accept events.smtp_user and its password.") from None
        except smtplib.SMTPResponseException as error:
            raise NotDelivered(f"The relay answered {error.smtp_code}.") from None
        except smtplib.SMTPRecipientsRefused:
            raise NotDelivered("The relay refuses every one of events.smtp_to.") from None
        except smtplib.SMTPNotSupportedError:
            raise NotDelivered("The relay does not offer what events.smtp_security or smtp_user asks for.") from None
        except (smtplib.SMTPException, OSError) as error:
            raise NotDelivered(f"The relay cannot be reached ({_reason(error)}).") from None

    def _send(self, event: Event) -> None:
        settings, security = self.settings, self.settings.smtp_security
        host, _, port = settings.smtp_server.rpartition(":")
        if security is SmtpSecurity.TLS:
            opened: smtplib.SMTP = smtplib.SMTP_SSL(host, int(port), timeout=SECONDS, context=self.tls)
        else:
            opened = smtplib.SMTP(host, int(port), timeout=SECONDS)
        with opened as relay:
            if security is SmtpSecurity.STARTTLS:
                relay.starttls(context=self.tls)
            if settings.smtp_user:
                relay.login(settings.smtp_user, self.password)
            relay.send_message(self._message(event))

    def _message(self, event: Event) -> EmailMessage:
        message = EmailMessage()
        over = " (over)" if event.state == CLEARED else ""
        name = self.sender.name.replace("=?", "= ?")  # an encoded word (RFC 2047) would be decoded into headers
        message["Subject"] = f"[{name}] {event.severity.value}: {event.type.replace('_', ' ')}{over}"
        message["From"], message["To"] = self.settings.smtp_from, ", ".join(self.settings.smtp_to)
        message["Date"] = format_datetime(event.at)
        message["Message-ID"] = f"<{event.event_id}@{self.sender.server_id}>"
        message["Auto-Submitted"] = "auto-generated"
        facts = "".join(f"{name}: {value}\n" for name, value in event.data.items())
        message.set_content(
            f"{event.text}\n\n{facts}at: {_stamp(event.at)}\nserver: {self.sender.name} ({self.sender.server_id})\n"
        )
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Syslog:
    """Rule 2; ``udp://host:514``, ``tcp://host:601`` (a line each) or ``unix:///dev/log``."""

    url: str
    sender: Sender

    @property
    def name(self) -> str:
        """Its receivers, or its address."""
        return self.url

    async def send(self, event: Event) -> None:
        """One attempt. Raises NotDelivered."""
        try:
            await _aside(lambda: self._send(self._line(event)))
        except OSError as error:
            raise NotDelivered(f"It cannot be reached ({_reason(error)}).") from None

    def _line(self, event: Event) -> bytes:
        priority = _FACILITY_DAEMON * 8 + _SEVERITIES[event.severity]
        facts = " ".join(f"{name}={value}" for name, value in event.data.items())
        words = f"{event.state} {event.type} server={self.sender.server_id} {facts} {event.text}"
        words = "".join(letter if letter.isprintable() else " " for letter in words)  # a line is one event
        host = socket.gethostname() or "-"
        return f"<{priority}>1 {_stamp(event.at)} {host} lls {os.getpid()} {event.type} - {words}".encode()

    def _send(self, line: bytes) -> None:
        place = urlsplit(self.url)
        if place.scheme == "unix":
            with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as opened:
                opened.settimeout(SECONDS)
                opened.connect(place.path)
                opened.sendall(line)
            return
        host, port = place.hostname or "", place.port or _SYSLOG_PORT
        if place.scheme == "tcp":
            with socket.create_connection((host, port), timeout=SECONDS) as opened:
                opened.sendall(line + b"\n")
            return
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with closing(socket.socket(family, kind, number)) as opened:
            opened.sendto(line, address)


async def _aside(work: Callable[[], T]) -> T:
    """Rule 5. Not the loop's own threads: those are waited for at its end, and at the interpreter's."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if outcome.done():  # the stop was quicker
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(cast("T", result))

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - whoever awaits the outcome gets it
            failed = error
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            loop.call_soon_threadsafe(settle, result, failed)

    Thread(target=run, name="event", daemon=True).start()
    return await outcome


class _Names(AbstractResolver):
    """Rule 5, for the name of a webhook's host; addresses are not asked for."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Its addresses. Raises OSError."""
        found = await _aside(
            lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        )
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(
                hostname=host, host=str(place[0]), port=int(place[1]), family=kind, proto=number, flags=numeric
            )
            for kind, _, number, _, place in found
        ]

    async def close(self) -> None:
        """Nothing is kept."""


def _reason(error: Exception) -> str:
    """The system's own words where there are any; an error's text may name addresses and accounts."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else type(error).__name__


def _stamp(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _shown(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    place = f"{parts.scheme}://{host}" if parts.port is None else f"{parts.scheme}://{host}:{parts.port}"
    if parts.path in ("", "/") and not parts.query:
        return place
    return f"{place} #{hashlib.sha256(f'{parts.path}?{parts.query}'.encode()).hexdigest()[:8]}"


def _unique(name: str, others: list[Destination]) -> str:
    taken = {one.name for one in others}
    return next(one for one in _numbered(name) if one not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name} #{number}"
        number += 1


def _context(settings: Events) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca_file or None)
    except (OSError, ssl.SSLError):
        raise SetupFault(f"The certificates in {settings.ca_file} (events.ca_file) cannot be read.") from None


def _secret(file: str) -> bytes:
    text = _first_line(file).removeprefix(_SECRET_PREFIX)
    try:
        secret = b64decode(text, validate=True)
    except (NotBase64, ValueError):
        secret = b""
    if len(secret) < _LEAST_SECRET:
        raise SetupFault(
            f"The secret in {file} (events.webhook_secret_file) must be {_LEAST_SECRET} random bytes or more in base64;"
            f" make one: openssl rand -base64 32 > {file}"
        )
    return secret


def _first_line(file: str) -> str:
    try:
        with Path(file).open(encoding="utf-8") as opened:
            return opened.read(_MOST_SECRET_FILE).partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        raise SetupFault(f"The secret's file {file} ([events]) cannot be read by the server.") from None
