"""Halves of surrogate pairs: JavaScript cuts and keeps them, UTF-8 has none."""

from typing import Final

from lmcli.values import Fragment

_HIGH: Final = ("\ud800", "\udbff")


def repaired(text: str) -> str:
    """A text in which U+FFFD stands for each half of a surrogate pair that is alone."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class SurrogateJoiner:
    """Joins what a JavaScript server cut: the two halves of an emoji in two fragments.

    Half a surrogate pair is held back until the other half comes; a half that stays alone becomes U+FFFD.
    """

    def __init__(self) -> None:
        self._held = ""

    def join(self, fragment: Fragment) -> Fragment | None:
        """The same fragment with text that can be encoded; None for one without text and tokens."""
        content = fragment.content
        if content and not self._held and (content.isascii() or _is_encodable(content)):
            return fragment
        if not (content or fragment.tokens_count):
            return None
        text = self._held + content
        self._held = text[-1:] if _HIGH[0] <= text[-1:] <= _HIGH[1] else ""
        return fragment._replace(content=repaired(text[: len(text) - len(self._held)]))

    def rest(self) -> str:
        """What stands for a half that is still alone at the end."""
        rest, self._held = repaired(self._held), ""
        return rest


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
