"""A prediction on its way: loaded, run, delivered, judged, and written down."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lmcli.cli.choices import OutputForm, RawOutputForm
from lmcli.cli.connect import model_key
from lmcli.cli.delivery import deliver
from lmcli.cli.keys import add
from lmcli.cli.options import PredictionOptions
from lmcli.cli.output import Output, ReaderLeft
from lmcli.cli.records import Presence, Text
from lmcli.cli.request import Request, load_opening, options_record
from lmcli.cli.sinks import Outcome, Sink
from lmcli.cli.sinks.choice import answer_sink, stderr_sinks
from lmcli.cli.stops import BROKEN_PIPE, Interrupted, Stops
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.verdict import verdict
from lmcli.cli.voice import Voice
from lmcli.client.connection import Connection
from lmcli.client.exchanges import Exchange, Prediction
from lmcli.client.images import Uploads
from lmcli.errors import LmError


class Task(NamedTuple):
    """Everything that one run of a command has at hand."""

    command: str
    request: Request
    typed: PredictionOptions
    form: OutputForm | RawOutputForm
    here: Surroundings
    voice: Voice

    @property
    def model_key(self) -> str | None:
        """The model that was named, by option or environment."""
        return model_key(self.typed, self.here)


class Run:
    """One prediction, from the load of its model to the record of its figures.

    Args:
        task: what is to be done.
        connection: the way to the server.
        uploads: puts images on the server.
        stops: the signals to obey.
        keepers: further sinks, such as one that keeps the text.

    Attributes:
        outcome: how it ended.
        has_lost_its_reader: nobody reads stdout any more.
    """

    def __init__(
        self, task: Task, connection: Connection, uploads: Uploads, stops: Stops, keepers: Sequence[Sink] = ()
    ) -> None:
        self.outcome = Outcome()
        self.has_lost_its_reader = False
        self._task = task
        self._connection = connection
        self._uploads = uploads
        self._stops = stops
        self._output = Output(task.here.stdout, stops)
        self._answer = answer_sink(task.form, task.request, self._output, task.here)
        self._stderr = stderr_sinks(task.typed, task.here, task.voice)
        self._presence = Presence()
        self._text = Text() if task.request.schema else None
        self._keepers = [*keepers, self._presence, *([self._text] if self._text else [])]

    def carry_out(self, model: str | None) -> None:
        """Load what must be loaded, predict, complete the output and write the figures down.

        Args:
            model: the identifier of the model to use; None loads the one that the task names.
        """
        self._unless_stopped(self._predict, model)
        self.outcome = self.outcome._replace(signum=self.outcome.signum or self._stops.signum)
        for sink in self._stderr:
            sink.finish(self.outcome)
        self._unless_stopped(self._answer.finish, self.outcome)
        if self._task.typed.stats or self._task.typed.stats_file is not None:
            self._unless_stopped(self._write_figures)

    def _unless_stopped(self, step: Callable[..., None], *arguments: object) -> None:
        """Take one step; what ends it early is kept for the end of the process, the first error counts."""
        try:
            step(*arguments)
        except Interrupted:
            pass  # `stops` knows the signal
        except ReaderLeft:
            self.has_lost_its_reader = True
            self.outcome = self.outcome._replace(signum=BROKEN_PIPE)
        except LmError as error:
            self.outcome = self.outcome._replace(error=self.outcome.error or error)

    def _predict(self, model: str | None) -> None:
        task = self._task
        session = self._connection.session("llm")
        if model is None:
            loading = session.load(load_opening(str(task.model_key), task.typed))
            self._deliver(loading)
            model = loading.wait().identifier
        opening = task.request.opening(model, self._uploads.resolve)
        prediction = session.predict(opening, task.request.fallback(model))
        try:
            self._deliver(prediction)
        finally:
            self.outcome = self.outcome._replace(end=prediction.end)
        self._judge(prediction)

    def _judge(self, prediction: Prediction) -> None:
        if prediction.end is None:
            return
        add(prediction.end.model_info.model_key, self._task.typed, self._task.here)
        request = self._task.request
        may_be_empty = isinstance(request.subject, str) or request.schema is not None
        error = verdict(prediction.end, request.config, is_empty=not (may_be_empty or self._presence.is_there))
        recovered = None
        if error is None and request.schema is not None and self._text is not None:
            if not self._presence.is_there:
                recovered = request.schema.recovered(self._text.reasoning)
            error = None if recovered else request.schema.flaw(self._text.answer)
        if recovered is not None:
            self._task.voice.warning("the answer was inside the reasoning of the model")
        self.outcome = self.outcome._replace(error=error, recovered=recovered)

    def _deliver(self, exchange: Exchange) -> None:
        ticks = [sink.tick for sink in self._stderr if sink.tick is not None]
        sinks = [*self._stderr, self._answer, *self._keepers]
        deliver(exchange, sinks, self._output, self._stops, tick=min(ticks, default=None))

    def _write_figures(self) -> None:
        from lmcli.cli.figures import append_line, stats_line, stats_text  # noqa: PLC0415  only who asks for them pays

        task, outcome = self._task, self.outcome
        if task.typed.stats and outcome.end is not None:
            task.voice.raw(stats_text(outcome.end))
        if task.typed.stats_file is not None:
            line = stats_line(task.command, options_record(task.typed), outcome, task.model_key)
            append_line(task.typed.stats_file, line)
