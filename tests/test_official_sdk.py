"""The official Python SDK works with the server, in the calls that its documentation shows."""

import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmstudio as lms
import pytest
from conftest import StartServer

from lmcli.server.background import Running

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
TEXT = "What is  the meaning\nof life? "


@pytest.fixture
def client(server: Running) -> Iterator[lms.Client]:
    """The SDK's client, not its global one."""
    with lms.Client(f"127.0.0.1:{server.port}") as client:
        yield client


@pytest.fixture
def model(client: lms.Client) -> lms.LLM:
    """The loaded model."""
    return client.llm.model()


def test_respond(model: lms.LLM) -> None:
    """A prompt is answered with its own text, with stats."""
    result = model.respond(TEXT)
    assert str(result) == result.content == TEXT
    assert result.stats.stop_reason == "eosFound"
    assert result.stats.predicted_tokens_count == 7
    assert result.stats.total_tokens_count == 7 + (result.stats.prompt_tokens_count or 0)
    assert (result.stats.time_to_first_token_sec or 0) > 0
    assert (result.stats.tokens_per_second or 0) > 0
    assert result.model_info.display_name == "Echo"


def test_respond_stream(model: lms.LLM) -> None:
    """Fragments arrive one by one, then the result."""
    stream = model.respond_stream(TEXT)
    fragments = [fragment.content for fragment in stream]
    assert fragments == ["What", " is", "  the", " meaning", "\nof", " life?", " "]
    assert stream.result().content == TEXT


def test_structural_fragments(model: lms.LLM) -> None:
    """They are fragments, and in the content of the result; our own client keeps them there, too."""
    stream = model.respond_stream("one<|end|> two")
    assert [fragment.content for fragment in stream] == ["one", "<|end|>", " two"]
    assert stream.result().content == "one<|end|> two"


def test_chat(model: lms.LLM) -> None:
    """The model's messages are added to a conversation; its last user message is answered."""
    chat = lms.Chat("You are terse.")
    chat.add_user_message("one two")
    assert model.respond(chat, on_message=chat.append).content == "one two"
    chat.add_user_message("three")
    assert model.respond(chat).content == "three"


def test_history(model: lms.LLM) -> None:
    """A history may consist of dictionaries."""
    history: Any = {
        "messages": [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "ONE"},
            {"role": "user", "content": "two"},
        ]
    }
    assert model.respond(lms.Chat.from_history(history)).content == "two"
    assert model.respond(history).content == "two"


def test_callbacks(model: lms.LLM) -> None:
    """All callbacks are called, in the documented order."""
    seen: list[str] = []
    model.respond(
        "a b",
        on_prompt_processing_progress=lambda progress: seen.append(f"prompt {progress}"),
        on_first_token=lambda: seen.append("first token"),
        on_prediction_fragment=lambda fragment: seen.append(f"fragment {fragment.content}"),
        on_message=lambda message: seen.append(f"message {message.to_dict()['content']}"),
    )
    assert seen == [
        "prompt 0.0",
        "prompt 0.5",
        "prompt 1.0",
        "first token",
        "fragment a",
        "fragment  b",
        "message [{'type': 'text', 'text': 'a b'}]",
    ]


def test_config(model: lms.LLM) -> None:
    """Options are applied and returned as the effective config."""
    result = model.respond(TEXT, config={"temperature": 0.25, "maxTokens": 3, "topPSampling": 0.5})
    assert (result.content, result.stats.stop_reason) == ("What is  the", "maxPredictedTokensReached")
    assert result.prediction_config.temperature == 0.25
    assert result.prediction_config.max_tokens == 3
    assert result.load_config.context_length == 131072


def test_complete(model: lms.LLM) -> None:
    """A completion continues the raw text, up to a stop string."""
    result = model.complete("My name is", config={"maxTokens": 100})
    assert result.content == "My name is"
    assert result.stats.prompt_tokens_count == 3, "the prompt template is not applied"
    result = model.complete(TEXT, config={"stopStrings": ["ing\nof"]})
    assert (result.content, result.stats.stop_reason) == ("What is  the mean", "stopStringFound")
    assert "".join(fragment.content for fragment in model.complete_stream(TEXT)) == TEXT


def test_cancel(model: lms.LLM) -> None:
    """A cancelled stream ends with its partial result."""
    stream = model.respond_stream("word " * 100_000)
    for fragment in stream:
        assert fragment.content
        stream.cancel()
    assert stream.result().stats.stop_reason == "userStopped"
    assert model.respond("still there").content == "still there"


def test_model_loads_with_progress(client: lms.Client) -> None:
    """A model is loaded on request, with progress and the load config."""
    progress: list[float] = []
    model = client.llm.model("echo-jit", ttl=60, config={"contextLength": 512}, on_load_progress=progress.append)
    assert model.identifier == "echo-jit"
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert model.get_context_length() == 512
    assert model.get_load_config().context_length == 512
    assert model.get_info().model_key == "echo-jit"


def test_models_are_loaded_and_unloaded(client: lms.Client) -> None:
    """Loaded models are listed, instances have identifiers, and unloaded models are not listed."""
    assert [model.identifier for model in client.list_loaded_models()] == ["echo"]
    second = client.llm.load_new_instance("echo")
    third = client.llm.load_new_instance("echo", "third")
    assert [model.identifier for model in client.llm.list_loaded()] == ["echo", "echo:2", "third"]
    with pytest.raises(lms.LMStudioServerError, match="already exists"):
        client.llm.load_new_instance("echo", "third")
    second.unload()
    client.llm.unload("third")
    assert [model.identifier for model in client.llm.list_loaded()] == ["echo"]
    with pytest.raises(lms.LMStudioModelNotFoundError):
        third.respond("x")
    with pytest.raises(lms.LMStudioModelNotFoundError):
        third.unload()


