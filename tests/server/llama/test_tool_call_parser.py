"""Tool calls in generated text: every form, however the text is split."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK

from lmcli.server.llama.tool_call_parser import MARKS, ToolCallParser
from lmcli.values import ToolCallFailure, ToolCallFragment, ToolCallRequest

NAMES = frozenset({"add", "say hi"})
ARGUMENTS = {"a": 1, "text": 'x } ] " \\ </tool_call> é', "list": [{}, []]}
CALL = json.dumps({"name": "add", "arguments": ARGUMENTS})


def parsed(pieces: Iterable[str], **options: Any) -> list[Any]:
    """Parse pieces; adjacent texts and adjacent arguments are joined, identifiers left out."""
    parser = ToolCallParser(NAMES, **options)
    values: list[Any] = []
    for value in [*(value for piece in pieces for value in parser.feed(piece)), *parser.end()]:
        match value:
            case str() if values and isinstance(values[-1], str):
                values[-1] += value
            case ToolCallFragment(arguments=str(text)) if values and isinstance(values[-1], tuple):
                values[-1] = ("arguments", values[-1][1] + text) if values[-1][0] == "arguments" else values[-1]
                if values[-1][0] != "arguments":
                    values.append(("arguments", text))
            case ToolCallFragment(id=None, name=str(name)):
                values.append(("name", name))
            case ToolCallFragment(arguments=str(text)):
                values.append(("arguments", text))
            case ToolCallFragment():
                values.append(("start", ""))
            case ToolCallRequest(name, arguments):
                values.append(("call", name, arguments))
            case ToolCallFailure(message):
                values.append(("failure", message.removeprefix("Failed to parse tool call: ")))
            case _:
                values.append(value)
    return values


def called(name: str, arguments: Any) -> list[Any]:
    """What a call consists of."""
    return [("start", ""), ("name", name), ("arguments", json.dumps(arguments)), ("call", name, arguments)]


FORMS = [
    (f"<tool_call>{CALL}</tool_call>", called("add", ARGUMENTS)),
    (f"Well.\n<tool_call>\n{CALL}\n</tool_call>\nDone", ["Well.\n", *called("add", ARGUMENTS), "\nDone"]),
    (f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", [*called("add", ARGUMENTS), "\n"] * 2),
    (f"[TOOL_REQUEST]{CALL}[END_TOOL_REQUEST]", called("add", ARGUMENTS)),
    (f"[TOOL_CALLS][{CALL}, {CALL}]", called("add", ARGUMENTS) * 2),
    (f"[TOOL_CALLS]add[ARGS]{json.dumps(ARGUMENTS)}", called("add", ARGUMENTS)),
    (f" \n{CALL}", called("add", ARGUMENTS)),
    ('{"name": "say hi", "parameters": {}}', called("say hi", {})),
    ('<|python_tag|>{"name": "say hi", "parameters": {}}', called("say hi", {})),
    ('<tool_call>{"name": "say hi"}</tool_call>', called("say hi", {})),
    ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', called("add", {"a": 1})),
    ('<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>', called("add", {"a": 1})),
    ('{"name": "Bob", "age": 3}', ['{"name": "Bob", "age": 3}']),
    ('{"na', ['{"na']),
    ("a < b <tool", ["a < b <tool"]),
    ("plain [TOOL", ["plain [TOOL"]),
    ("", []),
]


@pytest.mark.parametrize(("text", "expected"), FORMS)
def test_forms(text: str, expected: list[Any]) -> None:
    """Text and calls are told apart, whole and character by character."""
    expected = expected[:-1] if text.endswith("</tool_call>") and expected[-1] == "\n" else expected
    assert parsed([text]) == expected
    assert parsed(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<tool_call>nothing</tool_call>", "it is not a JSON object"),
        ("[TOOL_CALLS]", "it is not a JSON object"),
        ('<tool_call>{"name": "add", "argum', "it is not complete"),
        ('<tool_call>{"name": "remove", "arguments": {}}</tool_call>', "there is no tool 'remove'"),
        (
            '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
            "it is not a JSON object with a name and arguments",
        ),
        ("<tool_call>{name: add}</tool_call>", "it is not a JSON object with a name and arguments"),
    ],
)
def test_calls_that_are_not_valid(text: str, problem: str) -> None:
    """They begin, and fail."""
    for values in (parsed([text]), parsed(text)):
        assert values[0] == ("start", "")
        assert values[-1] == ("failure", problem)


def test_object_that_is_no_call() -> None:
    """Where a schema is asked for, the answer is an object that belongs to the user."""
    assert parsed([CALL], is_object_a_call=False) == [CALL]


@QUICK
@given(st.lists(st.sampled_from([*MARKS, CALL, "{", "}", '"', "x", " ", "add", "\n"]), max_size=12), st.data())
def test_any_split(parts: list[str], data: st.DataObject) -> None:
    """The result does not depend on how the text is split."""
    text = "".join(parts)
    cut = data.draw(st.integers(0, len(text)))
    assert parsed([text]) == parsed([text[:cut], text[cut:]]) == parsed(text)
