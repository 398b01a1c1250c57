"""The run of a batch: records are read as predictions end, and predicted again where a connection was lost."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from lmcli.cli.batch_model import BatchModel
from lmcli.cli.batch_output import BatchOutput, Job
from lmcli.cli.batch_requests import BatchRequests
from lmcli.cli.input.batch_records import BatchRecord, RecordReader
from lmcli.cli.lifecycle import PredictionLifecycle
from lmcli.cli.output.results import TextCollector
from lmcli.cli.output.results_file import LATEST_SYNC, ResultsFile
from lmcli.cli.output.sinks import Outcome
from lmcli.cli.runner import Runner
from lmcli.client.session import Session
from lmcli.client.waiting import Interrupt, sleep
from lmcli.errors import (
    BadInput,
    CannotConnect,
    ConnectionLost,
    LmError,
    ModelNotFound,
    ModelUnloaded,
    OutputFailed,
    RemoteProtocolError,
    TimedOut,
)
from lmcli.values import Fragment, ModelInstance, Value

_LOSSES: Final = (ConnectionLost, RemoteProtocolError, CannotConnect, TimedOut)
"""What ends a connection: the records that were running are predicted again on a new one."""

_MOST_LOSSES: Final = 3
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 30.0
_GIVE_UP_AFTER: Final = 300.0


def retry_delays() -> Iterator[float]:
    """How many seconds to wait before each new connection: doubled each time, and for five minutes in all."""
    delay, total = _FIRST_DELAY, 0.0
    while total < _GIVE_UP_AFTER:
        yield delay
        total += delay
        delay = min(2 * delay, _LONGEST_DELAY)


class _RecordPrediction(PredictionLifecycle):
    """The prediction of a record.

    Args:
        job: the record.
        runner: has the connection.
        output: gets the text as it arrives.
    """

    empty_hint = "-o jsonl shows the reasoning and why it stopped"

    def __init__(self, job: Job, runner: Runner, output: BatchOutput) -> None:
        assert job.request is not None  # noqa: S101  records that cannot be read are not predicted
        self.job = job
        self.text = TextCollector(keeps_tokens=output.keeps_tokens)
        self._output = output
        self._filter = output.text_filter()
        self._may_be_replaced = job.request.schema is not None
        self._blank = ""  # the beginning of an answer that one from the reasoning may replace
        super().__init__(job.request, runner, [self.text], may_be_empty=job.request.is_raw)

    def feed(self, values: list[Value]) -> None:
        """Collect the text, and stream it."""
        super().feed(values)
        text = self._blank + "".join(v.content for v in values if type(v) is Fragment and v.reasoning_type == "none")
        self._blank = "" if self._has_answer or not self._may_be_replaced else text
        if text and not self._blank:
            self._output.stream(self.job, self._filter(text))

    @property
    def outcome(self) -> Outcome:
        """The outcome of this record, whatever becomes of the batch."""
        return super().outcome._replace(error=self.error, signum=None)

    @property
    def is_complete(self) -> bool:
        """Whether the server has ended it by itself."""
        end = self.channel.end
        return end is not None and end.stats.stop_reason != "userStopped"


class BatchRun:
    """Answers the records of a reader.

    Args:
        reader: reads the records.
        requests: makes their requests.
        output: takes their results.
        file: the results of earlier runs, if there is a file.
        model: the model that answers.
        runner: connects, and keeps the error that ends the batch.
        stdin: the descriptor of the reader.
        jobs: the number of predictions at once.
        fails_fast: begin no record after the first failure.
        on_result: called with each record and its outcome.
        on_round: called after each turn of the loop.
    """

    def __init__(
        self,
        reader: RecordReader,
        requests: BatchRequests,
        output: BatchOutput,
        file: ResultsFile | None,
        *,
        model: BatchModel,
        runner: Runner,
        stdin: int,
        jobs: int,
        fails_fast: bool,
        on_result: Callable[[BatchRecord, Outcome], None],
        on_round: Callable[[], None],
    ) -> None:
        self._reader = reader
        self._requests = requests
        self._output = output
        self._file = file
        self._model = model
        self._runner = runner
        self._jobs = jobs
        self._fails_fast = fails_fast
        self._on_result = on_result
        self._on_round = on_round
        self._running: list[_RecordPrediction] = []
        self._again: deque[Job] = deque()
        self._delays = retry_delays()
        self._is_model_lost = False
        self._awaits_input = False
        runner.more_interrupts = lambda: (Interrupt(stdin),) if self._awaits_input else ()

    def answer_all(self) -> None:
        """Answer all records.

        Raises:
            Interrupted, ReaderLeft: the batch was stopped.
            LmError: it cannot go on.
        """
        while self._has_next():
            self._awaits_input = False  # a connection that was lost while waiting left it set
            try:
                with self._runner.connected():
                    model = self._model.obtain(self._runner)
                    self._is_model_lost = False
                    session = self._runner.session
                    self._runner.deliver(session, self._rounds(session, model), tick=LATEST_SYNC)
            except _LOSSES as error:
                self._runner.signals.check()  # a wait that a signal ends fails like this, too
                self._reconnect_later(error)
        self._output.write(syncs_all=True)

    def cut(self) -> None:
        """After a stop: take the results that are complete, and what had arrived of the others.

        Raises:
            OutputFailed: they cannot be written.
        """
        stopped = Outcome(error=self._runner.error, signum=self._runner.signum)
        cut = [(job, TextCollector(), stopped) for job in self._again]
        for prediction in list(self._running):
            prediction.judge()
            if prediction.is_complete and not isinstance(self._runner.error, OutputFailed):
                self._running.remove(prediction)
                self._finish(prediction.job, prediction.text, prediction.outcome)
            else:
                outcome = prediction.outcome._replace(end=None, error=stopped.error, signum=stopped.signum)
                cut.append((prediction.job, prediction.text, outcome))
        self._output.cut(cut)
        self._output.write(syncs_all=True)

    def _has_next(self) -> bool:
        """Wait for a record that has to be predicted; False if there is none."""
        while not self._again:
            if (job := self._next_job()) is not None:
                self._again.append(job)
            elif self._is_exhausted:
                return False
            else:
                is_full = not self._output.has_room
                self._output.write(syncs_all=True)
                if not is_full:
                    self._reader.wait(self._runner.output.interrupts())
                self._runner.signals.check()
                self._runner.output.check()
        return True

    def _rounds(self, session: Session, model: ModelInstance) -> Iterator[Sequence[_RecordPrediction]]:
        """The predictions that run, turn by turn: those that have ended are replaced by the next."""
        while True:
            self._take_ended(session)
            with session.together():
                self._begin(session, model)
            self._output.write()
            self._on_round()
            is_done = self._is_exhausted and not self._again
            if not self._running and (is_done or self._is_model_lost or not session.takes_requests):
                return
            self._awaits_input = len(self._running) < self._jobs and self._output.has_room and not self._is_exhausted
            yield self._running
            self._awaits_input = False

    def _begin(self, session: Session, model: ModelInstance) -> None:
        takes_requests = not self._is_model_lost and session.takes_requests
        while takes_requests and len(self._running) < self._jobs:
            job = self._next_job()
            if job is None:
                return
            prediction = _RecordPrediction(job, self._runner, self._output)
            try:
                prediction.begin(session, model)
            except LmError as error:
                if isinstance(error, _LOSSES):
                    self._again.appendleft(job)
                    raise
                self._finish(job, prediction.text, Outcome(error=error))
            else:
                self._running.append(prediction)

    def _take_ended(self, session: Session) -> None:
        for prediction in [p for p in self._running if p.channel.is_over]:
            prediction.judge()
            error = prediction.error
            if isinstance(error, ModelUnloaded | ModelNotFound) and not self._model.is_loaded(session):
                self._is_model_lost = True
                self._lose(prediction, error)
            else:
                self._finish(prediction.job, prediction.text, prediction.outcome)
            self._running.remove(prediction)  # not before: an error above ends the batch, which cuts those that run

    def _next_job(self) -> Job | None:
        """The next record that has to be predicted, if it is there; those that have a result are passed on."""
        if self._again:
            return self._again.popleft()
        while self._output.has_room and not self._is_stopped:
            record = self._reader.take()
            if record is not None:
                if (job := self._admitted(record)) is not None:
                    return job
            elif self._reader.is_at_end or not self._reader.can_read:
                return None
            else:
                self._output.write()
                self._on_round()
                self._runner.signals.check()
                self._reader.read()
        return None

    @property
    def _is_exhausted(self) -> bool:
        """Whether no further record begins."""
        return self._is_stopped or (self._reader.is_at_end and not self._reader.waiting_count)

    @property
    def _is_stopped(self) -> bool:
        """Whether a failure lets no further record begin."""
        return self._fails_fast and self._output.tally.failed > 0

    def _admitted(self, record: BatchRecord) -> Job | None:
        """The record as a job; None if it has a result, or cannot be read."""
        digest = "" if self._file is None else self._requests.digest(record)
        if self._file is not None and self._output.is_json and (line := self._file.line(record, digest)) is not None:
            self._output.keep_line(line)
            return None
        result = None if self._file is None else self._file.answer(record, digest)
        if result is not None and not self._output.accepts(result):
            result = None
        request = None
        try:
            if result is None or self._output.needs_requests:
                request = self._requests.request(record)
        except BadInput as error:
            self._finish(Job(record, None, digest, self._output.begin()), TextCollector(), Outcome(error=error))
            return None
        if result is not None:
            self._output.keep(result, request)
            return None
        job = Job(record, request, digest, self._output.begin())
        self._output.start(job)
        return job

    def _finish(self, job: Job, text: TextCollector, outcome: Outcome) -> None:
        outcome = self._output.finish(job, text, outcome)
        self._on_result(job.record, outcome)
        if outcome.end is not None:
            self._delays = retry_delays()
            self._model.note(outcome.end)

    def _reconnect_later(self, error: LmError) -> None:
        """Predict again what was running, after a while.

        Raises:
            LmError: the error itself, if this was the first connection, or the server has been away for too long.
        """
        for prediction in self._running:
            prediction.judge()
            if prediction.is_complete:
                self._finish(prediction.job, prediction.text, prediction.outcome)
            else:
                self._lose(prediction, error)
        self._running.clear()
        self._output.write(syncs_all=True)
        if not self._again:
            return
        delay = None if self._model.instance is None else next(self._delays, None)
        if delay is None:
            raise error
        self._runner.messages.warning(f"{error.message}; connecting again in {delay:g} s")
        sleep(delay, self._runner.output.interrupts())
        self._runner.signals.check()
        self._runner.output.check()

    def _lose(self, prediction: _RecordPrediction, error: LmError) -> None:
        job = prediction.job
        job.losses += 1
        if job.losses < _MOST_LOSSES:
            job.answer.restart()
            self._again = deque(sorted([*self._again, job], key=lambda job: job.record.position))
        else:
            self._finish(job, prediction.text, Outcome(error=error))
