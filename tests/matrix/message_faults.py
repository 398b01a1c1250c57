"""Faults of what is said: texts that are not JSON, JSON that is not the protocol's, warnings and errors."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from damage import COMPLETE, ERROR, FREE, Damage, Expect
from stage_server import (
    FILE,
    MESSAGES,
    NUMBERED,
    RESULTS,
    TEXT,
    Stage,
    Strike,
    as_text,
    fragment,
    progress,
    success,
)
from wrong_types import TOKENS, FieldPath, paths, replaced

_DEEP: Final = 100_000


# Texts that are not JSON, and JSON that is not the protocol's.


def says(text: bytes, strike: Strike) -> None:
    """Send a text in place of what was to come, and go on."""
    strike.send(text)


def cut_text(strike: Strike) -> None:
    """Send a text without its last character."""
    strike.send(as_text(strike.values[0])[:-1])


def trailing(strike: Strike) -> None:
    """Send a text with something behind it."""
    strike.send(as_text(strike.values[0]) + b"}")


def with_bom(strike: Strike) -> None:
    """Send the texts with a byte order mark."""
    strike.count()
    strike.send(*(b"\xef\xbb\xbf" + as_text(value) for value in strike.values))


def twice(strike: Strike) -> None:
    """Send what was to come twice, in one piece, so that the second is there when the first is read."""
    strike.count()
    strike.raw(strike.data * 2)


def changed(change: Callable[[dict[str, Any]], None], strike: Strike) -> None:
    """Send the values with a change in the first one."""
    first, *rest = copy.deepcopy(list(strike.values))
    change(first)
    strike.send(first, *rest)


def with_extra(make: Callable[[dict[str, Any]], Any], strike: Strike) -> None:
    """Send something made of the first value, then what was to come."""
    strike.send(make(copy.deepcopy(strike.values[0])))
    strike.go_on()


def id_key(value: Mapping[str, Any]) -> str:
    """The key of the number in a value."""
    return "callId" if "callId" in value else "channelId"


def put(key: str, content: Any) -> Callable[[dict[str, Any]], None]:
    """A change: a key has another value."""

    def change(value: dict[str, Any]) -> None:
        value[id_key(value) if key == "id" else key] = content

    return change


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    """A change: a key is missing."""

    def change(value: dict[str, Any]) -> None:
        del value[{"id": id_key, "body": body_key}.get(key, lambda _: key)(value)]

    return change


def with_id(number: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The same value for another call or channel."""
    return lambda value: value | {id_key(value): number}


def put_body(content: Any) -> Callable[[dict[str, Any]], None]:
    """A change: what the value carries is something else."""

    def change(value: dict[str, Any]) -> None:
        value[body_key(value)] = content

    return change


def body_key(value: Mapping[str, Any]) -> str:
    """The key of what a value carries."""
    return next((key for key in ("message", "result", "success") if key in value), "type")


def field(path: FieldPath, token: bytes, strike: Strike) -> None:
    """Send the values with another field in what the first one carries."""
    first, *rest = strike.values
    body = first.get(body_key(first))
    try:
        changed_body = replaced(body, path, token)
    except LookupError:  # this stage has several values; another one has the field
        strike.go_on()
        return
    marked = as_text(first | {body_key(first): "the body"}).replace(b'"the body"', changed_body)
    if path == ("fragment", "content") and token.startswith(b'"'):
        strike.count_text(json.loads(token))
    elif path not in _MEANING:
        strike.count()
    strike.send(marked, *rest)


def fails_with(error: Any, strike: Strike) -> None:
    """End the call or channel with an error."""
    value = strike.values[0]
    kind = {"callId": "rpcError", "channelId": "channelError"}[id_key(value)]
    strike.send({"type": kind, id_key(value): value[id_key(value)], "error": error})


def warns(warning: Any, count: int, strike: Strike) -> None:
    """Warn of a request, so many times, then send what was to come."""
    strike.send(*[warning] * count)
    strike.go_on()


