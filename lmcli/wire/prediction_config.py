"""The table of prediction options, one entry for each, and of the config keys that have no name.

An entry says what the option is called in Python, which values it takes, what it is on the wire, whether raw
completion takes it, and the flag of the command line, if it has one. The wire codec, the configuration of the Python
API, help, manual pages, completions, `--set` and `--dry-run` all read it here.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from lmcli.record import Record
from lmcli.values import JsonObject
from lmcli.wire.config_entries import (
    ANY_SHARE,
    AT_LEAST_0,
    AT_LEAST_1,
    NUMBER,
    TEXTS,
    Entry,
    Flag,
    Option,
    Table,
    table,
)

PREDICTION_PREFIX: Final = "llm.prediction."

OverflowPolicy = Literal["stopAtLimit", "truncateMiddle", "rollingWindow"]
ToolNaming = Literal["passThrough", "removeSpecial", "snakeCase", "camelCase"]

# Source: lmstudio-js 6ec11db, lms-shared-types/src/llm: LLMStructuredPredictionSetting, LLMPromptTemplate, LLMToolUse,
# LLMReasoningParsing
_STRUCTURE: Final = (
    {"type": {"json"}, "jsonSchema?": dict},
    {"type": {"gbnf"}, "gbnfGrammar": str},
    {"type": {"none"}},
)
_AFFIXES: Final = {f"{place}{role}": str for role in ("System", "User", "Assistant") for place in ("before", "after")}
_TEMPLATE: Final = (
    {"type": {"jinja"}, "stopStrings": [str], "jinjaPromptTemplate": {"template": str}},
    {"type": {"manual"}, "stopStrings": [str], "manualPromptTemplate": _AFFIXES},
)
_PARAMETERS: Final = {"type": {"object"}, "properties": dict, "required?": [str], "$defs?": dict}
_FUNCTION: Final = {"name": str, "description?": str, "parameters?": _PARAMETERS}
TOOL: Final = {"type": {"function"}, "function": _FUNCTION}
_TOOLS: Final = ({"type": {"none"}}, {"type": {"toolArray"}, "tools?": [TOOL]})
_CHOICE: Final = {"type": {"generic"}, "mode": {"none", "auto", "required"}}
_PARSING: Final = {"enabled": bool, "startString": str, "endString": str}
_POLICIES: Final = {"stop": "stopAtLimit", "middle": "truncateMiddle", "rolling": "rollingWindow"}


class PredictionConfig(Record):
    """Sampling options under the SDK's names; what is None is not sent, so presets and app settings hold.

    False switches off an option that has a switch (`max_tokens`, the penalties and samplers).
    `raw` holds full wire keys (`llm.prediction.…`) for what has no name here; it wins over the names.
    Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts
    """

    temperature: Annotated[
        float | None,
        Entry("temperature", AT_LEAST_0, flag=Flag(("-t", "--temperature"), "T", "0 is deterministic.")),
    ] = None
    max_tokens: Annotated[
        int | Literal[False] | None,
        Entry("maxPredictedTokens", AT_LEAST_1, off=1, flag=Flag(("-l", "--max-tokens"), "N", "Limit of the answer.")),
    ] = None
    stop_strings: Annotated[
        tuple[str, ...] | None,
        Entry("stopStrings", flag=Flag(("--stop",), "STR", "End before this text; may be repeated.")),
    ] = None
    tool_call_stop_strings: Annotated[tuple[str, ...] | None, Entry("toolCallStopStrings")] = None
    context_overflow_policy: Annotated[
        OverflowPolicy | None,
        Entry("contextOverflowPolicy", flag=Flag(("--overflow",), None, "When the context is full.", words=_POLICIES)),
    ] = None
    structured: Annotated[JsonObject | None, Entry("structured", shape=_STRUCTURE)] = None
    top_k_sampling: Annotated[
        int | None, Entry("topKSampling", (-1, 500), flag=Flag(("--top-k",), "K", "Only the K likeliest tokens."))
    ] = None
    repeat_penalty: Annotated[
        float | Literal[False] | None,
        Entry(
            "repeatPenalty",
            (-1, None),
            off=1.1,
            flag=Flag(("--repeat-penalty",), "X", "Above 1 discourages repetition."),
        ),
    ] = None
    presence_penalty: Annotated[
        float | Literal[False] | None,
        Entry(
            "llama.presencePenalty",
            off=0,
            flag=Flag(("--presence-penalty",), "X", "Above 0 discourages tokens that occurred."),
        ),
    ] = None
    frequency_penalty: Annotated[
        float | Literal[False] | None,
        Entry(
            "llama.frequencyPenalty",
            off=0,
            flag=Flag(("--frequency-penalty",), "X", "Above 0 discourages frequent tokens."),
        ),
    ] = None
    min_p_sampling: Annotated[
        float | Literal[False] | None,
        Entry("minPSampling", ANY_SHARE, off=0.05, flag=Flag(("--min-p",), "P", "Least relative probability, 0 to 1.")),
    ] = None
    top_p_sampling: Annotated[
        float | Literal[False] | None,
        Entry("topPSampling", ANY_SHARE, off=0.95, flag=Flag(("--top-p",), "P", "Nucleus sampling, 0 to 1.")),
    ] = None
    seed: Annotated[
        int | Literal[False] | None,
        Entry("seed", (-1, None), off=-1, flag=Flag(("--seed",), "N", "Same seed, same text.")),
    ] = None
    log_probs: Annotated[
        int | Literal[False] | None,
        Entry(
            "logProbs",
            (0, 100),
            off=0,
            flag=Flag(("--logprobs",), "N", "In JSON, log probabilities of the tokens and of N candidates."),
        ),
    ] = None
    xtc_probability: Annotated[float | Literal[False] | None, Entry("llama.xtcProbability", ANY_SHARE, off=0)] = None
    xtc_threshold: Annotated[float | Literal[False] | None, Entry("llama.xtcThreshold", ANY_SHARE, off=0)] = None
    cpu_threads: Annotated[int | None, Entry("llama.cpuThreads", AT_LEAST_1)] = None
    prompt_template: Annotated[JsonObject | None, Entry("promptTemplate", shape=_TEMPLATE)] = None
    raw_tools: Annotated[JsonObject | None, Entry("tools", is_in_raw_completion=False, shape=_TOOLS)] = None
    tool_choice: Annotated[JsonObject | None, Entry("toolChoice", is_in_raw_completion=False, shape=_CHOICE)] = None
    tool_naming: Annotated[ToolNaming | None, Entry("toolNaming", is_in_raw_completion=False)] = None
    draft_model: Annotated[
        str | None,
        Entry(
            "speculativeDecoding.draftModel",
            flag=Flag(("--draft-model",), "KEY", "Small model for speculative decoding."),
        ),
    ] = None
    speculative_decoding_num_draft_tokens_exact: Annotated[
        int | None, Entry("speculativeDecoding.numDraftTokensExact", AT_LEAST_1)
    ] = None
    speculative_decoding_min_draft_length_to_consider: Annotated[
        int | None, Entry("speculativeDecoding.minDraftLengthToConsider", AT_LEAST_0)
    ] = None
    speculative_decoding_min_continue_drafting_probability: Annotated[
        float | None, Entry("speculativeDecoding.minContinueDraftingProbability", ANY_SHARE)
    ] = None
    reasoning_parsing: Annotated[JsonObject | None, Entry("reasoning.parsing", shape=_PARSING)] = None
    enable_thinking: Annotated[bool | None, Entry("reasoning.enableThinking", is_in_raw_completion=False)] = None
    reasoning_budget: Annotated[
        int | Literal[False] | None,
        Entry("reasoning.budgetTokens", AT_LEAST_0, off=1024, is_in_raw_completion=False),
    ] = None
    user_max_image_dimension_pixels: Annotated[
        int | Literal[False] | None, Entry("vision.userMaxImageDimensionPixels", AT_LEAST_1, off=1024)
    ] = None
    ignore_model_preferred_max_image_dimension: Annotated[
        bool | None, Entry("vision.ignoreModelPreferredMaxImageDimension")
    ] = None
    raw: Mapping[str, Any] = MappingProxyType({})


OPTIONS: Table = table(PredictionConfig, PREDICTION_PREFIX)

# Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts; LLMLlamaMirostatSamplingConfig, LLMLlamaLogitBiasConfig
UNNAMED: Final = tuple(
    option._replace(key=PREDICTION_PREFIX + option.key)
    for option in (
        Option("systemPrompt", str),
        Option("contextPrefill", TEXTS, shape=[{"type": {"jsonFile", "yamlFile"}, "absPath": str}]),
        Option("speculativeDecoding.numReuseTokens", int, AT_LEAST_1),
        Option("speculativeDecoding.maxTokensToDraft", int, AT_LEAST_1),
        Option(
            "llama.mirostatSampling", dict, shape={"version": range(3), "learningRate": float, "targetEntropy": float}
        ),
        Option("llama.tailFreeSampling", NUMBER, ANY_SHARE, off=0.95),
        Option("llama.locallyTypicalSampling", NUMBER, ANY_SHARE, off=0.9),
        Option("llama.logitBias", TEXTS, shape=[[float, (float, {"-inf"})]]),
    )
)
"""Fields that servers know and the SDKs have no name for; they are sent as they are, through `raw`."""
