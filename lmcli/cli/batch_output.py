"""Where the results of a batch go: to the results file, then to stdout in the order of the records, and to a tally."""

from collections.abc import Callable, Sequence
from typing import Final

from lmcli.cli.batch_requests import ResultWriter
from lmcli.cli.input.batch_records import BatchRecord
from lmcli.cli.messages import Messages, hints_for
from lmcli.cli.output.ordering import Answer, OrderedOutput
from lmcli.cli.output.results import TextCollector, outcome_error, result_record
from lmcli.cli.output.results_file import ResultsFile
from lmcli.cli.output.sinks import Outcome
from lmcli.cli.output.stdout import Output
from lmcli.cli.resolve import Request
from lmcli.errors import ExitCode, Incomplete, LmError
from lmcli.values import JsonObject

_WORST_FIRST: Final = (
    ExitCode.INCOMPLETE,
    ExitCode.UNAVAILABLE,
    ExitCode.TRY_AGAIN,
    ExitCode.NOT_ALLOWED,
    ExitCode.FAILED,
    ExitCode.UNUSABLE,
    ExitCode.BAD_INPUT,
)
"""The exit statuses of records; the batch ends with the first that occurred. Others count as the last."""

_WINDOW_PER_JOB: Final = 16
_WINDOW: Final = 64
_WINDOW_BYTES: Final = 8 << 20
"""How much may wait for the oldest record: so many answers, and so many bytes of them."""


class Job:
    """A record on its way to a result.

    Attributes:
        record: the record.
        request: what it asks for; None if it could not be read or is not needed.
        digest: the short hash of what it asks for; empty without a results file.
        answer: its place on stdout.
        losses: how many connections were lost while it was running.
    """

    def __init__(self, record: BatchRecord, request: Request | None, digest: str, answer: Answer) -> None:
        self.record = record
        self.request = request
        self.digest = digest
        self.answer = answer
        self.losses = 0


class Tally:
    """What has become of the records.

    Attributes:
        done: how many have a result.
        failed: how many of them failed.
        kept: how many of them have it from an earlier run.
        tokens_count: the tokens that were predicted.
        status: the worst status of those that failed.
    """

    def __init__(self) -> None:
        self.done = self.failed = self.kept = self.tokens_count = 0
        self.status = ExitCode.OK

    def add(self, outcome: Outcome) -> None:
        """Count a result."""
        self.done += 1
        if outcome.end is not None:
            self.tokens_count += outcome.end.stats.predicted_tokens_count or 0
        if outcome.error is not None:
            self.failed += 1
            self.status = min(self.status or outcome.error.exit_code, outcome.error.exit_code, key=_rank)


def _rank(status: ExitCode) -> int:
    return _WORST_FIRST.index(status) if status in _WORST_FIRST else len(_WORST_FIRST)


