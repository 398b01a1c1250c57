"""Many predictions on one socket of an event loop: what is read, what is kept, what waits, and what never does."""

import asyncio
import gc
import json
import os
import select
import socket
import ssl
import threading
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from conftest import CREDENTIALS, LOOPS, PATIENCE
from faults import (
    HOST,
    End,
    Left,
    Listener,
    Peer,
    Proxy,
    ScriptedServer,
    byte_by_byte,
    text_frame,
    without_pongs,
)
from loops import run
from packets import asking, closed, piece, success, warning

import lmcli as lms
from lmcli.client.address import Address
from lmcli.client.aio_connection import AioConnection
from lmcli.client.aio_flow import UNREAD_VALUES
from lmcli.client.aio_session import AioSession
from lmcli.client.aio_transport import AioTransport
from lmcli.errors import CannotConnect, ConnectionLost, Incomplete, RequestRejected, TimedOut
from lmcli.server.background import Running
from lmcli.values import Fragment
from lmcli.wire.channels import Channel
from lmcli.wire.multiplexer import WARNINGS
from lmcli.wire.protocol import Rejection

pytestmark = pytest.mark.parametrize("loop", LOOPS)


async def opened(port: int, **options: Any) -> AioSession:
    """A session with a server of this machine."""
    return await AioSession.open(Address(HOST, port), "llm", CREDENTIALS, **options)


async def text_of(session: AioSession, channel: Channel) -> str:
    """The fragments' text, to the end."""
    text = ""
    while not channel.is_over:
        text += "".join(value.content for value in await session.read(channel) if isinstance(value, Fragment))
    return text


def many(count: int, channel: int = 1) -> bytes:
    """Fragments as a server sends them, in one piece."""
    return text_frame(json.dumps(piece("x", channel)).encode()) * count


def test_a_slow_consumer_holds_the_server_back(loop: str) -> None:
    """Who does not read is not sent more than the system's buffers and a small share hold."""
    most = 200_000_000
    sent: list[int] = []
    is_stuck = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        block, count = many(1000), 0
        peer.socket.setblocking(False)
        while count < most and select.select([], [peer.socket], [], 0.5)[1]:
            count += peer.socket.send(block[count % len(block) :])
        sent.append(count)
        is_stuck.set()
        peer.socket.setblocking(True)

    async def main() -> None:
        session = await opened(server.port)
        prediction = await session.predict(asking())
        await session.read(prediction)
        await asyncio.to_thread(is_stuck.wait, PATIENCE)
        assert prediction.unread_count < 5000
        await session.aclose()

    with ScriptedServer(script) as server:
        run(loop, main())
    assert sent[0] < 16_000_000


def test_what_is_not_read_does_not_starve_the_others(loop: str) -> None:
    """Of a prediction that is not read so much is kept; then it is cancelled, and the other one gets its answer."""
    asked: list[Any] = []

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.receive()
        for _ in range(100):
            peer.socket.sendall(many(1000))
        peer.send(piece("at last", 2), success(2), closed(2))
        asked.append(peer.receive())
        peer.send(success(1, "userStopped"), closed(1))
        peer.wait_until_left()

    async def main() -> None:
        session = await opened(server.port)
        unread = await session.predict(asking())
        assert await text_of(session, await session.predict(asking())) == "at last"
        assert UNREAD_VALUES <= unread.unread_count < 80_000
        await session.read(unread)
        with pytest.raises(Incomplete, match="65536 of its values were not read while others waited"):
            await session.read(unread)
        await session.aclose()

    with ScriptedServer(script) as server:
        run(loop, main())
    assert asked[0]["message"] == {"type": "cancel"}


