"""The tokens of the built-in models: words, each with the white space before it."""

import math
import re
import zlib
from collections.abc import Iterator
from typing import Final

from lmcli.values import CandidateToken, Fragment, PredictedToken

VOCABULARY: Final = 65_536
# Words and white space that are longer are several tokens.
MAX_TOKEN_CHARACTERS: Final = 1000

_LENGTH: Final = f"1,{MAX_TOKEN_CHARACTERS}"
_TOKEN = re.compile(rf"\s{{0,{MAX_TOKEN_CHARACTERS}}}+\S{{{_LENGTH}}}|\s{{{_LENGTH}}}")
_MARK = re.compile(r"(<\|[^\s<>|]+\|>)")


def tokens(text: str) -> Iterator[str]:
    """Split a text into tokens."""
    return (match[0] for match in _TOKEN.finditer(text))


def count(text: str) -> int:
    """Count the tokens of a text."""
    return sum(1 for _ in tokens(text))


def cached_count(prompt: str, earlier: str) -> int:
    """Count the tokens that a prompt begins with as an earlier one did; the last one is always read again."""
    same, different = 0, min(len(prompt), len(earlier)) + 1
    while same + 1 < different:
        middle = (same + different) // 2
        same, different = (middle, different) if prompt[:middle] == earlier[:middle] else (same, middle)
    return max(0, count(prompt[:same]) - 1)


def numbers(text: str) -> list[int]:
    """The number of each token of a text: equal for equal words."""
    return [_number(token) for token in tokens(text)]


def _number(token: str) -> int:
    return zlib.crc32(token.encode("utf-8", "surrogatepass")) % VOCABULARY


def predicted(token: str, candidates_count: int) -> PredictedToken:
    """A token with its log probability and candidates: itself, then itself with numbers, each half as likely."""
    texts = (token, *(f"{token}{number}" for number in range(2, candidates_count + 1)))
    candidates = [CandidateToken(text, _number(text), -math.log(2) * rank) for rank, text in enumerate(texts, start=1)]
    return PredictedToken(*candidates[0], tuple(candidates[:candidates_count]))


def marks_apart(fragment: Fragment) -> Iterator[Fragment]:
    """A fragment, with each mark of the template in a fragment of its own; the first text has its tokens."""
    if "<|" not in fragment.content:
        yield fragment
        return
    pieces = [(piece, _MARK.fullmatch(piece) is not None) for piece in _MARK.split(fragment.content) if piece]
    counted = next((index for index, (_, is_mark) in enumerate(pieces) if not is_mark), 0)
    for index, (piece, is_mark) in enumerate(pieces):
        count, tokens = (fragment.tokens_count, fragment.tokens) if index == counted else (0, ())
        yield fragment._replace(content=piece, tokens_count=count, tokens=tokens, is_structural=is_mark)
