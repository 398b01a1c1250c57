"""Namespaces: a network of its own for tests of ports that are the same for all processes, or mounts of its own."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import pytest

from lmcli.client.address import HTTP_PORT

# Enables the loopback interface of a new network namespace, which lasts as long as this process.
# 0x8914 is SIOCSIFFLAGS, 0x41 is IFF_UP and IFF_RUNNING.
HOLDER = """
import fcntl, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 0x41))
print("up", flush=True)
sys.stdin.read()
"""


@cache
def unshared(namespace: str, *trial: str) -> Sequence[str] | None:
    """How a command begins that runs in a namespace of its own, such as `--net`; None if a trial succeeds in none.

    Root needs no namespace for users, which a chroot cannot have. A system may allow a namespace and nothing in it.
    """
    if shutil.which("unshare") is None:
        return None
    for users in ((), ("--user", "--map-root-user")):
        command = ("unshare", *users, namespace)
        ran = subprocess.run([*command, *trial], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if ran.returncode == 0:
            return command
    return None


@contextmanager
def own_network(*ports: int) -> Iterator[Sequence[str]]:
    """How commands begin that run in a network of their own, in which all ports are free.

    Where the system has no such networks, the commands run in that of the machine, with an empty beginning, and the
    test is skipped if a port is in use there.
    """
    hold = sys.executable, "-c", HOLDER
    beginning = unshared("--net", *hold)
    if beginning is None:
        yield _in_the_network_of_the_machine(ports)
        return
    with subprocess.Popen([*beginning, *hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        users = ("--user", "--preserve-credentials") if "--user" in beginning else ()
        yield ["nsenter", "--target", str(holder.pid), "--net", *users]
        holder.kill()


@contextmanager
def serving(network: Sequence[str], *arguments: str) -> Iterator[None]:
    """`lm serve` in a network, where clients that are given no address find it."""
    command = [*network, sys.executable, "-m", "lmcli", "serve", "--quiet", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"http://127.0.0.1:{HTTP_PORT}\n"
            yield
        finally:
            process.kill()


def _in_the_network_of_the_machine(ports: Sequence[int]) -> Sequence[str]:
    for port in ports:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port} is in use, and this system has no network namespaces")
    return []
