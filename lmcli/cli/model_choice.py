"""The models that a dialogue can use: a list of them, and the choice of one by its key."""

# ruff: noqa: PLC0415  for the commands /model and /models only

from collections.abc import Sequence
from typing import NamedTuple

from lmcli.cli.environment import Environment
from lmcli.cli.target import most_recent, on_device
from lmcli.client.catalog import list_downloaded, list_loaded
from lmcli.client.connection import Connection
from lmcli.errors import UsageError, quoted
from lmcli.values import ModelInfo


class ListedModel(NamedTuple):
    """A model that can answer.

    Attributes:
        model: the model.
        identifiers: the names of its loaded instances.
        is_in_use: whether it answers the next question.
    """

    model: ModelInfo
    identifiers: Sequence[str]
    is_in_use: bool


def list_models(connection: Connection, key: str | None, device: str | None) -> list[ListedModel]:
    """The language models of a server.

    Args:
        connection: the connection to it.
        key: the name of the one in use; None for the loaded one.
        device: the device of LM Link that has it, if it was named.
    """
    loaded = list_loaded(connection.session("llm"))
    latest = most_recent(on_device(device, loaded))
    in_use = key or (latest.identifier if latest else None)
    listed = []
    for model in list_downloaded(connection.session("system")):
        if model.type == "llm":
            identifiers = [instance.identifier for instance in loaded if instance.model_key == model.model_key]
            listed.append(ListedModel(model, identifiers, in_use in (model.model_key, *identifiers)))
    return listed


def choose_model(text: str, models: Sequence[ListedModel]) -> str:
    """The key that a text stands for: that of the only model with such a name, else the text.

    What a whole name or a quantization stands for, and which of several models is meant, is for the server to say.

    Raises:
        UsageError: there is no such model.
    """
    part = text.partition("@")[0].casefold()
    names = {listed.model.model_key: list(map(str.casefold, _names(listed))) for listed in models}
    matching = [key for key in names if any(part in name for name in names[key])]
    if len(matching) > 1 or any(part in names[key] for key in matching):
        return text
    if matching:
        return matching[0]
    from lmcli.cli.suggestions import nearest_keys

    nearest = nearest_keys(text, names)
    hints = [f"did you mean /model {' or /model '.join(nearest)}?"] if nearest else []
    raise UsageError(f"there is no model {quoted(text)}", *hints, "/models lists the models")


def _names(listed: ListedModel) -> tuple[str, ...]:
    return listed.model.model_key, listed.model.path, *listed.identifiers


def model_table(models: Sequence[ListedModel], env: Environment) -> str:
    """The models as a table for stderr; the one in use has a mark."""
    from lmcli.cli.output.drawing import size_text
    from lmcli.cli.output.tables import Table, render_table

    terminal = env._replace(stdout=env.stderr, stdout_is_terminal=env.stderr_is_terminal)
    headings = {"in_use": "", "key": "MODEL", "size": "SIZE", "loaded": "LOADED"}
    rows = [
        [
            "*" if listed.is_in_use else "",
            listed.model.model_key,
            size_text(listed.model.size_bytes),
            _loaded(listed.model.model_key, listed.identifiers),
        ]
        for listed in models
    ]
    return render_table(Table(headings, rows, labels_count=2), terminal)


def _loaded(key: str, identifiers: Sequence[str]) -> str:
    return "yes" if list(identifiers) == [key] else ", ".join(identifiers)
