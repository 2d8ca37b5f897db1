"""Starting, stopping, and what may be wrong around the process: each a sentence, or a service that goes on."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import threading
import time

import pytest

from tests.journeys.world import Answer, Asked, Site, no_longer_than, one_sentence, until

LUCK = random.Random(7)


def waiting(site: Site) -> int:
    (entitlement,) = site.admin("GET", "/v1/admin/entitlements")["entitlements"]
    count: int = entitlement["waiting"]
    return count


def test_sigterm_sends_who_waits_away_and_keeps_who_sits(site: Site) -> None:
    site.licensed(quantity=1, lease_seconds=60)
    https, sitting, standing = site.https(), Asked.new(LUCK), Asked.new(LUCK)
    assert 201 == https.checkout(sitting).status
    answers: list[Answer] = []
    waiter = threading.Thread(target=lambda: answers.append(site.https().checkout(standing, wait=30)), daemon=True)
    waiter.start()
    until(lambda: waiting(site) == 1, seconds=10, what="waiting")
    with no_longer_than(10):
        assert 0 == site.stop()
    waiter.join(10)
    ((status, code),) = [(answer.status, answer.code) for answer in answers]
    assert (503, "draining") == (status, code)
    assert "retry-after" in answers[0].headers
    assert not site.socket.exists()
    site.start()
    assert 200 == site.https().heartbeat(sitting).status
    assert ["Resumed"] == [line["kind"] for line in site.journal() if line["kind"] in ("Resumed", "Expired")][-1:]


def test_sighup_changes_nothing_for_who_sits(site: Site) -> None:
    site.licensed(lease_seconds=60)
    https, asked = site.https(), Asked.new(LUCK)
    assert 201 == https.checkout(asked).status
    for _ in range(3):
        site.signal(signal.SIGHUP)
        assert 200 == https.heartbeat(asked).status
    assert 0 == site.stop()


def test_a_second_daemon_on_the_same_data_is_refused(site: Site) -> None:
    site.licensed(lease_seconds=60)
    first = site.process
    assert first is not None
    try:
        assert "Another daemon" in one_sentence(site.refused_to_start())
    finally:
        site.process = first
    https, asked = site.https(), Asked.new(LUCK)
    assert 201 == https.checkout(asked).status
    assert site.is_ready(), "the admin socket is still the first one's"


def test_missing_vendor_keys_are_one_sentence(site: Site) -> None:
    assert "key set" in one_sentence(site.refused_to_start())


def test_a_port_in_use_is_one_sentence(site: Site) -> None:
    site.open_vendor()
    with socket.socket() as other:
        other.bind(("127.0.0.1", site.port))
        other.listen()
        assert f"127.0.0.1:{site.port}" in one_sentence(site.refused_to_start())
    site.start()


def test_a_state_directory_that_cannot_be_written_is_one_sentence(site: Site) -> None:
    site.open_vendor()
    site.state.mkdir(mode=0o500)
    before: list[str] = []
    if os.geteuid() == 0:  # root without its capabilities is bound by the mode like everybody
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not here, and root can write everywhere")
        before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    assert str(site.state) in one_sentence(site.refused_to_start(before=before))
    site.state.chmod(0o700)
    site.start()


def test_a_full_disk_refuses_grants_and_costs_nobody_a_seat(site: Site) -> None:
    """A limit on the size of files is met like a full disk is: writes fail, whoever asks; and it needs no root."""
    site.licensed(quantity=5, lease_seconds=3)
    https, sitting = site.https(), Asked.new(LUCK)
    assert 201 == https.checkout(sitting).status
    assert site.process is not None
    pid = site.process.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, hard))
    end = time.monotonic() + 7  # longer than lease and grace together
    while time.monotonic() < end:
        refused = https.checkout(Asked.new(LUCK))
        assert (503, "store_down") == (refused.status, refused.code)
        assert "retry-after" in refused.headers
        assert 200 == https.heartbeat(sitting).status
        time.sleep(0.5)
    assert not site.is_ready()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    def granted() -> bool:
        assert 200 == https.heartbeat(sitting).status
        answer = https.checkout(newcomer)
        return answer.status in (200, 201)

    newcomer = Asked.new(LUCK)
    until(granted, seconds=15, what="granting again", log=site.log)
    site.verify_journal()
    kinds = [line["kind"] for line in site.journal()]
    assert (2, 0) == (kinds.count("Granted"), kinds.count("Expired"))
    assert {sitting.lease_id, newcomer.lease_id} == {
        lease["lease_id"] for lease in site.admin("GET", "/v1/admin/leases")["leases"]
    }
    assert 0 == site.stop()
