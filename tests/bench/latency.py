"""The time from a server's `send` until a fragment is on stdout, for fragments that come alone.

The process that sends looks at stdout itself, all the time: nothing but the client has to be woken, and the client has
a processor of its own, if there are two. Waking it is part of what is measured.
"""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from fast_server import accept, ending, fragment
from measuring import environment

PAUSE = 0.004
"""Seconds between two fragments: those of 250 tokens per second."""


def delays(command: Callable[[int], list[str]], count: int) -> list[float]:
    """Seconds from sending to stdout, for each of so many fragments; the command is made of a port."""
    found: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = command(listener.getsockname()[1])
        with subprocess.Popen(started, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment()) as process:
            assert process.stdout is not None
            stdout = process.stdout.fileno()

            def respond(connection: socket.socket, channel_id: int, _: bytes) -> None:
                os.set_blocking(stdout, False)
                found.extend(_delay(connection, channel_id, number, stdout) for number in range(count))
                os.set_blocking(stdout, True)
                connection.sendall(ending(channel_id, count))

            threading.Thread(target=accept, args=(listener, respond), daemon=True).start()
            process.wait()
            listener.shutdown(socket.SHUT_RDWR)
    return found


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
