"""The site's policy as text: what is taken, what is refused, and that every problem is named at once."""

from __future__ import annotations

import re
import time
import zoneinfo
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lls.faults import Refusal, RefusedDocument
from lls.licensing.policy import Asker, Policy, RuleKind
from lls.licensing.policy_file import LONGEST_TEXT, read_policy

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "config" / "policy.toml"


def refusal(text: str) -> str:
    with pytest.raises(RefusedDocument) as caught:
        read_policy(text)
    assert Refusal.MALFORMED == caught.value.fields["reason"]
    return caught.value.detail


def taken_or_refused(text: str) -> None:
    """Whatever else it raises fails the test."""
    try:
        said: object = read_policy(text)
    except RefusedDocument as fault:
        said = fault.fields["reason"]
    assert said == Refusal.MALFORMED or isinstance(said, Policy)


def complaints(body: str) -> str:
    return refusal(f"format = 1\n{body}")


# -------------------------------------------------------------------- what is taken


@pytest.mark.parametrize("text", ["", "\n\n", "# only words\n", "   # and blanks \n"])
def test_a_text_that_says_nothing_is_a_policy_without_rules(text: str) -> None:
    assert Policy() == read_policy(text)


def test_the_sample_is_a_policy_without_rules_as_it_stands() -> None:
    assert Policy() == read_policy(SAMPLE.read_text("utf-8"))


def test_the_sample_is_right_when_it_is_uncommented_and_has_every_kind_of_rule() -> None:
    commented = re.compile(r"^# (?=\[|[a-z_]+ = )", re.MULTILINE)
    text = commented.sub("", SAMPLE.read_text("utf-8"))
    policy = read_policy(text)
    assert set(RuleKind) == {rule.kind for rule in policy.rules}
    assert "reserve[1] (design keeps ten)" == policy.rules[0].words
    assert ["reserve[1]", "reserve[2]", "limit[1]", "limit[2]"] == [rule.rule for rule in policy.rules[:4]]


def test_groups_contain_groups_and_a_rule_may_name_several_ways() -> None:
    policy = read_policy(
        """
        format = 1
        [groups.all]
        groups = ["design", "labs"]
        [groups.design]
        users = ["ann"]
        groups = ["trainees"]
        [groups.trainees]
        hosts = ["t-*"]
        [groups.labs]
        networks = ["10.2.0.0/16"]
        [[reserve]]
        product = "cad"
        seats = 1
        for = { groups = ["all"], users = ["zoe"] }
        """
    )
    named = [Asker(user="ann"), Asker(host="T-9"), Asker(address="10.2.3.4"), Asker(user="ZOE")]
    assert ["reserve[1]"] * 4 == [policy.reservation("cad", one) for one in named]
    assert policy.reservation("cad", Asker(user="bob", host="x", address="10.3.0.1")) is None


# -------------------------------------------------------------------- what is refused

RESERVE = '[[reserve]]\nproduct = "cad"\nseats = 1\n'
FOR_ANN = 'for = { users = ["ann"] }\n'
IN_A_AND_ANN = "for = { groups = ['a'], users = ['ann'] }"

