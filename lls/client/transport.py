"""Carrying questions to a list of servers over channels that proved whose they are.

Rules
1. Nothing secret leaves before the channel is known: with TLS, the key of *that* connection stands in the list of a
   statement that the certified server signed over our nonce; the list is then pinned for later connections, and a
   key that is not in it leads to a new statement, never to a question first. No PKI at the site is needed, and none
   is asked.
2. ``ca_file`` is the other way: ordinary certificate checks (host name included) instead of the list. The statement
   is read all the same, because it carries the server's certificate. Where a site asks for a certificate of ours, it is
   shown in the handshake, and changes neither way (``tls``).
3. Plain ``http`` only to this machine, unless the caller says otherwise in so many words.
4. A kept connection that died meanwhile is replaced once without telling: every question of this protocol may be
   repeated.
5. Fail-over: the server that answered last is asked first; a lease's own questions go only to addresses of *its*
   server id, because another server would answer ``unknown_lease`` and mean it. Every *connection* knows whom it leads
   to, and one that leads elsewhere carries nothing: an address may change hands between two questions.
6. Whatever a stranger answers becomes ``Untrusted`` or ``Unreachable``, so that the next address is asked.
7. The time for a question is one time: for connecting, proving, asking and the last byte of the answer together, so
   that a server that drips cannot hold a thread.

Limits: answers up to 1 MiB; redirects are not followed; proxies of the environment are not used.
Not ours: what an answer means (``session``), who may sign what (``trust``), what we show of ourselves (``tls``).
"""

from __future__ import annotations

import hashlib
import http.client
import io
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .errors import BadSetup, Busy, NoAnswer, OtherKey, Refused, Unreachable, Untrusted
from .tls import Tls
from .trust import KeySet, ServerCertificate, key_set_version, nonce_text, strict_json

_MAX_ANSWER = 1024 * 1024
_MAX_IDLE = 4
_MAX_ADDRESSES = 16
_MAX_KEY_SETS = 100
_CONNECT_SECONDS = 5.0
_MAX_RETRY_AFTER_DIGITS = 6
_ATTEMPTS = 3
_LONGEST_PAUSE_SECONDS = 10.0
# What OpenSSL calls the alerts of RFC 8446 §6.2 that may speak of it; those of another version or cipher do not.
_OF_OUR_CERTIFICATE = re.compile("ALERT_.*(CERTIFICATE|HANDSHAKE_FAILURE|UNKNOWN_CA|ACCESS_DENIED)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call. ``secret`` becomes the bearer token; ``wait_seconds`` becomes ``Prefer: wait=``."""

    method: str
    path: str
    body: Mapping[str, object] | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    wait_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, object] = field(repr=False)


class VendorKeys:
    """The newest key set that was proved so far, shared by all channels."""

    def __init__(self, key_set: KeySet) -> None:
        self._lock = threading.Lock()
        self.anchor = key_set
        self._newest = key_set
        self._later: list[str] = []

    @property
    def newest(self) -> KeySet:
        """The newest version proved so far."""
        return self._newest

    @property
    def later(self) -> tuple[str, ...]:
        """Every version after the application's own, in order: they prove the chain again without a network."""
        with self._lock:
            return tuple(self._later)

    def advance(self, documents: Sequence[object]) -> KeySet:
        """Takes the later versions in order; those already known are skipped."""
        with self._lock:
            for document in documents[:_MAX_KEY_SETS]:
                if key_set_version(document) > self._newest.version:
                    self._newest = self._newest.successor(document)
                    self._later.append(self._newest.token)
            return self._newest


@dataclass(slots=True, eq=False)
class _Line:
    """A connection, and whom it proved to lead to; nothing secret goes out on one that proved nothing.

    ``heard``: something was answered on it. In TLS 1.3 our side of the handshake is done before the server has judged
    our certificate, so that a refusal looks like a connection that ends at the first question.
    """

    connection: http.client.HTTPConnection
    server_id: str = ""
    heard: bool = False

    def close(self) -> None:
        self.connection.close()


