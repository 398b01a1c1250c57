"""The dialogue of `lm chat` on a terminal: a line of input is a message to the model, or a command such as /help."""

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from lmcli.cli.candidates import candidates
from lmcli.cli.choices import OutputForm
from lmcli.cli.conversation import Conversation
from lmcli.cli.dialogue_commands import COMMANDS, FILE, Dialogue
from lmcli.cli.editor import Cancelled, LineEditor, interruptible
from lmcli.cli.environment import Environment
from lmcli.cli.input.stdin import join_words
from lmcli.cli.messages import Messages
from lmcli.cli.options import ChatOptions
from lmcli.cli.recall_file import OPT_OUT_VARIABLE, recall_file
from lmcli.cli.runner import Runner
from lmcli.errors import ExitCode, LmError, UsageError, quoted, reason


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
            _attempt(dialogue, dialogue.conversation.ask, text)
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
    return LineEditor(recalled, typed, lambda line: candidates(line, model_keys))


def _run(dialogue: Dialogue, editor: LineEditor) -> None:
    """Read and handle input until the user exits."""
    messages = dialogue.messages
    messages.note("/help lists commands, Ctrl-D exits")
    while not dialogue.is_over:
        try:
            entry = editor.read()
            _attempt(dialogue, dialogue.ask if entry.is_block else lambda line: _handle(dialogue, line), entry.text)
        except LmError as error:
            messages.error(error)
        except Cancelled:
            messages.raw("\n")
        except EOFError:
            messages.raw("\n")
            return


def _attempt(dialogue: Dialogue, step: Callable[[str], None], text: str) -> None:
    """Handle input; print an error and continue the dialogue."""
    try:
        with interruptible():
            step(text)
    except Cancelled:
        dialogue.messages.raw("\n")
    except LmError as error:
        dialogue.messages.error(error)


def _handle(dialogue: Dialogue, line: str) -> None:
    """Run the command in a line; any other line is a question."""
    name, _, argument = line.partition(" ")
    if not name.startswith("/"):
        dialogue.ask(line.strip())
        return
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(
            f"no such command {quoted(name)}", "/help lists the commands; a space before / makes it a message"
        )
    argument = argument.strip()
    command.run(dialogue, argument if command.kind == FILE else join_words([argument]))
