"""Everything that can go wrong, each with its exit status.

LmError
├── UsageError             2   an option or an argument is not valid
├── PredictionFailed       1   the server reported a failure
│   └── RequestRejected    1   the server did not accept the request's form
├── Incomplete             3   an answer began and did not end
│   ├── ContextFull        3
│   ├── ModelUnloaded      3
│   ├── ConnectionLost     3
│   └── RemoteProtocolError 3  what the server sent makes no sense
├── Unusable               4   an answer came and is of no use
├── BadInput              65   the data cannot be read
├── NoInput               66   nothing came in, or a file is not there
├── Unavailable           69
│   ├── CannotConnect     69   no server, or something else at its address
│   ├── ModelNotFound     69
│   │   └── NoModelLoaded 69
│   ├── PresetNotFound    69
│   └── LoadFailed        69
├── OutputFailed          74   an answer could not be written
├── TimedOut              75   the server was silent for too long
├── InUse                 75   another process has locked a file
├── NotAllowed            77   the API token is missing or refused
│   └── TokenExposed      77   it would be sent unencrypted
└── BadSetting            78   the environment or a token file holds a bad value
"""

from enum import IntEnum
from typing import ClassVar, Final


class ExitCode(IntEnum):
    """The exit statuses of `lm`; the numbers from 64 on are those of BSD's sysexits.h."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3
    UNUSABLE = 4
    BAD_INPUT = 65
    NO_INPUT = 66
    UNAVAILABLE = 69
    BUG = 70
    OUTPUT_FAILED = 74
    TRY_AGAIN = 75
    NOT_ALLOWED = 77
    BAD_SETTING = 78


EXIT_MEANINGS: Final[dict[int, str]] = {
    ExitCode.OK: "complete answer; a limit asked for (-l, --stop) counts as complete",
    ExitCode.FAILED: "the server reported that the prediction failed",
    ExitCode.USAGE: "usage error",
    ExitCode.INCOMPLETE: "incomplete: context full, model unloaded, connection lost in the middle",
    ExitCode.UNUSABLE: "unusable: empty, no code for -o code, or not what --schema asks for",
    ExitCode.BAD_INPUT: "the input cannot be read",
    ExitCode.NO_INPUT: "no input, or a file that is not there",
    ExitCode.UNAVAILABLE: "server unreachable, model not found, load failed",
    ExitCode.BUG: "a bug in lm",
    ExitCode.OUTPUT_FAILED: "the answer, or a record of it, could not be written",
    ExitCode.TRY_AGAIN: "try again: --timeout expired, --results FILE in use, or out of memory",
    ExitCode.NOT_ALLOWED: "API token missing, refused, or not to be sent unencrypted",
    ExitCode.BAD_SETTING: "bad value in the environment or in a token file",
    129: "died of SIGHUP",
    130: "died of SIGINT (Ctrl-C)",
    141: "died of SIGPIPE: the reader of stdout has left",
    143: "died of SIGTERM",
}
"""What each status means: for help, man pages and README."""


class LmError(Exception):
    """A failure in one line: lower case, no period, offending values quoted.

    Args:
        message: what happened.
        hints: what to type or do about it, one line each.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, message: str, *hints: str) -> None:
        super().__init__(message)
        self.message = message
        self.hints = hints


class UsageError(LmError):
    """An option or an argument is not valid."""

    exit_code = ExitCode.USAGE


class PredictionFailed(LmError):
    """The server reported that the prediction failed."""

    exit_code = ExitCode.FAILED


class RequestRejected(PredictionFailed):
    """The server did not accept the form of the request and will not answer it."""


class Incomplete(LmError):
    """An answer began and did not end."""

    exit_code = ExitCode.INCOMPLETE


class ContextFull(Incomplete):
    """The model's context is full."""


class ModelUnloaded(Incomplete):
    """The model was unloaded while it was needed."""


class ConnectionLost(Incomplete):
    """The connection ended in the middle of a channel or a call."""


class RemoteProtocolError(Incomplete):
    """The server sent something that its protocol does not allow."""


class Unusable(LmError):
    """A complete answer of no use: empty, or not of the form that was asked for."""

    exit_code = ExitCode.UNUSABLE


class BadInput(LmError):
    """Input data that cannot be read."""

    exit_code = ExitCode.BAD_INPUT


class NoInput(LmError):
    """Nothing came in, or a file is not there."""

    exit_code = ExitCode.NO_INPUT


class Unavailable(LmError):
    """The server or the model cannot be had."""

    exit_code = ExitCode.UNAVAILABLE


class CannotConnect(Unavailable):
    """No server answers, or what answers is not LM Studio."""


class ModelNotFound(Unavailable):
    """No model of that name."""


class NoModelLoaded(ModelNotFound):
    """No model is loaded, and none was named."""


class PresetNotFound(Unavailable):
    """No preset of that name."""


class LoadFailed(Unavailable):
    """The model is there and could not be loaded."""


class OutputFailed(LmError):
    """An answer or a record could not be written."""

    exit_code = ExitCode.OUTPUT_FAILED


class TimedOut(LmError):
    """The server was silent for longer than allowed; trying again makes sense."""

    exit_code = ExitCode.TRY_AGAIN


class InUse(LmError):
    """Another process has locked a file; trying again makes sense."""

    exit_code = ExitCode.TRY_AGAIN


class NotAllowed(LmError):
    """The server wants an API token, or refused the one it got."""

    exit_code = ExitCode.NOT_ALLOWED


class TokenExposed(NotAllowed):
    """The API token would be sent unencrypted over a network, so it was not sent."""


class BadSetting(LmError):
    """The environment or a token file holds a bad value."""

    exit_code = ExitCode.BAD_SETTING


def quoted(value: object, *, limit: int = 200) -> str:
    """Show a value in a message: quoted, control characters escaped, cut after `limit` characters."""
    try:
        text = str(value)
    except RecursionError:  # JSON may be nested deeper than Python shows it
        text = "…"
    return "'" + escaped(shortened(text, limit)) + "'"


def shortened(text: str, limit: int = 200) -> str:
    """A text for a message, cut after `limit` characters."""
    return text if len(text) <= limit else text[:limit] + "…"


def reason(error: OSError) -> str:
    """Why the system refused something, in the middle of a sentence."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


KEPT_IN_TEXT: Final = "\n\t\u2028\u2029\u202a\u202b\u202c\u2066\u2067\u2068\u2069"
"""What a whole text, such as an answer, keeps on a terminal: its lines, and what right-to-left writing needs."""


def escaped(text: str, *, keep: str = "") -> str:
    r"""Show what drives or deceives a terminal as escapes, all but the characters in `keep`.

    A model or a file must not be able to drive the terminal that its text is shown on, nor have it show another text.
    """
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if _is_escaped(char) and char not in keep else char for char in text
    )


def _is_escaped(char: str) -> bool:
    """Whether a character is a control (C0, DEL, C1), a separator of lines, a bidirectional format or a surrogate.

    The overrides among the formats (U+202D, U+202E) reverse even Latin letters, and no ordinary text needs them.
    Embeddings and isolates belong to right-to-left text, but in a message what follows them would be moved, too.
    Source: Unicode Standard Annex 9, 2.1 to 2.5.
    """
    return (
        char < " "
        or "\x7f" <= char <= "\x9f"
        or "\u2028" <= char <= "\u202e"
        or "\u2066" <= char <= "\u2069"
        or "\ud800" <= char <= "\udfff"
    )
