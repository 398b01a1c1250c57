"""The code of an answer: what is inside its fenced code blocks."""

from lmcli.cli.output.code_blocks import CodeBlocks
from lmcli.cli.output.sinks import Outcome, TextSink
from lmcli.cli.output.stdout import Output
from lmcli.errors import Unusable


class CodeSink(TextSink):
    """Writes the code of the answer as it arrives; one write for what arrived together.

    Args:
        output: stdout.
        is_terminal: see `TextSink`.
    """

    def __init__(self, output: Output, *, is_terminal: bool) -> None:
        super().__init__(output, is_terminal=is_terminal, ends_line=True)
        self._blocks = CodeBlocks()

    def finish(self, outcome: Outcome) -> None:
        """Write the rest.

        Raises:
            Unusable: the answer is complete, calls no tool, and has no code.
        """
        super()._write(self._blocks.end())
        is_complete = outcome.error is None and outcome.signum is None
        if is_complete and not (self._blocks.has_code or outcome.tool_calls):
            raise no_code()

    def _write(self, text: str) -> None:
        if code := self._blocks.feed(text):
            super()._write(code)


def no_code() -> Unusable:
    """The error of an answer without code."""
    return Unusable("the answer has no fenced code block", "-o text shows the answer")