def test_memory_is_flat(server: Running, loop: str) -> None:
    """Hundreds of predictions, whole, left and cancelled, leave nothing behind in a client that lives on."""

    async def some(model: lms.AsyncLLM, count: int) -> None:
        async def left() -> None:
            async for _ in model.respond_stream("one two three"):
                break

        for _ in range(count // 20):
            await asyncio.gather(*(model.respond("one two three") for _ in range(10)), *(left() for _ in range(10)))

    async def main() -> int:
        async with lms.AsyncClient(f"{HOST}:{server.port}", "") as client:
            model = await client.llm.model()
            await some(model, 100)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            await some(model, 600)
            await model.count_tokens("hi")
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        assert (
            run(loop, main(), debug=False) < 500_000
        )  # the server runs in this process, too: what it keeps counts as well
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("end", [End.DROP, End.RESET])
def test_a_loss_ends_all_that_runs(end: End, loop: str) -> None:
    """Each prediction gives what had arrived, then an error of its own; what is asked afterwards is refused."""

    def script(peer: Peer) -> None:
        peer.greet()
        for number in (1, 2, 3):
            peer.receive()
            peer.send(piece(f"{number}", number))
        peer.receive()
        if end is End.RESET:
            peer.reset()

    async def main() -> None:
        session = await opened(server.port)
        predictions = [await session.predict(asking()) for _ in range(3)]
        texts = [(await session.read(prediction))[0] for prediction in predictions]
        assert [str(text) for text in texts] == ["1", "2", "3"]
        waits = [session.read(prediction) for prediction in predictions]
        errors = await asyncio.gather(*waits, session.call("countTokens"), return_exceptions=True)
        assert [type(error) for error in errors] == [ConnectionLost] * 4
        assert len({id(error) for error in errors}) == 4
        with pytest.raises(ConnectionLost):
            await session.predict(asking())
        await session.aclose()

    with ScriptedServer(script) as server:
        run(loop, main())


def test_a_timeout_counts_from_what_moved_the_prediction_on(loop: str) -> None:
    """Traffic of others does not keep a silent prediction waiting; each value of its own does."""
    is_over = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.receive()
        while not is_over.wait(0.05):
            peer.send(piece("x", 2))

    async def main() -> None:
        session = await opened(server.port, timeout=1.0)
        silent, busy = await session.predict(asking()), await session.predict(asking())
        reader = asyncio.create_task(text_of(session, busy))
        with pytest.raises(TimedOut, match=r"the server was silent for 1 s"):
            await session.read(silent)
        assert not reader.done()
        reader.cancel()
        is_over.set()
        await session.aclose()

    with ScriptedServer(script) as server:
        run(loop, main())


def test_without_a_pong_the_connection_is_lost(server: Running, loop: str) -> None:
    """A server that answers nothing, not even a ping, is given up while somebody waits for it."""

    async def main() -> None:
        transport = AioTransport(Address(HOST, proxy.port), "llm", timeout=None)
        transport.ping_after = transport.lost_after = 0.2
        lost = asyncio.get_running_loop().create_future()
        transport.on_lost = lambda: lost.set_result(None)
        await transport.connect()
        await lost
        assert "it no longer answers" in str(transport.loss)
        await transport.wait_closed()

    with Proxy(server.port, without_pongs) as proxy:
        run(loop, main())


def test_a_pong_keeps_a_silent_connection(server: Running, loop: str) -> None:
    """A server that answers pings may be silent for as long as it likes."""

    async def main() -> None:
        transport = AioTransport(Address(HOST, server.port), "llm", timeout=None)
        transport.ping_after = transport.lost_after = 0.1
        await transport.connect()
        await asyncio.sleep(1)
        assert transport.is_open
        transport.close()
        await transport.wait_closed()

    run(loop, main())


def test_byte_by_byte(server: Running, loop: str) -> None:
    """However the bytes arrive, the text is the same."""

    async def main() -> str:
        session = await opened(proxy.port)
        text = await text_of(session, await session.predict(asking("one two three")))
        await session.aclose()
        return text

    with Proxy(server.port, byte_by_byte) as proxy:
        assert run(loop, main()) == "one two three"


def test_a_server_that_accepts_nothing(loop: str) -> None:
    """A request that is too large for the buffers times out; closing takes a moment only."""
    is_over = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        is_over.wait(PATIENCE)

    async def main() -> None:
        session = await opened(server.port, timeout=0.5)
        with pytest.raises(TimedOut, match=r"the server accepted no data for 0\.5 s"):
            await session.call("uploadFileBase64", {"contentBase64": "x" * 50_000_000})
        await session.aclose()
        is_over.set()

    with ScriptedServer(script) as server:
        run(loop, main())


@pytest.mark.parametrize("count", [0, 1])
def test_no_answer_to_the_authentication(count: int, loop: str) -> None:
    """A server that is silent from the start, or after the handshake, is given up after the timeout."""
    is_over = threading.Event()

    def attend(connection: socket.socket) -> None:
        if count:
            Peer(connection)
        is_over.wait(PATIENCE)

    async def main() -> None:
        with pytest.raises(TimedOut, match=r"within 0\.3 s"):
            await opened(server.port, timeout=0.3)
        is_over.set()

    with Listener(attend) as server:
        run(loop, main())


def test_garbage_right_behind_the_answer_to_the_authentication(loop: str) -> None:
    """Who goes on like that is not LM Studio; the first request does not have to find out."""

    def script(peer: Peer) -> None:
        peer.receive()
        peer.send({"success": True}, {"success": True})
        peer.wait_until_left()

    async def main() -> None:
        with pytest.raises(CannotConnect, match=r"is not LM Studio: .* not an envelope"):
            await opened(server.port)

    with ScriptedServer(script) as server:
        run(loop, main())


def test_a_name_is_resolved_beside_the_loop(server: Running, monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    """While the resolver takes its time the loop runs on: here the resolver waits for the loop."""
    has_moved = threading.Event()
    resolve = socket.getaddrinfo

    def slow(*arguments: Any, **options: Any) -> Any:
        assert has_moved.wait(PATIENCE)
        return resolve(*arguments, **options)

    async def main() -> str:
        asyncio.get_running_loop().call_later(0.05, has_moved.set)
        async with lms.AsyncClient(f"localhost:{server.port}", "") as client:
            return str(await (await client.llm.model()).respond("hi"))

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert run(loop, main()) == "hi"


def test_an_image_is_read_beside_the_loop(server: Running, tmp_path: Path, loop: str) -> None:
    """While a file takes its time the loop runs on: here the loop itself writes what is read."""
    pipe = tmp_path / "slow.png"
    os.mkfifo(pipe)
    image = b"\x89PNG\r\n\x1a\n" + bytes(100)

    async def main() -> str:
        async with lms.AsyncClient(f"{HOST}:{server.port}", "") as client:
            task = asyncio.create_task(client.files.prepare_image(pipe))
            with await asyncio.to_thread(pipe.open, "wb") as file:
                await asyncio.sleep(0.05)
                file.write(image)
            return (await task).name

    assert run(loop, main()) == "slow.png"


def test_the_server_is_discovered_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    """While ports are probed the loop runs on: here the server that answers runs on the same loop."""
    body = b'{"lmstudio":true}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async def main() -> str:
        async with await asyncio.start_server(greet, HOST, 0) as server:
            port = server.sockets[0].getsockname()[1]
            folder = tmp_path / ".lmstudio" / ".internal"
            folder.mkdir(parents=True)
            (folder / "http-server.json").write_text(json.dumps({"port": port}))
            async with lms.AsyncClient(api_token="") as client:
                with pytest.raises(CannotConnect) as refused:
                    await client.llm.list_loaded()
            return str(refused.value).replace(str(port), "PORT")

    for name in ("LM_HOST", "LM_API_TOKEN", "LMSTUDIO_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(loop, main()) == f"what answers at {HOST}:PORT is not LM Studio: HTTP status 200"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who vouches for the servers of this module."""
    return trustme.CA()


def encrypted(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """A server's end of TLS, with a certificate for a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def predicting(peer: Peer) -> None:
    """Answer one prediction with more than one TLS record holds."""
    peer.greet()
    peer.receive()
    peer.send(*(piece("0123456789") for _ in range(5000)), success(), closed())
    peer.wait_until_left()


def test_tls(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    """With a certificate of a trusted authority a prediction runs over TLS."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))

    async def main() -> str:
        session = await AioSession.open(Address("localhost", server.port, secure=True), "llm", CREDENTIALS)
        text = await text_of(session, await session.predict(asking()))
        await session.aclose()
        return text

    with ScriptedServer(predicting, tls=encrypted(authority, "localhost")) as server:
        assert run(loop, main()) == "0123456789" * 5000


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_tls_that_fails(authority: trustme.CA, *, is_encrypted: bool, loop: str) -> None:
    """A certificate that nobody trusts, and a server without TLS, are refused; the first with its reason."""

    async def main() -> CannotConnect:
        with pytest.raises(CannotConnect) as refused:
            await AioSession.open(Address("localhost", port, secure=True), "llm", CREDENTIALS)
        return refused.value

    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    if is_encrypted:
                        encrypted(authority, "localhost").wrap_socket(connection, server_side=True).close()
                    else:
                        connection.recv(1000)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        error = run(loop, main())
        thread.join()
    if is_encrypted:
        assert "its certificate is not trusted" in error.message
        assert error.hints == ("SSL_CERT_FILE names a file with the certificate authorities to trust",)


def warns(peer: Peer) -> None:
    """Answer each call with a warning, as often as a server does; then answer nothing."""
    peer.greet()
    for _ in range(WARNINGS):
        number = peer.receive()["callId"]
        peer.send(warning(f"Received rpcCall for unknown endpoint, endpoint = new, callId = {number}"))
    peer.wait_until_left()


def test_a_new_socket_after_the_last_warning(loop: str) -> None:
    """No request is sent where it may remain unanswered, and the old socket is closed once nothing runs on it."""
    closed_count = iter(range(9))
    is_closed = threading.Event()

    def script(peer: Peer) -> None:
        with suppress(Left, OSError):
            warns(peer)
        if next(closed_count) == 0:
            is_closed.set()

    async def main() -> None:
        connection = AioConnection(f"{HOST}:{server.port}", CREDENTIALS, timeout=None)
        old = await connection.session("llm")
        for _ in range(WARNINGS):
            with pytest.raises(RequestRejected, match="did not understand the request new"):
                await old.call("new")
        with pytest.raises(RequestRejected, match="was not sent: the server has used up its warnings"):
            await old.call("new")
        new = await connection.session("llm")
        assert new is not old
        assert await asyncio.to_thread(is_closed.wait, PATIENCE)
        with pytest.raises(RequestRejected, match="did not understand the request new"):
            await new.call("new")
        await connection.aclose()

    with ScriptedServer(script) as server:
        run(loop, main())


def test_a_request_that_waits_for_a_mute_server(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests that are under way at the last warning fail if no answer begins soon: none waits for ever."""
    monkeypatch.setattr("lmcli.client.aio_session.MUTE_SECONDS", 0.05)

    async def main() -> None:
        session = await opened(server.port)
        calls = [session.call("new") for _ in range(WARNINGS + 1)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [Rejection] * WARNINGS + [RequestRejected]
        await session.aclose()

    with ScriptedServer(warns) as server:
        run(loop, main())
