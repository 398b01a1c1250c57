"""The server's side of the wire: HTTP, authentication, envelopes, and invalid input."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import GUEST, Connect, Packet, StartServer, Wire, predicting, query, stats_of, text_of
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from properties import examples
from websockets.exceptions import ConnectionClosed

from lmcli.server.background import Running
from lmcli.server.dispatch import (
    MAX_CONCURRENT_CALLS,
    MAX_CREDENTIALS_BYTES,
    MAX_WARNINGS,
    can_raise_limit,
)
from lmcli.server.echo.echo_engine import LOADED_AT_START, EchoEngine, EchoModel, Pace
from lmcli.server.engine import LARGE_TEXT, LoadedModel, PredictionEvent, PredictionRequest
from lmcli.server.limits import MAX_CALLS, MAX_CHANNELS
from lmcli.server.listener import NAMESPACES
from lmcli.values import LoadProgress, ModelInfo
from lmcli.wire.envelopes import KINDS

TOKEN = {"authVersion": 1, "clientIdentifier": "abcdefgh", "clientPasskey": "0123456789abcdefghij"}


@pytest.mark.parametrize("path", ["/diagnostics", "/repository", "/plugins", "/runtime"])
def test_empty_namespace_warns_about_every_request(server: Running, connect: Connect, path: str) -> None:
    """Clients that open all namespaces at once are accepted; what the server does not have is an unknown endpoint."""
    client = connect(server, path)
    for _ in range(MAX_WARNINGS + 2):
        client.begin("rpcCall", "searchModels", {"opts": {}})
        client.open("streamLogs")
    kinds = ("rpcEndpointUnknown", "channelEndpointUnknown")
    for number in range(MAX_WARNINGS):
        warning = client.receive()
        assert (warning["type"], warning["kind"]) == ("communicationWarning", kinds[number % 2])
    client.send({"type": "keepAlive"})
    assert client.receive() == {"type": "keepAliveAck"}, "no further warnings, and an open connection"


def test_namespace_ignores_the_query(server: Running, connect: Connect) -> None:
    """`/llm?x` is `/llm`."""
    assert connect(server, "/llm?x=1").result("listLoaded")[0]["identifier"] == "echo"


@pytest.mark.parametrize(
    "junk",
    [
        "not JSON",
        "[]",
        b"binary",
        {"type": "rpcCall", "endpoint": "listLoaded", "callId": 1},
        {**GUEST, "authVersion": 2},
        {**GUEST, "clientPasskey": None},
        {**GUEST, "clientIdentifier": "x" * 257},
    ],
)
def test_malformed_authentication_is_ignored(server: Running, connect: Connect, junk: Any) -> None:
    """Texts before a valid authentication are ignored."""
    wire = connect(server, identity=None)
    wire.send(junk)
    wire.send({"type": "keepAlive"})
    wire.send(GUEST)
    assert wire.receive() == {"success": True}
    assert wire.result("listLoaded"), "the first answer"


def test_large_text_before_the_authentication_is_rejected(server: Running, connect: Connect) -> None:
    """The limit for the size of a text is raised by the authentication."""
    assert can_raise_limit(), "this release of websockets has another attribute for its limit"
    client = connect(server, identity=None)
    client.send(" " * MAX_CREDENTIALS_BYTES + "{}")
    with pytest.raises(ConnectionClosed) as ended:
        client.receive()
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1009
    asked = {"specifier": query(), "inputString": "a " * LARGE_TEXT}
    assert connect(server).result("countTokens", asked) == {"tokenCount": LARGE_TEXT + 1}


def test_large_authentication_is_rejected_without_a_variable_limit(
    server: Running, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is received, and then rejected, if the limit of websockets cannot be raised."""
    monkeypatch.setattr("lmcli.server.dispatch.MAX_CREDENTIALS_BYTES", 10)
    client = connect(server, identity=None)
    client.send(" " * 11)
    assert client.receive() == {"success": False, "error": "The authentication is too large"}


