"""The table of prediction options: one entry for each, from which everything that knows options is made.

An entry says what the option is called in Python, which values it takes, what it is on the wire, whether raw
completion takes it, and the flag of the command line, if it has one. The wire codec, the configuration of the Python
API, help, manual pages, completions and `--dry-run` all read it here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType, NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

from lmcli.record import Record, distinct
from lmcli.values import JsonObject

Range = tuple[float | None, float | None]
Types = type | tuple[type, ...]

OverflowPolicy = Literal["stopAtLimit", "truncateMiddle", "rollingWindow"]
ToolNaming = Literal["passThrough", "removeSpecial", "snakeCase", "camelCase"]

NUMBER: Final = (int, float)
TEXTS: Final = (list, tuple)


@distinct
class Flag(NamedTuple):
    """How an option is given on a command line.

    Attributes:
        names: one or more, the long one last.
        metavar: what stands for its value in the help.
        help: what it is for.
        words: what is typed for each value, if that is something else.
    """

    names: tuple[str, ...]
    metavar: str | None
    help: str
    words: Mapping[str, str] | None = None


@distinct
class Form(NamedTuple):
    """What a value that is an object must look like: a check, and its description."""

    is_met: Callable[[Mapping[str, Any]], bool]
    text: str


@distinct
class Entry(NamedTuple):
    """What an annotation says of an option beside its type.

    Attributes:
        key: the config key after `llm.prediction.`.
        range: the lowest and the highest value allowed.
        off: for an option with a switch, the value that goes beside `checked: false`; else None.
        flag: how it is given on a command line; None for Python programs only.
        is_in_raw_completion: whether raw completion takes it.
        form: what an object must look like.
    """

    key: str
    range: Range = (None, None)
    off: Any = None
    flag: Flag | None = None
    is_in_raw_completion: bool = True
    form: Form | None = None


@distinct
class Option(NamedTuple):
    """An entry with its type: see `Entry`; `choices` are the only texts allowed, if not all are."""

    key: str
    type: Types
    range: Range = (None, None)
    off: Any = None
    flag: Flag | None = None
    is_in_raw_completion: bool = True
    form: Form | None = None
    choices: tuple[str, ...] = ()


def _is_structure(value: Mapping[str, Any]) -> bool:
    match value:
        case {"type": "json"}:
            return isinstance(value.get("jsonSchema", {}), Mapping)
        case {"type": "gbnf", "gbnfGrammar": str()} | {"type": "none"}:
            return True
    return False


def _is_template(value: Mapping[str, Any]) -> bool:
    match value:
        case {"type": "jinja", "stopStrings": list(strings), "jinjaPromptTemplate": {"template": str()}}:
            return all(isinstance(string, str) for string in strings)
        case {"type": "manual", "stopStrings": list(strings), "manualPromptTemplate": Mapping()}:
            return all(isinstance(string, str) for string in strings)
    return False


def _is_choice(value: Mapping[str, Any]) -> bool:
    return value.get("type") == "generic" and value.get("mode") in ("none", "auto", "required")


# Source: lmstudio-js 6ec11db, lms-shared-types/src/llm: LLMStructuredPredictionSetting, LLMPromptTemplate, LLMToolUse
_STRUCTURE: Final = Form(_is_structure, 'type "json" with a jsonSchema, "gbnf" with a gbnfGrammar, or "none"')
_TEMPLATE: Final = Form(
    _is_template, 'type "jinja" with a jinjaPromptTemplate or "manual" with a manualPromptTemplate, and stopStrings'
)
_CHOICE: Final = Form(_is_choice, 'type "generic" and mode "none", "auto" or "required"')
_POLICIES: Final = {"stop": "stopAtLimit", "middle": "truncateMiddle", "rolling": "rollingWindow"}
_ANY_SHARE: Final = (0, 1)


class PredictionConfig(Record):
    """Sampling options under the SDK's names; what is None is not sent, so presets and app settings hold.

    False switches off an option that has a switch (`max_tokens`, the penalties and samplers).
    `raw` holds full wire keys (`llm.prediction.…`) for what has no name here; it wins over the names.
    Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts
    """

    temperature: Annotated[
        float | None,
        Entry("temperature", (0, None), flag=Flag(("-t", "--temperature"), "T", "0 is deterministic.")),
    ] = None
    max_tokens: Annotated[
        int | Literal[False] | None,
        Entry("maxPredictedTokens", (1, None), off=1, flag=Flag(("-l", "--max-tokens"), "N", "Limit of the answer.")),
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
    structured: Annotated[JsonObject | None, Entry("structured", form=_STRUCTURE)] = None
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
    min_p_sampling: Annotated[
        float | Literal[False] | None,
        Entry(
            "minPSampling", _ANY_SHARE, off=0.05, flag=Flag(("--min-p",), "P", "Least relative probability, 0 to 1.")
        ),
    ] = None
    top_p_sampling: Annotated[
        float | Literal[False] | None,
        Entry("topPSampling", _ANY_SHARE, off=0.95, flag=Flag(("--top-p",), "P", "Nucleus sampling, 0 to 1.")),
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
    presence_penalty: Annotated[float | Literal[False] | None, Entry("llama.presencePenalty", off=0)] = None
    xtc_probability: Annotated[float | Literal[False] | None, Entry("llama.xtcProbability", _ANY_SHARE, off=0)] = None
    xtc_threshold: Annotated[float | Literal[False] | None, Entry("llama.xtcThreshold", _ANY_SHARE, off=0)] = None
    cpu_threads: Annotated[int | None, Entry("llama.cpuThreads", (1, None))] = None
    prompt_template: Annotated[JsonObject | None, Entry("promptTemplate", form=_TEMPLATE)] = None
    raw_tools: Annotated[JsonObject | None, Entry("tools", is_in_raw_completion=False)] = None
    tool_choice: Annotated[JsonObject | None, Entry("toolChoice", is_in_raw_completion=False, form=_CHOICE)] = None
    tool_naming: Annotated[ToolNaming | None, Entry("toolNaming", is_in_raw_completion=False)] = None
    draft_model: Annotated[
        str | None,
        Entry(
            "speculativeDecoding.draftModel",
            flag=Flag(("--draft-model",), "KEY", "Small model for speculative decoding."),
        ),
    ] = None
    speculative_decoding_num_draft_tokens_exact: Annotated[
        int | None, Entry("speculativeDecoding.numDraftTokensExact", (1, None))
    ] = None
    speculative_decoding_min_draft_length_to_consider: Annotated[
        int | None, Entry("speculativeDecoding.minDraftLengthToConsider", (0, None))
    ] = None
    speculative_decoding_min_continue_drafting_probability: Annotated[
        float | None, Entry("speculativeDecoding.minContinueDraftingProbability", _ANY_SHARE)
    ] = None
    reasoning_parsing: Annotated[JsonObject | None, Entry("reasoning.parsing")] = None
    enable_thinking: Annotated[bool | None, Entry("reasoning.enableThinking", is_in_raw_completion=False)] = None
    reasoning_budget: Annotated[
        int | Literal[False] | None,
        Entry("reasoning.budgetTokens", (0, None), off=1024, is_in_raw_completion=False),
    ] = None
    user_max_image_dimension_pixels: Annotated[
        int | Literal[False] | None, Entry("vision.userMaxImageDimensionPixels", (1, None), off=1024)
    ] = None
    ignore_model_preferred_max_image_dimension: Annotated[
        bool | None, Entry("vision.ignoreModelPreferredMaxImageDimension")
    ] = None
    raw: Mapping[str, Any] = MappingProxyType({})


def table(config: type[PredictionConfig]) -> Mapping[str, Option]:
    """The options of a configuration, by their Python names."""
    return MappingProxyType(
        {
            name: _option(annotation.__origin__, annotation.__metadata__[0])
            for name, annotation in config.fields.items()
            if hasattr(annotation, "__metadata__")
        }
    )


def _option(annotation: Any, entry: Entry) -> Option:
    """Read the type beside an entry; None and `Literal[False]` are the absent and the switched-off value."""
    for kind in get_args(annotation):
        origin = get_origin(kind)
        if kind is NoneType or (origin is Literal and get_args(kind) == (False,)):
            continue
        if origin is Literal:
            return Option(entry.key, str, *entry[1:], choices=get_args(kind))
        types: Any = NUMBER if kind is float else TEXTS if origin is tuple else origin or kind
        return Option(entry.key, types, *entry[1:])
    raise TypeError(f"{entry.key} has no type")


OPTIONS: Mapping[str, Option] = table(PredictionConfig)

UNNAMED: Final = (
    Option("systemPrompt", str),
    Option("contextPrefill", TEXTS),
    Option("speculativeDecoding.numReuseTokens", int),
    Option("speculativeDecoding.maxTokensToDraft", int),
    Option("llama.frequencyPenalty", NUMBER, off=0),
    Option("llama.mirostatSampling", dict),
    Option("llama.tailFreeSampling", NUMBER, off=0.95),
    Option("llama.locallyTypicalSampling", NUMBER, off=0.9),
    Option("llama.logitBias", TEXTS),
)
"""Fields that servers know and the SDKs have no name for; they are sent as they are, through `raw`."""
