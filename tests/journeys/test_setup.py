"""A stranger sets a server up: unattended, at a terminal, broken off and typed again."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lls.issuer import Issuer
from lls.signed.request import read_request
from tests.journeys.world import Site, environment


def now() -> datetime:
    return datetime.now(UTC)


PASSWORD = "correct horse battery staple"


@pytest.fixture
def bare(site: Site) -> Site:
    """A machine with the package and the vendor's key set on a stick; no settings."""
    site.open_vendor()
    site.keys.rename(site.root / "stick.llskeys")
    site.config.unlink()
    return site


def options(site: Site, *more: str | Path) -> list[str | Path]:
    return [
        "setup",
        *("--name", "plant 4", "--listen", f"127.0.0.1:{site.port}", "--vendor-keys", site.root / "stick.llskeys"),
        *("--state-dir", site.state, "--admin-socket", site.socket, "--request", site.root / "site.llsreq"),
        *more,
    ]


def typed(site: Site, words: list[str | Path], *, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lls", "--config", str(site.config), *map(str, words)],
        cwd=site.root,
        env=environment(),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_unattended_setup_is_typed_twice_and_ends_with_a_request(bare: Site) -> None:
    words = options(bare, "--yes", "--no-start", "--admin", "ann", "--invite")
    first = typed(bare, words)
    assert 0 == first.returncode, first.stderr
    assert f"lls --config {bare.config} serve" in first.stdout
    settings = tomllib.loads(bare.config.read_text("utf-8"))
    assert ("plant 4", True) == (settings["server"]["name"], settings["admin"]["http"])
    assert bare.keys.exists()
    assert 0 == typed(bare, ["config", "check"]).returncode

    bare.start()
    second = typed(bare, words)
    assert 0 == second.returncode, second.stderr
    assert "are kept" in second.stdout
    assert "one-time token" in second.stdout
    assert "lls bundle import FILE" in second.stdout
    with Issuer(bare.vendor, now=now()) as issuer:
        server = issuer.register_server((bare.root / "site.llsreq").read_bytes(), now=now())
    assert "plant 4" == server.name
    assert read_request((bare.root / "site.llsreq").read_bytes()).fingerprint in second.stdout, "for the telephone"

    third = typed(bare, [*words, "--json"])
    told = json.loads(third.stdout)
    assert (True, None, None) == (told["running"], told["invitation"], told["administrator"])
    assert str(bare.root / "site.llsreq") == told["request"]


def test_a_password_comes_by_standard_input_and_never_by_an_argument(bare: Site) -> None:
    typed(bare, options(bare, "--yes", "--no-start"))
    bare.start()
    done = typed(bare, ["setup", "--yes", "--admin", "ann"], given=f"{PASSWORD}\n")
    assert 0 == done.returncode, done.stderr
    assert ["ann"] == [one["name"] for one in bare.admin("GET", "/v1/admin/users")["users"]]
    assert not [line for line in bare.log if PASSWORD in line]
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--vendor-keys", "nothing.llskeys"], "there is no such file"),
        (["--vendor-keys", "notes.txt"], "is no key set"),
        (["--listen", "nowhere"], "is not host:port"),
        (["--name", "n" * 101], "name must have"),
        (["--tls", "files", "--tls-cert", "notes.txt", "--tls-key", "b"], "b: there is no such file"),
        (["--tls", "proxy", "--tls-cert", "notes.txt"], "cannot be read"),
        (["--admin-network", "everywhere", "--admin", "ann"], "everywhere"),
    ],
)
def test_a_wrong_answer_leaves_nothing_behind(bare: Site, more: list[str], sentence: str) -> None:
    (bare.root / "notes.txt").write_text("hello", "ascii")
    done = typed(bare, options(bare, "--yes", "--no-start", *more))
    assert 1 == done.returncode
    assert sentence in done.stderr
    assert 1 == done.stderr.count("\n")
    assert not bare.config.exists()
    assert not bare.keys.exists()


