"""What travels between the wire and the user: frozen values, in snake_case, with units.

What the server fills key by key is a `Record`, the rest are named tuples.

Figures keep the server's names (`predicted_tokens_count`, `time_to_first_token_sec`), written as the official
Python SDK writes them, so that a program for one runs with the other.
"""

from typing import Any, Literal, NamedTuple

from lmcli.record import Record

JsonObject = dict[str, Any]


class Fragment(NamedTuple):
    """A piece of text as it arrives; usually one model token.

    `str(fragment)` is its text, so that `print(fragment, end="")` streams.

    Attributes:
        content: the text; may be empty and may end inside a grapheme.
        tokens_count: model tokens in it, approximate.
        contains_drafted: whether a draft model proposed some of it.
        reasoning_type: `none` for the answer; anything else belongs to the model's reasoning.
    """

    content: str
    tokens_count: int = 1
    contains_drafted: bool = False
    reasoning_type: str = "none"

    def __str__(self) -> str:
        return self.content


class LoadProgress(NamedTuple):
    """How much of a model is loaded, 0.0 to 1.0."""

    progress: float


class PromptProgress(NamedTuple):
    """How much of the prompt the model has read, 0.0 to 1.0."""

    progress: float


Value = Fragment | PromptProgress | LoadProgress
"""What an exchange says while it runs."""


class Stats(Record):
    """The server's figures on one prediction; a count that the server did not give is None.

    `total_tokens_count` is prompt + predicted; the draft counts obey total = accepted + rejected + ignored.
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
    used_draft_model_key: str | None = None
    total_draft_tokens_count: int | None = None
    accepted_draft_tokens_count: int | None = None
    rejected_draft_tokens_count: int | None = None
    ignored_draft_tokens_count: int | None = None


class Quantization(Record):
    """How a model's weights were rounded, such as Q4_K_M with 4 bits."""

    name: str
    bits: int


class ModelInfo(Record):
    """A downloaded model.

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
    vision: bool = False
    trained_for_tool_use: bool = False


class ModelInstance(ModelInfo):
    """A loaded model: `identifier` is its name among the loaded, `last_used_time` Unix milliseconds."""

    identifier: str
    instance_reference: str
    context_length: int
    ttl_ms: int | None = None
    last_used_time: float | None = None


class LoadConfig(NamedTuple):
    """How to load a model: context length in tokens, share of the layers on the GPU (0.0 to 1.0, `max`, `off`)."""

    context_length: int | None = None
    gpu_ratio: float | Literal["max", "off"] | None = None


class PredictionEnd(NamedTuple):
    """The last thing that a prediction says: its figures, the model, and the configuration in force."""

    stats: Stats
    model_info: ModelInstance
    load_config: JsonObject
    prediction_config: JsonObject


class PredictionResult(NamedTuple):
    """A finished prediction; `str(result)` is its text.

    Attributes:
        content: all the text that was generated, reasoning and its tags included (as in the SDK).
        reasoning: the text inside the reasoning tags.
        answer: the text outside of them.
        parsed: the object, where structured output was asked for and the text is a JSON object; else `content`.
    """

    content: str
    reasoning: str
    answer: str
    parsed: str | JsonObject
    stats: Stats
    model_info: ModelInstance
    load_config: JsonObject
    prediction_config: JsonObject

    def __str__(self) -> str:
        return self.content
