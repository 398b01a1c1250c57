"""The fenced code blocks of a Markdown text that arrives in pieces: text in, code out, the same for every split.

Blocks are those of CommonMark 0.31, sections 4.5, 5.1 and 5.2. A fence is three or more backticks or tildes, indented
by at most three columns from the list items and block quotes around it. A block ends with a fence of the same
character that is at least as long and has nothing behind it, or with the innermost item or quote that it is in. Its
lines lose the indentation of its fence. Models deviate from that, and where the specification would then lose code, or
take prose for code, the text is read as it is meant:

- A block continues if already its first line is outside its list item or quote; by the specification it is empty.
- A closing fence outside the list item or quote of a block closes it; by the specification it opens the next one.
- In a block of the language `markdown` or `md`, a fence with an info string opens an inner block, and the next closing
  fence ends that one; by the specification it ends the outer block.
- A fence inside HTML opens a block.

Not recognised, because they hardly ever matter to a fence: thematic breaks that look like list markers, paragraphs that
continue less indented than their list item, list items that begin with two blank lines, and a carriage return alone
as the end of a line.
"""

from collections.abc import Callable, Generator
from typing import Final, TypeVar

_T = TypeVar("_T")
_Steps = Generator[None, None, _T]

_FENCES: Final = frozenset("`~")
_SHORTEST_FENCE: Final = 3
_BULLETS: Final = frozenset("-+*")
_DIGITS: Final = frozenset("0123456789")
_MOST_DIGITS: Final = 9
_BLANKS: Final = frozenset(" \t\r")
_LINE_ENDS: Final = frozenset(("", "\r", "\n"))
_CODE_INDENT: Final = 4
"""From so many columns on, what is indented is not a fence, a list item or a quote."""
_TAB: Final = 4
_MARKDOWN: Final = (["markdown"], ["md"])
_QUOTE: Final = 0
_DEEPEST: Final = 100
"""Items and quotes that are nested more deeply are not looked into, because each line is compared with all of them."""


class _Block:
    """A block that is open.

    Attributes:
        char: what its fence consists of.
        length: the length of its fence.
        indent: the columns that its lines lose.
        is_nesting: whether fences with an info string begin inner blocks.
        depth: how many inner blocks are open.
        is_blank: whether it has only blank lines so far.
    """

    def __init__(self, fence: str, indent: int, info: str) -> None:
        self.char = fence[0]
        self.length = len(fence)
        self.indent = indent
        self.is_nesting = info.split()[:1] in _MARKDOWN
        self.depth = 0
        self.is_blank = True


