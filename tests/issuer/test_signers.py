"""Keys of people and of tokens: public parts that prove themselves, and commands of which nothing is believed."""

from __future__ import annotations

import shlex
import stat
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from lls.faults import RefusedDocument
from lls.issuer import Issuer, sample_catalog
from lls.issuer.keyring import Change
from lls.issuer.refusals import HomeRefused, KeysLocked, SigningFailed
from lls.issuer.signers import make_key_file, make_public_part, open_signer, read_public_part
from lls.issuer.signing_agent import CommandSigner, read_command
from lls.signed.jose import SigningKey, public_key_pem, read_public_key, sign_compact
from tests.issuer.appliance import NOW, Appliance, hosted

TOKEN = """
import pathlib, sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

key = serialization.load_pem_private_key(pathlib.Path(sys.argv[1]).read_bytes(), None)
form, given, out = sys.argv[2:5]
message = sys.stdin.buffer.read() if given == "-" else pathlib.Path(given).read_bytes()
hashed = utils.Prehashed(hashes.SHA256()) if form.endswith("digest") else hashes.SHA256()
told = key.sign(message, ec.ECDSA(hashed))
if form.startswith("raw"):
    r, s = utils.decode_dss_signature(told)
    told = r.to_bytes(32, "big") + s.to_bytes(32, "big")
if out == "-":
    sys.stdout.buffer.write(told)
else:
    print("Using signature algorithm ECDSA-SHA256")
    pathlib.Path(out).write_bytes(told)
"""
"""What a token's tool does, in every manner that they have."""


@pytest.fixture
def token(tmp_path: Path) -> tuple[SigningKey, list[str]]:
    """A key and the beginning of the command that signs with it."""
    key = SigningKey.generate()
    (tmp_path / "token.pem").write_bytes(key.to_pem())
    (tmp_path / "signing_tool.py").write_text(TOKEN)
    return key, [sys.executable, str(tmp_path / "signing_tool.py"), str(tmp_path / "token.pem")]


@pytest.mark.parametrize(
    "words",
    [
        ["raw", "-", "-"],
        ["der", "-", "-"],
        ["raw", "{input}", "-"],
        ["raw", "-", "{output}"],
        ["der", "{input}", "{output}"],
        ["raw digest", "{digest}", "{output}"],
        ["der digest", "{digest}", "-"],
    ],
)
def test_a_command_signs_however_it_is_spoken_to(token: tuple[SigningKey, list[str]], words: list[str]) -> None:
    key, command = token
    signer = read_command(shlex.join([*command, *words]), public=key.public)
    assert key.public.verifies(b"message" * 1_000, signer.sign(b"message" * 1_000))


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["/no/such/program"], "cannot be started"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "status 3"),
        ([sys.executable, "-c", "print('x' * 64, end='')"], "no signature by the key"),
        ([sys.executable, "-c", "print('x' * 100000)"], "no signature by the key"),
        ([sys.executable, "-c", ""], "0 bytes that are no signature"),
        ([sys.executable, "-c", "pass", "{output}"], "wrote no signature"),
    ],
)
def test_a_command_that_does_not_sign_is_refused_in_words(command: list[str], sentence: str) -> None:
    signer = CommandSigner(public=SigningKey.generate().public, command=tuple(command))
    with pytest.raises(SigningFailed, match=sentence) as refused:
        signer.sign(b"message")
    assert "{output}" not in refused.value.detail


def test_a_command_that_never_answers_is_given_up() -> None:
    command = (sys.executable, "-c", "import threading; threading.Event().wait()")
    signer = CommandSigner(public=SigningKey.generate().public, command=command, patience_seconds=0.2)
    with pytest.raises(SigningFailed, match=r"within 0\.2 seconds"):
        signer.sign(b"message")


def test_a_command_with_another_key_is_found_out(token: tuple[SigningKey, list[str]]) -> None:
    signer = read_command(shlex.join([*token[1], "raw", "-", "-"]), public=SigningKey.generate().public)
    with pytest.raises(SigningFailed, match="another key"):
        signer.sign(b"message")


@pytest.mark.parametrize("text", ["", "   ", 'say "half'])
def test_a_command_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(HomeRefused):
        read_command(text, public=SigningKey.generate().public)


def test_a_pin_before_the_program_is_neither_told_nor_kept() -> None:
    with pytest.raises(HomeRefused, match="TOKEN_PIN") as refused:
        read_command("TOKEN_PIN=481516 pkcs11-tool --sign", public=SigningKey.generate().public)
    assert "481516" not in str(refused.value)


