"""The Python module: `import lmcli as lms`, as programs use it."""

import gc
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, Packet, StartServer, Wire, query, wait_until
from faults import End, Peer, Proxy, ScriptedServer, after_texts, once
from processes import StubConnection, StubServer, environment, start

import lmcli as lms
from lmcli.chat import FilePart, Message
from lmcli.client import default_client
from lmcli.client.session import DRAIN_SECONDS
from lmcli.errors import (
    BadInput,
    BadSetting,
    CannotConnect,
    ConnectionLost,
    Incomplete,
    ModelNotFound,
    NoInput,
    NoModelLoaded,
    PresetNotFound,
    UsageError,
)
from lmcli.server import background
from lmcli.server.background import Running

TEXT = "What is  the meaning\nof life? "
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
SLOW = 20.0
"""Tokens per second at which an answer of a thousand words lasts longer than any test."""

Open = Callable[..., lms.Client]


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment of the suite holds does not matter."""
    for name in ("LM_HOST", "LM_API_TOKEN", "LMSTUDIO_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(server: Running) -> Iterator[lms.Client]:
    """A client of a server with the echo models."""
    with lms.Client(f"127.0.0.1:{server.port}") as client:
        yield client


@pytest.fixture
def model(client: lms.Client) -> lms.LLM:
    """The model that is loaded."""
    return client.llm.model()


@pytest.fixture
def slow(start_server: StartServer) -> Running:
    """A server that takes its time."""
    return start_server(tokens_per_second=SLOW)


@pytest.fixture
def slow_model(slow: Running) -> Iterator[lms.LLM]:
    """A model that takes its time."""
    with lms.Client(f"127.0.0.1:{slow.port}") as client:
        yield client.llm.model()


@pytest.fixture
def observer(slow: Running, connect: Connect) -> Wire:
    """Somebody else at the slow server."""
    return connect(slow)


def wait_until_idle(wire: Wire) -> None:
    """Wait until the model has nothing to do."""
    wait_until(lambda: status(wire) == "idle")


def status(wire: Wire) -> str:
    """What the model is doing, as the server says."""
    parameter = {"specifier": query(), "throwIfNotFound": True}
    return str(wire.result("getInstanceProcessingState", parameter)["status"])


def test_import_costs_nothing() -> None:
    """`import lmcli` loads none of its own modules and none of others; all the names are there."""
    code = "import sys; before = set(sys.modules); import lmcli; print(*sorted(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["lmcli"]
    assert set(lms.__all__) <= set(dir(lms))
    assert all(getattr(lms, name) is not None for name in lms.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Embedding'"):
        _ = lms.Embedding  # type: ignore[attr-defined]


def test_convenience(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lms.llm()` finds the server of the environment, and one client serves the whole program."""
    monkeypatch.setenv("LM_HOST", f"127.0.0.1:{server.port}")
    try:
        assert str(lms.llm().respond("hi")) == "hi"
        assert lms.llm("echo").identifier == "echo"
        assert len(default_client._clients) == 1
    finally:
        default_client._clients.pop().close()


def test_nobody_there() -> None:
    """A client can be made without a server; the first question fails."""
    with lms.Client("127.0.0.1:1") as client, pytest.raises(CannotConnect, match=r"127\.0\.0\.1:1"):
        client.llm.model()


def test_bad_arguments_of_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is none and a token that is none are refused; an empty token means a guest."""
    with lms.Client("a b") as client, pytest.raises(UsageError, match="'a b' is not a valid address"):
        client.llm.list_loaded()
    with pytest.raises(BadSetting, match="malformed"):
        lms.Client(api_token="secret")
    monkeypatch.setenv("LM_API_TOKEN", "secret")
    with pytest.raises(BadSetting, match="malformed"):
        lms.Client()
    lms.Client(api_token="").close()


def test_timeout_of_a_client() -> None:
    """A server that is silent for longer than the client's timeout ends the wait; without one it would not end."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.wait_until_left()

    with ScriptedServer(script) as server, lms.Client(f"127.0.0.1:{server.port}", timeout=0.5) as client:
        with pytest.raises(lms.TimedOut, match=r"silent for 0\.5 s") as caught:
            client.llm.list_loaded()
        assert caught.value.hints == ()
        client.close()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e10])
