"""Bar charts as SVG, legible on light and on dark pages, with fonts of the reader's own machine."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

WIDTH, NAMES, BAR, GAP, MARGIN = 760, 220, 18, 8, 24
FIGURES = 90
"""The width that is left to the right of the longest bar."""
STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de }
  text { fill: #1f2328; font: 13px system-ui, sans-serif }
  .title { font-weight: 600; font-size: 15px }
  .note { fill: #59636e }
  .own { fill: #0969da }
  .other { fill: #9aa4af }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #3d444d }
    text { fill: #f0f6fc }
    .note { fill: #9198a1 }
    .own { fill: #4493f8 }
    .other { fill: #656c76 }
  }
"""


class Panel(NamedTuple):
    """One chart.

    Attributes:
        title: what is measured.
        note: the unit, and what is good.
        bars: names, and figures as they are written.
    """

    title: str
    note: str
    bars: Sequence[tuple[str, str]]


def drawn(panels: Sequence[Panel]) -> str:
    """Charts below each other, on one page."""
    lines: list[str] = []
    top = MARGIN
    for panel in panels:
        lines += _panel(panel, top)
        top += 3 * MARGIN + len(panel.bars) * (BAR + GAP)
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    page = f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{top - 1}" rx="6"/>'
    title = escape("; ".join(f"{panel.title}: {panel.note}" for panel in panels))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>\n<title>{title}</title>\n<style>{STYLE}</style>'
    return "\n".join([head, page, *lines, "</svg>\n"])


def _panel(panel: Panel, top: int) -> Iterator[str]:
    yield _text(MARGIN, top + BAR, panel.title, "title")
    yield _text(WIDTH - MARGIN, top + BAR, panel.note, "note", end=True)
    values = [float(figure.replace(",", "")) for _, figure in panel.bars]
    scale = (WIDTH - NAMES - FIGURES - MARGIN) / max(values)
    top += MARGIN + GAP
    for (name, figure), value in zip(panel.bars, values, strict=True):
        kind = "own" if name.startswith(("lm ", "lmcli.")) else "other"
        width = max(1.0, value * scale)
        yield _text(NAMES - GAP, top + 14, name, "name", end=True)
        yield f'<rect class="{kind}" x="{NAMES}" y="{top}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        yield _text(NAMES + width + GAP, top + 14, figure, "figure")
        top += BAR + GAP


def _text(x: float, y: float, text: str, kind: str, *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y}"{anchor}>{escape(text)}</text>'
