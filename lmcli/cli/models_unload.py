"""`lm models unload`: drop models from the server's memory."""

from collections.abc import Sequence

from lmcli.cli.connect import connect
from lmcli.cli.options import ModelsUnloadOptions
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.voice import Voice
from lmcli.client.catalog import list_loaded, unload
from lmcli.errors import ExitCode, LmError, UsageError


def run(typed: ModelsUnloadOptions, words: Sequence[str], here: Surroundings, voice: Voice) -> ExitCode:
    """Unload the named models, or all; one that fails does not keep the others.

    Raises:
        UsageError: neither names nor `--all`, or both.
        LmError: the last failure, after all were tried.
    """
    if bool(words) == typed.all:
        raise UsageError("name the models to unload, or say --all", "lm models --loaded lists them")
    failure: LmError | None = None
    with connect(typed, here, voice) as connection:
        session = connection.session("llm")
        for identifier in words or [instance.identifier for instance in list_loaded(session)]:
            try:
                unload(session, identifier)
            except LmError as error:
                if failure is not None:
                    voice.error(failure)
                failure = error
    if failure is not None:
        raise failure
    return ExitCode.OK
