"""What may have been meant by a command or an option that `lm` does not have: by habit first, then by its letters.

Habits are those of LM Studio's `lms` and of other programs that run models. Loaded when there is an error to explain.
"""

import difflib
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, Final

from lmcli.cli.app import COMMANDS
from lmcli.cli.options import Words

_NO_COMMAND: Final = "No such command "
_CUTOFF: Final = 0.75
_MOST: Final = 3
_LONGEST: Final = 200

COMMAND_HABITS: Final = {
    "ask": "lm respond {words}",
    "bench": "lm stats {words}",
    "benchmark": "lm stats {words}",
    "download": "lms get {words}",
    "eject": "lm models unload {words}",
    "generate": "lm respond {words}",
    "get": "lms get {words}",
    "list": "lm models",
    "load": "lm models load {words}",
    "ls": "lm models",
    "man": "lm help {words}",
    "ps": "lm models --loaded",
    "pull": "lms get {words}",
    "run": "lm chat -m {words}",
    "run …": "lm respond -m {words}",
    "server": "lm serve",
    "status": "lm models --loaded",
    "stop": "lm models unload {words}",
    "unload": "lm models unload {words}",
    "version": "lm --version",
}
"""Words in the place of a command, and the line that was meant; with … where more than one word follows."""

OPTION_HABITS: Final = {
    "-V": "lm --version",
    "-a": "-f {value}",
    "-p": "lm {rest}",
    "-v": "lm --version",
    "--api-key": "--token-file FILE",
    "--api-token": "--token-file FILE",
    "--attachment": "-f {value}",
    "--base-url": "-H {value}",
    "--ctx-size": "--context-length {value}",
    "--debug": "-v",
    "--format": "-o {value}",
    "--image": "-f {value}",
    "--images": "-f {value}",
    "--iterations": "--runs {value}",
    "--json": "-o json",
    "--json-schema": "--schema {value}",
    "--max-completion-tokens": "-l {value}",
    "--max-new-tokens": "-l {value}",
    "--max-output-tokens": "-l {value}",
    "--max-predicted-tokens": "-l {value}",
    "--n-predict": "-l {value}",
    "--no-color": "--color never",
    "--no-think": "--reasoning off",
    "--no-thinking": "--reasoning off",
    "--num-ctx": "--context-length {value}",
    "--num-predict": "-l {value}",
    "--output-format": "-o {value}",
    "--port": "-H 127.0.0.1:{value}",
    "--prompt": "lm {rest}",
    "--repeat": "--runs {value}",
    "--repetition-penalty": "--repeat-penalty {value}",
    "--response-format": "--schema {value}",
    "--server": "-H {value}",
    "--silent": "-q",
    "--stop-sequence": "--stop {value}",
    "--stop-string": "--stop {value}",
    "--sys": "-s {value}",
    "--system-prompt": "-s {value}",
    "--think": "--reasoning on",
    "--thinking": "--reasoning on",
    "--token": "--token-file FILE",
    "--tokens": "-l {value}",
    "--url": "-H {value}",
    "--version": "lm --version",
}
"""Options of others, and those of the same meaning here, or a whole line; `rest` is what was typed without the name."""

_STREAMING: Final = {
    "--stream": "answers are always streamed: leave --stream out",
    "--no-stream": "-o json prints an answer when it is complete",
}


def suggestions(error: Any, arguments: Sequence[str]) -> list[str]:
    """What to type instead, as hints.

    Args:
        error: what Typer says about the arguments.
        arguments: what was typed after `lm`.
    """
    context = getattr(error, "ctx", None)
    if context is None:
        return []
    path = context.command_path.removeprefix("lm").strip()
    if hasattr(error, "possibilities"):
        option = error.option_name
        return _for_option(option, path, arguments) if path else _for_lost_option(option, arguments)
    if error.message.startswith(_NO_COMMAND):
        message = error.message.removeprefix(_NO_COMMAND)
        at = next((i for i, word in enumerate(arguments) if f"{word!r}." == message), len(arguments))
        return _for_command(arguments[at], arguments[at + 1 :], path) if arguments[at:] else []
    return []


