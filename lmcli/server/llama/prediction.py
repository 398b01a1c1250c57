"""One prediction by llama.cpp, in the process of its model, and its events.

llama.cpp does not wait for the client: otherwise a few slow clients would occupy all sessions of the model. What a
client has not read waits in the process of the model, at about 100 bytes a token or candidate, bounded by MAX_TOKENS.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from lmcli.server.engine import LARGE_TEXT, PredictionEvent, PredictionRequest, PromptRead
from lmcli.server.limits import json_size
from lmcli.server.llama.closed_schemas import closed_schema
from lmcli.server.llama.constraint_limits import exceeded_limits
from lmcli.server.llama.engine_errors import PromptTooLong, failing_requests, unsupported_by_engine
from lmcli.server.llama.engine_messages import PromptProgress, Token
from lmcli.server.llama.engine_process import EngineProcess
from lmcli.server.llama.native_completion import IMAGES_KEY
from lmcli.server.llama.offered_tools import call_schema, is_call_required, names_of, offered_tools
from lmcli.server.llama.parameters import sampling_parameters
from lmcli.server.llama.prompt import Prompt, make_prompt
from lmcli.server.llama.tool_call_parser import MARKS, ToolCallParser
from lmcli.server.request_errors import RequestFailed
from lmcli.server.text_processing import TextProcessor, reasoning_tags
from lmcli.values import CandidateToken, Fragment, JsonObject, PredictedToken, Stats, ToolCallValue
from lmcli.wire.prediction_config import PREDICTION_PREFIX

BUDGET_KEY: Final = PREDICTION_PREFIX + "reasoning.budgetTokens"
# The limit where neither the client nor the context has one, in tokens and candidates: a longer answer repeats itself.
MAX_TOKENS: Final = 65_536
# The share of the context that a truncated prompt occupies; the rest is left for the answer.
TRUNCATED_SHARE: Final = 0.75
# The share of a truncated prompt that is its beginning, under the policy truncateMiddle.
HEAD_SHARE: Final = 0.25


Step = Token | PromptProgress
Cancelled = asyncio.Future[Any]
Work = TypeVar("Work")


@dataclass(slots=True, eq=False, kw_only=True)
class Prediction:
    """A run of a model.

    Attributes:
        gpu_layers: the number of layers on the GPU.
        budget_message: the end of reasoning whose budget is used up.
        warn: logs a warning, given a key and a text, once for each key.
    """

    process: EngineProcess
    request: PredictionRequest
    context_length: int
    gpu_layers: int
    budget_message: str
    warn: Callable[[str, str], None]
    _prompt: Prompt = field(init=False, default=Prompt(""))
    _excessive_prompt_tokens: int | None = field(init=False, default=None)

    async def events(self) -> AsyncGenerator[PredictionEvent, None]:
        """The events; they end at once when the request is cancelled.

        Raises:
            RequestFailed: llama.cpp rejected the request, or failed during the prediction.
        """
        state = _PredictionState(self.request, self.context_length, self.gpu_layers)
        cancelled = asyncio.ensure_future(self.request.cancelled.wait())
        try:
            with failing_requests():
                async with aclosing(self._steps(cancelled)) as steps:
                    async for step in steps:
                        for event in state.add(step, self._prompt):
                            yield event
                        if state.is_over:
                            break
        finally:
            cancelled.cancel()
        if self._excessive_prompt_tokens is not None:
            state.reject_prompt(self._excessive_prompt_tokens)
        for event in state.end(is_cancelled=self.request.cancelled.is_set()):
            yield event

    async def _steps(self, cancelled: Cancelled) -> AsyncGenerator[Step, None]:
        body = await _unless(cancelled, self._body())
        if body is None:
            return
        try:
            async with aclosing(self._output(body, cancelled)) as steps:
                async for step in steps:
                    yield step
        except PromptTooLong as problem:
            truncated = await _unless(cancelled, self._truncated(body, problem))
            if truncated is not None:
                async with aclosing(self._output(truncated, cancelled)) as steps:
                    async for step in steps:
                        yield step

    async def _output(self, body: JsonObject, cancelled: Cancelled) -> AsyncGenerator[Step, None]:
        output = await self.process.predict(body)

        def close(_: Cancelled) -> None:
            output.close()

        cancelled.add_done_callback(close)
        try:
            async for message in output:
                if isinstance(message, Token | PromptProgress):
                    yield message
        finally:
            cancelled.remove_done_callback(close)
            output.close()

    async def _body(self) -> JsonObject:
        options = self.request.options
        values = self.request.values
        is_large = (json_size(values) or LARGE_TEXT) >= LARGE_TEXT
        tools = self._tools()
        body = (
            await asyncio.to_thread(_checked_parameters, values, tools)
            if is_large
            else _checked_parameters(values, tools)
        )
        if tools:
            body["preserved_tokens"] = MARKS
        self._prompt = await make_prompt(self.process, self.request)
        body["prompt"] = self._prompt.text
        if self._prompt.images:
            body[IMAGES_KEY] = self._prompt.images
        body["max_tokens"] = min(options.max_tokens or self._max_tokens, self._max_tokens)
        if options.context_overflow_policy == "truncateMiddle":
            body["n_keep"] = int(self.context_length * TRUNCATED_SHARE * HEAD_SHARE)
        return body | self._budget()

    def _tools(self) -> Sequence[JsonObject]:
        tools = offered_tools(self.request.values)
        if tools and self.request.raw_prompt is not None:
            raise unsupported_by_engine("tools in a raw completion")
        return tools

    @property
    def _max_tokens(self) -> int:
        """The limit for the length of the answer, whatever the client requests."""
        is_bounded = self.request.options.context_overflow_policy == "stopAtLimit"
        most = MAX_TOKENS // max(1, self.request.options.log_probs or 0)
        return self.context_length if is_bounded else max(most, self.context_length)

    def _budget(self) -> JsonObject:
        """The parameters of the reasoning budget."""
        tags = reasoning_tags(self.request.options)
        budget = self.request.options.reasoning_budget
        if tags is None or budget is None:
            return {}
        if self._prompt.is_reasoning:
            self.warn(BUDGET_KEY, "llama.cpp does not apply a budget to reasoning that the prompt template starts")
        return {
            "reasoning_budget_tokens": min(budget, self._max_tokens),
            "reasoning_budget_start_tag": tags.start,
            "reasoning_budget_end_tags": [tags.end],
            "reasoning_budget_message": self.budget_message,
        }

    async def _truncated(self, body: JsonObject, problem: PromptTooLong) -> JsonObject | None:
        """Apply the context overflow policy to a prompt that is too long; None if the prediction ends with it."""
        policy = self.request.options.context_overflow_policy
        if policy == "stopAtLimit":
            self._excessive_prompt_tokens = problem.prompt_tokens
            return None
        if self._prompt.images:
            raise RequestFailed(
                f"A prompt with images cannot be truncated, and this one has {problem.prompt_tokens} tokens, more than "
                f"the context of {self.context_length}"
            )
        tokens = await self.process.tokenize(self._prompt.text, add_special=True)
        size = max(1, int(self.context_length * TRUNCATED_SHARE))
        head = max(1, int(size * HEAD_SHARE)) if policy == "truncateMiddle" else 1
        tail = max(0, size - head)
        return body | {"prompt": [*tokens[:head], *tokens[len(tokens) - tail :]]}


async def _unless(cancelled: Cancelled, work: Coroutine[Any, Any, Work]) -> Work | None:
    """Do something; None if cancelled first."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait((task, cancelled), return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
    return task.result() if task.done() else None


