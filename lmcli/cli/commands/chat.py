"""`lm chat`: a conversation, one turn per run in a pipe, a dialogue on a terminal; `--history` keeps it in a file."""

from collections.abc import Sequence
from contextlib import nullcontext

from lmcli.cli.choices import OutputForm
from lmcli.cli.environment import Environment
from lmcli.cli.input.chat_file import ChatFile
from lmcli.cli.input.document import Document, assistant_entry
from lmcli.cli.input.stdin import is_stdin, read_turn, system_prompt
from lmcli.cli.invocation import Invocation, connect_and_predict, run_prediction
from lmcli.cli.messages import Messages
from lmcli.cli.options import ChatOptions
from lmcli.cli.output.results import StoredTextCollector
from lmcli.cli.output.sinks import Outcome
from lmcli.cli.resolve import make_request, renders_markdown
from lmcli.cli.runner import Runner
from lmcli.errors import ExitCode, LmError, UsageError


def run(options: ChatOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Run a dialogue on a terminal, elsewhere one turn."""
    options.refuse_unseen_log_probs()
    dialogue_env = _dialogue_environment(options, env)
    options = options.replaced(markdown=renders_markdown(options, env, by_default=dialogue_env is not None))
    if dialogue_env is not None:
        from lmcli.cli.dialogue import run_dialogue  # noqa: PLC0415  only a dialogue needs line editing

        return run_dialogue(options, words, dialogue_env, messages)
    return _one_turn(options, words, env, messages)


def _dialogue_environment(options: ChatOptions, env: Environment) -> Environment | None:
    """The environment for a dialogue on a terminal, also about a document that `-f -` names; None for one turn."""
    if options.no_stdin or options.dry_run or options.count:
        return None
    if env.stdin_is_terminal:
        return env
    has_document = any(map(is_stdin, options.file or ())) and options.output is OutputForm.TEXT
    return env.with_terminal_on_stdin() if has_document else None


def _one_turn(options: ChatOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    turn = read_turn(options, words, env, messages)
    if turn.history is not None and options.history is not None:
        raise UsageError("stdin is a chat history, and --history names another", "-i text sends stdin as text")
    file = None if options.history is None else ChatFile(options.history)
    is_asked = not (options.dry_run or options.count)
    with file.locked(messages) if file and is_asked else nullcontext():
        document = file.read() if file else turn.history or Document.new()
        system = system_prompt(options)
        document = document if system is None else document.with_system(system)
        document = document if turn.message is None else document.with_entry(turn.message)
        document.chat()  # raises BadInput before anything is sent
        request = make_request(document, options)
        invocation = Invocation("chat", request, options, options.output, env, messages)
        if not is_asked:
            return run_prediction(invocation)
        runner = Runner(options, env, messages)
        connect_and_predict(invocation, runner, [] if file is None else [TurnSink(file, document, messages)])
    return runner.end()


class TurnSink(StoredTextCollector):
    """Stores a turn in a chat file at its end, while signals are still watched."""

    def __init__(self, file: ChatFile, document: Document, messages: Messages) -> None:
        super().__init__()
        self._file = file
        self._document = document
        self._messages = messages

    def finish(self, outcome: Outcome) -> None:
        """Write the chat file; if the turn has failed, that failure determines the exit status."""
        super().finish(outcome)
        entry = assistant_entry(self, outcome)
        if entry is None:
            return
        try:
            self._file.write(self._document.with_entry(entry))
        except LmError as error:
            if outcome.error is None and outcome.signum is None:
                raise
            self._messages.error(error)