def test_a_timeout_that_cannot_be(timeout: float) -> None:
    """A timeout is a number of seconds above 0 that a clock can count."""
    with pytest.raises(UsageError, match="timeout must be a number of seconds above 0"):
        lms.Client(timeout=timeout)


def test_the_longest_timeout(server: Running) -> None:
    """A timeout of decades is as good as none."""
    with lms.Client(f"127.0.0.1:{server.port}", timeout=1e9) as client:
        assert client.llm.model().respond("hi").content == "hi"


def test_api_token(start_server: StartServer) -> None:
    """A token opens a server that refuses guests."""
    server = start_server(options={"api_tokens": {"abcdefgh": "0123456789abcdefghij"}})
    with lms.Client(f"127.0.0.1:{server.port}", "sk-lm-abcdefgh:0123456789abcdefghij") as client:
        assert client.llm.model().respond("hi").content == "hi"


def test_model_by_key_loads_it(start_server: StartServer) -> None:
    """A model that is not loaded is loaded, and the progress rises strictly from 0.0 to 1.0."""
    server = start_server(load_seconds=0.05)
    told: list[float] = []
    with lms.Client(f"127.0.0.1:{server.port}") as client:
        config = lms.LoadConfig(context_length=500)
        model = client.llm.model("echo-jit", ttl=60, config=config, on_load_progress=told.append)
        assert model.identifier == "echo-jit"
        assert model.get_context_length() == 500
        assert model.get_info().ttl_ms == 60_000
        assert (told[0], told[-1]) == (0.0, 1.0)
        assert told == sorted(set(told))
        assert len(told) > 3
        told.clear()
        assert client.llm.model("echo-jit", on_load_progress=told.append).get_context_length() == 500
        assert told == []


def test_load_progress_reaches_its_end() -> None:
    """A server that skips the last steps of a load does not leave a progress bar at 60 %."""
    info = {
        "type": "llm", "modelKey": "m", "displayName": "M", "path": "m", "format": "gguf", "sizeBytes": 1,
        "maxContextLength": 1, "contextLength": 1, "identifier": "m", "instanceReference": "m",
    }  # fmt: skip

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        steps = [{"type": "startLoading"}, *({"type": "loadProgress", "progress": p} for p in (0.3, 0.6, 0.6, 0.5))]
        for step in [*steps, {"type": "loadSuccess", "info": info}]:
            peer.send({"type": "channelSend", "channelId": 1, "message": step})
        peer.send({"type": "channelClose", "channelId": 1})
        peer.wait_until_left()

    told: list[float] = []
    with ScriptedServer(script) as server, lms.Client(f"127.0.0.1:{server.port}") as client:
        assert client.llm.model("m", on_load_progress=told.append).identifier == "m"
        client.close()
    assert told == [0.0, 0.3, 0.6, 1.0]


def test_lists(client: lms.Client) -> None:
    """Loaded models are handles, downloaded ones are descriptions."""
    assert [repr(model) for model in client.llm.list_loaded()] == ["LLM('echo')"]
    downloaded = client.system.list_downloaded_models()
    assert [(info.model_key, info.display_name) for info in downloaded] == [
        ("echo", "Echo"),
        ("echo-jit", "Echo (loaded on request)"),
        ("echo-embed", "Echo (embedding)"),
    ]


def test_unload(client: lms.Client) -> None:
    """What is unloaded is gone: for its handle, for the list, and for who asks for any model."""
    model = client.llm.model("echo-jit")
    model.unload()
    assert [model.identifier for model in client.llm.list_loaded()] == ["echo"]
    with pytest.raises(ModelNotFound, match="echo-jit"):
        model.respond("hi")
    with pytest.raises(ModelNotFound, match="echo-jit"):
        model.unload()
    client.llm.unload("echo")
    with pytest.raises(NoModelLoaded, match="no model is loaded"):
        client.llm.model()


