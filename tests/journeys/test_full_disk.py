"""A real file system that fills up to the last byte: nobody is thrown out, nothing is damaged, it heals by itself."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.world import Asked, Site, until

LUCK = random.Random(11)
SIZE_MIB = 12
NAMESPACE = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={SIZE_MIB}m tmpfs "$0" && exec "$@"']


def _may_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    probe = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _may_mount(), reason="only root may mount a small file system")


class SmallSite(Site):
    """A site whose state folder is a file system of its own, seen by its daemon only."""

    def start(self) -> None:
        self.state.mkdir(exist_ok=True)
        process = self.spawn(before=[*NAMESPACE, str(self.state)])
        until(lambda: process.poll() is not None or self.is_ready(), seconds=30, what="ready", log=self.log)
        assert process.poll() is None, "\n".join(self.log)
        # Clients find the certificate where they always look.
        if not (self.state / "tls.crt").exists():
            (self.state / "tls.crt").write_bytes((self.inside / "tls.crt").read_bytes())

    @property
    def inside(self) -> Path:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root{self.state}")

    def fill(self) -> None:
        """Until not a byte is left."""
        with (self.inside / "filler").open("ab", buffering=0) as file:
            for piece in (1 << 20, 1 << 12, 1):
                while True:
                    try:
                        file.write(b"x" * piece)
                    except OSError:
                        break

    def empty(self) -> None:
        (self.inside / "filler").unlink()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SmallSite]:
    made = SmallSite(tmp_path)
    with made.config.open("a") as settings:
        settings.write("[disk]\nwarn_mib = 6\nstop_mib = 4\nreserve_mib = 1\n")
    try:
        yield made
    finally:
        made.close()


def test_a_disk_that_fills_up_to_the_last_byte_costs_nobody_a_seat(site: SmallSite) -> None:
    site.licensed(quantity=5, lease_seconds=4)
    https = site.https()
    sitting, leaving = Asked.new(LUCK), Asked.new(LUCK)
    assert [201, 201] == [https.checkout(one).status for one in (sitting, leaving)]
    until((site.inside / "lls.reserve").exists, seconds=10, what="set aside", log=site.log)
    site.fill()
    end = time.monotonic() + 8  # longer than lease and grace together
    refused = set()
    while time.monotonic() < end:
        answer = https.checkout(Asked.new(LUCK))
        refused.add((answer.status, answer.code))
        assert 200 == https.heartbeat(sitting).status
        https.heartbeat(leaving)
        time.sleep(0.3)
    assert {(503, "store_down")} == refused
    until(lambda: not (site.inside / "lls.reserve").exists(), seconds=40, what="given up", log=site.log)

    def returned() -> bool:
        assert 200 == https.heartbeat(sitting).status
        return https.checkin(leaving).status == 204

    until(returned, seconds=20, what="returned on a full disk", log=site.log)
    answer = https.checkout(Asked.new(LUCK))
    assert (503, "store_down") == (answer.status, answer.code), "what room is left is for what gives back"
    site.empty()
    newcomer = Asked.new(LUCK)

    def granted() -> bool:
        assert 200 == https.heartbeat(sitting).status
        return https.checkout(newcomer).status in (200, 201)

    until(granted, seconds=45, what="granting again", log=site.log)
    site.verify_journal()
    kinds = [line["kind"] for line in site.journal()]
    assert (3, 1, 0) == (kinds.count("Granted"), kinds.count("Returned"), kinds.count("Expired"))
    until((site.inside / "lls.reserve").exists, seconds=40, what="set aside again", log=site.log)
    assert 0 == site.stop()
    events = " ".join(site.log)
    assert [] == [event for event in ("disk_full", "disk_reserve_given_up", "disk_has_room") if event not in events]
