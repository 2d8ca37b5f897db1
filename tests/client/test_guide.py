"""The examples of the developer's guide run as they are printed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.client import LicenseServers
from tests.client.authority import Authority
from tests.client.fakes import FakeServer, Vendor

GUIDE = Path(__file__).parents[2] / "docs" / "developer-guide.md"


def examples(heading: str) -> list[str]:
    _, _, after = GUIDE.read_text("utf-8").partition(f"\n## {heading}\n")
    section = after.partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def names(vendor: Vendor, server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.setenv("LLS_SERVER", server.url)
    monkeypatch.chdir(tmp_path)
    return {"KEYS": vendor.first, "run_the_application": lambda: None, "render_frames": lambda: False}


def run(example: str, names: dict[str, Any]) -> None:
    exec(compile(example, str(GUIDE), "exec"), names)  # noqa: S102  (our own manual)


def test_counting_features(names: dict[str, Any], server: FakeServer, vendor: Vendor) -> None:
    server.counters.features["render"].value = 20
    first, by_name = examples("Counting features")
    run(first, names)
    assert ([], {}, 0) == (server.active(), server.counters.held, server.used)
    with LicenseServers(server.url, vendor_keys=vendor.first) as known, known.checkout("cad") as seat:
        run(by_name, names | {"seat": seat})
    assert 10 == server.used


def test_sites_that_ask_for_client_certificates(names: dict[str, Any], server: FakeServer, tmp_path: Path) -> None:
    Authority(tmp_path).issue("this-machine", passphrase="a passphrase for tests")
    (example,) = examples("Sites that ask for client certificates")
    placed = example.replace("/etc/cad", str(tmp_path)).replace("https://lls:6501", server.url)
    run(placed, names | {"ask_for_it": lambda: "a passphrase for tests"})
    assert (1, []) == (len(server.leases), server.active())


def test_borrowing_for_the_road(names: dict[str, Any], server: FakeServer) -> None:
    office, road = examples("Borrowing for the road")
    run(office, names)
    server.stop()
    run(road, names)
    assert 1 == len(server.active())


def test_a_machine_that_never_sees_the_network(names: dict[str, Any], server: FakeServer) -> None:
    asked, granted, extended = examples("A machine that never sees the network")
    run(asked, names)
    Path("grant.llsborrow").write_bytes(server.grant(Path("seat.llsborrow").read_bytes()))
    back = granted.index("make_return(")
    run(granted[:back], names)
    run(extended, names)
    Path("grant.llsborrow").write_bytes(server.grant(Path("longer.llsborrow").read_bytes()))
    run(granted, names)
    assert names["borrowed"].until > datetime.now(UTC) + timedelta(days=59)
    server.take_return(Path("back.llsborrow").read_bytes())
    assert [] == server.active()
