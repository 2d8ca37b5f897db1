"""What `make package` takes, and that it makes the same bytes of the same."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from parcel import __main__ as parcel
from parcel.deb import build_deb
from parcel.sbom import bill
from parcel.seal import Key
from parcel.wheels import Refused, Target, Wheel, needed, read_lock

from tests.packaging.stock import HERE, NOON, ROOT, make_archive, make_checkout, make_key, make_stock
from tests.vendor import Vendor

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
TARGETS = [Target(python=python, machine=machine) for python in parcel.PYTHONS for machine in ("x86_64", "aarch64")]

DEBIAN_LOOKS_IN = (
    *("man/man1/lls.1.gz", "man/man1/lls-lease.1.gz", "man/man5/lls.toml.5.gz", "man/man5/lls-policy.toml.5.gz"),
    "bash-completion/completions/lls",
    "zsh/vendor-completions/_lls",
    "fish/vendor_completions.d/lls.fish",
)

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="a .deb is made where dpkg-deb is")


# ---------------------------------------------------------------- what is carried


def names(target: Target) -> set[str]:
    return {pin.name for pin in needed(PROJECT, read_lock(LOCK), target)}


@pytest.mark.parametrize("target", TARGETS)
def test_everything_that_runs_is_carried_and_nothing_that_only_developers_need(target: Target) -> None:
    carried = names(target)
    assert {"aiohttp", "cryptography", "multidict", "cffi", "typer", "uvloop"} <= carried
    assert set() == carried & {"pytest", "hypothesis", "mypy", "ruff", "pip", "cyclonedx-python-lib", "flit-core"}


def test_markers_are_judged_for_the_machine_that_will_run_it() -> None:
    project = {"project": {"dependencies": ["a>=1; python_version < '3.12'", "b; sys_platform == 'win32'"]}}
    lock = "a==1 \\\n    --hash=sha256:" + "0" * 64 + "\n"
    (old, *_, new) = TARGETS
    with pytest.raises(Refused, match=r"a is in the lock and not in the environment"):
        needed(project, read_lock(lock), old)
    assert [] == needed(project, read_lock(lock), new)


def test_what_the_lock_does_not_name_is_not_taken() -> None:
    with pytest.raises(Refused, match=r"stranger is needed and not in requirements\.lock"):
        needed({"project": {"dependencies": ["stranger"]}}, read_lock(LOCK), HERE)


@pytest.mark.parametrize("lock", ["aiohttp==3.0\n", "aiohttp\n", "aiohttp>=3 \\\n    --hash=sha256:" + "0" * 64 + "\n"])
def test_an_entry_without_a_version_or_a_hash_stops_the_make(lock: str) -> None:
    with pytest.raises(Refused, match="without a version or a hash"):
        read_lock(lock)


# ---------------------------------------------------------------- the same bytes


@needs_dpkg
def test_the_same_checkout_gives_the_same_deb_wherever_it_lies(tmp_path: Path) -> None:
    made = []
    for place, mask in (("a", 0o022), ("quite/another/place", 0o077)):
        folder = tmp_path / place
        before = os.umask(mask)
        try:
            checkout = make_checkout(folder / "checkout")
            (folder / "out").mkdir()
            path = build_deb(
                checkout,
                version="1.0-1",
                target=HERE,
                wheels=make_stock(folder / "stock"),
                sbom="{}\n",
                vendor_keys=b"keys",
                time=NOON,
                out=folder / "out",
            )
        finally:
            os.umask(before)
        made.append(path)
    assert made[0].read_bytes() == made[1].read_bytes()
    path = made[0]
    listed = subprocess.run(["dpkg-deb", "--contents", path], capture_output=True, text=True, check=True).stdout
    assert {"root/root"} == {line.split()[1] for line in listed.splitlines()}
    assert {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"} == {line.split()[0] for line in listed.splitlines()}
    assert not [
        line
        for line in listed.splitlines()
        if ".pyc" in line or "-tool" in line or "lls-issuer" in line or str(tmp_path) in line
    ]
    assert {f"./usr/share/{place}" for place in DEBIAN_LOOKS_IN} <= {line.split()[5] for line in listed.splitlines()}
    conffiles = subprocess.run(["dpkg-deb", "--info", path, "conffiles"], capture_output=True, text=True, check=True)
    assert ["/etc/lls/lls.toml", "/etc/lls/vendor.llskeys"] == conffiles.stdout.split()
    subprocess.run(["dpkg-deb", "--extract", path, tmp_path / "root"], check=True)
    documents = tmp_path / "root/usr/share/doc/local-license-server"
    changes = gzip.decompress((documents / "changelog.Debian.gz").read_bytes()).decode("ascii")
    assert changes.startswith("local-license-server (1.0-1) ")
    assert "License: Apache-2.0\n" in (documents / "copyright").read_text("ascii")


def test_the_same_checkout_gives_the_same_archive_and_the_same_signature(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    one, two = (make_archive(tmp_path / place, key=key, vendor_keys=b"keys") for place in ("a", "b/c"))
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as tar:
        members = tar.getmembers()
    assert {("root", "root", 0, 0, NOON)} == {(m.uname, m.gname, m.uid, m.gid, m.mtime) for m in members}
    assert sorted(m.name for m in members) == [m.name for m in members]


# ---------------------------------------------------------------- the bill of materials


def carried() -> dict[Target, list[Wheel]]:
    """As if the wheels had been downloaded: the first hash of each pin stands for its file."""
    return {
        target: [
            Wheel(name=name, version=version, path=Path(f"{name}-{target.tag}.whl"), sha256=sha256)
            for name, version, sha256 in (
                *((pin.name, pin.version, min(pin.hashes)) for pin in needed(PROJECT, read_lock(LOCK), target)),
                ("local-license-server", PROJECT["project"]["version"], "0" * 64),
            )
        ]
        for target in TARGETS[:3:2]
    }


def test_the_bill_is_valid_complete_and_repeats() -> None:
    written = bill(carried(), time=NOON)
    assert written == bill(carried(), time=NOON)
    assert None is JsonStrictValidator(SchemaVersion.V1_6).validate_str(written)
    document = json.loads(written)
    assert names(HERE) <= {one["name"] for one in document["components"]}
    for one in document["components"]:
        assert one["version"]
        assert one["purl"].startswith("pkg:pypi/")
        assert all(file["hashes"] for file in one.get("components", [one])), one["name"]
        assert one["licenses"] != [{"license": {"name": "not declared", "acknowledgement": "declared"}}], one["name"]
    ours = next(one for one in document["dependencies"] if one["ref"].startswith("pkg:local-license-server@"))
    assert {"aiohttp", "typer"} <= {ref.removeprefix("pkg:").partition("@")[0] for ref in ours["dependsOn"]}


# ---------------------------------------------------------------- options


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert 1 == parcel.main([str(word) for word in words])
    return capsys.readouterr().err


def test_a_key_set_that_cannot_be_read_is_not_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").write_text("no key set", "ascii")
    told = refusal(capsys, "--vendor", "acme", "--vendor-keys", tmp_path / "keys", "--out", tmp_path / "out")
    assert "is no key set that can be read" in told
    assert not (tmp_path / "out").exists()


def test_a_brand_needs_a_word_and_a_key_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").write_text(Vendor().key_sets[0], "ascii")
    assert "both" in refusal(capsys, "--vendor", "acme", "--out", tmp_path / "out")
    assert "both" in refusal(capsys, "--vendor-keys", tmp_path / "keys", "--out", tmp_path / "out")
    assert "one word" in refusal(
        capsys, "--vendor", "A B", "--vendor-keys", tmp_path / "keys", "--out", tmp_path / "out"
    )


def test_only_a_key_that_installers_can_verify_signs(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key", "ascii")
    with pytest.raises(Refused, match="no unencrypted PEM key"):
        Key(tmp_path / "key")
