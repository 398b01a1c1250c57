"""From arguments to an exit status: the one place where errors that end the process are printed."""

import sys
from collections.abc import Sequence
from typing import Any, Final

import typer

from lmcli.cli.app import COMMANDS, build, hint_for, short_help
from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages
from lmcli.cli.output.stdout import UnbufferedStdout
from lmcli.cli.signals import die_of_broken_pipe
from lmcli.errors import ExitCode, LmError, UsageError, shortened

_TyperUsageError: Final[Any] = typer.BadParameter.__base__  # the base of all usage errors has no public name
_MAX_LENGTH: Final = 300
_RECURSION_LIMIT: Final = 10_000
"""Several calls for each of the levels that `json_text` accepts; a thread's stack has room for them."""

_BUG_REPORT: Final = "this is a bug in lm; please report it with the lines above"


def main(arguments: Sequence[str]) -> int:
    """Run a command line.

    Returns:
        The exit status.
    """
    sys.setrecursionlimit(_RECURSION_LIMIT)
    env = Environment.of_process()
    sys.stdout = UnbufferedStdout(env.stdout)
    sys.stderr = sys.stderr or UnbufferedStdout(env.stderr)  # None if it was closed, which `input` does not accept
    messages = Messages(env)
    try:
        return _run(arguments, env, messages)
    except LmError as error:
        messages.error(error)
        return error.exit_code
    except _TyperUsageError as error:
        messages.error(_usage_error(error, arguments))
        return ExitCode.USAGE
    except MemoryError:
        messages.error(LmError("out of memory"))
        return ExitCode.TRY_AGAIN
    except BrokenPipeError:
        die_of_broken_pipe()
    except Exception:  # noqa: BLE001  the only place: any other exception is a bug in lm
        import traceback  # noqa: PLC0415  only a bug needs it

        messages.raw(traceback.format_exc())
        messages.error(LmError(_BUG_REPORT))
        return ExitCode.BUG


def _run(arguments: Sequence[str], env: Environment, messages: Messages) -> int:
    if not arguments:
        messages.raw(short_help())
        return ExitCode.USAGE
    name = arguments[0]
    app = build(env, [name] if name in COMMANDS else tuple(COMMANDS))
    status = app(list(arguments), prog_name="lm", standalone_mode=False)
    return status if isinstance(status, int) else ExitCode.OK


def _usage_error(error: Any, arguments: Sequence[str]) -> LmError:
    from lmcli.cli.suggestions import suggestions  # noqa: PLC0415  only an error needs them

    is_option = hasattr(error, "possibilities")  # its message without Typer's own suggestions
    message = (error.message if is_option else error.format_message()).strip().rstrip(".")
    context = getattr(error, "ctx", None)
    first = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    name = first if context is None else context.command_path.removeprefix("lm").strip()
    shown = shortened(message, _MAX_LENGTH)  # it may contain a whole prompt
    return UsageError(shown[:1].lower() + shown[1:], *suggestions(error, arguments), hint_for(name))