class Channel:
    """One address: its kept connections and what it proved about itself."""

    def __init__(self, url: str, *, keys: VendorKeys, timeout: float, tls: Tls, allow_http: bool) -> None:
        self._idle: list[_Line] = []  # first: `__del__` reads it also when the address is refused
        self.url, self._scheme, self._host, self._port, self._base = _read_url(url, allow_http=allow_http)
        self._keys = keys
        self._timeout = timeout
        self._tls = tls if self._scheme == "https" else None
        self._listed_only = self._tls is not None and self._tls.by_list
        if self._tls is not None:
            self._tls.context()  # what cannot work is told now
        self._lock = threading.Lock()
        self._identifying = threading.RLock()
        self._pins: frozenset[str] = frozenset()
        self._certificate: ServerCertificate | None = None
        _channels.add(self)

    @property
    def known_server_id(self) -> str | None:
        """Who answered at this address last; ``None`` before anybody did. Asks nobody, so it may be out of date."""
        certificate = self._certificate
        return None if certificate is None else certificate.server_id

    def certificate(self, *, timeout: float | None = None, renew: bool = False) -> ServerCertificate:
        """The proved certificate of the server at this address; asks for it where it is not known."""
        deadline = time.monotonic() + (timeout or self._timeout)
        with self._identifying:
            if self._certificate is None or renew:
                line, fresh = self._take(deadline)
                try:
                    # A fresh connection has just proved itself.
                    if not fresh:
                        self._identify(line, deadline)
                except (OSError, http.client.HTTPException, NoAnswer, ValueError):
                    line.close()
                    line = self._open(deadline, identify=True)
                self._keep(line)
            if self._certificate is None:
                raise Untrusted(f"{self.url} did not prove which server it is.")
            return self._certificate

    def exchange(self, request: Request, *, server_id: str | None = None, timeout: float | None = None) -> Answer:
        """Any HTTP answer, whatever its status. ``Unreachable`` or ``Untrusted`` otherwise.

        ``server_id``: nothing of ``request`` is sent unless the very connection that carries it leads to that server.
        """
        deadline = time.monotonic() + (timeout or self._timeout)
        line, fresh = self._take(deadline)
        if not fresh and server_id in (None, line.server_id):
            try:
                return self._converse(line, request, deadline)
            except (OSError, http.client.HTTPException):
                line.close()
        # What is kept leads to somebody else, or died: who answers at this address *now*?
        if not fresh:
            line.close()
            line = self._open(deadline)
        if server_id not in (None, line.server_id):
            self._keep(line)
            raise Unreachable(f"Another server answers at {self.url} now.")
        try:
            return self._converse(line, request, deadline)
        except (OSError, http.client.HTTPException) as error:
            line.close()
            raise self._unreachable(error, line) from error

    def forget_in_child(self) -> None:
        """After a fork: these connections are the parent's, and the locks may be held by threads that are not here."""
        self._lock, self._identifying = threading.Lock(), threading.RLock()
        self._idle = []
        if self._tls is not None:
            self._tls.forget_in_child()

    def __del__(self) -> None:
        for line in self._idle:
            line.close()

    def close(self) -> None:
        """Closes what is kept open; the next question opens anew."""
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    # -- connections --

    def _take(self, deadline: float) -> tuple[_Line, bool]:
        with self._lock:
            if self._idle:
                return self._idle.pop(), False
        return self._open(deadline), True

    def _keep(self, line: _Line) -> None:
        with self._lock:
            if line.connection.sock is not None and len(self._idle) < _MAX_IDLE:
                self._idle.append(line)
                return
        line.close()

    def _open(self, deadline: float, *, identify: bool = False) -> _Line:
        line = _Line(self._connected(deadline))
        try:
            with self._identifying:
                # Under the statement's list the key says whose connection it is. Elsewhere nothing does but to ask.
                pinned = self._listed_only and _spki_sha256(line.connection) in self._pins
                if identify or not pinned or self._certificate is None:
                    self._identify(line, deadline)
                else:
                    line.server_id = self._certificate.server_id
        except (OSError, http.client.HTTPException) as error:
            line.close()
            raise self._unreachable(error, line) from error
        except ValueError as error:
            # Rule 6: whatever a stranger's document makes a reader stumble over is a stranger's document.
            line.close()
            raise Untrusted(f"{self.url} answered with documents that no license server makes.") from error
        except BaseException:
            line.close()
            raise
        return line

    def _connected(self, deadline: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = None
        try:
            connect = min(_left(deadline), _CONNECT_SECONDS)
            connection = (
                http.client.HTTPSConnection(self._host, self._port, timeout=connect, context=self._tls.context())
                if self._tls
                else http.client.HTTPConnection(self._host, self._port, timeout=connect)
            )
            # http.client would reconnect behind our back, and the new connection would not have proved anything.
            connection.auto_open = 0
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a name that DNS cannot spell
            if connection is not None:
                connection.close()
            raise self._unreachable(error) from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        return connection

    def _identify(self, line: _Line, deadline: float) -> None:
        """Who is at the other end of this very connection? Sends nothing but a nonce."""
        nonce = nonce_text(os.urandom(32))
        told = self._public(line, f"/v1/server?nonce={nonce}", deadline)
        if not told.get("certificate"):
            raise Untrusted(f"{self.url} has no certificate of the vendor yet: a bundle must be imported there first.")
        certificate = self._certified(line, told["certificate"], deadline)
        pins = frozenset(certificate.statement(told.get("statement"), nonce=nonce))
        if self._listed_only and _spki_sha256(line.connection) not in pins:
            raise Untrusted(
                f"The TLS key of {self.url} is not one of the license server's own: "
                "something on the way reads along, or a proxy's key is not in the server's list."
            )
        if self.known_server_id not in (None, certificate.server_id):
            # They lead to whom this address belonged before.
            self.close()
        line.server_id = certificate.server_id
        self._certificate, self._pins = certificate, pins

    def _certified(self, line: _Line, document: object, deadline: float) -> ServerCertificate:
        known = self._keys.newest
        try:
            return known.certificate(document)
        except OtherKey:
            # The vendor may have rotated its keys since the application was built.
            told = self._public(line, f"/v1/keys?since={known.version}", deadline)
            listed = told.get("keys")
            newest = self._keys.advance(listed if isinstance(listed, list) else [])
            if newest.version == known.version:
                raise
            return newest.certificate(document)

    def _public(self, line: _Line, path: str, deadline: float) -> Mapping[str, object]:
        answer = self._roundtrip(line, Request(method="GET", path=path), deadline)
        if answer.status != HTTPStatus.OK:
            raise _failure(answer, self.url) or Unreachable(f"{self.url} answered {answer.status}.")
        return answer.body

    def _converse(self, line: _Line, request: Request, deadline: float) -> Answer:
        try:
            answer = self._roundtrip(line, request, deadline + request.wait_seconds)
        except BaseException:
            line.close()
            raise
        self._keep(line)
        return answer

    def _roundtrip(self, line: _Line, request: Request, deadline: float) -> Answer:
        connection = line.connection
        headers = {"Accept": "application/json", "User-Agent": "lls-client/1"}
        body = None
        if request.body is not None:
            body = json.dumps(request.body, separators=(",", ":")).encode("utf-8")
            headers["Content-Type"] = "application/json"
        if request.secret is not None:
            headers["Authorization"] = f"Bearer {request.secret}"
        if request.wait_seconds:
            headers["Prefer"] = f"wait={request.wait_seconds}"
        if connection.sock is None:
            raise http.client.NotConnected
        connection.sock.settimeout(_left(deadline))
        # http.client calls this with the socket, where it expects the class.
        connection.response_class = partial(_Response, deadline)  # type: ignore[assignment]
        connection.request(request.method, self._base + request.path, body=body, headers=headers)
        response = connection.getresponse()
        line.heard = True
        content = _read(response)
        return Answer(
            status=response.status,
            headers={name.lower(): value for name, value in response.getheaders()},
            body=_json_object(content, self.url, needed=response.status < HTTPStatus.MULTIPLE_CHOICES)
            if content
            else {},
        )

    def _unreachable(self, error: Exception, line: _Line | None = None) -> Unreachable:
        reason = str(error) or type(error).__name__
        asks_who_we_are = self._tls is not None and _hung_up(error) and not (line and line.heard)
        advice = self._tls.advice() if self._tls and asks_who_we_are else ""
        return Unreachable(f"{self.url} cannot be reached: {reason}.{advice}")


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _forget_all_in_child() -> None:
    for channel in list(_channels):
        channel.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all_in_child)


