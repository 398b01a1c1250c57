"""stdout for answers that are made at the same time and written in the order of their records.

The answer to the oldest unfinished record is streamed; the others wait. What was streamed is always the beginning of
what is written in the end, so the bytes do not depend on which answer came first.
"""

from collections import deque
from typing import Final

from lmcli.cli.output.stdout import Output

_BURST_BYTES: Final = 1 << 16


class Answer:
    """The place of one answer on stdout.

    Attributes:
        whole: the whole of it, which begins with what was streamed; None while it is not known.
    """

    def __init__(self) -> None:
        self.whole: bytes | None = None
        self._waiting: list[bytes] = []
        self._streamed = bytearray()
        self._is_streaming = True

    @property
    def streamed(self) -> bytes:
        """What has been written of it so far."""
        return bytes(self._streamed)

    def stream(self, data: bytes) -> None:
        """Add to what is streamed."""
        if self._is_streaming:
            self._waiting.append(data)

    def restart(self) -> None:
        """Predict it again: nothing more is streamed, because the text may be another one."""
        self._is_streaming = False
        self._waiting.clear()

    def due(self) -> bytes:
        """What can be written now, if this is the oldest answer; each byte is returned once."""
        if self.whole is not None:
            return self.whole[len(self._streamed) :]
        due = b"".join(self._waiting)
        self._waiting.clear()
        self._streamed += due
        return due


class OrderedOutput:
    """Writes answers in the order in which they were begun.

    Args:
        output: stdout.

    Attributes:
        held_size: the bytes of finished answers that wait for an older one.
    """

    def __init__(self, output: Output) -> None:
        self.held_size = 0
        self._output = output
        self._answers: deque[Answer] = deque()
        self._due: list[bytes] = []
        self._due_size = 0

    def __len__(self) -> int:
        """How many answers are not written yet."""
        return len(self._answers)

    def begin(self) -> Answer:
        """The place of the next answer."""
        answer = Answer()
        self._answers.append(answer)
        return answer

    def finish(self, answer: Answer, whole: bytes) -> None:
        """Set the whole of an answer, which begins with what was streamed of it."""
        answer.whole = whole
        self.held_size += len(whole)

    def add(self, whole: bytes) -> None:
        """Take the next answer, which is finished already.

        Raises:
            ReaderLeft, Interrupted, OutputFailed: see `Output.write`.
        """
        if self._answers:
            self.finish(self.begin(), whole)
            return
        self._take(whole)
        if self._due_size >= _BURST_BYTES:
            self.flush()

    def advance(self) -> None:
        """Take what can be written; large amounts are written at once.

        Raises:
            ReaderLeft, Interrupted, OutputFailed: see `Output.write`.
        """
        while self._answers:
            answer = self._answers[0]
            if data := answer.due():
                self._take(data)
            if answer.whole is None:
                break
            self._answers.popleft()
            self.held_size -= len(answer.whole)
        if self._due_size >= _BURST_BYTES:
            self.flush()

    def _take(self, data: bytes) -> None:
        self._due.append(data)
        self._due_size += len(data)

    def flush(self) -> None:
        """Write what was taken.

        Raises:
            ReaderLeft, Interrupted, OutputFailed: see `Output.write`.
        """
        if self._due:
            data, self._due, self._due_size = b"".join(self._due), [], 0
            self._output.write(data)

    def drop_empty_end(self) -> None:
        """Forget the last answers, if they are not finished and nothing of them was written."""
        while self._answers and not (self._answers[-1].whole is not None or self._answers[-1].streamed):
            self._answers.pop()
