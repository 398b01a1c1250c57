"""The built-in models, which answer with the last user message, or with the raw prompt of a completion.

A token is a word with the white space before it, so that the joined tokens of a text are the text.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from lmcli.chat import Message
from lmcli.server.echo.echo_tokens import cached_count, count, marks_apart, numbers, predicted, tokens
from lmcli.server.echo.schema_example import NoExample, schema_example
from lmcli.server.echo.tool_lines import ToolCallLine, results_at_end, separated
from lmcli.server.effective_config import DEFAULT_VALUES
from lmcli.server.engine import LoadedModel, PredictionEvent, PredictionRequest, PromptRead, off_loop
from lmcli.server.request_errors import RequestFailed, unsupported
from lmcli.server.text_processing import TextProcessor, reasoning_tags
from lmcli.values import (
    Fragment,
    LoadProgress,
    ModelInfo,
    Stats,
    ToolCallFailure,
    ToolCallFragment,
    ToolCallValue,
)
from lmcli.wire.config import PROMPT_TEMPLATE_KEY
from lmcli.wire.prediction_config import PredictionConfig

NAME: Final = "echo"
VERSION: Final = "1.0"
MAX_CONTEXT_LENGTH: Final = 131_072
CONTEXT_LENGTH_KEY: Final = "llm.load.contextLength"
LOAD_STEPS: Final = 5
# The beginning of a prompt that can be cached.
MAX_CACHED_CHARACTERS: Final = 100_000
# The seconds between two reports of the prompt progress.
PROGRESS_INTERVAL: Final = 0.1


def model_info(key: str, display_name: str) -> ModelInfo:
    """Describe one of the built-in models."""
    return ModelInfo(
        type="llm",
        model_key=key,
        display_name=display_name,
        path=f"lmcli/echo/{key}",
        indexed_model_identifier=f"lmcli/echo/{key}",
        publisher="lmcli",
        format="gguf",
        size_bytes=0,
        max_context_length=MAX_CONTEXT_LENGTH,
        params_string="0",
        architecture=NAME,
        vision=True,
        trained_for_tool_use=True,
    )


LOADED_AT_START: Final = model_info("echo", "Echo")
LOADED_ON_REQUEST: Final = model_info("echo-jit", "Echo (loaded on request)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The simulated speed; None is unlimited."""

    tokens_per_second: float | None = None
    load_seconds: float = 0.0
    prompt_tokens_per_second: float | None = None


