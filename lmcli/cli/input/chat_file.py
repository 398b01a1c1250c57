"""Chat files: read whole, locked while a turn is in flight, replaced in one step when it is complete.

A reader sees the file before a turn or after it, never in between, and a crash at any moment leaves one of the two.
"""

import os
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from lmcli.cli.input.document import Document, recognize
from lmcli.cli.input.stdin import decoded
from lmcli.cli.jsontext import parse_json, written
from lmcli.cli.messages import Messages
from lmcli.cli.output.stdout import output_failure
from lmcli.errors import BadInput, NoInput, OutputFailed, quoted, reason

_NEW_FILE_MODE: Final = 0o600


class ChatFile:
    """A conversation in a file. A symbolic link is followed: what it points to is read, locked and replaced.

    Args:
        path: where it is, or will be.

    Attributes:
        path: where it really is.

    Raises:
        BadInput: something other than a file is there, such as a folder or a device.
        OutputFailed: its folder does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._shown = quoted(path)
        self.path = Path(os.path.realpath(path))
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise BadInput(f"{self._shown} is not a regular file")
        except FileNotFoundError:
            for folder in (path.parent, self.path.parent):
                self._require(folder)
        except OSError as error:
            raise output_failure(self._shown, error) from error

    def _require(self, folder: Path) -> None:
        if not folder.exists():
            hint = f"mkdir -p {shlex.quote(str(folder))} creates it"
            raise OutputFailed(f"cannot write to {self._shown}: the folder {quoted(folder)} does not exist", hint)

    def read(self) -> Document:
        """The conversation; one in which nothing has been said if the file does not exist, or is empty.

        Raises:
            BadInput: it is not a chat history; with line and column, or the path inside of it.
            NoInput: it cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return Document.new()
        except OSError as error:
            raise NoInput(f"cannot read {self._shown}: {reason(error)}") from error
        if not data.strip():
            return Document.new()
        value = parse_json(decoded(data, self._shown), self._shown)
        if value == [] or (isinstance(value, dict) and value.get("messages") == []):
            return Document(value)
        document = recognize(value)
        if document is None:
            raise BadInput(
                f"{self._shown} is not a chat file", "--history expects a JSON file with an array of messages"
            )
        document.chat()
        return document

    def write(self, document: Document) -> None:
        """Replace the conversation, durably: a temporary file beside it, synchronised, then renamed.

        Raises:
            OutputFailed: it could not be written; the old file is untouched.
        """
        temporary = self.path.with_name(f".{self.path.name}.new")
        data = written(document.raw, is_indented=True)
        try:
            with _created(temporary, self._mode()) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            _synchronise_folder(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise output_failure(self._shown, error) from error

    @contextmanager
    def locked(self, messages: Messages) -> Iterator[None]:
        """Keep every other `lm` away from the file until the block ends; waits for those that came first.

        Args:
            messages: says that this one waits.

        Raises:
            OutputFailed: nothing can be written to its folder.
        """
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            file = _locked(lock, lambda: messages.note(f"waiting for another lm that is using {self._shown}"))
        except OSError as error:
            raise OutputFailed(f"cannot lock {self._shown}: {reason(error)}") from error
        try:
            yield
        finally:
            with suppress(OSError):  # it goes away while it is still locked, so that nobody else removes a new one
                lock.unlink()
            file.close()

    def _mode(self) -> int:
        try:
            return stat.S_IMODE(self.path.stat().st_mode)
        except FileNotFoundError:
            return _NEW_FILE_MODE


def _created(path: Path, mode: int) -> IO[bytes]:
    """A new file in place of one that a crash may have left."""
    with suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    path.chmod(mode)  # the umask is for files that programs make on their own
    return os.fdopen(descriptor, "wb")


def _locked(path: Path, say_wait: Callable[[], None]) -> IO[bytes]:
    """An open file that this process alone has locked, and that is still the one of that name."""
    while True:
        file = path.open("ab")
        try:
            if not _lock(file, wait=False):
                say_wait()
                _lock(file, wait=True)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass  # whoever had it before took it away
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    """Lock an open file; False if somebody else has it. The system gives it back however the process ends."""
    import fcntl  # noqa: PLC0415  only a chat file pays

    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _synchronise_folder(path: Path) -> None:
    """Make a rename durable; systems without folders that can be opened do it themselves."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