WRONG: list[tuple[str, str]] = [
    ("surprise = 1", "surprise is unknown"),
    ('timezone = "Mars/Olympus"', "timezone must be a zone"),
    ('timezone = "../../etc/passwd"', "timezone must be a zone"),
    ('timezone = "Europe"', "timezone must be a zone"),
    ("timezone = 1", "timezone must be a zone"),
    ("groups = 1", "groups must be tables"),
    ("groups.design = 1", "groups.design must be a table"),
    ("[groups.design]", "groups.design names nobody"),
    ("[groups.design]\nuser = ['a']", "groups.design.user is unknown"),
    ('[groups."de sign"]\nusers = ["a"]', "groups.de sign must have a name"),
    ("[groups.design]\ngroups = ['labs']", "groups.design.groups names labs, and there is no such group"),
    ("[groups.a]\ngroups = ['a']", "groups.a contains itself"),
    ("[groups.a]\ngroups = ['b']\n[groups.b]\ngroups = ['c']\n[groups.c]\ngroups = ['a']", "groups.c contains itself"),
    ("reserve = 1", "reserve must be written as [[reserve]]"),
    ("[reserve]\nseats = 1", "reserve must be written as [[reserve]]"),
    ("reserve = [1]", "reserve[1] must be a table"),
    (f"[[reserve]]\nseats = 1\n{FOR_ANN}", "reserve[1].product must be a product key"),
    (f'[[reserve]]\nproduct = "c a d"\nseats = 1\n{FOR_ANN}', "reserve[1].product must be a product key"),
    (RESERVE, "reserve[1].for is missing"),
    (f'[[reserve]]\nproduct = "cad"\n{FOR_ANN}', "reserve[1] must have either seats or percent"),
    (f"{RESERVE}percent = 5\n{FOR_ANN}", "reserve[1] must have either seats or percent"),
    (f'[[reserve]]\nproduct = "cad"\npercent = 101\n{FOR_ANN}', "reserve[1].percent must be an integer from 1 to 100"),
    (f'[[reserve]]\nproduct = "cad"\nseats = 0\n{FOR_ANN}', "reserve[1].seats must be an integer from 1"),
    (f'[[reserve]]\nproduct = "cad"\nseats = 1.0\n{FOR_ANN}', "reserve[1].seats must be an integer"),
    (f'[[reserve]]\nproduct = "cad"\nseats = true\n{FOR_ANN}', "reserve[1].seats must be an integer"),
    (f"{RESERVE}name = 7\n{FOR_ANN}", "reserve[1].name must be a printable text"),
    (f'{RESERVE}name = "bell \\u0007"\n{FOR_ANN}', "reserve[1].name must be a printable text"),
    (f"{RESERVE}for = 1", "reserve[1].for must be a table"),
    (f"{RESERVE}for = {{}}", "reserve[1].for names nobody"),
    (f"{RESERVE}for = {{ users = [] }}", "reserve[1].for.users must be an array of 1"),
    (f"{RESERVE}for = {{ users = 'ann' }}", "reserve[1].for.users must be an array of 1"),
    (f"{RESERVE}for = {{ users = ['ann', ''] }}", "reserve[1].for.users[2] must be a printable text"),
    (f"{RESERVE}for = {{ users = [7] }}", "reserve[1].for.users[1] must be a printable text"),
    (f"{RESERVE}for = {{ users = ['[abc'] }}", "reserve[1].for.users[1] has a [ without its ]"),
    (f"{RESERVE}for = {{ users = ['a[]'] }}", "reserve[1].for.users[1] has a [ without its ]"),
    (f"{RESERVE}for = {{ hosts = ['ws-[z-a]'] }}", "reserve[1].for.hosts[1] has a range that is empty"),
    (f"{RESERVE}for = {{ networks = ['10.1.0.5/16'] }}", "networks[1] has bits beyond its prefix; was 10.1.0.0/16"),
    (f"{RESERVE}for = {{ networks = ['10.1.0.0/33'] }}", "networks[1] must be a network"),
    (f"{RESERVE}for = {{ networks = ['lan'] }}", "networks[1] must be a network"),
    (f"{RESERVE}for = {{ groups = ['nobody'] }}", "reserve[1].for.groups names nobody, and there is no such group"),
    (f"{RESERVE}when = 1\n{FOR_ANN}", "reserve[1].when must be a table"),
    (f"{RESERVE}when = {{}}\n{FOR_ANN}", "reserve[1].when names no time"),
    (f"{RESERVE}when = {{ days = ['monday'] }}\n{FOR_ANN}", "reserve[1].when.days must be of mon"),
    (f"{RESERVE}when = {{ from = '8:00' }}\n{FOR_ANN}", "reserve[1].when.from must be a time in quotes"),
    (f"{RESERVE}when = {{ from = 08:00:00 }}\n{FOR_ANN}", "reserve[1].when.from must be a time in quotes"),
    (f"{RESERVE}when = {{ from = '24:00' }}\n{FOR_ANN}", "reserve[1].when.from must be a time in quotes"),
    (f"{RESERVE}when = {{ to = '24:01' }}\n{FOR_ANN}", "reserve[1].when.to must be a time in quotes"),
    (f"{RESERVE}when = {{ at = '08:00' }}\n{FOR_ANN}", "reserve[1].when.at is unknown"),
    ('[[limit]]\nproduct = "cad"\nseats = 0\nper = "user"', "limit[1].seats must be an integer from 1"),
    ('[[limit]]\nproduct = "cad"\nseats = 1', "limit[1].per must be one of user, host, group"),
    ('[[limit]]\nproduct = "cad"\nseats = 1\nper = "group"', "limit[1].for must name groups, and nothing else"),
    (
        f"groups.a.users = ['b']\n[[limit]]\nper = 'group'\n{IN_A_AND_ANN}",
        "limit[1].for must name groups, and nothing else",
    ),
    ('[[limit]]\nproduct = "cad"\nseats = 1\nper = "user"\nwhen = {}', "limit[1].when is unknown"),
    ('[[allow]]\nproduct = "cad"', "allow[1].for is missing"),
    ('[[deny]]\nproduct = "cad"', "deny[1].for is missing"),
    (f'[[priority]]\nproduct = "cad"\nvalue = 101\n{FOR_ANN}', "priority[1].value must be an integer from -100 to 100"),
    ('[[linger]]\nproduct = "cad"\nseconds = -1', "linger[1].seconds must be an integer"),
    ('[[borrow]]\nproduct = "cad"', "borrow[1] must have max_seconds, max_seats or both"),
    ('[[idle]]\nproduct = "cad"\nseconds = 0', "idle[1].seconds must be an integer from 1"),
    ('[[idle]]\nproduct = "cad"\nseconds = 60\n' * 2, "idle[2] is one too many for cad: idle[1] says it already"),
    ('[[linger]]\nproduct = "cad"\nseconds = 60\n' * 2, "linger[2] is one too many for cad"),
    (
        f'[[allow]]\nproduct = "cad"\n{FOR_ANN}[[deny]]\nproduct = "cad"\nfor = {{ users = ["ANN", "ann"] }}',
        "allow[1] allows the very people whom deny[1] denies",
    ),
]


