"""A signing agent behind a UNIX socket that takes its time: what happens meanwhile is the test's to say.

    with SlowAgent(tmp_path) as agent:
        agent.meanwhile(lambda: …)          # runs while the next one waits for its signature
        agent.holds = True                  # or: each one waits until it is let go
        asked = agent.asked.get(timeout=30)
        asked.answer()

Each caller has a thread of its own, so that a second one is answered while the first one waits.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from lls.issuer import Issuer
from lls.issuer.keyring import Change
from lls.issuer.signers import PublicPart, make_public_part
from lls.signed.jose import SigningKey
from lls.signed.keys import ROLES
from tests.issuer.appliance import NOW, Chance

PATIENCE = 60


class Asked:
    """Somebody who waits for a signature."""

    def __init__(self) -> None:
        self._let_go = threading.Event()

    def answer(self) -> None:
        self._let_go.set()

    def wait(self) -> None:
        assert self._let_go.wait(PATIENCE), "nobody let it go"


class SlowAgent:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        self.key = SigningKey.generate()
        self.door = folder / "agent.sock"
        self.times = 0
        self.mute = False
        self.holds = False
        self.asked: queue.Queue[Asked] = queue.Queue()
        self.failures: list[BaseException] = []
        self._acts: deque[Callable[[], object]] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self.door))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(PATIENCE)
        if value is None and self.failures:
            raise self.failures[0]

    @property
    def part(self) -> PublicPart:
        """The public part of its key."""
        return make_public_part(self.key, public=self.key.public, name="agent", now=NOW)

    def meanwhile(self, act: Callable[[], object]) -> None:
        """That happens while the next one waits."""
        self._acts.append(act)

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return  # the test is over
            self.times += 1
            threading.Thread(target=self._sign, args=(caller,), daemon=True).start()

    def _sign(self, caller: socket.socket) -> None:
        with caller:
            message = b"".join(iter(lambda: caller.recv(65_536), b""))
            try:
                if self._acts:
                    self._acts.popleft()()
                if self.holds:
                    asked = Asked()
                    self.asked.put(asked)
                    asked.wait()
                if not self.mute:
                    caller.sendall(self.key.sign(message))
            except BrokenPipeError:
                pass  # whoever asked was killed
            except BaseException as failure:  # noqa: BLE001 - told to the test where it ends
                self.failures.append(failure)


def home_with(agent: SlowAgent, home: Path, *, roles: Sequence[str] = ("bundle",), now: datetime = NOW) -> Issuer:
    """A home whose keys of these roles the agent alone has; the others are files."""
    change = Change(adding={role: [agent.part] for role in roles}, making=[role for role in ROLES if role not in roles])
    issuer = Issuer.create(home, now=now, passphrase=None, random=Chance(), keys=change)
    if issuer.first_keys is not None:  # the root is the agent's, so it signs the first version itself
        signed, _ = issuer.first_keys.signed_by(agent.key, now=now)
        issuer.rotating.seal(signed, now=now)
    issuer.rotating.hold(agent.part, f"unix:{agent.door}")
    agent.times = 0
    return issuer
