"""A private key that is somewhere else: a command or an agent signs with it, and this room believes nothing of it.

The command is a program and its words, split as a shell would but never given to one. These words stand for files that
are made for the one call, in a directory that nobody else can read:

| word | stands for |
|---|---|
| ``{input}`` | a file with the bytes to sign; without it, and without ``{digest}``, they come on standard input |
| ``{digest}`` | a file with their SHA-256, for tokens whose mechanism is plain ECDSA |
| ``{output}`` | the file that the command writes the signature to; without it, it comes on standard output |

So any PKCS#11 token is reached by the tool that came with it, a cloud's or an HSM's by its own client.

An agent in another process is reached by its UNIX socket. The one word ``unix:PATH`` in place of a program sends the
bytes (with the word ``{digest}`` behind it, their SHA-256), says by closing its half that this was all, and reads the
signature to the end.

Two facts decide the placeholders: many tokens do not hash, or take in one go only what fits a small buffer, so only
``{digest}`` works there; and older versions of OpenSC's pkcs11-tool write a line of their own to standard output, so
only ``{output}`` is safe.

Rules
1. A signature is verified with the public key before anybody sees it. Raw ``r || s`` and DER are both taken.
2. It has five minutes: somebody may have to find the token and type its PIN.
3. What it says on standard error is the person's to read. What fails is refused in words, and nothing was signed.

It refuses to own which key is wanted (``keyring``), and PINs: those are the command's own business.
"""

from __future__ import annotations

import hashlib
import shlex
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lls.issuer.refusals import HomeRefused, SigningFailed
from lls.signed.jose import ES256, PublicKey

PATIENCE_SECONDS: Final = 300
_LONGEST_SIGNATURE: Final = 1024
_INPUT, _DIGEST, _OUTPUT = "{input}", "{digest}", "{output}"
_SOCKET: Final = "unix:"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSigner:
    """Signs by a command; a :class:`~lls.signed.jose.Signer`."""

    public: PublicKey
    command: tuple[str, ...]
    patience_seconds: float = PATIENCE_SECONDS

    @property
    def kid(self) -> str:
        """The thumbprint of the public key."""
        return self.public.kid

    @property
    def alg(self) -> str:
        """The key's algorithm."""
        return self.public.alg

    def sign(self, message: bytes) -> bytes:
        """The raw signature. Raises :class:`SigningFailed`."""
        with tempfile.TemporaryDirectory(prefix="lls-sign-") as made:
            told = self._told(message, folder=Path(made))
        raw = self.public.raw_form(message, told)
        if raw is None:
            raise SigningFailed(
                f"{self._name} answered with {len(told)} bytes that are no signature by the key {self.kid} over what "
                "it was given. It holds another key, signs with another mechanism (ECDSA with SHA-256 is needed; with "
                f"the word {_DIGEST} plain ECDSA), or writes something else along; nothing was signed."
            )
        return raw

    def _told(self, message: bytes, *, folder: Path) -> bytes:
        files = {word: folder / word.strip("{}") for word in (_INPUT, _DIGEST, _OUTPUT)}
        given = "\0".join(self.command)
        if _INPUT in given:
            files[_INPUT].write_bytes(message)
        if _DIGEST in given:
            files[_DIGEST].write_bytes(hashlib.sha256(message).digest())
        if self.command[0].startswith(_SOCKET):
            return self._asked(hashlib.sha256(message).digest() if _DIGEST in given else message)
        piped = None if _INPUT in given or _DIGEST in given else message
        answered = self._run([_filled(word, files) for word in self.command], piped=piped)
        if _OUTPUT not in given:
            return answered[: _LONGEST_SIGNATURE + 1]
        try:
            with files[_OUTPUT].open("rb") as file:
                return file.read(_LONGEST_SIGNATURE + 1)
        except OSError as failure:
            raise SigningFailed(f"{self._name} wrote no signature; nothing was signed.") from failure

    def _run(self, words: list[str], *, piped: bytes | None) -> bytes:
        try:
            ended = subprocess.run(  # noqa: S603 - the vendor's own command, and never through a shell
                words, input=piped, stdout=subprocess.PIPE, timeout=self.patience_seconds, check=False
            )
        except OSError as failure:
            raise SigningFailed(f"{self._name} cannot be started: {failure.strerror}; nothing was signed.") from failure
        except subprocess.TimeoutExpired as failure:
            raise SigningFailed(
                f"{self._name} did not answer within {self.patience_seconds:g} seconds; nothing was signed."
            ) from failure
        if ended.returncode != 0:
            raise SigningFailed(
                f"{self._name} ended with status {ended.returncode}; what it said stands above, and nothing was signed."
            )
        return ended.stdout

    def _asked(self, message: bytes) -> bytes:
        """What an agent answers on its socket."""
        until = time.monotonic() + self.patience_seconds
        answer = b""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
                agent.settimeout(self.patience_seconds)
                agent.connect(self.command[0].removeprefix(_SOCKET))
                agent.sendall(message)
                agent.shutdown(socket.SHUT_WR)
                while len(answer) <= _LONGEST_SIGNATURE:
                    agent.settimeout(max(0.001, until - time.monotonic()))
                    part = agent.recv(_LONGEST_SIGNATURE)
                    if not part:
                        break
                    answer += part
        except TimeoutError as failure:
            raise SigningFailed(
                f"{self._name} did not answer within {self.patience_seconds:g} seconds; nothing was signed."
            ) from failure
        except OSError as failure:
            raise SigningFailed(
                f"{self._name} cannot be reached: {failure.strerror or failure}; nothing was signed."
            ) from failure
        return answer

    @property
    def _name(self) -> str:
        if self.command[0].startswith(_SOCKET):
            return f"The signing agent {self.command[0].removeprefix(_SOCKET)}"
        # The program only: its other words may be a PIN.
        return f"The signing command {self.command[0]}"


def read_command(text: str, *, public: PublicKey) -> CommandSigner:
    """The signer of ``--sign-with TEXT``. Raises :class:`HomeRefused`."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as failure:
        raise HomeRefused(f"The signing command cannot be split into words: {failure}.") from failure
    return signer_of(words, public=public)


def signer_of(words: tuple[str, ...], *, public: PublicKey) -> CommandSigner:
    """The same of words that were split before."""
    if not words:
        raise HomeRefused("The signing command is empty; give a program and its arguments.")
    variable, assigned, _value = words[0].partition("=")
    if assigned and variable.isidentifier():  # its value may be a PIN: it must be neither told nor kept
        raise HomeRefused(
            f"The signing command begins with {variable}=…, which only a shell understands; none is asked here. "
            f"Set {variable} in the environment of lls-issuer, and begin with the program."
        )
    if words[0].startswith(_SOCKET) and words[1:] not in ((), (_DIGEST,)):
        raise HomeRefused(
            f"An agent is {_SOCKET}PATH, with {_DIGEST} behind it where it signs digests, and nothing else."
        )
    if public.alg != ES256 and any(_DIGEST in word for word in words):
        raise HomeRefused(f"The key {public.kid} is Ed25519, which signs the whole and no digest: leave {_DIGEST} out.")
    return CommandSigner(public=public, command=words)


def _filled(word: str, files: dict[str, Path]) -> str:
    for placeholder, path in files.items():
        word = word.replace(placeholder, str(path))
    return word
