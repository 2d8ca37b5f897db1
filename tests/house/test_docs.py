"""The manuals say what is there, all of it, and nothing else (after datasette's ``test_docs.py``).

Each test takes one list out of the code and one table out of a document and wants them equal.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command

from lls import cli, faults
from lls.api import problems
from lls.api.app import ADMIN_ROUTES, LAN_ROUTES, NETWORK_ADMIN_ROUTES
from lls.config import PREFIX, Config
from lls.faults import Fault, LeaseEnd, Refusal
from lls.issuer import billing, history, order_table, refusals
from lls.issuer import cli as issuer_cli
from lls.issuer.catalog_file import read_catalog
from lls.issuer.customer_fields import read_customer_fields
from lls.issuer.customer_file import read_customer_file
from lls.issuer.orders import read_orders
from lls.licensing import usage
from lls.licensing.entitlement import read_entitlement
from lls.licensing.instant import ClockState
from lls.licensing.journal import Kind
from lls.licensing.policy import RuleKind
from lls.licensing.policy_file import read_policy
from lls.telemetry import metrics

ROOT = Path(__file__).parents[2]
MANUAL, FORMATS, ISSUER = "docs/administrators-manual.md", "docs/formats.md", "docs/issuer.md"
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]\n]+\]\(([^)\s]+)\)")


def text(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


def section(document: str, heading: str) -> str:
    """A document from one heading to the next of its rank or above."""
    level = heading.partition(" ")[0]
    _, found, after = text(document).partition(f"\n{heading}\n")
    assert found, f"{document} has no {heading}"
    return re.split(rf"\n#{{1,{len(level)}}} ", after, maxsplit=1)[0]


def rows(table: str) -> list[list[str]]:
    """The cells of every table row, without heads."""
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line.startswith("|")]
    heads = {n - 1 for n, row in enumerate(cells) if set("".join(row)) <= set("-: ")}
    return [[cell.strip() for cell in row] for n, row in enumerate(cells) if n not in heads and n - 1 not in heads]


def named(table: str) -> list[str]:
    """What stands in backticks in the first cells."""
    return [name for row in rows(table) for name in SPAN.findall(row[0])]


def prose(document: str) -> str:
    """A document without its fenced blocks."""
    return FENCED.sub("", text(document))


# ---------------------------------------------------------------- settings and environment


@pytest.mark.parametrize("table", [table.name for table in fields(Config)])
def test_every_setting_is_in_the_manual_with_its_default_and_range(table: str) -> None:
    documented = {SPAN.findall(row[0])[0]: row for row in rows(section(MANUAL, f"### `[{table}]`"))}
    settings = fields(getattr(Config(), table))
    assert [one.name for one in settings] == list(documented)
    for one in settings:
        _, default, span, meaning = documented[one.name]
        shown = list(one.default) if isinstance(one.default, tuple) else one.default
        assert f"`{json.dumps(shown)}`" == default, one.name
        for bound in (one.metadata["least"], one.metadata["most"]):
            assert bound is None or str(bound) in span, one.name
        assert meaning, one.name


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if "developer" not in document])
def test_no_document_names_a_setting_that_is_not_there(document: str) -> None:
    tables = {table.name: {one.name for one in fields(getattr(Config(), table.name))} for table in fields(Config)}
    mentioned = re.findall(rf"`({'|'.join(tables)})\.(\w+)\b[^`]*`", prose(document))
    wrong = {f"{table}.{name}" for table, name in mentioned if name not in tables[table]}
    assert set() == wrong - {"tls.crt", "journal.ndjson"}  # files


def variables() -> set[str]:
    """Every environment variable of ours that the code names."""
    sources = (path.read_text("utf-8") for path in (ROOT / "lls").rglob("*.py"))
    return {name for source in sources for name in re.findall(r"\bLLS_[A-Z]+(?:_[A-Z]+)*\b", source)}


def test_every_environment_variable_is_in_the_manual() -> None:
    documented = set(named(section(MANUAL, "## Environment")))
    assert set() == variables() - documented
    assert set() == {name for name in documented if re.fullmatch(r"LLS_[A-Z]+(_[A-Z]+)*", name)} - variables()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_document_names_a_variable_that_is_not_there(document: str) -> None:
    assert set() == set(re.findall(r"\bLLS_[A-Z]+(?:_[A-Z]+)*\b", text(document))) - variables()
    config = Config()
    for table, name in re.findall(rf"\b{PREFIX}([A-Z]+)__([A-Z_]+)\b", text(document)):
        assert (table, name) == ("TABLE", "NAME") or hasattr(getattr(config, table.lower()), name.lower())


# ---------------------------------------------------------------- codes, reasons, kinds, columns


def codes() -> dict[str, str]:
    """Every code with its status; a fault that is never answered has none."""
    told = {code: str(int(kind.status)) for code, kind in problems.KINDS.items()}
    classes = [one for one in vars(faults).values() if isinstance(one, type) and issubclass(one, Fault)]
    return {one.code: "–" for one in classes} | told


def test_every_error_code_is_documented_with_its_status() -> None:
    table = section(FORMATS, "## Errors").partition("\n### ")[0]
    assert codes() == {SPAN.findall(row[0])[0]: row[1] for row in rows(table)}


def denials() -> set[str]:
    """The codes that the domain denies with: ``Denial(code=…)``, and ``_denial(…, code, …)`` where it is made."""
    found = set()
    for path in (ROOT / "lls" / "licensing").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Denial", "_denial"):
                given = [one.value for one in node.keywords if one.arg == "code"] + node.args
                found |= {str(one.value) for one in given if isinstance(one, ast.Constant)}
    return found & set(problems.KINDS)


def test_every_denial_says_what_the_administrator_can_do() -> None:
    assert len(denials()) >= 10
    table = section(MANUAL, "## Denials and what to do").partition("These are refused without")[0]
    assert denials() == set(named(table))


def test_exactly_the_codes_that_nothing_answers_with_are_marked_as_coming_later() -> None:
    table = section(FORMATS, "## Errors").partition("\n### ")[0]
    later = {SPAN.findall(row[0])[0] for row in rows(table) if row[2].startswith("*Later.*")}
    others = [path for path in (ROOT / "lls").rglob("*.py") if path.name != "faults.py"]
    words = set(re.findall(r"\w+", "\n".join(path.read_text("utf-8") for path in others)))
    answered = {
        one.code
        for name, one in vars(faults).items()
        if isinstance(one, type) and issubclass(one, Fault) and name in words
    }
    assert set(codes()) - denials() - answered == later


@pytest.mark.parametrize(
    ("document", "heading", "known"),
    [
        (FORMATS, "### Why a lease ended", [*LeaseEnd]),
        (FORMATS, "### Why a document was refused", [*Refusal]),
        (FORMATS, "## The journal", [*Kind]),
        (FORMATS, "## usage.csv", usage.COLUMNS),
        (ISSUER, "## Reports", [*refusals.ReportProblem]),
        (
            ISSUER,
            "## Refusals",
            [one.code for one in vars(refusals).values() if isinstance(one, type) and issubclass(one, Fault)][1:],
        ),
        (ISSUER, "## History", [*history.Deed]),
        (ISSUER, "### Orders as a table", [*order_table.ORDER_COLUMNS, *order_table.LINE_COLUMNS]),
        (ISSUER, "## Billing", [*billing.COLUMNS, *billing.Meter]),
        (MANUAL, "## The clock", [*ClockState]),
    ],
)
def test_every_word_of_a_list_is_documented_and_no_other(document: str, heading: str, known: list[str]) -> None:
    assert sorted(known) == sorted(named(section(document, heading)))


# ---------------------------------------------------------------- metrics, calls, log


def metric_kinds() -> dict[str, str]:
    made = metrics()
    collectors = [getattr(made, one.name) for one in fields(made) if one.name != "registry"]
    found = {}
    for collector in collectors:
        assert isinstance(collector, MetricWrapperBase)
        for family in collector.describe():
            found[f"{family.name}_total" if family.type == "counter" else family.name] = family.type
    return found


def test_every_metric_is_in_the_manual() -> None:
    assert metric_kinds() == {SPAN.findall(row[0])[0]: row[1] for row in rows(section(MANUAL, "## Metrics"))}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_document_names_a_metric_that_is_not_there(document: str) -> None:
    mentioned = {
        name for span in SPAN.findall(prose(document)) for name in re.findall(r"\blls_[a-z]+(?:_[a-z]+)*", span)
    }
    assert set() == mentioned - set(metric_kinds())


def test_every_http_call_is_documented_and_no_other() -> None:
    served = {f"{route.method} {route.path}" for route in (*LAN_ROUTES, *ADMIN_ROUTES, *NETWORK_ADMIN_ROUTES)}
    assert served == {name for name in named(text(FORMATS)) if re.match(r"[A-Z]+ /", name)}


def test_every_event_of_the_log_is_in_the_manual() -> None:
    logged = set()
    for path in (ROOT / "lls").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("_log."):
                continue
            assert isinstance(node.args[0], ast.Constant), f"{path}: an event is a word"
            logged.add(node.args[0].value)
    assert logged == set(named(section(MANUAL, "## The log")))


# ---------------------------------------------------------------- commands


def commands(program: str) -> dict[str, Any]:
    """Every command of a program by its words, with Typer's own object for it."""
    return dict(_walk(get_command({"lls": cli.app, "lls-issuer": issuer_cli.app}[program]), program))


