"""A vendor, a server with a self-made TLS certificate, and a place to collect events."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lls.client import LicenseServers
from tests.client.fakes import FakeServer, TlsKey, Vendor, running
from tests.client.heard import Heard


@pytest.fixture(scope="session")
def vendor() -> Vendor:
    return Vendor()


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's own borrowed seats are touched."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "lls" / "borrowed"


@pytest.fixture(autouse=True)
def no_settings_of_a_developers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is their license server asked."""
    for name in [name for name in os.environ if name.startswith("LLS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def tls(tmp_path: Path) -> TlsKey:
    return TlsKey(tmp_path)


@pytest.fixture
def server(vendor: Vendor, tls: TlsKey) -> Iterator[FakeServer]:
    with running(FakeServer(vendor, tls=tls)) as made:
        yield made


@pytest.fixture
def brisk(vendor: Vendor, tls: TlsKey) -> Iterator[FakeServer]:
    """Beats every tenth of a second, leases of two seconds: what takes hours elsewhere fits into a test."""
    with running(FakeServer(vendor, tls=tls, ttl=2, beat=0)) as made:
        yield made


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def connect(vendor: Vendor) -> Iterator[Callable[..., LicenseServers]]:
    made: list[LicenseServers] = []

    def make(*servers: FakeServer, timeout: float = 2.0, keys: str | None = None) -> LicenseServers:
        urls = [server.url for server in servers]
        made.append(LicenseServers(urls, vendor_keys=keys or vendor.first, timeout=timeout))
        return made[-1]

    yield make
    for servers in made:
        servers.close()
