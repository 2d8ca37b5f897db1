"""Keys that never leave where they are: a real PKCS#11 token, and a real agent behind a UNIX socket.

The token is SoftHSM, reached by OpenSC's pkcs11-tool: what a vendor types for any other token, with another module.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner, Result

from lls.issuer.cli import app
from lls.issuer.refusals import HomeRefused, SigningFailed
from lls.issuer.signing_agent import CommandSigner, read_command
from lls.signed.jose import SigningKey
from lls.signed.keys import read_key_set
from tests.issuer.appliance import Appliance, line, order

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
MODULE = next((path for path in MODULES if Path(path).exists()), None)
PIN = "4711-pin"
MISSING = [name for name in ("softhsm2-util", "pkcs11-tool", "openssl") if shutil.which(name) is None] + (
    [] if MODULE else ["libsofthsm2.so"]
)
needs_token = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (softhsm2, opensc)")

AGENT = """
import os, pathlib, socket, sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

key = serialization.load_pem_private_key(pathlib.Path(sys.argv[1]).read_bytes(), None)
os.unlink(sys.argv[1])  # from now on it is in this process only
manner = sys.argv[3]
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
    door.bind(sys.argv[2])
    door.listen()
    print("ready", flush=True)
    while True:
        caller, _ = door.accept()
        with caller:
            given = b"".join(iter(lambda: caller.recv(65536), b""))
            hashed = utils.Prehashed(hashes.SHA256()) if manner == "digest" else hashes.SHA256()
            if manner == "flood":
                caller.sendall(b"x" * 4096)
            elif manner != "mute":
                caller.sendall(key.sign(given, ec.ECDSA(hashed)))
