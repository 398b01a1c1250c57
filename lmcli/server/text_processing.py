"""Generated text → fragments: stop strings end the text, and reasoning is separated from the answer.

Pure. However the text is split, the joined fragments are the text up to the stop string.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lmcli.values import Fragment
from lmcli.wire.prediction_config import PredictionConfig


def _overlap(text: str, target: str) -> int:
    """The length of the longest end of the text that is a proper beginning of the target."""
    for size in range(min(len(text), len(target) - 1), 0, -1):
        if text.endswith(target[:size]):
            return size
    return 0


class StopStringMatcher:
    """Finds stop strings in a text that arrives in pieces, also across the pieces."""

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._stop_strings = [stop for stop in stop_strings if stop]
        self._held = ""
        self.found: str | None = None

    def feed(self, piece: str) -> str:
        """Add a piece; returns the text that cannot be part of a stop string."""
        if not self._stop_strings:
            return piece
        text = self._held + piece
        hits = [(at, stop) for stop in self._stop_strings if (at := text.find(stop)) >= 0]
        if hits:
            at, self.found = min(hits, key=lambda hit: hit[0])
            self._held = ""
            return text[:at]
        held = max(_overlap(text, stop) for stop in self._stop_strings)
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
        self._tags = tags
        self._held = ""
        self._is_reasoning = False

    def feed(self, piece: str) -> Iterator[tuple[str, str]]:
        """Add a piece; yields (text, reasoning type) pairs."""
        if self._tags is None:
            if piece:
                yield piece, "none"
            return
        text = self._held + piece
        while True:
            tag = self._tags.end if self._is_reasoning else self._tags.start
            before, found, after = text.partition(tag)
            if not found:
                break
            if before:
                yield before, self._kind
            yield tag, "reasoningEndTag" if self._is_reasoning else "reasoningStartTag"
            self._is_reasoning = not self._is_reasoning
            text = after
        held = _overlap(text, tag)
        self._held = text[len(text) - held :]
        if held < len(text):
            yield text[: len(text) - held], self._kind

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
    """

    def __init__(self, stop_strings: Sequence[str], tags: ReasoningTags | None) -> None:
        self._stop_matcher = StopStringMatcher(stop_strings)
        self._reasoning_parser = ReasoningParser(tags)
        self._uncounted = 0

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found, if any."""
        return self._stop_matcher.found

    def feed(self, text: str) -> Iterator[Fragment]:
        """Add the text of one token; not to be called after a stop string is found."""
        self._uncounted += 1
        yield from self._fragments(self._reasoning_parser.feed(self._stop_matcher.feed(text)))

    def flush(self) -> Iterator[Fragment]:
        """End the text; yields what was held back."""
        yield from self._fragments(self._reasoning_parser.feed(self._stop_matcher.flush()))
        yield from self._fragments(self._reasoning_parser.flush())

    def _fragments(self, pieces: Iterable[tuple[str, str]]) -> Iterator[Fragment]:
        """Count each token in the first fragment that has text of it."""
        for text, kind in pieces:
            yield Fragment(text, self._uncounted, reasoning_type=kind)
            self._uncounted = 0
