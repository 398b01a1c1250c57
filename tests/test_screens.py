"""The screen that tests look at, held against what a terminal does."""

import pytest
from screens import SIZES, THEMES, Screen


def test_what_scrolls_off_is_kept_once() -> None:
    """The scrollback and the screen together are what was written."""
    screen = Screen(20, 5)
    lines = [f"line {number}" for number in range(30)]
    screen.write("\r\n".join(lines))
    assert (screen.rows, screen.everything) == (lines[-5:], lines)


def test_a_smaller_window_loses_nothing_above_the_cursor() -> None:
    """Rows scroll off when the window is too low for those above the cursor; in a narrow one their ends are cut."""
    screen = Screen(20, 10)
    screen.write("first, which is long\r\nsecond\r\nthird\r\n")
    screen.resize(5, 2)
    assert (screen.rows, screen.everything, screen.cursor) == (["third"], ["first", "secon", "third"], (0, 1))


@pytest.mark.parametrize(("code", "name"), [("1", "bold"), ("2", "dim"), ("3", "italic"), ("4", "underlined")])
def test_a_cell_tells_how_it_is_drawn(code: str, name: str) -> None:
    """Each attribute is seen where it is set, and nowhere else."""
    screen = Screen()
    screen.write(f"plain \x1b[{code}mmarked\x1b[0m plain")
    assert all(getattr(cell, name) for cell in screen.cells("marked"))
    assert not any(getattr(cell, name) for cell in screen.cells("plain"))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
def test_a_picture_shows_each_cell(size: tuple[int, int], theme: str) -> None:
    """Wide characters take two columns, colours are those of the theme."""
    screen = Screen(*size)
    screen.write("\x1b[31mred\x1b[0m 日本\r\n\x1b[38;5;208morange")
    picture = screen.picture(theme)
    assert all(text in picture for text in ("red", "日本", "orange", "#ff8700"))
    assert "#{:02x}{:02x}{:02x}".format(*THEMES[theme].background_color) in picture
