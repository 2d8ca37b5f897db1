"""A site for journeys: a real daemon in a process of its own, a real issuer's home, and both sides' commands.

``Site.licensed`` takes the short way (the issuer's facade, the admin socket); ``lls`` and ``issuer`` type commands as a
person does. Nothing here waits without an end.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from lls.issuer import Issuer

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 20.0
ANSWER_SECONDS = 40.0
COMMAND_SECONDS = 60.0

CATALOG = """
format = 1
[products.cad]
name = "CAD"
[plans.year]
name = "One year"
license_type = "subscription"
term = { unit = "year", count = 1 }
[offerings.CAD-1Y]
name = "CAD, floating seat, one year"
product = "cad"
plan = "year"
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back over HTTP."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        """The problem's code; empty for a success."""
        return str(self.body.get("code", "")) if isinstance(self.body, dict) and self.status >= 400 else ""


@dataclass
class Asked:
    """A lease from its client's side: what it would need to say again."""

    lease_id: str
    secret: str = field(repr=False)
    seat_id: str
    seats: int = 1
    beat: int = 0

    @classmethod
    def new(cls, luck: random.Random, *, seats: int = 1) -> Asked:
        return cls(
            lease_id=str(uuid.UUID(bytes=luck.randbytes(16), version=4)),
            secret=token(luck.randbytes(32)),
            seat_id=f"ws-{luck.randrange(10**9)}",
            seats=seats,
        )


