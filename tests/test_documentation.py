"""What the documentation shows is run: every example of the man pages, every shell block of the README.

They run in a folder that holds the files they name, in a git repository with a change, against a real server. A block
that cannot run here stands behind `<!-- not run by the tests: WHY -->`; it is listed below, so that none is added by
accident.
"""

import html
import json
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import picture as terminal_picture
import pytest
from conftest import PATIENCE, StartServer
from processes import Terminal, environment, start
from shells import ROOT, program
from tiny_model import make_model

from lmcli.reference.manual import PAGES, examples, prose_of
from lmcli.reference.readme import filled

README = (ROOT / "README.md").read_text(encoding="utf-8")
NOT_RUN = re.compile(r"<!-- (?:not run by the tests: .*|the (?:first|second) command|the tests) -->\n\Z")
GGUF = "qwen2.5-1.5b-instruct-q4_k_m.gguf"
NOT_RUN_HERE = ["python3 -m venv", "python3 -m venv", "python3 -m venv", "pipx install", "lm serve qwen"]
"""How the blocks begin that need the network or a model; the gate runs the first three."""

SCRIPT = "'A shell script that {}'"
STAND_INS = {
    "qwen2.5-7b-instruct": "echo-jit",
    "127.0.0.1:41234": "{address}",
    "-l 20 -H": "-l 20 -t 0 -H",
    "KEY": "echo-jit",
    "'What is 2 + 3?'": """'call add {{"a": 2, "b": 3}}'""",
    "'A shell script that": "'```\ntrue\n```",
}
"""What the documentation names, and what is there instead: random weights may sample the end as their first token."""

TOOLS = re.search(r"<!-- tools\.json -->\n```json\n(.*?)```", README, re.DOTALL)

TALK = {"messages": [{"role": "user", "content": "Good morning"}, {"role": "assistant", "content": "Good morning"}]}
TEXTS = {
    "session.txt": "$ ls\na b\n$ ",
    "story.txt": "Once upon a time",
    "prompt.txt": "Why is the sky blue?\n",
    "words.txt": "house\ntree\n",
    "reviews.txt": "Good, but loud\n\nNever again\n",
    "openings.txt": "Once upon a time\nIt was a dark night\n",
    "reports/first.txt": "Paris has two million inhabitants.\n",
    "reports/the second.txt": "Rome is old.\n",
    "products.csv": "1,house,red\n2,,blue\n3,tall tree,green\n",
    "tickets.jsonl": '{"id": "t1", "text": "It crashes"}\n{"id": "t2", "text": "Thank you", "stars": 5}\n',
    "prompts.jsonl": "".join(f'"prompt {number}"\n' for number in range(250)),
    "notes.md": "# Notes\n",
    "script.md": "```sh\nls\n```\n",
    "report.txt": "All went well.\n",
    "Makefile": "all:\n",
    "package.json": "{}\n",
    "city.json": json.dumps({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}),
    "talk.json": json.dumps(TALK),
    "tools.json": TOOLS[1] if TOOLS else "",
}
TYPED = b"hello\n/exit\n" * 3 + b"\nexit\n"
"""What is typed into the programs that ask: three dialogues, and what ends the README's loops."""

PROMISED = {
    "a Markdown document on stdin": "lm chat -f - 'Is this right?' < tides.md",
    "renders the answer as it streams in": "Is this right?",
    "a heading": "Tides",
    "a list": "•",
    "a table": "╭",
    "code in colours": "is_high",
    "TAB completes /stats": "> /stats",
    "followed by its statistics": "N tokens/s",
    "Ctrl-D exits": "$",
}
"""What the README says of its animated picture, and what is seen there."""


