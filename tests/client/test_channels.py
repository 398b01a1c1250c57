"""Channels: predictions and loads, cancels, failures in every order, and older servers."""

import json
import os
import select
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import PATIENCE, Open, StartServer
from faults import End, Peer, Proxy, ScriptedServer, after_texts, byte_by_byte, text_frame
from packets import (
    Packet,
    answering,
    asking,
    closed,
    completing,
    failed,
    leave,
    loaded,
    piece,
    sent,
    success,
    text_of,
    warning,
    what_came,
)

from lmcli.client.waiting import Interrupt
from lmcli.errors import (
    ConnectionLost,
    Incomplete,
    LmError,
    LoadFailed,
    ModelNotFound,
    ModelUnloaded,
    PredictionFailed,
    RemoteProtocolError,
    RequestRejected,
)
from lmcli.server.background import Running
from lmcli.values import Fragment, LoadProgress, PromptProgress
from lmcli.wire import requests
from lmcli.wire.channels import Channel
from lmcli.wire.load_config import LoadConfig
from lmcli.wire.prediction_config import PredictionConfig


def test_prediction(server: Running, open_session: Open) -> None:
    """Progress, then fragments, then the stats, then the end."""
    session = open_session(server)
    prediction = session.predict(asking("one two"))
    values = [value for burst in session.bursts(prediction) for value in burst]
    kinds = [type(value) for value in values]
    assert kinds == [PromptProgress] * 3 + [Fragment] * 2
    assert prediction.is_over
    assert prediction.end is not None
    assert prediction.end.stats.stop_reason == "eosFound"
    assert prediction.end.model_info.identifier == "echo"


def test_channels_share_a_session(server: Running, open_session: Open) -> None:
    """Ten predictions at once, read in turns: each gets all of its own text and nothing else."""
    session = open_session(server)
    wanted = [f"{number}-" + " ".join(f"w{number}" for _ in range(200)) for number in range(10)]
    predictions = [session.predict(asking(text)) for text in wanted]
    got = [""] * len(wanted)
    while any(not prediction.is_over for prediction in predictions):
        for number, prediction in enumerate(predictions):
            if not prediction.is_over:
                got[number] += "".join(v.content for v in session.read(prediction) if isinstance(v, Fragment))
    assert got == wanted
    assert not session._multiplexer._channels, "what is over is forgotten"


def test_interleaved_channels_in_one_write(open_session: Open) -> None:
    """Packets of several channels are dispatched in any order; one that fails does not affect the other."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.receive()
        peer.send(piece("b1", 2), piece("a1"), failed("Boom", 2), piece("a2"), piece("late", 2), success(), closed())
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        one, two = session.predict(asking()), session.predict(asking())
        text, error = what_came(session, two)
        assert (text, str(error)) == ("b1", "Boom")
        assert what_came(session, one) == ("a1a2", None)
        session.close()


def test_a_bad_packet_fails_its_own_channel_only(open_session: Open) -> None:
    """An invalid packet fails its channel, and its later end does not hide that; the other channel goes on."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.receive()
        peer.send(piece("b1", 2), sent(2, {"type": "fragment"}))
        assert peer.receive() == sent(2, {"type": "cancel"})
        peer.receive()  # the client has read so far
        peer.send(success(2), closed(2), {"type": "rpcResult", "callId": 1}, piece("a1"), success(), closed())
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        session = open_session(server)
        one, two = session.predict(asking()), session.predict(asking())
        assert [str(value) for value in session.read(two)] == ["b1"]
        session.call("listLoaded")
        assert what_came(session, one) == ("a1", None)
        with pytest.raises(RemoteProtocolError, match="a fragment without content"):
            session.read(two)
        session.close()


def test_loading(start_server: StartServer, open_session: Open) -> None:
    """A load tells how far it is, then which instance it is."""
    session = open_session(start_server())
    loading = session.load(requests.get_or_load("echo-jit", LoadConfig(context_length=100)))
    values = [value for burst in session.bursts(loading) for value in burst]
    assert values[0] == LoadProgress(0.0)
    assert values[-1] == LoadProgress(1.0)
    instance = loading.loaded()
    assert (instance.identifier, instance.context_length) == ("echo-jit", 100)


