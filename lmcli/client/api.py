"""The SDK-shaped face of the client: `Client`, its namespaces and model handles.

Names and behaviour follow the synchronous API of the official Python SDK, so that a program for one
runs with the other. Two differences are intended: leaving a stream early cancels the prediction on the server, and an
exception in a callback is not swallowed. A client belongs to one thread.
"""

import atexit
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypedDict, Unpack, overload

from lmcli.chat import Chat, FilePart, Message
from lmcli.client.catalog import list_downloaded, list_loaded, unload
from lmcli.client.connection import Connection
from lmcli.client.discovery import credentials, find_server, find_token
from lmcli.client.images import Uploads, upload
from lmcli.client.local_files import read_bytes
from lmcli.client.session import Session
from lmcli.client.streams import Callbacks, PredictionStream
from lmcli.client.waiting import is_duration
from lmcli.closing import Closing
from lmcli.errors import NoInput, NoModelLoaded, RemoteProtocolError, UsageError, quoted, reason
from lmcli.values import (
    Fragment,
    JsonObject,
    LoadConfig,
    LoadProgress,
    ModelInfo,
    ModelInstance,
    PredictionResult,
)
from lmcli.wire import payloads, requests
from lmcli.wire.config import prediction_config
from lmcli.wire.prediction_config import PredictionConfig

History = Chat | Mapping[str, Any] | Sequence[Any] | str


class HasJsonSchema(Protocol):
    """A class that has a JSON schema, as pydantic models do."""

    @classmethod
    def model_json_schema(cls) -> JsonObject:
        """The schema."""
        ...


class PredictionOptions(TypedDict, total=False):
    """The options of every prediction, all by keyword."""

    config: Mapping[str, Any] | PredictionConfig | None
    response_format: type[HasJsonSchema] | Mapping[str, Any] | None
    preset: str | None
    on_prompt_processing_progress: Callable[[float], object] | None
    on_first_token: Callable[[], object] | None
    on_prediction_fragment: Callable[[Fragment], object] | None
    on_message: Callable[[Message], object] | None


class Client(Closing):
    """A connection to one server; sockets are opened when they are needed and closed together.

    Args:
        host: `host`, `host:port`, `http(s)://…` or `ws(s)://…`; None takes LM_HOST, else discovers the server of this
            machine.
        api_token: the token to authenticate with; None takes that of the environment, an empty one connects as a guest.
        timeout: the longest silence of the server, in seconds, after which a wait for it ends with TimedOut; None
            waits as long as the connection stands.

    Raises:
        BadSetting: the token is malformed. A malformed host, or no server, shows when the first socket is opened.
        UsageError: the timeout is not a number of seconds above 0.
    """

    def __init__(self, host: str | None = None, api_token: str | None = None, *, timeout: float | None = None) -> None:
        if timeout is not None and not is_duration(timeout):
            raise UsageError(f"timeout must be a number of seconds above 0, not {timeout:g}")
        self._host = host
        self._timeout = timeout
        self._credentials = credentials(find_token() if api_token is None else api_token or None)
        self._connection: Connection | None = None
        self.uploads = Uploads(lambda: self.session("files"))
        self.llm = LlmNamespace(self)
        self.system = SystemNamespace(self)
        self.files = FilesNamespace(self)

    def close(self) -> None:
        """Close all sockets; files that were uploaded are forgotten by the server."""
        if self._connection is not None:
            self._connection.close()

    def session(self, namespace: str) -> Session:
        """The socket to a namespace; the server is looked for when the first one is asked for."""
        if self._connection is None:
            self._connection = Connection(find_server(self._host), self._credentials, timeout=self._timeout)
        return self._connection.session(namespace)


