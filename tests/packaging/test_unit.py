"""The service's unit, by systemd's own judges; and each line of the sandbox with its reason."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from parcel.deb import SCRIPTS

from tests.packaging.stock import ROOT

UNIT = ROOT / "systemd/lls.service"
MOST_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@needs_systemd
def test_the_unit_is_right_and_complete(tmp_path: Path) -> None:
    """The command is put to one that is there: what is installed is the journey's to show."""
    copy = tmp_path / "lls.service"
    copy.write_text(UNIT.read_text("utf-8").replace("=/usr/bin/lls ", "=/bin/true "), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


@needs_systemd
def test_the_sandbox_leaves_no_more_open_than_was_promised() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for lls.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert MOST_EXPOSURE >= float(found[1]), done.stdout


def test_every_line_of_the_sandbox_stands_under_its_reason() -> None:
    """A reason is a comment directly above, or above a row of lines that share it."""
    bare, explained = [], False
    for line in UNIT.read_text("utf-8").partition("# ---- who it is")[2].partition("[Install]")[0].splitlines():
        if line.startswith("#"):
            explained = not line.startswith("# ----")
        elif not line:
            explained = False
        elif not explained:
            bare.append(line)
    assert [] == bare


@pytest.mark.parametrize(
    "script",
    [*(f"packaging/debian/{name}" for name in SCRIPTS), "packaging/install.sh", "packaging/verify.sh", ".ci/run"],
)
def test_the_scripts_are_read_by_the_shell_that_they_name(script: str) -> None:
    first = (ROOT / script).read_text("utf-8").splitlines()[0]
    assert (ROOT / script).stat().st_mode & 0o100
    shell = "bash" if "bash" in first else "sh"
    subprocess.run([shell, "-n", ROOT / script], check=True)


def test_the_container_runs_as_a_user_without_rights_and_says_how_it_is() -> None:
    """No builder is needed to see this; the journey takes its steps in a bare system."""
    lines = (ROOT / "packaging/Containerfile").read_text("utf-8").splitlines()
    last = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM ")) :]
    words = [line.split(maxsplit=1)[0] for line in last if re.match(r"[A-Z]+ ", line)]
    assert {
        "FROM",
        "RUN",
        "COPY",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    } == set(words)
    assert words.index("USER") > words.index("RUN")
    assert "USER 990:990" in last
