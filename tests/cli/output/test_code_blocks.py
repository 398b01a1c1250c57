"""Fenced code blocks in a text that arrives in pieces; markdown-it-py says what the specification takes them for."""

import re
import sys
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from properties import QUICK

from lmcli.cli.output.code_blocks import CodeBlocks, code_of

_HELD = re.compile(r"\n?[ \t]{0,3}(?:[`~]+[ \t\r]*)?\n?")
"""What may be held back of a line of code: what can still become a closing fence; around it are ends of lines."""

_PROSE = ("Some text", "`a` and ``b``", "```code``` in a line", "# Heading", "    ```\n    indented", "``", "2. text")
_CODE = ("x", "  y", "\tz", "", "``", "~~", "# h", "- a", "> q", "1. b", "    ```", "``` x", "~~~ x", "a ```", "````x")
_INFOS = ("", "sh", " python3 title=x", "c++ ")
_MARKERS = ("- ", "* ", "1. ", "10) ", "-   ", "+ ")


@st.composite
def _block(draw: st.DrawFn) -> list[str]:
    char, indent = draw(st.sampled_from("`~")), " " * draw(st.integers(0, 3))
    fence = char * draw(st.integers(3, 5))
    lines = draw(st.lists(st.sampled_from(_CODE), max_size=4))
    end = draw(st.integers(0, 2)) * char + " " * draw(st.integers(0, 2))
    return [indent + fence + draw(st.sampled_from(_INFOS)), *(indent + line for line in lines), indent + fence + end]


@st.composite
def _abandoned(draw: st.DrawFn) -> list[str]:
    """A block whose list item or quote ends before it does; what follows is text, see the deviations."""
    return [*draw(_contained(st.just(["```", "x"]))), "", "text"]


@st.composite
def _contained(draw: st.DrawFn, inner: st.SearchStrategy[list[str]]) -> list[str]:
    """Lines in a list item or a block quote."""
    lines = draw(inner)
    marker = draw(st.sampled_from((*_MARKERS, "> ")))
    if marker == "> ":
        return [f"> {line}".rstrip(" ") for line in lines]
    first = lines[0] if lines[0].startswith("    ") else lines[0].lstrip()  # else it would indent the item
    return [marker + first, *(" " * len(marker) + line if line else "" for line in lines[1:])]


def _joined(parts: Sequence[list[str]]) -> list[str]:
    return [line for part in parts for line in (*part, "")][:-1]


_prose = st.sampled_from(_PROSE).map(str.splitlines)
_leaves = st.one_of(
    _block(), _block(), _prose, st.tuples(st.just(["Here it is:"]), _block()).map(lambda t: t[0] + t[1])
)
_parts = st.recursive(
    _leaves,
    lambda inner: _contained(st.lists(inner, min_size=1, max_size=3).map(_joined)) | _abandoned(),
    max_leaves=6,
)
_cut = st.sampled_from(("", "\n", "\n\n```sh\necho", "\n\n~~~\nx\n``", "\n\n- x\n\n  ```\n  y\n"))
_spaces = st.builds(lambda parts, end: "\n".join(_joined(parts)) + end, st.lists(_parts, max_size=5), _cut)
_tabs = _spaces.map(lambda text: re.sub("^ {4}", "\t", text, flags=re.MULTILINE))
documents = _spaces | _tabs
"""Answers as models write them, in the grammar that is read as the specification says."""

soups = st.lists(
    st.sampled_from(("```", "~~~", "`", "\n", "\n", "\r\n", "  ", " ", "- ", "1. ", ">", "\t", "x", "md", "\x0b")),
    max_size=24,
).map("".join)
"""Anything that may look like a block."""


def reference(text: str) -> str:
    """The code as the specification has it, with an empty line between two blocks."""
    blocks = [token.content for token in MarkdownIt("commonmark").parse(text) if token.type == "fence"]
    return "\n".join(code if code.endswith("\n") else f"{code}\n" for code in blocks if code)


def fed(pieces: Sequence[str]) -> str:
    """The code in pieces."""
    blocks = CodeBlocks()
    return "".join([blocks.feed(piece) for piece in pieces]) + blocks.end()


@QUICK
@given(documents)
def test_the_code_is_that_of_the_specification(text: str) -> None:
    """Fences of either character and any length, indented, in lists and quotes, unclosed at the end."""
    assert code_of(text) == reference(text)


@QUICK
@given(documents)
def test_lines_may_end_as_on_windows(text: str) -> None:
    """The blocks are the same, and their lines keep their ends."""
    code = code_of(text.replace("\n", "\r\n"))
    assert code.replace("\r\n", "\n") == code_of(text)


@QUICK
@given(documents | soups, st.data())
def test_any_split_gives_the_same_code(text: str, data: st.DataObject) -> None:
    """Also one character at a time."""
    ends = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    assert fed(pieces) == fed(text) == code_of(text)