def test_longest_credentials_are_accepted(server: Running, connect: Connect) -> None:
    """The limit is large enough for the longest credentials with all characters escaped."""
    longest = {**GUEST, "clientIdentifier": "\ud83d" * 256, "clientPasskey": "\x00" * 256}
    assert is_authenticated(connect(server, identity=None), longest)


def test_authentication_times_out(start_server: StartServer, connect: Connect) -> None:
    """A client that does not authenticate in time receives an error, and the connection closes."""
    wire = connect(start_server(options={"authentication_seconds": 0.05}), identity=None)
    assert wire.receive() == {"success": False, "error": "No authentication within 0.05 seconds"}
    with pytest.raises(ConnectionClosed):
        wire.receive()


def is_authenticated(wire: Wire, identity: Packet) -> bool:
    wire.send(identity)
    return wire.receive() == {"success": True}


def test_identifier_belongs_to_its_first_passkey(server: Running, connect: Connect) -> None:
    """Another passkey is rejected while the client has a connection, and accepted afterwards."""
    other = {**GUEST, "clientPasskey": "other"}
    first = connect(server)
    intruder = connect(server, identity=None)
    intruder.send(other)
    assert intruder.receive() == {"success": False, "error": "Invalid passkey for this client identifier"}
    with pytest.raises(ConnectionClosed):
        intruder.receive()
    second = connect(server, "/system")
    first.socket.close()
    late = connect(server, identity=None)
    late.send(other)
    assert late.receive()["success"] is False, "the connection to /system is still open"
    second.socket.close()
    assert any(is_authenticated(connect(server, identity=None), other) for _ in range(100)), "both are closed"


def test_passkeys_with_surrogates_differ(server: Running, connect: Connect) -> None:
    """Passkeys that cannot be encoded as UTF-8 are compared exactly."""
    assert is_authenticated(connect(server, identity=None), {**GUEST, "clientPasskey": "\ud83d"})
    assert not is_authenticated(connect(server, identity=None), {**GUEST, "clientPasskey": "?"})
    assert not is_authenticated(connect(server, identity=None), {**GUEST, "clientPasskey": "\ude00"})


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the server's end among this process's descriptors")
def test_tcp_keepalive_is_enabled(server: Running, wire: Wire) -> None:
    """A client whose machine is gone is detected by TCP keepalive."""
    client = wire.socket.socket.getsockname()
    found = [keep_alive(int(entry.name), client) for entry in Path("/proc/self/fd").iterdir()]
    assert [value for value in found if value is not None] == [1]


def keep_alive(descriptor: int, peer: Any) -> int | None:
    """The keepalive option of a descriptor that is a socket connected to a peer."""
    with suppress(OSError), socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as found:
        if found.getpeername() == peer:
            return found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return None


@pytest.mark.parametrize(
    ("identity", "answer"),
    [
        (TOKEN, {"success": True}),
        (GUEST, {"success": False, "error": "This server requires an API token"}),
        ({**TOKEN, "clientPasskey": "x" * 20}, {"success": False, "error": "Invalid API token"}),
        ({**TOKEN, "clientIdentifier": "hgfedcba"}, {"success": False, "error": "Invalid API token"}),
    ],
)
def test_api_tokens_are_required(start_server: StartServer, connect: Connect, identity: Packet, answer: Packet) -> None:
    """With API tokens only clients that have one are accepted."""
    tokens = {TOKEN["clientIdentifier"]: TOKEN["clientPasskey"]}
    wire = connect(start_server(options={"api_tokens": tokens}), identity=None)
    wire.send(identity)
    assert wire.receive() == answer


def test_calls_and_channels_have_numbers_of_their_own(wire: Wire) -> None:
    """A call and a channel may have the same number at the same time."""
    wire.send({"type": "channelCreate", "endpoint": "predict", "channelId": 7, "creationParameter": predicting("a b")})
    wire.send({"type": "rpcCall", "endpoint": "listLoaded", "callId": 7})
    kinds = [wire.receive()["type"] for _ in range(8)]
    assert sorted(kinds) == sorted(["rpcResult", *["channelSend"] * 6, "channelClose"])


