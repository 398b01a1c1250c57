"""A prompt is counted before it is sent only if it may not fit, and refused only if the server counts too much."""

import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE
from faults import Peer, ScriptedServer
from packets import INSTANCE, closed, piece, success, warning
from processes import environment, run, start

LONG = b"many words " * 10
SMALL = INSTANCE | {"contextLength": 50}


def result(call: Any, value: Any) -> Any:
    """The answer to a call."""
    return {"type": "rpcResult", "callId": call["callId"], "result": value}


def refusal(call: Any) -> Any:
    """The answer of a server that cannot do it."""
    return {"type": "rpcError", "callId": call["callId"], "error": {"title": "Not supported"}}


def unknown(call: Any) -> Any:
    """The answer of a server that does not know the endpoint."""
    return warning(f"rpcCall for an unknown endpoint, endpoint = '{call['endpoint']}'", kind="rpcEndpointUnknown")


Answer = Callable[[Any], Any]
COUNTING: dict[str, tuple[Answer, Answer, bool]] = {
    "fits": (lambda call: result(call, {"formatted": "x"}), lambda call: result(call, {"tokenCount": 50}), True),
    "too long": (lambda call: result(call, {"formatted": "x"}), lambda call: result(call, {"tokenCount": 51}), False),
    "no template": (refusal, unknown, True),
    "unknown template": (unknown, unknown, True),
    "no text": (lambda call: result(call, {"formatted": None}), unknown, True),
    "no object": (lambda call: result(call, "x"), unknown, True),
    "no tokenizer": (lambda call: result(call, {"formatted": "x"}), refusal, True),
    "unknown tokenizer": (lambda call: result(call, {"formatted": "x"}), unknown, True),
    "no number": (lambda call: result(call, {"formatted": "x"}), lambda call: result(call, {"tokenCount": "9"}), True),
}
"""How a server applies its template, how it counts tokens, and whether the prediction is sent."""


def serving(asked: list[str], template: Answer, tokens: Answer) -> ScriptedServer:
    """A server with a model of a small context; the endpoints that it is asked for are noted."""

    def script(peer: Peer) -> None:
        peer.greet()
        while True:
            request = peer.receive()
            endpoint = request.get("endpoint", "")
            asked.append(endpoint)
            if endpoint == "listLoaded":
                peer.send(result(request, [SMALL]))
            elif endpoint in ("applyPromptTemplate", "countTokens"):
                peer.send((template if endpoint == "applyPromptTemplate" else tokens)(request))
            else:
                number = request["channelId"]
                peer.send(piece("answer", number), success(number), closed(number))

    return ScriptedServer(script)


@pytest.mark.parametrize("case", COUNTING)
def test_a_prompt_is_refused_only_if_it_is_known_not_to_fit(case: str, tmp_path: Path) -> None:
    """If the server does not count, or not in this way, the prediction is sent."""
    template, tokens, is_sent = COUNTING[case]
    asked: list[str] = []
    with serving(asked, template, tokens) as server:
        ran = run("lm respond", tmp_path, environment(tmp_path, server.port), stdin=LONG)
    assert asked[:2] == ["listLoaded", "applyPromptTemplate"]
    assert ("predict" in asked) == is_sent
    assert (ran.status, ran.stdout) == ((0, b"answer\n") if is_sent else (3, b""))
    assert ("the prompt has 51 tokens" in ran.stderr) == (not is_sent)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lm respond", ["applyPromptTemplate", "countTokens", "predict"]),
        ("lm complete", ["countTokens", "completeRawText"]),
        ("lm respond --overflow rolling", ["predict"]),
        ("lm chat", ["predict"]),
        ("head -c 40 | lm respond", ["predict"]),
        ("lm respond --each line -q", ["applyPromptTemplate", "countTokens", "predict"]),
    ],
)
def test_what_it_costs(line: str, expected: Sequence[str], tmp_path: Path) -> None:
    """Two calls, one for a raw text, for a prompt that may not fit where the context may not be exceeded; else none."""
    asked: list[str] = []
    with serving(asked, *COUNTING["fits"][:2]) as server:
        ran = run(line, tmp_path, environment(tmp_path, server.port), stdin=LONG)
    assert (ran.status, asked) == (0, ["listLoaded", *expected]), ran.stderr


def test_a_server_that_cannot_count_is_asked_once(tmp_path: Path) -> None:
    """The other records of a batch are sent as they are."""
    asked: list[str] = []
    with serving(asked, refusal, refusal) as server:
        line = "lm respond --each line -j 3"
        ran = run(line, tmp_path, environment(tmp_path, server.port), stdin=b"\n".join([LONG] * 9))
    assert (ran.status, ran.stdout) == (0, b"answer\n" * 9)
    assert (asked.count("applyPromptTemplate"), asked.count("predict")) == (1, 9)


def test_files_are_not_counted(tmp_path: Path) -> None:
    """The template is applied to the texts alone, and the image is sent with the prediction."""
    histories: list[Any] = []

    def script(peer: Peer) -> None:
        peer.greet()
        while True:
            request = peer.receive()
            endpoint = request["endpoint"]
            histories.append(request.get("parameter", request.get("creationParameter", {})).get("history"))
            if endpoint == "uploadFileBase64":
                peer.send(result(request, {"identifier": "f-1", "fileType": "image", "sizeBytes": 8}))
            elif endpoint == "predict":
                peer.send(piece("answer"), success(), closed())
            else:
                peer.send(result(request, [SMALL] if endpoint == "listLoaded" else {"formatted": "", "tokenCount": 1}))

    (tmp_path / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with ScriptedServer(script) as server:
        ran = run("lm respond -f dot.png", tmp_path, environment(tmp_path, server.port), stdin=LONG)
    assert ran.status == 0, ran.stderr
    counted, sent = [history["messages"][0]["content"] for history in histories if history]
    assert [part["type"] for part in counted] == ["text"]
    assert [part["type"] for part in sent] == ["text", "file"]


@pytest.mark.parametrize("options", ["", "--each line"])
def test_ctrl_c_while_the_server_counts(options: str, tmp_path: Path) -> None:
    """It ends the wait: the process dies of the signal, and says nothing of a lost connection."""
    is_asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.send(result(peer.receive(), [SMALL]))
        peer.receive()
        is_asked.set()
        peer.wait_until_left()

    (tmp_path / "prompt").write_bytes(LONG)
    with ScriptedServer(script) as server, (tmp_path / "prompt").open() as stdin:
        command = ("lm", "respond", *options.split())
        variables = environment(tmp_path, server.port)
        with start(*command, folder=tmp_path, variables=variables, stdin=stdin.fileno()) as child:
            assert is_asked.wait(PATIENCE)
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT
            assert b"connect" not in child["stderr"]
