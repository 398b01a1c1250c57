"""The asynchronous face of the client: `AsyncClient`, its namespaces and model handles.

Names and behaviour follow the asynchronous API of the official Python SDK, and everything is as in `api`, awaited.
A client belongs to one event loop, of asyncio or of uvloop; any number of tasks use it at once. Sockets are opened
when they are first needed, and nothing blocks the loop: names are resolved and files are read in threads.
"""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack, overload

from lmcli.chat import Chat, FilePart
from lmcli.client.aio_connection import AioConnection
from lmcli.client.aio_session import AioSession
from lmcli.client.aio_streams import AsyncPredictionStream
from lmcli.client.collector import LoadReport
from lmcli.client.discovery import credentials, find_token
from lmcli.client.images import ImageSource
from lmcli.client.prediction_options import (
    History,
    LoadOptions,
    PredictionOptions,
    is_kind,
    of_kind,
    read_load_options,
    read_options,
)
from lmcli.client.waiting import is_duration
from lmcli.errors import NoModelLoaded, UsageError
from lmcli.values import LoadNote, ModelInfo, ModelInstance, PredictionResult
from lmcli.wire import queries, requests
from lmcli.wire.channels import Prediction
from lmcli.wire.queries import Answer, Query
from lmcli.wire.requests import ChannelRequest


class AsyncClient:
    """A connection to one server for `async with`; sockets are opened when they are needed and closed together.

    Args:
        host: `host`, `host:port`, `http(s)://…` or `ws(s)://…`; None takes LM_HOST, else discovers the server of this
            machine.
        api_token: the token to authenticate with; None takes that of the environment, an empty one connects as a guest.
        timeout: the longest silence of the server in one wait, in seconds, after which it ends with TimedOut; None
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
        identity = credentials(find_token() if api_token is None else api_token or None)
        self._connection = AioConnection(host, identity, timeout=timeout, insecure_token=insecure_token)
        self.llm = AsyncLlmNamespace(self._connection)
        self.system = AsyncSystemNamespace(self._connection)
        self.files = AsyncFilesNamespace(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def prepare_image(self, src: ImageSource, name: str | None = None) -> FilePart:
        """Upload an image, see `AsyncFilesNamespace.prepare_image`."""
        return await self.files.prepare_image(src, name)

    async def list_downloaded_models(self, namespace: str | None = None) -> list[ModelInfo]:
        """All models that could be loaded, or those of one kind, `llm` or `embedding`."""
        return of_kind(await self.system.list_downloaded_models(), namespace)

    async def list_loaded_models(self, namespace: str | None = None) -> "list[AsyncLLM]":
        """Handles on the loaded language models; there are none on models of another kind."""
        return await self.llm.list_loaded() if is_kind("llm", namespace) else []

    async def aclose(self) -> None:
        """Cancel what runs, and close all sockets; who still waits gets ConnectionLost."""
        await self._connection.aclose()


class AsyncLlmNamespace:
    """The language models of a server."""

    def __init__(self, connection: AioConnection) -> None:
        self._connection = connection

    async def model(
        self,
        key: str | None = None,
        *,
        ttl: float | None = None,
        config: LoadOptions = None,
        on_load_progress: Callable[[float], object] | None = None,
        on_load_note: Callable[[LoadNote], object] | None = None,
    ) -> "AsyncLLM":
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
            instances = await self._ask(queries.list_loaded())
            if not instances:
                raise NoModelLoaded("no model is loaded", "give the key of the model that is to be loaded")
            return self._handle(instances[0])
        request = requests.get_or_load(key, read_load_options(config), ttl=ttl)
        return await self._load(request, LoadReport(on_load_progress, on_load_note))

    async def load_new_instance(
        self,
        key: str,
        identifier: str | None = None,
        *,
        ttl: float | None = None,
        config: LoadOptions = None,
        on_load_progress: Callable[[float], object] | None = None,
        on_load_note: Callable[[LoadNote], object] | None = None,
    ) -> "AsyncLLM":
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
        return await self._load(request, LoadReport(on_load_progress, on_load_note))

    async def list_loaded(self) -> "list[AsyncLLM]":
        """Handles on the loaded models."""
        return [self._handle(instance) for instance in await self._ask(queries.list_loaded())]

    async def unload(self, identifier: str) -> None:
        """Drop a loaded model from memory.

        Raises:
            ModelNotFound: no loaded model has this identifier.
        """
        await self._ask(queries.unload(identifier))

    async def _load(self, request: ChannelRequest, report: LoadReport) -> "AsyncLLM":
        session = await self._connection.session("llm")
        loading = await session.load(request)
        try:
            while not loading.is_over:
                report.take(await session.read(loading))
        finally:
            if not loading.is_over:
                session.abandon(loading)
        report.finish()
        return self._handle(loading.loaded())

    async def _ask(self, query: Query[Answer]) -> Answer:
        return await (await self._connection.session("llm")).ask(query)

    def _handle(self, instance: ModelInstance) -> "AsyncLLM":
        return AsyncLLM(self._connection, instance.identifier)


class AsyncSystemNamespace:
    """What is on the server's machine."""

    def __init__(self, connection: AioConnection) -> None:
        self._connection = connection

    async def list_downloaded_models(self) -> list[ModelInfo]:
        """All models that could be loaded, embedding models too (`type`)."""
        return await (await self._connection.session("system")).ask(queries.list_downloaded())


class AsyncFilesNamespace:
    """Files for messages; the server keeps them until the client closes."""

    def __init__(self, connection: AioConnection) -> None:
        self._connection = connection

    async def prepare_image(self, src: ImageSource, name: str | None = None) -> FilePart:
        """Upload an image (JPEG, PNG, WebP) for `Chat.add_user_message(…, images=[…])`.

        Args:
            src: a path, the bytes themselves, or an open binary file, which is read in a thread.
            name: what to call it; the file's own name, else a random one.

        Raises:
            NoInput: the file cannot be read.
        """
        return await self._connection.upload(src, name)


class AsyncLLM:
    """A handle on a loaded model; it follows whatever is loaded under its identifier."""

    def __init__(self, connection: AioConnection, identifier: str) -> None:
        self.identifier = identifier
        self._connection = connection

    def __repr__(self) -> str:
        return f"AsyncLLM({self.identifier!r})"

    async def respond(self, history: History, **options: Unpack[PredictionOptions]) -> PredictionResult:
        """The assistant's next turn, whole.

        Args:
            history: a text, a `Chat`, or what `Chat.from_history` reads.
            **options: see `PredictionOptions`.

        Raises:
            LmError: the prediction failed.
        """
        return await self.respond_stream(history, **options).wait_for_result()

    def respond_stream(self, history: History, **options: Unpack[PredictionOptions]) -> AsyncPredictionStream:
        """The assistant's next turn, fragment by fragment: await the stream, or iterate over it at once."""
        settings = read_options(options)
        messages = Chat.from_history(history).messages

        async def begin() -> tuple[AioSession, Prediction]:
            resolved = await self._connection.resolve(messages)
            return await self._begun(settings.respond(self.identifier, resolved))

        return AsyncPredictionStream(begin, settings.collector())

    async def complete(self, prompt: str, **options: Unpack[PredictionOptions]) -> PredictionResult:
        """The raw continuation of a text, whole."""
        return await self.complete_stream(prompt, **options).wait_for_result()

    def complete_stream(self, prompt: str, **options: Unpack[PredictionOptions]) -> AsyncPredictionStream:
        """The raw continuation of a text, fragment by fragment: await the stream, or iterate over it at once."""
        settings = read_options(options)
        asked = settings.complete(self.identifier, prompt)
        return AsyncPredictionStream(lambda: self._begun(*asked), settings.collector())

    @overload
    async def tokenize(  # type: ignore[overload-overlap]  # a str is a sequence of str, too: the first one counts
        self, text: str
    ) -> list[int]: ...

    @overload
    async def tokenize(self, text: Sequence[str]) -> list[list[int]]: ...

    async def tokenize(self, text: str | Sequence[str]) -> list[int] | list[list[int]]:
        """The numbers of the tokens of a text; of several texts, a list for each."""
        if isinstance(text, str):
            return await self._ask(queries.tokenize(self.identifier, text))
        return [await self._ask(queries.tokenize(self.identifier, item)) for item in text]

    async def count_tokens(self, text: str) -> int:
        """How many tokens a text has."""
        return await self._ask(queries.count_tokens(self.identifier, text))

    async def apply_prompt_template(self, history: History, opts: Mapping[str, Any] | None = None) -> str:
        """The text that the model would be given for a conversation."""
        messages = await self._connection.resolve(Chat.from_history(history).messages)
        return await self._ask(queries.apply_prompt_template(self.identifier, messages, opts))

    async def get_info(self) -> ModelInstance:
        """The server's description of the model.

        Raises:
            ModelNotFound: it is no longer loaded.
        """
        return await self._ask(queries.model_info(self.identifier))

    async def get_context_length(self) -> int:
        """How many tokens fit into the model's context."""
        return (await self.get_info()).context_length

    async def unload(self) -> None:
        """Drop the model from memory."""
        await self._ask(queries.unload(self.identifier))

    async def _begun(self, *asked: ChannelRequest) -> tuple[AioSession, Prediction]:
        session = await self._connection.session("llm")
        return session, await session.predict(*asked)

    async def _ask(self, query: Query[Answer]) -> Answer:
        return await (await self._connection.session("llm")).ask(query)
