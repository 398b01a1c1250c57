"""The errors of requests, in the form in which they are sent.

A request that fails is answered with an `rpcError` or a `channelError`; one with an invalid parameter gets a warning
and no answer.
Source: lmstudio-js 6ec11db, lms-shared-types/src/Error.ts and GenericErrorDisplayData.ts
"""

from collections.abc import Iterable, Sequence
from typing import Any

from lmcli.errors import quoted
from lmcli.values import JsonObject

SAMPLE_SIZE = 10


class InvalidParameter(Exception):
    """A parameter or a message does not have the shape that its endpoint requires."""


class AuthenticationFailed(Exception):
    """The client's credentials are not accepted."""


class RequestFailed(Exception):
    """A valid request that cannot be fulfilled.

    Args:
        title: the error message.
        suggestion: what the user can do.
        code: the error code, without `generic.`.
        details: the further keys that the code requires.
    """

    def __init__(self, title: str, *, suggestion: str | None = None, code: str | None = None, **details: Any) -> None:
        super().__init__(title)
        self.title = title
        self.suggestion = suggestion
        self.display_data = {"code": f"generic.{code}", **details} if code else None

    @property
    def serialized(self) -> JsonObject:
        """The error as it is sent; `rootTitle` always equals the title."""
        body: JsonObject = {"title": self.title, "rootTitle": self.title}
        if self.suggestion:
            body["suggestion"] = self.suggestion
        if self.display_data:
            body["displayData"] = self.display_data
        return body


def path_not_found(path: str, available: Sequence[str]) -> RequestFailed:
    """No downloaded model has this key or path."""
    return RequestFailed(
        f"Cannot find a downloaded model with the key or path {quoted(path)}",
        code="pathNotFound",
        path=path,
        availablePathsSample=available[:SAMPLE_SIZE],
        totalModels=len(available),
    )


def no_model_matching(query: JsonObject, loaded: Sequence[str]) -> RequestFailed:
    """No loaded model matches the query."""
    return RequestFailed(
        "No loaded model matches the query",
        code="noModelMatchingQuery",
        query=query,
        loadedModelsSample=loaded[:SAMPLE_SIZE],
        totalLoadedModels=len(loaded),
    )


def model_unloaded() -> RequestFailed:
    """The instance that was referred to is unloaded."""
    return RequestFailed("The model is unloaded", code="specificModelUnloaded")


def domain_mismatch(path: str, actual: str, expected: str) -> RequestFailed:
    """The model belongs to another domain."""
    return RequestFailed(
        f"The model {quoted(path)} is of the domain {actual}, not {expected}",
        code="domainMismatch",
        path=path,
        actualDomain=actual,
        expectedDomain=expected,
    )


def preset_not_found(name: str, available: Iterable[tuple[str, str]]) -> RequestFailed:
    """No preset has this identifier or name; `available` are (identifier, name) pairs."""
    presets = [{"identifier": identifier, "name": label} for identifier, label in available]
    return RequestFailed(
        f"Preset not found: {quoted(name)}",
        code="presetNotFound",
        specifiedFuzzyPresetIdentifier=name,
        availablePresetsSample=presets[:SAMPLE_SIZE],
        totalAvailablePresets=len(presets),
    )


def unsupported(feature: str, engine: str, version: str) -> RequestFailed:
    """The engine does not support a feature."""
    return RequestFailed(
        f"The engine {engine} does not support {feature}",
        code="engineDoesNotSupportFeature",
        feature=feature,
        engineName=engine,
        engineType=engine,
        installedVersion=version,
        supportedVersion=None,
    )


def internal_error() -> RequestFailed:
    """An unexpected exception, which is logged."""
    return RequestFailed("Internal error of the server")
