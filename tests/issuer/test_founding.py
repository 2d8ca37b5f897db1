"""A home is made whole, or can be made anew: whenever its making was killed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lls.issuer import Issuer
from lls.issuer.files import sync_directory
from lls.issuer.refusals import HomeRefused
from tests.issuer.appliance import NOW

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("keys", ["alone", "several"])
def test_init_killed_at_any_step_on_the_disk_leaves_a_home_that_works_or_can_be_made_anew(
    tmp_path: Path, keys: str
) -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "tests" / "issuer" / "killed_init.py", tmp_path, keys],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert 0 == ran.returncode, ran.stderr
    found = json.loads(ran.stdout)
    assert found["made"] >= 20  # killed before it was there
    assert found["there"] >= 1  # killed behind the rename that decides


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
@pytest.mark.parametrize("at", [1, 2])
def test_init_that_fails_between_its_last_renames_is_simply_typed_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, at: int
) -> None:
    calls = iter(range(1, 100))

    def failing(directory: Path) -> None:
        if next(calls) == at:
            raise failure
        sync_directory(directory)

    monkeypatch.setattr("lls.issuer.founding.sync_directory", failing)
    with pytest.raises((KeyboardInterrupt, HomeRefused)):
        Issuer.create(home, now=NOW, passphrase=None)
    there = (home / "keys").exists()
    with Issuer(home, now=NOW) if there else Issuer.create(home, now=NOW, passphrase=None) as issuer:
        assert (at == 2, 1) == (there, issuer.keyring.newest.version)


def test_a_register_that_was_used_is_never_taken_for_a_half_made_home(issuer: Issuer) -> None:
    keys = issuer.home / "keys"
    keys.rename(issuer.home / "keys.away")
    with pytest.raises(HomeRefused, match="put its keys/ back from the backup"):
        Issuer.create(issuer.home, now=NOW, passphrase=None)
    (issuer.home / "keys.away").rename(keys)
    assert issuer.catalog().offerings


def test_a_new_home_takes_no_catalogue_or_letter_away_that_lay_there(home: Path) -> None:
    home.mkdir()
    (home / "catalog.toml").write_text("mine")
    with Issuer.create(home, now=NOW, passphrase=None):
        assert "mine" == (home / "catalog.toml").read_text()
        assert not list(home.glob(".init*"))
