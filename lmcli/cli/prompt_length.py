"""How many tokens a request has, by the template and the tokenizer of the server; and whether the model can read them.

A prompt with fewer bytes than the context has tokens fits, so that only a longer one is counted before it is sent.
"""

from itertools import chain
from typing import Final

from lmcli.client.session import Session
from lmcli.errors import ContextFull, LmError, ModelUnloaded, PredictionFailed, RemoteProtocolError, Unavailable
from lmcli.values import JsonObject, ModelInstance
from lmcli.wire import queries
from lmcli.wire.requests import ChannelRequest

_CANNOT_COUNT: Final = (PredictionFailed, RemoteProtocolError)
_HAS_NO_MODEL: Final = (Unavailable, ModelUnloaded)


class PromptLengthCheck:
    """Refuses requests that are too long, as far as the server counts; what it does not count is not refused."""

    def __init__(self) -> None:
        self._is_supported = True
        self._tools: tuple[JsonObject, int] = {}, 0

    def check(self, session: Session, request: ChannelRequest, model: ModelInstance) -> None:
        """Check one request.

        Raises:
            ContextFull: its prompt has more tokens than the context of the model.
            ConnectionLost, TimedOut: no answer came.
        """
        if not self._is_supported:
            return
        if _bytes_count(request.parameter) + self._size_of_tools(request.parameter) < model.context_length:
            return
        try:
            count = count_tokens(session, request, model)
        except _HAS_NO_MODEL:
            return  # as the prediction will say
        except _CANNOT_COUNT:
            self._is_supported = False
            return
        if count > model.context_length:
            raise _too_long(count, model)

    def _size_of_tools(self, parameter: JsonObject) -> int:
        """The bytes of the tools that a request offers; many requests share them."""
        stack = parameter["predictionConfigStack"]
        if stack is not self._tools[0]:
            self._tools = stack, _size(queries.tool_definitions(parameter))
        return self._tools[1]


def count_tokens(session: Session, request: ChannelRequest, model: ModelInstance) -> int:
    """Count the tokens of a prompt; files are left out.

    Raises:
        LmError: the server does not count them.
    """
    prompt = request.parameter.get("rawPrompt")
    if prompt is None:
        prompt = session.ask(queries.prompt_of(model.identifier, _without_files(request.parameter)))
    return session.ask(queries.count_tokens(model.identifier, prompt))


def files_count(request: ChannelRequest) -> int:
    """How many files the messages of a request have."""
    history = request.parameter.get("history", {"messages": []})
    return sum(part["type"] == "file" for message in history["messages"] for part in message["content"])


def _without_files(parameter: JsonObject) -> JsonObject:
    messages = [
        {**message, "content": [part for part in message["content"] if part["type"] != "file"]}
        for message in parameter["history"]["messages"]
    ]
    return {**parameter, "history": {"messages": messages}}


def _bytes_count(parameter: JsonObject) -> int:
    """The bytes of the texts of a request."""
    if "rawPrompt" in parameter:
        return _size(parameter["rawPrompt"])
    parts = chain.from_iterable(message["content"] for message in parameter["history"]["messages"])
    return sum(_size(part["text"] if part["type"] == "text" else part) for part in parts)


def _size(value: object) -> int:
    """The bytes of a text, or of all texts in a JSON value."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 0


def _too_long(count: int, model: ModelInstance) -> LmError:
    """The error, with a hint that names a context in which there is room for an answer, if the model can have it."""
    limit = model.max_context_length
    enough = min(1 << (count + count // 2).bit_length(), limit)
    larger = (
        f"lm models unload {model.identifier}, then -m {model.model_key} --context-length {enough} gives it more"
        if count < limit
        else f"the context of {model.model_key} can have {limit} tokens at most"
    )
    return ContextFull(
        f"the prompt has {count} tokens, and the context of {model.identifier} only {model.context_length}",
        larger,
        "--overflow middle or --overflow rolling leaves out a part of it",
    )
