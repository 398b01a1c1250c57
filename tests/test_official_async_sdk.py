"""The official Python SDK works with the server on an event loop, too: `AsyncClient`, in its documented calls."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import lmstudio as lms
import pytest
from conftest import PATIENCE

from lmcli.server.background import Running

TEXT = "What is  the meaning\nof life? "
PNG = b"\x89PNG\r\n\x1a\n"
NAMESPACES = ("llm", "embedding", "system", "files", "repository")


def asynchronous(test: Callable[[lms.AsyncClient], Coroutine[Any, Any, None]]) -> Callable[[Running], None]:
    """Make a test of a coroutine that takes a connected client."""

    async def connected(port: int) -> None:
        async with lms.AsyncClient(f"127.0.0.1:{port}") as client:
            await asyncio.wait_for(test(client), PATIENCE)

    return lambda server: asyncio.run(connected(server.port))


@asynchronous
async def test_all_namespaces_are_open(client: lms.AsyncClient) -> None:
    """The client opens its five connections on entry, at once."""
    assert [getattr(client, namespace).connected for namespace in NAMESPACES] == [True] * 5


@asynchronous
async def test_respond(client: lms.AsyncClient) -> None:
    """A prompt is answered with its own text, with stats."""
    model = await client.llm.model()
    result = await model.respond(TEXT)
    assert str(result) == result.content == TEXT
    assert result.stats.stop_reason == "eosFound"
    assert result.stats.predicted_tokens_count == 7
    assert result.model_info.display_name == "Echo"


@asynchronous
async def test_respond_stream(client: lms.AsyncClient) -> None:
    """Fragments arrive one by one, and the callbacks are called in their order; then there is the result."""
    seen: list[str] = []
    model = await client.llm.model()
    stream = await model.respond_stream(
        "a b",
        on_prompt_processing_progress=lambda progress: seen.append(f"prompt {progress}"),
        on_first_token=lambda: seen.append("first token"),
        on_prediction_fragment=lambda fragment: seen.append(f"fragment {fragment.content}"),
        on_message=lambda message: seen.append(f"message {message.to_dict()['content']}"),
    )
    assert [fragment.content async for fragment in stream] == ["a", " b"]
    assert stream.result().content == "a b"
    assert seen == [
        *("prompt 0.0", "prompt 0.5", "prompt 1.0", "first token", "fragment a", "fragment  b"),
        "message [{'type': 'text', 'text': 'a b'}]",
    ]


@asynchronous
async def test_chat(client: lms.AsyncClient) -> None:
    """The model's messages are added to a conversation; its last user message is answered."""
    model = await client.llm.model()
    chat = lms.Chat("You are terse.")
    for text in ("one two", "three"):
        chat.add_user_message(text)
        assert (await model.respond(chat, on_message=chat.append)).content == text


@asynchronous
async def test_config(client: lms.AsyncClient) -> None:
    """Options are applied and returned as the effective config."""
    model = await client.llm.model()
    result = await model.respond(TEXT, config={"temperature": 0.25, "maxTokens": 3})
    assert (result.content, result.stats.stop_reason) == ("What is  the", "maxPredictedTokensReached")
    assert result.prediction_config.temperature == 0.25
    assert result.load_config.context_length == 131072


@asynchronous
async def test_complete(client: lms.AsyncClient) -> None:
    """A completion continues the raw text, up to a stop string."""
    model = await client.llm.model()
    result = await model.complete(TEXT, config={"stopStrings": ["ing\nof"]})
    assert (result.content, result.stats.stop_reason) == ("What is  the mean", "stopStringFound")
    stream = await model.complete_stream(TEXT)
    assert "".join([fragment.content async for fragment in stream]) == TEXT


@asynchronous
async def test_several_at_once(client: lms.AsyncClient) -> None:
    """Predictions run at the same time on one connection, beside calls; each has its own text."""
    model = await client.llm.model()
    texts = [f"{number} " * 50 * number for number in range(1, 9)]
    results, counts = await asyncio.gather(
        asyncio.gather(*(model.respond(text) for text in texts)),
        asyncio.gather(*(model.count_tokens(text) for text in texts)),
    )
    assert [result.content for result in results] == texts
    assert [result.stats.predicted_tokens_count for result in results] == counts


