"""The endpoints that run a language model, and the one that shows what it would read.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/llmBackendInterface.ts
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from lmcli.chat import FilePart, Message
from lmcli.errors import BadInput, quoted
from lmcli.server.catalog_endpoints import SPECIFIED
from lmcli.server.endpoints import (
    CANCEL,
    FLAG,
    HISTORY,
    OBJECT,
    SPECIFIER,
    STACK,
    TEXT,
    Call,
    Channel,
    Context,
    Field,
    Shape,
    Stream,
)
from lmcli.server.engine import PredictionRequest, PromptRead
from lmcli.server.failures import Refused
from lmcli.server.model_instance import GENERATING, Instance
from lmcli.server.settings import REASONING_PARSING_KEY, effective, is_unformatted
from lmcli.values import Fragment, JsonObject, Stats
from lmcli.wire.config import read_prediction_config, read_stack
from lmcli.wire.payloads import read_history, write_fragment, write_prediction_end

_log: Final = logging.getLogger(__name__)
_NO_PARSING: Final = {"enabled": False, "startString": "<think>", "endString": "</think>"}


async def predict(context: Context, channel: Channel, parameter: JsonObject) -> None:
    """Continue a conversation, or a text where the prompt template puts nothing around it."""
    instance, values = _configured(context, parameter)
    messages = _messages(context, parameter["history"])
    request = _request(context, channel, values, messages=messages)
    if is_unformatted(values):
        prompt = "".join(message.text for message in messages)
        request = _request(context, channel, _unparsed(values, parameter), raw_prompt=prompt)
    await _run(context, channel, instance, request)


async def complete_raw_text(context: Context, channel: Channel, parameter: JsonObject) -> None:
    """Continue a text as it is."""
    instance, values = _configured(context, parameter)
    request = _request(context, channel, _unparsed(values, parameter), raw_prompt=parameter["rawPrompt"])
    await _run(context, channel, instance, request)


async def apply_prompt_template(context: Context, parameter: JsonObject) -> Any:
    """Show the text that a model would read for a conversation."""
    instance = context.instances.require(parameter["specifier"], context.domain)
    values = {**instance.model.prediction_values, **read_stack(parameter["predictionConfigStack"])}
    return {"formatted": await instance.model.apply_template(_messages(context, parameter["history"]), values)}


def _configured(context: Context, parameter: JsonObject) -> tuple[Instance, JsonObject]:
    instance = context.instances.require(parameter["modelSpecifier"], context.domain)
    preset, stack = parameter.get("fuzzyPresetIdentifier"), parameter["predictionConfigStack"]
    return instance, effective(instance.model.prediction_values, preset, stack)


def _messages(context: Context, history: JsonObject) -> Sequence[Message]:
    """Read a conversation; a turn without any part says nothing."""
    spoken = [entry for entry in history["messages"] if entry["content"]]
    try:
        messages = read_history({"messages": spoken})
    except BadInput as error:
        raise Refused(f"Invalid chat history: {error.message}") from error
    for message in messages:
        for part in message.content:
            if isinstance(part, FilePart) and part.identifier not in context.client.files:
                raise Refused(f"File not found: {quoted(part.identifier)}")
    return messages


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


def _unparsed(values: JsonObject, parameter: JsonObject) -> JsonObject:
    """A raw text is not searched for reasoning, unless the client asks for it."""
    if REASONING_PARSING_KEY in read_stack(parameter["predictionConfigStack"]):
        return values
    return {**values, REASONING_PARSING_KEY: _NO_PARSING}


async def _run(context: Context, channel: Channel, instance: Instance, request: PredictionRequest) -> None:
    started = time.perf_counter()
    first_token: float | None = None
    async with (
        context.instances.use(instance, channel.cancelled) as use,
        aclosing(instance.model.predict(request)) as events,
    ):
        async for event in events:
            if isinstance(event, Fragment):
                if first_token is None:
                    first_token = time.perf_counter()
                    use.phase = GENERATING
                packet = write_fragment(event)
            elif isinstance(event, PromptRead):
                packet = _prompt_progress(event)
            else:
                packet = _end(instance, request, _timed(event, started, first_token))
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
    """Fill in the times that the engine left out; a rate needs two tokens."""
    now = time.perf_counter()
    predicted = stats.predicted_tokens_count or 0
    reading = first_token - started if first_token else None
    generating = now - first_token if first_token else 0.0
    rate = predicted / generating if predicted > 1 and generating > 0 else None
    return stats.replace(
        total_time_sec=now - started if stats.total_time_sec is None else stats.total_time_sec,
        time_to_first_token_sec=reading if stats.time_to_first_token_sec is None else stats.time_to_first_token_sec,
        tokens_per_second=rate if stats.tokens_per_second is None else stats.tokens_per_second,
    )


def _end(instance: Instance, request: PredictionRequest, stats: Stats) -> JsonObject:
    if instance.is_unloaded and stats.stop_reason == "userStopped":
        stats = stats.replace(stop_reason="modelUnloaded")
    _log.debug("%s: %s tokens, %s", instance.identifier, stats.predicted_tokens_count, stats.stop_reason)
    return write_prediction_end(stats, instance.describe(), instance.model.load_values, request.values)


_PREDICTING: Shape = {
    "modelSpecifier": Field(SPECIFIER),
    "predictionConfigStack": Field(STACK),
    "fuzzyPresetIdentifier": Field(TEXT, optional=True),
    "ignoreServerSessionConfig": Field(FLAG, optional=True),
}
CALLS: Mapping[str, Call] = {
    "applyPromptTemplate": Call(
        {**SPECIFIED, "history": Field(HISTORY), "predictionConfigStack": Field(STACK), "opts": Field(OBJECT)},
        apply_prompt_template,
    ),
}
STREAMS: Mapping[str, Stream] = {
    "predict": Stream({**_PREDICTING, "history": Field(HISTORY)}, predict, CANCEL),
    "completeRawText": Stream({**_PREDICTING, "rawPrompt": Field(TEXT)}, complete_raw_text, CANCEL),
}
