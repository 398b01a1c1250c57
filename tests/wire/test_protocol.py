"""One authenticated namespace as a state machine."""

import json
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from properties import QUICK, any_json, examples, garbled, nested, texts_with_halves

from lmcli.errors import NotAllowed, RemoteProtocolError, RequestRejected
from lmcli.wire.envelopes import ABSENT
from lmcli.wire.protocol import (
    Authenticated,
    CallFailed,
    CallReturned,
    ChannelClosed,
    ChannelFailed,
    Credentials,
    Event,
    Packets,
    Protocol,
    Rejection,
    State,
)

ME = Credentials("guest:me", "s3cret")


def receive(protocol: Protocol, text: bytes | str) -> Event | None:
    """What a text means."""
    events = list(protocol.receive([text]))
    assert len(events) <= 1
    return events[0] if events else None


def authenticated() -> Protocol:
    """A protocol whose server has accepted the credentials."""
    protocol = Protocol()
    protocol.authenticate(ME)
    assert receive(protocol, '{"success":true}') == Authenticated()
    return protocol


def event_of(protocol: Protocol, type_: str, **keys: Any) -> Event | None:
    """What an envelope from the server means."""
    return receive(protocol, json.dumps({"type": type_, **keys}))


def test_authentication_comes_first() -> None:
    """The first text holds the credentials, in the form that servers expect."""
    protocol = Protocol()
    assert json.loads(protocol.authenticate(ME)) == {
        "authVersion": 1,
        "clientIdentifier": "guest:me",
        "clientPasskey": "s3cret",
    }
    assert protocol.state is State.WAITING


ASKING: list[Callable[[Protocol], object]] = [
    lambda protocol: protocol.call("listLoaded"),
    lambda protocol: protocol.open_channel("predict", {}),
]


@pytest.mark.parametrize("ask", ASKING, ids=["call", "channel"])
def test_nothing_is_sent_before_the_authentication(ask: Callable[[Protocol], object]) -> None:
    """A server drops what comes before it has answered the authentication, so asking earlier is a mistake."""
    protocol = Protocol()
    with pytest.raises(RuntimeError, match="unauthenticated"):
        ask(protocol)
    protocol.authenticate(ME)
    with pytest.raises(RuntimeError, match="waiting"):
        ask(protocol)
    receive(protocol, '{"success":true}')
    ask(protocol)


def test_authentication_happens_once() -> None:
    """Authenticating twice on one socket is a mistake."""
    with pytest.raises(RuntimeError, match="open"):
        authenticated().authenticate(ME)


@pytest.mark.parametrize("text", ['{"success":true}', '{"success":true,"more":1}'])
def test_accepted_credentials(text: str) -> None:
    """`success: true` opens the namespace; further keys are ignored."""
    protocol = Protocol()
    protocol.authenticate(ME)
    event = receive(protocol, text)
    assert event, "an event is true, so that it differs from none"
    assert event == Authenticated()
    assert protocol.state is State.OPEN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"success":false,"error":"Invalid passkey"}', "the server refused access: Invalid passkey"),
        ('{"success":false,"error":"\\u001b[2J"}', r"the server refused access: \x1b[2J"),
        ('{"success":false}', "the server refused access"),
        ('{"success":false,"error":5}', "the server refused access"),
    ],
)
def test_refusal(text: str, message: str) -> None:
    """Refused credentials are NotAllowed, with the server's reason and what to do; nothing can be asked then."""
    protocol = Protocol()
    protocol.authenticate(ME)
    with pytest.raises(NotAllowed) as error:
        receive(protocol, text)
    assert error.value.message == message
    assert "LM_API_TOKEN" in error.value.hints[0]
    assert protocol.state is State.CLOSED
    with pytest.raises(RuntimeError, match="closed"):
        protocol.call("listLoaded")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"success":"true"}', '{"success":1}', '{"type":"rpcResult","callId":1}']
)
def test_what_is_no_greeting(text: str) -> None:
    """A server that answers the authentication with anything else does not speak this protocol."""
    protocol = Protocol()
    protocol.authenticate(ME)
    with pytest.raises(RemoteProtocolError):
        receive(protocol, text)
    assert protocol.state is State.WAITING


