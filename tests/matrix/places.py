"""Addresses at which no server answers: names without a meaning, and ports that refuse or ignore a connection."""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from faults import HOST


class Place(NamedTuple):
    """What stands in LM_HOST, and how it is known that a client waits there.

    Attributes:
        host: the address.
        variables: what else is in the environment.
        holds: whether a client now waits for ever.
    """

    host: str
    variables: Mapping[str, str]
    holds: Callable[[], bool]


def _never() -> bool:
    return False


@contextmanager
def named(name: str, _: Path) -> Iterator[Place]:
    """A name that means nothing."""
    yield Place(name, {}, _never)


@contextmanager
def refusing(_: Path) -> Iterator[Place]:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield Place(f"{HOST}:{taken.getsockname()[1]}", {}, _never)


@contextmanager
def ignoring(_folder: Path) -> Iterator[Place]:
    """A port that drops what comes, because its queue of new connections is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        ours = set()
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((HOST, port))
            ours.add(waiting.getsockname()[1])
        yield Place(f"{HOST}:{port}", {}, lambda: bool(_connecting(port) - ours))


def _connecting(port: int) -> set[int]:
    """The ports from which a connection to a port of this machine is tried and not answered. Source: proc(5)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    tried = [row[1] for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "02"]
    return {int(local.rpartition(":")[2], 16) for local in tried}


_RESOLVER: Final = """
import ctypes, pathlib, socket

resolve = socket.getaddrinfo

def getaddrinfo(*arguments, flags=0, **options):
    if flags & socket.AI_NUMERICHOST:  # nobody is asked
        return resolve(*arguments, flags=flags, **options)
    pathlib.Path("resolving").touch()
    mutex = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_init(mutex, None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # as the C library's own resolver: no signal ends it early

socket.getaddrinfo = getaddrinfo
"""


@contextmanager
def unresolving(folder: Path) -> Iterator[Place]:
    """A name server that does not answer: what asks it is inside the C library for ever."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(_RESOLVER, encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(folder / "site"), os.environ.get("PYTHONPATH"))))
    yield Place("lmstudio.example:1234", {"PYTHONPATH": path}, (folder / "resolving").exists)