@asynchronous
async def test_cancel(client: lms.AsyncClient) -> None:
    """A cancelled stream ends with its partial result."""
    model = await client.llm.model()
    stream = await model.respond_stream("word " * 100_000)
    async for fragment in stream:
        assert fragment.content
        await stream.cancel()
    assert stream.result().stats.stop_reason == "userStopped"
    assert (await model.respond("still there")).content == "still there"


@asynchronous
async def test_models(client: lms.AsyncClient) -> None:
    """Models are listed, loaded on request with progress and config, loaded once more, and unloaded."""
    assert [model.model_key for model in await client.list_downloaded_models("llm")] == ["echo", "echo-jit"]
    assert [model.identifier for model in await client.llm.list_loaded()] == ["echo"]
    progress: list[float] = []
    model = await client.llm.model("echo-jit", config={"contextLength": 512}, on_load_progress=progress.append)
    assert (progress, progress[0], progress[-1]) == (sorted(progress), 0.0, 1.0)
    assert await model.get_context_length() == 512
    assert (await model.get_info()).model_key == "echo-jit"
    third = await client.llm.load_new_instance("echo", "third")
    with pytest.raises(lms.LMStudioServerError, match="already exists"):
        await client.llm.load_new_instance("echo", "third")
    await model.unload()
    await client.llm.unload("third")
    assert [model.identifier for model in await client.list_loaded_models("llm")] == ["echo"]
    with pytest.raises(lms.LMStudioModelNotFoundError):
        await third.respond("x")


@asynchronous
async def test_missing_model(client: lms.AsyncClient) -> None:
    """An unknown identifier, and an unknown key, are errors that list the existing ones."""
    with pytest.raises(lms.LMStudioModelNotFoundError, match="nope"):
        await client.llm._create_handle("nope").respond("x")
    with pytest.raises(lms.LMStudioServerError, match="echo-jit"):
        await client.llm.model("nope")


@asynchronous
async def test_text_tools(client: lms.AsyncClient) -> None:
    """Texts are tokenized and counted, and the prompt template is applied."""
    model = await client.llm.model()
    assert len(await model.tokenize("a b c")) == await model.count_tokens("a b c") == 3
    chat = lms.Chat("S")
    chat.add_user_message("U")
    assert await model.apply_prompt_template(chat) == "[system]\nS\n[user]\nU\n[assistant]\n"


@asynchronous
async def test_structured_output(client: lms.AsyncClient) -> None:
    """The answer is an instance of the schema, and parsed."""

    class Book(lms.BaseModel):
        title: str
        year: int

    model = await client.llm.model()
    assert (await model.respond("Tell me about The Hobbit", response_format=Book)).parsed == {"title": "", "year": 0}


@asynchronous
async def test_act(client: lms.AsyncClient) -> None:
    """The model calls a tool that is a coroutine, and answers with its result."""

    async def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    seen: list[Any] = []
    model = await client.llm.model()
    ended = await model.act(
        'call add {"a": 2, "b": 3}', [add], on_message=lambda message: seen.append(message.to_dict())
    )
    assert ended.rounds == 2
    assert [message["role"] for message in seen] == ["assistant", "tool", "assistant"]
    assert seen[2]["content"] == [{"type": "text", "text": "5"}]


@asynchronous
async def test_embeddings(client: lms.AsyncClient) -> None:
    """An embedding model is loaded, embeds a text or a list of texts, and is unloaded."""
    model = await client.embedding.model("echo-embed")
    vectors: Any = await model.embed(["the sky is blue", "something else"])
    assert vectors[0] == await model.embed("the sky is blue") != vectors[1]
    assert await model.count_tokens("the sky") == 2
    await model.unload()
    assert await client.embedding.list_loaded() == []


@asynchronous
async def test_image(client: lms.AsyncClient) -> None:
    """An image is uploaded, and used in a message."""
    image = await client.prepare_image(PNG)
    assert (image.file_type, image.size_bytes) == ("image", len(PNG))
    chat = lms.Chat()
    chat.add_user_message("What is this?", images=[image])
    model = await client.llm.model()
    assert (await model.respond(chat)).content == "What is this?"
