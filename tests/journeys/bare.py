"""A bare system of the machine's own distribution, without any network, for packages to be installed into.

Two kinds of guest on one root file system
- ``Booted``: systemd as its first process, in a container (systemd-nspawn). The unit is in force as it is written.
- ``Plain``: no systemd; a daemon is started with exactly the unit's user, groups, umask, limit and environment. What
  the kernel would enforce beyond that (the sandbox) is not there.

Where packages of the distribution come from is read from this machine's own settings when the test runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.journeys.world import until

CARRIED: Final = "python3,systemd,systemd-sysv,openssl"
TOOLS: Final = ("debootstrap", "dpkg-deb", "unshare", "nsenter", "setpriv")
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
RUN_SECONDS: Final = 120.0
LOOPBACK_UP: Final = (
    "import fcntl, socket, struct; s = socket.socket(); "
    "fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'lo', 1))"  # SIOCSIFFLAGS, IFF_UP
)


def why_not() -> str:
    """Why no bare system can be made here; empty when it can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a bare system is made by root on Linux"
    if missing:
        return f"a bare system needs {', '.join(missing)}"
    alone = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    if alone.returncode:
        return "a bare system needs name spaces of its own, and this machine (a container?) gives none"
    asked = "import sys; sys.exit(sys.version_info < (3, 11))"
    own = Path("/usr/bin/python3")
    if not own.exists() or subprocess.run([own, "-I", "-c", asked], capture_output=True, check=False).returncode:
        return "a package is made for the distribution's own Python, and here it is missing or older than 3.11"
    if not _mirror()[1]:
        return "apt names no mirror of this release that a bare system could come from"
    return ""


def bootstrap(root: Path) -> None:
    """The smallest system of this machine's release, with Python, systemd and openssl."""
    release, mirror = _mirror()
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={CARRIED}", release, root, mirror],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def _mirror() -> tuple[str, str]:
    """This machine's release, and where its packages come from; empty when one of them is not named."""
    told = Path("/etc/os-release").read_text("utf-8")
    found = re.search(r"^VERSION_CODENAME=(\w+)$", told, re.MULTILINE)
    if found is None or shutil.which("apt-get") is None:
        return "", ""
    shown = subprocess.run(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    mirrors = [line.split()[1] for line in shown.stdout.splitlines() if line.split()[0] == found[1]]
    return found[1], mirrors[0] if mirrors else ""


class Guest:
    """Somebody at the console of that system. ``leader`` is a process inside, by its number outside."""

    leader: int
    entering: tuple[str, ...]

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(
        self, *words: str | Path, status: int | None = 0, user: str = "root", environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command inside, checked for its exit status unless that is None."""
        who = [] if user == "root" else ["runuser", "-u", user, "--"]
        told = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"} | dict(environ or {})
        done = subprocess.run(
            ["nsenter", "--target", str(self.leader), *self.entering, "--", *who, *map(str, words)],
            env=told,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert status in (None, done.returncode), f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def said(self, *words: str | Path) -> str:
        """What a command writes to standard output."""
        return self.run(*words).stdout.strip()

    def path(self, inside: str) -> Path:
        """A file of the guest's, from outside."""
        return self.root / inside.lstrip("/")


class Booted(Guest):
    """The system with systemd running."""

    entering = ("--all",)

    def __init__(self, root: Path, log: Path) -> None:
        super().__init__(root)
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network"),
                    *("--directory", root, "--boot", "systemd.unit=multi-user.target"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            until(self._is_up, seconds=BOOT_SECONDS, what="a booted system")
        except BaseException:
            self.close()
            raise

    @classmethod
    def boots(cls, root: Path, log: Path) -> Booted | None:
        """None where that is not possible: without systemd-nspawn, or in a container that forbids it."""
        if shutil.which("systemd-nspawn") is None:
            return None
        try:
            return cls(root, log)
        except AssertionError:
            return None

    def _is_up(self) -> bool:
        assert self.process.poll() is None, "systemd-nspawn has ended"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text("ascii").split()
        if not children:
            return False
        self.leader = int(children[0])
        return self.run("systemctl", "is-system-running", status=None).stdout.strip() in ("running", "degraded")

    def property(self, name: str) -> str:
        """What systemd knows of the service."""
        return self.said("systemctl", "show", "--property", name, "--value", "lls.service")

    def close(self) -> None:
        """Shut it down, at the latest by force."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Plain(Guest):
    """The system without systemd: processes in name spaces of their own, and no network."""

    entering = ("--net", "--mount", "--pid", "--root", "--wd")

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.process = subprocess.Popen(
            [
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={root / 'proc'}"),
                *("chroot", root, "sleep", "infinity"),
            ],
            stdin=subprocess.DEVNULL,
        )
        self.service: subprocess.Popen[bytes] | None = None
        until(self._is_up, seconds=BOOT_SECONDS, what="a process in the bare system")
        self.run("python3", "-c", LOOPBACK_UP)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, "unshare has ended"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text("ascii").split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text("ascii").strip() != "sleep":
            return False
        self.leader = int(children[0])
        return True

    def start(self, unit: Path, log: Path) -> None:
        """The unit's command as systemd would start it; returns when it has said that it is ready."""
        said = settings(unit)
        user, group = said["User"], said["Group"]
        for folder, mode in (("StateDirectory", "/var/lib/"), ("RuntimeDirectory", "/run/")):
            self.run("install", "-d", "-m", said[f"{folder}Mode"], "-o", user, "-g", group, mode + said[folder])
        environ = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "HOME": "/var/lib/lls",
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/usr/sbin/nologin",
            "STATE_DIRECTORY": f"/var/lib/{said['StateDirectory']}",
            "RUNTIME_DIRECTORY": f"/run/{said['RuntimeDirectory']}",
            "NOTIFY_SOCKET": "/run/notify",
            "WATCHDOG_USEC": f"{int(said['WatchdogSec']) * 1_000_000}",
        }
        rights = ("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")
        ids = (f"--reuid={user}", f"--regid={group}", f"--groups={group},{said['SupplementaryGroups']}")
        command = f"umask {said['UMask']}; ulimit -n {said['LimitNOFILE']}; ulimit -c 0; exec {said['ExecStart']}"
        where = self.path("/run/notify")
        where.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, log.open("ab") as out:
            systemd.bind(str(where))
            where.chmod(0o666)
            systemd.settimeout(BOOT_SECONDS)
            self.service = subprocess.Popen(
                [
                    *("nsenter", "--target", str(self.leader), *self.entering, "--", "setpriv", *ids, *rights),
                    *("sh", "-c", command),
                ],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            try:
                assert systemd.recv(100) == b"READY=1", log.read_text("utf-8")
            except TimeoutError:
                raise AssertionError(log.read_text("utf-8")) from None

    def stop(self) -> None:
        """End the service as systemd would."""
        if self.service is not None:
            self.run("sh", "-c", "for p in /proc/[0-9]*; do grep -qs '^lls' $p/comm && kill ${p#/proc/}; done; true")
            status = self.service.wait(STOP_SECONDS)
            self.service = None
            assert status == 0, status

    def close(self) -> None:
        """End everything inside."""
        self.process.kill()
        self.process.wait()
        if self.service is not None:
            self.service.wait(STOP_SECONDS)


def settings(unit: Path) -> dict[str, str]:
    """The last word on each setting of a unit."""
    lines = unit.read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Za-z]+=", line))
