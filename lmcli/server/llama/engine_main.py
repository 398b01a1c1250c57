"""The process of a model: `python -m lmcli.server.llama.engine_main`, with a socket to the server as its stdin.

llama.cpp runs here, because it aborts its process on some files and requests, and holds the interpreter while it loads.
The process ends when the server closes the socket, or ends itself.
"""

import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from lmcli.errors import LmError, reason
from lmcli.server.llama.engine_errors import EngineError, PromptTooLong
from lmcli.server.llama.engine_messages import (
    CANNOT_LOAD,
    WINDOW,
    ApplyTemplate,
    Close,
    CountTokens,
    Decoder,
    Finished,
    Grant,
    Load,
    Loaded,
    LoadOptions,
    Message,
    Predict,
    PromptProgress,
    ReadProgress,
    Rejected,
    Reply,
    Result,
    Token,
    Tokenize,
    encode,
)
from lmcli.server.llama.model_files import checked_header
from lmcli.server.llama.runtime import Runtime, free_memory_bytes, has_gpu, translated_errors
from lmcli.values import JsonObject

_RECEIVE_BYTES: Final = 256 * 1024
# The bytes of a file that are read at a time, and the reports of it.
_READ_BYTES: Final = 16 * 1024 * 1024
_READ_REPORTS: Final = 50
# A file that exceeds this share of the free memory is not read ahead: its end would evict its beginning from the cache.
_MAX_MEMORY_SHARE: Final = 0.7
# As many as llama.cpp has for them.
_CALL_THREADS: Final = 2
# From Linux's header file linux/prctl.h.
_PR_SET_PDEATHSIG: Final = 1


class Connection:
    """The socket to the server, which always reads."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Message]:
        """The messages of the server, until it closes the socket."""
        decoder = Decoder()
        while data := self._socket.recv(_RECEIVE_BYTES):
            yield from decoder.receive_data(data)

    def send(self, data: bytes) -> None:
        """Send encoded messages, from any thread."""
        with self._lock:
            self._socket.sendall(data)

    def reply(self, message: Reply) -> None:
        """Send a message, from any thread."""
        self.send(encode(message))


class Output:
    """What a prediction sends, as far as the server has granted it; the rest waits, encoded.

    llama.cpp does not wait: it computes the predictions of all sessions together and cannot stop a single one. What
    waits is bounded by the length of the answer.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._granted = WINDOW
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self.is_closed = False

    def put(self, message: Reply) -> None:
        """Send a message, or keep it until it is granted."""
        data = encode(message)
        with self._lock:
            if self._granted and not self.is_closed:
                self._granted -= 1
                self._send(data)
            elif not self.is_closed:
                self._waiting.append(data)

    def grant(self, further: int) -> None:
        """Send what is permitted now, at once."""
        with self._lock:
            self._granted += further
            sent = [self._waiting.popleft() for _ in range(min(self._granted, len(self._waiting)))]
            self._granted -= len(sent)
            if sent:
                self._send(b"".join(sent))

    def close(self) -> None:
        """Drop what waits, and have the prediction stopped."""
        with self._lock:
            self.is_closed = True
            self._waiting.clear()


class Worker:
    """Carries out the requests for a loaded model.

    Args:
        runtime: the model.
        connection: to the server.
        sessions: the number of concurrent predictions.
    """

    def __init__(self, runtime: Runtime, connection: Connection, sessions: int) -> None:
        self._runtime = runtime
        self._connection = connection
        # One more than llama.cpp runs at once, to be prepared meanwhile. The others wait without a thread.
        self._predictions = ThreadPoolExecutor(sessions + 1, "prediction")
        self._calls = ThreadPoolExecutor(_CALL_THREADS, "call")
        self._outputs: dict[int, Output] = {}

    def receive(self, message: Message) -> None:
        """Start what the server requests."""
        match message:
            case Grant(number, further) if number in self._outputs:
                self._outputs[number].grant(further)
            case Close(number) if number in self._outputs:
                self._outputs.pop(number).close()
            case Predict(number, body):
                output = self._outputs[number] = Output(self._connection.send)
                self._predictions.submit(self._predict, number, body, output).add_done_callback(_end_on_error)
            case Tokenize(number, text, add_special):
                self._call(number, lambda: self._runtime.tokenize(text, add_special=add_special))
            case CountTokens(number, text):
                self._call(number, lambda: len(self._runtime.tokenize(text)))
            case ApplyTemplate(number, messages, arguments, tools):
                self._call(number, lambda: self._runtime.apply_template(messages, arguments, tools))

    def _predict(self, number: int, body: JsonObject, output: Output) -> None:
        def receive(piece: JsonObject) -> bool:
            output.put(_reply(number, piece))
            return output.is_closed

        if not output.is_closed:
            output.put(_outcome(number, lambda: self._runtime.stream(body, receive)) or Finished(number))

    def _call(self, number: int, call: Callable[[], Any]) -> None:
        def answer() -> None:
            values: list[Any] = []
            rejected = _outcome(number, lambda: values.append(call()))
            self._connection.reply(rejected or Result(number, values[0]))

        self._calls.submit(answer).add_done_callback(_end_on_error)


