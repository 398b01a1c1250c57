"""`lm models load`: have a model loaded, and print the name that it goes by."""

from collections.abc import Sequence

from lmcli.cli.connect import connect
from lmcli.cli.delivery import deliver, watched
from lmcli.cli.ending import Ending
from lmcli.cli.options import ModelsLoadOptions
from lmcli.cli.output import Output
from lmcli.cli.request import load_opening
from lmcli.cli.sinks import Outcome
from lmcli.cli.sinks.choice import progress_sink
from lmcli.cli.stops import Stops
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
    opening = load_opening(words[0], typed, identifier=typed.identifier)
    progress = progress_sink(typed, here, voice)
    sinks = [progress] if progress else []
    with connect(typed, here, voice) as connection:
        session = connection.session("llm")
        with Stops() as stops:
            ending = Ending(stops)
            output = Output(here.stdout, stops)

            def load() -> None:
                with watched(connection, output, stops):
                    loading = session.load(opening)
                    deliver(loading, sinks, output, stops, tick=progress.tick if progress else None)
                    output.write(f"{loading.wait().identifier}\n".encode())
                if _has_wishes(typed) and not loading.is_new:
                    voice.warning(
                        f"{words[0]} was loaded already, and stays as it is (--identifier NAME loads another)"
                    )

            ending.attempt(load)
            for sink in sinks:
                sink.finish(Outcome())
    return ending.end()


def _has_wishes(typed: ModelsLoadOptions) -> bool:
    return any(value is not None for value in (typed.ttl, typed.context_length, typed.gpu))
