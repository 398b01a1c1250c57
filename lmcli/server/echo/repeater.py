"""The built-in models, which say what they are told: `respond` gives the last user text back, `complete` the prompt.

A token is a word with the white space before it, so the tokens of a text joined are the text, byte by byte.
"""

import asyncio
import json
import math
import re
import time
import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lmcli.chat import Message
from lmcli.server.echo.schema_example import NoExample, schema_example
from lmcli.server.engine import LoadedModel, PredictionEvent, PredictionRequest, PromptRead, off_loop
from lmcli.server.failures import Refused, unsupported
from lmcli.server.settings import BASE_VALUES
from lmcli.server.text_stream import Outlet, reasoning_tags
from lmcli.values import LoadProgress, ModelInfo, Stats
from lmcli.wire.config import PROMPT_TEMPLATE_KEY
from lmcli.wire.prediction_config import PredictionConfig

NAME: Final = "echo"
VERSION: Final = "1.0"
MAX_CONTEXT_LENGTH: Final = 131_072
CONTEXT_LENGTH_KEY: Final = "llm.load.contextLength"
VOCABULARY: Final = 65_536
LOAD_STEPS: Final = 5
# How often a slow reading of the prompt shows its progress, in seconds.
PROGRESS_INTERVAL: Final = 0.1

_TOKEN = re.compile(r"\s*\S+|\s+")


def tokens(text: str) -> Iterator[str]:
    """Cut a text into tokens."""
    return (match[0] for match in _TOKEN.finditer(text))


def count(text: str) -> int:
    """How many tokens a text has."""
    return sum(1 for _ in tokens(text))


def _numbers(text: str) -> list[int]:
    return [zlib.crc32(token.encode("utf-8", "surrogatepass")) % VOCABULARY for token in tokens(text)]


def model_info(key: str, display_name: str) -> ModelInfo:
    """Describe one of the built-in models."""
    return ModelInfo(
        type="llm",
        model_key=key,
        display_name=display_name,
        path=f"lmcli/{key}",
        indexed_model_identifier=f"lmcli/{key}",
        publisher="lmcli",
        format="gguf",
        size_bytes=0,
        max_context_length=MAX_CONTEXT_LENGTH,
        params_string="0",
        architecture=NAME,
        vision=True,
    )


