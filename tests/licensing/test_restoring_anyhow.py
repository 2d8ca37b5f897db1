"""Backups, restores, reports, answers, archives, uses in any order: each use is billed once, and both sides agree."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lls.faults import Fault
from lls.licensing.changes import FeatureAct
from tests.ledgers import checkout, counted, entitlement, secret_of, units
from tests.licensing.restores import Restorable

CAD = entitlement("cad", seats=3, features=(counted("frames", 1_000_000, undo_seconds=86_400), units("tokens", 4)))
ACTS = (
    *("use", "use", "use", "undo", "sit", "leave", "hold", "report", "report"),
    *("backup", "restore", "restore", "answer", "start"),
    *("acknowledge", "archive"),
)
AFTER = [("use", 2), ("report", 0), ("use", 1), ("restore", 0), ("sit", 0), ("answer", 0), ("use", 2)]
"""The vendor has more than the backup."""
SETTLED = [("use", 1), ("report", 0), ("acknowledge", 0), ("sit", 0), ("archive", 0)]
"""Lines leave."""


class Anyhow(Restorable):
    """Plays acts, and knows which uses it was told of."""

    def __init__(self) -> None:
        super().__init__(CAD)
        self.count = 0
        self._sit(0)
        self.backups: list[bytes] = [self.backup()]

    def play(self, act: str, number: int) -> None:
        self.seconds += 1
        try:
            getattr(self, f"_{act}")(number)
        except Fault:
            self.ledger.settle() if self.ledger.batch.empty else self.commit()
        self.commit()

    def _feature(self, key: str, act: FeatureAct, number: int) -> None:
        lease_id = self._lease(number)
        self.count += 1
        self.ledger.feature(
            lease_id,
            secret=secret_of(lease_id),
            key=key,
            act=act,
            amount=number % 3 + 1,
            request_id=f"r{self.count}",
            now=self.now,
        )

    def _lease(self, number: int) -> str:
        known = sorted(self.ledger.leases) or ["nobody"]
        return known[number % len(known)]

    def _use(self, number: int) -> None:
        self._feature("frames", FeatureAct.USE, number)

    def _hold(self, number: int) -> None:
        self._feature("tokens", FeatureAct.CHECKOUT, number)

    def _undo(self, number: int) -> None:
        lease_id = self._lease(number)
        request = self.count - number % 3
        for amount in (1, 2, 3):
            try:
                self.ledger.undo(
                    lease_id,
                    secret=secret_of(lease_id),
                    key="frames",
                    amount=amount,
                    request_id=f"r{request}",
                    now=self.now,
                )
            except Fault:
                continue

    def _sit(self, _number: int) -> None:
        self.count += 1
        self.ledger.checkout(checkout(f"lease {self.count}"), now=self.now)

    def _leave(self, number: int) -> None:
        lease_id = self._lease(number)
        self.ledger.checkin(lease_id, secret=secret_of(lease_id), now=self.now)

    def _report(self, _number: int) -> None:
        ours, end = self.known(), self.end()
        # What forked the vendor refuses; and behind an answer the server has his line as its acknowledged one.
        if end.seq == 0 or ours.get(end.seq) == end.hash or self.ledger.server.acknowledged == end:
            self.report()

    def _backup(self, _number: int) -> None:
        self.backups.append(self.backup())

    def _restore(self, number: int) -> None:
        self.restore(self.backups[number % len(self.backups)])

    def _answer(self, _number: int) -> None:
        if self.ledger.server.restored:
            assert self.install(self.answer()).adoption is not None

    def _acknowledge(self, _number: int) -> None:
        self.acknowledge()

    def _archive(self, number: int) -> None:
        self.archive(young=number % 4)

    def _start(self, _number: int) -> None:
        self.start()

    def level(self) -> Any:
        return self.ledger.meters.level(None, CAD.entitlement_id, "frames", now=self.now, committed=True)


@settings(max_examples=150, deadline=None)
@example(acts=[*AFTER, *AFTER])
@example(acts=[*AFTER, ("backup", 0), *AFTER[:3], ("restore", 1), ("report", 0), ("restore", 0)])
@example(acts=[("report", 0), ("restore", 0), ("answer", 0), ("backup", 0), ("restore", 1)])
@example(
    acts=[*AFTER, *SETTLED, ("backup", 0), *AFTER[:3], *SETTLED, ("restore", 1), ("answer", 0), *SETTLED, *SETTLED]
)
@example(
    acts=[
        *AFTER,
        *SETTLED,
        ("restore", 0),
        ("use", 0),
        ("answer", 0),
        *SETTLED,
        ("restore", 0),
        ("answer", 0),
        *SETTLED,
    ]
)
@given(acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 20)), max_size=40))
def test_in_any_order_each_use_is_billed_once_and_both_sides_agree(acts: list[tuple[str, int]]) -> None:
    server = Anyhow()
    for act, number in acts:
        server.play(act, number)
        server.check_chain()
    server.play("answer", 0)
    server.report()
    server.check_chain()
    assert not server.ledger.server.restored
    assert server.level().consumed == server.billed()
    used = [line["data"]["request_id"] for line in map(json.loads, server.reported) if line["kind"] == "Used"]
    assert len(used) == len(set(used))
    state = sorted(lease.facts() for lease in server.ledger.leases.values())
    server.start()
    assert state == sorted(lease.facts() for lease in server.ledger.leases.values())
    assert server.level().consumed == server.billed()
