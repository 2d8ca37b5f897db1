"""Any order of verbs, commits, failures and restarts: what must hold after each of them (``machine`` says what)."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from lls.licensing.lease import Holder
from tests.licensing.machine_life import LifeVerbs
from tests.licensing.wishes import IDS, LIFE, NAMES, SEAT_IDS, SEATS, UNITS, Actions, metered, policies, sited, usable


def turns(actions: Actions) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """What may happen in a turn, how often in proportion, and with what."""
    names = [name for name, (weight, _) in actions.items() for _ in range(weight)]
    return st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), actions[name][1]))


class Site(LifeVerbs):
    """One rule for all verbs: Hypothesis would pick rules evenly and leave most out of each run."""

    def begin(self, wishes: list[dict[str, Any]], *, policy: int = 0) -> None:
        self.set_up()
        for name, wish in zip(NAMES, wishes, strict=False):
            self.install(name=name, wish=wish, same=False)
        self.govern(policy)
        self.commit()

    def fill(self) -> None:
        """Somebody sits there already."""
        for place, user in enumerate(("ann", "bob")):
            holder = Holder(seat_id=SEAT_IDS[place], user=user, host=f"ws{place + 1}")
            self.check_out_plainly(lease_id=IDS[place], holder=holder, seats=1, wait=False)

    def take_turn(self, turn: tuple[str, dict[str, Any]], *, settle: bool) -> None:
        name, chosen = turn
        getattr(self, name)(**chosen)
        if settle:
            self.commit()


class SeatsAndQueues(Site):
    @initialize(wishes=st.lists(usable, min_size=1, max_size=2), policy=policies)
    def start(self, wishes: list[dict[str, Any]], policy: int) -> None:
        self.begin(wishes, policy=policy)

    @rule(turn=turns(SEATS), settle=st.booleans())
    def turn(self, turn: tuple[str, dict[str, Any]], *, settle: bool) -> None:
        self.take_turn(turn, settle=settle)


class Units(Site):
    @initialize(wishes=st.lists(metered, min_size=1, max_size=2))
    def start(self, wishes: list[dict[str, Any]]) -> None:
        self.begin(wishes)
        self.fill()

    @rule(turn=turns(UNITS), settle=st.booleans())
    def turn(self, turn: tuple[str, dict[str, Any]], *, settle: bool) -> None:
        self.take_turn(turn, settle=settle)


class Life(Site):
    @initialize(wishes=st.lists(sited, min_size=1, max_size=2), policy=policies)
    def start(self, wishes: list[dict[str, Any]], policy: int) -> None:
        self.begin(wishes, policy=policy)
        self.fill()

    @rule(turn=turns(LIFE), settle=st.booleans())
    def turn(self, turn: tuple[str, dict[str, Any]], *, settle: bool) -> None:
        self.take_turn(turn, settle=settle)


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )


TestSeatsAndQueues = SeatsAndQueues.TestCase
TestSeatsAndQueues.settings = _settings(120)
TestUnits = Units.TestCase
TestUnits.settings = _settings(120)
TestLife = Life.TestCase
TestLife.settings = _settings(120)