"""


class Desk:
    """The commands; what they start (the token's tool) is a process of its own."""

    def __init__(self, home: Path, folder: Path, environment: dict[str, str]) -> None:
        self.home, self.folder = home, folder
        self.environment = {**os.environ, **environment}

    def run(self, *words: str | Path, code: int = 0) -> Result:
        ran = CliRunner(env=self.environment).invoke(app, ["--home", str(self.home), *map(str, words)])
        assert code == ran.exit_code, ran.output
        return ran

    def json(self, *words: str | Path) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def tool(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        assert MODULE is not None
        return subprocess.run(
            ["pkcs11-tool", "--module", MODULE, *words], capture_output=True, timeout=60, check=False,
            env=self.environment,
        )  # fmt: skip

    def sells(self, appliance: Appliance) -> None:
        self.run("catalog", "load", self.home / "catalog.toml")
        (self.folder / "request").write_text(appliance.request())
        (self.folder / "order").write_bytes(order(appliance, line()))
        self.run("server", "register", self.folder / "request")
        self.run("order", "fulfil", self.folder / "order")

    def opened(self, appliance: Appliance, bundle: Path) -> Any:
        keys = read_key_set((self.home / "keys" / "v1.llskeys").read_bytes())
        return appliance.open(bundle.read_bytes(), keys)[0]


@pytest.fixture
def token(tmp_path: Path) -> Desk:
    """A desk with an initialised token that has made a P-256 key, which cannot be taken out of it."""
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    desk = Desk(tmp_path / "office", tmp_path, {"SOFTHSM2_CONF": str(configuration), "TOKEN_PIN": PIN})
    for words in (
        ("--init-token", "--slot-index", "0", "--label", "vendor", "--so-pin", "12345678"),
        ("--token-label", "vendor", "--init-pin", "--login", "--so-pin", "12345678", "--new-pin", PIN),
        ("--token-label", "vendor", "--login", "--pin", PIN, "--keypairgen", "--key-type", "EC:prime256v1", "--id",
         "01", "--label", "bundles", "--usage-sign", "--sensitive"),
    ):  # fmt: skip
        ran = desk.tool(*words)
        assert 0 == ran.returncode, (words, ran.stderr)
    return desk


def signs_with() -> str:
    """What the guide prints, with this token's module; the PIN comes from the environment."""
    return (
        f"pkcs11-tool --module {MODULE} --token-label vendor --login --pin env:TOKEN_PIN --id 01 --sign "
        "--mechanism ECDSA --signature-format rs --input-file {digest} --output-file {output}"
    )


def public_part(desk: Desk) -> Path:
    """The key's public part, as the guide says it."""
    read = desk.tool("--token-label", "vendor", "--read-object", "--type", "pubkey", "--id", "01")
    assert 0 == read.returncode, read.stderr
    pem = subprocess.run(
        ["openssl", "pkey", "-pubin", "-inform", "DER"], input=read.stdout, capture_output=True, timeout=60, check=True
    )
    (desk.folder / "token.pub").write_bytes(pem.stdout)
    part = desk.folder / "token.llskey"
    desk.run("keys", "make", "--name", "token", "--public-key", desk.folder / "token.pub", "-o", part,
             "--sign-with", signs_with())  # fmt: skip
    return part


@needs_token
def test_a_bundle_is_signed_by_a_token_whose_key_nobody_can_take_out(token: Desk, appliance: Appliance) -> None:
    part = public_part(token)
    stolen = token.tool("--token-label", "vendor", "--login", "--pin", PIN, "--read-object", "--type", "privkey",
                        "--id", "01")  # fmt: skip
    assert stolen.returncode != 0 or not stolen.stdout
    told = token.tool("--token-label", "vendor", "--login", "--pin", PIN, "--list-objects", "--type", "privkey")
    assert b"never extractable" in told.stdout
    token.run("init", "--no-passphrase", "--keys", f"bundle={part}")
    token.sells(appliance)
    bundle = token.folder / "site.llsbundle"
    missing = token.run("bundle", "issue", "--server", appliance.server_id, "-o", bundle, code=1)
    assert "lls-issuer" in missing.stderr
    assert not bundle.exists()
    token.run("keys", "hold", part, "--sign-with", signs_with())
    token.run("bundle", "issue", "--server", appliance.server_id, "-o", bundle)
    assert 50 == token.opened(appliance, bundle).entitlements[0].seats
    (kid,) = token.json("keys", "show")["key_sets"][0]["roles"]["bundle"]["kids"]
    assert not (token.home / "keys" / f"{kid}.pem").exists()
    assert PIN not in (token.home / "keys" / f"{kid}.command").read_text()


@needs_token
def test_a_person_signs_with_a_token_what_the_office_cannot(token: Desk, appliance: Appliance) -> None:
    part = public_part(token)
    token.run("init", "--no-passphrase", "--keys", f"bundle={part}", "--keys", "bundle=own", "--threshold", "bundle=2")
    token.sells(appliance)
    pending, bundle = token.folder / "b.pending", token.folder / "site.llsbundle"
    token.run("bundle", "issue", "--server", appliance.server_id, "--unsigned", "-o", pending)
    token.run("bundle", "sign", pending, "--yes")
    token.run("bundle", "seal", pending, "-o", bundle, code=1)
    token.run("bundle", "sign", pending, "--key", part, "--sign-with", signs_with(), "--yes")
    token.run("bundle", "seal", pending, "-o", bundle)
    assert 50 == token.opened(appliance, bundle).entitlements[0].seats


@needs_token
def test_a_wrong_pin_is_told_by_the_tool_and_signs_nothing(token: Desk) -> None:
    part = public_part(token)
    token.run("init", "--no-passphrase", "--keys", f"bundle={part}")
    token.environment["TOKEN_PIN"] = "wrong"
    refused = subprocess.run(
        [sys.executable, "-m", "lls.issuer", "--home", token.home, "keys", "hold", part, "--sign-with", signs_with()],
        capture_output=True, text=True, timeout=120, check=False, env=token.environment,
    )  # fmt: skip
    assert 1 == refused.returncode
    assert "CKR_PIN_INCORRECT" in refused.stderr
    assert "nothing was signed" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list((token.home / "keys").glob("*.command"))


# -- an agent ---------------------------------------------------------------------------------------------------------


class Agent:
    """A process that holds a key and signs what comes through its door."""

    def __init__(self, folder: Path, manner: str) -> None:
        self.key = SigningKey.generate()
        (folder / "agent.pem").write_bytes(self.key.to_pem())
        self.door = folder / "agent.sock"
        self.process = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(folder / "agent.pem"), str(self.door), manner],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert "ready\n" == self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def agent(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Agent]:
    running = Agent(tmp_path, getattr(request, "param", "whole"))
    try:
        yield running
    finally:
        running.end()


def test_a_home_issues_by_an_agent_that_alone_has_the_key(agent: Agent, tmp_path: Path, appliance: Appliance) -> None:
    assert not (tmp_path / "agent.pem").exists()
    desk = Desk(tmp_path / "office", tmp_path, {})
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "agent.pub").write_bytes(agent.key.public.native.public_bytes(serialization.Encoding.PEM, form))
    part, signs = tmp_path / "agent.llskey", f"unix:{agent.door}"
    desk.run(
        "keys", "make", "--name", "agent", "--public-key", tmp_path / "agent.pub", "-o", part, "--sign-with", signs
    )
    desk.run("init", "--no-passphrase", "--keys", f"bundle={part}")
    desk.run("keys", "hold", part, "--sign-with", signs)
    desk.sells(appliance)
    bundle = tmp_path / "site.llsbundle"
    desk.run("bundle", "issue", "--server", appliance.server_id, "-o", bundle)
    assert 50 == desk.opened(appliance, bundle).entitlements[0].seats
    agent.end()
    gone = desk.run("bundle", "issue", "--server", appliance.server_id, "-o", tmp_path / "second", code=1)
    assert f"The signing agent {agent.door} cannot be reached: Connection refused; nothing was signed." in gone.stderr
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("agent", ["digest"], indirect=True)
def test_an_agent_may_be_given_the_digest(agent: Agent) -> None:
    signer = read_command(f"unix:{agent.door} {{digest}}", public=agent.key.public)
    assert 64 == len(signer.sign(b"message"))  # verified before it is given


@pytest.mark.parametrize(
    ("agent", "sentence"),
    [("mute", "answered with 0 bytes"), ("flood", "that are no signature"), ("digest", "that are no signature")],
    indirect=["agent"],
)
def test_an_agent_is_not_believed(agent: Agent, sentence: str) -> None:
    with pytest.raises(SigningFailed, match=sentence):
        CommandSigner(public=agent.key.public, command=(f"unix:{agent.door}",), patience_seconds=5).sign(b"message")


def test_an_agents_door_takes_no_other_words(tmp_path: Path) -> None:
    with pytest.raises(HomeRefused, match="An agent is unix:PATH"):
        read_command(f"unix:{tmp_path}/door --loud", public=SigningKey.generate().public)
