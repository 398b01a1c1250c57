"""How many tokens a request has, by the template and the tokenizer of the server; and whether the model can read them.

A prompt with fewer bytes than the context has tokens fits, so that only a longer one is counted before it is sent.
"""

from typing import Final

from lmcli.client.session import Session
from lmcli.errors import ContextFull, LmError, ModelUnloaded, PredictionFailed, RemoteProtocolError, Unavailable
from lmcli.values import JsonObject, ModelInstance
from lmcli.wire import queries
from lmcli.wire.requests import ChannelRequest

_NOT_TEXT: Final = ("role", "type")
_CANNOT_COUNT: Final = (PredictionFailed, RemoteProtocolError)
_HAS_NO_MODEL: Final = (Unavailable, ModelUnloaded)


class PromptLengthCheck:
    """Refuses requests that are too long, as far as the server counts; what it does not count is not refused."""

    def __init__(self) -> None:
        self._is_supported = True

    def check(self, session: Session, request: ChannelRequest, model: ModelInstance) -> None:
        """Check one request.

        Raises:
            ContextFull: its prompt has more tokens than the context of the model.
            ConnectionLost, TimedOut: no answer came.
        """
        if not self._is_supported or _bytes_count(request.parameter) < model.context_length:
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
    """The bytes of the texts of a request, and of the tools that it offers."""
    tools = queries.tool_definitions(parameter)
    return _size(tools) + sum(_size(parameter[key]) for key in ("rawPrompt", "history") if key in parameter)


def _size(value: object) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
    if isinstance(value, dict):
        return sum(_size(item) for key, item in value.items() if key not in _NOT_TEXT)
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
