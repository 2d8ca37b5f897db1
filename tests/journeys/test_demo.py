"""``lls demo`` as a newcomer types it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lls.demo.meter import Act, Frames
from tests.journeys.world import environment


def begin(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lls", "demo", *map(str, words)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes that live in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_text("utf-8", "replace"))
        except OSError:  # it has ended meanwhile
            continue
    return found


def test_the_whole_story_is_told_and_verified(tmp_path: Path) -> None:
    world = tmp_path / "world"
    with begin("--seconds", "8", "--clients", "20", "--dir", world) as demo:
        told, _ = demo.communicate(timeout=90)
    assert 0 == demo.returncode, told
    for sentence in (
        "kill -9",
        "needs no server",
        "2 seats still away: counted, and lent to nobody else",
        "What the vendor bills",
        "seat_hours",
        "units_peak",
        "Everything was verified.",
    ):
        assert sentence in told
    assert re.search(r"all [1-9]\d* seats? still held", told), "a kill that nobody noticed proves nothing"
    frames = re.search(r"([\d,]+) frames by the clients.*, ([\d,]+) by the journal, ([\d,]+) by the bill", told)
    assert frames, told
    assert "0" != frames[2], "a meter that nobody used proves nothing"
    assert frames[2] == frames[3]
    assert "Traceback" not in told
    assert [] == processes_in(world)
    assert [] == list((world / "laptop" / "seats").glob("*.json"))
    assert 1 == len(list((world / "island" / "seats").glob("*.json")))
    assert (world / "vendor" / "billing.csv").exists()
    assert (world / "stick" / "usage.llsreceipt").exists()


CLOCK_OF_THE_SHOW = r"(^|\s)0:0\d\s"
"""Between blanks: the time of day in a sentence (00:05 UTC) is another clock."""


@pytest.mark.parametrize("after", ["The vendor opens shop", "serve &", CLOCK_OF_THE_SHOW])
def test_ctrl_c_at_any_time_leaves_nothing_behind(after: str, tmp_path: Path) -> None:
    world = tmp_path / "world"
    with begin("--clients", "4", "--dir", world) as demo:
        assert demo.stdout is not None
        told = ""
        for line in demo.stdout:
            told += line
            if re.search(after, line):
                break
        os.kill(demo.pid, signal.SIGINT)
        rest, _ = demo.communicate(timeout=60)
        told += rest
    # In the show it means: close the books. Before it: stop.
    assert demo.returncode == (0 if after == CLOCK_OF_THE_SHOW else 130), told
    assert "Traceback" not in told
    end = time.monotonic() + 5
    while processes_in(world) and time.monotonic() < end:
        time.sleep(0.05)
    assert [] == processes_in(world)


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", "utf-8")
    with begin("--seconds", "1", "--dir", tmp_path) as demo:
        told, _ = demo.communicate(timeout=30)
    assert 1 == demo.returncode
    assert told.startswith("lls demo: ")
    assert 1 == told.count("\n")
    assert ["thesis.txt"] == [path.name for path in tmp_path.iterdir()]


def frames_used(*calls: str) -> Frames:
    """Of calls like ``use a 3: asked told written`` the account; a call that is written is written with its frames."""
    account = Frames()
    for call in calls:
        head, _, happened = call.partition(": ")
        act, request_id, frames = head.split()
        for what in happened.split():
            if what == "asked":
                account.ask(Act(act), request_id, int(frames))
            elif what == "told":
                account.tell(Act(act), request_id, again=False)
            else:
                account.write(Act(act), request_id, int(what.partition("=")[2] or frames))
    return account


@pytest.mark.parametrize(
    ("calls", "billed"),
    [
        ([], 0),
        (["use a 3: asked told written", "use b 4: asked written told"], 7),
        (["use a 3: written asked told"], 3),
        (["use a 3: asked told written", "undo a 3: asked told written"], 0),
        (["use a 3: asked"], 0),
        (["use a 3: asked written"], 3),
    ],
    ids=["nothing", "told", "read before heard", "undone", "never arrived", "answer lost"],
)
def test_frames_that_agree_are_no_problem(calls: list[str], billed: int) -> None:
    assert [] == frames_used(*calls).problems(billed=billed)


@pytest.mark.parametrize(
    ("calls", "billed", "said"),
    [
        (["use a 3: asked told"], 0, "is not in the journal"),
        (["use a 3: asked told", "use b 3: asked written"], 3, "is not in the journal"),
        (["use a 3: asked told written written"], 6, "nobody asked for"),
        (["use a 3: asked written written"], 6, "counted 2 times"),
        (["use a 3: asked told written=4"], 4, "stands in the journal with 4"),
        (["use a 3: written"], 3, "nobody asked for"),
        (["use a 3: asked told written"], 2, "bills 2 frames, and the journal says 3"),
    ],
    ids=["lost", "lost beside another", "twice", "twice unheard", "other amount", "invented", "other bill"],
)
def test_frames_that_differ_are_told(calls: list[str], billed: int, said: str) -> None:
    problems = frames_used(*calls).problems(billed=billed)
    assert 1 == len(problems)
    assert said in problems[0]
