"""What the machine under the server is like: disk, honesty of fsync, permissions, TLS files, chance, descriptors.

Rules
1. Everything here is asked of the machine and of files; nothing of the ledger. So it can be asked without a daemon.
2. What this user may not look at is said, never guessed.
3. A measurement leaves nothing behind: the test file of the fsync check has no name where the system can do that.

Thresholds. A fsync that takes less than 20 µs has not reached a medium that survives the power (an NVMe drive with
power-loss protection needs 20 to 50, others milliseconds): the file system is in memory, or a cache lies. One that
takes more than 100 ms makes every group of checkouts wait as long.
"""

from __future__ import annotations

import os
import ssl
import stat
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from lls.care.findings import Finding, days_until, doubtful, good, wrong
from lls.config import Config, TlsMode, addresses
from lls.faults import SetupFault
from lls.identity import KEY_FILES, key_files
from lls.tls import look_at, server_context

SUSPICIOUS_SECONDS: Final = 0.000_02
SLOW_SECONDS: Final = 0.1
SYNCS: Final = 16
WARN_BEFORE_DAYS: Final = 30
FEWEST_CONNECTIONS: Final = 1_000
TIME_SERVICE: Final = Path("/run/systemd/timesync")

IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
OVER_THE_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "ncpfs"})
_MIB: Final = 1024 * 1024
_OPEN_TO_OTHERS: Final = 0o077
_WRITABLE_BY_OTHERS: Final = 0o022


def examine_machine(config: Config, *, now: datetime) -> Iterator[Finding]:
    """Every check of the machine that needs no daemon. ``now`` is what the machine says."""
    state_dir = Path(config.server.state_dir)
    yield from _folder(state_dir)
    yield from _keys(state_dir / "keys")
    yield from _socket(Path(config.server.admin_socket))
    yield from _disks(config)
    yield from _file_system(state_dir)
    yield from _fsync(state_dir)
    yield from _tls(config, now=now)
    yield _entropy()
    yield from _time_service()


def examine_process(*, most_connections: int, leases: int, environ: dict[str, str]) -> Iterator[Finding]:
    """What only the daemon can say of itself: its descriptors, and who restarts it."""
    if most_connections < max(FEWEST_CONNECTIONS, 2 * leases):
        yield doubtful(
            "files",
            f"The limit on open files leaves {most_connections} connections, and {leases} leases are held.",
            "Raise it: LimitNOFILE=65536 in the service, then restart the server.",
        )
    else:
        yield good("files", f"The limit on open files leaves {most_connections} connections.")
    if "INVOCATION_ID" not in environ:
        yield good("watchdog", "Not started by systemd: whoever started the server watches it.")
    elif "WATCHDOG_USEC" in environ:
        yield good("watchdog", "systemd restarts the server when its store does not answer.")
    else:
        yield doubtful(
            "watchdog",
            "systemd started the server without a watchdog: one that hangs is not restarted.",
            "Put WatchdogSec=30 into the service, then systemctl daemon-reload and restart the server.",
        )


def examine_paths(config: Config) -> Iterator[Finding]:
    """Whether the server itself, in its sandbox, can use what the settings name outside of its own folders."""
    folders = {
        "drop.folder": config.drop.folder,
        "backup.folder": config.backup.folder,
        "journal.archive_dir": config.journal.archive_dir,
        "log.file": str(Path(config.log.file).parent) if config.log.file else "",
    }
    files = {
        "backup.passphrase_file": config.backup.passphrase_file,
        "backup.recipient_file": config.backup.recipient_file,
    }
    shut = [one for name, place in folders.items() if place and (one := _not_writable(name, Path(place)))]
    for name, place in files.items():
        if place and not os.access(place, os.R_OK):
            said = f"{place} ({name}) is not there, or not for the server's user to read."
            shut.append(doubtful("paths", said, f"chgrp lls {place} && chmod 640 {place}"))
    yield from shut or [good("paths", "The server can use what the settings name.")]


