"""One model in llama.cpp: loading, generating, tokens and templates. Everything here blocks its thread.

llama.cpp runs in this process, on threads of its own. Predictions are calls into it; tokens and templates it offers
over HTTP only, on a loopback port that wants a key, made up for this process.
"""

import contextlib
import http.client
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import xllamacpp

from lmcli.server.failures import Refused, unsupported
from lmcli.values import JsonObject

NAME: Final = "llama.cpp"
VERSION: Final = str(xllamacpp.__version__)
# How much of a prompt is read at a time, in tokens: the prompt progress, and the longest that a cancel waits for.
BATCH_TOKENS: Final = 512
_SILENT: Final = -1
_ERRORS: Final = 1
_TALKATIVE: Final = 3
_HTTP_THREADS: Final = 2
_HTTP_SECONDS: Final = 600
_SCHEMAS_REMEMBERED: Final = 256
# Not empty: a model without a mark for the beginning has nothing to go on then.
_ANY_PROMPT: Final = "a"
_TOO_LONG: Final = "exceed_context_size_error"

# What xllamacpp raises: failures of llama.cpp, and values that fit into nothing that C++ has.
_FOREIGN: Final = (RuntimeError, OverflowError, TypeError, ValueError)

# Takes a piece of a prediction; says whether it was the last one that anybody wants.
TakePiece = Callable[[JsonObject], bool]


class EngineFailure(Exception):
    """llama.cpp refused a request, or failed in the middle of it."""


class PromptTooLong(EngineFailure):
    """The prompt has more tokens than the context has room for.

    Args:
        prompt_tokens: how many it has.
    """

    def __init__(self, message: str, prompt_tokens: int) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens


class LoadSettings(NamedTuple):
    """How to load a model.

    Attributes:
        context_length: in tokens, for each prediction.
        sessions: how many predictions run at once.
        gpu_layers: how many of the model's layers go to the GPU; None leaves it to llama.cpp.
        parameters: further fields of `xllamacpp.CommonParams`.
    """

    context_length: int
    sessions: int
    gpu_layers: int | None
    threads: int | None
    parameters: Mapping[str, Any]


class Runtime:
    """A model that is loaded.

    Args:
        file: where it is.
        settings: how to load it.
        is_verbose: whether llama.cpp may write its log to stderr; None: only errors.

    Raises:
        EngineFailure: it cannot be loaded.
    """

    def __init__(self, file: Path, settings: LoadSettings, *, is_verbose: bool | None = False) -> None:
        self._key = secrets.token_urlsafe(24)
        self._schemas: set[str] = set()
        try:
            self._server: Any = xllamacpp.Server(_parameters(file, settings, self._key, is_verbose=is_verbose))
            self._address: str = urlsplit(self._server.listening_address).netloc
            # The first token shows that the model computes. It is needed, too: llama.cpp's loop must have begun before
            # the model may be dropped, or dropping it waits for ever.
            self.generate({"prompt": _ANY_PROMPT, "max_tokens": 1})
        except _FOREIGN as error:
            raise EngineFailure("llama.cpp cannot load it") from error

    def close(self) -> None:
        """Give the memory back; nothing may be running."""
        self._server = None

    def stream(self, body: JsonObject, take: TakePiece) -> None:
        """Run a prediction; returns when it ends, or when `take` wants no more.

        Raises:
            EngineFailure: llama.cpp refused, cannot read the request, or failed in the middle.
        """
        failures: list[EngineFailure] = []

        def piece(value: JsonObject) -> bool:
            if "error" in value:
                failures.append(_failure(value["error"]))
                return True
            return take(value)

        wanted = {"stream": True, "timings_per_token": True, "return_progress": True}
        with translated():
            self._server.handle_completions(scrubbed(body) | wanted, piece)
        if failures:
            raise failures[0]

    def generate(self, body: JsonObject) -> str:
        """Run a short prediction for its text alone.

        Raises:
            EngineFailure: llama.cpp refused, or cannot read the request.
        """
        with translated():
            answer = self._server.handle_completions(scrubbed(body) | {"stream": False})
        if "error" in answer:
            raise _failure(answer["error"])
        return str(answer["choices"][0]["text"])

    def tokenize(self, text: str, *, is_whole: bool = False) -> Sequence[int]:
        """The numbers of a text's tokens; `is_whole`: with what the model wants to see at the beginning."""
        body = {"content": text, "add_special": is_whole, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", body)["tokens"]
        return tokens

    def apply_template(self, messages: Sequence[JsonObject], arguments: JsonObject) -> str:
        """The text that the model's own chat template makes of a conversation.

        Raises:
            EngineFailure: the template cannot.
        """
        prompt: str = self._post("/apply-template", {"messages": messages, "chat_template_kwargs": arguments})["prompt"]
        return prompt

    def check_schema(self, schema: Any) -> None:
        """Make sure that a JSON schema will be kept to: llama.cpp passes over one that it does not understand.

        Asked for a token that no JSON begins with, a model that is held to the schema gives another one.

        Raises:
            Refused: llama.cpp does not understand the schema.
        """
        with translated():
            text = json.dumps(schema, sort_keys=True)
        if text in self._schemas:
            return
        impossible = "}"
        probe = {"prompt": _ANY_PROMPT, "max_tokens": 1, "temperature": 0, "logit_bias": [[impossible, 1000]]}
        try:
            is_held = self.generate({**probe, "json_schema": schema}) != impossible
        except EngineFailure:
            is_held = False
        if not is_held:
            raise unsupported("this JSON schema", NAME, VERSION)
        if len(self._schemas) >= _SCHEMAS_REMEMBERED:
            self._schemas.clear()
        self._schemas.add(text)

    def _post(self, path: str, body: JsonObject) -> JsonObject:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        with contextlib.closing(http.client.HTTPConnection(self._address, timeout=_HTTP_SECONDS)) as connection:
            with translated():
                text = json.dumps(scrubbed(body))
            try:
                connection.request("POST", path, text, headers)
                answer = json.loads(connection.getresponse().read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise EngineFailure(f"llama.cpp does not answer: {error}") from error
        if not isinstance(answer, dict) or "error" in answer:
            raise _failure(answer.get("error") if isinstance(answer, dict) else None)
        return answer


def free_memory_bytes() -> int:
    """How much of the machine's own memory is free, as far as llama.cpp can tell."""
    processor = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    return sum(device["memory_free"] for device in xllamacpp.get_device_info() if device["type"] == processor)


def scrubbed(value: Any) -> Any:
    """A text, or a value with texts in it, without lone surrogates: no tokenizer knows them, no UTF-8 has them."""
    match value:
        case str():
            return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case Mapping():
            return {scrubbed(key): scrubbed(inner) for key, inner in value.items()}
        case list() | tuple():
            return [scrubbed(inner) for inner in value]
    return value


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """What xllamacpp and JSON raise about a value becomes an EngineFailure."""
    try:
        yield
    except _FOREIGN as error:
        raise EngineFailure(f"it cannot read the request: {error}") from error


def refused(failure: EngineFailure) -> Refused:
    """The failure as a client is told of it."""
    return Refused(f"{NAME}: {failure}")


def _failure(error: Any) -> EngineFailure:
    match error:
        case {"type": str(kind), "message": str(message), "n_prompt_tokens": int(tokens)} if kind == _TOO_LONG:
            return PromptTooLong(message, tokens)
        case {"message": str(message)}:
            return EngineFailure(message)
    return EngineFailure("an answer that makes no sense")


def _parameters(file: Path, settings: LoadSettings, key: str, *, is_verbose: bool | None) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.n_threads_http = _HTTP_THREADS
    params.verbosity = {True: _TALKATIVE, None: _ERRORS, False: _SILENT}[is_verbose]
    # The sessions share one cache that has room for all of them, each up to its whole context: were it any smaller,
    # llama.cpp would end all predictions when they fill it together.
    params.n_parallel = settings.sessions
    params.kv_unified = True
    params.kv_unified_per_slot = settings.context_length
    params.n_ctx = settings.context_length * settings.sessions
    params.ctx_shift = True
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    # Caches of prompts beside the sessions' own would grow to 8 GiB.
    params.cache_ram_mib = 0
    # A history that ends with the model's own words is answered, not continued in the middle.
    params.prefill_assistant = False
    if settings.gpu_layers is not None:
        params.n_gpu_layers = settings.gpu_layers
    if settings.threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
    for name, value in settings.parameters.items():
        setattr(params, name, value)
    return params
