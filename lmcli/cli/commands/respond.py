"""`lm respond`: one turn of an assistant, for a prompt or a chat history."""

from collections.abc import Sequence

from lmcli.cli import task
from lmcli.cli.environment import Environment
from lmcli.cli.input.stdin import read_turn
from lmcli.cli.messages import Messages
from lmcli.cli.options import RespondOptions
from lmcli.cli.resolve import make_request
from lmcli.errors import ExitCode


def run(options: RespondOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Read the conversation, have it continued, deliver the answer."""
    request = make_request(read_turn(options, words, env, messages), options)
    return task.run(task.Task("respond", request, options, options.output, env, messages))
