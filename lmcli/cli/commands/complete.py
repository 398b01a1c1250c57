"""`lm complete`: the raw continuation of a text, byte-exact in and out."""

from collections.abc import Sequence

from lmcli.cli.choices import RawOutputForm
from lmcli.cli.environment import Environment
from lmcli.cli.input.stdin import read_text
from lmcli.cli.invocation import Invocation, run_prediction
from lmcli.cli.messages import Messages
from lmcli.cli.options import CompleteOptions
from lmcli.cli.resolve import make_request
from lmcli.errors import ExitCode, UsageError


def run(options: CompleteOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Read the text, and write its continuation."""
    options.refuse_unseen_log_probs()
    if options.echo and options.output is not RawOutputForm.TEXT:
        raise UsageError(f"--echo writes text, and -o {options.output} does not")
    if options.is_batch:
        from lmcli.cli.batch import run_batch  # noqa: PLC0415  only --each pays for it

        return run_batch("complete", options, words, env, messages)
    text = read_text(words, env, messages, no_stdin=options.no_stdin)
    request = make_request(text, options)
    preface = text if options.echo else ""
    return run_prediction(Invocation("complete", request, options, options.output, env, messages, preface))
