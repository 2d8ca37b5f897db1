"""What a stranger builds from: the lock covers everything, and strictness is explained."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCK = (ROOT / "requirements.lock").read_text("utf-8")


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", one)[0].lower().replace("_", "-") for one in requirements}


def test_the_lock_pins_every_dependency_with_its_hashes() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = _names(PROJECT["project"]["dependencies"] + [one for extra in extras.values() for one in extra])
    pinned = re.findall(r"^([a-z0-9-]+)==\S+(?: ; .*)? \\\n    --hash=sha256:[0-9a-f]{64}", LOCK, re.MULTILINE)
    assert set() == wanted - set(pinned) - {"local-license-server"}
    assert len(re.findall(r"^[a-z]", LOCK, re.MULTILINE)) == len(pinned)


def test_the_lock_names_no_index_and_no_machine() -> None:
    assert [] == [line for line in LOCK.splitlines() if "://" in line or line.startswith("-") or " /" in line]


def test_the_build_backend_is_in_the_lock() -> None:
    assert _names(PROJECT["build-system"]["requires"]) <= _names(re.findall(r"^(\S+)==", LOCK, re.MULTILINE))


def test_every_lint_that_is_off_says_why() -> None:
    inside, unexplained = False, []
    for line in (ROOT / "pyproject.toml").read_text("utf-8").splitlines():
        inside = line.startswith("[tool.ruff.lint") if line.startswith("[") else inside
        if inside and re.search(r'"[A-Z]+[0-9]*"[,\]]', line) and not line.startswith("select") and "# " not in line:
            unexplained.append(line)
    assert [] == unexplained
