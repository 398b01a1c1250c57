"""One greeted namespace: calls, exchanges, cancels, failures in every order, and silence."""

import json
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import StartServer
from faults import End, Listener, Peer, Proxy, ScriptedServer, after_texts, byte_by_byte, text_frame
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from lmcli.client import requests
from lmcli.client.address import Address
from lmcli.client.catalog import list_downloaded, list_loaded
from lmcli.client.connection import Connection
from lmcli.client.exchanges import Exchange, Prediction
from lmcli.client.protocol import Credentials
from lmcli.client.requests import Opening
from lmcli.client.session import Session
from lmcli.client.transport import CONNECT_SECONDS
from lmcli.client.waiting import Interrupt
from lmcli.errors import (
    CannotConnect,
    ConnectionLost,
    Incomplete,
    LmError,
    LoadFailed,
    ModelNotFound,
    ModelUnloaded,
    NotAllowed,
    PredictionFailed,
    RemoteProtocolError,
    RequestRejected,
    TimedOut,
)
from lmcli.server.background import Running
from lmcli.values import Fragment, LoadConfig, LoadProgress, PredictionConfig, PromptProgress

WHO = Credentials("guest:somebody", "the-secret-passkey")
INSTANCE = {
    "type": "llm",
    "modelKey": "tiny",
    "displayName": "Tiny",
    "path": "acme/tiny",
    "format": "gguf",
    "sizeBytes": 1,
    "maxContextLength": 4096,
    "contextLength": 4096,
    "identifier": "tiny",
    "instanceReference": "x",
}
Packet = dict[str, Any]
Open = Callable[..., Session]


def sent(channel: int, packet: Any) -> Packet:
    return {"type": "channelSend", "channelId": channel, "message": packet}


def piece(content: str, channel: int = 1) -> Packet:
    return sent(channel, {"type": "fragment", "fragment": {"content": content}})


def success(channel: int = 1, stop_reason: str = "eosFound") -> Packet:
    return sent(channel, {"type": "success", "stats": {"stopReason": stop_reason}, "modelInfo": INSTANCE})


def closed(channel: int = 1) -> Packet:
    return {"type": "channelClose", "channelId": channel}


def failed(title: str, channel: int = 1) -> Packet:
    return {"type": "channelError", "channelId": channel, "error": {"title": title, "rootTitle": title}}


def warning(text: str, **more: str) -> Packet:
    return {"type": "communicationWarning", "warning": text, **more}


def asking(text: str = "hello", model: str = "echo") -> Opening:
    return requests.respond(model, [message(text)], PredictionConfig())


def message(text: str) -> Any:
    from lmcli.chat import Message, TextPart

    return Message("user", (TextPart(text),))


def answering(*values: Any, then: Callable[[Peer], None] = Peer.wait_until_left) -> ScriptedServer:
    """A server that greets, waits for one request, says some values in one write, and goes on."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.send(*values)
        then(peer)

    return ScriptedServer(script)


def leave(_: Peer) -> None:
    """End the connection."""


@pytest.fixture
def open_session() -> Iterator[Open]:
    """Open sessions, which are closed when the test ends."""
    with ExitStack() as cleanup:

        def to(server: Running | Listener, namespace: str = "llm", **options: Any) -> Session:
            session = Session.open(Address("127.0.0.1", server.port), namespace, WHO, **options)
            cleanup.callback(session.close)
            return session

        yield to


def text_of(exchange: Exchange, *, until: int | None = None) -> str:
    """The fragments' text, to the end or until so many characters have come."""
    text = ""
    while not exchange.is_over and (until is None or len(text) < until):
        text += "".join(value.content for value in exchange.read() if isinstance(value, Fragment))
    return text


def what_came(exchange: Exchange) -> tuple[str, LmError | None]:
    """The fragments' text up to the end, and the error that it ended with."""
    text = ""
    try:
        for burst in exchange:
            text += "".join(value.content for value in burst if isinstance(value, Fragment))
    except LmError as error:
        return text, error
    return text, None


# Being let in.


def test_nothing_is_sent_before_the_greeting(open_session: Open) -> None:
    """Until `success: true` has arrived the server hears the credentials and nothing else."""
    heard: list[Any] = []

    def script(peer: Peer) -> None:
        heard.append(peer.receive())
        assert not select.select([peer.socket], [], [], 0.1)[0], "the client did not wait"
        peer.send({"success": True})
        heard.append(peer.receive()["endpoint"])
        peer.send({"type": "rpcResult", "callId": 1, "result": []})
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        assert session.call("listLoaded") == []
        session.close()
    assert heard == [
        {"authVersion": 1, "clientIdentifier": "guest:somebody", "clientPasskey": "the-secret-passkey"},
        "listLoaded",
    ]


