"""What happens to a model's text before it leaves: stop strings end it, reasoning is told from the answer.

Pure: text in, fragments out. Whatever the cuts in the text, the fragments joined are the text up to the stop string.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lmcli.values import Fragment
from lmcli.wire.prediction_config import PredictionConfig


def unfinished(text: str, wanted: Iterable[str]) -> int:
    """How many characters at the end of the text may be the beginning of one of the wanted texts."""
    return max((_overlap(text, target) for target in wanted), default=0)


def _overlap(text: str, target: str) -> int:
    for size in range(min(len(text), len(target) - 1), 0, -1):
        if text.endswith(target[:size]):
            return size
    return 0


class StopSearch:
    """Looks for stop strings in a text that comes in pieces, also across and inside of the pieces."""

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._wanted = [stop for stop in stop_strings if stop]
        self._held = ""
        self.found: str | None = None

    def feed(self, piece: str) -> str:
        """Take a piece; give what is surely before any stop string."""
        if not self._wanted:
            return piece
        text = self._held + piece
        hits = [(at, stop) for stop in self._wanted if (at := text.find(stop)) >= 0]
        if hits:
            at, self.found = min(hits, key=lambda hit: hit[0])
            self._held = ""
            return text[:at]
        held = unfinished(text, self._wanted)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """Give what was held back: no more is coming."""
        held, self._held = self._held, ""
        return held


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """What a model writes around its reasoning."""

    start: str = "<think>"
    end: str = "</think>"


def reasoning_tags(options: PredictionConfig) -> ReasoningTags | None:
    """The tags that the client wants reasoning to be told by; None where it is not to be told."""
    match options.reasoning_parsing:
        case {"enabled": True, "startString": str(start), "endString": str(end)} if start and end:
            return ReasoningTags(start, end)
    return None


class ReasoningSplit:
    """Tells the reasoning between two tags from the answer; each tag is a fragment of its own.

    Source: lmstudio-js 6ec11db, LLM.respond.heavy.test.ts.snap: a tag is cut out of the middle of a token.
    """

    def __init__(self, tags: ReasoningTags | None) -> None:
        self._tags = tags
        self._held = ""
        self._inside = False

    def feed(self, piece: str) -> Iterator[tuple[str, str]]:
        """Take a piece; give (text, reasoning type) pairs."""
        if self._tags is None:
            if piece:
                yield piece, "none"
            return
        text = self._held + piece
        while True:
            tag = self._tags.end if self._inside else self._tags.start
            before, found, after = text.partition(tag)
            if not found:
                break
            if before:
                yield before, self._kind
            yield tag, "reasoningEndTag" if self._inside else "reasoningStartTag"
            self._inside = not self._inside
            text = after
        held = _overlap(text, tag)
        self._held = text[len(text) - held :]
        if held < len(text):
            yield text[: len(text) - held], self._kind

    def flush(self) -> Iterator[tuple[str, str]]:
        """Give what was held back: no more is coming."""
        if self._held:
            yield self._held, self._kind
        self._held = ""

    @property
    def _kind(self) -> str:
        return "reasoning" if self._inside else "none"


class Outlet:
    """The way of a model's tokens to fragments, through both of the above.

    Args:
        stop_strings: what ends the text.
        tags: what encloses reasoning; None leaves the text as it is.
    """

    def __init__(self, stop_strings: Sequence[str], tags: ReasoningTags | None) -> None:
        self._stops = StopSearch(stop_strings)
        self._split = ReasoningSplit(tags)
        self._owed = 0

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found, if one was."""
        return self._stops.found

    def feed(self, text: str) -> Iterator[Fragment]:
        """Take the text of one token; once a stop string is found, nothing more may follow."""
        self._owed += 1
        yield from self._fragments(self._split.feed(self._stops.feed(text)))

    def flush(self) -> Iterator[Fragment]:
        """Give what was held back: no more is coming."""
        yield from self._fragments(self._split.feed(self._stops.flush()))
        yield from self._fragments(self._split.flush())

    def _fragments(self, pieces: Iterable[tuple[str, str]]) -> Iterator[Fragment]:
        """Of several fragments cut from one token, the first counts for all."""
        for text, kind in pieces:
            yield Fragment(text, self._owed, reasoning_type=kind)
            self._owed = 0
