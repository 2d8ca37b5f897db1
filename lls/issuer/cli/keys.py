"""``lls-issuer keys``: the key set that applications and servers trust, and the keys of the people who sign."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer
from rich.table import Table

from lls.faults import RefusedDocument
from lls.issuer.cli.frame import (
    AsJson,
    Output,
    PassphraseFile,
    group,
    now,
    open_issuer,
    passphrase_from,
    print_json,
    say,
    stdout,
    writable,
)
from lls.issuer.cli.signing import (
    KeyFile,
    PendingFile,
    SignWith,
    Trusted,
    Yes,
    read_file,
    sign_file,
    write_pending,
)
from lls.issuer.files import read_bounded, write_whole
from lls.issuer.keyring import Change
from lls.issuer.office import Issuer
from lls.issuer.pending import Kind, Pending
from lls.issuer.refusals import HomeRefused, SignaturesMissing
from lls.issuer.signers import LARGEST_FILE, PublicPart, make_key_file, make_public_part, read_part_file
from lls.issuer.signing_agent import read_command
from lls.licensing.fields import write_instant
from lls.signed.jose import Signer, public_key_pem
from lls.signed.keys import ROLES, KeySet

noun = group("The key set: what applications and servers trust.")

OWN: Final = "own"
Thresholds: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--threshold", help="How many keys of a role must sign: root=2,bundle=2,certificate=1."),
]
Waits: TypeAlias = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Where other people have to sign: the file to pass around (.pending)."),
]


@noun.command("show")
def keys_show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Every version of the key set, with its keys' ids and who holds them."""
    with open_issuer(ctx) as issuer:
        newest = issuer.keyring.newest
        versions = [_key_set_document(keys, issuer, newest=keys is newest) for keys in issuer.keyring.versions]
    if as_json:
        print_json({"key_sets": versions})
        return
    table = Table("version", "expires_at", "role", "threshold", "kid", "held by", title="Key sets")
    for version in versions:
        for role, terms in version["roles"].items():
            table.add_row(
                str(version["version"]),
                version["expires_at"],
                role,
                str(terms["threshold"]),
                "\n".join(terms["kids"]),
                "\n".join(terms["held_by"][kid] for kid in terms["kids"]),
            )
    stdout.print(table)


@noun.command("make")
def keys_make(  # noqa: PLR0917 - Typer makes options out of parameters
    output: Output,
    name: Annotated[str, typer.Option("--name", help="What you are called in this vendor's lists.")],
    key: Annotated[Path | None, typer.Option("--key", help="The new file of the private key.")] = None,
    sign_with: SignWith = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="With --sign-with: the token's public key (PEM).")
    ] = None,
    passphrase_file: PassphraseFile = None,
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase", help="Leave the private key unencrypted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a signing key on your own machine, or name one in a token, and write its public part (.llskey)."""
    writable(output)
    signer: Signer
    if key is not None and sign_with is None and public_key is None:
        if not key.exists():  # else it is refused below, whatever it holds
            writable(key)
        made = make_key_file(key, passphrase=None if no_passphrase else passphrase_from(passphrase_file, anew=True))
        signer, public = made, made.public
    elif key is None and sign_with is not None and public_key is not None:
        try:
            public = public_key_pem(read_bounded(public_key, what="public key", most=LARGEST_FILE))
        except RefusedDocument as refused:
            raise HomeRefused(f"{public_key}: {refused.detail}") from refused
        signer = read_command(sign_with, public=public)
    else:
        raise typer.BadParameter(
            "Say --key FILE for a new key, or --sign-with CMD and --public-key FILE for a token's."
        )
    part = make_public_part(signer, public=public, name=name, now=now())
    write_whole(output, part.token.encode())
    if as_json:
        print_json({"kid": part.kid, "name": part.name, "alg": part.key.alg, "file": str(output)})
        return
    say(f"Wrote the public part of {part.name} to {output}. Hand it to the office, and compare over the telephone:")
    say(part.kid)


@noun.command("add")
def keys_add(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Public parts of keys (.llskey).")],
    role: Annotated[list[str], typer.Option("--role", help="root, bundle or certificate; may be repeated.")],
    threshold: Thresholds = None,
    output: Waits = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Put somebody's key into the next version of the key set."""
    parts = [read_part_file(file) for file in files]
    change = Change(adding=dict.fromkeys(role, parts), thresholds=thresholds_of(threshold))
    _change(ctx, change, output=output, passphrase_file=passphrase_file, as_json=as_json)


