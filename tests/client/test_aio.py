"""The asynchronous API is the synchronous one awaited: the same answers from a real server, and the same errors."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import LOOPS, StartServer
from faults import End, Listener, Proxy, ScriptedServer, after_texts, once
from loops import run
from packets import answering, failed, piece, sent

import lmcli as lms
from lmcli.server.background import Running
from lmcli.server.echo.echo_engine import EchoEngine

pytestmark = pytest.mark.parametrize("loop", LOOPS)

SLOW = 20.0
"""Tokens per second at which an answer of a thousand words lasts longer than any test."""
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment of the suite holds does not matter."""
    for name in ("LM_HOST", "LM_API_TOKEN", "LMSTUDIO_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def with_client(loop: str, port: int, work: Callable[[lms.AsyncClient], Awaitable[Any]], **options: Any) -> Any:
    """Run some work with a client."""

    async def main() -> Any:
        async with lms.AsyncClient(f"127.0.0.1:{port}", **options) as client:
            return await work(client)

    return run(loop, main())


def test_everything_on_a_model(server: Running, loop: str) -> None:
    """What the synchronous handle gives, the asynchronous one gives awaited."""

    async def work(client: lms.AsyncClient) -> list[object]:
        model = await client.llm.model()
        return [
            model.identifier,
            str(await model.respond("one two")),
            str(await model.complete("one two")),
            [str(fragment) async for fragment in model.complete_stream("one two")],
            await model.tokenize("one two"),
            await model.tokenize(["one", "two"]),
            await model.count_tokens("one two"),
            await model.apply_prompt_template("hi"),
            (await model.get_info()).display_name,
            await model.get_context_length(),
            [handle.identifier for handle in await client.llm.list_loaded()],
            [info.model_key for info in await client.system.list_downloaded_models()],
        ]

    with lms.Client(f"127.0.0.1:{server.port}") as client:
        model = client.llm.model()
        expected = [
            model.identifier,
            str(model.respond("one two")),
            str(model.complete("one two")),
            [str(fragment) for fragment in model.complete_stream("one two")],
            model.tokenize("one two"),
            model.tokenize(["one", "two"]),
            model.count_tokens("one two"),
            model.apply_prompt_template("hi"),
            model.get_info().display_name,
            model.get_context_length(),
            [handle.identifier for handle in client.llm.list_loaded()],
            [info.model_key for info in client.system.list_downloaded_models()],
        ]
    assert with_client(loop, server.port, work) == expected


def test_load_and_unload(start_server: StartServer, loop: str) -> None:
    """A model is loaded with progress that rises from 0.0 to 1.0, and unloaded by its handle."""
    progress: list[float] = []

    async def work(client: lms.AsyncClient) -> tuple[set[str], set[str]]:
        model = await client.llm.model("echo-jit", on_load_progress=progress.append)
        before = {handle.identifier for handle in await client.llm.list_loaded()}
        await model.unload()
        return before, {handle.identifier for handle in await client.llm.list_loaded()}

    before, after = with_client(loop, start_server(load_seconds=0.05).port, work)
    assert before - after == {"echo-jit"}
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert sorted(set(progress)) == progress


def test_a_stream_is_awaited_or_iterated_over(server: Running, loop: str) -> None:
    """`await` begins the prediction; a loop does so by itself; the result is there after either, without waiting."""

    async def work(client: lms.AsyncClient) -> list[lms.PredictionResult]:
        model = await client.llm.model()
        awaited = await model.respond_stream("one two")
        assert [str(fragment) async for fragment in awaited] == ["one", " two"]
        iterated = model.respond_stream("one two")
        assert [str(fragment) async for fragment in iterated] == ["one", " two"]
        assert [str(fragment) async for fragment in iterated] == []
        waited = await model.respond_stream("one two").wait_for_result()
        return [awaited.result(), iterated.result(), waited]

    results = with_client(loop, server.port, work)
    assert [(r.content, r.stats.stop_reason) for r in results] == [("one two", "eosFound")] * 3


def test_no_result_yet(start_server: StartServer, loop: str) -> None:
    """Who asks for the result too early gets an error at once, before and after the prediction began."""

    async def work(client: lms.AsyncClient) -> None:
        stream = (await client.llm.model()).respond_stream("one two")
        with pytest.raises(RuntimeError, match="no result yet"):
            stream.result()
        await stream
        with pytest.raises(RuntimeError, match="no result yet"):
            stream.result()

    with_client(loop, start_server(tokens_per_second=SLOW).port, work)


def test_callbacks(start_server: StartServer, loop: str) -> None:
    """The order and the values are those of the synchronous API."""
    seen: list[object] = []
    chat = lms.Chat()

    async def work(client: lms.AsyncClient) -> None:
        model = await client.llm.model()
        chat.add_user_message("one two")
        await model.respond(
            chat,
            on_prompt_processing_progress=seen.append,
            on_first_token=lambda: seen.append("first"),
            on_prediction_fragment=lambda fragment: seen.append(str(fragment)),
            on_message=chat.append,
        )

    with_client(loop, start_server().port, work)
    assert seen == [0.0, 0.5, 1.0, "first", "one", " two"]
    assert [message.role for message in chat.messages] == ["user", "assistant"]


def test_many_at_once_on_one_connection(server: Running, loop: str) -> None:
    """A thousand predictions run at once, each gets its own answer, and the server sees one connection."""

    async def work(client: lms.AsyncClient) -> list[str]:
        model = await client.llm.model()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(model.respond(f"number {index}")) for index in range(1000)]
        return [task.result().content for task in tasks]

    assert with_client(loop, server.port, work) == [f"number {index}" for index in range(1000)]


