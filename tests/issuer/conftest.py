"""A vendor with the sample catalogue, and a server at a customer's site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lls.issuer import Issuer, sample_catalog
from tests.issuer.appliance import NOW, Appliance, Chance


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "vendor"


@pytest.fixture
def issuer(home: Path) -> Iterator[Issuer]:
    with Issuer.create(home, now=NOW, passphrase=None, random=Chance()) as made:
        made.load_catalog(sample_catalog(), now=NOW)
        yield made


@pytest.fixture
def appliance() -> Appliance:
    return Appliance.new()