def near(typed: str, names: Iterable[str]) -> list[str]:
    """The few names that begin with what was typed, else the one that differs from it by a slip of the finger."""
    names = list(names)
    longer = [name for name in names if name.startswith(typed)] if len(typed) > 1 else []
    return longer if 0 < len(longer) <= _MOST else difflib.get_close_matches(typed, names, n=1, cutoff=_CUTOFF)


def _for_command(word: str, rest: Sequence[str], path: str) -> list[str]:
    habit = COMMAND_HABITS.get(f"{word} …" if len(rest) > 1 else word) or COMMAND_HABITS.get(word)
    if habit is not None:
        return [_meant(habit.format(words=shlex.join(rest)))]
    prefix = f"{path} " if path else ""
    names = [name.removeprefix(prefix) for name in COMMANDS if name.startswith(prefix)]
    found = near(word, [name for name in names if " " not in name])
    if found:
        return [_meant(" or ".join(f"lm {prefix}{name} {shlex.join(rest)}".strip() for name in found))]
    return [] if path or not word else [_meant(f"lm respond {shlex.join([word, *rest])}")]


def _for_option(option: str, command: str, arguments: Sequence[str]) -> list[str]:
    if option in _STREAMING:
        return [_STREAMING[option]]
    known = _options_of(command)
    value, rest = _taken_out(option, arguments)
    habit = OPTION_HABITS.get(_dashed(option), "")
    is_usable = COMMANDS[command].words is Words or "{rest}" not in habit
    if is_usable and (habit.startswith("lm") or habit.partition(" ")[0] in known):
        return [_meant(habit.format(value=value, rest=rest))]
    if owner := _owner_of(option):
        return [f"{option} is an option of lm {owner}"]
    found = [f"--{name}" for name in near(_dashed(option)[2:], [name[2:] for name in known if name.startswith("--")])]
    return [_meant(" or ".join(f"{name} {value}".strip() if known[name] else name for name in found))] if found else []


def _for_lost_option(option: str, arguments: Sequence[str]) -> list[str]:
    """An option before the command, or without one."""
    command = next((word for word in arguments if word in COMMANDS), None)
    owner = command or (None if option in OPTION_HABITS else _owner_of(option))
    if owner is None:
        return _for_option(option, "respond", ["respond", *arguments])
    rest = list(arguments)
    if command is not None:
        rest.remove(command)
    return [_meant(f"lm {owner} {shlex.join(rest)}")]


def _options_of(command: str) -> dict[str, bool]:
    """The spellings of a command's options, and whether a value follows."""
    found: dict[str, bool] = {}
    for _, annotation, default in COMMANDS[command].options.fields():
        option = annotation.__metadata__[0]
        for spelling in (option.default, *option.param_decls):  # the first is in the place of a default
            found |= dict.fromkeys(spelling.split("/"), not isinstance(default, bool) and "/" not in spelling)
    return found


def _owner_of(option: str) -> str | None:
    return next((name for name in COMMANDS if option in _options_of(name)), None)


def _taken_out(option: str, arguments: Sequence[str]) -> tuple[str, str]:
    """The option's value, empty if it has none, and all that was typed but its name; as a shell reads them."""
    at = next((i for i, word in enumerate(arguments) if word == option or word.startswith(f"{option}=")), None)
    if at is None:
        return "", f"{arguments[0]} PROMPT"
    _, has_value, value = arguments[at].partition("=")
    following = [value] if has_value else arguments[at + 1 :]
    rest = [*arguments[:at], *following, *(arguments[at + 1 :] if has_value else ())]
    return shlex.join(word for word in following[:1] if not word.startswith("-")), shlex.join(rest)


def _dashed(option: str) -> str:
    return option.replace("_", "-")


def _meant(line: str) -> str:
    line = line.strip()
    return f"did you mean {line if len(line) <= _LONGEST else line[:_LONGEST] + '…'}?"
