"""One greeted namespace: being let in, calls, interrupts and silence."""

import select
import threading
from typing import Any

import pytest
from conftest import CREDENTIALS, FOREVER, PATIENCE, Open, StartServer
from faults import End, Peer, Proxy, ScriptedServer, after_texts
from packets import answering, asking, closed, piece, success, text_of, what_came

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
    RemoteProtocolError,
    RequestRejected,
    TimedOut,
)
from lmcli.server.background import Running
from lmcli.wire import requests
from lmcli.wire.protocol import Credentials


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
    assert CREDENTIALS.passkey not in str(caught.value)


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
    begun = text_of(session, prediction, until=20)
    assert len(list_loaded(session)) == 1
    assert begun + text_of(session, prediction) == text


def greeting(peer: Peer) -> None:
    """Let the client in, and say nothing more."""
    peer.greet()
    peer.wait_until_left()


@pytest.mark.timeout(20)
def test_interrupt_ends_a_call(open_session: Open, interrupt: Interrupt) -> None:
    """A question whose answer nobody waits for any more is an error, at once."""
    with ScriptedServer(greeting) as server:
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
    """The timeout counts from the last thing heard; what was heard is read first."""
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
