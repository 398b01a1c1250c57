"""Signals: recorded by a handler, checked by the code, and a descriptor that interrupts every wait.

A handler only records the signal and restores the default action, so that a second one ends the process at once.
A wait ends when the descriptor becomes readable; no handler raises an exception.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

from lmcli.client.waiting import Interrupt

SIGINT: Final = signal.SIGINT
BROKEN_PIPE: Final = signal.SIGPIPE
_HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal came; `SignalWatcher.signum` is its number."""


class SignalWatcher:
    """Watches for signals inside `with`, any number of times; signals ignored by the caller (nohup, &) stay ignored.

    Attributes:
        signum: the signal that came, or None.
        is_acknowledged: the code has reacted to it.
        interrupts: what interrupts a wait; nothing after an acknowledged signal, so that cancelling can be waited for.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.is_acknowledged = False
        self._wake: socket.socket | None = None
        self.interrupts: tuple[Interrupt, ...] = ()
        self._previous: dict[int, Any] = {}
        self._previous_wakeup = -1

    def __enter__(self) -> Self:
        self.signum, self.is_acknowledged = None, False
        self._wake, self._waker = socket.socketpair()
        self.interrupts = (Interrupt(self._wake.fileno()),)
        self._waker.setblocking(False)
        self._previous_wakeup = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for signum in _HANDLED:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()
        signal.set_wakeup_fd(self._previous_wakeup)
        if self._wake is not None:
            self._wake.close()
            self._wake, self.interrupts = None, ()
        self._waker.close()

    @property
    def is_watching(self) -> bool:
        """Whether signals are handled, inside `with`."""
        return self._wake is not None

    def check(self) -> None:
        """React to a signal.

        Raises:
            Interrupted: one has come.
        """
        if self.signum is not None:
            self.acknowledge()
            raise Interrupted

    def acknowledge(self) -> None:
        """Let a signal that came interrupt no further waits."""
        if self.signum is not None:
            self.is_acknowledged, self.interrupts = True, ()

    def _handle(self, signum: int, _: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signum, signal.SIG_DFL)


@contextmanager
def before_death(action: Callable[[], None]) -> Iterator[None]:
    """Act before a signal ends the process inside the block, unless something else handles it there."""

    def end(signum: int, _: FrameType | None) -> None:
        action()
        die_of(signum)

    with handling(_HANDLED, end):
        yield


@contextmanager
def handling(signums: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle signals inside the block, except those that are ignored or that something else handles there."""
    handled = [signum for signum in signums if signal.getsignal(signum) is signal.SIG_DFL]
    for signum in handled:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum in handled:
            signal.signal(signum, signal.SIG_DFL)


def die_of(signum: int) -> NoReturn:
    """End like a process that does not handle the signal, so that the shell reports it as killed."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # the signal is blocked: the status still shows it


def die_of_broken_pipe() -> NoReturn:
    """End like a process that writes to a closed pipe."""
    die_of(BROKEN_PIPE)
