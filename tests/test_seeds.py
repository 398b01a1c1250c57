"""The examples of LM Studio's Python documentation, as scripts in `seeds/`, run as they stand there.

Only the import is another: `import lmstudio as lms` is `import lmcli as lms`. An example that begins "… created in the
previous step" stands behind that step in one script; where it prints nothing, its result is printed as in the example
before it. The page about text completion exists twice, with and without markup: one script serves both. Comments are
left out, and the formatter keeps away.

The asynchronous examples await outside of a function, as in `python -m asyncio`, and are run so. Each prints what its
synchronous counterpart prints.

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
from conftest import LOOPS, PATIENCE, StartServer

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


ASYNCHRONOUS = {
    "chat_quick_async": "chat_quick",
    "chat_streaming_async": "chat_streaming",
    "chat_steps_async": "chat_steps",
    "chat_steps_streaming_async": "chat_steps_streaming",
    "chat_parameters_async": "chat_parameters",
    "chat_parameters_streaming_async": "chat_parameters_streaming",
    "chat_progress_async": "chat_progress",
    "completion_async": "completion",
    "completion_streaming_async": "completion_streaming",
    "completion_parameters_async": "completion_parameters",
    "completion_parameters_streaming_async": "completion_parameters_streaming",
    "completion_progress_async": "completion_progress_scoped",
}
"""The asynchronous examples, each with the synchronous one beside it."""

AWAITING = """
import ast, asyncio, sys
from pathlib import Path
source = Path(sys.argv[1]).read_text()
code = compile(source, sys.argv[1], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
run = asyncio.run
if sys.argv[2] == "uvloop":
    from uvloop import run
async def main():
    asyncio.get_running_loop().slow_callback_duration = 60
    await eval(code, {})
run(main())
"""
"""Runs a script that awaits outside of a function, on a loop that reports everything but that a machine is slow."""


class Engine(EchoEngine):
    """The echo models, and one under the name that the documents use."""

    downloaded = (*EchoEngine.downloaded, model_info("qwen2.5-7b-instruct", "Qwen2.5 7B Instruct"))


@pytest.fixture
def studio(start_server: StartServer) -> Running:
    """A server with the model of the documents."""
    return start_server(Engine())


def printed_by(command: list[str | Path], studio: Running, stdin: str = "", **variables: str) -> str:
    """What a script prints, a time as `<seconds>`; nothing on stderr, and status 0."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LM_", "LMS"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        input=stdin,
        env={**env, "LM_HOST": f"127.0.0.1:{studio.port}", **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return re.sub(r"\): \d+\.\d+(e-\d+)?$", "): <seconds>", done.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.script)
def test_example(run: Run, studio: Running) -> None:
    """An example of the documents prints what the documents promise, and nothing on stderr."""
    assert printed_by(["-X", "dev", SCRIPTS / f"{run.script}.py"], studio, run.stdin) == run.stdout


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("script", ASYNCHRONOUS)
def test_asynchronous_example(script: str, loop: str, studio: Running) -> None:
    """An asynchronous example prints what the synchronous one beside it prints, on either event loop."""
    expected = next(run.stdout for run in RUNS if run.script == ASYNCHRONOUS[script])
    command: list[str | Path] = ["-X", "dev", "-c", AWAITING, SCRIPTS / f"{script}.py", loop]
    assert printed_by(command, studio, PYTHONASYNCIODEBUG="1") == expected


@pytest.mark.parametrize(
    ("start", "stdout"),
    [
        ("import lmcli", LIFE.rstrip()),
        ("import asyncio", LIFE.rstrip() + "\n".join(f"What is {number} squared?" for number in range(20)) + "\n"),
    ],
)
def test_example_of_the_readme(start: str, stdout: str, studio: Running, tmp_path: Path) -> None:
    """The two programs of the README run as they stand there."""
    readme = (SCRIPTS.parents[1] / "README.md").read_text()
    [program] = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if block.startswith(start)]
    (tmp_path / "program.py").write_text(program)
    # without the debug mode of asyncio, which reports that the first use of a name takes its time
    assert printed_by([tmp_path / "program.py"], studio) == stdout


def test_every_script_is_run() -> None:
    """A script that nobody runs proves nothing."""
    assert {run.script for run in RUNS} | set(ASYNCHRONOUS) == {path.stem for path in SCRIPTS.glob("*.py")}


def test_only_the_import_is_ours() -> None:
    """No script knows anything of us but the import."""
    for path in SCRIPTS.glob("*.py"):
        ours = [line for line in path.read_text().splitlines() if "lmcli" in line]
        assert all(line.startswith(("import lmcli as ", "from lmcli import ")) for line in ours), path