def test_void_result_is_absent(wire: Wire) -> None:
    """A call without a result omits the key: the JavaScript SDK hangs on null."""
    missing = {"specifier": query("nope"), "throwIfNotFound": False}
    assert wire.call("getModelInfo", missing) == {"type": "rpcResult", "callId": 0}
    assert wire.call("unloadModel", {"identifier": "echo"}) == {"type": "rpcResult", "callId": 1}


def test_keep_alive_is_acknowledged(wire: Wire) -> None:
    """Each `keepAlive` has its `keepAliveAck`."""
    wire.send({"type": "keepAlive"})
    assert wire.receive() == {"type": "keepAliveAck"}


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[1]",
        b"binary",
        {"type": "someday"},
        {"type": "rpcCall", "endpoint": "listLoaded"},
        {"type": "rpcCall", "endpoint": 5, "callId": 1},
        {"type": "channelAck", "channelId": 3, "ackId": 0},
        {"type": "communicationWarning", "warning": "you erred"},
        {"type": "signalUnsubscribe", "subscribeId": 3},
    ],
)
def test_envelopes_without_an_answer(wire: Wire, text: Any) -> None:
    """Malformed envelopes, acknowledgements and warnings are ignored."""
    wire.send(text)
    wire.send({"type": "keepAlive"})
    assert wire.receive() == {"type": "keepAliveAck"}


def call(endpoint: str, **more: Any) -> Packet:
    return {"type": "rpcCall", "endpoint": endpoint, "callId": 1, **more}


def channel(endpoint: str, parameter: Any) -> Packet:
    return {"type": "channelCreate", "endpoint": endpoint, "channelId": 1, "creationParameter": parameter}


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (call("nope"), "rpcEndpointUnknown"),
        (call("predict"), "rpcEndpointUnknown"),
        (call("listLoaded", parameter=None), "rpcParameterTypeError"),
        (call("tokenize"), "rpcParameterTypeError"),
        (call("tokenize", parameter={"specifier": query(), "inputString": 5}), "rpcParameterTypeError"),
        (call("tokenize", parameter={"specifier": {"type": "who"}, "inputString": "a"}), "rpcParameterTypeError"),
        (call("unloadModel", parameter={"identifier": None}), "rpcParameterTypeError"),
        (channel("nope", {}), "channelEndpointUnknown"),
        (channel("predict", {}), "channelCreationParameterTypeError"),
        (channel("predict", predicting("a", fuzzyPresetIdentifier=None)), "channelCreationParameterTypeError"),
        (channel("predict", predicting("a") | {"history": {"messages": [{"role": "user", "content": "a"}]}}),
         "channelCreationParameterTypeError"),
        (channel("predict", predicting("a", {"layers": [{}]})), "channelCreationParameterTypeError"),
        (channel("getOrLoad", {"identifier": "echo"}), "channelCreationParameterTypeError"),
        ({"type": "channelSend", "channelId": 9, "message": {"type": "cancel"}}, "channelUnknown"),
        ({"type": "signalSubscribe", "endpoint": "x", "subscribeId": 0}, "signalEndpointUnknown"),
        ({"type": "writableSignalSubscribe", "endpoint": "x", "subscribeId": 0}, "writableSignalEndpointUnknown"),
    ],
)  # fmt: skip
def test_invalid_request_gets_a_warning_and_no_answer(wire: Wire, request_: Packet, kind: str) -> None:
    """The kind of the warning depends on the request; the connection stays open."""
    wire.send(request_)
    wire.send({"type": "keepAlive"})
    warning = wire.receive()
    assert (warning["type"], warning["kind"]) == ("communicationWarning", kind)
    assert wire.receive() == {"type": "keepAliveAck"}