def _not_writable(name: str, place: Path) -> Finding | None:
    there = next(one for one in (place, *place.parents) if one.exists())  # what is missing the server makes itself
    if os.access(there, os.W_OK | os.X_OK):
        return None
    said = f"The server cannot write to {place} ({name})."
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        advice = f"The service may write in /srv/lls only. sudo systemctl edit lls: [Service] ReadWritePaths={place}"
        return doubtful("paths", said, f"{advice} - then restart it. The folder must be there before.")
    return doubtful("paths", said, f"Make it, and give it to the server's user: chown lls {place}")


# ---------------------------------------------------------------- files


def _folder(state_dir: Path) -> Iterator[Finding]:
    try:
        found = state_dir.stat()
    except FileNotFoundError:
        yield doubtful(
            "state folder", f"{state_dir} is not there.", "The first start makes it: `lls serve`, or the service."
        )
        return
    except OSError as error:
        yield _not_for_us("state folder", state_dir, error)
        return
    if not stat.S_ISDIR(found.st_mode):
        yield wrong("state folder", f"{state_dir} is not a folder.", "Name another state_dir in [server].")
        return
    if found.st_mode & _WRITABLE_BY_OTHERS or found.st_mode & stat.S_IROTH:
        yield wrong("state folder", f"{state_dir} is open to other users.", f"chmod 700 {state_dir}")
    else:
        yield good("state folder", f"{state_dir} is closed to other users.")
    yield from _owners(state_dir, owner=found.st_uid)


def _owners(state_dir: Path, *, owner: int) -> Iterator[Finding]:
    """Somebody ran the server as root once: its files belong to root then, and the service cannot open them."""
    try:
        files = [path for path in (*state_dir.iterdir(), *(state_dir / "keys").glob("*")) if not path.is_symlink()]
        strangers = sorted(path.name for path in files if path.stat().st_uid != owner)
        open_files = sorted(
            path.name
            for path in files
            if path.is_file() and path.name != "tls.crt" and path.stat().st_mode & _OPEN_TO_OTHERS
        )
    except OSError as error:
        yield _not_for_us("owners", state_dir, error)
        return
    if strangers:
        yield wrong(
            "owners",
            f"In {state_dir}, {_some(strangers)} belongs to another user than the folder.",
            f"Stop the server; chown -R --reference={state_dir} {state_dir}/*; and do not run `lls serve` as root.",
        )
    else:
        yield good("owners", f"Everything in {state_dir} belongs to the folder's owner.")
    if open_files:
        yield wrong(
            "permissions",
            f"In {state_dir}, {_some(open_files)} is open to other users.",
            f"chmod -R go= {state_dir}",
        )
    else:
        yield good("permissions", "No file of the server is open to other users.")


def _keys(folder: Path) -> Iterator[Finding]:
    try:
        missing = [name for name in KEY_FILES if not (folder / name).exists()]
        if any(path.parent != folder for path in key_files(folder).values()):
            yield good("keys", "systemd hands the server's keys over.")
            return
        if len(missing) == len(KEY_FILES) and (folder.parent / "lls.sqlite3").exists():
            # Sealed to the machine, which only the service can open; or lost, and a start refuses to make others.
            yield doubtful(
                "keys",
                f"No keys are in {folder}, and the server has a past.",
                "Fine where systemd hands them over (credentials of lls.service); else put them back from your backup.",
            )
            return
        if len(missing) == len(KEY_FILES):
            yield doubtful("keys", "The server has no keys yet.", "The first start makes them: `lls serve`.")
            return
        if missing:
            yield wrong(
                "keys", f"Of the server's keys, {_some(missing)} is missing.", "Put the folder back from your backup."
            )
            return
        loose = [name for name in KEY_FILES if (folder / name).stat().st_mode & _OPEN_TO_OTHERS]
    except OSError as error:
        yield _not_for_us("keys", folder, error)
        return
    if loose:
        yield wrong(
            "keys", f"In {folder}, {_some(loose)} is open to other users.", f"chmod 600 {folder}/*; tell your vendor."
        )
    else:
        yield good("keys", "The server's keys are there, and for the server alone.")