def test_unknown_model(client: lms.Client) -> None:
    """A key of no model names the keys that there are, and the client can be used on."""
    with pytest.raises(ModelNotFound, match="no model 'nope'") as caught:
        client.llm.model("nope")
    assert "echo" in caught.value.hints[0]
    assert client.llm.model().identifier == "echo"


def test_facts_about_a_model(model: lms.LLM) -> None:
    """Tokens, template and limits of the model."""
    assert model.count_tokens("a b c") == 3
    one, two = model.tokenize(["a b", "b"])
    assert (len(one), len(two)) == (2, 1)
    assert model.tokenize("a b") == one
    assert model.apply_prompt_template("hi") == "[user]\nhi\n[assistant]\n"
    history = [{"role": "system", "content": "s"}]
    assert model.apply_prompt_template(history) == "[system]\ns\n[assistant]\n"
    assert model.get_info().display_name == "Echo"
    assert model.get_context_length() == model.get_info().context_length > 0


@pytest.mark.parametrize("verb", ["respond", "complete"])
def test_whole(model: lms.LLM, verb: str) -> None:
    """The result is the text as a string, and holds stats and model."""
    result = getattr(model, verb)(TEXT)
    assert str(result) == result.content == result.parsed == TEXT
    assert result.stats.stop_reason == "eosFound"
    assert result.stats.predicted_tokens_count == 7
    assert result.stats.time_to_first_token_sec > 0
    assert result.model_info.display_name == "Echo"


@pytest.mark.parametrize("verb", ["respond_stream", "complete_stream"])
def test_stream(model: lms.LLM, verb: str) -> None:
    """Fragments come one by one and are strings where one is wanted; the result comes after the last one."""
    stream = getattr(model, verb)(TEXT)
    with pytest.raises(RuntimeError, match="no result yet"):
        stream.result()
    fragments = list(stream)
    assert [str(fragment) for fragment in fragments] == ["What", " is", "  the", " meaning", "\nof", " life?", " "]
    assert [fragment.content for fragment in fragments] == [str(fragment) for fragment in fragments]
    assert stream.result().content == TEXT
    assert list(stream) == []
    assert stream.wait_for_result() is stream.result()


def test_wait_for_result(model: lms.LLM) -> None:
    """A stream can be waited for without looking at it."""
    assert model.respond_stream(TEXT).wait_for_result().content == TEXT


def test_a_stream_that_is_held_holds_text(model: lms.LLM) -> None:
    """The fragments that were handed on are not kept: they would occupy the garbage collector in every long stream."""
    stream = model.respond_stream("kept " * 1000)
    assert sum(1 for _ in stream) >= 1000
    assert not [one for one in gc.get_objects() if type(one) is lms.Fragment and "kept" in one.content]
    assert stream.result().content.split() == ["kept"] * 1000


def test_stream_as_a_block(model: lms.LLM) -> None:
    """A stream is a context manager, too."""
    with model.respond_stream(TEXT) as stream:
        assert "".join(map(str, stream)) == TEXT
    assert stream.result().content == TEXT


def test_chat(model: lms.LLM) -> None:
    """A conversation grows by what is said; `on_message` takes what `append` wants."""
    chat = lms.Chat("You are terse.")
    chat.add_user_message("one two")
    result = model.respond(chat, on_message=chat.append)
    assert [(m.role, m.text) for m in chat.messages] == [
        ("system", "You are terse."),
        ("user", "one two"),
        ("assistant", "one two"),
    ]
    chat.add_user_message("three")
    chat.add_assistant_response(result)
    assert model.respond(chat).content == "three"


def test_history(model: lms.LLM) -> None:
    """Plain dictionaries do as well as a Chat; a broken history is refused before anything is sent."""
    entries: Any = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "ONE"}]
    entries.append({"role": "user", "content": [{"type": "text", "text": "two"}]})
    for history in ({"messages": entries}, entries, lms.Chat.from_history(entries)):
        assert model.respond(history).content == "two"
    with pytest.raises(BadInput, match=r"messages\[0\]\.role"):
        model.respond([{"role": "pope", "content": "urbi"}])


