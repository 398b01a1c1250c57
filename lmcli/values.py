"""What travels between the wire and the user: frozen values, in snake_case, with units.

What the server fills key by key is a `Record`, the rest are named tuples.

Statistics keep the server's names (`predicted_tokens_count`, `time_to_first_token_sec`), written as the official
Python SDK writes them, so that a program for one runs with the other.
"""

from typing import Any, NamedTuple

from lmcli.record import Record, distinct

JsonObject = dict[str, Any]


@distinct
class CandidateToken(NamedTuple):
    """A model token that could have been chosen.

    Attributes:
        text: its text; U+FFFD for a part of a character.
        id: its number in the vocabulary of the model.
        log_prob: the natural logarithm of its probability; None if the server did not send it.
    """

    text: str
    id: int
    log_prob: float | None = None


@distinct
class PredictedToken(NamedTuple):
    """A model token that was chosen, sent if `log_probs` is asked for; see `CandidateToken`.

    Attributes:
        text: its text.
        id: its number.
        log_prob: the logarithm of its probability.
        candidates: the likeliest tokens for its place, the likeliest first.
    """

    text: str
    id: int
    log_prob: float | None = None
    candidates: tuple[CandidateToken, ...] = ()


@distinct
class Fragment(NamedTuple):
    """A piece of text as it arrives; usually one model token.

    `str(fragment)` is its text, so that `print(fragment, end="")` streams.

    Attributes:
        content: the text; may be empty and may end inside a grapheme.
        tokens_count: model tokens in it, approximate.
        contains_drafted: whether a draft model proposed some of it.
        reasoning_type: `none` for the answer; anything else belongs to the model's reasoning.
        is_structural: whether it is a control mark of the model's template, which belongs to neither.
        tokens: its tokens, if `log_probs` was asked for.
    """

    content: str
    tokens_count: int = 1
    contains_drafted: bool = False
    reasoning_type: str = "none"
    is_structural: bool = False
    tokens: tuple[PredictedToken, ...] = ()

    def __str__(self) -> str:
        return self.content


@distinct
class LoadProgress(NamedTuple):
    """How much of a model is loaded, 0.0 to 1.0."""

    progress: float


class AmbiguousModel(Record):
    """Several models match the key that was to be loaded.

    Attributes:
        model_key: the model that is loaded.
        candidates: the keys of those that match.
    """

    model_key: str
    candidates: tuple[str, ...]


class UnloadingModel(Record):
    """A model is unloaded first: the server keeps one of those that are loaded on request.

    Attributes:
        model_key: the model that is unloaded.
        identifier: its name among the loaded models.
    """

    model_key: str
    identifier: str


LoadNote = AmbiguousModel | UnloadingModel
"""What a server reports of a load besides its progress."""


class PromptDetails(Record):
    """How many tokens of the prompt the model has read; what the server did not send is None.

    Attributes:
        total_prompt_token_count: all of the prompt: cached, processed and unprocessed.
        cached_token_count: those that the server still had from an earlier prompt.
        processed_prompt_token_count: those that have been read.
        unprocessed_prompt_token_count: those that are left.
    Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/llmBackendInterface.ts
    """

    total_prompt_token_count: int | None = None
    cached_token_count: int | None = None
    processed_prompt_token_count: int | None = None
    unprocessed_prompt_token_count: int | None = None


@distinct
class PromptProgress(NamedTuple):
    """How much of the prompt the model has read, 0.0 to 1.0; details if the server sent them."""

    progress: float
    details: PromptDetails | None = None


@distinct
class ToolCallFragment(NamedTuple):
    """A piece of a tool call that is being generated; what is not in this piece is None.

    Attributes:
        id: the identifier of the call, in the first piece, if the server sends one.
        name: the name of the tool.
        arguments: a piece of the arguments, as text that need not be valid JSON.
    """

    id: str | None = None
    name: str | None = None
    arguments: str | None = None


@distinct
class ToolCallRequest(NamedTuple):
    """An assistant's request to call a function.

    Attributes:
        name: the name of the function.
        arguments: its arguments by name; None for none.
        id: what the result of the call refers to.
    """

    name: str
    arguments: JsonObject | None = None
    id: str | None = None


@distinct
class ToolCallFailure(NamedTuple):
    """A tool call that the model began and that is not valid.

    Attributes:
        message: what is wrong with it.
        name: the name of the tool, if it is known.
        content: what the model generated, if the server sends it.
    """

    message: str
    name: str | None = None
    content: str | None = None


ToolCallValue = ToolCallFragment | ToolCallRequest | ToolCallFailure
Value = Fragment | PromptProgress | LoadProgress | LoadNote | ToolCallValue
"""What a channel delivers while it is open."""


class Stats(Record):
    """The server's statistics on one prediction; what the server did not send is None.

    Attributes:
        stop_reason: why it ended: `eosFound`, `stopStringFound`, `maxPredictedTokensReached`, `contextLengthReached`,
            `toolCalls`, `userStopped`, `modelUnloaded` or `failed`.
        stop_string: the stop string that ended it.
        tokens_per_second: predicted tokens per second.
        num_gpu_layers: layers on the GPU; unreliable.
        time_to_first_token_sec: seconds from the request to the first token.
        total_time_sec: seconds from the request to the end.
        prompt_tokens_count: model tokens in the prompt.
        predicted_tokens_count: model tokens that were predicted, that of the end included.
        total_tokens_count: prompt and predicted tokens together.
        cached_prompt_tokens_count: tokens of the prompt that the server still had from an earlier one.
        used_draft_model_key: the draft model of speculative decoding.
        total_draft_tokens_count: tokens that the draft model proposed: accepted, rejected and ignored ones.
        accepted_draft_tokens_count: proposed tokens that the model accepted.
        rejected_draft_tokens_count: proposed tokens that the model rejected.
        ignored_draft_tokens_count: proposed tokens that were not looked at.
    Source: lmstudio-js 6ec11db, lms-shared-types/src/llm/LLMPredictionStats.ts
    """

    stop_reason: str
    stop_string: str | None = None
    tokens_per_second: float | None = None
    num_gpu_layers: float | None = None
    time_to_first_token_sec: float | None = None
    total_time_sec: float | None = None
    prompt_tokens_count: int | None = None
    predicted_tokens_count: int | None = None
    total_tokens_count: int | None = None
    cached_prompt_tokens_count: int | None = None
    used_draft_model_key: str | None = None
    total_draft_tokens_count: int | None = None
    accepted_draft_tokens_count: int | None = None
    rejected_draft_tokens_count: int | None = None
    ignored_draft_tokens_count: int | None = None


class Quantization(Record):
    """How a model's weights were rounded.

    Attributes:
        name: the method, such as `Q4_K_M`.
        bits: bits per weight.
    """

    name: str
    bits: int


class ModelInfo(Record):
    """A downloaded model.

    Attributes:
        type: `llm`, `embedding` or another kind.
        model_key: what to load it by.
        display_name: its name for people.
        path: its path below the server's folder of models.
        format: the format of its files, such as `gguf`.
        size_bytes: the size of its files, in bytes.
        max_context_length: the longest context that it supports, in model tokens.
        publisher: who published it.
        indexed_model_identifier: its identifier in the server's index.
        device_identifier: the machine that it is on; None is the server's own.
        params_string: the number of its parameters, such as `7B`.
        architecture: its architecture, such as `llama`.
        quantization: how its weights were rounded.
        variants: the keys of its variants, where it has several.
        selected_variant: the key of the variant that is loaded by the model's own key.
        vision: whether it accepts images.
        trained_for_tool_use: whether it was trained to call tools.
    Source: lmstudio-js 6ec11db, lms-shared-types/src/ModelInfoBase.ts and llm/LLMModelInfo.ts
    """

    type: str
    model_key: str
    display_name: str
    path: str
    format: str
    size_bytes: int
    max_context_length: int
    publisher: str = ""
    indexed_model_identifier: str = ""
    device_identifier: str | None = None
    params_string: str | None = None
    architecture: str | None = None
    quantization: Quantization | None = None
    variants: tuple[str, ...] | None = None
    selected_variant: str | None = None
    vision: bool = False
    trained_for_tool_use: bool = False


class ModelInstance(ModelInfo):
    """A loaded model; see `ModelInfo` for what every model has.

    Attributes:
        identifier: its name among the loaded models.
        instance_reference: the server's own name for this instance, never used again.
        context_length: the context that it was loaded with, in model tokens.
        ttl_ms: milliseconds without use after which it is unloaded; None keeps it.
        last_used_time: when it was last used, in Unix milliseconds.
    """

    identifier: str
    instance_reference: str
    context_length: int
    ttl_ms: int | None = None
    last_used_time: float | None = None


@distinct
class PredictionEnd(NamedTuple):
    """What a prediction ends with: its statistics, the model, and the configuration in force."""

    stats: Stats
    model_info: ModelInstance
    load_config: JsonObject
    prediction_config: JsonObject


@distinct
class PredictionResult(NamedTuple):
    """A finished prediction; `str(result)` is its text.

    Attributes:
        content: all the text that was generated: reasoning, its tags and structural marks included (as in the SDK).
        reasoning: the text inside the reasoning tags, without structural marks.
        answer: the text outside of them, without structural marks.
        parsed: the object, where structured output was asked for and the text without structural marks is a JSON
            object; else `content`.
        tool_calls: the tool calls that the model requests, in order.
        tool_call_failures: those that are not valid.
        tokens: the tokens of `answer`, if `log_probs` was asked for.
    """

    content: str
    reasoning: str
    answer: str
    parsed: str | JsonObject
    stats: Stats
    model_info: ModelInstance
    load_config: JsonObject
    prediction_config: JsonObject
    tool_calls: tuple[ToolCallRequest, ...] = ()
    tool_call_failures: tuple[ToolCallFailure, ...] = ()
    tokens: tuple[PredictedToken, ...] = ()

    def __str__(self) -> str:
        return self.content