class LlmNamespace:
    """The language models of a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def model(
        self,
        key: str | None = None,
        *,
        ttl: float | None = None,
        config: LoadConfig | None = None,
        on_load_progress: Callable[[float], object] | None = None,
    ) -> "LLM":
        """A handle on a model, loaded first if it has to be.

        Args:
            key: a model key or the identifier of a loaded model; None takes the model that is loaded.
            ttl: seconds without use after which a model that is loaded now may be unloaded again.
            config: how to load it, if it is loaded now.
            on_load_progress: called with 0.0 … 1.0 while it loads, rising strictly; never if it is loaded already.

        Raises:
            ModelNotFound: there is no such model, or none is loaded.
            LoadFailed: it could not be loaded.
        """
        if key is None:
            return LLM(self._client, self._loaded().identifier)
        session = self._client.session("llm")
        loading = session.load(requests.get_or_load(key, config or LoadConfig(), ttl=ttl))
        report = on_load_progress or (lambda _: None)
        reported = -1.0
        for burst in session.bursts(loading):
            for value in burst:
                if isinstance(value, LoadProgress) and value.progress > reported:
                    reported = value.progress
                    report(reported)
        if 0 <= reported < 1:
            report(1.0)
        return LLM(self._client, loading.loaded().identifier)

    def list_loaded(self) -> "list[LLM]":
        """Handles on the loaded models."""
        return [LLM(self._client, instance.identifier) for instance in list_loaded(self._client.session("llm"))]

    def unload(self, identifier: str) -> None:
        """Drop a loaded model from memory.

        Raises:
            ModelNotFound: no loaded model has this identifier.
        """
        unload(self._client.session("llm"), identifier)

    def _loaded(self) -> ModelInstance:
        instances = list_loaded(self._client.session("llm"))
        if not instances:
            raise NoModelLoaded("no model is loaded", "give the key of the model that is to be loaded")
        return instances[0]


class SystemNamespace:
    """What is on the server's machine."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list_downloaded_models(self) -> list[ModelInfo]:
        """All models that could be loaded, embedding models too (`type`)."""
        return list_downloaded(self._client.session("system"))


class FilesNamespace:
    """Files for messages; the server keeps them until the client closes."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def prepare_image(self, src: str | Path | bytes | BinaryIO, name: str | None = None) -> FilePart:
        """Upload an image (JPEG, PNG, WebP) for `Chat.add_user_message(…, images=[…])`.

        Args:
            src: a path, the bytes themselves, or an open binary file.
            name: what to call it; the file's own name, else a random one.

        Raises:
            NoInput: the file cannot be read.
        """
        data, known_name = _contents(src)
        return upload(self._client.session("files"), data, name or known_name)


class LLM:
    """A handle on a loaded model; it follows whatever is loaded under its identifier."""

    def __init__(self, client: Client, identifier: str) -> None:
        self.identifier = identifier
        self._client = client

    def __repr__(self) -> str:
        return f"LLM({self.identifier!r})"

    def respond(self, history: History, **options: Unpack[PredictionOptions]) -> PredictionResult:
        """The assistant's next turn, whole.

        Args:
            history: a text, a `Chat`, or what `Chat.from_history` reads.
            **options: see `PredictionOptions`.

        Raises:
            LmError: the prediction failed.
        """
        return self.respond_stream(history, **options).wait_for_result()

    def respond_stream(self, history: History, **options: Unpack[PredictionOptions]) -> PredictionStream:
        """The assistant's next turn, fragment by fragment."""
        config = _config(options)
        messages = self._client.uploads.resolve(Chat.from_history(history).messages)
        request = requests.respond(self.identifier, messages, config, options.get("preset"))
        return self._stream(config, options, request)

    def complete(self, prompt: str, **options: Unpack[PredictionOptions]) -> PredictionResult:
        """The raw continuation of a text, whole."""
        return self.complete_stream(prompt, **options).wait_for_result()

    def complete_stream(self, prompt: str, **options: Unpack[PredictionOptions]) -> PredictionStream:
        """The raw continuation of a text, fragment by fragment."""
        config = _config(options)
        asked = (self.identifier, prompt, config, options.get("preset"))
        return self._stream(config, options, requests.complete(*asked), requests.complete_by_predict(*asked))

    @overload
    def tokenize(  # type: ignore[overload-overlap]  # a str is a sequence of str, too: the first one counts
        self, text: str
    ) -> list[int]: ...

    @overload
    def tokenize(self, text: Sequence[str]) -> list[list[int]]: ...

    def tokenize(self, text: str | Sequence[str]) -> list[int] | list[list[int]]:
        """The numbers of the tokens of a text; of several texts, a list for each."""
        return self._tokens(text) if isinstance(text, str) else [self._tokens(item) for item in text]

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has."""
        return int(self._ask("countTokens", "tokenCount", {"inputString": text}))

    def apply_prompt_template(self, history: History, opts: Mapping[str, Any] | None = None) -> str:
        """The text that the model would be given for a conversation."""
        parameter = {
            "history": payloads.write_history(self._client.uploads.resolve(Chat.from_history(history).messages)),
            "predictionConfigStack": {"layers": []},
            "opts": dict(opts or {}),
        }
        return str(self._ask("applyPromptTemplate", "formatted", parameter))

    def get_info(self) -> ModelInstance:
        """The server's description of the model.

        Raises:
            ModelNotFound: it is no longer loaded.
        """
        parameter = {"specifier": requests.specifier(self.identifier), "throwIfNotFound": True}
        return payloads.read(ModelInstance, self._session.call("getModelInfo", parameter))

    def get_context_length(self) -> int:
        """How many tokens fit into the model's context."""
        return self.get_info().context_length

    def unload(self) -> None:
        """Drop the model from memory."""
        self._client.llm.unload(self.identifier)

    @property
    def _session(self) -> Session:
        return self._client.session("llm")

    def _tokens(self, text: str) -> list[int]:
        numbers = self._ask("tokenize", "tokens", {"inputString": text})
        if not isinstance(numbers, list) or any(type(number) is not int for number in numbers):
            raise RemoteProtocolError(f"the server answered tokenize with {quoted(numbers, limit=40)}")
        return numbers

    def _stream(
        self, config: PredictionConfig, options: PredictionOptions, *asked: requests.ChannelRequest
    ) -> PredictionStream:
        callbacks = Callbacks(**{name: options.get(name) for name in Callbacks._fields})  # type: ignore[arg-type]
        session = self._session
        return PredictionStream(
            session, session.predict(*asked), callbacks, is_structured=config.structured is not None
        )

    def _ask(self, endpoint: str, key: str, parameter: JsonObject) -> Any:
        result = self._session.call(endpoint, {"specifier": requests.specifier(self.identifier), **parameter})
        if not isinstance(result, dict) or key not in result:
            raise RemoteProtocolError(f"the server answered {endpoint} without {key}")
        return result[key]


