"""What ``bundle``, ``receipt`` and ``keys`` share of signing by several people: ``sign``, and reading what to sign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from lls.faults import RefusedDocument
from lls.issuer.cli.frame import now, passphrase_from, print_json, say, stdout
from lls.issuer.files import PRIVATE, read_bounded, write_whole
from lls.issuer.pending import LARGEST_FILE, LIFE, Kind, Pending, read_pending
from lls.issuer.refusals import PendingRefused
from lls.issuer.signers import open_signer
from lls.issuer.telling import told
from lls.licensing.fields import write_instant
from lls.signed.keys import read_key_set

PendingFile: TypeAlias = Annotated[Path, typer.Argument(help="What waits for signatures (.pending).")]
KeyFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--key", help="Your private key; or, with --sign-with, its public part (.llskey)."),
]
SignWith: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--sign-with",
        help="The command that holds the private key; {input}, {digest} and {output} stand for files, see the guide.",
    ),
]
Trusted: TypeAlias = Annotated[
    Path | None, typer.Option("--trust", help="Your own copy of the key set in force (.llskeys): refuse any other.")
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", help="Sign without asking.")]
Unsigned: TypeAlias = Annotated[
    bool, typer.Option("--unsigned", help="Write what several people sign, each on a machine of their own.")
]
SignWithinDays: TypeAlias = Annotated[
    int, typer.Option("--sign-within-days", min=1, max=60, help="With --unsigned: until when it may be signed.")
]
STANDARD_DAYS = LIFE.days


def read_file(path: Path, *, kind: Kind) -> Pending:
    """A pending file of that kind. Raises PendingRefused."""
    pending = read_pending(read_bounded(path, what="file that waits for signatures", most=LARGEST_FILE))
    if pending.kind is not kind:
        noun = pending.kind.value
        raise PendingRefused(f"{path} becomes a {noun} and no {kind.value}: lls-issuer {noun} sign, or {noun} seal.")
    return pending


def write_pending(path: Path, pending: Pending, *, as_json: bool) -> None:
    """Writes what is passed around. Nobody else's to read: it names customers and codes."""
    write_whole(path, pending.to_bytes(), mode=PRIVATE)
    tell_pending(path, pending, as_json=as_json)


def tell_pending(path: Path, pending: Pending, *, as_json: bool) -> None:
    """What the file waits for, and how it goes on."""
    if as_json:
        print_json(pending_document(pending, file=path))
        return
    say(f"Wrote {path}, to be signed until {write_instant(pending.not_after)}. {pending.still_needed()}")
    noun = pending.kind.value
    step = "seal" if pending.complete else "sign"
    say(f"Fingerprint: {pending.spoken}. Next: lls-issuer {noun} {step} {path.name}")


def pending_document(pending: Pending, *, file: Path) -> dict[str, object]:
    """For programs."""
    return {
        "pending_id": pending.pending_id,
        "kind": pending.kind.value,
        "fingerprint": pending.fingerprint,
        "not_after": write_instant(pending.not_after),
        "complete": pending.complete,
        "needs": [
            {
                "paper": need.paper,
                "role": need.role,
                "key_set": need.version,
                "threshold": need.threshold,
                "signed": sorted(need.signed),
                "may_sign": sorted(need.may_sign),
            }
            for need in pending.needs()
        ],
        "file": str(file),
    }


def sign_file(
    path: Path,
    *,
    kind: Kind,
    key: Path | None,
    sign_with: str | None,
    trust: Path | None,
    passphrase_file: Path | None,
    yes: bool,
    as_json: bool,
    here: Callable[[Pending], Pending],
) -> None:
    """Tells what a file says, asks, adds signatures, and writes it back; ``here`` signs with the home's own keys."""
    pending = read_file(path, kind=kind)
    _check_trust(pending, trust)
    pending.check_time(now())
    for line in told(pending):
        (say if as_json else stdout.print)(line)
    if not yes and not typer.confirm("Sign this?", err=True):
        raise PendingRefused("Nothing was signed.")
    if key is None:
        if sign_with is not None:
            raise typer.BadParameter("--sign-with goes with --key and the public part of the key.")
        signed = here(pending)
    else:
        signer = open_signer(key, command=sign_with, passphrase=lambda: passphrase_from(passphrase_file))
        signed, _ = pending.signed_by(signer, now=now())
    write_pending(path, signed, as_json=as_json)


def _check_trust(pending: Pending, trust: Path | None) -> None:
    if trust is None:
        return
    try:
        known = read_key_set(read_bounded(trust, what="key set", most=LARGEST_FILE))
    except RefusedDocument as refused:
        raise PendingRefused(f"{trust} is no key set: {refused.detail}") from refused
    if pending.keys is None or pending.keys.token != known.token:
        version = "none" if pending.keys is None else f"version {pending.keys.version}"
        raise PendingRefused(
            f"The file names another key set in force ({version}) than {trust} (version {known.version}). Find out "
            "which is right before you sign."
        )
