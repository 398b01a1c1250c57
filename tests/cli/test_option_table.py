"""One entry in the table of options reaches everything that knows options; an option that reaches nothing fails."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE

from lmcli.cli.options import ChatOptions, CompleteOptions, RespondOptions, StatsOptions
from lmcli.cli.resolve import sampling_config
from lmcli.wire.prediction_config import OPTIONS, PredictionConfig

MADE_UP = """
import sys
from typing import Annotated
from lmcli.wire import prediction_config as table
from lmcli.wire.config_entries import Entry, Flag

class Wider(table.PredictionConfig):
    made_up: Annotated[
        int | None,
        Entry("llama.madeUp", (0, 9), flag=Flag(("--made-up",), "N", "An option of this test."))
    ] = None

table.PredictionConfig = Wider
table.OPTIONS = table.table(Wider, table.PREDICTION_PREFIX)
"""
"""One more entry, before anything else is loaded."""


def python(code: str, *arguments: str) -> str:
    """What a program prints that knows one option more."""
    ran = subprocess.run(
        [sys.executable, "-c", MADE_UP + code, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def lm(*arguments: str) -> str:
    """What the command prints that knows one option more."""
    return python("from lmcli.__main__ import main; main()", *arguments)


@pytest.mark.parametrize("command", ["respond", "complete", "chat", "stats"])
def test_an_entry_is_in_the_help(command: str) -> None:
    """With its flag, its metavar and what it is for."""
    assert "--made-up N" in (shown := lm(command, "--help"))
    assert "An option of this test." in shown


def test_an_entry_is_sent() -> None:
    """What the flag gives goes into the request under the key of the entry."""
    request = json.loads(lm("respond", "-n", "--made-up", "3", "--dry-run", "hi"))
    fields = request["predict"]["predictionConfigStack"]["layers"][0]["config"]["fields"]
    assert {"key": "llm.prediction.llama.madeUp", "value": 3} in fields


def test_an_entry_is_in_manual_and_completions() -> None:
    """What is generated is generated from the entry: option, field of --set, completions of three shells."""
    code = """
import json
from lmcli.reference.__main__ import ROOT, generated
print(json.dumps({path.name: text for path, text in generated(ROOT).items()}))
"""
    files = json.loads(python(code))
    assert "Fl \\-made\\-up Ar N" in files["lm-respond.1"]
    assert ".It Cm llama.madeUp" in files["lm-respond.1"]
    for completion in ("lm.bash", "_lm", "lm.fish"):
        assert "made-up" in files[completion], completion


def test_an_entry_is_in_the_python_configuration() -> None:
    """Under both of its names, with its range."""
    code = """
from lmcli.errors import UsageError
from lmcli.wire.config import prediction_config, prediction_stack, read_stack
for name in ("made_up", "madeUp"):
    print(read_stack(prediction_stack(prediction_config({name: 3}))))
try:
    prediction_stack(prediction_config({"madeUp": 10}))
except UsageError as error:
    print(error)
"""
    sent = "{'llm.prediction.llama.madeUp': 3}\n"
    assert python(code) == sent + sent + "made up must be at most 9, not 10\n"


ELSEWHERE = {
    "where": ("host", "token_file", "insecure_token", "timeout", "model", "ttl", "context_length", "gpu", "device"),
    "what is asked": (
        "system",
        "system_file",
        "file",
        "input",
        "no_stdin",
        "history",
        "raw",
        "schema",
        "grammar",
        "preset",
    ),
    "what is shown": (
        "progress",
        "color",
        "quiet",
        "verbose",
        "output",
        "markdown",
        "echo",
        "stats",
        "stats_file",
        "dry_run",
        "count",
    ),
    "what is asked of many": ("each", "jobs", "results", "fail_fast"),
    "what is measured": ("models", "runs", "warmup", "by"),
}
NOT_ASKED = {name for names in ELSEWHERE.values() for name in names}
"""Options that say where, how and of what is asked, not how to predict; the scripts show what each does."""

EXAMPLES: dict[Any, Any] = {"set_": ["seed=1"], "reasoning": ["on"], "context_overflow_policy": "rolling"}


@pytest.mark.parametrize("command", [RespondOptions, CompleteOptions, ChatOptions, StatsOptions])
def test_every_option_reaches_the_request(command: Any) -> None:
    """An option of a command that is in no table, and changes no request, is one that somebody forgot."""
    names = [name for name, _, _ in command.fields() if name not in NOT_ASKED]
    assert set(names) >= {name for name, option in OPTIONS.items() if option.flag}
    for name in names:
        value = EXAMPLES.get(name)
        if value is None:
            kind = OPTIONS[name].type
            value = "x" if kind is str else ["x"] if kind == (list, tuple) else 1
        given = {field: default for field, _, default in command.fields()} | {name: value}
        assert sampling_config(command(**given)) != PredictionConfig(), name


def test_a_flag_has_a_dash(tmp_path: Path) -> None:
    """A message about a value names the flag that was typed, not the name in Python."""
    ran = subprocess.run(
        [b"lm", b"respond", b"-n", b"--stop", b"\xff", b"hi"],
        capture_output=True,
        env={"PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path), "LM_HOST": "demo"},
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith(b"lm: error: --stop is not UTF-8")
