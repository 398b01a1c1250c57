"""The cache of names of models for completion: one per line, in files that the shell reads without starting `lm`.

Errors are ignored: the cache is optional.
"""

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from lmcli.cli.environment import Environment
from lmcli.cli.options import ServerOptions
from lmcli.cli.target import host_of, runs_in_process

KEYS: Final = "models"
"""The file with the keys of the downloaded language models."""
LOADED: Final = "loaded"
"""The file with the identifiers of the loaded models of all kinds."""
CACHE_VARIABLE: Final = "XDG_CACHE_HOME"
_NEW_FILE_MODE: Final = 0o600
_NEW_FOLDER_MODE: Final = 0o700


def remember(file: str, names: Iterable[str], options: ServerOptions, env: Environment) -> None:
    """Replace the stored names."""
    _update(_rewrite, file, list(names), options, env)


def add(file: str, name: str, options: ServerOptions, env: Environment) -> None:
    """Add a name."""
    _update(_append, file, [name], options, env)


def forget(file: str, name: str, options: ServerOptions, env: Environment) -> None:
    """Remove a name, if it is stored."""
    _update(_remove, file, [name], options, env)


def _update(
    write: Callable[[Path, list[str]], None], name: str, names: list[str], options: ServerOptions, env: Environment
) -> None:
    """Write the names, except those with control characters and those of a server inside this process."""
    folder = user_folder(env, CACHE_VARIABLE, ".cache")
    if folder is None or runs_in_process(host_of(options, env)):
        return
    with suppress(OSError, ValueError):  # ValueError: the file is not UTF-8
        write(folder / name, [name for name in names if name and name.isprintable()])


def _rewrite(file: Path, names: list[str]) -> None:
    make_folder(file.parent)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        _write(temporary, "w", names)
        with suppress(FileNotFoundError):
            temporary.chmod(stat.S_IMODE(file.stat().st_mode))
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _append(file: Path, names: list[str]) -> None:
    try:
        stored = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        make_folder(file.parent)
        stored = []
    if new := [name for name in names if name not in stored]:
        _write(file, "a", new)


def _remove(file: Path, names: list[str]) -> None:
    stored = file.read_text(encoding="utf-8").splitlines()
    if (left := [name for name in stored if name not in names]) != stored:
        _rewrite(file, left)


def user_folder(env: Environment, variable: str, default: str) -> Path | None:
    """The folder of `lm` in the one that a variable names, or else in a folder of the home; None without a home."""
    folder = env.setting(variable) or (f"{home}/{default}" if (home := env.setting("HOME")) else None)
    return None if folder is None else Path(folder, "lm")


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, for this user only. Source: XDG Base Directory Specification."""
    for path in reversed((folder, *folder.parents)):
        if not path.exists():
            path.mkdir(_NEW_FOLDER_MODE, exist_ok=True)


def _write(file: Path, mode: str, names: list[str]) -> None:
    """Write names to a file, which only this user can read if it is new."""
    with open(file, mode, encoding="utf-8", opener=lambda path, flags: os.open(path, flags, _NEW_FILE_MODE)) as stream:
        stream.writelines(f"{name}\n" for name in names)
