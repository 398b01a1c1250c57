"""Connecting a socket on an event loop: names are resolved, and certificates loaded, in threads."""

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from lmcli.client.address import Address

if TYPE_CHECKING:
    import ssl


async def connected(address: Address) -> socket.socket:
    """A socket to the first of the host's addresses that answers.

    Raises:
        OSError: none does, or the name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, kind, protocol, _, target in await loop.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM
    ):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(connection, target)
        except OSError as error:
            connection.close()
            failure = failure or error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure or OSError("the host has no address")


def tls_context() -> "ssl.SSLContext":
    """What verifies certificates; reads files."""
    import ssl  # noqa: PLC0415  loaded with asyncio; the architecture keeps it out of every other start

    return ssl.create_default_context()


def plain(error: OSError) -> OSError:
    """The same error in the system's words, where asyncio has put its own in their place."""
    if type(error).__module__ == "builtins" and error.errno is not None:
        return type(error)(error.errno, os.strerror(error.errno))
    return error
