"""What the caller did not say and the environment may: servers, keys, the activation code, our certificate.

``LLS_SERVER`` (URLs, comma-separated), ``LLS_VENDOR_KEYS`` (a file), ``LLS_CODE``, ``LLS_CLIENT_CERT`` and
``LLS_CLIENT_KEY`` (files), ``LLS_CLIENT_KEY_PASSPHRASE``. What the caller says always wins.
A command takes a code from the environment or a file, never as an argument: everybody on the machine can list those.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .errors import BadSetup, Untrusted
from .tls import ClientCertificate
from .trust import KeySet

_LONGEST_LINE = 1_024


def server_urls(servers: str | Sequence[str] | None) -> list[str]:
    """The addresses in their order; empty when nobody names one."""
    listed = servers if servers is not None else os.environ.get("LLS_SERVER", "")
    if isinstance(listed, str):
        listed = listed.split(",")
    return [url.strip() for url in listed if url.strip()]


def read_vendor_keys(document: str | bytes | Path | None) -> KeySet:
    """The key set, given as a document or as a path to one; ``BadSetup`` when it is missing or unusable."""
    found = document if document is not None else os.environ.get("LLS_VENDOR_KEYS") or None
    if found is None:
        raise BadSetup("The vendor's keys are missing: pass `vendor_keys`, or set LLS_VENDOR_KEYS to the file.")
    if isinstance(found, str) and not found.lstrip().startswith(("{", "eyJ")):
        found = Path(found)
    if isinstance(found, Path):
        try:
            found = found.read_bytes()
        except OSError as error:
            raise BadSetup(f"The vendor's keys cannot be read: {error}.") from error
    try:
        return KeySet.read(found)
    except Untrusted as error:
        raise BadSetup(f"The vendor's keys are not usable: {error}") from error


def activation_code(code: str | None) -> str | None:
    """The customer's code, where one is given."""
    return code or os.environ.get("LLS_CODE") or None


def code_in(file: Path | None) -> str | None:
    """The code in a file's first line, None without a file; ``BadSetup`` when there is no code in it.

    ``-`` is standard input, of which no more than that line is taken: the rest is for the program that gets the seat.
    """
    if file is None:
        return None
    try:
        with open(0 if str(file) == "-" else file, "rb", buffering=0, closefd=str(file) != "-") as source:
            code = source.readline(_LONGEST_LINE).decode("ascii").strip()
    except OSError as error:
        raise BadSetup(f"The activation code cannot be read from {file}: {error.strerror}.") from error
    except UnicodeDecodeError:
        code = ""
    if not code:
        raise BadSetup(f"The first line of {file} is no activation code; write the code there and nothing else.")
    return code


def client_certificate(given: ClientCertificate | None) -> ClientCertificate | None:
    """What is shown to a server that asks for it; ``BadSetup`` where a key is named and no certificate."""
    file, key = (os.environ.get(name) or None for name in ("LLS_CLIENT_CERT", "LLS_CLIENT_KEY"))
    if given is None and file is None and key is not None:
        raise BadSetup("LLS_CLIENT_KEY names a key, and LLS_CLIENT_CERT no certificate for it.")
    if given is None and file is not None:
        given = ClientCertificate(file, key)
    if given is None or given.passphrase is not None:
        return given
    return replace(given, passphrase=os.environ.get("LLS_CLIENT_KEY_PASSPHRASE") or None)