def _socket(path: Path) -> Iterator[Finding]:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return  # no daemon: said elsewhere
    except OSError as error:
        yield _not_for_us("admin socket", path, error)
        return
    if not stat.S_ISSOCK(found.st_mode):
        yield wrong("admin socket", f"At {path} stands something that is no socket.", "Name another admin_socket.")
    elif found.st_mode & stat.S_IRWXO:
        yield wrong("admin socket", f"{path} is open to all users.", "Restart the server: it makes it with mode 0660.")
    else:
        yield good("admin socket", f"{path} is for its owner and its group.")


def _not_for_us(check: str, path: Path, error: OSError) -> Finding:
    return doubtful(check, f"{path} cannot be looked at: {error.strerror}.", "Run `lls doctor` as root.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")  # noqa: PLR2004


# ---------------------------------------------------------------- disk


def _disks(config: Config) -> Iterator[Finding]:
    for name, folder in watched_folders(config).items():
        check = "disk" if name == "state" else f"disk of the {name}"
        try:
            free = free_bytes(folder)
        except OSError as error:
            if name != "state":
                yield doubtful(check, f"{folder} cannot be looked at: {error.strerror}.", f"mkdir -p {folder}")
            continue
        said = f"{free // _MIB} MiB are free at {folder}."
        if free < config.disk.stop_mib * _MIB:
            yield wrong(check, said, f"Make room: below {config.disk.stop_mib} MiB nothing new is granted.")
        elif free < config.disk.warn_mib * _MIB:
            yield doubtful(check, said, f"Make room before it falls below {config.disk.stop_mib} MiB.")
        else:
            yield good(check, said)


def watched_folders(config: Config) -> dict[str, Path]:
    """The places whose disks are watched, by a word of ours."""
    state_dir = Path(config.server.state_dir)
    found = {"state": state_dir}
    if config.journal.keep_days:
        found["archive"] = Path(config.journal.archive_dir) if config.journal.archive_dir else state_dir / "archive"
    if config.drop.folder:
        found["drop"] = Path(config.drop.folder)
    if config.log.file:
        found["log"] = Path(config.log.file).parent
    return found


