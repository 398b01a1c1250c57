"""Prompts for llama.cpp: a conversation formatted by the model's template, or a raw text."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from lmcli.chat import FilePart, Message, ToolCallResult
from lmcli.server.engine import PredictionRequest
from lmcli.server.llama.engine_errors import unsupported_by_engine
from lmcli.server.llama.engine_messages import without_surrogates
from lmcli.server.llama.engine_process import EngineProcess
from lmcli.server.llama.jinja_templates import render
from lmcli.server.llama.offered_tools import as_plain_messages, is_call_required, offered_tools
from lmcli.server.text_processing import reasoning_tags
from lmcli.values import JsonObject, ToolCallRequest
from lmcli.wire.config import PROMPT_TEMPLATE_KEY
from lmcli.wire.prediction_config import PREDICTION_PREFIX

SYSTEM_PROMPT_KEY: Final = PREDICTION_PREFIX + "systemPrompt"
THINKING_KEY: Final = PREDICTION_PREFIX + "reasoning.enableThinking"


# Applies a template to messages and tools.
Template = Callable[[Sequence[JsonObject], Sequence[JsonObject]], Awaitable[str]]

_ANY_MESSAGES: Final[Sequence[JsonObject]] = ({"role": "user", "content": "a"},)
_ANY_TOOL: Final[Sequence[JsonObject]] = (
    {"type": "function", "function": {"name": "a", "description": "a", "parameters": {"type": "object"}}},
)


class Prompt(NamedTuple):
    """A text for the model to continue.

    Attributes:
        text: the text.
        is_reasoning: whether the template ended it with the start tag of reasoning.
    """

    text: str
    is_reasoning: bool = False


async def make_prompt(process: EngineProcess, request: PredictionRequest) -> Prompt:
    """Make the prompt for a request.

    Raises:
        RequestFailed: a message contains an image, or another unsupported file.
        EngineError: the template cannot be applied.
    """
    if request.raw_prompt is not None:
        return Prompt(request.raw_prompt)
    text = await apply_template(process, request.messages, request.values)
    tags = reasoning_tags(request.options)
    if tags is None or not text.rstrip().endswith(tags.start):
        return Prompt(text)
    if _is_reasoning_disabled(request):
        return Prompt(f"{text.rstrip()}\n\n{tags.end}\n\n")
    return Prompt(text, is_reasoning=True)


async def apply_template(process: EngineProcess, messages: Sequence[Message], values: Mapping[str, Any]) -> str:
    """Format a conversation, with the template of the config or else the model's own.

    Raises:
        RequestFailed: a message contains an image, or another unsupported file.
        EngineError: the template cannot be applied.
    """
    entries: Sequence[JsonObject] = [entry for message in messages for entry in _entries(message)]
    system = values.get(SYSTEM_PROMPT_KEY)
    if isinstance(system, str) and system and not any(entry["role"] == "system" for entry in entries):
        entries = [{"role": "system", "content": system}, *entries]
    tools = offered_tools(values)
    apply = _template(process, values)
    if (tools or any(map(_is_of_tool, entries))) and not await _takes_tools(apply, tools or _ANY_TOOL):
        entries, tools = as_plain_messages(entries, tools), ()
    return await apply(entries, tools)


def _template(process: EngineProcess, values: Mapping[str, Any]) -> Template:
    """The template of the config, or else the model's own."""
    arguments = _template_arguments(values)
    match values.get(PROMPT_TEMPLATE_KEY):
        case {"type": "manual", "manualPromptTemplate": Mapping() as affixes}:
            return partial(_apply_affixes, affixes)
        case {"type": "jinja", "jinjaPromptTemplate": {"template": str(template)}}:
            variables = {"bos_token": process.bos, "eos_token": process.eos, "add_generation_prompt": True}
            return partial(_apply_jinja, process, template, variables | arguments)

    async def apply(entries: Sequence[JsonObject], tools: Sequence[JsonObject]) -> str:
        return await process.apply_template(entries, arguments, tools)

    return apply


async def _apply_affixes(affixes: Mapping[str, Any], entries: Sequence[JsonObject], _: Sequence[JsonObject]) -> str:
    text = "".join(_with_affixes(entry, affixes) for entry in entries)
    return str(without_surrogates(text + str(affixes.get("beforeAssistant", ""))))


async def _apply_jinja(
    process: EngineProcess,
    template: str,
    variables: JsonObject,
    entries: Sequence[JsonObject],
    tools: Sequence[JsonObject],
) -> str:
    messages = [_with_parsed_arguments(entry) for entry in entries]
    variables = {**variables, "messages": messages, "tools": list(tools) or None}
    async with process.templates:
        return await render(template, without_surrogates(variables))


def _with_parsed_arguments(entry: JsonObject) -> JsonObject:
    """A message whose tool calls have objects as arguments, as templates expect them."""
    if "tool_calls" not in entry:
        return entry
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in entry["tool_calls"]
    ]
    return {**entry, "tool_calls": calls}


async def _takes_tools(apply: Template, tools: Sequence[JsonObject]) -> bool:
    """Whether a template shows the tools to the model; many take no notice of them."""
    return await apply(_ANY_MESSAGES, tools) != await apply(_ANY_MESSAGES, ())


def _is_of_tool(entry: JsonObject) -> bool:
    return entry["role"] == "tool" or "tool_calls" in entry


def _is_structured(values: Mapping[str, Any]) -> bool:
    """Whether the output is constrained by a schema or a grammar, or has to be a tool call."""
    if is_call_required(values):
        return True
    structured = values.get(PREDICTION_PREFIX + "structured")
    return isinstance(structured, Mapping) and structured.get("type", "none") != "none"


def _is_reasoning_disabled(request: PredictionRequest) -> bool:
    options = request.options
    return _is_structured(request.values) or options.enable_thinking is False or options.reasoning_budget == 0


def _template_arguments(values: Mapping[str, Any]) -> JsonObject:
    """The template's arguments; structured output permits no reasoning before it."""
    thinking = values.get(THINKING_KEY)
    if thinking is None and _is_structured(values):
        thinking = False
    return {} if thinking is None else {"enable_thinking": bool(thinking)}


def _entries(message: Message) -> Sequence[JsonObject]:
    """A message in the format of OpenAI, in which each tool result is a message of its own."""
    for part in message.content:
        if isinstance(part, FilePart):
            what = "images: the model has no vision part" if part.file_type == "image" else f"files ({part.file_type})"
            raise unsupported_by_engine(what)
    results = [part for part in message.content if isinstance(part, ToolCallResult)]
    if results:
        return [{"role": "tool", "content": part.content, "tool_call_id": part.tool_call_id or ""} for part in results]
    entry: JsonObject = {"role": message.role, "content": message.text}
    calls = [_tool_call(part) for part in message.content if isinstance(part, ToolCallRequest)]
    return [entry | {"tool_calls": calls}] if calls else [entry]


def _tool_call(part: ToolCallRequest) -> JsonObject:
    function = {"name": part.name, "arguments": json.dumps(part.arguments or {})}
    return {"type": "function", "id": part.id or "", "function": function}


def _with_affixes(entry: JsonObject, affixes: Mapping[str, Any]) -> str:
    role = "User" if entry["role"] == "tool" else entry["role"].capitalize()
    return f"{affixes.get(f'before{role}', '')}{entry['content']}{affixes.get(f'after{role}', '')}"
