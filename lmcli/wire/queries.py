"""Calls as values: what is asked, and how the answer is read; a client, synchronous or not, only sends and waits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from lmcli.chat import FilePart, Message
from lmcli.errors import RemoteProtocolError, quoted
from lmcli.record import distinct
from lmcli.values import JsonObject, ModelInfo, ModelInstance
from lmcli.wire import objects
from lmcli.wire.config import read_stack
from lmcli.wire.envelopes import ABSENT
from lmcli.wire.histories import file_part, write_history
from lmcli.wire.prediction_config import OPTIONS
from lmcli.wire.requests import specifier

Answer = TypeVar("Answer")


@distinct
class Query(NamedTuple, Generic[Answer]):
    """One call: an endpoint, its parameter, and what reads the result; that raises RemoteProtocolError."""

    endpoint: str
    parameter: Any
    read: Callable[[Any], Answer]


def list_loaded() -> Query[list[ModelInstance]]:
    """The loaded models of a namespace."""
    return _listing("listLoaded", lambda entry: objects.read(ModelInstance, entry))


def list_downloaded() -> Query[list[ModelInfo]]:
    """The downloaded models, embedding models too (`type`); asked of `system`."""
    return _listing("listDownloadedModels", lambda entry: objects.read(ModelInfo, entry))


def with_source(query: Query[list[Answer]]) -> Query[list[tuple[Answer, JsonObject]]]:
    """The same list, each entry with the object that it was read from."""
    return Query(query.endpoint, query.parameter, lambda result: list(zip(query.read(result), result, strict=True)))


def unload(identifier: str, device: str | None = None) -> Query[None]:
    """Drop a loaded model from memory, on any device of LM Link or on one; ModelNotFound where there is none."""
    named = {} if device is None else {"deviceIdentifier": device}
    return Query("unloadModel", {"identifier": identifier, **named}, lambda _: None)


def upload(data: bytes, name: str) -> Query[FilePart]:
    """Upload a file; asked of `files`. The server keeps it until the client disconnects."""
    parameter = {"name": name, "contentBase64": data}
    return Query("uploadFileBase64", parameter, lambda result: file_part(result, name))


def model_info(identifier: str) -> Query[ModelInstance]:
    """The server's description of a loaded model; ModelNotFound where it is no longer loaded."""
    parameter = {"specifier": specifier(identifier), "throwIfNotFound": True}
    return Query("getModelInfo", parameter, lambda result: objects.read(ModelInstance, result))


def tokenize(identifier: str, text: str) -> Query[list[int]]:
    """The numbers of the tokens of a text."""
    return _of_model("tokenize", identifier, {"inputString": text}, "tokens", _token_numbers)


def count_tokens(identifier: str, text: str) -> Query[int]:
    """How many tokens a text has."""
    return _of_model("countTokens", identifier, {"inputString": text}, "tokenCount", _count)


def apply_prompt_template(
    identifier: str, messages: Sequence[Message], opts: Mapping[str, Any] | None = None
) -> Query[str]:
    """The text that a model would be given for a conversation."""
    parameter = {
        "history": write_history(messages),
        "predictionConfigStack": {"layers": []},
        "opts": dict(opts or {}),
    }
    return _of_model("applyPromptTemplate", identifier, parameter, "formatted", _formatted)


def tool_definitions(prediction: JsonObject) -> list[JsonObject]:
    """The tools that a prediction offers to the model, whose creation parameter this is."""
    setting = read_stack(prediction["predictionConfigStack"]).get(OPTIONS["raw_tools"].key)
    return setting.get("tools", []) if isinstance(setting, dict) else []


def prompt_of(identifier: str, prediction: JsonObject) -> Query[str]:
    """The text that a model would be given for a prediction, whose creation parameter this is."""
    tools = tool_definitions(prediction)
    parameter = {key: prediction[key] for key in ("history", "predictionConfigStack")}
    parameter["opts"] = {"toolDefinitions": tools} if tools else {}
    return _of_model("applyPromptTemplate", identifier, parameter, "formatted", _formatted)


def _of_model(
    endpoint: str, identifier: str, parameter: JsonObject, key: str, read: Callable[[Any], Answer]
) -> Query[Answer]:
    """Ask about a loaded model; the answer is an object, and what is wanted is under one key of it."""

    def read_key(result: Any) -> Answer:
        if not isinstance(result, dict) or key not in result:
            raise RemoteProtocolError(f"the server answered {endpoint} without {key}")
        return read(result[key])

    return Query(endpoint, {"specifier": specifier(identifier), **parameter}, read_key)


def _listing(endpoint: str, read: Callable[[Any], Answer]) -> Query[list[Answer]]:
    def read_all(result: Any) -> list[Answer]:
        if not isinstance(result, list):
            raise RemoteProtocolError(f"the server answered {endpoint} with {quoted(result, limit=40)}")
        return [read(entry) for entry in result]

    return Query(endpoint, ABSENT, read_all)


def _formatted(text: Any) -> str:
    if not isinstance(text, str):
        raise RemoteProtocolError(f"the server answered applyPromptTemplate with {quoted(text, limit=40)}")
    return text


def _token_numbers(numbers: Any) -> list[int]:
    if not isinstance(numbers, list) or any(type(number) is not int for number in numbers):
        raise RemoteProtocolError(f"the server answered tokenize with {quoted(numbers, limit=40)}")
    return numbers


def _count(number: Any) -> int:
    if type(number) is not int:
        raise RemoteProtocolError(f"the server answered countTokens with {quoted(number, limit=40)}")
    return number
