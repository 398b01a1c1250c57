"""One prediction by llama.cpp, in the process of its model, and its events.

llama.cpp does not wait for the client: otherwise a few slow clients would occupy all sessions of the model. What a
client has not read waits in the process of the model, at about 100 bytes a token or candidate, bounded by MAX_TOKENS.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from lmcli.server.engine import LARGE_TEXT, PredictionEvent, PredictionRequest
from lmcli.server.limits import json_size
from lmcli.server.llama.closed_schemas import closed_schema
from lmcli.server.llama.constraint_limits import exceeded_limits
from lmcli.server.llama.engine_errors import PromptTooLong, failing_requests, unsupported_by_engine
from lmcli.server.llama.engine_messages import PromptProgress, Token
from lmcli.server.llama.engine_process import EngineProcess
from lmcli.server.llama.generation import Generation, Step
from lmcli.server.llama.offered_tools import call_schema, is_call_required, offered_tools
from lmcli.server.llama.parameters import sampling_parameters
from lmcli.server.llama.prompt import Prompt, make_prompt
from lmcli.server.llama.tool_call_parser import MARKS
from lmcli.server.text_processing import reasoning_tags
from lmcli.values import JsonObject
from lmcli.wire.prediction_config import PREDICTION_PREFIX

BUDGET_KEY: Final = PREDICTION_PREFIX + "reasoning.budgetTokens"
# The limit where neither the client nor the context has one, in tokens and candidates: a longer answer repeats itself.
MAX_TOKENS: Final = 65_536
# The share of the context that a truncated prompt occupies; the rest is left for the answer.
TRUNCATED_SHARE: Final = 0.75
# The share of a truncated prompt that is its beginning, under the policy truncateMiddle.
HEAD_SHARE: Final = 0.25


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
        state = Generation(self.request, self.context_length, self.gpu_layers)
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
