"""Generated text → fragments: stop strings end the text, and reasoning is separated from the answer.

Pure. However the text is split, the joined fragments are the text up to the stop string.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lmcli.values import Fragment, PredictedToken
from lmcli.wire.prediction_config import PredictionConfig


class _Search:
    """Searches a string in a text that arrives in pieces, in linear time: the algorithm of Knuth, Morris and Pratt.

    Attributes:
        target: the string.
        matched: the length of the longest end of the text that is a proper beginning of the target.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.matched = 0
        self._borders: list[int] = []

    def feed(self, text: str, at: int = 0) -> int | None:
        """Add a text from a position on, up to the first end of the target in it; returns the position of that end."""
        target, matched = self.target, self.matched
        while at < len(text):
            if not matched:
                at = text.find(target[0], at)
                if at < 0:
                    break
            elif target[matched] != text[at]:
                matched = self._border(matched)
                continue
            matched += 1
            at += 1
            if matched == len(target):
                self.matched = 0
                return at
        self.matched = matched
        return None

    def _border(self, size: int) -> int:
        """The length of the longest text that both begins and ends the first characters of the target, but for all."""
        if not self._borders:
            self._borders = [0, 0]
            for index in range(1, len(self.target)):
                border = self._borders[index]
                while border and self.target[border] != self.target[index]:
                    border = self._borders[border]
                self._borders.append(border + (self.target[border] == self.target[index]))
        return self._borders[size]


class StopStringMatcher:
    """Finds stop strings in a text that arrives in pieces, also across the pieces.

    Attributes:
        found: the stop string that was found, if any.
        dropped: the length of the text from the stop string on.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._searches = [_Search(stop) for stop in stop_strings if stop]
        self._held = ""
        self.found: str | None = None
        self.dropped = 0

    def feed(self, piece: str) -> str:
        """Add a piece; returns the text that cannot be part of a stop string."""
        if not self._searches:
            return piece
        text, at = self._held + piece, len(self._held)
        hits = [(end - len(s.target), s.target) for s in self._searches if (end := s.feed(text, at)) is not None]
        if hits:
            at, self.found = min(hits, key=lambda hit: hit[0])
            self._held = ""
            self.dropped = len(text) - at
            return text[:at]
        held = max(search.matched for search in self._searches)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """End the text; returns the text that was held back."""
        held, self._held = self._held, ""
        return held


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """The tags around a model's reasoning."""

    start: str = "<think>"
    end: str = "</think>"


def reasoning_tags(options: PredictionConfig) -> ReasoningTags | None:
    """The tags to parse reasoning with; None to leave it in the text."""
    match options.reasoning_parsing:
        case {"enabled": True, "startString": str(start), "endString": str(end)} if start and end:
            return ReasoningTags(start, end)
    return None


class ReasoningParser:
    """Separates the reasoning between two tags from the answer; each tag is a fragment of its own.

    Source: lmstudio-js 6ec11db, LLM.respond.heavy.test.ts.snap: a tag may be part of a token.
    """

    def __init__(self, tags: ReasoningTags | None) -> None:
        self._search = _Search(tags.start) if tags else None
        self._next = _Search(tags.end) if tags else None
        self._held = ""
        self._is_reasoning = False

    def feed(self, piece: str) -> Iterator[tuple[str, str]]:
        """Add a piece; yields (text, reasoning type) pairs."""
        if self._search is None or self._next is None:
            if piece:
                yield piece, "none"
            return
        text, at, start = self._held + piece, len(self._held), 0
        while (end := self._search.feed(text, at)) is not None:
            tag = self._search.target
            if start < end - len(tag):
                yield text[start : end - len(tag)], self._kind
            yield tag, "reasoningEndTag" if self._is_reasoning else "reasoningStartTag"
            self._is_reasoning = not self._is_reasoning
            self._search, self._next = self._next, self._search
            at = start = end
        held = len(text) - self._search.matched
        self._held = text[held:]
        if start < held:
            yield text[start:held], self._kind

    def flush(self) -> Iterator[tuple[str, str]]:
        """End the text; yields what was held back."""
        if self._held:
            yield self._held, self._kind
        self._held = ""

    @property
    def _kind(self) -> str:
        return "reasoning" if self._is_reasoning else "none"


class TextProcessor:
    """Turns the text of tokens into fragments.

    Args:
        stop_strings: the strings that end the text.
        tags: the tags around reasoning; None does not parse reasoning.

    Attributes:
        tokens: tokens with their probabilities, which the next fragment gets.
    """

    def __init__(self, stop_strings: Sequence[str], tags: ReasoningTags | None) -> None:
        self.tokens: list[PredictedToken] = []
        self._stop_matcher = StopStringMatcher(stop_strings)
        self._reasoning_parser = ReasoningParser(tags)
        self._uncounted = 0
        longest = max(map(len, stop_strings), default=0)
        # The last pieces, those that a stop string may be in: the length of each, and its tokens.
        self._last: deque[tuple[int, int]] | None = deque(maxlen=longest + 1) if longest else None

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found, if any."""
        return self._stop_matcher.found

    @property
    def stopped_tokens(self) -> int:
        """The number of tokens that consist of the stop string, or of what follows it, only."""
        left, count = self._stop_matcher.dropped, 0
        for length, tokens in reversed(self._last or ()):
            left -= length
            if left < 0:
                break
            count += tokens
        return count

    def feed(self, text: str, tokens: int = 1) -> Iterator[Fragment]:
        """Add the text of a token, or of several; not to be called after a stop string is found."""
        self._uncounted += tokens
        if self._last is not None:
            self._last.append((len(text), tokens))
        yield from self._fragments(self._reasoning_parser.feed(self._stop_matcher.feed(text)))

    def flush(self) -> Iterator[Fragment]:
        """End the text; yields what was held back."""
        yield from self._fragments(self._reasoning_parser.feed(self._stop_matcher.flush()))
        yield from self._fragments(self._reasoning_parser.flush())

    def _fragments(self, pieces: Iterable[tuple[str, str]]) -> Iterator[Fragment]:
        """Count each token in the first fragment that has text of it."""
        for text, kind in pieces:
            yield Fragment(text, self._uncounted, reasoning_type=kind, tokens=tuple(self.tokens))
            self._uncounted = 0
            self.tokens.clear()
