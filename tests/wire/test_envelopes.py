"""JSON text and envelopes, both ways."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, any_json, garbled, json_objects, texts_with_halves

from lmcli.errors import RemoteProtocolError
from lmcli.wire.envelopes import ABSENT, KINDS, NO_ID, Envelope, Kind, decode, encode, loads

BODY = {"any": ["thing", None, 1.5, "é🙂"]}
WIRE: dict[str, tuple[dict[str, Any], Envelope]] = {
    "rpcCall": ({"endpoint": "e", "callId": 7, "parameter": BODY}, Envelope("rpcCall", 7, "e", BODY)),
    "rpcResult": ({"callId": 7, "result": BODY}, Envelope("rpcResult", 7, body=BODY)),
    "rpcError": ({"callId": 7, "error": BODY}, Envelope("rpcError", 7, body=BODY)),
    "channelCreate": (
        {"endpoint": "e", "channelId": 0, "creationParameter": BODY},
        Envelope("channelCreate", 0, "e", BODY),
    ),
    "channelSend": ({"channelId": 7, "message": BODY}, Envelope("channelSend", 7, body=BODY)),
    "channelAck": ({"channelId": 7, "ackId": 3}, Envelope("channelAck", 7, body=3)),
    "channelClose": ({"channelId": 7}, Envelope("channelClose", 7)),
    "channelError": ({"channelId": 7, "error": BODY}, Envelope("channelError", 7, body=BODY)),
    "signalSubscribe": (
        {"endpoint": "e", "subscribeId": 7, "creationParameter": BODY},
        Envelope("signalSubscribe", 7, "e", BODY),
    ),
    "signalUnsubscribe": ({"subscribeId": 7}, Envelope("signalUnsubscribe", 7)),
    "signalUpdate": ({"subscribeId": 7, "patches": []}, Envelope("signalUpdate", 7, body=[])),
    "signalError": ({"subscribeId": 7, "error": BODY}, Envelope("signalError", 7, body=BODY)),
    "writableSignalSubscribe": (
        {"endpoint": "e", "subscribeId": 7, "creationParameter": BODY},
        Envelope("writableSignalSubscribe", 7, "e", BODY),
    ),
    "writableSignalUnsubscribe": ({"subscribeId": 7}, Envelope("writableSignalUnsubscribe", 7)),
    "writableSignalUpdate": ({"subscribeId": 7, "patches": []}, Envelope("writableSignalUpdate", 7, body=[])),
    "writableSignalError": ({"subscribeId": 7, "error": BODY}, Envelope("writableSignalError", 7, body=BODY)),
    "keepAlive": ({}, Envelope("keepAlive", body={"type": "keepAlive"})),
    "keepAliveAck": ({}, Envelope("keepAliveAck", body={"type": "keepAliveAck"})),
    "communicationWarning": (
        {"warning": "w", "kind": "k"},
        Envelope("communicationWarning", body={"type": "communicationWarning", "warning": "w", "kind": "k"}),
    ),
}


def test_every_kind_is_written_out_here() -> None:
    """The table of this test has the kinds of the protocol."""
    assert set(WIRE) == set(KINDS)


@pytest.mark.parametrize("kind", WIRE)
def test_both_ways(kind: str) -> None:
    """Each kind is read with its number, endpoint and body, other keys ignored, and written with exactly its keys."""
    keys, envelope = WIRE[kind]
    text = json.dumps({"type": kind, **keys})
    assert decode(text) == decode(text.encode()) == envelope
    if KINDS[kind].id_key:
        assert decode(json.dumps({"type": kind, **keys, "future": 1})) == envelope
    assert json.loads(encode(envelope)) == {"type": kind, **keys}


def test_an_absent_body_is_not_null() -> None:
    """A key that is not there is told from null, in both directions."""
    for kind, (keys, envelope) in WIRE.items():
        body_key = KINDS[kind].body_key
        if body_key is None:
            continue
        without = {"type": kind, **{key: value for key, value in keys.items() if key != body_key}}
        assert decode(json.dumps(without)).body is ABSENT
        assert json.loads(encode(envelope._replace(body=ABSENT))) == without
        assert decode(json.dumps(without | {body_key: None})).body is None
        assert json.loads(encode(envelope._replace(body=None))) == without | {body_key: None}


def test_an_unknown_kind_is_carried() -> None:
    """What a newer server sends is an envelope that belongs to nothing, with the whole object inside."""
    value = {"type": "somethingNew", "callId": 3}
    assert decode(json.dumps(value)) == Envelope("somethingNew", NO_ID, None, value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "the server sent something that is not JSON: ''"),
        (b"{", "the server sent something that is not JSON: '{'"),
        (b"\xff\xfe\x00", "the server sent something that is not JSON: '\ufffd\ufffd\\x00'"),
        (b"NaN", "the server sent something that is not JSON: 'NaN'"),
        ('{"type":"keepAlive","n":Infinity}', 'the server sent something that is not JSON: \'{"type":"keepAlive"'),
        ("\ud83d", r"the server sent something that is not JSON: '\ud83d'"),
        ("null", "the server sent something that is not an envelope: 'None'"),
        ("[]", "the server sent something that is not an envelope: '[]'"),
        ('"\\u001b[2J"', r"the server sent something that is not an envelope: '\x1b[2J'"),
        ("{}", "the server sent something that is not an envelope: '{}'"),
        ('{"type":5}', "the server sent something that is not an envelope: '{'type': 5}'"),
        ('{"type":"rpcResult"}', "the server sent rpcResult without a callId"),
        ('{"type":"rpcResult","callId":"1"}', "the server sent rpcResult without a callId"),
        ('{"type":"rpcResult","callId":true}', "the server sent rpcResult without a callId"),
        ('{"type":"rpcResult","callId":1.5}', "the server sent rpcResult without a callId"),
        ('{"type":"rpcResult","channelId":1}', "the server sent rpcResult without a callId"),
        ('{"type":"channelClose"}', "the server sent channelClose without a channelId"),
        ('{"type":"signalUpdate"}', "the server sent signalUpdate without a subscribeId"),
        ('{"type":"rpcCall","callId":1}', "the server sent rpcCall without an endpoint"),
        ('{"type":"channelCreate","channelId":1,"endpoint":3}', "the server sent channelCreate without an endpoint"),
        (b"[" * 100_000, "the server sent something that is not JSON"),
        (b"[" * 1020 + b"]" * 1020, "the server sent something that is not an envelope"),
        (b"1" * 5000, "the server sent something that is not an envelope"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_envelope(text: bytes | str, sentence: str) -> None:
    """The error says what was wrong and shows its beginning, in a form that drives no terminal."""
    with pytest.raises(RemoteProtocolError) as error:
        decode(text)
    assert error.value.message.startswith(sentence)
    assert len(error.value.message) < 300


@QUICK
@given(st.binary() | st.text() | texts_with_halves)
def test_any_text_is_an_envelope_or_an_error(text: bytes | str) -> None:
    """No bytes of a server raise anything but RemoteProtocolError."""
    with suppress(RemoteProtocolError):
        assert isinstance(decode(text), Envelope)


@QUICK
@given(st.sampled_from(sorted(WIRE)).flatmap(lambda kind: garbled({"type": kind, **WIRE[kind][0]})) | any_json)
def test_any_json_is_an_envelope_or_an_error(value: Any) -> None:
    """The same for JSON that is almost an envelope; what is accepted has the number and endpoint of its kind."""
    try:
        envelope = decode(json.dumps(value))
    except RemoteProtocolError:
        return
    kind = KINDS.get(envelope.type, Kind())
    assert envelope.id == (value[kind.id_key] if kind.id_key else NO_ID)
    assert envelope.endpoint == (value["endpoint"] if kind.has_endpoint else None)


@QUICK
@given(st.sampled_from([k for k in sorted(KINDS) if KINDS[k].body_key]), st.integers(0, 2**53), any_json)
def test_round_trip(kind: str, number: int, body: Any) -> None:
    """What is written is read back the same."""
    envelope = Envelope(kind, number, "e" if KINDS[kind].has_endpoint else None, body)
    assert decode(encode(envelope)) == envelope


@QUICK
@given(json_objects)
def test_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    """The fast decoder and its fallback agree: a lone half elsewhere in the text changes no other value."""
    text = json.dumps(value)
    assert loads(text) == json.loads(text)
    assert loads(f'["\\ud83d",{text}]') == ["\ud83d", json.loads(text)]


def test_half_an_emoji_is_read() -> None:
    """A JavaScript server may cut an emoji in two; the half stays what it is until the other half comes."""
    assert decode(rb'{"type":"channelSend","channelId":1,"message":"a\ud83d"}').body == "a\ud83d"


@QUICK
@given(texts_with_halves)
def test_any_text_can_be_sent(text: str) -> None:
    """A text with half an emoji in it is written as JavaScript would write it, not refused."""
    read = decode(encode(Envelope("channelSend", 1, body=text))).body
    assert read.encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")


def test_large_numbers_can_be_sent() -> None:
    """JSON has no limit of 64 bits."""
    assert json.loads(encode(Envelope("channelSend", 1, body=2**70)))["message"] == 2**70


def test_what_is_not_json_cannot_be_sent() -> None:
    """A program's mistake is a TypeError where it is made."""
    with pytest.raises(TypeError):
        encode(Envelope("channelSend", 1, body=object()))


def test_absent_is_false_and_says_its_name() -> None:
    """The mark of an absent value reads well in a condition and in a message."""
    assert not ABSENT
    assert repr(ABSENT) == "ABSENT"
