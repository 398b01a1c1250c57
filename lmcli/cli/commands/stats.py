"""`lm stats`: measure a model with the prompt on stdin, or summarise recorded results."""

from collections.abc import Sequence

from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages
from lmcli.cli.options import StatsOptions
from lmcli.errors import ExitCode


def run(options: StatsOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Summarise the named files; without any, measure."""
    if words:
        from lmcli.cli.summary import summarise  # noqa: PLC0415  one of the two modules is needed

        return summarise(options, words, env, messages)
    from lmcli.cli.measure import measure  # noqa: PLC0415

    return measure(options, env, messages)
