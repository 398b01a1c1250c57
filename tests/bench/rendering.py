"""What Markdown costs on a terminal: `python tests/bench/rendering.py [--rate N]`.

A server sends answers at so many fragments a second to `lm respond --markdown` on a terminal of 80 columns and 24 rows.
The processor's time of the whole process, its start included, stands beside the time that the answer took. The first
answer has 3,000 words with tables and code, the others are single blocks, and texts that are hard to read; each is also
written without being rendered. Nothing is asserted.
"""

import argparse
import os
import pty
import random
import re
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import Packet
from processes import StubConnection, StubServer, environment

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "wizards", "quietly", "vex"]


class Cost(NamedTuple):
    """What one answer cost."""

    wall_seconds: float
    processor_seconds: float
    bytes_count: int


def words(count: int) -> str:
    """So many words."""
    return " ".join(random.choices(WORDS, k=count))


def section(number: int) -> str:
    """A tenth of an answer: about 300 words."""
    code = "".join(f"def f{n}(x: int) -> str:  # {words(4)}\n    return '{words(3)}' + str(x)\n" for n in range(8))
    rows = "".join(f"| {words(2)} | {n} | {words(6)} |\n" for n in range(8))
    items = "".join(f"- {words(12)}\n" for _ in range(5))
    text = f"{words(80)} **bold** and `code` {words(20)}"
    table = f"| Name | Value | Note |\n|---|--:|---|\n{rows}"
    return f"## Section {number}\n\n{text}\n\n{items}\n```python\n{code}```\n\n{table}\n"


def answers() -> dict[str, str]:
    """The answers by name."""
    return {
        "3,000 words with tables and code": "".join(map(section, range(10))),
        "3,000 lines of code": "```python\n" + "".join(f"def f{n}(x):  # {words(3)}\n" for n in range(3000)) + "```\n",
        "3,000 rows of a table": "| a | b |\n|---|---|\n" + "".join(f"| {words(3)} | {n} |\n" for n in range(3000)),
        "20,000 words of a paragraph": words(20_000),
        "2,000 items of a list": "".join(f"- {words(8)}\n" for _ in range(2000)),
        "50,000 times >": ">" * 50_000,
        "50,000 times [": "[" * 50_000,
        "100,000 times `": "`" * 100_000,
        "30,000 times ![": "![" * 30_000,
        "10,000 times *a **b": "*a **b " * 10_000,
        "lists, 500 deep": "".join("  " * depth + "- a\n" for depth in range(500)),
    }


def answer_cost(text: str, rate: float, option: str) -> Cost:
    """Send an answer, a word at a time, to a process that shows it."""
    fragments = re.findall(r"\S+\s*|\s+", text)

    def send(connection: StubConnection, channel: int) -> None:
        began = time.monotonic()
        for number, fragment in enumerate(fragments):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            connection.say(channel, fragment)
        connection.finish(channel)

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelCreate":
            threading.Thread(target=send, args=(connection, envelope["channelId"])).start()

    with StubServer(handle) as server, tempfile.TemporaryDirectory() as folder:
        return shown(["-m", "lmcli", "respond", option, "hi"], environment(Path(folder), server.port, TERM="xterm"))


def shown(arguments: Sequence[str], variables: dict[str, str]) -> Cost:
    """Run `lm` on a terminal to its end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, *arguments], variables)
    termios.tcsetwinsize(terminal, (24, 80))
    began, bytes_count = time.monotonic(), 0
    while data := _read(terminal):
        bytes_count += len(data)
    _, _, usage = os.wait4(pid, 0)
    os.close(terminal)
    return Cost(time.monotonic() - began, usage.ru_utime + usage.ru_stime, bytes_count)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the process has ended
        return b""


def main() -> None:
    """Print a line for each answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=1000.0, help="fragments a second")
    parser.add_argument("names", nargs="*", help="beginnings of the names of the answers; all without any")
    given = parser.parse_args()
    random.seed(1)
    print(f"{'answer':33} {'option':14} {'seconds':>8} {'processor':>10} {'share':>6} {'bytes':>9}")
    for name, text in answers().items():
        if not given.names or name.startswith(tuple(given.names)):
            for option in ("--no-markdown", "--markdown"):
                cost = answer_cost(text, given.rate, option)
                share = cost.processor_seconds / cost.wall_seconds
                seconds = f"{cost.wall_seconds:8.2f} {cost.processor_seconds:10.2f}"
                print(f"{name:33} {option:14} {seconds} {share:6.0%} {cost.bytes_count:9,}")


if __name__ == "__main__":
    main()
