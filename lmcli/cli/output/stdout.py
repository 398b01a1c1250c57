"""stdout, written so that a reader who leaves, a full disk and a signal are all noticed."""

import io
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Final

from lmcli.cli.signals import Interrupted, SignalWatcher, die_of_broken_pipe
from lmcli.client.waiting import Interrupt, Woken, is_broken, wait
from lmcli.errors import LmError, OutputFailed, reason

_PIPE_BYTES: Final = 4096
"""A pipe that is ready takes this much without blocking. Source: POSIX, PIPE_BUF, its value on Linux."""


class ReaderLeft(Exception):
    """The reader of stdout is gone; not an error of anybody."""


class Output:
    """Writes bytes to a descriptor at once and whole.

    Args:
        descriptor: where to.
        signals: the signals to obey.

    Attributes:
        is_broken: nothing can be written any more.
        deadline: after a signal, the moment (on the monotonic clock) after which a slow reader is no longer waited for.
        last: the last byte that was written; empty before the first.
        before_first: called before the first byte is written.
    """

    def __init__(self, descriptor: int, signals: SignalWatcher) -> None:
        self.is_broken = False
        self.deadline: float | None = None
        self.last = b""
        self.before_first: Callable[[], None] = lambda: None
        self._descriptor = descriptor
        self._stops = signals
        self._unsent = b""

    def begin(self) -> None:
        """Begin with a new answer."""
        self.deadline, self.last, self.before_first = None, b"", lambda: None

    def interrupts(self) -> Sequence[Interrupt]:
        """What ends a wait for the server: a signal, or the reader of a pipe leaving; while signals are watched."""
        is_watched = self.has_reader and not self.is_broken and self._stops.is_watching
        breaks = (Interrupt(self._descriptor, on_break_only=True),) if is_watched else ()
        return (*self._stops.interrupts, *breaks)

    @property
    def has_reader(self) -> bool:
        """Whether another process reads what is written: it is a pipe or a socket."""
        mode = os.fstat(self._descriptor).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)

    def write(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            ReaderLeft: there is nobody to read it.
            Interrupted: a signal came; what is left is written by the next call.
            OutputFailed: the disk is full, or the like.
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
                rest = rest[self._written(rest[:_PIPE_BYTES]) :]
        finally:
            self._unsent = bytes(rest)

    def _written(self, data: memoryview) -> int:
        """Write what there is room for; how much it was."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # whoever shares the pipe made it non-blocking, and filled it first
            return 0
        except OSError as error:
            self.is_broken = True
            if isinstance(error, BrokenPipeError):
                raise ReaderLeft from error
            raise output_failure("standard output", error) from error

    def check(self) -> None:
        """Notice a reader who left while there was nothing to write.

        Raises:
            ReaderLeft: nobody will read any more.
        """
        if not self.is_broken and is_broken(self._descriptor):
            self.is_broken = True
            raise ReaderLeft

    def _wait(self) -> None:
        interrupts = self._stops.interrupts
        left = None if self.deadline is None else self.deadline - time.monotonic()
        if left is None and self._stops.is_obeyed:  # write only what can be written now
            left = 0
        woken = wait(self._descriptor, to_read=False, to_write=True, interrupts=interrupts, timeout=left)
        if woken is not Woken.READY:
            self.is_broken = woken is Woken.TIMED_OUT and self.deadline is not None
            self._stops.check()
            raise Interrupted


def print_bytes(data: bytes, descriptor: int) -> None:
    """Write to stdout what is complete already; dies of a broken pipe, and of a signal where nobody watches for it.

    Raises:
        OutputFailed: it could not be written.
    """
    try:
        Output(descriptor, SignalWatcher()).write(data)
    except ReaderLeft:
        die_of_broken_pipe()


class Printed(io.TextIOWrapper):
    """Stands in for `sys.stdout`, so that what others print (help, an address) fails as our own output does."""

    def __init__(self, descriptor: int) -> None:
        never_filled = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
        super().__init__(never_filled, encoding="utf-8", errors="replace")
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Write at once."""
        print_bytes(text.encode(errors="replace"), self._descriptor)
        return len(text)


def output_failure(what: str, error: OSError) -> LmError:
    """The error for what could not be written."""
    return OutputFailed(f"cannot write to {what}: {reason(error)}")
