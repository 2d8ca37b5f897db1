"""What an examination says of the machine: each fault planted, each told with its remedy."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lls.care import machine
from lls.care.findings import Finding, State, failed
from lls.care.machine import examine_machine, examine_paths, examine_process, file_system_of, judged_sync, measured_sync
from lls.config import Backup, Config, Disk, Drop, Journal, Server, Tls, TlsMode
from lls.identity import CREDENTIALS_VARIABLE, load_identity
from lls.tls import make_certificate

NOW = datetime(2026, 11, 21, 7, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder as a first start leaves it."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    load_identity(folder / "keys")
    make_certificate(folder / "tls.crt", folder / "tls.key", names=["127.0.0.1", "site"], now=NOW)
    (folder / "lls.sqlite3").touch(0o600)
    return folder


def config(state: Path, *, disk: Disk | None = None, tls: Tls | None = None) -> Config:
    server = Server(state_dir=str(state), admin_socket=str(state.parent / "admin.sock"), listen=("127.0.0.1:6501",))
    return Config(server=server, disk=disk or Disk(warn_mib=1, stop_mib=0), tls=tls or Tls())


def examined(state: Path, **changes: object) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for one in examine_machine(config(state, **changes), now=NOW):  # type: ignore[arg-type]
        found.setdefault(one.check, []).append(one)
    return found


def unwell(found: dict[str, list[Finding]]) -> dict[str, State]:
    states = {check: one.state for check, several in found.items() for one in several if one.state is not State.OK}
    # The disk and the file system under a test are this machine's own affair.
    return {check: state for check, state in states.items() if check not in ("fsync", "file system")}


def test_a_machine_that_is_well_has_nothing_to_mend(state: Path) -> None:
    found = examined(state)
    assert {} == unwell(found)
    assert {"state folder", "owners", "permissions", "keys", "disk", "fsync", "tls", "entropy"} <= set(found)


@pytest.mark.parametrize(
    ("made", "expected"), [((), []), (("timesync",), [State.WARN]), (("timesync", "timesync/synchronized"), [State.OK])]
)
def test_whether_the_systems_clock_is_kept_is_said_where_it_is_known(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: tuple[str, ...], expected: list[State]
) -> None:
    monkeypatch.setattr(machine, "TIME_SERVICE", tmp_path / "timesync")
    for name in made:
        (tmp_path / name).mkdir()
    assert expected == [one.state for one in examined(state).get("time service", [])]


def test_keys_that_are_handed_over_are_not_missed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (state / "keys").rename(state.parent / "credentials")
    assert "the server has a past" in examined(state)["keys"][0].said
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(state.parent / "credentials"))
    assert State.OK is examined(state)["keys"][0].state


@pytest.mark.parametrize(
    ("harm", "check"),
    [
        (lambda state: state.chmod(0o755), "state folder"),
        (lambda state: (state / "keys" / "signing.pem").chmod(0o640), "keys"),
        (lambda state: (state / "keys" / "site.key").unlink(), "keys"),
        (lambda state: (state / "lls.sqlite3").chmod(0o644), "permissions"),
        (lambda state: (state / "tls.key").write_text("no key"), "tls"),
        (lambda state: (state.parent / "admin.sock").touch(), "admin socket"),
    ],
)
def test_what_is_open_lost_or_damaged_fails_with_advice(
    state: Path, harm: Callable[[Path], object], check: str
) -> None:
    harm(state)
    found = examined(state)
    assert State.FAIL is unwell(found)[check]
    assert failed(one for several in found.values() for one in several)
    assert all(one.advice for several in found.values() for one in several if one.state is not State.OK)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_root_in_the_folder_of_the_service_fails(state: Path) -> None:
    os.chown(state / "lls.sqlite3", 12345, -1)
    (found,) = examined(state)["owners"]
    assert State.FAIL is found.state
    assert "lls.sqlite3" in found.said


def test_a_socket_open_to_all_fails(state: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(state.parent / "admin.sock"))
        (state.parent / "admin.sock").chmod(0o666)
        assert State.FAIL is unwell(examined(state))["admin socket"]
        (state.parent / "admin.sock").chmod(0o660)
        assert {} == unwell(examined(state))


@pytest.mark.parametrize(
    ("free_mib", "state_"),
    [(2000, State.OK), (1024, State.OK), (1023, State.WARN), (128, State.WARN), (127, State.FAIL)],
)
def test_the_disk_is_judged_by_the_settings(
    state: Path, monkeypatch: pytest.MonkeyPatch, free_mib: int, state_: State
) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda _folder: free_mib * 1024 * 1024)
    (found,) = examined(state, disk=Disk())["disk"]
    assert state_ is found.state


@pytest.mark.parametrize(
    ("seconds", "state_"), [(0.000_005, State.WARN), (0.000_03, State.OK), (0.004, State.OK), (0.4, State.WARN)]
)
def test_a_sync_that_is_too_fast_is_as_doubtful_as_one_that_is_too_slow(seconds: float, state_: State) -> None:
    assert state_ is judged_sync(seconds).state


def test_measuring_leaves_no_file(tmp_path: Path) -> None:
    assert 0 < measured_sync(tmp_path)
    assert [] == list(tmp_path.iterdir())


MOUNTS = [
    "1 0 254:0 / / rw - ext4 /dev/vda rw",
    "2 1 0:5 / /run rw,nosuid shared:2 - tmpfs tmpfs rw",
    "3 1 0:6 / /srv/li\\040censes rw - nfs4 nas:/x rw",
    "4 1 0:7 / /srv/local rw - xfs /dev/b rw",
    "5 1 0:8 / /srv/local rw - btrfs /dev/c rw",
    "torn line",
]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/lls", "ext4"),
        ("/run/lls", "tmpfs"),
        ("/runaway", "ext4"),
        ("/srv/li censes/state", "nfs4"),
        ("/srv/local/state", "btrfs"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    assert kind == file_system_of(Path(path), MOUNTS)


@pytest.mark.parametrize(
    ("at", "state_"),
    [
        (NOW, State.OK),
        (NOW + timedelta(days=3640), State.WARN),
        (NOW + timedelta(days=3651), State.FAIL),
        (NOW - timedelta(days=2), State.FAIL),
    ],
)
def test_a_certificate_is_warned_of_before_it_ends(state: Path, at: datetime, state_: State) -> None:
    (found,) = [one for one in examine_machine(config(state), now=at) if one.check == "tls"]
    assert (state_, "127.0.0.1" in found.said) == (found.state, True)


def test_plain_http_is_doubtful_where_others_reach_it(state: Path) -> None:
    assert {} == unwell(examined(state, tls=Tls(mode=TlsMode.OFF)))
    reached = Config(
        server=Server(state_dir=str(state), admin_socket=str(state.parent / "a"), plain_http_off_loopback=True),
        tls=Tls(mode=TlsMode.OFF),
        disk=Disk(warn_mib=1, stop_mib=0),
    )
    (found,) = [one for one in examine_machine(reached, now=NOW) if one.check == "tls"]
    assert State.WARN is found.state


def test_before_the_first_start_nothing_fails(tmp_path: Path) -> None:
    found = examined(tmp_path / "state")
    assert State.FAIL not in {one.state for several in found.values() for one in several}
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("connections", "leases", "environ", "states"),
    [
        (65_000, 100, {}, (State.OK, State.OK)),
        (900, 10, {}, (State.WARN, State.OK)),
        (5_000, 3_000, {}, (State.WARN, State.OK)),
        (65_000, 0, {"INVOCATION_ID": "1"}, (State.OK, State.WARN)),
        (65_000, 0, {"INVOCATION_ID": "1", "WATCHDOG_USEC": "30000000"}, (State.OK, State.OK)),
    ],
)
def test_the_process_is_judged_by_its_limits_and_its_watchdog(
    connections: int, leases: int, environ: dict[str, str], states: tuple[State, State]
) -> None:
    found = examine_process(most_connections=connections, leases=leases, environ=environ)
    assert states == tuple(one.state for one in found)


def test_keys_that_systemd_hands_over_are_not_missed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (state / "keys").rename(state.parent / "credentials")
    (found,) = examined(state)["keys"]
    assert State.WARN is found.state
    assert "first start" not in found.advice, "a start would make no keys in the place of lost ones"
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(state.parent / "credentials"))
    (found,) = examined(state)["keys"]
    assert (State.OK, "systemd hands the server's keys over.") == (found.state, found.said)


def test_folders_and_files_that_the_server_cannot_use_are_told(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so what the system would say to the service's user is put in its place."""
    outside = state.parent / "outside"
    config = Config(
        drop=Drop(folder=str(outside / "drop")),
        backup=Backup(folder=str(state), passphrase_file=str(outside / "passphrase")),
        journal=Journal(archive_dir=str(state / "archive")),
    )
    assert [State.WARN] == [one.state for one in examine_paths(config)], "the passphrase is not there"
    outside.mkdir()
    (outside / "passphrase").touch()
    assert [State.OK] == [one.state for one in examine_paths(config)]
    monkeypatch.setattr(os, "access", lambda place, _mode: not Path(place).is_relative_to(outside))
    assert ["(drop.folder)", "(backup.passphrase_file)"] == [
        word.rstrip(".") for one in examine_paths(config) for word in one.said.split() if word.startswith("(")
    ]
