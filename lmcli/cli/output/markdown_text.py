"""Markdown as styled lines for a terminal, drawn with rich.

Nothing of the text is lost: addresses of links are shown, HTML is text, fences stay around code, a table that is too
wide becomes a list, and what is nested too deeply is shown as it was written.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import zip_longest
from typing import Any, Final

from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode
from rich import box
from rich.color import ColorSystem
from rich.console import Console, JustifyMethod
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lmcli.cli.output.markdown_blocks import MAX_NESTING, Parser
from lmcli.errors import KEPT_IN_TEXT, escaped

_PLAIN: Final = Style()
_DIM: Final = Style(dim=True)
_INLINE: Final = {"em": Style(italic=True), "strong": Style(bold=True)}
_CODE: Final = Style(color="cyan")
_ADDRESS: Final = Style(underline=True)
_HEADINGS: Final = {"h1": Style(bold=True, underline=True), "h2": Style(bold=True)}
_LOWER_HEADING: Final = Style(bold=True, italic=True)
_MARKER: Final = Style(bold=True)
_LEAST_WIDTH: Final = 8
_LEAST_CELL_WIDTH: Final = 7
_TAB_COLUMNS: Final = 8
_ROW_EDGES: Final = re.compile(r"^[\s>]*\|?|(?<!\\)\|?\s*$")
_CELL_END: Final = re.compile(r"(?<!\\)\|")
_ALIGNMENTS: Final[dict[Any, JustifyMethod]] = {"text-align:right": "right", "text-align:center": "center"}

_CODE_STYLES: Final = {
    "Comment": _DIM,
    "Keyword": Style(color="magenta"),
    "Keyword.Constant": Style(color="cyan"),
    "Name.Builtin": Style(color="cyan"),
    "Name.Class": Style(color="blue", bold=True),
    "Name.Decorator": Style(color="magenta"),
    "Name.Function": Style(color="blue", bold=True),
    "Name.Tag": Style(color="blue", bold=True),
    "Name.Attribute": Style(color="cyan"),
    "Literal.Number": Style(color="cyan"),
    "Literal.String": Style(color="green"),
    "Operator.Word": Style(color="magenta"),
    "Generic.Deleted": Style(color="red"),
    "Generic.Inserted": Style(color="green"),
    "Generic.Heading": Style(bold=True),
    "Generic.Subheading": Style(color="magenta"),
    "Generic.Prompt": _DIM,
}
"""Kinds of tokens of Pygments, in colours that can be read on a light and on a dark background."""


class MarkdownRenderer:
    """Draws blocks of Markdown.

    Args:
        has_color: whether colours may be used; bold, italic and underlined text always are.
        has_boxes: whether the terminal shows characters that are not ASCII.
    """

    def __init__(self, *, has_color: bool, has_boxes: bool) -> None:
        self._has_color = has_color
        self._parser = Parser()
        self._bullet, self._bar, self._rule = ("• ", "▌ ", "─") if has_boxes else ("* ", "> ", "-")
        self._box = box.ROUNDED if has_boxes else box.MARKDOWN
        self._console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", _environ={})

    def render(self, source: str, width: int, *, folds_code: bool = False) -> list[str]:
        """The lines of a block, without spaces at their ends, and with the escape sequences of their styles.

        Args:
            source: Markdown.
            width: the columns of the terminal. Only lines of code are longer, so that they are copied whole.
            folds_code: no line is longer.
        """
        tokens = self._parser.parse(source)
        if _leaves_out(tokens, source):
            lines = self._wrapped(Text(source), width)
        else:
            lines = self._blocks(SyntaxTreeNode(tokens).children, width)
        if folds_code:
            lines = [folded for line in lines for folded in _folded(line, width)]
        return [self._ansi(line) for line in lines]

    def _ansi(self, line: Text) -> str:
        line.rstrip()
        return "".join(
            self._styled(escaped(text, keep=KEPT_IN_TEXT), style or _PLAIN)
            for text, style, _ in line.render(self._console)
        )

    def _styled(self, text: str, style: Style) -> str:
        style = style if self._has_color else style.without_color
        return style.render(text, color_system=ColorSystem.STANDARD)

    def _blocks(self, nodes: Sequence[SyntaxTreeNode], width: int) -> list[Text]:
        """Some blocks, separated by empty lines if they are not those of a list without any."""
        is_tight = any(node.type == "paragraph" and node.hidden for node in nodes)
        lines: list[Text] = []
        for node in nodes:
            if lines and not is_tight:
                lines.append(Text())
            lines += self._block(node, max(width, _LEAST_WIDTH))
        return lines

    def _block(self, node: SyntaxTreeNode, width: int) -> Iterable[Text]:
        drawing = self._drawings.get(node.type)
        return drawing(node, width) if drawing else self._wrapped(Text(node.content.rstrip("\n")), width)

    @cached_property
    def _drawings(self) -> dict[str, Callable[[SyntaxTreeNode, int], Iterable[Text]]]:
        return {
            "paragraph": lambda node, width: self._wrapped(self._inline(node), width),
            "heading": self._heading,
            "bullet_list": self._list,
            "ordered_list": self._list,
            "blockquote": self._quote,
            "fence": lambda node, _: _fenced(node),
            "code_block": lambda node, _: _code(node.content.rstrip("\n"), "", indent="    "),
            "table": self._table,
            "hr": lambda _, width: [Text.assemble((self._rule * width, _DIM))],
        }

    def _heading(self, node: SyntaxTreeNode, width: int) -> Iterable[Text]:
        return self._wrapped(self._inline(node, _HEADINGS.get(node.tag, _LOWER_HEADING)), width)

    def _quote(self, node: SyntaxTreeNode, width: int) -> list[Text]:
        lines = self._blocks(node.children, width - len(self._bar)) or [Text()]
        return [Text.assemble((self._bar, _DIM), line) for line in lines]

    def _wrapped(self, text: Text, width: int) -> Iterable[Text]:
        return text.wrap(self._console, width, overflow="fold", tab_size=_TAB_COLUMNS)

    def _list(self, node: SyntaxTreeNode, width: int) -> list[Text]:
        is_loose = any(
            child.type == "paragraph" and not child.hidden for item in node.children for child in item.children
        )
        lines: list[Text] = []
        for item in node.children:
            marker = f"{item.info}{item.markup} " if node.type == "ordered_list" else self._bullet
            if lines and is_loose:
                lines.append(Text())
            first, *others = self._blocks(item.children, width - len(marker)) or [Text()]
            lines.append(Text.assemble((marker, _MARKER), first))
            lines += [Text.assemble(" " * len(marker), line) for line in others]
        return lines

    def _table(self, node: SyntaxTreeNode, width: int) -> Iterable[Text]:
        header, *rows = (
            [self._inline(cell) for cell in row.children] for section in node.children for row in section.children
        )
        natural = sum(max(cell.cell_len for cell in column) + 3 for column in zip(header, *rows, strict=True)) + 1
        if natural > width and width < len(header) * (_LEAST_CELL_WIDTH + 3) + 1:
            return self._records(header, rows, width)
        table = Table(box=self._box, border_style=_DIM, header_style=_MARKER, show_lines=natural > width)
        for cell, heading in zip(node.children[0].children[0].children, header, strict=True):
            table.add_column(heading, justify=_ALIGNMENTS.get(cell.attrs.get("style"), "left"), overflow="fold")
        for row in rows:
            table.add_row(*row)
        lines = self._console.render_lines(table, self._console.options.update(width=width), pad=False)
        return [
            Text.assemble(*((text, style or _PLAIN) for text, style, _ in line)) for line in lines if _has_text(line)
        ]

    def _records(self, header: Sequence[Text], rows: Sequence[Sequence[Text]], width: int) -> Iterator[Text]:
        """A table that is too wide: a line for each cell, under the name of its column."""
        for number, row in enumerate(rows or [[]]):
            if number:
                yield Text.assemble((self._rule * width, _DIM))
            for heading, cell in zip_longest(header, row, fillvalue=Text()):
                name = Text.assemble(heading, ": " if heading and cell else "", style=_MARKER)
                yield from self._wrapped(Text.assemble(name, cell), width)

    def _inline(self, node: SyntaxTreeNode, style: Style = _PLAIN) -> Text:
        text = Text()
        for inline in node.children:
            self._append(text, inline.children, style)
        return text

    def _append(self, text: Text, nodes: Iterable[SyntaxTreeNode], style: Style) -> None:
        for node in nodes:
            match node.type:
                case "softbreak" | "hardbreak":
                    text.append("\n", style)
                case "em" | "strong":
                    self._append(text, node.children, style + _INLINE[node.type])
                case "link" | "image":
                    self._append_link(text, node, style)
                case "code_inline":
                    delimiter = "" if self._has_color else node.markup
                    text.append(f"{delimiter}{node.content}{delimiter}", style + _CODE)
                case _:
                    text.append(node.content, style)

    def _append_link(self, text: Text, node: SyntaxTreeNode, style: Style) -> None:
        """Its text and its address, which is not hidden: the text could say another."""
        start = len(text)
        self._append(text, node.children, style)
        address = str(node.attrs.get("href") or node.attrs.get("src") or "")
        title = f' "{node.attrs["title"]}"' if node.attrs.get("title") else ""
        if text.plain[start:] == address:
            text.stylize(_ADDRESS, start)
        elif address or title:
            text.append(" (" if len(text) > start else "(", style)
            text.append(address, style + _ADDRESS)
            text.append(f"{title})", style)


def _leaves_out(tokens: Sequence[Token], source: str) -> bool:
    """Whether the parser has left out some of a text: what is nested too deeply, or cells beyond the columns."""
    lines = source.split("\n")
    for token in tokens:
        if token.level >= MAX_NESTING - 1:
            return True
        if token.type == "table_open" and token.map:
            head, _, *rows = (_cells_count(line) for line in lines[slice(*token.map)])
            if max(rows, default=0) > head:
                return True
    return False


def _cells_count(line: str) -> int:
    return len(_CELL_END.findall(_ROW_EDGES.sub("", line))) + 1


def _has_text(line: Iterable[Segment]) -> bool:
    return any(not segment.text.isspace() for segment in line)


def _folded(line: Text, width: int) -> Iterable[Text]:
    """A line in rows of the terminal."""
    if line.cell_len <= width:
        return [line]
    cuts, columns = [], 0
    for position, char in enumerate(line.plain):
        size = Text(char).cell_len
        if columns + size > width:
            cuts.append(position)
            columns = 0
        columns += size
    return line.divide(cuts)


def _fenced(node: SyntaxTreeNode) -> Iterator[Text]:
    language = node.info.split(maxsplit=1)[0] if node.info.strip() else ""
    yield Text.assemble((f"{node.markup}{node.info}", _DIM))
    if node.content:
        yield from _code(node.content.removesuffix("\n"), language)
    yield Text.assemble((node.markup, _DIM))


def _code(source: str, language: str, indent: str = "") -> Iterable[Text]:
    """Lines of code in the colours of its language."""
    text = Text()
    for kind, part in _tokens(source, language):
        text.append(part, _code_style(kind))
    for line in text.split("\n", allow_blank=True):
        line.expand_tabs(_TAB_COLUMNS)
        yield Text.assemble(indent, line)


def _tokens(source: str, language: str) -> Iterable[tuple[Any, str]]:
    lexer = _lexer(language)
    if lexer is None:
        return [((), source)]
    tokens = [(kind, part) for _, kind, part in lexer.get_tokens_unprocessed(source)]
    return tokens if "".join(part for _, part in tokens) == source else [((), source)]


@lru_cache
def _lexer(language: str) -> Any:
    """The lexer of a language; None for an unknown one."""
    from pygments.lexers import get_lexer_by_name  # noqa: PLC0415  loaded with the first code
    from pygments.util import ClassNotFound  # noqa: PLC0415

    try:
        return get_lexer_by_name(language) if language else None
    except ClassNotFound:
        return None


@lru_cache
def _code_style(kind: Any) -> Style:
    """The style of a kind of token, or of the nearest that contains it."""
    while kind:
        if style := _CODE_STYLES.get(".".join(kind)):
            return style
        kind = kind.parent
    return _PLAIN
