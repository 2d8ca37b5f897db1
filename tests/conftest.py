"""What every test may lean on: chance that repeats, and nothing of this machine's own settings."""

import gc
import os
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import settings

# Deadlines measure the machine, not the code; two busy cores would fail them. The slowest promise gets 100 tries.
settings.register_profile("house", deadline=None, max_examples=100, print_blob=True)
settings.load_profile("house")

DEEP = 300
"""Brackets in one parameter: a stack has a thousand frames, and a test begins at the fiftieth."""


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own LLS_ variables must not decide a test."""
    for name in [name for name in os.environ if name.startswith("LLS_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_garbage_below(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where a test nests too deeply on purpose, nobody else's finalizers run at the bottom of it.

    They would fail there for want of stack, and take this test with them. So what other tests left is collected before,
    and nothing until its end.
    """
    called = getattr(request.node, "callspec", None)
    if called is None or not _nests_deeply(called.params.values()):
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _nests_deeply(values: Iterable[object]) -> bool:
    for value in values:
        if isinstance(value, tuple | list) and _nests_deeply(value):
            return True
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if isinstance(text, str) and any(text.count(bracket) > DEEP for bracket in "[{"):
            return True
    return False
