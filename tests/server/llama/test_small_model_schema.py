"""Structured output of a real model: what a schema declares, in its order, and no more."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from conftest import Connect, Packet, Serve, Wire, checked, stack, stats_of, text_of
from local_servers import REAL_KEY, load, real_model
from processes import environment

from lmcli.server import background
from lmcli.server.llama.llama_engine import LlamaEngine

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
AGE = {"type": "integer", "minimum": 0, "maximum": 120}
NAME = {"type": "string", "maxLength": 30}
PERSON = {"type": "object", "properties": {"name": NAME, "age": AGE}, "required": ["name", "age"]}
REVERSED = {"type": "object", "properties": {"age": AGE, "name": NAME}, "required": ["name", "age"]}
FAMILY = {
    "$defs": {"Person": PERSON},
    "type": "object",
    "properties": {
        "mother": {"$ref": "#/$defs/Person"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/Person"}, "maxItems": 2},
    },
    "required": ["mother", "children"],
}


@pytest.fixture(scope="module")
def real_server() -> Iterator[background.Running]:
    """A server with the model."""
    with background.start(LlamaEngine([real_model()])) as running:
        yield running


@pytest.fixture
def real(real_server: background.Running, connect: Connect) -> Wire:
    """A connection to the server, with the model loaded."""
    wire = connect(real_server)
    load(wire, REAL_KEY)
    return wire


def answer(wire: Wire, schema: Any, seed: int) -> list[Packet]:
    """Ask for a person by a schema."""
    config = stack(
        structured={"type": "json", "jsonSchema": schema}, seed=checked(seed), maxPredictedTokens=checked(200)
    )
    return wire.predict("Describe a person as JSON, with as much detail as you can.", config, identifier=REAL_KEY)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("schema", [PERSON, REVERSED, FAMILY], ids=["person", "reversed", "family"])
def test_no_undeclared_keys_and_no_white_space(real: Wire, schema: dict[str, Any]) -> None:
    """With ten seeds, the answer is an instance of the schema, with the keys that it declares, in its order."""
    for seed in range(10):
        packets = answer(real, schema, seed)
        text = text_of(packets)
        assert stats_of(packets)["stopReason"] == "eosFound", text
        value = json.loads(text)
        jsonschema_rs.validate(schema, value)
        assert list(value) == list(schema["properties"])
        assert not re.search(r"\s", _STRING.sub("", text)), text
        reported = {field["key"]: field["value"] for field in packets[-1]["predictionConfig"]["fields"]}
        assert reported["llm.prediction.structured"] == {"type": "json", "jsonSchema": schema}, "the user's"


def test_map(real: Wire) -> None:
    """A map, and an object without properties, have the keys that the model likes."""
    for schema in ({"type": "object", "additionalProperties": AGE, "minProperties": 1}, {"type": "object"}):
        value = next(
            json.loads(text_of(packets))
            for seed in range(20)
            if stats_of(packets := answer(real, schema, seed))["stopReason"] == "eosFound"
        )
        assert jsonschema_rs.is_valid(schema, value)
        assert value


@pytest.mark.timeout(300)
def test_respond_with_a_schema(tmp_path: Path, serve: Serve) -> None:
    """`lm respond --schema` prints the instance."""
    (tmp_path / "person.json").write_text(json.dumps(FAMILY))
    command = ["lm", "respond", "-m", REAL_KEY, "--schema", "person.json", "--seed", "3", "-l", "200"]
    ran = subprocess.run(
        [*command, "Describe a family as JSON."],
        cwd=tmp_path,
        env=environment(tmp_path, serve(str(real_model())).address),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=250,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    value = json.loads(ran.stdout)
    jsonschema_rs.validate(FAMILY, value)
    assert list(value) == ["mother", "children"]
    assert list(value["mother"]) == ["name", "age"]
