"""`lm help`: the manual page of a command; where there is none, or no `man`, the output of `--help`."""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import lmcli
from lmcli.cli.app import COMMANDS, build
from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages
from lmcli.cli.options import HelpOptions
from lmcli.errors import ExitCode, UsageError, quoted

_PAGE_FOLDERS: Final = ("share/man/man1", "man")
"""Where pages are, relative to a folder above the package: in an installation, in the sources."""


def run(_: HelpOptions, words: Sequence[str], env: Environment, __: Messages) -> ExitCode:
    """Replace this process by `man` with the page of the command; without a command or a page, print the help.

    Raises:
        UsageError: there is no such command.
    """
    name = " ".join(words)
    if name and name not in COMMANDS:
        from lmcli.cli.suggestions import close_matches  # noqa: PLC0415  only an error needs it

        hints = [f"did you mean lm help {other}?" for other in close_matches(name, COMMANDS)[:1]]
        raise UsageError(f"no such command {quoted(name)}", *hints, "lm --help lists the commands")
    page = page_of(name) if name else None
    program = shutil.which("man", path=env.setting("PATH"))
    if page is not None and program is not None:
        signal.signal(
            signal.SIGPIPE, signal.SIG_DFL
        )  # ignored by Python, and inherited; `| head` must end `man` silently
        os.execve(program, [program, str(page)], dict(env.variables))  # noqa: S606  no shell is needed
    build(env)([*words, "--help"], prog_name="lm", standalone_mode=False)
    return ExitCode.OK


def page_of(name: str) -> Path | None:
    """The page of this installation, not of another one that `man` may find first."""
    page = f"lm-{name.partition(' ')[0]}.1"
    parents = Path(lmcli.__file__).resolve().parents[1:5]
    candidates = (folder / subfolder / page for folder in parents for subfolder in _PAGE_FOLDERS)
    return next((path for path in candidates if path.is_file()), None)
