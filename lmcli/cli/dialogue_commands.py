"""The commands of a dialogue, such as /help, and what they work on."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from lmcli.cli.conversation import Conversation
from lmcli.cli.editor import edit_text
from lmcli.cli.environment import Environment
from lmcli.cli.input.stdin import is_stdin, join_words
from lmcli.cli.messages import Messages, Verbosity
from lmcli.cli.model_choice import choose_model, model_table
from lmcli.cli.output.drawing import size_text
from lmcli.cli.resolve import REASONING_WORDS, Reasoning
from lmcli.errors import KEPT_IN_TEXT, CannotConnect, ConnectionLost, TimedOut, UsageError, escaped, quoted


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

    def show(self, text: str) -> None:
        """Write what a command was asked for, even where notes are not wanted."""
        self.messages.raw(f"{escaped(text, keep=KEPT_IN_TEXT)}\n")

    def show_last_turns(self) -> None:
        """Write the end of the conversation so far on a terminal."""
        if self.conversation.turns and self.env.stderr_is_terminal and self.messages.verbosity > Verbosity.QUIET:
            from lmcli.cli.output.last_turns import last_turns  # noqa: PLC0415  a new conversation has none

            size = self.env.stderr_width, self.env.stderr_rows
            self.messages.dim(last_turns(self.conversation.turns, *size, is_indented=not self.messages.has_color))


def _help(dialogue: Dialogue, _: str) -> None:
    commands = [(f"{name} {command.argument}".rstrip(), command.help) for name, command in COMMANDS.items()]
    dialogue.messages.raw(_definitions([*commands, *_KEYS], dialogue.env.stderr_width))


def _definitions(rows: Sequence[tuple[str, str]], width: int) -> str:
    """Names and what they mean, in two columns."""
    import textwrap  # noqa: PLC0415  only /help needs it

    column = max(len(name) for name, _ in rows) + 2
    wrapper = textwrap.TextWrapper(max(width, column + _MIN_HELP_COLUMNS), subsequent_indent=" " * column)
    return "".join(f"{wrapper.fill(f'{name:{column}}{text}')}\n" for name, text in rows)


def _system(dialogue: Dialogue, prompt: str) -> None:
    if prompt:
        dialogue.conversation.set_system(prompt)
        dialogue.messages.note("the system prompt is set")
    else:
        dialogue.show(dialogue.conversation.system or "no system prompt is set")


def _model(dialogue: Dialogue, key: str) -> None:
    if key:
        with suppress(CannotConnect, TimedOut, ConnectionLost):  # which the next question reports
            key = choose_model(key, dialogue.conversation.models())
        dialogue.conversation.model = key
        dialogue.messages.note(f"the next message goes to {key}")
    else:
        dialogue.show(dialogue.conversation.model_in_use)


def _models(dialogue: Dialogue, _: str) -> None:
    models = dialogue.conversation.models()
    if not models:
        raise UsageError("the server has no language models", "lms get downloads one")
    dialogue.messages.raw(model_table(models, dialogue.env))


def _file(dialogue: Dialogue, name: str) -> None:
    conversation = dialogue.conversation
    if name:
        if is_stdin(path := _path(name)):
            raise UsageError(f"{quoted(name)} is the terminal here", "/file takes the name of a file")
        conversation.attach(path)
    files = [f"{file} ({size_text(size)})" for file, size in conversation.attached.sizes]
    if name:
        dialogue.messages.note(f"attached: {', '.join(files)}")
    else:
        dialogue.show("\n".join(files) or "nothing is attached")


def _retry(dialogue: Dialogue, _: str) -> None:
    dialogue.conversation.retry()


def _undo(dialogue: Dialogue, _: str) -> None:
    dialogue.conversation.undo()


def _clear(dialogue: Dialogue, _: str) -> None:
    dialogue.conversation.clear()


def _save(dialogue: Dialogue, name: str) -> None:
    dialogue.conversation.save(_required_path(name, "/save"))


def _load(dialogue: Dialogue, name: str) -> None:
    dialogue.conversation.load(_required_path(name, "/load"))
    dialogue.show_last_turns()


def _required_path(name: str, command: str) -> Path:
    if not name:
        raise UsageError(f"{command} needs the name of a file", f"{command} talk.json")
    return _path(name)


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UsageError(f"no such user: {quoted(name)}") from error


def _reasoning(dialogue: Dialogue, words: str) -> None:
    if words:
        dialogue.conversation.set_reasoning(words.split())
    state = _reasoning_text(dialogue.conversation.reasoning, is_terminal=dialogue.env.stderr_is_terminal)
    dialogue.messages.note(state) if words else dialogue.show(state)


def _reasoning_text(reasoning: Reasoning, *, is_terminal: bool) -> str:
    is_shown = is_terminal if reasoning.is_shown is None else reasoning.is_shown
    asked = {None: [], True: ["on"], False: ["off"]}[reasoning.is_wanted]
    asked += [] if reasoning.budget is None else [f"{reasoning.budget} tokens"]
    display = "shown" if is_shown else "hidden"
    return f"reasoning is {display}; asked of the server: {', '.join(asked) or 'nothing'}"


_MARKDOWN_WORDS: Final = {"on": True, "off": False}


def _markdown(dialogue: Dialogue, choice: str) -> None:
    conversation = dialogue.conversation
    if choice and choice not in _MARKDOWN_WORDS:
        raise UsageError(f"/markdown takes {' or '.join(_MARKDOWN_WORDS)}, not {quoted(choice)}", "/markdown off")
    conversation.has_markdown = _MARKDOWN_WORDS.get(choice, not conversation.has_markdown)
    dialogue.messages.note(f"answers are {'rendered' if conversation.has_markdown else 'shown as they arrive'}")


def _stats(dialogue: Dialogue, _: str) -> None:
    is_on = dialogue.conversation.switch_report()
    dialogue.messages.note(f"statistics after each answer are {'on' if is_on else 'off'}")
    if is_on:
        dialogue.conversation.report.write()


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
        words: the words of which the argument may consist.
    """

    run: Callable[[Dialogue, str], None]
    argument: str
    help: str
    words: Collection[str] = ()

    @property
    def kind(self) -> str:
        """The kind of its argument: FILE, KEY, TEXT, WHAT, or empty for none."""
        return self.argument.strip("[]")


