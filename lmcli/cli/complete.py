"""`lm complete`: the raw continuation of a text, byte-exact in and out."""

from collections.abc import Sequence

from lmcli.cli import prediction
from lmcli.cli.inputs import read_text
from lmcli.cli.options import CompleteOptions
from lmcli.cli.request import make_request
from lmcli.cli.run import Task
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.voice import Voice
from lmcli.errors import ExitCode


def run(typed: CompleteOptions, words: Sequence[str], here: Surroundings, voice: Voice) -> ExitCode:
    """Read the text, have it continued, deliver the continuation."""
    text = read_text(words, here, voice, no_stdin=typed.no_stdin)
    request = make_request(text, typed)
    return prediction.run(Task("complete", request, typed, typed.output, here, voice))
