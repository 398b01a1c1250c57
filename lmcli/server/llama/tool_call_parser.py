"""Generated text → tool calls, in the forms that models are trained to write.

`<tool_call>{…}</tool_call>`            Hermes, Qwen and many others
`[TOOL_REQUEST]{…}[END_TOOL_REQUEST]`   models that are shown the tools in a message, as LM Studio does
`[TOOL_CALLS][{…}, …]`                  Mistral; also `[TOOL_CALLS]NAME[ARGS]{…}`
`{…}` as the whole answer               Llama 3, also after `<|python_tag|>`

An object has the keys `name` and `arguments` or `parameters`. Pure.
"""

import json
import re
import secrets
from collections.abc import Generator, Iterator
from typing import Any, Final

from lmcli.errors import quoted
from lmcli.values import ToolCallFailure, ToolCallFragment, ToolCallRequest, ToolCallValue

# What begins calls, and what ends them; None is the end of the text.
_ENDS: Final[dict[str, str | None]] = {
    "<tool_call>": "</tool_call>",
    "[TOOL_REQUEST]": "[END_TOOL_REQUEST]",
    "[TOOL_CALLS]": None,
    "<|python_tag|>": None,
}
_NAMED_ARGUMENTS: Final = "[ARGS]"
_START: Final = re.compile("|".join(map(re.escape, _ENDS)))
MARKS: Final = (*_ENDS, *filter(None, _ENDS.values()), _NAMED_ARGUMENTS)
"""The texts that llama.cpp has to pass on, also where they are special tokens of the model."""

