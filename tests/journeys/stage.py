"""Where stories are played: the real daemon in a process of its own, real commands, and a vendor who sells any terms.

Rules
1. Who asks does so over HTTP, as a program without our client would; the administrator types commands; bundles, borrow
   requests and returns are signed files.
2. The clock of the daemon is turned (``turned_clock``), never the daemon itself. The vendor lives in right time.
3. Each verb answers with an :class:`~tests.journeys.story.Outcome`; what it should have been, the story says.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import shlex
import signal
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from lls.issuer import Issuer
from lls.signed.jose import unverified_payload
from lls.signed.request import read_request
from tests.journeys.shop import Shop
from tests.journeys.story import (
    JOURNAL,
    Outcome,
    Step,
    Story,
    Wrong,
    complaints,
    duration,
    lines_differ,
    without_null,
)
from tests.journeys.warm import Warm
from tests.journeys.world import ANSWER_SECONDS, COMMAND_SECONDS, Site, token, until
from tests.vendor import Machine, new_id

A_MOMENT = 5.0
"""So long the journal may take to get what a step has caused."""

_NAMED = re.compile(r"\{(lease|entitlement|hosted|grant|file|request|server) ([^{}]+)\}")
_ACTS = {"take": "checkout", "give back": "return", "use": "use", "undo": "undo"}
_WHERE = {"seats", "features", "edition", "version", "released_on", "activation_code"}


class TurnedSite(Site):
    """A site whose daemon runs under a turned clock, without TLS, whose certificate would be of another date."""

    def __init__(self, root: Path, *, now: datetime, policy: bool) -> None:
        self.said = root / "daemon.log"
        self.policy = root / "site" / "policy.toml" if policy else None
        self.base, self.passed, self.turned, self.number = now - datetime.now(UTC), timedelta(), timedelta(), 0
        super().__init__(root)
        self.url = f"http://127.0.0.1:{self.port}"
        self.turn(awake=False)

    def write_settings(self, *, grace_seconds: int = 2, proof_seconds: int = 1, drain_seconds: int = 5) -> None:
        super().write_settings(grace_seconds=grace_seconds, proof_seconds=proof_seconds, drain_seconds=drain_seconds)
        lines = ["[tls]", 'mode = "off"', *(["[policy]", f'file = "{self.policy}"'] if self.policy else [])]
        self.config.write_text(self.config.read_text("utf-8") + "\n".join(lines) + "\n", "utf-8")

    def spawn(self, *, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        assert not before
        warm = Warm(["lls", "--config", str(self.config), "serve"], cwd=self.root, said=self.said, clock=self.site)
        self.process = cast("subprocess.Popen[str]", warm)
        return self.process

    def start(self) -> None:
        try:
            super().start()
        except AssertionError as error:
            raise Wrong("\n".join(["The daemon did not start.", *self.lines()[-20:]])) from error

    def lines(self) -> list[str]:
        """What the daemon has said by now."""
        return self.said.read_text("utf-8").splitlines() if self.said.exists() else []

    def now(self) -> datetime:
        """The right time, as the vendor knows it."""
        return datetime.now(UTC) + self.base + self.passed

    def turn(self, *, awake: bool) -> None:
        """Put the clocks where they are meant to be; a running daemon has swept by them when this returns."""
        self.number += 1
        setting = {
            "number": self.number,
            "wall": (self.base + self.passed + self.turned).total_seconds(),
            "elapsed": self.passed.total_seconds(),
            "awake": awake,
        }
        fresh = self.site / "clock.json.new"
        fresh.write_text(json.dumps(setting), "ascii")
        fresh.rename(self.site / "clock.json")
        if self.process is not None:
            until(self._is_seen, seconds=20, what="swept by the new clock", log=self.log)

    def _is_seen(self) -> bool:
        seen = self.site / "seen"
        return seen.exists() and str(self.number) == seen.read_text("ascii")


@dataclass
class Asking:
    """A lease from its program's side."""

    lease_id: str
    secret: str = field(repr=False)
    body: dict[str, Any]
    beat: int = 0
    waiting: Future[Outcome] | None = None