def _nap(seconds: float) -> bool:
    time.sleep(seconds)
    return False


class Route:
    """The list of addresses, best first."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        keys: VendorKeys,
        timeout: float,
        tls: Tls,
        allow_http: bool,
        server_id: str | None = None,
    ) -> None:
        if not urls:
            raise BadSetup("No license server is named: pass `servers`, or set LLS_SERVER.")
        self._settings = {"keys": keys, "timeout": timeout, "tls": tls, "allow_http": allow_http}
        self.keys = keys
        self._server_id = server_id
        self._lock = threading.Lock()
        self._channels = [self._channel(url) for url in dict.fromkeys(urls)]

    def ask(
        self, request: Request, *, server_id: str | None = None, timeout: float | None = None
    ) -> tuple[Answer, Channel]:
        """The first answer that decides something, and who gave it. ``server_id``: by that server alone.

        ``Refused`` for a denial by a genuine server; the most telling ``NoAnswer`` when nobody decided.
        """
        only = server_id or self._server_id
        failures: list[NoAnswer] = []
        # Where another server answered last it is asked last: it takes a new connection to find out who is there now.
        queue = sorted(self._in_order(), key=lambda channel: bool(only) and channel.known_server_id not in (None, only))
        asked = 0
        while queue and asked < _MAX_ADDRESSES:
            channel = queue.pop(0)
            asked += 1
            try:
                answer = channel.exchange(request, server_id=only, timeout=timeout)
            except NoAnswer as failure:
                failures.append(failure)
                continue
            failure_told = _failure(answer, channel.url)
            if failure_told is None:
                self.prefer(channel)
                return answer, channel
            if isinstance(failure_told, Refused):
                self.prefer(channel)
                raise failure_told
            failures.append(failure_told)
            queue.extend(self._named_primary(failure_told))
        raise _most_telling(failures)

    def insist(
        self, request: Request, *, server_id: str | None, stopped: Callable[[float], bool] = _nap
    ) -> tuple[Answer, Channel]:
        """``ask``, repeated unchanged a few times while nobody answers: for questions that are safe to repeat.

        ``stopped`` waits for some seconds and says whether the caller has given up meanwhile.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self.ask(request, server_id=server_id)
            except NoAnswer as failure:
                pause = failure.retry_after_seconds or 0.5 * attempt
                if attempt == _ATTEMPTS or pause > _LONGEST_PAUSE_SECONDS or stopped(pause):
                    raise
        raise Unreachable("No server answered.")

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, the one that answered last first."""
        return tuple(channel.url for channel in self._in_order())

    def prefer(self, channel: Channel) -> None:
        """Asked first from now on: it answered."""
        with self._lock:
            self._channels.sort(key=lambda known: known is not channel)

    def avoid(self, channel: Channel) -> None:
        """Asked last from now on: it answered, and the answer proved nothing."""
        with self._lock:
            self._channels.sort(key=lambda known: known is channel)

    def anew(self) -> Route:
        """The same way to the same servers, with connections of its own."""
        return Route(self.urls, server_id=self._server_id, **self._settings)  # type: ignore[arg-type]

    def close(self) -> None:
        """Closes what is kept open."""
        for channel in self._in_order():
            channel.close()

    def _in_order(self) -> list[Channel]:
        with self._lock:
            return list(self._channels)

    def _named_primary(self, failure: Busy) -> list[Channel]:
        """A stand-by names the primary. It proves itself like every other address before it hears a secret."""
        with self._lock:
            known = {channel.url for channel in self._channels}
            if failure.primary is None or len(known) >= _MAX_ADDRESSES:
                return []
            try:
                named = self._channel(failure.primary)
            except BadSetup:
                # Not an address that we may use; the stand-by's own answer is told instead.
                return []
            if named.url in known:
                return []
            self._channels.append(named)
            return [named]

    def _channel(self, url: str) -> Channel:
        return Channel(url, **self._settings)  # type: ignore[arg-type]


def _failure(answer: Answer, url: str) -> Refused | Busy | None:
    """``None`` for success; the one place that tells a denial from a server in trouble."""
    if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    body = dict(answer.body)
    code, detail = body.pop("code", None), body.pop("detail", None) or body.get("title")
    words = detail if isinstance(detail, str) else f"{url} answered {answer.status}."
    # 408 and 425 say of themselves that the same request may come again.
    if (
        answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        or answer.status in (408, 425, 429)
        or not isinstance(code, str)
    ):
        primary = body.get("primary")
        return Busy(
            words,
            code=code if isinstance(code, str) else "network",
            retry_after_seconds=_retry_after(answer),
            primary=primary if isinstance(primary, str) else None,
        )
    for name in ("type", "title", "status", "instance"):
        body.pop(name, None)
    return Refused(code=code, status=answer.status, detail=words, fields=body)


def _retry_after(answer: Answer) -> float | None:
    """The header in seconds (its date form would need a right clock), else the field of the problem."""
    header = answer.headers.get("retry-after", "").strip()
    if header.isascii() and header.isdigit() and len(header) <= _MAX_RETRY_AFTER_DIGITS:
        return float(header)
    value = answer.body.get("retry_after_seconds")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def _most_telling(failures: Sequence[NoAnswer]) -> NoAnswer:
    """A liar is worth more attention than a full server, and that more than a dead line; the shortest wait wins."""
    for kind in (Untrusted, Busy):
        found = [failure for failure in failures if isinstance(failure, kind)]
        if found:
            return min(found, key=lambda failure: failure.retry_after_seconds or 0.0)
    return failures[0] if len(failures) == 1 else Unreachable(" ".join(str(failure) for failure in failures))


class _Response(http.client.HTTPResponse):
    """An answer whose every byte, status line and headers included, has to come before the deadline."""

    def __init__(self, deadline: float, sock: socket.socket, *rest: Any, **named: Any) -> None:
        super().__init__(sock, *rest, **named)
        self.fp = io.BufferedReader(_Punctual(self.fp, sock, deadline))


class _Punctual(io.RawIOBase):
    # A socket's own timeout starts anew with each byte: a server that drips would hold a thread for hours.

    def __init__(self, stream: io.BufferedReader, sock: socket.socket, deadline: float) -> None:
        self._stream, self._sock, self._deadline = stream, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_left(self._deadline))
        chunk = self._stream.read1(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _left(deadline: float) -> float:
    """Seconds, more than 0: a socket would take 0 for “do not wait at all”, and then say something else."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the answer took too long")
    return left


