"""The process of a model, as the server sees it: start, requests, end."""

import asyncio
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from lmcli.server.engine import LARGE_TEXT
from lmcli.server.llama.engine_errors import NAME, EngineEnded, EngineError, PromptTooLong, UnsupportedSchema
from lmcli.server.llama.engine_log import EngineLog
from lmcli.server.llama.engine_messages import (
    CANNOT_LOAD,
    ApplyTemplate,
    Close,
    CountTokens,
    Decoder,
    Grant,
    InvalidMessage,
    Load,
    Loaded,
    Message,
    Predict,
    ReadProgress,
    Rejected,
    Result,
    Tokenize,
    encode,
)
from lmcli.server.llama.engine_output import OutputStream
from lmcli.values import JsonObject

# The folder that this package is imported from.
_ROOT: Final = str(Path(__file__).parents[3])
_MAIN: Final = "lmcli.server.llama.engine_main"
# How long a process may take to end by itself.
_END_SECONDS: Final = 5.0
_MAX_TEMPLATES: Final = 4
_ERRORS: Final = {kind.__name__: kind for kind in (EngineError, UnsupportedSchema)}

_log: Final = logging.getLogger(__name__)


class EngineProcess(asyncio.Protocol):
    """A process in which llama.cpp runs one model.

    Args:
        is_verbose: whether the log of llama.cpp is logged.

    Attributes:
        has_gpu: whether a model that is loaded can use a GPU.
        bos: the text that begins a prompt in a template; empty where tokenizing adds it.
        eos: the text that ends a message in a template.
        templates: how many templates of clients are applied at once.
    """

    def __init__(self, *, is_verbose: bool) -> None:
        self.has_gpu = False
        self.bos = self.eos = ""
        self.templates = asyncio.Semaphore(_MAX_TEMPLATES)
        self._is_verbose = is_verbose
        self._decoder = Decoder()
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._outputs: dict[int, OutputStream] = {}
        self._disconnected = asyncio.Event()
        self._ended: EngineEnded | None = None
        self._is_closed = False
        self._on_lost: Callable[[EngineEnded], None] = lambda _: None
        self._process: subprocess.Popen[bytes]
        self._transport: asyncio.Transport
        self._watch: asyncio.Task[None]

    @classmethod
    async def start(cls, *, is_verbose: bool = False) -> Self:
        """Start a process.

        Raises:
            OSError: the system cannot start one.
        """
        process = cls(is_verbose=is_verbose)
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process._process = _start(theirs)
            except OSError:
                ours.close()
                raise
        process._transport, _ = await loop.create_unix_connection(lambda: process, sock=ours)
        process._watch = asyncio.create_task(process._watch_end())
        return process

    async def load(
        self, files: Sequence[Path], options: JsonObject, cancelled: asyncio.Event
    ) -> AsyncGenerator[float, None]:
        """Load a model; yields the share of its files that is read. A cancel ends the process at once.

        Args:
            files: the model.
            options: the fields of LoadOptions.
            cancelled: set to cancel.

        Raises:
            EngineError: it cannot be loaded, or the load was cancelled.
        """
        number = next(self._numbers)
        output = self._open(number, await _encoded(Load(number, list(map(str, files)), options, self._is_verbose), 0))
        watch = asyncio.create_task(cancelled.wait())
        watch.add_done_callback(lambda task: None if task.cancelled() else self._kill())
        try:
            async for step in output:
                if isinstance(step, ReadProgress):
                    yield step.share
                elif isinstance(step, Loaded):
                    self.has_gpu, self.bos, self.eos = step.has_gpu, step.bos, step.eos
        finally:
            output.close()
            watch.cancel()

    async def predict(self, body: JsonObject) -> OutputStream:
        """Start a prediction; its output has to be closed.

        Raises:
            EngineError: the body cannot be sent, or the process has ended.
        """
        number = next(self._numbers)
        return self._open(number, await _encoded(Predict(number, body), len(body["prompt"])))

    async def tokenize(self, text: str, *, add_special: bool = False) -> Sequence[int]:
        """The token numbers of a text; `add_special` adds the token for the beginning, if the model has one."""
        number = next(self._numbers)
        tokens: list[int] = await self._call(number, await _encoded(Tokenize(number, text, add_special), len(text)))
        return tokens

    async def count_tokens(self, text: str) -> int:
        """The number of tokens of a text."""
        number = next(self._numbers)
        return int(await self._call(number, await _encoded(CountTokens(number, text), len(text))))

    async def apply_template(
        self, messages: Sequence[JsonObject], arguments: JsonObject, tools: Sequence[JsonObject] = ()
    ) -> str:
        """Apply the model's own prompt template to a conversation, and to the tools that may be called.

        Raises:
            EngineError: the template cannot be applied, or the process has ended.
        """
        number = next(self._numbers)
        request = ApplyTemplate(number, list(messages), arguments, list(tools))
        size = sum(len(message["content"]) for message in messages)
        return str(await self._call(number, await _encoded(request, size)))

    def on_lost(self, callback: Callable[[EngineEnded], None]) -> None:
        """Have a function called if the process ends before `close`."""
        self._on_lost = callback
        if self._ended is not None:
            callback(self._ended)

    async def close(self) -> None:
        """End the process, and with it what it still does; returns when its memory is free."""
        self._is_closed = True
        self._kill()
        await self._watch

    def data_received(self, data: bytes) -> None:
        """Hand messages to those who wait for them."""
        try:
            for message in self._decoder.receive_data(data):
                self._receive(message)
        except InvalidMessage as error:
            _log.error("the process of %s sent an invalid message: %s", NAME, error)
            self._kill()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio names it
        """Note that there will be no further message: the process ends, or is of no use."""
        self._disconnected.set()
        asyncio.get_running_loop().call_later(_END_SECONDS, self._kill)

    def _receive(self, message: Message) -> None:
        output = self._outputs.get(message.number)
        if output is not None:
            output.add(_error_of(message) if isinstance(message, Rejected) else message)
            return
        call = self._calls.get(message.number)
        if call is not None and not call.done():
            if isinstance(message, Rejected):
                call.set_exception(_error_of(message))
            elif isinstance(message, Result):
                call.set_result(message.value)

    def _open(self, number: int, data: bytes) -> OutputStream:
        self._request(data)
        output = self._outputs[number] = OutputStream(partial(self._grant, number), partial(self._forget, number))
        return output

    def _grant(self, number: int, further: int) -> None:
        self._send(Grant(number, further))

    def _forget(self, number: int) -> None:
        del self._outputs[number]
        self._send(Close(number))

    def _send(self, message: Message) -> None:
        if not self._disconnected.is_set():
            self._transport.write(encode(message))

    async def _call(self, number: int, data: bytes) -> Any:
        call = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._request(data)
            return await call
        finally:
            del self._calls[number]

    def _request(self, data: bytes) -> None:
        if self._ended is not None:
            raise self._ended
        self._transport.write(data)

    def _kill(self) -> None:
        self._process.kill()

    async def _watch_end(self) -> None:
        """Wait for the end of the process, and fail what waits for it."""
        log = EngineLog(is_shown=self._is_verbose)
        await log.read(self._process)
        await self._disconnected.wait()
        status = await asyncio.to_thread(self._process.wait)
        self._ended = EngineEnded(_description(status, log.reason), is_killed=status == -signal.SIGKILL)
        for output in self._outputs.values():
            output.add(self._ended)
        for call in self._calls.values():
            if not call.done():
                call.set_exception(self._ended)
        if not self._is_closed:
            self._on_lost(self._ended)


