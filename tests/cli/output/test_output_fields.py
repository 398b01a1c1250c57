"""The fields of `-o json`, `-o jsonl` and `-o history` that lm-respond(1) describes are those that a run prints."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import pytest
from conftest import StartServer
from processes import environment, run
from shells import ROOT

from lmcli.values import Stats

PAGE: Final = (ROOT / "man" / "prose" / "lm-respond.mdoc").read_text(encoding="utf-8")
TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "string or null": (str, type(None)),
    "whole number": (int,),
    "whole number or null": (int, type(None)),
    "number or null": (int, float, type(None)),
    "object": (dict,),
    "array": (list,),
    "object or null": (dict, type(None)),
    "any value or null": (object,),
    "true": (bool,),
}


CALLS: Final = {"tool_calls", "tool_call_failures"}
CALLING: Final = """--set tools='[{"type": "function", "function": {"name": "f"}}]' 'call f
call f {'"""


def section(title: str) -> str:
    """A part of the page's OUTPUT."""
    return re.split(r"\n\.S[sh] ", PAGE.partition(f"\n.Ss {title}\n")[2])[0]


def fields(title: str) -> dict[str, str]:
    """The fields that a part describes, each with its type."""
    return dict(re.findall(r"^\.It Cm (\w+)\n([\w ]+):", section(title), re.MULTILINE))


def check(value: dict[str, Any], title: str, *, without: Collection[str] = ()) -> None:
    """Every field is there, those apart that need not be, no other, and each has its type."""
    described = fields(title)
    assert value.keys() == described.keys() - set(without)
    for name, found in value.items():
        assert isinstance(found, TYPES[described[name]]), name


@pytest.fixture
def json_of(tmp_path: Path, start_server: StartServer) -> Any:
    """What a command line prints, as JSON values, one a line."""
    variables = environment(tmp_path, start_server().port)
    return lambda line: [json.loads(text) for text in run(line, tmp_path, variables).stdout.splitlines()]


def test_result(json_of: Any) -> None:
    """A result has the fields described, an error only where something went wrong."""
    (whole,) = json_of("lm respond -o json '<think>well</think>hi'")
    check(whole, "Result", without={"error", "tokens", *CALLS})
    check(whole["model"], "Model")
    (cut,) = json_of("lm respond -o json --logprobs 1 --preset short 1 2 3 4 5 6 7 8 9")
    check(cut, "Result", without=CALLS)
    check(cut["error"], "Error")
    for token in cut["tokens"]:
        check(token, "Token")
        check(token["candidates"][0], "Token", without={"candidates"})
    (called,) = json_of(f"lm respond -o json {CALLING}")
    check(called, "Result", without={"error", "tokens"})
    check(called["tool_calls"][0], "Tool calls")
    check(called["tool_call_failures"][0], "Tool call failures")
    (formed,) = json_of('lm respond -o json --schema \'{"type": "object"}\' hi')
    assert formed["parsed"] == {}


def test_statistics(json_of: Any) -> None:
    """The seven that are always there come first; all that a server may send are described."""
    (result,) = json_of("lm respond -o json hi")
    described = list(fields("Statistics"))
    assert list(result["stats"]) == [*described[:7], "cached_prompt_tokens_count"]
    check(result["stats"], "Statistics", without={"stop_string", *described[9:]})
    (stopped,) = json_of("lm respond -o json --stop two one two three")
    check(stopped["stats"], "Statistics", without=set(described[9:]))
    assert set(described) == set(Stats.__annotations__) - {"num_gpu_layers"}


def test_events(json_of: Any) -> None:
    """Each kind of line has the fields described."""
    text = section("Events")
    kinds = re.findall(r"^\.It Cm (\w+)\n(.*?)(?=^\.It|\Z)", text, re.MULTILINE | re.DOTALL)
    described = {kind: set(re.findall(r"^\.Cm (\w+)", rest, re.MULTILINE)) for kind, rest in kinds}
    result = fields("Result").keys() - {"error", *CALLS}
    described["result"] |= result
    described["error"] |= result
    events = json_of("lm respond -o jsonl --logprobs 1 -m echo-jit '<think>well</think> hi'")
    events += json_of("lm complete -o jsonl --logprobs 1 --preset short 1 2 3 4 5 6 7 8 9")
    events += [e for e in json_of(f"lm respond -o jsonl --logprobs 1 {CALLING}") if e["type"] != "result"]
    assert {event["type"] for event in events} == described.keys()
    for event in events:
        if event["type"] == "prompt_processing_progress":
            check(event["details"], "Details")
        is_part = event.get("reasoning_type", "none") != "none"  # of a token, whose first text is in another fragment
        assert event.keys() | ({"tokens"} if is_part else set()) == described[event["type"]] | {"type"}
    assert {e["reasoning_type"] for e in events if e["type"] == "fragment"} == set(
        re.findall(r"\.Ql (none|reas\w+)", text)
    )


def test_history(json_of: Any) -> None:
    """The message of an answer has the fields described."""
    (history,) = json_of("lm respond -o history '<think>well</think>hi'")
    check(history["messages"][-1], "History", without={"partial", "tool_calls"})
    (cut,) = json_of("lm respond -o history --preset short 1 2 3 4 5 6 7 8 9")
    check(cut["messages"][-1], "History", without={"reasoning", "tool_calls"})
    (called,) = json_of(f"lm respond -o history {CALLING}")
    check(called["messages"][-1], "History", without={"reasoning", "partial"})
    (call,) = called["messages"][-1]["tool_calls"]
    assert [*call, *call["function"]] == re.findall(r"\b(id|type|function|name|arguments)\b", section("History"))
