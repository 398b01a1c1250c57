"""The entry point: answers `--version` itself, else runs the command and ends the process."""

import os
import sys

_OUTPUT_FAILED = 74  # errors.ExitCode.OUTPUT_FAILED, without loading it
_UNAVAILABLE = 69  # errors.ExitCode.UNAVAILABLE


def main() -> None:
    """Run `lm` with the arguments of this process and end it with a status of `errors.ExitCode`."""
    if sys.platform == "win32":
        sys.stderr.write("lm: error: Windows is supported through WSL only: run lm inside it\n")
        sys.exit(_UNAVAILABLE)
    if sys.argv[1:2] == ["--version"]:
        if status := _print_version():
            sys.exit(status)
        return
    from lmcli import startup

    startup.before_imports()
    from lmcli.cli.main import main as run

    startup.after_imports()
    startup.exit_now(run(sys.argv[1:]))


def _print_version() -> int:
    """Write the version to the descriptor: a closed stdout or stderr has no stream, a full one fails again at exit."""
    from lmcli import __version__

    try:
        os.write(1, f"lm {__version__}\n".encode())
    except BrokenPipeError:
        from lmcli.cli.signals import die_of_broken_pipe

        die_of_broken_pipe()
    except OSError as error:
        from contextlib import suppress

        message = f"lm: error: cannot write to standard output: {error.strerror}\n".lower()
        with suppress(OSError):
            os.write(2, message.encode())
        return _OUTPUT_FAILED
    return 0


if __name__ == "__main__":
    main()
