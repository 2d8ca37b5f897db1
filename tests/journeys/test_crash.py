"""``kill -9`` under load, many times at random instants: what a client was told stays true.

Each worker writes down what it was told, and only that. After each restart the workers pause, and every word is held
against the new process: granted leases are there, returned ones are gone, the chain verifies, and no more seats are
used than were bought.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from typing import Any

from lls.client import Event, EventKind, LicenseServers
from tests.journeys.world import Asked, Https, Site, no_longer_than, until

SEATS = 40
WORKERS = 6
KILLS = 9
SEED = 20261121
NO_ANSWER = (OSError, http.client.HTTPException)


class Worker(threading.Thread):
    """Checks out, beats and checks in without a pause, and remembers every answer."""

    def __init__(self, site: Site, seed: int) -> None:
        super().__init__(daemon=True)
        self._https = site.https()
        self._luck = random.Random(seed)
        self.pause = threading.Lock()
        self.stop = threading.Event()
        self.asked: dict[str, Asked] = {}
        self.held: dict[str, Asked] = {}
        self.open: dict[str, Asked] = {}
        self.leaving: dict[str, Asked] = {}
        self.gone: dict[str, Asked] = {}
        self.answers = 0
        self.broken: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            with self.pause:
                try:
                    self._step()
                    self.answers += 1
                except NO_ANSWER:
                    time.sleep(0.01)
                except Exception as error:  # noqa: BLE001 - it fails the test, in the main thread
                    self.broken.append(repr(error))
                    return
            time.sleep(0)  # whoever wants the lock gets it

    def _step(self) -> None:
        if self.open:
            self._checkout(next(iter(self.open.values())))
        elif self.leaving:
            self._checkin(next(iter(self.leaving.values())))
        elif self.held and self._luck.random() < 0.3:
            self._expect(200, self._https.heartbeat(self._any()), "heartbeat")
        elif self.held and self._luck.random() < len(self.held) / 10:
            self._checkin(self._any())
        else:
            asked = Asked.new(self._luck)
            self.asked[asked.lease_id] = asked
            self._checkout(asked)

    def _any(self) -> Asked:
        return self._luck.choice(list(self.held.values()))

    def _checkout(self, asked: Asked) -> None:
        # Open until it is answered: the same question is asked again after a crash.
        self.open[asked.lease_id] = asked
        answer = self._https.checkout(asked)
        if answer.status in (200, 201):
            self.held[asked.lease_id] = asked
        elif answer.status != 503:
            self._expect(409, answer, "checkout")
        if answer.status != 503:
            del self.open[asked.lease_id]

    def _checkin(self, asked: Asked) -> None:
        self.held.pop(asked.lease_id, None)
        self.leaving[asked.lease_id] = asked
        answer = self._https.checkin(asked)
        if answer.status != 503:
            self._expect(204, answer, "checkin")
            del self.leaving[asked.lease_id]
            self.gone[asked.lease_id] = asked

    def _expect(self, status: int, answer: Any, what: str) -> None:
        if answer.status not in (status, 503):
            self.broken.append(f"{what}: {answer.status} {answer.body}")


def check_every_word(site: Site, workers: list[Worker], https: Https) -> None:
    known = {lease_id for worker in workers for lease_id in worker.asked}
    for worker in workers:
        assert [] == worker.broken
        for asked in worker.held.values():
            assert 200 == https.lease(asked).status, "a lease that its client was told about is gone"
        for asked in list(worker.gone.values())[-30:]:
            assert "lease_ended" == https.lease(asked).code, "a returned lease is back"
    site.verify_journal()
    (entitlement,) = site.admin("GET", "/v1/admin/entitlements")["entitlements"]
    leases = {lease["lease_id"] for lease in site.admin("GET", "/v1/admin/leases")["leases"]}
    assert entitlement["in_use"] == len(leases) <= SEATS
    held = {lease_id for worker in workers for lease_id in worker.held}
    assert held <= leases
    assert len(leases - known) == 1, "only the SDK's lease is nobody's of the workers"


def check_seats_over_time(site: Site) -> None:
    in_use = 0
    for line in site.journal():
        match line["kind"]:
            case "Granted":
                in_use += line["data"]["taken"]
            case "Returned" | "Expired" | "Released":
                in_use -= line["data"]["freed"]
        assert 0 <= in_use <= SEATS


def test_kill_9_takes_nothing_back_that_was_told(site: Site) -> None:
    luck = random.Random(SEED)
    site.licensed(quantity=SEATS, lease_seconds=60)
    lost: list[Event] = []
    with (
        no_longer_than(60),
        LicenseServers(site.url, vendor_keys=site.keys) as servers,
        servers.checkout("cad", on_event=lost.append) as seat,
    ):
        lease_id = seat.lease.lease_id
        workers = [Worker(site, luck.randrange(10**9)) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        for _ in range(KILLS):
            time.sleep(luck.uniform(0.1, 0.5))
            site.kill()
            if luck.random() < 0.3:  # and again in the middle of the next start
                site.spawn()
                time.sleep(luck.uniform(0.05, 0.8))
                site.kill()
            site.start()
            for worker in workers:
                assert worker.pause.acquire(timeout=30)
            https = site.https()
            check_every_word(site, workers, https)
            https.close()
            for worker in workers:
                worker.pause.release()
        before = sum(worker.answers for worker in workers)
        until(
            lambda: sum(worker.answers for worker in workers) > before, seconds=10, what="going on after the last crash"
        )
        for worker in workers:
            worker.stop.set()
        for worker in workers:
            worker.join(30)
        assert (True, lease_id) == (seat.valid, seat.lease.lease_id)
        assert [] == [event for event in lost if event.kind is not EventKind.NETWORK and not event.held]
        assert sum(len(worker.gone) for worker in workers) > KILLS
        check_seats_over_time(site)
        assert site.reported() > 0, "the vendor verifies the same chain"
        site.verify_journal()
    assert 0 == site.stop()
