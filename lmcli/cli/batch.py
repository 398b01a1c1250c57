"""`--each`: the records of stdin, answered as the options of a command say."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Final

from lmcli.cli.batch_model import BatchModel
from lmcli.cli.batch_output import BatchOutput
from lmcli.cli.batch_requests import BatchRequests, EachOptions, ResultWriter
from lmcli.cli.batch_run import BatchRun
from lmcli.cli.choices import Each, InputForm, OutputForm
from lmcli.cli.environment import Environment
from lmcli.cli.input.batch_records import BatchRecord, RecordReader, count_records
from lmcli.cli.input.stdin import is_stdin
from lmcli.cli.invocation import StatsSink, request_record, request_to_show
from lmcli.cli.json_text import dump_json
from lmcli.cli.messages import Messages
from lmcli.cli.options import CompleteOptions, RespondOptions
from lmcli.cli.output.batch_display import Counts, batch_display
from lmcli.cli.output.results_file import ResultsFile
from lmcli.cli.output.selection import progress_sink
from lmcli.cli.output.sinks import Outcome
from lmcli.cli.output.stdout import print_bytes
from lmcli.cli.resolve import Reasoning, load_request
from lmcli.cli.runner import Runner
from lmcli.cli.signals import BROKEN_PIPE, die_of
from lmcli.cli.target import model_key
from lmcli.errors import BadInput, ExitCode, UsageError

_DEFAULT_JOBS: Final = 4


def run_batch(
    command: str, options: EachOptions, words: Sequence[str], env: Environment, messages: Messages
) -> ExitCode:
    """Answer the records of stdin, and return the worst of their exit statuses.

    Raises:
        LmError: the batch could not begin.
    """
    assert options.each is not None  # noqa: S101  the caller has looked
    _refuse_what_is_for_one(options)
    requests = BatchRequests(options, words, env, messages)
    if options.dry_run:
        return _show_requests(options, options.each, requests, env, messages)
    if env.stdin_is_terminal:
        messages.note("reading records from the terminal; Ctrl-D ends them")
    if options.count:
        from lmcli.cli.token_counts import count_each  # noqa: PLC0415  only --count pays for it

        return count_each(options, options.each, requests, env, messages)
    with nullcontext() if options.results is None else ResultsFile(options.results, env.stdout) as file:
        return _Batch(command, options, options.each, requests, file, env=env, messages=messages).run()


def _refuse_what_is_for_one(options: EachOptions) -> None:
    """Refuse options that make no sense for many records."""
    if options.output == OutputForm.JSON:
        raise UsageError("-o json writes one object, and --each many", "-o jsonl writes one object a line")
    if options.no_stdin:
        raise UsageError("--each reads records from stdin, and -n does not read it")
    if Reasoning.parse(options.reasoning or ()).is_shown:
        raise UsageError("--reasoning show cannot be combined with --each", "-o jsonl includes the reasoning")
    if isinstance(options, RespondOptions):
        if options.input is not InputForm.AUTO:
            raise UsageError("-i cannot be combined with --each", "--each jsonl reads texts and chat histories")
        if any(map(is_stdin, options.file or ())):
            raise UsageError("--each reads records from stdin, and -f - attaches it")


class _Batch:
    """One batch: its parts, put together from the options."""

    def __init__(
        self,
        command: str,
        options: EachOptions,
        each: Each,
        requests: BatchRequests,
        file: ResultsFile | None,
        *,
        env: Environment,
        messages: Messages,
    ) -> None:
        self._options = options
        self._each = each
        self._env = env
        self._messages = messages
        self._runner = runner = Runner(options, env, messages)
        self._reader = RecordReader(env.stdin, each)
        self._display = batch_display(options, env, messages, has_reader=runner.output.has_reader)
        self._total = count_records(env.stdin, each) if self._display.is_shown else None
        is_echoed = isinstance(options, CompleteOptions) and options.echo
        writer = ResultWriter(options.output, each, is_terminal=env.stdout_is_terminal, is_echoed=is_echoed)
        jobs = options.jobs or _DEFAULT_JOBS
        self._output = BatchOutput(runner.output, writer, file, messages, jobs=jobs, before_message=self._display.erase)
        progress = progress_sink(options, env, messages, runner.output)
        key = model_key(options, env, messages)
        self._stats = StatsSink(command, options, runner, key)
        self._run = BatchRun(
            self._reader,
            requests,
            self._output,
            file,
            model=BatchModel(key, options, [progress] if progress else []),
            runner=runner,
            stdin=env.stdin,
            jobs=jobs,
            fails_fast=options.fail_fast,
            on_result=self._record,
            on_round=self._show,
        )

    def run(self) -> ExitCode:
        """Answer all records; dies of the signal or the broken pipe that stopped it."""
        began = time.monotonic()
        runner = self._runner
        with runner.watched():
            runner.attempt(self._run.answer_all)
            is_stopped = runner.signum is not None or runner.error is not None
            if is_stopped:
                runner.attempt(self._run.cut)
        self._display.erase()
        if runner.error is not None:
            self._messages.error(runner.error)
        if is_stopped and runner.signum != BROKEN_PIPE:
            self._report_stop()
        if runner.signum is not None:
            die_of(runner.signum)
        if runner.error is not None:
            return runner.error.exit_code
        if self._env.stderr_is_terminal:
            self._report_end(time.monotonic() - began)
        return self._output.tally.status

    def _record(self, record: BatchRecord, outcome: Outcome) -> None:
        """Write the stats of a record where the options request them."""
        if self._options.stats and outcome.end is not None:
            self._display.erase()
            self._messages.raw(f"Record: {record.position + 1}\n")
        if self._options.stats or self._options.stats_file is not None:
            self._stats.finish(outcome)

    def _show(self) -> None:
        tally = self._output.tally
        if self._total is None and self._reader.is_at_end:
            self._total = self._reader.count
        self._display.update(Counts(tally.done, tally.failed, tally.kept, tally.tokens_count, self._total))

    def _report_stop(self) -> None:
        """Say how far the batch came, and what to type to go on."""
        unread = count_records(self._env.stdin, self._each)
        is_all_known = unread is not None or self._reader.is_at_end
        done = self._output.tally.done
        left = f"{self._reader.count + (unread or 0) - done}{'' if is_all_known else ' or more'}"
        self._messages.report(f"stopped: {done} done, {left} left")
        if self._options.results is None:
            self._messages.hint("--results FILE makes a batch that can be continued")
        else:
            self._messages.hint("the same command continues the batch")

    def _report_end(self, seconds: float) -> None:
        tally = self._output.tally
        kept = f", {tally.kept} of them from an earlier run" if tally.kept else ""
        failed = f", {tally.failed} failed" if tally.failed else ""
        records = "1 record" if tally.done == 1 else f"{tally.done} records"
        self._messages.report(f"{records} in {seconds:.1f} s{kept}{failed}")


def _show_requests(
    options: EachOptions, each: Each, requests: BatchRequests, env: Environment, messages: Messages
) -> ExitCode:
    """Print the requests that would be sent, one a line: the load of the model, then the records in order."""
    key = model_key(options, env, messages)
    if key is not None:
        print_bytes(dump_json(request_record(load_request(key, options))), env.stdout)
    status, reader = ExitCode.OK, RecordReader(env.stdin, each)
    while not (reader.is_at_end and not reader.waiting_count):
        record = reader.take()
        if record is None:
            reader.read()
            continue
        try:
            shown = request_to_show(requests.request(record), key)
        except BadInput as error:
            messages.error(BadInput(f"{record.name}: {error.message}"))
            status = error.exit_code
        else:
            print_bytes(dump_json(request_record(shown)), env.stdout)
    return status
