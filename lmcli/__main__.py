"""The door: answers `--version` itself, else runs the command and leaves without looking back."""

import sys


def main() -> None:
    """Run `lm` with the arguments of this process and end it with a status of `errors.ExitCode`."""
    if sys.argv[1:] == ["--version"]:
        from lmcli import __version__

        sys.stdout.write(f"lm {__version__}\n")
        return
    from lmcli import haste

    haste.before_imports()
    from lmcli.cli.door import enter

    haste.after_imports()
    haste.leave(enter(sys.argv[1:]))


if __name__ == "__main__":
    main()
