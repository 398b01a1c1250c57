"""Typed options and the environment → a connection to the server that is meant."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages, Verbosity
from lmcli.cli.options import DEMO_HOST, ModelOptions, ServerOptions
from lmcli.client.address import LOOPBACK, Address
from lmcli.client.catalog import list_downloaded, list_loaded
from lmcli.client.connection import Connection
from lmcli.client.discovery import HOST_VARIABLE, credentials, find_server, find_token, is_readable_by_others
from lmcli.client.waiting import Interrupts, is_duration, no_interrupts
from lmcli.errors import BadSetting, CannotConnect, NoModelLoaded, UsageError, quoted

if TYPE_CHECKING:
    from lmcli.server.engine import Engine

TIMEOUT_VARIABLE: Final = "LM_TIMEOUT"
MODEL_VARIABLE: Final = "LM_MODEL"
_HOST_HINT: Final = "--host HOST:PORT names another one, --host demo needs none"
MODEL_SUFFIX: Final = ".gguf"


@contextmanager
def connect(
    options: ServerOptions, env: Environment, messages: Messages, *, interrupts: Interrupts = no_interrupts
) -> Iterator[Connection]:
    """The way to the server, until the block ends; `demo` or a GGUF file starts one in this process for as long.

    Raises:
        CannotConnect: there is none on this machine.
        Unavailable: there is no llama.cpp for a GGUF file, or the file is damaged.
        UsageError, BadSetting, NoInput: what was given is no address, token, file or number of seconds.
    """
    timeout = timeout_of(options, env)
    who = credentials(_token(options.token_file, env, messages))
    trace = messages.detail if messages.verbosity is Verbosity.VERBOSE else None
    with (
        _server(options, env, messages) as address,
        Connection(address, who, timeout=timeout, trace=trace, interrupts=interrupts) as connection,
    ):
        yield connection


def model_key(options: ModelOptions, env: Environment) -> str | None:
    """The model that was named: by option, by a file that is the host, or by the environment.

    Raises:
        NoInput, LoadFailed, UsageError: the file is not there, is damaged, or holds no language model.
    """
    return options.model or _key_of_host(options, env) or env.setting(MODEL_VARIABLE)


def loaded_model(connection: Connection, messages: Messages) -> str:
    """The identifier of the model to use when none was named: the one that is loaded, or the last one used.

    Raises:
        NoModelLoaded: none is loaded; the hint says which could be.
    """
    instances = list_loaded(connection.session("llm"))
    if not instances:
        keys = [model.model_key for model in list_downloaded(connection.session("system")) if model.type == "llm"]
        there_are = f"there are: {', '.join(keys)}" if keys else "lms get downloads one"
        raise NoModelLoaded("no model is loaded", there_are)
    latest = max(instances, key=lambda instance: instance.last_used_time or 0)
    if len(instances) > 1:
        messages.note(f"several models are loaded, this goes to {latest.identifier} (-m KEY takes another)")
    return latest.identifier


def timeout_of(options: ServerOptions, env: Environment) -> float | None:
    """The longest silence in seconds, from the option or the environment; None waits for ever.

    Raises:
        UsageError, BadSetting: it is no number above 0; the latter where it came from the environment.
    """
    if options.timeout is not None:
        if is_duration(options.timeout):
            return options.timeout
        raise UsageError(f"--timeout takes a number of seconds above 0, not {options.timeout:g}")
    text = env.setting(TIMEOUT_VARIABLE)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if is_duration(seconds):
        return seconds
    raise BadSetting(f"{TIMEOUT_VARIABLE} is no number of seconds above 0: {quoted(text)}")


@contextmanager
def _server(options: ServerOptions, env: Environment, messages: Messages) -> Iterator[Address]:
    host = options.host or env.setting(HOST_VARIABLE) or ""
    if host != DEMO_HOST and not _is_model_file(host):
        yield _found_server(options, env, messages)
        return
    from lmcli.server import background  # noqa: PLC0415  the server is loaded by who asks for it

    with background.start(None if host == DEMO_HOST else _local_engine(host, messages)) as running:
        yield Address(LOOPBACK, running.port)


def _found_server(options: ServerOptions, env: Environment, messages: Messages) -> Address:
    def note(found: Sequence[Address]) -> None:
        messages.note(f"several servers answer ({', '.join(map(str, found))}), using {found[0]}; -H chooses another")

    try:
        return find_server(options.host, env.variables, on_several=note)
    except CannotConnect as error:
        raise CannotConnect(error.message, *error.hints, _HOST_HINT) from error


def _is_model_file(host: str) -> bool:
    return host.lower().endswith(MODEL_SUFFIX)


def _local_engine(host: str, messages: Messages) -> "Engine":
    from lmcli.cli import server_log  # noqa: PLC0415  who names a file pays
    from lmcli.server.llama import local_engine  # noqa: PLC0415

    server_log.log_through(messages, server_log.WARNINGS)
    return local_engine([Path(host)], is_verbose=messages.verbosity is Verbosity.VERBOSE)


def _key_of_host(options: ModelOptions, env: Environment) -> str | None:
    host = getattr(options, "host", None) or env.setting(HOST_VARIABLE) or ""
    if not _is_model_file(host):
        return None
    from lmcli.server.llama.model_files import local_models  # noqa: PLC0415  who names a file pays

    return local_models([Path(host)])[0].info.model_key


def _token(path: Path | None, env: Environment, messages: Messages) -> str | None:
    if path is None:
        return find_token(None, env.variables)
    token = find_token(path, env.variables)
    if is_readable_by_others(path):
        messages.warning(f"others can read the token file {quoted(path)}: chmod 600 keeps it to yourself")
    return token