def test_a_server_that_speaks_out_of_turn() -> None:
    """A text before the authentication, or after a refusal, is the server's mistake, not the program's."""
    protocol = Protocol()
    with pytest.raises(RemoteProtocolError):
        receive(protocol, '{"success":true}')
    protocol.authenticate(ME)
    with pytest.raises(NotAllowed):
        receive(protocol, '{"success":false}')
    with pytest.raises(RemoteProtocolError):
        receive(protocol, '{"success":true}')


def test_numbers() -> None:
    """Calls and channels are counted apart, from 1, and no number is given twice."""
    protocol = authenticated()
    assert [protocol.call("a")[0], protocol.call("b")[0]] == [1, 2]
    assert [protocol.open_channel("c")[0], protocol.open_channel("d")[0]] == [1, 2]
    event_of(protocol, "rpcResult", callId=2)
    event_of(protocol, "channelClose", channelId=2)
    assert (protocol.call("a")[0], protocol.open_channel("c")[0]) == (3, 3)


@pytest.mark.parametrize(
    ("ask", "sent"),
    [
        (lambda p: p.call("listLoaded"), {"type": "rpcCall", "endpoint": "listLoaded", "callId": 1}),
        (lambda p: p.call("e", {"a": 1}), {"type": "rpcCall", "endpoint": "e", "callId": 1, "parameter": {"a": 1}}),
        (lambda p: p.open_channel("alive"), {"type": "channelCreate", "endpoint": "alive", "channelId": 1}),
        (
            lambda p: p.open_channel("predict", {"a": 1}),
            {"type": "channelCreate", "endpoint": "predict", "channelId": 1, "creationParameter": {"a": 1}},
        ),
    ],
)
def test_what_is_sent(ask: Callable[[Protocol], tuple[int, bytes]], sent: Any) -> None:
    """A request is its envelope; without a parameter the key is absent, because servers reject null there."""
    assert json.loads(ask(authenticated())[1]) == sent


def test_a_channel() -> None:
    """Packets carry the number of their channel until it is closed."""
    protocol = authenticated()
    channel, _ = protocol.open_channel("predict")
    assert event_of(protocol, "channelSend", channelId=channel, message={"type": "x"}) == Packets(
        channel, [{"type": "x"}]
    )
    assert event_of(protocol, "channelSend", channelId=channel, message=5, ackId=1) == Packets(channel, [5])
    assert event_of(protocol, "channelSend", channelId=channel) == Packets(channel, [ABSENT])
    assert event_of(protocol, "channelClose", channelId=channel) == ChannelClosed(channel)


def test_packets_that_follow_each_other_are_one_event() -> None:
    """What arrives together on a channel stays together, in order, also before a text that is not JSON."""
    protocol = authenticated()
    for name in ("predict", "predict"):
        protocol.open_channel(name)
    protocol.call("e")
    sent = [(1, "a"), (1, "b"), (2, "c"), (9, "unknown"), (1, "d"), (1, "e")]
    texts = [json.dumps({"type": "channelSend", "channelId": number, "message": body}) for number, body in sent]
    texts.insert(-1, json.dumps({"type": "rpcResult", "callId": 1}))
    events = protocol.receive([*texts, "garbage", *texts])
    assert list(islice(events, 5)) == [
        Packets(1, ["a", "b"]),
        Packets(2, ["c"]),
        Packets(1, ["d"]),
        CallReturned(1, ABSENT),
        Packets(1, ["e"]),
    ]
    with pytest.raises(RemoteProtocolError):
        next(events)


ENDS: list[tuple[str, dict[str, Any], Event]] = [
    ("channelClose", {"channelId": 1}, ChannelClosed(1)),
    ("channelError", {"channelId": 1, "error": {"title": "t"}}, ChannelFailed(1, {"title": "t"})),
    ("rpcResult", {"callId": 1, "result": [1]}, CallReturned(1, [1])),
    ("rpcResult", {"callId": 1}, CallReturned(1, ABSENT)),
    ("rpcResult", {"callId": 1, "result": None}, CallReturned(1, None)),
    ("rpcError", {"callId": 1, "error": {"title": "t"}}, CallFailed(1, {"title": "t"})),
]


