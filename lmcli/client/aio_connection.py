"""One server, one identity, a socket for each namespace that is used, on an event loop."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from lmcli.chat import FilePart, Message
from lmcli.client.address import Address
from lmcli.client.aio_session import AioSession
from lmcli.client.connection import refuse_exposed_token
from lmcli.client.discovery import find_server
from lmcli.client.images import ImageSource, contents, image_sources, read_image, with_uploads
from lmcli.errors import ConnectionLost
from lmcli.wire import queries
from lmcli.wire.protocol import Credentials
from lmcli.wire.queries import Query


class AioConnection:
    """Sessions by namespace, see `Connection`, and the images that were uploaded over them.

    Args:
        host: the server, see `find_server`; looked for when the first session is asked for.
        credentials: the identity of the client.
        timeout: the longest silence of the server, in seconds.
        insecure_token: whether an API token may be sent unencrypted over a network.
    """

    def __init__(
        self, host: str | None, credentials: Credentials, *, timeout: float | None, insecure_token: bool = False
    ) -> None:
        self._host = host
        self._credentials = credentials
        self._timeout = timeout
        self._insecure_token = insecure_token
        self._address: Address | None = None
        self._sessions: dict[str, AioSession] = {}
        self._replaced: list[AioSession] = []
        self._opening: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._uploading = asyncio.Lock()
        self._uploaded_over: AioSession | None = None
        self._uploaded: dict[str, FilePart] = {}
        self._is_closed = False

    async def session(self, namespace: str) -> AioSession:
        """The socket to a namespace, for the next request.

        Raises:
            CannotConnect, NotAllowed, TimedOut: see `AioSession.open`.
        TokenExposed: the token would be sent unencrypted, and may not.
            ConnectionLost: the client was closed.
        """
        session = self._sessions.get(namespace)
        if session is not None and session.takes_requests:
            return session
        async with self._opening[namespace]:
            session = self._sessions.get(namespace)
            if session is None or not session.takes_requests:
                opened = await self._open(namespace)
                if session is not None:
                    self._replace(session, namespace)
                session = self._sessions[namespace] = opened
            return session

    async def resolve(self, messages: Sequence[Message]) -> list[Message]:
        """The same messages, with every image on the server; each is uploaded once.

        Raises:
            NoInput: a file is not there.
            BadInput: it is not an image that LM Studio accepts.
        """
        sources = image_sources(messages)
        if not sources:
            return list(messages)
        async with self._uploading:
            session = await self.session("files")
            if session is not self._uploaded_over:  # with its connection, a server forgets the files
                self._uploaded_over, self._uploaded = session, {}
            for source in sources:
                if source not in self._uploaded:
                    self._uploaded[source] = await session.ask(await asyncio.to_thread(_upload_of, source))
            return with_uploads(messages, self._uploaded)

    async def upload(self, src: ImageSource, name: str | None) -> FilePart:
        """Upload an image.

        Raises:
            NoInput: the file cannot be read.
        """
        session = await self.session("files")
        return await session.ask(await asyncio.to_thread(_upload_from, src, name))

    async def aclose(self) -> None:
        """Cancel what runs, and close all sockets; files that were uploaded are forgotten by the server."""
        self._is_closed = True
        sessions = (*self._replaced, *self._sessions.values())
        self._replaced.clear()
        self._sessions.clear()
        await asyncio.gather(*(session.aclose() for session in sessions))

    def _replace(self, session: AioSession, namespace: str) -> None:
        """Keep a session beside its successor, for as long as something runs on it, or files depend on it."""
        self._replaced = [old for old in self._replaced if not old.is_closed]
        self._replaced.append(session)
        if namespace != "files":
            session.close_when_idle()

    async def _open(self, namespace: str) -> AioSession:
        self._expect_open()
        if self._address is None:
            address = await asyncio.to_thread(find_server, self._host)
            if not self._insecure_token:
                refuse_exposed_token(address, self._credentials)
            self._address = address
        session = await AioSession.open(self._address, namespace, self._credentials, timeout=self._timeout)
        if self._is_closed:
            await session.aclose()
            self._expect_open()
        return session

    def _expect_open(self) -> None:
        if self._is_closed:
            raise ConnectionLost("the client was closed")


def _upload_of(source: str) -> Query[FilePart]:
    return queries.upload(*read_image(source))


def _upload_from(src: ImageSource, name: str | None) -> Query[FilePart]:
    data, known_name = contents(src)
    return queries.upload(data, name or known_name)