def _end_on_error(work: "Future[None]") -> None:
    """End the process after an unexpected error in a thread: otherwise the server would wait for ever."""
    error = work.exception()
    if error is not None:
        if not isinstance(error, OSError):  # the server is gone
            traceback.print_exception(error)
        os._exit(1)


def _outcome(number: int, work: Callable[[], None]) -> Rejected | None:
    """Do something; returns the error, if it fails."""
    try:
        with translated_errors():
            work()
    except EngineError as error:
        tokens = error.prompt_tokens if isinstance(error, PromptTooLong) else 0
        return Rejected(number, type(error).__name__, str(error), tokens)
    return None


def _reply(number: int, piece: JsonObject) -> Reply:
    if "prompt_progress" in piece:
        progress = piece["prompt_progress"]
        return PromptProgress(number, progress["total"], progress["cache"], progress["processed"])
    choice, timings = piece["choices"][0], piece.get("timings") or {}
    rate = timings.get("predicted_per_second") or None
    log_probs = [_predicted(token) for token in (choice.get("logprobs") or {}).get("content") or ()]
    return Token(number, choice["text"], choice["finish_reason"], timings.get("predicted_n"), rate, log_probs)


def _predicted(token: JsonObject) -> list[Any]:
    candidates = [_with_log_prob(candidate) for candidate in token["top_logprobs"]]
    return [*_with_log_prob(token), candidates]


def _with_log_prob(token: JsonObject) -> list[Any]:
    return [token["token"], token["id"], token["logprob"]]


def _load(request: Load, connection: Connection) -> Runtime:
    """Load a model: its files are read first, with progress, so that llama.cpp loads them from the system's cache."""
    files = [Path(file) for file in request.files]
    try:
        total = sum(checked_header(file).size_bytes for file in files)  # again: they may have changed since the start
        if total <= free_memory_bytes() * _MAX_MEMORY_SHARE:
            for share in _read_through(files, total):
                connection.reply(ReadProgress(request.number, share))
    except (LmError, OSError) as error:
        text = error.message if isinstance(error, LmError) else f"cannot read it: {reason(error)}"
        connection.reply(Rejected(request.number, EngineError.__name__, text, 0))
        sys.exit(CANNOT_LOAD)
    try:
        return Runtime(files[0], LoadOptions(**request.options), is_verbose=request.is_verbose)
    except EngineError:
        sys.exit(CANNOT_LOAD)


def _read_through(files: Sequence[Path], total: int) -> Iterator[float]:
    """Read files and discard their content; yields the share that is read, _READ_REPORTS times."""
    block = bytearray(_READ_BYTES)
    done = reported = 0
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while size := stream.readinto(block):
                done += size
                if (done - reported) * _READ_REPORTS >= total:
                    reported = done
                    yield min(1.0, done / total)


def _end_with_server(connected: socket.socket) -> None:
    """End when the server does, on Linux at once; elsewhere a load that goes on ends first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to a whole group of processes, they are handled by the server
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  not a part of every Python

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    poll = select.poll()
    poll.register(connected, 0)
    if poll.poll(0):  # the server has ended before that
        os._exit(0)


def main() -> None:
    """Load a model as the first message says, then carry out requests until the server closes the socket."""
    connected = socket.socket(fileno=sys.stdin.fileno())
    _end_with_server(connected)
    connection = Connection(connected)
    messages = iter(connection)
    load = next(messages, None)
    if isinstance(load, Load):
        runtime = _load(load, connection)
        worker = Worker(runtime, connection, load.options["sessions"])
        connection.reply(Loaded(load.number, has_gpu(), *runtime.boundaries()))
        connection.reply(Finished(load.number))
        for message in messages:
            worker.receive(message)


if __name__ == "__main__":
    with suppress(ConnectionError):  # the server is gone
        main()
    os._exit(0)  # without waiting for llama.cpp and its threads
