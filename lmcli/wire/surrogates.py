"""Joining what a JavaScript server cut: the two halves of an emoji in two fragments."""

from typing import Final

from lmcli.values import Fragment

_FIRST_HALVES: Final = ("\ud800", "\udbff")


class Halves:
    """Holds back half a surrogate pair until the other half comes; a half that stays alone becomes U+FFFD."""

    def __init__(self) -> None:
        self._held = ""

    def join(self, fragment: Fragment) -> Fragment:
        """The same fragment with text that can be encoded."""
        if not self._held and (fragment.content.isascii() or _is_encodable(fragment.content)):
            return fragment
        text = self._held + fragment.content
        self._held = text[-1:] if _FIRST_HALVES[0] <= text[-1:] <= _FIRST_HALVES[1] else ""
        return fragment._replace(content=_mended(text[: len(text) - len(self._held)]))

    def rest(self) -> str:
        """What stands for a half that is still alone at the end."""
        rest, self._held = _mended(self._held), ""
        return rest


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mended(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
