"""How a process ends that was at work: with a status, or of the signal or the broken pipe that stopped it."""

from collections.abc import Callable

from lmcli.cli.output import ReaderLeft
from lmcli.cli.stops import BROKEN_PIPE, Interrupted, Stops, die_of
from lmcli.errors import ExitCode, LmError


class Ending:
    """Keeps what went wrong, step by step, until the work is wound up.

    Args:
        stops: the signals that are watched for.

    Attributes:
        error: the first error.
    """

    def __init__(self, stops: Stops) -> None:
        self.error: LmError | None = None
        self._stops = stops
        self._has_lost_its_reader = False

    @property
    def signum(self) -> int | None:
        """The signal to die of, if there is one; a reader who left counts as SIGPIPE."""
        return self._stops.signum or (BROKEN_PIPE if self._has_lost_its_reader else None)

    def attempt(self, step: Callable[..., None], *arguments: object) -> None:
        """Take one step; what ends it early is kept."""
        try:
            step(*arguments)
        except Interrupted:
            pass  # `stops` knows the signal
        except ReaderLeft:
            self._has_lost_its_reader = True
        except LmError as error:
            self.error = self.error or error
        finally:
            self._stops.acknowledge()

    def end(self) -> ExitCode:
        """End the process as the work ended; the status where nothing went wrong.

        Raises:
            LmError: the first error, where no signal comes before it.
        """
        if self.signum is not None:
            die_of(self.signum)
        if self.error is not None:
            raise self.error
        return ExitCode.OK