def picture() -> bytes:
    """A PNG image of one pixel."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0\0")),
        (b"IEND", b""),
    ]
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as a file, so small that it says nothing of sense."""
    return make_model(tmp_path_factory.mktemp("models") / GGUF)


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    """The files that the documentation names, in a git repository with a change."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / GGUF).symlink_to(model)
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for name in ("cat.png", "chart.png"):
        (folder / name).write_bytes(picture())
    for arguments in (["init", "-q"], ["add", "Makefile"]):
        subprocess.run([program("git"), *arguments], cwd=folder, check=True, timeout=PATIENCE)
    (folder / "Makefile").write_text("all:\n\ttrue\n")
    return folder


def serving(line: str) -> bool:
    """Whether a line is a server that stays in the foreground."""
    return line.startswith("lm serve") and not line.endswith("&")


def run_server(line: str, folder: Path, variables: Mapping[str, str]) -> None:
    """Run a server until it says where it is, and end it as a user would."""
    with start("sh", "-c", f"exec {line}", folder=folder, variables=variables) as child:
        child.wait_for(b"http://")
        child.process.send_signal(signal.SIGINT)
        assert child.end() == -signal.SIGINT


def in_editor(line: str) -> str:
    """A command of vi, from its colon on, as a shell runs it on a file."""
    program("ex")
    return f"ex -s story.txt <<'END'\nset noshelltemp\n{line}\nx!\nEND"  # without files stderr stays apart


def run_block(block: str, folder: Path, port: int) -> str:
    """Run a block as it is typed on a terminal, line after line; gives what it prints."""
    variables = environment(folder, port)
    (folder / "hosts.txt").write_text(f"127.0.0.1:{port}\n" * 2)
    for name, stand_in in STAND_INS.items():
        block = block.replace(name, stand_in.format(address=f"127.0.0.1:{port}"))
    for name in re.findall(r"\b(?:jq|parallel)\b", block):
        program(name)
    lines = block.splitlines()
    for line in filter(serving, lines):
        run_server(line, folder, variables)
    rest = "\n".join(in_editor(line) if line.startswith(":") else line for line in lines if not serving(line))
    terminal = Terminal()
    terminal.type(TYPED)
    with start("sh", "-e", "-u", "-c", rest, folder=folder, variables=variables, stdin=terminal) as child:
        status = child.end()
        said = child["stderr"].decode()
        assert status == 0, said
    assert not re.search(r"lm: error|lm: warning|not found|Traceback", said), said
    return child["stdout"].decode()


def shell_blocks() -> Iterator[tuple[str, bool]]:
    """The shell blocks of the README, and whether each is run."""
    for found in re.finditer(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE):
        yield found[1], NOT_RUN.search(README[: found.start()]) is None


def first_words(block: str) -> str:
    """A name for a block."""
    return " ".join(block.split()[:4])


def newcomers() -> list[list[list[str]]]:
    """The table of what is typed in other tools: for each row the commands there, and the commands here."""
    table = README.partition("<!-- there and here -->\n")[2].partition("\n\n")[0]
    return [[re.findall(r"`([^`]+)`", cell) for cell in row.split("|")[2:4]] for row in table.splitlines()[2:]]


RUN = [block for block, is_run in shell_blocks() if is_run]
EXAMPLES = [(page, block) for page in PAGES for block in examples(prose_of(page, ROOT))]


@pytest.mark.parametrize("block", RUN, ids=first_words)
def test_every_shell_block_of_the_readme_runs(block: str, folder: Path, start_server: StartServer) -> None:
    """As it stands there, without an error or a warning."""
    run_block(block, folder, start_server().port)


def test_the_loop_that_runs_tools_ends_with_the_answer(folder: Path, start_server: StartServer) -> None:
    """The model calls the tool, the script adds, and the model answers with the sum; it takes at most twenty lines."""
    (block,) = [block for block in RUN if "tool_calls" in block]
    assert len(block.splitlines()) <= 20
    assert run_block(block, folder, start_server().port) == "5\n"
    roles = [message["role"] for message in json.loads((folder / "turn.json").read_text())["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"]


def test_what_is_typed_instead_of_other_tools_runs(folder: Path, start_server: StartServer) -> None:
    """Each command of the right column, on one server; a model is loaded and unloaded before the others need it."""
    here = [command for _, cell in newcomers() for command in cell]
    run_block("\n".join(sorted(here, key=lambda command: "load KEY" not in command)), folder, start_server().port)
    assert len(here) >= 12


def test_the_table_of_other_tools_is_about_those_of_its_title() -> None:
    """Each of them has several rows, and no other tool has any."""
    tools = Counter(command.split()[0] for cell, _ in newcomers() for command in cell)
    assert re.search(rf"^## Coming from {', '.join(list(tools))}$".replace(", lms", " or lms"), README, re.MULTILINE)
    assert min(tools.values()) >= 5


@pytest.mark.parametrize(("page", "block"), EXAMPLES, ids=lambda value: first_words(value) if " " in value else value)
def test_every_example_of_the_man_pages_runs(page: str, block: str, folder: Path, start_server: StartServer) -> None:
    """As it stands there, without an error or a warning."""
    run_block(block, folder, start_server().port)


def test_what_is_not_run_is_known() -> None:
    """Only blocks that need the network or a model are left out, each marked where it stands."""
    left_out = [block for block, is_run in shell_blocks() if not is_run]
    assert [block.startswith(start) for block, start in zip(left_out, NOT_RUN_HERE, strict=True)] == [True] * 5
    assert all(re.search(r"^lm ", block, re.MULTILINE) is None or GGUF in block for block in left_out)


def test_every_page_has_examples() -> None:
    """At least two, and together they use every command."""
    text = "\n".join(block for _, block in EXAMPLES)
    assert all(sum(page == name for page, _ in EXAMPLES) >= 2 for name in PAGES)
    for command in ("respond", "complete", "chat", "stats", "models", "models load", "models unload", "serve"):
        assert re.search(rf"\blm {command}\b", text), command


def test_a_block_that_fails_is_noticed(folder: Path, start_server: StartServer) -> None:
    """A mistyped option, a missing file and a missing program each fail the test of their block."""
    port = start_server().port
    for block in (
        "lm respond --no-such hi",
        "lm respond hi < missing.txt",
        "no-such-program | lm respond hi",
        ":%!lm respond --no-such",
    ):
        with pytest.raises(AssertionError):
            run_block(f"{block}\n", folder, port)


def test_the_tables_of_the_readme_are_the_generated_ones() -> None:
    """Options, exit status and environment."""
    assert filled(README) == README
    titles = re.findall(r"<!-- generated: (.*) -->", README)
    assert titles == ["environment", "exit status", "lm respond --help"]


def test_the_help_in_the_readme_is_the_help() -> None:
    """`lm respond --help` prints exactly what stands there."""
    variables = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "lmcli", "respond", "--help"]
    printed = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert f"<!-- generated: lm respond --help -->\n```text\n{printed.stdout}```\n<!-- end -->" in README


def test_the_picture_shows_a_real_run() -> None:
    """What it shows is what its lines print today, and it loads nothing from anywhere."""
    drawn = terminal_picture.PICTURE.read_text(encoding="utf-8")
    shown = "".join(html.unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", drawn)).replace("\xa0", " ")
    ran = re.sub(r"\x1b\[[\d;]*m", "", terminal_picture.recorded())
    assert "".join(ran.split()) in "".join(shown.split())
    assert "url(http" not in drawn
    assert "drawn by python tests/picture.py" in README
    assert "built-in" in terminal_picture.LINES[0]
    assert re.search(r"!\[A terminal session with the built-in echo model: [^]]*\]\(\.pictures/lm\.svg\)", README)


def test_the_animated_picture_shows_a_real_dialogue() -> None:
    """It ends as the same dialogue does today, figures apart; it is small, and loads and runs nothing."""
    picture = terminal_picture.DIALOGUE.read_text(encoding="utf-8")
    frames, seconds = terminal_picture.held(tokens_per_second=1000)
    today = terminal_picture.filmed(frames, seconds)
    assert shown_without_figures(picture) == shown_without_figures(today)
    assert len(picture.encode()) < 150_000
    assert not re.search(r"url\(|<script|href", picture)


def test_the_animated_picture_shows_what_its_text_says() -> None:
    """Whoever cannot see it reads in the README which model it is, and what is asked of it."""
    (text,) = re.findall(r"!\[([^]]*)\]\(\.pictures/chat\.svg\)", README)
    assert "built-in echo model" in text
    shown = "\n".join(shown_without_figures(terminal_picture.DIALOGUE.read_text(encoding="utf-8")))
    for said, seen in PROMISED.items():
        assert said in text.replace("\n", " ")
        assert seen in shown


def shown_without_figures(picture: str) -> list[str]:
    """What an animated picture shows at its end, and what has scrolled off: each text, with N for every number."""
    groups = ET.fromstring(picture).iterfind(".//{*}g[@visibility='visible']")
    texts = [(text.text or "").replace("\xa0", " ") for group in groups for text in group.iterfind("{*}text")]
    return [re.sub(r"\d([\d.,]*\d)?", "N", text) for text in texts]
