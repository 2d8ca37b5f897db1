"""``lls setup`` beside a service manager: ports that the service may have, and what is said while it starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lls.cli import setup
from lls.issuer import Issuer
from tests.vendor import NOW

if TYPE_CHECKING:
    from tests.cli.conftest import Daemon, Lls

GRANTED = "cap_net_bind_service"


class Machine:
    """A booted machine, as far as ``lls setup`` asks: a ``systemctl`` that notes what it was told."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.told = root, root / "told"
        monkeypatch.setattr(setup, "SYSTEMD", root)
        monkeypatch.setenv("PATH", f"{root}:{os.environ['PATH']}")
        with Issuer.create(root / "vendor", now=NOW, passphrase=None) as issuer:
            (root / "stick.llskeys").write_text(issuer.keyring.newest.token, "ascii")

    def service(self, *, grants: str = "", starting: str = "true") -> None:
        program = self.root / "systemctl"
        program.write_text(
            f'#!/bin/sh\necho "$@" >>{self.told}\ncase $1 in\nshow) echo "{grants}";;\n*) {starting};;\nesac\n'
        )
        program.chmod(0o755)

    def options(self, *more: str | Path) -> list[str | Path]:
        root = self.root
        return [
            *("--config", root / "lls.toml", "setup", "--yes", "--name", "plant 4", "--state-dir", root / "state"),
            *("--vendor-keys", root / "stick.llskeys", "--admin-socket", root / "admin.sock", *more),
        ]


@pytest.fixture
def machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(folder, monkeypatch)


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "127.0.0.1:443", "[::1]:1023"])
def test_a_port_that_the_service_may_not_have_is_refused_with_those_that_it_may(
    lls: Lls, machine: Machine, listen: str
) -> None:
    machine.service()
    done = lls(*machine.options("--no-start", "--listen", "127.0.0.1:6501", "--listen", listen))
    assert (1, 1) == (done.status, done.err.count("\n"))
    assert f"--listen {listen}: port {listen.rpartition(':')[2]} is not for the service's user" in done.err
    assert "from 1024 to 65535" in done.err
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in done.err
    assert not (machine.root / "lls.toml").exists()


@pytest.mark.parametrize(("listen", "grants"), [("127.0.0.1:443", GRANTED), ("127.0.0.1:1024", "")])
def test_a_port_that_the_service_may_have_is_taken(lls: Lls, machine: Machine, listen: str, grants: str) -> None:
    machine.service(grants=grants)
    done = lls(*machine.options("--no-start", "--listen", listen))
    assert (0, "") == (done.status, done.err)
    assert f'listen = ["{listen}"]' in (machine.root / "lls.toml").read_text("utf-8")


def test_while_the_service_starts_it_is_said_what_is_waited_for(
    lls: Lls, machine: Machine, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLS__SERVER__ADMIN_SOCKET")
    machine.service(starting=f"ln -s {daemon.path} {machine.root}/later.sock")
    daemon.says("GET server", {"license": {"state": "active"}})
    done = lls(*machine.options("--listen", "127.0.0.1:6501", "--admin-socket", machine.root / "later.sock"))
    assert (0, 1) == (done.status, done.err.count("\n")), done.err
    assert "Starting the service (systemctl enable --now lls) and waiting until it answers" in done.err
    assert "enable --now lls\n" == machine.told.read_text()
    assert "The server runs" in done.out
