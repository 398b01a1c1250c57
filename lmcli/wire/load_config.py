"""The table of the options of a load, one entry for each, and of the config keys that have no name.

`load_config` reads what a program gives, `load_stack` writes what is sent. Loaded when a load is configured.
Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts and conversion/llmLoadModelConfig.ts; npm @lmstudio/sdk 2.0.0
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from lmcli.errors import UsageError, quoted
from lmcli.record import Record
from lmcli.values import JsonObject
from lmcli.wire.config import (
    check_field,
    config_stack,
    known_options,
    raw_values,
    unknown_keys,
    unknown_names,
    write_value,
)
from lmcli.wire.config_entries import (
    ANY_SHARE,
    AT_LEAST_0,
    AT_LEAST_1,
    NUMBER,
    Entry,
    Option,
    Table,
    snake_case,
    table,
)
from lmcli.wire.shapes import NATURAL, Exactly

LOAD_PREFIX: Final = "llm.load."

CacheType = Literal["f32", "f16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
Ratio = Literal["max", "off"]

_TEMPLATE: Final = {"type": {"jinja"}, "jinjaPromptTemplate": {"template": str}}
_SPLIT: Final = {
    "strategy": {"evenly", "priorityOrder", "tensor", "custom"},
    "disabledGpus": [NATURAL],
    "priority": [NATURAL],
    "customRatio": [float],
}
_CACHE_BITS: Final = {"enabled": bool, "bits": {2, 3, 4, 6, 8}, "groupSize": {32, 64, 128}, "quantizedStart": NATURAL}
_ARGUMENTS: Final = {
    "enabled": bool,
    "disabledParameters": [str],
    "overrideParameters": [{"key": str, "value": str}],
    "excludeAllConfig": bool,
}


class LoadConfig(Record):
    """How to load a model, under the SDK's names; what is None is not sent.

    False switches off an option that has a switch (`seed`, the frequencies, the types of the cache). `gpu_ratio` and
    `gpu_num_cpu_expert_layers_ratio` are 0 to 1, `max` or `off`. The server does not fit the size to the memory by
    itself where the context or a GPU setting is given, unless `auto_fit` says so.
    `raw` holds full wire keys (`llm.load.…`) for what has no name here; it wins over the names.
    """

    context_length: Annotated[int | None, Entry("contextLength", AT_LEAST_1)] = None
    auto_fit: Annotated[bool | None, Entry("llama.autoFit")] = None
    gpu_ratio: Annotated[float | Ratio | None, Entry("llama.acceleration.offloadRatio", ANY_SHARE)] = None
    gpu_num_cpu_expert_layers_ratio: Annotated[float | Ratio | None, Entry("numCpuExpertLayersRatio", ANY_SHARE)] = None
    gpu_split_config: Annotated[JsonObject | None, Entry("/load.gpuSplitConfig", shape=_SPLIT)] = None
    gpu_strict_vram_cap: Annotated[bool | None, Entry("/load.gpuStrictVramCap")] = None
    seed: Annotated[int | Literal[False] | None, Entry("seed", (-1, None), off=0)] = None
    num_experts: Annotated[int | None, Entry("numExperts", AT_LEAST_0)] = None
    offload_kv_cache_to_gpu: Annotated[bool | None, Entry("offloadKVCacheToGpu")] = None
    max_parallel_predictions: Annotated[int | None, Entry("numParallelSessions", (1, 1023))] = None
    use_unified_kv_cache: Annotated[bool | None, Entry("useUnifiedKvCache")] = None
    prompt_template: Annotated[JsonObject | None, Entry("promptTemplate", shape=_TEMPLATE)] = None
    eval_batch_size: Annotated[int | None, Entry("llama.evalBatchSize", AT_LEAST_1)] = None
    physical_batch_size: Annotated[int | None, Entry("llama.physicalBatchSize", AT_LEAST_1)] = None
    flash_attention: Annotated[bool | None, Entry("llama.flashAttention")] = None
    keep_model_in_memory: Annotated[bool | None, Entry("llama.keepModelInMemory")] = None
    use_fp16_for_kv_cache: Annotated[bool | None, Entry("llama.useFp16ForKVCache")] = None
    try_mmap: Annotated[bool | None, Entry("llama.tryMmap")] = None
    try_direct_io: Annotated[bool | None, Entry("llama.tryDirectIO")] = None
    rope_frequency_base: Annotated[
        float | Literal[False] | None, Entry("llama.ropeFrequencyBase", AT_LEAST_0, off=0)
    ] = None
    rope_frequency_scale: Annotated[
        float | Literal[False] | None, Entry("llama.ropeFrequencyScale", AT_LEAST_0, off=0)
    ] = None
    llama_k_cache_quantization_type: Annotated[
        CacheType | Literal[False] | None, Entry("llama.kCacheQuantizationType", off="f16")
    ] = None
    llama_v_cache_quantization_type: Annotated[
        CacheType | Literal[False] | None, Entry("llama.vCacheQuantizationType", off="f16")
    ] = None
    llama_cpp_arguments_override: Annotated[JsonObject | None, Entry("llama.argumentsOverride", shape=_ARGUMENTS)] = (
        None
    )
    context_checkpoints: Annotated[int | None, Entry("llama.contextCheckpoints", AT_LEAST_0)] = None
    reasoning_budget_message: Annotated[str | None, Entry("llama.reasoningBudgetMessage")] = None
    speculative_draft_mtp: Annotated[bool | None, Entry("llama.speculativeDecoding.draftMtp")] = None
    speculative_draft_simple: Annotated[bool | None, Entry("llama.speculativeDecoding.draftSimple")] = None
    speculative_draft_model: Annotated[str | None, Entry("llama.speculativeDecoding.draftModel")] = None
    speculative_draft_max_tokens: Annotated[
        int | None, Entry("llama.speculativeDecoding.draftMaxTokens", AT_LEAST_0)
    ] = None
    speculative_draft_min_tokens: Annotated[
        int | None, Entry("llama.speculativeDecoding.draftMinTokens", AT_LEAST_0)
    ] = None
    speculative_draft_min_continue_probability: Annotated[
        float | None, Entry("llama.speculativeDecoding.draftMinContinueProbability", ANY_SHARE)
    ] = None
    mlx_disk_cache: Annotated[bool | None, Entry("mlx.diskCache")] = None
    mlx_kv_cache_quantization: Annotated[JsonObject | None, Entry("mlx.kvCacheQuantization", shape=_CACHE_BITS)] = None
    raw: Mapping[str, Any] = MappingProxyType({})


LOAD_OPTIONS: Table = table(LoadConfig, LOAD_PREFIX)

UNNAMED_IN_LOADS: Final = (
    *(
        option._replace(key=LOAD_PREFIX + option.key)
        for option in (
            Option("autoFitMinContextLength", int, AT_LEAST_0),
            Option("llama.cpuThreadPoolSize", NUMBER, AT_LEAST_1),
            Option("llama.speculativeDecoding.draftDflashSidecar", bool),
            Option("llama.speculativeDecoding.draftDsparkSidecar", bool),
            Option("llama.speculativeDecoding.draftMtpSidecar", bool),
            Option("mlx.autoFit", bool),
            Option("yuzu.autoFit", bool),
            Option("vllm.gpuMemoryUtilization", NUMBER, ANY_SHARE),
            Option("vllm.reasoningParser", str),
            Option("vllm.toolCallParser", str),
        )
    ),
    Option("envVars", dict, shape=Exactly({"HSA_OVERRIDE_GFX_VERSION?": str})),
)
"""Fields that servers know and the SDKs have no name for."""

LOAD_KEYS: Final = {option.key: option for option in (*LOAD_OPTIONS.values(), *UNNAMED_IN_LOADS)}

_AUTO_FIT: Final = (LOAD_OPTIONS["auto_fit"].key, LOAD_PREFIX + "mlx.autoFit")
_SPLIT_KEY: Final = LOAD_OPTIONS["gpu_split_config"].key
_MANUAL: Final = frozenset(
    LOAD_OPTIONS[name].key
    for name in ("context_length", "gpu_ratio", "gpu_num_cpu_expert_layers_ratio", "gpu_strict_vram_cap")
)
_GPU: Final = ("ratio", "num_cpu_expert_layers_ratio", "main_gpu", "split_strategy", "disabled_gpus")


def load_config(options: Mapping[str, Any] | LoadConfig | None) -> LoadConfig:
    """Read options of a load under the SDK's names; those that are unknown are left out.

    Shapes: {"contextLength": int, "gpu": {"ratio": float | "max" | "off", "mainGpu": int, "splitStrategy": "evenly" |
    "favorMainGpu", "disabledGpus": [int]}, "flashAttention": bool, …}; a value that is None is left out.
    Raises:
        UsageError: it is not an object, or the GPU options cannot have their values.
    """
    if options is None or isinstance(options, LoadConfig):
        return options or LoadConfig()
    return LoadConfig(**_gpu_options(options) | known_options(options, LOAD_OPTIONS))


def unknown_load_options(options: Mapping[str, Any] | LoadConfig | None) -> Iterator[str]:
    """Say which names and raw keys are none that servers are known to read, and which ones are near."""
    if isinstance(options, LoadConfig):
        yield from unknown_keys(options.raw, LOAD_KEYS)
    elif options is not None:
        yield from unknown_names(options, (*LOAD_OPTIONS, "gpu", "raw"), "load option")
        yield from unknown_names(options.get("gpu") or (), _GPU, "gpu option")
        yield from unknown_keys(options.get("raw"), LOAD_KEYS)


def load_stack(config: LoadConfig) -> JsonObject:
    """Write load options as a stack of one layer.

    A server with `autoFit`, which is its default, chooses context and GPU layers itself; what the user chooses has an
    effect where it is off.

    Raises:
        UsageError: a value is out of range or of the wrong type.
    """
    given = {name: value for name in LOAD_OPTIONS if (value := getattr(config, name)) is not None}
    values = {LOAD_OPTIONS[name].key: write_value(LOAD_OPTIONS[name], name, value) for name, value in given.items()}
    for key, value in raw_values(config.raw).items():
        if key in LOAD_KEYS:
            check_field(LOAD_KEYS[key], key, value)
        values[key] = value
    if _AUTO_FIT[0] in values or _is_manual(values):
        values = dict.fromkeys(_AUTO_FIT, values.get(_AUTO_FIT[0], False)) | values
    return config_stack(values)


def _is_manual(values: JsonObject) -> bool:
    """Whether the user chooses the size, or the GPUs; which ones are not used is no such choice."""
    split = values.get(_SPLIT_KEY, {})
    chosen = (split.get("strategy", "evenly") != "evenly", split.get("priority"), split.get("customRatio"))
    return not _MANUAL.isdisjoint(values) or any(chosen) or split.get("disabledGpus") == []


def _gpu_options(options: Mapping[str, Any]) -> JsonObject:
    """The options inside `gpu`."""
    if not isinstance(options, Mapping):
        raise UsageError(f"the configuration of a load must be an object, not {quoted(options)}")
    gpu = options.get("gpu")
    if gpu is None:
        return {}
    if not isinstance(gpu, Mapping):
        raise UsageError(f"gpu must be an object, not {quoted(gpu)}")
    given = {snake_case(name): value for name, value in gpu.items() if value is not None}
    return {
        "gpu_ratio": given.get("ratio"),
        "gpu_num_cpu_expert_layers_ratio": given.get("num_cpu_expert_layers_ratio"),
        "gpu_split_config": _split(given),
    }


def _split(gpu: Mapping[str, Any]) -> JsonObject | None:
    """How the layers are split among several GPUs."""
    if gpu.keys().isdisjoint(_GPU[2:]):
        return None
    main, strategy, disabled = gpu.get("main_gpu"), gpu.get("split_strategy", "evenly"), gpu.get("disabled_gpus", [])
    numbers = [*disabled, *([] if main is None else [main])] if isinstance(disabled, list | tuple) else [None]
    if strategy not in ("evenly", "favorMainGpu") or any(type(number) is not int for number in numbers):
        raise UsageError(
            "gpu takes mainGpu, a number, disabledGpus, numbers, and splitStrategy, evenly or favorMainGpu,"
            f" not {quoted(gpu)}"
        )
    is_main_first = strategy == "favorMainGpu"
    return {
        "strategy": "priorityOrder" if is_main_first else "evenly",
        "disabledGpus": list(disabled),
        "priority": [main] if is_main_first and main is not None else [],
        "customRatio": [],
    }