def _checked_parameters(values: Mapping[str, Any], tools: Sequence[JsonObject]) -> JsonObject:
    body = sampling_parameters(values)
    if tools and is_call_required(values):
        if not body.keys().isdisjoint(("json_schema", "grammar")):
            raise unsupported_by_engine("a required tool call together with structured output")
        body["json_schema"] = call_schema(tools)
    for limit in exceeded_limits(body):
        raise unsupported_by_engine(limit)
    if "json_schema" in body:
        body["json_schema"] = closed_schema(body["json_schema"])
    return body


class _PredictionState:
    """The state of a prediction: steps in, events out."""

    def __init__(self, request: PredictionRequest, context_length: int, gpu_layers: int) -> None:
        options = request.options
        self._request = request
        self._tool_stops = frozenset(options.tool_call_stop_strings or ())
        stop_strings = (*(options.stop_strings or ()), *_template_stops(request.values), *self._tool_stops)
        self._tags = reasoning_tags(options)
        self._processor = TextProcessor(stop_strings, self._tags)
        self._tool_calls = _tool_call_parser(request.values)
        self._candidates = options.log_probs or 0
        self._context_length = context_length
        self._gpu_layers = gpu_layers
        self._is_bounded = options.context_overflow_policy == "stopAtLimit"
        self._prompt_tokens = 0
        self._predicted = 0
        self._uncounted = 0
        self._rate: float | None = None
        self._has_started = False
        self._stop_reason = ""

    @property
    def is_over(self) -> bool:
        """Whether the prediction has ended."""
        return bool(self._stop_reason)

    def add(self, step: Step, prompt: Prompt) -> Iterator[PredictionEvent]:
        """Process a step."""
        if isinstance(step, PromptProgress):
            self._prompt_tokens = step.total
            yield _prompt_read(step)
            return
        if prompt.is_reasoning and not self._has_started and self._tags is not None:
            yield from self._processor.feed(self._tags.start, 0)
        self._has_started = True
        self._count(step)
        if self._is_bounded and self._predicted > self._free_context:
            self._predicted = self._free_context
            self._stop_reason = "contextLengthReached"
            return
        self._processor.tokens += [_predicted(token, self._candidates) for token in step.log_probs]
        if step.text:
            fragments = self._processor.feed(step.text, self._uncounted)
            yield from fragments if self._tool_calls is None else self._separated(fragments, self._tool_calls)
            self._uncounted = 0
        if self._processor.stop_string is not None:
            self._predicted -= self._processor.stopped_tokens
            self._stop_reason = "toolCalls" if self._processor.stop_string in self._tool_stops else "stopStringFound"
        elif step.finish is not None:
            self._stop_reason = self._reason(step.finish)

    def reject_prompt(self, prompt_tokens: int) -> None:
        """End with a prompt that exceeds the context."""
        self._prompt_tokens = prompt_tokens
        self._stop_reason = "contextLengthReached"

    def end(self, *, is_cancelled: bool) -> Iterator[PredictionEvent]:
        """The last events."""
        if is_cancelled and not self._stop_reason:
            self._stop_reason = "userStopped"
        else:
            fragments = self._processor.flush()
            yield from fragments if self._tool_calls is None else self._separated(fragments, self._tool_calls)
        for rest in () if self._tool_calls is None else self._tool_calls.end():
            if not isinstance(rest, str):
                yield rest
            elif not is_cancelled:
                yield Fragment(rest, 0)
        is_found = self._stop_reason == "stopStringFound"
        yield Stats(
            stop_reason=self._stop_reason or "failed",
            stop_string=self._processor.stop_string if is_found else None,
            tokens_per_second=self._rate if self._predicted > 1 else None,
            num_gpu_layers=self._gpu_layers,
            prompt_tokens_count=self._prompt_tokens,
            predicted_tokens_count=self._predicted,
            total_tokens_count=self._prompt_tokens + self._predicted,
        )

    @staticmethod
    def _separated(fragments: Iterator[Fragment], parser: ToolCallParser) -> Iterator[Fragment | ToolCallValue]:
        """Separate tool calls from the text that is not reasoning."""
        for fragment in fragments:
            if fragment.reasoning_type != "none":
                yield fragment
                continue
            rest = fragment
            for value in parser.feed(fragment.content):
                if isinstance(value, str):
                    yield rest._replace(content=value)
                    rest = rest._replace(tokens_count=0, tokens=())
                else:
                    yield value

    @property
    def _free_context(self) -> int:
        return self._context_length - self._prompt_tokens

    def _count(self, token: Token) -> None:
        """Count a token; those without text, such as the first half of a character, are a part of the next fragment."""
        predicted = self._predicted + 1 if token.predicted is None else token.predicted
        self._uncounted += max(0, predicted - self._predicted)
        self._predicted = predicted
        self._rate = token.rate

    def _reason(self, finish: str) -> str:
        if finish != "length":
            return "eosFound"
        limit = self._request.options.max_tokens
        return "maxPredictedTokensReached" if limit and self._predicted >= limit else "contextLengthReached"


def _predicted(token: Sequence[Any], max_candidates: int) -> PredictedToken:
    text, number, log_prob, candidates = token
    likeliest = tuple(CandidateToken(*candidate) for candidate in candidates[:max_candidates])
    return PredictedToken(text, number, log_prob, likeliest)


def _prompt_read(progress: PromptProgress) -> PromptRead:
    """The progress, which begins with 0 however much is cached, as that of LM Studio does."""
    new, read = max(0, progress.total - progress.cached), max(0, progress.done - progress.cached)
    return PromptRead(read / new if new else 1.0, read, progress.total, progress.cached)


def _tool_call_parser(values: Mapping[str, Any]) -> ToolCallParser | None:
    names = names_of(offered_tools(values))
    structured = values.get(PREDICTION_PREFIX + "structured")
    is_users = isinstance(structured, Mapping) and structured.get("type") == "json"
    return ToolCallParser(names, is_object_a_call=not is_users) if names else None


def _template_stops(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop strings of a prompt template."""
    match values.get(PREDICTION_PREFIX + "promptTemplate"):
        case {"stopStrings": list(stop_strings)}:
            return tuple(stop for stop in stop_strings if isinstance(stop, str) and stop)
    return ()