def _read(response: http.client.HTTPResponse) -> bytes:
    """All of the answer, within its size."""
    content = bytearray()
    while chunk := response.read1(65536):
        content += chunk
        if len(content) > _MAX_ANSWER:
            raise http.client.HTTPException("the answer is too large")
    # read1() ends quietly when the peer hangs up in the middle; `length` is what is still owed.
    if response.length:
        raise http.client.IncompleteRead(bytes(content), response.length)
    # Without it http.client takes the answer for unread and refuses the next question on this connection.
    response.close()
    return bytes(content)


def _json_object(content: bytes, url: str, *, needed: bool) -> Mapping[str, object]:
    try:
        value = strict_json(content)
    except ValueError as error:
        if needed:
            raise Unreachable(f"{url} answered something that is not JSON.") from error
        # A proxy's page about a dead server: its status and its Retry-After still count.
        return {}
    if not isinstance(value, dict):
        raise Unreachable(f"{url} answered something that is not a JSON object.")
    return value


def _read_url(url: str, *, allow_http: bool) -> tuple[str, str, str, int, str]:
    parts = urlsplit(url if "://" in url else f"https://{url}")
    try:
        port = parts.port
    except ValueError as error:
        raise BadSetup(f"{url} is not an address of a license server.") from error
    host, base = parts.hostname or "", quote(parts.path.rstrip("/"), safe="/%")
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise BadSetup(f"{parts.scheme}://{host} is not an address of a license server: https://host:port is expected.")
    if parts.scheme == "http" and not (allow_http or _is_this_machine(host)):
        raise BadSetup(
            f"{url}: plain http reaches this machine only; use https, or allow_http=True where that is safe."
        )
    port = port or (443 if parts.scheme == "https" else 80)
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port}{base}", parts.scheme, host, port, base


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hung_up(error: Exception) -> bool:
    """Did the other side end the conversation, perhaps over our certificate? One that *we* refuse is no such end."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _OF_OUR_CERTIFICATE.search(error.reason or "") is not None
    return isinstance(error, ssl.SSLError | ConnectionError) and not isinstance(error, ConnectionRefusedError)


def _spki_sha256(connection: http.client.HTTPConnection) -> str:
    sock = connection.sock
    der = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    if der is None:
        raise Untrusted("The TLS connection shows no key.")
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except ValueError as error:
        raise Untrusted("The TLS certificate is malformed.") from error
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
