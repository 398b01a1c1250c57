"""`lm serve`: the server in the foreground, until a signal stops it."""

import asyncio
import errno
import ipaddress
import logging
import os
import shlex
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages
from lmcli.cli.model_folders import model_folders
from lmcli.cli.options import ServeOptions
from lmcli.cli.server_log import log_to
from lmcli.cli.signals import die_of
from lmcli.client.address import HTTP_PORT, LOOPBACK
from lmcli.client.discovery import TOKEN_FORM, is_readable_by_others
from lmcli.client.local_files import read_bytes
from lmcli.client.waiting import Woken, wait
from lmcli.errors import BadSetting, ExitCode, LoadFailed, NoInput, Unavailable, UsageError, quoted, reason
from lmcli.server.access import read_origin
from lmcli.server.echo.echo_engine import EchoEngine, Pace
from lmcli.server.engine import Engine
from lmcli.server.listener import Server
from lmcli.server.llama import local_engine
from lmcli.server.llama.folder_search import with_models
from lmcli.server.model_load import ModelLoad
from lmcli.server.request_errors import RequestFailed
from lmcli.wire.protocol import API_PORTS

_API_TOKEN_FORMAT: Final = "sk-lm-, 8 letters or digits, a colon, 20 letters or digits"  # noqa: S105  its description
_LOOPBACK_NAME: Final = "localhost"
_WILDCARDS: Final = {"0.0.0.0": LOOPBACK, "::": "::1"}
# How long the server may take to close after a signal, in seconds; what goes on then ends with the process.
_CLOSE_SECONDS: Final = 3.0
_STDOUT_SECONDS: Final = 0.1
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_log: Final = logging.getLogger(__name__)


