"""`lm models`: which models there are, and which of them are loaded."""

import os
from collections.abc import Mapping, Sequence

import orjson

from lmcli.cli.connect import connect
from lmcli.cli.options import ModelsOptions
from lmcli.cli.output import print_bytes
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.voice import Voice
from lmcli.client.catalog import list_downloaded, list_loaded
from lmcli.errors import ExitCode
from lmcli.values import ModelInfo, ModelInstance


def run(typed: ModelsOptions, _: Sequence[str], here: Surroundings, voice: Voice) -> ExitCode:
    """List models: a table on a terminal, one name a line in a pipe, a JSON array with `--json`."""
    with connect(typed, here, voice) as connection:
        loaded = list_loaded(connection.session("llm"))
        downloaded = [] if typed.loaded else list_downloaded(connection.session("system"))
    models: Sequence[ModelInfo] = loaded if typed.loaded else downloaded
    if typed.json:
        layout = orjson.OPT_INDENT_2 if here.stdout_is_terminal else 0
        shown = orjson.dumps(_records(models, loaded), option=layout | orjson.OPT_APPEND_NEWLINE)
    elif here.stdout_is_terminal:
        shown = _table(models, loaded, width=_width(here)).encode()
    else:
        shown = "".join(f"{_name(model)}\n" for model in models).encode()
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


def _table(models: Sequence[ModelInfo], loaded: Sequence[ModelInstance], *, width: int) -> str:
    from rich.console import Console  # noqa: PLC0415  only a terminal gets a table
    from rich.table import Table  # noqa: PLC0415

    instances = _instances_by_key(loaded)
    table = Table(box=None, pad_edge=False, header_style="")
    for heading in ("KEY", "KIND", "SIZE", "CONTEXT", "LOADED AS"):
        table.add_column(heading, justify="right" if heading in ("SIZE", "CONTEXT") else "left", no_wrap=True)
    for model in models:
        context = model.context_length if isinstance(model, ModelInstance) else model.max_context_length
        names = ", ".join(instances.get(model.model_key, []))
        table.add_row(_name(model), _kind(model), _size(model.size_bytes), str(context), names)
    console = Console(width=width, color_system=None, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


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


def _width(here: Surroundings) -> int:
    try:
        return os.get_terminal_size(here.stdout).columns or 80
    except OSError:
        return 80