class EchoEngine:
    """The engine of the built-in models.

    Args:
        pace: the simulated speed.
    """

    name = NAME
    version = VERSION
    downloaded: Sequence[ModelInfo] = (LOADED_AT_START, LOADED_ON_REQUEST)

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()

    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        """Return the model `echo`, loaded."""
        return [(LOADED_AT_START, EchoModel({}, self._pace))]

    async def load(
        self, model: ModelInfo, values: Mapping[str, Any], cancelled: asyncio.Event
    ) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Load for `load_seconds`, in a few steps."""
        del model  # both models are the same
        for step in range(LOAD_STEPS + 1):
            yield LoadProgress(step / LOAD_STEPS)
            if step < LOAD_STEPS:
                await _pause(self._pace.load_seconds / LOAD_STEPS, cancelled)
            if cancelled.is_set():
                return
        yield EchoModel(values, self._pace)


class EchoModel:
    """A built-in model in memory."""

    def __init__(self, values: Mapping[str, Any], pace: Pace) -> None:
        length = values.get(CONTEXT_LENGTH_KEY, MAX_CONTEXT_LENGTH)
        if type(length) is not int or length < 1:
            raise RequestFailed(f"Invalid load config: {CONTEXT_LENGTH_KEY} must be a positive whole number")
        self.context_length = min(length, MAX_CONTEXT_LENGTH)
        self.load_values: Mapping[str, Any] = {**values, CONTEXT_LENGTH_KEY: self.context_length}
        self.prediction_values = DEFAULT_VALUES
        self._pace = pace
        self._cached_text = ""

    async def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Report the prompt progress, then repeat the input."""
        answer, calls = _answer(request)
        prompt = _prompt(request)
        size = await self.count_tokens(prompt)
        cached, self._cached_text = cached_count(prompt, self._cached_text), prompt[:MAX_CACHED_CHARACTERS]
        async for progress in self._read_prompt(size, cached, request.cancelled):
            yield progress
        free_context = self.context_length - size
        state = _PredictionState(request.options, free_context=free_context, has_marks=_has_template(request))
        rate_limit = _RateLimit(self._pace.tokens_per_second)
        for token in tokens(answer):
            if rate_limit.is_exceeded:
                await rate_limit.wait(request.cancelled)
            if not state.count_token(cancelled=request.cancelled.is_set()):
                break
            for fragment in state.fragments(token):
                yield fragment
            if state.processor.stop_string is not None:
                state.stop_reason = "stopStringFound"
                state.predicted -= state.processor.stopped_tokens
                break
            rate_limit.tick()
        else:
            state.stop_reason = "userStopped" if request.cancelled.is_set() else "eosFound"
        for fragment in state.processor.flush():
            yield fragment
        if state.stop_reason == "eosFound":
            async for event in _tool_calls(calls, state, rate_limit, request.cancelled):
                yield event
        yield state.stats(size)

    async def tokenize(self, text: str) -> Sequence[int]:
        """The token numbers of a text: equal for equal words."""
        return await off_loop(numbers, text)

    async def count_tokens(self, text: str) -> int:
        """The number of tokens of a text."""
        return await off_loop(count, text)

    async def apply_template(self, messages: Sequence[Message], values: Mapping[str, Any]) -> str:
        """Apply the built-in template, or the manual one of the config."""
        return _formatted(messages, values)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Do nothing: the model is a part of this process."""

    async def unload(self) -> None:
        """Nothing to free."""

    async def _read_prompt(self, size: int, cached: int, cancelled: asyncio.Event) -> AsyncGenerator[PromptRead, None]:
        new = size - cached
        seconds = new / self._pace.prompt_tokens_per_second if self._pace.prompt_tokens_per_second else 0.0
        steps = max(2, math.ceil(seconds / PROGRESS_INTERVAL))
        yield PromptRead(0.0, 0, size, cached)
        for step in range(1, steps + 1):
            await _pause(seconds / steps, cancelled)
            if cancelled.is_set():
                return
            yield PromptRead(step / steps, new * step // steps, size, cached)


@dataclass(slots=True)
class _PredictionState:
    """The state of a prediction.

    Args:
        options: the config.
        free_context: the tokens that are left after the prompt.
        has_marks: whether `<|…|>` is a mark of the template, which is sent as a structural fragment.
    """

    options: PredictionConfig
    free_context: int
    has_marks: bool
    stop_reason: str = ""
    predicted: int = 0
    processor: TextProcessor = field(init=False)
    _limits: tuple[tuple[float, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.processor = TextProcessor(self.options.stop_strings or (), reasoning_tags(self.options))
        free = self.free_context if self.options.context_overflow_policy == "stopAtLimit" else math.inf
        limit = self.options.max_tokens or math.inf
        self._limits = ((free, "contextLengthReached"), (limit, "maxPredictedTokensReached"))

    def count_token(self, *, cancelled: bool) -> bool:
        """Count a token; False if the prediction ends before it."""
        if cancelled:
            self.stop_reason = "userStopped"
            return False
        for limit, reason in self._limits:
            if self.predicted >= limit:
                self.stop_reason = reason
                return False
        self.predicted += 1
        return True

    def fragments(self, token: str) -> Iterator[Fragment]:
        """The fragments that a token completes."""
        if self.options.log_probs is not None:
            self.processor.tokens.append(predicted(token, self.options.log_probs))
        fragments = self.processor.feed(token)
        return chain.from_iterable(map(marks_apart, fragments)) if self.has_marks else fragments

    def stats(self, prompt_size: int) -> Stats:
        return Stats(
            stop_reason=self.stop_reason,
            stop_string=self.processor.stop_string,
            num_gpu_layers=-1,
            prompt_tokens_count=prompt_size,
            predicted_tokens_count=self.predicted,
            total_tokens_count=prompt_size + self.predicted,
        )


class _RateLimit:
    """Limits the rate of tokens, given per second."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._due = time.monotonic()

    @property
    def is_exceeded(self) -> bool:
        return bool(self._interval) and time.monotonic() < self._due

    async def wait(self, cancelled: asyncio.Event) -> None:
        await _pause(self._due - time.monotonic(), cancelled)

    def tick(self) -> None:
        self._due += self._interval


