"""The dialogue of `lm chat` on a terminal: a line of input is a message to the model, or a command such as /help."""

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from lmcli.cli.candidates import candidates
from lmcli.cli.choices import OutputForm
from lmcli.cli.conversation import Conversation
from lmcli.cli.dialogue_commands import COMMANDS, FILE, Dialogue
from lmcli.cli.editor import Cancelled, Entry, LineEditor, interruptible
from lmcli.cli.environment import Environment
from lmcli.cli.input.stdin import join_words
from lmcli.cli.messages import Messages
from lmcli.cli.options import ChatOptions
from lmcli.cli.recall_file import OPT_OUT_VARIABLE, recall_file
from lmcli.cli.runner import Runner
from lmcli.errors import ExitCode, LmError, UsageError, quoted, reason

_MESSAGE_HINT: Final = "a space before / makes it a message"


def run_dialogue(options: ChatOptions, words: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Read and answer messages until the user exits.

    Raises:
        LmError: the dialogue cannot be started.
    """
    if options.output is not OutputForm.TEXT:
        raise UsageError(
            f"-o {options.output} cannot be used in a dialogue", f"lm chat -n -o {options.output} PROMPT takes one turn"
        )
    env = _with_separate_prompts(env)
    runner = Runner(options, env, messages)
    dialogue = Dialogue(Conversation(options, env, messages, runner), env, messages)
    text = join_words(words).strip()
    recalled = [*dialogue.conversation.questions, text]  # as it was typed, without the files that are sent with it
    with runner.connected():
        dialogue.show_last_turns()
        if text:
            _attempt(dialogue, lambda: dialogue.conversation.ask(text))
        _run(dialogue, _editor(dialogue, recalled))
    return ExitCode.OK


def _with_separate_prompts(env: Environment) -> Environment:
    """If stdout is not the terminal, write prompts to the terminal and answers to stdout.

    Line editing writes to descriptor 1, so that becomes the terminal, and the answers get a new descriptor.
    """
    if env.stdout_is_terminal or not env.stderr_is_terminal:
        return env
    answers = os.dup(env.stdout)
    os.dup2(env.stderr, env.stdout)
    return env._replace(stdout=answers)


def _editor(dialogue: Dialogue, recalled: Sequence[str]) -> LineEditor:
    """The line editor, which completes; its arrow keys recall the messages of this conversation and earlier input."""

    @cache
    def model_keys() -> Sequence[str]:
        return [listed.model.model_key for listed in dialogue.conversation.models()]

    def warn(path: Path, error: OSError) -> None:
        dialogue.messages.warning(f"what is typed is not kept in {quoted(path)}: {reason(error)}")
        dialogue.messages.hint(f"{OPT_OUT_VARIABLE}=1 keeps nothing")

    typed = recall_file(dialogue.env, warn)
    is_dumb = dialogue.env.setting("TERM") == "dumb"
    return LineEditor(recalled, typed, lambda line: candidates(line, model_keys), is_dumb=is_dumb)


def _run(dialogue: Dialogue, editor: LineEditor) -> None:
    """Read and handle input until the user exits."""
    dialogue.messages.note("/help lists commands, Ctrl-D exits")
    try:
        while not dialogue.is_over:
            _attempt(dialogue, lambda: _take(dialogue, editor.read()))
    except EOFError:
        dialogue.messages.raw("\n")


def _attempt(dialogue: Dialogue, step: Callable[[], None]) -> None:
    """Read or handle input; Ctrl-C ends this, and errors are printed, but the dialogue continues."""
    try:
        with interruptible():
            step()
    except Cancelled:
        dialogue.messages.raw("\n")
    except LmError as error:
        dialogue.messages.error(error)


def _take(dialogue: Dialogue, entry: Entry) -> None:
    if entry.is_block:
        dialogue.ask(entry.text)
    else:
        _handle(dialogue, entry.text)


def _handle(dialogue: Dialogue, line: str) -> None:
    """Run the command in a line; any other line is a question."""
    name, _, argument = line.partition(" ")
    if not name.startswith("/"):
        dialogue.ask(line.strip())
        return
    command = COMMANDS.get(name)
    if command is None:
        raise _unknown_command(name)
    argument = argument.strip()
    if argument and not command.argument:
        raise UsageError(f"{name} takes no argument", _MESSAGE_HINT)
    command.run(dialogue, argument if command.kind == FILE else join_words([argument]))


def _unknown_command(name: str) -> UsageError:
    from lmcli.cli.suggestions import close_matches  # noqa: PLC0415  only an error needs them

    matches = close_matches(name, COMMANDS)
    hints = [f"did you mean {' or '.join(matches)}?"] if matches else []
    return UsageError(f"no such command {quoted(name)}", *hints, f"/help lists the commands; {_MESSAGE_HINT}")
