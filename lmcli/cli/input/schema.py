"""`--schema`: a JSON schema for the answer, sent to the server and checked locally.

References to other resources are not fetched, patterns are matched in linear time, and `format` is checked if the
draft named by `$schema` requires it.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from lmcli.cli.input.stdin import read_file
from lmcli.cli.json_text import load_json, parse_json
from lmcli.errors import BadInput, LmError, Unusable, quoted, shortened
from lmcli.values import JsonObject

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError, Validator

_EXPLAIN_TIMEOUT: Final = 5.0
_REGEX_HINT: Final = "patterns are matched in linear time, without look-around and back-references"
_REFERENCE_HINT: Final = "put it into the schema, below $defs, and refer to #/$defs/NAME"


class Schema:
    """A JSON schema that validates answers.

    Args:
        option: the schema as JSON, or the name of its file.

    Raises:
        NoInput: the file does not exist.
        BadInput: it is not a valid JSON schema, or refers to another resource.
    """

    def __init__(self, option: str) -> None:
        is_inline = option.lstrip().startswith("{")
        name = "the schema" if is_inline else quoted(option)
        self._text = option if is_inline else read_file(Path(option))
        value = parse_json(self._text, name)
        if not isinstance(value, dict):
            raise BadInput(f"{name} is not a valid JSON schema: it must be an object")
        self.value: JsonObject = value
        self._validator = _validator(value, name)

    @property
    def setting(self) -> JsonObject:
        """The value of the server's config field."""
        return {"type": "json", "jsonSchema": self.value}

    def violation(self, text: str) -> LmError | None:
        """The first violation of the schema by an answer, with its JSON path; None if the answer is valid."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            return Unusable(f"the answer is not valid JSON: {where}", "-l N allows a longer answer")
        if self._validator.is_valid(value):
            return None
        return Unusable(f"the answer does not meet the schema: {_explained(self._text, text)}")

    def recovered(self, reasoning: str) -> str | None:
        """The last valid object in the reasoning, where some models put their answer."""
        found = [text for text in _objects(reasoning) if self._accepts(text)]
        return found[-1] if found else None

    def _accepts(self, text: str) -> bool:
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
        raise BadInput(f"{name} cannot be used: {_first_sentence(str(error))}") from error


def _unusable(error: "ValidationError", name: str) -> BadInput:
    """The error for an invalid schema."""
    from jsonschema_rs import ValidationErrorKind  # noqa: PLC0415  loaded already

    outside = re.match(r"Resource '(.*?)' is not present", error.message)
    match error.kind:
        case ValidationErrorKind.Referencing() if outside:
            return BadInput(f"{name} refers to {quoted(outside[1])}, which is not fetched", _REFERENCE_HINT)
        case ValidationErrorKind.Referencing():
            return BadInput(f"{name} cannot be used: {_first_sentence(error.message)}")
        case ValidationErrorKind.Format(format="regex"):
            return BadInput(f"{name} is not a valid JSON schema: {_violation(error)}", _REGEX_HINT)
    return BadInput(f"{name} is not a valid JSON schema: {_violation(error)}")


def _explained(schema: str, answer: str) -> str:
    """The first violation, computed by a separate process.

    Whether an answer is valid is computed quickly. To locate a violation, the validator collects the errors of each
    branch of an `anyOf`; for a recursive schema this can exceed any time limit and the stack.
    """
    import subprocess  # noqa: PLC0415  only for an invalid answer

    command = [sys.executable, "-P", "-m", __name__]
    try:
        ran = subprocess.run(  # noqa: S603  ourselves
            command, input=orjson.dumps([schema, answer]), capture_output=True, timeout=_EXPLAIN_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "the schema is too complex to locate the violation"
    return ran.stdout.decode()


def _explain() -> None:
    """Read a schema and an invalid answer, and write the first violation: the process of `_explained`."""
    schema, answer = orjson.loads(sys.stdin.buffer.read())
    first = next(_validator(load_json(schema), "the schema").iter_errors(orjson.loads(answer)))
    sys.stdout.buffer.write(_violation(first).encode(errors="replace"))


def _violation(error: "ValidationError") -> str:
    return f"{shortened(_path(error.instance_path))}: {shortened(error.message)}"


def _path(steps: Iterable[str | int]) -> str:
    """A JSON path such as $.a[0]['b c']."""
    return "$" + "".join(f".{step}" if str(step).isidentifier() else f"[{step!r}]" for step in steps)


def _first_sentence(text: str) -> str:
    """The first sentence, for use inside another one."""
    first = text.partition(". ")[0]
    return shortened(first[:1].lower() + first[1:])


def _objects(text: str) -> Iterator[str]:
    """The outermost JSON objects in a text, in order."""
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
