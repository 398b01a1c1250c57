"""Suggestions for an unknown command or option: equivalents of those of other programs first, then similar names.

The other programs are LM Studio's `lms` and similar ones that run models. Loaded after a usage error.
"""

import difflib
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, Final

from lmcli.cli.app import COMMANDS
from lmcli.cli.options import Words

_NO_COMMAND: Final = "No such command "
_CUTOFF: Final = 0.75
_MAX_MATCHES: Final = 3
_MAX_LENGTH: Final = 200

COMMAND_EQUIVALENTS: Final = {
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
"""Commands of other programs and their equivalents; with … for a command followed by more than one word."""

OPTION_EQUIVALENTS: Final = {
    "-V": "lm --version",
    "-a": "-f {value}",
    "-p": "lm {rest}",
    "-v": "lm --version",
    "--api-key": "--token-file FILE",
    "--api-token": "--token-file FILE",
    "--attachment": "-f {value}",
    "--base-url": "-H {value}",
    "--code": "-o code",
    "--ctx-size": "--context-length {value}",
    "--debug": "-v",
    "--extract": "-o code",
    "--format": "-o {value}",
    "--grammar-file": "--grammar {value}",
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
    "--tool-choice": "--set toolChoice='\"{value}\"'",
    "--tools": '--set tools="$(cat {value})"',
    "--url": "-H {value}",
    "--version": "lm --version",
}
"""Options of other programs and their equivalents, or a whole line; `rest` is the line without the option's name."""

_STREAMING: Final = {
    "--stream": "answers are always streamed: leave --stream out",
    "--no-stream": "-o json prints an answer when it is complete",
}


def suggestions(error: Any, arguments: Sequence[str]) -> list[str]:
    """Hints with the corrected command line.

    Args:
        error: the usage error raised by Typer.
        arguments: the arguments of `lm`.
    """
    context = getattr(error, "ctx", None)
    if context is None:
        return []
    path = context.command_path.removeprefix("lm").strip()
    if hasattr(error, "possibilities"):
        option = error.option_name
        return _for_option(option, path, arguments) if path else _for_misplaced_option(option, arguments)
    if error.message.startswith(_NO_COMMAND):
        message = error.message.removeprefix(_NO_COMMAND)
        at = next((i for i, word in enumerate(arguments) if f"{word!r}." == message), len(arguments))
        return _for_command(arguments[at], arguments[at + 1 :], path) if arguments[at:] else []
    return []


def close_matches(name: str, names: Iterable[str]) -> list[str]:
    """The names that start with a name, if they are few; else the most similar one."""
    names = list(names)
    longer = [other for other in names if other.startswith(name)] if len(name) > 1 else []
    return longer if 0 < len(longer) <= _MAX_MATCHES else difflib.get_close_matches(name, names, n=1, cutoff=_CUTOFF)


def nearest_keys(name: str, keys: Iterable[str]) -> list[str]:
    """The model keys that a name resembles, with the publisher or without, in any case."""
    spellings = {spelling: key for key in keys for spelling in (key.casefold().rpartition("/")[2], key.casefold())}
    return list(dict.fromkeys(spellings[match] for match in close_matches(name.casefold(), spellings)))


def _for_command(word: str, rest: Sequence[str], path: str) -> list[str]:
    equivalent = COMMAND_EQUIVALENTS.get(f"{word} …" if len(rest) > 1 else word) or COMMAND_EQUIVALENTS.get(word)
    if equivalent is not None:
        return [_did_you_mean(equivalent.format(words=shlex.join(rest)))]
    prefix = f"{path} " if path else ""
    names = [name.removeprefix(prefix) for name in COMMANDS if name.startswith(prefix)]
    matches = close_matches(word, [name for name in names if " " not in name])
    if matches:
        return [_did_you_mean(" or ".join(f"lm {prefix}{name} {shlex.join(rest)}".strip() for name in matches))]
    return [] if path or not word else [_did_you_mean(f"lm respond {shlex.join([word, *rest])}")]


def _for_option(option: str, command: str, arguments: Sequence[str]) -> list[str]:
    if option in _STREAMING:
        return [_STREAMING[option]]
    options = _options_of(command)
    value, rest = _without_option(option, arguments)
    equivalent = OPTION_EQUIVALENTS.get(_dashed(option), "")
    is_usable = COMMANDS[command].words is Words or "{rest}" not in equivalent
    if is_usable and (equivalent.startswith("lm") or equivalent.partition(" ")[0] in options):
        return [_did_you_mean(equivalent.format(value=value, rest=rest))]
    if owner := _owner_of(option):
        return [f"{option} is an option of lm {owner}"]
    long_names = [name[2:] for name in options if name.startswith("--")]
    matches = [f"--{name}" for name in close_matches(_dashed(option)[2:], long_names)]
    lines = [f"{name} {value}".strip() if options[name] else name for name in matches]
    return [_did_you_mean(" or ".join(lines))] if lines else []


def _for_misplaced_option(option: str, arguments: Sequence[str]) -> list[str]:
    """Hints for an option before the command, or without one."""
    command = next((word for word in arguments if word in COMMANDS), None)
    owner = command or (None if option in OPTION_EQUIVALENTS else _owner_of(option))
    if owner is None:
        return _for_option(option, "respond", ["respond", *arguments])
    rest = list(arguments)
    if command is not None:
        rest.remove(command)
    return [_did_you_mean(f"lm {owner} {shlex.join(rest)}")]


def _options_of(command: str) -> dict[str, bool]:
    """The spellings of the options of a command, and whether a value follows."""
    matches: dict[str, bool] = {}
    for _, annotation, default in COMMANDS[command].options.fields():
        option = annotation.__metadata__[0]
        for spelling in (option.default, *option.param_decls):  # Typer stores the first one as the default
            matches |= dict.fromkeys(spelling.split("/"), not isinstance(default, bool) and "/" not in spelling)
    return matches


def _owner_of(option: str) -> str | None:
    return next((name for name in COMMANDS if option in _options_of(name)), None)


def _without_option(option: str, arguments: Sequence[str]) -> tuple[str, str]:
    """The value of an option, empty if it has none, and the line without the option's name; quoted for a shell."""
    at = next((i for i, word in enumerate(arguments) if word == option or word.startswith(f"{option}=")), None)
    if at is None:
        return "", f"{arguments[0]} PROMPT"
    _, has_value, value = arguments[at].partition("=")
    following = [value] if has_value else arguments[at + 1 :]
    rest = [*arguments[:at], *following, *(arguments[at + 1 :] if has_value else ())]
    return shlex.join(word for word in following[:1] if not word.startswith("-")), shlex.join(rest)


def _dashed(option: str) -> str:
    return option.replace("_", "-")


def _did_you_mean(line: str) -> str:
    line = line.strip()
    return f"did you mean {line if len(line) <= _MAX_LENGTH else line[:_MAX_LENGTH] + '…'}?"
