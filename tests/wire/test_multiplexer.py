"""Many channels and calls on one socket, without the socket."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import COMPLETING, INSTANCE, Packet, asking, closed, failed, piece, sent, success, warning
from properties import QUICK

from lmcli.errors import LmError, PredictionFailed, RemoteProtocolError, RequestRejected
from lmcli.values import Fragment
from lmcli.wire import requests
from lmcli.wire.channels import Call, Channel, Prediction
from lmcli.wire.load_config import LoadConfig
from lmcli.wire.multiplexer import WARNINGS, Multiplexer
from lmcli.wire.pieces import joined
from lmcli.wire.protocol import Credentials


def authenticated() -> Multiplexer:
    """One whose server has accepted the credentials."""
    multiplexer = Multiplexer()
    multiplexer.authenticate(Credentials("guest:me", "s3cret"))
    assert len(multiplexer.texts_to_send()) == 1
    deliver(multiplexer, {"success": True})
    assert multiplexer.is_authenticated
    return multiplexer


def deliver(multiplexer: Multiplexer, *packets: Packet) -> None:
    """Have the server's packets arrive together."""
    multiplexer.receive([json.dumps(packet).encode() for packet in packets])


def sent_by(multiplexer: Multiplexer) -> list[Packet]:
    """What is to be sent now."""
    return [json.loads(joined(text)) for text in multiplexer.texts_to_send()]


def read(channel: Channel) -> str:
    """The text that has arrived on a channel."""
    return "".join(value.content for value in channel.read() if isinstance(value, Fragment))


def cancel(number: int) -> Packet:
    """What a client sends to end a channel."""
    return sent(number, {"type": "cancel"})


def completing(multiplexer: Multiplexer) -> Prediction:
    """A prediction with a fallback for servers without its endpoint."""
    return multiplexer.predict(requests.complete(*COMPLETING), requests.complete_by_predict(*COMPLETING))


class Outcome(NamedTuple):
    """How a server ends a channel: packets for its number, and the error that its reader sees."""

    packets: Callable[[int], Sequence[Packet]]
    error: type[LmError] | None = None


ENDINGS = {
    "success": Outcome(lambda number: [success(number), closed(number)]),
    "error": Outcome(lambda number: [failed("Boom", number)], PredictionFailed),
    "bad packet": Outcome(
        lambda number: [sent(number, {"type": 5}), piece("late", number), closed(number)], RemoteProtocolError
    ),
    "still open": Outcome(lambda _: []),
}


class Stream(NamedTuple):
    """What a server sends on a channel: whether it refuses the endpoint first, some fragments, an ending."""

    is_refused: bool
    fragments: list[str]
    ending: str

    def packets(self, channel: Prediction) -> Iterator[Packet]:
        """Its packets, each for the number that the channel has when the packet is sent."""
        if self.is_refused:
            text = f"Received channelCreate for unknown endpoint, endpoint = x, channelId = {channel.number}"
            yield warning(text, kind="channelEndpointUnknown")
        for fragment in self.fragments:
            yield piece(fragment, channel.number)
        yield from ENDINGS[self.ending].packets(channel.number)


streams = st.builds(Stream, st.booleans(), st.lists(st.text("ab", max_size=3), max_size=4), st.sampled_from([*ENDINGS]))


@QUICK
@given(st.lists(streams, min_size=1, max_size=5), st.data())
def test_any_interleaving(plans: list[Stream], data: st.DataObject) -> None:
    """Whatever the order and the bursts in which packets arrive, each channel gets exactly its own, in order."""
    multiplexer = authenticated()
    channels = [completing(multiplexer) for _ in plans]
    opened = [packet["channelId"] for packet in sent_by(multiplexer)]
    under_way = {index: plan.packets(channels[index]) for index, plan in enumerate(plans)}
    got = [""] * len(plans)
    while under_way:
        index = data.draw(st.sampled_from(sorted(under_way)), label="next channel")
        packet = next(under_way[index], None)
        if packet is None:
            del under_way[index]
            continue
        deliver(multiplexer, packet)
        reader = data.draw(st.sampled_from(range(len(plans))), label="reader")
        if channels[reader]._values:
            got[reader] += read(channels[reader])
    for index, (plan, channel) in enumerate(zip(plans, channels, strict=True)):
        check_end(plan, channel, got[index])
    later = sent_by(multiplexer)
    opened += [packet["channelId"] for packet in later if packet["type"] == "channelCreate"]
    assert opened == list(range(1, len(opened) + 1)), "no number is used twice"
    assert len(opened) == len(plans) + sum(plan.is_refused for plan in plans)
    cancelled = {packet["channelId"] for packet in later if packet["type"] == "channelSend"}
    assert cancelled == {c.number for c, plan in zip(channels, plans, strict=True) if plan.ending == "bad packet"}