@pytest.mark.parametrize(("body", "complaint"), WRONG)
def test_a_mistake_is_named_by_its_place(body: str, complaint: str) -> None:
    assert complaint in complaints(body)


@pytest.mark.parametrize("given", ["format = 2", "format = true", 'format = "1"', "timezone = 'UTC'"])
def test_another_format_or_none_is_refused(given: str) -> None:
    assert "format must be 1" in refusal(given)


def test_every_problem_is_named_at_once() -> None:
    said = complaints("\n".join(body for body, _ in WRONG if body.startswith("[[")))
    assert all(part in said for part in ("reserve[1].product", "limit[1].seats", "deny[1].for", "idle[1].seconds"))


def test_of_very_many_problems_the_first_are_named_and_the_rest_counted() -> None:
    said = complaints("\n".join(f"surprise_{number} = 1" for number in range(60)))
    assert "surprise_49 is unknown" in said
    assert "surprise_50" not in said
    assert said.endswith("There are 10 more problems.")


WEEKDAYS = "when = { days = ['mon', 'tue', 'wed', 'thu', 'fri'], from = '08:00', to = '18:00' }\n"
OFFICE_AND_NIGHT: list[tuple[str, str, bool]] = [
    ("", "", False),
    (WEEKDAYS, "", False),
    (WEEKDAYS, "when = { from = '18:00', to = '08:00' }\n", True),
    (WEEKDAYS, "when = { from = '17:59', to = '18:01' }\n", False),
    (WEEKDAYS, "when = { days = ['sat', 'sun'] }\n", True),
    (WEEKDAYS, "when = { days = ['sun'], from = '20:00', to = '08:01' }\n", False),
    (WEEKDAYS, "when = { days = ['sun'], from = '20:00', to = '08:00' }\n", True),
    ("when = { from = '12:00', to = '12:00' }\n", "when = { days = ['wed'], from = '03:00', to = '03:01' }\n", False),
]


@pytest.mark.parametrize(("one", "other", "fits"), OFFICE_AND_NIGHT)
def test_percents_may_pass_a_hundred_only_where_they_never_meet(one: str, other: str, fits: bool) -> None:
    part = '[[reserve]]\nproduct = "cad"\npercent = 60\nfor = {{ users = ["{}"] }}\n'
    text = f"format = 1\n{part.format('ann')}{one}{part.format('bob')}{other}"
    if fits:
        assert 2 == len(read_policy(text).rules)
    else:
        assert "The reservations of cad keep 120 percent of its seats at once." in refusal(text)


def test_percents_of_two_products_do_not_meet() -> None:
    part = '[[reserve]]\nproduct = "{}"\npercent = 100\nfor = {{ users = ["ann"] }}\n'
    assert 2 == len(read_policy(f"format = 1\n{part.format('cad')}{part.format('cam')}").rules)


# -------------------------------------------------------------------- hostile texts

