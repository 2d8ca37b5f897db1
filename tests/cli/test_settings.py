"""``lls config check``, ``lls serve`` and the times that people type."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from lls.cli import when
from lls.config import Config

if TYPE_CHECKING:
    from tests.cli.conftest import Lls


@pytest.fixture
def settings(folder: Path) -> Path:
    keys = folder / "vendor.llskeys"
    keys.write_text("keys")
    file = folder / "lls.toml"
    file.write_text(
        f'[server]\nname = "site-1"\n[trust]\nkeys = "{keys}"\n[store]\nurl = "postgresql://lls:s3cret@db/lls?password=0ther"\n'
    )
    return file


def test_the_check_shows_what_is_in_force_and_where_it_comes_from(
    lls: Lls, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLS__LEASE__GRACE_SECONDS", "45")
    shown = lls("--config", settings, "config", "check")
    assert (0, "") == (shown.status, shown.err)
    rows = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines() if "." in line.split(" ")[0]}
    assert ["site-1", "file"] == rows["server.name"]
    assert ["45", "LLS__LEASE__GRACE_SECONDS"] == rows["lease.grace_seconds"]
    assert ["10", "default"] == rows["lease.proof_seconds"]
    assert shown.out.endswith("No problems.\n")


def test_the_check_shows_no_password(lls: Lls, settings: Path) -> None:
    for shown in (lls("--config", settings, "config", "check"), lls("--config", settings, "config", "check", "--json")):
        assert "lls:***@db" in shown.out
        assert "s3cret" not in shown.out
        assert "0ther" not in shown.out


def test_every_file_that_is_missing_is_named_at_once(lls: Lls, settings: Path, folder: Path) -> None:
    (folder / "vendor.llskeys").unlink()
    settings.write_text(
        settings.read_text() + f'[policy]\nfile = "{folder}"\n[tls]\nmode = "files"\ncert = "/no/c"\nkey = "/no/k"\n'
    )
    shown = lls("--config", settings, "config", "check")
    assert (1, 1) == (shown.status, shown.err.count("\n"))
    assert "lls: There are 4 problems; mend them and check again.\n" == shown.err
    assert ["[trust] keys", "[policy] file", "[tls] cert", "[tls] key"] == [
        line.partition(":")[0] for line in shown.out.splitlines() if line.startswith("[")
    ]
    told = json.loads(lls("--config", settings, "config", "check", "--json").out)
    assert (4, "site-1", str(settings)) == (len(told["problems"]), told["settings"]["server"]["name"], told["file"])


def test_serve_hands_the_settings_to_the_daemon_and_its_status_back(
    lls: Lls, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[Config] = []
    sources: list[Path | None] = []

    def serve(config: Config, *, source: Path | None = None) -> int:
        got.append(config)
        sources.append(source)
        return 7

    monkeypatch.setattr("lls.daemon.serve", serve)
    assert 7 == lls("--config", settings, "serve").status
    assert ["site-1"] == [config.server.name for config in got]
    assert [settings] == sources


NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("2026-11-01", "2026-11-01T00:00:00Z"),
        ("2026-11-01T08:00", "2026-11-01T08:00:00Z"),
        ("2026-11-01T08:00+02:00", "2026-11-01T06:00:00Z"),
        ("90min", "2026-11-21T10:30:00Z"),
        ("24h", "2026-11-20T12:00:00Z"),
        ("7d", "2026-11-14T12:00:00Z"),
        (None, None),
    ],
)
def test_times_are_read_as_people_type_them(typed: str | None, meant: str | None) -> None:
    assert meant == when.instant(typed, "--since", now=NOON)


@pytest.mark.parametrize("typed", ["", "yesterday", "7", "-1d", "2026-13-01", "0001-01-01T00:00+14:00"])
def test_what_is_no_time_is_wrong_usage(typed: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time"):
        when.instant(typed, "--since", now=NOON)


def test_every_setting_that_is_wrong_is_named_at_once(lls: Lls, settings: Path) -> None:
    settings.write_text('[server]\nlisen = []\nstate_dir = "here"\n[lease]\ngrace_seconds = 1\n')
    shown = lls("--config", settings, "config", "check")
    assert (1, "lls: There are 3 problems; mend them and check again.\n") == (shown.status, shown.err)
    assert all(word in shown.out for word in ("lisen", "state_dir must be an absolute path", "grace_seconds (1)"))


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (b"format = 1\n", []),
        (b'format = 1\n[[limit]]\nproduct = "cad"\nper = "user"\nseats = 0\nspace = 1\n', ["limit[1].seats", "space"]),
        (b"\xff", ["is not UTF-8"]),
    ],
)
def test_the_check_reads_the_policy_too(
    lls: Lls, settings: Path, folder: Path, policy: bytes, words: list[str]
) -> None:
    (folder / "policy.toml").write_bytes(policy)
    settings.write_text(f'{settings.read_text()}[policy]\nfile = "{folder / "policy.toml"}"\n')
    shown = lls("--config", settings, "config", "check")
    assert (1 if words else 0) == shown.status
    assert all(word in shown.out + shown.err for word in ("[policy] file: ", *words) if words)
