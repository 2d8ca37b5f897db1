"""What a story is: a TOML file in ``tests/stories``, read strictly, and how an answer is held against what it expects.

Rules (``tests/stories/README.md`` tells them to their readers)
1. A story has a title, a reason and steps. A step does one thing; its words are known, so a slip of the pen is red.
2. Whoever asks for something expects something: a step without ``expect`` proves nothing.
3. ``"null"`` stands for what is absent, because TOML cannot say it.

It refuses to own who does what (``stage``).
"""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

STORIES = Path(__file__).parents[1] / "stories"
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
"""A Monday morning: where a story's clock begins unless it says otherwise."""

STORY_WORDS = {"title", "why", "clock", "entitlement", "catalog", "policy", "license", "step"}
PROGRAM = {"who", "lease"}
WHERE = {"machine", "host", "user", "process", "product", "seats", "features", "edition", "version", "released_on"}
STEP_WORDS: Mapping[str, set[str]] = {
    # A program that has a seat, or wants one.
    "checkout": {*PROGRAM, *WHERE, "activation_code", "same", "wait", "later"},
    "answer": PROGRAM,
    "heartbeat": PROGRAM,
    "look": PROGRAM,
    "checkin": PROGRAM,
    "take": {*PROGRAM, "feature", "amount", "request"},
    "give back": {*PROGRAM, "feature", "amount", "request"},
    "use": {*PROGRAM, "feature", "amount", "request"},
    "undo": {*PROGRAM, "feature", "amount", "request"},
    "borrow": {*PROGRAM, "until", "machine"},
    "get": {"path"},
    # A machine without the network.
    "write request": {*PROGRAM, *WHERE, "file", "until"},
    "write return": {*PROGRAM, "file"},
    "read": {"file"},
    # The vendor.
    "import": {"change", "add", "remove", "commands", "same"},
    "read return": {"file"},
    "issuer": {"command"},
    "write": {"file", "text"},
    # The administrator.
    "lls": {"command"},
    "ask": {"path"},
    "policy": {"text", "by"},
    "journal": {"kind"},
    "log": set(),
    "restart": {"how", "off"},
    # Time.
    "wait": {"for"},
    "silence": {"for"},
    "turn clock": {"by"},
}
WITHOUT_ANSWER = {"wait", "silence", "turn clock", "restart", "write request", "write return", "write"}
JOURNAL, SAYS, SAYS_NOT = "journal", "says", "says_not"
OPERATORS = {"is", "not", "contains", "at_least", "at_most", "about"}
NAMES = ("key", "product", "entitlement_id", "lease_id", "feature", "lot", "lot_id", "rule", "code", "name", "kind")
"""Members by which an element of a list may be meant: ``features[render]``."""

_DURATION = re.compile(r"(-?\d+) (second|minute|hour|day|week)s?")
_PIECE = re.compile(r"([^.\[\]]+)|\[([^\]]*)\]")
_JWS_PARTS = 3


class Wrong(AssertionError):
    """The story is not of its form, or what happened is not what it expects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that somebody does, and what must come of it."""

    number: int
    do: str
    say: str
    words: Mapping[str, Any]
    expect: Mapping[str, Any]

    def __str__(self) -> str:
        told = " ".join(f"{name}={value!r}" for name, value in self.words.items())
        return f"step {self.number}: {self.say or ''} [{self.do} {told}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A whole story. ``entitlements`` are as written: the stage adds what is unsaid.

    With a ``catalog`` the vendor is a real office with its own commands, and the clock is the machine's.
    """

    title: str
    why: str
    clock: datetime
    entitlements: Sequence[Mapping[str, Any]]
    catalog: str | None
    policy: str | None
    license: Mapping[str, Any]
    steps: Sequence[Step]

    @property
    def has_policy(self) -> bool:
        """Whether the site keeps a policy file at all."""
        return self.policy is not None or any(step.do == "policy" for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a step brought: a status, something with members, and the same as text."""

    status: int = 0
    body: Any = None
    text: str = ""


def read_story(text: str) -> Story:
    """Raises :class:`Wrong` for a word that has no meaning here."""
    told = tomllib.loads(text)
    _known(told, STORY_WORDS, "the story")
    for word in ("title", "why", "step"):
        if not told.get(word):
            raise Wrong(f"The story has no {word}.")
    return Story(
        title=told["title"],
        why=told["why"],
        clock=told.get("clock", START),
        entitlements=without_null(told.get("entitlement", [])),
        catalog=told.get("catalog"),
        policy=told.get("policy"),
        license=without_null(told.get("license", {})),
        steps=tuple(_read_step(number, step) for number, step in enumerate(told["step"], start=1)),
    )