async def _tool_calls(
    calls: Sequence[ToolCallLine], state: _PredictionState, rate_limit: _RateLimit, cancelled: asyncio.Event
) -> AsyncGenerator[ToolCallValue, None]:
    """Generate tool calls, their arguments word by word; one that cannot be completed fails, and is the last."""
    for call in calls:
        yield ToolCallFragment(id=call.id)
        yield ToolCallFragment(name=call.name)
        for token in tokens(call.arguments):
            if rate_limit.is_exceeded:
                await rate_limit.wait(cancelled)
            if not state.count_token(cancelled=cancelled.is_set()):
                yield ToolCallFailure("The tool call is not complete")
                return
            yield ToolCallFragment(arguments=token)
            rate_limit.tick()
        yield call.value()


async def _pause(seconds: float, cancelled: asyncio.Event) -> None:
    """Sleep until the time is over or the event is set."""
    if seconds <= 0 or cancelled.is_set():
        return
    try:
        async with asyncio.timeout(seconds):
            await cancelled.wait()
    except TimeoutError:
        pass


def _prompt(request: PredictionRequest) -> str:
    """The text that the model reads."""
    return _formatted(request.messages, request.values) if request.raw_prompt is None else request.raw_prompt


def _has_template(request: PredictionRequest) -> bool:
    """Whether the answer may have marks of the template; raw and structured ones have none."""
    return request.raw_prompt is None and (request.options.structured or {}).get("type", "none") == "none"


def _answer(request: PredictionRequest) -> tuple[str, Sequence[ToolCallLine]]:
    """The text to generate, and the tools to call after it."""
    structured = request.options.structured or {}
    match structured.get("type", "none"):
        case "json":
            return _structured(structured.get("jsonSchema")), ()
        case "none":
            pass
        case kind:
            raise unsupported(f"structured output of the type {kind}", NAME, VERSION)
    if request.raw_prompt is not None:
        return request.raw_prompt, ()
    if (results := results_at_end(request.messages)) is not None:
        return results, ()
    text = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
    return separated(text, request.messages, request.values)


def _structured(schema: Any) -> str:
    try:
        return json.dumps(schema_example(schema), ensure_ascii=False)
    except NoExample as problem:
        raise unsupported(f"this JSON schema ({problem})", NAME, VERSION) from problem


def _formatted(messages: Sequence[Message], values: Mapping[str, Any]) -> str:
    """Format a conversation, with the manual template of the config if there is one."""
    match values.get(PROMPT_TEMPLATE_KEY):
        case {"type": "manual", "manualPromptTemplate": Mapping() as affixes}:
            text = "".join(_with_affixes(message, affixes) for message in messages)
            return f"{text}{affixes.get('beforeAssistant', '')}"
    return "".join(f"[{message.role}]\n{message.text}\n" for message in messages) + "[assistant]\n"


def _with_affixes(message: Message, affixes: Mapping[str, Any]) -> str:
    role = "User" if message.role == "tool" else message.role.capitalize()
    return f"{affixes.get(f'before{role}', '')}{message.text}{affixes.get(f'after{role}', '')}"
