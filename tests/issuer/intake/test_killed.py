"""A server that is killed between storing and processing: what it answered for is processed once, by the next one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lls.issuer import Issuer
from lls.issuer.intake.inbox import Inbox, Status
from tests.issuer.appliance import NOW
from tests.issuer.intake.sources import fastspring, fs_event, proof

ROOT = Path(__file__).parents[3]
MANY = 200


@contextmanager
def served(home: Path, config: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The real server, as a process of its own, and where it listens; killed at the latest in the end."""
    words = [sys.executable, "-m", "lls.issuer", "--home", str(home), "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*words, "--config", str(config)], stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    ) as server:
        try:
            assert server.stderr is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", server.stderr.readline())
            assert found is not None
            yield server, found[0]
        finally:
            server.kill()


def order(number: int) -> dict[str, Any]:
    data = {
        "id": f"ord{number}", "tags": {"account_ref": "C-42"}, "customer": {"company": "Example Works"},
        "items": [{"product": "cad-pro", "quantity": 1}],
    }  # fmt: skip
    return fs_event(f"e{number}", "order.completed", data, created=NOW)


def post(url: str, body: bytes) -> list[str]:
    headers = {"Content-Type": "application/json", "X-FS-Signature": proof("fastspring", body, NOW)}
    request = urllib.request.Request(f"{url}/v1/events/fastspring", body, headers)  # noqa: S310 - our own server
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return [event["status"] for event in json.load(answer)["events"]]


def test_what_was_answered_for_before_a_kill_is_processed_once_after_it(
    issuer: Issuer, home: Path, config: Path
) -> None:
    body = json.dumps(fastspring(*(order(number) for number in range(MANY)))).encode()
    with served(home, config) as (server, url):
        assert ["stored"] * MANY == post(url, body)
        server.send_signal(signal.SIGKILL)
        assert -signal.SIGKILL == server.wait(timeout=20)
    inbox = Inbox(issuer.register)
    before = inbox.counts()
    assert before[Status.WAITING] > 0
    assert MANY == sum(before.values())
    assert before.get(Status.DONE, 0) == len(issuer.register.entitlements())

    with served(home, config) as (server, url):
        assert ["known"] * MANY == post(url, body)
        assert server.stderr is not None
        while inbox.counts().get(Status.WAITING, 0):
            assert "done" in server.stderr.readline()
        server.send_signal(signal.SIGTERM)
        assert 0 == server.wait(timeout=20)
    assert {Status.DONE: MANY} == inbox.counts()
    sold = [one.order_ref for one in issuer.register.entitlements()]
    assert {f"fastspring:ord{number}" for number in range(MANY)} == set(sold)
    assert MANY == len(sold)
    issuer.audit.verify()
