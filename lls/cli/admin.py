"""The daemon's admin socket, seen from the command line: HTTP/1.1 over a UNIX socket, one request a connection.

Rules
1. Who may ask is judged by the daemon from the socket's peer credentials; no secret is sent.
2. No connection, or one that breaks before the answer is whole: exit status 3 with the socket's path and what to
   look at. What was asked may have been done by then: the sentence says so.
3. ``application/problem+json`` becomes one sentence: its detail, and the code in brackets for the manual's index.
4. Documents come down in pieces and are counted against ``Content-Length``: a short document is a failure, not a file.

The standard library's client is used: a command makes one call and waits, and loading aiohttp costs more than the call.
"""

from __future__ import annotations

import errno
import http.client
import io
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, BinaryIO, Final, TypeAlias
from urllib.parse import quote, urlencode

import typer

from lls.cli.frame import UNREACHABLE, Failure, settings
from lls.cli.show import progress

Document: TypeAlias = dict[str, Any]

CONNECT_SECONDS: Final = 5.0
# Sealing a report or checking a chain of a hundred million lines is one call; a daemon that is silent longer is stuck.
ANSWER_SECONDS: Final = 900.0
_PIECE: Final = 262_144
_MOST_PROBLEM: Final = 65_536
_OCTETS: Final = "application/octet-stream"


def admin(ctx: typer.Context) -> Admin:
    """The daemon of these settings."""
    return Admin(settings(ctx).server.admin_socket)


