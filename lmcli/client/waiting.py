"""Waiting for a file descriptor, in a way that something else can end.

A blocking read cannot be ended by a signal handler (the interpreter reads again), and an exception thrown out of a
handler may tear what it lands in. So what blocks waits here, and wakes when an interrupt becomes ready too.
"""

import select
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from lmcli.record import distinct

_LONGEST_SECONDS: Final = 1e9
_LONGEST_POLL: Final = 2**31 - 1  # milliseconds; poll(2) takes an int, and 24 days are long enough


@distinct
class Interrupt(NamedTuple):
    """A descriptor that ends a wait: when it becomes readable, or only when it breaks (the reader of a pipe left)."""

    descriptor: int
    on_break_only: bool = False


class Woken(Enum):
    """Why a wait ended."""

    READY = auto()
    INTERRUPTED = auto()
    TIMED_OUT = auto()


Interrupts = Callable[[], Sequence[Interrupt]]
"""What ends a wait, asked for at the beginning of each: a signal that has come ends no wait after it."""


def no_interrupts() -> Sequence[Interrupt]:
    """Nothing ends a wait."""
    return ()


def is_duration(seconds: float) -> bool:
    """Whether a timeout can last so long: above 0, and at most three decades, which sockets and clocks can count."""
    return 0 < seconds <= _LONGEST_SECONDS


def wait(
    descriptor: int,
    *,
    to_read: bool = True,
    to_write: bool = False,
    interrupts: Iterable[Interrupt] = (),
    timeout: float | None = None,
) -> Woken:
    """Wait until a descriptor can be read or written, an interrupt is ready, or `timeout` seconds are over."""
    return Waiter(descriptor, to_read=to_read).wait(to_write=to_write, interrupts=interrupts, timeout=timeout)


class Waiter:
    """Waits for one descriptor, many times; what is registered once is kept. It belongs to one thread.

    Args:
        descriptor: the descriptor.
        to_read: whether it is ready when it can be read.
    """

    def __init__(self, descriptor: int, *, to_read: bool) -> None:
        self._descriptor = descriptor
        self._to_read = to_read
        self._awaited: tuple[bool, tuple[Interrupt, ...]] | None = None

    def wait(
        self, *, to_write: bool = False, interrupts: Iterable[Interrupt] = (), timeout: float | None = None
    ) -> Woken:
        """See the function `wait`."""
        awaited = to_write, tuple(interrupts)
        if awaited != self._awaited:
            self._awaited, self._poll = awaited, _registered(awaited[1])
            self._poll.register(self._descriptor, self._to_read * select.POLLIN | to_write * select.POLLOUT)
        ready = self._poll.poll(None if timeout is None else min(max(timeout, 0) * 1000, _LONGEST_POLL))
        if not ready:
            return Woken.TIMED_OUT
        return Woken.READY if len(ready) == 1 and ready[0][0] == self._descriptor else Woken.INTERRUPTED


def sleep(seconds: float, interrupts: Iterable[Interrupt]) -> None:
    """Wait until so many seconds are over, or an interrupt is ready."""
    _registered(interrupts).poll(seconds * 1000)


def _registered(interrupts: Iterable[Interrupt]) -> select.poll:
    poll = select.poll()
    for interrupt in interrupts:
        poll.register(interrupt.descriptor, 0 if interrupt.on_break_only else select.POLLIN)
    return poll


def is_broken(descriptor: int) -> bool:
    """Whether the other end of a pipe, socket or terminal is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
