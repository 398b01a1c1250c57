"""The file that keeps what was typed in dialogues, for recall in later ones: one JSON string per line.

A failure is reported once; the dialogue continues, and nothing more is kept.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import orjson

from lmcli.cli.environment import Environment
from lmcli.cli.input.chat_file import created, locked
from lmcli.cli.model_cache import make_folder, user_folder

STATE_VARIABLE: Final = "XDG_STATE_HOME"
OPT_OUT_VARIABLE: Final = "LM_NO_TYPED"
MAX_ENTRIES: Final = 1000
MAX_BYTES: Final = 1 << 20
"""No more is read of the file, so that a dialogue starts quickly."""


def recall_file(env: Environment, on_failure: Callable[[Path, OSError], None]) -> "RecallFile | None":
    """The file of the user, unless the environment says that nothing is to be kept, or there is no home."""
    folder = user_folder(env, STATE_VARIABLE, ".local/state")
    if folder is None or env.setting(OPT_OUT_VARIABLE):
        return None
    return RecallFile(folder / "typed", on_failure)


class RecallFile:
    """The last entries that were typed, those of concurrent dialogues included.

    Args:
        path: the path of the file; it and its folder are created when something is kept.
        on_failure: called once, with the path and why the file cannot be used.
    """

    def __init__(self, path: Path, on_failure: Callable[[Path, OSError], None]) -> None:
        self._path = path
        self._on_failure = on_failure
        self._is_usable = True
        self._is_long = False

    def read(self) -> list[str]:
        """The last entries, the oldest first; lines that are not valid are skipped."""
        with self._reported():
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                return []
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    lines = _last_lines(descriptor)
                    self._is_long = len(lines) > 2 * MAX_ENTRIES or os.fstat(descriptor).st_size > 2 * MAX_BYTES
                    return [text for line in lines[-MAX_ENTRIES:] if (text := _decoded(line)) is not None]
            finally:
                os.close(descriptor)
        return []

    def append(self, text: str) -> None:
        """Keep an entry; one that would not be read again is not written."""
        line = orjson.dumps(text) + b"\n"
        if not self._is_usable or len(line) >= MAX_BYTES:
            return
        with self._reported():
            make_folder(self._path.parent)
            path = Path(os.path.realpath(self._path))
            descriptor = locked(path, on_wait=lambda: None)
            try:
                _append(descriptor, line)
                if self._is_long:
                    _shorten(path, descriptor)
                    self._is_long = False
            finally:
                os.close(descriptor)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._is_usable:
                self._on_failure(self._path, error)
            self._is_usable = False


def _last_lines(descriptor: int) -> list[bytes]:
    """The whole lines at the end of a file."""
    start = max(0, os.fstat(descriptor).st_size - MAX_BYTES)
    lines = os.pread(descriptor, MAX_BYTES, start).split(b"\n")
    return [line for line in lines[bool(start) :] if line]


def _decoded(line: bytes) -> str | None:
    try:
        text = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return text if isinstance(text, str) else None


def _append(descriptor: int, line: bytes) -> None:
    """Write a line at the end of a locked file, after the one that a full disk may have cut short."""
    size = os.fstat(descriptor).st_size
    is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    data = b"\n" * is_torn + line
    if os.pwrite(descriptor, data, size) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _shorten(path: Path, descriptor: int) -> None:
    """Replace a locked file by its last lines; who waits for the lock opens the new file."""
    temporary = path.with_name(f".{path.name}.new")
    lines = _last_lines(descriptor)[-MAX_ENTRIES:]
    try:
        with created(temporary, stat.S_IMODE(os.fstat(descriptor).st_mode)) as file:
            file.writelines(line + b"\n" for line in lines)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
