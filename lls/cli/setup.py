"""``lls setup``: from an installed package to a server that asks to be licensed, in a handful of questions.

Rules
1. Each step is done once. Settings that stand there are kept (``--force`` puts them aside and writes new ones), a key
   set that is installed stays, a user or a request that is there is not made again. So whatever broke a setup off, the
   same command goes on with it.
2. Nothing is written before all answers are known and right: the settings are judged as the server will judge them.
3. On a terminal it asks; ``--yes``, or no terminal, takes what the options say and the defaults for the rest.
4. There is no default password and no password among the arguments: it is typed, comes as the first line of standard
   input, or a one-time token is printed with which its user sets one.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer

from lls.cli import files, show, user
from lls.cli.admin import Admin
from lls.cli.frame import UNREACHABLE, AsJson, Failure, given
from lls.cli.server import fingerprint
from lls.config import DEFAULT_PATH, PATH_VARIABLE, Config, Server, TlsMode, addresses, load, problems, rendered
from lls.faults import RefusedDocument, SetupFault

SYSTEMD: Final = Path("/run/systemd/system")
UNPRIVILEGED: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
START_SECONDS: Final = 90.0
_WAYS: Final = ("self", "files", "proxy")
_PROXIED: Final = "127.0.0.1:6501"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("setup")(setup)


def setup(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    name: Annotated[str | None, typer.Option(help="What pages, requests and reports call this server.")] = None,
    listen: Annotated[
        list[str] | None, typer.Option(help="Address and port for applications; may be repeated.")
    ] = None,
    tls: Annotated[str | None, typer.Option(help="self: own certificate; files: yours; proxy: one in front.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="With files: the chain. With proxy: its certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="With files: the private key.")] = None,
    vendor_keys: Annotated[Path | None, typer.Option(help="The .llskeys file that came with your software.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Keys and journal. Default: /var/lib/lls.")] = None,
    admin_socket: Annotated[Path | None, typer.Option(help="Where lls talks to the daemon.")] = None,
    admin: Annotated[str | None, typer.Option(help="Administer over the network, with this first user.")] = None,
    admin_network: Annotated[list[str] | None, typer.Option(help="From these networks only; may be repeated.")] = None,
    invite: Annotated[
        bool, typer.Option("--invite", help="Print a one-time token instead of taking a password.")
    ] = False,
    request: Annotated[Path | None, typer.Option(help="The activation request. Default: NAME.llsreq.")] = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Do not start the service.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; take options and defaults.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Put settings that are there aside.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set the server up: settings, vendor's keys, first administrator, activation request."""
    path, environ = given(ctx)
    target = path or Path(environ.get(PATH_VARIABLE) or DEFAULT_PATH)
    ask = _silent if yes or as_json or not sys.stdin.isatty() else _asked
    done = Done(config=str(target))
    before = _settings_of_a_running_server(target, environ) if force else None
    if force or not _has_settings(target):
        wishes = Wishes(
            name=name,
            listen=listen,
            tls=tls,
            tls_cert=tls_cert,
            tls_key=tls_key,
            vendor_keys=vendor_keys,
            state_dir=state_dir,
            admin_socket=admin_socket,
            admin=admin,
            admin_networks=admin_network,
        )
        answers = _answers(wishes, target, ask, running=before is not None)
        _write(answers, target, done, force=force)
        admin = answers.administrator
    else:
        done.note(f"Settings are in {target} already, and are kept.")
        if vendor_keys is not None:
            _install_keys(vendor_keys, Path(load(target, environ).trust.keys), done)
    config = load(target, environ)
    daemon = Admin(config.server.admin_socket)
    done.running = _is_up(daemon) or (not no_start and _start(config, daemon, done))
    if before is not None and before != config:
        done.next.append("restart the server, which still goes by the settings of before: systemctl restart lls")
    if done.running:
        if admin is not None:
            _administrator(daemon, admin, done, invite=invite)
        _request(daemon, request or Path(f"{config.server.name.replace('/', '-')}.llsreq"), done)
    else:
        command = "systemctl enable --now lls" if SYSTEMD.is_dir() else f"lls --config {target} serve"
        done.next.append(f"start the server ({command}), then type lls setup again: it goes on from here.")
    done.tell(as_json=as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the options say; None where they say nothing."""

    name: str | None
    listen: list[str] | None
    tls: str | None
    tls_cert: Path | None
    tls_key: Path | None
    vendor_keys: Path | None
    state_dir: Path | None
    admin_socket: Path | None
    admin: str | None
    admin_networks: list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Everything that is to be written. ``keys_from``: the key set to install; None: it stands there."""

    settings: Mapping[str, Mapping[str, object]]
    keys: Path
    keys_from: Path | None
    administrator: str | None


@dataclass(slots=True, kw_only=True)
class Done:
    """What was done, said as it happens and, for programs, at the end."""

    config: str
    running: bool = False
    vendor_keys: str | None = None
    administrator: str | None = None
    invitation: Mapping[str, Any] | None = None
    request: str | None = None
    fingerprint: str | None = None
    did: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        """A step is done."""
        self.did.append(sentence)

    def tell(self, *, as_json: bool) -> None:
        """All of it."""
        if as_json:
            names = (
                "config",
                "running",
                "vendor_keys",
                "administrator",
                "invitation",
                "request",
                "fingerprint",
                "next",
            )
            show.document({name: getattr(self, name) for name in names})
            return
        for sentence in self.did:
            show.say(sentence)
        show.say()
        for step in self.next:
            show.say(f"Next: {step}")


Ask: TypeAlias = Callable[[str, str, Callable[[str], str | None]], str]
"""Puts a question with a default and who judges the answer; the answer, or the default."""


def _silent(question: str, default: str, judge: Callable[[str], str | None]) -> str:
    wrong = judge(default)
    if wrong is not None:
        raise Failure(f"{question}: {wrong}")
    return default


def _asked(question: str, default: str, judge: Callable[[str], str | None]) -> str:
    while True:
        answer = str(typer.prompt(question, default=default, show_default=bool(default), err=True)).strip()
        wrong = judge(answer)
        if wrong is None:
            return answer
        typer.echo(f"  {wrong}", err=True)


# ---------------------------------------------------------------- the questions


def _answers(wishes: Wishes, target: Path, ask: Ask, *, running: bool) -> Answers:
    settings: dict[str, dict[str, object]] = {"server": {}}
    server = settings["server"]
    server["name"] = wishes.name or ask("Name of this server", socket.gethostname() or "lls", _any)
    way = wishes.tls or ask(
        "TLS certificate: self (made here), files (yours), proxy (one stands in front)", "self", _way
    )
    if wrong := _way(way):
        raise typer.BadParameter(wrong, param_hint="--tls")
    server["listen"] = _judged_addresses(wishes.listen) or [
        ask("Address and port for applications", _usual_address(way), partial(_free, running=running))
    ]
    if way != "self":
        _certificate(settings, way, wishes, ask)
    keys = (DEFAULT_PATH.parent if target == DEFAULT_PATH else target.parent.resolve()) / "vendor.llskeys"
    settings["trust"] = {"keys": str(keys)}
    keys_from = wishes.vendor_keys
    if keys_from is None and not keys.exists():
        keys_from = Path(ask("Key set of your vendor (.llskeys, it came with the software)", "", _key_set))
    elif keys_from is not None and (wrong := _key_set(str(keys_from))):
        raise Failure(wrong)
    for key, path in (("state_dir", wishes.state_dir), ("admin_socket", wishes.admin_socket)):
        if path is not None:
            server[key] = str(path.resolve())
    administrator = wishes.admin
    if administrator is None:
        administrator = ask(
            "First administrator over the network (empty: none, by this machine's shell alone)", "", _any_or_none
        )
    if administrator:
        networks = wishes.admin_networks
        settings["admin"] = {"http": True, **({"allow": networks} if networks else {})}
    return Answers(settings=settings, keys=keys, keys_from=keys_from, administrator=administrator or None)


def _certificate(settings: dict[str, dict[str, object]], way: str, wishes: Wishes, ask: Ask) -> None:
    if way == "files":
        cert = _existing(wishes.tls_cert, "Certificate chain (PEM; --tls-cert)", ask)
        key = _existing(wishes.tls_key, "Its private key (PEM; --tls-key)", ask)
        settings["tls"] = {"mode": "files", "cert": str(cert.resolve()), "key": str(key.resolve())}
        return
    from lls.tls import spki_of

    cert = _existing(wishes.tls_cert, "Certificate of the proxy (PEM; --tls-cert)", ask)
    settings["tls"] = {"mode": "off"}
    settings["server"]["proxy_spki_sha256"] = [spki_of(cert)]


def _existing(said: Path | None, question: str, ask: Ask) -> Path:
    if said is None:
        return Path(ask(question, "", _file))
    if wrong := _file(str(said)):
        raise Failure(wrong)
    return said


def _usual_address(way: str) -> str:
    return _PROXIED if way == "proxy" else Config().server.listen[0]


def _any(answer: str) -> str | None:
    return None if answer else "Type a name."


def _any_or_none(_answer: str) -> None:
    return None


def _way(answer: str) -> str | None:
    return None if answer in _WAYS else f"must be one of {', '.join(_WAYS)}."


def _file(answer: str) -> str | None:
    return None if answer and Path(answer).is_file() else f"{answer or 'No name'}: there is no such file."


def _free(answer: str, *, running: bool) -> str | None:
    """Whether the address can be listened on; where our own daemon runs it is taken, and that is its own affair."""
    try:
        if wrong := _reserved(answer):
            return wrong
        (address,) = addresses(Server(listen=(answer,)), "listen")
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, number, _, place = found[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except SetupFault as fault:
        return fault.detail
    except OSError as error:
        if running and error.errno == errno.EADDRINUSE:
            return None
        return f"Cannot listen there: {error.strerror or error}."
    return None


def _judged_addresses(said: list[str] | None) -> list[str] | None:
    for address in said or ():
        if wrong := _reserved(address):
            raise Failure(f"--listen {address}: {wrong}")
    return said


def _reserved(answer: str) -> str | None:
    """Whether the port is one that who runs the server may not have. Raises SetupFault for what is no address.

    A probe cannot tell: root, who types this, may have every port.
    """
    (address,) = addresses(Server(listen=(answer,)), "listen")
    try:
        least = int(UNPRIVILEGED.read_text("ascii"))
    except (OSError, ValueError):
        least = 1024
    if not 0 < address.port < least or _low_ports_granted():
        return None
    return (
        f"port {address.port} is not for the service's user, who may have those from {least} to 65535; choose one of"
        " them, or give the service AmbientCapabilities=CAP_NET_BIND_SERVICE and CapabilityBoundingSet="
        "CAP_NET_BIND_SERVICE (systemctl edit lls) and type this again."
    )


def _low_ports_granted() -> bool:
    systemctl = shutil.which("systemctl")
    if not SYSTEMD.is_dir() or systemctl is None:
        return os.geteuid() == 0  # no service here: who types this starts the server, too
    words = [systemctl, "show", "lls", "--property", "AmbientCapabilities", "--value"]
    shown = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    return "cap_net_bind_service" in shown.stdout.lower()


def _key_set(answer: str) -> str | None:
    if not answer:
        return "The vendor's key set is needed: name the .llskeys file that came with your software (--vendor-keys)."
    try:
        _judged_keys(Path(answer))
    except Failure as failure:
        return failure.sentence
    return None


def _judged_keys(source: Path) -> bytes:
    """Read once: what is installed is what was judged, whoever else may write where it lies. Raises Failure."""
    from lls.signed.keys import read_key_set

    content = files.content(source)
    try:
        read_key_set(content.decode("ascii").strip())
    except (UnicodeDecodeError, RefusedDocument):
        raise Failure(f"{source} is no key set; name the .llskeys file that came with your software.") from None
    return content


# ---------------------------------------------------------------- the steps


def _has_settings(target: Path) -> bool:
    """A file whose settings are all commented out, as the package installs it, has none."""
    try:
        return any(tomllib.loads(target.read_text("utf-8")).values())
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise Failure(
            f"{target} cannot be read as settings ({error}); mend it, or put it aside with --force."
        ) from None


def _write(answers: Answers, target: Path, done: Done, *, force: bool) -> None:
    text = rendered(answers.settings)
    _judge(text)
    if answers.keys_from is not None:
        _install_keys(answers.keys_from, answers.keys, done)
    target.parent.mkdir(parents=True, exist_ok=True)
    if force and target.exists():
        aside = target.with_name(f"{target.name}.{int(time.time())}.bak")
        shutil.copy2(target, aside)
        done.note(f"The settings of before are in {aside}.")
    with files.written(target, mode=files.SHARED, force=True) as file:
        file.write(text.encode())
    done.note(f"Wrote the settings to {target}.")


def _judge(text: str) -> None:
    """As the server will, before anything is written in their place."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as trial:
        trial.write(text)
        trial.flush()
        found = problems(Path(trial.name), {})
    if found:
        raise Failure(found[0].replace(f"{trial.name}: ", ""))


def _install_keys(source: Path, target: Path, done: Done) -> None:
    content = _judged_keys(source)
    if target.exists() and target.read_bytes() == content:
        done.note(f"The vendor's key set is in {target} already.")
    elif target.exists():
        raise Failure(
            f"Another key set is in {target}, and it is the anchor of all trust: it stays. If your vendor told you to"
            " replace it, move it away yourself, then type this again."
        )
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.written(target, mode=files.SHARED, force=False) as file:
            file.write(content)
        done.note(f"Installed the vendor's key set as {target}.")
    done.vendor_keys = str(target)


def _settings_of_a_running_server(target: Path, environ: Mapping[str, str]) -> Config | None:
    """What the one that runs goes by; None: none runs, or its settings cannot be read any more."""
    try:
        config = load(target, environ)
    except SetupFault:
        return None
    return config if _is_up(Admin(config.server.admin_socket)) else None


def _is_up(daemon: Admin) -> bool:
    try:
        daemon.get("server")
    except Failure as failure:
        if failure.status != UNREACHABLE:
            raise
        return False
    return True


def _start(config: Config, daemon: Admin, done: Done) -> bool:
    systemctl = shutil.which("systemctl")
    if not SYSTEMD.is_dir() or systemctl is None:
        return False
    sys.stderr.write(
        "Starting the service (systemctl enable --now lls) and waiting until it answers: seconds for a new server,"
        " minutes where it has a large journal to verify.\n"
    )
    sys.stderr.flush()
    begun = subprocess.run(  # noqa: S603 - our own words
        [systemctl, "enable", "--now", "lls"], capture_output=True, text=True, check=False
    )
    end = time.monotonic() + START_SECONDS
    while not begun.returncode and time.monotonic() < end:
        if _is_up(daemon):
            done.note(f"The server runs, and will after each boot: {_urls(config)}.")
            return True
        time.sleep(0.2)
    raise Failure("The server does not start; journalctl -u lls -n 20 says why. Mend it, then type lls setup again.")


def _urls(config: Config) -> str:
    scheme = "http" if config.tls.mode is TlsMode.OFF else "https"
    host = socket.gethostname()
    return ", ".join(
        f"{scheme}://{host if one.host in ('0.0.0.0', '::') else one.host}:{one.port}"  # noqa: S104 - a name for it
        for one in addresses(config.server)
    )


def _administrator(daemon: Admin, name: str, done: Done, *, invite: bool) -> None:
    known = {str(one.get("name")) for one in daemon.get("users").get("users", [])}
    if name in known:
        done.note(f"The administrator {name} is there already; lls user password {name} sets another password.")
        return
    added = user.add_user(daemon, name, role="admin", password=None if invite else user.asked_password())
    done.administrator = name
    if invite:
        made = done.invitation = added.get("invitation") or {}
        done.note(f"{name} may administer over the network, after setting a password with this one-time token:")
        done.note(f"  {made.get('token')}   (good until {show.instant(made.get('until'))}, not shown again)")
    else:
        done.note(f"{name} may administer over the network.")


def _request(daemon: Admin, path: Path, done: Done) -> None:
    if (daemon.get("server").get("license") or {}).get("state") != "unlicensed":
        done.next.append("lls doctor looks whether everything is well; lls entitlement list shows what is sold.")
        return
    if os.path.lexists(path):
        done.note(f"The activation request {path} is there already, and is kept.")
    else:
        with (
            files.written(path, mode=files.SHARED, force=False) as file,
            daemon.download("POST", "server/request") as arriving,
        ):
            arriving.save(file)
        done.note(f"Wrote the activation request to {path}.")
    done.request = str(path)
    done.fingerprint = fingerprint(path)
    done.note(f"Your vendor may ask for its key's fingerprint, by telephone: {done.fingerprint}")
    done.next.append(f"send {path} to your vendor; nothing in it is secret, and it names nobody.")
    done.next.append("import the bundle that comes back: lls bundle import FILE")
    done.next.append("look whether everything is well: lls doctor")