def test_downloaded_models(client: lms.Client) -> None:
    """Downloaded models are listed by type."""
    assert [model.model_key for model in client.list_downloaded_models()] == ["echo", "echo-jit", "echo-embed"]
    assert [model.model_key for model in client.list_downloaded_models("embedding")] == ["echo-embed"]
    assert client.embedding.list_loaded() == []


def test_embeddings(client: lms.Client) -> None:
    """An embedding model is loaded, embeds a text or a list of texts, counts tokens, and is unloaded."""
    model = client.embedding.model("echo-embed", config={"contextLength": 100})
    assert [loaded.identifier for loaded in client.list_loaded_models("embedding")] == ["echo-embed"]
    assert [loaded.identifier for loaded in client.list_loaded_models("llm")] == ["echo"]
    vectors: Any = model.embed(["the sky is blue", "The sky is very blue", "something else"])
    sky, same, other = vectors
    assert sky == model.embed("the sky is blue")
    near, far = sum(map(operator.mul, sky, same)), sum(map(operator.mul, sky, other))
    assert 1 > near > far
    assert model.count_tokens("the sky") == len(model.tokenize("the sky")) == 2
    assert model.get_context_length() == 100
    assert model.get_load_config().context_length == 100
    with pytest.raises(lms.LMStudioServerError, match="101 tokens, more than the context of 100"):
        model.embed("word " * 100)
    model.unload()
    assert client.list_loaded_models("embedding") == []


def test_missing_model(client: lms.Client) -> None:
    """An unknown identifier, and an unknown key, are errors that list the existing ones."""
    with pytest.raises(lms.LMStudioModelNotFoundError, match="nope"):
        client.llm._create_handle("nope").respond("x")
    with pytest.raises(lms.LMStudioServerError, match="echo-jit"):
        client.llm.model("nope")


def test_text_tools(model: lms.LLM) -> None:
    """Texts are tokenized and counted, and the prompt template is applied."""
    assert len(model.tokenize("a b c")) == 3
    both: Any = model.tokenize(["a", "b c"])
    assert [len(tokens) for tokens in both] == [1, 2]
    assert model.count_tokens("a b c") == 3
    chat = lms.Chat("S")
    chat.add_user_message("U")
    assert model.apply_prompt_template(chat) == "[system]\nS\n[user]\nU\n[assistant]\n"
    assert model.get_context_length() == 131072


def test_image(client: lms.Client, model: lms.LLM, tmp_path: Path) -> None:
    """An image is uploaded from bytes or from a file, and used in a message."""
    file = tmp_path / "pixel.png"
    file.write_bytes(PIXEL)
    for source in (PIXEL, file):
        image = client.files.prepare_image(source)
        assert (image.file_type, image.size_bytes) == ("image", len(PIXEL))
        chat = lms.Chat()
        chat.add_user_message("What is this?", images=[image])
        assert model.respond(chat).content == "What is this?"


def test_structured_output(model: lms.LLM) -> None:
    """The answer is an instance of the schema, and parsed."""

    class Book(lms.BaseModel):
        title: str
        year: int

    result = model.respond("Tell me about The Hobbit", response_format=Book)
    assert result.parsed == {"title": "", "year": 0}
    schema = {"type": "object", "properties": {"n": {"type": "number", "minimum": 2}}, "required": ["n"]}
    assert model.complete("x", response_format=schema).parsed == {"n": 2}


def test_act(model: lms.LLM) -> None:
    """Several rounds: the model calls two tools, one of them with arguments, and answers with their results."""

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    def greet() -> str:
        """Greet."""
        return "hello"

    seen: list[Any] = []
    texts: list[str] = []
    ended = model.act(
        'call add {"a": 2, "b": 3}\ncall greet',
        [add, greet],
        on_message=lambda message: seen.append(message.to_dict()),
        on_prediction_fragment=lambda fragment, _: texts.append(fragment.content),
    )
    assert ended.rounds == 2
    assert [message["role"] for message in seen] == ["assistant", "tool", "assistant"]
    assert [part["toolCallRequest"]["name"] for part in seen[0]["content"][1:]] == ["add", "greet"]
    assert {part["toolCallId"]: part["content"] for part in seen[1]["content"]} == {"call-1": "5", "call-2": '"hello"'}
    assert sorted("".join(texts).splitlines()) == ['"hello"', "5"]


def test_act_with_a_call_that_is_not_valid(model: lms.LLM) -> None:
    """A tool call that cannot be parsed is the SDK's own error."""

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    with pytest.raises(lms.LMStudioPredictionError, match="Failed to parse tool call request"):
        model.act("call add {", [add])


def test_presets(model: lms.LLM) -> None:
    """A preset is applied; an unknown one is the SDK's own error."""
    assert model.respond("word " * 20, preset="short").stats.predicted_tokens_count == 8
    with pytest.raises(lms.LMStudioPresetNotFoundError, match="short"):
        model.respond("x", preset="nope")


def test_slow_prompt_can_be_cancelled(start_server: StartServer) -> None:
    """A cancel takes effect while the prompt is processed, and the result is empty."""
    server = start_server(prompt_tokens_per_second=0.5)
    with lms.Client(f"127.0.0.1:{server.port}") as client:
        stream = None

        def stop(progress: float) -> None:
            if stream is not None:
                stream.cancel()

        stream = client.llm.model().respond_stream("a b c", on_prompt_processing_progress=stop)
        assert stream.wait_for_result().stats.stop_reason == "userStopped"
        assert stream.result().content == ""
