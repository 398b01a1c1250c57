"""`lm models load`: have a model loaded, and print its identifier."""

from collections.abc import Sequence

from lmcli.cli.lifecycle import LoadLife
from lmcli.cli.options import ModelsLoadOptions
from lmcli.cli.request import load_request
from lmcli.cli.run import Run
from lmcli.cli.sinks.choice import progress_sink
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.voice import Voice
from lmcli.errors import ExitCode, UsageError


def run(typed: ModelsLoadOptions, words: Sequence[str], here: Surroundings, voice: Voice) -> ExitCode:
    """Load the model; Ctrl-C has the server stop loading it.

    Raises:
        UsageError: not exactly one model was named.
        ModelNotFound, LoadFailed: see `Session.load`.
    """
    if len(words) != 1:
        raise UsageError("name one model to load: lm models load KEY", "lm models lists the keys")
    request = load_request(words[0], typed, identifier=typed.identifier)
    work = Run(typed, here, voice)
    with work.connected(), work.watched():
        progress = progress_sink(typed, here, voice, work.output)
        load = LoadLife(work, [progress] if progress else [])

        def carry_out() -> None:
            instance = load.load(request)
            work.output.write(f"{instance.identifier}\n".encode())
            if _has_wishes(typed) and not load.channel.is_new:
                voice.warning(f"{words[0]} was loaded already, and stays as it is (--identifier NAME loads another)")

        work.attempt(carry_out)
        load.finish()
    return work.end()


def _has_wishes(typed: ModelsLoadOptions) -> bool:
    return any(value is not None for value in (typed.ttl, typed.context_length, typed.gpu))
