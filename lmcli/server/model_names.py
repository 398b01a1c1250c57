"""Which model a name stands for.

The name is a key, the path of a file or its beginning `publisher/repository`, in any case, and after an @ there may be
the quantization, also where the key has it. Of several models those with the most similar name are found.
Source: lmstudio-js 6ec11db, lms-shared-types/src/ModelSpecifier.ts, and the test suites of both SDKs
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from lmcli.values import ModelInfo


def find_models(models: Iterable[ModelInfo], name: str) -> Sequence[ModelInfo]:
    """The models that a name stands for, several if it is the name of a repository; none if there is no such name."""
    models = list(models)
    found = ([model for model in models if matches(model, name)] for matches in _MATCHES)
    return next(filter(None, found), ())


def is_named(model: ModelInfo, name: str) -> bool:
    """Whether a name stands for a model."""
    return any(matches(model, name) for matches in _MATCHES)


def _is_exact(model: ModelInfo, name: str) -> bool:
    return name in _names(model)


def _is_alike(model: ModelInfo, name: str) -> bool:
    names = (*_names(model), model.model_key.partition("@")[0])
    return name.casefold() in map(str.casefold, names) or _is_repository(model, name)


def _is_quantized(model: ModelInfo, name: str) -> bool:
    name, at, quantization = name.rpartition("@")
    if not at or model.quantization is None or model.quantization.name.casefold() != quantization.casefold():
        return False
    return _is_alike(model, name)


def _is_repository(model: ModelInfo, name: str) -> bool:
    """Whether a name is the beginning of a path, of two parts at least."""
    return "/" in name and model.path.casefold().startswith(f"{name.casefold()}/")


def _names(model: ModelInfo) -> tuple[str, ...]:
    return model.model_key, model.path, model.indexed_model_identifier


_MATCHES: Final[tuple[Callable[[ModelInfo, str], bool], ...]] = (_is_exact, _is_alike, _is_quantized)
