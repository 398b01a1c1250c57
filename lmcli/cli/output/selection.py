"""Selection of the sinks of a prediction: progress on stderr, the answer on stdout. Only those in use are loaded."""

# ruff: noqa: PLC0415

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from lmcli.cli.choices import OutputForm, RawOutputForm
from lmcli.cli.environment import Environment
from lmcli.cli.input.document import Document
from lmcli.cli.messages import Messages
from lmcli.cli.options import PredictionOptions, ProgressOptions
from lmcli.cli.output.sinks import Sink, StderrSink
from lmcli.cli.output.stdout import Output
from lmcli.cli.resolve import Reasoning, Request


def answer_sink(
    form: OutputForm | RawOutputForm, request: Request, output: Output, env: Environment, preface: str = ""
) -> Sink:
    """The sink for stdout; `preface` is written before an answer that is text."""
    is_terminal = env.stdout_is_terminal
    is_structured = request.is_structured
    match str(form):
        case "json":
            from lmcli.cli.output.json_sinks import JsonSink

            return JsonSink(output, is_terminal=is_terminal, is_structured=is_structured)
        case "jsonl":
            from lmcli.cli.output.json_sinks import JsonLinesSink

            return JsonLinesSink(output, is_structured=is_structured)
        case "history" if isinstance(request.subject, Document):
            from lmcli.cli.output.json_sinks import HistorySink

            return HistorySink(output, request.subject, is_terminal=is_terminal)
        case "code":
            from lmcli.cli.output.code_sink import CodeSink

            return CodeSink(output, is_terminal=is_terminal)
    from lmcli.cli.output.sinks import TextSink

    ends_line = isinstance(request.subject, Document)
    return TextSink(output, is_terminal=is_terminal, ends_line=ends_line, preface=preface)


def markdown_sink(options: PredictionOptions, env: Environment, messages: Messages, output: Output) -> Sink | None:
    """The sink that renders an answer on a terminal, if it is to be rendered."""
    given = vars(options)
    is_rendered = given.get("output") is OutputForm.TEXT and given.get("markdown")
    if not (is_rendered and env.stdout_is_terminal and env.setting("TERM") != "dumb"):
        return None
    from lmcli.cli.output.drawing import has_blocks
    from lmcli.cli.output.markdown_sink import MarkdownSink

    has_color = env.has_color(options.color, is_terminal=True)
    is_in_tmux = env.setting("TMUX") is not None
    sink = MarkdownSink(output, lambda: env.size, has_color=has_color, has_boxes=has_blocks(env), is_in_tmux=is_in_tmux)
    messages.before_each = sink.end_block
    return sink


def undisturbed(markdown: Sink | None, env: Environment) -> AbstractContextManager[None]:
    """Inside it, nothing that is typed disturbs an answer that is rendered."""
    if markdown is None:
        return nullcontext()
    from lmcli.cli.output.terminal_echo import without_echo

    return without_echo(env.stdout)


def stderr_sinks(options: PredictionOptions, env: Environment, messages: Messages, output: Output) -> list[StderrSink]:
    """The sinks for stderr: reasoning and progress, if they are shown."""
    is_shown = Reasoning.parse(options.reasoning or ()).is_shown
    shows_reasoning = env.stderr_is_terminal if is_shown is None else is_shown
    progress = progress_sink(options, env, messages, output, hidden_phases=("thinking",) if shows_reasoning else ())
    if not shows_reasoning:
        return [progress] if progress else []
    from lmcli.cli.output.reasoning import ReasoningSink

    erase_progress = getattr(progress, "erase", lambda: None)
    reasoning = ReasoningSink(messages, is_terminal=env.stderr_is_terminal, erase_progress=erase_progress)
    return [reasoning, progress] if progress else [reasoning]


def progress_sink(
    options: ProgressOptions, env: Environment, messages: Messages, output: Output, *, hidden_phases: Sequence[str] = ()
) -> StderrSink | None:
    """The sink for progress, if it is shown: a live line on a terminal; elsewhere plain lines, if requested.

    Args:
        options: the options.
        env: the environment.
        messages: writes plain lines.
        output: stdout. If it may lead to the same terminal, the live line is erased before the first byte is written.
        hidden_phases: the phases in which something else is shown on stderr.
    """
    is_dumb = env.setting("TERM") == "dumb"
    is_enabled = not options.quiet if options.progress is None else options.progress
    if env.stderr_is_terminal and not is_dumb and is_enabled:
        from lmcli.cli.output.progress import TerminalSink

        sink = TerminalSink(has_color=messages.has_color, hidden_phases=hidden_phases)
        if env.stdout_is_terminal or output.has_reader:
            output.before_first = sink.close
        return sink
    if options.progress:
        from lmcli.cli.output.progress import LinesSink

        return LinesSink(messages.report)
    return None
