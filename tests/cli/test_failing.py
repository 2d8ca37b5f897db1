"""How commands fail: the right number, one sentence that helps, and never a traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lls import __version__
from tests.vendor import Vendor

if TYPE_CHECKING:
    from tests.cli.conftest import Daemon, Lls

PROGRAM = [sys.executable, "-c", "from lls.cli import main; main()"]

TALKING = [
    "server show",
    "lease list",
    "lease release x --reason y",
    "entitlement list",
    "bundle list",
    "report list",
    "report preview",
    "denials",
    "usage",
    "journal verify",
    "journal tail",
    "report export -o {folder}/x",
    "server request -o {folder}/y",
]


@pytest.mark.parametrize("command", TALKING)
def test_without_a_daemon_every_command_ends_with_three_and_names_the_socket(
    lls: Lls, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("LLS__SERVER__ADMIN_SOCKET", str(folder / "admin.sock"))
    shown = lls(*command.format(folder=folder).split())
    assert (3, "", 1) == (shown.status, shown.out, shown.err.count("\n"))
    assert f"No license server answers at {folder}/admin.sock: is it running?" in shown.err
    assert "systemctl status lls" in shown.err
    assert [] == list(folder.iterdir())


def test_a_socket_that_a_dead_daemon_left_over_is_as_good_as_none(
    lls: Lls, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "admin.sock"))
    monkeypatch.setenv("LLS__SERVER__ADMIN_SOCKET", str(folder / "admin.sock"))
    shown = lls("lease", "list")
    assert (3, True) == (shown.status, "is it running?" in shown.err)


def test_a_socket_of_another_group_says_which_group(lls: Lls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_self: socket.socket, _path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lls.cli.admin.socket.socket.connect", refused)
    shown = lls("lease", "list")
    assert (3, True) == (shown.status, "group lls-admin" in shown.err)


def test_a_path_that_no_socket_can_have_is_said(lls: Lls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLS__SERVER__ADMIN_SOCKET", "/" + "x" * 200)
    shown = lls("lease", "list")
    assert (3, True) == (shown.status, "check admin_socket" in shown.err)


def test_a_daemon_that_dies_in_between_is_out_of_reach(lls: Lls, daemon: Daemon) -> None:
    daemon.says("GET leases", deaf=True)
    daemon.says("GET server", {"name": "x" * 1000}, cut_at=10)
    for command in ("lease list", "server show"):
        shown = lls(*command.split())
        assert (3, "", True) == (shown.status, shown.out, "broke before the answer was whole" in shown.err)


def test_a_daemon_that_never_answers_is_not_waited_for_for_ever(
    lls: Lls, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lls.cli.admin.ANSWER_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        path = daemon.path.with_name("silent.sock")
        silent.bind(str(path))
        silent.listen()
        monkeypatch.setenv("LLS__SERVER__ADMIN_SOCKET", str(path))
        shown = lls("lease", "list")
    assert (3, True) == (shown.status, "gives no answer" in shown.err)


@pytest.mark.parametrize(
    ("status", "code", "fields", "added"),
    [
        (404, "unknown_lease", {}, "No such thing. [unknown_lease]"),
        (
            503,
            "not_primary",
            {"primary": "https://b:6501"},
            "No such thing. The primary is https://b:6501. [not_primary]",
        ),
        (403, "forbidden", {}, ". [forbidden]"),  # the vendor's terms forbid, too: the daemon says who may
        (401, "unauthenticated", {}, "group lls-admin. [unauthenticated]"),
        (409, "no_seat", {"remedy": "Buy one."}, "No such thing. Buy one. [no_seat]"),
        (503, "store_down", {"retry_after_seconds": 1}, "No such thing. [store_down]"),
    ],
)
def test_a_refusal_is_its_detail_and_its_code(
    *, lls: Lls, daemon: Daemon, status: int, code: str, fields: dict[str, object], added: str
) -> None:
    daemon.refuses("GET leases", status, code, "No such thing.", **fields)
    shown = lls("lease", "list")
    assert (1, "", True) == (shown.status, shown.out, shown.err.endswith(f"{added}\n"))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"x"', b"{}", b"\xff"])
def test_nonsense_from_the_daemon_is_a_failure_not_a_traceback(lls: Lls, daemon: Daemon, body: bytes) -> None:
    daemon.says("GET leases", body=body, status=500)
    daemon.says("GET leases", body=body if body != b"{}" else b"[]", status=200)
    assert (
        "lls: The license server failed with HTTP 500 and no reason; see `journalctl -u lls`.\n"
        == lls("lease", "list").err
    )
    shown = lls("lease", "list")
    assert (1, "", True) == (shown.status, shown.out, "systemctl restart lls" in shown.err)


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"seq":"1"}', b'{"seq":0}'])
def test_a_journal_line_that_makes_no_sense_ends_the_tail(lls: Lls, daemon: Daemon, line: bytes) -> None:
    daemon.says("GET server", {"writership": {"seq": 1}})
    daemon.says("GET journal", body=line + b"\n")
    shown = lls("journal", "tail")
    assert (1, "", 1) == (shown.status, shown.out, shown.err.count("\n"))


@pytest.mark.parametrize(
    "command",
    [
        "lease release x",
        "lease release x --reason",
        "lease release a/b --reason x",
        "bundle import",
        "server request",
        "leese list",
        "usage --bucket week",
        "usage --csv --json",
        "usage --what-if seats=5",
        "usage --what-if seats=5 --product",
        "usage --what-if 5 --product cad",
        "usage --what-if seats=-1 --product cad",
        "usage --what-if seats=1.5 --product cad",
        "usage --what-if seats=99999999999 --product cad",
        "usage --what-if seats=5 --product cad --csv",
        "usage --what-if seats=5 --product cad --bucket day",
        "usage --what-if seats=5 --product cad --from 2026-11-02 --to 2026-11-01",
        "usage --product cad",
        "usage --from tomorrow",
        "usage --from 2026-11-02 --to 2026-11-01",
        "denials --since 99999x",
        "denials --since 999999w",
        "journal tail -n -1",
        "report export -o x --report r --pseudonymise",
        "report export -o x --report ../x",
        "--no-such-option",
    ],
)
def test_wrong_usage_ends_with_two(lls: Lls, daemon: Daemon, command: str) -> None:
    shown = lls(*command.split())
    assert (2, "", []) == (shown.status, shown.out, daemon.heard)
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501])
def test_a_release_needs_a_reason(lls: Lls, daemon: Daemon, reason: str) -> None:
    assert 2 == lls("lease", "release", "x", "--reason", reason).status
    assert [] == daemon.heard


def test_settings_that_are_wrong_are_one_sentence(lls: Lls, folder: Path) -> None:
    file = folder / "lls.toml"
    file.write_text("[server]\nnme = 'x'\n")
    for command in (("lease", "list"), ("serve",), ("config", "check")):
        shown = lls("--config", file, *command)
        assert (1, f"lls: {file}: [server] nme: there is no such setting; did you mean name?\n") == (
            shown.status,
            shown.err,
        )
    assert (1, True) == (
        (missing := lls("--config", folder / "no", "serve")).status,
        "there is no such file" in missing.err,
    )


def test_the_settings_are_named_by_option_before_environment(
    lls: Lls, daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLS__SERVER__ADMIN_SOCKET")
    (folder / "a").write_text(f'[server]\nadmin_socket = "{daemon.path}"\n')
    (folder / "b").write_text('[server]\nadmin_socket = "/no/such"\n')
    daemon.says("GET leases", {"leases": []})
    monkeypatch.setenv("LLS_CONFIG", str(folder / "b"))
    assert [3, 0] == [lls("lease", "list").status, lls("--config", folder / "a", "lease", "list").status]


def test_the_version_and_the_help_need_neither_settings_nor_daemon(lls: Lls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLS_CONFIG", "/no/such")
    assert (0, f"lls {__version__}\n") == ((shown := lls("--version")).status, shown.out)
    help_ = lls("--help")
    assert 0 == help_.status
    nouns = [
        "serve",
        "server",
        "bundle",
        "entitlement",
        "lease",
        "report",
        "receipt",
        "journal",
        "config",
        "denials",
        "usage",
        "demo",
        "run",
    ]
    assert [] == [noun for noun in nouns if f"\n  {noun} " not in help_.out]
    assert "-- CMD" in lls("run", "--help").out


def test_a_reader_that_has_enough_is_no_failure_to_talk_about(daemon: Daemon) -> None:
    daemon.says("GET leases", {"leases": [{"lease_id": "x" * 100}] * 5_000})
    with subprocess.Popen([*PROGRAM, "lease", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.read(10)
        started.stdout.close()
        assert b"" == started.stderr.read()


def test_what_a_list_does_not_need_is_not_loaded(daemon: Daemon) -> None:
    daemon.says("GET leases", {"leases": [{"lease_id": "x"}]})
    script = (
        "import sys, atexit; from lls.cli import main\n"
        "heavy = ('rich', 'aiohttp', 'cryptography', 'lls.daemon', 'asyncio')\n"
        "atexit.register(lambda: print([one for one in heavy if one in sys.modules]))\n"
        "main()"
    )
    ended = subprocess.run([sys.executable, "-c", script, "lease", "list"], capture_output=True, check=True, timeout=60)
    assert ended.stdout.endswith(b"\n[]\n")


@pytest.mark.parametrize(
    ("words", "option"),
    [(["--server", "https://127.0.0.1:1"], "--vendor-keys"), (["--vendor-keys", "{keys}"], "--server URL")],
)
def test_what_lls_run_misses_is_told_as_an_option(
    lls: Lls, folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], option: str
) -> None:
    for name in ("LLS_SERVER", "LLS_VENDOR_KEYS"):
        monkeypatch.delenv(name, raising=False)
    (folder / "keys").write_text(Vendor().key_sets[-1], "ascii")
    shown = lls("run", "--product", "cad", *(word.format(keys=folder / "keys") for word in words), "--", "true")
    assert (2, True) == (shown.status, f"give {option}" in shown.err), shown.err
