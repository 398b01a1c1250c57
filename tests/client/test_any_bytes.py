"""Whatever a server sends, a session gives values or an error of ours, and nothing else."""

import json

from conftest import CREDENTIALS
from faults import Peer, ScriptedServer
from hypothesis import example, given
from hypothesis import strategies as st
from packets import (
    INSTANCE,
    asking,
    closed,
    completing,
    failed,
    piece,
    sent,
    success,
    what_came,
)
from properties import examples
from websockets.frames import Frame, Opcode

from lmcli.client.address import Address
from lmcli.client.session import Session
from lmcli.errors import (
    ConnectionLost,
    LmError,
    TimedOut,
)
from lmcli.values import Fragment, LoadProgress, PromptProgress
from lmcli.wire import requests
from lmcli.wire.channels import Channel
from lmcli.wire.load_config import LoadConfig

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


@examples(300)
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
        session = Session.open(Address("127.0.0.1", server.port), "llm", CREDENTIALS, timeout=30)
        failure: LmError | None = None
        try:
            if asked == "call":
                session.call("listLoaded")
            else:
                for burst in session.bursts(channel_of(session, asked)):
                    assert all(isinstance(value, Fragment | PromptProgress | LoadProgress) for value in burst)
                    for value in burst:
                        str(value).encode()
        except LmError as error:
            failure = error
        finally:
            session.close()
    assert not isinstance(failure, TimedOut), "it waited for what cannot come"
    assert failure is None or "\n" not in failure.message


def channel_of(session: Session, asked: str) -> Channel:
    if asked == "predict":
        return session.predict(asking())
    return completing(session) if asked == "complete" else session.load(requests.get_or_load("tiny", LoadConfig()))


@examples(40)
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
        session = Session.open(Address("127.0.0.1", server.port), "llm", CREDENTIALS)
        text, error = what_came(session, session.predict(asking()))
        session.close()
    assert full.startswith(text)
    assert (error is None) == (count >= len(said))
    assert error is None or isinstance(error, ConnectionLost)
