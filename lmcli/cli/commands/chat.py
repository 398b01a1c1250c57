"""`lm chat`: a conversation, one turn per run in a pipe, a dialogue on a terminal; `--history` keeps it in a file."""

from collections.abc import Sequence
from contextlib import nullcontext

from lmcli.cli.environment import Surroundings
from lmcli.cli.input.chat_file import ChatFile
from lmcli.cli.input.document import Document, assistant_entry
from lmcli.cli.input.stdin import read_asked, system_prompt
from lmcli.cli.messages import Voice
from lmcli.cli.options import ChatOptions
from lmcli.cli.output.results import Text
from lmcli.cli.output.sinks import Outcome
from lmcli.cli.resolve import make_request
from lmcli.cli.run import Run
from lmcli.cli.task import Task, perform, show_request
from lmcli.errors import ExitCode, LmError, UsageError


def run(typed: ChatOptions, words: Sequence[str], here: Surroundings, voice: Voice) -> ExitCode:
    """Hold a dialogue on a terminal; anywhere else take one turn."""
    if here.stdin_is_terminal and not typed.no_stdin and not typed.dry_run:
        from lmcli.cli.dialogue import hold  # noqa: PLC0415  line editing is loaded by who edits lines

        return hold(typed, words, here, voice)
    return _one_turn(typed, words, here, voice)


def _one_turn(typed: ChatOptions, words: Sequence[str], here: Surroundings, voice: Voice) -> ExitCode:
    asked = read_asked(typed, words, here, voice)
    if asked.document is not None and typed.history is not None:
        raise UsageError("stdin is a chat history, and --history names another", "-i text sends stdin as text")
    file = None if typed.history is None else ChatFile(typed.history)
    with nullcontext() if file is None or typed.dry_run else file.locked(voice):
        document = file.read() if file else asked.document or Document.new()
        system = system_prompt(typed)
        document = document if system is None else document.with_system(system)
        document = document if asked.entry is None else document.with_entry(asked.entry)
        document.chat()  # a flaw is reported before anything is sent
        task = Task("chat", make_request(document, typed, overflow=None), typed, typed.output, here, voice)
        if typed.dry_run:
            return show_request(task)
        text, work = Text(), Run(typed, here, voice)
        outcome = perform(task, work, [text])
        entry = assistant_entry(text, outcome)
        if file is not None and entry is not None:
            _keep(file, document.with_entry(entry), outcome, voice)
    return work.end()


def _keep(file: ChatFile, document: Document, outcome: Outcome, voice: Voice) -> None:
    """Write the turn down; where it failed for another reason already, that one decides the status."""
    try:
        file.write(document)
    except LmError as error:
        if outcome.error is None and outcome.signum is None:
            raise
        voice.error(error)
