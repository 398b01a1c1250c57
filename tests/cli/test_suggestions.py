"""What is suggested to whoever types a command or an option that `lm` does not have."""

import shlex
import subprocess
import sys

import pytest

from lmcli.cli.app import COMMANDS
from lmcli.cli.suggestions import COMMAND_EQUIVALENTS, OPTION_EQUIVALENTS, nearest_keys

PATIENCE = 30.0


def run_lm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `lm` with nothing on stdin."""
    return subprocess.run(
        [sys.executable, "-m", "lmcli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def hints(line: str) -> list[str]:
    """What `lm` suggests instead of a line; it must be a usage error with nothing on stdout."""
    ran = run_lm(*shlex.split(line))
    error, *others = ran.stderr.splitlines()
    assert (ran.returncode, ran.stdout) == (2, "")
    assert error.startswith("lm: error: ")
    *suggested, last = [other.removeprefix("lm: hint: ") for other in others]
    assert " --help lists the " in last
    return suggested


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ls", "lm models"),
        ("models ls", "lm models"),
        ("ps", "lm models --loaded"),
        ("load echo --ttl 5", "lm models load echo --ttl 5"),
        ("unload echo", "lm models unload echo"),
        ("run echo", "lm chat -m echo"),
        ("run echo 'hello world'", "lm respond -m echo 'hello world'"),
        ("version", "lm --version"),
        ("-v", "lm --version"),
        ("'hello world'", "lm respond 'hello world'"),
        ("hello world -t 0", "lm respond hello world -t 0"),
        ('"what\'s this?"', "lm respond 'what'\"'\"'s this?'"),
        ("-m echo 'hello world'", "lm respond -m echo 'hello world'"),
        ("-m echo chat hello", "lm chat -m echo hello"),
        ("-p 'hello world'", "lm respond 'hello world'"),
        ("respnd hi", "lm respond hi"),
        ("comp hi", "lm complete hi"),
        ("models lod echo", "lm models load echo"),
        ("help modles", "lm help models"),
    ],
)
def test_a_command_is_answered_with_a_line_to_type(typed: str, meant: str) -> None:
    """Words of other programs, a prompt without a command, a slip of the finger: the whole line that was meant."""
    assert hints(typed) == [f"did you mean {meant}?"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("respond --temp 0.5 hi", "--temperature 0.5"),
        ("respond --temp=0.5 hi", "--temperature 0.5"),
        ("respond hi --temp", "--temperature"),
        ("respond --json hi", "-o json"),
        ("stats --json", "-o json"),
        ("respond --format json hi", "-o json"),
        ("respond --image 'my cat.png' hi", "-f 'my cat.png'"),
        ("respond --max_tokens 5 hi", "--max-tokens 5"),
        ("respond --max-token 5 hi", "--max-tokens 5"),
        ("respond --max_new_tokens 5 hi", "-l 5"),
        ("respond --system-prompt 'Be terse.' hi", "-s 'Be terse.'"),
        ("respond --api-key secret hi", "--token-file FILE"),
        ("respond --port 1234 hi", "-H 127.0.0.1:1234"),
        ("respond --tools 'my tools.json' hi", "--set tools=\"$(cat 'my tools.json')\""),
        ("respond --tool-choice required hi", "--set toolChoice='\"required\"'"),
        ("respond -p 'hello world'", "lm respond 'hello world'"),
        ("respond -np 'hello world'", "lm respond PROMPT"),
        ("chat -m echo --prompt=hello -t 0", "lm chat -m echo hello -t 0"),
        ("respond --version", "lm --version"),
        ("respond --top 1 hi", "--top-k 1 or --top-p 1"),
        ("respond --verbos hi", "--verbose"),
        ("respond --temprature 1 hi", "--temperature 1"),
        ("models --loded", "--loaded"),
    ],
)
def test_an_option_is_answered_with_what_means_the_same(typed: str, meant: str) -> None:
    """By meaning first, then by letters, with the value that was typed."""
    assert hints(typed) == [f"did you mean {meant}?"]


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("respond --stream hi", "answers are always streamed: leave --stream out"),
        ("respond --no-stream hi", "-o json prints an answer when it is complete"),
        ("respond --history talk.json hi", "--history is an option of lm chat"),
        ("complete -f notes.txt", "-f is an option of lm respond"),
    ],
)
def test_an_option_that_is_not_needed_here(typed: str, hint: str) -> None:
    """Where nothing takes its place, the hint says why, or which command has it."""
    assert hints(typed) == [hint]


@pytest.mark.parametrize("typed", ["respond --frobnicate hi", "models whatever", "stats -p x", "models load --json5 x"])
def test_nothing_is_suggested_that_is_not_near(typed: str) -> None:
    """A wrong suggestion is worse than none."""
    assert hints(typed) == []


def test_a_whole_document_is_not_shown_again() -> None:
    """`lm "$(cat FILE)"` is answered in lines that can be read."""
    ran = run_lm("word " * 1000)
    assert ran.returncode == 2
    assert max(map(len, ran.stderr.splitlines())) < 400


def test_what_is_suggested_exists() -> None:
    """Each habit leads to a command and to an option that some command has, and is not an option everywhere."""
    spellings = {
        spelling
        for command in COMMANDS.values()
        for _, annotation, _ in command.options.fields()
        for spelling in (annotation.__metadata__[0].default, *annotation.__metadata__[0].param_decls)
    }
    for habit in COMMAND_EQUIVALENTS.values():
        program, *words = habit.split()
        assert program == "lms" or words[0] in COMMANDS or words == ["--version"]
    for habit in OPTION_EQUIVALENTS.values():
        assert habit.startswith("lm ") or habit.split()[0] in spellings
    assert COMMAND_EQUIVALENTS.keys().isdisjoint(COMMANDS)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("qwen3-4", ["qwen/qwen3-4b"]),
        ("QWEN/qwen-3-4b", ["qwen/qwen3-4b"]),
        ("gema-3", ["Gemma-3"]),
        ("llama", []),
        ("", []),
    ],
)
def test_the_nearest_keys(name: str, nearest: list[str]) -> None:
    """With the publisher or without, in any case, each once and as it is."""
    assert nearest_keys(name, ["qwen/qwen3-4b", "Gemma-3"]) == nearest
