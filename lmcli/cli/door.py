"""From arguments to an exit status: the one place where every error is printed."""

from collections.abc import Sequence
from typing import Final

import typer

from lmcli.cli.app import COMMANDS, build, hint_for
from lmcli.cli.stops import die_of_broken_pipe
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.voice import Voice
from lmcli.errors import ExitCode, LmError, UsageError

_REPORT: Final = "this is a bug in lm; please report it with the lines above"


def enter(arguments: Sequence[str]) -> int:
    """Run what was typed.

    Returns:
        The exit status.
    """
    here = Surroundings.of_process()
    voice = Voice(here)
    try:
        return _run(arguments, here)
    except LmError as error:
        voice.error(error)
        return error.exit_code
    except typer.TyperException as error:
        voice.error(_usage_error(error))
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


def _usage_error(error: typer.TyperException) -> LmError:
    message = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    name = "" if context is None else context.command_path.removeprefix("lm").strip()
    return UsageError(message[:1].lower() + message[1:], hint_for(name))