def run(options: ServeOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Serve until SIGINT or SIGTERM, then die of that signal.

    Prints the server's address on stdout as soon as connections are accepted, and nothing else; logs to stderr. A
    single model is loaded meanwhile, and requests for it wait.

    Raises:
        UsageError: the server would be open to the network without authentication, or an origin has another form.
        Unavailable: the server cannot listen on the address, or the models cannot be run or loaded.
        NoInput: the token file, or a model, is not there.
        BadSetting: the token file is not valid.
    """
    if options.require_token is None and not _is_loopback(options.host):
        raise UsageError(
            f"listening on {quoted(options.host)} opens the server to everyone on the network",
            "add --require-token FILE, or listen on 127.0.0.1",
        )
    origins = _origins(options.allow_origin or ())
    with log_to(messages) as log, asyncio.Runner() as runner:
        api_tokens = None if options.require_token is None else read_api_tokens(options.require_token)
        engine = _engine(options, [Path(word) for word in words])
        models = [model for model in engine.downloaded if model.type == "llm"]
        preload = models[0] if words and len(models) == 1 and not options.lazy else None
        server = Server(engine, api_tokens=api_tokens, allowed_origins=origins, preload=preload)
        host = LOOPBACK if options.host == _LOOPBACK_NAME else options.host
        port = HTTP_PORT if options.port is None else options.port
        suggest = None if words else partial(_suggest_models, env, log.hint)
        signum = runner.run(_serve(server, host, port, env.stdout, suggest, is_discovered=options.port is None))
        log.finish()
        die_of(signum)  # without the end of the runner, which waits for threads, such as one that reads a long text


def _engine(options: ServeOptions, files: Sequence[Path]) -> Engine:
    """The engine for GGUF files and folders, or the echo models if there are none."""
    if files:
        return local_engine(files, key=options.key, sessions=options.parallel, is_verbose=options.verbose)
    given = {"--key": options.key, "--lazy": options.lazy, "--parallel": options.parallel}
    for option, value in given.items():
        if value not in (None, False):
            raise UsageError(f"{option} is for GGUF files, and none is named", "lm serve MODEL.gguf runs one")
    return EchoEngine(_pace(options))


def _suggest_models(env: Environment, hint: Callable[[str], None]) -> None:
    """Show how to serve the models on this machine, if they can be run."""
    if find_spec("xllamacpp") and (folders := with_models(model_folders(env.variables))):
        hint(f"lm serve {shlex.join(map(str, folders))} serves the models on this machine")


def read_api_tokens(file: Path) -> Mapping[str, str]:
    """Read the API tokens that are accepted, one per line, as passkeys by identifier.

    Raises:
        NoInput: the file cannot be read.
        BadSetting: a line is not an API token, or there is none.
    """
    try:
        lines = read_bytes(file).split(b"\n")
    except OSError as error:
        raise NoInput(f"cannot read the token file {quoted(file)}: {reason(error)}") from error
    if is_readable_by_others(file):
        _log.warning("the token file %s is readable by others: chmod 600 protects it", quoted(file))
    tokens: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.decode("ascii", "replace").strip()
        if not text:
            continue
        found = TOKEN_FORM.fullmatch(text)
        if found is None:
            raise BadSetting(f"{quoted(file)}, line {number}: not an API token", f"its format is {_API_TOKEN_FORMAT}")
        tokens[found[1]] = found[2]
    if not tokens:
        raise BadSetting(f"{quoted(file)} contains no API token", f"its format is {_API_TOKEN_FORMAT}")
    return tokens


async def _serve(
    server: Server, host: str, port: int, stdout: int, suggest: Callable[[], None] | None, *, is_discovered: bool
) -> signal.Signals:
    """Serve until a signal; `suggest` is called in a thread, for it may read many folders."""
    stopped = _watch_signals()
    try:
        bound = await server.start(host, port)
    except OSError as error:
        raise _listen_failure(error, host, port) from error
    try:
        with server.startup.subscribed() if server.startup else nullcontext():
            if is_discovered:
                _log_discovery(await server.listen_for_discovery())
            await _announce(f"http://{_address(_WILDCARDS.get(host, host), bound)}", stdout, stopped)
            if server.startup is not None:
                await _loaded(server.startup, stopped)
        if suggest is not None:
            asyncio.get_running_loop().run_in_executor(None, suggest)
        return await stopped
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await server.close()


def _log_discovery(port: int | None) -> None:
    """Say on which port clients find the server, and where they look before."""
    before = ", ".join(map(str, API_PORTS if port is None else API_PORTS[: API_PORTS.index(port)]))
    if port is None:
        _log.warning("clients need the address of the server: the ports on which they look, %s, are in use", before)
    else:
        condition = f", unless one answers on {before}" if before else ""
        _log.info("clients without an address find the server on port %s%s", port, condition)


def _listen_failure(error: OSError, host: str, port: int) -> Unavailable:
    """Why the server cannot listen, with the text of the system in place of that of asyncio."""
    is_name = isinstance(error, socket.gaierror)
    cause = reason(error if is_name else OSError(error.errno, os.strerror(error.errno or errno.EADDRNOTAVAIL)))
    hints = {
        errno.EADDRINUSE: (f"lsof -i :{port} shows which process listens there", "--port 0 picks a free port"),
        errno.EACCES: ("--port 0 picks a free port",),
    }.get(error.errno or 0, ("--host names an address of this machine",))
    return Unavailable(f"cannot listen on {_address(host, port)}: {cause}", *hints)


def _watch_signals() -> asyncio.Future[signal.Signals]:
    """A future that is done when a signal arrives."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    return stopped


async def _announce(address: str, stdout: int, stopped: asyncio.Future[signal.Signals]) -> None:
    """Print the address as soon as stdout accepts it: a full pipe must not delay a signal."""
    while wait(stdout, to_read=False, to_write=True, interrupts=(), timeout=0) is Woken.TIMED_OUT:
        await asyncio.wait((stopped,), timeout=_STDOUT_SECONDS)
        if stopped.done():
            return
    print(address, flush=True)  # noqa: T201  scripts wait for this line
    _log.info("serving, Ctrl-C stops the server")


async def _loaded(load: ModelLoad, stopped: asyncio.Future[signal.Signals]) -> None:
    """Wait for the load at the start, or for a signal.

    Raises:
        LoadFailed: the model cannot be loaded.
    """
    _log.info("loading %s", load.identifier)
    await asyncio.wait((load.task, stopped), return_when=asyncio.FIRST_COMPLETED)
    if stopped.done():
        return
    try:
        _log.info("%s is loaded", load.task.result().identifier)
    except RequestFailed as error:
        hints = [error.suggestion] if error.suggestion else []
        raise LoadFailed(f"{error.title[:1].lower()}{error.title[1:]}", *hints) from error


def _origins(texts: Sequence[str]) -> Sequence[str]:
    try:
        return [read_origin(text) for text in texts]
    except ValueError as error:
        problem = f"--allow-origin: {quoted(error)} is not an origin"
        raise UsageError(problem, "an origin is a scheme, a host and maybe a port: https://example.com:8443") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == _LOOPBACK_NAME


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _pace(options: ServeOptions) -> Pace:
    return Pace(
        tokens_per_second=options.tokens_per_second,
        load_seconds=options.load_seconds,
        prompt_tokens_per_second=options.prompt_tokens_per_second,
    )
