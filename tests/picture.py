"""The pictures of the README: `python tests/picture.py` runs what they show and draws it.

`python tests/picture.py 12.5` writes the animated one as it is after so many seconds to stdout, without motion.
"""

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from animation import Frame, animated, frozen
from processes import Terminal, environment, start
from rich.console import Console
from rich.text import Text
from session import Session, at_a_shell

FOLDER: Final = Path(__file__).parents[1] / ".pictures"
PICTURE: Final = FOLDER / "lm.svg"
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

DIALOGUE: Final = FOLDER / "chat.svg"
SIZE: Final = (80, 34)
TOKENS_PER_SECOND: Final = 25
DOCUMENT: Final = """\
# Tides

The **Moon** pulls at the sea, and so does the *Sun*:

- new and full moon: *spring tides*, the highest
- half moon: *neap tides*, the lowest

| place | range |
|---|---:|
| Bay of Fundy | 16 m |
| Baltic Sea | 0.2 m |

```python
def is_high(hour: float) -> bool:
    return hour % 12.42 < 6.21  # half a lunar day
```
"""


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


def held(tokens_per_second: int = TOKENS_PER_SECOND) -> tuple[list[Frame], float]:
    """Hold a dialogue with the built-in model; gives what the terminal shows, and for how long."""
    with tempfile.TemporaryDirectory() as name, _served(Path(name), tokens_per_second) as port:
        folder = Path(name)
        (folder / "tides.md").write_text(DOCUMENT)
        with at_a_shell(folder, port, SIZE) as session:
            _hold(session)
        return session.frames, session.seconds


def filmed(frames: Sequence[Frame], seconds: float) -> str:
    """The picture of the dialogue."""
    return animated(frames, seconds, title="lm chat", size=SIZE)


@contextmanager
def _served(folder: Path, tokens_per_second: int) -> Iterator[int]:
    """A server whose model is as slow as a real one; gives its port."""
    command = f"exec lm serve --port 0 --tokens-per-second {tokens_per_second}"
    variables = environment(folder, "demo")
    with start("sh", "-c", command, folder=folder, variables=variables, stderr=subprocess.DEVNULL) as server:
        server.wait_for(b"\n")
        yield int(server["stdout"].rpartition(b":")[2])


def _hold(session: Session) -> None:
    """Ask about a document, complete a command, ask again, and exit."""
    session.pause(1)
    session.enter("lm chat -f - 'Is this right?' < tides.md", ">")
    session.pause(2)
    session.type("/st")
    session.pause(0.5)
    session.press("\t")
    session.wait_for("> /stats")
    session.enter("", ">")
    session.enter("And where are the tides *low*?", ">")
    session.pause(2)
    session.press("\x04")
    session.wait_for("$")
    session.pause(5)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(frozen(DIALOGUE.read_text(encoding="utf-8"), float(sys.argv[1])), end="")
    else:
        PICTURE.write_text(drawn(recorded()), encoding="utf-8")
        DIALOGUE.write_text(filmed(*held()), encoding="utf-8")
