"""The tree of failures, the table of exit statuses, and how values are shown in messages."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, nested

from lmcli import errors
from lmcli.cli.messages import hints_for
from lmcli.errors import (
    KEPT_IN_TEXT,
    ExitCode,
    LmError,
    ModelNotFound,
    ModelUnloaded,
    NoModelLoaded,
    TimedOut,
    escaped,
    quoted,
)

Row = tuple[int, str, int]


def drawn() -> Iterator[Row]:
    """The lines of the drawing: depth, class, exit status."""
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]+)(\w+) +(\d+)", line):
            yield len(found[1]) // 4, found[2], int(found[3])


def defined(parent: type[LmError] = LmError, depth: int = 1) -> Iterator[Row]:
    """The classes of the module: depth, class, exit status."""
    for child in parent.__subclasses__():
        if child.__module__ == errors.__name__:
            yield depth, child.__name__, int(child.exit_code)
            yield from defined(child, depth + 1)


def test_drawing_is_the_tree() -> None:
    """The tree in the module's docstring shows the classes, their order and their exit statuses."""
    assert list(drawn()) == list(defined())


def test_exit_statuses_are_the_documented_ones() -> None:
    """The numbers that scripts rely on."""
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 2,
        "INCOMPLETE": 3,
        "UNUSABLE": 4,
        "BAD_INPUT": 65,
        "NO_INPUT": 66,
        "UNAVAILABLE": 69,
        "BUG": 70,
        "OUTPUT_FAILED": 74,
        "TRY_AGAIN": 75,
        "NOT_ALLOWED": 77,
        "BAD_SETTING": 78,
    }


def test_every_status_but_ok_and_bug_belongs_to_a_failure() -> None:
    """No exit status is without a class: OK is no failure, and a bug is whatever is no LmError."""
    assert {status for _, _, status in defined()} == set(ExitCode) - {ExitCode.OK, ExitCode.BUG}


def test_failure_carries_its_message_and_hints() -> None:
    """A failure is a sentence and what to type."""
    error = LmError("cannot", "try this", "or that")
    assert (str(error), error.message, error.hints) == ("cannot", "cannot", ("try this", "or that"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "'plain'"),
        ("naïve 日本 🙂", "'naïve 日本 🙂'"),
        ("a\nb", r"'a\nb'"),
        ("\x1b[2J", r"'\x1b[2J'"),
        ("\x00\x7f\x9f", r"'\x00\x7f\x9f'"),
        ("half \ud83d", r"'half \ud83d'"),
        ("invoice\u202excod.exe", r"'invoice\u202excod.exe'"),
        ("\u202a\u202d\u202c \u2066\u2069", r"'\u202a\u202d\u202c \u2066\u2069'"),
        ("two\u2028lines\u2029", r"'two\u2028lines\u2029'"),
        ("\u200e\u200f\u061c\u0645", "'\u200e\u200f\u061c\u0645'"),
        (None, "'None'"),
        (3, "'3'"),
        ({"a": "\x07"}, "'{'a': '\\x07'}'"),
        ("x" * 201, f"'{'x' * 200}…'"),
        ("x" * 200, f"'{'x' * 200}'"),
    ],
    ids=lambda value: repr(value)[:20] if isinstance(value, str) else type(value).__name__,
)
def test_quoted(value: object, shown: str) -> None:
    """A value in a message is quoted, cannot drive the terminal and does not fill the screen."""
    assert quoted(value) == shown


def test_quoted_takes_any_depth() -> None:
    """JSON that is nested deeper than Python can show is still a short text."""
    assert quoted(nested(5000)) in ("'…'", f"'{'[' * 200}…'")  # how deep that is depends on the version


def test_quoted_cuts_before_it_escapes() -> None:
    """The limit counts the characters of the value, not those of its escapes."""
    assert quoted("\x1b\x1bxx", limit=3) == r"'\x1b\x1bx…'"


def test_escaped_keeps_what_it_is_told_to() -> None:
    """A text on a terminal keeps lines, tabs and the formats of right-to-left writing, and loses the rest."""
    assert escaped("a\tb\n\x1b[31mc\r", keep=KEPT_IN_TEXT) == "a\tb\n\\x1b[31mc\\r"
    needed = "\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069\u061c"
    assert escaped(needed, keep=KEPT_IN_TEXT) == needed
    assert escaped("\u202dab\u202e", keep=KEPT_IN_TEXT) == "\\u202dab\\u202e"


@QUICK
@given(st.text(st.characters() | st.sampled_from("\x1b\x9b\ud83d\n\u202e\u2028")))
def test_escaped_text_can_be_written_and_drives_nothing(text: str) -> None:
    """Whatever a model says, what is shown has no control, no bidirectional format and no half of a pair."""
    shown = escaped(text)
    shown.encode()
    driving = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
    assert not re.search(f"[{driving}]", shown)
    if not re.search(rf"[{driving}\ud800-\udfff]", text):
        assert shown == text


@pytest.mark.parametrize(
    ("error", "hints"),
    [
        (ModelNotFound("no model 'x'", "there are: a"), ("there are: a", "lm models lists the models that are there")),
        (NoModelLoaded("no model is loaded"), ("-m KEY loads one",)),
        (ModelUnloaded("the model was unloaded"), ("-m KEY loads it again",)),
        (TimedOut("the server was silent for 5 s"), ("a larger --timeout waits longer",)),
        (LmError("cannot", "try this"), ("try this",)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, LmError) else "",
)
def test_the_command_line_adds_its_own_hints(error: LmError, hints: tuple[str, ...]) -> None:
    """After the hints of the library comes what to type, by the class of the error."""
    assert tuple(hints_for(error)) == hints