@pytest.mark.parametrize(("type_", "keys", "event"), ENDS)
def test_an_end_comes_once(type_: str, keys: Any, event: Event) -> None:
    """Each terminal envelope ends its request, and what comes for it later is passed over."""
    protocol = authenticated()
    protocol.call("e")
    protocol.open_channel("e")
    assert event_of(protocol, type_, **keys) == event
    for late, late_keys, _ in ENDS:
        if late[:3] == type_[:3]:
            assert event_of(protocol, late, **late_keys) is None
    if type_.startswith("channel"):
        assert event_of(protocol, "channelSend", channelId=1, message={}) is None
        assert protocol.cancel(1) is None


@pytest.mark.parametrize(
    ("type_", "keys"),
    [
        ("channelSend", {"channelId": 9, "message": {}}),
        ("channelClose", {"channelId": 9}),
        ("channelError", {"channelId": 9, "error": {}}),
        ("rpcResult", {"callId": 9}),
        ("rpcError", {"callId": 9, "error": {}}),
        ("channelAck", {"channelId": 1, "ackId": 0}),
        ("keepAliveAck", {}),
        ("signalUpdate", {"subscribeId": 1, "patches": []}),
        ("somethingNew", {"channelId": 1, "callId": 1}),
        ("rpcCall", {"callId": 1, "endpoint": "e"}),
    ],
)
def test_what_belongs_to_nothing_is_passed_over(type_: str, keys: Any) -> None:
    """Unknown numbers, unknown kinds and what needs no answer change nothing."""
    protocol = authenticated()
    protocol.call("e")
    protocol.open_channel("e")
    assert event_of(protocol, type_, **keys) is None
    assert event_of(protocol, "rpcResult", callId=1) == CallReturned(1, ABSENT)
    assert event_of(protocol, "channelClose", channelId=1) == ChannelClosed(1)


def test_cancel() -> None:
    """A cancel is a packet on a channel that is open; for any other there is nothing to send."""
    protocol = authenticated()
    channel, _ = protocol.open_channel("predict")
    assert json.loads(protocol.cancel(channel) or "") == {
        "type": "channelSend",
        "channelId": channel,
        "message": {"type": "cancel"},
    }
    assert protocol.cancel(channel + 1) is None


def event_of_warning(protocol: Protocol, warning: str = "w", **kind: Any) -> Event | None:
    """What a warning means."""
    return event_of(protocol, "communicationWarning", warning=warning, **kind)


WORDS = {
    "channelEndpointUnknown": "Received channelCreate for unknown endpoint, endpoint = new",
    "channelEndpointUnhandled": "Received channelCreate for unhandled endpoint, endpoint = new",
    "channelCreationParameterTypeError": "Received invalid creationParameter for channel, endpointName = new, "
    'creationParameter = {"prompt":"unknown endpoint"}. Zod error: …',
    "rpcEndpointUnknown": "Received rpcCall for unknown endpoint, endpoint = old",
    "rpcParameterTypeError": "Received invalid parameter for rpcCall, endpointName = old, parameter = {}",
}
"""The warnings of servers, by the kind that they have added since March 2026."""


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("is_named", [True, False], ids=["with kind", "in words"])
def test_a_warning_ends_the_request_that_it_is_about(kind: str, is_named: bool) -> None:  # noqa: FBT001
    """A request that was not understood gets no other answer, so the warning is its answer; nothing else ends."""
    protocol = authenticated()
    protocol.call("old")
    protocol.open_channel("new")
    event = event_of_warning(protocol, WORDS[kind], **({"kind": kind} if is_named else {}))
    if kind.startswith("rpc"):
        assert isinstance(event, CallFailed)
        assert event_of(protocol, "channelClose", channelId=1) == ChannelClosed(1)
    else:
        assert isinstance(event, ChannelFailed)
        assert event_of(protocol, "rpcResult", callId=1) == CallReturned(1, ABSENT)
    assert isinstance(event.error, Rejection)
    assert isinstance(event.error, RequestRejected)
    assert event.error.is_unknown_endpoint == ("Endpoint" in kind)
    assert (
        event.error.message
        == f"the server did not understand the request {(kind[0] == 'r' and 'old') or 'new'}: {WORDS[kind]}"
    )


