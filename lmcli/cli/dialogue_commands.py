"""The commands of a dialogue, such as /help, and what they work on."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from lmcli.cli.conversation import Conversation
from lmcli.cli.editor import edit_text
from lmcli.cli.environment import Environment
from lmcli.cli.input.stdin import join_words
from lmcli.cli.messages import Messages
from lmcli.cli.output.stats_file import stats_text
from lmcli.errors import UsageError, quoted


class Dialogue:
    """What the commands work on.

    Args:
        conversation: the conversation.
        env: the environment.
        messages: writes messages to stderr.

    Attributes:
        is_over: the user exits.
    """

    def __init__(self, conversation: Conversation, env: Environment, messages: Messages) -> None:
        self.conversation = conversation
        self.env = env
        self.messages = messages
        self.is_over = False

    def ask(self, text: str) -> None:
        """Send a question, unless it is empty."""
        if text.strip():
            self.conversation.ask(join_words([text]))


def _help(dialogue: Dialogue, _: str) -> None:
    rows = [(f"{name} {command.argument}".rstrip(), command.help) for name, command in COMMANDS.items()]
    dialogue.messages.raw("".join(f"  {name:16} {text}\n" for name, text in [*rows, *_KEYS]))


def _system(dialogue: Dialogue, prompt: str) -> None:
    if prompt:
        dialogue.conversation.set_system(prompt)
        dialogue.messages.note("the system prompt is set")
    else:
        dialogue.messages.note(dialogue.conversation.system or "no system prompt is set")


def _model(dialogue: Dialogue, key: str) -> None:
    if key:
        dialogue.conversation.model = key
        dialogue.messages.note(f"the next message goes to {key}")
    else:
        dialogue.messages.note(dialogue.conversation.model_in_use)


def _retry(dialogue: Dialogue, _: str) -> None:
    dialogue.conversation.retry()


def _undo(dialogue: Dialogue, _: str) -> None:
    dialogue.conversation.undo()


def _save(dialogue: Dialogue, name: str) -> None:
    if not name:
        raise UsageError("/save needs the name of a file", "/save talk.json")
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise UsageError(f"no such user: {quoted(name)}") from error
    dialogue.conversation.save(path)


def _stats(dialogue: Dialogue, _: str) -> None:
    if dialogue.conversation.last_end is None:
        raise UsageError("there is no answer yet")
    dialogue.messages.raw(stats_text(dialogue.conversation.last_end))


def _edit(dialogue: Dialogue, text: str) -> None:
    dialogue.ask(edit_text(text, dialogue.env))


def _exit(dialogue: Dialogue, _: str) -> None:
    dialogue.is_over = True


class Command(NamedTuple):
    """One command of the dialogue.

    Attributes:
        run: called with the argument.
        argument: what it takes, as the help shows it: an optional one in brackets, empty for none.
        help: what it does.
    """

    run: Callable[[Dialogue, str], None]
    argument: str
    help: str

    @property
    def kind(self) -> str:
        """The kind of its argument: FILE, KEY, TEXT, words to choose from such as `on|off`, or empty for none."""
        return self.argument.strip("[]")


FILE: Final = "FILE"
"""The name of a file, up to the end of the line; it need not be UTF-8."""
KEY: Final = "KEY"
"""The key of a model."""
TEXT: Final = "TEXT"

_KEYS: Final = (
    ('"""', "begin and end a message of several lines"),
    ("TAB", "complete a command, a model key or the name of a file"),
    ("Ctrl-C", "stop the answer, or clear the line"),
    ("Ctrl-D", "exit"),
)

COMMANDS: Final[dict[str, Command]] = {
    "/help": Command(_help, "", "list these commands"),
    "/system": Command(_system, "[TEXT]", "show or set the system prompt"),
    "/model": Command(_model, "[KEY]", "show or set the model"),
    "/retry": Command(_retry, "", "answer the last question again"),
    "/undo": Command(_undo, "", "remove the last question and its answer"),
    "/save": Command(_save, FILE, "write the conversation to a file"),
    "/stats": Command(_stats, "", "show the statistics of the last answer"),
    "/edit": Command(_edit, "[TEXT]", "write the next question in an editor"),
    "/exit": Command(_exit, "", "exit"),
}