def test_a_home_issues_with_a_key_that_a_token_holds(
    home: Path, appliance: Appliance, token: tuple[SigningKey, list[str]]
) -> None:
    key, command = token
    part = make_public_part(key, public=key.public, name="token 7", now=NOW)
    change = Change(adding={"bundle": [part]}, making=["root", "certificate"])
    with Issuer.create(home, now=NOW, passphrase=None, keys=change) as issuer:
        issuer.load_catalog(sample_catalog(), now=NOW)
        issuer.rotating.hold(part, shlex.join([*command, "der", "-", "-"]))
        hosted(issuer, appliance)
        assert 0o600 == stat.S_IMODE((home / "keys" / f"{key.kid}.command").stat().st_mode)
        assert "token 7 (a command of this home)" == issuer.keyring.holder_of(key.kid)
        assert 2 == issuer.rotate_keys(now=NOW).version  # the token's key stays, the files' are new
        assert {key.kid} == issuer.keyring.newest.roles["bundle"].kids


def test_a_command_is_tried_before_it_is_remembered(issuer: Issuer, home: Path) -> None:
    key = SigningKey.generate()
    part = make_public_part(key, public=key.public, name="token", now=NOW)
    with pytest.raises(SigningFailed):
        issuer.rotating.hold(part, "/no/such/program")
    assert not list((home / "keys").glob("*.command"))


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"command": []}', b'{"command": "ls"}', b"[1]"])
def test_a_damaged_command_file_is_refused_in_words(
    home: Path, token: tuple[SigningKey, list[str]], damage: bytes
) -> None:
    key, command = token
    part = make_public_part(key, public=key.public, name="token", now=NOW)
    change = Change(adding={"bundle": [part]}, making=["root", "certificate"])
    with Issuer.create(home, now=NOW, passphrase=None, keys=change) as issuer:
        issuer.rotating.hold(part, shlex.join([*command, "der", "-", "-"]))
        (home / "keys" / f"{key.kid}.command").write_bytes(damage)
        with pytest.raises(HomeRefused):
            issuer.keyring.check_reaches("bundle")


def test_a_public_part_proves_itself() -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    part = make_public_part(key, public=key.public, name="ann", now=NOW)
    assert ("ann", key.kid) == (part.name, read_public_part(part.token).kid)
    payload = {"name": "ann", "made_at": "2026-11-21T07:00:00Z"}
    stolen = sign_compact(payload, key=other, typ="lls-public-key+jws", header={"jwk": key.public.jwk})
    with pytest.raises(RefusedDocument):
        read_public_part(stolen)
    with pytest.raises(HomeRefused, match="printable"):
        make_public_part(key, public=key.public, name="a\nb", now=NOW)


def test_a_key_file_is_private_encrypted_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "ann.pem"
    key = make_key_file(path, passphrase=b"secret")
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert key.kid == open_signer(path, command=None, passphrase=lambda: b"secret").kid
    for wrong in (None, b"other"):
        with pytest.raises(KeysLocked):
            open_signer(path, command=None, passphrase=lambda wrong=wrong: wrong)  # type: ignore[misc]
    with pytest.raises(HomeRefused, match="never overwritten"):
        make_key_file(path, passphrase=None)
    with pytest.raises(HomeRefused, match="private key itself"):
        open_signer(path, command="sign", passphrase=lambda: None)


def test_a_public_part_alone_signs_nothing(tmp_path: Path) -> None:
    key = SigningKey.generate()
    path = tmp_path / "ann.llskey"
    path.write_text(make_public_part(key, public=key.public, name="ann", now=NOW).token)
    with pytest.raises(HomeRefused, match="--sign-with"):
        open_signer(path, command=None, passphrase=lambda: None)
    path.write_text("nonsense")
    with pytest.raises(HomeRefused, match="not the public part"):
        open_signer(path, command="sign", passphrase=lambda: None)


def test_a_public_key_comes_from_pem_and_nothing_else_does() -> None:
    key = read_public_key(SigningKey.generate().public_jwk())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = key.native.public_bytes(serialization.Encoding.PEM, form)
    assert key == public_key_pem(pem)
    for wrong in (b"", b"nonsense", SigningKey.generate().to_pem()):
        with pytest.raises(RefusedDocument):
            public_key_pem(wrong)
