"""Measuring models: the same prediction several times, the server's figures beside those seen from here."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from lmcli.cli.connect import MODEL_VARIABLE, connect
from lmcli.cli.delivery import deliver, watched
from lmcli.cli.ending import Ending
from lmcli.cli.inputs import read_text, read_turn
from lmcli.cli.options import StatsOptions
from lmcli.cli.output import Output
from lmcli.cli.prediction import loaded_model
from lmcli.cli.quantiles import Sample
from lmcli.cli.records import Text, model_record, stats_record
from lmcli.cli.request import Request, load_opening, make_request
from lmcli.cli.sinks import Outcome, Sink, StderrSink
from lmcli.cli.sinks.choice import progress_sink
from lmcli.cli.stops import Interrupted, Stops
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.tables import Cell, Table, report
from lmcli.cli.verdict import verdict
from lmcli.cli.voice import Voice
from lmcli.client.connection import Connection
from lmcli.client.exchanges import Exchange
from lmcli.client.images import Uploads
from lmcli.errors import ExitCode, LmError, escaped
from lmcli.values import Fragment, JsonObject, ModelInstance, PredictionEnd, Value

_SHARES: Final = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
_FIGURES: Final = (
    "prompt_tokens_count",
    "predicted_tokens_count",
    "time_to_first_token_sec",
    "tokens_per_second",
    "total_time_sec",
)
_SEEN: Final = ("seen_first_fragment_sec", "seen_total_time_sec")


class Measured(NamedTuple):
    """One run: what the server says, and what the clock here says."""

    end: PredictionEnd
    seen_first_fragment_sec: float | None
    seen_total_time_sec: float

    def record(self) -> JsonObject:
        """All of it, for programs."""
        return stats_record(self.end.stats) | {name: getattr(self, name) for name in _SEEN}


class Series(NamedTuple):
    """The runs of one model.

    Attributes:
        name: as it was given, or found loaded.
        instance: the model, if it was loaded or looked up by key.
        load_time_sec: how long it took to load; None if it was loaded already.
        runs: those that came to an end, in order.
    """

    name: str
    instance: ModelInstance | None
    load_time_sec: float | None
    runs: list[Measured]

    def record(self) -> JsonObject:
        """All of it, for programs."""
        return {
            "model": model_record(self.runs[0].end.model_info) if self.runs else {"identifier": self.name},
            "load_time_sec": self.load_time_sec,
            "runs": [run.record() for run in self.runs],
            "summary": {name: self.shares(name) for name in (*_FIGURES, *_SEEN)},
            "stop_reasons": dict(Counter(run.end.stats.stop_reason for run in self.runs)),
        }

    def shares(self, figure: str) -> dict[str, float | None]:
        """Least, median, 95th percentile and greatest of one figure over the runs."""
        sample = Sample()
        for run in self.runs:
            sample.add(run.record()[figure])
        shares = {name: sample.quantile(share) for name, share in _SHARES.items()}
        return {name: _whole(value) for name, value in shares.items()} if figure.endswith("_count") else shares


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
            self._voice.aside(escaped(text, keep="\n\t"))

    def finish(self, outcome: Outcome) -> None:  # noqa: ARG002  however it ended
        """End the line."""
        self._voice.raw("\n")


def measure(typed: StatsOptions, here: Surroundings, voice: Voice) -> ExitCode:
    """Run the prompt on stdin, and report; a failure ends the measuring, and what was measured is reported.

    Raises:
        LmError: a run failed.
    """
    if typed.raw:
        request = make_request(read_text((), here, voice, no_stdin=typed.no_stdin), typed)
    else:
        request = make_request(read_turn(typed, (), here, voice), typed)
    with connect(typed, here, voice) as connection:
        connection.session("llm")
        named: Sequence[str | None] = typed.models or [here.setting(MODEL_VARIABLE)]
        with Stops() as stops:
            ending = Ending(stops)
            bench = _Bench(typed, request, connection, here=here, voice=voice, stops=stops)
            ending.attempt(bench.measure_all, named)
            ending.error = ending.error or bench.flaw
    if any(series.runs for series in bench.series):
        report(_table(bench.series), {"models": [s.record() for s in bench.series]}, typed.output, here)
    return ending.end()


def _whole(value: float | None) -> float | None:
    """A count between two counts stays between them; all others are whole numbers again."""
    return int(value) if value is not None and value.is_integer() else value


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
        stops: Stops,
    ) -> None:
        self.series: list[Series] = []
        self.flaw: LmError | None = None
        self._typed = typed
        self._request = request
        self._here = here
        self._voice = voice
        self._connection = connection
        self._output = Output(here.stdout, stops)
        self._stops = stops
        self._uploads = Uploads(lambda: connection.session("files"))

    def measure_all(self, keys: Sequence[str | None]) -> None:
        """Measure one model after the other; None stands for the loaded one."""
        with watched(self._connection, self._output, self._stops):
            for key in keys:
                self.measure(key)

    def measure(self, key: str | None) -> None:
        """Load a model if need be, run it as often as asked, and keep the figures."""
        began = time.perf_counter()
        name, instance, load_time = key or "", None, None
        if key is None:
            name = loaded_model(self._connection, self._voice)
        else:
            loading = self._connection.session("llm").load(load_opening(key, self._typed))
            self._deliver(loading, [])
            instance = loading.wait()
            load_time = time.perf_counter() - began if loading.is_new else None
            name = instance.identifier
        series = Series(name, instance, load_time, [])
        self.series.append(series)
        for _ in range(self._typed.warmup):
            self._predict(name)
        for _ in range(self._typed.runs):
            series.runs.append(self._predict(name))

    def _predict(self, model: str) -> Measured:
        opening, fallback = self._request.opening(model, self._uploads.resolve), self._request.fallback(model)
        clock, text = Clock(), Text()
        prediction = self._connection.session("llm").predict(opening, fallback)
        self._deliver(prediction, [clock, text, *([EchoSink(self._voice)] if self._typed.echo else [])])
        total = time.perf_counter() - clock.began
        if prediction.end is None:
            raise Interrupted
        self.flaw = self.flaw or self._judged(prediction.end, text)
        return Measured(prediction.end, clock.first, total)

    def _judged(self, end: PredictionEnd, text: Text) -> LmError | None:
        """What keeps an answer from being complete, or of the form that was asked for; it is measured all the same."""
        error = verdict(end, self._request.config, is_empty=False)
        if error is None and self._request.schema is not None:
            error = self._request.schema.flaw(text.answer)
        return error

    def _deliver(self, exchange: Exchange, sinks: Sequence[Sink]) -> None:
        progress = progress_sink(self._typed, self._here, self._voice)
        shown: list[Sink | StderrSink] = [*([progress] if progress else []), *sinks]
        try:
            deliver(exchange, shown, self._output, self._stops, tick=progress.tick if progress else None)
        finally:
            for sink in shown:
                sink.finish(Outcome())


def _table(series: Sequence[Series]) -> Table:
    """A row a run, and below them what the runs of a model have in common."""
    figures = (*_FIGURES, *_SEEN)
    rows: list[list[Cell]] = []
    for one in series:
        for number, run in enumerate(one.runs, start=1):
            record = run.record()
            load = one.load_time_sec if number == 1 else None
            rows.append([one.name, str(number), *(record[name] for name in figures), load, record["stop_reason"]])
        if len(one.runs) > 1:
            shares = [one.shares(name) for name in figures]
            rows += [[one.name, share, *(figure[share] for figure in shares), None, ""] for share in _SHARES]
    figure_keys = ("prompt", "predicted", "ttft", "tokens/s", "total", "seen_ttft", "seen_total")
    return Table(("model", "run", *figure_keys, "load", "stop"), rows)
