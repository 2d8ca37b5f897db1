"""Keys and the backups' passphrase as systemd hands them over, and a start by hand that is not handed them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lls.identity import CREDENTIALS_VARIABLE, KEY_FILES
from tests.journeys.world import Site, until

PASSPHRASE = "a passphrase for tests"


def test_a_server_whose_keys_are_handed_over_saves_itself_and_is_not_started_without_them(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, credentials = tmp_path / "saved", tmp_path / "credentials"
    with site.config.open("a") as settings:
        settings.write(f'[backup]\nfolder = "{saved}"\n')
    site.licensed(lease_seconds=60)
    assert 0 == site.stop()
    (site.state / "keys").rename(credentials)
    shutil.rmtree(saved)
    refused = site.lls("serve", status=1)
    assert "start the server by systemctl" in refused.stderr
    assert not (site.state / "keys").exists(), "keys of another server would keep the service from starting"

    (credentials / "backup-passphrase").write_text(PASSPHRASE + "\n")
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(credentials))
    site.start()
    until(lambda: list(saved.glob("*.llsbackup")) != [], seconds=20, what="saved", log=site.log)
    assert 0 == site.stop()
    monkeypatch.delenv(CREDENTIALS_VARIABLE)
    opened = ("--passphrase-file", credentials / "backup-passphrase")
    (file,) = saved.glob("*.llsbackup")
    assert "its private keys are in clear" not in site.lls("restore", file, "--check", *opened).stdout
    site.lls("restore", file, "--force", *opened)
    assert set(KEY_FILES) == {path.name for path in (site.state / "keys").iterdir()}
    site.start()
    assert "restored" == site.admin("GET", "/v1/admin/server")["chain"]
