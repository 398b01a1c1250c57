"""`lm chat`: a conversation, one turn per run in a pipe, a dialogue on a terminal; `--history` keeps it in a file."""

from collections.abc import Sequence
from contextlib import nullcontext

from lmcli.cli.environment import Environment
from lmcli.cli.input.chat_file import ChatFile
from lmcli.cli.input.document import Document, assistant_entry
from lmcli.cli.input.stdin import read_asked, system_prompt
from lmcli.cli.messages import Messages
from lmcli.cli.options import ChatOptions
from lmcli.cli.output.results import Text
from lmcli.cli.output.sinks import Outcome
from lmcli.cli.resolve import make_request
from lmcli.cli.run import Run
from lmcli.cli.task import Task, perform, show_request
from lmcli.errors import ExitCode, LmError, UsageError


def run(options: ChatOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Hold a dialogue on a terminal; anywhere else take one turn."""
    if env.stdin_is_terminal and not options.no_stdin and not options.dry_run:
        from lmcli.cli.dialogue import hold  # noqa: PLC0415  line editing is loaded by who edits lines

        return hold(options, words, env, messages)
    return _one_turn(options, words, env, messages)


def _one_turn(options: ChatOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    asked = read_asked(options, words, env, messages)
    if asked.document is not None and options.history is not None:
        raise UsageError("stdin is a chat history, and --history names another", "-i text sends stdin as text")
    file = None if options.history is None else ChatFile(options.history)
    with nullcontext() if file is None or options.dry_run else file.locked(messages):
        document = file.read() if file else asked.document or Document.new()
        system = system_prompt(options)
        document = document if system is None else document.with_system(system)
        document = document if asked.entry is None else document.with_entry(asked.entry)
        document.chat()  # a flaw is reported before anything is sent
        task = Task("chat", make_request(document, options), options, options.output, env, messages)
        if options.dry_run:
            return show_request(task)
        text, work = Text(), Run(options, env, messages)
        outcome = perform(task, work, [text])
        entry = assistant_entry(text, outcome)
        if file is not None and entry is not None:
            _keep(file, document.with_entry(entry), outcome, messages)
    return work.end()


def _keep(file: ChatFile, document: Document, outcome: Outcome, messages: Messages) -> None:
    """Write the turn down; where it failed for another reason already, that one decides the status."""
    try:
        file.write(document)
    except LmError as error:
        if outcome.error is None and outcome.signum is None:
            raise
        messages.error(error)
