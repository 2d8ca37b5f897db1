"""The vendor's tutorial, typed as it is printed, against the server that it starts."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.journeys.test_readme import BLOCK_SECONDS, START_SECONDS, Terminal
from tests.journeys.world import ROOT, environment, free_port, until

TUTORIAL = "docs/vendor-tutorial.md"
PORT = "6501"
STEP = re.compile(r"^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
SAVED = re.compile(r"Save this as `([^`]+)`:\s*\Z")
OURS = re.compile(r"^(?:[A-Z]+=\$\()?(lls(?:-issuer)? )", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is typed, or what is saved under a name."""

    body: str
    saved_as: str | None


def steps() -> list[Step]:
    text = (ROOT / TUTORIAL).read_text("utf-8")
    found = []
    for match in STEP.finditer(text):
        saved = SAVED.search(text[: match.start()])
        assert (match["kind"] == "sh") is (saved is None), match[0]
        found.append(Step(body=match["body"], saved_as=saved[1] if saved else None))
    return found


class Reader:
    """Somebody who does what is written, in two terminals."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lls-"))  # short: the admin socket's path has a limit
        self._theirs = {"/tmp/shop": str(self.folder / "shop"), PORT: str(free_port())}  # noqa: S108 - the text's
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environ = {**environment(), "PATH": path}
        self.first = Terminal(self.folder, "first", self._environ)
        self.second = Terminal(self.folder, "second", self._environ)
        self._done = 0

    def follow(self, tutorial: list[Step]) -> None:
        every_terminal, *rest = (
            Step(body=self._mine(step.body), saved_as=step.saved_as and self._mine(step.saved_as)) for step in tutorial
        )
        for terminal in (self.first, self.second):
            terminal.type(every_terminal.body)
        for step in rest:
            if step.saved_as is not None:
                (self.folder / "shop" / step.saved_as).write_text(step.body, "utf-8")
            elif step.body.startswith("# second terminal"):
                self._serve(step.body)
            else:
                self._type(step.body)

    def _mine(self, text: str) -> str:
        for theirs, mine in self._theirs.items():
            text = text.replace(theirs, mine)
        return text

    def _serve(self, text: str) -> None:
        self.second.type(text)
        self.second.says("listening", seconds=START_SECONDS)
        # The admin socket is the last door to open.
        until((self.folder / "shop" / "site" / "admin.sock").exists, seconds=START_SECONDS, what="admin socket")

    def _type(self, text: str) -> None:
        self._done += 1
        self.first.type(f"{text}echo step {self._done} done\n")
        self.first.says(f"step {self._done} done", seconds=BLOCK_SECONDS)

    def close(self) -> None:
        for terminal in (self.first, self.second):
            terminal.close(signal.SIGTERM)
        shutil.rmtree(self.folder)


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    try:
        yield reader
    finally:
        reader.close()


def test_the_way_round_takes_under_fifteen_commands() -> None:
    typed = [line for step in steps() if step.saved_as is None for line in OURS.findall(step.body)]
    assert (14, 9) == (len(typed), typed.count("lls-issuer "))


def test_the_tutorial_ends_with_billing_lines_when_it_is_typed_as_it_is_printed(reader: Reader) -> None:
    reader.follow(steps())
    said = reader.first.said
    for promised in ("2 added", "Registered site-a", "SO-1001: for Example Works, fulfilled.", "the chain"):
        assert promised in said
    head = "line_id,period,"
    billed = list(csv.DictReader(io.StringIO(head + said.partition(head)[2])))
    lines = {line["meter"]: line for line in billed if line["sku"] == "CAD-PRO-1Y"}
    assert ("C-42", "Example Works", "1") == tuple(
        lines["seats_peak"][column] for column in ("account_ref", "customer", "quantity")
    )
    assert 0 < float(lines["seat_hours"]["quantity"]) < 1
    shop = reader.folder / "shop"
    assert {"letter.txt", "letter.html", "letter.eml", "delivery.json"} < {
        file.name for file in (shop / "delivery").iterdir()
    }
    assert "Example Works" in (shop / "delivery" / "letter.txt").read_text("utf-8")
    assert (shop / "site.llsreceipt").exists()
