"""One authenticated namespace: authentication, calls, interrupts and silence."""

import json
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from conftest import CREDENTIALS, FOREVER, PATIENCE, Open, StartServer
from faults import End, Left, Peer, Proxy, ScriptedServer, after_texts, text_frame
from packets import answering, asking, closed, failed, leave, piece, sent, success, text_of, warning, what_came
from websockets.frames import Frame, Opcode

from lmcli.client.address import Address
from lmcli.client.catalog import list_downloaded, list_loaded
from lmcli.client.connection import Connection
from lmcli.client.session import Session
from lmcli.client.waiting import Interrupt
from lmcli.errors import (
    CannotConnect,
    ConnectionLost,
    ModelNotFound,
    NotAllowed,
    PredictionFailed,
    RemoteProtocolError,
    RequestRejected,
    TimedOut,
)
from lmcli.server.background import Running
from lmcli.values import Fragment
from lmcli.wire import requests
from lmcli.wire.load_config import LoadConfig
from lmcli.wire.multiplexer import WARNINGS
from lmcli.wire.protocol import Credentials


def test_nothing_is_sent_before_the_authentication(open_session: Open) -> None:
    """Until `success: true` has arrived the server receives the credentials and nothing else."""
    received: list[Any] = []

    def script(peer: Peer) -> None:
        received.append(peer.receive())
        assert not select.select([peer.socket], [], [], 0.1)[0], "the client did not wait"
        peer.send({"success": True})
        received.append(peer.receive()["endpoint"])
        peer.send({"type": "rpcResult", "callId": 1, "result": []})
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        assert session.call("listLoaded") == []
        session.close()
    assert received == [
        {"authVersion": 1, "clientIdentifier": "guest:somebody", "clientPasskey": "the-secret-passkey"},
        "listLoaded",
    ]


def test_requests_of_a_block_are_sent_in_one_piece(open_session: Open) -> None:
    """Nothing is sent before the end of the block, and then everything in one write."""
    are_begun, is_over = threading.Event(), threading.Event()
    received: list[Any] = []

    def script(peer: Peer) -> None:
        peer.greet()
        are_begun.wait(PATIENCE)
        received.append(select.select([peer.socket], [], [], 0.1)[0])
        is_over.set()
        peer.protocol.receive_data(peer.socket.recv(65536))
        frames = peer.protocol.events_received()
        received.append(
            sum(isinstance(f, Frame) and f.opcode is Opcode.TEXT for f in frames)
        )  # a close frame may follow
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        with session.together():
            for _ in range(3):
                session.predict(asking("hello"))
            are_begun.set()
            is_over.wait(PATIENCE)
        session.close()
    assert received == [[], 3]


def test_refused_credentials(start_server: StartServer, open_session: Open) -> None:
    """A server that wants a token says so, and the hint says where to put it; nothing is left open."""
    server = start_server(options={"api_tokens": {"abcdefgh": "0123456789abcdefghij"}})
    with pytest.raises(NotAllowed, match=r"the server refused access: .") as caught:
        open_session(server)
    assert "LM_API_TOKEN" in caught.value.hints[0]
    assert CREDENTIALS.passkey not in str(caught.value)


def test_access_with_a_token(start_server: StartServer) -> None:
    """The owner of a token has access where guests have none."""
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


def test_garbage_right_behind_the_answer_to_the_authentication(open_session: Open) -> None:
    """Who goes on like that is not LM Studio either; the first request does not have to find out."""

    def script(peer: Peer) -> None:
        peer.receive()
        peer.send({"success": True}, {"success": True})
        peer.wait_until_left()

    with ScriptedServer(script) as server, pytest.raises(CannotConnect, match=r"is not LM Studio: .* not an envelope"):
        open_session(server)


def test_leaving_instead_of_an_answer_to_the_authentication(open_session: Open) -> None:
    """A server that closes after the credentials cannot be connected to."""
    with ScriptedServer(lambda peer: peer.receive()) as server, pytest.raises(CannotConnect, match="is not LM Studio"):
        open_session(server)


