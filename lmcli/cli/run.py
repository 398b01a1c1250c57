"""A prediction on its way: loaded, run, delivered, judged, and written down."""

from collections.abc import Sequence
from typing import NamedTuple

from lmcli.cli.choices import OutputForm, RawOutputForm
from lmcli.cli.connect import model_key
from lmcli.cli.delivery import deliver
from lmcli.cli.ending import Ending
from lmcli.cli.keys import add
from lmcli.cli.options import PredictionOptions
from lmcli.cli.output import Output
from lmcli.cli.records import Presence, Text
from lmcli.cli.request import Request, load_opening, options_record
from lmcli.cli.sinks import Outcome, Sink
from lmcli.cli.sinks.choice import answer_sink, stderr_sinks
from lmcli.cli.stops import Stops
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.verdict import verdict
from lmcli.cli.voice import Voice
from lmcli.client.connection import Connection
from lmcli.client.images import Uploads
from lmcli.client.session import Session
from lmcli.values import PredictionEnd
from lmcli.wire.channels import Channel, Prediction


class Task(NamedTuple):
    """Everything that one run of a command has at hand.

    Attributes:
        preface: a text to write before the answer, and also where no answer comes.
    """

    command: str
    request: Request
    typed: PredictionOptions
    form: OutputForm | RawOutputForm
    here: Surroundings
    voice: Voice
    preface: str = ""

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
        output: stdout.
        stops: the signals to obey.
        keepers: further sinks, such as one that keeps the text.

    Attributes:
        ending: how the process is to end.
    """

    def __init__(
        self,
        task: Task,
        connection: Connection,
        uploads: Uploads,
        *,
        output: Output,
        stops: Stops,
        keepers: Sequence[Sink] = (),
    ) -> None:
        self.ending = Ending(stops)
        self._task = task
        self._connection = connection
        self._uploads = uploads
        self._stops = stops
        self._output = output
        output.begin()
        self._answer = answer_sink(task.form, task.request, self._output, task.here, task.preface)
        self._stderr = stderr_sinks(task.typed, task.here, task.voice, self._output)
        self._presence = Presence()
        self._text = Text() if task.request.schema else None
        self._keepers = [*keepers, self._presence, *([self._text] if self._text else [])]
        self._end: PredictionEnd | None = None
        self._recovered: str | None = None

    @property
    def outcome(self) -> Outcome:
        """How the prediction ended."""
        return Outcome(self._end, self.ending.error, self.ending.signum, self._recovered)

    def carry_out(self, model: str | None) -> None:
        """Load what must be loaded, predict, complete the output and write the figures down.

        Args:
            model: the identifier of the model to use; None takes the one that the task names, or the loaded one.
        """
        self.ending.attempt(self._predict, model)
        for sink in self._stderr:
            sink.finish(self.outcome)
        self.ending.attempt(self._answer.finish, self.outcome)
        if self._task.typed.stats or self._task.typed.stats_file is not None:
            self.ending.attempt(self._write_figures)

    def _predict(self, model: str | None) -> None:
        self._stops.check()  # a signal that came before its descriptor was watched ends no wait
        session = self._connection.session("llm")
        prediction = self._begun(session, model)
        try:
            self._deliver(session, prediction)
        finally:
            self._end = prediction.end
        if self._end is not None:
            self._judge(self._end)

    def _begun(self, session: Session, model: str | None) -> Prediction:
        task = self._task
        if model is None:
            loading = session.load(load_opening(str(task.model_key), task.typed))
            self._deliver(session, loading)
            model = loading.loaded().identifier
        opening = task.request.opening(model, self._uploads.resolve)
        return session.predict(opening, task.request.fallback(model))

    def _judge(self, end: PredictionEnd) -> None:
        """See whether the answer is complete, and of the form that was asked for."""
        add(end.model_info.model_key, self._task.typed, self._task.here)
        request = self._task.request
        may_be_empty = isinstance(request.subject, str) or request.schema is not None
        error = verdict(end, request.config, is_empty=not (may_be_empty or self._presence.is_there))
        if error is None and request.schema is not None and self._text is not None:
            if not self._presence.is_there:
                self._recovered = request.schema.recovered(self._text.reasoning)
            error = None if self._recovered else request.schema.flaw(self._text.answer)
        if self._recovered is not None:
            self._task.voice.warning("the answer was inside the reasoning of the model")
        self.ending.error = error

    def _deliver(self, session: Session, channel: Channel) -> None:
        ticks = [sink.tick for sink in self._stderr if sink.tick is not None]
        # What keeps comes first: a sink that writes may be stopped in the middle of a burst.
        sinks = [*self._keepers, *self._stderr, self._answer]
        deliver(session, channel, sinks, self._output, self._stops, tick=min(ticks, default=None))

    def _write_figures(self) -> None:
        from lmcli.cli.figures import append_line, stats_line, stats_text  # noqa: PLC0415  only who asks for them pays

        task, outcome = self._task, self.outcome
        if task.typed.stats and outcome.end is not None:
            task.voice.raw(stats_text(outcome.end))
        if task.typed.stats_file is not None:
            line = stats_line(task.command, options_record(task.typed), outcome, task.model_key)
            append_line(task.typed.stats_file, line)
