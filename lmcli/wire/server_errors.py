"""A server's error object as an error: a sentence, and hints.

Shapes: {"title"?, "rootTitle"?, "cause"?, "suggestion"?, "displayData"?: {"code", …}}; every key may be missing.
Source: lmstudio-js 6ec11db, lms-shared-types/src/Error.ts and GenericErrorDisplayData.ts
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from lmcli.errors import (
    LmError,
    ModelNotFound,
    ModelUnloaded,
    NoModelLoaded,
    PredictionFailed,
    PresetNotFound,
    Unavailable,
    escaped,
    quoted,
)

_LONGEST: Final = 500
# LM Studio unloads a model that "has crashed".
_SIGNS_OF_UNLOADED: Final = ("unloaded", "not loaded", "has crashed")


def failure(error: Any, kind: type[LmError] = PredictionFailed) -> LmError:
    """Read an error object.

    Args:
        error: the object as it came; wrongly typed values count as missing.
        kind: the class for an error without a known code.
    """
    body = error if isinstance(error, Mapping) else {}
    display = body.get("displayData")
    if isinstance(display, Mapping):
        explain = _EXPLANATIONS.get(_name(display, "code"))
        if explain is not None:
            explained = explain(display)
            return explained if explained.hints else type(explained)(explained.message, *_suggestion(body))
    title = _text(body, "title") or _text(body, "rootTitle") or "the server gave no reason"
    cause = _text(body, "cause")
    message = title if cause is None or cause in title else f"{title}: {cause}"
    hints = _suggestion(body)
    if kind is PredictionFailed and any(sign in message.lower() for sign in _SIGNS_OF_UNLOADED):
        return ModelUnloaded(message, *hints)
    return kind(message, *hints)


def _suggestion(body: Mapping[str, Any]) -> list[str]:
    return [hint] if (hint := _text(body, "suggestion")) else []


def _model_unloaded(_: Mapping[str, Any]) -> LmError:
    return ModelUnloaded("the model was unloaded")


def _no_model_matching(display: Mapping[str, Any]) -> LmError:
    query = display.get("query")
    name = query.get("identifier") or query.get("path") if isinstance(query, Mapping) else None
    wanted = f" is called {quoted(name)}" if name else ""
    loaded = _sample(display, "loadedModelsSample", "totalLoadedModels")
    if not name and not loaded:
        return NoModelLoaded("no model is loaded")
    return ModelNotFound(f"no loaded model{wanted}", f"loaded: {loaded or 'none'}")


def _path_not_found(display: Mapping[str, Any]) -> LmError:
    known = _sample(display, "availablePathsSample", "totalModels")
    return ModelNotFound(f"no model {quoted(display.get('path', ''))}", f"there are: {known or 'none'}")


def _identifier_not_found(display: Mapping[str, Any]) -> LmError:
    loaded = _sample(display, "loadedModelsSample", "totalLoadedModels")
    return ModelNotFound(
        f"no loaded model is called {quoted(display.get('identifier', ''))}", f"loaded: {loaded or 'none'}"
    )


def _domain_mismatch(display: Mapping[str, Any]) -> LmError:
    path, actual, expected = (quoted(display.get(key, "")) for key in ("path", "actualDomain", "expectedDomain"))
    return ModelNotFound(f"model {path} is of the kind {actual}, not {expected}")


def _feature_missing(display: Mapping[str, Any]) -> LmError:
    since = _text(display, "supportedVersion")
    hints = [f"it came with version {since}"] if since else []
    return PredictionFailed(
        f"the engine {_name(display, 'engineName')} does not support {_name(display, 'feature')}", *hints
    )


def _runtime_missing(_: Mapping[str, Any]) -> LmError:
    return Unavailable("the server has no engine for this model", "install a runtime in LM Studio: lms runtime get")


def _preset_not_found(display: Mapping[str, Any]) -> LmError:
    sample = display.get("availablePresetsSample")
    known = ", ".join(_name(p, "name") for p in sample if isinstance(p, Mapping)) if isinstance(sample, list) else ""
    return PresetNotFound(
        f"no preset {quoted(display.get('specifiedFuzzyPresetIdentifier', ''))}", f"there are: {known or 'none'}"
    )


_EXPLANATIONS: Mapping[str, Callable[[Mapping[str, Any]], LmError]] = MappingProxyType(
    {
        "generic.specificModelUnloaded": _model_unloaded,
        "generic.noModelMatchingQuery": _no_model_matching,
        "generic.pathNotFound": _path_not_found,
        "generic.identifierNotFound": _identifier_not_found,
        "generic.domainMismatch": _domain_mismatch,
        "generic.engineDoesNotSupportFeature": _feature_missing,
        "generic.missingRuntimeExtension": _runtime_missing,
        "generic.presetNotFound": _preset_not_found,
    }
)


def _text(body: Mapping[str, Any], key: str) -> str | None:
    value = body.get(key)
    return _shown(value.strip().rstrip(".")) if isinstance(value, str) and value.strip() else None


def _name(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    return _shown(value) if isinstance(value, str) else "?"


def _shown(text: str) -> str:
    """A text of the server in a message: escaped, and cut, because nobody reads a line of a megabyte."""
    return escaped(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def _sample(display: Mapping[str, Any], names_key: str, total_key: str) -> str:
    names = display.get(names_key)
    shown = [_shown(name) for name in names if isinstance(name, str)] if isinstance(names, list) else []
    total = display.get(total_key)
    more = f" and {total - len(shown)} more" if isinstance(total, int) and total > len(shown) else ""
    return ", ".join(shown) + more