def test_loading_what_is_not_there(server: Running, open_session: Open) -> None:
    """A model that does not exist is told from one that cannot be loaded."""
    session = open_session(server)
    with pytest.raises(ModelNotFound, match="no model 'nope'"):
        loaded(session, "nope")
    with answering(failed("Out of memory")) as broken:
        session = open_session(broken)
        with pytest.raises(LoadFailed, match="Out of memory"):
            loaded(session, "tiny")
        session.close()


def test_cancelled_load(start_server: StartServer, open_session: Open) -> None:
    """A load that is cancelled ends with what the server says about it."""
    session = open_session(start_server(load_seconds=60))
    loading = session.load(requests.get_or_load("echo-jit", LoadConfig()))
    assert session.read(loading)[0] == LoadProgress(0.0)
    session.cancel(loading)
    with pytest.raises(LoadFailed, match="cancelled"):
        list(session.bursts(loading))


def test_cancel(start_server: StartServer, open_session: Open) -> None:
    """A cancelled prediction comes to its end at once, with stats that hold the reason."""
    session = open_session(start_server(tokens_per_second=20))
    prediction = session.predict(asking("word " * 1000))
    text_of(session, prediction, until=1)
    session.cancel(prediction)
    text_of(session, prediction)
    assert prediction.end is not None
    assert prediction.end.stats.stop_reason == "userStopped"
    session.cancel(prediction)  # too late, and harmless


def test_cancel_before_the_first_token(start_server: StartServer, open_session: Open) -> None:
    """A cancel works while the prompt is being read."""
    session = open_session(start_server(prompt_tokens_per_second=1))
    prediction = session.predict(asking("word " * 100))
    assert isinstance(session.read(prediction)[0], PromptProgress)
    session.cancel(prediction)
    assert text_of(session, prediction) == ""
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
        seen = len(text_of(session, prediction, until=5_000_000))
        session.cancel(prediction)
        late = len(text_of(session, prediction))
        assert prediction.end is not None
        assert prediction.end.stats.stop_reason == f"after {(seen + late) // 100}"
        assert late < 16_000_000  # what the buffers of the system hold
        session.close()


def test_cancel_in_a_flood_of_the_real_server(server: Running, open_session: Open) -> None:
    """The real server stops a long answer in the middle as well."""
    words = 50_000
    session = open_session(server)
    prediction = session.predict(asking("word " * words))
    text_of(session, prediction, until=100)
    session.cancel(prediction)
    text_of(session, prediction)
    assert prediction.end is not None
    assert prediction.end.stats.stop_reason == "userStopped"
    assert (prediction.end.stats.predicted_tokens_count or words) < words


def test_abandon_drops_the_rest(open_session: Open) -> None:
    """An abandoned channel is cancelled, and its end is there for who asks for it."""
    with ScriptedServer(flood) as server:
        session = open_session(server)
        prediction = session.predict(asking())
        text_of(session, prediction, until=100)
        session.abandon(prediction)
        assert prediction.is_over
        session.drain(prediction)
        assert prediction.end is not None
        session.close()


def test_abandon_does_not_wait(open_session: Open) -> None:
    """A server that does not react to a cancel keeps nobody, and is not asked for its result for ever."""
    cancelled = threading.Event()

    def script(peer: Peer) -> None:
        assert peer.receive() == sent(1, {"type": "cancel"})
        cancelled.set()
        peer.wait_until_left()

    with answering(piece("a"), then=script) as server:
        session = open_session(server)
        prediction = session.predict(asking())
        text_of(session, prediction, until=1)
        session.abandon(prediction)
        assert cancelled.wait(PATIENCE)
        session.drain(prediction, within=0.05)
        assert prediction.end is None
        session.close()


def test_abandon_after_the_connection_is_gone(open_session: Open) -> None:
    """Abandoning what is lost is no error."""
    with answering(piece("a"), then=leave) as server:
        session = open_session(server)
        prediction = session.predict(asking())
        assert what_came(session, prediction)[0] == "a"
        session.abandon(prediction)
        assert prediction.is_over


