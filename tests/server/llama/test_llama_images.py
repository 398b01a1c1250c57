"""Images that a GGUF model reads, where a projector (`mmproj`) lies beside it."""

import base64
import logging
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import xllamacpp
from conftest import Connect, Packet, Wire, checked, predicting, query, stack, stats_of, text_of
from local_servers import load_parameter, wait_for_fragment
from tiny_model import Shape, make_model
from tiny_projector import IMAGE_TOKENS, make_projector, png

from lmcli.server import background
from lmcli.server.llama.llama_engine import LlamaEngine
from lmcli.server.llama.model_files import local_models

RED, BLUE = (255, 0, 0), (0, 0, 255)
BANNED = [[number, False] for number in (2, *range(3, 3 + 32), *range(3 + 127, 3 + 256))]
GREEDY: Mapping[str, Any] = {
    "temperature": 0,
    "maxPredictedTokens": checked(12),
    "llama.logitBias": [[number, "-inf"] for number, _ in BANNED],
}
"""The likeliest tokens that are printable characters."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can see, and in another folder one that cannot."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "blind").mkdir()
    make_model(folder / "blind" / "blind.gguf")
    make_model(folder / "see.gguf")
    make_projector(folder / "mmproj-see.gguf")
    return folder


@pytest.fixture(scope="module")
def llama(folder: Path) -> Iterator[background.Running]:
    """A server of both."""
    with background.start(LlamaEngine([folder / "see.gguf", folder / "blind" / "blind.gguf"])) as running:
        yield running


class Client:
    """A client with uploads."""

    def __init__(self, server: background.Running, connect: Connect) -> None:
        self.wire: Wire = connect(server)
        self.files: Wire = connect(server, "/files")
        for key in ("see", "blind"):
            self.wire.stream("getOrLoad", load_parameter(key))

    def image(self, content: bytes, name: str = "a b.png") -> Packet:
        """Upload an image; gives it as a part of a message."""
        encoded = base64.b64encode(content).decode()
        uploaded = self.files.result("uploadFileBase64", {"name": name, "contentBase64": encoded})
        return {"type": "file", "name": name, **uploaded}

    def asking(self, *parts: Packet | str, identifier: str = "see", **values: Any) -> Packet:
        """What `predict` takes for a message of texts and images."""
        content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
        parameter = predicting("", stack(**{**GREEDY, **values}), identifier=identifier)
        return parameter | {"history": {"messages": [{"role": "user", "content": content}]}}

    def ask(self, *parts: Packet | str, **values: Any) -> list[Packet]:
        """Predict."""
        return self.wire.stream("predict", self.asking(*parts, **values))


@pytest.fixture
def client(llama: background.Running, connect: Connect) -> Client:
    """A client of the server."""
    return Client(llama, connect)


def test_a_model_with_a_projector_can_see(client: Client) -> None:
    """And says so; the other one does not."""
    listed = {info["modelKey"]: info["vision"] for info in client.wire.result("listLoaded")}
    assert listed == {"see": True, "blind": False}


def test_answers_to_images_are_those_of_llama_cpp(client: Client, folder: Path) -> None:
    """Called directly with the same messages; each image has its tokens in the prompt, and changes the answer."""
    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = str(folder / "see.gguf"), str(folder / "mmproj-see.gguf")
    params.n_ctx, params.n_parallel, params.ui, params.verbosity = 256, 1, False, 0
    server = xllamacpp.Server(params)
    options = {"temperature": 0, "repeat_penalty": 1.1, "max_tokens": 12, "logit_bias": BANNED}
    answers = set()
    for color in (RED, BLUE):
        url = {"url": f"data:image/png;base64,{base64.b64encode(png(color)).decode()}"}
        content = [{"type": "text", "text": "what "}, {"type": "image_url", "image_url": url}]
        content.append({"type": "text", "text": " is it?"})
        expected = server.handle_chat_completions({"messages": [{"role": "user", "content": content}], **options})
        packets = client.ask("what ", client.image(png(color)), " is it?")
        assert text_of(packets) == expected["choices"][0]["message"]["content"]
        assert stats_of(packets)["promptTokensCount"] == expected["usage"]["prompt_tokens"]
        answers.add(text_of(packets))
    assert len(answers) == 2
    plain = stats_of(client.ask("what  is it?"))
    assert stats_of(packets)["promptTokensCount"] == plain["promptTokensCount"] + IMAGE_TOKENS


def test_the_images_of_a_history_reach_the_model(client: Client) -> None:
    """All of them, in their order."""
    red, blue = client.image(png(RED)), client.image(png(BLUE))
    one, other = client.ask("a", red, "b", blue), client.ask("a", blue, "b", red)
    assert text_of(one) != text_of(other)
    assert stats_of(one)["promptTokensCount"] == stats_of(client.ask("ab"))["promptTokensCount"] + 2 * IMAGE_TOKENS


def test_options_apply_to_predictions_with_images(client: Client) -> None:
    """Stop strings, structured output, log probabilities, and the limit of the answer; progress is reported."""
    image = client.image(png(RED))
    progress = [packet["progress"] for packet in client.ask(image) if packet["type"] == "promptProcessingProgress"]
    assert (progress[0], progress[-1]) == (0, 1)
    text = text_of(client.ask(image))
    assert text_of(client.ask(image, stopStrings=[text[5]])) == text[: text.index(text[5])]
    structured = {"type": "json", "jsonSchema": {"type": "integer"}}
    assert int(text_of(client.ask(image, structured=structured)))
    packets = client.ask(image, logProbs=checked(2), maxPredictedTokens=checked(3))
    tokens = [token for p in packets if p["type"] == "fragment" for token in p["fragment"]["tokens"]]
    assert stats_of(packets)["stopReason"] == "maxPredictedTokensReached"
    assert "".join(token["text"] for token in tokens) == text[:3]
    assert [len(token["candidates"]) for token in tokens] == [2, 2, 2]


def test_a_prediction_with_an_image_can_be_cancelled(client: Client) -> None:
    """And the model answers the next request."""
    asked = client.asking(client.image(png(RED)), maxPredictedTokens=checked(200))
    channel = client.wire.open("predict", asked)
    wait_for_fragment(client.wire)
    client.wire.cancel(channel)
    assert stats_of(client.wire.packets(channel))["stopReason"] == "userStopped"
    assert text_of(client.ask("hello"))


def test_several_at_once_are_those_one_after_another(
    client: Client, llama: background.Running, connect: Connect
) -> None:
    """More than there are sessions, with and without images: each first token is as probable as alone."""

    def probabilities(client: Client) -> list[float]:
        messages = [("see", client.image(png(RED))), ("see", client.image(png(BLUE))), ("hello",)]
        options = {"logProbs": checked(1), "maxPredictedTokens": checked(1)}
        answers = [client.ask(*message, **options) for message in messages]
        fragments = (packet["fragment"] for packets in answers for packet in packets if packet["type"] == "fragment")
        return [token["logProb"] for fragment in fragments for token in fragment["tokens"]]

    expected = probabilities(client)
    assert min(abs(one - other) for one, other in combinations(expected, 2)) > 0.05
    with ThreadPoolExecutor() as threads:
        for found in threads.map(probabilities, [Client(llama, connect) for _ in range(6)]):
            assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("content", "identifier", "error"),
    [
        (png(RED), "blind", "does not support images: the model has no vision part"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "see", "does not support WebP images"),
        (png(RED)[:30], "see", "Failed to load image"),
    ],
    ids=["no projector", "WebP", "broken"],
)
def test_images_that_cannot_be_read_are_refused(client: Client, content: bytes, identifier: str, error: str) -> None:
    """With the reason; the model goes on."""
    assert error in client.ask("what?", client.image(content), identifier=identifier)[-1]["title"]
    assert text_of(client.ask("hello", identifier=identifier))


def test_a_prompt_with_images_is_not_truncated(client: Client) -> None:
    """It is refused, or stops at the limit, as the policy says; a text without images is truncated as always."""
    image, long = client.image(png(RED)), "word " * 100
    error = client.ask(long, image, contextOverflowPolicy="truncateMiddle")[-1]
    assert error["title"].startswith("A prompt with images cannot be truncated")
    stopped = stats_of(client.ask(long, image, contextOverflowPolicy="stopAtLimit"))
    assert stopped["stopReason"] == "contextLengthReached"
    assert text_of(client.ask(long, contextOverflowPolicy="truncateMiddle"))


def test_a_formatted_prompt_shows_where_images_are(client: Client) -> None:
    """By the marker that llama.cpp documents."""
    content = [{"type": "text", "text": "a"}, client.image(png(RED)), {"type": "text", "text": "b"}]
    history = {"messages": [{"role": "user", "content": content}]}
    asked = {"specifier": query("see"), "history": history, "predictionConfigStack": {"layers": []}, "opts": {}}
    assert "<|user|>a<__media__>b\n" in client.wire.result("applyPromptTemplate", asked)["formatted"]


def test_the_projector_of_a_model_has_its_width(tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Among several models; to a model alone in its folder belongs any that is valid."""

    def can_see() -> dict[str, bool]:
        models = local_models(sorted(path for path in tmp_path.glob("*.gguf") if "mmproj" not in path.name))
        return {model.info.model_key: model.info.vision for model in models}

    make_projector(tmp_path / "mmproj.gguf", 32)
    shutil.copy(folder / "see.gguf", tmp_path / "wide.gguf")
    assert can_see() == {"wide": True}
    make_model(tmp_path / "narrow.gguf", Shape(layers=1, width=32))
    assert can_see() == {"wide": False, "narrow": True}
    (tmp_path / "mmproj.gguf").write_bytes(b"GGUF")
    with caplog.at_level(logging.WARNING):
        assert can_see() == {"wide": False, "narrow": False}
    assert "mmproj.gguf' is ignored: is truncated" in caplog.text
