"""A server of tiny models in this process, and what tests of llama.cpp ask of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from conftest import Connect, Packet, Wire, checked, query, stack
from local_servers import load
from tiny_model import Shape, make_model

from lmcli.server import background
from lmcli.server.llama.llama_engine import LlamaEngine

CONTEXT: Final = 256
RAW: Final = {"enabled": False, "startString": "<think>", "endString": "</think>"}
NO_END: Final = {"llama.logitBias": [[2, "-inf"]]}


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tiny models, with and without a template, and one with slow prompts."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "one": make_model(folder / "one.gguf"),
        "two": make_model(folder / "two.gguf", Shape(layers=1), seed=2, template=None),
        "slow": make_model(folder / "slow.gguf", Shape(layers=6, width=384, heads=6, context_length=8192)),
    }


@pytest.fixture(scope="module")
def tiny_server(tiny_files: dict[str, Path]) -> Iterator[background.Running]:
    """A server with the models, for all tests of a module."""
    with background.start(LlamaEngine(list(tiny_files.values()))) as running:
        yield running


@pytest.fixture
def tiny(tiny_server: background.Running, connect: Connect) -> Wire:
    """A connection to the server, with the model `one` loaded."""
    wire = connect(tiny_server)
    load(wire, "one")
    return wire


def options(**values: Any) -> Packet:
    """Deterministic prediction options, and those of a test."""
    return stack(**{"seed": checked(7), "maxPredictedTokens": checked(20), "reasoning.parsing": RAW} | values)


def complete(wire: Wire, text: str, config: Packet, identifier: str = "one") -> list[Packet]:
    """Continue a raw text."""
    parameter = {"modelSpecifier": query(identifier), "rawPrompt": text, "predictionConfigStack": config}
    return wire.stream("completeRawText", parameter)


def only(*texts: str) -> Packet:
    """A grammar that permits only these texts."""
    return {
        "type": "gbnf",
        "gbnfGrammar": "root ::= " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts),
    }


def nested(depth: int) -> Packet:
    """A schema of nested arrays."""
    schema: Packet = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema
