"""The work of one command on one connection, which signals, a reader who leaves and errors can end early."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from lmcli.cli.delivery import Fed, deliver
from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages
from lmcli.cli.model_cache import add
from lmcli.cli.options import ServerOptions
from lmcli.cli.output.stdout import Output, ReaderLeft
from lmcli.cli.signals import BROKEN_PIPE, Interrupted, SignalWatcher, die_of
from lmcli.cli.target import connect
from lmcli.client.connection import Connection
from lmcli.client.images import Uploads
from lmcli.client.session import Session
from lmcli.errors import ExitCode, LmError

_NAMESPACE: Final = "llm"


class Run:
    """Keeps what went wrong first, step by step, until the work is wound up; then the process ends with it.

    Args:
        options: which server.
        env: the process.
        messages: says what is not the answer.

    Attributes:
        signals: watched for inside of `watched`.
        output: stdout.
        connection: the way to the server, inside of `connected`.
        uploads: puts images on the server.
        error: the first error.
        messages: says what is not the answer.
        remember: keeps the key of a model for completion.
    """

    connection: Connection
    uploads: Uploads

    def __init__(self, options: ServerOptions, env: Environment, messages: Messages) -> None:
        self.signals = SignalWatcher()
        self.output = Output(env.stdout, self.signals)
        self.error: LmError | None = None
        self.messages = messages
        self._has_lost_its_reader = False
        self._connect: Callable[[], AbstractContextManager[Connection]]
        self._connect = lambda: connect(options, env, messages, interrupts=self.output.interrupts)
        self.remember: Callable[[str], None] = lambda key: add(key, options, env)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Have a connection until the block ends.

        Raises:
            LmError: there is no server; before signals are watched, so that they still end the process at once.
        """
        with self._connect() as connection:
            self.connection = connection
            self.uploads = Uploads(lambda: connection.session("files"))
            connection.session(_NAMESPACE)
            yield

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have a signal and a reader who leaves end the work, not the process, until the block ends."""
        self.error, self._has_lost_its_reader = None, False
        self.output.begin()
        with self.signals:
            yield

    @property
    def session(self) -> Session:
        """The socket for the next prediction or load."""
        return self.connection.session(_NAMESPACE)

    @property
    def signum(self) -> int | None:
        """The signal to die of, if there is one; a reader who left counts as SIGPIPE."""
        return self.signals.signum or (BROKEN_PIPE if self._has_lost_its_reader else None)

    def attempt(self, step: Callable[..., None], *arguments: object) -> None:
        """Take one step; what ends it early is kept."""
        try:
            step(*arguments)
        except Interrupted:
            pass  # `signals` knows which
        except ReaderLeft:
            self._has_lost_its_reader = True
        except LmError as error:
            self.error = self.error or error
        finally:
            self.signals.acknowledge()

    def deliver(self, session: Session, running: Sequence[Fed], *, tick: float | None = None) -> None:
        """Feed what runs on a session until all of it is over, see `delivery`."""
        deliver(session, running, self.output, self.signals, tick=tick)

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
