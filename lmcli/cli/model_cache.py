"""The model keys that completions offer: one a line, in a file that a TAB can read without starting anything.

It is a convenience: whatever goes wrong with it is silently nobody's business.
"""

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from lmcli.cli.environment import Environment
from lmcli.cli.options import DEMO_HOST, ServerOptions
from lmcli.cli.target import MODEL_SUFFIX
from lmcli.client.discovery import HOST_VARIABLE

CACHE_VARIABLE: Final = "XDG_CACHE_HOME"
_PLAIN: Final = re.compile(r"[\w./@:+-]+", re.ASCII)
"""What no shell has to quote; a key that is no such word is not offered."""


def remember(keys: Iterable[str], options: ServerOptions, env: Environment) -> None:
    """Keep these keys and no others."""
    _quietly(_rewrite, list(keys), options, env)


def add(key: str, options: ServerOptions, env: Environment) -> None:
    """Keep this key too."""
    _quietly(_append, [key], options, env)


def _quietly(
    write: Callable[[Path, list[str]], None], keys: list[str], options: ServerOptions, env: Environment
) -> None:
    """Write the keys that are plain words; not those of a server that lives inside of the command."""
    host = options.host or env.setting(HOST_VARIABLE) or ""
    folder = env.setting(CACHE_VARIABLE) or (f"{home}/.cache" if (home := env.setting("HOME")) else None)
    if folder is None or host == DEMO_HOST or host.lower().endswith(MODEL_SUFFIX):
        return
    with suppress(OSError, ValueError):  # ValueError: the file is no text
        write(Path(folder, "lm", "models"), [key for key in keys if _PLAIN.fullmatch(key)])


def _rewrite(file: Path, keys: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".models.{os.getpid()}")
    try:
        temporary.write_text(_lines(keys), encoding="ascii")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _append(file: Path, keys: list[str]) -> None:
    try:
        known = file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        known = []
    if new := [key for key in keys if key not in known]:
        with file.open("a", encoding="ascii") as stream:
            stream.write(_lines(new))


def _lines(keys: list[str]) -> str:
    return "".join(f"{key}\n" for key in keys)