def test_invalid_channel_message_gets_a_warning(start_server: StartServer, connect: Connect) -> None:
    """A channel accepts a cancel only; after another message it continues."""
    wire = connect(start_server(prompt_tokens_per_second=1))
    number = wire.open("predict", predicting("a b c"))
    wire.send({"type": "channelSend", "channelId": number, "message": {"type": "hurry"}})
    kinds = {wire.receive()["type"] for _ in range(2)}
    assert kinds == {"channelSend", "communicationWarning"}
    wire.cancel(number)
    assert stats_of(wire.packets(number))["stopReason"] == "userStopped"


def test_number_of_an_open_channel_is_rejected(start_server: StartServer, connect: Connect) -> None:
    """A number can be reused only after its channel has ended."""
    wire = connect(start_server(), "/system")
    wire.send({"type": "channelCreate", "endpoint": "alive", "channelId": 3})
    wire.send({"type": "channelCreate", "endpoint": "alive", "channelId": 3})
    assert wire.receive()["kind"] == "channelAlreadyOpen"


def test_number_of_an_ended_channel_is_free(wire: Wire) -> None:
    """A number can be reused after its channel has ended."""
    for _ in range(2):
        wire.send(channel("predict", predicting("a")))
        assert text_of(wire.packets(1)) == "a"


def test_warnings_are_limited(wire: Wire) -> None:
    """A client receives at most five warnings."""
    for _ in range(9):
        wire.begin("rpcCall", "nope")
    wire.send({"type": "keepAlive"})
    kinds = [wire.receive()["type"] for _ in range(6)]
    assert kinds == ["communicationWarning"] * 5 + ["keepAliveAck"]