def test_sockets_are_opened_once_when_they_are_needed(loop: str) -> None:
    """A client alone opens nothing; tasks that need a namespace at the same time share one socket."""
    paths: list[str] = []

    def script(peer: Any) -> None:
        paths.append(peer.path)
        peer.greet()
        while True:
            request = peer.receive()
            result = [] if request["endpoint"] == "listDownloadedModels" else {"tokenCount": 1}
            peer.send({"type": "rpcResult", "callId": request["callId"], "result": result})

    async def work(client: lms.AsyncClient) -> None:
        assert paths == []
        model = lms.AsyncLLM(client._connection, "tiny")
        await asyncio.gather(*(model.count_tokens("hi") for _ in range(20)))
        await client.system.list_downloaded_models()

    with ScriptedServer(script) as server:
        with_client(loop, server.port, work)
    assert paths == ["/llm", "/system"]


def test_a_new_socket_after_a_loss(server: Running, loop: str) -> None:
    """A lost connection fails what runs on it; the next request opens another one."""

    async def work(client: lms.AsyncClient) -> str:
        model = lms.AsyncLLM(client._connection, "echo")
        with pytest.raises(lms.ConnectionLost):
            await model.respond("one two three")
        return str(await model.respond("one two"))

    with Proxy(server.port, once(after_texts(2, End.DROP))) as proxy:
        assert with_client(loop, proxy.port, work) == "one two"


