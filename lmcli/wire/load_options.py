"""The options of a load as the SDK has them, a mapping in camelCase or snake_case → `LoadConfig`.

Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts and conversion/llmLoadModelConfig.ts
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from lmcli.errors import UsageError, quoted
from lmcli.values import JsonObject, LoadConfig
from lmcli.wire.config import nearest, write_value
from lmcli.wire.prediction_config import NUMBER, Option

_CACHE_TYPES: Final = ("f32", "f16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_AT_LEAST_0: Final = (0, None)
_AT_LEAST_1: Final = (1, None)

_FIELDS: Final = {
    "seed": Option("llm.load.seed", int, (-1, None), off=0),
    "num_experts": Option("llm.load.numExperts", int, _AT_LEAST_0),
    "offload_kv_cache_to_gpu": Option("llm.load.offloadKVCacheToGpu", bool),
    "max_parallel_predictions": Option("llm.load.numParallelSessions", int, (1, 1023)),
    "use_unified_kv_cache": Option("llm.load.useUnifiedKvCache", bool),
    "eval_batch_size": Option("llm.load.llama.evalBatchSize", int, _AT_LEAST_1),
    "flash_attention": Option("llm.load.llama.flashAttention", bool),
    "keep_model_in_memory": Option("llm.load.llama.keepModelInMemory", bool),
    "use_fp16_for_kv_cache": Option("llm.load.llama.useFp16ForKVCache", bool),
    "try_mmap": Option("llm.load.llama.tryMmap", bool),
    "rope_frequency_base": Option("llm.load.llama.ropeFrequencyBase", NUMBER, _AT_LEAST_0, off=0),
    "rope_frequency_scale": Option("llm.load.llama.ropeFrequencyScale", NUMBER, _AT_LEAST_0, off=0),
    "llama_k_cache_quantization_type": Option(
        "llm.load.llama.kCacheQuantizationType", str, off="f16", choices=_CACHE_TYPES
    ),
    "llama_v_cache_quantization_type": Option(
        "llm.load.llama.vCacheQuantizationType", str, off="f16", choices=_CACHE_TYPES
    ),
    "gpu_strict_vram_cap": Option("load.gpuStrictVramCap", bool),
}
_CONTEXT_LENGTH: Final = Option("llm.load.contextLength", int, _AT_LEAST_1)
_GPU: Final = ("ratio", "main_gpu", "split_strategy", "disabled_gpus")
_KNOWN: Final = (*_FIELDS, "context_length", "gpu")


def load_config(options: Mapping[str, Any] | LoadConfig | None) -> LoadConfig:
    """Read options of a load under the SDK's names.

    Shapes: {"contextLength": int, "gpu": {"ratio": float | "max" | "off", "mainGpu": int, "splitStrategy": "evenly" |
    "favorMainGpu", "disabledGpus": [int]}, "flashAttention": bool, …}; a value that is None is left out.
    Raises:
        UsageError: an unknown option, or a value that it cannot have.
    """
    if options is None or isinstance(options, LoadConfig):
        return options or LoadConfig()
    if not isinstance(options, Mapping):
        raise UsageError(f"the configuration of a load must be an object, not {quoted(options)}")
    given = _known(options, _KNOWN, "load option")
    gpu = given.pop("gpu", {})
    if not isinstance(gpu, Mapping):
        raise UsageError(f"gpu must be an object, not {quoted(gpu)}")
    gpu = _known(gpu, _GPU, "gpu option")
    length = given.pop("context_length", None)
    if length is not None:
        length = write_value(_CONTEXT_LENGTH, "context_length", length)
    fields = {_FIELDS[name].key: write_value(_FIELDS[name], name, value) for name, value in given.items()}
    return LoadConfig(length, gpu.pop("ratio", None), fields | _split(gpu))


def _known(options: Mapping[str, Any], known: tuple[str, ...], kind: str) -> JsonObject:
    """The options that are not None, in snake_case."""
    given = {_snake(name): value for name, value in options.items() if value is not None}
    for name in given:
        if name not in known:
            raise UsageError(f"unknown {kind} {quoted(name)}", *(f"did you mean {n}?" for n in nearest(name, known)))
    return given


def _split(gpu: Mapping[str, Any]) -> JsonObject:
    """How the layers are split among several GPUs."""
    if not gpu:
        return {}
    main, strategy, disabled = gpu.get("main_gpu"), gpu.get("split_strategy", "evenly"), gpu.get("disabled_gpus", [])
    numbers = [*disabled, *([] if main is None else [main])] if isinstance(disabled, list | tuple) else [None]
    if strategy not in ("evenly", "favorMainGpu") or any(type(number) is not int for number in numbers):
        raise UsageError(
            "gpu takes mainGpu, a number, disabledGpus, numbers, and splitStrategy, evenly or favorMainGpu,"
            f" not {quoted(gpu)}"
        )
    is_main_first = strategy == "favorMainGpu"
    return {
        "load.gpuSplitConfig": {
            "strategy": "priorityOrder" if is_main_first else "evenly",
            "disabledGpus": list(disabled),
            "priority": [main] if is_main_first and main is not None else [],
            "customRatio": [],
        }
    }


def _snake(name: str) -> str:
    """The SDK's camelCase has initials in capitals, as in `offloadKVCacheToGpu`."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", words).lower()