@noun.command("remove")
def keys_remove(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    kids: Annotated[list[str], typer.Argument(help="Ids of keys, as keys show prints them.")],
    threshold: Thresholds = None,
    output: Waits = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Take keys out of the next version of the key set: lost, known to others, or of somebody who left."""
    change = Change(without=kids, thresholds=thresholds_of(threshold))
    _change(ctx, change, output=output, passphrase_file=passphrase_file, as_json=as_json)


@noun.command("rotate")
def keys_rotate(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="Also replace this key, which is not here, by a new one; may be repeated."),
    ] = None,
    threshold: Thresholds = None,
    output: Waits = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """New keys for all of this home: the next version, signed by the old root and the new one."""
    change = Change(without=without or (), thresholds=thresholds_of(threshold))
    _change(ctx, change, renewing=True, output=output, passphrase_file=passphrase_file, as_json=as_json)


def _change(
    ctx: typer.Context,
    change: Change,
    *,
    renewing: bool = False,
    output: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    if output is not None:
        writable(output)
    with open_issuer(ctx, passphrase_file, signs=True) as issuer:
        made = issuer.rotating.change(change, now=now(), partial=output is not None, renewing=renewing)
        document = None if isinstance(made, Pending) else _key_set_document(made, issuer, newest=True)
    if isinstance(made, Pending):
        if output is None:
            raise SignaturesMissing(made.still_needed())
        write_pending(output, made, as_json=as_json)
    else:
        _in_force(made, document, as_json=as_json)


@noun.command("sign")
def keys_sign(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    file: PendingFile,
    key: KeyFile = None,
    sign_with: SignWith = None,
    trust: Trusted = None,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Read what a key set would change, and add your signature; without --key, those of this home."""

    def here(pending: Pending) -> Pending:
        with open_issuer(ctx, passphrase_file, signs=True) as issuer:
            return issuer.rotating.sign_here(pending, now=now())

    sign_file(
        file, kind=Kind.KEYS, key=key, sign_with=sign_with, trust=trust, passphrase_file=passphrase_file, yes=yes,
        as_json=as_json, here=here,
    )  # fmt: skip


@noun.command("seal")
def keys_seal(ctx: typer.Context, file: PendingFile, as_json: AsJson = False) -> None:
    """Put a key set in force that enough people have signed."""
    pending = read_file(file, kind=Kind.KEYS)
    with open_issuer(ctx) as issuer:
        keys = issuer.rotating.seal(pending, now=now())
        document = _key_set_document(keys, issuer, newest=True)
    _in_force(keys, document, as_json=as_json)


@noun.command("hold")
def keys_hold(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The public part of the key (.llskey).")],
    sign_with: SignWith = None,
    as_json: AsJson = False,
) -> None:
    """Let a command sign with a key for this home: a token, an HSM, an agent. It is tried once."""
    if sign_with is None:
        raise typer.BadParameter("Say which command holds the key: --sign-with CMD.")
    part = read_part_file(file)
    with open_issuer(ctx) as issuer:
        issuer.rotating.hold(part, sign_with)
    if as_json:
        print_json({"kid": part.kid, "name": part.name})
    else:
        say(f"{part.kid} ({part.name}) is signed with by that command from now on.")


@noun.command("export")
def keys_export(
    ctx: typer.Context,
    output: Output,
    version: Annotated[int | None, typer.Option("--version", help="Which version; the newest if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a key set (.llskeys) for servers and applications to trust."""
    writable(output)
    with open_issuer(ctx) as issuer:
        keys = issuer.keyring.newest if version is None else issuer.keyring.version(version)
    write_whole(output, keys.token.encode())
    if as_json:
        print_json({"version": keys.version, "expires_at": write_instant(keys.expires_at), "file": str(output)})
        return
    say(f"Wrote key set {keys.version} to {output}.")


def thresholds_of(texts: Sequence[str] | None) -> dict[str, int]:
    """``root=2,bundle=2`` → numbers by role. Wrong usage for anything else."""
    found: dict[str, int] = {}
    for text in (one for given in texts or () for one in given.split(",")):
        role, _, number = text.strip().partition("=")
        if role not in ROLES or not number.isdecimal() or not 1 <= int(number) <= 16 or role in found:  # noqa: PLR2004
            raise typer.BadParameter(f"--threshold takes root=2,bundle=2,certificate=1 (1 to 16), not {text!r}.")
        found[role] = int(number)
    return found


def first_change(keys: Sequence[str] | None, threshold: Sequence[str] | None) -> Change:
    """What ``init`` says: ``--keys ROLE=FILE`` or ``ROLE=own``; a role that is not named has one key of the home."""
    adding: dict[str, list[PublicPart]] = {}
    making: list[str] = []
    for text in keys or ():
        role, _, file = text.partition("=")
        if role not in ROLES or not file:
            raise typer.BadParameter(f"--keys takes ROLE=FILE.llskey or ROLE={OWN}, not {text!r}.")
        if file == OWN:
            making.append(role)
        else:
            adding.setdefault(role, []).append(read_part_file(Path(file)))
    making += [role for role in ROLES if role not in making and role not in adding]
    return Change(adding=adding, making=making, thresholds=thresholds_of(threshold))


def _in_force(keys: KeySet, document: dict[str, Any] | None, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        say(
            f"Key set {keys.version} is in force until {write_instant(keys.expires_at)}; "
            "each server's next bundle carries it."
        )


def _key_set_document(keys: KeySet, issuer: Issuer, *, newest: bool) -> dict[str, Any]:
    return {
        "version": keys.version,
        "in_force": newest,
        "expires_at": write_instant(keys.expires_at),
        "roles": {
            name: {
                "threshold": role.threshold,
                "kids": sorted(role.kids),
                "held_by": {kid: issuer.keyring.holder_of(kid) for kid in sorted(role.kids)},
            }
            for name, role in keys.roles.items()
        },
    }
