"""Embedding models that are GGUF files, run by llama.cpp: types, vectors, tokens, limits."""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import lmstudio
import pytest
import xllamacpp
from conftest import Connect, Wire, query
from local_servers import load_parameter
from processes import children_of
from tiny_encoder import CONTEXT_LENGTH, WIDTH, make_encoder
from tiny_model import Shape, make_model

from lmcli.server import background
from lmcli.server.llama.gguf import read_header
from lmcli.server.llama.llama_engine import LlamaEngine
from lmcli.server.llama.model_types import model_type

TEXTS = ("hello world", "the sky is blue", "", " \n", "😀 [SEP] hello", "hello" * 10)
HALF = "\ud83d"
"""The first half of a surrogate pair, as a JavaScript client sends it that splits an emoji."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A language model, an encoder, one whose header has no pooling, and a decoder with pooling."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "text": make_model(folder / "text.gguf"),
        "encoder": make_encoder(folder / "encoder.gguf"),
        "unpooled": make_encoder(folder / "unpooled.gguf", pooling=gguf.PoolingType.NONE),
        "decoder": make_model(folder / "decoder.gguf", Shape(layers=1), pooling=gguf.PoolingType.LAST),
    }


@pytest.fixture(scope="module")
def llama(files: dict[str, Path]) -> Iterator[background.Running]:
    """A server with the models, for all tests of this module."""
    with background.start(LlamaEngine(list(files.values()))) as running:
        yield running


@pytest.fixture
def wire(llama: background.Running, connect: Connect) -> Wire:
    """A connection to `/embedding`, with the model `encoder` loaded."""
    wire = connect(llama, "/embedding")
    wire.stream("getOrLoad", load_parameter("encoder"))
    return wire


def embedding(wire: Wire, text: str, identifier: str = "encoder") -> list[float]:
    """The vector of a text."""
    parameter = {"modelSpecifier": query(identifier), "inputString": text}
    vector: list[float] = wire.result("embedString", parameter)["embedding"]
    return vector


def directly(file: Path, **parameters: Any) -> Any:
    """A server of llama.cpp without anything in between."""
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.embedding = True
    params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT_LENGTH
    params.n_parallel = 1
    params.ui = False
    params.verbosity = 0
    for name, value in parameters.items():
        setattr(params, name, value)
    return xllamacpp.Server(params)


def test_the_type_of_a_model_is_in_its_header(
    files: dict[str, Path], llama: background.Running, connect: Connect
) -> None:
    """By the architecture, or by a pooling type; what ranks documents is neither."""
    downloaded = connect(llama, "/system").result("listDownloadedModels")
    assert {info["modelKey"]: info["type"] for info in downloaded} == {
        "text": "llm",
        "encoder": "embedding",
        "unpooled": "embedding",
        "decoder": "embedding",
    }
    encoder = next(info for info in downloaded if info["modelKey"] == "encoder")
    assert (encoder["architecture"], encoder["maxContextLength"]) == ("bert", CONTEXT_LENGTH)
    ranking = make_encoder(files["text"].with_name("ranking.gguf"), pooling=gguf.PoolingType.RANK)
    assert model_type(read_header(ranking)) is None


@pytest.mark.parametrize("key", ["encoder", "unpooled", "decoder"])
def test_vectors_are_those_of_llama_cpp(key: str, wire: Wire, files: dict[str, Path]) -> None:
    """Of every text; without a pooling type in the header, the mean of the vectors of the tokens."""
    wire.stream("getOrLoad", load_parameter(key))
    mean = {"pooling_type": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN} if key == "unpooled" else {}
    server = directly(files[key], **mean)
    for text in filter(None, TEXTS):
        (expected,) = server.handle_embeddings({"input": text})["data"]
        tolerance = 2e-3 if key == "decoder" else 1e-5  # what a decoder has cached of other texts is of half precision
        assert embedding(wire, text, key) == pytest.approx(expected["embedding"], abs=tolerance)
    assert math.hypot(*embedding(wire, "hello", key)) == pytest.approx(1)


def test_tokens_are_those_of_llama_cpp(wire: Wire, files: dict[str, Path]) -> None:
    """The numbers in the vocabulary, between the tokens that begin and end each text, which are not counted."""
    vocabulary = gguf.GGUFReader(files["encoder"]).fields["tokenizer.ggml.tokens"].contents()
    asked = {"specifier": query("encoder"), "inputString": "hello world, sky"}
    tokens = wire.result("tokenize", asked)["tokens"]
    assert [vocabulary[number] for number in tokens] == ["[CLS]", "▁hello", "▁world", "▁,", "▁sky", "[SEP]"]
    assert wire.result("countTokens", asked) == {"tokenCount": 4}


def test_empty_texts_and_halves_of_emoji_have_vectors(wire: Wire) -> None:
    """A half stands for an unknown character, as everywhere."""
    for text in ("", HALF, f"hello {HALF} world"):
        assert len(embedding(wire, text)) == WIDTH
    assert embedding(wire, f"hello {HALF}") == pytest.approx(embedding(wire, "hello \ufffd"), abs=1e-5)


def test_a_text_may_be_as_long_as_the_context_and_no_longer(wire: Wire) -> None:
    """The limit is the context of the model, with the tokens that begin and end the text; nothing is cut off."""
    assert len(embedding(wire, "hello " * (CONTEXT_LENGTH - 2))) == WIDTH
    for words in (CONTEXT_LENGTH - 1, 10_000):
        parameter = {"modelSpecifier": query("encoder"), "inputString": "hello " * words}
        title = wire.call("embedString", parameter)["error"]["title"]
        assert title == f"llama.cpp: the input has {words + 2} tokens, more than the context of {CONTEXT_LENGTH}"
    assert len(embedding(wire, "hello")) == WIDTH


def test_several_at_once_are_those_one_after_another(wire: Wire, llama: background.Running, connect: Connect) -> None:
    """Of several connections, each with its own vectors."""
    texts = [f"{word} {number}" for number in range(10) for word in ("hello", "world", "sky", "blue")]
    expected = [embedding(wire, text) for text in texts]
    wires = [connect(llama, "/embedding") for _ in range(4)]

    def embed_all(wire: Wire) -> list[list[float]]:
        return [embedding(wire, text) for text in texts]

    with ThreadPoolExecutor() as threads:
        for vectors in threads.map(embed_all, wires):
            for vector, one in zip(vectors, expected, strict=True):
                assert vector == pytest.approx(one, abs=1e-5)


def test_the_load_config_is_that_of_embedding_models(wire: Wire, llama: background.Running, connect: Connect) -> None:
    """A context length of its own, and the model's own as the limit."""
    fields = [
        {"key": "embedding.load.contextLength", "value": 16},
        {"key": "embedding.load.llama.tryMmap", "value": False},
    ]
    stack = {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}
    wire.stream("loadModel", {"modelKey": "encoder", "identifier": "short", "loadConfigStack": stack})
    assert wire.result("getLoadConfig", {"specifier": query("short")}) == {"fields": fields}
    assert wire.result("getBasePredictionConfig", {"specifier": query("short")}) == {"fields": []}
    title = wire.call("embedString", {"modelSpecifier": query("short"), "inputString": "hello " * 15})["error"]["title"]
    assert title.endswith("17 tokens, more than the context of 16")
    wire.call("unloadModel", {"identifier": "short"})
    assert wire.result("getModelInfo", {"specifier": query("encoder"), "throwIfNotFound": True})["contextLength"] == 64


def test_an_embedding_model_is_not_in_llm(wire: Wire, llama: background.Running, connect: Connect) -> None:
    """Neither listed nor loaded there."""
    llm = connect(llama)
    assert "encoder" in [info["identifier"] for info in wire.result("listLoaded")]
    assert llm.result("listLoaded") == []
    (error,) = llm.stream("getOrLoad", load_parameter("encoder"))
    assert error["displayData"]["code"] == "generic.domainMismatch"


def test_its_process_is_its_own(llama: background.Running) -> None:
    """The official client loads it, and unloading ends the process."""
    with lmstudio.Client(f"127.0.0.1:{llama.port}") as client:
        before = children_of(os.getpid())
        model = client.embedding.load_new_instance("decoder", "mine")
        assert len(children_of(os.getpid())) == len(before) + 1
        assert len(model.embed("hello")) == 64
        model.unload()
        assert children_of(os.getpid()) == before
