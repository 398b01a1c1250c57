"""The tools that a request offers, as a template without tools shows them to the model, and how a call is forced.

Pure.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lmcli.server.request_errors import RequestFailed
from lmcli.values import JsonObject
from lmcli.wire.prediction_config import OPTIONS

TOOLS_KEY: Final = OPTIONS["raw_tools"].key
TOOL_CHOICE_KEY: Final = OPTIONS["tool_choice"].key

_INSTRUCTIONS: Final = """\
You can call tools. To call one, write its name and its arguments as a JSON object between two marks, and nothing after
it:
[TOOL_REQUEST]{{"name": "name_of_the_tool", "arguments": {{"argument": "value"}}}}[END_TOOL_REQUEST]
The result follows in the next message. Call no tool if none is needed. The tools are:
{tools}"""


def offered_tools(values: Mapping[str, Any]) -> Sequence[JsonObject]:
    """The tools, in the form of OpenAI; none if the choice is not to call any.

    Raises:
        RequestFailed: a call is required, and no tool is offered.
    """
    tools: Sequence[JsonObject] = ()
    match values.get(TOOLS_KEY):
        case {"type": "toolArray", "tools": list(entries)} if _mode(values) != "none":
            tools = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("function"), dict)]
    if not tools and is_call_required(values):
        raise RequestFailed("A tool call is required, but the request offers no tools")
    return tools


def is_call_required(values: Mapping[str, Any]) -> bool:
    """Whether the answer has to be a tool call."""
    return bool(_mode(values) == "required")


def _mode(values: Mapping[str, Any]) -> Any:
    choice = values.get(TOOL_CHOICE_KEY)
    return choice.get("mode") if isinstance(choice, Mapping) else None


def names_of(tools: Sequence[JsonObject]) -> frozenset[str]:
    """The names of tools."""
    return frozenset(str(tool["function"].get("name")) for tool in tools)


def call_schema(tools: Sequence[JsonObject]) -> JsonObject:
    """The JSON schema of a call of one of the tools."""
    definitions = {}
    calls = []
    for number, tool in enumerate(tools):
        place = f"tool{number}"
        parameters = tool["function"].get("parameters", {"type": "object", "additionalProperties": False})
        definitions[place] = _moved(parameters, f"#/$defs/{place}")
        properties = {"name": {"const": tool["function"].get("name")}, "arguments": {"$ref": f"#/$defs/{place}"}}
        calls.append({"type": "object", "properties": properties, "required": ["name", "arguments"]})
    return {"anyOf": calls, "$defs": definitions}


def _moved(schema: Any, place: str) -> Any:
    """A schema at another place of a document: its references are to that place."""
    match schema:
        case dict():
            return {
                key: place + value[1:]
                if key == "$ref" and isinstance(value, str) and value.startswith("#")
                else _moved(value, place)
                for key, value in schema.items()
            }
        case list():
            return [_moved(inner, place) for inner in schema]
    return schema


def as_plain_messages(entries: Sequence[JsonObject], tools: Sequence[JsonObject]) -> Sequence[JsonObject]:
    """Messages for a template that takes no tools: tools, calls and results are texts, as LM Studio writes them."""
    plain = [_plain(entry) for entry in entries]
    if not tools:
        return plain
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    instructions = _INSTRUCTIONS.format(tools=listed)
    if plain and plain[0]["role"] == "system":
        first = {"role": "system", "content": f"{plain[0]['content']}\n\n{instructions}"}
        return [first, *plain[1:]]
    return [{"role": "system", "content": instructions}, *plain]


def _plain(entry: JsonObject) -> JsonObject:
    if entry["role"] == "tool":
        return {"role": "user", "content": f"[TOOL_RESULT]{entry['content']}[END_TOOL_RESULT]"}
    if "tool_calls" not in entry:
        return entry
    calls = (call["function"] for call in entry["tool_calls"])
    written = (f'{{"name": {json.dumps(call["name"])}, "arguments": {call["arguments"]}}}' for call in calls)
    texts = (entry["content"], *(f"[TOOL_REQUEST]{text}[END_TOOL_REQUEST]" for text in written))
    return {"role": entry["role"], "content": "\n".join(filter(None, texts))}
