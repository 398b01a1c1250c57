"""A terminal session as one animated SVG: each row is there for a span of time, and all of them scroll together.

CSS moves it, in a loop. Without CSS animations, and for readers who want no motion, it is the last frame.
"""

import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Final, NamedTuple

from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME
from screens import Cell, style_of

WIDTH: Final = 8.4
HEIGHT: Final = 17
"""The size of a cell, in the units of the picture."""
_BASELINE: Final = 13
_MARGIN: Final = 12
_NO_BREAK_SPACE: Final = "\xa0"
"""A space that is kept where it stands next to another; not all browsers obey xml:space."""
_TITLE_BAR: Final = 34
_ROUNDING: Final = 1e-3
"""Seconds by which a time in the picture may be off."""
_PICTURE: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}">
<title>{title}</title>
<style>
text {{ font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: {foreground} }}
.m {{ animation: {seconds:g}s step-end infinite }}
@media (prefers-reduced-motion: reduce) {{ .m {{ animation: none !important }} }}
{css}
</style>
<rect width="{width:g}" height="{height}" rx="8" fill="{background}"/>
<circle cx="20" cy="17" r="5" fill="#ff5f57"/>
<circle cx="38" cy="17" r="5" fill="#febc2e"/>
<circle cx="56" cy="17" r="5" fill="#28c840"/>
<svg x="{margin}" y="{title_bar}" width="{screen_width:g}" height="{screen_height}">
{screen}
</svg>
</svg>
"""


class Frame(NamedTuple):
    """What a terminal shows from a time on.

    Attributes:
        seconds: the time, from the beginning.
        rows: the cells of each row, those that scrolled off first.
        scrolled: how many scrolled off.
        cursor: its column and its row, counted from the first that scrolled off; None if it is hidden.
    """

    seconds: float
    rows: Sequence[Sequence[Cell]]
    scrolled: int
    cursor: tuple[int, int] | None


def animated(frames: Sequence[Frame], seconds: float, *, title: str, size: tuple[int, int]) -> str:
    """Draw a session.

    Args:
        frames: what is shown, in the order of time; the first at 0.
        seconds: how long it is until it begins again.
        title: its name.
        size: columns and rows of the terminal.
    """
    columns, lines = size
    sheet = _StyleSheet(seconds)
    scrolling = [(frame.seconds, _translation(0, -frame.scrolled)) for frame in frames]
    cursor = [(frame.seconds, _translation(*frame.cursor or (0, -1))) for frame in frames]
    screen = [
        f"<g{sheet.changing('transform', scrolling)}>",
        f'<rect{sheet.changing("transform", cursor)} width="{WIDTH}" height="{HEIGHT}" fill="#888"/>',
        *_rows(frames, sheet),
        "</g>",
    ]
    return _PICTURE.format(
        width=columns * WIDTH + 2 * _MARGIN,
        height=lines * HEIGHT + _TITLE_BAR + _MARGIN,
        title=escape(title),
        foreground=SVG_EXPORT_THEME.foreground_color.hex,
        background=SVG_EXPORT_THEME.background_color.hex,
        seconds=seconds,
        css="\n".join(sheet.rules),
        margin=_MARGIN,
        title_bar=_TITLE_BAR,
        screen_width=columns * WIDTH,
        screen_height=lines * HEIGHT,
        screen="\n".join(screen),
    )


def frozen(picture: str, seconds: float) -> str:
    """An animated picture as it is at a time, without motion."""
    duration = float(re.findall(r"animation: (\S+)s", picture)[0])
    values = {}
    for name, frames in re.findall(r"@keyframes (\w+) \{(.*)\}", picture):
        steps = re.findall(r"(\S+)% \{ \w+: (.*?) \}", frames)
        values[name] = [value for percent, value in steps if float(percent) * duration / 100 <= seconds + _ROUNDING][-1]
    moving = r'(\w+)="[^"]*" class="m" style="animation-name: (\w+)"'
    return re.sub(moving, lambda found: f'{found[1]}="{_attribute(values[found[2]])}"', picture)


class _StyleSheet:
    """The rules that the picture needs, each once.

    Args:
        seconds: how long the animation is.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._names: dict[str, str] = {}

    @property
    def rules(self) -> list[str]:
        return [rule.replace("NAME", name) for rule, name in self._names.items()]

    def name(self, rule: str) -> str:
        return self._names.setdefault(rule, f"s{len(self._names)}")

    def changing(self, attribute: str, values: Sequence[tuple[float, str]]) -> str:
        """The attributes of an element of which one changes; it has its last value where nothing moves."""
        steps = [next(same) for _, same in groupby(values, key=lambda step: step[1])]
        still = f' {attribute}="{_attribute(steps[-1][1])}"'
        if len(steps) == 1:
            return still
        css = " ".join(f"{100 * start / self._seconds:.5g}% {{ {attribute}: {value} }}" for start, value in steps)
        return f'{still} class="m" style="animation-name: {self.name(f"@keyframes NAME {{ {css} }}")}"'


