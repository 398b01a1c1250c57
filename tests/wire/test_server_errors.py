"""What a server's error object says."""

from typing import Any

import pytest
from hypothesis import given
from properties import QUICK, any_json, garbled, nested

from lmcli.errors import (
    ExitCode,
    LmError,
    LoadFailed,
    ModelNotFound,
    ModelUnloaded,
    NoModelLoaded,
    PredictionFailed,
    PresetNotFound,
    Unavailable,
)
from lmcli.wire.server_errors import failure

KNOWN: dict[str, tuple[dict[str, Any], type[LmError], str, tuple[str, ...]]] = {
    "specificModelUnloaded": (
        {},
        ModelUnloaded,
        "the model was unloaded",
        (),
    ),
    "noModelMatchingQuery": (
        {
            "query": {"domain": "llm", "identifier": "nope"},
            "loadedModelsSample": ["acme/tiny-1b"],
            "totalLoadedModels": 1,
        },
        ModelNotFound,
        "no loaded model is called 'nope'",
        ("loaded: acme/tiny-1b",),
    ),
    "noModelMatchingQuery by path": (
        {"query": {"path": "a/b"}, "loadedModelsSample": ["x", "y"], "totalLoadedModels": 12},
        ModelNotFound,
        "no loaded model is called 'a/b'",
        ("loaded: x, y and 10 more",),
    ),
    "noModelMatchingQuery of any": (
        {"query": {}, "loadedModelsSample": [], "totalLoadedModels": 0},
        NoModelLoaded,
        "no model is loaded",
        (),
    ),
    "noModelMatchingQuery with vision": (
        {"query": {"vision": True}, "loadedModelsSample": ["x"], "totalLoadedModels": 1},
        ModelNotFound,
        "no loaded model",
        ("loaded: x",),
    ),
    "pathNotFound": (
        {"path": "no-such", "availablePathsSample": ["a", "b"], "totalModels": 2},
        ModelNotFound,
        "no model 'no-such'",
        ("there are: a, b",),
    ),
    "pathNotFound without models": (
        {"path": "no-such", "availablePathsSample": [], "totalModels": 0},
        ModelNotFound,
        "no model 'no-such'",
        ("there are: none",),
    ),
    "identifierNotFound": (
        {"identifier": "nope", "loadedModelsSample": ["a"], "totalLoadedModels": 3},
        ModelNotFound,
        "no loaded model is called 'nope'",
        ("loaded: a and 2 more",),
    ),
    "domainMismatch": (
        {"path": "embedder", "actualDomain": "embedding", "expectedDomain": "llm"},
        ModelNotFound,
        "model 'embedder' is of the kind 'embedding', not 'llm'",
        (),
    ),
    "engineDoesNotSupportFeature": (
        {
            "feature": "speculative decoding",
            "engineName": "mlx",
            "engineType": "mlx",
            "installedVersion": "1.0",
            "supportedVersion": "1.2.3",
        },
        PredictionFailed,
        "the engine mlx does not support speculative decoding",
        ("it came with version 1.2.3",),
    ),
    "engineDoesNotSupportFeature ever": (
        {"feature": "vision", "engineName": "old", "supportedVersion": None},
        PredictionFailed,
        "the engine old does not support vision",
        (),
    ),
    "missingRuntimeExtension": (
        {},
        Unavailable,
        "the server has no engine for this model",
        ("install a runtime in LM Studio: lms runtime get",),
    ),
    "presetNotFound": (
        {
            "specifiedFuzzyPresetIdentifier": "nope",
            "availablePresetsSample": [{"identifier": "p", "name": "Polite"}, {"identifier": "q", "name": "Quick"}],
            "totalAvailablePresets": 2,
        },
        PresetNotFound,
        "no preset 'nope'",
        ("there are: Polite, Quick",),
    ),
}


def serialized(name: str) -> dict[str, Any]:
    """An error object with a code that is known."""
    display = {"code": f"generic.{name.split(maxsplit=1)[0]}", **KNOWN[name][0]}
    return {"title": "Server's title", "rootTitle": "Server's title", "displayData": display}


@pytest.mark.parametrize("name", KNOWN)
def test_known_codes(name: str) -> None:
    """Each code of the protocol becomes a class, a sentence of ours and something to do."""
    _, kind, message, hints = KNOWN[name]
    error = failure(serialized(name), LoadFailed)
    assert (type(error), error.message, error.hints) == (kind, message, hints)