def test_logged_warnings_are_limited(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """Invalid requests are logged as often as the client is warned."""
    caplog.set_level("DEBUG", "lmcli")
    for _ in range(50):
        wire.begin("rpcCall", "nope")
        wire.send("no envelope")
    wire.send({"type": "keepAlive"})
    while wire.receive()["type"] != "keepAliveAck":
        pass
    messages = [record.getMessage() for record in caplog.records]
    for beginning in ("warned a client", "ignored a text"):
        assert len([message for message in messages if message.startswith(beginning)]) == MAX_WARNINGS


class Broken(EchoModel):
    """A model whose methods raise unexpected exceptions."""

    async def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        raise ZeroDivisionError(request)
        yield

    async def count_tokens(self, text: str) -> int:
        raise KeyError(text)

    async def tokenize(self, text: str) -> Sequence[int]:
        return [object()]  # type: ignore[list-item]


class BrokenEngine(EchoEngine):
    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        return [(LOADED_AT_START, Broken({}, Pace()))]

    async def load(
        self, model: ModelInfo, values: Mapping[str, Any], cancelled: asyncio.Event
    ) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        yield LoadProgress(0.0)
        raise AssertionError((model, values, cancelled))


def test_unexpected_exception_ends_one_request(
    start_server: StartServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the error of one call or channel; the connection and its other channels continue."""
    wire = connect(start_server(BrokenEngine()))
    problem = {"title": "Internal error of the server", "rootTitle": "Internal error of the server"}
    for endpoint in ("countTokens", "tokenize"):
        assert wire.call(endpoint, {"specifier": query(), "inputString": "a"})["error"] == problem
    assert wire.predict("a") == [{"type": "error", **problem}]
    for endpoint, key in (("loadModel", "modelKey"), ("getOrLoad", "identifier")):
        parameter = {key: "echo-jit", "loadConfigStack": {"layers": []}}
        assert wire.stream(endpoint, parameter)[-1] == {"type": "error", **problem}
    assert [info["identifier"] for info in wire.result("listLoaded")] == ["echo"]
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 5
    assert all(record.exc_info for record in errors)


class Slow(EchoModel):
    """A model that waits with counting for the text `go`."""

    def __init__(self) -> None:
        super().__init__({}, Pace())
        self.may_go = asyncio.Event()

    async def count_tokens(self, text: str) -> int:
        if text == "go":
            self.may_go.set()
        await self.may_go.wait()
        return 1


class SlowEngine(EchoEngine):
    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        return [(LOADED_AT_START, Slow())]


def test_slow_calls_do_not_block_the_connection(start_server: StartServer, connect: Connect) -> None:
    """A connection is read while calls wait; calls beyond a limit are rejected."""
    server = start_server(SlowEngine())
    wire = connect(server)
    for _ in range(MAX_CONCURRENT_CALLS + 1):
        wire.begin("rpcCall", "countTokens", {"specifier": query(), "inputString": "a"})
    wire.send({"type": "keepAlive"})
    assert wire.receive() == {"type": "keepAliveAck"}
    for _ in range(MAX_CALLS - MAX_CONCURRENT_CALLS):
        wire.begin("rpcCall", "countTokens", {"specifier": query(), "inputString": "a"})
    assert "Too many calls" in wire.receive()["error"]["title"]
    connect(server).result("countTokens", {"specifier": query(), "inputString": "go"})
    assert {wire.receive()["callId"] for _ in range(MAX_CALLS)} == set(range(MAX_CALLS))


def test_quick_calls_are_not_limited(wire: Wire) -> None:
    """A client may send any number of calls before it reads."""
    for _ in range(2 * MAX_CALLS):
        wire.begin("rpcCall", "listLoaded")
    assert [wire.receive()["type"] for _ in range(2 * MAX_CALLS)] == ["rpcResult"] * 2 * MAX_CALLS


def test_channels_are_limited(server: Running, connect: Connect) -> None:
    """A channel beyond the limit is rejected, and the open ones stay open."""
    wire = connect(server, "/system")
    for _ in range(MAX_CHANNELS):
        wire.open("alive")
    one_more = wire.open("alive")
    answer = wire.receive()
    assert (answer["type"], answer["channelId"]) == ("channelError", one_more)
    assert "Too many channels" in answer["error"]["title"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ENDPOINTS = sorted({name for namespace in NAMESPACES.values() for name in (*namespace.calls, *namespace.channels)})
PARAMETERS: st.SearchStrategy[Packet] = st.fixed_dictionaries(
    {},
    optional={
        "specifier": st.just(query()) | JSON,
        "modelSpecifier": st.just(query()) | JSON,
        "throwIfNotFound": st.booleans(),
        "inputString": st.text() | JSON,
        "identifier": st.text() | JSON,
        "modelKey": st.sampled_from(["echo", "nope"]),
        "ttlMs": st.integers(),
        "history": st.just({"messages": []}) | JSON,
        "opts": st.just({}),
        "loadConfigStack": st.just({"layers": []}) | JSON,
        "predictionConfigStack": st.just({"layers": []}) | JSON,
    },
)
ENVELOPES = st.fixed_dictionaries(
    {"type": st.sampled_from(sorted(KINDS)), "endpoint": st.sampled_from(ENDPOINTS) | st.text()},
    optional={
        "callId": st.integers(0, 3),
        "channelId": st.integers(0, 3),
        "subscribeId": st.integers(0, 3),
        "parameter": PARAMETERS | JSON,
        "creationParameter": PARAMETERS | JSON,
        "message": st.just({"type": "cancel"}) | JSON,
    },
)


@examples(150, HealthCheck.function_scoped_fixture)
@given(texts=st.lists(ENVELOPES.map(json.dumps) | JSON.map(json.dumps) | st.text() | st.binary(), max_size=8))
def test_no_text_ends_a_connection(wire: Wire, texts: list[str | bytes]) -> None:
    """Whatever a client sends, the connection and the server stay up."""
    for text in texts:
        wire.send(text)
    wire.send({"type": "keepAlive"})
    while wire.receive()["type"] != "keepAliveAck":
        pass
