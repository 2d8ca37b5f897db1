"""Issues a bundle again and again, each time to another server, killed each time at its next step.

Run as a program: ``python killed_issue.py FOLDER``. Prints how many were found in which state. A step is a statement
that SQLite is given, and an audit event of the interpreter that names a file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from lls.issuer import Issuer, sample_catalog
from lls.issuer.files import write_whole
from tests.issuer.appliance import NOW, Appliance, order

FILES = frozenset({"open", "os.rename", "os.remove", "tempfile.mkstemp"})
MOST = 500


class Killer:
    """Kills its own process at the nth step."""

    def __init__(self, step: int) -> None:
        self._left = step

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, _told: tuple[object, ...]) -> None:
        if event in FILES:
            self.step()


def killed(home: Path, appliance: Appliance, output: Path, step: int) -> bool:
    """Whether there was such a step."""
    child = os.fork()
    if child == 0:
        killer = Killer(step)
        with Issuer(home, now=NOW) as issuer:
            issuer.register._sql.set_trace_callback(lambda _statement: killer.step())  # noqa: SLF001 - nothing else tells
            sys.addaudithook(killer.audit)
            write_whole(output, issuer.issue_bundle(appliance.server_id, now=NOW).data)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def check(issuer: Issuer, appliance: Appliance, output: Path) -> str:
    """What is there: nothing, or a whole bundle; and the next one is taken. Raises where it is neither."""
    issuer.audit.verify()
    issued = issuer.register.bundles(appliance.server_id)
    keys = issuer.keyring.newest
    if output.exists():
        carried, _ = appliance.open(output.read_bytes(), keys)
        assert [carried.bundle_id] == [one.bundle_id for one in issued]
    assert len(issued) <= 1
    assert [] == list(issuer.serving.show(appliance.server_id, keys=keys).waiting)
    taken = max((one.sequence for one in issued), default=0)
    following, _ = appliance.open(issuer.issue_bundle(appliance.server_id, now=NOW).data, keys)
    assert following.sequence > taken
    assert 50 == following.entitlements[0].seats
    return "carried" if output.exists() else "recorded" if issued else "nothing"


def main() -> None:
    folder = Path(sys.argv[1])
    home, found = folder / "home", dict[str, int]()
    Issuer.create(home, now=NOW, passphrase=None).close()
    for step in range(1, MOST):
        appliance, output = Appliance.new(seed=step * 1000), folder / f"{step}.llsbundle"
        with Issuer(home, now=NOW) as issuer:
            issuer.load_catalog(sample_catalog(), now=NOW)
            issuer.register_server(appliance.request(), now=NOW)
            issuer.fulfil(order(appliance, order_ref=f"SO-{step}"), now=NOW)
        if not killed(home, appliance, output, step):
            break
        with Issuer(home, now=NOW) as issuer:
            state = check(issuer, appliance, output)
        found[state] = found.get(state, 0) + 1
    print(json.dumps(found))


if __name__ == "__main__":
    main()
