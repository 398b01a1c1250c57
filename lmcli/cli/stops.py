"""Being stopped: signals as a fact that is looked up, and a descriptor that ends every wait.

A handler only notes the signal and gives it its default meaning back, so that the second one leaves at once.
Whoever waits sees the descriptor become readable; nothing is thrown out of a handler.
"""

import os
import signal
import socket
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

from lmcli.client.waiting import Interrupt

SIGINT: Final = signal.SIGINT
BROKEN_PIPE: Final = signal.SIGPIPE
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal came; `Stops.signum` says which."""


class Stops:
    """Watches for signals from `__enter__` to `__exit__`; what the caller has ignored (nohup, &) stays ignored.

    Attributes:
        signum: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        self._wakeup_before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for signum in _STOPPING:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self.close()

    def close(self) -> None:
        """Let go of the descriptors."""
        self._wake.close()
        self._waker.close()

    @property
    def interrupts(self) -> tuple[Interrupt, ...]:
        """What ends a wait; nothing once a signal has come, so that what follows it can be waited for."""
        return () if self.signum is not None else (Interrupt(self._wake.fileno()),)

    def check(self) -> None:
        """Notice a signal.

        Raises:
            Interrupted: one has come.
        """
        if self.signum is not None:
            raise Interrupted

    def _note(self, signum: int, _: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signum, signal.SIG_DFL)


def die_of(signum: int) -> NoReturn:
    """End as a process does that never handled the signal, so that the caller's shell sees the truth."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # the signal is blocked: at least the status says what happened


def die_of_broken_pipe() -> NoReturn:
    """End as a process does whose reader has left."""
    die_of(BROKEN_PIPE)
