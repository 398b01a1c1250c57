"""The server within another program, on a background thread.

with background.start() as running:
    connect(running.port)
"""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from lmcli.closing import Closing
from lmcli.server.echo.echo_engine import EchoEngine
from lmcli.server.engine import Engine
from lmcli.server.listener import AUTHENTICATION_SECONDS, Server

HOST: Final = "127.0.0.1"


class Running(Closing):
    """A running server, until `close` or the end of the program.

    Attributes:
        host: the address it listens on.
        port: the port it listens on.
    """

    def __init__(self, server: Server, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._listening = threading.Event()
        self._failure: OSError | None = None
        self._server = server
        self._thread = threading.Thread(target=self._run, name="lm serve", daemon=True)
        self._thread.start()
        self._listening.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def close(self) -> None:
        """Stop listening, close all connections and end the thread; repeated calls do nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            self.port = await self._server.start(self.host, self.port)
        except OSError as error:
            self._failure = error
            return
        finally:
            self._listening.set()
        await self._stop.wait()
        await self._server.close()


def start(
    engine: Engine | None = None,
    *,
    host: str = HOST,
    port: int = 0,
    api_tokens: Mapping[str, str] | None = None,
    allowed_origins: Sequence[str] = (),
    authentication_seconds: float = AUTHENTICATION_SECONDS,
) -> Running:
    """Start a server; returns when it accepts connections.

    Args:
        engine: provides the models; None for the built-in echo models.
        host: the address to listen on.
        port: the port; 0 picks a free one.
        api_tokens: passkeys by identifier, of the accepted API tokens; None accepts all clients.
        allowed_origins: the web sites whose pages may connect.
        authentication_seconds: how long to wait for a client's HTTP request, and then for its credentials.

    Raises:
        OSError: the address cannot be listened on.
    """
    server = Server(
        engine or EchoEngine(),
        api_tokens=api_tokens,
        allowed_origins=allowed_origins,
        authentication_seconds=authentication_seconds,
    )
    return Running(server, host, port)
