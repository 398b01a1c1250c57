"""The server and the model that options and environment select."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages, Verbosity
from lmcli.cli.options import DEMO_HOST, LOCAL_HOST, ModelOptions, Options, ServerOptions
from lmcli.client.address import LOOPBACK, Address
from lmcli.client.catalog import list_downloaded, list_loaded
from lmcli.client.connection import Connection
from lmcli.client.discovery import HOST_VARIABLE, credentials, find_server, find_token, is_readable_by_others
from lmcli.client.waiting import Interrupts, is_duration, no_interrupts
from lmcli.errors import BadSetting, NoModelLoaded, UsageError, quoted
from lmcli.values import ModelInstance

if TYPE_CHECKING:
    from lmcli.server.engine import Engine

TIMEOUT_VARIABLE: Final = "LM_TIMEOUT"
MODEL_VARIABLE: Final = "LM_MODEL"
MODEL_SUFFIX: Final = ".gguf"

_LIST_DEVICES: Final = "lm models --loaded --json lists the loaded models with their device_identifier"


@contextmanager
def connect(
    options: ServerOptions, env: Environment, messages: Messages, *, interrupts: Interrupts = no_interrupts
) -> Iterator[Connection]:
    """A connection for the duration of the block; `demo`, `local` or a GGUF file starts a server in this process.

    Raises:
        CannotConnect: no server can be reached.
        TokenExposed: the token would be sent unencrypted over a network.
        Unavailable: llama.cpp is not installed, there is no model on this machine, or the GGUF file is not valid.
        UsageError, BadSetting, NoInput: the address, token, file or number of seconds is not valid.
    """
    timeout = timeout_of(options, env)
    auth = credentials(_token(options.token_file, env, messages))
    trace = messages.detail if messages.verbosity is Verbosity.VERBOSE else None
    with (
        _server(options, env, messages) as address,
        Connection(
            address,
            auth,
            timeout=timeout,
            trace=trace,
            interrupts=interrupts,
            insecure_token=options.insecure_token,
        ) as connection,
    ):
        yield connection


def host_of(options: Options, env: Environment) -> str:
    """The address that an option or the environment names; empty if it is to be discovered."""
    return getattr(options, "host", None) or env.setting(HOST_VARIABLE) or ""


def runs_in_process(host: str) -> bool:
    """Whether an address stands for a server in this process."""
    return host in (DEMO_HOST, LOCAL_HOST) or _is_model_file(host)


def model_key(options: ModelOptions, env: Environment, messages: Messages) -> str | None:
    """The key of the model that an option names, or the default one; raises as `default_key`."""
    return options.model or default_key(options, env, messages)


def default_key(options: Options, env: Environment, messages: Messages) -> str | None:
    """The key of the model that a GGUF file as host or the environment names, or of the only local one.

    Raises:
        Unavailable, NoInput, LoadFailed, UsageError: the models of a server in this process cannot be run.
    """
    host = host_of(options, env)
    named = None if _is_model_file(host) else env.setting(MODEL_VARIABLE)
    if named is not None or host == DEMO_HOST or not runs_in_process(host):
        return named
    downloaded = _local_engine(host, env, messages).downloaded
    models = [model for model in downloaded if model.type == "llm"] or downloaded
    return models[0].model_key if len(models) == 1 else None


def loaded_model(connection: Connection, messages: Messages, device: str | None = None) -> ModelInstance:
    """The loaded model, the most recently used one of several; on a device of LM Link, if named.

    Raises:
        NoModelLoaded: none is loaded; a hint lists those that can be loaded.
    """
    instances = on_device(device, list_loaded(connection.session("llm")))
    if device is not None and not instances:
        raise NoModelLoaded(f"no model is loaded on the device {quoted(device)}", _LIST_DEVICES)
    latest = most_recent(instances)
    if latest is None:
        keys = [model.model_key for model in list_downloaded(connection.session("system")) if model.type == "llm"]
        available = f"there are: {', '.join(keys)}" if keys else "lms get downloads one"
        raise NoModelLoaded("no model is loaded", available)
    if len(instances) > 1:
        messages.note(f"several models are loaded, using {latest.identifier} (-m KEY chooses another)")
    return latest


def on_device(device: str | None, instances: Sequence[ModelInstance]) -> Sequence[ModelInstance]:
    """Those of the loaded models that are on a device of LM Link; all, if none is named."""
    return [instance for instance in instances if device in (None, instance.device_identifier)]


def most_recent(instances: Sequence[ModelInstance]) -> ModelInstance | None:
    """The most recently used of the loaded models."""
    return max(instances, key=lambda instance: instance.last_used_time or 0, default=None)


def timeout_of(options: ServerOptions, env: Environment) -> float | None:
    """The longest silence in seconds, from the option or the environment; None is unlimited.

    Raises:
        UsageError, BadSetting: it is not a number above 0, in the option or in the environment.
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
    raise BadSetting(f"{TIMEOUT_VARIABLE} is not a number of seconds above 0: {quoted(text)}")


@contextmanager
def _server(options: ServerOptions, env: Environment, messages: Messages) -> Iterator[Address]:
    host = host_of(options, env)
    if not runs_in_process(host):
        yield _external_server(options, env, messages)
        return
    from lmcli.server import background  # noqa: PLC0415  only for a server inside this process

    with ExitStack() as stack:
        engine = None
        if host != DEMO_HOST:
            engine = _local_engine(host, env, messages)
            stack.enter_context(_logging_to(messages))
        running = stack.enter_context(background.start(engine))
        yield Address(LOOPBACK, running.port)


def _external_server(options: ServerOptions, env: Environment, messages: Messages) -> Address:
    def note(addresses: Sequence[Address]) -> None:
        messages.note(
            f"several servers answer ({', '.join(map(str, addresses))}), using {addresses[0]}; -H chooses another"
        )

    return find_server(options.host, env.variables, on_several=note)


def _is_model_file(host: str) -> bool:
    return host.lower().endswith(MODEL_SUFFIX)


def _local_engine(host: str, env: Environment, messages: Messages) -> "Engine":
    """The engine for the GGUF file that is the host, or for the models on this machine."""
    from lmcli.cli.model_folders import model_folders  # noqa: PLC0415  only for models in this process
    from lmcli.server.llama.folder_search import with_models  # noqa: PLC0415

    files = with_models(model_folders(env.variables)) if host == LOCAL_HOST else [Path(host)]
    with _logging_to(messages):
        return _engine(tuple(files), is_verbose=messages.verbosity is Verbosity.VERBOSE)


@cache
def _engine(files: Sequence[Path], *, is_verbose: bool) -> "Engine":
    """The engine for files and folders, which are read once for each command."""
    from lmcli.server.llama import local_engine  # noqa: PLC0415  only for models in this process

    return local_engine(files, is_verbose=is_verbose)


def _logging_to(messages: Messages) -> AbstractContextManager[object]:
    from lmcli.cli import server_log  # noqa: PLC0415  only for models in this process

    return server_log.log_to(messages, server_log.WARNINGS)


def _token(path: Path | None, env: Environment, messages: Messages) -> str | None:
    if path is None:
        return find_token(None, env.variables)
    token = find_token(path, env.variables)
    if is_readable_by_others(path):
        messages.warning(f"the token file {quoted(path)} is readable by others: chmod 600 protects it")
    return token
