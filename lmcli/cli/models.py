"""`lm models`: which models there are, and which of them are loaded."""

from collections.abc import Mapping, Sequence
from typing import Final

from lmcli.cli.connect import connect
from lmcli.cli.jsontext import written
from lmcli.cli.keys import remember
from lmcli.cli.options import ModelsOptions
from lmcli.cli.output import print_bytes
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.tables import Cell, Table, drawn
from lmcli.cli.voice import Voice
from lmcli.client.catalog import list_downloaded, list_loaded
from lmcli.errors import ExitCode
from lmcli.values import ModelInfo, ModelInstance

_HEADINGS: Final = {
    "key": "KEY",
    "kind": "KIND",
    "size": "SIZE",
    "context": "CONTEXT TOKENS",
    "loaded_as": "LOADED AS",
}


def run(typed: ModelsOptions, _: Sequence[str], here: Surroundings, voice: Voice) -> ExitCode:
    """List models: a table on a terminal, one name a line in a pipe, a JSON array with `--json`."""
    with connect(typed, here, voice) as connection:
        loaded = list_loaded(connection.session("llm"))
        downloaded = [] if typed.loaded else list_downloaded(connection.session("system"))
    if not typed.loaded:
        remember((model.model_key for model in downloaded if model.type == "llm"), typed, here)
    models: Sequence[ModelInfo] = loaded if typed.loaded else downloaded
    if typed.json:
        shown = written(_records(models, loaded), is_indented=here.stdout_is_terminal)
    elif here.stdout_is_terminal:
        shown = drawn(_table(models, loaded), here).encode()
    else:
        shown = "".join(f"{_name(model)}\n" for model in models).encode(errors="replace")
    print_bytes(shown, here.stdout)
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
