"""From a task to the end of the process; what `respond` and `complete` have in common."""

from collections.abc import Sequence

from lmcli.chat import FilePart, ImagePart, Message, Part
from lmcli.cli.connect import connect
from lmcli.cli.ending import Ending
from lmcli.cli.jsontext import written
from lmcli.cli.output import Output, print_bytes
from lmcli.cli.request import load_opening
from lmcli.cli.run import Run, Task
from lmcli.cli.sinks import Outcome, Sink
from lmcli.cli.sinks.choice import answer_sink
from lmcli.cli.stops import Stops
from lmcli.cli.voice import Voice
from lmcli.client.catalog import list_downloaded, list_loaded
from lmcli.client.connection import Connection
from lmcli.client.images import Uploads, image_name
from lmcli.errors import ExitCode, ModelNotFound


def run(task: Task) -> ExitCode:
    """Carry out a prediction; dies of the signal or the broken pipe that ended it.

    Raises:
        LmError: what kept the answer from being complete; all that had arrived is on stdout.
    """
    return show_request(task) if task.typed.dry_run else perform(task).ending.end()


def perform(task: Task, keepers: Sequence[Sink] = ()) -> Run:
    """Carry out a prediction; how it ended is for the caller to say.

    Args:
        task: what is to be done.
        keepers: sinks besides those for stdout and stderr.

    Raises:
        LmError: it could not even begin.
    """
    stops = Stops()
    output = Output(task.here.stdout, stops)
    one = None
    try:
        with connect(task.typed, task.here, task.voice, interrupts=output.interrupts) as connection:
            connection.session("llm")  # a server that is not there is an error before signals are watched
            model = None if task.model_key else loaded_model(connection, task.voice)
            uploads = Uploads(lambda: connection.session("files"))
            with stops:
                one = Run(task, connection, uploads, output=output, stops=stops, keepers=keepers)
                one.carry_out(model)
    finally:
        if one is None and task.preface:
            _write_preface(task)
    return one


def _write_preface(task: Task) -> None:
    """Write what would stand before the answer, alone: there will be none."""
    stops = Stops()
    ending = Ending(stops)
    sink = answer_sink(task.form, task.request, Output(task.here.stdout, stops), task.here, task.preface)
    ending.attempt(sink.finish, Outcome())
    ending.end()


def loaded_model(connection: Connection, voice: Voice) -> str:
    """The identifier of the model to use when none was named: the one that is loaded, or the last one used.

    Raises:
        ModelNotFound: none is loaded; the hint says which could be.
    """
    instances = list_loaded(connection.session("llm"))
    if not instances:
        keys = [model.model_key for model in list_downloaded(connection.session("system")) if model.type == "llm"]
        there_are = f"there are: {', '.join(keys)}" if keys else "lms get downloads one"
        raise ModelNotFound("no model is loaded", "-m KEY loads one", there_are)
    latest = max(instances, key=lambda instance: instance.last_used_time or 0)
    if len(instances) > 1:
        voice.note(f"several models are loaded, this goes to {latest.identifier} (-m KEY takes another)")
    return latest.identifier


def show_request(task: Task) -> ExitCode:
    """Print what would be sent: endpoint and creation parameter of each request, in order."""
    key = task.model_key
    openings = [*([load_opening(key, task.typed)] if key else []), task.request.opening(key, _named)]
    shown = written({o.endpoint: o.parameter for o in openings}, is_indented=task.here.stdout_is_terminal)
    print_bytes(shown, task.here.stdout)
    return ExitCode.OK


def _named(messages: Sequence[Message]) -> list[Message]:
    """The same messages with names in place of images that would be uploaded."""
    return [m._replace(content=tuple(_name(part) for part in m.content)) for m in messages]


def _name(part: Part) -> Part:
    return FilePart(image_name(part.source), "", 0, "image") if isinstance(part, ImagePart) else part
