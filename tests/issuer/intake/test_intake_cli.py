"""The intake's commands as a vendor's person types them, and the manual's word for what there is."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lls.issuer import Issuer
from lls.issuer.cli import app
from lls.issuer.cli.serve import address
from lls.issuer.intake.inbox import Inbox
from lls.issuer.intake.processing import ADAPTERS
from lls.issuer.intake.settings import CUSTOMS, read_settings
from lls.issuer.refusals import IntakeRefused
from tests.issuer.appliance import NOW
from tests.issuer.intake.conftest import Desk
from tests.issuer.intake.sources import SECRETS, invoice, stripe
from tests.issuer.intake.test_order_files import NETSUITE_SEARCH, SALESFORCE_QUERY

ROOT = Path(__file__).parents[3]
SECTION = (ROOT / "docs" / "issuer.md").read_text("utf-8").partition("\n## Purchase events over HTTP\n")[2]
PAID = stripe("evt_2", "invoice.paid", invoice(metadata={"account_ref": "C-42"}, customer_name="Works"), created=NOW)


@pytest.fixture
def run(issuer: Issuer, home: Path) -> Any:
    def typed(*words: str | Path) -> Result:
        return CliRunner().invoke(app, ["--home", str(home), *map(str, words)])

    return typed


def test_an_export_is_imported_once(run: Any, tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_bytes(NETSUITE_SEARCH)
    for again in (False, True):
        done = run("order", "import", "--format", "netsuite", tmp_path / "orders.csv", "--json")
        assert (0, [("netsuite:SO101", again)]) == (
            done.exit_code, [(one["order_ref"], one["already_fulfilled"]) for one in json.loads(done.stdout)["orders"]],
        )  # fmt: skip
    (tmp_path / "orders.json").write_text(json.dumps(SALESFORCE_QUERY))
    assert 0 == run("order", "import", "--format", "salesforce", tmp_path / "orders.json").exit_code


def test_an_import_that_cannot_be_done_says_why_in_one_sentence(run: Any, tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_bytes(NETSUITE_SEARCH.replace(b"CAD-STD", b"NIX"))
    refused = run("order", "import", "--format", "netsuite", tmp_path / "orders.csv")
    assert (1, "", 1) == (refused.exit_code, refused.stdout, refused.stderr.count("\n"))
    assert "'NIX'" in refused.stderr


def test_the_inbox_is_listed_shown_retried_dropped_and_processed(run: Any, desk: Desk, config: Path) -> None:
    desk.receive("stripe", PAID)
    (listed,) = json.loads(run("inbox", "list", "--json").stdout)["events"]
    assert (1, "stripe", "evt_2", "waiting") == tuple(listed[key] for key in ("event", "source", "event_id", "status"))
    assert PAID == json.loads(run("inbox", "show", "1", "--json").stdout)["document"]
    assert "evt_2" in run("inbox", "show", "1").stdout
    assert 0 == run("inbox", "retry", "1").exit_code
    (fate,) = json.loads(run("inbox", "process", "--config", config, "--json").stdout)["events"]
    assert "done" == fate["status"]
    assert "Nothing waits" in run("inbox", "process", "--config", config).stderr
    for words in (("retry", "1"), ("drop", "1", "--because", "no"), ("show", "7")):
        assert (1, 1) == ((refused := run("inbox", *words)).exit_code, refused.stderr.count("\n"))
    assert 1 == len(
        json.loads(run("inbox", "list", "--status", "done", "--source", "stripe", "--json").stdout)["events"]
    )
    assert "evt" not in run("inbox", "list", "--status", "failed").stdout


def test_what_others_wrote_obeys_nobody_on_a_terminal(run: Any, desk: Desk) -> None:
    event = ADAPTERS["stripe"].events(json.dumps(PAID).encode(), "application/json")[0]
    Inbox(desk.issuer.register).add("stripe", event, now=NOW)
    desk.intake.inbox.drop(1, reason="\x1b[2J\u202egone")
    assert "\x1b" not in run("inbox", "list").stdout
    assert "\u202e" not in run("inbox", "show", "1").stdout


def test_serve_says_what_is_missing(run: Any, home: Path) -> None:
    assert "intake.toml" in run("serve").stderr
    (home / "intake.toml").write_text("")
    assert (1, True) == ((refused := run("serve")).exit_code, "no source" in refused.stderr)


@pytest.mark.parametrize(("text", "bound"), [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:6510", ("::1", 6510))])
def test_an_address_is_read(text: str, bound: tuple[str, int]) -> None:
    assert bound == address(text)


@pytest.mark.parametrize("text", ["", "6510", ":6510", "localhost:", "localhost:65536", "::1:6510", "a:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(IntakeRefused):
        address(text)


def test_the_real_server_starts_takes_an_event_and_stops_at_sigterm(issuer: Issuer, home: Path, config: Path) -> None:
    words = [sys.executable, "-m", "lls.issuer", "--home", str(home), "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*words, "--config", str(config)], stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    ) as server:
        assert server.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", server.stderr.readline())
        assert found is not None
        body, when = json.dumps(PAID).encode(), int(time.time())
        digest = hmac.new(SECRETS["stripe"].encode(), f"{when}.".encode() + body, hashlib.sha256).hexdigest()
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{found[0]}/v1/events/stripe", data=body, method="POST",
            headers={"Content-Type": "application/json", "Stripe-Signature": f"t={when},v1={digest}"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - our own server
            assert 200 == answer.status
        assert "done" in server.stderr.readline()
        server.send_signal(signal.SIGTERM)
        assert (0, "Stopped") == (server.wait(timeout=20), server.stderr.read()[:7])
    assert 1 == len(issuer.register.entitlements())


# -- the manual -------------------------------------------------------------------------------------------------------


def test_every_setting_of_a_source_is_in_the_manual() -> None:
    told = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", SECTION, re.MULTILINE))))
    known = {"secret_file", "secret_env", *(name for custom in CUSTOMS.values() for name in custom.names)}
    assert set() == known - told


def test_every_source_has_its_route_in_the_manual() -> None:
    assert {f"/v1/events/{name}" for name in CUSTOMS} <= set(re.findall(r"`(/v1/events/\w+)`", SECTION))


def test_the_manuals_configuration_is_accepted(tmp_path: Path) -> None:
    example = re.findall(r"^```toml\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)[0]
    assert tomllib.loads(example)
    (tmp_path / "intake.toml").write_text(example)
    (tmp_path / "stripe.secret").write_text("x")
    read = read_settings(tmp_path / "intake.toml", {"ZUORA_PASSWORD": "y"})
    assert ({"stripe", "zuora"}, 4) == (set(read.sources), len(read.skus))


@pytest.mark.parametrize("source", ["generic", "zuora"])
def test_the_manuals_events_are_understood(source: str, config: Path) -> None:
    examples = re.findall(r"^```json\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    body = examples[0 if source == "generic" else 1].encode()
    (event,) = ADAPTERS[source].events(body, "application/json")
    assert "Started" == type(ADAPTERS[source].fact(event, read_settings(config).sources[source])).__name__
