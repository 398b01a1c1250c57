"""Requests that cannot be met, in the form in which they travel.

`Refused` answers a call (`rpcError`) or ends a channel (`channelError`); a request whose form is wrong is
`Malformed` and gets no answer, only a warning.
Source: lmstudio-js 6ec11db, lms-shared-types/src/Error.ts and GenericErrorDisplayData.ts
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from lmcli.errors import quoted
from lmcli.values import JsonObject

SAMPLE_SIZE = 10


class Malformed(Exception):
    """A parameter or a message has not the form that its endpoint takes."""


class NotAdmitted(Exception):
    """The client's credentials are not accepted; the text is for the user."""


class Refused(Exception):
    """A request that is understood and cannot be met.

    Args:
        title: what is wrong, for the user.
        suggestion: what to do about it.
        code: which of the failures that clients know by number it is, without `generic.`.
        details: the further keys of that code.
    """

    def __init__(self, title: str, *, suggestion: str | None = None, code: str | None = None, **details: Any) -> None:
        super().__init__(title)
        self.title = title
        self.suggestion = suggestion
        self.display_data = {"code": f"generic.{code}", **details} if code else None

    @property
    def serialized(self) -> JsonObject:
        """The error as a client reads it; `rootTitle` is always the title."""
        body: JsonObject = {"title": self.title, "rootTitle": self.title}
        if self.suggestion:
            body["suggestion"] = self.suggestion
        if self.display_data:
            body["displayData"] = self.display_data
        return body


def path_not_found(path: str, available: Sequence[str]) -> Refused:
    """There is no downloaded model of that key or path."""
    return Refused(
        f"Cannot find a downloaded model with the key or path {quoted(path)}",
        code="pathNotFound",
        path=path,
        availablePathsSample=_sample(available),
        totalModels=len(available),
    )


def no_model_matching(query: JsonObject, loaded: Sequence[str]) -> Refused:
    """No loaded model answers to the query."""
    return Refused(
        "No loaded model fits the query",
        code="noModelMatchingQuery",
        query=query,
        loadedModelsSample=_sample(loaded),
        totalLoadedModels=len(loaded),
    )


def model_unloaded() -> Refused:
    """The very instance that was asked for is gone."""
    return Refused("The model is unloaded", code="specificModelUnloaded")


def domain_mismatch(path: str, actual: str, expected: str) -> Refused:
    """The model is there and is of another kind."""
    return Refused(
        f"The model {quoted(path)} is of the domain {actual}, not {expected}",
        code="domainMismatch",
        path=path,
        actualDomain=actual,
        expectedDomain=expected,
    )


def preset_not_found(name: str, available: Iterable[tuple[str, str]]) -> Refused:
    """There is no preset of that identifier or name; `available` are (identifier, name) pairs."""
    presets = [{"identifier": identifier, "name": label} for identifier, label in available]
    return Refused(
        f"Preset not found: {quoted(name)}",
        code="presetNotFound",
        specifiedFuzzyPresetIdentifier=name,
        availablePresetsSample=presets[:SAMPLE_SIZE],
        totalAvailablePresets=len(presets),
    )


def unsupported(feature: str, engine: str, version: str) -> Refused:
    """The engine cannot do this."""
    return Refused(
        f"The engine {engine} does not support {feature}",
        code="engineDoesNotSupportFeature",
        feature=feature,
        engineName=engine,
        engineType=engine,
        installedVersion=version,
        supportedVersion=None,
    )


def internal_error() -> Refused:
    """Something happened that nobody thought of; what it was is in the log."""
    return Refused("Internal error of the server")


def _sample(names: Sequence[str]) -> list[str]:
    return list(islice(names, SAMPLE_SIZE))
