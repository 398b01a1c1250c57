"""Blocks of Markdown as the lines of a terminal: how they look, and that nothing of them is lost."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from screens import Screen

from lmcli.cli.output.drawing import columns_of
from lmcli.cli.output.markdown_blocks import BlockSplitter
from lmcli.cli.output.markdown_text import MarkdownRenderer

ESCAPE_SEQUENCE = re.compile(r"\x1b\[[\d;]*m")


def rendered(text: str, width: int = 80, *, has_color: bool = True, has_boxes: bool = True, **more: bool) -> list[str]:
    """The lines of a text, block by block, as they are written."""
    renderer = MarkdownRenderer(has_color=has_color, has_boxes=has_boxes)
    splitter = BlockSplitter()
    splitter.add(text)
    return [line for block in splitter.end() for line in renderer.render(block.source, width, **more)]


def plain(text: str, width: int = 80, **more: bool) -> list[str]:
    """The lines of a text without their styles."""
    return [ESCAPE_SEQUENCE.sub("", line) for line in rendered(text, width, **more)]


def whole(text: str, width: int) -> list[str]:
    """The lines of a text and the empty lines between its blocks, without styles."""
    renderer = MarkdownRenderer(has_color=True, has_boxes=True)
    splitter = BlockSplitter()
    splitter.add(text)
    parts = [("\n" * block.has_gap) + "\n".join(renderer.render(block.source, width)) for block in splitter.end()]
    return ESCAPE_SEQUENCE.sub("", "\n".join(parts)).strip("\n").split("\n")


def shown(text: str, width: int = 80, **more: bool) -> Screen:
    """A terminal with a text."""
    screen = Screen(width, 100)
    screen.write("\r\n".join(rendered(text, width, **more)))
    return screen


def test_emphasis_and_headings_are_styles() -> None:
    """What is strong is bold, what is emphasised italic, a heading bold, and the highest underlined too."""
    screen = shown("# One\n## Two\n### Three\nsome **bold** and *italic* `code` words")
    assert screen.rows == ["One", "Two", "Three", "some bold and italic code words"]
    assert {(cell.bold, cell.underlined) for cell in screen.cells("One")} == {(True, True)}
    assert {(cell.bold, cell.underlined) for cell in screen.cells("Two")} == {(True, False)}
    assert {(cell.bold, cell.italic) for cell in screen.cells("Three")} == {(True, True)}
    assert {(cell.bold, cell.italic) for cell in screen.cells("bold")} == {(True, False)}
    assert {(cell.bold, cell.italic) for cell in screen.cells("italic")} == {(False, True)}
    assert {cell.color for cell in screen.cells("code")} == {"cyan"}
    assert {(cell.bold, cell.color) for cell in screen.cells("some ")} == {(False, "default")}


def test_code_has_the_colours_of_its_language() -> None:
    """Code is coloured between its fences, which are dim; an unknown language is plain."""
    screen = shown('```python\ndef f():\n    return "x"  # why\n```\n\n```nonesuch\ndef g\n```')
    assert screen.rows == ["```python", "def f():", '    return "x"  # why', "```", "```nonesuch", "def g", "```"]
    assert all(cell.dim for cell in screen.cells("```python"))
    assert {cell.color for cell in screen.cells("return")} == {"magenta"}
    assert {cell.color for cell in screen.cells('"x"')} == {"green"}
    assert all(cell.dim for cell in screen.cells("# why"))
    assert {cell.color for cell in screen.cells("def g")} == {"default"}


def test_without_colour_there_are_styles_and_backquotes_only() -> None:
    """Without colour everything is still told apart."""
    screen = shown("**bold** `code`\n\n```python\ndef f(): ...\n```", has_color=False)
    assert screen.rows == ["bold `code`", "```python", "def f(): ...", "```"]
    assert {cell.bold for cell in screen.cells("bold")} == {True}
    assert {cell.color for row in screen.rows for cell in screen.cells(row)} == {"default"}


def test_only_colours_that_can_be_read_on_any_background_are_used() -> None:
    """Nothing is white, black or yellow, and no background is set."""
    text = "# h\n`c` [a](b)\n\n" + "".join(
        f"```{language}\n{code}\n```\n"
        for language, code in [
            ("python", '@x\nclass A(B):\n    """d"""\n    def f(self): return None or 1.5 # c'),
            ("diff", "--- a\n+++ b\n@@ 1 @@\n-x\n+y"),
            ("html", '<a href="x">&amp;</a><!-- c -->'),
            ("console", "$ ls -l 'x'\nout"),
            ("c", "#include <x.h>\nint main(void) { return '\\n' + 0x1; } /* c */"),
        ]
    )
    codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", "\n".join(rendered(text))) for code in found.split(";")}
    assert codes <= {"0", "1", "2", "3", "4", "31", "32", "34", "35", "36"}


TABLE = "| Name | Size |\n|:--|--:|\n| `a` | 1 |\n| **bb** | 22 |"


def test_a_table_has_borders_and_aligned_columns() -> None:
    """A table is drawn with lines, its head bold, its columns aligned as it says."""
    screen = shown(TABLE)
    expected = """
