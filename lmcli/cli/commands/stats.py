"""`lm stats`: measure a model with the prompt on stdin, or sum up what was recorded."""

from collections.abc import Sequence

from lmcli.cli.environment import Surroundings
from lmcli.cli.messages import Voice
from lmcli.cli.options import StatsOptions
from lmcli.errors import ExitCode


def run(typed: StatsOptions, words: Sequence[str], here: Surroundings, voice: Voice) -> ExitCode:
    """Sum up the named files; without any, measure."""
    if words:
        from lmcli.cli.summary import summarise  # noqa: PLC0415  one of the two is needed

        return summarise(typed, words, here, voice)
    from lmcli.cli.measure import measure  # noqa: PLC0415

    return measure(typed, here, voice)