def _walk(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "list_commands"):
        yield words, command
        return
    if command.invoke_without_command:  # a group that is a command, too
        yield words, command
    for name in command.list_commands(None):
        yield from _walk(command.get_command(None, name), f"{words} {name}")


def options(command: Any) -> set[str]:
    return {name for one in command.params if one.param_type_name == "option" for name in one.opts} - {"--help"}


@pytest.mark.parametrize(("program", "document"), [("lls", MANUAL), ("lls-issuer", ISSUER)])
def test_every_command_is_documented_with_all_its_options(program: str, document: str) -> None:
    known = commands(program)
    documented = {}
    for row in rows(section(document, "## Commands")):
        words = _words_of(SPAN.findall(row[0])[0], known)
        documented[words] = {name for span in SPAN.findall(row[2]) for name in span.split()[:1] if name[0] == "-"}
    assert {words: options(command) for words, command in known.items()} == documented


def _words_of(line: str, known: Mapping[str, Any]) -> str:
    """The command's own words at the beginning of a line."""
    fitting = [words for words in known if f"{line} ".startswith(f"{words} ")]
    return max(fitting, key=len, default=line)


def test_no_advice_names_a_command_that_is_not_there() -> None:
    known, advised = commands("lls"), set()
    for path in (*(ROOT / "lls" / "care").glob("*.py"), ROOT / "lls" / "cli" / "doctor.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                advised |= {span for span in SPAN.findall(node.value) if span.startswith("lls ")}
    assert len(advised) >= 8
    assert set() == {line for line in advised if _words_of(line, known) not in known}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_document_types_a_command_that_is_not_there(document: str) -> None:
    wrong = []
    for line in typed(document):
        words = shlex.split(line)
        program, rest = words[0], words[1:]
        while rest and rest[0] in ("--config", "--home", "--by", "--reason"):
            rest = rest[2:]
        if not rest or rest[0] in ("COMMAND", "[--config", "[--home", "…", "--help", "--version"):
            continue
        known = commands(program)
        called = _words_of(" ".join([program, *rest]), known)
        given = {word.partition("=")[0] for word in rest if word.startswith("-") and word != "--"}
        if called not in known or (called != "lls run" and not given <= options(known[called])):
            wrong.append(line)
    assert [] == wrong


def typed(document: str) -> Iterator[str]:
    """Every command of ours in a document: in backticks and in shell blocks."""
    for span in SPAN.findall(prose(document)):
        if re.match(r"lls(-issuer)? ", span):
            yield span
    for kind, body in FENCED.findall(text(document)):
        if kind in ("sh", "bash"):
            yield from re.findall(r"(?:^|\()\s*(?:\.venv/bin/)?(lls(?:-issuer)? [^|#)\n]+)", body, re.MULTILINE)


# ---------------------------------------------------------------- examples and links


def test_the_vendors_examples_are_accepted() -> None:
    catalogue = next(body for kind, body in FENCED.findall(section(ISSUER, "## The catalogue")) if kind == "toml")
    assert ["CAD-PRO-1Y"] == list(read_catalog(catalogue).offerings)
    order = next(body for kind, body in FENCED.findall(section(ISSUER, "## Orders")) if kind == "json")
    assert ["SO-1001"] == [one.order_ref for one in read_orders(order.replace("lls_…", f"lls_{'A' * 22}").encode())]


def test_the_vendors_example_of_customers_is_accepted() -> None:
    schema = next(body for kind, body in FENCED.findall(section(ISSUER, "### Fields of your own")) if kind == "toml")
    table = FENCED.findall(section(ISSUER, "### Importing customers"))[0][1]
    (row,) = read_customer_file(table.encode()).rows
    assert [] == list(read_customer_fields(schema).complaints(row.own))


def test_the_administrators_example_of_a_policy_is_accepted() -> None:
    example = next(body for kind, body in FENCED.findall(section(MANUAL, "### The file")) if kind == "toml")
    told = {SPAN.findall(row[0])[0] for row in rows(section(MANUAL, "### The file"))}
    assert {*RuleKind} - {RuleKind.ALLOW} == {rule.kind for rule in read_policy(example).rules}
    assert {*RuleKind} == told


def test_the_example_of_an_entitlement_is_one() -> None:
    examples = [body for kind, body in FENCED.findall(text(FORMATS)) if kind == "json" and '"group_id"' in body]
    (example,) = (re.sub(r'"([a-z]{3}_)…"', rf'"\1{"A" * 22}"', body) for body in examples)
    entitlement = read_entitlement(json.loads(example))
    assert ["export", "render"] == [one.key for one in entitlement.features]
    assert (500, True) == (entitlement.features[1].grants[0].amount, entitlement.borrow.allowed)


def test_every_example_in_json_is_json() -> None:
    for document in DOCUMENTS:
        for kind, body in FENCED.findall(text(document)):
            if kind == "json":
                json.loads(body)


@pytest.mark.parametrize("document", [*DOCUMENTS, "docs/decisions/README.md", "CHANGELOG.md"])
def test_every_link_inside_the_project_leads_somewhere(document: str) -> None:
    broken = []
    for target in LINK.findall(prose(document)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert [] == broken


def anchors(path: Path) -> set[str]:
    """Headings as the usual forges make links of them."""
    found = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}