def llm(key: str | None = None) -> LLM:
    """A handle on a model of this machine's server, through one client for the whole program."""
    if not _default_client:
        _default_client.append(Client())
        atexit.register(_default_client[0].close)
    return _default_client[0].llm.model(key)


_default_client: list[Client] = []


def structured_setting(response_format: type[HasJsonSchema] | Mapping[str, Any]) -> JsonObject:
    """What to send for a response format.

    Shapes: a class with `model_json_schema()`; {"type": "json", "jsonSchema": {…}}; {"type": "gbnf",
    "gbnfGrammar": str}; any other object with `type` is a JSON schema itself.
    Raises:
        UsageError: it has another form.
    """
    if not isinstance(response_format, Mapping) and hasattr(response_format, "model_json_schema"):
        return {"type": "json", "jsonSchema": response_format.model_json_schema()}
    if not isinstance(response_format, Mapping) or "type" not in response_format:
        raise UsageError("a response format is a JSON schema, a setting with a type, or a class with model_json_schema")
    is_setting = response_format["type"] in ("json", "gbnf", "none")
    return dict(response_format) if is_setting else {"type": "json", "jsonSchema": dict(response_format)}


def _config(options: PredictionOptions) -> PredictionConfig:
    config = prediction_config(options.get("config"))
    response_format = options.get("response_format")
    if response_format is None:
        return config
    if config.structured is not None:
        raise UsageError("response_format and the option structured exclude each other")
    return config.replace(structured=structured_setting(response_format))


def _contents(src: str | Path | bytes | BinaryIO) -> tuple[bytes, str]:
    if isinstance(src, bytes):
        return src, str(uuid.uuid4())
    if isinstance(src, str | Path):
        try:
            return read_bytes(Path(src)), Path(src).name
        except OSError as error:
            raise NoInput(f"cannot read {quoted(src)}: {reason(error)}") from error
    return src.read(), Path(str(getattr(src, "name", uuid.uuid4()))).name
