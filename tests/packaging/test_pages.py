"""Manual pages: all that the programs say and nothing else, as text and never as troff, in a form that readers read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from parcel.pages import ISSUER, LLS, POLICY, SETTINGS, Program, pages
from parcel.shelf import site_shelf, vendor_shelf
from parcel.troff import Page, bold, plain, prose
from typer.main import get_command

from lls.config import Config
from lls.licensing.policy import RuleKind
from lls.licensing.policy_file import read_policy
from tests.packaging.stock import NOON, ROOT

PROGRAMS = (LLS, ISSUER)
SHELF = site_shelf(ROOT, time=NOON) | vendor_shelf(time=NOON)
PAGES = {place.rpartition("/")[2]: content for place, content in SHELF.items() if place.startswith("man/")}
FONTS = re.compile(r"\\f[BIR]")


def words(program: Program) -> Iterator[tuple[str, Any]]:
    """Every command that can be typed, by its words."""

    def walk(command: Any, typed: str) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "list_commands") or command.invoke_without_command:
            yield typed, command
        for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
            yield from walk(command.get_command(None, name), f"{typed} {name}")

    return walk(get_command(program.app), program.name)


def read(name: str) -> str:
    """The source of a page without its fonts, its minus signs plain."""
    return FONTS.sub("", PAGES[name].decode("ascii")).replace(r"\-", "-").replace(r"\%", "").replace(r"\&", "")


def section(page: str, heading: str) -> str:
    _, found, after = read(page).partition(f".SH {heading}\n")
    assert found, f"{page} has no {heading}"
    return after.partition("\n.SH ")[0]


# ---------------------------------------------------------------- what they say


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda one: one.name)
def test_every_command_stands_in_a_page_with_all_of_its_options(program: Program) -> None:
    missing = []
    for typed, command in words(program):
        page = f"{'-'.join(typed.split()[:2])}.1"
        if f'\n.SY "{typed}"\n' not in read(page):
            missing.append(typed)
        below = read(page).partition(f'.SS "{typed}"\n')[2].partition("\n.S")[0] or section(page, "OPTIONS")
        tags = re.findall(r"^\.TP\n(.*)$", below, re.MULTILINE)
        told = {name for tag in tags for name in re.findall(r"(?:^|, )(--?[a-z][a-z-]*)", tag)}
        given = {name for one in command.params if one.param_type_name == "option" for name in one.opts}
        missing += [f"{typed} {name}" for name in sorted((given ^ told) - {"--help"})]
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        missing += [f"{typed}: {len(arguments)} arguments"] if len(arguments) != len(tags) - _options(tags) else []
    assert [] == missing


def _options(tags: list[str]) -> int:
    return sum(re.match(r"--?[a-z]", tag) is not None for tag in tags)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda one: one.name)
def test_the_programs_own_page_names_the_page_of_each_command(program: Program) -> None:
    first = {typed.split()[1] for typed, _ in words(program)}
    assert first == set(re.findall(r"^\.TP\n(\S+)$", section(f"{program.name}.1", "COMMANDS"), re.MULTILINE))
    see = set(re.findall(r"([a-z-]+)\(1\)", section(f"{program.name}.1", "SEE ALSO")))
    assert {f"{program.name}-{word}" for word in first} == see - {"lls"}
    assert {f"{program.name}.1"} | {f"{program.name}-{word}.1" for word in first} == set(pages(program, time=NOON))


def test_every_setting_stands_with_its_default() -> None:
    told = section(f"{SETTINGS}.5", "SETTINGS")
    wanted = []
    for table in fields(Config):
        wanted.append(f'.SS "[{table.name}]"')
        for one in fields(type(getattr(Config(), table.name))):
            default = list(one.default) if isinstance(one.default, tuple) else one.default
            wanted.append(f"{one.name} = {json.dumps(default)}")
    found = re.findall(r"^(?:\.SS .*|[a-z][a-z0-9_]* = .*)$", told.replace(r"\(dq", '"'), re.MULTILINE)
    assert wanted == found


def test_the_policys_page_holds_every_rule_as_it_is_read() -> None:
    shown = re.findall(r"^\.EX\n(.*?)^\.EE$", read(f"{POLICY}.5"), re.MULTILINE | re.DOTALL)
    spoken = {r"\(dq": '"', r"\(aq": "'", r"\(ga": "`", r"\e": "\\"}
    toml = "\n".join(shown)
    for written, letter in spoken.items():
        toml = toml.replace(written, letter)
    assert {*RuleKind} == {rule.kind for rule in read_policy(toml).rules}


def test_every_page_that_another_names_is_there() -> None:
    named = {f"{page}.{number}" for name in PAGES for page, number in re.findall(r"([\w.-]+)\((\d)\)", read(name))}
    assert set() == named - set(PAGES)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_sections_stand_in_the_fields_order(name: str) -> None:
    order = ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "OPTIONS", "SETTINGS", "RULES", "EXIT STATUS", "FILES"]
    order += ["ENVIRONMENT", "SEE ALSO"]
    found = re.findall(r"^\.SH (.*)$", read(name), re.MULTILINE)
    assert sorted(found, key=order.index) == found
    always = {"NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"} | (
        {"OPTIONS", "EXIT STATUS"} if name[-1] == "1" else set()
    )
    assert always <= set(found)


# ---------------------------------------------------------------- the same bytes


def test_pages_are_the_same_wherever_and_whenever_they_are_made() -> None:
    """Of the build machine's time, zone, language and settings nothing enters."""
    told = "import sys; from pathlib import Path; from parcel.shelf import *; import hashlib\n"
    told += f"made = site_shelf(Path({str(ROOT)!r}), time={NOON}) | vendor_shelf(time={NOON})\n"
    told += "print(hashlib.sha256(repr(sorted(made.items())).encode()).hexdigest())"
    elsewhere = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "COLUMNS": "30", "LLS_CONFIG": "/nowhere", "LLS_CODE": "x"}
    done = [
        subprocess.run(
            [sys.executable, "-c", told],
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'packaging'}"} | more,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for more in ({}, elsewhere)
    ]
    assert done[0] == done[1]
    assert "2026-11-18" in read("lls.1").splitlines()[0]