LOADED_AT_START: Final = model_info("echo", "Echo")
LOADED_ON_REQUEST: Final = model_info("echo-jit", "Echo (loaded on request)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How slow the models pretend to be; None is as fast as it goes."""

    tokens_per_second: float | None = None
    load_seconds: float = 0.0
    prompt_tokens_per_second: float | None = None


class EchoEngine:
    """The engine of the built-in models.

    Args:
        pace: how slow to be.
    """

    name = NAME
    version = VERSION
    downloaded: Sequence[ModelInfo] = (LOADED_AT_START, LOADED_ON_REQUEST)

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()

    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        """The model `echo`, at once."""
        return [(LOADED_AT_START, EchoModel({}, self._pace))]

    async def load(
        self, model: ModelInfo, values: Mapping[str, Any], cancelled: asyncio.Event
    ) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Take `load_seconds` in a few steps; the model itself takes none."""
        del model  # both are the same
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
        wanted = values.get(CONTEXT_LENGTH_KEY, MAX_CONTEXT_LENGTH)
        if type(wanted) is not int or wanted < 1:
            raise Refused(f"Invalid load config: {CONTEXT_LENGTH_KEY} must be a positive whole number")
        self.context_length = min(wanted, MAX_CONTEXT_LENGTH)
        self.load_values: Mapping[str, Any] = {**values, CONTEXT_LENGTH_KEY: self.context_length}
        self.prediction_values = BASE_VALUES
        self._pace = pace

    async def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Read the prompt, then say it again."""
        answer = _answer(request)
        prompt = request.raw_prompt
        size = await self.count_tokens(_formatted(request.messages, request.values) if prompt is None else prompt)
        async for progress in self._read_prompt(size, request.cancelled):
            yield progress
        run = _Run(request.options, room=self.context_length - size)
        clock = _Clock(self._pace.tokens_per_second)
        for token in tokens(answer):
            if clock.is_ahead:
                await clock.wait(request.cancelled)
            if run.is_over(cancelled=request.cancelled.is_set()):
                break
            for fragment in run.outlet.feed(token):
                yield fragment
            if run.outlet.stop_string is not None:
                run.stop_reason = "stopStringFound"
                break
            clock.tick()
        else:
            run.stop_reason = "userStopped" if request.cancelled.is_set() else "eosFound"
        for fragment in run.outlet.flush():
            yield fragment
        yield run.stats(size)

    async def tokenize(self, text: str) -> Sequence[int]:
        """The same number for the same word."""
        return await off_loop(_numbers, text)

    async def count_tokens(self, text: str) -> int:
        """How many words with their white space."""
        return await off_loop(count, text)

    async def apply_template(self, messages: Sequence[Message], values: Mapping[str, Any]) -> str:
        """The built-in template, or the manual one in the configuration."""
        return _formatted(messages, values)

    async def unload(self) -> None:
        """Nothing to give back."""

    async def _read_prompt(self, size: int, cancelled: asyncio.Event) -> AsyncGenerator[PromptRead, None]:
        seconds = size / self._pace.prompt_tokens_per_second if self._pace.prompt_tokens_per_second else 0.0
        steps = max(2, math.ceil(seconds / PROGRESS_INTERVAL))
        yield PromptRead(0.0, 0, size)
        for step in range(1, steps + 1):
            await _pause(seconds / steps, cancelled)
            if cancelled.is_set():
                return
            yield PromptRead(step / steps, size * step // steps, size)


@dataclass(slots=True)
class _Run:
    """Where a prediction stands."""

    options: PredictionConfig
    room: int
    stop_reason: str = ""
    predicted: int = 0
    outlet: Outlet = field(init=False)
    _limits: tuple[tuple[float, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.outlet = Outlet(self.options.stop_strings or (), reasoning_tags(self.options))
        room = self.room if self.options.context_overflow_policy == "stopAtLimit" else math.inf
        most = self.options.max_tokens or math.inf
        self._limits = ((room, "contextLengthReached"), (most, "maxPredictedTokensReached"))

    def is_over(self, *, cancelled: bool) -> bool:
        """Whether one token more is one too many; if not, it is counted."""
        if cancelled:
            self.stop_reason = "userStopped"
            return True
        for most, reason in self._limits:
            if self.predicted >= most:
                self.stop_reason = reason
                return True
        self.predicted += 1
        return False

    def stats(self, prompt_size: int) -> Stats:
        return Stats(
            stop_reason=self.stop_reason,
            stop_string=self.outlet.stop_string,
            num_gpu_layers=-1,
            prompt_tokens_count=prompt_size,
            predicted_tokens_count=self.predicted,
            total_tokens_count=prompt_size + self.predicted,
        )


class _Clock:
    """Holds tokens back so that no more than `rate` a second come."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._due = time.monotonic()

    @property
    def is_ahead(self) -> bool:
        return bool(self._interval) and time.monotonic() < self._due

    async def wait(self, cancelled: asyncio.Event) -> None:
        await _pause(self._due - time.monotonic(), cancelled)

    def tick(self) -> None:
        self._due += self._interval


async def _pause(seconds: float, cancelled: asyncio.Event) -> None:
    """Wait, but not longer than until the cancel."""
    if seconds <= 0 or cancelled.is_set():
        return
    try:
        async with asyncio.timeout(seconds):
            await cancelled.wait()
    except TimeoutError:
        pass


def _answer(request: PredictionRequest) -> str:
    structured = request.options.structured or {}
    match structured.get("type", "none"):
        case "json":
            return _structured(structured.get("jsonSchema"))
        case "none":
            pass
        case kind:
            raise unsupported(f"structured output of the type {kind}", NAME, VERSION)
    if request.raw_prompt is not None:
        return request.raw_prompt
    return next((message.text for message in reversed(request.messages) if message.role == "user"), "")


def _structured(schema: Any) -> str:
    try:
        return json.dumps(schema_example(schema), ensure_ascii=False)
    except NoExample as problem:
        raise unsupported(f"this JSON schema ({problem})", NAME, VERSION) from problem


def _formatted(messages: Sequence[Message], values: Mapping[str, Any]) -> str:
    """Put a conversation into one text, with the manual template of the configuration if there is one."""
    match values.get(PROMPT_TEMPLATE_KEY):
        case {"type": "manual", "manualPromptTemplate": Mapping() as around}:
            return "".join(_manual(message, around) for message in messages) + str(around.get("beforeAssistant", ""))
    return "".join(f"[{message.role}]\n{message.text}\n" for message in messages) + "[assistant]\n"


def _manual(message: Message, around: Mapping[str, Any]) -> str:
    role = "User" if message.role == "tool" else message.role.capitalize()
    return f"{around.get(f'before{role}', '')}{message.text}{around.get(f'after{role}', '')}"
