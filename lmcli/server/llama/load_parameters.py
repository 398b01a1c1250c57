"""Load keys → how llama.cpp loads a model.

Pure: does not import llama.cpp.
Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts; llama.cpp, common/common.h (common_params).
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, get_args

from lmcli.server.llama.engine_messages import BATCH_TOKENS, LoadOptions
from lmcli.server.request_errors import RequestFailed
from lmcli.values import JsonObject
from lmcli.wire.load_config import LOAD_PREFIX, CacheType

CONTEXT_LENGTH_KEY: Final = LOAD_PREFIX + "contextLength"
REASONING_BUDGET_MESSAGE_KEY: Final = LOAD_PREFIX + "llama.reasoningBudgetMessage"
# In tokens, as in LM Studio.
DEFAULT_CONTEXT_LENGTH: Final = 4096
# The default limits for the concurrent predictions of a model: their number, and the tokens of all their contexts.
MAX_SESSIONS: Final = 4
MAX_SESSIONS_TOKENS: Final = 65_536


class Count(NamedTuple):
    """A load key with an integer: the parameter, and the range that llama.cpp accepts without aborting."""

    name: str
    minimum: int
    maximum: int


COUNTS: Final[Mapping[str, Count]] = {
    "llama.evalBatchSize": Count("n_batch", 32, 65_536),
    "llama.physicalBatchSize": Count("n_ubatch", 32, 65_536),
    "numParallelSessions": Count("n_parallel", 1, 1023),
    "llama.contextCheckpoints": Count("n_ctx_checkpoints", 1, 1024),
    # Threads beyond the number of cores make it slower, and the system limits their number.
    "llama.cpuThreadPoolSize": Count("n_threads", 1, 4 * (os.cpu_count() or 1)),
}


def load_options(
    values: Mapping[str, Any], *, max_context_length: int, layers: int, sessions: int | None = None
) -> LoadOptions:
    """Translate the load config.

    Args:
        values: by wire key.
        max_context_length: the longest context that the model supports; 0 if it does not say.
        layers: the number of layers of the model, with its output.
        sessions: how many predictions run at the same time, unless the config says so; None depends on the context.

    Raises:
        RequestFailed: a value is not in its range.
    """
    found = {**dict(_counts(values)), **_other_parameters(values)}
    context = _context_length(values, max_context_length)
    sessions = sessions or max(1, min(MAX_SESSIONS, MAX_SESSIONS_TOKENS // context))
    sessions = int(found.pop("n_parallel", sessions))
    # llama.cpp aborts unless one token of each session fits into a batch.
    found["n_batch"] = max(found.get("n_batch", BATCH_TOKENS), sessions)
    has_flash_attention = values.get(LOAD_PREFIX + "llama.flashAttention")
    return LoadOptions(
        context_length=context,
        sessions=sessions,
        gpu_layers=_gpu_layers(values.get(LOAD_PREFIX + "llama.acceleration.offloadRatio"), layers),
        threads=found.pop("n_threads", None),
        load_mode=_load_mode(values),
        has_flash_attention=has_flash_attention if isinstance(has_flash_attention, bool) else None,
        parameters=found,
    )


def _counts(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name, count in COUNTS.items():
        key = LOAD_PREFIX + name
        value = values.get(key)
        if value is not None:
            if type(value) is not int or not count.minimum <= value <= count.maximum:
                raise RequestFailed(
                    f"Invalid load config: {key} must be a whole number, {count.minimum} to {count.maximum}"
                )
            yield count.name, value


def _other_parameters(values: Mapping[str, Any]) -> JsonObject:
    found: JsonObject = {}
    if values.get(LOAD_PREFIX + "llama.useFp16ForKVCache") is False:
        found |= {"cache_type_k": "f32", "cache_type_v": "f32"}
    for name, translate in _TRANSLATED.items():
        value = values.get(LOAD_PREFIX + name)
        if isinstance(value, Mapping) and "checked" in value:
            value = value.get("value") if value["checked"] is True else None
        if value is not None:
            parameter, found_value = translate(LOAD_PREFIX + name, value)
            found[parameter] = found_value
    return found


def _number(parameter: str) -> Callable[[str, Any], tuple[str, Any]]:
    def translate(key: str, value: Any) -> tuple[str, Any]:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _invalid(key)
        return parameter, float(value)

    return translate


def _cache_type(parameter: str) -> Callable[[str, Any], tuple[str, Any]]:
    def translate(key: str, value: Any) -> tuple[str, Any]:
        if value not in get_args(CacheType):
            raise _invalid(key)
        return parameter, value

    return translate


def _not_offloaded(key: str, value: Any) -> tuple[str, Any]:
    if not isinstance(value, bool):
        raise _invalid(key)
    return "no_kv_offload", not value


def _template(key: str, value: Any) -> tuple[str, Any]:
    match value:
        case {"type": "jinja", "jinjaPromptTemplate": {"template": str(template)}}:
            return "chat_template", template
    raise _invalid(key)


_TRANSLATED: Final[Mapping[str, Callable[[str, Any], tuple[str, Any]]]] = {
    "seed": _number("seed"),
    "promptTemplate": _template,
    "offloadKVCacheToGpu": _not_offloaded,
    "llama.kCacheQuantizationType": _cache_type("cache_type_k"),
    "llama.vCacheQuantizationType": _cache_type("cache_type_v"),
    "llama.ropeFrequencyBase": _number("rope_freq_base"),
    "llama.ropeFrequencyScale": _number("rope_freq_scale"),
}


def _load_mode(values: Mapping[str, Any]) -> str:
    """How the file is read, as xllamacpp calls it."""
    if values.get(LOAD_PREFIX + "llama.tryDirectIO") is True:
        return "DIRECT_IO"
    return "NONE" if values.get(LOAD_PREFIX + "llama.tryMmap") is False else "AUTO"


def _context_length(values: Mapping[str, Any], max_length: int) -> int:
    length = values.get(CONTEXT_LENGTH_KEY, min(DEFAULT_CONTEXT_LENGTH, max_length or DEFAULT_CONTEXT_LENGTH))
    if type(length) is not int or length < 1:
        raise RequestFailed(f"Invalid load config: {CONTEXT_LENGTH_KEY} must be a positive whole number")
    return min(length, max_length) if max_length else length


def _gpu_layers(ratio: Any, layers: int) -> int | None:
    """The number of layers on the GPU; None for llama.cpp's default."""
    if isinstance(ratio, int | float) and not isinstance(ratio, bool):
        return round(min(max(ratio, 0.0), 1.0) * layers)
    return {"off": 0, "max": layers}.get(ratio) if isinstance(ratio, str) else None


def _invalid(key: str) -> RequestFailed:
    return RequestFailed(f"Invalid load config: {key} has an invalid value")
