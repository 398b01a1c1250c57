r"""Scripts of command lines that read like a manual page, each run as it stands.

A script is a text file in `scripts/`:

    # A line of this kind is for the reader.
    $ printf 'one\ntwo\n' | lm respond
    one
    two
    $ lm respond -x
    2| lm: error: no such option: -x
    2| …
    [2]

`$ ` begins a command line, `> ` continues it. `sh` runs it in a folder that is the same for one script and fresh for
each, with nothing on stdin, `lm` and `python` on PATH, and a real server with the echo models at LM_HOST. Below stands
what it writes: stdout as it is, stderr behind `2| `, the exit status in brackets if it is not 0.

`…` stands for any text within a line, and alone on a line for any number of lines. `(no newline)` stands at the end of
a last line that has none. Blank lines before the next command or comment belong to nobody.
A first line `# server: token=T` starts the server with that API token required.
"""

import itertools
import re
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from conftest import StartServer
from processes import environment, run

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))
NO_NEWLINE = "(no newline)"
_STATUS = re.compile(r"\[(\d+)\]")


class Result(NamedTuple):
    """What a command line does, expected or seen."""

    stdout: list[str]
    stderr: list[str]
    status: int

    @classmethod
    def expected(cls, lines: list[str]) -> Self:
        """Read what stands below a command line."""
        status = 0
        while lines and not lines[-1]:
            lines.pop()
        if lines and (found := _STATUS.fullmatch(lines[-1])):
            status = int(found[1])
            lines.pop()
        errors = [line[3:] for line in lines if line.startswith("2| ")]
        return cls([line for line in lines if not line.startswith("2| ")], errors, status)

    @classmethod
    def seen(cls, stdout: bytes, stderr: str, status: int) -> Self:
        """Show what a command line did."""
        return cls(_lines(stdout.decode(errors="backslashreplace")), _lines(stderr), status)

    def matches(self, seen: "Result") -> bool:
        """Whether it was as expected."""
        return _fits(self.stdout, seen.stdout) and _fits(self.stderr, seen.stderr) and self.status == seen.status

    def written(self) -> list[str]:
        """As it stands in a script."""
        return [*self.stdout, *(f"2| {line}" for line in self.stderr), *([f"[{self.status}]"] if self.status else [])]


class Step(NamedTuple):
    """A command line and what it is to do."""

    number: int
    command: str
    expected: Result


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[-1]:
        lines[-1] += NO_NEWLINE
    else:
        lines.pop()
    return lines


def _fits(expected: list[str], seen: list[str]) -> bool:
    pattern = "".join("(?:.*\n)*" if line == "…" else _pattern(line) + "\n" for line in expected)
    return re.fullmatch(pattern, "".join(line + "\n" for line in seen)) is not None


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.split("…"))


def read_script(text: str) -> list[Step]:
    """Take a script apart."""
    steps: list[Step] = []
    lines = iter(enumerate(text.splitlines(), start=1))
    command: list[str] = []
    below: list[str] = []
    start = 0
    for number, line in itertools.chain(lines, [(0, "$ ")]):
        if line.startswith("> "):
            command.append(line[2:])
        elif line.startswith(("$ ", "# ")):
            if command:
                steps.append(Step(start, "\n".join(command), Result.expected(below)))
            command, below, start = ([line[2:]] if line.startswith("$ ") else []), [], number
        else:
            below.append(line)
    return steps


def _difference(step: Step, seen: Result) -> str:
    """What was expected and what was got, side by side."""
    expected, got = step.expected.written(), seen.written()
    width = max([len("expected"), *map(len, expected)])
    rows = [f"line {step.number}: $ {step.command}", f"    {'expected':<{width}}   got"]
    for left, right in itertools.zip_longest(expected, got, fillvalue=""):
        mark = " " if re.fullmatch(_pattern(left), right) else "|"
        rows.append(f"    {left:<{width}} {mark} {right}")
    return "\n".join(rows)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_command_line_does_what_stands_below_it(script: Path, tmp_path: Path, start_server: StartServer) -> None:
    """Stdout, stderr and status of each command line are exactly what the script shows."""
    text = script.read_text(encoding="utf-8")
    header = re.match(r"# server: token=sk-lm-(\w+):(\w+)\n", text)
    server = start_server(options={"api_tokens": {header[1]: header[2]}} if header else None)
    variables = environment(tmp_path, server.port)
    differences = []
    for step in read_script(text):
        ran = run(step.command, tmp_path, variables)
        seen = Result.seen(ran.stdout, ran.stderr, ran.status)
        if not step.expected.matches(seen):
            differences.append(_difference(step, seen))
    assert not differences, "\n\n".join(("", *differences))


def test_a_script_that_is_wrong_is_noticed() -> None:
    """One wrong letter, a missing line, another stream and another status are each a difference."""
    step = read_script("$ false\none … three\n2| oops\n[1]\n")[0]
    assert step.expected.matches(Result.seen(b"one two three\n", "oops\n", 1))
    for stdout, stderr, status in (
        (b"one two thre\n", "oops\n", 1),
        (b"one two three\n", "", 1),
        (b"one two three\noops\n", "", 1),
        (b"one two three", "oops\n", 1),
        (b"one two three\n", "oops\n", 2),
    ):
        seen = Result.seen(stdout, stderr, status)
        assert not step.expected.matches(seen)
        assert "expected" in _difference(step, seen)


def test_there_are_scripts() -> None:
    """Each script holds at least one command line."""
    assert SCRIPTS
    assert all(read_script(script.read_text(encoding="utf-8")) for script in SCRIPTS)
