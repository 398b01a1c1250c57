"""Measuring models: the same prediction several times, the server's stats beside the clock of this client."""

import time
from collections.abc import Sequence

from lmcli.cli.environment import Environment
from lmcli.cli.input.stdin import read_text, read_turn
from lmcli.cli.lifecycle import LoadLife, PredictionLife
from lmcli.cli.messages import Messages
from lmcli.cli.options import StatsOptions
from lmcli.cli.output.run_display import run_display
from lmcli.cli.output.selection import progress_sink
from lmcli.cli.output.sinks import Outcome, Sink
from lmcli.cli.output.tables import report
from lmcli.cli.resolve import Request, load_request, make_request
from lmcli.cli.run import Run
from lmcli.cli.series import Measured, Series, table_of
from lmcli.cli.signals import Interrupted
from lmcli.cli.target import MODEL_VARIABLE, loaded_model
from lmcli.errors import KEPT_IN_TEXT, ExitCode, LmError, escaped
from lmcli.values import Fragment, Value


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

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def burst(self, values: list[Value]) -> None:
        """Show the text of the fragments."""
        text = "".join(value.content for value in values if isinstance(value, Fragment))
        if text:
            self._messages.aside(escaped(text, keep=KEPT_IN_TEXT))

    def finish(self, outcome: Outcome) -> None:  # noqa: ARG002  however it ended
        """End the line."""
        self._messages.raw("\n")


def measure(options: StatsOptions, env: Environment, messages: Messages) -> ExitCode:
    """Run the prompt on stdin, and report; a failure ends the measuring, and what was measured is reported.

    Raises:
        LmError: a run failed.
    """
    if options.raw:
        request = make_request(read_text((), env, messages, no_stdin=options.no_stdin), options)
    else:
        request = make_request(read_turn(options, (), env, messages), options)
    work = Run(options, env, messages)
    with work.connected():
        named: Sequence[str | None] = options.models or [env.setting(MODEL_VARIABLE)]
        with work.watched():
            bench = _Bench(options, request, work, env=env, messages=messages)
            work.attempt(bench.measure_all, named)
            work.error = work.error or bench.error
    if any(series.runs for series in bench.series):
        report(table_of(bench.series, env), {"models": [s.record() for s in bench.series]}, options.output, env)
    return work.end()


class _Bench:
    """Everything that the runs have in common."""

    def __init__(
        self, options: StatsOptions, request: Request, run: Run, *, env: Environment, messages: Messages
    ) -> None:
        self.series: list[Series] = []
        self.error: LmError | None = None
        self._options = options
        self._request = request
        self._run = run
        self._messages = messages
        progress = progress_sink(options, env, messages, run.output)
        self._load_sinks: list[Sink] = [progress] if progress else []
        self._display = run_display(progress, env, messages, is_echoed=options.echo)

    def measure_all(self, keys: Sequence[str | None]) -> None:
        """Measure one model after the other; None stands for the loaded one."""
        try:
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
            name = loaded_model(self._run.connection, self._messages)
        else:
            load = LoadLife(self._run, self._load_sinks)
            try:
                instance = load.load(load_request(key, self._options))
            finally:
                load.finish()
            load_time = time.perf_counter() - began if load.channel.is_new else None
            name = instance.identifier
        series = Series(name, instance, load_time, [])
        self.series.append(series)
        for number in range(1, self._options.warmup + 1):
            self._display.start_run(name, number, self._options.warmup, is_warmup=True)
            self._measured(name)
        for number in range(1, self._options.runs + 1):
            self._display.start_run(name, number, self._options.runs)
            series.runs.append(self._measured(name))

    def _measured(self, model: str) -> Measured:
        clock, display = Clock(), self._display
        sinks: list[Sink] = [clock, display, *([EchoSink(self._messages)] if self._options.echo else [])]
        life = PredictionLife(self._request, self._run, sinks, may_be_empty=True)
        try:
            life.predict(model)
        finally:
            total = time.perf_counter() - clock.began
            life.finish()
        end = life.outcome.end
        if end is None:
            raise Interrupted
        display.finish_run(end.stats.tokens_per_second)
        self.error = self.error or life.error  # an answer that is not complete is measured all the same
        return Measured(end, clock.first, total)