def test_refused_credentials(start_server: StartServer, open_session: Open) -> None:
    """A server that wants a token says so, and the hint says where to put it; nothing is left open."""
    server = start_server(options={"api_tokens": {"abcdefgh": "0123456789abcdefghij"}})
    with pytest.raises(NotAllowed, match=r"the server refused access: .") as caught:
        open_session(server)
    assert "LM_API_TOKEN" in caught.value.hints[0]
    assert WHO.passkey not in str(caught.value)


def test_admitted_with_a_token(start_server: StartServer) -> None:
    """The owner of a token gets in where guests do not."""
    server = start_server(options={"api_tokens": {"abcdefgh": "0123456789abcdefghij"}})
    who = Credentials("abcdefgh", "0123456789abcdefghij")
    session = Session.open(Address("127.0.0.1", server.port), "llm", who)
    assert [model.identifier for model in list_loaded(session)] == ["echo"]
    session.close()


@pytest.mark.parametrize(
    "answer",
    [b"[]", b"no json", b'{"success": 1}', b'{"type":"rpcResult","callId":1}', b"\xff", b""],
)
def test_strange_answer_to_the_authentication(open_session: Open, answer: bytes) -> None:
    """Who does not answer the authentication is not LM Studio."""

    def script(peer: Peer) -> None:
        peer.receive()
        peer.send(answer)

    with ScriptedServer(script) as server, pytest.raises(CannotConnect, match="is not LM Studio"):
        open_session(server)


def test_leaving_instead_of_an_answer_to_the_authentication(open_session: Open) -> None:
    """A server that closes after the credentials cannot be connected to."""
    with ScriptedServer(lambda peer: peer.receive()) as server, pytest.raises(CannotConnect, match="is not LM Studio"):
        open_session(server)