NUMBERS = st.integers(1, 3)
SENT: st.SearchStrategy[Packet] = st.one_of(
    st.builds(piece, st.sampled_from(["a", "", "é", "\ud83d", "\ude00"]), NUMBERS),
    st.builds(success, NUMBERS),
    st.builds(closed, NUMBERS),
    st.builds(failed, st.just("Boom"), NUMBERS),
    st.builds(sent, NUMBERS, st.sampled_from([None, {"type": 5}, {"type": "fragment"}, {"type": "weather"}])),
    st.builds(lambda number: {"type": "rpcResult", "callId": number, "result": number}, NUMBERS),
    st.builds(lambda number: warning("?", kind="channelEndpointUnknown"), NUMBERS),
)
TEXTS = SENT.map(lambda packet: json.dumps(packet).encode()) | st.sampled_from(
    [b"[]", b"garbage", b'{"type":"channelSend"}']
)


def brought(bursts: list[list[bytes]]) -> list[Any]:
    """What some bursts of texts bring to two predictions, a load and a call, and what is sent for them."""
    multiplexer = authenticated()
    pending = [
        completing(multiplexer),
        completing(multiplexer),
        multiplexer.load(requests.get_or_load("m", LoadConfig())),
    ]
    call = multiplexer.call("listLoaded")
    for burst in bursts:
        if multiplexer.error is None:
            multiplexer.receive(burst)
    found: list[Any] = [str(multiplexer.error), sent_by(multiplexer), answer_of(call) if call.is_ready else None]
    for channel in pending:
        found += [channel.read() if channel.unread_count else None, channel.is_answered, channel.has_ended]
        try:
            channel.read()
        except LmError as error:
            found.append(str(error))
    return found


@QUICK
@given(st.lists(TEXTS, max_size=12), st.data())
def test_any_bursts(texts: list[bytes], data: st.DataObject) -> None:
    """What arrives together brings what it brings one by one: values, ends, errors, and what is sent."""
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=3))), len(texts)]
    bursts = [texts[start:stop] for start, stop in pairwise(cuts)]
    assert brought(bursts) == brought([[text] for text in texts])


def check_end(plan: Stream, channel: Prediction, got: str) -> None:
    """Read the rest of a channel: all its text, then its error if there is one, and nothing of any other."""
    text, error = got, None
    try:
        while channel.is_ready and not channel.is_over:
            text += read(channel)
    except LmError as raised:
        error = raised
    assert text == "".join(plan.fragments)
    assert type(error) is (ENDINGS[plan.ending].error or type(None))
    assert channel.is_over is (plan.ending != "still open")


@QUICK
@given(st.permutations(range(1, 7)), st.sets(st.integers(1, 6)))
def test_answers_in_any_order(order: list[int], failing: set[int]) -> None:
    """Each call gets the answer, or the error, that bears its number; what is not answered yet is not ready."""
    multiplexer = authenticated()
    calls = [multiplexer.call("tokenize") for _ in order]
    for position, number in enumerate(order):
        assert not any(calls[later - 1].is_ready for later in order[position:])
        if number in failing:
            deliver(multiplexer, {"type": "rpcError", "callId": number, "error": {"title": f"Boom {number}"}})
        else:
            deliver(multiplexer, {"type": "rpcResult", "callId": number, "result": number})
    assert [answer_of(call) for call in calls] == [f"Boom {n}" if n in failing else n for n in range(1, 7)]


