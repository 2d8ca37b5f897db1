"""A host that is suspended, a process that is frozen: our outage, and nobody's seat."""

from __future__ import annotations

import random
import signal
import time

from lls.client import Event, LicenseServers
from tests.journeys.world import Asked, Site

LEASE_SECONDS = 3
GRACE_SECONDS = 2
FROZEN_SECONDS = LEASE_SECONDS + GRACE_SECONDS + 2.0


def test_a_frozen_server_costs_nobody_a_seat(site: Site) -> None:
    luck = random.Random(3)
    site.licensed(quantity=20, lease_seconds=LEASE_SECONDS)
    https, sitting = site.https(), [Asked.new(luck) for _ in range(10)]
    for asked in sitting:
        assert 201 == https.checkout(asked).status
    events: list[Event] = []
    with (
        LicenseServers(site.url, vendor_keys=site.keys) as servers,
        servers.checkout("cad", on_event=events.append) as seat,
    ):
        lease_id = seat.lease.lease_id
        site.signal(signal.SIGSTOP)
        time.sleep(FROZEN_SECONDS)
        site.signal(signal.SIGCONT)
        # Later than the old deadlines of all, sooner than their new ones: whoever was swept by mistake is gone by now.
        time.sleep(1.5)
        for asked in sitting:
            assert 200 == https.heartbeat(asked).status
        end = time.monotonic() + 10
        while not seat.valid and time.monotonic() < end:
            time.sleep(0.05)
        assert (True, lease_id) == (seat.valid, seat.lease.lease_id)
    lines = site.journal()
    assert [] == [line for line in lines if line["kind"] == "Expired"]
    (resumed,) = [line["data"] for line in lines if line["kind"] == "Resumed"]
    assert ("suspended", 11) == (resumed["cause"], resumed["leases"])
    site.verify_journal()
    assert 0 == site.stop()
