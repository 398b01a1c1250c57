"""Open transports, and servers of a few lines for them."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import PATIENCE
from faults import (
    HOST,
    Listener,
    Peer,
)

from lmcli.client.address import Address
from lmcli.client.transport import Transport

Dial = Callable[..., Transport]


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Open transports, which are closed when the test ends."""
    with ExitStack() as cleanup:

        def to(address: Address | int, namespace: str = "llm", **options: Any) -> Transport:
            address = Address(HOST, address) if isinstance(address, int) else address
            transport = Transport.open(address, namespace, **options)
            cleanup.callback(transport.close)
            return transport

        yield to


def answering(data: bytes) -> Listener:
    """A server that says one thing to whatever it is asked, and ends."""

    def attend(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return Listener(attend)


def silent() -> Listener:
    """A server that takes everything and never answers."""

    def attend(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    return Listener(attend)


def saying(*values: Any) -> Callable[[Peer], None]:
    """A script that says something and then waits for the client to leave."""

    def script(peer: Peer) -> None:
        peer.send(*values)
        peer.wait_until_left()

    return script


def wait_for(event: threading.Event) -> None:
    """Read nothing meanwhile."""
    assert event.wait(PATIENCE)


def texts(transport: Transport, count: int) -> list[Any]:
    """So many texts, decoded; more may not have arrived with them."""
    found: list[Any] = []
    while len(found) < count:
        found += map(json.loads, transport.receive())
    assert len(found) == count
    return found
