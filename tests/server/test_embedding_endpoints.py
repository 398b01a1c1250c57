"""The namespace `/embedding`, with the built-in embedding model: loading, vectors, tokens, state."""

import math
from typing import Any

import pytest
from conftest import Connect, Packet, Wire, query

from lmcli.server.background import Running

EMPTY: Packet = {"layers": []}
HALF = "\ud83d"
"""The first half of a surrogate pair, as a JavaScript client sends it that splits an emoji."""


@pytest.fixture
def embedding(server: Running, connect: Connect) -> Wire:
    """A connection to the namespace, with the model loaded."""
    wire = connect(server, "/embedding")
    wire.stream("getOrLoad", {"identifier": "echo-embed", "loadConfigStack": EMPTY})
    return wire


def embed(wire: Wire, text: str, identifier: str = "echo-embed") -> list[float]:
    """The vector of a text."""
    vector: list[float] = wire.result("embedString", {"modelSpecifier": query(identifier), "inputString": text})[
        "embedding"
    ]
    return vector


def similarity(one: list[float], other: list[float]) -> float:
    """The cosine of the angle between vectors of the length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def load_stack(**values: Any) -> Packet:
    """A config stack of load values; a name stands for the key after `embedding.load.`."""
    fields = [{"key": f"embedding.load.{key}", "value": value} for key, value in values.items()]
    return {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}


def test_each_namespace_has_the_models_of_its_kind(embedding: Wire, server: Running, connect: Connect) -> None:
    """An embedding model is not listed in `/llm`, a language model not in `/embedding`; loading it there fails."""
    llm = connect(server)
    assert [info["identifier"] for info in embedding.result("listLoaded")] == ["echo-embed"]
    assert [info["identifier"] for info in llm.result("listLoaded")] == ["echo"]
    for wire, key, domains in (
        (embedding, "echo", ("llm", "embedding")),
        (llm, "echo-embed", ("embedding", "llm")),
    ):
        (error,) = wire.stream("getOrLoad", {"identifier": key, "loadConfigStack": EMPTY})
        assert error["displayData"] == {
            "code": "generic.domainMismatch",
            "path": key,
            "actualDomain": domains[0],
            "expectedDomain": domains[1],
        }
    missing = embedding.call("embedString", {"modelSpecifier": query("echo"), "inputString": "a"})
    assert missing["error"]["displayData"]["code"] == "generic.noModelMatchingQuery"


def test_vectors_are_of_length_one_and_compare_words(embedding: Wire) -> None:
    """The same text has the same vector; the more words two texts share, the more similar their vectors are."""
    sky = embed(embedding, "the sky is blue")
    assert sky == embed(embedding, "the sky is blue")
    assert math.hypot(*sky) == pytest.approx(1)
    assert similarity(sky, embed(embedding, "The sky\nis very BLUE")) > 0.8
    assert abs(similarity(sky, embed(embedding, "a completely different text"))) < 0.5


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(" \n", id="white space"),
        pytest.param(HALF, id="half an emoji"),
        pytest.param(f"a {HALF} b", id="half an emoji among words"),
        pytest.param("😀", id="emoji"),
        pytest.param(" word" * 2048, id="as long as the context"),
        pytest.param("x" * 100_000, id="a word of 100,000 letters"),
    ],
)
def test_every_text_has_a_vector(embedding: Wire, text: str) -> None:
    """An empty one, half an emoji, one that fills the context."""
    vector = embed(embedding, text)
    assert len(vector) == 64
    assert all(math.isfinite(number) for number in vector)


def test_a_text_longer_than_the_context_is_an_error(embedding: Wire) -> None:
    """It is not cut off."""
    asked = {"modelSpecifier": query("echo-embed"), "inputString": " word" * 2049}
    error = embedding.call("embedString", asked)["error"]
    assert error["title"] == "The input has 2049 tokens, more than the context of 2048"


def test_load_config_and_context(embedding: Wire) -> None:
    """A new instance has the context that was asked for, and says so."""
    config = load_stack(contextLength=100)
    packets = embedding.stream(
        "loadModel", {"modelKey": "echo-embed", "identifier": "short", "loadConfigStack": config}
    )
    assert [packet["type"] for packet in packets][-1] == "success"
    assert packets[-1]["info"]["contextLength"] == 100
    fields = embedding.result("getLoadConfig", {"specifier": query("short")})["fields"]
    assert fields == [{"key": "embedding.load.contextLength", "value": 100}]
    assert embedding.result("getBasePredictionConfig", {"specifier": query("short")}) == {"fields": []}
    info = embedding.result("getModelInfo", {"specifier": query("short"), "throwIfNotFound": True})
    assert (info["type"], info["identifier"], info["maxContextLength"]) == ("embedding", "short", 2048)
    refused = embedding.stream("loadModel", {"modelKey": "echo-embed", "loadConfigStack": load_stack(contextLength=0)})
    assert "contextLength must be a positive whole number" in refused[-1]["title"]
    embedding.call("unloadModel", {"identifier": "short"})
    assert [info["identifier"] for info in embedding.result("listLoaded")] == ["echo-embed"]


def test_tokens(embedding: Wire) -> None:
    """Counted and numbered as by the other built-in models."""
    asked = {"specifier": query("echo-embed"), "inputString": "the sky the sky"}
    tokens = embedding.result("tokenize", asked)["tokens"]
    assert tokens[1] == tokens[3]
    assert embedding.result("countTokens", asked) == {"tokenCount": len(tokens)}


def test_state_is_idle(embedding: Wire) -> None:
    """Between two requests."""
    embed(embedding, "a")
    asked = {"specifier": query("echo-embed"), "throwIfNotFound": True}
    assert embedding.result("getInstanceProcessingState", asked) == {"status": "idle", "queued": 0}


def test_no_predictions(embedding: Wire) -> None:
    """An embedding model cannot predict: there is no such endpoint, and a warning, as official servers send it."""
    embedding.open("predict", {})
    warning = embedding.receive()
    assert (warning["type"], warning["kind"]) == ("communicationWarning", "channelEndpointUnknown")
