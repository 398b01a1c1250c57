"""The terminal picture of the README: `python tests/picture.py` runs the lines below and draws what they print."""

import io
import os
import re
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lmcli.server import background

PICTURE = Path(__file__).parents[1] / ".pictures" / "lm.svg"
LINES = [
    "echo 'Hello from a pipe' | lm respond",
    "lm respond 'Explain' < notes.txt",
    "echo hi | lm respond -o history | lm respond 'shorter'",
    "lm respond -o jsonl 'two words' | head -n 4",
    "lm models",
    "lm respond --temprature 0 hello; echo $?",
]
WIDTH = 92


def recorded() -> str:
    """Run the lines against a real server; gives what a terminal would show, colours included."""
    with tempfile.TemporaryDirectory() as folder, background.start() as running:
        Path(folder, "notes.txt").write_text("Everything is a file.\n")
        path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))
        variables = {"PATH": path, "HOME": folder, "LM_HOST": f"127.0.0.1:{running.port}", "FORCE_COLOR": "1"}
        return "\n".join(_shown(line, folder, variables) for line in LINES)


def _shown(line: str, folder: str, variables: dict[str, str]) -> str:
    ran = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return f"\x1b[32m$\x1b[0m \x1b[1m{line}\x1b[0m\n{ran.stdout}"


def drawn(text: str) -> str:
    """The picture of a terminal, with fonts of the reader's own machine."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), color_system="truecolor")
    console.print(Text.from_ansi(text), soft_wrap=False)
    picture = console.export_svg(title="lm", unique_id="lm")
    return re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    PICTURE.write_text(drawn(recorded()), encoding="utf-8")
