"""The environment variables that `lm` reads: the one table, for help, man pages and README."""

from typing import Final, NamedTuple


class Variable(NamedTuple):
    """One variable.

    Attributes:
        name: its name.
        meaning: what it does, with no capital letter and no period.
        option: the option that it belongs to; a command has the variable if it has the option.
        is_value: whether it stands in for the option, so that the option's help names it.
    """

    name: str
    meaning: str
    option: str
    is_value: bool = False


VARIABLES: Final = (
    Variable("LM_MODEL", "key of the model to use", "--model", is_value=True),
    Variable("LM_HOST", "address of the server", "-H", is_value=True),
    Variable("LM_API_TOKEN", "API token", "--token-file", is_value=True),
    Variable("LMSTUDIO_API_TOKEN", "API token, if LM_API_TOKEN is not set", "--token-file", is_value=True),
    Variable("SSL_CERT_FILE", "certificate authorities to trust, for https and wss", "-H"),
    Variable("LM_TIMEOUT", "longest silence of the server, in seconds", "--timeout", is_value=True),
    Variable("NO_COLOR", "no colour on stderr, if it is not empty", "--color"),
    Variable("FORCE_COLOR", "colour even in a pipe; not if empty, 0, no or false", "--color"),
    Variable("TERM", "dumb: no colour or block characters, progress as lines", "--color"),
    Variable("LC_ALL", "locale; if not UTF-8, no block characters", "--by"),
    Variable("LC_CTYPE", "the same, if LC_ALL is not set", "--by"),
    Variable("LANG", "the same, if neither of them is set", "--by"),
    Variable("VISUAL", "editor for /edit in a dialogue", "--history"),
    Variable("EDITOR", "the same, if VISUAL is not set; else vi", "--history"),
    Variable("HOME", "where LM Studio's settings are", "-H"),
    Variable("XDG_CACHE_HOME", "folder of lm/models, the completed keys; else ~/.cache", "-H"),
)
