"""What every test may lean on: chance that repeats, and nothing of this machine's own settings."""

import os

import pytest
from hypothesis import settings

# Deadlines measure the machine, not the code; two busy cores would fail them. The slowest promise gets 100 tries.
settings.register_profile("house", deadline=None, max_examples=100, print_blob=True)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own LLS_ variables must not decide a test."""
    for name in [name for name in os.environ if name.startswith("LLS_")]:
        monkeypatch.delenv(name)