class BatchOutput:
    """Takes results, and passes each on when it is on disk and those before it are written.

    Args:
        output: stdout.
        writer: the format of stdout.
        file: the results file, if there is one.
        messages: writes messages to stderr.
        jobs: the number of predictions at once.
        before_message: called before a message is written.

    Attributes:
        tally: counts what has become of the records.
    """

    def __init__(
        self,
        output: Output,
        writer: ResultWriter,
        file: ResultsFile | None,
        messages: Messages,
        *,
        jobs: int,
        before_message: Callable[[], None],
    ) -> None:
        self.tally = Tally()
        self._ordered = OrderedOutput(output)
        self._writer = writer
        self._file = file
        self._messages = messages
        self._before_message = before_message
        self._window = max(_WINDOW, _WINDOW_PER_JOB * jobs)
        self._unsynced: list[tuple[Answer, bytes]] = []
        self._hints: set[str] = set()

    @property
    def has_room(self) -> bool:
        """Whether another record may begin."""
        return len(self._ordered) < self._window and self._ordered.held_size < _WINDOW_BYTES

    def begin(self) -> Answer:
        """The place of the next record on stdout."""
        return self._ordered.begin()

    @property
    def needs_requests(self) -> bool:
        """Whether the requests of records are needed that have a result."""
        return self._writer.needs_request

    @property
    def is_json(self) -> bool:
        """Whether results are written as they are kept in the file."""
        return self._writer.is_json

    @property
    def keeps_tokens(self) -> bool:
        """Whether the tokens of answers are written."""
        return self._writer.is_json or self._file is not None

    def start(self, job: Job) -> None:
        """Stream what comes before an answer."""
        if job.request is not None and (preface := self._writer.preface(job.request)):
            job.answer.stream(preface)

    def keep(self, result: JsonObject, request: Request | None) -> None:
        """Take the result of an earlier run.

        Raises:
            ReaderLeft, Interrupted, OutputFailed: see `Output.write`.
        """
        self.keep_line(self._writer.whole(result, request))

    def keep_line(self, line: bytes) -> None:
        """Take the result of an earlier run, as it is written; raises as `keep`."""
        self.tally.done += 1
        self.tally.kept += 1
        self._ordered.add(line)

    def text_filter(self) -> Callable[[str], str]:
        """See `ResultWriter.text_filter`."""
        return self._writer.text_filter()

    def accepts(self, result: JsonObject) -> bool:
        """Whether the result of an earlier run, which stdout may have got in another form, is one for this run."""
        return not self._writer.lacks_code(result)

    def stream(self, job: Job, text: str) -> None:
        """Take a piece of an answer, if stdout gets text."""
        if text and self._writer.is_text:
            job.answer.stream(self._writer.streamed(text))

    def finish(self, job: Job, text: TextCollector, outcome: Outcome) -> Outcome:
        """Take a result, and return its outcome in this form of output; a failure is reported.

        Raises:
            OutputFailed: the results file cannot be written.
        """
        result = self._result(job, text, outcome)
        whole = self._writer.whole(result, job.request)
        if not whole.startswith(job.answer.streamed):
            if outcome.error is None:  # an answer that failed before it had come as far again says why itself
                error = Incomplete("after the connection was lost the answer began differently")
                outcome = outcome._replace(error=error)
                result = self._result(job, text, outcome)
            whole = self._writer.ended(job.answer.streamed)
        elif outcome.error is None and self._writer.lacks_code(result):
            from lmcli.cli.output.code_sink import no_code  # noqa: PLC0415  few answers have none

            outcome = outcome._replace(error=no_code())
            result = self._result(job, text, outcome)
        if self._file is None:
            self._ordered.finish(job.answer, whole)
        else:
            self._file.append(result, job.digest)
            self._unsynced.append((job.answer, whole))
        self.tally.add(outcome)
        if outcome.tool_calls or outcome.tool_call_failures:
            self._report_tool_calls(job.record, outcome)
        if outcome.error is not None:
            self._report(job.record, outcome.error)
        return outcome

    def cut(self, jobs: Sequence[tuple[Job, TextCollector, Outcome]]) -> None:
        """Take what had arrived for records that were stopped; they are not done, and the file does not get them.

        Raises:
            OutputFailed: see `ResultsFile.sync`.
        """
        self._sync()
        self._ordered.drop_empty_end()
        for job, text, outcome in jobs:
            whole = self._writer.whole(self._result(job, text, outcome), job.request)
            is_continued = whole.startswith(job.answer.streamed)
            self._ordered.finish(job.answer, whole if is_continued else self._writer.ended(job.answer.streamed))

    def write(self, *, syncs_all: bool = False) -> None:
        """Write what can be written.

        Args:
            syncs_all: make all results durable first, even those that have not waited long.

        Raises:
            ReaderLeft, Interrupted, OutputFailed: see `Output.write` and `ResultsFile.sync`.
        """
        if self._file is not None and (syncs_all or self._file.is_due or not self.has_room):
            self._sync()
        self._ordered.advance()
        self._ordered.flush()

    def _sync(self) -> None:
        """Make the results in the file durable; their answers can be written then."""
        if self._file is not None:
            self._file.sync()
        for answer, whole in self._unsynced:
            self._ordered.finish(answer, whole)
        self._unsynced.clear()

    def _report_tool_calls(self, record: BatchRecord, outcome: Outcome) -> None:
        from lmcli.cli.output.call_report import report_tool_calls  # noqa: PLC0415  few answers have any

        self._before_message()
        shown_by = "jsonl" if self._writer.is_text else None
        is_kept = self._file is not None
        report_tool_calls(outcome, self._messages, shown_by=shown_by, is_kept=is_kept, record=record.name)

    def _result(self, job: Job, text: TextCollector, outcome: Outcome) -> JsonObject:
        """The result of a record; of its text alone, where nothing else is needed."""
        text.finish(outcome)
        if self._writer.is_text and not self._writer.is_code and self._file is None:
            return {"content": text.answer}
        return _record(job, text, outcome)

    def _report(self, record: BatchRecord, error: LmError) -> None:
        """Write the error of a record; a hint that was written before is left out."""
        hints = [hint for hint in hints_for(error) if hint not in self._hints]
        self._hints.update(hints)
        self._before_message()
        self._messages.error(LmError(f"{record.name}: {error.message}", *hints))


def _record(job: Job, text: TextCollector, outcome: Outcome) -> JsonObject:
    """The keys of `-o json` for a record, and why it failed, if it did."""
    record, error = job.record, outcome_error(outcome)
    return {
        "index": record.position,
        **({} if record.id is None else {"id": record.id}),
        **({} if error is None else {"error": error}),
        **result_record(text, outcome, is_structured=job.request is not None and job.request.is_structured),
    }
