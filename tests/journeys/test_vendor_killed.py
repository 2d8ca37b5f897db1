"""The vendor's own machine loses its power while a home is made."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 6


def issuer(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lls.issuer", "--home", str(home), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_init_that_was_killed_is_simply_typed_again(tmp_path: Path) -> None:
    chance = random.Random(20261121)
    for n in range(ROUNDS):
        home = tmp_path / str(n)
        command = [sys.executable, "-m", "lls.issuer", "--home", str(home), "init", "--no-passphrase"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + 30
            while not home.exists() and time.monotonic() < until and process.poll() is None:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.06))
            process.kill()
        again = issuer(home, "init", "--no-passphrase")
        assert 0 == again.returncode or "holds an issuer already" in again.stderr, again.stderr
        loaded = issuer(home, "catalog", "load", str(home / "catalog.toml"))
        assert 0 == loaded.returncode, loaded.stderr
        assert 0 == issuer(home, "audit", "verify").returncode
