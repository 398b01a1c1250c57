"""A network of its own for tests that need ports which are the same for all processes of a machine."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

# Enables the loopback interface of a new network namespace, which lasts as long as this process.
# 0x8914 is SIOCSIFFLAGS, 0x41 is IFF_UP and IFF_RUNNING.
HOLDER = """
import fcntl, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 0x41))
print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def own_network(*ports: int) -> Iterator[Sequence[str]]:
    """How commands begin that run in a network of their own, in which all ports are free.

    Where the system has no such networks, the commands run in that of the machine, with an empty beginning, and the
    test is skipped if a port is in use there.
    """
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", HOLDER]
    try:
        holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except FileNotFoundError:
        yield _in_the_network_of_the_machine(ports)
        return
    with holder:
        assert holder.stdout is not None
        if holder.stdout.readline() == "up\n":
            yield ["nsenter", "--target", str(holder.pid), "--user", "--net", "--preserve-credentials"]
        else:
            yield _in_the_network_of_the_machine(ports)
        holder.kill()


def _in_the_network_of_the_machine(ports: Sequence[int]) -> Sequence[str]:
    for port in ports:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port} is in use, and this system has no network namespaces")
    return []
