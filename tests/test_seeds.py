"""The synchronous examples of LM Studio's Python documentation, as scripts in `seeds/`, run as they stand there.

Only the import is another: `import lmstudio as lms` is `import lmcli as lms`. An example that begins "… created in the
previous step" stands behind that step in one script; where it prints nothing, its result is printed as in the example
before it. The page about text completion exists twice, with and without markup: one script serves both. Comments are
left out, and the formatter keeps away.

Left out, because the documents have them with a syntax error: the two conversations with
`chat.add_user_message("What is LM Studio?)`, whose quote is never closed, and the two progress callbacks that are
passed with a colon, `on_progress: lambda …`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import PATIENCE, StartServer

from lmcli.server.background import Running
from lmcli.server.echo.echo_engine import EchoEngine, model_info

SCRIPTS = Path(__file__).parent / "seeds"

LIFE = "What is the meaning of life?\n"
STUDIO = "What is LM Studio?"
YOU = "You (leave blank to exit): "
PROGRESS = "0.0% complete\n50.0% complete\n100.0% complete\n"


def stats(model: str, tokens: int) -> str:
    """The stats as the examples print them; a time is `<seconds>`."""
    return (
        f"Model used: {model}\n"
        f"Predicted tokens: {tokens}\n"
        "Time to first token (seconds): <seconds>\n"
        "Stop reason: eosFound\n"
    )


class Run(NamedTuple):
    """A script, what it prints, and what is typed into it."""

    script: str
    stdout: str
    stdin: str = ""


RUNS = [
    Run("chat_quick", LIFE),
    Run("chat_quick_scoped", LIFE),
    Run("chat_streaming", LIFE),
    Run("chat_streaming_scoped", LIFE),
    Run("chat_steps", LIFE + stats("Qwen2.5 7B Instruct", 6)),
    Run("chat_steps_streaming", LIFE + stats("Qwen2.5 7B Instruct", 6)),
    Run("chat_steps_scoped", LIFE),
    Run("chat_parameters", stats("Echo", 6)),
    Run("chat_parameters_streaming", LIFE),
    Run("chatbot", f"{YOU}Bot: one two\n{YOU}Bot: three\n{YOU}", "one two\nthree\n\n"),
    Run("chatbot", f"{YOU}Bot: one\n{YOU}\n", "one\n"),
    Run("chat_progress", PROGRESS),
    Run("chat_progress_scoped", PROGRESS),
    Run("both_ways", STUDIO + STUDIO + "\n"),
    Run("both_ways_scoped", STUDIO + STUDIO + "\n"),
    Run("history", STUDIO + "\n"),
    Run("completion", "My name is\n" + stats("Qwen2.5 7B Instruct", 3)),
    Run("completion_streaming", "My name is\n" + stats("Qwen2.5 7B Instruct", 3)),
    Run("terminal_sim", "$ \n$ \n$ ", "ls\npwd\nexit\n"),
    Run("terminal_sim", "$ \n$ \n", "ls\n"),
    Run("completion_parameters", "My name is\n"),
    Run("completion_parameters_streaming", "My name is\n"),
    Run("completion_progress", PROGRESS),
    Run("completion_progress_scoped", PROGRESS.replace("complete", "processed")),
]


class Engine(EchoEngine):
    """The echo models, and one under the name that the documents use."""

    downloaded = (*EchoEngine.downloaded, model_info("qwen2.5-7b-instruct", "Qwen2.5 7B Instruct"))


@pytest.fixture
def studio(start_server: StartServer) -> Running:
    """A server with the model of the documents."""
    return start_server(Engine())


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.script)
def test_example(run: Run, studio: Running) -> None:
    """An example of the documents prints what the documents promise, and nothing on stderr."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LM_", "LMS"))}
    done = subprocess.run(
        [sys.executable, "-X", "dev", SCRIPTS / f"{run.script}.py"],
        input=run.stdin,
        env={**env, "LM_HOST": f"127.0.0.1:{studio.port}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stderr == ""
    assert re.sub(r"\): \d+\.\d+(e-\d+)?$", "): <seconds>", done.stdout, flags=re.MULTILINE) == run.stdout
    assert done.returncode == 0


def test_every_script_is_run() -> None:
    """A script that nobody runs proves nothing."""
    assert {run.script for run in RUNS} == {path.stem for path in SCRIPTS.glob("*.py")}


def test_only_the_import_is_ours() -> None:
    """No script knows anything of us but the import."""
    for path in SCRIPTS.glob("*.py"):
        ours = [line for line in path.read_text().splitlines() if "lmcli" in line]
        assert all(line.startswith(("import lmcli as ", "from lmcli import ")) for line in ours), path
