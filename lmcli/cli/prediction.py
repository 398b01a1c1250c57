"""One prediction from the request to the end of the process; what `respond` and `complete` have in common."""

from collections.abc import Callable
from typing import NamedTuple

import orjson

from lmcli.cli.connect import MODEL_VARIABLE, connect
from lmcli.cli.delivery import deliver
from lmcli.cli.document import Document
from lmcli.cli.options import OutputForm, PredictionOptions, RawOutputForm
from lmcli.cli.output import Output, ReaderLeft, print_bytes
from lmcli.cli.request import Request, load_opening, options_record
from lmcli.cli.sinks import Outcome, Sink
from lmcli.cli.sinks.choice import answer_sink, progress_sink
from lmcli.cli.stops import Interrupted, Stops, die_of, die_of_broken_pipe
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.verdict import EmptinessSink, verdict
from lmcli.cli.voice import Voice
from lmcli.client.catalog import list_downloaded, list_loaded
from lmcli.client.connection import Connection
from lmcli.client.session import Exchange
from lmcli.errors import ExitCode, LmError, ModelNotFound
from lmcli.values import PredictionEnd


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
        return self.typed.model or self.here.setting(MODEL_VARIABLE)


def run(task: Task) -> ExitCode:
    """Carry out a prediction; dies of the signal or the broken pipe that ended it.

    Raises:
        LmError: what kept the answer from being complete; all that had arrived is on stdout.
    """
    if task.typed.dry_run:
        return _show_request(task)
    with connect(task.typed, task.here, task.voice) as connection:
        connection.session("llm")  # a server that is not there is an error before signals are watched
        model = None if task.model_key else loaded_model(connection, task.voice)
        with Stops() as stops:
            one = _Run(task, connection, stops)
            one.carry_out(model)
    if one.has_lost_its_reader:
        die_of_broken_pipe()
    if stops.signum is not None:
        die_of(stops.signum)
    if one.error is not None:
        raise one.error
    return ExitCode.OK


def loaded_model(connection: Connection, voice: Voice) -> str:
    """The identifier of the model to use when none was named: the one that is loaded, or the last one used.

    Raises:
        ModelNotFound: none is loaded; the hint says which could be.
    """
    instances = list_loaded(connection.session("llm"))
    if not instances:
        keys = [model.model_key for model in list_downloaded(connection.session("system")) if model.type == "llm"]
        there_are = f"there are: {', '.join(keys)}" if keys else "lms get downloads one"
        raise ModelNotFound("no model is loaded", "-m KEY loads one", there_are)
    latest = max(instances, key=lambda instance: instance.last_used_time or 0)
    if len(instances) > 1:
        voice.note(f"several models are loaded, this goes to {latest.identifier} (-m KEY takes another)")
    return latest.identifier


class _Run:
    """A prediction on its way: the exchanges, the sinks that they feed, and what has gone wrong so far."""

    def __init__(self, task: Task, connection: Connection, stops: Stops) -> None:
        self.error: LmError | None = None
        self.has_lost_its_reader = False
        self._task = task
        self._connection = connection
        self._stops = stops
        self._output = Output(task.here.stdout, stops)
        self._progress = progress_sink(task.typed, task.here, task.voice)
        self._answer = answer_sink(task.form, task.request, self._output, task.here)
        self._emptiness = EmptinessSink()
        self._end: PredictionEnd | None = None

    def carry_out(self, model: str | None) -> None:
        """Load what must be loaded, predict, complete the output and write the figures down."""
        self._unless_stopped(self._predict, model)
        outcome = Outcome(self._end, self.error, self._stops.signum)
        if self._progress is not None:
            self._progress.finish(outcome)
        self._unless_stopped(self._answer.finish, outcome)
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
        except LmError as error:
            self.error = self.error or error

    def _predict(self, model: str | None) -> None:
        task = self._task
        session = self._connection.session("llm")
        if model is None:
            loading = session.load(load_opening(str(task.model_key), task.typed))
            self._deliver(loading)
            model = loading.wait().identifier
        prediction = session.predict(task.request.opening(model), task.request.fallback(model))
        try:
            self._deliver(prediction)
        finally:
            self._end = prediction.end
        if self._end is not None:
            is_turn = isinstance(task.request.subject, Document)
            self.error = verdict(self._end, task.request.config, is_empty=is_turn and self._emptiness.is_empty)

    def _deliver(self, exchange: Exchange) -> None:
        sinks: list[Sink] = [self._answer, self._emptiness]
        if self._progress is not None:
            sinks.insert(0, self._progress)
        tick = None if self._progress is None else self._progress.tick
        deliver(exchange, sinks, self._output, self._stops, tick=tick)

    def _write_figures(self) -> None:
        from lmcli.cli.figures import append_line, stats_line, stats_text  # noqa: PLC0415  only who asks for them pays

        task = self._task
        if task.typed.stats and self._end is not None:
            task.voice.raw(stats_text(self._end))
        if task.typed.stats_file is not None:
            options = options_record(task.typed)
            line = stats_line(task.command, options, self._end, self.error, self._stops.signum)
            append_line(task.typed.stats_file, line)


def _show_request(task: Task) -> ExitCode:
    """Print what would be sent: endpoint and creation parameter of each request, in order."""
    key = task.model_key
    openings = [*([load_opening(key, task.typed)] if key else []), task.request.opening(key)]
    layout = orjson.OPT_INDENT_2 if task.here.stdout_is_terminal else 0
    shown = orjson.dumps({o.endpoint: o.parameter for o in openings}, option=layout | orjson.OPT_APPEND_NEWLINE)
    print_bytes(shown, task.here.stdout)
    return ExitCode.OK
