"""The terminal picture of the README: `python tests/picture.py` runs the lines below and draws what they print."""

import io
import re
import tempfile
from pathlib import Path
from typing import Final

from processes import Terminal, environment, start
from rich.console import Console
from rich.text import Text

PICTURE: Final = Path(__file__).parents[1] / ".pictures" / "lm.svg"
LINES: Final = [
    "export LM_HOST=demo  # a built-in model that repeats what it is asked",
    "echo 'Hello from a pipe' | lm respond",
    "lm respond 'Explain' < notes.txt",
    "echo hi | lm respond -o history | lm respond 'shorter'",
    "lm respond -o jsonl 'two words' | grep fragment",
    "lm models",
    "lm respond --temprature 0 hello; echo $?",
]
WIDTH: Final = 80


def recorded() -> str:
    """Run the lines on a terminal, against the built-in model; gives what it shows, colours included."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "notes.txt").write_text("Everything is a file.\n")
        return "\n".join(_shown(line, folder) for line in LINES)


def _shown(line: str, folder: Path) -> str:
    screen = Terminal()
    variables = environment(folder, "demo", TERM="xterm-256color")
    with start("sh", "-c", line, folder=folder, variables=variables, stdout=screen, stderr=screen) as child:
        child.end()
        printed = child["stdout"].decode().replace("\r\n", "\n")
    return f"\x1b[32m$\x1b[0m \x1b[1m{line}\x1b[0m\n{printed}"


def drawn(text: str) -> str:
    """The picture of a terminal, with fonts of the reader's own machine."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), color_system="truecolor")
    console.print(Text.from_ansi(text), soft_wrap=False)
    picture = console.export_svg(title="lm", unique_id="lm")
    return re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    PICTURE.write_text(drawn(recorded()), encoding="utf-8")
