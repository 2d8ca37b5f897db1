"""Real receivers on this machine: an HTTP server, a mail relay, syslog sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_string
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from lls.config import Events, SmtpSecurity
from lls.events import Destination, Event, Herald, Outbox, Sender, Severity, destinations
from lls.events.senders import NotDelivered, signature
from lls.faults import SetupFault

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SENDER = Sender(server_id="lls_AAAAAAAAAAAAAAAAAAAAAA", name="plant 4")
SECRET = bytes(range(32))
EVENT = Event(
    event_id="evt_1",
    at=NOW,
    type="seats_high",
    key="ent_1",
    state="raised",
    severity=Severity.WARNING,
    text="All 5 seats of cad are in use.",
    data={"product": "cad", "seats": 5},
)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text("whsec_" + base64.b64encode(SECRET).decode() + "\n", "ascii")
    return file


def made(sender: Sender = SENDER, **settings: Any) -> Destination:
    (found,) = destinations(Events(**settings), sender, now=lambda: NOW)
    return found


class Hooks:
    """An HTTP server that answers as it is told and remembers what it got."""

    def __init__(self) -> None:
        self.status, self.got, self.headers = 204, [], {}  # type: tuple[int, list[tuple[dict[str, str], bytes]], dict[str, str]]
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        return web.Response(status=self.status, headers=self.headers)


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    found = Hooks()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    found.url = f"http://{host}:{port}/hook?token=hush"
    yield found
    await runner.cleanup()


async def test_a_webhook_is_signed_so_that_its_receiver_can_tell(hooks: Hooks, secret_file: Path) -> None:
    webhook = made(webhook_urls=(hooks.url,), webhook_secret_file=str(secret_file))
    assert f"{URL(hooks.url).origin()} #" == webhook.name[:-8]
    await webhook.send(EVENT)
    await webhook.send(EVENT)
    (headers, body), (again, _) = hooks.got
    assert ("evt_1", str(int(NOW.timestamp()))) == (headers["webhook-id"], headers["webhook-timestamp"])
    assert signature(SECRET, "evt_1", headers["webhook-timestamp"], body) == headers["webhook-signature"]
    assert headers["webhook-id"] == again["webhook-id"]
    assert {
        "type": "seats_high",
        "state": "raised",
        "severity": "warning",
        "timestamp": "2026-11-21T12:00:00Z",
        "server_id": SENDER.server_id,
        "server_name": "plant 4",
        "text": EVENT.text,
        "data": {"product": "cad", "seats": 5},
    } == json.loads(body)


def test_a_signature_is_the_one_that_the_public_example_has() -> None:
    # The example of the Standard Webhooks specification: whatever verifies it verifies ours.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == signature(
        secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body
    )


@pytest.mark.parametrize("status", [301, 400, 410, 500])
async def test_an_answer_that_is_no_success_is_none(hooks: Hooks, secret_file: Path, status: int) -> None:
    hooks.status, hooks.headers = status, {"Location": "/elsewhere"}
    with pytest.raises(NotDelivered, match=f"^It answered {status}\\.$"):
        await made(webhook_urls=(hooks.url,), webhook_secret_file=str(secret_file)).send(EVENT)
    assert 1 == len(hooks.got), "a redirect is not followed"


async def test_nobody_there_is_said_in_a_sentence_without_the_address(secret_file: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://user:hush@127.0.0.1:{taken.getsockname()[1]}/"
        webhook = made(webhook_urls=(url,), webhook_secret_file=str(secret_file))
        with pytest.raises(NotDelivered) as failed:
            await webhook.send(EVENT)
    assert "It cannot be reached (Connection refused)." == str(failed.value)
    assert "hush" not in webhook.name


def test_two_hooks_of_one_host_are_two_destinations_whose_names_open_neither(secret_file: Path) -> None:
    urls = ("http://me:hush@a/", "http://a/x?one", "http://a/x?two", "http://a/x?two", "http://me:hush@a/x?one")
    found = destinations(Events(webhook_urls=urls, webhook_secret_file=str(secret_file)), SENDER, now=lambda: NOW)
    one, two = "http://a #704fb0bb", "http://a #51cae3d5"
    assert ["http://a", one, two, f"{two} #2", f"{one} #2"] == [hook.name for hook in found]


@pytest.mark.parametrize("content", ["", "short", "not base64 at all, but long enough to be one!", "c2hvcnQ="])
def test_a_weak_secret_is_refused_before_the_doors_open(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content, "ascii")
    with pytest.raises(SetupFault, match="openssl rand -base64 32"):
        made(webhook_urls=("http://a/",), webhook_secret_file=str(tmp_path / "secret"))


def test_files_that_are_not_there_are_named(tmp_path: Path, secret_file: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(SetupFault, match="missing"):
        made(webhook_urls=("http://a/",), webhook_secret_file=missing)
    with pytest.raises(SetupFault, match=r"events\.ca_file"):
        made(webhook_urls=("http://a/",), webhook_secret_file=str(secret_file), ca_file=missing)


class Relay:
    """A mail relay as far as it is needed: it takes one message a connection, or refuses at a word."""

    def __init__(self) -> None:
        self.refuses = ""
        self.mails: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 relay\r\n")
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            word = line.partition(" ")[0].upper().partition(":")[0]
            if self.refuses and line.upper().startswith(self.refuses):
                writer.write(b"550 hush\r\n")
            elif word == "DATA":
                writer.write(b"354 go on\r\n")
                self.mails.append((await reader.readuntil(b"\r\n.\r\n")).decode())
                writer.write(b"250 taken\r\n")
            elif word == "QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                writer.write(b"250 well\r\n")
        writer.close()


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    found = Relay()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found


def mail_by(relay: Relay, **more: Any) -> Destination:
    return made(
        smtp_server=f"127.0.0.1:{relay.port}",
        smtp_security=more.pop("security", SmtpSecurity.NONE),
        smtp_from="lls@plant4.example",
        smtp_to=("ann@plant4.example", "bob@plant4.example"),
        **more,
    )


async def test_a_mail_says_who_speaks_what_is_wrong_and_what_to_do(relay: Relay) -> None:
    await mail_by(relay).send(EVENT)
    mail = message_from_string(relay.mails[0], policy=default)
    assert "[plant 4] warning: seats high" == mail["Subject"]
    assert ("lls@plant4.example", "ann@plant4.example, bob@plant4.example") == (mail["From"], mail["To"])
    assert ("auto-generated", f"<evt_1@{SENDER.server_id}>") == (mail["Auto-Submitted"], mail["Message-ID"])
    text = str(mail.get_content())
    assert text.startswith(EVENT.text)
    assert "product: cad\nseats: 5\nat: 2026-11-21T12:00:00Z" in text.replace("\r\n", "\n")


async def test_a_name_in_a_mails_subject_is_no_header(relay: Relay) -> None:
    named = replace(SENDER, name="=?utf-8?q?plant=0D=0ABcc=3A_eve=40elsewhere.example?=")
    await mail_by(relay, sender=named).send(EVENT)
    mail = message_from_string(relay.mails[0], policy=default)
    assert mail["Bcc"] is None
    assert mail["Subject"].endswith("warning: seats high")


@pytest.mark.parametrize(
    ("refuses", "settings", "sentence"),
    [
        ("MAIL", {}, "The relay answered 550."),
        ("RCPT", {}, "The relay refuses every one of events.smtp_to."),
        ("", {"security": SmtpSecurity.STARTTLS}, "does not offer"),
        ("", {"security": SmtpSecurity.TLS}, "cannot be reached"),
        ("", {"smtp_user": "lls"}, "does not offer"),
    ],
)
async def test_a_relay_that_refuses_is_told_in_our_own_words(
    relay: Relay, refuses: str, settings: dict[str, Any], sentence: str
) -> None:
    relay.refuses = refuses
    with pytest.raises(NotDelivered, match=sentence) as failed:
        await mail_by(relay, **settings).send(EVENT)
    assert "hush" not in str(failed.value)


@pytest.fixture
def datagrams() -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(5)
        yield opened


async def test_a_line_of_syslog_by_udp(datagrams: socket.socket) -> None:
    await made(syslog=f"udp://127.0.0.1:{datagrams.getsockname()[1]}").send(EVENT)
    line = datagrams.recv(2048).decode()
    assert line.startswith("<28>1 2026-11-21T12:00:00Z ")
    assert line.endswith(f" seats_high - raised seats_high server={SENDER.server_id} product=cad seats=5 {EVENT.text}")


async def test_an_event_is_one_line_of_syslog_whatever_is_in_it(datagrams: socket.socket) -> None:
    hostile = replace(EVENT, text="ends.\n<8>1 - forged - - - \x1b[2Jall is well", data={"product": "a\r\nb"})
    await made(syslog=f"udp://127.0.0.1:{datagrams.getsockname()[1]}").send(hostile)
    assert datagrams.recv(2048).decode().isprintable()


async def test_a_line_of_syslog_by_tcp_and_by_the_local_socket(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(5)
        await made(syslog=f"tcp://127.0.0.1:{listener.getsockname()[1]}").send(EVENT)
        with closing(listener.accept()[0]) as opened:
            assert opened.makefile().readline().endswith(f"{EVENT.text}\n")
    path = tmp_path / "log"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as local:
        local.bind(str(path))
        local.settimeout(5)
        await made(syslog=f"unix://{path}").send(EVENT)
        assert local.recv(2048).startswith(b"<28>1 ")
    with pytest.raises(NotDelivered):
        await made(syslog=f"unix://{tmp_path}/nobody").send(EVENT)


# ---------------------------------------------------------------- a stop meanwhile


SILENT: dict[str, Callable[[int], dict[str, Any]]] = {
    "mail": lambda port: {
        "smtp_server": f"127.0.0.1:{port}",
        "smtp_security": SmtpSecurity.NONE,
        "smtp_from": "lls@plant4.example",
        "smtp_to": ("ann@plant4.example",),
    },
    "webhook": lambda port: {"webhook_urls": (f"http://desk.example:{port}/",)},
}


@pytest.mark.parametrize("kind", sorted(SILENT))
def test_a_stop_waits_for_no_receiver_and_the_delivery_is_still_to_be_made(
    tmp_path: Path, secret_file: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Relay and name server are there and say nothing; as a daemon, the loop ends with all of its threads."""
    go, asked = threading.Event(), threading.Event()
    look_up = socket.getaddrinfo

    def slowly(host: Any, *given: Any, **named: Any) -> Any:
        if host != "desk.example":
            return look_up(host, *given, **named)
        asked.set()
        go.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "nobody knows")

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = SILENT[kind](silent.getsockname()[1])
        if kind == "webhook":
            settings["webhook_secret_file"] = str(secret_file)
        herald = Herald(
            Outbox(tmp_path),
            looks=[],
            destinations=[made(**settings)],
            now=lambda: NOW,
            new_id=lambda: "evt_1",
            retry_for=timedelta(hours=1),
        )

        connections: list[socket.socket] = []

        async def daemon() -> float:
            await herald.start()
            await herald.test()
            if kind == "mail":
                connections.append((await asyncio.to_thread(silent.accept))[0])
            else:
                assert await asyncio.to_thread(asked.wait, 10)
            since = time.monotonic()
            await herald.stop()
            return since

        since = asyncio.run(daemon())
        took = time.monotonic() - since
        go.set()
        for connection in connections:
            connection.close()
    assert took < 2
    (waiting,) = herald.outbox.deliveries(limit=10)
    assert ("waiting", 0) == (waiting.state, waiting.attempts)
