"""A value of the wrong type in each field of each packet: the library gives values or an error of its own.

The packets are the recorded ones of the official server-side packages, each field of each of them, and those that the
recordings lack; the client is the module, synchronous and asynchronous, over a real socket, in this process.
"""

import asyncio
import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final, NamedTuple

import pytest
import recordings
from faults import Peer, ScriptedServer
from stage_server import as_text
from wrong_types import TOKENS, paths, replaced

import lmcli as lms
from lmcli.errors import LmError

Texts = list[bytes]


class Dialogue(NamedTuple):
    """The recorded answer to one request: one envelope of each kind, those of most fields."""

    endpoint: str
    values: list[dict[str, Any]]


def _recorded() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every recorded envelope of a server that answers a request, with the endpoint."""
    for name in recordings.NAMES:
        asked: dict[tuple[str, int], str] = {}
        for line in recordings.lines(name):
            value = line.value
            number = ("callId", value["callId"]) if "callId" in value else ("channelId", value.get("channelId"))
            if not line.is_from_server and "endpoint" in value:
                asked[number] = value["endpoint"]
            elif line.is_from_server and number in asked:
                yield asked[number], value


def _kind(value: dict[str, Any]) -> tuple[str, str]:
    message = value.get("message")
    return value["type"], message["type"] if isinstance(message, dict) else ""


def dialogues() -> Iterator[Dialogue]:
    """A dialogue for each endpoint: its packets in the order in which a server sends them, and its end."""
    richest: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for endpoint, value in _recorded():
        kinds = richest.setdefault(endpoint, {})
        known = kinds.get(_kind(value))
        if known is None or len(list(paths(value))) > len(list(paths(known))):
            kinds[_kind(value)] = value
    for endpoint, kinds in richest.items():
        packets = [value for kind, value in kinds.items() if kind[0] in ("channelSend", "rpcResult")]
        last = [kind for kind in kinds if kind[0] == "channelClose"]
        packets.sort(key=lambda value: _kind(value)[1] in ("success", "loadSuccess", "alreadyLoaded"))
        if packets and endpoint in ASK:
            yield Dialogue(endpoint, [*packets, *(kinds[kind] for kind in last)])
        failures = [value for kind, value in kinds.items() if kind[0] in ("channelError", "rpcError")]
        for failure in failures if endpoint in ASK else []:
            yield Dialogue(endpoint, [failure])


_TOKEN: Final = {"text": "a", "id": 1, "logProb": -0.5, "candidates": [{"text": "a", "id": 1, "logProb": -0.5}]}
_FRAGMENT: Final = {"tokensCount": 1, "containsDrafted": False, "reasoningType": "none"}
_INFO: Final = {"modelKey": "m", "identifier": "m"}

CALLED: Final[dict[str, dict[str, Any]]] = {
    "toolCallGenerationStart": {"toolCallId": "7"},
    "toolCallGenerationNameReceived": {"name": "add"},
    "toolCallGenerationArgumentFragmentGenerated": {"content": "{"},
    "toolCallGenerationEnd": {
        "toolCallRequest": {"id": "7", "type": "function", "name": "add", "arguments": {"a": 1}},
        "rawContent": "{",
    },
    "toolCallGenerationFailed": {"error": {"title": "t", "cause": "c", "suggestion": "s"}, "rawContent": "{"},
}
"""The packets of tool calls. Source: lmstudio-js 6ec11db, llmBackendInterface.ts."""


def recent() -> Iterator[Dialogue]:
    """What the recordings lack: structural fragments, log probabilities, tool calls, notes on a load."""
    ends = {d.endpoint: {_kind(value)[1]: value for value in d.values} for d in dialogues() if len(d.values) > 1}
    fragments = [
        {"type": "fragment", "fragment": _FRAGMENT | {"content": "a", "isStructural": False, "tokens": [_TOKEN]}},
        {"type": "fragment", "fragment": _FRAGMENT | {"content": "<|end|>", "isStructural": True}},
    ]
    calls = [{"type": kind, **keys} for kind, keys in CALLED.items()]
    yield Dialogue("predict", [*map(_sent, [*fragments, *calls]), ends["predict"]["success"]])
    unloading = _sent({"type": "unloadingOtherJITModel", "info": _INFO})
    yield Dialogue("getOrLoad", [unloading, ends["getOrLoad"]["loadSuccess"]])
    resolved = _sent({"type": "resolved", "info": _INFO, "ambiguous": ["m", "n"]})
    yield Dialogue("loadModel", [resolved, ends["loadModel"]["success"]])


def _sent(message: dict[str, Any]) -> dict[str, Any]:
    return {"type": "channelSend", "channelId": 1, "message": message}


SEEN: Final[list[str]] = []
_PIXEL: Final = base64.b64decode("iVBORw0KGgo=")
ASK: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "predict": lambda _, model: model.respond_stream("hi", on_prompt_processing_details=repr),
    "completeRawText": lambda _, model: model.complete_stream("hi"),
    "getOrLoad": lambda client, _: client.llm.model("m", on_load_progress=repr, on_load_note=repr),
    "loadModel": lambda client, _: client.llm.load_new_instance("m", on_load_note=repr),
    "listLoaded": lambda client, _: client.llm.list_loaded(),
    "listDownloadedModels": lambda client, _: client.system.list_downloaded_models(),
    "uploadFileBase64": lambda client, _: client.files.prepare_image(_PIXEL),
    "getModelInfo": lambda _, model: model.get_info(),
    "tokenize": lambda _, model: model.tokenize("hi"),
    "countTokens": lambda _, model: model.count_tokens("hi"),
    "applyPromptTemplate": lambda _, model: model.apply_prompt_template("hi"),
    "unloadModel": lambda _, model: model.unload(),
}
"""How each endpoint is reached from a program, by a client and a model of either kind."""


def ask(port: int, endpoint: str) -> None:
    """Reach an endpoint by the synchronous client."""
    with lms.Client(f"127.0.0.1:{port}", "", timeout=5) as client:
        stream = ASK[endpoint](client, lms.LLM(client, "m"))
        if isinstance(stream, lms.PredictionStream):
            with _seen() as fragments:
                fragments.extend(stream)
            check(stream.result())


async def ask_asynchronously(port: int, endpoint: str) -> None:
    """Reach an endpoint by the asynchronous client."""
    async with lms.AsyncClient(f"127.0.0.1:{port}", "", timeout=5) as client:
        stream = ASK[endpoint](client, lms.AsyncLLM(client._connection, "m"))
        if isinstance(stream, lms.AsyncPredictionStream):
            with _seen() as fragments:
                async for fragment in stream:
                    fragments.append(fragment)
            check(stream.result())
        else:
            await stream


def check(result: lms.PredictionResult) -> None:
    """What a prediction gives has the types that it promises."""
    assert result.content == SEEN[-1]
    assert all(isinstance(call.name, str) and isinstance(call.arguments, dict | None) for call in result.tool_calls)
    assert all(failure.message and "\n" not in failure.message for failure in result.tool_call_failures)


@contextmanager
def _seen() -> Iterator[list[lms.Fragment]]:
    """Collects fragments, whatever ends them."""
    fragments: list[lms.Fragment] = []
    try:
        yield fragments
    finally:
        SEEN.append("".join(fragment.content for fragment in fragments))


@pytest.fixture(params=["synchronous", "asynchronous"])
def reach(request: pytest.FixtureRequest) -> Iterator[Callable[[int, str], None]]:
    """Reaches an endpoint by either client."""
    if request.param == "synchronous":
        yield ask
        return
    with asyncio.Runner() as runner:
        yield lambda port, endpoint: runner.run(ask_asynchronously(port, endpoint))


DIALOGUES = [*dialogues(), *recent()]


class Answering:
    """Answers each request with texts, and leaves."""

    def __init__(self) -> None:
        self.texts: Texts = []

    def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        peer.greet()
        peer.receive()
        peer.send(*self.texts)


def numbered(value: dict[str, Any]) -> dict[str, Any]:
    """A recorded envelope as the answer to the first request of a client."""
    return value | {key: 1 for key in ("callId", "channelId") if key in value}


def variants(dialogue: Dialogue) -> Iterator[tuple[str, int, Texts]]:
    """A dialogue with each field of each envelope replaced by each value: what it is, which envelope, the texts."""
    values = [numbered(value) for value in dialogue.values]
    texts = [as_text(value) for value in values]
    for index, value in enumerate(values):
        for path in paths(value):
            for name, token in TOKENS.items():
                changed = replaced(value, path, token)
                yield f"{path} is {name}", index, [*texts[:index], changed, *texts[index + 1 :]]


def text_before(dialogue: Dialogue, index: int) -> str:
    """The text of the fragments that come before an envelope."""
    messages = chain(value.get("message") for value in dialogue.values[:index])
    return "".join(m["fragment"]["content"] for m in messages if isinstance(m, dict) and m["type"] == "fragment")


def title(dialogue: Dialogue) -> str:
    """What a dialogue is called in a report."""
    return f"{dialogue.endpoint}-{dialogue.values[0]['type']}"


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=title)
def test_a_wrong_type_anywhere_gives_a_value_or_an_error_of_ours(
    dialogue: Dialogue, reach: Callable[[int, str], None]
) -> None:
    """No other exception, no wait, no fragment lost that came before; and a message of one short line."""
    answer = Answering()
    messages: list[str] = []
    count = 0
    with ScriptedServer(answer) as server:
        for name, index, answer.texts in variants(dialogue):
            SEEN.clear()
            count += 1
            try:
                reach(server.port, dialogue.endpoint)
            except lms.TimedOut:
                pytest.fail(f"{name}: it waits for what cannot come")
            except LmError as error:
                messages.append(error.message)
            except Exception as error:  # noqa: BLE001  this is what is tested
                pytest.fail(f"{name}: {error!r}")
            assert all(text.startswith(text_before(dialogue, index)) for text in SEEN), (name, SEEN)
            assert all(text.encode() is not None for text in SEEN), name
    assert count >= len(TOKENS)
    assert [message for message in messages if "\n" in message or len(message.encode()) > 2000] == []


def test_every_endpoint_that_answers_is_covered() -> None:
    """The recordings hold an answer to each request that the module makes, and packets of every kind."""
    assert {dialogue.endpoint for dialogue in DIALOGUES} == set(ASK)
    kinds = {_kind(value)[1] for dialogue in DIALOGUES for value in dialogue.values}
    assert {"fragment", "promptProcessingProgress", "success", "loadProgress", "loadSuccess"} <= kinds
    assert {"unloadingOtherJITModel", "resolved", *CALLED} <= kinds
    fields = {path[-1] for dialogue in DIALOGUES for value in dialogue.values for path in paths(value)}
    assert {"isStructural", "tokens", "logProb", "candidates", "cachedTokenCount", "ambiguous"} <= fields
