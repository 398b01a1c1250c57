"""`--schema`: the form that an answer is to have, sent to the server and checked here.

Nothing that a schema refers to is fetched, patterns are matched in linear time, and `format` is checked where the
draft that `$schema` names says so.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from lmcli.cli.input.stdin import read_file
from lmcli.cli.jsontext import parse_json, read_json
from lmcli.errors import BadInput, LmError, Unusable, quoted
from lmcli.values import JsonObject

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError, Validator

_EXPLAIN_SECONDS: Final = 5.0
_REGEX_HINT: Final = "patterns are matched in linear time, without look-around and back-references"
_REFERENCE_HINT: Final = "put it into the schema, below $defs, and refer to #/$defs/NAME"


class Schema:
    """A JSON schema and the judgement of answers by it.

    Args:
        typed: the schema itself, or the name of the file that it is in.

    Raises:
        NoInput: the file is not there.
        BadInput: it is not a valid JSON schema, or refers to something outside of it.
    """

    def __init__(self, typed: str) -> None:
        is_inline = typed.lstrip().startswith("{")
        name = "the schema" if is_inline else quoted(typed)
        self._text = typed if is_inline else read_file(Path(typed))
        value = parse_json(self._text, name)
        if not isinstance(value, dict):
            raise BadInput(f"{name} is not a valid JSON schema: it must be an object")
        self.value: JsonObject = value
        self._validator = _validator(value, name)

    @property
    def setting(self) -> JsonObject:
        """What the server is asked for."""
        return {"type": "json", "jsonSchema": self.value}

    def violation(self, text: str) -> LmError | None:
        """What is wrong with an answer: the first violation, by JSON path; None if it has the form."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            return Unusable(f"the answer is not valid JSON: {where}", "-l N allows a longer answer")
        if self._validator.is_valid(value):
            return None
        return Unusable(f"the answer does not meet the schema: {_explained(self._text, text)}")

    def recovered(self, reasoning: str) -> str | None:
        """The last object in a model's reasoning that has the form: where some models leave their answer."""
        found = [text for text in _objects(reasoning) if self._is_met_by(text)]
        return found[-1] if found else None

    def _is_met_by(self, text: str) -> bool:
        try:
            return self._validator.is_valid(orjson.loads(text))
        except orjson.JSONDecodeError:
            return False


def _validator(schema: JsonObject, name: str) -> "Validator":
    from jsonschema_rs import RegexOptions, ValidationError, validator_for  # noqa: PLC0415  only --schema pays for it

    try:
        return validator_for(schema, pattern_options=RegexOptions(), offline=True)
    except ValidationError as error:
        raise _unusable(error, name) from error
    except ValueError as error:  # deeper than the validator goes
        raise BadInput(f"{name} cannot be used: {_beginning(str(error))}") from error


def _unusable(error: "ValidationError", name: str) -> BadInput:
    """What is wrong with a schema."""
    from jsonschema_rs import ValidationErrorKind  # noqa: PLC0415  loaded already

    outside = re.match(r"Resource '(.*?)' is not present", error.message)
    match error.kind:
        case ValidationErrorKind.Referencing() if outside:
            return BadInput(f"{name} refers to {quoted(outside[1])}, which is not fetched", _REFERENCE_HINT)
        case ValidationErrorKind.Referencing():
            return BadInput(f"{name} cannot be used: {_beginning(error.message)}")
        case ValidationErrorKind.Format(format="regex"):
            return BadInput(f"{name} is not a valid JSON schema: {_violation(error)}", _REGEX_HINT)
    return BadInput(f"{name} is not a valid JSON schema: {_violation(error)}")


def _explained(schema: str, answer: str) -> str:
    """The first violation, found by a process of its own.

    Whether an answer has the form is known at once. To say where it has not, the validator collects what each branch of
    an `anyOf` objects to; for a schema that refers to itself this can need more time and more stack than there is.
    """
    import subprocess  # noqa: PLC0415  only an answer without the form pays for it

    command = [sys.executable, "-P", "-m", __name__]
    try:
        ran = subprocess.run(  # noqa: S603  ourselves
            command, input=orjson.dumps([schema, answer]), capture_output=True, timeout=_EXPLAIN_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "it is too complex to say where"
    return ran.stdout.decode()


def _explain() -> None:
    """Read a schema and an answer that violates it, and write the first violation: the process of `_explained`."""
    schema, answer = orjson.loads(sys.stdin.buffer.read())
    first = next(_validator(read_json(schema), "the schema").iter_errors(orjson.loads(answer)))
    sys.stdout.buffer.write(_violation(first).encode(errors="replace"))


def _violation(error: "ValidationError") -> str:
    return f"{_cut(_path(error.instance_path))}: {_cut(error.message)}"


def _path(steps: Iterable[str | int]) -> str:
    """A JSON path, such as $.a[0]['b c']."""
    return "$" + "".join(f".{step}" if str(step).isidentifier() else f"[{step!r}]" for step in steps)


def _beginning(text: str) -> str:
    """The first sentence, as it stands in the middle of another one."""
    first = text.partition(". ")[0]
    return _cut(first[:1].lower() + first[1:])


def _cut(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def _objects(text: str) -> Iterator[str]:
    """The JSON objects in a text, outermost only, in order."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        if isinstance(value, dict):
            yield text[start:end]
        start = text.find("{", end)


if __name__ == "__main__":
    _explain()