def warns_about_it(strike: Strike) -> None:
    """Warn that the request was not understood, and send nothing else."""
    value = strike.values[0]
    key = id_key(value)
    family = "rpc" if key == "callId" else "channel"
    text = f"Received invalid parameter, {key} = {value[key]}"
    strike.send({"type": "communicationWarning", "warning": text, "kind": f"{family}ParameterTypeError"})
    strike.hold()


def stops_for(reason: str, strike: Strike) -> None:
    """End a prediction for another reason."""

    def change(value: dict[str, Any]) -> None:
        value["message"]["stats"] = {**value["message"]["stats"], "stopReason": reason}

    strike.count()
    changed(change, strike)


_TEXTS: Final[Mapping[str, tuple[bytes, Expect]]] = {
    "no JSON": (b"hello", Expect.ERROR),
    "an empty text": (b"", Expect.ERROR),
    "a NUL": (b"\0", Expect.ERROR),
    "single quotes": (b"{'type': 'x'}", Expect.ERROR),
    "NaN": (b'{"type": "x", "y": NaN}', Expect.ERROR),
    "an escape sequence": (b"\x1b]0;title\x07\x1b[2J", Expect.ERROR),
    "invalid UTF-8": (b'{"type": "\xff\xfe"}', Expect.ERROR),
    "a cut character": (b'{"type": "\xe2\x82"}', Expect.ERROR),
    "depth": (b"[" * _DEEP + b"]" * _DEEP, Expect.FREE),
    "open depth": (b'{"a":' * _DEEP, Expect.ERROR),
    "null": (b"null", Expect.FREE),
    "a number": (b"5", Expect.FREE),
    "a huge number": (b"9" * 5000, Expect.FREE),
    "a text": (b'"hello"', Expect.FREE),
    "an array": (b"[]", Expect.FREE),
    "an empty object": (b"{}", Expect.FREE),
    "1e400": (b'{"type": "x", "y": 1e400}', Expect.FREE),
    "a lone surrogate": (b'{"type": "\\ud83d"}', Expect.FREE),
    "a key twice": (b'{"type": 5, "type": "keepAliveAck"}', Expect.FREE),
}

_TYPES: Final[Mapping[str, Any]] = {
    "null": None,
    "true": True,
    "2**70": 2**70,
    "a text": "text",
    "an array": [],
    "an object": {},
}

_ERRORS: Final[Mapping[str, Any]] = {
    "null": None,
    "a text": "out of memory",
    "an array": [1],
    "an empty object": {},
    "types": {"title": 5, "rootTitle": [], "cause": {}, "suggestion": 1, "displayData": "x"},
    "lines": {"title": "one\ntwo\r\x1b[31mred", "cause": "\u202ethree", "suggestion": "\x07four"},
    "length": {"title": "x" * 100_000, "rootTitle": "y"},
    "model not found": {"displayData": {"code": "generic.pathNotFound", "path": 5, "availablePathsSample": 7}},
    "model unloaded": {"displayData": {"code": "generic.specificModelUnloaded"}},
    "no model": {"displayData": {"code": "generic.noModelMatchingQuery", "query": None, "loadedModelsSample": {}}},
    "a new code": {"title": "It failed.", "displayData": {"code": "generic.newInNextYear"}},
}

_WARNINGS: Final[Mapping[str, Any]] = {
    "of nothing": {"type": "communicationWarning"},
    "with a number for a text": {"type": "communicationWarning", "warning": 5, "kind": []},
    "of an unknown endpoint": {
        "type": "communicationWarning",
        "warning": "Received channelCreate for unknown endpoint, endpoint = noSuch",
        "kind": "channelEndpointUnknown",
    },
    "of a message": {"type": "communicationWarning", "warning": "Received channelSend for unknown channel, \n\x1b[31m"},
}

_MEANING: Final = {
    ("type",),
    ("fragment",),
    *(("fragment", key) for key in ("content", "reasoningType", "isStructural")),
}
"""The fields without which nothing that counts was sent, or another text."""

