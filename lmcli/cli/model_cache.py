"""The cache of model keys for completion: one per line, in a file that the shell reads without starting `lm`.

Errors are ignored: the cache is optional.
"""

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from lmcli.cli.environment import Environment
from lmcli.cli.options import DEMO_HOST, ServerOptions
from lmcli.cli.target import MODEL_SUFFIX
from lmcli.client.discovery import HOST_VARIABLE

CACHE_VARIABLE: Final = "XDG_CACHE_HOME"
_NEW_FILE_MODE: Final = 0o600
_NEW_FOLDER_MODE: Final = 0o700


def remember(keys: Iterable[str], options: ServerOptions, env: Environment) -> None:
    """Replace the stored keys."""
    _update(_rewrite, list(keys), options, env)


def add(key: str, options: ServerOptions, env: Environment) -> None:
    """Add a key."""
    _update(_append, [key], options, env)


def _update(
    write: Callable[[Path, list[str]], None], keys: list[str], options: ServerOptions, env: Environment
) -> None:
    """Write the keys, except those with control characters and those of a server inside this process."""
    host = options.host or env.setting(HOST_VARIABLE) or ""
    folder = env.setting(CACHE_VARIABLE) or (f"{home}/.cache" if (home := env.setting("HOME")) else None)
    if folder is None or host == DEMO_HOST or host.lower().endswith(MODEL_SUFFIX):
        return
    with suppress(OSError, ValueError):  # ValueError: the file is not UTF-8
        write(Path(folder, "lm", "models"), [key for key in keys if key and key.isprintable()])


def _rewrite(file: Path, keys: list[str]) -> None:
    _make_folder(file.parent)
    temporary = file.with_name(f".models.{os.getpid()}")
    try:
        _write(temporary, "w", keys)
        with suppress(FileNotFoundError):
            temporary.chmod(stat.S_IMODE(file.stat().st_mode))
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _append(file: Path, keys: list[str]) -> None:
    try:
        stored = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        _make_folder(file.parent)
        stored = []
    if new := [key for key in keys if key not in stored]:
        _write(file, "a", new)


def _make_folder(folder: Path) -> None:
    """Create a folder and those above it, for this user only. Source: XDG Base Directory Specification."""
    for path in reversed((folder, *folder.parents)):
        if not path.exists():
            path.mkdir(_NEW_FOLDER_MODE, exist_ok=True)


def _write(file: Path, mode: str, keys: list[str]) -> None:
    """Write keys to a file, which only this user can read if it is new."""
    with open(file, mode, encoding="utf-8", opener=lambda path, flags: os.open(path, flags, _NEW_FILE_MODE)) as stream:
        stream.writelines(f"{key}\n" for key in keys)
