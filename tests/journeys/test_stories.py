"""Every story of ``tests/stories`` is true of the real daemon; each can be read by whoever answers the telephone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.journeys.stage import Stage
from tests.journeys.story import (
    OPERATORS,
    STEP_WORDS,
    STORIES,
    STORY_WORDS,
    Outcome,
    Wrong,
    complaints,
    lines_differ,
    read_story,
)

TABLE = sorted(STORIES.glob("*.toml"))
LEAST = 50


@pytest.mark.parametrize("path", TABLE, ids=lambda path: path.stem)
def test_story(path: Path, tmp_path: Path) -> None:
    wrong = played(tmp_path, path)
    if wrong is not None:
        pytest.fail(wrong, pytrace=False)


def played(root: Path, path: Path) -> str | None:
    """What went otherwise than the story says."""
    stage = Stage(root, read_story(path.read_text("utf-8")))
    try:
        stage.play()
    except Wrong as wrong:
        broken = [
            line for line in stage.site.lines() if "Traceback" in line or " ERROR " in line or line.startswith("  ")
        ]
        return "\n".join([stage.story.title, str(wrong), *broken[-20:]])
    finally:
        stage.close()
    return None


def test_there_are_enough_stories_and_no_two_are_called_the_same() -> None:
    titles = [read_story(path.read_text("utf-8")).title for path in TABLE]
    assert LEAST <= len(titles)
    assert sorted(set(titles)) == sorted(titles)


def test_the_readme_tells_every_word_and_every_verb_is_used() -> None:
    readme = (STORIES / "README.md").read_text("utf-8")
    words = {word for known in STEP_WORDS.values() for word in known} | STEP_WORDS.keys() | STORY_WORDS | OPERATORS
    untold = [word for word in words if not re.search(rf"[`\"{{\[\s]{word}[`\"\] ]", readme)]
    assert [] == untold
    stories = [read_story(path.read_text("utf-8")) for path in TABLE]
    assert STEP_WORDS.keys() == {step.do for story in stories for step in story.steps}


STEP = '[[step]]\nwho = "ann"\ndo = "checkout"\nexpect = { status = 201 }\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('why = "w"\n' + STEP, "no title"),
        ('title = "t"\nwhy = "w"\n', "no step"),
        ('title = "t"\nwhy = "w"\nclok = 1\n' + STEP, "clok means nothing"),
        ('title = "t"\nwhy = "w"\n' + STEP + "seets = 2\n", "seets means nothing"),
        ('title = "t"\nwhy = "w"\n[[step]]\ndo = "check out"\n', "nobody knows how to do 'check out'"),
        ('title = "t"\nwhy = "w"\n[[step]]\ndo = "look"\nwho = "ann"\n', "proves nothing"),
    ],
)
def test_a_slip_of_the_pen_is_not_a_green_story(text: str, complaint: str) -> None:
    with pytest.raises(Wrong, match=complaint):
        read_story(text)


@pytest.mark.parametrize(
    ("expect", "is_met"),
    [
        ({"status": 200}, True),
        ({"status": 201}, False),
        ({"lease.seats": 1}, True),
        ({"lease": {"seats": 1}}, True),
        ({"lease.seats": True}, False),
        ({"lease.seats": {"at_least": 2}}, False),
        ({"lease.features[render].held": 3}, True),
        ({"lease.features[0].held": 3}, True),
        ({"lease.features[none].held": 3}, False),
        ({"lease.edition": "null"}, True),
        ({"lease.features": {"is": []}}, False),
        ({"lease.until": {"about": "2026-03-02T09:00:30Z"}}, True),
        ({"lease.until": {"about": "2026-03-02T09:30:00Z"}}, False),
        ({"says": "seats"}, True),
        ({"says": ["seats", "borrowed"]}, False),
        ({"says_not": "seats"}, False),
    ],
)
def test_what_is_expected_is_compared(expect: dict[str, object], is_met: bool) -> None:
    lease = {"seats": 1, "edition": None, "until": "2026-03-02T09:00:00Z", "features": [{"key": "render", "held": 3}]}
    outcome = Outcome(status=200, body={"lease": lease}, text='{"lease": {"seats": 1}}')
    assert is_met is not bool(complaints(expect, outcome))


def test_the_journal_must_have_exactly_the_lines() -> None:
    posted = [{"kind": "Used", "data": {"amount": 3, "draws": {"allowance": 3}}}]
    assert [] == lines_differ(["Used"], posted)
    assert [] == lines_differ([{"kind": "Used", "amount": 3, "draws": {"allowance": 3}}], posted)
    assert lines_differ([], posted)
    assert lines_differ(["Used", "Used"], posted)
    assert lines_differ([{"kind": "Used", "amount": 2}], posted)
