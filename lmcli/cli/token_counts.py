"""`--count`: how many tokens a request has, by the template and the tokenizer of the server; nothing is predicted."""

from collections.abc import Callable, Iterator

from lmcli.cli.batch_model import BatchModel
from lmcli.cli.batch_output import Tally
from lmcli.cli.batch_requests import BatchRequests, EachOptions
from lmcli.cli.choices import Each
from lmcli.cli.environment import Environment
from lmcli.cli.input.batch_records import BatchRecord, RecordReader
from lmcli.cli.invocation import Invocation, request_to_show
from lmcli.cli.messages import Messages
from lmcli.cli.options import PredictionOptions
from lmcli.cli.output.selection import progress_sink
from lmcli.cli.output.sinks import Outcome
from lmcli.cli.prompt_length import count_tokens, files_count
from lmcli.cli.resolve import Request
from lmcli.cli.runner import Runner
from lmcli.cli.target import model_key
from lmcli.errors import BadInput, ExitCode
from lmcli.values import ModelInstance

Count = Callable[[Request, str], None]


def count_one(invocation: Invocation) -> ExitCode:
    """Print the number of tokens of a request.

    Raises:
        LmError: the server cannot count them.
    """
    runner = Runner(invocation.options, invocation.env, invocation.messages)
    return _run(runner, invocation.options, invocation.env, lambda count: count(invocation.request, ""))


def count_each(
    options: EachOptions, each: Each, requests: BatchRequests, env: Environment, messages: Messages
) -> ExitCode:
    """Print the numbers for the records of stdin, one a line, empty for a record that cannot be read.

    Raises:
        LmError: the server cannot count them.
    """
    runner, tally = Runner(options, env, messages), Tally()

    def count_all(count: Count) -> None:
        for record in _records(RecordReader(env.stdin, each), runner):
            try:
                count(requests.request(record), f"{record.name}: ")
            except BadInput as error:
                messages.error(BadInput(f"{record.name}: {error.message}", *error.hints))
                tally.add(Outcome(error=error))
                runner.output.write(b"\n")

    return _run(runner, options, env, count_all) or tally.status


def _run(runner: Runner, options: PredictionOptions, env: Environment, work: Callable[[Count], None]) -> ExitCode:
    """Connect, obtain the model and do some work, which a signal or a closed stdout ends."""
    with runner.connected(), runner.watched():
        progress = progress_sink(options, env, runner.messages, runner.output)
        sinks = [progress] if progress else []

        def obtain_and_count() -> None:
            model = BatchModel(model_key(options, env, runner.messages), options, sinks).obtain(runner)
            work(lambda request, label: _print_count(runner, model, request, label))

        runner.attempt(obtain_and_count)
    return runner.end()


def _print_count(runner: Runner, model: ModelInstance, request: Request, label: str) -> None:
    asked = request_to_show(request, model.identifier)
    if files := files_count(asked):
        runner.messages.warning(f"{label}{files} {'image is' if files == 1 else 'images are'} not counted")
    runner.output.write(b"%d\n" % count_tokens(runner.session, asked, model))


def _records(reader: RecordReader, runner: Runner) -> Iterator[BatchRecord]:
    """The records of stdin as they come; a signal or a closed stdout ends the wait for them."""
    while not (reader.is_at_end and not reader.waiting_count):
        record = reader.take()
        if record is not None:
            yield record
        elif reader.can_read:
            reader.read()
        else:
            reader.wait(runner.output.interrupts())
            runner.signals.check()
            runner.output.check()
