"""`--schema`: the form that an answer is to have, sent to the server and checked here.

The check needs the package jsonschema (extra `schema`); without it only whether the answer is JSON is checked.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from lmcli.cli.inputs import read_file
from lmcli.cli.jsontext import parse_json
from lmcli.cli.voice import Voice
from lmcli.errors import BadInput, LmError, Unusable, quoted
from lmcli.values import JsonObject

if TYPE_CHECKING:
    from jsonschema.protocols import Validator


class Schema:
    """A JSON schema and the judgement of answers by it.

    Args:
        typed: the schema itself, or the name of the file that it is in.
        voice: told once if answers cannot be checked whole.

    Raises:
        NoInput: the file is not there.
        BadInput: it is no JSON schema.
    """

    def __init__(self, typed: str, voice: Voice) -> None:
        is_inline = typed.lstrip().startswith("{")
        name = "the schema" if is_inline else quoted(typed)
        value = parse_json(typed if is_inline else read_file(Path(typed)), name)
        if not isinstance(value, dict):
            raise BadInput(f"{name} is no JSON schema: it must be an object")
        self.value: JsonObject = value
        self._validator = _validator(value, name, voice)

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
            return Unusable(f"the answer is no JSON: {where}", "-l N allows a longer answer")
        if self._validator is None:
            return None
        try:
            violations = sorted(
                self._validator.iter_errors(value), key=lambda v: [str(step) for step in v.absolute_path]
            )
        except _unusable_schema_errors() as error:
            return BadInput(f"the schema cannot be used for a check: {error}")
        if not violations:
            return None
        return Unusable(f"the answer does not meet the schema: {violations[0].json_path}: {violations[0].message}")

    def recovered(self, reasoning: str) -> str | None:
        """The last object in a model's reasoning that has the form: where some models leave their answer."""
        found = [text for text in _objects(reasoning) if self.violation(text) is None]
        return found[-1] if found else None


def _validator(schema: JsonObject, name: str, voice: Voice) -> "Validator | None":
    try:
        from jsonschema import validators  # noqa: PLC0415  150 ms that only --schema pays
        from jsonschema.exceptions import SchemaError  # noqa: PLC0415
    except ImportError:
        voice.warning("the answer is only checked to be JSON: pip install 'lmcli[schema]' checks the schema too")
        return None
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise BadInput(f"{name} is no JSON schema: {error.json_path}: {error.message}") from error
    validator: Validator = kind(schema)
    return validator


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


def _unusable_schema_errors() -> tuple[type[Exception], ...]:
    """What a validator raises for a schema that refers to itself without end, or to something that is not there."""
    from referencing.exceptions import Unresolvable  # noqa: PLC0415  comes with jsonschema

    return (RecursionError, Unresolvable)