def answer_of(call: Call) -> Any:
    """The answer to a call, or the message of its error."""
    try:
        return call.result()
    except PredictionFailed as error:
        return error.message


def test_calls_and_channels_have_numbers_of_their_own() -> None:
    """A call and a channel may bear the same number; an answer to one is not for the other."""
    multiplexer = authenticated()
    call, channel = multiplexer.call("listLoaded"), multiplexer.predict(asking())
    assert [packet.get("callId", packet.get("channelId")) for packet in sent_by(multiplexer)] == [1, 1]
    deliver(multiplexer, piece("a", 1))
    assert (call.is_ready, read(channel)) == (False, "a")
    deliver(multiplexer, {"type": "rpcResult", "callId": 1, "result": []})
    assert (call.result(), channel.is_ready) == ([], False)


def test_a_bad_packet_fails_its_own_channel_and_cancels_it() -> None:
    """What came before it is read first; the server is asked to stop, and the other channel goes on."""
    multiplexer = authenticated()
    one, other = multiplexer.predict(asking()), multiplexer.predict(asking())
    sent_by(multiplexer)
    deliver(multiplexer, piece("a", 1), sent(1, {"type": "fragment"}), piece("b", 1), piece("c", 2), success(2))
    assert sent_by(multiplexer) == [cancel(1)]
    assert multiplexer.error is None
    assert read(one) == "a"
    with pytest.raises(RemoteProtocolError, match="a fragment without content"):
        one.read()
    deliver(multiplexer, success(1), closed(1), closed(2))
    assert (read(other), other.read(), other.is_over) == ("c", [], True)


def test_fallback() -> None:
    """A server without an endpoint is asked again at another, under a new number, and from then on at once."""
    multiplexer = authenticated()
    channel = completing(multiplexer)
    assert [packet["endpoint"] for packet in sent_by(multiplexer)] == ["completeRawText"]
    deliver(multiplexer, warning("x", kind="channelEndpointUnknown"))
    assert [(p["endpoint"], p["channelId"]) for p in sent_by(multiplexer)] == [("predict", 2)]
    assert (channel.number, channel.is_ready) == (2, False)
    deliver(multiplexer, piece("old", 1), piece("new", 2))
    assert read(channel) == "new"
    completing(multiplexer)
    assert [packet["endpoint"] for packet in sent_by(multiplexer)] == ["predict"]


def test_a_fallback_is_used_once() -> None:
    """A server that knows neither endpoint rejects the prediction."""
    multiplexer = authenticated()
    channel = completing(multiplexer)
    deliver(multiplexer, *[warning("x", kind="channelEndpointUnknown")] * 2)
    with pytest.raises(RequestRejected, match="did not understand the request predict"):
        channel.read()


QUOTED = '{"history":"for unknown endpoint, endpoint = predict, callId = 1, channelId = 1: "}'
NAMING = {
    "Received channelCreate for already open channel, channelId = 2": ("channel", 2),
    "Received invalid creationParameter for channel, endpointName = predict, channelId = 2, "
    f"creationParameter = {QUOTED}. Zod error: channelId = 3": ("channel", 2),
    f"Received invalid parameter for rpcCall, endpointName = tokenize, callId = 3, parameter = {QUOTED}": ("call", 3),
    f"Tried to serve callId = 2: {QUOTED}": ("call", 2),
    "Received channelCreate for already open channel, channelId = 9": None,
}


@pytest.mark.parametrize("text", NAMING)
def test_a_warning_that_names_a_number_is_about_that_one(text: str) -> None:
    """It ends the channel or call of that number and no other, whatever the text that it quotes says."""
    multiplexer = authenticated()
    pending: dict[tuple[str, int], Channel | Call] = {}
    for number in (1, 2, 3):
        pending["channel", number] = multiplexer.predict(asking())
        pending["call", number] = multiplexer.call("tokenize")
    deliver(multiplexer, warning(text))
    ended = [name for name, one in pending.items() if one.is_ready]
    assert ended == ([] if NAMING[text] is None else [NAMING[text]])


