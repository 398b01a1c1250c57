"""How often a property is tried, and what its tests draw from: JSON of any shape, or almost right, conversations."""

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from lmcli.chat import FILE_TYPES, FilePart, Message, Part, TextPart, ToolCallResult
from lmcli.values import JsonObject, ToolCallRequest

_THOROUGHNESS = int(os.environ.get("LMCLI_EXAMPLES", "1"))
_IS_GATE = "LMCLI_GATE" in os.environ


def examples(count: int, *unchecked: HealthCheck) -> settings:
    """Try a property with so many examples: others in each run, but in the gate, which is to be repeatable, the same.

    `LMCLI_EXAMPLES=15` in the environment stands for 15 times as many.
    """
    return settings(
        max_examples=count * _THOROUGHNESS, deadline=None, suppress_health_check=unchecked, derandomize=_IS_GATE
    )


QUICK = examples(60)
"""Enough to find what is findable in a suite that is run often."""

_numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | _numbers | st.text(max_size=6)
any_json = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(st.text(max_size=6), any_json, max_size=3)
_halves = st.sampled_from("\ud83d\ude00a").map(str)  # mapped, so that they are not drawn as rarely as any character
texts_with_halves = st.lists(st.characters() | _halves, max_size=12).map("".join)
"""Text as JavaScript has it, where half an emoji may stand alone."""


@st.composite
def garbled(draw: st.DrawFn, value: Any) -> Any:
    """A copy of a JSON value in which something was replaced, left out or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        return value | {key: draw(garbled(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], draw(garbled(value[index])), *value[index + 1 :]]
    if isinstance(value, dict) and value and draw(st.booleans()):
        gone = draw(st.sampled_from(sorted(value)))
        return {key: item for key, item in value.items() if key != gone} | draw(json_objects)
    return draw(any_json)


_short = st.text(max_size=6)
_texts = st.builds(TextPart, _short)
_files = st.builds(FilePart, _short, _short, st.integers(0, 2**40), st.sampled_from(FILE_TYPES))
_calls = st.builds(ToolCallRequest, _short, st.none() | json_objects, st.none() | _short)
_results = st.builds(ToolCallResult, _short, st.none() | _short, st.none() | _short)


def _message(role: str, part: st.SearchStrategy[Part]) -> st.SearchStrategy[Message]:
    return st.builds(Message, st.just(role), st.lists(part, min_size=1, max_size=3).map(tuple))


messages = st.one_of(
    _message("system", _texts | _files),
    _message("user", _texts | _files),
    _message("assistant", _texts | _files | _calls),
    _message("tool", _results),
)
conversations = st.lists(messages, max_size=5)


def nested(depth: int, leaf: Any = None) -> Any:
    """An array in an array, `depth` times: deeper than Python shows, not deeper than JSON may be."""
    for _ in range(depth):
        leaf = [leaf]
    return leaf


def fields_of(stack: JsonObject, layer: int = 0) -> JsonObject:
    """The keys and values in a layer of a config stack, read by hand."""
    return {field["key"]: field["value"] for field in stack["layers"][layer]["config"]["fields"]}
