"""The settings: one frozen dataclass per TOML table; each field has a default, a range and a line of explanation.

This room owns the names of contract §1, what may stand behind each, and which go together. ``config/lls.toml`` is
written by :func:`rendered` and a test keeps the two equal, so a setting cannot be added without saying what it does.

Rules, in order
1. Which file: the one that is named, else ``$LLS_CONFIG``, else ``/etc/lls/lls.toml``. A named file must exist; without
   the last one the defaults hold.
2. The environment wins over the file: ``LLS__SERVER__NAME=x`` is ``[server] name = "x"``. Lists are JSON or
   comma-separated.
3. An unknown table or name is an error, with the nearest known one: a setting that is silently ignored is a trap.
4. Each value has its type and range; then the cross-checks of :func:`_check` hold for the whole.

Every refusal is one :class:`~lls.faults.SetupFault` that names file, table and key. No secret is a setting: keys live
in ``state_dir`` or come from systemd. Whether the files that are named here exist is asked by who opens them.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from lls.faults import SetupFault

DEFAULT_PATH = Path("/etc/lls/lls.toml")
PATH_VARIABLE = "LLS_CONFIG"
PREFIX = "LLS__"


class TlsMode(StrEnum):
    """Where the server's TLS certificate comes from."""

    SELF = "self"
    FILES = "files"
    OFF = "off"


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
class Config:
    """All settings; ``Config()`` is the default."""

    server: Server = Server()
    store: Store = Store()
    tls: Tls = Tls()
    trust: Trust = Trust()
    policy: Policy = Policy()
    clock: ClockTable = ClockTable()
    lease: Lease = Lease()


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
    config = _built(tables, _overrides(environ), source)
    _check(config, source)
    return config


def addresses(server: Server, source: str = "settings") -> tuple[Address, ...]:
    """``server.listen``, taken apart: ``host:port`` or ``[IPv6]:port``; port 0 lets the system choose."""
    return tuple(_address(entry, source) for entry in server.listen)


def rendered() -> str:
    """``config/lls.toml``: every setting commented out at its default under its line of explanation."""
    lines = [
        "# Settings of the Local License Server. Each stands here at its default; remove the # to change one.",
        "# The environment wins over this file: LLS__SERVER__NAME sets name in [server]. See also: lls config check",
    ]
    for name, kind in _tables().items():
        lines += ["", f"[{name}]"]
        for one in fields(kind):
            lines += [f"# {one.metadata['explanation']}{_range(one.metadata)}", f"#{one.name} = {_toml(one.default)}"]
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise SetupFault(f"{file}: this is not TOML: {fault}.") from None
    except OSError as fault:
        raise SetupFault(f"{file}: cannot be read: {fault.strerror}.") from None


def _overrides(environ: Mapping[str, str]) -> dict[tuple[str, str], tuple[str, str]]:
    """``(table, key)`` of each ``LLS__TABLE__NAME``, with the variable and its text."""
    found = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX):
            continue
        table, separator, key = variable.removeprefix(PREFIX).lower().partition("__")
        if not separator:
            raise SetupFault(f"{variable}: a setting in the environment is written {PREFIX}TABLE__NAME.")
        found[table, key] = (variable, text)
    return found