def python_command(module: str) -> list[str]:
    """The command that runs a module of this package, without imports from the working directory."""
    return [sys.executable, "-P", "-m", module]


def python_environment() -> dict[str, str]:
    """The environment for it: this package is found wherever it was imported from."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))}


def _start(stdin: socket.socket) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603  a module of this package
        python_command(_MAIN),
        stdin=stdin.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**python_environment(), "GGML_NO_BACKTRACE": "1"},  # otherwise llama.cpp starts a debugger when it aborts
    )


async def _encoded(message: Message, size: int) -> bytes:
    """Encode a message whose text has a size, in a thread if it is large.

    Raises:
        EngineError: a value cannot be sent.
    """
    try:
        return encode(message) if size < LARGE_TEXT else await asyncio.to_thread(encode, message)
    except TypeError as error:
        raise EngineError(f"invalid request: {error}") from error


def _error_of(rejected: Rejected) -> EngineError:
    if rejected.kind == PromptTooLong.__name__:
        return PromptTooLong(rejected.text, rejected.prompt_tokens)
    return _ERRORS.get(rejected.kind, EngineError)(rejected.text)


def _description(status: int, reason: str) -> str:
    """Why the process has ended: its status, and the reason in its log, which it writes before it exits or aborts."""
    because = f": {reason}" if reason else ""
    if status == CANNOT_LOAD:
        return f"{NAME} cannot load it{because}"
    if status >= 0:
        return f"{NAME} ended unexpectedly with status {status}{because}"
    return f"{NAME} was killed by {_signal_name(-status)}{because if -status == signal.SIGABRT else ''}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