def test_interrupt_ends_a_read(open_session: Open) -> None:
    """A signal's pipe ends a wait with an empty burst; the channel goes on."""
    reader, writer = os.pipe()
    proceed = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        proceed.wait(5)
        peer.send(piece("a"), success(), closed())
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        interrupts = [Interrupt(reader)]
        session = open_session(server, interrupts=lambda: interrupts)
        prediction = session.predict(asking())
        os.write(writer, b"!")
        assert session.read(prediction) == []
        assert not prediction.is_over
        interrupts.clear()
        proceed.set()
        assert what_came(session, prediction) == ("a", None)
        session.close()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("before", [[], ["a", "b"]])
def test_channel_error(open_session: Open, before: Sequence[str]) -> None:
    """An error ends the prediction; what came before it is read first."""
    with answering(*map(piece, before), failed("The GPU\nburns.")) as server:
        session = open_session(server)
        text, error = what_came(session, session.predict(asking()))
        assert text == "".join(before)
        assert isinstance(error, PredictionFailed)
        assert str(error) == r"The GPU\nburns"
        session.close()


def test_unloaded_in_the_middle(open_session: Open) -> None:
    """A model that is unloaded while it answers leaves an incomplete answer."""
    with answering(piece("a"), failed("Model is unloaded.")) as server:
        session = open_session(server)
        text, error = what_came(session, session.predict(asking()))
        assert text == "a"
        assert isinstance(error, ModelUnloaded)
        session.close()


def test_error_packet_of_older_servers(open_session: Open) -> None:
    """A failure inside the channel is a failure, too."""
    with answering(piece("a"), sent(1, {"type": "error", "error": {"title": "Boom"}}), closed()) as server:
        session = open_session(server)
        text, error = what_came(session, session.predict(asking()))
        assert (text, str(error)) == ("a", "Boom")
        session.close()


@pytest.mark.parametrize("kind", ["predict", "load"])
def test_close_without_success(open_session: Open, kind: str) -> None:
    """A channel that closes without a result is incomplete, whatever it was for."""
    with answering(piece("a"), closed()) as server:
        session = open_session(server)
        load = requests.get_or_load("tiny", LoadConfig())
        channel: Channel = session.predict(asking()) if kind == "predict" else session.load(load)
        with pytest.raises(Incomplete, match="without a result"):
            for _ in session.bursts(channel):
                pass
        session.close()


@pytest.mark.parametrize("end", [End.DROP, End.RESET])
def test_connection_ends_in_the_middle(server: Running, open_session: Open, end: End) -> None:
    """A dropped or reset connection is a loss, after all the fragments that arrived."""
    texts_before = 1 + 3 + 2  # greeting, progress, two fragments
    with Proxy(server.port, after_texts(texts_before, end)) as proxy:
        session = open_session(proxy)
        prediction = session.predict(asking("one two three four"))
        assert text_of(session, prediction, until=7) == "one two"
        text, error = what_came(session, prediction)
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
        text, error = what_came(session, session.predict(asking("one two three four")))
        assert text == "one two"
        assert type(error) is expected
        assert not session.is_open


def test_garbage_in_the_same_write(open_session: Open) -> None:
    """Fragments that share a segment with garbage are delivered; the ones behind it are not."""
    with answering(piece("a"), piece("b"), b"garbage", piece("c"), success(), closed()) as server:
        session = open_session(server)
        text, error = what_came(session, session.predict(asking()))
        assert text == "ab"
        assert isinstance(error, RemoteProtocolError)
        with pytest.raises(LmError):
            session.call("listLoaded")


def test_bad_packet_after_good_ones(open_session: Open) -> None:
    """A fragment with a value of the wrong type ends the prediction, after the good ones."""
    bad = sent(1, {"type": "fragment", "fragment": {"content": 5}})
    with answering(piece("a"), bad, piece("b"), success(), closed()) as server:
        session = open_session(server)
        text, error = what_came(session, session.predict(asking()))
        assert text == "a"
        assert isinstance(error, RemoteProtocolError)
        session.close()


