"""The SDK-shaped face of the client: `Client`, its namespaces and model handles.

Names and behaviour follow the synchronous API of the official Python SDK, so that a program for one
runs with the other. Two differences are intended: leaving a stream early cancels the prediction on the server, and an
exception in a callback is not swallowed. A client belongs to one thread.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack, overload

from lmcli.chat import Chat, FilePart
from lmcli.client.catalog import list_downloaded, list_loaded, unload
from lmcli.client.collector import LoadReport
from lmcli.client.connection import Connection
from lmcli.client.discovery import credentials, find_server, find_token
from lmcli.client.images import ImageSource, Uploads, contents, upload
from lmcli.client.prediction_options import (
    History,
    LoadOptions,
    PredictionOptions,
    Settings,
    is_kind,
    of_kind,
    read_load_options,
    read_options,
)
from lmcli.client.session import Session
from lmcli.client.streams import PredictionStream
from lmcli.client.waiting import is_duration
from lmcli.closing import Closing
from lmcli.errors import NoModelLoaded, UsageError
from lmcli.values import LoadNote, ModelInfo, ModelInstance, PredictionResult
from lmcli.wire import queries, requests


class Client(Closing):
    """A connection to one server; sockets are opened when they are needed and closed together.

    Args:
        host: `host`, `host:port`, `http(s)://…` or `ws(s)://…`; None takes LM_HOST, else discovers the server of this
            machine.
        api_token: the token to authenticate with; None takes that of the environment, an empty one connects as a guest.
        timeout: the longest silence of the server, in seconds, after which a wait for it ends with TimedOut; None
            waits as long as the connection stands.
        insecure_token: whether the token may be sent unencrypted to another machine, over ws:// or http://.

    Raises:
        BadSetting: the token is malformed. A malformed host, no server, or one that the token is not sent to, shows
            when the first socket is opened.
        UsageError: the timeout is not a number of seconds above 0.
    """

    def __init__(
        self,
        host: str | None = None,
        api_token: str | None = None,
        *,
        timeout: float | None = None,
        insecure_token: bool = False,
    ) -> None:
        if timeout is not None and not is_duration(timeout):
            raise UsageError(f"timeout must be a number of seconds above 0, not {timeout:g}")
        self._host = host
        self._timeout = timeout
        self._insecure_token = insecure_token
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

    def prepare_image(self, src: ImageSource, name: str | None = None) -> FilePart:
        """Upload an image, see `FilesNamespace.prepare_image`."""
        return self.files.prepare_image(src, name)

    def list_downloaded_models(self, namespace: str | None = None) -> list[ModelInfo]:
        """All models that could be loaded, or those of one kind, `llm` or `embedding`."""
        return of_kind(self.system.list_downloaded_models(), namespace)

    def list_loaded_models(self, namespace: str | None = None) -> "list[LLM]":
        """Handles on the loaded language models; there are none on models of another kind."""
        return self.llm.list_loaded() if is_kind("llm", namespace) else []

    def session(self, namespace: str) -> Session:
        """The socket to a namespace; the server is looked for when the first one is asked for."""
        if self._connection is None:
            self._connection = Connection(
                find_server(self._host),
                self._credentials,
                timeout=self._timeout,
                insecure_token=self._insecure_token,
            )
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
        config: LoadOptions = None,
        on_load_progress: Callable[[float], object] | None = None,
        on_load_note: Callable[[LoadNote], object] | None = None,
    ) -> "LLM":
        """A handle on a model, loaded first if it has to be.

        Args:
            key: a model key or the identifier of a loaded model; None takes the model that is loaded.
            ttl: seconds without use after which a model that is loaded now may be unloaded again.
            config: how to load it, if it is loaded now: {"contextLength": 8192, "gpu": {"ratio": 1}}: `load_config`.
            on_load_progress: called with 0.0 … 1.0 while it loads, rising strictly; never if it is loaded already.
            on_load_note: called if another model is unloaded first, with an `UnloadingModel`.

        Raises:
            ModelNotFound: there is no such model, or none is loaded.
            LoadFailed: it could not be loaded.
        """
        if key is None:
            return LLM(self._client, self._loaded().identifier)
        request = requests.get_or_load(key, read_load_options(config), ttl=ttl)
        return self._load(request, LoadReport(on_load_progress, on_load_note))

    def load_new_instance(
        self,
        key: str,
        identifier: str | None = None,
        *,
        ttl: float | None = None,
        config: LoadOptions = None,
        on_load_progress: Callable[[float], object] | None = None,
        on_load_note: Callable[[LoadNote], object] | None = None,
    ) -> "LLM":
        """Load a model once more, whether it is loaded or not.

        Args:
            key: a model key.
            identifier: what to call the new instance; None lets the server choose.
            ttl: seconds without use after which it may be unloaded again.
            config: how to load it, see `load_config`.
            on_load_progress: called with 0.0 … 1.0 while it loads, rising strictly.
            on_load_note: called if several models match the key, with an `AmbiguousModel`.

        Raises:
            ModelNotFound: there is no such model.
            LoadFailed: it could not be loaded, or the identifier is taken.
        """
        request = requests.load(key, read_load_options(config), identifier=identifier, ttl=ttl)
        return self._load(request, LoadReport(on_load_progress, on_load_note))

    def list_loaded(self) -> "list[LLM]":
        """Handles on the loaded models."""
        return [LLM(self._client, instance.identifier) for instance in list_loaded(self._client.session("llm"))]

    def unload(self, identifier: str) -> None:
        """Drop a loaded model from memory.

        Raises:
            ModelNotFound: no loaded model has this identifier.
        """
        unload(self._client.session("llm"), identifier)

    def _load(self, request: requests.ChannelRequest, report: LoadReport) -> "LLM":
        session = self._client.session("llm")
        loading = session.load(request)
        try:
            for burst in session.bursts(loading):
                report.take(burst)
        finally:
            if not loading.is_over:
                session.abandon(loading)
        report.finish()
        return LLM(self._client, loading.loaded().identifier)

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

    def prepare_image(self, src: ImageSource, name: str | None = None) -> FilePart:
        """Upload an image (JPEG, PNG, WebP) for `Chat.add_user_message(…, images=[…])`.

        Args:
            src: a path, the bytes themselves, or an open binary file.
            name: what to call it; the file's own name, else a random one.

        Raises:
            NoInput: the file cannot be read.
        """
        data, known_name = contents(src)
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
        settings = read_options(options)
        messages = self._client.uploads.resolve(Chat.from_history(history).messages)
        return self._stream(settings, settings.respond(self.identifier, messages))

    def complete(self, prompt: str, **options: Unpack[PredictionOptions]) -> PredictionResult:
        """The raw continuation of a text, whole."""
        return self.complete_stream(prompt, **options).wait_for_result()

    def complete_stream(self, prompt: str, **options: Unpack[PredictionOptions]) -> PredictionStream:
        """The raw continuation of a text, fragment by fragment."""
        settings = read_options(options)
        return self._stream(settings, *settings.complete(self.identifier, prompt))

    @overload
    def tokenize(  # type: ignore[overload-overlap]  # a str is a sequence of str, too: the first one counts
        self, text: str
    ) -> list[int]: ...

    @overload
    def tokenize(self, text: Sequence[str]) -> list[list[int]]: ...

    def tokenize(self, text: str | Sequence[str]) -> list[int] | list[list[int]]:
        """The numbers of the tokens of a text; of several texts, a list for each."""
        if isinstance(text, str):
            return self._session.ask(queries.tokenize(self.identifier, text))
        return [self._session.ask(queries.tokenize(self.identifier, item)) for item in text]

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has."""
        return self._session.ask(queries.count_tokens(self.identifier, text))

    def apply_prompt_template(self, history: History, opts: Mapping[str, Any] | None = None) -> str:
        """The text that the model would be given for a conversation."""
        messages = self._client.uploads.resolve(Chat.from_history(history).messages)
        return self._session.ask(queries.apply_prompt_template(self.identifier, messages, opts))

    def get_info(self) -> ModelInstance:
        """The server's description of the model.

        Raises:
            ModelNotFound: it is no longer loaded.
        """
        return self._session.ask(queries.model_info(self.identifier))

    def get_context_length(self) -> int:
        """How many tokens fit into the model's context."""
        return self.get_info().context_length

    def unload(self) -> None:
        """Drop the model from memory."""
        self._client.llm.unload(self.identifier)

    @property
    def _session(self) -> Session:
        return self._client.session("llm")

    def _stream(self, settings: Settings, *asked: requests.ChannelRequest) -> PredictionStream:
        session = self._session
        return PredictionStream(session, session.predict(*asked), settings.collector())