FILE: Final = "FILE"
"""The name of a file, up to the end of the line; it need not be UTF-8."""
KEY: Final = "KEY"
"""The key of a model."""
TEXT: Final = "TEXT"

COMMANDS: Final[dict[str, Command]] = {
    "/help": Command(_help, "", "list these commands"),
    "/system": Command(_system, "[TEXT]", "show or set the system prompt"),
    "/model": Command(_model, "[KEY]", "show or set the model"),
    "/models": Command(_models, "", "list the models"),
    "/file": Command(_file, f"[{FILE}]", "attach a text or image to the next question"),
    "/retry": Command(_retry, "", "answer the last question again"),
    "/undo": Command(_undo, "", "take back the last turn, /file or /clear"),
    "/clear": Command(_clear, "", "begin a new conversation"),
    "/save": Command(_save, FILE, "write the conversation to a file"),
    "/load": Command(_load, FILE, "continue and keep the conversation in a file"),
    "/reasoning": Command(_reasoning, "[WHAT]", "show, hide, on, off, or a number of tokens", REASONING_WORDS),
    "/markdown": Command(
        _markdown, "[WHAT]", "on or off: render answers, or show them as they arrive", _MARKDOWN_WORDS
    ),
    "/stats": Command(_stats, "", "switch statistics after answers on or off"),
    "/edit": Command(_edit, "[TEXT]", "write the next question in an editor"),
    "/exit": Command(_exit, "", "exit"),
    "/quit": Command(_exit, "", "exit"),
}
_MIN_HELP_COLUMNS: Final = 16
_KEYS: Final = (
    ('"""', "begin and end a message of several lines"),
    ("TAB", "complete a command, or what it takes"),
    ("Ctrl-C", "stop the answer, or clear the line"),
    ("Ctrl-D", "exit"),
)
