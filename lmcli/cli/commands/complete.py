"""`lm complete`: the raw continuation of a text, byte-exact in and out."""

from collections.abc import Sequence

from lmcli.cli import task
from lmcli.cli.choices import RawOutputForm
from lmcli.cli.environment import Surroundings
from lmcli.cli.input.stdin import read_text
from lmcli.cli.messages import Voice
from lmcli.cli.options import CompleteOptions
from lmcli.cli.resolve import make_request
from lmcli.errors import ExitCode, UsageError


def run(typed: CompleteOptions, words: Sequence[str], here: Surroundings, voice: Voice) -> ExitCode:
    """Read the text, have it continued, deliver the continuation."""
    if typed.echo and typed.output is not RawOutputForm.TEXT:
        raise UsageError(f"--echo writes text, and -o {typed.output} does not")
    text = read_text(words, here, voice, no_stdin=typed.no_stdin)
    request = make_request(text, typed)
    preface = text if typed.echo else ""
    return task.run(task.Task("complete", request, typed, typed.output, here, voice, preface))
