"""The command ``lls`` of a package: isolated (-I), so that nobody's PYTHONPATH or user site decides what runs."""

import sys

from lls.cli import main

sys.exit(main())
