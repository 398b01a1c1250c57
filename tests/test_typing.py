"""What a type checker sees of `import lmcli as lms`."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import lmcli
from lmcli import errors

ROOT = Path(lmcli.__file__).parent.parent

PROGRAM = """
import lmcli as lms

client = lms.Client("127.0.0.1:1234", "sk-lm-…", timeout=60)
model = client.llm.model("key")
reveal_type(model)  # Revealed type is "lmcli.client.api.LLM"
reveal_type(model.tokenize("text"))  # Revealed type is "list[int]"
reveal_type(model.tokenize(["one", "two"]))  # Revealed type is "list[list[int]]"
result = model.respond("hello", on_first_token=lambda: None)
reveal_type(result.stats)  # Revealed type is "lmcli.values.Stats"
reveal_type(result.stats.time_to_first_token_sec)  # Revealed type is "float | None"
reveal_type(result.model_info.quantization)  # Revealed type is "lmcli.values.Quantization | None"
for fragment in model.respond_stream("hello"):
    reveal_type(fragment.content)  # Revealed type is "str"
try:
    lms.llm()
except lms.ModelNotFound as error:
    reveal_type(error.hints)  # Revealed type is "tuple[str, ...]"
message = lms.Message("user", (lms.TextPart("hello"),))
reveal_type(message.text)  # Revealed type is "str"

async def main() -> None:
    async with lms.AsyncClient("127.0.0.1:1234", timeout=60) as client:
        model = await client.llm.model("key")
        reveal_type(model)  # Revealed type is "lmcli.client.aio.AsyncLLM"
        reveal_type(await model.tokenize(["one", "two"]))  # Revealed type is "list[list[int]]"
        reveal_type((await model.respond("hello")).stats)  # Revealed type is "lmcli.values.Stats"
        stream = await model.respond_stream("hello")
        reveal_type(stream)  # Revealed type is "lmcli.client.aio_streams.AsyncPredictionStream"
        async for fragment in model.respond_stream("hello"):
            reveal_type(fragment.content)  # Revealed type is "str"
        await model.respond("hello", temperature=0)  # Unexpected keyword argument "temperature"

result.stats.tokens  # "Stats" has no attribute "tokens"
model.respond("hello", temperature=0)  # Unexpected keyword argument "temperature"
lms.ModelNotFnd  # Module has no attribute "ModelNotFnd"
lms.Stats(stop_reasn="eosFound")  # Unexpected keyword argument "stop_reasn"
"""


def test_a_program_is_checked_before_it_runs(tmp_path: Path) -> None:
    """Each name has its type; a name, an attribute or an option that does not exist is an error."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", str(program)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    reported: defaultdict[int, str] = defaultdict(str)
    for number, text in re.findall(r"program\.py:(\d+): \w+: (.*)", ran.stdout):
        reported[int(number)] += text
    for number, line in enumerate(PROGRAM.splitlines(), 1):
        _, _, expected = line.partition("  # ")
        assert expected in reported[number], line
        assert bool(expected) is bool(reported[number]), reported[number]


def test_the_public_names_are_those_that_are_loaded() -> None:
    """What is imported for the type checker is what is promised to programs."""
    tree = ast.parse(Path(lmcli.__file__).read_text(encoding="utf-8"))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(set(imported) - {"import_module"}) == sorted(lmcli.__all__)


def test_every_error_is_public() -> None:
    """A program can catch each error by its name."""
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes - {"ExitCode", "IntEnum"} <= set(lmcli.__all__)
