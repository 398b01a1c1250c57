"""Measuring models: the same prediction several times, the server's stats beside the clock of this client."""

import time
from collections.abc import Sequence

from lmcli.cli.connect import MODEL_VARIABLE, connect
from lmcli.cli.delivery import deliver
from lmcli.cli.ending import Ending
from lmcli.cli.inputs import read_text, read_turn
from lmcli.cli.options import StatsOptions
from lmcli.cli.output import Output
from lmcli.cli.prediction import loaded_model
from lmcli.cli.records import Text
from lmcli.cli.request import Request, load_opening, make_request
from lmcli.cli.series import Measured, Series, table_of
from lmcli.cli.sinks import Outcome, Sink
from lmcli.cli.sinks.choice import progress_sink
from lmcli.cli.sinks.live import run_display
from lmcli.cli.stops import Interrupted, Stops
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.tables import report
from lmcli.cli.verdict import verdict
from lmcli.cli.voice import Voice
from lmcli.client.connection import Connection
from lmcli.client.images import Uploads
from lmcli.errors import KEPT_IN_TEXT, ExitCode, LmError, escaped
from lmcli.values import Fragment, PredictionEnd, Value
from lmcli.wire.channels import Channel, Loading


class Clock:
    """A sink that notes when the first fragment came."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.first: float | None = None

    def burst(self, values: list[Value]) -> None:
        """Look at the clock."""
        if self.first is None and any(isinstance(value, Fragment) for value in values):
            self.first = time.perf_counter() - self.began

    def finish(self, outcome: Outcome) -> None:
        """Nothing is to be written."""


class EchoSink:
    """Shows answers on stderr."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    def burst(self, values: list[Value]) -> None:
        """Show the text of the fragments."""
        text = "".join(value.content for value in values if isinstance(value, Fragment))
        if text:
            self._voice.aside(escaped(text, keep=KEPT_IN_TEXT))

    def finish(self, outcome: Outcome) -> None:  # noqa: ARG002  however it ended
        """End the line."""
        self._voice.raw("\n")


def measure(typed: StatsOptions, here: Surroundings, voice: Voice) -> ExitCode:
    """Run the prompt on stdin, and report; a failure ends the measuring, and what was measured is reported.

    Raises:
        LmError: a run failed.
    """
    if typed.raw:
        request = make_request(read_text((), here, voice, no_stdin=typed.no_stdin), typed, voice)
    else:
        request = make_request(read_turn(typed, (), here, voice), typed, voice)
    stops = Stops()
    output = Output(here.stdout, stops)
    with connect(typed, here, voice, interrupts=output.interrupts) as connection:
        connection.session("llm")
        named: Sequence[str | None] = typed.models or [here.setting(MODEL_VARIABLE)]
        with stops:
            ending = Ending(stops)
            bench = _Bench(typed, request, connection, here=here, voice=voice, output=output, stops=stops)
            ending.attempt(bench.measure_all, named)
            ending.error = ending.error or bench.flaw
    if any(series.runs for series in bench.series):
        report(table_of(bench.series, here), {"models": [s.record() for s in bench.series]}, typed.output, here)
    return ending.end()


class _Bench:
    """Everything that the runs have in common."""

    def __init__(
        self,
        typed: StatsOptions,
        request: Request,
        connection: Connection,
        *,
        here: Surroundings,
        voice: Voice,
        output: Output,
        stops: Stops,
    ) -> None:
        self.series: list[Series] = []
        self.flaw: LmError | None = None
        self._typed = typed
        self._request = request
        self._here = here
        self._voice = voice
        self._connection = connection
        self._output = output
        self._stops = stops
        self._uploads = Uploads(lambda: connection.session("files"))
        self._display = run_display(progress_sink(typed, here, voice, output), here, voice, is_echoed=typed.echo)

    def measure_all(self, keys: Sequence[str | None]) -> None:
        """Measure one model after the other; None stands for the loaded one."""
        try:
            self._stops.check()
            for key in keys:
                self.measure(key)
        finally:
            self._display.erase()

    def measure(self, key: str | None) -> None:
        """Load a model if need be, run it as often as asked, and keep what was measured."""
        self._display.erase()  # the load may be shown in its place
        began = time.perf_counter()
        name, instance, load_time = key or "", None, None
        if key is None:
            name = loaded_model(self._connection, self._voice)
        else:
            loading = self._connection.session("llm").load(load_opening(key, self._typed))
            self._load(loading)
            instance = loading.loaded()
            load_time = time.perf_counter() - began if loading.is_new else None
            name = instance.identifier
        series = Series(name, instance, load_time, [])
        self.series.append(series)
        for number in range(1, self._typed.warmup + 1):
            self._display.start_run(name, number, self._typed.warmup, is_warmup=True)
            self._run(name)
        for number in range(1, self._typed.runs + 1):
            self._display.start_run(name, number, self._typed.runs)
            series.runs.append(self._run(name))

    def _run(self, model: str) -> Measured:
        opening, fallback = self._request.opening(model, self._uploads.resolve), self._request.fallback(model)
        clock, text, display = Clock(), Text(), self._display
        prediction = self._connection.session("llm").predict(opening, fallback)
        sinks: list[Sink] = [clock, text, display, *([EchoSink(self._voice)] if self._typed.echo else [])]
        self._deliver(prediction, sinks, tick=display.tick)
        total = time.perf_counter() - clock.began
        if prediction.end is None:
            raise Interrupted
        display.finish_run(prediction.end.stats.tokens_per_second)
        self.flaw = self.flaw or self._judged(prediction.end, text)
        return Measured(prediction.end, clock.first, total)

    def _judged(self, end: PredictionEnd, text: Text) -> LmError | None:
        """What keeps an answer from being complete, or of the form that was asked for; it is measured all the same."""
        error = verdict(end, self._request.config, is_empty=False)
        if error is None and self._request.schema is not None:
            error = self._request.schema.flaw(text.answer)
        return error

    def _load(self, loading: Loading) -> None:
        progress = progress_sink(self._typed, self._here, self._voice, self._output)
        self._deliver(loading, [progress] if progress else [], tick=progress.tick if progress else None)

    def _deliver(self, channel: Channel, sinks: Sequence[Sink], *, tick: float | None) -> None:
        try:
            deliver(self._connection.session("llm"), channel, sinks, self._output, self._stops, tick=tick)
        finally:
            for sink in sinks:
                sink.finish(Outcome())
