"""One prediction as a command requests it: what `respond`, `complete` and a turn of `chat` have in common."""

from collections.abc import Sequence
from typing import NamedTuple

from lmcli.chat import FilePart, ImagePart, Message, Part
from lmcli.cli.choices import OutputForm, RawOutputForm
from lmcli.cli.environment import Environment
from lmcli.cli.json_text import dump_json
from lmcli.cli.lifecycle import LoadLifecycle, PredictionLifecycle
from lmcli.cli.messages import Messages
from lmcli.cli.options import PredictionOptions
from lmcli.cli.output.selection import answer_sink, markdown_sink, stderr_sinks, undisturbed
from lmcli.cli.output.sinks import Outcome, Sink
from lmcli.cli.output.stdout import print_bytes
from lmcli.cli.resolve import Request, load_request, options_record
from lmcli.cli.runner import Runner
from lmcli.cli.target import loaded_model, model_key
from lmcli.client.images import image_name
from lmcli.errors import ExitCode
from lmcli.values import JsonObject, ModelInstance, Value
from lmcli.wire.requests import ChannelRequest


class Invocation(NamedTuple):
    """One invocation of a command that requests a prediction.

    Attributes:
        command: the name of the command, for records.
        request: the request.
        options: the options of the command.
        form: the output format.
        env: the environment.
        messages: writes messages to stderr.
        preface: text to write before the answer, even if no answer arrives.
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
        """The key of the model that an option or the environment names."""
        return model_key(self.options, self.env, self.messages)


def run_prediction(invocation: Invocation) -> ExitCode:
    """Run a prediction and end like it: the process dies of the signal or the broken pipe that stopped it.

    Raises:
        LmError: the answer is not complete; what had arrived of it is on stdout.
    """
    if invocation.options.dry_run:
        return show_request(invocation)
    if invocation.options.count:
        return count_request(invocation)
    runner = Runner(invocation.options, invocation.env, invocation.messages)
    connect_and_predict(invocation, runner)
    return runner.end()


def connect_and_predict(invocation: Invocation, runner: Runner, extra_sinks: Sequence[Sink] = ()) -> Outcome:
    """Connect and run a prediction; the caller reports the outcome.

    Args:
        invocation: the prediction.
        runner: connects, and keeps the error.
        extra_sinks: sinks in addition to those for stdout and stderr, which keep the answer.

    Raises:
        LmError: the prediction could not be started.
    """
    outcome = None
    try:
        with runner.connected():
            model = (
                None
                if invocation.model_key
                else loaded_model(runner.connection, invocation.messages, invocation.options.device)
            )
            with runner.watched():
                outcome = predict(invocation, runner, model, extra_sinks)
                return outcome
    finally:
        if outcome is None and invocation.preface:
            _write_preface(invocation, runner)


def predict(
    invocation: Invocation, runner: Runner, model: ModelInstance | None, extra_sinks: Sequence[Sink] = ()
) -> Outcome:
    """Run a prediction on an open connection, while signals are watched.

    Args:
        invocation: the prediction.
        runner: has the connection, and keeps the error.
        model: a loaded model; None loads the one that the invocation names.
        extra_sinks: see `connect_and_predict`.
    """
    options, request, env = invocation.options, invocation.request, invocation.env
    stderr = stderr_sinks(options, env, invocation.messages, runner.output)
    markdown = markdown_sink(options, env, invocation.messages, runner.output)
    answer = markdown or answer_sink(invocation.form, request, runner.output, env, invocation.preface)
    sinks = [*extra_sinks, *stderr, answer, *_stats_sinks(invocation, runner)]
    load = LoadLifecycle(runner, sinks)
    prediction = PredictionLifecycle(request, runner, sinks, may_be_empty=request.is_raw)

    def load_and_predict() -> None:
        prediction.predict(model or load.load(load_request(str(invocation.model_key), options)))

    with undisturbed(markdown, env):
        runner.attempt(load_and_predict)
        runner.error = runner.error or prediction.error
        prediction.finish()
    outcome = prediction.outcome
    if outcome.signum is None and (outcome.tool_calls or outcome.tool_call_failures):
        from lmcli.cli.output.call_report import report_tool_calls  # noqa: PLC0415  few answers have any

        shown_by = "json" if invocation.form in (OutputForm.TEXT, OutputForm.CODE) else None
        report_tool_calls(outcome, invocation.messages, shown_by=shown_by, is_kept=bool(extra_sinks))
    return outcome


class StatsSink:
    """Writes the stats at the end: to stderr, and as a line of a file."""

    def __init__(self, command: str, options: PredictionOptions, runner: Runner, model_key: str | None) -> None:
        self._command = command
        self._options = options
        self._runner = runner
        self._model_key = model_key

    def burst(self, values: list[Value]) -> None:
        """Do nothing: stats are written at the end."""

    def finish(self, outcome: Outcome) -> None:
        """Write the stats where the options request them."""
        from lmcli.cli.output.stats_file import append_line, stats_line, stats_text  # noqa: PLC0415  loaded on demand

        options = self._options
        if options.stats and outcome.end is not None:
            self._runner.messages.raw(stats_text(outcome.end))
        if options.stats_file is not None:
            line = stats_line(self._command, options_record(options), outcome, self._model_key)
            append_line(options.stats_file, line, self._runner.signals)


def _stats_sinks(invocation: Invocation, runner: Runner) -> list[Sink]:
    options = invocation.options
    if not options.stats and options.stats_file is None:
        return []
    return [StatsSink(invocation.command, options, runner, invocation.model_key)]


def count_request(invocation: Invocation) -> ExitCode:
    """Print the number of tokens of the request.

    Raises:
        LmError: the server cannot count them.
    """
    from lmcli.cli.token_counts import count_one  # noqa: PLC0415  only --count pays for it

    return count_one(invocation)


def show_request(invocation: Invocation) -> ExitCode:
    """Print the requests that would be sent: endpoint and creation parameter of each, in order."""
    key, options, env = invocation.model_key, invocation.options, invocation.env
    load = [load_request(key, options)] if key else []
    shown = dump_json(
        request_record(*load, request_to_show(invocation.request, key)), is_indented=env.stdout_is_terminal
    )
    print_bytes(shown, env.stdout)
    return ExitCode.OK


def request_to_show(request: Request, key: str | None) -> ChannelRequest:
    """A request as it would be sent, but with the names of images that would be uploaded first."""
    return request.channel_request(key, _with_image_names)


def request_record(*requests: ChannelRequest) -> JsonObject:
    """Requests by endpoint."""
    return {request.endpoint: request.parameter for request in requests}


def _write_preface(invocation: Invocation, runner: Runner) -> None:
    """Write the preface of an answer that will not arrive."""
    sink = answer_sink(invocation.form, invocation.request, runner.output, invocation.env, invocation.preface)
    runner.attempt(sink.finish, Outcome())
    runner.end()


def _with_image_names(messages: Sequence[Message]) -> list[Message]:
    """The messages with names in place of the images that would be uploaded."""
    return [m._replace(content=tuple(_image_name(part) for part in m.content)) for m in messages]


def _image_name(part: Part) -> Part:
    return FilePart(image_name(part.source), "", 0, "image") if isinstance(part, ImagePart) else part
