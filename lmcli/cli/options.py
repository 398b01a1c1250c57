"""The options of each command, from which Typer, help, man pages and completions are made.

A field is an option; the options of a command are a class that inherits the groups it has. What the command line holds
is one of these classes; `resolve` makes requests of it. The sampling options come from the table in
`wire.prediction_config`, which also says what they are on the wire and in Python.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, NamedTuple, Self

from typer import Argument, Option

from lmcli.cli.choices import ColorWhen, Each, Grouping, InputForm, OutputForm, RawOutputForm, ReportForm
from lmcli.errors import UsageError
from lmcli.wire import config_entries as entries
from lmcli.wire import prediction_config as config

Words = Annotated[
    list[str] | None, Argument(metavar="[PROMPT]...", help="Text of the prompt; words are joined by spaces.")
]

Key = Annotated[list[str] | None, Argument(metavar="KEY", help="The model to load.")]
Identifiers = Annotated[list[str] | None, Argument(metavar="[IDENTIFIER]...", help="The loaded models to drop.")]
Records = Annotated[
    list[str] | None,
    Argument(metavar="[FILE]...", help="Recorded results to sum up, - for stdin; without any, measure."),
]
Topic = Annotated[list[str] | None, Argument(metavar="[COMMAND]...", help="The command; without any, all of lm.")]
Files = Annotated[
    list[str] | None,
    Argument(metavar="[MODEL.gguf]...", help="Models to run by llama.cpp, instead of echo; or folders of them."),
]


class Range(NamedTuple):
    """The numbers that an option takes; beside its type, because Typer would write `x>=1` into the help."""

    low: int
    high: int | None = None

    def __str__(self) -> str:
        return f"of at least {self.low}" if self.high is None else f"from {self.low} to {self.high}"

    def has(self, number: int) -> bool:
        """Whether a number is among them."""
        return self.low <= number and (self.high is None or number <= self.high)


class Options:
    """The values of a command's options, by name.

    A subclass lists options as annotated class attributes; one that inherits several has those of the last first,
    which is the order of its help. Plain classes, because a dataclass of thirty fields takes a millisecond to define.

    Attributes:
        declared: the options that the class itself adds, each with its annotation.
    """

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def replaced(self, **values: Any) -> Self:
        """The same with other values."""
        return type(self)(**vars(self) | values)

    declared: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls.declared = {name: a for name, a in cls.__annotations__.items() if hasattr(a, "__metadata__")}

    @classmethod
    def fields(cls) -> Iterator[tuple[str, Any, Any]]:
        """Name, annotation and default of each option."""
        for base in reversed(cls.__mro__):
            for name, annotation in vars(base).get("declared", {}).items():
                yield name, annotation, getattr(cls, name, None)


class MessageOptions(Options):
    """How much is said on stderr, and how."""

    color: Annotated[ColorWhen, Option("--color", help="Colour on stderr, and of Markdown on a terminal.")] = (
        ColorWhen.AUTO
    )
    quiet: Annotated[bool, Option("-q", "--quiet", help="No warnings and notes; errors still print.")] = False
    verbose: Annotated[bool, Option("-v", "--verbose", help="Say what is sent, where, and how long it takes.")] = False


class ProgressOptions(MessageOptions):
    """Whether to show what takes its time."""

    progress: Annotated[
        bool | None,
        Option(
            "--progress/--no-progress", help="Show loading and reading progress.  [default: if stderr is a terminal]"
        ),
    ] = None


class ServerOptions(Options):
    """Which server, and how to authenticate."""

    host: Annotated[
        str | None,
        Option(
            "-H",
            "--host",
            metavar="ADDR",
            help="host:port, http(s):// or ws(s)://…, demo, local, or a GGUF file to run.  "
            "[env: LM_HOST; default: discovered]",
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        Option(
            "--token-file", metavar="FILE", help="API token.  [env: LM_API_TOKEN, LMSTUDIO_API_TOKEN hold the token]"
        ),
    ] = None
    insecure_token: Annotated[
        bool, Option("--insecure-token", help="Send the token unencrypted, even to another machine.")
    ] = False
    timeout: Annotated[
        float | None,
        Option("--timeout", metavar="SEC", help="Longest silence of the server.  [env: LM_TIMEOUT; default: none]"),
    ] = None


_MODEL_HELP: Final = "Model; loaded if it is not.  [env: LM_MODEL; default: the loaded one]"


class ModelOptions(Options):
    """Which model."""

    model: Annotated[str | None, Option("-m", "--model", metavar="KEY", help=_MODEL_HELP)] = None


Device = Annotated[
    str | None, Option("--device", metavar="NAME", help="Device of LM Link that has the model, by its identifier.")
]


class LoadOptions(Options):
    """How to load a model, and where it is."""

    ttl: Annotated[
        float | None, Option("--ttl", metavar="SEC", help="Unload after this time without use, if this run loads it.")
    ] = None
    context_length: Annotated[
        int | None, Option("--context-length", metavar="N", help="Context in tokens, if this run loads the model.")
    ] = None
    gpu: Annotated[
        str | None, Option("--gpu", metavar="RATIO", help="0 to 1, max or off, if this run loads the model.")
    ] = None
    device: Device = None


def _flagged(option: entries.Option, default: str = "") -> Any:
    """An entry of the table as Typer reads options."""
    flag = option.flag
    assert flag is not None  # noqa: S101  whoever asks has looked
    kind: Any = StrEnum("Words", list(flag.words)) if flag.words else _TYPES[option.type]
    return Annotated[kind | None, Option(*flag.names, metavar=flag.metavar, help=f"{flag.help}{default}")]


_TYPES: Final[Mapping[entries.Types, Any]] = {entries.NUMBER: float, entries.TEXTS: list[str], int: int, str: str}


class SamplingOptions(Options):
    """How to predict; what is not given is not sent. The options are the entries of `OPTIONS` that have a flag.

    Attributes:
        overflow: what is asked for a full context where the user does not say; None leaves it to the server.
    """

    overflow: ClassVar[str | None] = "stop"

    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=JSON", help="Any other field of a prediction or a load; may be repeated."),
    ] = None
    preset: Annotated[str | None, Option("--preset", metavar="NAME", help="Preset saved in LM Studio.")] = None


_OVERFLOW: Final = "context_overflow_policy"
_IN_TABLE: Final = {name: _flagged(option) for name, option in config.OPTIONS.items() if option.flag}
SamplingOptions.declared = (
    _IN_TABLE | {_OVERFLOW: _flagged(config.OPTIONS[_OVERFLOW], "  [default: stop]")} | SamplingOptions.declared
)


class StdinOptions(Options):
    """Whether stdin is read."""

    no_stdin: Annotated[bool, Option("-n", "--no-stdin", help="Do not read stdin.")] = False


class RecordOptions(Options):
    """What a run leaves behind besides the answer."""

    stats: Annotated[bool, Option("--stats", help="Print statistics on stderr after the answer.")] = False
    stats_file: Annotated[
        Path | None, Option("--stats-file", metavar="FILE", help="Append one JSON line for each prediction.")
    ] = None
    dry_run: Annotated[bool, Option("--dry-run", help="Print the request as JSON and send nothing.")] = False
    count: Annotated[bool, Option("--count", help="Print how many tokens the request has, and predict nothing.")] = (
        False
    )


class SchemaOptions(Options):
    """What form the answer is to have, and what becomes of the reasoning before it."""

    schema: Annotated[
        str | None, Option("--schema", metavar="FILE|JSON", help="Constrain the answer to a JSON schema, and check it.")
    ] = None
    grammar: Annotated[
        Path | None, Option("--grammar", metavar="FILE", help="Constrain the answer to a GBNF grammar.")
    ] = None
    reasoning: Annotated[
        list[str] | None,
        Option(
            "--reasoning",
            metavar="WHAT",
            help="show or hide it; on, off or a number of tokens is asked of the server; may be repeated.  "
            "[default: hidden in a pipe, dim on a terminal]",
        ),
    ] = None


class AskOptions(StdinOptions, SchemaOptions, SamplingOptions):
    """What is asked of a model."""


class PredictionOptions(ProgressOptions, ServerOptions, LoadOptions, ModelOptions, RecordOptions, AskOptions):
    """What every prediction has."""

    def refuse_unseen_log_probs(self) -> None:
        """Refuse log probabilities where nothing is written that has them.

        Raises:
            UsageError: they are requested, for another form of output.
        """
        given = vars(self)
        form, is_kept = given.get("output"), given.get("results") is not None
        if given.get("log_probs") is not None and not is_kept and form not in (OutputForm.JSON, OutputForm.JSONL):
            raise UsageError("--logprobs needs -o json or -o jsonl", "-o json prints the tokens with the answer")


class SystemOptions(Options):
    """What a turn of a conversation is made of, besides the prompt."""

    system: Annotated[str | None, Option("-s", "--system", metavar="TEXT", help="System prompt.")] = None
    system_file: Annotated[
        Path | None, Option("-S", "--system-file", metavar="FILE", help="File with the system prompt.")
    ] = None
    file: Annotated[
        list[Path] | None,
        Option(
            "-f", "--file", metavar="FILE", help="Image to attach, or text to put first, - for stdin; may be repeated."
        ),
    ] = None
    input: Annotated[InputForm, Option("-i", "--input", help="What stdin holds.")] = InputForm.AUTO


class TurnOptions(SystemOptions):
    """What a turn of a conversation has besides."""

    output: Annotated[OutputForm, Option("-o", "--output", help="What stdout gets.")] = OutputForm.TEXT
    markdown: Annotated[
        bool | None,
        Option(
            "--markdown/--no-markdown",
            help="Render Markdown on a terminal.  [env: LM_MARKDOWN; default: in a dialogue]",
        ),
    ] = None


class HistoryOptions(Options):
    """Where a conversation is kept."""

    history: Annotated[
        Path | None, Option("--history", metavar="FILE", help="Chat file to continue; made if it is not there.")
    ] = None


class RawOptions(Options):
    """What a raw continuation has besides."""

    echo: Annotated[bool, Option("--echo", help="Write the input before its continuation.")] = False
    output: Annotated[RawOutputForm, Option("-o", "--output", help="What stdout gets.")] = RawOutputForm.TEXT


class BatchOptions(Options):
    """Many prompts from stdin, instead of one."""

    each: Annotated[
        Each | None, Option("--each", help="Answer each line, NUL-terminated text or JSON value of stdin, in order.")
    ] = None
    jobs: Annotated[
        int | None,
        Option("-j", "--jobs", metavar="N", help="With --each: predictions at once.  [default: 4]"),
        Range(1, 1024),
    ] = None
    results: Annotated[
        Path | None,
        Option("--results", metavar="FILE", help="With --each: keep results, and do not repeat those in FILE."),
    ] = None
    fail_fast: Annotated[
        bool, Option("--fail-fast", help="With --each: begin nothing new after the first failure.")
    ] = False

    @property
    def is_batch(self) -> bool:
        """Whether stdin holds many prompts.

        Raises:
            UsageError: it does not, and an option is for many only.
        """
        if self.each is None and (self.jobs or self.results or self.fail_fast):
            given = "--jobs" if self.jobs else "--results" if self.results else "--fail-fast"
            raise UsageError(f"{given} needs --each", "--each line answers each line of stdin")
        return self.each is not None


class ListOptions(Options):
    """What a list of models has besides."""

    loaded: Annotated[bool, Option("--loaded", help="Only models that are loaded, by identifier.")] = False
    json: Annotated[bool, Option("--json", help="A JSON array, with everything the server says.")] = False


class RespondOptions(PredictionOptions, BatchOptions, TurnOptions):
    """Options of `lm respond`."""


class ChatOptions(PredictionOptions, TurnOptions, HistoryOptions):
    """Options of `lm chat`."""

    overflow: ClassVar[str | None] = None


ChatOptions.declared = {_OVERFLOW: _flagged(config.OPTIONS[_OVERFLOW], "  [default: what the server does]")}


class CompleteOptions(PredictionOptions, BatchOptions, RawOptions):
    """Options of `lm complete`."""


class ModelsOptions(MessageOptions, ServerOptions, ListOptions):
    """Options of `lm models`."""


class ModelsLoadOptions(ProgressOptions, ServerOptions, LoadOptions):
    """Options of `lm models load`."""

    set_: Annotated[
        list[str] | None, Option("--set", metavar="KEY=JSON", help="Any other field of a load; may be repeated.")
    ] = None
    identifier: Annotated[
        str | None, Option("--identifier", metavar="NAME", help="Load another instance, under this name.")
    ] = None


class ModelsUnloadOptions(MessageOptions, ServerOptions):
    """Options of `lm models unload`."""

    all: Annotated[bool, Option("--all", help="All that are loaded.")] = False
    device: Device = None


class MeasureOptions(Options):
    """How `lm stats` measures and what it reports."""

    models: Annotated[
        list[str] | None, Option("-m", "--model", metavar="KEY", help=f"{_MODEL_HELP}  May be repeated.")
    ] = None
    runs: Annotated[int, Option("--runs", metavar="N", help="Predictions for each model."), Range(1)] = 1
    warmup: Annotated[int, Option("--warmup", metavar="N", help="Predictions before, not counted."), Range(0)] = 0
    raw: Annotated[bool, Option("--raw", help="Continue stdin as a text, without the chat template.")] = False
    echo: Annotated[bool, Option("--echo", help="Show the answers on stderr.")] = False
    by: Annotated[Grouping, Option("--by", help="What recorded results are summed up by.")] = Grouping.MODEL
    output: Annotated[ReportForm, Option("-o", "--output", help="What stdout gets.")] = ReportForm.TEXT


class StatsOptions(ProgressOptions, ServerOptions, LoadOptions, AskOptions, SystemOptions, MeasureOptions):
    """Options of `lm stats`."""


class ServeOptions(Options):
    """Options of `lm serve`."""

    port: Annotated[
        int | None,
        Option("--port", metavar="PORT", help="0 picks a free one.  [default: 1234, and one for discovery]"),
        Range(0, 65535),
    ] = None
    host: Annotated[str, Option("--host", metavar="ADDR", help="Beyond loopback only with --require-token.")] = (
        "127.0.0.1"
    )
    require_token: Annotated[
        Path | None, Option("--require-token", metavar="FILE", help="File with the API token that clients must have.")
    ] = None
    allow_origin: Annotated[
        list[str] | None,
        Option("--allow-origin", metavar="ORIGIN", help="Web site whose pages may connect; may be repeated."),
    ] = None
    key: Annotated[str | None, Option("--key", metavar="NAME", help="Key of the model, if there is one.")] = None
    lazy: Annotated[bool, Option("--lazy", help="Load a single model when it is requested, not at the start.")] = False
    parallel: Annotated[
        int | None,
        Option("--parallel", metavar="N", help="Predictions that a model runs at once.  [default: up to 4]"),
        Range(1, 1023),
    ] = None
    tokens_per_second: Annotated[
        float | None, Option("--tokens-per-second", metavar="X", help="Slow the echo models down.")
    ] = None
    load_seconds: Annotated[float, Option("--load-seconds", metavar="SEC", help="Time that a load takes.")] = 0.0
    prompt_tokens_per_second: Annotated[
        float | None, Option("--prompt-tokens-per-second", metavar="X", help="Slow the reading of prompts down.")
    ] = None
    quiet: Annotated[bool, Option("-q", "--quiet", help="Log nothing but errors.")] = False
    verbose: Annotated[bool, Option("-v", "--verbose", help="Log every request.")] = False


class HelpOptions(Options):
    """`lm help` has no options."""


DEMO_HOST: Final = "demo"
LOCAL_HOST: Final = "local"
