"""Markdown that grows is split into blocks that no later text changes."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmcli.cli.output.markdown_blocks import Block, BlockSplitter

LINES = (
    *("", "", "", "word", "**bold** _it", "# Heading", "===", "---", "***", "  indented", "    code", "\ttab"),
    *(
        "- item",
        "- ",
        " - item",
        "   - item",
        "* other",
        "+ plus",
        "1. one",
        "2. two",
        "7) seven",
        "10. ten",
        "    - deep",
    ),
    *(
        "```",
        "```python",
        "~~~",
        "    ```",
        "- ```sh",
        "> quote",
        "> - item",
        ">",
        "> > deep",
        "| a | b |",
        "|---|--:|",
    ),
    *("a | b", "--|--", "<div>", "</div>", "<!-- x", "-->", "[a]: /url", "[a][b]", "$$", "\\[", "x = 1 \\]", "$$ x $$"),
)
MARKDOWN = st.lists(st.sampled_from(LINES), max_size=14).map("\n".join)
ANY_TEXT = st.one_of(MARKDOWN, st.text(st.sampled_from("ab \n\t#>-*`|:1.[]()$\\<!~_="), max_size=60))


def blocks_of(fragments: Iterable[str]) -> list[Block]:
    """The blocks of a text that arrives in fragments, each taken as soon as it is finished."""
    splitter = BlockSplitter()
    blocks: list[Block] = []
    for fragment in fragments:
        splitter.add(fragment)
        blocks += splitter.take()
    return [*blocks, *splitter.end()]


def sources(text: str) -> list[str]:
    """The blocks of a whole text."""
    return [block.source for block in blocks_of([text])]


@given(ANY_TEXT, st.data())
@example("- a\n- b\n", None)
def test_how_a_text_is_split_into_fragments_does_not_matter(text: str, data: st.DataObject | None) -> None:
    """The blocks of a text that arrives in pieces are those of the whole."""
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8)) if data else range(len(text))
    edges = [0, *sorted(cuts), len(text)]
    fragments = [text[start:end] for start, end in pairwise(edges)]
    assert blocks_of(fragments) == blocks_of(list(text)) == blocks_of([text])


@given(ANY_TEXT)
def test_nothing_is_lost_between_blocks(text: str) -> None:
    """The blocks are the text but for empty lines between them."""
    lines = [line for block in blocks_of(list(text)) for line in block.source.split("\n")]
    assert [line for line in lines if line.strip(" \t")] == [line for line in text.split("\n") if line.strip(" \t")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\n\ntwo\nlines\n\nthree", ["one", "two\nlines", "three"]),
        ("# Heading\ntext", ["# Heading", "text"]),
        ("text\n---\nmore", ["text\n---", "more"]),
        ("```\na\n\nb\n```\nafter", ["```\na\n\nb\n```", "after"]),
        ("| a |\n|---|\n| 1 |\nb\n\nafter", ["| a |\n|---|\n| 1 |\nb", "after"]),
        ("- a\n- b\n  - c\n- d", ["- a", "- b\n  - c", "- d"]),
        ("$$\na\n- b\n$$\nafter", ["$$\na\n- b\n$$", "after"]),
        ("", []),
        ("\n \n", []),
    ],
)
def test_what_is_a_block(text: str, expected: Sequence[str]) -> None:
    """Paragraphs, headings, code, tables, formulas and the items of a list are blocks."""
    assert sources(text) == expected


def test_items_are_as_close_as_they_were_written() -> None:
    """A gap stands between blocks, and between items where the text has one."""
    gaps = [(block.source, block.has_gap) for block in blocks_of(list("text\n- a\n- b\n\n- c\n* d\n"))]
    assert gaps == [("text", True), ("- a", True), ("- b", False), ("- c", True), ("* d", True)]


def test_a_block_is_finished_by_the_line_after_it() -> None:
    """A block is given as soon as the next one begins, and no sooner."""
    splitter = BlockSplitter()
    splitter.add("one\n\ntw")
    assert splitter.take() == ()
    assert splitter.unfinished(100).source == "one\n\ntw"
    splitter.add("o\n")
    assert splitter.take() == [Block("one")]
    assert splitter.unfinished(100).source == "two"


def test_the_end_of_a_long_block_is_enough_to_draw_it() -> None:
    """What is drawn of a long block is as long as there is room, and in the form of the whole."""

    def end_of(text: str) -> str:
        splitter = BlockSplitter()
        splitter.add(text)
        return splitter.unfinished(12).source

    assert end_of("```py\n" + "pass\n" * 50) == "```py\npass\npass"
    assert end_of("| a |\n|---|\n" + "| 1 |\n" * 50) == "| a |\n|---|\n| 1 |\n| 1 |"
    assert end_of("- ```py\n" + "  pass\n" * 50) == "```py\npass"
    assert end_of("word " * 50) == "d word word "
    assert end_of("word" * 50 + "\n") == "word" * 3
    assert end_of("word " * 50 + "\nlast\n") == "d word \nlast"
