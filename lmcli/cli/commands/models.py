"""`lm models`: which models there are, which are loaded; `lm models load` and `lm models unload`."""

from collections.abc import Mapping, Sequence
from typing import Final

from lmcli.cli.environment import Environment
from lmcli.cli.jsontext import written
from lmcli.cli.lifecycle import LoadLife
from lmcli.cli.messages import Messages
from lmcli.cli.model_cache import remember
from lmcli.cli.options import ModelsLoadOptions, ModelsOptions, ModelsUnloadOptions
from lmcli.cli.output.selection import progress_sink
from lmcli.cli.output.stdout import print_bytes
from lmcli.cli.output.tables import Cell, Table, drawn
from lmcli.cli.resolve import load_request
from lmcli.cli.run import Run
from lmcli.cli.target import connect
from lmcli.client.catalog import list_downloaded, list_loaded, unload
from lmcli.errors import ExitCode, LmError, UsageError
from lmcli.values import ModelInfo, ModelInstance

_HEADINGS: Final = {
    "key": "KEY",
    "kind": "KIND",
    "size": "SIZE",
    "context": "CONTEXT TOKENS",
    "loaded_as": "LOADED AS",
}


def run(options: ModelsOptions, _: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """List models: a table on a terminal, one name a line in a pipe, a JSON array with `--json`."""
    with connect(options, env, messages) as connection:
        loaded = list_loaded(connection.session("llm"))
        downloaded = [] if options.loaded else list_downloaded(connection.session("system"))
    if not options.loaded:
        remember((model.model_key for model in downloaded if model.type == "llm"), options, env)
    models: Sequence[ModelInfo] = loaded if options.loaded else downloaded
    if options.json:
        shown = written(_records(models, loaded), is_indented=env.stdout_is_terminal)
    elif env.stdout_is_terminal:
        shown = drawn(_table(models, loaded), env).encode()
    else:
        shown = "".join(f"{_name(model)}\n" for model in models).encode(errors="replace")
    print_bytes(shown, env.stdout)
    return ExitCode.OK


def _name(model: ModelInfo) -> str:
    return model.identifier if isinstance(model, ModelInstance) else model.model_key


def _records(models: Sequence[ModelInfo], loaded: Sequence[ModelInstance]) -> list[Mapping[str, object]]:
    instances = _instances_by_key(loaded)
    return [model.as_dict() | {"loaded": instances.get(model.model_key, [])} for model in models]


def _instances_by_key(loaded: Sequence[ModelInstance]) -> dict[str, list[str]]:
    instances: dict[str, list[str]] = {}
    for instance in loaded:
        instances.setdefault(instance.model_key, []).append(instance.identifier)
    return instances


def _table(models: Sequence[ModelInfo], loaded: Sequence[ModelInstance]) -> Table:
    instances = _instances_by_key(loaded)
    rows: list[list[Cell]] = [
        [
            _name(model),
            _kind(model),
            _size(model.size_bytes),
            model.context_length if isinstance(model, ModelInstance) else model.max_context_length,
            ", ".join(instances.get(model.model_key, [])),
        ]
        for model in models
    ]
    return Table(_HEADINGS, rows)


def _kind(model: ModelInfo) -> str:
    quantization = model.quantization.name if model.quantization else ""
    return " ".join(part for part in (model.type, model.params_string or "", quantization) if part)


def _size(size_bytes: int) -> str:
    value = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def run_load(options: ModelsLoadOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Load the model; Ctrl-C has the server stop loading it.

    Raises:
        UsageError: not exactly one model was named.
        ModelNotFound, LoadFailed: see `Session.load`.
    """
    if len(words) != 1:
        raise UsageError("name one model to load: lm models load KEY", "lm models lists the keys")
    request = load_request(words[0], options, identifier=options.identifier)
    work = Run(options, env, messages)
    with work.connected(), work.watched():
        progress = progress_sink(options, env, messages, work.output)
        load = LoadLife(work, [progress] if progress else [])

        def carry_out() -> None:
            instance = load.load(request)
            work.output.write(f"{instance.identifier}\n".encode())
            if _has_wishes(options) and not load.channel.is_new:
                messages.warning(f"{words[0]} was loaded already, and stays as it is (--identifier NAME loads another)")

        work.attempt(carry_out)
        load.finish()
    return work.end()


def _has_wishes(options: ModelsLoadOptions) -> bool:
    return any(value is not None for value in (options.ttl, options.context_length, options.gpu))


def run_unload(options: ModelsUnloadOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Unload the named models, or all; one that fails does not keep the others.

    Raises:
        UsageError: neither names nor `--all`, or both.
        LmError: the last failure, after all were tried.
    """
    if bool(words) == options.all:
        raise UsageError("name the models to unload, or say --all", "lm models --loaded lists them")
    failure: LmError | None = None
    with connect(options, env, messages) as connection:
        session = connection.session("llm")
        for identifier in words or [instance.identifier for instance in list_loaded(session)]:
            try:
                unload(session, identifier)
            except LmError as error:
                if failure is not None:
                    messages.error(failure)
                failure = error
    if failure is not None:
        raise failure
    return ExitCode.OK
