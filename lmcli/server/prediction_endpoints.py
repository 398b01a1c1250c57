"""The endpoints that run predictions, and the one that applies the prompt template.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/llmBackendInterface.ts
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from lmcli.chat import FilePart, Message
from lmcli.errors import BadInput, quoted
from lmcli.server.effective_config import REASONING_PARSING_KEY, effective_config, is_content_only
from lmcli.server.endpoints import (
    CANCEL,
    FLAG,
    HISTORY,
    SPECIFIER,
    STACK,
    TEMPLATE_OPTIONS,
    TEXT,
    CallEndpoint,
    Channel,
    ChannelEndpoint,
    Context,
    Field,
    Shape,
    known_keys,
)
from lmcli.server.engine import PredictionRequest, PromptRead
from lmcli.server.model_endpoints import SPECIFIED, downloaded_model
from lmcli.server.model_instance import GENERATING, Instance
from lmcli.server.request_errors import RequestFailed
from lmcli.values import Fragment, JsonObject, Stats
from lmcli.wire.config import read_prediction_config, read_stack
from lmcli.wire.histories import read_history
from lmcli.wire.payloads import write_fragment, write_prediction_end
from lmcli.wire.prediction_config import OPTIONS
from lmcli.wire.tool_calls import write_tool_call

_log: Final = logging.getLogger(__name__)
TOOLS_KEY: Final = OPTIONS["raw_tools"].key
DRAFT_MODEL_KEY: Final = OPTIONS["draft_model"].key
_PARSING_DISABLED: Final = {"enabled": False, "startString": "<think>", "endString": "</think>"}


async def predict(context: Context, channel: Channel, parameter: JsonObject) -> None:
    """Continue a conversation, or the raw text of one whose prompt template adds nothing."""
    await context.registry.wait_for_startup(channel.cancelled)
    instance, values = _configured(context, parameter)
    messages = _messages(context, parameter["history"])
    request = _request(context, channel, values, messages=messages)
    if is_content_only(values):
        prompt = "".join(message.text for message in messages)
        request = _request(context, channel, _without_reasoning(values, parameter), raw_prompt=prompt)
    await _run(context, channel, instance, request)


async def complete_raw_text(context: Context, channel: Channel, parameter: JsonObject) -> None:
    """Continue a raw text."""
    await context.registry.wait_for_startup(channel.cancelled)
    instance, values = _configured(context, parameter)
    request = _request(context, channel, _without_reasoning(values, parameter), raw_prompt=parameter["rawPrompt"])
    await _run(context, channel, instance, request)


async def apply_prompt_template(context: Context, parameter: JsonObject) -> Any:
    """Return the prompt for a conversation."""
    instance = context.registry.require(parameter["specifier"], context.domain)
    values = {**instance.model.prediction_values, **read_stack(parameter["predictionConfigStack"])}
    if tools := parameter["opts"].get("toolDefinitions"):
        values[TOOLS_KEY] = {"type": "toolArray", "tools": tools}
    messages = [_without_unknown_files(context, message) for message in _read(parameter["history"])]
    return {"formatted": await instance.model.apply_template(messages, values)}


def _configured(context: Context, parameter: JsonObject) -> tuple[Instance, JsonObject]:
    instance = context.registry.require(parameter["modelSpecifier"], context.domain)
    preset, stack = parameter.get("fuzzyPresetIdentifier"), parameter["predictionConfigStack"]
    values = effective_config(instance.model.prediction_values, preset, stack)
    if draft := values.get(DRAFT_MODEL_KEY):
        downloaded_model(context, draft)
    return instance, values


def _messages(context: Context, history: JsonObject) -> Sequence[Message]:
    """Read a conversation whose files were uploaded."""
    messages = _read(history)
    for message in messages:
        for part in message.content:
            if isinstance(part, FilePart) and part.identifier not in context.client.files:
                raise RequestFailed(f"File not found: {quoted(part.identifier)}")
    return messages


def _without_unknown_files(context: Context, message: Message) -> Message:
    """A message without the files that were not uploaded: as in LM Studio, its text is formatted."""
    known = (p for p in message.content if not isinstance(p, FilePart) or p.identifier in context.client.files)
    return Message(message.role, tuple(known))


def _read(history: JsonObject) -> Sequence[Message]:
    """Read a conversation, without its empty messages."""
    entries = [known_keys(message) for message in history["messages"] if message["content"]]
    try:
        return read_history({"messages": entries})
    except BadInput as error:
        raise RequestFailed(f"Invalid chat history: {error.message}") from error


def _request(
    context: Context,
    channel: Channel,
    values: JsonObject,
    *,
    messages: Sequence[Message] = (),
    raw_prompt: str | None = None,
) -> PredictionRequest:
    return PredictionRequest(
        messages=messages,
        raw_prompt=raw_prompt,
        values=values,
        options=read_prediction_config(values),
        files=context.client.files,
        cancelled=channel.cancelled,
    )


def _without_reasoning(values: JsonObject, parameter: JsonObject) -> JsonObject:
    """The config of a raw completion: reasoning is not parsed unless the client requests it."""
    if REASONING_PARSING_KEY in read_stack(parameter["predictionConfigStack"]):
        return values
    return {**values, REASONING_PARSING_KEY: _PARSING_DISABLED}


async def _run(context: Context, channel: Channel, instance: Instance, request: PredictionRequest) -> None:
    started = time.perf_counter()
    first_token: float | None = None
    async with (
        context.registry.predicting(instance, channel.cancelled) as prediction,
        aclosing(instance.model.predict(request)) as events,
    ):
        async for event in events:
            if isinstance(event, PromptRead):
                packet = _prompt_progress(event)
            elif isinstance(event, Stats):
                packet = _end(instance, request, _timed(event, started, first_token))
            else:
                if first_token is None:
                    first_token = time.perf_counter()
                    prediction.phase = GENERATING
                packet = write_fragment(event) if isinstance(event, Fragment) else write_tool_call(event)
            await channel.send(packet)


def _prompt_progress(read: PromptRead) -> JsonObject:
    return {
        "type": "promptProcessingProgress",
        "progress": read.progress,
        "details": {
            "cachedTokenCount": read.cached,
            "totalPromptTokenCount": read.total,
            "processedPromptTokenCount": read.processed,
            "unprocessedPromptTokenCount": read.total - read.cached - read.processed,
        },
    }


def _timed(stats: Stats, started: float, first_token: float | None) -> Stats:
    """Add the times that the engine did not measure; a rate needs two tokens."""
    now = time.perf_counter()
    predicted = stats.predicted_tokens_count or 0
    to_first_token = first_token - started if first_token else None
    generating = now - first_token if first_token else 0.0
    rate = predicted / generating if predicted > 1 and generating > 0 else None
    return stats.replace(
        total_time_sec=now - started if stats.total_time_sec is None else stats.total_time_sec,
        time_to_first_token_sec=to_first_token
        if stats.time_to_first_token_sec is None
        else stats.time_to_first_token_sec,
        tokens_per_second=rate if stats.tokens_per_second is None else stats.tokens_per_second,
    )


def _end(instance: Instance, request: PredictionRequest, stats: Stats) -> JsonObject:
    if instance.is_unloaded and stats.stop_reason == "userStopped":
        stats = stats.replace(stop_reason="modelUnloaded")
    _log.debug("%s: %s tokens, %s", instance.identifier, stats.predicted_tokens_count, stats.stop_reason)
    return write_prediction_end(stats, instance.describe(), instance.model.load_values, request.values)


_PREDICTION: Shape = {
    "modelSpecifier": Field(SPECIFIER),
    "predictionConfigStack": Field(STACK),
    "fuzzyPresetIdentifier": Field(TEXT, optional=True),
    "ignoreServerSessionConfig": Field(FLAG, optional=True),
}
CALLS: Mapping[str, CallEndpoint] = {
    "applyPromptTemplate": CallEndpoint(
        {
            **SPECIFIED,
            "history": Field(HISTORY),
            "predictionConfigStack": Field(STACK),
            "opts": Field(TEMPLATE_OPTIONS),
        },
        apply_prompt_template,
    ),
}
CHANNELS: Mapping[str, ChannelEndpoint] = {
    "predict": ChannelEndpoint({**_PREDICTION, "history": Field(HISTORY)}, predict, CANCEL),
    "completeRawText": ChannelEndpoint({**_PREDICTION, "rawPrompt": Field(TEXT)}, complete_raw_text, CANCEL),
}
