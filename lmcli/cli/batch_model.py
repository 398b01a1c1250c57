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
from lmcli.values import PredictionEnd


class BatchModel:
    """The model that answers the records.

    Args:
        key: the key of the model to load; None for the one that is loaded.
        options: how to load it.
        sinks: show the progress of a load.

    Attributes:
        identifier: its name among the loaded models; None before it was obtained.
    """

    def __init__(self, key: str | None, options: LoadOptions, sinks: Sequence[Sink]) -> None:
        self.identifier: str | None = None
        self._key = key
        self._options = options
        self._sinks = sinks
        self._seen_key: str | None = None

    def obtain(self, runner: Runner) -> str:
        """Have it loaded, unless it is; return its identifier.

        Raises:
            LmError: it cannot be had.
        """
        if self._key is not None:
            self.identifier = self._load(self._key, runner)
        elif self.identifier is None:
            self.identifier = loaded_model(runner.connection, runner.messages, self._options.device)
        elif not self.is_loaded(runner.session):
            if self._seen_key is None:
                raise NoModelLoaded(f"the model {self.identifier} is no longer loaded")
            self.identifier = self._load(self._seen_key, runner)
        return self.identifier

    def is_loaded(self, session: Session) -> bool:
        """Whether the server still has it."""
        return any(instance.identifier == self.identifier for instance in list_loaded(session))

    def note(self, end: PredictionEnd) -> None:
        """Note the key of a model that was loaded before, to load it again."""
        self._seen_key = end.model_info.model_key

    def _load(self, key: str, runner: Runner) -> str:
        load = LoadLifecycle(runner, self._sinks)
        try:
            return load.load(load_request(key, self._options)).identifier
        finally:
            load.finish()
