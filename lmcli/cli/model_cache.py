"""The cache of model keys for completion: one per line, in a file that the shell reads without starting `lm`.

Errors are ignored: the cache is optional.
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
_UNQUOTED_WORD: Final = re.compile(r"[\w./@:+-]+", re.ASCII)
"""A word that needs no quoting in a shell; other keys are not stored."""


def remember(keys: Iterable[str], options: ServerOptions, env: Environment) -> None:
    """Replace the stored keys."""
    _update(_rewrite, list(keys), options, env)


def add(key: str, options: ServerOptions, env: Environment) -> None:
    """Add a key."""
    _update(_append, [key], options, env)


def _update(
    write: Callable[[Path, list[str]], None], keys: list[str], options: ServerOptions, env: Environment
) -> None:
    """Write the keys that need no quoting; not those of a server inside this process."""
    host = options.host or env.setting(HOST_VARIABLE) or ""
    folder = env.setting(CACHE_VARIABLE) or (f"{home}/.cache" if (home := env.setting("HOME")) else None)
    if folder is None or host == DEMO_HOST or host.lower().endswith(MODEL_SUFFIX):
        return
    with suppress(OSError, ValueError):  # ValueError: the file is not ASCII text
        write(Path(folder, "lm", "models"), [key for key in keys if _UNQUOTED_WORD.fullmatch(key)])


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
        stored = file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        stored = []
    if new := [key for key in keys if key not in stored]:
        with file.open("a", encoding="ascii") as stream:
            stream.write(_lines(new))


def _lines(keys: list[str]) -> str:
    return "".join(f"{key}\n" for key in keys)
