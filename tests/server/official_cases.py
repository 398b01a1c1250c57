"""Requests that differ from a valid one in one value, to compare what two servers accept.

`official_schemas.jsonl` has the verdicts of the schemas in @lmstudio/sdk 2.0.0, which are those of the official server:
the places, each a value of a valid request, where the same values are accepted, of those that are tried there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmcli.wire.envelopes import ABSENT

TABLE: Final = Path(__file__).with_name("official_schemas.jsonl")
Step = str | int
# Keys that no schema has; in chat files the second one has a meaning.
EXTRA: Final = "unknown"
EXTRA_OF_FILES: Final = "tool_call_id"

QUERY = {
    "type": "query",
    "query": {"domain": "llm", "deviceIdentifier": None, "identifier": "echo", "path": "lmcli/echo", "vision": False},
}
REFERENCE = {"type": "instanceReference", "instanceReference": "a"}
FILE = {"type": "file", "name": "a.png", "identifier": "f-1", "sizeBytes": 8, "fileType": "image"}
TEXT = {"type": "text", "text": "a"}
CALL = {"type": "function", "id": "7", "name": "add", "arguments": {"a": 1}}
RESULT = {"type": "toolCallResult", "content": "3", "toolCallId": "7", "name": "add"}
HISTORY = {
    "messages": [
        {"role": "system", "content": [TEXT]},
        {"role": "user", "content": [TEXT, FILE]},
        {"role": "assistant", "content": [TEXT, FILE, {"type": "toolCallRequest", "toolCallRequest": CALL}]},
        {"role": "tool", "content": [RESULT]},
    ]
}
PARAMETERS = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False, "$defs": {}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS}}
OPTS = {"omitBosToken": True, "omitEosToken": False, "toolDefinitions": [TOOL]}
FIELD = {"key": "llm.prediction.temperature", "value": 0.5}
STACK = {"layers": [{"layerName": "apiOverride", "config": {"fields": [FIELD]}}]}
PREDICTION = {"predictionConfigStack": STACK, "fuzzyPresetIdentifier": "p", "ignoreServerSessionConfig": True}
SPECIFIED = {"specifier": QUERY}
SPECIFIED_OPTIONAL = {**SPECIFIED, "throwIfNotFound": False}
LOAD = {"loadConfigStack": STACK, "deviceIdentifier": None}
PARSER = {"parserId": {"library": "l", "version": "1"}}

# The namespace, the kind of the request, the endpoint, and a valid parameter with all its keys.
VALID: Final[Sequence[tuple[str, str, str, Any]]] = [
    ("llm", "call", "listLoaded", ABSENT),
    ("llm", "call", "getModelInfo", SPECIFIED_OPTIONAL),
    ("llm", "call", "getModelInfo", {"specifier": REFERENCE, "throwIfNotFound": False}),
    ("llm", "call", "getInstanceProcessingState", SPECIFIED_OPTIONAL),
    ("llm", "call", "getLoadConfig", SPECIFIED),
    ("llm", "call", "getBasePredictionConfig", {**SPECIFIED, "ignoreServerSessionConfig": True}),
    ("llm", "call", "unloadModel", {"identifier": "nothing", "deviceIdentifier": None}),
    ("llm", "call", "estimateModelUsage", {"modelKey": "echo", **LOAD}),
    ("llm", "call", "tokenize", {**SPECIFIED, "inputString": "a"}),
    ("llm", "call", "countTokens", {**SPECIFIED, "inputString": "a"}),
    ("llm", "call", "preloadDraftModel", {**SPECIFIED, "draftModelKey": "echo"}),
    (
        "llm",
        "call",
        "applyPromptTemplate",
        {**SPECIFIED, "history": HISTORY, "predictionConfigStack": STACK, "opts": OPTS},
    ),
    ("llm", "channel", "loadModel", {"modelKey": "nothing", "identifier": "new", "ttlMs": 60_000, **LOAD}),
    ("llm", "channel", "getOrLoad", {"identifier": "nothing", "loadTtlMs": 60_000, **LOAD}),
    ("llm", "channel", "predict", {"modelSpecifier": QUERY, "history": HISTORY, **PREDICTION}),
    ("llm", "channel", "completeRawText", {"modelSpecifier": QUERY, "rawPrompt": "a", **PREDICTION}),
    ("embedding", "call", "embedString", {"modelSpecifier": QUERY, "inputString": "a"}),
    ("system", "call", "listDownloadedModels", ABSENT),
    ("system", "call", "listDownloadedModelVariants", {"modelKey": "echo"}),
    ("system", "call", "version", ABSENT),
    ("system", "call", "info", ABSENT),
    ("system", "call", "notify", {"title": "t", "description": "d", "noAutoDismiss": True}),
    ("system", "call", "getExperimentFlags", ABSENT),
    ("system", "channel", "alive", ABSENT),
    ("files", "call", "uploadFileBase64", {"name": "a.txt", "contentBase64": "YQ=="}),
    ("files", "call", "getDocumentParsingLibrary", {"fileIdentifier": "f-1"}),
    ("files", "channel", "parseDocument", {"fileIdentifier": "f-1", "parseOpts": PARSER}),
    ("llm", "message", "predict", {"type": "cancel"}),
    ("llm", "message", "getOrLoad", {"type": "cancel"}),
    ("system", "message", "alive", ABSENT),
]

GENERAL: Final[Sequence[Any]] = (
    *(ABSENT, None, True, False, 0, 1, 1.0, -1, -1.0, 1.5, 2**53, 1e300),
    *("", "text", "1", [], [1], ["text"], [None], {}, {"a": 1}, {"type": "text"}),
)
ROLES = ("system", "user", "assistant", "tool", "developer", "User")
PARTS = ("text", "file", "toolCallRequest", "toolCallResult", "image")
LAYERS = (
    *("currentlyEditing", "currentlyLoaded", "apiOverride", "conversationSpecific", "conversationGlobal", "preset"),
    *("serverSession", "httpServerRequestOverride", "completeModeFormatting", "instance", "userModelDefault"),
    *("virtualModel", "modelDefault", "hardware", "apioverride", "default"),
)
FILE_TYPES = ("image", "text/plain", "application/pdf", "application/word", "text/other", "unknown", "image/png")
DOMAINS = ("llm", "embedding", "drafter", "imageGen", "transcription", "tts", "LLM")
# 1,024 and 1,025 characters, also as JavaScript counts them; reserved names; characters of all categories.
NAMES = (
    *("a" * 1024, "a" * 1025, "\U0001f600" * 512, "\U0001f600" * 512 + "a", "__proto__", "constructor", " "),
    *(
        "a\0",
        "a\n",
        "a\x7f",
        "a\x85",
        "a\xad",
        "a\u200d",
        "a\ue000",
        "a\ud800",
        "a\uffff",
        "a\ufdd0",
        "\xe9",
        "a\u2028",
    ),
)
# What is tried for a key besides GENERAL.
SPECIAL: Final[Mapping[Step, Sequence[Any]]] = {
    "role": ROLES,
    "type": (*PARTS, "query", "instanceReference", "function", "object", "cancel", "stop"),
    "layerName": LAYERS,
    "fileType": FILE_TYPES,
    "domain": DOMAINS,
    "identifier": NAMES,
    "path": NAMES,
}


class Place(NamedTuple):
    """A value of a valid request."""

    namespace: str
    kind: str
    endpoint: str
    valid: Any
    path: tuple[Step, ...]

    @property
    def name(self) -> str:
        """What the place is called in the table."""
        return " ".join((self.namespace, self.kind, self.endpoint, ".".join(map(str, self.path)))).strip()

    @property
    def candidates(self) -> Sequence[Any]:
        """What is tried there."""
        if self.path and self.path[-1] in (EXTRA, EXTRA_OF_FILES):
            return (1, "text")
        return (*GENERAL, *(SPECIAL.get(self.path[-1], ()) if self.path else ()))

    def parameter(self, value: Any) -> Any:
        """The parameter with a value in this place."""
        return changed(self.valid, self.path, value)


def changed(valid: Any, path: Sequence[Step], value: Any) -> Any:
    """A copy with another value in one place; ABSENT leaves the key, or the element, out."""
    if not path:
        return value
    step, *rest = path
    items = {**steps(valid), step: changed(valid[step], rest, value) if rest else value}
    kept = {key: item for key, item in items.items() if item is not ABSENT}
    return list(kept.values()) if isinstance(valid, list) else kept


def steps(value: Any) -> Mapping[Step, Any]:
    """The items of an array, or the keys of an object, with their values."""
    return value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}


def paths(value: Any) -> Iterator[tuple[Step, ...]]:
    """The places of a value and all that is in it, and of a key that is not in it."""
    yield ()
    if isinstance(value, dict):
        yield from ((EXTRA,), (EXTRA_OF_FILES,))
    for step, inner in steps(value).items():
        yield from ((step, *rest) for rest in paths(inner))


def places() -> Iterator[Place]:
    """All values of all valid requests, each once."""
    seen: set[str] = set()
    for namespace, kind, endpoint, valid in VALID:
        for path in paths(valid):
            place = Place(namespace, kind, endpoint, valid, path)
            if place.name not in seen:
                seen.add(place.name)
                yield place


def as_text(value: Any) -> str:
    """How a candidate is written in the table."""
    text = "absent" if value is ABSENT else json.dumps(value)
    return text if len(text) < 40 else f"{text[:8]}… {len(value)}"


def accepted_values() -> Mapping[str, Sequence[str]]:
    """The table: what is accepted in each place."""
    rows = map(json.loads, TABLE.read_text(encoding="utf-8").splitlines())
    return {place: row["accepted"] for row in rows for place in row["places"]}
