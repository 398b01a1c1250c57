"""The values of options with a fixed set of values."""

from enum import StrEnum


class InputForm(StrEnum):
    """The format of stdin."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class Each(StrEnum):
    """What separates the prompts of a batch."""

    LINE = "line"
    NUL = "nul"
    JSONL = "jsonl"


class OutputForm(StrEnum):
    """The format of stdout."""

    TEXT = "text"
    CODE = "code"
    JSON = "json"
    JSONL = "jsonl"
    HISTORY = "history"


class RawOutputForm(StrEnum):
    """The format of stdout for a command without a conversation."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"


class Grouping(StrEnum):
    """What recorded results are grouped by."""

    MODEL = "model"
    DAY = "day"
    FILE = "file"
    STOP_REASON = "stop_reason"


class ReportForm(StrEnum):
    """The format of a report."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"


class ColorWhen(StrEnum):
    """When to use colour on stderr."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"
