"""A pipe gets the bytes of the answer, whatever is shown on the terminal beside it."""

from pathlib import Path

import pytest
from conftest import StartServer
from processes import Terminal, environment, start

ANSWER = "\x1b[1m# Title\x1b[0m\r\n\tone  \n\n```sh\n\x07two \u202e\n```\n| a |\n|---|\nend"
PROMPT = f"<think>*hm*\n</think>{ANSWER}"
SHOWN = [
    ("--color never --progress --reasoning show", {}),
    ("--color always --progress --stats -v --reasoning show", {"FORCE_COLOR": "1", "COLUMNS": "10"}),
    ("--no-progress --reasoning hide -q", {"TERM": "dumb", "NO_COLOR": "1"}),
]
"""Options and variables that change what a terminal shows."""
FORMS = {
    "respond": f"{ANSWER}\n",
    "chat": f"{ANSWER}\n",
    "chat --history talk.json": f"{ANSWER}\n",
    "respond -o code": "\x07two \u202e\n",
    "respond --each nul": f"{ANSWER}\0",
}
"""Commands that take one prompt from stdin, and what they write."""


@pytest.mark.parametrize(("shown", "variables"), SHOWN)
def test_a_pipe_gets_the_bytes_of_the_answer(
    shown: str, variables: dict[str, str], tmp_path: Path, start_server: StartServer
) -> None:
    """Stderr is a terminal; a model that has to be loaded, reasoning, colour, statistics: none of it is on stdout."""
    server = start_server(load_seconds=0.4)
    (tmp_path / "prompt").write_text(PROMPT, newline="")
    everything = environment(tmp_path, server.port, **({"TERM": "xterm-256color"} | variables))
    for form, written in FORMS.items():
        options = shown.replace(" --reasoning show", "") if "--each" in form else shown
        command = ["lm", *form.split(), "-m", "echo-jit", *options.split()]
        with (
            (tmp_path / "prompt").open() as prompt,
            start(*command, folder=tmp_path, variables=everything, stdin=prompt.fileno(), stderr=Terminal()) as child,
        ):
            assert child.end() == 0, child["stderr"]
        assert child["stdout"] == written.encode(), form
