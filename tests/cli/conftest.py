"""A daemon that says what a test put into its mouth, on a real UNIX socket; and ``lls`` called as a user calls it."""

from __future__ import annotations

import json
import shutil
import socketserver
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from lls.cli import main


@dataclass(kw_only=True)
class Said:
    """One answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    deaf: bool = False


@dataclass(kw_only=True)
class Heard:
    """One request."""

    method: str
    target: str
    kind: str | None
    body: bytes


class Daemon:
    """The other side: ``/v1/admin`` as the admin specification has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[Heard] = []
        self._answers: dict[str, list[Said]] = {}

    def says(self, request: str, document: object = None, **more: Any) -> None:
        """Answer ``GET server`` and its like; the last answer to a request is repeated."""
        body = more.pop("body", b"" if document is None else json.dumps(document).encode())
        self._answers.setdefault(request, []).append(Said(body=body, **more))

    def refuses(self, request: str, status: int, code: str, detail: str, **fields: object) -> None:
        """Answer with a problem."""
        problem = {"type": "about:blank", "title": "No", "status": status, "code": code, "detail": detail, **fields}
        self.says(request, problem, status=status, headers={"Content-Type": "application/problem+json"})

    def answer(self, heard: Heard) -> Said:
        self.heard.append(heard)
        request = f"{heard.method} {heard.target.removeprefix('/v1/admin/').partition('?')[0]}"
        known = self._answers.get(request, [Said(status=404, body=b"no such answer in this test")])
        return known.pop(0) if len(known) > 1 else known[0]


class _Speaking(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer leaves in one piece: whoever has read its head may hang up, and a second write would find nobody.
    wbufsize = -1
    daemon: Daemon

    def _serve(self) -> None:
        said = self.daemon.answer(
            Heard(
                method=self.command,
                target=self.path,
                kind=self.headers.get("Content-Type"),
                body=self.rfile.read(int(self.headers.get("Content-Length", 0))),
            )
        )
        self.close_connection = True
        if said.deaf:
            return
        self.send_response(said.status)
        for name, value in said.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(said.body)))
        self.end_headers()
        self.wfile.write(said.body[: said.cut_at])

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  (http.server asks for these names)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name of the standard library)
        """Nothing: a test's output is its own."""


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = False

    def __init__(self, path: Path, speaking: type[_Speaking]) -> None:
        super().__init__(str(path), speaking)
        self.faults: list[BaseException] = []

    def handle_error(self, *_: object) -> None:
        """Keep the fault for the test's end: printed, it would stand in what the command is said to have written."""
        fault = sys.exception()
        if fault is not None and not isinstance(fault, ConnectionError):
            self.faults.append(fault)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a UNIX socket's may have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="lls"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def daemon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    daemon = Daemon(folder / "admin.sock")
    monkeypatch.setenv("LLS__SERVER__ADMIN_SOCKET", str(daemon.path))
    speaking = type("Speaking", (_Speaking,), {"daemon": daemon})
    with _Server(daemon.path, speaking) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield daemon
        server.shutdown()
        thread.join(10)
    assert server.faults == []


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


class Lls:
    """``lls`` with these arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["lls", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        out, err = self._capsys.readouterr()
        return Ended(status=code if isinstance(code, int) else 0 if code is None else 1, out=out, err=err)


@pytest.fixture
def lls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lls:
    return Lls(monkeypatch, capsys)