@pytest.mark.parametrize(
    "config",
    [
        {"maxTokens": 2, "temperature": 0.6},
        {"max_tokens": 2, "temperature": 0.6},
        lms.PredictionConfig(max_tokens=2, temperature=0.6),
    ],
    ids=["camelCase", "snake_case", "value"],
)
def test_config(model: lms.LLM, config: Any) -> None:
    """Options go under the SDK's names in both spellings."""
    for result in (model.respond(TEXT, config=config), model.complete(TEXT, config=config)):
        assert result.content == "What is"
        assert result.stats.stop_reason == "maxPredictedTokensReached"
        assert {"key": "llm.prediction.temperature", "value": 0.6} in result.prediction_config["fields"]


def test_stop_strings(model: lms.LLM) -> None:
    """A stop string ends the answer and is not part of it."""
    result = model.complete("one two three", config={"stopStrings": ["two"]})
    assert result.content == "one "
    assert (result.stats.stop_reason, result.stats.stop_string) == ("stopStringFound", "two")


def test_unknown_option(model: lms.LLM) -> None:
    """A slip in the name of an option is ignored, as in the official SDK, but not in silence."""
    for ask in (model.respond, model.complete, lambda prompt, config: str(model.respond_stream(prompt, config=config))):
        with pytest.warns(
            UserWarning, match=r"^unknown prediction option 'temprature', did you mean temperature\?$"
        ) as warned:
            ask("hi", config={"temprature": 1})
        assert [warning.filename for warning in warned] == [__file__]


def test_unknown_key_in_raw(model: lms.LLM) -> None:
    """A raw key that no server is known to read is sent, with a warning; a value that it cannot have is an error."""
    with pytest.warns(UserWarning, match=r"^unknown config key 'llm\.prediction\.temprature', did you mean "):
        assert str(model.respond("hi", config={"raw": {"llm.prediction.temprature": 1}})) == "hi"
    with pytest.raises(UsageError, match=r"^llm\.prediction\.temperature cannot be 'hot'$"):
        model.respond("hi", config={"raw": {"llm.prediction.temperature": "hot"}})


@pytest.mark.parametrize(
    "config",
    [
        {"rawTools": {"type": "toolArray", "tools": []}},
        {"reasoningBudget": 5},
        {"raw": {"llm.prediction.reasoning.enableThinking": True}},
    ],
)
def test_raw_completion_takes_no_tools_and_no_reasoning(model: lms.LLM, config: dict[str, Any]) -> None:
    """They are refused before anything is sent, and `respond` takes them."""
    for ask in (model.complete, model.complete_stream):
        with pytest.raises(UsageError, match=r"^raw completion does not take "):
            ask("hi", config=config)
    assert str(model.respond("hi", config=config)) == "hi"


def test_unknown_option_of_a_load(client: lms.Client) -> None:
    """The same where a model is loaded."""
    with pytest.warns(
        UserWarning, match=r"^unknown load option 'flashAttenton', did you mean flash_attention\?$"
    ) as warned:
        client.llm.load_new_instance("echo-jit", "one", config={"flashAttenton": True})
    assert [warning.filename for warning in warned] == [__file__]
    with pytest.raises(UsageError, match="flash attention cannot be '1'"):
        client.llm.load_new_instance("echo-jit", "two", config={"flashAttention": 1})


SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}


