"""`lm respond`: one turn of an assistant, for a prompt or a chat history."""

from collections.abc import Sequence

from lmcli.cli import task
from lmcli.cli.environment import Surroundings
from lmcli.cli.input.stdin import read_turn
from lmcli.cli.messages import Voice
from lmcli.cli.options import RespondOptions
from lmcli.cli.resolve import make_request
from lmcli.errors import ExitCode


def run(typed: RespondOptions, words: Sequence[str], here: Surroundings, voice: Voice) -> ExitCode:
    """Read the conversation, have it continued, deliver the answer."""
    request = make_request(read_turn(typed, words, here, voice), typed)
    return task.run(task.Task("respond", request, typed, typed.output, here, voice))
