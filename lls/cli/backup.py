"""``lls backup`` and ``lls restore``: the server's state in one file, and that file put back.

Rules
1. A passphrase is never an argument, which others could read in the list of processes: it is asked for, or comes from a
   file or ``LLS_BACKUP_PASSPHRASE``.
2. A backup is complete when the file that was written here was read again and has the hash that the daemon told.
3. ``lls restore`` talks to no daemon: none may be running.
"""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from lls.cli import files, show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, Failure, Force, Output, complain, settings

_VARIABLE = "LLS_BACKUP_PASSPHRASE"

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help=f"The passphrase's file; else ${_VARIABLE} or a question."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    output: Output,
    sealed: Annotated[bool, typer.Option("--passphrase", help="Seal it to a passphrase, and ask for it.")] = False,
    passphrase_file: PassphraseFile = None,
    recipient: Annotated[
        Path | None,
        typer.Option("--recipient", metavar="PEM", help="Seal it to a public P-256 key; its private key opens it."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Save the whole state of the running server in one file, and read it back.

    Without --passphrase, --passphrase-file or --recipient the file holds the server's private keys in clear.
    """
    asked: dict[str, Any] = {}
    if recipient is not None:
        if sealed or passphrase_file is not None:
            raise typer.BadParameter("Seal it to a passphrase or to a recipient, not to both.")
        asked["recipient"] = files.content(recipient).decode("ascii", "replace")
    elif sealed or passphrase_file is not None or os.environ.get(_VARIABLE):
        asked["passphrase"] = _passphrase(passphrase_file, anew=True)
    with (
        files.written(output, mode=files.PRIVATE, force=force) as file,
        admin(ctx).download("POST", "backup", body=asked) as arriving,
    ):
        amount = arriving.save(file)
        told, seq = arriving.header("Content-Digest"), arriving.header("X-Journal-Seq")
    sha256 = _read_back(output)
    if told != f"sha-256=:{base64.b64encode(sha256).decode('ascii')}:":
        raise Failure(f"{output} is not what the server sent; the disk or stick is at fault. Save it somewhere else.")
    if as_json:
        document = {
            "file": str(output),
            "bytes": amount,
            "sha256": sha256.hex(),
            "seq": int(seq),
            "sealed": bool(asked),
        }
        show.document(document)
        return
    show.say(f"Wrote {output}: {files.size(amount)}, the state as of journal line {seq}, read back and whole.")
    if not asked:
        complain("this backup holds the server's private keys in clear; keep it like the server itself, or seal it.")


def restore(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")],
    check: Annotated[bool, typer.Option("--check", help="Only read it and check everything in it.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Put it in the place of a state that is there, which moves aside.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="PEM", help="The recipient's private key, where it was sealed to one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup back, while the server is stopped. Interrupted, the same command finishes it."""
    from lls import backup as room
    from lls.backup.putting import Unlocks
    from lls.signed.jose import EncryptionKey
    from lls.signed.vault import Opener, ToPassphrase

    class Asked(Unlocks):
        def opener(self, *, passphrase: bool) -> Opener:
            if passphrase:
                return ToPassphrase(_passphrase(passphrase_file, anew=False).encode())
            if key is None:
                raise Failure(f"{file} is sealed to a recipient's key; name the private key with --key.")
            secret = passphrase_file and _passphrase(passphrase_file, anew=False).encode()
            return EncryptionKey.from_pem(files.content(key), secret or None)

    state_dir = Path(settings(ctx).server.state_dir)
    if check:
        with tempfile.TemporaryDirectory(dir=state_dir if os.access(state_dir, os.W_OK) else None) as room_for_it:
            found = room.look_into(file, Asked(), room=Path(room_for_it))
        _tell_found(found.manifest.document(), lines=found.lines, sealed=found.sealed, as_json=as_json)
        return
    put = room.put_back(file, Asked(), state_dir=state_dir, force=force, now=datetime.now(UTC))
    if as_json:
        show.document(
            {
                "server_id": put.server_id,
                "seq": put.seq,
                "made_at": put.made_at,
                "state_dir": str(state_dir),
                "aside": put.aside and str(put.aside),
                "config": put.config and str(put.config),
                "finished": put.finished,
            }
        )
        return
    if put.finished:
        show.say("Finished the restore that was interrupted.")
    show.say(f"Put {put.server_id} back into {state_dir}, as of {put.made_at}, journal line {put.seq}.")
    if put.aside is not None:
        show.say(f"What was there before is in {put.aside}; remove it when it is not needed any more.")
    if put.config is not None:
        show.say(f"The settings, policy and vendor key set of then are in {put.config}; nothing of /etc was changed.")
    show.say("Seats go on. What is counted by use is refused until your vendor has answered:")
    show.say("Next: start the server, then lls server request -o FILE, send it to your vendor, import its answer.")
    show.say("On another machine the server is unbound for the vendor's grace; the same request settles that, too.")


def _tell_found(document: dict[str, Any], *, lines: int, sealed: bool, as_json: bool) -> None:
    if as_json:
        show.document({**document, "lines": lines, "sealed": sealed})
        return
    show.facts(
        [
            ("Server", f"{document['server_id']} ({document['name']}), version {document['version']}"),
            ("Made", document["made_at"]),
            ("Journal", f"line {document['seq']}, {show.count(lines, 'line')} in it, whole"),
            ("Sealed", "yes" if sealed else "NO: its private keys are in clear"),
            ("Files", ", ".join(document["members"])),
        ]
    )


def _passphrase(file: Path | None, *, anew: bool) -> str:
    if file is not None:
        return files.content(file).decode("utf-8", "replace").rstrip("\r\n")
    if given := os.environ.get(_VARIABLE):
        return given
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"Give the passphrase with --passphrase-file or {_VARIABLE}.")
    return str(typer.prompt("Passphrase of the backup", hide_input=True, confirmation_prompt=anew))


def _read_back(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
