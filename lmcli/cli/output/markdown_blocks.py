"""Markdown as it arrives: the blocks that no further text can change, and the one in progress.

A block is one of the top level, or one item of a list of the top level, so that a long list is not held back. All
before the last block is finished: CommonMark recognises blocks line by line, and a line can only continue or change
the last one. So only the text from the start of that one is ever read again.
Source: CommonMark 0.31.2, appendix "A parsing strategy", phase 1.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

MAX_NESTING: Final = 20
"""The parser leaves out what is nested more deeply; such a block is shown as it was written."""

_BLANK: Final = re.compile(r"[ \t]*")
_FENCE: Final = re.compile(r"[\s>*+\-\d.)]*((`{3,}|~{3,}).*)")
_TABLE_DELIMITERS: Final = re.compile(r"[ \t]*[|:\- \t]*-[|:\- \t]*")
_FORMULA: Final = re.compile(
    r"\\\(.{,999}?\\\)|\\\[.{,999}?\\\]|\$\$[^$]{1,999}\$\$|\$(?![\s$])[^$\n]{,999}(?<![\s\\])\$(?!\d)", re.DOTALL
)
"""A formula between the delimiters of TeX; `$` is money with a space before the second one, or a digit after it."""
_FORMULA_ENDS: Final = {"$$": "$$", "\\[": "\\]"}


class Parser(MarkdownIt):
    """CommonMark and tables, in which nothing is dropped and no block depends on another.

    Definitions of link references stay text, so that a block means the same whatever comes after it. Addresses stay as
    they were written: they are shown, not opened. Formulas are left alone.
    """

    def __init__(self) -> None:
        super().__init__("commonmark", {"maxNesting": MAX_NESTING})
        self.enable("table").disable("reference")
        self.inline.ruler.before("escape", "formula", _inline_formula)
        self.block.ruler.before("fence", "formula", _formula, {"alt": ["paragraph", "blockquote", "list"]})

    def normalizeLink(self, url: str) -> str:  # noqa: N802  the name of markdown-it-py
        """The address as it was written."""
        return url

    def validateLink(self, url: str) -> bool:  # noqa: ARG002, N802
        """Any is valid."""
        return True


def _inline_formula(state: StateInline, silent: bool) -> bool:  # noqa: FBT001  as markdown-it-py calls it
    """Take over a formula as text."""
    if state.src[state.pos] not in "\\$" or not (found := _FORMULA.match(state.src, state.pos, state.posMax)):
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True


def _formula(state: StateBlock, start: int, end: int, silent: bool) -> bool:  # noqa: FBT001  as markdown-it-py calls it
    """Take over the lines of a formula that begins a line, up to its end or the next empty line."""
    if state.is_code_block(start):
        return False
    first = _line(state, start)
    delimiter = _FORMULA_ENDS.get(first[:2])
    if delimiter is None or delimiter in first[2:].rstrip().removesuffix(delimiter):
        return False
    if silent:
        return True
    following = start + 1
    if not first[2:].rstrip().endswith(delimiter):
        while following < end and not state.isEmpty(following) and state.sCount[following] >= state.blkIndent:
            following += 1
            if delimiter in _line(state, following - 1):
                break
    state.line = following
    token = state.push("formula", "", 0)
    token.content = state.getLines(start, following, state.blkIndent, keepLastLF=False)
    token.map = [start, following]
    return True


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]


class Block(NamedTuple):
    """A part of a text that is rendered by itself.

    Attributes:
        source: its Markdown, without empty lines at the end.
        has_gap: whether an empty line is to separate it from the block before.
    """

    source: str
    has_gap: bool = True


class BlockSplitter:
    """Splits a growing text into blocks."""

    def __init__(self) -> None:
        self._parser = Parser()
        self._arrived: list[str] = []
        self._rest = ""
        self._read_size = 0
        self._has_gap = True

    def add(self, text: str) -> None:
        """Receive more of the text."""
        self._arrived.append(text)

    def take(self) -> Sequence[Block]:
        """The blocks that have been finished since the last call."""
        rest = self._joined()
        complete = rest[: rest.rfind("\n") + 1]
        if len(complete) == self._read_size:
            return ()
        *finished, last = self._blocks(complete)
        self._read_size = len(complete)
        if not finished:
            return ()
        size = len(complete) - len(last.source)
        self._rest, self._read_size, self._has_gap = rest[size:], len(last.source), last.has_gap
        return [_trimmed(block) for block in finished]

    def end(self) -> Sequence[Block]:
        """The remaining blocks: the text has ended."""
        blocks = [_trimmed(block) for block in self._blocks(self._joined())]
        self._rest, self._read_size, self._has_gap = "", 0, True
        return [block for block in blocks if block.source]

    def unfinished(self, size: int) -> Block:
        """What follows the blocks that were taken, of a long one the end of about so many characters."""
        return _trimmed(Block(_tail(self._joined(), size), self._has_gap))

    def _joined(self) -> str:
        if self._arrived:
            self._rest = "".join([self._rest, *self._arrived])
            self._arrived.clear()
        return self._rest

    def _blocks(self, text: str) -> list[Block]:
        """All blocks of a text, at least one; joined by newlines they are the text."""
        lines = text.split("\n")
        starts = list(_starts(self._parser, text, lines))[1:]
        cuts = [0, *(line for line, _ in starts), len(lines)]
        gaps = [self._has_gap, *(has_gap for _, has_gap in starts)]
        sources = ["\n".join(lines[start:end]) for start, end in pairwise(cuts)]
        return [Block(source, has_gap) for source, has_gap in zip(sources, gaps, strict=True)]


def _starts(parser: Parser, text: str, lines: Sequence[str]) -> Iterator[tuple[int, bool]]:
    """The line where each block starts, and whether it is separated from the block before."""
    is_list = is_first = False
    tokens: list[Token] = []
    parser.block.parse(text, parser, {}, tokens)
    for token in tokens:
        if token.level == 0 and token.nesting >= 0 and token.map:
            is_list = is_first = token.type in {"bullet_list_open", "ordered_list_open"}
            if not is_list:
                yield token.map[0], True
        elif is_list and token.level == 1 and token.type == "list_item_open" and token.map:
            line = token.map[0]
            yield line, is_first or _BLANK.fullmatch(lines[line - 1]) is not None
            is_first = False


def _trimmed(block: Block) -> Block:
    lines = block.source.split("\n")
    while lines and _BLANK.fullmatch(lines[-1]):
        lines.pop()
    while lines and _BLANK.fullmatch(lines[0]):
        lines.pop(0)
    return block._replace(source="\n".join(lines))


def _tail(source: str, size: int) -> str:
    """The end of a long block, below the line that opens the code or the lines that head the table that it is in."""
    source = source.rstrip("\n")
    if len(source) <= size:
        return source
    start = source.find("\n", len(source) - size, len(source) - size // 2) + 1 or len(source) - size
    dropped = source[:start].split("\n")
    head = dropped[:2] if len(dropped) > 1 and _TABLE_DELIMITERS.fullmatch(dropped[1]) else _open_fence(dropped)
    return "\n".join([*head, textwrap.dedent(source[start:])])


def _open_fence(lines: Sequence[str]) -> list[str]:
    """The last line that opens a block of code which is not closed, without what it is indented by."""
    opening = ""
    for line in lines:
        if fence := _FENCE.match(line):
            is_end = opening.startswith(fence[2]) and fence[1].rstrip() == fence[2]
            opening = "" if is_end else opening or fence[1]
    return [opening] if opening else []