class Book:
    """What a pydantic model is to us."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        """The schema."""
        return SCHEMA


@pytest.mark.parametrize(
    "response_format", [SCHEMA, {"type": "json", "jsonSchema": SCHEMA}, Book], ids=["schema", "setting", "class"]
)
def test_response_format(model: lms.LLM, response_format: Any) -> None:
    """Structured output comes parsed, whatever says which structure."""
    result = model.respond("hi", response_format=response_format)
    assert isinstance(result.parsed, dict)
    assert set(result.parsed) == {"title"}
    assert json.loads(result.content) == result.parsed
    stream = model.complete_stream("hi", response_format=response_format)
    assert stream.wait_for_result().parsed == result.parsed


def test_bad_response_format(model: lms.LLM) -> None:
    """What is no schema, or one too many, is refused."""
    with pytest.raises(UsageError, match="a response format is"):
        model.respond("hi", response_format={"title": "string"})
    with pytest.raises(UsageError, match="exclude each other"):
        model.respond("hi", response_format=SCHEMA, config={"structured": {"type": "json"}})


def test_preset(model: lms.LLM) -> None:
    """A preset of the server counts, and what is given with it wins."""
    words = "1 2 3 4 5 6 7 8 9 10"
    assert model.respond(words, preset="short").content == "1 2 3 4 5 6 7 8"
    assert model.complete(words, preset="Short", config={"maxTokens": 2}).content == "1 2"
    with pytest.raises(PresetNotFound, match="no preset 'long'") as caught:
        model.respond(words, preset="long")
    assert caught.value.hints == ("there are: Short",)


@pytest.mark.parametrize("verb", ["respond", "complete"])
def test_callbacks(start_server: StartServer, verb: str) -> None:
    """Progress rises strictly from 0.0 to 1.0, then the first token, then fragment by fragment, then the message."""
    server = start_server(prompt_tokens_per_second=20)
    told: list[Any] = []
    with lms.Client(f"127.0.0.1:{server.port}") as client:
        getattr(client.llm.model(), verb)(
            "a b c d",
            on_prompt_processing_progress=told.append,
            on_first_token=lambda: told.append("first"),
            on_prediction_fragment=told.append,
            on_message=told.append,
        )
    first = told.index("first")
    progress, fragments, message = told[:first], told[first + 1 : -1], told[-1]
    assert progress == sorted(set(progress))
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert [fragment.content for fragment in fragments] == ["a", " b", " c", " d"]
    assert isinstance(message, Message)
    assert (message.role, message.text) == ("assistant", "a b c d")


def test_progress_is_completed(server: Running) -> None:
    """Where the server leaves out the beginning and the end of the progress, they are told nevertheless."""
    told: list[float] = []

    def only_half(pieces: Iterator[bytes]) -> Iterator[bytes | End]:
        for piece in pieces:
            if b'"promptProcessingProgress","progress":0.0' not in piece and b'"progress":1.0' not in piece:
                yield piece

    with Proxy(server.port, only_half) as proxy, lms.Client(f"127.0.0.1:{proxy.port}") as client:
        fragments = iter(client.llm.model().respond_stream("hi", on_prompt_processing_progress=told.append))
        assert str(next(fragments)) == "hi"
        assert told == [0.0, 0.5, 1.0]
        assert list(fragments) == []
    assert told == [0.0, 0.5, 1.0]


def test_callbacks_come_before_the_loop(model: lms.LLM) -> None:
    """A fragment is told to its callback just before the loop gets it."""
    told: list[str] = []
    stream = model.respond_stream("a b", on_prediction_fragment=lambda fragment: told.append(f"callback {fragment}"))
    told.extend(f"loop {fragment}" for fragment in stream)
    assert told == ["callback a", "loop a", "callback  b", "loop  b"]


def test_exception_in_a_callback(slow_model: lms.LLM, observer: Wire) -> None:
    """It reaches the caller, and the server is told to stop."""

    def fail(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        slow_model.respond("word " * 1000, on_prediction_fragment=fail)
    wait_until_idle(observer)


def test_images(client: lms.Client, tmp_path: Path) -> None:
    """An image from a path, from bytes or from an open file is uploaded, and can be talked about."""
    file = tmp_path / "pixel.png"
    file.write_bytes(PIXEL)
    with file.open("rb") as opened:
        images = [
            client.files.prepare_image(file),
            client.files.prepare_image(str(file), name="other.png"),
            client.files.prepare_image(PIXEL, "bytes.png"),
            client.files.prepare_image(opened),
            client.files.prepare_image(io.BytesIO(PIXEL)),
        ]
    assert all(isinstance(image, FilePart) for image in images)
    assert [image.name for image in images[:4]] == ["pixel.png", "other.png", "bytes.png", "pixel.png"]
    assert {(image.file_type, image.size_bytes) for image in images} == {("image", len(PIXEL))}
    chat = lms.Chat()
    chat.add_user_message("what is this?", images=images)
    assert client.llm.model().respond(chat).content == "what is this?"


def test_image_that_is_not_there(client: lms.Client, tmp_path: Path) -> None:
    """A file that cannot be read is named."""
    with pytest.raises(NoInput, match=r"missing\.png"):
        client.files.prepare_image(tmp_path / "missing.png")


def test_cancel(slow_model: lms.LLM, observer: Wire) -> None:
    """What came until the cancel is the result; later fragments are dropped."""
    stream = slow_model.respond_stream("word " * 1000)
    seen = []
    for fragment in stream:
        seen.append(fragment.content)
        if len(seen) == 2:
            stream.cancel()
            stream.cancel()
    result = stream.result()
    assert result.content == "".join(seen) == "word word"
    assert result.stats.stop_reason == "userStopped"
    wait_until_idle(observer)
    stream.cancel()


def test_cancel_in_a_burst(model: lms.LLM) -> None:
    """Fragments that had arrived already when the prediction was cancelled are dropped as well."""
    stream = model.respond_stream("word " * 1000)
    for _ in stream:
        stream.cancel()
    assert stream.result().content == "word"


def test_cancelled_structure_is_not_parsed(model: lms.LLM) -> None:
    """What came of a JSON text before the cancel stays text, whatever it looks like."""
    stream = model.respond_stream("hi", response_format={"type": "object"})
    for fragment in stream:
        assert str(fragment) == "{}"
        stream.cancel()
    assert stream.result().parsed == "{}"


def test_cancel_while_the_prompt_is_read(start_server: StartServer) -> None:
    """A cancel from a progress callback ends the prediction before its first token."""
    server = start_server(prompt_tokens_per_second=1)
    with lms.Client(f"127.0.0.1:{server.port}") as client:
        streams: list[lms.PredictionStream] = []
        stream = client.llm.model().respond_stream(
            "word " * 100, on_prompt_processing_progress=lambda _: streams[0].cancel()
        )
        streams.append(stream)
        result = stream.wait_for_result()
    assert (result.content, result.stats.stop_reason) == ("", "userStopped")


def test_leaving_the_loop_cancels(slow_model: lms.LLM, observer: Wire) -> None:
    """Who leaves the loop early stops the generation at once, though the stream itself is still held."""
    stream = slow_model.respond_stream("word " * 1000)
    for _ in stream:
        assert status(observer) == "generating"
        break
    wait_until_idle(observer)
    assert list(stream) == []


def test_leaving_the_loop_of_a_stream_without_a_name_cancels(slow_model: lms.LLM, observer: Wire) -> None:
    """The same without a variable, and without the help of the garbage collector."""
    gc.disable()
    try:
        for _ in slow_model.respond_stream("word " * 1000):
            break
        wait_until_idle(observer)
    finally:
        gc.enable()


def test_exception_in_the_loop_cancels(slow_model: lms.LLM, observer: Wire) -> None:
    """Who is thrown out of the loop stops the generation as well."""

    def fail() -> None:
        for _ in slow_model.respond_stream("word " * 1000):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    wait_until_idle(observer)


@pytest.mark.parametrize("is_begun", [True, False])
def test_leaving_the_block_cancels(slow_model: lms.LLM, observer: Wire, *, is_begun: bool) -> None:
    """The end of a `with` stops the generation, whether it was looked at or not."""
    with slow_model.respond_stream("word " * 1000) as stream:
        fragments = iter(stream)
        if is_begun:
            next(fragments)
    wait_until_idle(observer)


def test_the_next_prediction_comes_at_once(slow_model: lms.LLM) -> None:
    """After an early end the same handle answers the next question."""
    for _ in slow_model.respond_stream("word " * 1000):
        break
    assert slow_model.respond("hi").content == "hi"


def test_the_result_after_leaving_the_loop(slow_model: lms.LLM) -> None:
    """What came is the result of an early end, with the stop reason of the server."""
    stream = slow_model.respond_stream("word " * 1000)
    for fragment in stream:
        assert str(fragment) == "word"
        break
    result = stream.result()
    assert (result.content, result.stats.stop_reason) == ("word", "userStopped")
    assert stream.wait_for_result() is result


NAMED = "stream = client.llm.model().respond_stream('hi')\n    if True:"


def say_one(connection: StubConnection, envelope: Packet) -> None:
    """Begin an answer, and do not react to a cancel."""
    if envelope["type"] == "channelCreate":
        connection.say(envelope["channelId"], "one")


LEAVING = """
import lmcli as lms
with lms.Client() as client:
    {with_stream}
        for fragment in stream:
            print(fragment, flush=True)
            {then}
