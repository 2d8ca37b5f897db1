"""``python -m lls`` is the program ``lls``."""

from __future__ import annotations

from lls.cli import main

main()
