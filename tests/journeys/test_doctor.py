"""``lls doctor`` as it is typed: with the server, without it, and when something is wrong."""

from __future__ import annotations

import json
import random
import socket
import sqlite3
from typing import Any

from tests.journeys.world import Asked, Site


def examined(site: Site, *words: str, status: int = 0) -> dict[str, dict[str, Any]]:
    answer = json.loads(site.lls("doctor", *words, "--json", status=status).stdout)
    return {one["check"]: one for one in answer["findings"]}


def test_the_doctor_says_the_same_of_a_server_that_runs_and_of_one_that_rests(site: Site) -> None:
    site.licensed(lease_seconds=60)
    running = examined(site, "--full")
    assert {"server", "store", "journal", "clock", "licence", "report", "machine", "port", "files"} <= set(running)
    assert "answers" in running["port"]["said"]
    assert 0 == site.stop()
    resting = examined(site, "--full")
    assert "warn" == resting["server"]["state"]
    same = ["journal", "licence", "report", "machine", "vendor keys", "keys", "tls", "permissions"]
    assert [running[check]["state"] for check in same] == [resting[check]["state"] for check in same]
    assert [running[check]["said"] for check in ("licence", "machine")] == [
        resting[check]["said"] for check in ("licence", "machine")
    ]
    site.start()  # the look has left everything as it was
    site.verify_journal()


def test_the_doctor_finds_a_journal_that_was_changed_while_the_server_was_down(site: Site) -> None:
    site.licensed(lease_seconds=60)
    assert 201 == site.https().checkout(Asked.new(random.Random(1))).status
    assert 0 == site.stop()
    with sqlite3.connect(site.state / "lls.sqlite3") as thief:
        thief.execute("UPDATE journal SET line = replace(line, 'Installed', 'installed') WHERE seq = 1")
    thief.close()
    assert "fail" == examined(site, "--full", status=1)["journal"]["state"]
    with sqlite3.connect(site.state / "lls.sqlite3") as thief:
        thief.execute("UPDATE writer SET head = replace(head, 'a', 'b')")
    thief.close()
    assert "does not fit the head" in examined(site, status=1)["start"]["said"]


def test_the_doctor_finds_a_stranger_at_our_port_and_keys_that_are_open(site: Site) -> None:
    site.licensed(lease_seconds=60)
    assert 0 == site.stop()
    (site.state / "keys" / "site.key").chmod(0o644)
    with socket.socket() as other:
        other.bind(("127.0.0.1", site.port))
        other.listen()
        done = site.lls("doctor", status=1)
    assert "FAIL  port" in done.stdout
    assert "FAIL  keys" in done.stdout
    assert "→" in done.stdout
    assert "failed; what to do stands above." in done.stderr


def test_the_doctor_says_what_a_settings_file_has_wrong(site: Site) -> None:
    site.config.write_text("[server]\nlistne = []\n")
    assert "listen" in examined(site, status=1)["settings"]["said"]
