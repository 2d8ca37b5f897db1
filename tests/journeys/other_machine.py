"""Runs the daemon's command on a machine that a test has written down: a tree of files in the folder ``machine``.

Nothing else is replaced. The tests' own machine may be a container, which has no parts to be bound to.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from unittest import mock

from lls import cli, daemon
from lls.host import host_components

FOLDER = "machine"

if __name__ == "__main__":
    written = partial(host_components, root=Path(FOLDER).resolve(), environment={})
    with mock.patch.object(daemon, "host_components", written):
        cli.main()
