"""What is valid for the official server is valid here, and nothing else, where the table of schemas does not say it."""

from typing import Any

import lmstudio
import pytest
from conftest import GUEST, Connect, Packet, StartServer, Wire, checked, predicting, query, stack, stats_of, text_of

from lmcli.server.background import Running

EMOJI = "\U0001f600"


@pytest.mark.parametrize("identity", [{"authVersion": 1.0}, {"clientIdentifier": EMOJI * 128}, {"unknown": 1}])
def test_credentials_are_accepted(server: Running, connect: Connect, identity: Packet) -> None:
    """1.0 is the number 1, and a string has at most 256 characters as JavaScript counts them."""
    client = connect(server, identity=None)
    client.send(GUEST | identity)
    assert client.receive() == {"success": True}


@pytest.mark.parametrize(
    "identity",
    [
        *({"authVersion": value} for value in (True, "1", [1], None, 1.5, 2)),
        *({"clientIdentifier": value} for value in (EMOJI * 128 + "a", "a" * 257, None, 1)),
        *({"clientPasskey": value} for value in (EMOJI * 129, "a" * 257, None, 1)),
    ],
)
def test_credentials_are_ignored(server: Running, connect: Connect, identity: Packet) -> None:
    """What is no authentication has no answer, and the client is not authenticated until it sends another one."""
    client = connect(server, identity=None)
    client.send(GUEST | identity)
    client.send({"type": "keepAlive"})
    client.send(GUEST)
    assert client.receive() == {"success": True}
    assert client.result("listLoaded"), "the first answer"


@pytest.mark.parametrize(("number", "answered"), [(7, 7), (7.0, 7), (-1, -1), (-0.0, 0)])
def test_whole_numbers_identify_requests(wire: Wire, number: float, answered: int) -> None:
    """A number that is written with a fraction of zero is the same number."""
    wire.send({"type": "rpcCall", "endpoint": "listLoaded", "callId": number})
    assert wire.receive()["callId"] == answered


@pytest.mark.parametrize("number", [True, False, None, "7", 7.5, [7]])
def test_other_values_do_not_identify_requests(wire: Wire, number: Any) -> None:
    """The text is not an envelope, and ignored."""
    wire.send({"type": "rpcCall", "endpoint": "listLoaded", "callId": number})
    wire.send({"type": "keepAlive"})
    assert wire.receive() == {"type": "keepAliveAck"}


@pytest.mark.parametrize("role", ["developer", "User", "", "toString"])
def test_role_of_an_empty_message_is_checked(wire: Wire, role: str) -> None:
    """A message without parts has a role, too."""
    wire.open("predict", predicting("") | {"history": {"messages": [{"role": role, "content": []}]}})
    assert wire.receive()["kind"] == "channelCreationParameterTypeError"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "toolCallResult", "content": "3", "tool_call_id": 7},
        {"type": "toolCallResult", "content": "3", "path": 7, "toolCallRequest": 7},
    ],
)
def test_keys_of_chat_files_are_unknown(wire: Wire, part: Packet) -> None:
    """A key that has a meaning in a chat file is ignored in a request, whatever its value."""
    history = {"messages": [{"role": "tool", "content": [part]}]}
    assert text_of(wire.stream("predict", predicting("") | {"history": history})) == "3"


def test_fraction_of_zero_is_a_whole_number(server: Running, connect: Connect) -> None:
    """For the size of a file, a time to live and the value of an option."""
    wire = connect(server)
    uploaded = connect(server, "/files").result("uploadFileBase64", {"name": "a.txt", "contentBase64": "YQ=="})
    file = {"type": "file", "name": "a.txt", **uploaded, "sizeBytes": 1.0}
    content = [{"type": "text", "text": "a b c"}, file]
    history = {"messages": [{"role": "user", "content": content}]}
    config = stack(maxPredictedTokens=checked(2.0))
    assert stats_of(wire.stream("predict", predicting("", config) | {"history": history}))["predictedTokensCount"] == 2
    load = {"modelKey": "echo-jit", "ttlMs": 60000.0, "loadConfigStack": {"layers": []}}
    assert wire.stream("loadModel", load)[-1]["info"]["ttlMs"] == 60000


@pytest.mark.parametrize("seconds", [2**53, 1e300])
def test_time_to_live_may_be_endless(wire: Wire, seconds: float) -> None:
    """The schema has no greatest time."""
    load = {"modelKey": "echo-jit", "ttlMs": seconds, "loadConfigStack": {"layers": []}}
    assert wire.stream("loadModel", load)[-1]["type"] == "success"
    assert wire.result("countTokens", {"specifier": query("echo-jit"), "inputString": "a"})


def test_limit_does_not_hide_what_is_invalid(wire: Wire) -> None:
    """A request that exceeds a limit is answered with an error only if the schema accepts it."""
    load = {"modelKey": "echo-jit", "identifier": "a\n"}
    wire.open("loadModel", load)
    assert wire.receive()["kind"] == "channelCreationParameterTypeError"
    [problem] = wire.stream("loadModel", load | {"loadConfigStack": {"layers": []}})
    assert problem["title"].startswith("Invalid identifier: ")


def test_channel_without_messages_ignores_an_empty_one(start_server: StartServer, connect: Connect) -> None:
    """`alive` accepts a message that has no content, which means nothing."""
    wire = connect(start_server(), "/system")
    number = wire.open("alive")
    wire.send({"type": "channelSend", "channelId": number})
    wire.send({"type": "channelCreate", "endpoint": "alive", "channelId": number})
    assert wire.receive()["kind"] == "channelAlreadyOpen", "it is still open"


@pytest.mark.parametrize("key", ["maxPredictedTokens", "repeatPenalty", "topPSampling", "minPSampling", "logProbs"])
def test_option_without_a_value_is_not_set(wire: Wire, key: str) -> None:
    """The official Python SDK switches an option that is False on, without a value: the default applies."""
    unset, default = (wire.predict("a b", config)[-1] for config in (stack(**{key: checked(False)}), stack()))
    assert unset["predictionConfig"] == default["predictionConfig"]
    assert unset["stats"]["stopReason"] == "eosFound"


def test_option_with_a_zero_is_set(wire: Wire) -> None:
    """Zero is a value."""
    fields = wire.predict("a", stack(topPSampling=checked(0)))[-1]["predictionConfig"]["fields"]
    assert {"key": "llm.prediction.topPSampling", "value": checked(0)} in fields


def test_unset_limit_of_the_official_sdk(server: Running) -> None:
    """`maxTokens: False` is no limit."""
    with lmstudio.Client(f"127.0.0.1:{server.port}") as client:
        result = client.llm.model("echo").respond("a b c", config={"maxTokens": False})
    assert (result.content, result.stats.stop_reason) == ("a b c", "eosFound")