def _read_step(number: int, told: Mapping[str, Any]) -> Step:
    words = {name: value for name, value in told.items() if name not in ("do", "say", "expect")}
    step = Step(
        number=number, do=told.get("do", ""), say=told.get("say", ""), words=words, expect=told.get("expect", {})
    )
    if step.do not in STEP_WORDS:
        raise Wrong(f"{step}: nobody knows how to do {step.do!r}.")
    _known(words, STEP_WORDS[step.do], str(step))
    if not step.expect and step.do not in WITHOUT_ANSWER:
        raise Wrong(f"{step}: expects nothing, so it proves nothing.")
    return step


def _known(told: Mapping[str, Any], words: set[str], where: str) -> None:
    unknown = sorted(set(told) - words)
    if unknown:
        raise Wrong(f"{where}: {', '.join(unknown)} means nothing here; known: {', '.join(sorted(words))}.")


def duration(text: str) -> timedelta:
    """``31 days``, ``-2 hours``."""
    read = _DURATION.fullmatch(text)
    if read is None:
        raise Wrong(f"{text!r} is no length of time; write it like `31 days`.")
    return timedelta(**{f"{read[2]}s": int(read[1])})


def without_null(value: Any) -> Any:
    """The value with None where a story says ``"null"``."""
    match value:
        case "null":
            return None
        case dict():
            return {key: without_null(member) for key, member in value.items()}
        case list():
            return [without_null(member) for member in value]
        case datetime():
            return written(value)
        case _:
            return value


def written(at: datetime) -> str:
    """An instant as the wire has it."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# ---------------------------------------------------------------- expecting


def complaints(expect: Mapping[str, Any], outcome: Outcome) -> list[str]:
    """Each thing that is not as expected, as a sentence; the journal is the stage's to compare."""
    found: list[str] = []
    for name, wanted in expect.items():
        match name:
            case "status":
                found += _differences(name, wanted, outcome.status)
            case "says":
                found += [f"does not say {word!r}" for word in _several(wanted) if word not in outcome.text]
            case "says_not":
                found += [f"says {word!r}" for word in _several(wanted) if word in outcome.text]
            case "journal":
                pass
            case _:
                found += _differences(name, wanted, at(outcome.body, name))
    return found


def lines_differ(wanted: Sequence[str | Mapping[str, Any]], posted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why these journal lines are not the wanted ones: a kind, or a table of ``kind`` and what its data must say."""
    kinds = [line if isinstance(line, str) else line["kind"] for line in wanted]
    found = [line["kind"] for line in posted]
    if kinds != found:
        return [f"the journal got {found}, not {kinds}"]
    differences: list[str] = []
    for want, line in zip(wanted, posted, strict=True):
        if not isinstance(want, str):
            for name, value in want.items():
                if name != "kind":
                    differences += _differences(f"{line['kind']}.{name}", value, at(line["data"], name))
    return differences


def at(body: Any, path: str) -> Any:
    """What stands at ``lease.features[render].held``; None where the way ends. Tokens are opened on the way."""
    for name, which in _PIECE.findall(path):
        body = _opened(body)
        if name:
            body = body.get(name) if isinstance(body, Mapping) else None
        elif isinstance(body, list):
            body = _element(body, which)
        else:
            body = None
    return body


def _element(rows: Sequence[Any], which: str) -> Any:
    if which.lstrip("-").isdigit():
        return rows[int(which)] if -len(rows) <= int(which) < len(rows) else None
    named = (row for row in rows if isinstance(row, Mapping) and which in [row.get(name) for name in NAMES])
    return next(named, None)


def _opened(body: Any) -> Any:
    """A signed token as its payload; whether it is rightly signed is for other tests."""
    parts = body.split(".") if isinstance(body, str) else []
    if len(parts) != _JWS_PARTS:
        return body
    return json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))


def _differences(path: str, wanted: Any, found: Any) -> Iterator[str]:
    wanted = without_null(wanted)
    if not isinstance(wanted, dict):
        if type(wanted) is not type(found) or wanted != found:
            yield f"{path} is {found!r}, not {wanted!r}"
    elif set(wanted) <= OPERATORS:
        yield from (
            f"{path} is {found!r}, and must be {word} {value!r}"
            for word, value in wanted.items()
            if not _holds(word, value, found)
        )
    else:
        for name, value in wanted.items():
            yield from _differences(f"{path}.{name}", value, at(found, name))


def _holds(word: str, value: Any, found: Any) -> bool:
    match word:
        case "is":
            return bool(value == found)
        case "not":
            return bool(value != found)
        case "contains":
            return found is not None and all(part in found for part in _several(value))
        case "at_least":
            return isinstance(found, int) and found >= value
        case "at_most":
            return isinstance(found, int) and found <= value
        case _:
            return isinstance(found, str) and _is_about(value, found)


def _is_about(wanted: str, found: str) -> bool:
    """Within a minute: a story's clock runs while it is told."""
    apart = datetime.fromisoformat(found) - datetime.fromisoformat(wanted)
    return abs(apart) <= timedelta(minutes=1)


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
