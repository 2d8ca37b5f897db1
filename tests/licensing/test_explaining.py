"""An explanation tells every rule in its order, refuses by the one that decides, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from lls.faults import BadActivationCode, UnknownProduct
from lls.licensing.denial import Denial
from lls.licensing.entitlement import Concurrency, Feature, FeatureType, Sharing
from lls.licensing.explaining import Explanation, StepVerdict, explain
from lls.licensing.lease import Checkout, Holder
from lls.licensing.ledger import Ledger, Queued, Seated
from lls.licensing.pools import Pools
from lls.licensing.seating import Seat, seat
from tests.ledgers import at, checkout, entitlement, ledger_of
from tests.licensing.test_policy import policy, sit, sit_users, site
from tests.licensing.test_seating import REFUSALS

ORDER = [
    "activation_code", "status", "dates", "dates", "returning", "edition", "version", "feature", "feature",
    "named_user", "deny[1]", "allow", "seats", "queue", "limit[1]", "limit[2]", "reserve[1]", "reserve[2]", "units",
]  # fmt: skip

RULES = policy(
    "reserve seats = 2; for = { users = ['ann'] }; name = 'the lab'",
    "reserve seats = 1; for = { users = ['bob'] }; when = { days = ['mon'] }",
    "limit seats = 1; per = 'user'; for = { users = ['bob'] }",
    "limit seats = 2; per = 'user'",
    "allow for = { users = ['*'] }",
    "deny for = { hosts = ['kiosk'] }",
)


def told(explanation: Explanation) -> dict[str, StepVerdict]:
    return {step.rule: step.verdict for step in explanation.steps}


def wish(**asked: Any) -> Checkout:
    """What an administrator asks about: no machine, no lease, no secret."""
    holder = Holder(seat_id="", user=asked.pop("user", None), host=asked.pop("host", None))
    return Checkout(lease_id="", secret=b"", content=b"", product="cad", holder=holder, nonce="", **asked)


def test_every_rule_is_told_in_the_order_in_which_it_is_asked() -> None:
    explanation = explain(wish(user="eve"), site(RULES), now=at())
    assert ORDER == [step.rule for step in explanation.steps]
    assert isinstance(explanation.outcome, Seat)
    assert StepVerdict.REFUSED not in told(explanation).values()


def test_after_the_rule_that_refuses_nobody_is_asked() -> None:
    pools = site(RULES)
    sit_users(pools, "eve", "zoe")
    explanation = explain(wish(user="eve"), pools, now=at())
    verdicts = told(explanation)
    assert StepVerdict.REFUSED == verdicts["reserve[1]"]
    assert ORDER == [step.rule for step in explanation.steps]
    assert (StepVerdict.PASSED, StepVerdict.SKIPPED) == (verdicts["limit[2]"], verdicts["units"])
    assert isinstance(explanation.outcome, Denial)
    words = next(step.words for step in explanation.steps if step.verdict is StepVerdict.REFUSED)
    assert words == explanation.outcome.detail
    assert "the lab" in words


def test_a_rule_that_is_not_about_this_one_says_so() -> None:
    pools = site(RULES)
    verdicts = told(explain(wish(user="ann"), pools, now=at()))
    assert StepVerdict.SKIPPED == verdicts["limit[1]"]
    assert StepVerdict.PASSED == verdicts["reserve[1]"]
    assert StepVerdict.SKIPPED == verdicts["reserve[2]"]
    assert StepVerdict.REFUSED == told(explain(wish(user="ann", host="kiosk"), pools, now=at()))["deny[1]"]
    assert StepVerdict.REFUSED == told(explain(wish(), pools, now=at()))["allow"]
    assert {"limit[1]", "limit[2]", "reserve[1]", "reserve[2]"} <= {
        rule for rule, verdict in told(explain(wish(), pools, now=at())).items() if verdict is StepVerdict.SKIPPED
    }


def test_whoever_shares_a_seat_learns_that_no_rule_about_seats_was_asked() -> None:
    pools = site(RULES, entitlement(seats=1, sharing=Sharing.USER))
    sit(pools, checkout("a", user="ann"))
    explanation = explain(wish(user="ann"), pools, now=at())
    verdicts = told(explanation)
    assert [StepVerdict.SKIPPED] * 3 == [verdicts[rule] for rule in ("queue", "limit[2]", "reserve[1]")]
    assert isinstance(explanation.outcome, Seat)


@pytest.mark.parametrize(("terms", "asked", "code"), REFUSALS)
def test_what_refuses_a_checkout_refuses_in_its_explanation(
    terms: dict[str, Any], asked: dict[str, Any], code: str
) -> None:
    pools = Pools()
    pools.open(entitlement(**terms))
    explanation = explain(wish(**asked), pools, now=at())
    assert isinstance(explanation.outcome, Denial)
    assert code == explanation.outcome.code
    refused = [step for step in explanation.steps if step.verdict is StepVerdict.REFUSED]
    assert [(explanation.outcome.rule, explanation.outcome.detail)] == [(step.rule, step.words) for step in refused]


def test_each_entitlement_has_its_own_steps_and_the_outcome_is_that_of_a_checkout() -> None:
    coded, open_one = entitlement("coded", activation_codes=frozenset({"X"})), entitlement("open", seats=1)
    pools = site(RULES, coded, open_one, entitlement("named", concurrency=Concurrency.NAMED_USER))
    explanation = explain(wish(user="eve"), pools, now=at())
    by_entitlement: dict[str | None, list[str]] = {step.entitlement_id: [] for step in explanation.steps}
    for step in explanation.steps:
        if step.verdict is StepVerdict.REFUSED:
            by_entitlement[step.entitlement_id].append(step.rule)
    assert [["activation_code"], [], ["named_user"]] == list(by_entitlement.values())
    assert set(pools) == set(by_entitlement)
    assert seat(wish(user="eve"), pools, now=at()) == explanation.outcome


def test_an_explanation_changes_nothing() -> None:
    pools = site(RULES)
    sit_users(pools, "ann", "bob")
    before = [(pool.in_use, pool.tally.levels() if pool.tally else None) for pool in pools.values()]
    explain(wish(user="ann"), pools, now=at())
    assert before == [(pool.in_use, pool.tally.levels() if pool.tally else None) for pool in pools.values()]


def test_what_cannot_be_judged_is_raised() -> None:
    pools = site(RULES, entitlement(activation_codes=frozenset({"X"})))
    with pytest.raises(BadActivationCode):
        explain(wish(), pools, now=at())
    with pytest.raises(UnknownProduct):
        explain(checkout("a", product="cam"), pools, now=at())


def test_features_and_units_are_told() -> None:
    render = Feature(key="render", type=FeatureType.ELEMENT_POOL, value=4)
    pools = site(RULES, entitlement(features=(render,)))
    pools.of("cad")[0].short_of = None
    verdicts = told(explain(wish(user="eve", features=(("render", 1),)), pools, now=at()))
    assert [StepVerdict.PASSED] * 2 == [verdicts[rule] for rule in ("feature", "units")]


# -------------------------------------------------------------------- who waits

URGENT = ("priority value = 10; for = { users = ['night'] }",)
KEPT_FOR_ANN = ("reserve seats = 1; for = { users = ['ann'] }",)


def queued(*users: str, rules: tuple[str, ...] = (), seats: int = 2) -> Ledger:
    """One seat is taken; these wait for two, so that what is free is kept for them."""
    ledger = ledger_of(entitlement(seats=seats))
    if rules:
        ledger.govern(policy(*rules), text="rules", actor="ada", now=at())
    assert isinstance(ledger.checkout(checkout("first", user="x"), now=at()), Seated)
    for number, user in enumerate(users):
        wanted = checkout(f"w{number}", user=user, seats=2)
        assert isinstance(ledger.checkout(wanted, now=at(), wait=True), Queued)
    ledger.settle()
    return ledger


def queue_step(explanation: Explanation) -> tuple[StepVerdict, str]:
    return next((step.verdict, step.words) for step in explanation.steps if step.rule == "queue")


@pytest.mark.parametrize(
    ("waiting", "user", "verdict", "words"),
    [
        ((), "eve", StepVerdict.PASSED, "Nobody waits."),
        (("bob",), "eve", StepVerdict.REFUSED, "promised to requests that wait longer"),
        (("bob",), "night", StepVerdict.PASSED, "1 waits for cad, of lower priority: it would go before them."),
        (("bob", "night"), "night", StepVerdict.REFUSED, "promised to requests that wait longer"),
    ],
)
def test_an_explanation_says_whether_a_checkout_would_pass_those_who_wait(
    waiting: tuple[str, ...], user: str, verdict: StepVerdict, words: str
) -> None:
    ledger = queued(*waiting, rules=URGENT)
    explanation = ledger.explain(wish(user=user), now=at())
    said, told_words = queue_step(explanation)
    assert (verdict, True) == (said, words in told_words)
    assert ledger.batch.empty
    really = ledger.checkout(checkout("now", user=user), now=at())
    assert isinstance(really, Seated) is isinstance(explanation.outcome, Seat)
    if isinstance(really, Denial):
        assert isinstance(explanation.outcome, Denial)
        assert (really.code, really.rule) == (explanation.outcome.code, explanation.outcome.rule)


def test_who_draws_on_its_own_reservation_is_told_that_it_passes() -> None:
    ledger = queued("bob", rules=KEPT_FOR_ANN, seats=3)
    explanation = ledger.explain(wish(user="ann"), now=at())
    assert (StepVerdict.PASSED, True) == (
        queue_step(explanation)[0],
        "its own reservation" in queue_step(explanation)[1],
    )
    assert isinstance(ledger.checkout(checkout("now", user="ann"), now=at()), Seated)


def test_who_has_gone_from_the_queue_holds_nobody_up_in_an_explanation() -> None:
    ledger = queued("bob")
    ledger.waiting.close("w0", elapsed=at().elapsed)
    assert (StepVerdict.PASSED, "Nobody waits.") == queue_step(ledger.explain(wish(user="eve"), now=at()))
