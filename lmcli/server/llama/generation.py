"""What llama.cpp generates for one prediction → events: fragments, tool calls and stats."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmcli.server.engine import PredictionEvent, PredictionRequest, PromptRead
from lmcli.server.llama.engine_messages import PromptProgress, Token
from lmcli.server.llama.offered_tools import names_of, offered_tools
from lmcli.server.llama.prompt import Prompt
from lmcli.server.llama.tool_call_parser import ToolCallParser
from lmcli.server.text_processing import TextProcessor, reasoning_tags
from lmcli.values import CandidateToken, Fragment, PredictedToken, Stats, ToolCallValue
from lmcli.wire.prediction_config import PREDICTION_PREFIX

Step = Token | PromptProgress


class Generation:
    """The state of a prediction: steps in, events out.

    Args:
        request: what was asked for.
        context_length: of the model, in tokens.
        gpu_layers: the number of layers on the GPU.
    """

    def __init__(self, request: PredictionRequest, context_length: int, gpu_layers: int) -> None:
        options = request.options
        self._request = request
        self._tool_stops = frozenset(options.tool_call_stop_strings or ())
        stop_strings = (*(options.stop_strings or ()), *_template_stops(request.values), *self._tool_stops)
        self._tags = reasoning_tags(options)
        self._processor = TextProcessor(stop_strings, self._tags)
        self._tool_calls = _tool_calls(request.values)
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
            yield from fragments if self._tool_calls is None else self._tool_calls.separated(fragments)
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
            yield from fragments if self._tool_calls is None else self._tool_calls.separated(fragments)
        for event in () if self._tool_calls is None else self._tool_calls.end():
            if not isinstance(event, Fragment) or self._stop_reason != "userStopped":
                yield event
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


class _ToolCalls:
    """Separates tool calls from the text that is not reasoning."""

    def __init__(self, parser: ToolCallParser) -> None:
        self._parser = parser
        # Its tokens are those of text that is held back.
        self._held = Fragment("", 0)

    def separated(self, fragments: Iterator[Fragment]) -> Iterator[Fragment | ToolCallValue]:
        """Fragments of text, and the parts of calls."""
        for fragment in fragments:
            if fragment.reasoning_type == "none":
                yield from self._values(fragment, self._parser.feed(fragment.content))
            else:
                yield fragment

    def end(self) -> Iterator[Fragment | ToolCallValue]:
        """What was held back."""
        return self._values(Fragment("", 0), self._parser.end())

    def _values(self, fragment: Fragment, values: Iterator[str | ToolCallValue]) -> Iterator[Fragment | ToolCallValue]:
        count, tokens = self._held.tokens_count + fragment.tokens_count, self._held.tokens + fragment.tokens
        rest = fragment._replace(tokens_count=count, tokens=tokens)
        for value in values:
            yield rest._replace(content=value) if isinstance(value, str) else value
            rest = rest._replace(tokens_count=0, tokens=())
        self._held = rest if self._parser.holds_text else Fragment("", 0)


def _tool_calls(values: Mapping[str, Any]) -> _ToolCalls | None:
    names = names_of(offered_tools(values))
    structured = values.get(PREDICTION_PREFIX + "structured")
    is_users = isinstance(structured, Mapping) and structured.get("type") == "json"
    return _ToolCalls(ToolCallParser(names, is_object_a_call=not is_users)) if names else None


def _template_stops(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop strings of a prompt template."""
    match values.get(PREDICTION_PREFIX + "promptTemplate"):
        case {"stopStrings": list(stop_strings)}:
            return tuple(stop for stop in stop_strings if isinstance(stop, str) and stop)
    return ()
