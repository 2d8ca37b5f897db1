"""What completes ``lls le⇥``: Typer's own scripts, which ask the program itself, so that they cannot disagree with it.

A script holds no word of ours. Asked, the program looks at its commands and options only: it reads no settings and
calls no daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from typer._completion_shared import get_completion_script

FILES: Final[Mapping[str, str]] = {
    "bash": "bash-completion/completions/{program}",
    "zsh": "zsh/site-functions/_{program}",
    "fish": "fish/vendor_completions.d/{program}.fish",
}
"""Where each shell looks, below a ``share``."""

# zsh loads the file at the first ⇥ and takes what it does then for the answer; Typer's only makes its function known.
_FIRST: Final = '\n[[ $zsh_eval_context[-1] == loadautofunc ]] && _{function}_completion "$@"'


def completions(program: str) -> dict[str, bytes]:
    """The scripts by their places."""
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    made = {}
    for shell, place in FILES.items():
        script = get_completion_script(prog_name=program, complete_var=variable, shell=shell)
        if shell == "zsh":
            script += _FIRST.format(function=program.replace("-", "_"))
        made[place.format(program=program)] = f"{script}\n".encode("ascii")
    return made
