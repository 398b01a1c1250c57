"""The dialogue of `lm chat` on a terminal: a line of input is a message to the model, or a command such as /help."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from lmcli.cli.choices import OutputForm
from lmcli.cli.conversation import Conversation
from lmcli.cli.editor import Cancelled, LineEditor, edit_text, interruptible
from lmcli.cli.environment import Environment
from lmcli.cli.input.stdin import join_words
from lmcli.cli.messages import Messages
from lmcli.cli.options import ChatOptions
from lmcli.cli.output.stats_file import stats_text
from lmcli.cli.runner import Runner
from lmcli.errors import ExitCode, LmError, UsageError, quoted


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
    dialogue = _Dialogue(Conversation(options, env, messages, runner), env, messages)
    text = join_words(words).strip()
    recalled = [*dialogue.conversation.questions, text]  # as it was typed, without the files that are sent with it
    with runner.connected():
        if text:
            dialogue.attempt(dialogue.conversation.ask, text)
        dialogue.run(recalled)
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


class _Dialogue:
    """The loop that reads input, and its state."""

    def __init__(self, conversation: Conversation, env: Environment, messages: Messages) -> None:
        self.conversation = conversation
        self.env = env
        self.messages = messages
        self.is_over = False

    def run(self, recalled: Sequence[str]) -> None:
        """Read and handle input until the user exits; the arrow keys recall earlier messages."""
        editor = LineEditor(recalled)
        self.messages.note("/help lists the commands, Ctrl-D exits")
        while not self.is_over:
            try:
                entry = editor.read()
                self.attempt(self.ask if entry.is_block else self._handle_line, entry.text)
            except LmError as error:
                self.messages.error(error)
            except Cancelled:
                self.messages.raw("\n")
            except EOFError:
                self.messages.raw("\n")
                return

    def attempt(self, step: Callable[[str], None], text: str) -> None:
        """Handle input; print an error and continue the dialogue."""
        try:
            with interruptible():
                step(text)
        except Cancelled:
            self.messages.raw("\n")
        except LmError as error:
            self.messages.error(error)

    def _handle_line(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        if name.startswith("/"):
            command = _COMMANDS.get(name)
            if command is None:
                raise UsageError(
                    f"no such command {quoted(name)}", "/help lists the commands; a space before / makes it a message"
                )
            argument = argument.strip()
            command.run(self, argument if command.argument == _FILE else join_words([argument]))
        else:
            self.ask(text.strip())

    def ask(self, text: str) -> None:
        """Send a question, unless it is empty."""
        if text.strip():
            self.conversation.ask(join_words([text]))


def _help(dialogue: _Dialogue, _: str) -> None:
    rows = [(f"{name} {command.argument}".rstrip(), command.help) for name, command in _COMMANDS.items()]
    keys = [('"""', "begin and end a message of several lines"), ("Ctrl-C", "stop the answer, or clear the line")]
    dialogue.messages.raw("".join(f"  {name:16} {text}\n" for name, text in [*rows, *keys, ("Ctrl-D", "exit")]))


def _system(dialogue: _Dialogue, prompt: str) -> None:
    if prompt:
        dialogue.conversation.set_system(prompt)
        dialogue.messages.note("the system prompt is set")
    else:
        dialogue.messages.note(dialogue.conversation.system or "no system prompt is set")


def _model(dialogue: _Dialogue, key: str) -> None:
    if key:
        dialogue.conversation.model = key
        dialogue.messages.note(f"the next message goes to {key}")
    else:
        dialogue.messages.note(dialogue.conversation.model_in_use)


def _retry(dialogue: _Dialogue, _: str) -> None:
    dialogue.conversation.retry()


def _undo(dialogue: _Dialogue, _: str) -> None:
    dialogue.conversation.undo()


def _save(dialogue: _Dialogue, name: str) -> None:
    if not name:
        raise UsageError("/save needs the name of a file", "/save talk.json")
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise UsageError(f"no such user: {quoted(name)}") from error
    dialogue.conversation.save(path)


def _stats(dialogue: _Dialogue, _: str) -> None:
    if dialogue.conversation.last_end is None:
        raise UsageError("there is no answer yet")
    dialogue.messages.raw(stats_text(dialogue.conversation.last_end))


def _edit(dialogue: _Dialogue, text: str) -> None:
    dialogue.ask(edit_text(text, dialogue.env))


def _exit(dialogue: _Dialogue, _: str) -> None:
    dialogue.is_over = True


class _Command(NamedTuple):
    """One command of the dialogue."""

    run: Callable[[_Dialogue, str], None]
    argument: str
    help: str


_FILE: Final = "FILE"
"""The argument of commands that take the name of a file, which need not be UTF-8."""

_COMMANDS: Final[dict[str, _Command]] = {
    "/help": _Command(_help, "", "list these commands"),
    "/system": _Command(_system, "[TEXT]", "show or set the system prompt"),
    "/model": _Command(_model, "[KEY]", "show or set the model"),
    "/retry": _Command(_retry, "", "answer the last question again"),
    "/undo": _Command(_undo, "", "remove the last question and its answer"),
    "/save": _Command(_save, _FILE, "write the conversation to a file"),
    "/stats": _Command(_stats, "", "show the statistics of the last answer"),
    "/edit": _Command(_edit, "[TEXT]", "write the next question in an editor"),
    "/exit": _Command(_exit, "", "exit"),
}
