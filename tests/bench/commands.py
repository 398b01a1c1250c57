"""What a user waits for besides the answer: `python tests/bench/commands.py [--runs N]`.

Whole processes run in turn, and the processor's time of each stands beside that of a bare loop that takes one answer:
help, lists of models, a schema, a long input, a long history, and the first prompt of a dialogue. Nothing is asserted.
"""

import argparse
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from measuring import HERE, Run, busy_seconds, environment, measure

LM = [sys.executable, "-m", "lmcli"]
MEGABYTES = 20
MESSAGES = 9_000
"""Messages of the long history; the server takes ten thousand."""


@contextmanager
def server() -> Iterator[str]:
    """`lm serve`; gives its address."""
    with subprocess.Popen([*LM, "serve", "--quiet", "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip().removeprefix("http://")
        finally:
            process.terminate()


def first_prompt(address: str) -> Run:
    """`lm chat` on a terminal, until its first prompt."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [*LM, "chat", "--host", address], environment() | {"TERM": "dumb"})
    shown = b""
    while not shown.endswith(b"> "):
        shown += os.read(terminal, 4096)
    os.kill(pid, 9)
    os.close(terminal)
    _, _, usage = os.wait4(pid, 0)
    return Run(0.0, usage.ru_maxrss, usage.ru_utime + usage.ru_stime)


def large_files(folder: Path) -> tuple[Path, Path]:
    """A long input, and a long history."""
    text, history = folder / "long.txt", folder / "long.json"
    text.write_text("Twenty megabytes of this “line”.\n" * (MEGABYTES * 1_000_000 // 37), encoding="utf-8")
    turns = [{"role": role, "content": "Some words, "} for role in ("user", "assistant")] * (MESSAGES // 2)
    history.write_text(json.dumps({"messages": turns}), encoding="utf-8")
    return text, history


def waits(address: str, folder: Path) -> Mapping[str, Callable[[], Run]]:
    """What is measured, by what it is called."""
    text, history = large_files(folder)

    def lm(*arguments: str, stdin: Path = Path(os.devnull)) -> Callable[[], Run]:
        return lambda: measure([*LM, *arguments], stdin)

    def grown_history() -> Run:
        copy = shutil.copy(history, folder / "copy.json")
        return lm("chat", "-nq", *at, "--overflow", "rolling", "--history", str(copy), "-l", "1", "hi")()

    at = ("--host", address)
    schema = '{"type": "object"}'
    bare = [sys.executable, str(HERE / "bare_loop.py"), address.rpartition(":")[2], "hi"]
    return {
        "bare loop, one answer": lambda: measure(bare),
        "lm --help": lm("--help"),
        "lm respond --help": lm("respond", "--help"),
        "lm models": lm("models", *at),
        "lm chat, first prompt": lambda: first_prompt(address),
        "lm respond hi": lm("respond", *at, "hi"),
        "lm respond --schema": lm("respond", *at, "--schema", schema, "{}"),
        f"lm respond, {MEGABYTES} MB of stdin": lm("respond", *at, "--overflow", "rolling", "-l", "1", stdin=text),
        f"lm chat, {MESSAGES} messages": grown_history,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    options = parser.parse_args()
    with server() as address, tempfile.TemporaryDirectory() as folder:
        measured = waits(address, Path(folder))
        rounds = [{name: run() for name, run in measured.items()} for _ in range(options.runs + 1)][1:]
    yardstick = busy_seconds([one["bare loop, one answer"] for one in rounds])
    print(f"processor time, and as a ratio to the bare loop, median of {options.runs}:")
    for name in measured:
        busy = busy_seconds([one[name] for one in rounds])
        print(f"  {name:28} {busy * 1000:6.0f} ms {busy / yardstick:6.2f}")


if __name__ == "__main__":
    main()
