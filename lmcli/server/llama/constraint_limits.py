"""The limits of JSON schemas and grammars, which llama.cpp expands and parses recursively.

Pure.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from lmcli.values import JsonObject

# The limits of schemas and grammars. llama.cpp expands repetitions and parses recursively: without limits, one request
# could exhaust the memory or overflow the stack.
MAX_CHARACTERS: Final = 100_000
MAX_NESTED_SCHEMAS: Final = 100
MAX_NESTED_PARENTHESES: Final = 500
MAX_REPETITIONS: Final = 2_000
# The sum of all repetitions in a grammar or a pattern times its length, which bounds the expanded length.
MAX_EXPANDED_CHARACTERS: Final = 20_000_000
_REPETITION_KEYWORDS: Final = frozenset(
    {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains", "maxContains"}
)
# Every part is optional, so that the search takes linear time.
_REPETITION: Final = re.compile(r"\{\s*(\d{0,9})[\s,]*(\d{0,9})")


def exceeded_limits(body: JsonObject) -> Iterator[str]:
    """The limits that a request exceeds, as an object of "does not support"."""
    if "json_schema" in body:
        yield from _limits_exceeded_by_schema(body["json_schema"])
    if "grammar" in body:
        yield from _limits_exceeded_by_text("grammar", body["grammar"])


def _limits_exceeded_by_schema(schema: Any) -> Iterator[str]:
    characters = 0
    for depth, key, value in _walk(schema):
        characters += len(key) + (len(value) if isinstance(value, str) else 1)
        if depth > MAX_NESTED_SCHEMAS:
            yield f"a JSON schema that is nested deeper than {MAX_NESTED_SCHEMAS}"
            return
        if characters > MAX_CHARACTERS:
            yield f"a JSON schema of more than {MAX_CHARACTERS} characters"
            return
        if key in _REPETITION_KEYWORDS and isinstance(value, int | float) and value > MAX_REPETITIONS:
            yield f"a {key} above {MAX_REPETITIONS} in a JSON schema"
        if key == "pattern" and isinstance(value, str):
            yield from _limits_exceeded_by_text("pattern", value)


def _walk(value: Any) -> Iterator[tuple[int, str, Any]]:
    """All values inside a JSON value with their depths and their keys, which are empty for the items of arrays.

    A loop, because a recursive function would overflow the stack on the values that the limits are for.
    """
    pending: list[tuple[int, str, Any]] = [(0, "", value)]
    while pending:
        depth, key, found = pending.pop()
        yield depth, key, found
        if isinstance(found, Mapping):
            pending.extend((depth + 1, name, inner) for name, inner in found.items())
        elif isinstance(found, list):
            pending.extend((depth + 1, "", inner) for inner in found)


def _limits_exceeded_by_text(kind: str, text: str) -> Iterator[str]:
    counts = [int(count or 0) for pair in _REPETITION.findall(text) for count in pair]
    if len(text) > MAX_CHARACTERS:
        yield f"a {kind} of more than {MAX_CHARACTERS} characters"
    elif max(counts, default=0) > MAX_REPETITIONS:
        yield f"more than {MAX_REPETITIONS} repetitions in a {kind}"
    elif sum(counts) * len(text) > MAX_EXPANDED_CHARACTERS:
        yield f"this number of repetitions in a {kind} of this length"
    elif _nesting(text) > MAX_NESTED_PARENTHESES:
        yield f"a {kind} with more than {MAX_NESTED_PARENTHESES} nested parentheses"


def _nesting(text: str) -> int:
    """The depth of parentheses, including those in quotes, so that quotes need not be parsed as llama.cpp does."""
    deepest = depth = 0
    for parenthesis in re.findall(r"[()]", text):
        depth = depth + 1 if parenthesis == "(" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest
