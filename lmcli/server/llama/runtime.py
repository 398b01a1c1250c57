"""One model in llama.cpp: loading, predictions, tokens and templates. All calls block their thread.

llama.cpp runs in the process that imports this, on its own threads. Predictions are function calls; for tokens and
templates it has only an HTTP API, on a loopback port that requires a random key.
"""

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import xllamacpp

from lmcli.server.llama.engine_errors import EngineError, PromptTooLong, UnsupportedSchema
from lmcli.server.llama.engine_messages import BATCH_TOKENS, LoadOptions
from lmcli.values import JsonObject

# The levels of llama.cpp's log.
_LOG_ERRORS: Final = 1
_LOG_INFO: Final = 3
_HTTP_THREADS: Final = 2
_HTTP_SECONDS: Final = 600
_MAX_CACHED_SCHEMAS: Final = 256
# Not empty: a model without a token for the beginning needs at least one other token.
_ANY_PROMPT: Final = "a"
_PROMPT_TOO_LONG: Final = "exceed_context_size_error"

# What xllamacpp raises: errors of llama.cpp, and values that have no C++ equivalent.
_XLLAMACPP_ERRORS: Final = (RuntimeError, OverflowError, TypeError, ValueError)

_FLASH_ATTENTION: Final = {
    True: xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    False: xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}

_CACHE_TYPES: Final = frozenset({"cache_type_k", "cache_type_v"})

# Receives the output of a prediction; returns whether to stop it.
Receive = Callable[[JsonObject], bool]


class Runtime:
    """A loaded model.

    Args:
        file: the model file.
        options: how to load it.
        is_verbose: whether llama.cpp logs everything to stderr, or errors only.

    Raises:
        EngineError: it cannot be loaded.
    """

    def __init__(self, file: Path, options: LoadOptions, *, is_verbose: bool = False) -> None:
        self._key = secrets.token_urlsafe(24)
        self._schemas: set[str] = set()
        try:
            self._server: Any = xllamacpp.Server(_parameters(file, options, self._key, is_verbose=is_verbose))
            self._address: str = urlsplit(self._server.listening_address).netloc
            # A first token checks that the model works. It is also required: if llama.cpp's loop has not started
            # before the model is dropped, dropping it blocks for ever.
            self.generate({"prompt": _ANY_PROMPT, "max_tokens": 1})
        except _XLLAMACPP_ERRORS as error:
            raise EngineError("llama.cpp cannot load it") from error

    def stream(self, body: JsonObject, receive: Receive) -> None:
        """Run a prediction, until it ends or `receive` stops it.

        Raises:
            UnsupportedSchema: llama.cpp does not support the JSON schema of the request.
            EngineError: llama.cpp rejected the request, or failed during it.
        """
        if "json_schema" in body:
            self._check_schema(body["json_schema"])
        errors: list[EngineError] = []

        def callback(output: JsonObject) -> bool:
            if "error" in output:
                errors.append(_engine_error(output["error"]))
                return True
            return receive(output)

        flags = {"stream": True, "timings_per_token": True, "return_progress": True}
        with translated_errors():
            self._server.handle_completions(body | flags, callback)
        if errors:
            raise errors[0]

    def generate(self, body: JsonObject) -> str:
        """Run a prediction and return its text.

        Raises:
            EngineError: llama.cpp rejected the request.
        """
        with translated_errors():
            answer = self._server.handle_completions(body | {"stream": False})
        if "error" in answer:
            raise _engine_error(answer["error"])
        return str(answer["choices"][0]["text"])

    def tokenize(self, text: str, *, add_special: bool = False) -> Sequence[int]:
        """Tokenize a text; `add_special` adds the token for the beginning, if the model has one."""
        body = {"content": text, "add_special": add_special, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", body)["tokens"]
        return tokens

    def apply_template(
        self, messages: Sequence[JsonObject], arguments: JsonObject, tools: Sequence[JsonObject] = ()
    ) -> str:
        """Apply the model's own prompt template to a conversation, and to the tools that may be called.

        Raises:
            EngineError: the template cannot be applied.
        """
        body: JsonObject = {"messages": messages, "chat_template_kwargs": arguments}
        prompt: str = self._post("/apply-template", body | ({"tools": tools} if tools else {}))["prompt"]
        return prompt

    def boundaries(self) -> tuple[str, str]:
        """The tokens for the beginning and the end, as texts; empty if a tokenized text has them anyway, or none."""
        properties = self._request("GET", "/props", None)
        beginning, end = str(properties.get("bos_token", "")), str(properties.get("eos_token", ""))
        return "" if self.tokenize("", add_special=True) else beginning, end

    def _check_schema(self, schema: Any) -> None:
        """Check that llama.cpp enforces a JSON schema: it ignores schemas that it does not support.

        The model is biased towards a token with which JSON cannot begin, and must generate another one.

        Raises:
            UnsupportedSchema: llama.cpp does not support the schema.
        """
        with translated_errors():
            text = json.dumps(schema, sort_keys=True)
        if text in self._schemas:
            return
        impossible = "}"
        probe = {"prompt": _ANY_PROMPT, "max_tokens": 1, "temperature": 0, "logit_bias": [[impossible, 1000]]}
        try:
            is_enforced = self.generate({**probe, "json_schema": schema}) != impossible
        except EngineError:
            is_enforced = False
        if not is_enforced:
            raise UnsupportedSchema("this JSON schema is not enforced")
        if len(self._schemas) >= _MAX_CACHED_SCHEMAS:
            self._schemas.clear()
        self._schemas.add(text)

    def _post(self, path: str, body: JsonObject) -> JsonObject:
        with translated_errors():
            text = json.dumps(body)
        return self._request("POST", path, text)

    def _request(self, method: str, path: str, text: str | None) -> JsonObject:
        import http.client  # noqa: PLC0415  a load does not wait for it

        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        with contextlib.closing(http.client.HTTPConnection(self._address, timeout=_HTTP_SECONDS)) as connection:
            try:
                connection.request(method, path, text, headers)
                answer = json.loads(connection.getresponse().read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise EngineError(f"llama.cpp does not respond: {error}") from error
        if not isinstance(answer, dict) or "error" in answer:
            raise _engine_error(answer.get("error") if isinstance(answer, dict) else None)
        return answer


def free_memory_bytes() -> int:
    """The free main memory, according to llama.cpp."""
    processor = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    return sum(device["memory_free"] for device in xllamacpp.get_device_info() if device["type"] == processor)


def has_gpu() -> bool:
    """Whether llama.cpp has found a GPU that it can use."""
    kind = xllamacpp.ggml_backend_dev_type
    gpus = (kind.GGML_BACKEND_DEVICE_TYPE_GPU, kind.GGML_BACKEND_DEVICE_TYPE_IGPU)
    return any(device["type"] in gpus for device in xllamacpp.get_device_info())


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Translate what xllamacpp and JSON raise into EngineError."""
    try:
        yield
    except _XLLAMACPP_ERRORS as error:
        raise EngineError(f"invalid request: {error}") from error


def _engine_error(error: Any) -> EngineError:
    match error:
        case {"type": str(kind), "message": str(message), "n_prompt_tokens": int(tokens)} if kind == _PROMPT_TOO_LONG:
            return PromptTooLong(message, tokens)
        case {"message": str(message)}:
            return EngineError(message)
    return EngineError("unexpected response")


def _parameters(file: Path, options: LoadOptions, key: str, *, is_verbose: bool) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.n_threads_http = _HTTP_THREADS
    params.verbosity = _LOG_INFO if is_verbose else _LOG_ERRORS
    # The sessions share one cache that is large enough for the whole context of each: if it were smaller, llama.cpp
    # would end all predictions when it is full.
    params.n_parallel = options.sessions
    params.kv_unified = True
    params.kv_unified_per_slot = options.context_length
    params.n_ctx = options.context_length * options.sessions
    params.ctx_shift = True
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    # Without this, further caches of prompts grow to 8 GiB.
    params.cache_ram_mib = 0
    # A history that ends with an assistant message is answered by a new message.
    params.prefill_assistant = False
    if options.gpu_layers is not None:
        params.n_gpu_layers = options.gpu_layers
    if options.threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.load_mode = getattr(xllamacpp.llama_load_mode, f"LLAMA_LOAD_MODE_{options.load_mode}")
    if options.has_flash_attention is not None:
        params.flash_attn_type = _FLASH_ATTENTION[options.has_flash_attention]
    for name, value in options.parameters.items():
        if name in _CACHE_TYPES:
            setattr(params, name, getattr(xllamacpp.ggml_type, f"GGML_TYPE_{value.upper()}"))
        elif name == "seed":
            params.sampling.seed = int(value) & 0xFFFFFFFF  # -1 is a random one
        else:
            setattr(params, name, value)
    return params
