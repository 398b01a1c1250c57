"""`lm models`: list models; `lm models load` and `lm models unload`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from lmcli.cli.environment import Environment
from lmcli.cli.json_text import dump_json
from lmcli.cli.messages import Messages
from lmcli.cli.model_cache import KEYS, LOADED, add, forget, remember
from lmcli.cli.options import ModelsLoadOptions, ModelsOptions, ModelsUnloadOptions, ServerOptions
from lmcli.cli.output.stdout import print_bytes
from lmcli.cli.target import connect, host_of, runs_in_process
from lmcli.client.connection import Connection
from lmcli.errors import ExitCode, LmError, ModelNotFound, UsageError, escaped, quoted
from lmcli.values import JsonObject, ModelInfo, ModelInstance
from lmcli.wire.objects import snake
from lmcli.wire.queries import list_downloaded, list_loaded, unload, with_source

if TYPE_CHECKING:
    from lmcli.cli.output.tables import Cell

_NAMESPACES: Final = ("llm", "embedding")
_HEADINGS: Final = {
    "key": "KEY",
    "kind": "KIND",
    "size": "SIZE",
    "context": "CONTEXT TOKENS",
    "loaded_as": "LOADED AS",
}
_DEVICE_HEADING: Final = {"device": "DEVICE"}


def run(options: ModelsOptions, _: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """List models: a table on a terminal, one name per line in a pipe, a JSON array with `--json`."""
    with connect(options, env, messages) as connection:
        instances = _loaded(connection)
        entries = None if options.loaded else connection.session("system").ask(with_source(list_downloaded()))
    loaded = [instance for instance, _ in instances]
    remember(LOADED, (instance.identifier for instance in loaded), options, env)
    if entries is not None:
        remember(KEYS, (model.model_key for model, _ in entries if model.type == "llm"), options, env)
    listed: Sequence[tuple[ModelInfo, JsonObject]] = instances if entries is None else entries
    models = [model for model, _ in listed]
    if options.json:
        shown = dump_json(_records(listed, loaded), is_indented=env.stdout_is_terminal)
    elif env.stdout_is_terminal:
        shown = _table(models, loaded, env).encode()
    else:
        shown = _lines(map(_name, models), env)
    print_bytes(shown, env.stdout)
    return ExitCode.OK


def _loaded(connection: Connection) -> list[tuple[ModelInstance, JsonObject]]:
    """The loaded models of all kinds, each with what the server says of it."""
    return [entry for name in _NAMESPACES for entry in connection.session(name).ask(with_source(list_loaded()))]


def _name(model: ModelInfo) -> str:
    return model.identifier if isinstance(model, ModelInstance) else model.model_key


def _records(
    listed: Sequence[tuple[ModelInfo, JsonObject]], loaded: Sequence[ModelInstance]
) -> list[Mapping[str, object]]:
    """The models as JSON; what only a newer server says comes last."""
    instances = _instances_by_key(loaded)
    records: list[Mapping[str, object]] = []
    for model, source in listed:
        record = model.as_dict() | {"loaded": instances.get(model.model_key, [])}
        records.append(record | {snake(key): source[key] for key in source if snake(key) not in record})
    return records


def _identifiers(connection: Connection, device: str | None) -> list[str]:
    """The loaded models of every kind, of a device if one is named."""
    return [model.identifier for model, _ in _loaded(connection) if device in (None, model.device_identifier)]


def _instances_by_key(loaded: Sequence[ModelInstance]) -> dict[str, list[str]]:
    instances: dict[str, list[str]] = {}
    for instance in loaded:
        instances.setdefault(instance.model_key, []).append(instance.identifier)
    return instances


def _lines(names: Iterable[str], env: Environment) -> bytes:
    """Names, one per line; as they are in a pipe, escaped on a terminal."""
    shown = map(escaped, names) if env.stdout_is_terminal else names
    return "".join(f"{name}\n" for name in shown).encode(errors="replace")


def _table(models: Sequence[ModelInfo], loaded: Sequence[ModelInstance], env: Environment) -> str:
    from lmcli.cli.output.drawing import size_text  # noqa: PLC0415  a pipe has names only
    from lmcli.cli.output.tables import Table, render_table  # noqa: PLC0415

    instances = _instances_by_key(loaded)
    rows: list[list[Cell]] = [
        [
            _name(model),
            _kind(model),
            size_text(model.size_bytes),
            model.context_length if isinstance(model, ModelInstance) else model.max_context_length,
            ", ".join(instances.get(model.model_key, [])),
        ]
        for model in models
    ]
    if not any(model.device_identifier for model in models):
        return render_table(Table(_HEADINGS, rows), env)
    devices = (model.device_identifier or "" for model in models)
    rows = [[*row, device] for row, device in zip(rows, devices, strict=True)]
    return render_table(Table(_HEADINGS | _DEVICE_HEADING, rows), env)


def _kind(model: ModelInfo) -> str:
    quantization = model.quantization.name if model.quantization else ""
    return " ".join(part for part in (model.type, model.params_string or "", quantization) if part)


def run_load(options: ModelsLoadOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Load the model; Ctrl-C cancels the load on the server.

    Raises:
        UsageError: not exactly one model was named, or the server would end with the command.
        ModelNotFound, LoadFailed: see `Session.load`.
    """
    from lmcli.cli.lifecycle import LoadLifecycle  # noqa: PLC0415  listing models loads none of these
    from lmcli.cli.output.selection import progress_sink  # noqa: PLC0415
    from lmcli.cli.resolve import load_request  # noqa: PLC0415
    from lmcli.cli.runner import Runner  # noqa: PLC0415

    if len(words) != 1:
        raise UsageError("name one model to load: lm models load KEY", "lm models lists the keys")
    _require_lasting_server(options, env)
    request = load_request(words[0], options, identifier=options.identifier)
    runner = Runner(options, env, messages)
    with runner.connected(), runner.watched():
        progress = progress_sink(options, env, messages, runner.output)
        load = LoadLifecycle(runner, [progress] if progress else [])

        def load_and_print() -> None:
            instance = load.load(request)
            runner.output.write(_lines([instance.identifier], env))
            add(LOADED, instance.identifier, options, env)
            if _has_load_options(options) and not load.channel.is_new:
                messages.warning(f"{words[0]} was loaded already and is unchanged (--identifier NAME loads another)")

        runner.attempt(load_and_print)
        load.finish()
    return runner.end()


