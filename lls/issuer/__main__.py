"""``python -m lls.issuer`` is ``lls-issuer``."""

from __future__ import annotations

from lls.issuer.cli import main

main()