class Stage:
    """One story's world."""

    def __init__(self, root: Path, story: Story) -> None:
        self.story = story
        self.files = root / "files"
        self.files.mkdir(parents=True)
        now = story.clock if story.catalog is None else datetime.now(UTC)
        self.site = TurnedSite(root, now=now, policy=story.has_policy)
        self.shop = Shop(story.clock, license_=story.license)
        self.leases: dict[str, Asking] = {}
        self.seen_hosted: dict[str, str] = {}
        self.checkouts = self.commands = 0
        self.seen_seq = 0
        self.seen_log = 0
        self._waiters = ThreadPoolExecutor(max_workers=8)

    def play(self) -> None:
        """Raises :class:`Wrong` at the first step that is not as the story says."""
        if self.story.catalog is None:
            self.site.keys.write_text(self.shop.vendor.key_sets[0], "ascii")
        else:
            self.open_office(self.story.catalog)
        if self.site.policy is not None:
            self.site.policy.write_text(self.story.policy or "format = 1\n", "utf-8")
        self.site.start()
        self.shop.recipient = read_request(self.site.admin_bytes("POST", "/v1/admin/server/request"))
        if self.story.entitlements:
            imported = self.hand_in(self.shop.sell(self.site.now(), add=self.story.entitlements))
            if imported.status != http.HTTPStatus.OK:
                raise Wrong(f"The first bundle was refused: {imported.text}")
        self.new_lines()
        for step in self.story.steps:
            self.perform(step)

    def open_office(self, catalog: str) -> None:
        now = datetime.now(UTC)
        with Issuer.create(self.site.vendor, now=now, passphrase=None) as issuer:
            issuer.load_catalog(catalog, now=now)
            self.site.keys.write_text(issuer.keyring.newest.token, "ascii")

    def perform(self, step: Step) -> None:
        """One step, and all that is not as expected."""
        words = self.named(without_null(dict(step.words)))
        outcome = _VERBS[step.do](self, words)
        found = complaints(self.named(dict(step.expect)), outcome)
        if JOURNAL in step.expect:
            found += self.lines_differ(self.named(step.expect[JOURNAL]))
        elif self.site.process is not None:
            self.new_lines()
        if found:
            raise Wrong(f"{step}\n  " + "\n  ".join(found) + f"\nThe answer was: {outcome.text[:4000]}")

    def close(self) -> None:
        self.site.close()
        self._waiters.shutdown(wait=True, cancel_futures=True)

    # ---------------------------------------------------------------- names

    def named(self, value: Any) -> Any:
        """The value with the ids that ``{lease ann}``, ``{entitlement cad}``, ``{file x}`` … stand for."""
        match value:
            case str():
                return _NAMED.sub(lambda found: self._id(found[1], found[2]), value)
            case dict():
                return {self.named(key): self.named(member) for key, member in value.items()}
            case list():
                return [self.named(member) for member in value]
            case _:
                return value

    def _id(self, kind: str, name: str) -> str:
        match kind:
            case "lease":
                return self.leases[name].lease_id if name in self.leases else _uuid(name)
            case "entitlement":
                return self.shop.entitlement_id(name)
            case "hosted":
                return self.hosted(name)
            case "grant":
                return new_id("grt_", name)
            case "server":
                return self.shop.recipient.server_id
            case "file":
                return str(self.files / name)
            case _:
                return _uuid(name)

    def hand_in(self, bundle: bytes) -> Outcome:
        status, content = self.site._over_socket("POST", "/v1/admin/bundles", bundle)  # noqa: SLF001 - may be refused
        return _of_content(status, content)

    def hosted(self, product: str) -> str:
        """The entitlement of a product that a real office has sold; its id is known even when it has gone."""
        for row in self.site.admin("GET", "/v1/admin/entitlements")["entitlements"]:
            self.seen_hosted[row["product"]] = row["entitlement_id"]
        return self.seen_hosted[product]

    # ---------------------------------------------------------------- asking

    def http(self, method: str, path: str, body: Any = None, *, secret: str = "", wait: int = 0) -> Outcome:
        connection = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=ANSWER_SECONDS)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        if wait:
            headers["Prefer"] = f"wait={wait}"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return _of_content(response.status, response.read())
        finally:
            connection.close()

    def lease(self, words: Mapping[str, Any]) -> Asking:
        name = words.get("lease") or words.get("who", "")
        if name not in self.leases:
            raise Wrong(f"{name!r} has not checked out anything yet.")
        return self.leases[name]

    def typed(self, *words: str) -> Outcome:
        """A command of the administrator's or the vendor's, at the desk where the story's files lie."""
        self.commands += 1
        said = self.files.parent / f"command {self.commands}.txt"
        status = Warm(words, cwd=self.files, said=said).wait(COMMAND_SECONDS)
        text = said.read_text("utf-8") if said.exists() else ""
        if "Traceback" in text:
            raise Wrong(f"{' '.join(words)}: {text}")
        return Outcome(status=status, body=json.loads(text) if text[:1] in ("{", "[") else None, text=text)

    def lls(self, command: str) -> Outcome:
        return self.typed("lls", "--config", str(self.site.config), *shlex.split(command))

    # ---------------------------------------------------------------- the journal

    def new_lines(self) -> list[dict[str, Any]]:
        """The lines since the last look."""
        content = self.site.admin_bytes("GET", f"/v1/admin/journal?after={self.seen_seq}&limit=10000")
        lines = [json.loads(line) for line in content.splitlines()]
        self.seen_seq = lines[-1]["seq"] if lines else self.seen_seq
        return lines

    def lines_differ(self, wanted: Sequence[Any]) -> list[str]:
        """What a sweep posts may come a moment later; a line too many stays one."""
        lines: list[dict[str, Any]] = []

        def enough() -> bool:
            lines.extend(self.new_lines())
            return len(lines) >= len(wanted)

        with contextlib.suppress(AssertionError):  # the comparison says it better
            until(enough, seconds=A_MOMENT, what="in the journal")
        return lines_differ(wanted, lines)