def test_a_mute_server() -> None:
    """A server warns five times on one socket; after that, nothing says that a request was not understood."""
    multiplexer = authenticated()
    for count in range(WARNINGS):
        assert not multiplexer.is_mute, count
        call = multiplexer.call("new")
        deliver(multiplexer, warning("?", kind="rpcEndpointUnknown"))
        with pytest.raises(RequestRejected):
            call.result()
    assert multiplexer.is_mute


def test_what_is_given_up_is_over() -> None:
    """It ends with the given error, and what arrives for it later changes nothing."""
    multiplexer = authenticated()
    channel, call = multiplexer.predict(asking()), multiplexer.call("listLoaded")
    for pending in (channel, call):
        multiplexer.give_up(pending, RequestRejected("no answer"))
    deliver(multiplexer, piece("a"), {"type": "rpcResult", "callId": 1, "result": []})
    for ask in (channel.read, call.result):
        with pytest.raises(RequestRejected, match="no answer"):
            ask()


def test_garbage_ends_the_socket() -> None:
    """What arrived before a text that is not JSON is read; nothing behind it is looked at."""
    multiplexer = authenticated()
    prediction, loading = multiplexer.predict(asking()), multiplexer.load(requests.get_or_load("m", LoadConfig()))
    texts = [json.dumps(piece("a")).encode(), b"garbage", json.dumps(piece("b")).encode()]
    multiplexer.receive(texts)
    assert isinstance(multiplexer.error, RemoteProtocolError)
    assert (read(prediction), prediction.is_ready, loading.is_ready) == ("a", False, False)


def test_a_result_ends_its_channel() -> None:
    """The close that follows is not waited for; what arrives in its place is ignored, and nothing is cancelled."""
    multiplexer = authenticated()
    prediction, loading = multiplexer.predict(asking()), multiplexer.load(requests.get_or_load("m", LoadConfig()))
    sent_by(multiplexer)
    deliver(multiplexer, piece("a"), success(), sent(2, {"type": "loadSuccess", "info": INSTANCE}))
    deliver(multiplexer, piece("late"), failed("late"), piece("late", 2))
    assert read(prediction) == "a"
    assert loading.loaded().identifier == "tiny"
    for channel in (prediction, loading):
        assert (channel.is_ready, channel.read(), channel.is_over) == (True, [], True)
        multiplexer.cancel(channel)
    assert sent_by(multiplexer) == []


MEANINGLESS: dict[str, Packet] = {
    "an unknown kind": {"type": "weather"},
    "an acknowledgement that was not asked for": {"type": "keepAliveAck"},
    "an unknown packet": sent(1, {"type": "weather"}),
    "an empty fragment": sent(1, {"type": "fragment", "fragment": {"content": "", "tokensCount": 0}}),
    "the packet of another channel": piece("x", 7),
    "the result of another call": {"type": "rpcResult", "callId": 7},
    "the end of another channel": closed(7),
    "a warning that ends nothing": warning("?", kind="channelUnknown"),
    "progress that is no progress": sent(2, {"type": "loadProgress", "progress": 0}),
}


@pytest.mark.parametrize("packet", MEANINGLESS.values(), ids=MEANINGLESS)
def test_what_means_nothing_is_counted(packet: Packet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until something arrives that brings a channel or a call on; too much of it in a row ends the socket."""
    monkeypatch.setattr("lmcli.wire.multiplexer.IGNORED", 10)
    multiplexer = authenticated()
    prediction = multiplexer.predict(asking())
    multiplexer.load(requests.get_or_load("m", LoadConfig()))
    deliver(multiplexer, sent(2, {"type": "startLoading"}))
    for content in "ab":
        deliver(multiplexer, *[packet] * 9)
        assert multiplexer.ignored_count == 9
        deliver(multiplexer, packet, piece(content))
        assert multiplexer.ignored_count == 0
    deliver(multiplexer, *[packet] * 10)
    assert multiplexer.error is None
    deliver(multiplexer, packet)
    assert str(multiplexer.error) == "the server sent 11 messages that mean nothing"
    assert read(prediction) == "ab"
