"""`lm respond`: one answer, for a prompt or a chat history."""

from collections.abc import Sequence

from lmcli.cli.environment import Environment
from lmcli.cli.input.stdin import read_document
from lmcli.cli.invocation import Invocation, run_prediction
from lmcli.cli.messages import Messages
from lmcli.cli.options import RespondOptions
from lmcli.cli.resolve import make_request, renders_markdown
from lmcli.errors import ExitCode


def run(options: RespondOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Read the conversation, and write the answer of the model."""
    options.refuse_unseen_log_probs()
    options = options.replaced(markdown=renders_markdown(options, env, by_default=False))
    if options.is_batch:
        from lmcli.cli.batch import run_batch  # noqa: PLC0415  only --each pays for it

        return run_batch("respond", options, words, env, messages)
    request = make_request(read_document(options, words, env, messages), options)
    return run_prediction(Invocation("respond", request, options, options.output, env, messages))