def test_a_site_gets_no_page_of_the_vendors_tool() -> None:
    assert [] == [place for place in site_shelf(ROOT, time=NOON) if "issuer" in place]


# ---------------------------------------------------------------- as text


NASTY = [
    ".SH not a heading",
    "'br is no request",
    r"C:\new\fBold and \(co",
    "--dry-run and a-b and -1",
    'say "quoted" and it\'s `typed` ^here~',
    "a dot .at and an end. .Dot after it",
    "grüße … – 100 %",
]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (".SH x", r"\&.SH x"),
        ("'x", r"\(aqx"),
        (r"a\b", r"a\eb"),
        ("-1", r"\-1"),
        ('"', r"\(dq"),
        ("…", r"\[u2026]"),
        ("a\n  b", "a b"),
    ],
)
def test_no_letter_of_a_text_commands(text: str, source: str) -> None:
    assert source == plain(text)


def nasty_page() -> bytes:
    page = Page("x", 1, about="nothing", version="x", time=NOON)
    page.heading("DESCRIPTION")
    for text in NASTY:
        page.paragraph(plain(text))
    for text in NASTY:
        page.entry(bold(text), prose(text.replace("`", "")))
    page.verbatim(NASTY)
    return page.source()


def shown(source: bytes, *reader: str) -> str:
    done = subprocess.run(reader, input=source, capture_output=True, check=True)
    assert b"" == done.stderr
    return re.sub(".\b", "", done.stdout.decode())


@pytest.mark.parametrize(
    "reader",
    [("mandoc", "-Tutf8", "-Owidth=200"), ("groff", "-man", "-ww", "-Tutf8", "-P-c", "-P-b", "-P-u", "-rLL=200n")],
    ids=["mandoc", "groff"],
)
def test_what_is_written_is_what_is_read(reader: tuple[str, ...]) -> None:
    if shutil.which(reader[0]) is None:
        pytest.skip(f"{reader[0]} is not installed")
    read = shown(nasty_page(), *reader)
    for text in NASTY:
        assert 2 <= read.count(text), text


# ---------------------------------------------------------------- as the readers judge


def complaints(*judge: str) -> list[str]:
    """What a reader says of any page. They read from a pipe, so that no folder is needed."""
    if shutil.which(judge[0]) is None:
        pytest.skip(f"{judge[0]} is not installed")
    told = []
    for name, source in PAGES.items():
        done = subprocess.run(judge, input=source, capture_output=True, check=False)
        told += [f"{name}: {line}" for line in (done.stdout + done.stderr).decode().splitlines()]
    return told


def test_mandoc_finds_nothing_to_warn_of() -> None:
    assert [] == complaints("mandoc", "-T", "lint", "-W", "warning")


def test_groff_finds_nothing_to_warn_of() -> None:
    assert [] == complaints("groff", "-man", "-ww", "-z", "-Tutf8")


def test_apropos_finds_each_page_by_its_line(tmp_path: Path) -> None:
    if shutil.which("lexgrog") is None:
        pytest.skip("lexgrog (man-db) is not installed")
    for name, source in PAGES.items():
        (tmp_path / name).write_bytes(source)
    done = subprocess.run(["lexgrog", *sorted(PAGES)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert [name.rpartition(".")[0] for name in sorted(PAGES)] == re.findall(
        r'^.*: "(\S+) - ', done.stdout, re.MULTILINE
    )
