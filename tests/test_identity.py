"""Keys that systemd hands over as credentials."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lls.faults import SetupFault
from lls.identity import (
    CREDENTIALS_VARIABLE,
    ENCRYPTION_FILE,
    SERVER_ID_FILE,
    SIGNING_FILE,
    SITE_KEY_FILE,
    load_identity,
)

FILES = (SERVER_ID_FILE, SIGNING_FILE, ENCRYPTION_FILE, SITE_KEY_FILE)


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(folder))
    return folder


def hand_over(keys: Path, credentials: Path) -> None:
    for name in FILES:
        shutil.copy(keys / name, credentials / name)
        (credentials / name).chmod(0o440)  # as systemd shows them where access lists guard them


def test_keys_come_from_credentials_and_none_are_made_beside_them(tmp_path: Path, credentials: Path) -> None:
    made = load_identity(tmp_path / "before")
    hand_over(tmp_path / "before", credentials)
    found = load_identity(tmp_path / "keys")
    assert (made.server_id, made.site_key, made.signing.kid) == (found.server_id, found.site_key, found.signing.kid)
    assert not (tmp_path / "keys").exists()


def test_the_plain_files_may_stay_until_somebody_saw_that_it_starts(tmp_path: Path, credentials: Path) -> None:
    made = load_identity(tmp_path / "keys")
    hand_over(tmp_path / "keys", credentials)
    assert made.server_id == load_identity(tmp_path / "keys").server_id


@pytest.mark.parametrize("name", FILES)
def test_a_missing_credential_is_told_and_no_file_stands_in_for_it(
    tmp_path: Path, credentials: Path, name: str
) -> None:
    load_identity(tmp_path / "keys")
    hand_over(tmp_path / "keys", credentials)
    (credentials / name).unlink()
    with pytest.raises(SetupFault, match=f"{name} is missing among the credentials"):
        load_identity(tmp_path / "keys")


def test_two_servers_in_one_place_are_refused(tmp_path: Path, credentials: Path) -> None:
    load_identity(tmp_path / "one")
    hand_over(tmp_path / "one", credentials)
    # Made without the credentials, as a server of its own.
    (tmp_path / "aside").mkdir()
    for name in FILES:
        (credentials / name).rename(tmp_path / "aside" / name)
    load_identity(tmp_path / "keys")
    for name in FILES:
        (tmp_path / "aside" / name).rename(credentials / name)
    with pytest.raises(SetupFault, match="those of another server"):
        load_identity(tmp_path / "keys")


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_credential_is_refused_with_its_name(tmp_path: Path, credentials: Path, name: str) -> None:
    load_identity(tmp_path / "keys")
    hand_over(tmp_path / "keys", credentials)
    (credentials / name).chmod(0o600)
    (credentials / name).write_bytes(b"lls_short")
    with pytest.raises(SetupFault, match=name):
        load_identity(tmp_path / "keys")
