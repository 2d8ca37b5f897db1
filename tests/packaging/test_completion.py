"""Shells complete ``lls`` and ``lls-issuer``: asked of the shells themselves where they are, without any server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from parcel.completion import FILES, completions

BIN = Path(sys.executable).parent
PROGRAMS = ("lls", "lls-issuer")


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``share`` with the files of both programs."""
    folder = tmp_path_factory.mktemp("share")
    for program in PROGRAMS:
        for place, content in completions(program).items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)
    return folder


def shell(*words: str, share: Path, columns: str = "80") -> str:
    """What a shell of the user's says, in a world without settings and server; nothing may stand on standard error."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    home = share / "home"
    home.mkdir(exist_ok=True)
    environ = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(home),
        "XDG_DATA_DIRS": f"{share}:/usr/local/share:/usr/share",
        "LLS_CONFIG": "/nowhere/lls.toml",
        "TERM": "dumb",
        "COLUMNS": columns,
    }
    done = subprocess.run(
        words, env=environ, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert "" == done.stderr
    return done.stdout


def typed_in_bash(line: str, share: Path) -> list[str]:
    program = line.split(maxsplit=1)[0]
    words = line.split(" ")
    script = f"""
        source {share}/{FILES["bash"].format(program=program)}
        read -r _ _ _ _ asked _ <<<"$(complete -p {program})"
        COMP_WORDS=({" ".join(words[:-1])} '{words[-1]}') COMP_CWORD={len(words) - 1}
        "$asked" {program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return shell("bash", "--norc", "-c", script, share=share).split()


def typed_in_fish(line: str, share: Path) -> list[str]:
    told = shell("fish", "-c", f"complete -C '{line}'", share=share)
    return [one.partition("\t")[0] for one in told.splitlines()]


LINES = [
    ("lls leas", {"lease"}),
    ("lls lease ", {"list", "release"}),
    ("lls lease release --r", {"--reason"}),
    ("lls log level d", {"debug"}),
    ("lls --version leas", {"lease"}),
    ("lls --config /nowhere leas", {"lease"}),
    ("lls run --on-loss c", {"continue"}),
    ("lls-issuer orde", {"order"}),
    ("lls-issuer order fulfil --format c", {"csv"}),
]


@pytest.mark.parametrize(("line", "words"), LINES)
def test_bash_completes(line: str, words: set[str], share: Path) -> None:
    assert words == set(typed_in_bash(line, share))


@pytest.mark.parametrize(("line", "words"), LINES[::3])
def test_fish_completes(line: str, words: set[str], share: Path) -> None:
    assert words == set(typed_in_fish(line, share))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_narrow_terminal_makes_no_words_out_of_what_fish_is_told_of_a_word(program: str, share: Path) -> None:
    offered = shell("fish", "-c", f"complete -C '{program} '", share=share, columns="30").splitlines()
    assert [] == [line for line in offered if "\t" not in line]


def test_zsh_completes_at_the_first_tab(share: Path, tmp_path: Path) -> None:
    """The file that zsh loads is its first answer, too."""
    script = (
        "zmodload zsh/zpty\n"
        "zpty z zsh -f -i\n"
        f"zpty -w z 'PS1=; fpath=({share}/zsh/site-functions $fpath); autoload -Uz compinit; compinit -D -u'\n"
        "zpty -w z 'echo ready-$((1+1))'\n"
        "zpty -r -m z seen '*ready-2*'\n"
        "zpty -w -n z $'lls leas\\t--help'\n"
        "zpty -r -m z seen '*lease*--help*'\n"
        'print -r -- "$seen"\n'
        "zpty -d z\n"
    )
    assert "lease" in shell("zsh", "-f", "-c", script, share=share)


ODD = ["", "nonsense x", "--config", "--version ", "lease list -", "'open quote", "run -- ls ", "\N{SNOWMAN}"]
ASKED = [*((program, line, "zsh") for program in PROGRAMS for line in ODD), ("lls", "", "bash"), ("lls", "", "fish")]


@pytest.mark.parametrize(("program", "line", "form"), ASKED)
def test_whatever_stands_in_the_line_nobody_is_shown_a_traceback(program: str, line: str, form: str) -> None:
    whole = f"{program} {line}"
    environ = {
        f"_{program.replace('-', '_').upper()}_COMPLETE": f"complete_{form}",
        "COMP_WORDS": whole,
        "COMP_CWORD": str(len(whole.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": whole,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "LLS_CONFIG": "/nowhere/lls.toml",
    }
    done = subprocess.run([BIN / program], env=os.environ | environ, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def test_completing_costs_no_more_than_looking_at_the_commands() -> None:
    """Neither the client's cryptography nor the daemon is loaded for a word of ``lls lease``."""
    told = (
        "import atexit, sys; from lls.cli import main\n"
        "heavy = ('cryptography', 'aiohttp', 'lls.daemon', 'lls.client', 'lls.cli.run')\n"
        "atexit.register(lambda: print([one for one in heavy if one in sys.modules], file=sys.stderr))\n"
        "main()"
    )
    environ = {"_LLS_COMPLETE": "complete_bash", "COMP_WORDS": "lls lease ", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", told], env=os.environ | environ, capture_output=True, text=True, check=False
    )
    assert ("list\nrelease\n", "[]\n") == (done.stdout, done.stderr)