# ---------------------------------------------------------------- verbs of programs


def checkout(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    who, name = words["who"], words.get("lease") or words["who"]
    if not words.get("same"):
        stage.checkouts += 1
        lease_id = _uuid(f"{name} {stage.checkouts}")
        secret = token(hashlib.sha256(lease_id.encode()).digest())
        stage.leases[name] = Asking(lease_id, secret, stage_body(stage, words, who, lease_id))
    asking = stage.leases[name]
    body = {**asking.body, "nonce": _nonce(f"{asking.lease_id} checkout {stage.checkouts}")}
    wait = words.get("wait", 0)

    def ask() -> Outcome:
        return stage.http("POST", "/v1/leases", body, secret=asking.secret, wait=wait)

    if not words.get("later"):
        return ask()
    asking.waiting = stage._waiters.submit(ask)  # noqa: SLF001 - a verb is the stage's own
    until(lambda: _waits(stage, asking), seconds=A_MOMENT, what="in the queue")
    return Outcome(status=http.HTTPStatus.ACCEPTED, text="it waits")


def stage_body(stage: Stage, words: Mapping[str, Any], who: str, lease_id: str) -> dict[str, Any]:
    """What a checkout asks for."""
    body = {key: value for key, value in words.items() if key in _WHERE}
    product = words.get("product") or stage.shop.only_product()
    return {"lease_id": lease_id, "product": product, "holder": _holder(words, who), **body}


def _waits(stage: Stage, asking: Asking) -> bool:
    assert asking.waiting is not None
    waiting = stage.site.admin("GET", "/v1/admin/leases")["waiting"]
    return asking.waiting.done() or asking.lease_id in [one["lease_id"] for one in waiting]


def answer(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    waiting = stage.lease(words).waiting
    if waiting is None:
        raise Wrong("Nobody waits under that name.")
    return waiting.result(timeout=ANSWER_SECONDS)


def heartbeat(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    asking = stage.lease(words)
    asking.beat += 1
    body = {"beat": asking.beat, "nonce": _nonce(f"{asking.lease_id} beat {asking.beat}")}
    return stage.http("POST", f"/v1/leases/{asking.lease_id}/heartbeat", body, secret=asking.secret)


def look(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    asking = stage.lease(words)
    return stage.http("GET", f"/v1/leases/{asking.lease_id}", secret=asking.secret)


def checkin(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    asking = stage.lease(words)
    return stage.http("DELETE", f"/v1/leases/{asking.lease_id}", secret=asking.secret)


def meter(act: str) -> Callable[[Stage, Mapping[str, Any]], Outcome]:
    """A call for a feature."""

    def verb(stage: Stage, words: Mapping[str, Any]) -> Outcome:
        asking = stage.lease(words)
        stage.checkouts += 1
        request_id = _uuid(words.get("request") or f"request {stage.checkouts}")
        body = {"amount": words.get("amount", 1), "request_id": request_id}
        path = f"/v1/leases/{asking.lease_id}/features/{words['feature']}/{_ACTS[act]}"
        return stage.http("POST", path, body, secret=asking.secret)

    return verb


def borrow(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    asking = stage.lease(words)
    fingerprint = words.get("machine") or asking.body["holder"]["seat_id"]
    stage.checkouts += 1
    body = {"until": words["until"], "fingerprint": fingerprint, "nonce": _nonce(f"borrow {stage.checkouts}")}
    return stage.http("POST", f"/v1/leases/{asking.lease_id}/borrow", body, secret=asking.secret)


def get(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    return stage.http("GET", words["path"])


# ---------------------------------------------------------------- verbs of a machine without the network


def write_request(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    who = words["who"]
    machine = Machine.named(who, now=stage.site.now())
    holder = _holder(words, who)
    body = {key: value for key, value in words.items() if key in _WHERE}
    lease_id = _uuid(f"{words.get('lease', who)} by file")
    request = machine.borrow_request(
        lease_id=lease_id,
        product=words.get("product") or stage.shop.only_product(),
        holder=holder,
        fingerprint=holder["seat_id"],
        until=words["until"],
        **body,
    )
    stage.leases[words.get("lease", who)] = Asking(lease_id, "", {"holder": holder})
    (stage.files / words["file"]).write_text(request, "ascii")
    return Outcome()


def write_return(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    machine = Machine.named(words["who"], now=stage.site.now())
    document = machine.borrow_return(stage.shop.recipient.server_id, lease_id=stage.lease(words).lease_id)
    (stage.files / words["file"]).write_text(document, "ascii")
    return Outcome()


def read(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    text = (stage.files / words["file"]).read_text("utf-8")
    body = json.loads(text) if text[:1] == "{" else unverified_payload(text)
    return Outcome(body=body, text=text)


# ---------------------------------------------------------------- verbs of the vendor


def import_(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    if not words.get("same"):
        stage.shop.sell(stage.site.now(), **words)
    return stage.hand_in(stage.shop.bundle)


def read_return(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    text = (stage.files / words["file"]).read_text("ascii")
    stage.shop.vendor.read_return(text, stage.shop.recipient)
    return Outcome(body=unverified_payload(text), text=text)


def issuer_command(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    return stage.typed("lls-issuer", "--home", str(stage.site.vendor), *shlex.split(words["command"]))


def write(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    (stage.files / words["file"]).write_text(words["text"], "utf-8")
    return Outcome()


# ---------------------------------------------------------------- verbs of the administrator


def lls(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    return stage.lls(words["command"])


def ask(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    status, content = stage.site._over_socket("GET", f"/v1/admin/{words['path']}", None)  # noqa: SLF001
    return _of_content(status, content)


def policy(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    """Write the file and have it read again: by ``command``, by ``signal``, or ``later``."""
    assert stage.site.policy is not None
    stage.site.policy.write_text(words["text"], "utf-8")
    match words.get("by", "command"):
        case "command":
            return stage.lls("reload")
        case "signal":
            before = len(stage.site.lines())
            stage.site.signal(signal.SIGHUP)
            until(lambda: "policy_" in "".join(stage.site.lines()[before:]), seconds=A_MOMENT, what="reloaded")
            return Outcome(text="\n".join(stage.site.lines()[before:]))
        case _:
            return Outcome()


def journal(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    lines = [line for line in stage.site.journal() if line["kind"] == words["kind"]]
    stage.site.verify_journal()
    last = lines[-1]["data"] if lines else None
    return Outcome(body={"count": len(lines), "last": last}, text="\n".join(map(str, lines)))


def log(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    """What the daemon has said since its last start."""
    return Outcome(text="\n".join(stage.site.lines()[stage.seen_log :]))


def restart(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    if words["how"] == "kill":
        stage.site.kill()
    elif stage.site.stop() != 0:
        raise Wrong("The daemon did not stop as it should.")
    stage.seen_log = len(stage.site.lines())
    if "off" in words:
        stage.site.passed += duration(words["off"])
    stage.site.turn(awake=False)
    stage.site.start()
    stage.site.turn(awake=False)  # the first sweep ends what is over
    return Outcome()


# ---------------------------------------------------------------- verbs of time


def wait(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    """As if the host had slept: its programs' leases are prolonged, so they go on."""
    stage.site.passed += duration(words["for"])
    stage.site.turn(awake=False)
    return Outcome()


def silence(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    """The server was awake, and nobody was heard."""
    stage.site.passed += duration(words["for"])
    stage.site.turn(awake=True)
    return Outcome()


def turn_clock(stage: Stage, words: Mapping[str, Any]) -> Outcome:
    stage.site.turned += duration(words["by"])
    stage.site.turn(awake=False)
    return Outcome()


_VERBS: Mapping[str, Callable[[Stage, Mapping[str, Any]], Outcome]] = {
    "checkout": checkout,
    "answer": answer,
    "heartbeat": heartbeat,
    "look": look,
    "checkin": checkin,
    **{act: meter(act) for act in _ACTS},
    "borrow": borrow,
    "get": get,
    "write request": write_request,
    "write return": write_return,
    "read": read,
    "import": import_,
    "read return": read_return,
    "issuer": issuer_command,
    "write": write,
    "lls": lls,
    "ask": ask,
    "policy": policy,
    "journal": journal,
    "log": log,
    "restart": restart,
    "wait": wait,
    "silence": silence,
    "turn clock": turn_clock,
}


# ---------------------------------------------------------------- small things


def _holder(words: Mapping[str, Any], who: str) -> dict[str, str]:
    holder = {
        "seat_id": words.get("machine") or f"machine of {who}",
        "user": words.get("user", who),
        "host": words.get("host", f"{who}-pc"),
        "process": words.get("process"),
    }
    return {key: value for key, value in holder.items() if value is not None}


def _of_content(status: int, content: bytes) -> Outcome:
    text = content.decode(errors="replace")
    return Outcome(status=status, body=json.loads(text) if text[:1] in ("{", "[") else None, text=text)


def _uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def _nonce(name: str) -> str:
    return token(hashlib.sha256(name.encode()).digest())
