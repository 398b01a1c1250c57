"""stdout, written so that a closed pipe, a full disk and a signal are all detected."""

import io
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Final

from lmcli.cli.signals import Interrupted, SignalWatcher, die_of_broken_pipe
from lmcli.client.waiting import Interrupt, Waiter, Woken, is_broken
from lmcli.errors import LmError, OutputFailed, reason

_PIPE_BYTES: Final = 4096
"""A pipe that is ready accepts this many bytes without blocking. Source: POSIX, PIPE_BUF, its value on Linux."""


class ReaderLeft(Exception):
    """The reader of stdout has closed it; not an error."""


class Output:
    """Writes bytes to a descriptor, immediately and completely.

    Args:
        descriptor: the descriptor of stdout.
        signals: the signals that interrupt a write.

    Attributes:
        is_broken: writing has failed and is not tried again.
        deadline: after a signal, the time (on the monotonic clock) until which a write may wait for the reader.
        last: the last byte written; empty before the first.
        before_first: called before the first byte is written.
    """

    def __init__(self, descriptor: int, signals: SignalWatcher) -> None:
        self.is_broken = False
        self.deadline: float | None = None
        self.last = b""
        self.before_first: Callable[[], None] = lambda: None
        self._descriptor = descriptor
        self._signals = signals
        self._unsent = b""
        self._waiter = Waiter(descriptor, to_read=False)

    def begin(self) -> None:
        """Start a new answer."""
        self.deadline, self.last, self.before_first = None, b"", lambda: None

    def interrupts(self) -> Sequence[Interrupt]:
        """What interrupts a wait for the server while signals are watched: a signal, or a closed pipe."""
        is_watched = self.has_reader and not self.is_broken and self._signals.is_watching
        breaks = (Interrupt(self._descriptor, on_break_only=True),) if is_watched else ()
        return (*self._signals.interrupts, *breaks)

    @property
    def has_reader(self) -> bool:
        """Whether another process reads stdout: it is a pipe or a socket."""
        mode = os.fstat(self._descriptor).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)

    def write(self, data: bytes) -> None:
        """Write all bytes.

        Raises:
            ReaderLeft: the pipe has no reader.
            Interrupted: a signal came; the next call writes the rest.
            OutputFailed: the bytes cannot be written, for example because the disk is full.
        """
        if self.is_broken:
            return
        if data and not self.last:
            self.before_first()
        self.last = data[-1:] or self.last
        rest = memoryview(self._unsent + data)
        try:
            while rest:
                self._wait()
                rest = rest[self._write_some(rest[:_PIPE_BYTES]) :]
        finally:
            self._unsent = bytes(rest)

    def _write_some(self, data: memoryview) -> int:
        """Write as much as is accepted; return the number of bytes."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # another process made the shared pipe non-blocking, and filled it
            return 0
        except OSError as error:
            self.is_broken = True
            if isinstance(error, BrokenPipeError):
                raise ReaderLeft from error
            raise output_failure("standard output", error) from error

    @property
    def is_left(self) -> bool:
        """Whether another process was to read stdout, and has left."""
        return not self.is_broken and self.has_reader and is_broken(self._descriptor)

    def check(self) -> None:
        """Detect that the reader has left while there was nothing to write.

        Raises:
            ReaderLeft: the pipe has no reader.
        """
        if not self.is_broken and is_broken(self._descriptor):
            self.is_broken = True
            raise ReaderLeft

    def _wait(self) -> None:
        timeout = None if self.deadline is None else self.deadline - time.monotonic()
        if timeout is None and self._signals.is_acknowledged:  # write only what is accepted at once
            timeout = 0
        woken = self._waiter.wait(to_write=True, interrupts=self._signals.interrupts, timeout=timeout)
        if woken is not Woken.READY:
            self.is_broken = woken is Woken.TIMED_OUT and self.deadline is not None
            self._signals.check()
            raise Interrupted


def print_bytes(data: bytes, descriptor: int) -> None:
    """Write complete output to stdout; dies of a broken pipe, and of a signal.

    Raises:
        OutputFailed: it could not be written.
    """
    try:
        Output(descriptor, SignalWatcher()).write(data)
    except ReaderLeft:
        die_of_broken_pipe()


class UnbufferedStdout(io.TextIOWrapper):
    """Replaces `sys.stdout`, so that what libraries print (help, an address) fails as our own output does."""

    def __init__(self, descriptor: int) -> None:
        unused = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
        super().__init__(unused, encoding="utf-8", errors="replace")
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Write immediately."""
        print_bytes(text.encode(errors="replace"), self._descriptor)
        return len(text)


def output_failure(what: str, error: OSError) -> LmError:
    """The error for a failed write."""
    return OutputFailed(f"cannot write to {what}: {reason(error)}")
