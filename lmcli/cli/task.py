"""One prediction as a command asks for it: what `respond`, `complete` and a turn of `chat` have in common."""

from collections.abc import Sequence
from typing import NamedTuple

from lmcli.chat import FilePart, ImagePart, Message, Part
from lmcli.cli.choices import OutputForm, RawOutputForm
from lmcli.cli.environment import Environment
from lmcli.cli.jsontext import written
from lmcli.cli.lifecycle import LoadLife, PredictionLife
from lmcli.cli.messages import Messages
from lmcli.cli.options import PredictionOptions
from lmcli.cli.output.selection import answer_sink, stderr_sinks
from lmcli.cli.output.sinks import Outcome, Sink
from lmcli.cli.output.stdout import print_bytes
from lmcli.cli.resolve import Request, load_request, options_record
from lmcli.cli.run import Run
from lmcli.cli.target import loaded_model, model_key
from lmcli.client.images import image_name
from lmcli.errors import ExitCode
from lmcli.values import Value


class Task(NamedTuple):
    """Everything that one run of a command has at hand.

    Attributes:
        preface: a text to write before the answer, and also where no answer comes.
    """

    command: str
    request: Request
    options: PredictionOptions
    form: OutputForm | RawOutputForm
    env: Environment
    messages: Messages
    preface: str = ""

    @property
    def model_key(self) -> str | None:
        """The model that was named, by option or environment."""
        return model_key(self.options, self.env)


def run(task: Task) -> ExitCode:
    """Carry out a task; dies of the signal or the broken pipe that ended it.

    Raises:
        LmError: what kept the answer from being complete; all that had arrived is on stdout.
    """
    if task.options.dry_run:
        return show_request(task)
    work = Run(task.options, task.env, task.messages)
    perform(task, work)
    return work.end()


def perform(task: Task, run: Run, keepers: Sequence[Sink] = ()) -> Outcome:
    """Connect and carry out a task; how it ended is for the caller to say.

    Args:
        task: what is to be done.
        run: the work that it is.
        keepers: sinks besides those for stdout and stderr.

    Raises:
        LmError: it could not even begin.
    """
    outcome = None
    try:
        with run.connected():
            model = None if task.model_key else loaded_model(run.connection, task.messages)
            with run.watched():
                outcome = predict(task, run, model, keepers)
                return outcome
    finally:
        if outcome is None and task.preface:
            _write_preface(task, run)


def predict(task: Task, run: Run, model: str | None, keepers: Sequence[Sink] = ()) -> Outcome:
    """Carry out a task on a connection, under the watch of signals.

    Args:
        task: what is to be done.
        run: the work that it is part of; it keeps the error.
        model: the identifier of the model to use; None loads the one that the task names.
        keepers: see `perform`.
    """
    stderr = stderr_sinks(task.options, task.env, task.messages, run.output)
    answer = answer_sink(task.form, task.request, run.output, task.env, task.preface)
    sinks = [*keepers, *stderr, answer, *_stats_sinks(task)]
    load, life = LoadLife(run, sinks), PredictionLife(task.request, run, sinks, may_be_empty=task.request.is_raw)

    def carry_out() -> None:
        life.predict(model or load.load(load_request(str(task.model_key), task.options)).identifier)

    run.attempt(carry_out)
    run.error = run.error or life.error
    life.finish()
    return life.outcome


class StatsSink:
    """Writes the stats down at the end: for a person on stderr, and as a line of a file."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def burst(self, values: list[Value]) -> None:
        """Nothing is to be seen yet."""

    def finish(self, outcome: Outcome) -> None:
        """Write what was asked for."""
        from lmcli.cli.output.stats_file import append_line, stats_line, stats_text  # noqa: PLC0415  only who asks for them pays

        task = self._task
        if task.options.stats and outcome.end is not None:
            task.messages.raw(stats_text(outcome.end))
        if task.options.stats_file is not None:
            line = stats_line(task.command, options_record(task.options), outcome, task.model_key)
            append_line(task.options.stats_file, line)


def _stats_sinks(task: Task) -> list[Sink]:
    return [StatsSink(task)] if task.options.stats or task.options.stats_file is not None else []


def show_request(task: Task) -> ExitCode:
    """Print what would be sent: endpoint and creation parameter of each request, in order."""
    key = task.model_key
    requests = [*([load_request(key, task.options)] if key else []), task.request.channel_request(key, _named)]
    shown = written({r.endpoint: r.parameter for r in requests}, is_indented=task.env.stdout_is_terminal)
    print_bytes(shown, task.env.stdout)
    return ExitCode.OK


def _write_preface(task: Task, run: Run) -> None:
    """Write what would stand before the answer, alone: there will be none."""
    sink = answer_sink(task.form, task.request, run.output, task.env, task.preface)
    run.attempt(sink.finish, Outcome())
    run.end()


def _named(messages: Sequence[Message]) -> list[Message]:
    """The same messages with names in place of images that would be uploaded."""
    return [m._replace(content=tuple(_name(part) for part in m.content)) for m in messages]


def _name(part: Part) -> Part:
    return FilePart(image_name(part.source), "", 0, "image") if isinstance(part, ImagePart) else part