def test_no_answer_to_the_authentication(open_session: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence after the credentials ends with the timeout, and without one after a fixed time."""
    with ScriptedServer(Peer.wait_until_left) as server:
        with pytest.raises(TimedOut, match=r"no answer to the authentication within 0\.5 s"):
            open_session(server, timeout=0.5)
        monkeypatch.setattr("lmcli.client.session.CONNECT_SECONDS", 0.05)
        with pytest.raises(CannotConnect, match="did not answer the authentication"):
            open_session(server)


def test_trace_shows_requests_and_never_the_passkey(server: Running, open_session: Open) -> None:
    """What `-v` shows holds where, what and how long, and no credentials."""
    lines: list[str] = []
    session = open_session(server, trace=lines.append)
    session.call("listLoaded")
    text_of(session, session.predict(asking("hello")))
    assert f"connected to ws://127.0.0.1:{server.port}/llm in " in lines[0]
    assert "listLoaded" in lines[1]
    assert "hello" in lines[2]
    assert CREDENTIALS.passkey not in "".join(lines)
    assert CREDENTIALS.identifier not in "".join(lines)
    assert CREDENTIALS.passkey not in repr(CREDENTIALS)


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
    assert [model.model_key for model in downloaded] == ["echo", "echo-jit", "echo-embed"]
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
    begun = text_of(session, prediction, until=20)
    assert len(list_loaded(session)) == 1
    assert begun + text_of(session, prediction) == text


def authenticate(peer: Peer) -> None:
    """Accept the credentials, and send nothing more."""
    peer.greet()
    peer.wait_until_left()


@pytest.mark.timeout(20)
def test_interrupt_ends_a_call(open_session: Open, interrupt: Interrupt) -> None:
    """A question whose answer nobody waits for any more is an error, at once."""
    with ScriptedServer(authenticate) as server:
        interrupts: list[Interrupt] = []
        session = open_session(server, interrupts=lambda: interrupts)
        interrupts.append(interrupt)
        with pytest.raises(ConnectionLost, match="listLoaded was interrupted"):
            session.call("listLoaded")
        session.close()


def test_one_set_of_interrupts_belongs_to_a_connection(interrupt: Interrupt) -> None:
    """Whatever socket of a connection is waited for, old or new, its interrupts end the wait; until there are none."""
    proceed = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        proceed.wait(PATIENCE)
        peer.send(piece("a"), success(), closed())
        peer.wait_until_left()

    interrupts: list[Interrupt] = []
    with (
        ScriptedServer(script) as server,
        Connection(Address("127.0.0.1", server.port), CREDENTIALS, interrupts=lambda: interrupts) as connection,
    ):
        old, new = connection.session("llm"), connection.session("files")
        prediction = old.predict(asking())
        interrupts.append(interrupt)
        assert old.ready([prediction]) == []
        with pytest.raises(ConnectionLost, match="interrupted"):
            new.call("uploadFileBase64", {"name": "a", "contentBase64": ""})
        interrupts.clear()
        proceed.set()
        assert what_came(old, prediction) == ("a", None)


def test_interrupt_ends_the_greeting_of_a_socket(interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer the authentication is left as soon as an interrupt comes."""
    monkeypatch.setattr("lmcli.client.session.CONNECT_SECONDS", FOREVER)
    with (
        ScriptedServer(Peer.wait_until_left) as server,
        Connection(Address("127.0.0.1", server.port), CREDENTIALS, interrupts=lambda: [interrupt]) as connection,
        pytest.raises(CannotConnect),
    ):
        connection.session("files")


def test_silence_times_out(open_session: Open) -> None:
    """The timeout counts from the last thing received; what was received is read first."""
    with answering(piece("a")) as server:
        session = open_session(server, timeout=0.3)
        text, error = what_came(session, session.predict(asking()))
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
        text, error = what_came(session, session.predict(asking("one two")))
        assert text == "one"
        assert isinstance(error, TimedOut)


def flooding(frames: bytes, beginning: bytes = b"") -> ScriptedServer:
    """A server that authenticates the client, waits for one request, and sends the same for ever."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.socket.sendall(beginning)
        while True:
            peer.socket.sendall(frames * 5_000)

    return ScriptedServer(script)


def texts(*values: Any) -> bytes:
    """Values as the frames of a server."""
    return b"".join(text_frame(json.dumps(value).encode()) for value in values)


FLOODS = {
    "pings": [b"\x89\0"],
    "pongs": [b"\x8a\0"],
    "empty pieces of a text": [b"\0\0", b"\x01\0"],
    "unknown messages": [texts({"type": "weather"})],
    "acknowledgements": [texts({"type": "keepAliveAck"})],
    "unknown packets": [texts(sent(1, {"type": "weather"}))],
    "packets for others": [texts(sent(7, {"type": "weather"}))],
    "warnings": [texts(warning("?", kind="channelUnknown"))],
}
"""What a server may send for ever without an answer in it."""


@pytest.fixture(params=FLOODS)
def flood(request: pytest.FixtureRequest) -> Iterator[ScriptedServer]:
    """A server that sends one of them."""
    with flooding(*FLOODS[request.param]) as server:
        yield server


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much means nothing, it does not end the connection."""
    monkeypatch.setattr("lmcli.client.websocket.IDLE_FRAMES", sys.maxsize)
    monkeypatch.setattr("lmcli.wire.multiplexer.IGNORED", sys.maxsize)


@pytest.mark.timeout(30)
@pytest.mark.usefixtures("endless")
def test_a_flood_that_means_nothing_is_silence(flood: ScriptedServer, open_session: Open) -> None:
    """The timeout counts from the last thing that brought the prediction on."""
    session = open_session(flood, timeout=0.3)
    prediction = session.predict(asking())
    with pytest.raises(TimedOut, match=r"the server was silent for 0\.3 s"):
        session.read(prediction)
    session.close()


@pytest.mark.timeout(30)
@pytest.mark.usefixtures("endless")
def test_an_interrupt_ends_a_wait_in_a_flood(flood: ScriptedServer, open_session: Open, interrupt: Interrupt) -> None:
    """However much arrives: an interrupt, or the end of the given time."""
    interrupts: list[Interrupt] = []
    session = open_session(flood, interrupts=lambda: interrupts)
    prediction = session.predict(asking())
    assert session.read(prediction, within=0.1) == []
    interrupts.append(interrupt)
    assert session.read(prediction) == []
    assert not prediction.is_over
    session.close()


@pytest.mark.timeout(30)
def test_a_flood_that_means_nothing_ends_the_connection(
    flood: ScriptedServer, open_session: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a timeout, too: what a server may send without an answer in it is bounded."""
    monkeypatch.setattr("lmcli.client.websocket.IDLE_FRAMES", 10_000)
    monkeypatch.setattr("lmcli.wire.multiplexer.IGNORED", 1_000)
    session = open_session(flood)
    prediction = session.predict(asking())
    with pytest.raises((ConnectionLost, RemoteProtocolError), match=r"frames without a message|that mean nothing"):
        session.read(prediction)
    session.close()


@pytest.mark.timeout(30)
def test_another_channel_keeps_no_call_waiting(open_session: Open, interrupt: Interrupt) -> None:
    """A flood of fragments for somebody else does not hide an interrupt."""
    with flooding(texts(piece("x"))) as server:
        interrupts: list[Interrupt] = []
        session = open_session(server, interrupts=lambda: interrupts)
        session.predict(asking())
        interrupts.append(interrupt)
        with pytest.raises(ConnectionLost, match="listLoaded was interrupted"):
            session.call("listLoaded")
        session.close()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("then", [Peer.wait_until_left, leave, Peer.reset], ids=["waits", "leaves", "resets"])
def test_an_answer_is_complete_with_its_result(open_session: Open, then: Callable[[Peer], None]) -> None:
    """Neither a close that does not come nor a connection that is lost takes anything away from it."""
    with answering(piece("a"), success(), then=then) as server:
        session = open_session(server, timeout=PATIENCE)
        prediction = session.predict(asking())
        assert what_came(session, prediction) == ("a", None)
        assert prediction.end is not None
        session.close()


def test_slow_is_not_silent(start_server: StartServer, open_session: Open) -> None:
    """An answer that takes longer than the timeout is complete if it never pauses for as long."""
    session = open_session(start_server(tokens_per_second=50), timeout=0.6)
    text = "word " * 40
    assert what_came(session, session.predict(asking(text))) == (text, None)


def test_read_within(open_session: Open) -> None:
    """With `within` a read gives up early, without an error."""
    with answering() as server:
        session = open_session(server, timeout=5)
        prediction = session.predict(asking())
        assert session.read(prediction, within=0.01) == []
        assert not prediction.is_over
        session.close()


def refuse(peer: Peer) -> int:
    """Answer one call as a server that does not know its endpoint; gives its number."""
    number: int = peer.receive()["callId"]
    peer.send(warning(f"Received rpcCall for unknown endpoint, endpoint = new, callId = {number}"))
    return number


def use_up_warnings(session: Session) -> None:
    """Ask what the server does not understand, as often as it says so."""
    for _ in range(WARNINGS):
        with pytest.raises(RequestRejected, match="did not understand the request new"):
            session.call("new")


def test_a_new_socket_after_the_last_warning() -> None:
    """The next request goes over a new socket; the old one is closed when its channels have ended."""
    proceed, is_closed = threading.Event(), threading.Event()
    sockets = iter(("old", "new"))

    def script(peer: Peer) -> None:
        peer.greet()
        if next(sockets) == "old":
            assert peer.receive()["endpoint"] == "predict"
            peer.send(piece("a"))
            for _ in range(WARNINGS):
                refuse(peer)
            proceed.wait(PATIENCE)
            peer.send(piece("b"), success(), closed())
            with suppress(Left, OSError):
                peer.wait_until_left()
            is_closed.set()
        else:
            assert refuse(peer) == 1
            peer.wait_until_left()

    with (
        ScriptedServer(script) as server,
        Connection(Address("127.0.0.1", server.port), CREDENTIALS) as connection,
    ):
        old = connection.session("llm")
        prediction = old.predict(asking())
        use_up_warnings(old)
        new = connection.session("llm")
        assert new is not old
        with pytest.raises(RequestRejected, match="did not understand the request new"):
            new.call("new")
        assert connection.session("llm") is new
        assert not is_closed.is_set()
        proceed.set()
        assert what_came(old, prediction) == ("ab", None)
        assert is_closed.wait(PATIENCE)


def test_a_socket_on_which_everything_was_abandoned_is_closed() -> None:
    """Nobody reads what the server still sends for it, so its end is not waited for."""
    is_closed = threading.Event()
    sockets = iter(("old", "new"))

    def script(peer: Peer) -> None:
        peer.greet()
        if next(sockets) == "new":
            peer.wait_until_left()
        peer.receive()
        peer.send(piece("a"))
        for _ in range(WARNINGS):
            refuse(peer)
        with suppress(Left, OSError):
            peer.wait_until_left()
        is_closed.set()

    with (
        ScriptedServer(script) as server,
        Connection(Address("127.0.0.1", server.port), CREDENTIALS) as connection,
    ):
        old = connection.session("llm")
        prediction = old.predict(asking())
        use_up_warnings(old)
        old.abandon(prediction)
        assert connection.session("llm") is not old
        assert is_closed.wait(PATIENCE)


REQUESTS: dict[str, Callable[[Session], object]] = {
    "call": lambda session: session.call("listLoaded"),
    "predict": lambda session: session.predict(asking()),
    "load": lambda session: session.load(requests.get_or_load("tiny", LoadConfig())),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_no_request_after_the_last_warning(open_session: Open, request_: Callable[[Session], object]) -> None:
    """What a server may pass over in silence is not sent to it: the request fails at once."""

    def script(peer: Peer) -> None:
        peer.greet()
        for _ in range(WARNINGS):
            refuse(peer)
        with pytest.raises(Left):
            peer.receive()

    with ScriptedServer(script) as server:
        session = open_session(server)
        use_up_warnings(session)
        assert not session.takes_requests
        with pytest.raises(RequestRejected, match="was not sent: the server has used up its warnings"):
            request_(session)
        session.close()


def test_a_request_that_waits_for_a_mute_server(open_session: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request under way at the last warning fails if no answer begins soon; one whose answer has begun goes on."""
    monkeypatch.setattr("lmcli.client.session.MUTE_SECONDS", 0.05)
    proceed = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.send(piece("a"))
        peer.receive()
        peer.send(*[warning("?", kind="channelMessageTypeError")] * WARNINGS)
        proceed.wait(PATIENCE)
        peer.send(piece("b"), success(), closed())
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        answered = session.predict(asking())
        assert text_of(session, answered, until=1) == "a"
        unanswered = session.predict(asking())
        assert session.ready([answered, unanswered]) == [unanswered]
        with pytest.raises(RequestRejected, match="used up its warnings"):
            session.read(unanswered)
        proceed.set()
        assert what_came(session, answered) == ("b", None)
        session.close()


def test_ready_gives_the_channels_that_can_be_read(open_session: Open) -> None:
    """Of several channels those on which something has arrived, be it the end; empty when the time is over."""

    def script(peer: Peer) -> None:
        peer.greet()
        for _ in range(4):
            peer.receive()
        peer.send(piece("c", 3), failed("Boom", 2), piece("d", 4))
        assert peer.receive() == sent(3, {"type": "cancel"})
        peer.send(piece("a", 1))
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        one, two, three, four = (session.predict(asking()) for _ in range(4))
        assert session.ready([one, two, three]) == [two, three]
        with pytest.raises(PredictionFailed, match="Boom"):
            session.read(two)
        assert session.read(three) == [Fragment("c")]
        assert session.ready([one, three], within=0.01) == []
        session.cancel(three)
        assert session.ready([one, three]) == [one]
        assert session.ready([one, four]) == [one, four]
        session.close()


def test_a_read_waits_for_its_own_channel(open_session: Open) -> None:
    """What arrives on another channel does not end the wait with nothing; it is kept for its own reader."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.receive()
        for word in ("a", "b"):
            peer.send(piece(word, 2))
            peer.protocol.send_ping(b"")
            peer.flush()
            assert peer.frame().opcode is Opcode.PONG, "the client has taken the packet in"
        peer.send(piece("c", 1))
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        one, other = session.predict(asking()), session.predict(asking())
        assert session.read(one) == [Fragment("c")]
        assert session.read(other) == [Fragment("a"), Fragment("b")]
        session.close()


def test_no_read_of_an_open_channel_is_empty(server: Running, open_session: Open) -> None:
    """However the packets of ten channels interleave, each read brings values, or the end."""
    session = open_session(server)
    predictions = [session.predict(asking(f"w{number} " * 50)) for number in range(10)]
    while running := [prediction for prediction in predictions if not prediction.is_over]:
        for prediction in running:
            assert session.read(prediction) or prediction.is_over
