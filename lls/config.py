"""The settings: one frozen dataclass per TOML table; each field has a default, a range and a line of explanation.

This room owns the names of contract §1, what may stand behind each, and which go together. ``config/lls.toml`` is
written by :func:`rendered` and a test keeps the two equal, so a setting cannot be added without saying what it does.

Rules, in order
1. Which file: the one that is named, else ``$LLS_CONFIG``, else ``/etc/lls/lls.toml``. A named file must exist; without
   the last one the defaults hold.
2. The environment wins over the file: ``LLS__SERVER__NAME=x`` is ``[server] name = "x"``. Lists are JSON or
   comma-separated.
3. An unknown table or name is an error, with the nearest known one: a setting that is silently ignored is a trap.
4. Each value has its type and range, and texts are printable: they reach file names, certificates and terminals. Then
   the cross-checks of :func:`_check` hold for the whole.
5. :func:`load` stops at the first mistake, because nothing may start with one; :func:`problems` tells them all.

Every refusal is one :class:`~lls.faults.SetupFault` that names file, table and key. No secret is a setting: keys live
in ``state_dir`` or come from systemd. Whether the files that are named here exist is asked by who opens them.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from lls.faults import SetupFault

DEFAULT_PATH = Path("/etc/lls/lls.toml")
PATH_VARIABLE = "LLS_CONFIG"
PREFIX = "LLS__"


class TlsMode(StrEnum):
    """Where the server's TLS certificate comes from."""

    SELF = "self"
    FILES = "files"
    OFF = "off"


class ClientCertificate(StrEnum):
    """Whether applications must show a certificate of the site's authority."""

    REQUIRED = "required"
    OPTIONAL = "optional"


class ForwardedHeader(StrEnum):
    """The header in which the site's proxies name the client."""

    X_FORWARDED_FOR = "x-forwarded-for"
    FORWARDED = "forwarded"


class SmtpSecurity(StrEnum):
    """How the way to the mail relay is protected."""

    NONE = "none"
    STARTTLS = "starttls"
    TLS = "tls"


class LogLevel(StrEnum):
    """The least important line that is still written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a line of the log is written."""

    TEXT = "text"
    JSON = "json"


class ReportEvery(StrEnum):
    """How often a report is laid into the drop folder."""

    NEVER = "never"
    DAY = "day"
    WEEK = "week"