def test_no_answer_to_the_authentication(open_session: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence after the credentials ends with the timeout, and without one after a fixed time."""
    with ScriptedServer(Peer.wait_until_left) as server:
        with pytest.raises(TimedOut, match=r"no answer to the authentication within 0\.05 s"):
            open_session(server, timeout=0.05)
        monkeypatch.setattr("lmcli.client.session.CONNECT_SECONDS", 0.05)
        with pytest.raises(CannotConnect, match="did not answer the authentication"):
            open_session(server)


def test_trace_shows_requests_and_never_the_passkey(server: Running, open_session: Open) -> None:
    """What `-v` shows holds where, what and how long, and no credentials."""
    lines: list[str] = []
    session = open_session(server, trace=lines.append)
    session.call("listLoaded")
    text_of(session.predict(asking("hello")))
    assert f"connected to ws://127.0.0.1:{server.port}/llm in " in lines[0]
    assert "listLoaded" in lines[1]
    assert "hello" in lines[2]
    assert WHO.passkey not in "".join(lines)
    assert WHO.identifier not in "".join(lines)
    assert WHO.passkey not in repr(WHO)


# Calls.


def test_calls(server: Running, open_session: Open) -> None:
    """A question has an answer, one without a result has None, and what went wrong is an exception."""
    session = open_session(server)
    specifier = requests.specifier("echo")
    assert session.call("countTokens", {"specifier": specifier, "inputString": "a b c"}) == {"tokenCount": 3}
    assert session.call("getModelInfo", {"specifier": requests.specifier("x"), "throwIfNotFound": False}) is None
    with pytest.raises(ModelNotFound, match="no loaded model is called 'x'"):
        session.call("getModelInfo", {"specifier": requests.specifier("x"), "throwIfNotFound": True})
    assert session.call("unloadModel", {"identifier": "echo"}) is None
    with pytest.raises(ModelNotFound):
        session.call("unloadModel", {"identifier": "echo"})


def test_unknown_endpoint_is_an_answer(server: Running, open_session: Open) -> None:
    """A call that the server does not have fails at once instead of waiting for ever; the session goes on."""
    session = open_session(server, timeout=5)
    with pytest.raises(RequestRejected, match="did not understand the request tellJoke"):
        session.call("tellJoke")
    with pytest.raises(RequestRejected, match="tokenize"):
        session.call("tokenize", {"text": 1})
    assert len(list_loaded(session)) == 1


def test_catalog(server: Running, open_session: Open) -> None:
    """Loaded and downloaded models are listed; anything but a list is a broken protocol."""
    downloaded = list_downloaded(open_session(server, "system"))
    assert [model.model_key for model in downloaded] == ["echo", "echo-jit"]
    assert [model.identifier for model in list_loaded(open_session(server))] == ["echo"]
    with answering({"type": "rpcResult", "callId": 1, "result": {"models": []}}) as strange:
        session = open_session(strange)
        with pytest.raises(RemoteProtocolError, match="answered listLoaded with"):
            list_loaded(session)
        session.close()


def test_call_in_the_middle_of_a_stream(server: Running, open_session: Open) -> None:
    """A question can be asked while a prediction streams, and costs it nothing."""
    session = open_session(server)
    text = "word " * 500
    prediction = session.predict(asking(text))
    begun = text_of(prediction, until=20)
    assert len(list_loaded(session)) == 1
    assert begun + text_of(prediction) == text


# Exchanges.


def test_prediction(server: Running, open_session: Open) -> None:
    """Progress, then fragments, then the figures, then the end."""
    prediction = open_session(server).predict(asking("one two"))
    values = [value for burst in prediction for value in burst]
    kinds = [type(value) for value in values]
    assert kinds == [PromptProgress] * 3 + [Fragment] * 2
    assert prediction.is_over
    assert prediction.end is not None
    assert prediction.end.stats.stop_reason == "eosFound"
    assert prediction.end.model_info.identifier == "echo"


def test_exchanges_share_a_session(server: Running, open_session: Open) -> None:
    """Ten predictions at once, read in turns: each gets all of its own text and nothing else."""
    session = open_session(server)
    wanted = [f"{number}-" + " ".join(f"w{number}" for _ in range(200)) for number in range(10)]
    predictions = [session.predict(asking(text)) for text in wanted]
    got = [""] * len(wanted)
    while any(not prediction.is_over for prediction in predictions):
        for number, prediction in enumerate(predictions):
            if not prediction.is_over:
                got[number] += "".join(v.content for v in prediction.read() if isinstance(v, Fragment))
    assert got == wanted
    assert not session._exchanges, "what is over is forgotten"


def test_interleaved_channels_in_one_write(open_session: Open) -> None:
    """Packets of several channels in any order go to whom they are for; one that failed does not hurt the other."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.receive()
        peer.send(piece("b1", 2), piece("a1"), failed("Boom", 2), piece("a2"), piece("late", 2), success(), closed())
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        one, two = session.predict(asking()), session.predict(asking())
        text, error = what_came(two)
        assert (text, str(error)) == ("b1", "Boom")
        assert what_came(one) == ("a1a2", None)
        session.close()


def test_one_bad_packet_hurts_its_own_exchange_only(open_session: Open) -> None:
    """A packet that makes no sense ends the exchange that it is for; neither its later end nor the other hides that."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.receive()
        peer.send(piece("b1", 2), sent(2, {"type": "fragment"}))
        peer.receive()  # the client has read so far
        peer.send(success(2), closed(2), {"type": "rpcResult", "callId": 1}, piece("a1"), success(), closed())
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        one, two = session.predict(asking()), session.predict(asking())
        assert [str(value) for value in two.read()] == ["b1"]
        session.call("listLoaded")
        assert what_came(one) == ("a1", None)
        assert two.read() == []
        with pytest.raises(RemoteProtocolError, match="a fragment without content"):
            two.read()
        session.close()


def test_loading(start_server: StartServer, open_session: Open) -> None:
    """A load tells how far it is, then which instance it is."""
    loading = open_session(start_server()).load(requests.get_or_load("echo-jit", LoadConfig(context_length=100)))
    values = [value for burst in loading for value in burst]
    assert values[0] == LoadProgress(0.0)
    assert values[-1] == LoadProgress(1.0)
    instance = loading.wait()
    assert (instance.identifier, instance.context_length) == ("echo-jit", 100)


def test_loading_what_is_not_there(server: Running, open_session: Open) -> None:
    """A model that does not exist is told from one that cannot be loaded."""
    session = open_session(server)
    with pytest.raises(ModelNotFound, match="no model 'nope'"):
        session.load(requests.get_or_load("nope", LoadConfig())).wait()
    with answering(failed("Out of memory")) as broken:
        session = open_session(broken)
        with pytest.raises(LoadFailed, match="Out of memory"):
            session.load(requests.get_or_load("tiny", LoadConfig())).wait()
        session.close()


def test_cancelled_load(start_server: StartServer, open_session: Open) -> None:
    """A load that is cancelled ends with what the server says about it."""
    loading = open_session(start_server(load_seconds=60)).load(requests.get_or_load("echo-jit", LoadConfig()))
    assert loading.read()[0] == LoadProgress(0.0)
    loading.cancel()
    with pytest.raises(LoadFailed, match="cancelled"):
        loading.wait()


# Stopping.


def test_cancel(start_server: StartServer, open_session: Open) -> None:
    """A cancelled prediction comes to its end at once, with figures that say why."""
    prediction = open_session(start_server(tokens_per_second=20)).predict(asking("word " * 1000))
    text_of(prediction, until=1)
    prediction.cancel()
    text_of(prediction)
    assert prediction.end is not None
    assert prediction.end.stats.stop_reason == "userStopped"
    prediction.cancel()  # too late, and harmless


def test_cancel_before_the_first_token(start_server: StartServer, open_session: Open) -> None:
    """A cancel works while the prompt is being read."""
    prediction = open_session(start_server(prompt_tokens_per_second=1)).predict(asking("word " * 100))
    assert isinstance(prediction.read()[0], PromptProgress)
    prediction.cancel()
    assert text_of(prediction) == ""
    assert prediction.end is not None
    assert prediction.end.stats.stop_reason == "userStopped"


def flood(peer: Peer) -> None:
    """Fragments as fast as they go, until the client cancels; the stop reason says how many came."""
    peer.greet()
    peer.receive()
    burst = [json.dumps(piece("x" * 100)).encode()] * 50
    count = 0
    while not select.select([peer.socket], [], [], 0)[0]:
        peer.send(*burst)
        count += len(burst)
    assert peer.receive() == {"type": "channelSend", "channelId": 1, "message": {"type": "cancel"}}
    peer.send(success(stop_reason=f"after {count}"), closed())
    peer.wait_until_left()


def test_cancel_in_a_flood(open_session: Open) -> None:
    """A cancel is sent before anything else is read: no more comes than was under way."""
    with ScriptedServer(flood) as server:
        session = open_session(server)
        prediction = session.predict(asking())
        seen = len(text_of(prediction, until=5_000_000))
        prediction.cancel()
        late = len(text_of(prediction))
        assert prediction.end is not None
        assert prediction.end.stats.stop_reason == f"after {(seen + late) // 100}"
        assert late < 16_000_000  # what the buffers of the system hold
        session.close()


def test_cancel_in_a_flood_of_the_real_server(server: Running, open_session: Open) -> None:
    """The real server stops a long answer in the middle as well."""
    words = 50_000
    prediction = open_session(server).predict(asking("word " * words))
    text_of(prediction, until=100)
    prediction.cancel()
    text_of(prediction)
    assert prediction.end is not None
    assert prediction.end.stats.stop_reason == "userStopped"
    assert (prediction.end.stats.predicted_tokens_count or words) < words


def test_abandon_drops_the_rest(open_session: Open) -> None:
    """An abandoned exchange is cancelled and read to its end, and the session can be used again."""
    with ScriptedServer(flood) as server:
        session = open_session(server)
        prediction = session.predict(asking())
        text_of(prediction, until=100)
        prediction.abandon()
        assert prediction.is_over
        assert prediction.end is not None
        session.close()


def test_abandon_does_not_wait_for_ever(open_session: Open) -> None:
    """A server that does not react to a cancel is left alone after a while."""
    with answering(piece("a")) as server:
        session = open_session(server)
        prediction = session.predict(asking())
        text_of(prediction, until=1)
        prediction.abandon(within=0.05)
        assert prediction.end is None
        session.close()


def test_abandon_after_the_connection_is_gone(open_session: Open) -> None:
    """Abandoning what is lost is no error."""
    with answering(piece("a"), then=leave) as server:
        session = open_session(server)
        prediction = session.predict(asking())
        assert what_came(prediction)[0] == "a"
        prediction.abandon()
        assert prediction.is_over


def test_interrupt_ends_a_read(open_session: Open) -> None:
    """A signal's pipe ends a wait with an empty burst; the exchange goes on."""
    reader, writer = os.pipe()
    proceed = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        proceed.wait(5)
        peer.send(piece("a"), success(), closed())
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        prediction = session.predict(asking())
        prediction.interrupts = (Interrupt(reader),)
        assert session.interrupts == (Interrupt(reader),)
        os.write(writer, b"!")
        assert prediction.read() == []
        assert not prediction.is_over
        prediction.interrupts = ()
        proceed.set()
        assert what_came(prediction) == ("a", None)
        session.close()
    os.close(reader)
    os.close(writer)


@pytest.fixture
def interrupt() -> Iterator[Interrupt]:
    """One that is there already."""
    reader, writer = os.pipe()
    os.write(writer, b"!")
    yield Interrupt(reader)
    os.close(reader)
    os.close(writer)


def greeting(peer: Peer) -> None:
    """Let the client in, and say nothing more."""
    peer.greet()
    peer.wait_until_left()


@pytest.mark.timeout(20)
def test_interrupt_ends_a_call(open_session: Open, interrupt: Interrupt) -> None:
    """A question whose answer nobody waits for any more is an error, at once."""
    with ScriptedServer(greeting) as server:
        session = open_session(server)
        session.interrupts = (interrupt,)
        with pytest.raises(ConnectionLost, match="listLoaded was interrupted"):
            session.call("listLoaded")
        session.close()


def test_interrupts_reach_sockets_that_are_opened_later(server: Running, interrupt: Interrupt) -> None:
    """Whatever socket of a connection is waited for, old or new, its interrupts end the wait; until there are none."""
    reader, writer = os.pipe()
    quiet = Interrupt(reader)
    with Connection(Address("127.0.0.1", server.port), WHO) as connection:
        old = connection.session("llm")
        connection.interrupts = (quiet,)
        new = connection.session("files")
        assert (connection.interrupts, old.interrupts, new.interrupts) == ((quiet,),) * 3
        assert len(list_loaded(old)) == 1
        old.close()
        again = connection.session("llm")
        assert again is not old
        assert again.interrupts == (quiet,)
        connection.interrupts = ()
        assert not again.interrupts
        assert not new.interrupts
    os.close(reader)
    os.close(writer)


def test_interrupt_ends_the_greeting_of_a_socket(interrupt: Interrupt) -> None:
    """A server that does not answer the authentication is left as soon as an interrupt comes."""
    with (
        ScriptedServer(Peer.wait_until_left) as server,
        Connection(Address("127.0.0.1", server.port), WHO) as connection,
    ):
        connection.interrupts = (interrupt,)
        began = time.monotonic()
        with pytest.raises(CannotConnect):
            connection.session("files")
        assert time.monotonic() - began < CONNECT_SECONDS / 2


# Failures, and what came before them.


@pytest.mark.parametrize("before", [[], ["a", "b"]])
def test_channel_error(open_session: Open, before: Sequence[str]) -> None:
    """An error ends the prediction; what came before it is read first."""
    with answering(*map(piece, before), failed("The GPU\nburns.")) as server:
        session = open_session(server)
        text, error = what_came(session.predict(asking()))
        assert text == "".join(before)
        assert isinstance(error, PredictionFailed)
        assert str(error) == r"The GPU\nburns"
        session.close()


def test_unloaded_in_the_middle(open_session: Open) -> None:
    """A model that is unloaded while it answers leaves an incomplete answer."""
    with answering(piece("a"), failed("Model is unloaded.")) as server:
        session = open_session(server)
        text, error = what_came(session.predict(asking()))
        assert text == "a"
        assert isinstance(error, ModelUnloaded)
        session.close()


def test_error_packet_of_older_servers(open_session: Open) -> None:
    """A failure inside the channel is a failure, too."""
    with answering(piece("a"), sent(1, {"type": "error", "error": {"title": "Boom"}}), closed()) as server:
        session = open_session(server)
        text, error = what_came(session.predict(asking()))
        assert (text, str(error)) == ("a", "Boom")
        session.close()


@pytest.mark.parametrize("kind", ["predict", "load"])
def test_close_without_success(open_session: Open, kind: str) -> None:
    """A channel that closes without a result is incomplete, whatever it was for."""
    with answering(piece("a"), closed()) as server:
        session = open_session(server)
        exchange: Exchange = session.predict(asking())
        if kind == "loading":
            exchange = session.load(requests.get_or_load("tiny", LoadConfig()))
        with pytest.raises(Incomplete, match="without a result"):
            for _ in exchange:
                pass
        session.close()


@pytest.mark.parametrize("end", [End.DROP, End.RESET])
def test_connection_ends_in_the_middle(server: Running, open_session: Open, end: End) -> None:
    """A dropped or reset connection is a loss, after all the fragments that arrived."""
    texts_before = 1 + 3 + 2  # greeting, progress, two fragments
    with Proxy(server.port, after_texts(texts_before, end)) as proxy:
        session = open_session(proxy)
        prediction = session.predict(asking("one two three four"))
        assert text_of(prediction, until=7) == "one two"
        text, error = what_came(prediction)
        assert text == ""
        assert isinstance(error, ConnectionLost)
        assert not session.is_open
        with pytest.raises(ConnectionLost):
            session.call("listLoaded")


@pytest.mark.parametrize(
    ("garbage", "expected"),
    [
        (text_frame(b"no json"), RemoteProtocolError),
        (text_frame(b"[1]"), RemoteProtocolError),
        (text_frame(b'{"type":"channelSend"}'), RemoteProtocolError),
        (text_frame(b"\xff\xfe"), RemoteProtocolError),
        (b"\xff\xff\xff\xff", ConnectionLost),
    ],
    ids=["no json", "no envelope", "no number", "no utf-8", "no frame"],
)
def test_garbage_after_good_fragments(
    server: Running, open_session: Open, garbage: bytes, expected: type[LmError]
) -> None:
    """What came before garbage is delivered, then the error, and the connection is of no more use."""
    with Proxy(server.port, after_texts(1 + 3 + 2, garbage)) as proxy:
        session = open_session(proxy)
        text, error = what_came(session.predict(asking("one two three four")))
        assert text == "one two"
        assert type(error) is expected
        assert not session.is_open


def test_garbage_in_the_same_write(open_session: Open) -> None:
    """Fragments that share a segment with garbage are delivered; the ones behind it are not."""
    with answering(piece("a"), piece("b"), b"garbage", piece("c"), success(), closed()) as server:
        session = open_session(server)
        text, error = what_came(session.predict(asking()))
        assert text == "ab"
        assert isinstance(error, RemoteProtocolError)
        with pytest.raises(LmError):
            session.call("listLoaded")


def test_bad_packet_after_good_ones(open_session: Open) -> None:
    """A fragment with a value of the wrong type ends the prediction, after the good ones."""
    bad = sent(1, {"type": "fragment", "fragment": {"content": 5}})
    with answering(piece("a"), bad, piece("b"), success(), closed()) as server:
        session = open_session(server)
        text, error = what_came(session.predict(asking()))
        assert text == "a"
        assert isinstance(error, RemoteProtocolError)
        session.close()


@pytest.mark.parametrize("packet", [{}, [], None, "x", {"type": 1}])
def test_packet_without_a_type(open_session: Open, packet: Any) -> None:
    """A packet that is none is an error of the server."""
    with answering(sent(1, packet)) as server:
        session = open_session(server)
        with pytest.raises(RemoteProtocolError, match="a packet without a type"):
            text_of(session.predict(asking()))
        session.close()


def test_warning_ends_the_request(open_session: Open) -> None:
    """A request that the server did not understand is over, and the next one can be made."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.send(warning("bad \x1b parameter", kind="channelCreationParameterTypeError"))
        peer.receive()
        peer.send(piece("a", 2), success(2), closed(2))
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        with pytest.raises(RequestRejected, match=r"did not understand the request predict: bad \\x1b parameter"):
            text_of(session.predict(asking()))
        assert what_came(session.predict(asking())) == ("a", None)
        session.close()


def test_warning_about_a_late_cancel_ends_nothing(open_session: Open) -> None:
    """`channelUnknown` is about a channel that has ended, not about the one that runs."""
    with answering(warning("?", kind="channelUnknown"), piece("a"), success(), closed()) as server:
        session = open_session(server)
        assert what_came(session.predict(asking())) == ("a", None)
        session.close()


def test_unknown_things_are_passed_over(open_session: Open) -> None:
    """Newer packets, newer kinds, channels of nobody and acknowledgements do not disturb."""
    strange = [
        sent(1, {"type": "toolCallGenerationStart"}),
        sent(99, {"type": "fragment"}),
        closed(99),
        {"type": "keepAliveAck"},
        {"type": "somethingNew", "channelId": 1},
        {"type": "rpcResult", "callId": 99},
        {"type": "channelAck", "channelId": 1, "ackId": 1},
        {"type": "signalUpdate", "subscribeId": 1, "patches": []},
        piece("b") | {"ackId": 7, "new": {}},
    ]
    with answering(piece("a"), *strange, success(), closed()) as server:
        session = open_session(server)
        assert what_came(session.predict(asking())) == ("ab", None)
        session.close()


def test_split_emoji(open_session: Open) -> None:
    """Half an emoji is held back until the other half comes; one that stays alone becomes U+FFFD."""
    halves = [b'{"type":"channelSend","channelId":1,"message":{"type":"fragment","fragment":{"content":"%s"}}}' % half
              for half in (b"a\\ud83d", b"\\ude00b", b"\\ud83d")]  # fmt: skip
    with answering(*halves, success(), closed()) as server:
        session = open_session(server)
        assert what_came(session.predict(asking())) == ("a😀b\ufffd", None)
        session.close()


def test_byte_by_byte(server: Running, open_session: Open) -> None:
    """A whole dialogue whose bytes arrive one by one."""
    with Proxy(server.port, byte_by_byte) as proxy:
        session = open_session(proxy)
        assert what_came(session.predict(asking("ä b\nc"))) == ("ä b\nc", None)


# Silence.


def test_silence_times_out(open_session: Open) -> None:
    """The timeout counts from the last thing heard; what was heard is read first."""
    with answering(piece("a")) as server:
        session = open_session(server, timeout=0.3)
        text, error = what_came(session.predict(asking()))
        assert text == "a"
        assert isinstance(error, TimedOut)
        assert str(error) == "the server was silent for 0.3 s"
        with pytest.raises(TimedOut):
            session.call("listLoaded")
        session.close()


def test_stalled_connection_times_out(server: Running, open_session: Open) -> None:
    """A network that delivers nothing any more is silence, too."""
    with Proxy(server.port, after_texts(1 + 3 + 1, End.STALL)) as proxy:
        session = open_session(proxy, timeout=0.3)
        text, error = what_came(session.predict(asking("one two")))
        assert text == "one"
        assert isinstance(error, TimedOut)


def test_slow_is_not_silent(start_server: StartServer, open_session: Open) -> None:
    """An answer that takes longer than the timeout is complete if it never pauses for as long."""
    session = open_session(start_server(tokens_per_second=50), timeout=0.6)
    text = "word " * 40
    assert what_came(session.predict(asking(text))) == (text, None)


def test_read_within(open_session: Open) -> None:
    """With `within` a read gives up early, without an error."""
    with answering() as server:
        session = open_session(server, timeout=5)
        prediction = session.predict(asking())
        assert prediction.read(within=0.01) == []
        assert not prediction.is_over
        session.close()


# Servers that do not know completeRawText.

COMPLETING = ("tiny", "once upon", PredictionConfig())


def completing(session: Session) -> Prediction:
    return session.predict(requests.complete(*COMPLETING), requests.complete_by_predict(*COMPLETING))


@pytest.mark.parametrize(
    "refusal",
    [
        warning("x", kind="channelEndpointUnknown"),
        warning("x", kind="channelEndpointUnhandled"),
        warning("Received channelCreate for unknown endpoint, endpoint = completeRawText"),
    ],
    ids=["kind", "unhandled", "without kind"],
)
def test_completion_by_older_words(open_session: Open, refusal: Packet) -> None:
    """A server without `completeRawText` is asked again in older words, and from then on at once."""
    asked: list[str] = []

    def script(peer: Peer) -> None:
        peer.greet()
        asked.append(peer.receive()["endpoint"])
        peer.send(refusal)
        for channel in (2, 3):
            request = peer.receive()
            asked.append(request["endpoint"])
            assert request["channelId"] == channel
            peer.send(piece("a", channel), success(channel), closed(channel))
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        for _ in range(2):
            prediction = completing(session)
            assert what_came(prediction) == ("a", None)
            assert prediction.end is not None
        assert not session.knows_raw_completion
        session.close()
    assert asked == ["completeRawText", "predict", "predict"]


def test_cancel_after_falling_back(open_session: Open) -> None:
    """A cancel goes to the channel that replaced the refused one."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.send(warning("x", kind="channelEndpointUnknown"))
        peer.receive()
        peer.send(piece("a", 2))
        assert peer.receive() == sent(2, {"type": "cancel"})
        peer.send(success(2, "userStopped"), closed(2))
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        prediction = completing(session)
        assert text_of(prediction, until=1) == "a"
        prediction.cancel()
        assert what_came(prediction) == ("", None)
        session.close()


def test_what_was_cancelled_is_not_begun_again(open_session: Open) -> None:
    """A server without `completeRawText` that hears the cancel first is not asked in older words any more."""
    heard: list[Packet] = []

    def script(peer: Peer) -> None:
        peer.greet()
        assert peer.receive()["endpoint"] == "completeRawText"
        assert peer.receive() == sent(1, {"type": "cancel"})
        peer.send(warning("x", kind="channelEndpointUnknown"))
        while True:
            heard.append(peer.receive())

    with ScriptedServer(script) as server:
        session = open_session(server)
        prediction = completing(session)
        prediction.cancel()
        text, error = what_came(prediction)
        assert text == ""
        assert isinstance(error, RequestRejected)
        assert prediction.is_over
        session.close()
    assert heard == []


def test_other_refusals_are_not_fallen_back_from(open_session: Open) -> None:
    """A completion that is refused for its parameters fails and is not asked again."""
    with answering(warning("x", kind="channelCreationParameterTypeError")) as server:
        session = open_session(server)
        with pytest.raises(RequestRejected, match="completeRawText"):
            text_of(completing(session))
        assert session.knows_raw_completion
        session.close()


def test_completion(server: Running, open_session: Open) -> None:
    """A server that knows `completeRawText` is asked once."""
    session = open_session(server)
    assert what_came(session.predict(requests.complete("echo", " a\n", PredictionConfig()))) == (" a\n", None)
    assert session.knows_raw_completion


# Whatever a server sends.

numbers = st.integers(0, 2) | st.sampled_from([-1, 1.5, True, 10**30])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fragments = st.fixed_dictionaries(
    {},
    optional={
        "content": st.text() | json_values,
        "tokensCount": json_values,
        "reasoningType": st.sampled_from(["none", "reasoning"]) | json_values,
    },
)
packets = json_values | st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["fragment", "promptProcessingProgress", "success", "error", "loadProgress", "loadSuccess", "startLoading"]
        )
    },
    optional={
        "fragment": fragments | json_values,
        "progress": json_values,
        "stats": st.just({"stopReason": "eosFound"}) | json_values,
        "modelInfo": st.just(INSTANCE) | json_values,
        "info": st.just(INSTANCE) | json_values,
        "error": json_values,
        "predictionConfig": json_values,
    },
)
errors = json_values | st.fixed_dictionaries(
    {},
    optional={
        "title": json_values,
        "cause": json_values,
        "displayData": st.fixed_dictionaries(
            {
                "code": st.sampled_from(
                    ["generic.noModelMatchingQuery", "generic.pathNotFound", "generic.presetNotFound", "x"]
                )
            },
            optional={"query": json_values, "loadedModelsSample": json_values, "totalModels": json_values},
        ),
    },
)
envelopes = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["channelSend"] * 4
            + ["channelClose", "channelError", "rpcResult", "rpcError", "communicationWarning", "keepAliveAck", "new"]
        )
    },
    optional={
        "channelId": numbers,
        "callId": numbers,
        "message": packets,
        "error": errors,
        "result": json_values,
        "warning": json_values,
        "kind": json_values | st.sampled_from(["channelEndpointUnknown", "rpcUnknown", "channelUnknown"]),
    },
)