def _attribute(value: str) -> str:
    """A value of CSS as that of an attribute, which has no units."""
    return value.replace("px", "")


def _translation(column: int, row: int) -> str:
    return f"translate({column * WIDTH:g}px,{row * HEIGHT}px)"


def _rows(frames: Sequence[Frame], sheet: _StyleSheet) -> Iterator[str]:
    """Each version of each row, in a group that is visible while the row looks like that."""
    for number in range(max(len(frame.rows) for frame in frames)):
        looks = [(frame.seconds, _look(frame.rows[number : number + 1], number, sheet)) for frame in frames]
        for look in dict.fromkeys(drawn for _, drawn in looks if drawn):
            visible = [(start, "visible" if drawn == look else "hidden") for start, drawn in looks]
            yield f"<g{sheet.changing('visibility', visible)}>{look}</g>"


def _look(rows: Sequence[Sequence[Cell]], number: int, sheet: _StyleSheet) -> str:
    """A row as it is drawn, if there is one."""
    drawn, column = "", 0
    for style, same in groupby(rows[0] if rows else (), key=style_of):
        cells = list(same)
        drawn += _run("".join(cell.text for cell in cells), _css(style), column, number, sheet)
        column += len(cells)
    return drawn


def _run(text: str, css: dict[str, str], column: int, row: int, sheet: _StyleSheet) -> str:
    """Neighbouring cells that are drawn in the same way; the width holds in every font."""
    drawn = ""
    background = css.pop("background-color")
    if background != SVG_EXPORT_THEME.background_color.hex:
        place = f'x="{column * WIDTH:g}" y="{row * HEIGHT}"'
        drawn = f'<rect {place} width="{len(text) * WIDTH:g}" height="{HEIGHT}" fill="{background}"/>'
    if not (shown := text.strip(" ")):
        return drawn
    rule = f".NAME {{ {'; '.join(f'{name}: {value}' for name, value in css.items())} }}"
    style = f' class="{sheet.name(rule)}"' if css else ""
    x, y = (column + text.index(shown)) * WIDTH, row * HEIGHT + _BASELINE
    content = escape(shown).replace(" ", _NO_BREAK_SPACE)
    return f'{drawn}<text x="{x:g}" y="{y}" textLength="{len(shown) * WIDTH:g}"{style}>{content}</text>'


def _css(style: Style) -> dict[str, str]:
    """How a cell is drawn, without what is so everywhere."""
    declarations = dict(item.split(": ") for item in style.get_html_style(SVG_EXPORT_THEME).split("; "))
    color = declarations.pop("color")
    declarations.pop("text-decoration-color", None)
    return declarations if color == SVG_EXPORT_THEME.foreground_color.hex else {"fill": color, **declarations}