class CodeBlocks:
    """Passes on what is inside the blocks, as soon as it cannot be a closing fence any more.

    Each block ends with a newline, and an empty line comes between two. The lines are read by generators that suspend
    themselves where the text ends, so that a piece may end anywhere, and no character is read twice.

    Attributes:
        has_code: whether anything was inside a block.
    """

    def __init__(self) -> None:
        self.has_code = False
        self._text = ""
        self._at = 0
        self._is_over = False
        self._column = 0
        self._tab = 0  # the columns that are left of a tab
        self._containers: list[int] = []  # a list item is the columns of its indentation
        self._block: _Block | None = None
        self._is_separate = True
        self._code: list[str] = []
        self._last = ""
        self._lines = self._read_lines()

    def feed(self, text: str) -> str:
        """Read a piece of the text; return the code in it."""
        self._text, self._at = text, 0
        next(self._lines)
        return self._taken()

    def end(self) -> str:
        """End the text; return the rest of the code."""
        self._is_over = True
        next(self._lines, None)
        if self._last not in ("", "\n"):
            self._write("\n")
        return self._taken()

    def _taken(self) -> str:
        code = "".join(self._code)
        self._code.clear()
        return code

    def _write(self, code: str) -> None:
        if not code:
            return
        if not self._is_separate:
            self._is_separate = True
            self._code.append("\n")
        self.has_code = True
        self._code.append(code)
        self._last = code[-1]

    def _read_lines(self) -> _Steps[None]:
        while (yield from self._peek()):
            self._column = self._tab = 0
            if self._block is None:
                depth, columns = yield from self._enter()
                del self._containers[depth:]
                yield from self._read_prose(columns)
            else:
                yield from self._read_code(self._block)

    def _enter(self) -> _Steps[tuple[int, int]]:
        """Read what the open containers put in front of a line: how many it is in, and the columns read beyond."""
        for depth, width in enumerate(self._containers):
            columns = yield from self._skip(width or _CODE_INDENT - 1)
            char = yield from self._peek()
            if width == _QUOTE and char == ">":
                yield from self._skip_quote_marker()
            elif width == _QUOTE or (columns < width and char not in _LINE_ENDS):
                return depth, columns
        return len(self._containers), 0

    def _read_prose(self, columns: int) -> _Steps[None]:
        """Read a line outside blocks, behind its containers and some columns of white space."""
        while columns < _CODE_INDENT and len(self._containers) < _DEEPEST:
            columns += yield from self._skip(_CODE_INDENT - columns)
            char = yield from self._peek()
            if columns >= _CODE_INDENT or char in _LINE_ENDS:
                break
            if char in _FENCES:
                fence = yield from self._run(frozenset(char))
                yield from self._open(fence, columns)
                return
            if char == ">":
                yield from self._skip_quote_marker()
                self._containers.append(_QUOTE)
            else:
                marker = yield from self._list_marker(char)
                spaces = yield from self._skip(_CODE_INDENT + 1)
                is_blank = (yield from self._peek()) in _LINE_ENDS
                if not (marker and (spaces or is_blank)):
                    break
                has_code_indent = spaces > _CODE_INDENT
                self._containers.append(columns + marker + (1 if is_blank or has_code_indent else spaces))
                if has_code_indent:
                    break
            columns = 0
        yield from self._rest(lambda _: None)

    def _open(self, fence: str, columns: int) -> _Steps[None]:
        """Open a block, if the line with this fence allows it: a backtick behind backticks makes it code in a line."""
        info: list[str] = []
        yield from self._rest(info.append)
        if len(fence) >= _SHORTEST_FENCE and not (fence[0] == "`" and any("`" in part for part in info)):
            self._block = _Block(fence, columns, "".join(info))
            self._is_separate = not self.has_code

    def _read_code(self, block: _Block) -> _Steps[None]:
        """Read a line while a block is open."""
        depth, columns = yield from self._enter()
        is_inside = depth == len(self._containers)
        if not is_inside and block.is_blank and (yield from self._peek()) not in _LINE_ENDS:
            is_inside, block.indent = True, columns
            del self._containers[depth:]
        if is_inside:
            columns += yield from self._skip(block.indent - columns)
        white, columns = yield from self._white(columns)
        if is_inside and columns >= _CODE_INDENT:  # not a fence, whatever comes next
            self._write(white)
            white = ""
        fence = (yield from self._run(frozenset(block.char))) if columns < _CODE_INDENT else ""
        is_fence = len(fence) >= block.length
        behind = (yield from self._run(_BLANKS)) if is_fence else ""
        char = yield from self._peek()
        if is_fence and char in _LINE_ENDS:
            yield from self._close(block, white + fence + behind)
        elif is_inside:
            block.is_blank = block.is_blank and not fence and char in _LINE_ENDS
            self._write(white + fence + behind)
            yield from self._nest(block) if is_fence and block.is_nesting else self._rest(self._write)
        else:
            self._block = None
            del self._containers[depth:]
            yield from self._open(fence, columns) if fence else self._read_prose(columns)

    def _close(self, block: _Block, line: str) -> _Steps[None]:
        """Close the innermost block."""
        if block.depth:
            block.depth -= 1
            self._write(line)
            yield from self._rest(self._write)
        else:
            self._block = None
            yield from self._rest(lambda _: None)

    def _nest(self, block: _Block) -> _Steps[None]:
        """Begin an inner block, if the info string of its fence allows it."""
        info: list[str] = []

        def take(part: str) -> None:
            info.append(part)
            self._write(part)

        yield from self._rest(take)
        block.depth += not any("`" in part for part in info)

    def _peek(self) -> _Steps[str]:
        """The next character; empty at the end of the text."""
        while self._at == len(self._text):
            if self._is_over:
                return ""
            yield
        return self._text[self._at]

    def _rest(self, take: Callable[[str], None]) -> _Steps[None]:
        """Read the rest of a line."""
        while (yield from self._peek()):
            end = self._text.find("\n", self._at) + 1
            part = self._text[self._at : end or None]
            self._at += len(part)
            take(part)
            if end:
                return

    def _run(self, chars: frozenset[str]) -> _Steps[str]:
        """Read as many of some characters as there are."""
        run = ""
        while (char := (yield from self._peek())) in chars:
            run += char
            self._at += 1
            self._column += 1
        return run

    def _list_marker(self, char: str) -> _Steps[int]:
        """Read the marker of a list item; return its columns, 0 if there is none."""
        if char in _BULLETS:
            self._at += 1
            self._column += 1
            return 1
        digits = yield from self._run(_DIGITS)
        if not 0 < len(digits) <= _MOST_DIGITS or (yield from self._peek()) not in (".", ")"):
            return 0
        self._at += 1
        self._column += 1
        return len(digits) + 1

    def _skip_quote_marker(self) -> _Steps[None]:
        """Read the sign of a block quote, and one column of white space behind it."""
        self._at += 1
        self._column += 1
        yield from self._skip(1)

    def _skip(self, columns: int) -> _Steps[int]:
        """Read so many columns of white space, which may be a part of a tab; return how many there are."""
        skipped = min(columns, self._tab)
        self._tab -= skipped
        while skipped < columns and (width := self._width((yield from self._peek()))):
            self._at += 1
            self._column += width
            self._tab = max(0, skipped + width - columns)
            skipped += width - self._tab
        return skipped

    def _white(self, columns: int) -> _Steps[tuple[str, int]]:
        """Read white space as it stands, up to the column at which nothing is a fence; return it and the column."""
        white, columns = " " * self._tab, columns + self._tab
        self._tab = 0
        while columns < _CODE_INDENT and (width := self._width((yield from self._peek()))):
            white += self._text[self._at]
            self._at += 1
            self._column += width
            columns += width
        return white, columns

    def _width(self, char: str) -> int:
        """The columns of a space or a tab; 0 of anything else."""
        return 1 if char == " " else _TAB - self._column % _TAB if char == "\t" else 0


def code_of(text: str) -> str:
    """The code in a whole text."""
    blocks = CodeBlocks()
    return blocks.feed(text) + blocks.end()