_BODIES: Final[Mapping[Stage, Any]] = {
    Stage.MODEL: RESULTS["listLoaded"][1],
    Stage.UPLOAD: FILE,
    Stage.PROMPT: progress("promptProcessingProgress", 0.0),
    Stage.MIDDLE: fragment("x"),
    Stage.SUCCESS: success(),
}
"""What the values of these stages carry."""

_CUT_SHORT: Final = ("failed", "modelUnloaded", "contextLengthReached", "userStopped")


def message_faults() -> Iterator[Damage]:
    """All of them."""
    yield from _texts()
    yield from _envelopes()
    yield from _enums()
    yield from _fields()
    yield from _reports()


def _texts() -> Iterator[Damage]:
    for name, (text, expect) in _TEXTS.items():
        group = "UTF-8" if "UTF-8" in name or "character" in name else "JSON"
        yield Damage(group, name, partial(says, text), expect, MESSAGES, is_common=name in ("no JSON", "invalid UTF-8"))
    yield Damage("JSON", "cut", cut_text, ERROR, MESSAGES)
    yield Damage("JSON", "with more behind it", trailing, ERROR, MESSAGES)
    yield Damage("JSON", "with a byte order mark", with_bom, FREE, MESSAGES)
    yield Damage("JSON", "a text twice", twice, FREE, MESSAGES - TEXT)


def _envelopes() -> Iterator[Damage]:
    for name, value in _TYPES.items():
        yield Damage("types", f"the kind is {name}", partial(changed, put("type", value)), FREE, NUMBERED)
        yield Damage("types", f"the body is {name}", partial(changed, put_body(value)), FREE, MESSAGES)
        yield Damage("ids", f"the number is {name}", partial(changed, put("id", value)), FREE, NUMBERED)
    yield Damage("types", "no kind", partial(changed, drop("type")), FREE, NUMBERED)
    yield Damage("types", "no body", partial(changed, drop("body")), FREE, MESSAGES)
    yield Damage("ids", "no number", partial(changed, drop("id")), FREE, NUMBERED)
    for number in (0, 2, 999, -1, 2**53):
        yield Damage("ids", f"another number, {number}", partial(with_extra, with_id(number)), FREE, NUMBERED)


def _enums() -> Iterator[Damage]:
    yield Damage("enums", "an unknown kind", partial(with_extra, lambda _: {"type": "new", "x": 1}), COMPLETE, NUMBERED)
    unknown = partial(with_extra, lambda value: {**value, "message": {"type": "noSuchPacket", "content": "x"}})
    yield Damage("enums", "an unknown packet", unknown, COMPLETE, TEXT | {Stage.PROMPT, Stage.SUCCESS})
    for reason in ("", "newReason", "toolCalls", *_CUT_SHORT):
        expect = ERROR if reason in _CUT_SHORT else FREE
        yield Damage("enums", f"stop reason {reason!r}", partial(stops_for, reason), expect, frozenset({Stage.SUCCESS}))


def _fields() -> Iterator[Damage]:
    for stage, body in _BODIES.items():
        for path in paths(body):
            for name, token in TOKENS.items():
                at = "/".join(map(str, path))
                run = partial(field, path, token)
                yield Damage("fields", f"{at} is {name}", run, FREE, frozenset({stage}), is_field=True)


def _reports() -> Iterator[Damage]:
    for warned, warning in _WARNINGS.items():
        for count in (1, 6):
            yield Damage("warnings", f"{warned}, {count} times", partial(warns, warning, count), FREE, MESSAGES)
    yield Damage("warnings", "about the request", warns_about_it, FREE, NUMBERED, is_common=True)
    for name, content in _ERRORS.items():
        common = name == "lines"
        yield Damage("errors", name, partial(fails_with, content), ERROR, NUMBERED, is_common=common)
    for name, content in {"a reason": "Not allowed.", "lines": "a\nb\x1b[2J", "a number": 5, "null": None}.items():
        refused = partial(says, as_text({"success": False, "error": content}))
        yield Damage("errors", f"refused with {name}", refused, ERROR, frozenset({Stage.GREETING}), is_common=True)
