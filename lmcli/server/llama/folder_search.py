"""GGUF files in folders, and the place that a file has in the layout of LM Studio.

That layout is `<publisher>/<repository>/<file>.gguf`. The cache of Hugging Face has the same parts under other names:
`models--<publisher>--<repository>/snapshots/<revision>/<file>.gguf`, where each file is a symbolic link.
"""

import logging
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from lmcli.errors import quoted, reason

SUFFIX: Final = ".gguf"
_SNAPSHOTS: Final = "snapshots"
_REPOSITORY: Final = re.compile(r"models--(.+?)--(.+)")
# Publisher, repository, and the file.
_LAYOUT_PARTS: Final = 3

_log: Final = logging.getLogger(__name__)


def gguf_files(folder: Path) -> Iterator[Path]:
    """Find the GGUF files in a folder and in all folders below, ordered by name.

    Symbolic links are followed, each folder is read once, and what cannot be read below it is a warning.

    Raises:
        OSError: the folder itself cannot be read.
    """
    return _search(folder, set())


def with_models(folders: Iterable[Path]) -> list[Path]:
    """Those of some folders in which there are GGUF files; others may not exist."""
    return [folder for folder in folders if _has_models(folder)]


def _has_models(folder: Path) -> bool:
    try:
        return next(gguf_files(folder), None) is not None
    except OSError:
        return False


def _search(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in seen:  # by a link to a folder above, or by two links
        return
    seen.add(identity)
    for path in _entries(folder):
        try:
            mode = path.stat().st_mode
        except OSError as error:
            if _is_gguf(path):  # such as a link to a file that was removed
                _warn(path, error)
            continue
        if stat.S_ISDIR(mode):
            try:
                yield from _search(path, seen)
            except OSError as error:
                _warn(path, error)
        elif stat.S_ISREG(mode) and _is_gguf(path):
            yield path


def layout_path(file: Path, folder: Path | None) -> str | None:
    """The path of a file in LM Studio's layout, `publisher/repository/file.gguf`; None if it is not in that layout.

    Args:
        file: the file.
        folder: the folder in which it was found, if any.
    """
    parts = file.absolute().parts
    for number, part in enumerate(parts[:-_LAYOUT_PARTS]):
        found = _REPOSITORY.fullmatch(part)
        if found and parts[number + 1] == _SNAPSHOTS:
            return "/".join((*found.groups(), *parts[number + 3 :]))
    below = file.relative_to(folder).parts if folder else ()
    return "/".join(below) if len(below) >= _LAYOUT_PARTS else None


def _entries(folder: Path) -> list[Path]:
    """The entries of a folder by name; the revisions of a repository by age, so that the latest is found first."""
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name.casefold())
    if folder.name == _SNAPSHOTS:
        entries.sort(key=lambda entry: entry.lstat().st_mtime, reverse=True)
    return entries


def _is_gguf(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIX)


def _warn(path: Path, error: OSError) -> None:
    _log.warning("cannot read %s: %s", quoted(path), reason(error))
