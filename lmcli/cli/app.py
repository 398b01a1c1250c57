"""The commands as Typer sees them: signatures from `options`, help texts, and bodies of a line.

A command's module is loaded when the command runs, and only the command that was named is built.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from lmcli import startup
from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages, Verbosity
from lmcli.cli.options import (
    ChatOptions,
    CompleteOptions,
    Files,
    HelpOptions,
    Identifiers,
    Key,
    ModelsLoadOptions,
    ModelsOptions,
    ModelsUnloadOptions,
    Options,
    Range,
    Records,
    RespondOptions,
    ServeOptions,
    StatsOptions,
    Topic,
    Words,
)
from lmcli.errors import EXIT_MEANINGS, ExitCode, UsageError, quoted

SUMMARY: Final = """Unix filters for LM Studio.

Text or a chat history comes in on stdin, the answer streams out on stdout as it is generated, everything else goes
to stderr."""


class Command(NamedTuple):
    """One command: its options, its help, what its positional arguments are, if it has any, and how it may end.

    The module `lmcli.cli.commands.NAME` carries it out, with `run(options, words, env, messages)`; a command below
    another is in the same module, with `run_BELOW`.
    """

    options: type[Options]
    help: str
    words: Any = None
    statuses: Mapping[int, str] = EXIT_MEANINGS


_NO_ANSWER: Final = {
    status: meaning
    for status, meaning in EXIT_MEANINGS.items()
    if status not in (ExitCode.UNUSABLE, ExitCode.BAD_INPUT)
} | {
    ExitCode.OK: "done",
    ExitCode.FAILED: "the server reported a failure",
    ExitCode.INCOMPLETE: "connection lost in the middle",
    ExitCode.NO_INPUT: "a file that is not there",
    ExitCode.OUTPUT_FAILED: "stdout could not be written",
}
"""How a command may end that asks the server something else than a prediction."""

_NO_SERVER: Final = {status: EXIT_MEANINGS[status] for status in (ExitCode.USAGE, ExitCode.BUG, 129, 130, 141, 143)} | {
    ExitCode.NO_INPUT: "a model, or the token file, is not there",
    ExitCode.UNAVAILABLE: "the address cannot be listened on, a model is damaged, or llama.cpp is not installed",
    ExitCode.OUTPUT_FAILED: "the address could not be written to stdout",
    ExitCode.BAD_SETTING: "the token file holds something else",
}
"""How `lm serve` may end: by a signal, once it has begun."""

COMMANDS: Final[dict[str, Command]] = {
    "respond": Command(
        RespondOptions,
        "Answer a prompt or a chat history.\n\nExample: git diff | lm respond 'Write a commit message'",
        Words,
    ),
    "complete": Command(
        CompleteOptions,
        "Continue a text, raw: no chat template, byte-exact in and out.\n\n"
        "Example: lm complete --stop '$' < session.txt",
        Words,
        EXIT_MEANINGS | {ExitCode.UNUSABLE: "unusable: the answer is not what --schema asks for"},
    ),
    "chat": Command(
        ChatOptions,
        "Hold a conversation: a dialogue on a terminal, one turn per run in a pipe.\n\n"
        "Example: lm chat --history talk.json",
        Words,
    ),
    "stats": Command(
        StatsOptions,
        "Measure a model with the prompt on stdin, or sum up recorded results.\n\n"
        "Example: lm stats --runs 5 < prompt.txt",
        Records,
    ),
    "models": Command(
        ModelsOptions, "List models, or load and unload them.\n\nExample: lm models --loaded", statuses=_NO_ANSWER
    ),
    "models load": Command(
        ModelsLoadOptions,
        "Load a model and print its identifier.\n\nExample: lm models load qwen2.5-7b-instruct",
        Key,
        _NO_ANSWER,
    ),
    "models unload": Command(
        ModelsUnloadOptions, "Drop models from memory.\n\nExample: lm models unload --all", Identifiers, _NO_ANSWER
    ),
    "serve": Command(
        ServeOptions,
        "Run a local server that speaks LM Studio's WebSocket API.\n\nExample: lm serve --port 0",
        Files,
        _NO_SERVER,
    ),
    "help": Command(HelpOptions, "Open the manual page of a command.\n\nExample: lm help respond", Topic),
}


_NEED_INPUT: Final = ("respond", "complete", "stats")
_INPUT_OPTIONS: Final = ("file", "no_stdin", "each")
_VARIABLE_COLUMNS: Final = 18


class _HasHelp:
    """A command of Typer whose help fits narrow terminals."""

    def get_help(self: Any, context: Any) -> str:
        """The help."""
        from lmcli.cli.help_formatter import HelpFormatter  # noqa: PLC0415  only help needs it

        formatter = HelpFormatter(context.terminal_width)
        self.format_help(context, formatter)
        return str(formatter.getvalue()).rstrip("\n")


class _TyperCommand(_HasHelp, TyperCommand):
    """A command whose usage line shows an argument as its metavar has it; Typer would put brackets around it."""

    def collect_usage_pieces(self, _: Any) -> list[str]:
        """Options, then arguments."""
        return ["[OPTIONS]", *(p.metavar or "" for p in self.params if p.param_type_name == "argument")]


class _TyperGroup(_HasHelp, TyperGroup):
    """Commands in the order of `COMMANDS`; the help of `lm` itself ends with what holds for all of them."""

    def list_commands(self, _: Any) -> list[str]:
        """The names of the commands."""
        return sorted(self.commands, key=[name.rpartition(" ")[2] for name in COMMANDS].index)

    def format_commands(self, context: Any, formatter: Any) -> None:
        """Write what each command does, whole; Typer would cut it to a line."""
        with formatter.section("Commands"):
            names = self.list_commands(context)
            formatter.write_dl([(name, str(self.commands[name].help).partition("\n\n")[0]) for name in names])

    def format_epilog(self, context: Any, formatter: Any) -> None:
        """Write environment and exit status."""
        if context.parent is not None:
            return
        from lmcli.cli.environment import VARIABLES  # noqa: PLC0415  only the help of lm itself lists them

        environment = [(variable.name, variable.meaning) for variable in VARIABLES]
        statuses = [(str(int(status)), meaning) for status, meaning in EXIT_MEANINGS.items()]
        for title, rows in (("Environment", environment), ("Exit status", statuses)):
            with formatter.section(title):
                formatter.write_dl(rows, col_max=_VARIABLE_COLUMNS)


def build(env: Environment, names: Sequence[str] = tuple(COMMANDS)) -> typer.Typer:
    """The application with the named commands."""
    app = typer.Typer(
        name="lm",
        cls=_TyperGroup,
        help=SUMMARY,
        add_completion=False,
        rich_markup_mode=None,
        suggest_commands=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_version_option)
    for name in names:
        below = [other for other in COMMANDS if other.startswith(f"{name} ")]
        if below:
            app.add_typer(_group(name, below, env), name=name, help=COMMANDS[name].help)
        elif " " not in name:
            app.command(name, help=COMMANDS[name].help, cls=_TyperCommand)(_body(name, env))
    return app


def _group(name: str, below: Sequence[str], env: Environment) -> typer.Typer:
    """A command that does something by itself, and has others below it."""
    group = typer.Typer(cls=_TyperGroup, invoke_without_command=True, suggest_commands=False)
    group.callback()(_body(name, env, has_commands=True))
    for path in below:
        group.command(path.rpartition(" ")[2], help=COMMANDS[path].help, cls=_TyperCommand)(_body(path, env))
    return group


def short_help() -> str:
    """What `lm` alone says: the commands, a line for each."""
    from lmcli.cli.help_formatter import HelpFormatter  # noqa: PLC0415  only help needs it

    formatter = HelpFormatter(margin=0)
    formatter.write("Usage: lm COMMAND [OPTIONS] ...\n\n")
    summaries = {name: re.split("[.:]", command.help, maxsplit=1)[0] for name, command in COMMANDS.items()}
    with formatter.indentation():
        formatter.write_dl([(name, summary) for name, summary in summaries.items() if " " not in name])
    return f"{formatter.getvalue()}\n{hint_for('COMMAND')}\n"


def hint_for(name: str = "") -> str:
    """Where the user can read more."""
    return f"lm {name} --help lists the options" if name else "lm --help lists the commands"


def _version_option(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),  # noqa: FBT001
) -> None:
    """`--version` is handled by the entry point, before anything is loaded; here it is listed in the help."""


def _body(name: str, env: Environment, *, has_commands: bool = False) -> Callable[..., ExitCode | None]:
    """A function with the signature that Typer reads; it passes the values to the module of the command."""
    command = COMMANDS[name]

    def body(**values: Any) -> ExitCode | None:
        context: typer.Context | None = values.pop("context", None)
        if context is not None and context.invoked_subcommand is not None:
            _refuse_lost_options(values, name, context.invoked_subcommand, command.options)
            return None
        _refuse_broken_text(values, command.options)
        _refuse_out_of_range(values, command.options)
        words: list[str] = values.pop("words", None) or []
        options = command.options(**values)
        messages = Messages(env, _verbosity(values), values.get("color", "auto"))
        _warn_of_unknown_fields(values, command.options, messages)
        has_input = words or any(map(values.get, _INPUT_OPTIONS)) or not env.stdin_is_terminal
        if name in _NEED_INPUT and not has_input:
            messages.raw(f"Usage: lm {name} [OPTIONS] ...\n\n{command.help}\n\n{hint_for(name)}\n")
            return ExitCode.USAGE
        command_name, _, below = name.partition(" ")
        module = startup.load(f"lmcli.cli.commands.{command_name}")
        run: Callable[..., ExitCode] = getattr(module, f"run_{below}" if below else "run")
        return run(options, words, env, messages)

    annotations: dict[str, Any] = {"words": command.words} if command.words else {}
    if has_commands:
        annotations["context"] = typer.Context
    defaults: dict[str, Any] = {"words": None, "context": inspect.Parameter.empty}
    for option, annotation, default in command.options.fields():
        annotations[option] = annotation
        defaults[option] = default
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(n, kind, default=defaults[n], annotation=a) for n, a in annotations.items()]
    body.__annotations__ = annotations
    vars(body)["__signature__"] = inspect.Signature(parameters)  # what inspect.signature reads first
    return body


def _refuse_broken_text(values: dict[str, Any], options: type[Options]) -> None:
    """The wire is UTF-8 only; other bytes of a command line arrive here as surrogates. Names of files may have them."""
    for option, annotation, _ in options.fields():
        value = values[option]
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
                raise UsageError(f"{_flag(annotation)} is not UTF-8: {quoted(text, limit=60)}")


def _refuse_out_of_range(values: dict[str, Any], options: type[Options]) -> None:
    for option, annotation, _ in options.fields():
        for limits in annotation.__metadata__:
            if isinstance(limits, Range) and values[option] is not None and not limits.has(values[option]):
                raise UsageError(f"{_flag(annotation)} takes a number {limits}, not {values[option]}")


def _flag(annotation: Any) -> str:
    """How an option is typed, in its long form."""
    info = annotation.__metadata__[0]
    names = [name for name in (info.default, *(info.param_decls or ())) if str(name).startswith("-")]
    return str(max(names, key=len)).partition("/")[0]


def _refuse_lost_options(values: dict[str, Any], name: str, below: str, options: type[Options]) -> None:
    """Options before the name of a subcommand would have no effect."""
    if any(values[option] != default for option, _, default in options.fields()):
        raise UsageError(f"options of lm {name} {below} must come after {below}", hint_for(f"{name} {below}"))


def _warn_of_unknown_fields(values: dict[str, Any], options: type[Options], messages: Messages) -> None:
    """A mistyped field has no visible effect: the server ignores fields that it does not know."""
    for key, equals, _ in (assignment.partition("=") for assignment in values.get("set_") or ()):
        from lmcli.cli.resolve import field_prefixes  # noqa: PLC0415  only --set pays for it
        from lmcli.wire.config_keys import unknown_key  # noqa: PLC0415

        if key and equals and (warning := unknown_key(key, field_prefixes(options))):
            messages.warning(f"--set: {warning}")


def _verbosity(values: dict[str, Any]) -> Verbosity:
    if values.get("quiet"):
        return Verbosity.QUIET
    return Verbosity.VERBOSE if values.get("verbose") else Verbosity.NORMAL