def test_another_key_set_never_takes_the_place_of_the_anchor(bare: Site) -> None:
    words = options(bare, "--yes", "--no-start")
    assert 0 == typed(bare, words).returncode
    anchor = bare.keys.read_bytes()
    with Issuer.create(bare.root / "other", now=now(), passphrase=None) as issuer:
        (bare.root / "stick.llskeys").write_text(issuer.keyring.newest.token, "ascii")
    done = typed(bare, [*words, "--force"])
    assert 1 == done.returncode
    assert "anchor of all trust" in done.stderr
    assert anchor == bare.keys.read_bytes()


def test_settings_that_are_there_are_put_aside_only_if_wanted(bare: Site) -> None:
    bare.config.write_text(f'[server]\nname = "old"\n[trust]\nkeys = "{bare.keys}"\n', "utf-8")
    words = options(bare, "--yes", "--no-start")
    assert "are kept" in typed(bare, words).stdout
    assert "old" in bare.config.read_text("utf-8")
    assert 0 == typed(bare, [*words, "--force"]).returncode
    assert "plant 4" == tomllib.loads(bare.config.read_text("utf-8"))["server"]["name"]
    (aside,) = bare.config.parent.glob("lls.toml.*.bak")
    assert "old" in aside.read_text("utf-8")


def test_other_settings_of_a_server_that_runs_wait_for_its_restart(bare: Site) -> None:
    """Its own address is taken, by itself; and what was written is not in force yet."""
    assert 0 == typed(bare, options(bare, "--yes", "--no-start")).returncode
    bare.start()
    words = [word for word in options(bare, "--yes", "--force") if word not in ("--listen", f"127.0.0.1:{bare.port}")]
    same = typed(bare, options(bare, "--yes", "--force"))
    assert (0, False) == (same.returncode, "settings of before: systemctl" in same.stdout), same.stderr
    done = typed(bare, words)
    assert 0 == done.returncode, done.stderr
    assert "Next: restart the server, which still goes by the settings of before" in done.stdout


class Terminal:
    """A person at a terminal: reads what stands there, types an answer."""

    def __init__(self, words: list[str | Path], folder: Path) -> None:
        self.read = ""
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(  # noqa: S606 - our own program
                sys.executable, [sys.executable, "-m", "lls", *map(str, words)], {**environment(), "TERM": "dumb"}
            )

    def answer(self, question: str, words: str, *, hidden: bool = False) -> None:
        self._until(question)
        while hidden and termios.tcgetattr(self._end)[3] & termios.ECHO:  # what is typed before is thrown away
            time.sleep(0.01)
        os.write(self._end, f"{words}\n".encode())

    def _until(self, question: str) -> None:
        end = time.monotonic() + 30
        while question not in self.read:
            assert time.monotonic() < end, self.read
            if not self._more():
                raise AssertionError(self.read)
        self.read = self.read.partition(question)[2]

    def _more(self) -> bool:
        ready, _, _ = select.select([self._end], [], [], 1)
        if not ready:
            return True
        try:
            read = os.read(self._end, 4096).decode()
        except OSError:
            return False
        self.read += read
        return bool(read)

    def ended(self) -> tuple[int, str]:
        while self._more():
            pass
        os.close(self._end)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), self.read


def test_at_a_terminal_it_asks_and_a_wrong_answer_is_asked_again(bare: Site) -> None:
    words: list[str | Path] = [
        "--config",
        bare.config,
        "setup",
        "--no-start",
        "--state-dir",
        bare.state,
        "--admin-socket",
        bare.socket,
    ]
    desk = Terminal(words, bare.root)
    desk.answer("Name of this server", "plant 4")
    desk.answer("TLS certificate", "mine")
    desk.answer("must be one of", "self")
    desk.answer("Address and port", f"127.0.0.1:{bare.port}")
    desk.answer("Key set of your vendor", "nowhere.llskeys")
    desk.answer("there is no such file", "stick.llskeys")
    desk.answer("First administrator", "")
    status, said = desk.ended()
    assert 0 == status, said
    assert "type lls setup again" in said
    bare.start()
    again = Terminal(["--config", bare.config, "setup", "--admin", "ann"], bare.root)
    again.answer("Password", PASSWORD, hidden=True)
    again.answer("Again", PASSWORD, hidden=True)
    status, said = again.ended()
    assert 0 == status, said
    assert "ann may administer" in said
    assert PASSWORD not in said
    assert (bare.root / "plant 4.llsreq").exists()
