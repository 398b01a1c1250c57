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
        from lmcli import __version__

        try:
            sys.stdout.write(f"lm {__version__}\n")
            sys.stdout.flush()
        except (OSError, AttributeError) as error:  # full, or closed: then there is no stdout at all
            why = getattr(error, "strerror", "it is closed")
            sys.stderr.write(f"lm: error: cannot write to standard output: {why}\n".lower())
            os._exit(_OUTPUT_FAILED)  # what is left in the buffer cannot be written either
        return
    from lmcli import startup

    startup.before_imports()
    from lmcli.cli.main import main as run

    startup.after_imports()
    startup.exit_now(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