def _built(tables: dict[str, Any], overrides: dict[tuple[str, str], tuple[str, str]], source: str) -> Config:
    known = _tables()
    for name, table in tables.items():
        _known(name, known, f"{source}: [{name}]", "table")
        if not isinstance(table, dict):
            raise SetupFault(f"{source}: [{name}] must be a table.")
    for (name, _), (variable, _) in overrides.items():
        _known(name, known, variable, "table")
    built: dict[str, Any] = {
        name: _table(
            kind,
            {key: (f"{source}: [{name}] {key}", value) for key, value in tables.get(name, {}).items()}
            | {key: (where, _Text(text)) for (table, key), (where, text) in overrides.items() if table == name},
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


def _table(kind: type[Any], given: dict[str, tuple[str, object]]) -> object:
    known = {one.name: one for one in fields(kind)}
    values = {}
    for key, (where, value) in given.items():
        _known(key, known, where, "setting")
        values[key] = _value(value, known[key].default, where)
        _in_range(values[key], known[key].metadata, where)
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
        except ValueError:  # not JSON, so words; an IPv6 address begins with a bracket, too
            value = [word.strip() for word in str(value).split(",") if word.strip()]
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise SetupFault(f"{where} must be a list of texts.")
    return tuple(value)


def _in_range(value: object, metadata: Mapping[str, Any], where: str) -> None:
    least, most = metadata["least"], metadata["most"]
    if isinstance(value, int) and ((least is not None and value < least) or (most is not None and value > most)):
        raise SetupFault(f"{where} must be {_span(least, most)}; it is {value}.")


def _span(least: int | None, most: int | None) -> str:
    return f"between {least} and {most}" if most is not None else f"at least {least}"


def _check(config: Config, source: str) -> None:
    """What goes together. The order is that of the file, so that an administrator mends it from the top."""
    server, tls, lease = config.server, config.tls, config.lease
    _check_server(server, source)
    if tls.mode is TlsMode.FILES and not (tls.cert and tls.key):
        raise SetupFault(f"{source}: [tls] mode files needs both cert and key.")
    if tls.mode is not TlsMode.FILES and (tls.cert or tls.key):
        raise SetupFault(f'{source}: [tls] cert and key are only used with mode = "files"; set it or remove them.')
    reachable = [
        entry for entry, at in zip(server.listen, addresses(server, source), strict=True) if not at.is_loopback
    ]
    if tls.mode is TlsMode.OFF and reachable and not server.plain_http_off_loopback:
        raise SetupFault(
            f"{source}: [tls] mode off would send secrets in clear from {reachable[0]}; listen on 127.0.0.1, "
            "or set plain_http_off_loopback = true in [server] if a TLS proxy is all that can reach it."
        )
    if config.store.url and not config.store.url.startswith(("postgresql://", "postgres://")):
        raise SetupFault(f"{source}: [store] url must be empty (SQLite in state_dir) or begin with postgresql://.")
    if not config.trust.keys:
        raise SetupFault(f"{source}: [trust] keys must name the vendor's key set file.")
    # Design §2, the one distributed rule: with a shorter grace a taken-over seat could be lent twice.
    if lease.grace_seconds < lease.proof_seconds:
        raise SetupFault(
            f"{source}: [lease] grace_seconds ({lease.grace_seconds}) must be at least proof_seconds "
            f"({lease.proof_seconds}), or a seat could be lent twice."
        )


_NAME_LENGTH = 100
_SPKI_LENGTH = 64  # hexadecimal of 32 bytes


def _check_server(server: Server, source: str) -> None:
    if not server.name.strip() or len(server.name) > _NAME_LENGTH:
        raise SetupFault(f"{source}: [server] name must have 1 to {_NAME_LENGTH} characters.")
    if not server.listen:
        raise SetupFault(f'{source}: [server] listen needs at least one address, such as "0.0.0.0:6501".')
    for key in ("state_dir", "admin_socket"):
        if not Path(getattr(server, key)).is_absolute():
            raise SetupFault(f"{source}: [server] {key} must be an absolute path.")
    for pin in server.proxy_spki_sha256:
        if len(pin) != _SPKI_LENGTH or not set(pin) <= set("0123456789abcdef"):
            raise SetupFault(
                f"{source}: [server] proxy_spki_sha256 holds SHA-256 values of 64 lower-case hexadecimal digits."
            )


_LAST_PORT = 65_535


def _address(entry: str, source: str) -> Address:
    host, separator, port = entry.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if (
        not separator
        or not (port.isascii() and port.isdigit() and int(port) <= _LAST_PORT)
        or not host
        or bracketed != (":" in host)
        or (bracketed and not _is_ip(host))
        or any(letter.isspace() or letter == "/" for letter in host)
    ):
        raise SetupFault(f'{source}: [server] listen: "{entry}" is not host:port; write 192.0.2.7:6501 or [::]:6501.')
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
