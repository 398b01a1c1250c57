"""Chat files: read completely, locked during a turn, replaced atomically when it is complete.

Readers see the file as it was before a turn or after it, even if the process crashes.
"""

import errno
import os
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from lmcli.cli.input.document import Document, recognize
from lmcli.cli.input.incoming import decoded
from lmcli.cli.json_text import json_pieces, parse_json
from lmcli.cli.messages import Messages
from lmcli.cli.output.stdout import output_failure
from lmcli.cli.signals import before_death
from lmcli.cli.text_buffer import TextBuffer
from lmcli.errors import BadInput, NoInput, OutputFailed, quoted, reason

_NEW_FILE_MODE: Final = 0o600
_BLOCK_BYTES: Final = 1 << 20
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Of what another user may have put in its place, a symbolic link is not followed and a FIFO is not waited for."""


class ChatFile:
    """A conversation in a file. A symbolic link is followed: its target is read, locked and replaced.

    Args:
        path: the path of the file, which need not exist.

    Attributes:
        path: the path with symbolic links resolved.

    Raises:
        BadInput: the path is not that of a regular file, but of a folder or a device, for example.
        OutputFailed: its folder does not exist, or cannot be searched.
    """

    def __init__(self, path: Path) -> None:
        self._name = quoted(path)
        self.path = self._resolved(path)
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise BadInput(f"{self._name} is not a regular file")
        except FileNotFoundError:
            for folder in (path.parent, self.path.parent):
                self._require_folder(folder)
        except OSError as error:
            raise output_failure(self._name, error) from error

    def _resolved(self, path: Path) -> Path:
        try:
            return Path(os.path.realpath(path))
        except OSError as error:  # the current folder was deleted
            raise output_failure(self._name, error) from error
        except ValueError as error:  # a null byte
            raise BadInput(f"{self._name} cannot be the name of a file") from error

    def _require_folder(self, folder: Path) -> None:
        if not folder.exists():
            hint = f"mkdir -p {shlex.quote(str(folder))} creates it"
            raise OutputFailed(f"cannot write to {self._name}: the folder {quoted(folder)} does not exist", hint)

    def read(self) -> Document:
        """Read the conversation; it is empty if the file does not exist or is empty.

        Raises:
            BadInput: the file is not a chat history; with line and column, or the path of the error.
            NoInput: it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                blocks = iter(lambda: file.read(_BLOCK_BYTES), b"")
                text = TextBuffer(decoded(blocks, self._name)).text
        except FileNotFoundError:
            return Document.new()
        except OSError as error:
            raise NoInput(f"cannot read {self._name}: {reason(error)}") from error
        if not text or text.isspace():
            return Document.new()
        value = parse_json(text, self._name)
        if value == [] or (isinstance(value, dict) and value.get("messages") == []):
            return Document(value)
        document = recognize(value)
        if document is None:
            raise BadInput(
                f"{self._name} is not a chat file",
                'a chat file looks like {"messages": [{"role": "user", "content": "hi"}]}',
            )
        document.chat()
        return document

    def write(self, document: Document) -> None:
        """Replace the file atomically and durably: write and sync a temporary file, then rename it.

        Raises:
            OutputFailed: it could not be written; the old file is unchanged.
        """
        temporary = self.path.with_name(f".{self.path.name}.new")
        try:
            with created(temporary, self._mode()) as file:
                file.writelines(json_pieces(document.raw, is_indented=True))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise output_failure(self._name, error) from error

    @contextmanager
    def locked(self, messages: Messages) -> Iterator[None]:
        """Lock the file for the duration of the block; waits for other `lm` processes that have locked it.

        Args:
            messages: writes a note while waiting.

        Raises:
            OutputFailed: its folder cannot be written to.
        """
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            descriptor = locked(lock, lambda: messages.note(f"waiting for another lm that is using {self._name}"))
        except OSError as error:
            raise self._lock_failure(lock, error) from error

        def remove() -> None:
            with suppress(OSError):  # while it is locked: a new one of another process would be another file
                if os.path.samestat(os.fstat(descriptor), lock.lstat()):
                    lock.unlink()

        try:
            with before_death(remove):
                try:
                    yield
                finally:
                    remove()
        finally:
            os.close(descriptor)

    def _lock_failure(self, lock: Path, error: OSError) -> OutputFailed:
        if os.path.lexists(lock) and (lock.is_symlink() or not lock.is_file()):
            what = f"{quoted(lock)} is not a regular file"
            return OutputFailed(f"cannot lock {self._name}: {what}", f"rm {shlex.quote(str(lock))}")
        return OutputFailed(f"cannot lock {self._name}: {reason(error)}")

    def _mode(self) -> int:
        try:
            return stat.S_IMODE(self.path.stat().st_mode)
        except FileNotFoundError:
            return _NEW_FILE_MODE


def created(path: Path, mode: int) -> IO[bytes]:
    """A new file, replacing one left by a crash."""
    with suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    path.chmod(mode)  # regardless of the umask
    return os.fdopen(descriptor, "wb")


def locked(path: Path, on_wait: Callable[[], None]) -> int:
    """Open and lock a file; repeated if the file is no longer the one at this path."""
    while True:
        descriptor = _opened(path)
        try:
            if not _lock(descriptor, wait=False):
                on_wait()
                _lock(descriptor, wait=True)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass  # removed by the process that had locked it
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: Path) -> int:
    """Open a regular file, and create it if it does not exist."""
    descriptor = os.open(path, _LOCK_FLAGS, _NEW_FILE_MODE)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file; False if another process has locked it. The system unlocks it when the process ends."""
    import fcntl  # noqa: PLC0415  only for a chat file

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync_folder(path: Path) -> None:
    """Make a new or renamed file in a folder durable, if the system can open folders."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
