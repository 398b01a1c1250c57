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
    """A signal came; `SignalWatcher.signum` says which."""


class SignalWatcher:
    """Watches for signals inside of `with`, any number of times; what the caller has ignored (nohup, &) stays ignored.

    Attributes:
        signum: the signal that came, or None.
        is_obeyed: somebody has noticed it.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.is_obeyed = False
        self._wake: socket.socket | None = None
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        self.signum, self.is_obeyed = None, False
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
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
        self._before.clear()
        signal.set_wakeup_fd(self._wakeup_before)
        if self._wake is not None:
            self._wake.close()
            self._wake = None
        self._waker.close()

    @property
    def is_watching(self) -> bool:
        """Whether a signal ends waits, and not the process."""
        return self._wake is not None

    @property
    def interrupts(self) -> tuple[Interrupt, ...]:
        """What ends a wait; nothing once a signal is obeyed, so that what follows it can be waited for."""
        return () if self._wake is None or self.is_obeyed else (Interrupt(self._wake.fileno()),)

    def check(self) -> None:
        """Notice a signal.

        Raises:
            Interrupted: one has come.
        """
        if self.signum is not None:
            self.acknowledge()
            raise Interrupted

    def acknowledge(self) -> None:
        """Let a signal that has come end no further wait: what is still to be done for it may take its time."""
        self.is_obeyed = self.signum is not None

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