@pytest.mark.parametrize(
    ("warning", "kind"),
    [
        ("Received channelSend for unknown channel, channelId = 1", "channelUnknown"),
        ("Received channelSend for unknown channel, channelId = 1", None),
        ("Received invalid message for channel, endpointName = a, message = {}", "channelMessageTypeError"),
        ("Received invalid message for channel, endpointName = a, message = {}", None),
        ("Tried to send invalid message for channel, endpointName = a, message = {}", None),
        ("Received signalSubscribe for unknown endpoint, endpoint = s", "signalEndpointUnknown"),
        ("Received writableSignalSubscribe for …", "writableSignalEndpointUnknown"),
    ],
)
def test_warnings_that_end_nothing(warning: str, kind: str | None) -> None:
    """A cancel that raced a channel's end, and what never was a request, takes no other request with it."""
    protocol = authenticated()
    protocol.call("a")
    protocol.open_channel("a")
    assert event_of_warning(protocol, warning, **({"kind": kind} if kind else {})) is None
    assert event_of(protocol, "channelClose", channelId=1) == ChannelClosed(1)
    assert event_of(protocol, "rpcResult", callId=1) == CallReturned(1, ABSENT)


def test_a_request_that_is_answered_was_understood() -> None:
    """A warning about the form of a request is not about a channel on which something has already come."""
    protocol = authenticated()
    for _ in range(3):
        protocol.open_channel("predict")
    event_of(protocol, "channelSend", channelId=1, message={})
    event = event_of_warning(protocol, "bad parameter", kind="channelCreationParameterTypeError")
    assert isinstance(event, ChannelFailed)
    assert event.channel_id == 2
    assert event_of(protocol, "channelSend", channelId=1, message={}) == Packets(1, [{}])


def test_a_warning_is_about_the_endpoint_that_it_names() -> None:
    """Of several requests that wait, the one whose endpoint is named; without a name the oldest."""
    protocol = authenticated()
    for endpoint in ("getOrLoad", "completeRawText", "predict"):
        protocol.open_channel(endpoint)
    event = event_of_warning(protocol, WORDS["channelEndpointUnknown"].replace("new", "completeRawText"))
    assert isinstance(event, ChannelFailed)
    assert event.channel_id == 2
    event = event_of_warning(protocol, "???", kind="unknown")
    assert isinstance(event, ChannelFailed)
    assert event.channel_id == 1


def test_every_warning_ends_one_request() -> None:
    """Three requests that are not understood are three warnings and three failures; a fourth warning ends nothing."""
    protocol = authenticated()
    for _ in range(3):
        protocol.open_channel("new")
    kind = "channelEndpointUnknown"
    events = [event_of_warning(protocol, kind=kind) for _ in range(4)]
    assert [event.channel_id for event in events[:3] if isinstance(event, ChannelFailed)] == [1, 2, 3]
    assert events[3] is None


@pytest.mark.parametrize("keys", [{}, {"warning": 5, "kind": ["rpc"]}, {"warning": None, "kind": nested(500)}])
def test_a_warning_without_words(keys: Any) -> None:
    """A warning of another form still ends the oldest request."""
    protocol = authenticated()
    protocol.call("e")
    event = event_of(protocol, "communicationWarning", **keys)
    assert isinstance(event, CallFailed)
    assert event.error.message == "the server did not understand the request e: "


def test_a_warning_cannot_drive_the_terminal() -> None:
    """What the server says is escaped in our message."""
    protocol = authenticated()
    protocol.call("e")
    event = event_of_warning(protocol, "\x1b[2J")
    assert isinstance(event, CallFailed)
    assert event.error.message.endswith(r"e: \x1b[2J")


def test_the_passkey_does_not_leak() -> None:
    """No text that is made of the credentials or of a protocol that used them shows the secret."""
    protocol = authenticated()
    shown = [f"{ME}", repr(ME), str([ME]), f"{ME!r}", repr(protocol), str(vars(protocol))]
    assert not [text for text in shown if "s3cret" in text or "guest:me" in text]


@QUICK
@given(st.binary() | texts_with_halves, st.sampled_from(State))
def test_any_text_is_an_event_or_an_error(text: bytes | str, state: State) -> None:
    """Whatever bytes come, in whatever state, receiving them raises RemoteProtocolError and nothing else."""
    protocol = Protocol()
    protocol.state = state
    with suppress(RemoteProtocolError):
        receive(protocol, text)


ENVELOPES: list[dict[str, Any]] = [
    {"type": "channelSend", "channelId": 1, "message": {}},
    {"type": "channelError", "channelId": 1, "error": {}},
    {"type": "rpcResult", "callId": 1, "result": []},
    {"type": "communicationWarning", "warning": "w", "kind": "rpcUnknown"},
    {"success": False, "error": "e"},
]