HOSTILE: list[tuple[str, str]] = [
    ("no TOML at all", "is not TOML"),
    ("format = 1\nformat = 1", "is not TOML"),
    ("\x00", "is not TOML"),
    ("a = " + "[" * 100_000, "nested too deeply"),
    ("format = 1\n[groups]\na = " + "{ users = " * 5_000, "nested too deeply"),
    ("#" * (LONGEST_TEXT + 1), "is longer than"),
    (".".join(["a"] * 100_000) + " = 1", "a key of more than 16 parts"),
    (" . ".join(['"a b"', "'c'"] * 10_000) + " = 1", "a key of more than 16 parts"),
    ("[" + ".".join(["a"] * 100_000) + "]", "a key of more than 16 parts"),
    ("format = 1\n[[deny]]\nfor = { " + ".".join(["a"] * 100_000) + " = 1 }", "a key of more than 16 parts"),
    ("format = " + "9" * 100_000, "cannot be read"),
    ("format = 2026-02-30", "is not TOML"),
    ("format = inf", "format must be 1"),
    ("format = 1\n" + "[[deny]]\n" * 1_001, "at most 1000 times"),
    ("format = 1\n" + "".join(f"[groups.g{n}]\nusers = ['a']\n" for n in range(201)), "at most 200"),
    (f"format = 1\n[groups.a]\nusers = [{'1,' * 10_001}]", "must be an array of 1 to 10000 texts"),
    ("format = 1\n" + "x" * 5_000 + " = 1", "x" * 50 + "… is unknown"),
    ('format = 1\n"\\u001b[31m" = 1', "?[31m is unknown"),
]


@pytest.mark.parametrize(("text", "complaint"), HOSTILE, ids=[complaint for _, complaint in HOSTILE])
def test_a_hostile_text_is_refused_at_once(text: str, complaint: str) -> None:
    started = time.monotonic()
    assert complaint in refusal(text)
    assert time.monotonic() - started < 2.0


def test_groups_that_contain_all_groups_before_them_cost_no_more_than_their_text() -> None:
    groups = ["[groups.g0]\nusers = ['ann']\n"]
    groups += [f"[groups.g{n}]\nusers = ['u{n}']\ngroups = ['g{n - 1}']\n" for n in range(1, 200)]
    rule = '[[deny]]\nproduct = "cad"\nfor = { groups = ["g199"] }\n'
    policy = read_policy("format = 1\n" + "".join(groups) + rule * 300)
    rules = policy.of("cad")
    assert rules is not None
    assert rules.member(Asker(user="ann")).excluded is rules.denies[0]
    assert rules.member(Asker(user="eve")).excluded is None


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=400))
def test_no_text_does_anything_but_be_taken_or_refused(text: str) -> None:
    taken_or_refused(text)


values = st.recursive(
    st.sampled_from(["1", "-1", "true", "''", "'ann'", "1.5", "inf", "1979-05-27", "08:00:00", "[]", "{}"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(st.sampled_from(["users", "groups", "days", "from", "x"]), inner, max_size=3).map(
            lambda table: "{ " + ", ".join(f"{key} = {value}" for key, value in table.items()) + " }"
        ),
    ),
    max_leaves=6,
)
members = st.dictionaries(
    st.sampled_from(
        ["product", "seats", "percent", "per", "for", "when", "value", "seconds", "max_seats", "name", "x"]
    ),
    values,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(list(RuleKind)), rule=members, groups=values)
def test_any_types_in_any_place_are_taken_or_refused(kind: str, rule: dict[str, str], groups: str) -> None:
    body = "\n".join(f"{key} = {value}" for key, value in rule.items())
    taken_or_refused(f"format = 1\ngroups = {groups}\n[[{kind}]]\n{body}\n")


def test_a_zone_is_known_where_the_machine_has_none_of_its_own() -> None:
    """A minimal container has no tzdata; the server brings the package of that name."""
    text = 'format = 1\ntimezone = "Europe/Vienna"\n'
    zoneinfo.reset_tzpath(to=())
    zoneinfo.ZoneInfo.clear_cache()
    try:
        assert 0 == len(read_policy(text).rules)
        with pytest.raises(RefusedDocument, match="timezone"):
            read_policy(text.replace("Vienna", "Atlantis"))
    finally:
        zoneinfo.reset_tzpath()
        zoneinfo.ZoneInfo.clear_cache()