@QUICK
@given(documents | soups, st.data())
@example("```\n        x", None)
@example("```\n    ", None)
def test_only_what_can_be_a_closing_fence_is_held_back(text: str, data: st.DataObject | None) -> None:
    """Whatever has arrived, the rest of its code is a fence that may close the block, or the beginning of one."""
    blocks = CodeBlocks()
    blocks.feed(text if data is None else text[: data.draw(st.integers(0, len(text)))])
    assert _HELD.fullmatch(blocks.end())


@QUICK
@given(documents | soups)
def test_code_is_whole_lines(text: str) -> None:
    """It ends with a newline, and there is none without any."""
    blocks = CodeBlocks()
    code = blocks.feed(text) + blocks.end()
    assert blocks.has_code == bool(code)
    assert not code or code.endswith("\n")
    assert blocks.end() == ""


CASES = {
    "several blocks": ("```\na\n```\n\n```\nb\n```\n", "a\n\nb\n"),
    "an empty block between two": ("```\na\n```\n```\n```\n```\nb\n```", "a\n\nb\n"),
    "text right before and behind": ("So:\n```sh\na\n```\nDone.", "a\n"),
    "a longer fence around fences": ("````markdown\n# A\n```sh\nb\n```\n````\n", "# A\n```sh\nb\n```\n"),
    "a longer fence of backticks": ("````\n```\na\n```\n````\n", "```\na\n```\n"),
    "tildes around backticks": ("~~~\n```\na\n```\n~~~", "```\na\n```\n"),
    "a closing fence with spaces behind": ("```\na\n```  \nb", "a\n"),
    "a fence with something behind does not close": ("```\na\n``` b\n```", "a\n``` b\n"),
    "a list with two spaces": ("- a\n  ```\n  b\n    c\n  ```", "b\n  c\n"),
    "a list with four spaces": ("1. a\n    ```\n    b\n    ```\n2. c", "b\n"),
    "a list in a list": ("1. a\n   - b\n\n     ~~~\n     c\n     ~~~\n", "c\n"),
    "a fence behind the marker of an item": ("- ```\n  a\n  ```\n- b", "a\n"),
    "tabs in a list": ("- a\n\t```\n\tb\n\t\tc\n\t```", "b\n\tc\n"),
    "a tab behind spaces": ("1. a\n  \t```\n    b\n     c\n  \t```", "b\n c\n"),
    "tabs in the code": ("   ```make\n   all:\n   \techo\n   ```", "all:\n\techo\n"),
    "a quote": ("> ```\n> a\n> ```\n", "a\n"),
    "a quote that ends": ("> ```\n> a\nb", "a\n"),
    "an item that ends": ("- ```\n  a\n\nb", "a\n\n"),
    "an item that ends behind two backticks": ("- ```\n  ``\nb", "``\n"),
    "an indented block": ("a\n\n    ```\n    b\n    ```\n", ""),
    "code in a line": ("```a``` and ```b```\nc", ""),
    "unclosed": ("```\na\nb", "a\nb\n"),
    "the beginning of a fence at the end": ("```\na\n``", "a\n``\n"),
    "a fence at the end": ("```\na\n```", "a\n"),
    "nothing but a fence": ("```sh", ""),
    # Where models are read as they mean it:
    "an item with its code at the margin": ("1. a\n   ```sh\nb\n  c\n   ```\n2. d", "b\n  c\n"),
    "an item with code and fence at the margin": ("1. a\n   ```sh\nb\n```\n2. d", "b\n"),
    "an item with its closing fence at the margin": ("1. a\n   ```\n   b\n```\n2. c\n```\nd\n```", "b\n\nd\n"),
    "a quote whose code is outside": ("> ```\na\n```\nb", "a\n"),
    "a README with blocks": ("```markdown\n# A\n```sh\nb\n```\nc\n```\nd", "# A\n```sh\nb\n```\nc\n"),
    "another language with a fence in it": ("```sh\na\n```b\n```\nc", "a\n```b\n"),
    "a README with code in a line": ("```md\n```a``` b\n```\nc", "```a``` b\n"),
    "a block in HTML": ("<details>\n```\na\n```\n</details>", "a\n"),
}


@pytest.mark.parametrize(("text", "code"), CASES.values(), ids=CASES)
def test_what_models_write(text: str, code: str) -> None:
    """Each with its code."""
    assert code_of(text) == fed(text) == code


@pytest.mark.parametrize(
    ("begin", "repeated"),
    [("", "a\n"), ("", "x"), ("```\n", "`"), ("```\n```", " "), ("```\n", "  x\n"), ("- " * 1000, "\n"), ("", "> ")],
)
def test_the_work_grows_with_the_text_alone(begin: str, repeated: str) -> None:
    """Twice the text takes twice the steps, however it is split and nested; those of the beginning are left out."""

    def steps(count: int) -> int:
        events: list[str] = []
        sys.setprofile(lambda frame, event, argument: events.append(event))
        try:
            fed(begin + repeated * count)
        finally:
            sys.setprofile(None)
        return len(events)

    least = steps(0)
    assert steps(2000) - least <= 2.2 * (steps(1000) - least)
    assert steps(1000) - least <= 1000 * 3000