def setting(default: Any, explanation: str, *, least: int | None = None, most: int | None = None) -> Any:
    """Declare a field: its default, its line in ``config/lls.toml``, its range where it is a number."""
    return field(default=default, metadata={"explanation": explanation, "least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """[server]: who it is, where it listens, how much it takes on at once."""

    name: str = setting("lls", "the name that pages, requests and reports show, 1-100 characters")
    listen: tuple[str, ...] = setting(("0.0.0.0:6501",), "addresses and ports for applications; [::]:6501 for IPv6")
    state_dir: str = setting("/var/lib/lls", "keys, the embedded store and backups; only the server may read it")
    admin_socket: str = setting("/run/lls/admin.sock", "where the lls command talks to the daemon")
    plain_http_off_loopback: bool = setting(
        default=False, explanation="allow tls.mode off on addresses that others can reach: secrets then travel in clear"
    )
    queue_limit: int = setting(
        10_000, "changes that may wait before the answer is 503 overloaded", least=1, most=1_000_000
    )
    request_seconds: int = setting(10, "time for a request to arrive whole", least=1, most=300)
    body_bytes: int = setting(65_536, "largest request body of an application", least=1_024, most=16_777_216)
    drain_seconds: int = setting(10, "time for requests under way when the server stops", least=0, most=300)
    failures_per_minute: int = setting(
        60,
        "failed logins, secrets and malformed requests per client address; well-formed calls are not counted",
        least=1,
    )
    log_level: LogLevel = setting(LogLevel.INFO, "debug, info, warning or error")
    log_format: LogFormat = setting(LogFormat.TEXT, "text (key=value) or json, one fact a line")
    show_products: bool = setting(
        default=True, explanation="whether any client may ask which seats are free (GET /v1/products)"
    )
    proxy_spki_sha256: tuple[str, ...] = setting(
        (), "public keys of a TLS proxy in front: lower-case hex SHA-256 of the SubjectPublicKeyInfo"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """[store]: where the journal and the rows live."""

    url: str = setting("", "empty: SQLite in state_dir; or postgresql://... for two or more daemons")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """[tls]: how applications reach the server."""

    mode: TlsMode = setting(TlsMode.SELF, "self: makes its own certificate; files: cert and key below; off: plain HTTP")
    cert: str = setting("", "certificate chain, PEM, for mode files")
    key: str = setting("", "its private key, PEM, for mode files")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """[access]: which applications may come, and which proxies are believed."""

    allow: tuple[str, ...] = setting((), "networks whose applications may use the server; empty: all")
    client_ca: str = setting("", "PEM file of the authority whose client certificates are asked for; empty: none")
    client_certificate: ClientCertificate = setting(
        ClientCertificate.REQUIRED, "required or optional: with client_ca, whether who has no certificate may come"
    )
    trusted_proxies: tuple[str, ...] = setting((), "networks of proxies whose word on the client's address counts")
    forwarded_header: ForwardedHeader = setting(
        ForwardedHeader.X_FORWARDED_FOR, "x-forwarded-for or forwarded: the one header that those proxies write"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """[admin]: administration over the network."""

    http: bool = setting(
        default=False, explanation="whether administration is answered on the network, to users and API keys"
    )
    allow: tuple[str, ...] = setting((), "networks from which it is answered; empty: all")
    session_idle_seconds: int = setting(900, "a session ends when it was not used for so long", least=60, most=86_400)
    session_seconds: int = setting(43_200, "a session ends after this time, used or not", least=60, most=604_800)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """[trust]: whose bundles are believed."""

    keys: str = setting("/etc/lls/vendor.llskeys", "the vendor's key set, as it came with the product")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """[policy]: what the site adds."""

    file: str = setting("", "site policy: reservations, limits, who may use what; empty: none")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockTable:
    """[clock]: how exact the machine's clock must be."""

    tolerance_seconds: int = setting(
        300,
        "how far the clock may be behind the time already seen before new checkouts are refused",
        least=1,
        most=86_400,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """[lease]: how leases are kept."""

    grace_seconds: int = setting(
        30, "kept after a missed deadline before the seat is freed; at least proof_seconds", least=1, most=86_400
    )
    proof_seconds: int = setting(
        10, "the longest that the server acts without having proved that it is the writer", least=1, most=3_600
    )
    heartbeats_per_second: int = setting(
        2_000, "aim for the whole fleet: beyond it clients are told to beat less often", least=1, most=1_000_000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """[journal]: how long its lines stay in the database."""

    keep_days: int = setting(
        0, "days after which acknowledged lines leave the database for an archive file; 0: never", least=0, most=36_500
    )
    archive_dir: str = setting("", "folder for archive files, an absolute path; empty: archive in state_dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """[disk]: how much room the server wants to have left."""

    warn_mib: int = setting(1_024, "free MiB below which it warns", least=1, most=1_000_000)
    stop_mib: int = setting(
        128, "free MiB below which nothing new is granted; what is held goes on; 0: never", least=0, most=1_000_000
    )
    reserve_mib: int = setting(
        16, "MiB set aside in state_dir, so that seats can be given back on a full disk", least=0, most=10_000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """[drop]: a folder through which documents come and go."""

    folder: str = setting("", "bundles and receipts laid into its folder in are imported; an absolute path")
    report_every: ReportEvery = setting(ReportEvery.NEVER, "never, day or week: lay a usage report into its folder out")
    pseudonymise: bool = setting(default=False, explanation="leave names of people and machines out of those reports")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """[log]: a file beside standard error. Level and form stand in [server]."""

    file: str = setting("", "also write the log to this file, an absolute path; empty: to standard error only")
    max_mib: int = setting(
        20, "MiB after which the file is turned over; 0: never, something else does", least=0, most=10_000
    )
    keep: int = setting(5, "how many files that were turned over are kept", least=1, most=1_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """[events]: who is told of what should not wait until somebody looks."""

    webhook_urls: tuple[str, ...] = setting((), "addresses that get each event as a signed POST; http or https")
    webhook_secret_file: str = setting(
        "", "file with the secret that signs them, base64, 24 bytes or more: openssl rand -base64 32"
    )
    ca_file: str = setting("", "certificates, PEM, that vouch for webhooks and the mail relay; empty: the system's")
    smtp_server: str = setting("", "mail relay, host:port; empty: no mail")
    smtp_security: SmtpSecurity = setting(SmtpSecurity.STARTTLS, "none, starttls or tls")
    smtp_from: str = setting("", "sender's address")
    smtp_to: tuple[str, ...] = setting((), "receivers' addresses")
    smtp_user: str = setting("", "account at the relay; empty: none")
    smtp_password_file: str = setting("", "file with its password")
    syslog: str = setting("", "udp://host:514, tcp://host:514 or unix:///dev/log; empty: none")
    seats_percent: int = setting(80, "tell when so many seats of an entitlement are taken; 0: never", least=0, most=100)
    denials_per_hour: int = setting(
        20, "tell when so many requests for a product were refused; 0: never", least=0, most=1_000_000
    )
    retry_hours: int = setting(72, "how long an event is sent again to who does not take it", least=0, most=8_760)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """[backup]: backups that the server makes by itself."""

    folder: str = setting("", "where scheduled backups go, best another disk; empty: none are made")
    every_hours: int = setting(24, "hours from one to the next", least=1, most=8_784)
    keep: int = setting(7, "how many are kept; an older one goes once a new one was read back", least=1, most=10_000)
    passphrase_file: str = setting("", "file with the passphrase that they are sealed to")
    recipient_file: str = setting("", "public P-256 key (PEM) that they are sealed to, in place of a passphrase")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings; ``Config()`` is the default."""

    server: Server = Server()
    store: Store = Store()
    tls: Tls = Tls()
    access: Access = Access()
    admin: Admin = Admin()
    trust: Trust = Trust()
    policy: Policy = Policy()
    clock: ClockTable = ClockTable()
    lease: Lease = Lease()
    journal: Journal = Journal()
    disk: Disk = Disk()
    log: Log = Log()
    drop: Drop = Drop()
    events: Events = Events()
    backup: Backup = Backup()


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One entry of ``server.listen``, taken apart."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can reach it."""
        return self.host == "localhost" or (_is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback)


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read, override and check. ``path`` is what ``--config`` named, if anything. Raises :class:`SetupFault`."""
    source, tables = _read(path, environ)
    config = _built(tables, _overrides(environ, _stop), source, _stop)
    _check(config, source, _stop)
    return config


def source_of(path: Path | None, environ: Mapping[str, str]) -> Path:
    """The file that :func:`load` reads; it need not exist where none was named."""
    return path or (Path(environ[PATH_VARIABLE]) if environ.get(PATH_VARIABLE) else DEFAULT_PATH)


def problems(path: Path | None, environ: Mapping[str, str]) -> list[str]:
    """Everything that :func:`load` would refuse, a sentence each, the file's order first; empty when it would load.

    A setting that is wrong counts as its default in what follows, so that one mistake is told once.
    """
    found: list[str] = []

    def note(fault: SetupFault) -> None:
        if fault.detail not in found:
            found.append(fault.detail)

    try:
        source, tables = _read(path, environ)
    except SetupFault as fault:
        return [fault.detail]
    _check(_built(tables, _overrides(environ, note), source, note), source, note)
    return found


def addresses(server: Server, source: str = "settings") -> tuple[Address, ...]:
    """``server.listen``, taken apart: ``host:port`` or ``[IPv6]:port``; port 0 lets the system choose."""
    try:
        return tuple(_address(entry) for entry in server.listen)
    except ValueError as fault:
        raise SetupFault(f"{source}: {fault}") from None


def rendered(given: Mapping[str, Mapping[str, object]] | None = None) -> str:
    """``config/lls.toml``: every setting commented out at its default under its line of explanation.

    ``given``: table → setting → value; those stand there without the comment sign. They are not judged here.
    """
    lines = [
        "# Settings of the Local License Server. Each stands here at its default; remove the # to change one.",
        "# The environment wins over this file: LLS__SERVER__NAME sets name in [server]. See also: lls config check",
    ]
    for name, kind in _tables().items():
        lines += ["", f"[{name}]"]
        for one in fields(kind):
            lines.append(f"# {one.metadata['explanation']}{_range(one.metadata)}")
            chosen = (given or {}).get(name, {})
            known = one.name in chosen
            lines.append(f"{'' if known else '#'}{one.name} = {_toml(chosen[one.name] if known else one.default)}")
    return "\n".join(lines) + "\n"


# What follows serves the four public functions, in the order of the rules.


def _read(path: Path | None, environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    named = path or (Path(environ[PATH_VARIABLE]) if environ.get(PATH_VARIABLE) else None)
    file = named or DEFAULT_PATH
    try:
        return str(file), tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named is None:
            return "settings", {}
        raise SetupFault(
            f"{file}: there is no such file; name the right one with --config or {PATH_VARIABLE}."
        ) from None
    except RecursionError:
        raise SetupFault(f"{file}: this is not TOML: it is nested too deeply.") from None
    except ValueError as fault:  # TOMLDecodeError, UnicodeDecodeError, and what int() says of thousands of digits
        raise SetupFault(f"{file}: this is not TOML: {fault}.") from None
    except OSError as fault:
        raise SetupFault(f"{file}: cannot be read: {fault.strerror}.") from None


Tell: TypeAlias = Callable[[SetupFault], None]
"""What to do about a mistake: stop there, or note it and go on with the default."""


def _stop(fault: SetupFault) -> None:
    raise fault


@contextmanager
def _told(tell: Tell) -> Iterator[None]:
    try:
        yield
    except SetupFault as fault:
        tell(fault)


def _overrides(environ: Mapping[str, str], tell: Tell) -> dict[tuple[str, str], tuple[str, str]]:
    """``(table, key)`` of each ``LLS__TABLE__NAME``, with the variable and its text."""
    found = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX):
            continue
        table, separator, key = variable.removeprefix(PREFIX).lower().partition("__")
        if not separator:
            tell(SetupFault(f"{variable}: a setting in the environment is written {PREFIX}TABLE__NAME."))
            continue
        found[table, key] = (variable, text)
    return found


def _built(
    tables: dict[str, Any], overrides: dict[tuple[str, str], tuple[str, str]], source: str, tell: Tell
) -> Config:
    known = _tables()
    read: dict[str, dict[str, object]] = {}
    for name, table in tables.items():
        with _told(tell):
            _known(name, known, f"{source}: [{name}]", "table")
            if not isinstance(table, dict):
                raise SetupFault(f"{source}: [{name}] must be a table.")
            read[name] = table
    for (name, _), (variable, _) in overrides.items():
        with _told(tell):
            _known(name, known, variable, "table")
    built: dict[str, Any] = {
        name: _table(
            kind,
            {key: (f"{source}: [{name}] {key}", value) for key, value in read.get(name, {}).items()}
            | {key: (where, _Text(text)) for (table, key), (where, text) in overrides.items() if table == name},
            tell,
        )
        for name, kind in known.items()
    }
    return Config(**built)


def _tables() -> dict[str, type[Any]]:
    default = Config()
    return {table.name: type(getattr(default, table.name)) for table in fields(Config)}


class _Text(str):
    """A value from the environment, which has no types: it is read as its field's."""

    __slots__ = ()


def _table(kind: type[Any], given: dict[str, tuple[str, object]], tell: Tell) -> object:
    known = {one.name: one for one in fields(kind)}
    values = {}
    for key, (where, value) in given.items():
        with _told(tell):
            _known(key, known, where, "setting")
            checked = _value(value, known[key].default, where)
            _in_range(checked, known[key].metadata, where)
            _printable(checked, where)
            values[key] = checked
    return kind(**values)


def _known(name: str, known: Mapping[str, object], where: str, noun: str) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
    raise SetupFault(f"{where}: there is no such {noun}; {hint}")


def _value(value: object, default: object, where: str) -> object:
    """``value`` as the type of ``default``."""
    if isinstance(default, StrEnum):
        kind = type(default)
        if value in [one.value for one in kind]:
            return kind(value)
        raise SetupFault(f"{where} must be one of {', '.join(kind)}.")
    if isinstance(default, tuple):
        return _words(value, where)
    if isinstance(value, _Text):
        value = _parsed(value, default, where)
    if type(value) is not type(default):
        raise SetupFault(f"{where} must be {_NOUNS[type(default)]}.")
    return value


def _printable(value: object, where: str) -> None:
    """No NUL (no path holds one), no control characters, no half characters of an environment that is not UTF-8."""
    texts = value if isinstance(value, tuple) else (value,)
    if any(isinstance(text, str) and not text.isprintable() for text in texts):
        raise SetupFault(f"{where} holds characters that cannot be printed, or is not UTF-8.")


_NOUNS = {str: "a text in quotes", int: "a whole number", bool: "true or false"}
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def _parsed(text: _Text, default: object, where: str) -> object:
    if isinstance(default, bool):
        return _BOOLEANS.get(text.strip().lower())
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            raise SetupFault(f"{where} must be a whole number.") from None
    return str(text)


def _words(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, _Text):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # not JSON, so words; an IPv6 address begins with a bracket, too
            value = [word.strip() for word in str(value).split(",") if word.strip()]
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise SetupFault(f"{where} must be a list of texts.")
    return tuple(value)


def _in_range(value: object, metadata: Mapping[str, Any], where: str) -> None:
    least, most = metadata["least"], metadata["most"]
    if isinstance(value, int) and ((least is not None and value < least) or (most is not None and value > most)):
        shown = f"; it is {value}" if abs(value) <= _LARGEST_SHOWN else ""
        raise SetupFault(f"{where} must be {_span(least, most)}{shown}.")
    if isinstance(value, int) and abs(value) > _LARGEST_SHOWN:
        raise SetupFault(f"{where} is beyond every use.")


_LARGEST_SHOWN = 10**15


def _span(least: int | None, most: int | None) -> str:
    return f"between {least} and {most}" if most is not None else f"at least {least}"


def _check(config: Config, source: str, tell: Tell) -> None:
    """What goes together. The order is that of the file, so that an administrator mends it from the top."""
    faults = (
        *_server_faults(config.server),
        *_tls_faults(config),
        *_access_faults(config),
        *_other_faults(config),
        *_events_faults(config.events),
        *_backup_faults(config.backup),
    )
    for fault in faults:
        tell(SetupFault(f"{source}: {fault}"))


_NAME_LENGTH = 100
_SPKI_LENGTH = 64  # hexadecimal of 32 bytes


def _backup_faults(backup: Backup) -> Iterator[str]:
    for key in ("folder", "passphrase_file", "recipient_file"):
        value = getattr(backup, key)
        if value and not Path(value).is_absolute():
            yield f"[backup] {key} must be an absolute path."
    if backup.passphrase_file and backup.recipient_file:
        yield "[backup] passphrase_file and recipient_file exclude each other: a backup is sealed to one of them."


def _server_faults(server: Server) -> Iterator[str]:
    if not server.name.strip() or len(server.name) > _NAME_LENGTH:
        yield f"[server] name must have 1 to {_NAME_LENGTH} characters."
    if not server.listen:
        yield '[server] listen needs at least one address, such as "0.0.0.0:6501".'
    for entry in server.listen:
        try:
            _address(entry)
        except ValueError as fault:
            yield str(fault)
    for key in ("state_dir", "admin_socket"):
        if not Path(getattr(server, key)).is_absolute():
            yield f"[server] {key} must be an absolute path."
    for pin in server.proxy_spki_sha256:
        if len(pin) != _SPKI_LENGTH or not set(pin) <= set("0123456789abcdef"):
            yield "[server] proxy_spki_sha256 holds SHA-256 values of 64 lower-case hexadecimal digits."


def _tls_faults(config: Config) -> Iterator[str]:
    server, tls = config.server, config.tls
    if tls.mode is TlsMode.FILES and not (tls.cert and tls.key):
        yield "[tls] mode files needs both cert and key."
    if tls.mode is not TlsMode.FILES and (tls.cert or tls.key):
        yield '[tls] cert and key are only used with mode = "files"; set it or remove them.'
    reachable = [entry for entry in server.listen if not _is_loopback(entry)]
    if tls.mode is TlsMode.OFF and reachable and not server.plain_http_off_loopback:
        yield (
            f"[tls] mode off would send secrets in clear from {reachable[0]}; listen on 127.0.0.1, "
            "or set plain_http_off_loopback = true in [server] if a TLS proxy is all that can reach it."
        )


def _access_faults(config: Config) -> Iterator[str]:
    access, admin = config.access, config.admin
    lists = (("[access] allow", access.allow), ("[access] trusted_proxies", access.trusted_proxies))
    for place, networks in (*lists, ("[admin] allow", admin.allow)):
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as fault:
                yield f'{place}: "{network[:_SHOWN]}" is no network such as 10.0.0.0/8 ({str(fault)[:_SHOWN]}).'
    if access.client_ca and config.tls.mode is TlsMode.OFF:
        yield "[access] client_ca needs TLS: without it nobody shows a certificate."
    if admin.session_seconds < admin.session_idle_seconds:
        yield "[admin] session_seconds must be at least session_idle_seconds."
    reachable = [entry for entry in config.server.listen if not _is_loopback(entry)]
    if admin.http and config.tls.mode is TlsMode.OFF and reachable and not access.trusted_proxies:
        yield (
            "[admin] http is answered only on ways that nobody can read: set tls.mode to self or files, or name the"
            " TLS proxy in [access] trusted_proxies."
        )


def _other_faults(config: Config) -> Iterator[str]:
    lease = config.lease
    if config.store.url and not config.store.url.startswith(("postgresql://", "postgres://")):
        yield "[store] url must be empty (SQLite in state_dir) or begin with postgresql://."
    if not config.trust.keys:
        yield "[trust] keys must name the vendor's key set file."
    if config.journal.archive_dir and not Path(config.journal.archive_dir).is_absolute():
        yield "[journal] archive_dir must be an absolute path."
    if config.drop.folder and not Path(config.drop.folder).is_absolute():
        yield "[drop] folder must be an absolute path."
    if config.log.file and not Path(config.log.file).is_absolute():
        yield "[log] file must be an absolute path."
    if config.disk.warn_mib < config.disk.stop_mib:
        yield f"[disk] warn_mib must be at least stop_mib ({config.disk.stop_mib}): a warning comes first."
    # Design §2, the one distributed rule: with a shorter grace a taken-over seat could be lent twice.
    if lease.grace_seconds < lease.proof_seconds:
        yield (
            f"[lease] grace_seconds ({lease.grace_seconds}) must be at least proof_seconds "
            f"({lease.proof_seconds}), or a seat could be lent twice."
        )


def _events_faults(events: Events) -> Iterator[str]:
    for number, url in enumerate(events.webhook_urls, 1):
        if not _is_url(url, "http", "https"):  # it is not repeated: it may hold a token, and doctors tell of it
            yield f"[events] webhook_urls: address {number} is not http://host/path or https://host/path."
    if events.webhook_urls and not events.webhook_secret_file:
        yield "[events] webhook_urls need webhook_secret_file, or a receiver cannot tell our events from others."
    if events.smtp_server:
        host, _, port = events.smtp_server.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port[:_PORT_DIGITS]) <= _LAST_PORT):
            yield "[events] smtp_server must be host:port, such as mail.example.org:587."
        if not events.smtp_from or not events.smtp_to:
            yield "[events] smtp_server needs smtp_from and smtp_to."
        if events.smtp_user and events.smtp_security is SmtpSecurity.NONE:
            yield "[events] smtp_user would send its password in clear; set smtp_security to starttls or tls."
    if events.syslog and not _is_url(events.syslog, "udp", "tcp") and not events.syslog.startswith("unix:///"):
        yield "[events] syslog must be udp://host:514, tcp://host:514 or unix:///dev/log."


def _is_url(text: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket that is not closed, a port that is no number
        return False


def _is_loopback(entry: str) -> bool:
    """Also of what is no address: that is told already."""
    try:
        return _address(entry).is_loopback
    except ValueError:
        return True


_LAST_PORT = 65_535
_PORT_DIGITS = 5
_SHOWN = 100


def _address(entry: str) -> Address:
    host, separator, port = entry.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if (
        not separator
        or not (port.isascii() and port.isdigit() and len(port) <= _PORT_DIGITS and int(port) <= _LAST_PORT)
        or not host
        or bracketed != (":" in host)
        or (bracketed and not _is_ip(host))
        or any(letter.isspace() or letter == "/" for letter in host)
        or not host.isascii()
    ):
        raise ValueError(
            f'[server] listen: "{entry[:_SHOWN]}" is not host:port; write 192.0.2.7:6501 or '
            "[::]:6501, and a name with other letters than a-z in its ASCII form (xn--...)."
        )
    return Address(host=host, port=int(port))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _range(metadata: Mapping[str, Any]) -> str:
    return "" if metadata["least"] is None else f" ({_span(metadata['least'], metadata['most'])})"


def _toml(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