def free_bytes(folder: Path) -> int:
    """What is left for who is not root. Raises OSError."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _file_system(state_dir: Path) -> Iterator[Finding]:
    try:
        kind = file_system_of(state_dir.resolve(), Path("/proc/self/mountinfo").read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return  # no Linux
    if kind in IN_MEMORY:
        yield wrong(
            "file system",
            f"{state_dir} is kept in memory ({kind}) and is lost with the power.",
            "Move state_dir to a disk; see [server] in the settings.",
        )
    elif kind in OVER_THE_NETWORK:
        yield wrong(
            "file system",
            f"{state_dir} is on a network file system ({kind}): its locks and syncs cannot be relied on.",
            "Move state_dir to a local disk.",
        )
    elif kind:
        yield good("file system", f"{state_dir} is on {kind}.")


def file_system_of(path: Path, mountinfo: Iterable[str]) -> str:
    """The kind of file system that holds a path, by the lines of ``/proc/self/mountinfo``; the last one wins."""
    best, kind = "", ""
    for line in mountinfo:
        front, _, back = line.partition(" - ")
        fields, after = front.split(), back.split()
        if len(fields) < 5 or not after:  # noqa: PLR2004 - the mount point is the fifth
            continue
        point = fields[4].encode().decode("unicode_escape")
        inside = point == "/" or str(path) == point or str(path).startswith(f"{point}/")
        if inside and len(point) >= len(best):
            best, kind = point, after[0]
    return kind


def _fsync(state_dir: Path) -> Iterator[Finding]:
    try:
        seconds = measured_sync(state_dir)
    except OSError as error:
        if state_dir.is_dir():
            yield wrong("fsync", f"{state_dir} takes no file: {error.strerror}.", "Make room, or mend the permissions.")
        return
    yield judged_sync(seconds)


def measured_sync(folder: Path) -> float:
    """The median time of writing 4 KiB and forcing it to the disk. Raises OSError."""
    times = []
    block = os.urandom(4096)
    with tempfile.TemporaryFile(dir=folder, prefix=".doctor-") as file:
        for _ in range(SYNCS):
            file.seek(0)
            file.write(block)
            file.flush()
            begun = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def judged_sync(seconds: float) -> Finding:
    """What a measured time says of the disk."""
    said = f"A write reaches the disk in {seconds * 1000:.3g} ms."
    if seconds < SUSPICIOUS_SECONDS:
        return doubtful(
            "fsync",
            f"{said} No disk is so fast: a cache says that it has written and has not.",
            "Switch the write cache off, or give the virtual machine a disk that honours flushes.",
        )
    if seconds > SLOW_SECONDS:
        return doubtful("fsync", f"{said} Every checkout waits for it.", "Use a local SSD; see lls_commit_seconds.")
    return good("fsync", said)


# ---------------------------------------------------------------- TLS, chance


def _tls(config: Config, *, now: datetime) -> Iterator[Finding]:
    if config.tls.mode is TlsMode.OFF:
        if all(address.is_loopback for address in addresses(config.server)):
            yield good("tls", "Off, and only this machine can reach the server.")
        else:
            yield doubtful(
                "tls",
                "Off, on addresses that others can reach.",
                "Let nothing but a TLS proxy reach them, or use tls.mode.",
            )
        return
    state_dir = Path(config.server.state_dir)
    certificate, key = Path(config.tls.cert), Path(config.tls.key)
    if config.tls.mode is TlsMode.SELF:
        certificate, key = state_dir / "tls.crt", state_dir / "tls.key"
        if _is_missing(certificate) and _is_missing(key):
            yield good("tls", "The first start makes a certificate.")
            return
    try:
        server_context(certificate, key)
        seen = look_at(certificate)
    except (SetupFault, ssl.SSLError) as fault:
        if not os.access(key, os.R_OK):
            yield doubtful("tls", f"{key} cannot be read by this user.", "Run `lls doctor` as root.")
        else:
            yield wrong("tls", str(fault), "Put the certificate's chain and its key there, PEM both.")
        return
    left = days_until(seen.not_after, now)
    until = f"{seen.not_after:%Y-%m-%d}"
    told = f"The certificate is for {', '.join(seen.names) or 'nobody'}, until {until}."
    if now >= seen.not_after or now < seen.not_before:
        yield wrong("tls", f"{told} It is not valid now.", "Renew it (or set the clock right) and restart the server.")
    elif left < WARN_BEFORE_DAYS:
        yield doubtful("tls", f"{told} {left} days are left.", "Renew it and restart the server.")
    elif not seen.names:
        yield doubtful("tls", told, "Ask for a certificate that names this machine (subjectAltName).")
    else:
        yield good("tls", told)


def _is_missing(path: Path) -> bool:
    try:
        return not path.exists()
    except OSError:
        return False


def _entropy() -> Finding:
    getrandom = getattr(os, "getrandom", None)
    if getrandom is None:
        return good("entropy", "The system's source of chance is asked as it comes.")
    try:
        getrandom(1, os.GRND_NONBLOCK)
    except BlockingIOError:
        return wrong(
            "entropy",
            "The system has not gathered enough chance since its start, so keys and nonces have to wait.",
            "Give the virtual machine a virtio-rng device, or run rngd.",
        )
    return good("entropy", "The system has chance enough.")


def _time_service() -> Iterator[Finding]:
    """Whether the system's own service keeps the clock. Of others nothing is known, so nothing is said."""
    if not TIME_SERVICE.is_dir():
        return
    if (TIME_SERVICE / "synchronized").exists():
        yield good("time service", "systemd-timesyncd keeps this machine's clock.")
    else:
        yield doubtful(
            "time service",
            "systemd-timesyncd runs and has reached no time server since the start.",
            "`timedatectl timesync-status`; name a time server of your network in /etc/systemd/timesyncd.conf.",
        )
