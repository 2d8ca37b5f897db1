"""``lls run`` with real programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lls.cli.run import OnLoss, run
from tests.client.fakes import FakeServer, Vendor


def start(server: FakeServer, vendor: Vendor, program: str, *, on_loss: OnLoss = OnLoss.TTL) -> subprocess.Popen[bytes]:
    script = (
        "import sys; from lls.cli.run import run, OnLoss;"
        "sys.exit(run([sys.executable,'-uc',sys.argv[3]],product='cad',servers=[sys.argv[1]],"
        "vendor_keys=sys.argv[2],on_loss=OnLoss(sys.argv[4])))"
    )
    command = [sys.executable, "-c", script, server.url, vendor.first, program, on_loss]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def line(program: subprocess.Popen[bytes]) -> bytes:
    assert program.stdout is not None
    return program.stdout.readline()


WAIT_FOR_TERM = (
    "import signal,sys,threading\n"
    "signal.signal(signal.SIGTERM, lambda *a: sys.exit(42))\n"
    "print('ready')\n"
    "signal.pause() if len(sys.argv) == 1 else None\n"
)


def test_the_programs_exit_status_is_passed_through_and_the_seat_given_back(server: FakeServer, vendor: Vendor) -> None:
    found = run(
        [sys.executable, "-c", "raise SystemExit(7)"], product="cad", servers=[server.url], vendor_keys=vendor.first
    )
    assert (7, 1, 0) == (found, len(server.leases), len(server.active()))


def test_a_program_that_died_of_a_signal_gives_the_shells_number(server: FakeServer, vendor: Vendor) -> None:
    program = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert 137 == run(program, product="cad", servers=[server.url], vendor_keys=vendor.first)


def test_without_a_seat_the_program_does_not_start(
    server: FakeServer, vendor: Vendor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.seats = 0
    witness = tmp_path / "started"
    program = [sys.executable, "-c", f"open({str(witness)!r}, 'w')"]
    assert 1 == run(program, product="cad", servers=[server.url], vendor_keys=vendor.first)
    assert not witness.exists()
    assert "All seats are taken." in capsys.readouterr().err


def test_wrong_usage_and_a_missing_program_have_their_own_numbers(server: FakeServer, vendor: Vendor) -> None:
    assert 2 == run(["true"], product="cad", servers=["http://lls.example"], vendor_keys=vendor.first)
    assert 127 == run(["/no/such/program"], product="cad", servers=[server.url], vendor_keys=vendor.first)
    assert 0 == len(server.active())


CODE = "Y64E-G6QX-56EW-W1BG"


def test_an_activation_code_comes_from_a_file(server: FakeServer, vendor: Vendor, tmp_path: Path) -> None:
    file = tmp_path / "code"
    file.write_text(f"{CODE}\nwhat somebody noted below it\n")
    options: dict[str, Any] = {"product": "cad", "servers": [server.url], "vendor_keys": vendor.first}
    assert 0 == run(["true"], **options, activation_code_file=file)
    (lease,) = server.leases.values()
    assert CODE == json.loads(lease.content)["activation_code"]


def test_an_activation_code_from_standard_input_leaves_the_rest_to_the_program_and_the_arguments_clean(
    server: FakeServer, vendor: Vendor
) -> None:
    command = [sys.executable, "-m", "lls", "run", "--product", "cad", "--server", server.url]
    environ = {**os.environ, "LLS_VENDOR_KEYS": vendor.first}
    ended = subprocess.run(
        [*command, "--activation-code-file", "-", "--", "cat"],
        input=f"{CODE}\nthe program's own\n",
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
        check=False,
    )
    assert (0, "the program's own\n") == (ended.returncode, ended.stdout), ended.stderr
    assert CODE == json.loads(next(iter(server.leases.values())).content)["activation_code"]
    refused = subprocess.run(
        [*command, "--activation-code", CODE, "--", "cat"], capture_output=True, text=True, timeout=60, check=False
    )
    assert 2 == refused.returncode, "an argument stands in every list of processes"
    assert CODE not in refused.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), (b"", "is no activation code"), (b" \n\n", "is no"), ("Y64É".encode(), "is no")],
)
def test_a_file_without_an_activation_code_is_wrong_usage(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, words: str
) -> None:
    file = tmp_path / "code"
    if content is not None:
        file.write_bytes(content)
    assert 2 == run(["true"], product="cad", servers=[server.url], activation_code_file=file)
    assert 0 == len(server.leases)
    said = capsys.readouterr().err
    assert words in said
    assert 1 == said.count("\n")


def test_signals_reach_the_program(server: FakeServer, vendor: Vendor) -> None:
    with start(server, vendor, WAIT_FOR_TERM) as ours:
        assert b"ready\n" == line(ours)
        ours.send_signal(signal.SIGTERM)
        assert 42 == ours.wait(20)
    assert 0 == len(server.active())


def test_a_seat_taken_back_ends_the_program_at_once_where_that_is_wanted(brisk: FakeServer, vendor: Vendor) -> None:
    with start(brisk, vendor, WAIT_FOR_TERM, on_loss=OnLoss.TERMINATE) as ours:
        assert b"ready\n" == line(ours)
        brisk.end("released")
        assert 42 == ours.wait(20)
        assert b"took the seat back" in ours.communicate(timeout=20)[1]


def test_by_default_the_program_goes_on_for_the_rest_of_the_ttl(brisk: FakeServer, vendor: Vendor) -> None:
    with start(brisk, vendor, WAIT_FOR_TERM) as ours:
        assert b"ready\n" == line(ours)
        brisk.end("released")
        assert 42 == ours.wait(20)
        assert b"goes on for" in ours.communicate(timeout=20)[1]


def test_a_seat_that_came_back_leaves_the_program_alone(brisk: FakeServer, vendor: Vendor) -> None:
    with start(brisk, vendor, WAIT_FOR_TERM) as ours:
        assert b"ready\n" == line(ours)
        brisk.end("expired")
        brisk.until(lambda: 1 == len(brisk.active()))
        calls = len(brisk.lease_calls())
        brisk.until(lambda: len(brisk.lease_calls()) > calls + 25)
        assert ours.poll() is None
        os.kill(ours.pid, signal.SIGTERM)
        assert 42 == ours.wait(20)
    assert threading.main_thread().is_alive()