@QUICK
@given(st.sampled_from(ENVELOPES).flatmap(garbled) | any_json, st.sampled_from(State))
def test_any_json_is_an_event_or_an_error(value: Any, state: State) -> None:
    """The same for JSON that is almost an envelope; while the answer to the authentication is due, also NotAllowed."""
    protocol = authenticated()
    protocol.call("e")
    protocol.open_channel("e")
    protocol.state = state
    allowed = (RemoteProtocolError, NotAllowed) if state is State.WAITING else (RemoteProtocolError,)
    with suppress(*allowed):
        receive(protocol, json.dumps(value))


class Interleaving(RuleBasedStateMachine):
    """Calls and channels at once, their answers in any order, against a model that only counts."""

    channels = Bundle("channels")
    calls = Bundle("calls")

    @initialize()
    def authenticate(self) -> None:
        """Begin with an open namespace and nothing asked."""
        self.protocol = authenticated()
        self.open_channels: set[int] = set()
        self.open_calls: set[int] = set()
        self.answered: set[int] = set()

    @rule(target=channels)
    def open_channel(self) -> int:
        """A channel gets the next number."""
        number, _ = self.protocol.open_channel("predict")
        self.open_channels.add(number)
        return number

    @rule(target=calls)
    def call(self) -> int:
        """A call gets the next number."""
        number, _ = self.protocol.call("listLoaded")
        self.open_calls.add(number)
        return number

    @rule(number=channels, body=any_json)
    def packet(self, number: int, body: Any) -> None:
        """A packet reaches its channel, while that is open."""
        event = event_of(self.protocol, "channelSend", channelId=number, message=body)
        assert event == (Packets(number, [body]) if number in self.open_channels else None)
        self.answered.add(number)

    @rule(number=channels, has_failed=st.booleans())
    def end_channel(self, number: int, has_failed: bool) -> None:  # noqa: FBT001
        """A terminal envelope ends the channel, once."""
        event = ChannelFailed(number, {}) if has_failed else ChannelClosed(number)
        type_ = "channelError" if has_failed else "channelClose"
        expected = event if number in self.open_channels else None
        assert event_of(self.protocol, type_, channelId=number, error={}) == expected
        self.open_channels.discard(number)

    @rule(number=calls, has_failed=st.booleans())
    def answer(self, number: int, has_failed: bool) -> None:  # noqa: FBT001
        """An answer ends the call, once."""
        event = CallFailed(number, {}) if has_failed else CallReturned(number, {})
        expected = event if number in self.open_calls else None
        assert (
            event_of(self.protocol, "rpcError" if has_failed else "rpcResult", callId=number, error={}, result={})
            == expected
        )
        self.open_calls.discard(number)

    @rule()
    def refuse_a_channel(self) -> None:
        """A warning about channels ends the oldest on which nothing came, and no other."""
        event = event_of_warning(self.protocol, kind="channelCreationParameterTypeError")
        waiting = self.open_channels - self.answered
        assert waiting or event is None
        if waiting:
            assert isinstance(event, ChannelFailed)
            assert event.channel_id == min(waiting)
            self.open_channels.discard(event.channel_id)

    @precondition(lambda self: self.open_calls)
    @rule()
    def refuse_a_call(self) -> None:
        """A warning about calls ends the oldest of them and no channel."""
        event = event_of_warning(self.protocol, kind="rpcParameterTypeError")
        assert isinstance(event, CallFailed)
        assert event.call_id == min(self.open_calls)
        self.open_calls.discard(event.call_id)

    @rule(number=channels)
    def cancel(self, number: int) -> None:
        """A cancel is sent exactly while the channel is open."""
        assert (self.protocol.cancel(number) is not None) == (number in self.open_channels)

    @rule(number=st.integers(-1, 20), type_=st.sampled_from(["channelAck", "keepAlive", "keepAliveAck", "new"]))
    def noise(self, number: int, type_: str) -> None:
        """What belongs to nothing changes nothing."""
        assert event_of(self.protocol, type_, channelId=number, callId=number, ackId=0) is None


@pytest.mark.hypothesis
def test_interleavings() -> None:
    """However calls and channels interleave, each event belongs to its request and each request ends once."""
    run_state_machine_as_test(Interleaving, settings=settings(examples(30), stateful_step_count=25))