╭──────┬──────╮
│ Name │ Size │
├──────┼──────┤
│ a    │    1 │
│ bb   │   22 │
╰──────┴──────╯"""
    assert screen.rows == expected.strip().split("\n")
    assert {cell.bold for cell in screen.cells("Name")} == {True}
    assert {cell.bold for cell in screen.cells("bb")} == {True}
    assert plain(TABLE, has_boxes=False) == ["| Name | Size |", "|------|------|", "| a    |    1 |", "| bb   |   22 |"]


def test_a_table_that_is_too_wide_is_folded_and_one_of_many_columns_becomes_a_list() -> None:
    """No cell of a table is cut."""
    wide = "| A | B |\n|---|---|\n| some words that need room | abcdefghijklmnopqrstuvwxyz |"
    expected = """
╭───────────────────┬──────────────────╮
│ A                 │ B                │
├───────────────────┼──────────────────┤
│ some words that   │ abcdefghijklmnop │
│ need room         │ qrstuvwxyz       │
╰───────────────────┴──────────────────╯"""
    assert plain(wide, 40) == expected.strip().split("\n")
    many = "| one | two | three | four | five |\n|-|-|-|-|-|\n| 1 | 2 | a longer cell | 4 | 5 |\n| 6 | 7 | 8 | | 0 |"
    first, second = "one: 1,two: 2,three: a longer cell,four: 4,five: 5", "one: 6,two: 7,three: 8,four,five: 0"
    assert plain(many, 30) == [*first.split(","), "─" * 30, *second.split(",")]


def test_cells_beyond_the_columns_of_a_table_are_kept() -> None:
    """A row that is longer than the head has a column of its own, which the parser would leave out."""
    assert plain("| a |\n|---|\n| 1 | 2 |") == ["| a |", "|---|", "| 1 | 2 |"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\ntwo  \nthree\\\nfour", ["one", "two", "three", "four"]),
        ("[text](https://a.b/c_d)", ["text (https://a.b/c_d)"]),
        ('[text](/x "Title") ![image](y.png)', ['text (/x "Title") image (y.png)']),
        ("<https://a.b> [https://a.b](https://a.b) [](x)", ["https://a.b https://a.b (x)"]),
        ("[bank](javascript:x) [a][b]\n\n[b]: /url", ["bank (javascript:x) [a][b]", "[b]: /url"]),
        ("<b>x</b>\n\n<div>\ny\n</div>", ["<b>x</b>", "<div>", "y", "</div>"]),
        ("[bold]x[/bold] :smile: [link=x]", ["[bold]x[/bold] :smile: [link=x]"]),
        ("~~no~~ H~2~O x[^1]\n\n[^1]: note", ["~~no~~ H~2~O x[^1]", "[^1]: note"]),
        ("&lt;p&gt; &amp; \\*x\\*", ["<p> & *x*"]),
        ("- [ ] to do\n- [x] done", ["• [ ] to do", "• [x] done"]),
        ("- a\n  - b\n\n    c\n3) d\n4) e", ["• a", "  • b", "", "    c", "3) d", "4) e"]),
        ("1. a\n   ```sh\n   ls\n   ```\n   > q", ["1. a", "   ```sh", "   ls", "   ```", "   ▌ q"]),
        ("> a\n> > b\n>\n> - c", ["▌ a", "▌", "▌ ▌ b", "▌", "▌ • c"]),
        ("    code\n      more", ["    code", "      more"]),
        ("```\na\n\n\tb  \n```", ["```", "a", "", "        b", "```"]),
        ("```python title=x\n", ["```python title=x", "```"]),
        ("-\n- \n1.", ["•", "•", "1."]),
        ("a\n===\n####### b", ["a", "####### b"]),
        ("\\(a_1 * b * c_2\\) \\[x\\] $a*b*c$ $$y$$", ["\\(a_1 * b * c_2\\) \\[x\\] $a*b*c$ $$y$$"]),
        ("$$\na\n- b\n= c\n$$", ["$$", "a", "- b", "= c", "$$"]),
        ("It costs $5 to $10, or *$7*.", ["It costs $5 to $10, or $7."]),
        ("\\[\nx\n\\] and", ["\\[", "x", "\\] and"]),
    ],
)
def test_nothing_of_a_text_is_lost(text: str, expected: Sequence[str]) -> None:
    """Addresses, HTML, definitions, fences, numbers, line breaks and formulas are all there."""
    assert plain(text) == expected


def test_a_rule_is_as_wide_as_the_terminal() -> None:
    """A thematic break is a line."""
    assert plain("---", 20) == ["─" * 20]
    assert plain("---", 20, has_boxes=False) == ["-" * 20]


def test_what_is_nested_too_deeply_is_shown_as_it_was_written() -> None:
    """The parser leaves out what is deeper than it reads."""
    assert plain(">" * 300 + " deep", 400) == [">" * 300 + " deep"]
    assert plain("- " * 100 + "deep", 400) == ["- " * 100 + "deep"]


def test_an_entity_cannot_control_the_terminal() -> None:
    """Control characters and overrides that are written as entities are shown escaped."""
    text = "&#155;2J&#x202e; [a](&#8238;x)\n\n```&#x202e;&#127;\n&#27;\n```\n\n| &#x202e; |\n|--|"
    lines = plain(text)
    assert lines[:3] == ["\ufffd2J\\u202e a (\\u202ex)", "```&#x202e;&#127;", "&#27;"]
    assert not any(char < " " or "\x7f" <= char <= "\x9f" or char == "\u202e" for char in "".join(lines))


def test_words_are_wrapped_and_only_code_is_longer_than_the_window() -> None:
    """Text is wrapped between words, or in a long word; code is left to the terminal, so that it is copied whole."""
    text = f"some words and {'x' * 30}\n\n```\n{'c' * 30}\n```"
    assert plain(text, 20) == ["some words and", "x" * 20, "x" * 10, "```", "c" * 30, "```"]
    assert plain(text, 20, folds_code=True) == ["some words and", "x" * 20, "x" * 10, "```", "c" * 20, "c" * 10, "```"]


WIDE_WORDS = ("漢字", "日本語テキスト", "e\u0301te\u0301", "👩\u200d🚀", "🇩🇪", "ok", "naïve", "한국어")


@given(st.lists(st.sampled_from(WIDE_WORDS), min_size=1, max_size=30), st.sampled_from([10, 20, 39, 40]), st.booleans())
def test_wide_characters_fit_and_are_all_there(words: Sequence[str], width: int, in_table: bool) -> None:  # noqa: FBT001
    """Rows of characters of two columns, or of none, are no wider than the terminal, and complete."""
    text = f"|{'|'.join(words[:2])}|\n|{'-|' * len(words[:2])}\n" if in_table else " ".join(words)
    lines = plain(text, width, folds_code=True)
    letters = re.sub(r"[\s│╭╮╰╯├┤┬┴┼─|:-]", "", "".join(lines))
    assert letters == "".join(words[:2] if in_table else words)
    assert all(columns_of(line) <= width or "\u200d" in line for line in lines)


PIECES = st.sampled_from(
    [
        *(
            "{}",
            "**{}**",
            "*{}*",
            "`{}`",
            "# {}",
            "- {}",
            "  - {}",
            "1. {}",
            "> {}",
            "<b>{}</b>",
            "[{}](/u)",
            "![{}](/i)",
        ),
        *(
            "```\n{}\n```",
            "    {}",
            "| {} | x |\n|---|---|\n| y | z |",
            "$${}$$",
            "\\({}\\)",
            "[{}]: /url",
            "~~{}~~",
            "{}\n===",
        ),
        *(
            "<div>{}",
            "- ```\n  {}",
            "{}  ",
            "\\[\n{}\n\\]",
            "***",
            "",
            "",
            "|{}|",
            "_{}_ **{}",
            "> - {}",
            "[{}",
            "``{}",
            "^{}~",
        ),
    ]
)


@given(st.lists(PIECES, max_size=12), st.sampled_from([12, 40, 80]), st.booleans())
def test_every_word_is_shown_once_and_in_order(pieces: Sequence[str], width: int, has_color: bool) -> None:  # noqa: FBT001
    """Whatever the Markdown, its words are there, each once."""
    text = "\n".join(piece.replace("{}", f"w{number}e") for number, piece in enumerate(pieces))
    words = re.findall(r"w\d+e", text)
    found = re.findall(r"w\d+e", "\n".join(plain(text, width, has_color=has_color)))
    if width < 40:  # a list of cells repeats the names of their columns
        found, words = list(dict.fromkeys(found)), list(dict.fromkeys(words))
    assert found == words