def token(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Https:
    """A client without an SDK: one kept TLS connection, opened again when it is lost."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        self._address, self._context = address, context
        self._connection: http.client.HTTPSConnection | None = None

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, secret: str = "", wait: int = 0
    ) -> Answer:
        """Raises OSError and http.client.HTTPException while nobody answers."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        if wait:
            headers["Prefer"] = f"wait={wait}"
        if self._connection is None:
            host, port = self._address
            self._connection = http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=self._context)
        try:
            self._connection.request(method, path, None if body is None else json.dumps(body), headers)
            return _read(self._connection.getresponse())
        except BaseException:
            self.close()
            raise

    def checkout(self, asked: Asked, *, wait: int = 0) -> Answer:
        body = {
            "lease_id": asked.lease_id,
            "product": "cad",
            "holder": {"seat_id": asked.seat_id, "user": "ada"},
            "seats": asked.seats,
            "nonce": token(os.urandom(16)),
        }
        return self.ask("POST", "/v1/leases", body, secret=asked.secret, wait=wait)

    def heartbeat(self, asked: Asked) -> Answer:
        asked.beat += 1
        body = {"beat": asked.beat, "nonce": token(os.urandom(16))}
        return self.ask("POST", f"/v1/leases/{asked.lease_id}/heartbeat", body, secret=asked.secret)

    def lease(self, asked: Asked) -> Answer:
        return self.ask("GET", f"/v1/leases/{asked.lease_id}", secret=asked.secret)

    def checkin(self, asked: Asked) -> Answer:
        return self.ask("DELETE", f"/v1/leases/{asked.lease_id}", secret=asked.secret)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Site:
    """One customer's site and, beyond the gap, its vendor. Close it: that ends whatever runs."""

    program = "lls"
    """What stands behind ``python -m`` to run the daemon."""

    def __init__(self, root: Path, **settings: int) -> None:
        self.root = root
        self.vendor = root / "vendor"
        self.site = root / "site"
        self.state = self.site / "state"
        self.site.mkdir(parents=True)
        # sockaddr_un holds 108 bytes, and a test's own folder may be deeper.
        self._short = Path(tempfile.mkdtemp(prefix="lls-"))
        self.socket = self._short / "admin.sock"
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.keys = self.site / "vendor.llskeys"
        self.config = self.site / "lls.toml"
        self.write_settings(**settings)
        self.process: subprocess.Popen[str] | None = None
        self.log: list[str] = []
        self._drain: threading.Thread | None = None
        self._clients: list[Https] = []

    # ---------------------------------------------------------------- the two sides' commands

    def lls(self, *words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        """A command of the site's, checked for its exit status."""
        return self._typed("lls", ["--config", str(self.config), *map(str, words)], status)

    def issuer(self, *words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        """A command of the vendor's, checked for its exit status."""
        return self._typed("lls.issuer", ["--home", str(self.vendor), *map(str, words)], status)

    def _typed(self, module: str, words: Sequence[str], status: int) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", module, *words],
            cwd=self.root,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert status == done.returncode, f"{module} {' '.join(words)}: {done.stdout}{done.stderr}"
        return done

    # ---------------------------------------------------------------- the short way to a licence

    def open_vendor(self) -> None:
        """The vendor's keys and catalogue; the key set reaches the site."""
        with Issuer.create(self.vendor, now=datetime.now(UTC), passphrase=None) as issuer:
            issuer.load_catalog(CATALOG, now=datetime.now(UTC))
            self.keys.write_text(issuer.keyring.newest.token, "ascii")

    def licensed(self, **line: Any) -> Site:
        """Start, and import a bundle with one entitlement; ``line`` are members of the order's line."""
        self.open_vendor()
        self.start()
        request = self.admin_bytes("POST", "/v1/admin/server/request")
        now = datetime.now(UTC)
        with Issuer(self.vendor, now=now) as issuer:
            server = issuer.register_server(request, customer=None, binding=None, now=now)
            order = {
                "order_ref": "SO-1",
                "account_ref": "ACME",
                "server_id": server.server_id,
                "customer": {"name": "ACME"},
                "lines": [{"line": 1, "action": "new", "sku": "CAD-1Y", "quantity": 5, **line}],
            }
            issuer.fulfil(json.dumps(order).encode(), now=now)
            bundle = issuer.issue_bundle(server.server_id, now=now).data
        assert self.admin("POST", "/v1/admin/bundles", bundle)["applied"]
        return self

    def reported(self) -> int:
        """Report, ingest, receipt: the vendor verifies every line; the number of the last one."""
        report = self.root / "usage.llsreport"
        report.write_bytes(self.admin_bytes("POST", "/v1/admin/reports", b'{"pseudonymise": false}'))
        now = datetime.now(UTC)
        with Issuer(self.vendor, now=now) as issuer:
            taken = issuer.ingest(report, now=now)
            receipt = issuer.issue_receipt(taken.report.report_id, now=now).token
        self.admin("POST", "/v1/admin/receipts", receipt.encode())
        return taken.report.to_seq

    # ---------------------------------------------------------------- the daemon

    def write_settings(self, *, grace_seconds: int = 2, proof_seconds: int = 1, drain_seconds: int = 5) -> None:
        lines = [
            "[server]",
            f'listen = ["127.0.0.1:{self.port}"]',
            f'state_dir = "{self.state}"',
            f'admin_socket = "{self.socket}"',
            f"drain_seconds = {drain_seconds}",
            "[trust]",
            f'keys = "{self.keys}"',
            "[lease]",
            f"grace_seconds = {grace_seconds}",
            f"proof_seconds = {proof_seconds}",
        ]
        self.config.write_text("\n".join(lines) + "\n", "utf-8")

    def spawn(self, *, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        """The daemon's process, at its very beginning; ``before`` stands in front of the command (setpriv …)."""
        # A pipe and not a file: a limit on the size of files must not silence the log.
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", self.program, "--config", str(self.config), "serve"],
            cwd=self.root,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._drain = threading.Thread(target=self._listen, args=(self.process,), daemon=True)
        self._drain.start()
        return self.process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as words:
            self.log.extend(line.rstrip("\n") for line in words)

    def start(self) -> None:
        """Start the daemon and wait until it serves."""
        process = self.spawn()
        until(lambda: process.poll() is not None or self.is_ready(), seconds=START_SECONDS, what="ready", log=self.log)
        assert process.poll() is None, "\n".join(self.log[-20:])

    def is_ready(self) -> bool:
        try:
            return HTTPStatus.OK == self._over_socket("GET", "/readyz", None)[0]
        except (OSError, http.client.HTTPException):
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """``kill -9``."""
        self.signal(signal.SIGKILL)
        self.ended()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end; the exit status."""
        process, self.process = self.process, None
        assert process is not None
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        if self._drain is not None:
            self._drain.join(STOP_SECONDS)
        return status

    def refused_to_start(self, *, before: Sequence[str] = ()) -> str:
        """Start, and see it end with status 1; all that it said."""
        self.log.clear()
        self.spawn(before=before)
        assert 1 == self.ended(), "\n".join(self.log)
        return "\n".join(self.log)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.ended()
        for client in self._clients:
            client.close()
        shutil.rmtree(self._short)

    # ---------------------------------------------------------------- what it answers

    def https(self) -> Https:
        """A client that checks the server's own certificate."""
        context = ssl.create_default_context(cafile=str(self.state / "tls.crt"))
        client = Https(("127.0.0.1", self.port), context)
        self._clients.append(client)
        return client

    def admin(self, method: str, path: str, body: bytes | None = None) -> Any:
        """A JSON answer of the admin socket."""
        return json.loads(self.admin_bytes(method, path, body))

    def admin_bytes(self, method: str, path: str, body: bytes | None = None) -> bytes:
        status, content = self._over_socket(method, path, body)
        assert 200 <= status < 300, (method, path, status, content[:500])
        return content

    def journal(self) -> list[dict[str, Any]]:
        """Every line, from the first."""
        lines: list[dict[str, Any]] = []
        for _ in range(10_000):
            after = lines[-1]["seq"] if lines else 0
            page = self.admin_bytes("GET", f"/v1/admin/journal?after={after}&limit=1000").splitlines()
            if not page:
                return lines
            lines += map(json.loads, page)
        raise AssertionError("The journal has no end.")

    def verify_journal(self) -> None:
        checked = self.admin("GET", "/v1/admin/journal/verify")
        assert (True, None) == (checked["ok"], checked["problem"])

    def _over_socket(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = _Unix(self.socket)
        headers = {"Content-Type": "application/json" if body and body[:1] == b"{" else "application/octet-stream"}
        try:
            connection.request(method, path, body, headers if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(str(self._path))


def until(holds: Callable[[], bool], *, seconds: float, what: str, log: Sequence[str] = ()) -> None:
    """Wait until something holds, or fail with a word for it."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not {what} within {seconds:.0f} s\n" + "\n".join(log[-20:])
        time.sleep(0.05)


def environment() -> dict[str, str]:
    """Without the settings of a developer's own installation, and with the house that is tested."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLS_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def one_sentence(said: str) -> str:
    """What a refused start said: one line, for a person, without a traceback."""
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("lls: ")]
    assert [lines[0]] == lines, said
    assert lines[0].endswith((".", "?")), said
    return lines[0]


@contextlib.contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def _read(response: http.client.HTTPResponse) -> Answer:
    content = response.read()
    return Answer(
        status=response.status,
        body=json.loads(content) if content else None,
        headers={name.lower(): value for name, value in response.getheaders()},
    )
