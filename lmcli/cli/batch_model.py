"""The model of a batch: obtained once, and again if it or the connection was lost."""

from collections.abc import Sequence

from lmcli.cli.lifecycle import LoadLifecycle
from lmcli.cli.options import LoadOptions
from lmcli.cli.output.sinks import Sink
from lmcli.cli.resolve import load_request
from lmcli.cli.runner import Runner
from lmcli.cli.target import loaded_model
from lmcli.client.catalog import list_loaded
from lmcli.client.session import Session
from lmcli.errors import NoModelLoaded
from lmcli.values import ModelInstance, PredictionEnd


class BatchModel:
    """The model that answers the records.

    Args:
        key: the key of the model to load; None for the one that is loaded.
        options: how to load it.
        sinks: show the progress of a load.

    Attributes:
        instance: the loaded model; None before it was obtained.
    """

    def __init__(self, key: str | None, options: LoadOptions, sinks: Sequence[Sink]) -> None:
        self.instance: ModelInstance | None = None
        self._key = key
        self._options = options
        self._sinks = sinks
        self._seen_key: str | None = None

    def obtain(self, runner: Runner) -> ModelInstance:
        """Have it loaded, unless it is.

        Raises:
            LmError: it cannot be had.
        """
        if self._key is not None:
            self.instance = self._load(self._key, runner)
        elif self.instance is None:
            self.instance = loaded_model(runner.connection, runner.messages, self._options.device)
        elif not self.is_loaded(runner.session):
            if self._seen_key is None:
                raise NoModelLoaded(f"the model {self.instance.identifier} is no longer loaded")
            self.instance = self._load(self._seen_key, runner)
        return self.instance

    def is_loaded(self, session: Session) -> bool:
        """Whether the server still has it."""
        identifier = None if self.instance is None else self.instance.identifier
        return any(instance.identifier == identifier for instance in list_loaded(session))

    def note(self, end: PredictionEnd) -> None:
        """Note the key of a model that was loaded before, to load it again."""
        self._seen_key = end.model_info.model_key

    def _load(self, key: str, runner: Runner) -> ModelInstance:
        load = LoadLifecycle(runner, self._sinks)
        try:
            return load.load(load_request(key, self._options))
        finally:
            load.finish()
