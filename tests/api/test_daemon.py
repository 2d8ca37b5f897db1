"""The daemon's own doors: where it may put its admin socket, and what it says at its start."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest

from lls.config import Config, TlsMode
from lls.daemon import Daemon
from lls.faults import SetupFault
from tests.vendor import Vendor


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a UNIX socket's may have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="lls"))
    previous = os.umask(0o077)  # as serve() has it
    yield path
    os.umask(previous)
    rmtree(path)


def daemon_at(folder: Path, admin_socket: Path) -> Daemon:
    keys = folder / "vendor.llskeys"
    keys.write_text(Vendor().key_sets[0], "ascii")
    plain = Config()
    server = replace(
        plain.server, listen=("127.0.0.1:0",), state_dir=str(folder / "state"), admin_socket=str(admin_socket)
    )
    tls, trust = replace(plain.tls, mode=TlsMode.OFF), replace(plain.trust, keys=str(keys))
    return Daemon(replace(plain, server=server, tls=tls, trust=trust))


async def test_a_file_at_the_place_of_the_admin_socket_is_left_alone(folder: Path) -> None:
    precious = folder / "precious"
    precious.write_text("data")
    with pytest.raises(SetupFault, match=r"server\.admin_socket.* no socket"):
        await daemon_at(folder, precious).start()
    assert "data" == precious.read_text()


async def test_a_socket_that_somebody_listens_on_is_left_alone(folder: Path) -> None:
    path = folder / "taken.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(SetupFault, match="in use"):
            await daemon_at(folder, path).start()
        with socket.socket(socket.AF_UNIX) as still:
            still.connect(str(path))


async def test_a_socket_left_behind_is_replaced_and_missing_folders_can_be_passed(folder: Path) -> None:
    path = folder / "run" / "lls" / "admin.sock"
    for _ in range(2):
        daemon = daemon_at(folder, path)
        await daemon.start()
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert [0o755, 0o755] == [stat.S_IMODE(one.stat().st_mode) for one in (path.parent, path.parent.parent)]
        assert 0o660 == stat.S_IMODE(path.stat().st_mode)
        await daemon.stop()
        assert not path.exists()
        with socket.socket(socket.AF_UNIX) as crashed:
            crashed.bind(str(path))


async def test_a_folder_that_was_there_keeps_its_mode(folder: Path) -> None:
    place = folder / "mine"
    place.mkdir(0o700)
    daemon = daemon_at(folder, place / "admin.sock")
    await daemon.start()
    await daemon.stop()
    assert 0o700 == stat.S_IMODE(place.stat().st_mode)


async def test_a_port_that_is_taken_is_one_sentence(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        daemon = daemon_at(folder, folder / "a.sock")
        daemon.config = replace(daemon.config, server=replace(daemon.config.server, listen=(f"127.0.0.1:{port}",)))
        with pytest.raises(SetupFault, match=rf"127\.0\.0\.1:{port}: Address already in use"):
            await daemon.start()