@pytest.mark.parametrize("packet", [{}, [], None, "x", {"type": 1}])
def test_packet_without_a_type(open_session: Open, packet: Any) -> None:
    """A packet that is none is an error of the server."""
    with answering(sent(1, packet)) as server:
        session = open_session(server)
        with pytest.raises(RemoteProtocolError, match="a packet without a type"):
            text_of(session, session.predict(asking()))
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
            text_of(session, session.predict(asking()))
        assert what_came(session, session.predict(asking())) == ("a", None)
        session.close()


def test_warning_about_a_late_cancel_ends_nothing(open_session: Open) -> None:
    """`channelUnknown` is about a channel that has ended, not about the one that runs."""
    with answering(warning("?", kind="channelUnknown"), piece("a"), success(), closed()) as server:
        session = open_session(server)
        assert what_came(session, session.predict(asking())) == ("a", None)
        session.close()


def test_unknown_things_are_passed_over(open_session: Open) -> None:
    """Newer packets, newer kinds, unknown channels and acknowledgements do not disturb."""
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
        assert what_came(session, session.predict(asking())) == ("ab", None)
        session.close()


def test_split_emoji(open_session: Open) -> None:
    """Half an emoji is held back until the other half comes; one that stays alone becomes U+FFFD."""
    halves = [b'{"type":"channelSend","channelId":1,"message":{"type":"fragment","fragment":{"content":"%s"}}}' % half
              for half in (b"a\\ud83d", b"\\ude00b", b"\\ud83d")]  # fmt: skip
    with answering(*halves, success(), closed()) as server:
        session = open_session(server)
        assert what_came(session, session.predict(asking())) == ("a😀b\ufffd", None)
        session.close()


def test_byte_by_byte(server: Running, open_session: Open) -> None:
    """A whole dialogue whose bytes arrive one by one."""
    with Proxy(server.port, byte_by_byte) as proxy:
        session = open_session(proxy)
        assert what_came(session, session.predict(asking("ä b\nc"))) == ("ä b\nc", None)


@pytest.mark.parametrize(
    "refusal",
    [
        warning("x", kind="channelEndpointUnknown"),
        warning("x", kind="channelEndpointUnhandled"),
        warning("Received channelCreate for unknown endpoint, endpoint = completeRawText"),
    ],
    ids=["kind", "unhandled", "without kind"],
)
def test_completion_by_the_older_request(open_session: Open, refusal: Packet) -> None:
    """A server without `completeRawText` is sent the older request, and from then on at once."""
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
            assert what_came(session, prediction) == ("a", None)
            assert prediction.end is not None
        assert not session._multiplexer.has_raw_completion
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
        assert text_of(session, prediction, until=1) == "a"
        session.cancel(prediction)
        assert what_came(session, prediction) == ("", None)
        session.close()


def test_what_was_cancelled_is_not_begun_again(open_session: Open) -> None:
    """A server without `completeRawText` that receives the cancel first is not sent the older request."""
    received: list[Packet] = []

    def script(peer: Peer) -> None:
        peer.greet()
        assert peer.receive()["endpoint"] == "completeRawText"
        assert peer.receive() == sent(1, {"type": "cancel"})
        peer.send(warning("x", kind="channelEndpointUnknown"))
        while True:
            received.append(peer.receive())

    with ScriptedServer(script) as server:
        session = open_session(server)
        prediction = completing(session)
        session.cancel(prediction)
        text, error = what_came(session, prediction)
        assert text == ""
        assert isinstance(error, RequestRejected)
        assert prediction.is_over
        session.close()
    assert received == []


def test_other_refusals_are_not_fallen_back_from(open_session: Open) -> None:
    """A completion that is refused for its parameters fails and is not asked again."""
    with answering(warning("x", kind="channelCreationParameterTypeError")) as server:
        session = open_session(server)
        with pytest.raises(RequestRejected, match="completeRawText"):
            text_of(session, completing(session))
        assert session._multiplexer.has_raw_completion
        session.close()


def test_completion(server: Running, open_session: Open) -> None:
    """A server that knows `completeRawText` is asked once."""
    session = open_session(server)
    assert what_came(session, session.predict(requests.complete("echo", " a\n", PredictionConfig()))) == (" a\n", None)
    assert session._multiplexer.has_raw_completion
