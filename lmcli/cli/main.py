"""From arguments to an exit status: the one place where every error is printed."""

import sys
from collections.abc import Sequence
from typing import Any, Final

import typer

from lmcli.cli.app import COMMANDS, build, hint_for, short_help
from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages
from lmcli.cli.output.stdout import Printed
from lmcli.cli.signals import die_of_broken_pipe
from lmcli.errors import ExitCode, LmError, UsageError

_Misuse: Final[Any] = typer.BadParameter.__base__  # what all errors in typing have in common has no public name
_LONGEST: Final = 300
_REPORT: Final = "this is a bug in lm; please report it with the lines above"


def main(arguments: Sequence[str]) -> int:
    """Run what was typed.

    Returns:
        The exit status.
    """
    env = Environment.of_process()
    sys.stdout = Printed(env.stdout)
    messages = Messages(env)
    try:
        return _run(arguments, env, messages)
    except LmError as error:
        messages.error(error)
        return error.exit_code
    except _Misuse as error:
        messages.error(_usage_error(error, arguments))
        return ExitCode.USAGE
    except BrokenPipeError:
        die_of_broken_pipe()
    except Exception:  # noqa: BLE001  the only place: whatever ends here is our own bug
        import traceback  # noqa: PLC0415  only a bug needs it

        messages.raw(traceback.format_exc())
        messages.error(LmError(_REPORT))
        return ExitCode.BUG


def _run(arguments: Sequence[str], env: Environment, messages: Messages) -> int:
    if not arguments:
        messages.raw(short_help())
        return ExitCode.USAGE
    typed = arguments[0]
    app = build(env, [typed] if typed in COMMANDS else tuple(COMMANDS))
    status = app(list(arguments), prog_name="lm", standalone_mode=False)
    return status if isinstance(status, int) else ExitCode.OK


def _usage_error(error: Any, arguments: Sequence[str]) -> LmError:
    from lmcli.cli.suggestions import suggestions  # noqa: PLC0415  only an error needs them

    is_option = hasattr(error, "possibilities")  # Typer's own, by letters alone, are left out
    message = (error.message if is_option else error.format_message()).strip().rstrip(".")
    context = getattr(error, "ctx", None)
    typed = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    name = typed if context is None else context.command_path.removeprefix("lm").strip()
    shown = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"  # it may hold a whole prompt
    return UsageError(shown[:1].lower() + shown[1:], *suggestions(error, arguments), hint_for(name))
