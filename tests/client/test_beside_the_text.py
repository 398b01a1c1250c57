"""What a prediction brings besides its text: the same from the synchronous and the asynchronous client."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from loops import run
from packets import answering, piece, sent, success

import lmcli as lms
from lmcli.server.background import Running


class Answered(NamedTuple):
    """What a program got: the fragments of a stream, and the result."""

    fragments: Sequence[lms.Fragment]
    result: lms.PredictionResult


Respond = Callable[..., Answered]


@pytest.fixture(params=["synchronous", "asynchronous"])
def respond(request: pytest.FixtureRequest, server: Running, monkeypatch: pytest.MonkeyPatch) -> Respond:
    """Asks echo, or another server, by either client."""
    for name in ("LM_API_TOKEN", "LMSTUDIO_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def wait(text: str, *, port: int = server.port, **options: Any) -> Answered:
        with lms.Client(f"127.0.0.1:{port}") as client:
            stream = lms.LLM(client, "echo").respond_stream(text, **options)
            return Answered(list(stream), stream.result())

    async def awaited(text: str, *, port: int = server.port, **options: Any) -> Answered:
        async with lms.AsyncClient(f"127.0.0.1:{port}") as client:
            stream = lms.AsyncLLM(client._connection, "echo").respond_stream(text, **options)
            return Answered([fragment async for fragment in stream], stream.result())

    if request.param == "synchronous":
        return wait
    return lambda text, **options: run("asyncio", awaited(text, **options))


def test_structural_fragments_are_streamed_and_belong_to_no_text(respond: Respond) -> None:
    """As in the official SDK the stream, the callback and `content` have them; `answer` and `reasoning` do not."""
    seen: list[lms.Fragment] = []
    fragments, result = respond("<|start|><think>h<|x|>m</think>four<|end|>", on_prediction_fragment=seen.append)
    assert seen == list(fragments)
    assert [f.content for f in fragments if f.is_structural] == ["<|start|>", "<|x|>", "<|end|>"]
    assert result.content == str(result) == "<|start|><think>h<|x|>m</think>four<|end|>"
    assert (result.reasoning, result.answer) == ("hm", "four")


def test_structured_output_is_parsed_without_structural_fragments(respond: Respond) -> None:
    """Control marks behind an object do not leave it unparsed."""
    mark = sent(1, {"type": "fragment", "fragment": {"content": "<|end|>", "isStructural": True}})
    with answering(piece('{"a": 1}'), mark, success()) as server:
        result = respond("hi", port=server.port, response_format={"type": "json"}).result
    assert (result.content, result.parsed) == ('{"a": 1}<|end|>', {"a": 1})


def test_details_of_the_prompt(respond: Respond) -> None:
    """How many tokens are read, of how many, and how many were cached, and what the stats say of it."""
    respond("one two three")
    seen: list[lms.PromptDetails] = []
    shares: list[float] = []
    result = respond(
        "one two four",
        on_prompt_processing_details=seen.append,
        on_prompt_processing_progress=shares.append,
    ).result
    assert [(d.cached_token_count, d.processed_prompt_token_count, d.unprocessed_prompt_token_count) for d in seen] == [
        (3, 0, 3),
        (3, 1, 2),
        (3, 3, 0),
    ]
    assert {details.total_prompt_token_count for details in seen} == {result.stats.prompt_tokens_count} == {6}
    assert result.stats.cached_prompt_tokens_count == 3
    assert shares == [0.0, 0.5, 1.0]


def test_a_server_that_sends_no_details(respond: Respond) -> None:
    """The progress is reported, and what was cached is unknown."""
    shares: list[float] = []
    progress = sent(1, {"type": "promptProcessingProgress", "progress": 0.5})
    with answering(progress, piece("four"), success()) as server:
        result = respond("hi", port=server.port, on_prompt_processing_progress=shares.append).result
    assert (shares, result.stats.cached_prompt_tokens_count) == ([0.0, 0.5, 1.0], None)


def test_log_probabilities(respond: Respond) -> None:
    """A fragment has its tokens, the result those of the answer; each with its candidates, the likeliest first."""
    fragments, result = respond("<think> hm </think> one two", config={"logProbs": 3})
    assert [t.text for f in fragments for t in f.tokens] == ["<think>", " hm", " </think>", " one", " two"]
    assert [token.text for token in result.tokens] == [" one", " two"]
    assert result.tokens == tuple(token for f in fragments if f.content in result.answer for token in f.tokens)[-2:]
    for token in result.tokens:
        first, *others = token.candidates
        assert (first.text, first.id, first.log_prob) == (token.text, token.id, token.log_prob)
        shares = [math.exp(candidate.log_prob or 0) for candidate in (first, *others)]
        assert shares == pytest.approx([0.5, 0.25, 0.125])


@pytest.mark.parametrize("config", [{}, {"logProbs": False}])
def test_nothing_is_kept_without_the_option(respond: Respond, config: dict[str, Any]) -> None:
    """Neither by the fragments nor by the result."""
    fragments, result = respond("one two", config=config)
    assert {fragment.tokens for fragment in fragments} == {()}
    assert result.tokens == ()


def test_half_an_emoji_in_a_token(respond: Respond) -> None:
    """What a server cut in the text of a token, where nothing follows to complete it, can be printed all the same."""
    token = b'{"text": "\\ud83d", "id": 7, "logProb": -1, "candidates": [{"text": "\\ude00", "id": 8}]}'
    text = (
        b'{"type":"channelSend","channelId":1,"message":{"type":"fragment","fragment":{"content":"a","tokens":[%s]}}}'
    )
    with answering(text % token, success()) as server:
        result = respond("hi", port=server.port).result
    assert result.tokens == (lms.PredictedToken("\ufffd", 7, -1, (lms.CandidateToken("\ufffd", 8),)),)


Load = Callable[[int, Callable[[Any], Any]], str]


@pytest.fixture(params=["synchronous", "asynchronous"])
def load(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Runs a load on the namespace of either client; gives the identifier."""
    for name in ("LM_API_TOKEN", "LMSTUDIO_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    async def awaited(port: int, begin: Callable[[Any], Any]) -> str:
        async with lms.AsyncClient(f"127.0.0.1:{port}") as client:
            return str((await begin(client.llm)).identifier)

    def wait(port: int, begin: Callable[[Any], Any]) -> str:
        with lms.Client(f"127.0.0.1:{port}") as client:
            return str(begin(client.llm).identifier)

    if request.param == "synchronous":
        return wait
    return lambda port, begin: run("asyncio", awaited(port, begin))


def test_notes_of_a_load(load: Load, server: Running, capfd: pytest.CaptureFixture[str]) -> None:
    """They are passed to a callback, if there is one, and nothing is printed."""
    notes: list[lms.AmbiguousModel | lms.UnloadingModel] = []
    more: Any = {"on_load_note": notes.append}
    assert load(server.port, lambda llm: llm.load_new_instance("lmcli/echo", "first", **more)) == "first"
    assert notes == [lms.AmbiguousModel(model_key="echo", candidates=("echo", "echo-jit"))]
    with lms.Client(f"127.0.0.1:{server.port}") as client:
        client.llm.unload("echo")
    notes.clear()
    load(server.port, lambda llm: llm.model("echo-jit", ttl=60, **more))
    assert notes == []
    load(server.port, lambda llm: llm.model("echo", ttl=60, **more))
    assert notes == [lms.UnloadingModel(model_key="echo-jit", identifier="echo-jit")]
    load(server.port, lambda llm: llm.model("echo-jit", ttl=60))
    assert capfd.readouterr() == ("", "")
