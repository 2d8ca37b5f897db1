"""``install.sh`` and ``verify.sh``: nothing is run before everything was verified, and nothing is left half done."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from parcel.seal import SIGNATURE, SUMS, sums

from tests.packaging.stock import ROOT, make_archive, make_key

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to verify with")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    return make_archive(folder / "made", key=make_key(folder / "key"))


@pytest.fixture
def unpacked(archive: Path, tmp_path: Path) -> Path:
    return unpack(archive, tmp_path / "one")


@pytest.fixture
def key(archive: Path) -> Path:
    return archive.parents[1] / "key.pub"


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "local-license-server"


def install(unpacked: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", unpacked / "install.sh", "--no-systemd", *words],
        env={"PATH": os.environ["PATH"], "HOME": "/nowhere", "PYTHONPATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )


def run(program: Path) -> str:
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


def test_a_signed_archive_becomes_an_isolated_program(unpacked: Path, key: Path, tmp_path: Path) -> None:
    done = install(unpacked, "--key", key, "--prefix", tmp_path / "lls")
    assert (0, "") == (done.returncode, done.stderr)
    assert "lls of a test 1\n" == run(tmp_path / "lls/current/bin/lls")
    home = tmp_path / "lls/versions/1.0-1"
    assert [] == [str(path) for path in home.glob("lib/**/pip")]
    assert {
        *("docs", "config", "systemd", "sbom.cdx.json", "LICENSE"),
        *("man", "bash-completion", "zsh", "fish"),
    } == {path.name for path in (home / "share").iterdir()}
    assert {"lls.1", "lls-lease.1"} <= {path.name for path in (home / "share/man/man1").iterdir()}
    assert not list(home.glob("bin/lls-issuer")), "the vendor's tool is no part of the appliance"

    before = (home / ".whole").stat().st_mtime_ns
    done = install(unpacked, "--key", key, "--prefix", tmp_path / "lls")
    assert (0, "") == (done.returncode, done.stderr)
    assert before == (home / ".whole").stat().st_mtime_ns, "to install again changes nothing"

    for _ in range(2):
        assert 0 == install(unpacked, "--uninstall", "--prefix", tmp_path / "lls").returncode
        assert not (tmp_path / "lls").exists()


def test_a_slash_behind_the_prefix_makes_no_other_prefix(unpacked: Path, key: Path, tmp_path: Path) -> None:
    """Else what was linked with it is not known again without it, and stays behind, leading nowhere."""
    assert 0 == install(unpacked, "--key", key, "--prefix", f"{tmp_path}/lls/").returncode
    program = (tmp_path / "lls/current/bin/lls").read_text("utf-8")
    assert program.startswith(f"#!{tmp_path}/lls/versions/")


def test_an_upgrade_is_switched_at_its_end(unpacked: Path, key: Path, tmp_path: Path) -> None:
    install(unpacked, "--key", key, "--prefix", tmp_path / "lls")
    newer = unpack(make_archive(tmp_path / "newer", key=make_key(tmp_path / "key"), version="1.1-1"), tmp_path / "two")
    wheel = next((newer / "wheelhouse").glob("a_library*.whl"))
    whole = wheel.read_bytes()
    wheel.write_bytes(b"torn")
    assert 1 == install(newer, "--key", tmp_path / "key.pub", "--prefix", tmp_path / "lls").returncode
    assert "versions/1.0-1" == str((tmp_path / "lls/current").readlink())
    wheel.write_bytes(whole)
    assert 0 == install(newer, "--key", tmp_path / "key.pub", "--prefix", tmp_path / "lls").returncode
    assert "versions/1.1-1" == str((tmp_path / "lls/current").readlink())


def test_what_an_interrupted_installation_left_is_made_anew(unpacked: Path, key: Path, tmp_path: Path) -> None:
    half = tmp_path / "lls/versions/1.0-1/bin"
    half.mkdir(parents=True)
    (half / "lls").write_text("#!/bin/sh\nexit 9\n", "ascii")
    assert 0 == install(unpacked, "--key", key, "--prefix", tmp_path / "lls").returncode
    assert "lls of a test 1\n" == run(tmp_path / "lls/current/bin/lls")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def forge_everything(unpacked: Path) -> None:
    """What somebody does who can change the archive and has no key: a wheel, and the sums to match."""
    flip(next((unpacked / "wheelhouse").glob("local*.whl")))
    named = [line.split("  ", 1)[1] for line in (unpacked / SUMS).read_text("ascii").splitlines()]
    (unpacked / SUMS).write_bytes(sums((name, (unpacked / name).read_bytes()) for name in named))


def sign_with_another_key(unpacked: Path) -> None:
    other = make_key(unpacked.parent / "other")
    (unpacked / SIGNATURE).write_bytes(other.sign((unpacked / SUMS).read_bytes()))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda at: flip(next((at / "wheelhouse").glob("a_lib*.whl"))), "not the one that was signed"),
        (lambda at: flip(at / "launcher.py"), "not the one that was signed"),
        (lambda at: (at / "LICENSE").unlink(), "not whole"),
        (lambda at: (at / "wheelhouse/stranger-1.0-py3-none-any.whl").write_bytes(b""), "does not name"),
        (forge_everything, "not signed by the key"),
        (sign_with_another_key, "not signed by the key"),
        (lambda at: flip(at / SIGNATURE), "not signed by the key"),
        (lambda at: (at / SIGNATURE).unlink(), "not signed"),
    ],
)
def test_what_was_tampered_with_is_refused_before_anything_runs(
    unpacked: Path, key: Path, tmp_path: Path, harm: Callable[[Path], None], why: str
) -> None:
    harm(unpacked)
    done = install(unpacked, "--key", key, "--prefix", tmp_path / "lls")
    assert 1 == done.returncode
    assert why in done.stderr
    assert not (tmp_path / "lls").exists()


def test_without_a_key_nothing_is_installed_unless_somebody_says_so(unpacked: Path, tmp_path: Path) -> None:
    done = install(unpacked, "--prefix", tmp_path / "lls")
    assert (1, True) == (done.returncode, "--unsigned" in done.stderr)
    done = install(unpacked, "--unsigned", "--prefix", tmp_path / "lls")
    assert (0, True) == (done.returncode, "NOT SIGNED" in done.stderr)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--prefix", "here"], 1, "absolute"),
        (["--prefix"], 2, "--uninstall"),
        (["--perfix", "/x"], 2, "--uninstall"),
        (["--unsigned", "--python", "/bin/false", "--prefix", "/nowhere/lls"], 1, "no wheels"),
    ],
)
def test_a_mistake_is_told(unpacked: Path, words: list[str], status: int, told: str) -> None:
    done = install(unpacked, *words)
    assert status == done.returncode
    assert told in done.stderr


def shelved(*acts: str, prefix: Path, shelf: Path) -> None:
    """What install.sh does to a shelf that is not its own alone."""
    text = (ROOT / "packaging/install.sh").read_text("utf-8")
    functions = text[text.index("\nfill_shelf() {") : text.index("\ninstall_service() {")]
    script = "\n".join(["set -eu", "umask 022", f"prefix={prefix} shelf={shelf} work={prefix}", functions, *acts])
    subprocess.run(["sh", "-c", script], check=True)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    pages = tmp_path / "lls/current/share/man/man1"
    pages.mkdir(parents=True)
    for folder in ("bash-completion", "zsh", "fish"):
        (pages.parents[1] / folder).mkdir()
    (pages / "lls.1").write_text("ours", "ascii")
    (pages / "lls-lease.1").write_text("ours", "ascii")
    return tmp_path / "lls"


def test_folders_that_were_there_keep_their_owners_mode(prefix: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "share/man/man1"
    theirs.mkdir(parents=True)
    theirs.chmod(0o2775)  # Debian's, where the group staff looks after /usr/local
    shelved("fill_shelf", prefix=prefix, shelf=tmp_path / "share")
    assert "ours" == (theirs / "lls.1").read_text("ascii")
    assert 0o2775 == theirs.stat().st_mode & 0o7777


def test_pages_of_others_stay_and_ours_go(prefix: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "elsewhere/man1"
    theirs.mkdir(parents=True)
    (theirs / "lls-lease.1").write_text("theirs", "ascii")
    (tmp_path / "share").mkdir()
    (tmp_path / "share/man").symlink_to(theirs.parent)  # some keep their pages elsewhere
    shelved("fill_shelf", "fill_shelf", prefix=prefix, shelf=tmp_path / "share")
    assert {"lls.1": "ours", "lls-lease.1": "theirs"} == {one.name: one.read_text("ascii") for one in theirs.iterdir()}
    shelved("clear_shelf", prefix=prefix, shelf=tmp_path / "share")
    assert ["lls-lease.1"] == [one.name for one in theirs.iterdir()]


def verify(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", folder / "verify.sh", *words], capture_output=True, text=True, check=False)


def test_verify_tells_the_fingerprint_of_the_key_that_signed(unpacked: Path, key: Path, archive: Path) -> None:
    done = verify(unpacked, key, unpacked)
    assert (0, "") == (done.returncode, done.stderr)
    spki = subprocess.run(["openssl", "pkey", "-pubin", "-in", key, "-outform", "DER"], capture_output=True, check=True)
    named = subprocess.run(["sha256sum"], input=spki.stdout, capture_output=True, check=True).stdout[:64].decode()
    assert named in done.stdout


def test_verify_refuses_a_list_of_files_that_are_not_there(unpacked: Path, key: Path, tmp_path: Path) -> None:
    for name in (SUMS, SIGNATURE):
        shutil.copy(unpacked / name, tmp_path / name)
    assert 1 == verify(unpacked, key, tmp_path).returncode


def test_verify_refuses_a_package_that_the_signed_list_does_not_name(unpacked: Path, key: Path) -> None:
    """`dpkg -i local-license-server_*.deb` would take it, too."""
    stranger = unpacked / "local-license-server_9-1_amd64.deb"
    stranger.write_text("from another make, or another maker")
    done = verify(unpacked, key, unpacked)
    assert 1 == done.returncode
    assert f"{stranger.name} is here and SHA256SUMS does not name it" in done.stderr