def test_images(server: Running, tmp_path: Path, loop: str) -> None:
    """An image is uploaded once, whoever shows it, and prepared from a path, bytes or an open file."""
    path = tmp_path / "a b.png"
    path.write_bytes(PNG)
    history = {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": str(path)}}]}]}  # fmt: skip

    async def work(client: lms.AsyncClient) -> list[str]:
        with path.open("rb") as file:
            prepared = [await client.files.prepare_image(source) for source in (path, PNG, file)]
        model = await client.llm.model()
        answers = await asyncio.gather(*(model.respond(history) for _ in range(5)))
        assert [str(answer) for answer in answers] == ["what is it?"] * 5
        assert len(client._connection._uploaded) == 1
        chat = lms.Chat()
        chat.add_user_message("and this?", images=prepared)
        assert str(await model.respond(chat)) == "and this?"
        return [part.name for part in prepared]

    names = with_client(loop, server.port, work)
    assert (names[0], names[2]) == ("a b.png", "a b.png")


def test_one_task_reads_a_stream(start_server: StartServer, loop: str) -> None:
    """A second task that reads a stream gets an error, and the first one reads on."""

    async def work(client: lms.AsyncClient) -> str:
        stream = await (await client.llm.model()).respond_stream("one two three")
        first = asyncio.create_task(stream.wait_for_result())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two tasks read the same stream"):
            await stream.wait_for_result()
        return str(await first)

    assert with_client(loop, start_server(tokens_per_second=SLOW).port, work) == "one two three"


def test_a_closed_client(server: Running, loop: str) -> None:
    """After its end a client opens no more sockets; closing it again does nothing."""

    async def main() -> None:
        async with lms.AsyncClient(f"127.0.0.1:{server.port}") as client:
            await client.llm.model()
        await client.aclose()
        with pytest.raises(lms.ConnectionLost, match="the client was closed"):
            await client.llm.model()

    run(loop, main())


Act = Callable[[Any], Any]
"""What is done with a client; with an asynchronous one, what it gives is awaited."""

NOT_STUDIO = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def http(connection: Any) -> None:
    """Not a WebSocket server."""
    connection.recv(1000)
    connection.sendall(NOT_STUDIO)


def model(client: Any, identifier: str = "echo") -> Any:
    """A handle without asking the server."""
    if isinstance(client, lms.AsyncClient):
        return lms.AsyncLLM(client._connection, identifier)
    return lms.LLM(client, identifier)


def both(loop: str, act: Act, host: str, **options: Any) -> tuple[lms.LmError, lms.LmError]:
    """The errors of the two clients."""
    with pytest.raises(lms.LmError) as synchronous, lms.Client(host, **options) as client:
        act(client)

    async def main() -> None:
        async with lms.AsyncClient(host, **options) as client:
            await act(client)

    with pytest.raises(lms.LmError) as asynchronous:
        run(loop, main())
    return synchronous.value, asynchronous.value


def same(loop: str, act: Act, host: str | int, kind: type[lms.LmError], **options: Any) -> None:
    """Both clients raise the same error, with the same message and hints."""
    one, other = both(loop, act, host if isinstance(host, str) else f"127.0.0.1:{host}", **options)
    assert type(one) is type(other)
    assert isinstance(one, kind)
    assert (one.message, one.hints) == (other.message, other.hints)


ACTS: dict[str, tuple[Act, type[lms.LmError]]] = {
    "unknown model": (lambda client: client.llm.model("nope"), lms.ModelNotFound),
    "unload what is not loaded": (lambda client: client.llm.unload("nope"), lms.ModelNotFound),
    "unknown identifier": (lambda client: model(client, "nope").respond("hi"), lms.ModelNotFound),
    "raw value": (
        lambda client: model(client).respond("hi", config={"raw": {"llm.prediction.seed": 1}}),
        lms.UsageError,
    ),
    "value out of range": (lambda client: model(client).respond("hi", config={"temperature": -1}), lms.UsageError),
    "bad response format": (lambda client: model(client).respond("hi", response_format={}), lms.UsageError),
    "bad history": (lambda client: model(client).respond({"messages": [{}]}), lms.BadInput),
    "preset": (lambda client: model(client).respond("hi", preset="nope"), lms.PresetNotFound),
    "image that is not there": (lambda client: client.files.prepare_image("nope.png"), lms.NoInput),
    "load config": (
        lambda client: client.llm.model("echo-jit", config=lms.LoadConfig(context_length=-1)),
        lms.UsageError,
    ),
}


@pytest.mark.parametrize("name", ACTS)
def test_the_same_error(server: Running, name: str, loop: str) -> None:
    """What the real server, or the client itself, refuses."""
    act, kind = ACTS[name]
    same(loop, act, server.port, kind)


def test_the_same_error_where_nothing_is_loaded(start_server: StartServer, loop: str) -> None:
    """No model, and none asked for."""

    class Empty(EchoEngine):
        loaded = ()

    running = start_server(Empty())
    with lms.Client(f"127.0.0.1:{running.port}") as client:
        for handle in client.llm.list_loaded():
            handle.unload()
    same(loop, lambda client: client.llm.model(), running.port, lms.NoModelLoaded)


@pytest.mark.parametrize(
    ("host", "kind"),
    [("127.0.0.1:1", lms.CannotConnect), ("localhost:1", lms.CannotConnect), ("a b", lms.UsageError)],
)
def test_the_same_error_where_nobody_is(host: str, kind: type[lms.LmError], loop: str) -> None:
    """No server, and no address."""
    same(loop, lambda client: client.llm.list_loaded(), host, kind)


def test_the_same_error_for_an_unknown_host(loop: str) -> None:
    """A name that cannot be resolved."""
    same(loop, lambda client: client.llm.list_loaded(), "nobody.invalid", lms.CannotConnect)


def test_the_same_error_for_another_server(loop: str) -> None:
    """What answers is no WebSocket server."""
    with Listener(http) as server:
        same(loop, lambda client: client.llm.list_loaded(), server.port, lms.CannotConnect)


def test_the_same_error_for_refused_credentials(start_server: StartServer, loop: str) -> None:
    """A token that the server does not know."""
    running = start_server(options={"api_tokens": {"abcdefgh": "0123456789abcdefghij"}})
    same(loop, lambda client: client.llm.list_loaded(), running.port, lms.NotAllowed, api_token="")


def test_the_same_error_for_a_token_that_would_be_exposed(loop: str) -> None:
    """An API token is not sent to another machine unencrypted."""
    token = "sk-lm-abcdefgh:0123456789abcdefghij"
    same(loop, lambda client: client.llm.list_loaded(), "ws://192.0.2.1:1", lms.TokenExposed, api_token=token)


@pytest.mark.parametrize("end", [End.DROP, End.RESET])
def test_the_same_error_for_a_lost_connection(server: Running, end: End, loop: str) -> None:
    """The connection ends in the middle of an answer."""
    with Proxy(server.port, after_texts(3, end)) as proxy:
        same(loop, lambda client: model(client).respond("one two three"), proxy.port, lms.ConnectionLost)


SENT: dict[str, tuple[list[Any], type[lms.LmError]]] = {
    "failed": ([piece("a"), failed("it broke")], lms.PredictionFailed),
    "no end": ([piece("a"), {"type": "channelClose", "channelId": 1}], lms.Incomplete),
    "bad packet": ([piece("a"), sent(1, 5)], lms.RemoteProtocolError),
    "bad envelope": ([piece("a"), 5], lms.RemoteProtocolError),
    "warning": (
        [{"type": "communicationWarning", "warning": "no", "kind": "channelCreationParameterInvalid"}],
        lms.RequestRejected,
    ),
}


@pytest.mark.parametrize("name", SENT)
def test_the_same_error_for_what_a_server_sends(name: str, loop: str) -> None:
    """The server reports a failure, or breaks the protocol."""
    values, kind = SENT[name]
    with answering(*values) as server:
        same(loop, lambda client: model(client).respond("hi"), server.port, kind)


def test_the_same_error_for_silence(loop: str) -> None:
    """A timeout, counted while nothing arrives."""
    with answering(piece("a")) as server:
        same(loop, lambda client: model(client).respond("hi"), server.port, lms.TimedOut, timeout=0.2)


@pytest.mark.parametrize("arguments", [{"api_token": "secret"}, {"timeout": 0}, {"timeout": float("nan")}])
def test_the_same_error_for_bad_arguments(arguments: dict[str, Any], loop: str) -> None:
    """A client that cannot be made."""
    kind = lms.BadSetting if "api_token" in arguments else lms.UsageError
    same(loop, lambda client: client.llm.list_loaded(), "127.0.0.1:1", kind, **arguments)
