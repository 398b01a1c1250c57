"""The time from a server's `send` until a fragment is on stdout, for fragments that come alone.

The process that sends looks at stdout itself, all the time: nothing but the client has to be woken, which is part of
what is measured. It has a processor of its own, where the system lets one choose, and the client has the others: on the
same one the client would stop it, and the time until it runs again would count.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fast_server import accept, ending, fragment
from measuring import environment

PAUSE = 0.004
"""Seconds between two fragments: those of 250 tokens per second."""
PROCESSORS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
SENDERS, OTHERS = PROCESSORS[:1], PROCESSORS[1:]
IDLE_LOOP = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.execvp("sh", ["sh", "-c", "while :; do :; done"])
"""


@contextmanager
def awake() -> Iterator[None]:
    """Keep the client's processors from halting, with loops that run only where nothing else wants to.

    To wake a virtual processor that has halted is the work of the hypervisor, and takes as long as the client itself.
    """
    loops = [subprocess.Popen([sys.executable, "-c", IDLE_LOOP, str(processor)]) for processor in OTHERS]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def delays(command: Callable[[int], list[str]], count: int) -> list[float]:
    """Seconds from sending to stdout, for each of so many fragments; the command is made of a port."""
    found: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = command(listener.getsockname()[1])
        with subprocess.Popen(started, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment()) as process:
            _run_on(OTHERS, process.pid)
            assert process.stdout is not None
            stdout = process.stdout.fileno()

            def respond(connection: socket.socket, channel_id: int, _: bytes) -> None:
                _run_on(SENDERS)
                os.set_blocking(stdout, False)
                found.extend(_delay(connection, channel_id, number, stdout) for number in range(count))
                os.set_blocking(stdout, True)
                connection.sendall(ending(channel_id, count))

            threading.Thread(target=accept, args=(listener, respond), daemon=True).start()
            process.wait()
            listener.shutdown(socket.SHUT_RDWR)
    return found


def _run_on(processors: list[int], pid: int = 0) -> None:
    """Bind a process, or this thread, to processors, if there are two."""
    if OTHERS:
        os.sched_setaffinity(pid, processors)


def _delay(connection: socket.socket, channel_id: int, number: int, stdout: int) -> float:
    mark = f"number {number}\n"
    packet, expected, seen = fragment(channel_id, mark), mark.rstrip().encode(), b""
    time.sleep(PAUSE)
    began = time.perf_counter()
    connection.sendall(packet)
    while expected not in seen:
        with suppress(BlockingIOError):
            data = os.read(stdout, 1 << 16)
            assert data, "the client has ended"
            seen += data
    return time.perf_counter() - began
