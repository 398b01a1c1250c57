"""What llama.cpp gets to read: a conversation through the model's template, or a text as it is."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from lmcli.chat import FilePart, Message, ToolCallRequest, ToolCallResult
from lmcli.server.engine import PredictionRequest
from lmcli.server.failures import unsupported
from lmcli.server.llama.runtime import NAME, VERSION, Runtime, scrubbed
from lmcli.server.text_stream import reasoning_tags
from lmcli.values import JsonObject
from lmcli.wire.config import PREDICTION_PREFIX, PROMPT_TEMPLATE_KEY

SYSTEM_PROMPT_KEY: Final = PREDICTION_PREFIX + "systemPrompt"
THINKING_KEY: Final = PREDICTION_PREFIX + "reasoning.enableThinking"


class Prompt(NamedTuple):
    """A text to be continued.

    Attributes:
        text: what the model reads.
        is_thinking: whether it ends in the middle of reasoning that the template began.
    """

    text: str
    is_thinking: bool = False


def write_prompt(runtime: Runtime, request: PredictionRequest) -> Prompt:
    """Put together what the model is to read.

    Raises:
        Refused: there is an image, or another file that cannot be read.
        EngineFailure: the template cannot be applied.
    """
    if request.raw_prompt is not None:
        return Prompt(request.raw_prompt)
    text = format_messages(runtime, request.messages, request.values)
    tags = reasoning_tags(request.options)
    if tags is None or not text.rstrip().endswith(tags.start):
        return Prompt(text)
    if _must_not_think(request):
        return Prompt(f"{text.rstrip()}\n\n{tags.end}\n\n")
    return Prompt(text, is_thinking=True)


def format_messages(runtime: Runtime, messages: Sequence[Message], values: Mapping[str, Any]) -> str:
    """Put a conversation into one text: with the manual template of the configuration, else the model's own.

    Raises:
        Refused: there is an image, or another file that cannot be read.
        EngineFailure: the template cannot be applied.
    """
    turns = [turn for message in messages for turn in _turns(message)]
    system = values.get(SYSTEM_PROMPT_KEY)
    if isinstance(system, str) and system and not any(turn["role"] == "system" for turn in turns):
        turns.insert(0, {"role": "system", "content": system})
    match values.get(PROMPT_TEMPLATE_KEY):
        case {"type": "manual", "manualPromptTemplate": Mapping() as around}:
            text = "".join(_around(turn, around) for turn in turns) + str(around.get("beforeAssistant", ""))
            return str(scrubbed(text))
    return runtime.apply_template(turns, _template_arguments(values))


def _is_structured(values: Mapping[str, Any]) -> bool:
    """Whether the answer must have a form."""
    structured = values.get(PREDICTION_PREFIX + "structured")
    return isinstance(structured, Mapping) and structured.get("type", "none") != "none"


def _must_not_think(request: PredictionRequest) -> bool:
    options = request.options
    return _is_structured(request.values) or options.enable_thinking is False or options.reasoning_budget == 0


def _template_arguments(values: Mapping[str, Any]) -> JsonObject:
    """What the template is told; a form would be broken by reasoning before it."""
    thinking = values.get(THINKING_KEY)
    if thinking is None and _is_structured(values):
        thinking = False
    return {} if thinking is None else {"enable_thinking": bool(thinking)}


def _turns(message: Message) -> Sequence[JsonObject]:
    """Write a message as OpenAI does; each result of a tool is a turn of its own."""
    for part in message.content:
        if isinstance(part, FilePart):
            what = "images: the model has no vision part" if part.file_type == "image" else f"files ({part.file_type})"
            raise unsupported(what, NAME, VERSION)
    results = [part for part in message.content if isinstance(part, ToolCallResult)]
    if results:
        return [{"role": "tool", "content": part.content, "tool_call_id": part.tool_call_id or ""} for part in results]
    turn: JsonObject = {"role": message.role, "content": message.text}
    calls = [_tool_call(part) for part in message.content if isinstance(part, ToolCallRequest)]
    return [turn | {"tool_calls": calls}] if calls else [turn]


def _tool_call(part: ToolCallRequest) -> JsonObject:
    function = {"name": part.name, "arguments": json.dumps(part.arguments or {})}
    return {"type": "function", "id": part.id or "", "function": function}


def _around(turn: JsonObject, around: Mapping[str, Any]) -> str:
    role = "User" if turn["role"] == "tool" else turn["role"].capitalize()
    return f"{around.get(f'before{role}', '')}{turn['content']}{around.get(f'after{role}', '')}"
