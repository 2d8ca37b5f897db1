"""A real daemon tells a real webhook what should not wait, through a crash and while nobody listens."""

from __future__ import annotations

import base64
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from lls.events.senders import signature
from tests.journeys.world import Asked, Site, until

SECRET = bytes(range(32))
PATIENCE = 30.0
STOP_PATIENCE = 8.0
"""A stop takes a second or two here; a relay would be waited for a quarter of a minute."""


class Receiver:
    """An operations desk: takes what is signed, refuses the rest, and may be closed."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.closed = False
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stamp, event_id = self.headers["webhook-timestamp"], self.headers["webhook-id"]
                signed = signature(SECRET, event_id, stamp, body) == self.headers["webhook-signature"]
                if receiver.closed or not signed:
                    self.send_response(503 if signed else 401)
                else:
                    receiver.got.append({"id": event_id, **json.loads(body)})
                    self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silent."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/desk"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def heard(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.got if kind == event["type"]]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def desk() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_a_desk_hears_of_full_seats_and_denials_once_and_through_a_crash(site: Site, desk: Receiver) -> None:
    secret = site.site / "secret"
    secret.write_text(base64.b64encode(SECRET).decode(), "ascii")
    with site.config.open("a", encoding="utf-8") as settings:
        settings.write(f'[events]\nwebhook_urls = ["{desk.url}"]\nwebhook_secret_file = "{secret}"\n')
        settings.write("denials_per_hour = 3\n")
    site.licensed()

    def wait_for(kind: str, number: int = 1) -> list[dict[str, Any]]:
        until(lambda: len(desk.heard(kind)) >= number, seconds=PATIENCE, what=kind, log=site.log)
        return desk.heard(kind)

    assert "1 destination" in site.lls("events", "test").stdout
    assert "This is a test" in wait_for("test")[0]["text"]

    https, chance = site.https(), random.Random(7)
    for _ in range(5):
        assert 201 == https.checkout(Asked.new(chance)).status
    for _ in range(3):
        assert 409 == https.checkout(Asked.new(chance)).status
    (full,) = wait_for("seats_high")
    assert ("raised", "warning", 5, 5) == (
        full["state"],
        full["severity"],
        full["data"]["in_use"],
        full["data"]["seats"],
    )
    assert 3 == wait_for("denials_high")[0]["data"]["denials"]

    desk.closed = True
    site.lls("events", "test")
    until(
        lambda: any("event_not_delivered" in line for line in site.log), seconds=PATIENCE, what="refusal", log=site.log
    )
    listed = site.lls("events", "list").stdout
    assert "It answered 503." in listed
    site.kill()
    desk.closed = False
    site.start()
    assert 2 == len(wait_for("test", 2))
    assert 1 == len(desk.heard("seats_high")), "nobody is told twice, across restarts too"
    assert len(desk.got) == len({event["id"] for event in desk.got})
    assert "seats high" not in site.lls("events", "retry").stdout
    acts = [line["data"]["act"] for line in site.journal() if line["kind"] == "AdminActed"]
    assert ["events_test", "events_test", "events_retry"] == [act for act in acts if act.startswith("events")]
    assert not [line for line in site.log if base64.b64encode(SECRET).decode() in line]


def test_a_relay_that_says_nothing_holds_up_no_stop_and_hears_of_it_after_the_next_start(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        with site.config.open("a", encoding="utf-8") as settings:
            settings.write(f'[events]\nsmtp_server = "127.0.0.1:{silent.getsockname()[1]}"\nsmtp_security = "none"\n')
            settings.write('smtp_from = "lls@plant4.example"\nsmtp_to = ["ann@plant4.example"]\n')
        site.open_vendor()
        site.start()
        site.lls("events", "test")
        with silent.accept()[0]:
            since = time.monotonic()
            assert 0 == site.stop()
            assert time.monotonic() - since < STOP_PATIENCE
        site.start()
        mails = (taken(silent.accept()[0]) for _ in range(5))  # this machine may have given reasons for others
        assert any("This is a test" in mail for mail in mails)


def taken(connection: socket.socket) -> str:
    """One mail, as a relay takes it."""
    with connection, connection.makefile("rwb") as words:
        return taken_from(words)


def taken_from(words: Any) -> str:
    mail = b""
    words.write(b"220 relay\r\n")
    words.flush()
    for line in words:
        if line.upper().startswith(b"DATA"):
            words.write(b"354 go on\r\n")
            words.flush()
            while (part := words.readline()) != b".\r\n":
                mail += part
        words.write(b"250 well\r\n")
        words.flush()
        if mail:
            break
    return mail.decode("ascii")
