"""The plan of the house: who may import whom, and where each library lives. A new arrow fails here first.

Read the tables; the tests only compare them with the syntax trees of ``lls/``. An arrow is added by adding it here,
with a reason, and with a record in ``docs/decisions/`` where it changes the plan. Rooms that do not exist yet have no
files.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVERYTHING = "*"

# Room -> what it may import of lls. A dotted name opens that module only. A room's own modules are always open to it.
ARROWS: dict[str, set[str]] = {
    "faults": set(),
    "licensing": {"faults"},
    "clock": {"licensing.instant"},  # the value that the clock makes is named by the domain, which takes it
    "config": {"faults"},
    "telemetry": set(),
    "tls": {"faults"},
    "signed": {"licensing", "faults"},
    "store": {"licensing", "faults"},
    "writer": {"licensing", "store", "clock", "faults"},
    "identity": {"signed", "faults"},
    "host": set(),
    "turns": set(),
    "events": {"licensing", "writer", "config", "backup", "care", "tls", "turns", "faults"},
    "airgap": {"signed", "writer", "store", "licensing", "faults", "clock", "identity"},
    "watchdog": {"writer", "faults"},
    # Looks at everything and owns no rule of licensing; the daemon hands it what it may change (decision 0026).
    "care": {
        *("airgap", "clock", "config", "faults", "host", "identity", "licensing", "signed", "store", "store.resting"),
        *("telemetry", "tls", "turns", "writer"),
        # An examination says whether there is something to put back, and whether anybody is told.
        *("backup", "events"),
    },
    # What a server's whole state is, and its one file (decision 0020).
    "backup": {"signed", "store", "licensing", "identity", "faults"},
    "schedule": {"writer", "airgap", "store", "clock", "backup", "care", "tls", "faults"},
    "api": {
        *("licensing", "signed.capability", "writer", "airgap", "backup", "care", "events", "faults", "telemetry"),
        *("tls", "turns"),
    },
    "console": {"api"},
    "client": set(),  # is copied into other people's programs
    "issuer": {"signed", "licensing", "faults"},  # the vendor's side knows the documents, not the appliance
    # A policy file is judged where it is written, before any server hears of it.
    # A restore runs while no daemon does; the key or passphrase for it is asked for here. The fingerprint of a request
    # is read out to whoever carries it.
    "cli": {
        *("care", "config", "daemon", "client", "faults", "demo", "licensing.policy_file"),
        *("backup", "signed.jose", "signed.keys", "signed.request", "signed.vault", "tls"),
    },
    "__main__": {"cli"},
    "daemon": {EVERYTHING},
    "demo": {EVERYTHING},  # a whole world in one process: vendor, server and clients
}

# A store's own kind is chosen where objects meet; everybody else knows the protocol.
CHOSEN_BY_THE_DAEMON = {"store.sqlite", "store.postgres"}

# Library -> the rooms where it lives.
HOMES: dict[str, set[str]] = {
    "aiohttp": {"api", "console", "daemon", "events", "issuer.intake", "demo", "cli"},
    "aiosqlite": {"store.sqlite"},
    "apscheduler": {"schedule"},
    "argon2": {"api.credentials"},
    "cryptography": {"signed", "client", "tls"},
    "joserfc": {"signed", "client"},
    "msgspec": {"api"},
    "prometheus_client": {"telemetry", "api.status"},
    "pyotp": {"api.credentials"},
    "psycopg": {"store.postgres"},
    "psycopg_pool": {"store.postgres"},
    "rfc8785": {"signed", "store"},
    "rich": {"cli", "issuer.cli", "demo"},
    "typer": {"cli", "issuer.cli"},
    "uvloop": {"daemon"},
}

# The client's only library; whatever its home says, more would be more for every application to carry.
CLIENT_LIBRARIES = {"cryptography"}

# What the domain may not touch even of the standard library: clocks, chance, the machine, the loop.
NOT_IN_THE_DOMAIN = {
    *("asyncio", "concurrent", "contextvars", "http", "logging", "multiprocessing", "os", "pathlib", "random"),
    *("secrets", "select", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading"),
    *("time", "urllib", "uuid"),
}
CLOCK_READINGS = {"now", "utcnow", "today"}

# Where HTTP statuses of failures may be written: the one table. The far ends of HTTP read what they are sent.
STATUS_TABLE = "api.problems"
READ_STATUSES = ("client", "cli", "issuer", "demo")

LONGEST_FILE = 800


class Import:
    """One imported name with its place, as ``lls.store.sqlite.Store`` or ``aiohttp.web``."""

    def __init__(self, name: str, line: int) -> None:
        self.name = name
        self.line = line
        self.top = name.partition(".")[0]


def imports_of(source: str, *, module: str, is_package: bool) -> list[Import]:
    """Every import in ``source``, wherever it stands; relative ones are resolved against ``module``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            found += [Import(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found


def broken_rule(one: Import, module: str) -> str | None:
    """Why ``module`` (``lls.room.part``) may not import this, or nothing."""
    part = module.removeprefix("lls").lstrip(".")
    room = part.partition(".")[0]
    if one.top == "lls":
        return None if _arrow_is_open(one.name.removeprefix("lls").lstrip("."), room) else "no such arrow in ARROWS"
    if one.top in sys.stdlib_module_names:
        return "the domain is pure" if room == "licensing" and one.top in NOT_IN_THE_DOMAIN else None
    if room == "client" and one.top not in CLIENT_LIBRARIES:
        return "the client is standard library and cryptography only"
    homes = HOMES.get(one.top)
    if homes is None:
        return "this library has no home in HOMES"
    return None if any(_within(part, home) for home in homes) else f"its home is {', '.join(sorted(homes))}"


def _arrow_is_open(target: str, room: str) -> bool:
    if _within(target, room):
        return True
    if target == "__version__":
        return room not in ("client", "licensing")
    if room not in ARROWS:
        return False
    if EVERYTHING in ARROWS[room]:
        return True
    if any(_within(target, kind) for kind in CHOSEN_BY_THE_DAEMON):
        return False
    return any(_within(target, arrow) for arrow in ARROWS[room])


def _within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def house() -> Iterator[tuple[Path, str]]:
    """Each file of ``lls/`` with its module's name."""
    for path in sorted((ROOT / "lls").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def trees() -> Iterator[tuple[str, str, ast.AST]]:
    for path, module in house():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", module, node


def test_every_room_stands_in_the_plan() -> None:
    rooms = {module.split(".")[1] for _, module in house() if "." in module}
    assert set() == rooms - set(ARROWS)


def test_nobody_imports_what_the_plan_does_not_allow() -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{one.line} imports {one.name}: {why}"
        for path, module in house()
        for one in imports_of(path.read_text("utf-8"), module=module, is_package=path.name == "__init__.py")
        if (why := broken_rule(one, module))
    ]
    assert [] == broken


def test_nobody_goes_around_the_plan_with_a_late_import() -> None:
    around = [
        where
        for where, _, node in trees()
        if (isinstance(node, ast.Attribute) and node.attr == "import_module")
        or (isinstance(node, ast.Name) and node.id in ("import_module", "__import__"))
    ]
    assert [] == around


def test_the_domain_reads_no_clock_opens_no_file_and_awaits_nothing() -> None:
    impure = [
        where
        for where, module, node in trees()
        if _within(module, "lls.licensing")
        and (
            (isinstance(node, ast.Attribute) and node.attr in CLOCK_READINGS and _is_date(node.value))
            or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print"))
            or isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        )
    ]
    assert [] == impure


def _is_date(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id in ("datetime", "date")) or (
        isinstance(node, ast.Attribute) and node.attr in ("datetime", "date")
    )


def test_statuses_of_failures_are_written_in_one_table() -> None:
    written = [
        where
        for where, module, node in trees()
        if module != f"lls.{STATUS_TABLE}" and not any(_within(module, f"lls.{room}") for room in READ_STATUSES)
        if (isinstance(node, ast.Name) and node.id == "HTTPStatus")
        or (isinstance(node, ast.Attribute) and node.attr == "HTTPStatus")
        or (isinstance(node, ast.keyword) and node.arg == "status" and _is_failure(node.value))
    ]
    assert [] == written


def _is_failure(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and 400 <= node.value < 600


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    files = [path for folder in ("lls", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {} == {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE}


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("lls.licensing.ledger", "from lls.faults import Fault", True),
        ("lls.licensing.ledger", "from .lease import Lease", True),
        ("lls.licensing.ledger", "from ..store import Store", False),
        ("lls.licensing.ledger", "import lls.store", False),
        ("lls.licensing.ledger", "import time", False),
        ("lls.licensing.ledger", "import msgspec", False),
        ("lls.api.leases", "from lls.signed.capability import sign", True),
        ("lls.api.leases", "from lls.signed import capability", True),
        ("lls.api.leases", "from lls.signed import bundle", False),
        ("lls.api.leases", "from lls import signed", False),
        ("lls.writer", "from lls.store import Store", True),
        ("lls.writer", "from lls.store.sqlite import SqliteStore", False),
        ("lls.writer", "from lls.store import sqlite", False),
        ("lls.daemon", "from lls.store.sqlite import SqliteStore", True),
        ("lls.store.sqlite", "import aiosqlite", True),
        ("lls.store.rows", "import aiosqlite", False),
        ("lls.client.session", "def late():\n    import lls", False),
        ("lls.client.session", "from lls import __version__", False),
        ("lls.client.session", "import joserfc", False),
        ("lls.client.carried", "from lls.signed.borrow import REQUEST", False),
        ("lls.airgap.reports", "from lls.airgap.starting import check_head", True),
        ("lls.airgap.questions", "from lls.api import problems", False),
        ("lls.cli.policy", "from lls.licensing.policy_file import read_policy", True),
        ("lls.cli.policy", "from lls.licensing.policy import Policy", False),
        ("lls.cli.server", "from lls import __version__", True),
        ("lls.cli.server", "import unheard_of", False),
        ("lls.newroom", "from lls.faults import Fault", False),
    ],
)
def test_the_plan_is_read_as_it_is_meant(module: str, line: str, allowed: bool) -> None:
    (one,) = imports_of(line, module=module, is_package=False)
    assert allowed == (broken_rule(one, module) is None)


@pytest.mark.parametrize(
    ("line", "is_package", "name"),
    [
        ("from . import x", False, "lls.store.x"),
        ("from . import x", True, "lls.store.sqlite.x"),
        ("from .. import x", True, "lls.store.x"),
        ("from ..faults import x", False, "lls.faults.x"),
    ],
)
def test_relative_imports_are_resolved(line: str, is_package: bool, name: str) -> None:
    assert [name] == [one.name for one in imports_of(line, module="lls.store.sqlite", is_package=is_package)]
