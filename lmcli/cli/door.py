"""From arguments to an exit status: the one place where every error is printed."""

import sys
from collections.abc import Sequence
from typing import Any, Final

import typer

from lmcli.cli.app import COMMANDS, build, hint_for
from lmcli.cli.output import Printed
from lmcli.cli.stops import die_of_broken_pipe
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.voice import Voice
from lmcli.errors import ExitCode, LmError, UsageError

_Misuse: Final[Any] = typer.BadParameter.__base__  # what all errors in typing have in common has no public name
_REPORT: Final = "this is a bug in lm; please report it with the lines above"


def enter(arguments: Sequence[str]) -> int:
    """Run what was typed.

    Returns:
        The exit status.
    """
    here = Surroundings.of_process()
    sys.stdout = Printed(here.stdout)
    voice = Voice(here)
    try:
        return _run(arguments, here)
    except LmError as error:
        voice.error(error)
        return error.exit_code
    except _Misuse as error:
        voice.error(_usage_error(error, arguments))
        return ExitCode.USAGE
    except BrokenPipeError:
        die_of_broken_pipe()
    except Exception:  # noqa: BLE001  the only place: whatever ends here is our own bug
        import traceback  # noqa: PLC0415  only a bug needs it

        voice.raw(traceback.format_exc())
        voice.error(LmError(_REPORT))
        return ExitCode.BUG


def _run(arguments: Sequence[str], here: Surroundings) -> int:
    typed = arguments[0] if arguments else ""
    app = build(here, [typed] if typed in COMMANDS else tuple(COMMANDS))
    status = app(list(arguments), prog_name="lm", standalone_mode=False)
    return status if isinstance(status, int) else ExitCode.OK


def _usage_error(error: Any, arguments: Sequence[str]) -> LmError:
    message, near = _split(error)
    context = getattr(error, "ctx", None)
    typed = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    name = typed if context is None else context.command_path.removeprefix("lm").strip()
    hints = [f"did you mean {near}?"] if near else []
    return UsageError(message[:1].lower() + message[1:], *hints, hint_for(name))


def _split(error: Any) -> tuple[str, str]:
    """What is wrong, and what it is nearest to: Typer gives options as a list, commands inside of its message."""
    if near := getattr(error, "possibilities", None):
        return error.message, near[0]
    message, _, near = error.format_message().strip().rstrip(".").partition(". Did you mean ")
    return message, near.rstrip("?").partition(", ")[0].strip("'")