class Admin:
    """Calls under ``/v1/admin``. Every method raises :class:`~lls.cli.frame.Failure`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def get(self, where: str, **query: str | int | None) -> Document:
        """Read something."""
        with self._asked("GET", _target(where, query)) as answer:
            return _document(answer)

    def send(self, method: str, where: str, body: Document) -> None:
        """Ask for something whose answer has no body."""
        with self._asked(method, _target(where), json.dumps(body).encode(), kind="application/json") as answer:
            answer.read()

    def tell(self, method: str, where: str, body: Document) -> Document:
        """Ask for something, and hear how things are then."""
        with self._asked(method, _target(where), json.dumps(body).encode(), kind="application/json") as answer:
            return _document(answer)

    def upload(self, where: str, content: bytes, **query: str | int | None) -> Document:
        """Hand a signed document in."""
        with self._asked("POST", _target(where, query), content, kind=_OCTETS) as answer:
            return _document(answer)

    @contextmanager
    def download(
        self, method: str, where: str, *, body: Document | None = None, content: bytes | None = None
    ) -> Iterator[Arriving]:
        """Fetch a document, headers first: a report has its id before its first byte can fail to be written.

        ``content`` is a document that is handed in for it.
        """
        sent, kind = (content, _OCTETS) if body is None else (json.dumps(body).encode(), "application/json")
        with self._asked(method, _target(where), sent, kind=kind) as answer:
            yield Arriving(answer, self._path)

    def lines(self, where: str, **query: str | int | None) -> Iterator[bytes]:
        """The lines of an ``application/x-ndjson`` answer, without their ends."""
        with self._asked("GET", _target(where, query)) as answer:
            for line in answer:
                if line.strip():
                    yield line.rstrip(b"\r\n")

    @contextmanager
    def _asked(
        self, method: str, target: str, content: bytes | None = None, *, kind: str = ""
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self._path)
        try:
            self._connect(connection)
            _send(connection, method, target, content, kind=kind)
            answer = connection.getresponse()
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise _refused(answer)
            yield answer
        except TimeoutError:
            raise Failure(
                f"The license server at {self._path} took the request and gives no answer; see `journalctl -u lls`.",
                status=UNREACHABLE,
            ) from None
        except (http.client.HTTPException, ConnectionError):
            raise _broken(self._path, "before the answer was whole") from None
        finally:
            connection.close()

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except OSError as error:
            raise Failure(_out_of_reach(self._path, error), status=UNREACHABLE) from None


class Arriving:
    """A document under way."""

    def __init__(self, answer: http.client.HTTPResponse, path: str) -> None:
        self._answer = answer
        self._path = path

    @property
    def report_id(self) -> str:
        """What the daemon calls the report; empty when it is none."""
        return self._answer.getheader("X-Report-Id") or ""

    def header(self, name: str) -> str:
        """What else the daemon says of it."""
        return self._answer.getheader(name) or ""

    def save(self, file: BinaryIO) -> int:
        """Write it whole; its length in bytes."""
        told = self._answer.getheader("Content-Length")
        total = int(told) if told is not None and told.isdecimal() else None
        received = 0
        with progress("Receiving", total) as advance:
            while piece := self._answer.read(_PIECE):
                file.write(piece)
                received += len(piece)
                advance(len(piece))
        if total is not None and received != total:
            raise _broken(self._path, f"after {received} of {total} bytes")
        return received


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", blocksize=_PIECE)
        self._socket_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_SECONDS)
        self.sock.connect(self._socket_path)
        self.sock.settimeout(ANSWER_SECONDS)


def _send(
    connection: http.client.HTTPConnection, method: str, target: str, content: bytes | None, *, kind: str
) -> None:
    # A daemon that refuses by the first bytes answers and closes: its answer is worth more than our error.
    with suppress(BrokenPipeError, ConnectionResetError):
        if content is None:
            connection.request(method, target)
            return
        with progress("Sending", len(content)) as advance:
            # Without the length http.client would send a stream in chunks.
            headers = {"Content-Type": kind, "Content-Length": str(len(content))}
            connection.request(method, target, body=_Counted(content, advance), headers=headers)


class _Counted(io.BytesIO):
    """A body that tells how much of it has gone; ``http.client`` reads it in blocks."""

    def __init__(self, content: bytes, advance: Callable[[int], None]) -> None:
        super().__init__(content)
        self._advance = advance

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self._advance(len(piece))
        return piece


def _target(where: str, query: dict[str, str | int | None] | None = None) -> str:
    asked = urlencode({name: value for name, value in (query or {}).items() if value is not None})
    return f"/v1/admin/{quote(where, safe='/%')}{f'?{asked}' if asked else ''}"


def _document(answer: http.client.HTTPResponse) -> Document:
    try:
        read = json.loads(answer.read())
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise Failure(
            "The license server answered in a form that this lls does not know; "
            "if it was upgraded, restart it: systemctl restart lls."
        )
    return read


def _refused(answer: http.client.HTTPResponse) -> Failure:
    try:
        problem = json.loads(answer.read(_MOST_PROBLEM))
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not problem.get("detail", problem.get("title")):
        return Failure(f"The license server failed with HTTP {answer.status} and no reason; see `journalctl -u lls`.")
    detail = str(problem.get("detail") or problem["title"]).rstrip()
    code = ": ".join(str(problem[name]) for name in ("code", "reason") if problem.get(name))
    problems = problem.get("problems")
    if isinstance(problems, list) and len(problems) > 1:
        return Failure(f"Refused, nothing was changed: there are {len(problems)} problems. [{code}]", problems=problems)
    hint = problem.get("remedy") or _hint(problem)
    return Failure(f"{detail}{f' {hint}' if hint else ''}{f' [{code}]' if code else ''}")


def _hint(problem: Document) -> str:
    match problem.get("code"):
        case "not_primary" if problem.get("primary"):
            return f"The primary is {problem['primary']}."
        case "unauthenticated":
            return "Run this as root or as a member of the group lls-admin."
        case _:
            return ""


def _out_of_reach(path: str, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return (
            f"You may not use the admin socket {path}: run this as root or join the group lls-admin "
            "(usermod -aG lls-admin USER, then log in again)."
        )
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return f"The license server at {path} takes no more calls; look at `systemctl status lls` and try again."
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return (
            f"No license server answers at {path}: is it running? See `systemctl status lls`; "
            "if its admin_socket is another one, name its settings with --config."
        )
    return f"The admin socket {path} cannot be used: {error.strerror or error}; check admin_socket in the settings."


def _broken(path: str, when: str) -> Failure:
    return Failure(
        f"The connection to the license server at {path} broke {when}; "
        "see `systemctl status lls`, then look what was done before trying again.",
        status=UNREACHABLE,
    )
