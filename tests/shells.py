"""Real shells, asked what a TAB would offer; each is started once for many lines."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pexpect
import pytest
from conftest import PATIENCE
from processes import Terminal, start

ROOT = Path(__file__).parents[1]
Offers = list[set[str]]
Ask = Callable[[Path, Sequence[str], Path, Mapping[str, str]], Offers]


def program(name: str) -> str:
    """Where a program of the system is; a test that needs one that is not there is skipped, but never in the gate."""
    found = shutil.which(name)
    if found is None:
        assert "LMCLI_GATE" not in os.environ, f"{name} is not installed"
        pytest.skip(f"{name} is not installed (.ci/run installs it)")
    return found


def _ran(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> str:
    ran = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ran.stderr == ""
    return ran.stdout


def _offers(printed: str) -> Offers:
    """Candidates one a line, an empty line after those of each command line."""
    return [set(block.splitlines()) for block in re.findall(r"((?:.+\n)*)\n", printed)]


BASH = r"""
compopt() { :; }  # tells readline how to quote, which is not there
complete_line() {
    COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2)) COMPREPLY=()
    _lm
    for word in "${COMPREPLY[@]}"; do printf '%s\n' "$word"; done
    echo
}
"""


def bash(file: Path, lines: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Offers:
    """Ask bash: the completion function, called with the words as readline splits them."""
    calls = []
    for line in lines:
        words = re.findall(r"[=:@]+|[^\s=:@]+", line) + ([""] if line.endswith(" ") else [])
        calls.append(" ".join(["complete_line", *(f"'{word}'" for word in [line, *words])]))
    script = "\n".join([f". {file}", BASH, *calls])
    return _offers(_ran([program("bash"), "--norc", "-c", script], folder, variables))


def fish(file: Path, lines: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Offers:
    """Ask fish, which has a command for that; it offers whole words, the option before an equals sign too."""
    script = "\n".join([f"source {file}", *(f"complete -C '{line}'; echo" for line in lines)])
    printed = _ran([program("fish"), "--no-config", "-c", script], folder, variables)
    return _offers(re.sub(r"^(--[\w-]+=)?([^\t\n]*).*", r"\2", printed, flags=re.MULTILINE))


ZSHRC = r"""
PROMPT=''
fpath=($COMPLETIONS $fpath)
autoload -Uz compinit && compinit -u -D
zstyle ':completion:*' completer _complete
LISTMAX=100000
compadd() {  # write down what is offered to the user, not to another function
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\ * ]]; then
        typeset -a offered
        builtin compadd -A offered "$@"
        print -rl -- $offered >> $ZDOTDIR/offered
    fi
    builtin compadd "$@"
}
typeset -i asked
offer() {
    BUFFER=$(<$ZDOTDIR/line) CURSOR=$#BUFFER
    zle complete-word
    BUFFER=''
    print -r -- "<done $((++asked))>"
}
zle -N offer
zle -C complete-word complete-word _main_complete
bindkey '^T' offer
print '<ready>'
"""


def zsh(file: Path, lines: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Offers:
    """Ask zsh on a terminal, where its line editor is at work."""
    home = folder.parent / "zsh"
    home.mkdir(exist_ok=True)
    (home / ".zshrc").write_text(ZSHRC)
    offered, found, terminal = home / "offered", Offers(), Terminal()
    settings = {**variables, "ZDOTDIR": str(home), "COMPLETIONS": str(file.parent), "TERM": "dumb"}
    shell = (program("zsh"), "-d", "-i")
    with start(
        *shell, folder=folder, variables=settings, stdin=terminal, stdout=terminal, stderr=terminal,
        in_new_session=True,
    ) as child:  # fmt: skip
        child.wait_for(b"<ready>")
        for number, line in enumerate(lines, start=1):
            (home / "line").write_text(line)
            offered.write_text("")
            terminal.type(b"\x14")
            child.wait_for(f"<done {number}>".encode())
            found.append(set(offered.read_text().split("\n")) - {""})
    return found


_INTERACTIVE = {
    "bash": ("--norc --noprofile -i", ". {file}"),
    "zsh": ("-d -f -i", "fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D"),
    "fish": ("--no-config -i", "source {file}"),
}
"""The options of each for a session without settings, and the line that loads the completions."""


def pressed(shell: str, file: Path, line: str, folder: Path, variables: Mapping[str, str]) -> str:
    """What an interactive shell writes when a line, a TAB and Enter are typed; up to <end>, which `lm` is to print."""
    options, load = _INTERACTIVE[shell]
    settings = {**variables, "TERM": "dumb", "INPUTRC": "/dev/null", "ZDOTDIR": str(folder), "PS1": ""}
    command = (program(shell), options.split())
    with pexpect.spawn(*command, cwd=folder, env=settings, timeout=PATIENCE, encoding="utf-8") as session:
        session.sendline(load.format(file=shlex.quote(str(file)), folder=shlex.quote(str(file.parent))))
        session.sendline("echo '<'ready'>'")
        session.expect_exact("<ready>")
        session.send(f"{line}\t\r")
        session.expect_exact("<end>")
        written: str = session.before
        return written


SHELLS: Mapping[str, tuple[str, Ask]] = {"bash": ("lm.bash", bash), "zsh": ("_lm", zsh), "fish": ("lm.fish", fish)}
"""The completion file of each, and how it is asked."""
