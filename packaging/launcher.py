"""The command ``lls`` of a package: isolated (-I), so that nobody's PYTHONPATH or user site decides what runs."""

from lls.cli import main

main()