"""


@pytest.mark.parametrize("with_stream", ["with client.llm.model().respond_stream('hi') as stream:", NAMED])
@pytest.mark.parametrize("then", ["pass", "signal.pause()"], ids=["waiting", "busy"])
def test_ctrl_c_does_not_wait_for_the_server(with_stream: str, then: str, tmp_path: Path) -> None:
    """A program that is interrupted sends the cancel and leaves, whatever the server does about it."""
    with StubServer(say_one) as stub:
        program = "import signal\n" + LEAVING.format(with_stream=with_stream, then=then)
        line = [sys.executable, "-c", program]
        with start(*line, folder=tmp_path, variables=environment(tmp_path, stub.port)) as child:
            child.wait_for(b"one")
            began = time.monotonic()
            child.process.send_signal(signal.SIGINT)
            assert stub.wait_for("channelSend")["message"] == {"type": "cancel"}
            assert child.end() == -signal.SIGINT
            assert time.monotonic() - began < DRAIN_SECONDS / 2


def test_connection_lost_in_the_middle(server: Running) -> None:
    """The fragments that arrived are seen, then the error, from the loop and from the result."""
    answers = 1 + 1 + 3 + 2  # greeting, list of models, progress, two fragments
    with (
        Proxy(server.port, after_texts(answers, End.DROP)) as proxy,
        lms.Client(f"127.0.0.1:{proxy.port}") as client,
    ):
        stream = client.llm.model().respond_stream("one two three")
        fragments = iter(stream)
        assert [str(next(fragments)), str(next(fragments))] == ["one", " two"]
        with pytest.raises(ConnectionLost):
            next(fragments)
        with pytest.raises(ConnectionLost):
            stream.result()
        with pytest.raises(ConnectionLost):
            stream.wait_for_result()


def test_connecting_again_after_a_loss(server: Running) -> None:
    """A handle works again after its connection was lost in the middle of an answer."""
    with (
        Proxy(server.port, once(after_texts(1 + 1 + 3 + 2, End.RESET))) as proxy,
        lms.Client(f"127.0.0.1:{proxy.port}") as client,
    ):
        model = client.llm.model()
        with pytest.raises(Incomplete):
            model.respond("one two three")
        assert model.respond("hi").content == "hi"
        assert [loaded.identifier for loaded in client.llm.list_loaded()] == ["echo"]


def test_connecting_again_to_a_server_that_was_started_again(start_server: StartServer) -> None:
    """A handle that was idle while its server was restarted answers as if nothing had been."""
    first = start_server()
    with lms.Client(f"127.0.0.1:{first.port}") as client:
        model = client.llm.model()
        assert model.respond("one").content == "one"
        first.close()
        with background.start(port=first.port):
            assert model.respond("two").content == "two"
            client.close()


def test_client_can_be_used_after_close(client: lms.Client) -> None:
    """Closing ends the connections, not the client."""
    model = client.llm.model()
    client.close()
    assert model.respond("hi").content == "hi"


def test_unloaded_in_the_middle(slow_model: lms.LLM, observer: Wire) -> None:
    """A model that somebody unloads in the middle leaves a result that says so."""
    stream = slow_model.respond_stream("word " * 1000)
    fragments = iter(stream)
    next(fragments)
    observer.call("unloadModel", {"identifier": "echo"})
    for _ in fragments:
        pass
    assert stream.result().stats.stop_reason == "modelUnloaded"