def _require_lasting_server(options: ServerOptions, env: Environment) -> None:
    """Refuse a server inside this process, whose models are unloaded when the command ends."""
    host = host_of(options, env)
    if runs_in_process(host):
        raise UsageError(f"no model stays loaded: {quoted(host)} ends with the command", "lm serve keeps models loaded")


def _has_load_options(options: ModelsLoadOptions) -> bool:
    return any(value is not None for value in (options.ttl, options.context_length, options.gpu, options.set_))


def run_unload(options: ModelsUnloadOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Unload the named models, or all; a failure does not affect the others.

    Raises:
        UsageError: neither names nor `--all`, or both, or the server would end with the command.
        LmError: the last failure, after all were attempted.
    """
    if bool(words) == options.all:
        raise UsageError("name the models to unload, or use --all", "lm models --loaded lists them")
    _require_lasting_server(options, env)
    failure: LmError | None = None
    with connect(options, env, messages) as connection:
        for identifier in words or _identifiers(connection, options.device):
            try:
                _unload(connection, identifier, options.device)
            except LmError as error:
                if failure is not None:
                    messages.error(failure)
                failure = error
            else:
                forget(LOADED, identifier, options, env)
    if failure is not None:
        raise failure
    return ExitCode.OK


def _unload(connection: Connection, identifier: str, device: str | None) -> None:
    """Unload a model of whatever kind, on any device of LM Link or on one.

    Raises:
        ModelNotFound: no loaded model has this identifier.
    """
    try:
        connection.session("llm").ask(unload(identifier, device))
    except ModelNotFound:
        others = connection.session("embedding").ask(list_loaded())
        if all(identifier != instance.identifier for instance in others):
            raise
        connection.session("embedding").ask(unload(identifier, device))
