"""What TAB completes, as a function of the line."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK

from lmcli.cli.candidates import candidates
from lmcli.cli.dialogue_commands import COMMANDS, FILE, KEY

KEYS = ["qwen3-4b", "qwen/qwen3-8b@q4_k_m", "echo", "\x1b[31m"]

TREE = [
    "my dir/a file.txt",
    "my dir/b",
    "🦉 owl.txt",
    ".hidden",
    "sub/.x",
    "sub/x",
    "caf\udce9",
    "~odd",
    " edge ",
    "a\nb",
]


def lines(line: str) -> list[str]:
    """What a line can be completed to."""
    return [candidate.line for candidate in candidates(line, lambda: KEYS)]


def labels(line: str) -> list[str]:
    """How that is listed."""
    return [candidate.label for candidate in candidates(line, lambda: KEYS)]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is the home, with files of all sorts of names."""
    for name in TREE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        try:
            (tmp_path / name).touch()
        except OSError:  # macOS has no names that are not UTF-8
            assert not name.isprintable()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_slash_at_the_start_completes_commands() -> None:
    """Commands are listed with their slash, and a space follows one that is complete."""
    assert labels("/") == list(COMMANDS)
    assert lines("/he") == ["/help "]
    assert [label for label in labels("/s") if label in ("/save", "/stats", "/system")] == labels("/s")
    assert lines("/frob") == []


@pytest.mark.parametrize(
    "line", ["", "hello", "see sub/", " /he", 'x """', "/system Be", "/edit ", "a\n/he", "/system"]
)
def test_a_tab_is_inserted_in_text(line: str) -> None:
    """A message, and a command's text, is not completed; a tab in it is a tab."""
    assert lines(line) == ([f"{line}\t"] if line != "/system" else ["/system "])


def test_a_model_key_is_completed_where_a_command_takes_one() -> None:
    """It may begin after several spaces; a key that would control the terminal is left out."""
    assert lines("/model ") == ["/model echo", "/model qwen/qwen3-8b@q4_k_m", "/model qwen3-4b"]
    assert lines("/model   qwen3") == ["/model   qwen3-4b"]
    assert labels("/model qwen") == ["qwen/qwen3-8b@q4_k_m", "qwen3-4b"]


def test_words_are_completed_where_a_command_takes_them() -> None:
    """Those that its help names, and where it takes several, each of them."""
    assert labels("/reasoning ") == ["hide", "off", "on", "show"]
    assert lines("/reasoning hide 500 of") == ["/reasoning hide 500 off"]
    assert lines("/markdown o") == ["/markdown off", "/markdown on"]
    assert lines("/help ") == lines("/reasoning N") == lines("/frob x") == []
    for command in COMMANDS.values():
        assert set(command.words) <= set(re.findall(r"\w+", command.help))


def test_the_models_are_listed_for_a_model_key_alone() -> None:
    """No other TAB asks the server."""
    asked: list[str] = []

    def model_keys() -> Sequence[str]:
        asked.append("now")
        return []

    for name, command in COMMANDS.items():
        candidates(name, model_keys)
        candidates(f"{name} x", model_keys)
        assert bool(asked) == (command.kind == KEY)
        asked.clear()


def test_the_rest_of_the_line_is_the_name_of_a_file(tree: Path) -> None:
    """Spaces and emoji are part of it; a folder ends with a slash, a file with nothing, and no dot hides."""
    names = labels("/save ")
    assert [name for name in names if name.isascii()] == ["my dir/", "sub/"]
    assert "🦉 owl.txt" in names
    assert lines("/save m") == ["/save my dir/"]
    assert lines("/save my dir/") == ["/save my dir/a file.txt", "/save my dir/b"]
    assert labels("/save my dir/") == ["a file.txt", "b"]
    assert lines("/save 🦉") == ["/save 🦉 owl.txt"]
    assert lines("/save sub/") == ["/save sub/x"]
    assert lines("/save sub/.") == ["/save sub/.x"]
    assert lines("/save .h") == ["/save .hidden"]
    assert lines("/save ..") == ["/save ../"]
    assert lines("/save nothing") == lines("/save no/such/folder/") == lines("/save my dir/b/") == []


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.kind == FILE])
def test_each_command_that_takes_a_file_completes_it(tree: Path, command: str) -> None:
    """Its help says FILE, whether it must be given or not."""
    assert lines(f"{command} m") == [f"{command} my dir/"]


def test_a_name_that_is_not_utf8_is_completed(tree: Path) -> None:
    """Its bytes stand in the text as surrogates, as Python has them."""
    if not (tree / "caf\udce9").exists():
        pytest.skip("this file system has no such names")
    assert lines("/save c") == ["/save caf\udce9"]


def test_a_tilde_is_a_home(tree: Path) -> None:
    """It is completed to a folder and stays a tilde; one that is none is not completed, nor a file with its name."""
    assert lines("/save ~") == ["/save ~/"]
    assert lines("/save ~/su") == ["/save ~/sub/"]
    assert lines("/save ~/sub/") == ["/save ~/sub/x"]
    assert lines("/save ~no-such-user") == lines("/save ~no-such-user/") == []
    assert lines("/save ~od") == []
    assert lines("/save ./~") == ["/save ./~odd"]


def test_what_cannot_be_typed_is_not_offered(tree: Path) -> None:
    """The end of a line is not part of a name if it is white space, and a control character moves the cursor."""
    assert (tree / " edge ").exists()
    assert (tree / "a\nb").exists()
    assert lines("/save ./ e") == lines("/save a") == []


@QUICK
@given(st.text() | st.text("/~. abhelpsv\t").map("/save {}".format) | st.sampled_from([*COMMANDS]))
def test_what_is_offered_continues_the_line(line: str) -> None:
    """Whatever was typed, a candidate only adds to it."""
    for candidate in candidates(line, lambda: KEYS):
        assert candidate.line.startswith(line)
        assert candidate.line != line or candidate.label.endswith(line.rpartition("/")[2])
