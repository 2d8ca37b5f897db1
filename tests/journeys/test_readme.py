"""The README's tutorial, typed in three terminals; then the auditor's scripts of docs/formats.md on what it made."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.world import ROOT, environment, free_port, until

START_SECONDS = 30.0
BLOCK_SECONDS = 90.0
STOP_SECONDS = 20.0

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a document under ``docs/`` or of the README."""
    return [body for kind, body in FENCED.findall((ROOT / document).read_text("utf-8")) if kind == language]


class Terminal:
    """A shell that stays open, with what it says going to a file."""

    def __init__(self, folder: Path, name: str, environ: dict[str, str]) -> None:
        self.log = folder / f"{name}.terminal"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                ["bash", "-e"],
                cwd=folder,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def says(self, words: str, *, seconds: float) -> None:
        """Wait until it has said that. A shell that ended will say nothing more."""
        until(
            lambda: words in self.said or self.process.poll() is not None,
            seconds=seconds,
            what=f"{words!r} from {self.log.name}: {self.said[-2000:]}",
        )
        assert words in self.said, self.said

    @property
    def said(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def close(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise


class Desk:
    """Three terminals on one folder."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lls-"))  # short: the admin socket's path has a limit
        self._replaced = {"/tmp/loop": str(self.folder / "loop"), "6501": str(free_port())}  # noqa: S108 - the text's
        # The commands of the interpreter that runs this test, before any others.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environ = {**environment(), "PATH": path}
        self.first = Terminal(self.folder, "first", self._environ)
        self.others: dict[str, Terminal] = {}
        self._steps = 0

    def follow(self, tutorial: list[str]) -> None:
        for block in tutorial:
            text = self._mine(block)
            if block.startswith("# second terminal"):
                self._open("second", text).says("listening", seconds=START_SECONDS)
                # The admin socket is the last door to open.
                socket = self.folder / "loop" / "site" / "admin.sock"
                until(socket.exists, seconds=START_SECONDS, what="admin socket")
            elif block.startswith("# third terminal"):
                self._open("third", text).says("Holding a seat", seconds=START_SECONDS)
            else:
                self._first(text)
                if "lls lease list" in block:
                    self._press_enter()

    def _mine(self, block: str) -> str:
        lines = [line for line in block.splitlines() if not line.startswith(("make ", ". .venv"))]
        text = "\n".join(lines)
        for theirs, ours in self._replaced.items():
            text = text.replace(theirs, ours)
        return text

    def _first(self, text: str) -> None:
        self._steps += 1
        self.first.type(f"{text}\necho step {self._steps} done\n")
        self.first.says(f"step {self._steps} done", seconds=BLOCK_SECONDS)

    def _open(self, name: str, text: str) -> Terminal:
        self.others[name] = Terminal(self.folder, name, self._environ)
        self.others[name].type(f"{text}\n")
        return self.others[name]

    def _press_enter(self) -> None:
        self.others["third"].type("\n")
        assert self.others["third"].process.stdin is not None
        self.others["third"].process.stdin.close()
        assert 0 == self.others["third"].process.wait(STOP_SECONDS), self.others["third"].said

    def close(self) -> None:
        for terminal in (self.first, *self.others.values()):
            terminal.close(signal.SIGTERM)
        shutil.rmtree(self.folder)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    try:
        yield desk
    finally:
        desk.close()


def test_the_tutorial_works_as_it_is_written_and_an_auditor_can_check_what_it_made(desk: Desk) -> None:
    desk.follow(blocks("README.md", "sh"))
    said = desk.first.said
    for promised in ("No problems.", "The bundle is applied.", "floating", "is imported.", "The chain holds"):
        assert promised in said
    assert "listening" in desk.others["second"].said
    audit(desk.folder)


def audit(folder: Path) -> None:
    """Run the scripts of docs/formats.md, which use nothing of ours."""
    desk = folder / "audit"
    shutil.copytree(folder / "loop" / "stick", desk)
    shutil.copy(folder / "loop" / "vendor" / "issuer" / "keys" / "report.pem", desk)
    scripts = {re.match(r"# (\w+\.py)", text)[1]: text for text in blocks("docs/formats.md", "python")}  # type: ignore[index]
    assert {"report.py", "chain.py", "keys.py"} == set(scripts)
    for name in ("report.py", "chain.py", "keys.py"):
        (desk / name).write_text(scripts[name], "utf-8")
        done = subprocess.run(
            [sys.executable, name], cwd=desk, capture_output=True, text=True, timeout=BLOCK_SECONDS, check=False
        )
        assert 0 == done.returncode, done.stderr
        if name == "report.py":
            shutil.copy(desk / "opened" / "journal.ndjson", desk)


def test_getting_started_types_what_the_readme_types() -> None:
    assert blocks("README.md", "sh") == blocks("docs/getting-started.md", "sh")
