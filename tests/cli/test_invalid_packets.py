"""A wrong type in what a server sends besides the text: one line of error and status 3, never a traceback."""

from pathlib import Path
from typing import Any

import pytest
from faults import Peer, ScriptedServer
from packets import INSTANCE, sent, success
from processes import environment, run


def fragment(**fields: Any) -> dict[str, Any]:
    """The packet of a fragment with further fields."""
    return sent(1, {"type": "fragment", "fragment": {"content": "text", **fields}})


def reading(details: Any) -> dict[str, Any]:
    """The packet of a progress with details."""
    return sent(1, {"type": "promptProcessingProgress", "progress": 0.5, "details": details})


def answering(*packets: Any) -> ScriptedServer:
    """A server with a model, which answers a prediction or a load with some packets."""

    def script(peer: Peer) -> None:
        peer.greet()
        while (asked := peer.receive())["type"] == "rpcCall":
            peer.send({"type": "rpcResult", "callId": asked["callId"], "result": [INSTANCE]})
        peer.send(*packets)
        peer.wait_until_left()

    return ScriptedServer(script)


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.parametrize(
    "packet",
    [
        fragment(isStructural="yes"),
        fragment(tokens=5),
        fragment(tokens=[{"text": 5, "id": 5}]),
        fragment(tokens=[{"text": "a", "id": 5, "candidates": ["a"]}]),
        reading(5),
        reading({"cachedTokenCount": "5"}),
    ],
    ids=repr,
)
def test_a_prediction(packet: Any, form: str, tmp_path: Path) -> None:
    """It is incomplete, and the reason is in the output."""
    with answering(packet, success()) as server:
        ran = run(f"lm respond -n --logprobs 1 --stats -o {form} hi", tmp_path, environment(tmp_path, server.port))
    assert ran.status == 3
    assert ran.stderr.startswith("lm: error: the server sent ")
    assert ran.stderr.count("\n") == 1
    assert b'"code":3' in ran.stdout


@pytest.mark.parametrize(
    "packet",
    [
        {"type": "resolved", "info": {"modelKey": "a"}, "ambiguous": 5},
        {"type": "resolved", "info": {}, "ambiguous": ["a", "b"]},
        {"type": "unloadingOtherJITModel", "info": {"modelKey": "a", "identifier": []}},
    ],
    ids=repr,
)
def test_a_load(packet: Any, tmp_path: Path) -> None:
    """It has failed."""
    with answering(sent(1, packet), sent(1, {"type": "success", "info": INSTANCE})) as server:
        ran = run("lm models load tiny --identifier x", tmp_path, environment(tmp_path, server.port))
    assert (ran.status, ran.stdout) == (3, b"")
    assert ran.stderr.startswith("lm: error: the server sent a note on a load as ")
