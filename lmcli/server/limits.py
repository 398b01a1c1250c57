"""What a client may send at most, so that no request delays the others by more than a tenth of a second.

A request that exceeds a limit is answered with an error; a text that is too large or too complex to be read ends the
connection. The limits are far above what models can use.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from lmcli.server.request_errors import RequestFailed
from lmcli.wire.config import PROMPT_TEMPLATE_KEY
from lmcli.wire.prediction_config import PREDICTION_PREFIX

# The head of an HTTP request, and that of a WebSocket handshake as websockets limits it.
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEADER_LINE_BYTES: Final = 8 * 1024 - len(b"\r\n")
MAX_HEADERS: Final = 100
# One text on the socket, after the authentication. An uploaded file is a third larger there.
MAX_TEXT_BYTES: Final = 32 * 1024 * 1024
# The opening brackets and the commas in a text: about the number of its JSON objects and arrays, and of all its values.
# They are counted without reading the text, so those within strings count, too.
MAX_OBJECTS: Final = 200_000
MAX_VALUES: Final = 1_000_000
# As deep as orjson writes it, so that any value can be sent back.
MAX_NESTING: Final = 254
# Requests that are not answered yet, for each connection: their number, and their size together.
MAX_CALLS: Final = 1024
MAX_CHANNELS: Final = 1024
MAX_OPEN_BYTES: Final = 256 * 1024 * 1024
MAX_MESSAGES: Final = 10_000
MAX_PARTS: Final = 20_000
MAX_CONFIG_BYTES: Final = 1024 * 1024
MAX_STOP_STRINGS: Final = 100
MAX_STOP_STRING_CHARACTERS: Final = 1000
MAX_NAME_CHARACTERS: Final = 1000
# Uploaded files, for each client.
MAX_FILES: Final = 1000
MAX_UPLOADED_BYTES: Final = 512 * 1024 * 1024
MAX_INSTANCES: Final = 100

_STOP_STRING_KEYS: Final = tuple(PREDICTION_PREFIX + name for name in ("stopStrings", "toolCallStopStrings"))
_TAGS_KEY: Final = PREDICTION_PREFIX + "reasoning.parsing"


def history_excess(history: Any) -> str | None:
    """Say that a chat history has too many messages or parts; None if it has not."""
    messages = history.get("messages") if isinstance(history, dict) else None
    if not isinstance(messages, list):
        return None
    if len(messages) > MAX_MESSAGES:
        return f"The chat history has more than {MAX_MESSAGES} messages"
    contents = (message.get("content") for message in messages if isinstance(message, dict))
    if sum(len(content) for content in contents if isinstance(content, list)) > MAX_PARTS:
        return f"The chat history has more than {MAX_PARTS} parts"
    return None


def json_size(value: Any) -> int | None:
    """The size of a value as JSON; None if it is nested too deeply, or orjson cannot write something in it."""
    try:
        return len(orjson.dumps(value))
    except orjson.JSONEncodeError:  # also half a surrogate pair, or an integer of more than 64 bits
        return None


def config_excess(stack: Any) -> str | None:
    """Say that a config stack is too large; None if it is not."""
    size = json_size(stack) or len(repr(stack))
    return f"The config is larger than {MAX_CONFIG_BYTES} bytes" if size > MAX_CONFIG_BYTES else None


def name_excess(name: Any) -> str | None:
    """Say that a name is too long; None if it is not."""
    is_long = isinstance(name, str) and len(name) > MAX_NAME_CHARACTERS
    return f"The name has more than {MAX_NAME_CHARACTERS} characters" if is_long else None


def check_stop_strings(values: Mapping[str, Any]) -> None:
    """Check the strings that a prediction searches in its text: stop strings, and the tags of reasoning.

    Args:
        values: the effective prediction config by wire key.

    Raises:
        RequestFailed: there are too many of them, or one is too long.
    """
    template, tags = values.get(PROMPT_TEMPLATE_KEY), values.get(_TAGS_KEY)
    lists = [*(values.get(key) for key in _STOP_STRING_KEYS), _get(template, "stopStrings")]
    stop_strings = [text for texts in lists if isinstance(texts, list) for text in texts]
    if len(stop_strings) > MAX_STOP_STRINGS:
        raise RequestFailed(f"Invalid prediction config: more than {MAX_STOP_STRINGS} stop strings")
    searched = (*stop_strings, _get(tags, "startString"), _get(tags, "endString"))
    if any(isinstance(text, str) and len(text) > MAX_STOP_STRING_CHARACTERS for text in searched):
        raise RequestFailed(
            f"Invalid prediction config: a stop string of more than {MAX_STOP_STRING_CHARACTERS} characters"
        )


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None