_OBJECT_BEGIN: Final = '{"name":"'
_NAME: Final = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_ARGUMENTS: Final = re.compile(r'\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
# A name is looked for in the beginning of an object only.
_MAX_BEGIN: Final = 1000


def new_id() -> str:
    """An identifier for a call: nine digits, which is all that Mistral's templates accept."""
    return f"{secrets.randbelow(10**9):09}"


class ToolCallParser:
    """Separates tool calls from a text that arrives in pieces.

    Args:
        names: the tools that may be called.
        is_object_a_call: whether an answer that is an object with the name of a tool is a call.
    """

    def __init__(self, names: frozenset[str], *, is_object_a_call: bool = True) -> None:
        self._names = names
        self._held = ""
        self._may_be_object = is_object_a_call
        self._calls: _Calls | None = None

    @property
    def holds_text(self) -> bool:
        """Whether text is held back that may be the beginning of a call."""
        return self._calls is None and bool(self._held)

    def feed(self, piece: str) -> Iterator[str | ToolCallValue]:
        """Add a piece; yields text, and the parts of calls."""
        self._held += piece
        while self._held and (self._calls is not None or self._begins_or_is_text()):
            if self._calls is None:
                yield from self._text()
            else:
                text, self._held = self._held, ""
                rest = yield from self._calls.feed(text)
                if rest is not None:
                    self._held, self._calls = rest, None

    def end(self) -> Iterator[str | ToolCallValue]:
        """End the text; yields what was held back."""
        if self._calls is not None:
            yield from self._calls.end()
        elif self._held:
            yield self._held
        self._held, self._calls = "", None

    def _begins_or_is_text(self) -> bool:
        """Whether the text can be looked at: it may be the beginning of a mark, or of an object that is a call."""
        if self._may_be_object:
            is_object = self._is_object()
            if is_object is None:
                return False
            self._may_be_object = False
            if is_object:
                self._calls = _Calls(self._names, None)
        return self._calls is not None or _begun(self._held) < len(self._held)

    def _text(self) -> Iterator[str]:
        """Yield the text before the next mark."""
        found = _START.search(self._held)
        at = found.start() if found else len(self._held) - _begun(self._held)
        text, self._held = self._held[:at], self._held[found.end() if found else at :]
        if found:
            self._calls = _Calls(self._names, _ENDS[found[0]])
        if text:
            yield text

    def _is_object(self) -> bool | None:
        """Whether the answer is an object that calls a tool; None if that cannot be said yet."""
        if len(self._held) > _MAX_BEGIN:
            return False
        begin = "".join(self._held.split())
        if not begin.startswith(_OBJECT_BEGIN):
            return None if _OBJECT_BEGIN.startswith(begin) else False
        if found := _NAME.match(self._held.lstrip()):
            return _decoded(found[1]) in self._names
        return None


class _Calls:
    """What stands behind a mark: objects, one after the other.

    Args:
        names: the tools that may be called.
        mark: what ends them; None is the end of the text.
    """

    def __init__(self, names: frozenset[str], mark: str | None) -> None:
        self._names = names
        self._mark = mark
        self._between = ""
        self._call: _Call | None = None
        self._has_any = False

    def feed(self, text: str) -> Generator[ToolCallValue, None, str | None]:
        """Add text; yields the parts of calls, and returns what follows the end; None if it is not reached."""
        while True:
            if self._call is None:
                self._between += text
                at, end = self._between.find("{"), self._between.find(self._mark) if self._mark else -1
                if end >= 0 and not 0 <= at < end:
                    rest, self._between = self._between[end + len(self._mark or "") :], self._between[:end]
                    yield from self.end()
                    return rest
                if at < 0:
                    return None
                before, text, self._between = self._between[:at], self._between[at:], ""
                self._call, self._has_any = _Call(self._names, _name_before(before)), True
                yield ToolCallFragment(id=self._call.id)
            text = yield from self._call.feed(text)
            if not self._call.is_complete:
                return None
            yield from self._call.value()
            self._call = None

    def end(self) -> Iterator[ToolCallValue]:
        """End the calls; one that is not complete fails, and so does a mark without any."""
        if self._call is not None:
            yield self._call.failure("it is not complete")
        elif not self._has_any:
            call = _Call(self._names, None)
            yield ToolCallFragment(id=call.id)
            yield call.failure("it is not a JSON object", self._between)
        self._call, self._has_any = None, True


class _Call:
    """A call that is being generated: an object with a name and arguments, or the arguments behind a name."""

    def __init__(self, names: frozenset[str], name: str | None) -> None:
        self.id = new_id()
        self.is_complete = False
        self._names = names
        self._name = name
        self._is_wrapped = name is None
        self._has_sent_name = False
        self._text = ""
        self._depth = 0
        self._is_string = self._is_escaped = False
        # How much of the text has been sent as arguments; None while they have not begun.
        self._sent = None if name is None else 0
        self._arguments_end: int | None = None

    def feed(self, piece: str) -> Generator[ToolCallValue, None, str]:
        """Add text; yields the parts of the call, and returns what follows it."""
        end = self._scan(piece)
        self._text += piece[:end]
        if self._sent is None and len(self._text) < _MAX_BEGIN and (found := _NAME.match(self._text)):
            self._name = _decoded(found[1])
            if arguments := _ARGUMENTS.match(self._text, found.end()):
                self._sent = arguments.end()
        if self._name is not None and not self._has_sent_name:
            self._has_sent_name = True
            yield ToolCallFragment(name=self._name)
        until = len(self._text) if self._arguments_end is None else self._arguments_end
        if self._sent is not None and until > self._sent:
            yield ToolCallFragment(arguments=self._text[self._sent : until])
            self._sent = until
        return piece[end:]

    def value(self) -> Iterator[ToolCallValue]:
        """The complete call, or why it is not valid."""
        value = _loads(self._text)
        name = value.get("name") if self._is_wrapped and isinstance(value, dict) else self._name
        arguments = _arguments(value) if self._is_wrapped else value
        if not isinstance(name, str) or not isinstance(arguments, dict):
            yield self.failure("it is not a JSON object with a name and arguments")
        elif name not in self._names:
            yield self.failure(f"there is no tool {quoted(name)}")
        else:
            if not self._has_sent_name:
                yield ToolCallFragment(name=name)
            if self._sent is None:
                yield ToolCallFragment(arguments=json.dumps(arguments, ensure_ascii=False))
            yield ToolCallRequest(name, arguments, self.id)

    def failure(self, problem: str, content: str | None = None) -> ToolCallFailure:
        """Say why the call is not valid."""
        return ToolCallFailure(f"Failed to parse tool call: {problem}", self._name, content or self._text)

    def _scan(self, piece: str) -> int:
        """Follow strings and brackets; returns the end of the object in a piece, or that of the piece."""
        for index, character in enumerate(piece):
            if self._is_escaped:
                self._is_escaped = False
            elif self._is_string:
                self._is_escaped, self._is_string = character == "\\", character != '"'
            elif character == '"':
                self._is_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == self._is_wrapped and self._arguments_end is None:
                    self._arguments_end = len(self._text) + index + 1
                if self._depth == 0:
                    self.is_complete = True
                    return index + 1
        return len(piece)


def _begun(text: str) -> int:
    """The length of the longest end of a text that may be the beginning of a mark."""
    longest = max(map(len, _ENDS))
    begins = (at for at in range(max(0, len(text) - longest), len(text)) if _may_begin(text[at:]))
    return len(text) - next(begins, len(text))


def _may_begin(text: str) -> bool:
    return any(mark.startswith(text) and mark != text for mark in _ENDS)


def _name_before(text: str) -> str | None:
    """The name that stands before the arguments, in Mistral's later form."""
    name = text.strip()
    return name.removesuffix(_NAMED_ARGUMENTS).strip(" ,") if name.endswith(_NAMED_ARGUMENTS) else None


def _arguments(value: Any) -> Any:
    """The arguments of an object, which some models write as a string."""
    if not isinstance(value, dict):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    return _loads(arguments) if isinstance(arguments, str) else arguments


def _decoded(text: str) -> str:
    """A JSON string; one that is not valid as it is."""
    decoded = _loads(text)
    return decoded if isinstance(decoded, str) else text


def _loads(text: str) -> Any:
    """JSON; None if it is not valid."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
