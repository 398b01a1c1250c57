"""The animated picture: at each time it shows what the terminal showed, and the end where nothing moves."""

import re
import xml.etree.ElementTree as ET

import pytest
from animation import HEIGHT, WIDTH, Frame, animated, frozen
from screens import Screen

SIZE = (20, 3)
WRITTEN = {
    0.0: "$ ",
    0.06: "l",
    0.12: "m",
    1.0: "\r\n\x1b[1mbold\x1b[0m & <plain>\r\n",
    1.5: "  \x1b[2mdim\x1b[0m",
    2.0: "\r\x1b[K\x1b[31mred\x1b[0m two  spaces\r\n",
    3.0: "\x1b[44mblue\x1b[0m\r\nlast",
    3.5: "\x1b[?25l",
}
"""What a program writes, and when; the screen scrolls at the third newline."""
SECONDS = 5.0
SVG = "{http://www.w3.org/2000/svg}"


def frames() -> list[Frame]:
    """What the terminal shows."""
    screen, shown = Screen(*SIZE), []
    for seconds, text in WRITTEN.items():
        screen.write(text)
        column, row = screen.cursor
        cursor = (column, screen.scrolled + row) if screen.is_cursor_visible else None
        shown.append(Frame(seconds, screen.all_cells, screen.scrolled, cursor))
    return shown


def visible(picture: str) -> list[str]:
    """The rows that a picture without motion shows, each text put where it is drawn."""
    group = ET.fromstring(picture).find(f"{SVG}svg/{SVG}g")
    assert group is not None
    scrolled = -round(float(re.findall(r"-?[\d.]+", group.attrib["transform"])[1]) / HEIGHT)
    rows = [" " * SIZE[0]] * (scrolled + SIZE[1])
    for text in group.iterfind(f"{SVG}g[@visibility='visible']/{SVG}text"):
        column, row = round(float(text.attrib["x"]) / WIDTH), int(text.attrib["y"]) // HEIGHT
        words = (text.text or "").replace("\xa0", " ")
        rows[row] = rows[row][:column] + words + rows[row][column + len(words) :]
    return [row.rstrip() for row in rows[scrolled:]]


def on_screen(frame: Frame) -> list[str]:
    """The rows of a frame that have not scrolled off."""
    return ["".join(cell.text for cell in row).rstrip() for row in frame.rows[frame.scrolled :]]


PICTURE = animated(frames(), SECONDS, title="a test", size=SIZE)


@pytest.mark.parametrize("frame", frames(), ids=lambda frame: f"{frame.seconds}")
@pytest.mark.parametrize("later", [0.0, 0.04])
def test_at_each_time_it_shows_the_screen_of_that_time(frame: Frame, later: float) -> None:
    """From the moment of a change until the next one, with what scrolled off out of sight."""
    assert visible(frozen(PICTURE, frame.seconds + later)) == on_screen(frame)


def test_without_motion_it_shows_the_last_screen() -> None:
    """The animation is in the style alone; what stands in the attributes is the end."""
    assert visible(PICTURE) == on_screen(frames()[-1]) == ["red two  spaces", "blue", "last"]
    assert "@media (prefers-reduced-motion: reduce) { .m { animation: none !important } }" in PICTURE


def test_it_is_drawn_as_on_the_terminal() -> None:
    """Colours, weights and backgrounds are those of the cells; characters of XML are escaped."""
    rules = dict(re.findall(r"^\.(s\d+) \{ (.*) \}$", PICTURE, re.MULTILINE))
    texts = {text.text: rules.get(text.get("class", ""), "") for text in ET.fromstring(PICTURE).iter(f"{SVG}text")}
    assert texts["bold"] == "font-weight: bold"
    assert texts["&\xa0<plain>"] == texts["two\xa0\xa0spaces"] == ""
    assert re.fullmatch("fill: #[0-9a-f]{6}", texts["red"])
    assert texts["dim"] not in ("", texts["red"])
    assert re.search(
        rf'<rect x="0" y="{3 * HEIGHT}" width="{4 * WIDTH}" height="{HEIGHT}" fill="#[0-9a-f]{{6}}"/><text[^>]*>blue<',
        PICTURE,
    )


def test_the_cursor_moves_and_hides() -> None:
    """It stands behind what was typed last, and above the screen while it is hidden."""
    assert f'<rect transform="translate({3 * WIDTH:g},0)"' in frozen(PICTURE, 0.06)
    assert f'<rect transform="translate(0,-{HEIGHT})"' in PICTURE