def framed(text: bytes) -> bytes:
    return Frame(Opcode.TEXT, text).serialize(mask=False)


spoken = st.lists(
    (envelopes | json_values).map(lambda value: framed(json.dumps(value).encode()))
    | st.binary(max_size=40).map(framed)
    | st.binary(max_size=20),
    max_size=8,
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(spoken, st.sampled_from(["predict", "complete", "load", "call"]))
@example(framed(b'{"type":"channelSend","channelId":1,"message":' + b"[" * 900 + b"]" * 900 + b"}"), "predict")
@example(framed(b"[" * 100_000), "call")
@example(framed(json.dumps(sent(1, {"type": "promptProcessingProgress", "progress": 10**400})).encode()), "predict")
@example(framed(json.dumps(failed("x" * 100_000)).encode()), "predict")
@example(b"\x81\x7f\x7f" + b"\xff" * 7, "predict")
def test_any_bytes_give_values_or_an_error(said: bytes, asked: str) -> None:
    """Whatever bytes follow the greeting: values and an end, or one of our errors, and never a wait for ever."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.socket.sendall(said)

    with ScriptedServer(script) as server:
        session = Session.open(Address("127.0.0.1", server.port), "llm", WHO, timeout=30)
        failure: LmError | None = None
        try:
            if asked == "call":
                session.call("listLoaded")
            else:
                for burst in exchange_of(session, asked):
                    assert all(isinstance(value, Fragment | PromptProgress | LoadProgress) for value in burst)
                    for value in burst:
                        str(value).encode()
        except LmError as error:
            failure = error
        finally:
            session.close()
    assert not isinstance(failure, TimedOut), "it waited for what cannot come"
    assert failure is None or "\n" not in failure.message


def exchange_of(session: Session, asked: str) -> Exchange:
    if asked == "predict":
        return session.predict(asking())
    return completing(session) if asked == "complete" else session.load(requests.get_or_load("tiny", LoadConfig()))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700))
def test_any_cut_of_a_dialogue_gives_a_beginning(count: int) -> None:
    """Wherever the connection is cut, the text that was read is a beginning of the answer, and the end is known."""
    full = "one two three four five"
    pieces = [piece(word) for word in ("one", " two", " three", " four", " five")]
    said = b"".join(framed(json.dumps(value).encode()) for value in [*pieces, success(), closed()])

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.socket.sendall(said[:count])

    with ScriptedServer(script) as server:
        session = Session.open(Address("127.0.0.1", server.port), "llm", WHO)
        text, error = what_came(session.predict(asking()))
        session.close()
    assert full.startswith(text)
    assert (error is None) == (count >= len(said))
    assert error is None or isinstance(error, ConnectionLost)