def test_every_code_is_written_out_here() -> None:
    """The eight codes of the protocol."""
    assert {name.split()[0] for name in KNOWN} == {
        "specificModelUnloaded",
        "noModelMatchingQuery",
        "pathNotFound",
        "identifierNotFound",
        "domainMismatch",
        "engineDoesNotSupportFeature",
        "missingRuntimeExtension",
        "presetNotFound",
    }


@pytest.mark.parametrize(
    ("body", "message", "hints"),
    [
        ({"title": "It broke."}, "It broke", ()),
        ({"title": "It broke", "cause": "out of memory."}, "It broke: out of memory", ()),
        ({"title": "It broke: out of memory", "cause": "out of memory"}, "It broke: out of memory", ()),
        ({"rootTitle": "It broke"}, "It broke", ()),
        ({"title": 5, "rootTitle": "It broke", "cause": [], "suggestion": {}}, "It broke", ()),
        ({"title": " \n", "cause": "why"}, "the server gave no reason: why", ()),
        (
            {"title": "It broke", "suggestion": "Try a smaller context length."},
            "It broke",
            ("Try a smaller context length",),
        ),
        ({"title": "It broke", "displayData": {"code": "generic.fromTheFuture"}}, "It broke", ()),
        ({"title": "It broke", "displayData": "text"}, "It broke", ()),
        ({"title": "\x1b[2J\nIt broke"}, r"\x1b[2J\nIt broke", ()),
        ({}, "the server gave no reason", ()),
        (None, "the server gave no reason", ()),
        ("text", "the server gave no reason", ()),
        ([], "the server gave no reason", ()),
    ],
)
def test_other_errors(body: Any, message: str, hints: tuple[str, ...]) -> None:
    """Without a code that is known, the server's own words are the message; wrongly typed ones count as missing."""
    error = failure(body)
    assert (type(error), error.message, error.hints) == (PredictionFailed, message, hints)


@pytest.mark.parametrize("kind", [PredictionFailed, LoadFailed])
def test_the_caller_says_what_failed(kind: type[LmError]) -> None:
    """An error that tells nothing else is a failure of what was asked for."""
    assert type(failure({"title": "It broke"}, kind)) is kind


@pytest.mark.parametrize(
    "body",
    [
        {"title": "Model is unloaded."},
        {"title": "Model unloaded by user"},
        {"title": "It broke", "cause": "the model is NOT LOADED"},
        {"title": "The model has crashed without additional information. (Exit code: 6)"},
    ],
)
def test_signs_of_an_unloaded_model(body: Any) -> None:
    """Real servers say in words that a model was unloaded in the middle: the answer is incomplete."""
    error = failure(body)
    assert isinstance(error, ModelUnloaded)
    assert error.exit_code == ExitCode.INCOMPLETE


@pytest.mark.parametrize("name", KNOWN)
def test_control_characters_do_not_get_through(name: str) -> None:
    """No value of an error object drives the terminal."""

    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item if key == "code" else poisoned(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poisoned(item) for item in value]
        return f"\x1b[2J{value}\n" if isinstance(value, str) else value

    error = failure(poisoned(serialized(name)))
    for text in (error.message, *error.hints):
        assert text.isprintable()


@pytest.mark.parametrize(
    "garbage", [None, 5, [], {}, "text", nested(2000)], ids=["null", "5", "[]", "{}", "text", "deep"]
)
def test_a_known_code_with_garbage_around_it(garbage: Any) -> None:
    """A code whose details are missing or of another type still becomes its class."""
    for name, (keys, _, _, _) in KNOWN.items():
        details = dict.fromkeys(keys, garbage)
        body = {"displayData": {"code": f"generic.{name.split(maxsplit=1)[0]}", **details}}
        same_code = [kind for other, (_, kind, _, _) in KNOWN.items() if other.split()[0] == name.split(maxsplit=1)[0]]
        assert type(failure(body)) in same_code, name
    assert isinstance(failure({"displayData": {"code": garbage}, "title": garbage}), PredictionFailed)


@QUICK
@given(any_json | garbled({"title": "t", "cause": "c", "suggestion": "s", "displayData": {"code": "x"}}))
def test_garbage_is_a_failure(body: Any) -> None:
    """Whatever stands where an error object is expected, it is reported and nothing raises."""
    error = failure(body)
    assert isinstance(error, LmError)
    assert error.message


def test_a_long_text_is_cut() -> None:
    """A message is read by people: of a text without end it has the beginning."""
    error = failure({"title": "x" * 100_000, "suggestion": "y" * 100_000})
    assert error.message == "x" * 500 + "…"
    assert error.hints == ("y" * 500 + "…",)
