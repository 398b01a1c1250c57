"""Measuring models: the same prediction several times, the stats of the server and the times of this client."""

import time
from collections.abc import Sequence

from lmcli.cli.environment import Environment
from lmcli.cli.input.stdin import read_document, read_text
from lmcli.cli.lifecycle import LoadLifecycle, PredictionLifecycle
from lmcli.cli.messages import Messages
from lmcli.cli.options import StatsOptions
from lmcli.cli.output.run_display import run_display
from lmcli.cli.output.selection import progress_sink
from lmcli.cli.output.sinks import Outcome, Sink
from lmcli.cli.output.tables import report
from lmcli.cli.resolve import Request, load_request, make_request
from lmcli.cli.runner import Runner
from lmcli.cli.series import MeasuredRun, Series, table_of
from lmcli.cli.signals import Interrupted
from lmcli.cli.target import default_key, loaded_model
from lmcli.errors import KEPT_IN_TEXT, ExitCode, LmError, escaped
from lmcli.values import Fragment, ModelInstance, Value


class FirstFragmentTimer:
    """A sink that measures the time to the first fragment.

    Attributes:
        started: the time of the start, on the performance counter.
        first_fragment_sec: the time to the first fragment; None before it.
    """

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.first_fragment_sec: float | None = None

    def burst(self, values: list[Value]) -> None:
        """Measure the time of the first fragment."""
        if self.first_fragment_sec is None and any(isinstance(value, Fragment) for value in values):
            self.first_fragment_sec = time.perf_counter() - self.started

    def finish(self, outcome: Outcome) -> None:
        """Do nothing: it writes no output."""


class EchoSink:
    """Shows answers on stderr."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def burst(self, values: list[Value]) -> None:
        """Show the text of the fragments."""
        text = "".join(value.content for value in values if isinstance(value, Fragment))
        if text:
            self._messages.dim(escaped(text, keep=KEPT_IN_TEXT))

    def finish(self, outcome: Outcome) -> None:  # noqa: ARG002  for every outcome
        """End the line."""
        self._messages.raw("\n")


def measure(options: StatsOptions, env: Environment, messages: Messages) -> ExitCode:
    """Measure the prompt on stdin, and report; a failure ends the measurement, and the finished runs are reported.

    Raises:
        LmError: a run failed.
    """
    if options.raw:
        request = make_request(read_text((), env, messages, no_stdin=options.no_stdin), options)
    else:
        request = make_request(read_document(options, (), env, messages), options)
    runner = Runner(options, env, messages)
    with runner.connected():
        keys: Sequence[str | None] = options.models or [default_key(options, env, messages)]
        with runner.watched():
            benchmark = _Benchmark(options, request, runner, env=env, messages=messages)
            runner.attempt(benchmark.measure_all, keys)
            runner.error = runner.error or benchmark.error
    if any(series.runs for series in benchmark.series):
        report(table_of(benchmark.series, env), {"models": [s.record() for s in benchmark.series]}, options.output, env)
    return runner.end()


class _Benchmark:
    """The series of runs of each model, and what the runs share."""

    def __init__(
        self, options: StatsOptions, request: Request, runner: Runner, *, env: Environment, messages: Messages
    ) -> None:
        self.series: list[Series] = []
        self.error: LmError | None = None
        self._options = options
        self._request = request
        self._runner = runner
        self._messages = messages
        progress = progress_sink(options, env, messages, runner.output)
        self._load_sinks: list[Sink] = [progress] if progress else []
        self._display = run_display(progress, env, messages, is_echoed=options.echo)

    def measure_all(self, keys: Sequence[str | None]) -> None:
        """Measure one model after another; None stands for the loaded one."""
        try:
            for key in keys:
                self.measure(key)
        finally:
            self._display.erase()

    def measure(self, key: str | None) -> None:
        """Load a model if necessary, and run the prediction as often as requested."""
        self._display.erase()  # the load may be shown instead
        started = time.perf_counter()
        instance, load_time = None, None
        if key is None:
            model = loaded_model(self._runner.connection, self._messages, self._options.device)
        else:
            load = LoadLifecycle(self._runner, self._load_sinks)
            try:
                model = instance = load.load(load_request(key, self._options))
            finally:
                load.finish()
            load_time = time.perf_counter() - started if load.channel.is_new else None
        name = model.identifier
        series = Series(name, instance, load_time, [])
        self.series.append(series)
        for number in range(1, self._options.warmup + 1):
            self._display.start_run(name, number, self._options.warmup, is_warmup=True)
            self._run_once(model)
        for number in range(1, self._options.runs + 1):
            self._display.start_run(name, number, self._options.runs)
            series.runs.append(self._run_once(model))

    def _run_once(self, model: ModelInstance) -> MeasuredRun:
        timer, display = FirstFragmentTimer(), self._display
        sinks: list[Sink] = [timer, display, *([EchoSink(self._messages)] if self._options.echo else [])]
        prediction = PredictionLifecycle(self._request, self._runner, sinks, may_be_empty=True, must_fit=False)
        try:
            prediction.predict(model)
        finally:
            total = time.perf_counter() - timer.started
            prediction.finish()
        end = prediction.outcome.end
        if end is None:
            raise Interrupted
        display.finish_run(end.stats.tokens_per_second)
        self.error = self.error or prediction.error  # an answer that is not complete is measured, too
        return MeasuredRun(end, timer.first_fragment_sec, total)
