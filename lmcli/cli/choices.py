"""The words that some options take."""

from enum import StrEnum


class InputForm(StrEnum):
    """How stdin is read."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class OutputForm(StrEnum):
    """How stdout is written."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"
    HISTORY = "history"


class RawOutputForm(StrEnum):
    """How stdout is written where there is no conversation."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"


class Grouping(StrEnum):
    """What recorded results are summed up by."""

    MODEL = "model"
    DAY = "day"
    FILE = "file"
    STOP_REASON = "stop_reason"


class ReportForm(StrEnum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"


class ColorWhen(StrEnum):
    """When stderr carries colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"
