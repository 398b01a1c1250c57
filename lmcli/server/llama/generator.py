"""One prediction with llama.cpp: a thread that is inside of it, and the events that come out.

The thread does not wait for readers, or a few slow ones would keep everybody from the model: what one of them has not
taken is kept, at about 300 bytes a token, and never more than MOST_TOKENS of them.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from lmcli.server.engine import PredictionEvent, PredictionRequest, PromptRead
from lmcli.server.failures import Refused, unsupported
from lmcli.server.llama.prompt import Prompt, write_prompt
from lmcli.server.llama.runtime import NAME, VERSION, EngineFailure, PromptTooLong, Runtime, refused, translated
from lmcli.server.llama.sampling import excess, sampling
from lmcli.server.llama.threads import ROOM, ThreadQueue
from lmcli.server.text_stream import Outlet, reasoning_tags
from lmcli.values import Fragment, JsonObject, Stats
from lmcli.wire.config import PREDICTION_PREFIX

BUDGET_KEY: Final = PREDICTION_PREFIX + "reasoning.budgetTokens"
# Where neither the client nor the context ends an answer: one of this size goes in circles.
MOST_TOKENS: Final = 65_536
# Of a prompt that is too long, the share of the context that is kept; the rest is room for the answer.
KEPT_SHARE: Final = 0.75
# The share of the kept that is its beginning, where the middle goes.
HEAD_SHARE: Final = 0.25


class Token(NamedTuple):
    """What llama.cpp says about a token.

    Attributes:
        text: whole characters; empty in the middle of one.
        finish: why it is the last one; None if it is not.
        predicted: how many there are with this one; None where llama.cpp does not say.
        rate: tokens per second so far.
    """

    text: str
    finish: str | None
    predicted: int | None
    rate: float | None


Piece = Token | PromptRead
Warn = Callable[[str, str], None]


@dataclass(slots=True, eq=False, kw_only=True)
class Prediction:
    """A run of a model.

    Attributes:
        warn: reports something once: under which key, and in which words.
        leave: called on the thread when it has left llama.cpp.
    """

    runtime: Runtime
    request: PredictionRequest
    context_length: int
    warn: Warn
    leave: Callable[[], None]
    thread: threading.Thread = field(init=False)
    _way: ThreadQueue[Piece] = field(init=False)
    _prompt: Prompt = field(init=False, default=Prompt(""))
    _failure: Refused | None = field(init=False, default=None)
    _overlong: int | None = field(init=False, default=None)

    def start(self) -> None:
        """Begin to compute."""
        self._way = ThreadQueue(self._most + ROOM)
        self.thread = threading.Thread(target=self._compute, name="llama.cpp prediction", daemon=True)
        self.thread.start()

    async def events(self) -> AsyncGenerator[PredictionEvent, None]:
        """Everything that comes out; ends at once when the request is cancelled.

        Raises:
            Refused: llama.cpp cannot do it, or failed in the middle.
        """
        watch = asyncio.create_task(self._watch())
        run = _Run(self.request, self.context_length)
        try:
            async for piece in self._way:
                for event in run.take(piece, self._prompt):
                    yield event
                if run.is_over:
                    break
        finally:
            watch.cancel()
            self._way.close()
        if self._failure is not None and not self.request.cancelled.is_set():
            raise self._failure
        if self._overlong is not None:
            run.end_before_the_first_token(self._overlong)
        for event in run.end(is_cancelled=self.request.cancelled.is_set()):
            yield event

    async def _watch(self) -> None:
        await self.request.cancelled.wait()
        self._way.close()

    def _compute(self) -> None:
        """What the thread does."""
        try:
            with translated():
                self._stream()
        except Refused as refusal:
            self._failure = refusal
        except EngineFailure as failure:
            self._failure = refused(failure)
        finally:
            self.leave()
            self._way.end()

    def _stream(self) -> None:
        body = self._body()
        try:
            self.runtime.stream(body, self._take)
        except PromptTooLong as problem:
            self._fit(body, problem)

    def _take(self, piece: JsonObject) -> bool:
        return not self._way.put(_piece(piece))

    def _body(self) -> JsonObject:
        request, options = self.request, self.request.options
        body = sampling(request.values)
        for what in excess(body):
            raise unsupported(what, NAME, VERSION)
        if "json_schema" in body:
            self.runtime.check_schema(body["json_schema"])
        self._prompt = write_prompt(self.runtime, request)
        body["prompt"] = self._prompt.text
        body["max_tokens"] = min(options.max_tokens or self._most, self._most)
        if options.context_overflow_policy == "truncateMiddle":
            body["n_keep"] = int(self.context_length * KEPT_SHARE * HEAD_SHARE)
        return body | self._budget()

    @property
    def _most(self) -> int:
        """The most tokens that an answer may have, whatever the client wants."""
        is_bounded = self.request.options.context_overflow_policy == "stopAtLimit"
        return self.context_length if is_bounded else max(MOST_TOKENS, self.context_length)

    def _budget(self) -> JsonObject:
        """How long to think."""
        tags = reasoning_tags(self.request.options)
        budget = self.request.options.reasoning_budget
        if tags is None or budget is None:
            return {}
        if self._prompt.is_thinking:
            self.warn(BUDGET_KEY, "llama.cpp counts no reasoning that the model's template begins: no budget holds")
        return {
            "reasoning_budget_tokens": min(budget, self._most),
            "reasoning_budget_start_tag": tags.start,
            "reasoning_budget_end_tags": [tags.end],
            "reasoning_budget_message": "",  # llama.cpp has no budget without one
        }

    def _fit(self, body: JsonObject, problem: PromptTooLong) -> None:
        """Do with a prompt that is too long what the request says."""
        policy = self.request.options.context_overflow_policy
        if policy == "stopAtLimit":
            self._overlong = problem.prompt_tokens
            return
        tokens = self.runtime.tokenize(self._prompt.text, is_whole=True)
        kept = max(1, int(self.context_length * KEPT_SHARE))
        head = max(1, int(kept * HEAD_SHARE)) if policy == "truncateMiddle" else 1
        tail = max(0, kept - head)
        self.runtime.stream(body | {"prompt": [*tokens[:head], *tokens[len(tokens) - tail :]]}, self._take)


def unstarted(request: PredictionRequest, context_length: int) -> Iterator[PredictionEvent]:
    """What comes out of a prediction that was cancelled before it began."""
    yield from _Run(request, context_length).end(is_cancelled=True)


class _Run:
    """Where a prediction stands: pieces in, events out."""

    def __init__(self, request: PredictionRequest, context_length: int) -> None:
        options = request.options
        self._request = request
        self._tool_stops = frozenset(options.tool_call_stop_strings or ())
        template_stops = _template_stops(request.values)
        signals = (*(options.stop_strings or ()), *template_stops, *self._tool_stops)
        self._tags = reasoning_tags(options)
        self._outlet = Outlet(signals, self._tags)
        self._context_length = context_length
        self._is_bounded = options.context_overflow_policy == "stopAtLimit"
        self._prompt_tokens = 0
        self._predicted = 0
        self._owed = 0
        self._rate: float | None = None
        self._has_begun = False
        self._stop_reason = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted from the engine."""
        return bool(self._stop_reason)

    def take(self, piece: Piece, prompt: Prompt) -> Iterator[PredictionEvent]:
        """Read a piece."""
        if isinstance(piece, PromptRead):
            self._prompt_tokens = piece.total
            yield piece
            return
        if prompt.is_thinking and not self._has_begun and self._tags is not None:
            yield from (f._replace(tokens_count=0) for f in self._outlet.feed(self._tags.start))
        self._has_begun = True
        self._count(piece)
        if self._is_bounded and self._predicted > self._room:
            self._predicted = self._room
            self._stop_reason = "contextLengthReached"
            return
        if piece.text:
            yield from self._fragments(piece.text)
        if self._outlet.stop_string is not None:
            self._stop_reason = "toolCalls" if self._outlet.stop_string in self._tool_stops else "stopStringFound"
        elif piece.finish is not None:
            self._stop_reason = self._reason(piece.finish)

    def end_before_the_first_token(self, prompt_tokens: int) -> None:
        """End with a prompt that leaves no room."""
        self._prompt_tokens = prompt_tokens
        self._stop_reason = "contextLengthReached"

    def end(self, *, is_cancelled: bool) -> Iterator[PredictionEvent]:
        """The last events."""
        if is_cancelled and not self._stop_reason:
            self._stop_reason = "userStopped"
        else:
            yield from self._owing(self._outlet.flush())
        is_found = self._stop_reason == "stopStringFound"
        yield Stats(
            stop_reason=self._stop_reason or "failed",
            stop_string=self._outlet.stop_string if is_found else None,
            tokens_per_second=self._rate if self._predicted > 1 else None,
            prompt_tokens_count=self._prompt_tokens,
            predicted_tokens_count=self._predicted,
            total_tokens_count=self._prompt_tokens + self._predicted,
        )

    @property
    def _room(self) -> int:
        return self._context_length - self._prompt_tokens

    def _count(self, token: Token) -> None:
        predicted = self._predicted + 1 if token.predicted is None else token.predicted
        self._owed += max(0, predicted - self._predicted)
        self._predicted = predicted
        self._rate = token.rate

    def _fragments(self, text: str) -> Iterator[Fragment]:
        self._owed -= 1  # the outlet counts one by itself
        yield from self._owing(self._outlet.feed(text))

    def _owing(self, fragments: Iterator[Fragment]) -> Iterator[Fragment]:
        """Count the tokens that gave no text of their own, such as half a character, to the next fragment."""
        for fragment in fragments:
            yield fragment._replace(tokens_count=fragment.tokens_count + self._owed)
            self._owed = 0

    def _reason(self, finish: str) -> str:
        if finish != "length":
            return "eosFound"
        most = self._request.options.max_tokens
        return "maxPredictedTokensReached" if most and self._predicted >= most else "contextLengthReached"


def _piece(piece: JsonObject) -> Piece:
    if "prompt_progress" in piece:
        return _prompt_read(piece["prompt_progress"])
    choice, timings = piece["choices"][0], piece.get("timings") or {}
    rate = timings.get("predicted_per_second") or None
    return Token(choice["text"], choice["finish_reason"], timings.get("predicted_n"), rate)


def _prompt_read(progress: Mapping[str, int]) -> PromptRead:
    total, cached, done = progress["total"], progress["cache"], progress["processed"]
    return PromptRead(done / total if total else 1.0, max(0, done - cached), total, cached)


def _template_stops(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop strings of a manual prompt template, which come with it."""
    match values.get(PREDICTION_PREFIX + "promptTemplate"):
        case {"type": "manual", "stopStrings": list(signals)}:
            return tuple(stop for stop in signals if isinstance(stop, str) and stop)
    return ()
