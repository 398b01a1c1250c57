"""Running a command on one connection, which signals, a closed stdout and errors can end early."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Final

from lmcli.cli.delivery import Consumer, deliver
from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages
from lmcli.cli.model_cache import KEYS, add
from lmcli.cli.options import ServerOptions
from lmcli.cli.output.stdout import Output, ReaderLeft
from lmcli.cli.prompt_length import PromptLengthCheck
from lmcli.cli.signals import BROKEN_PIPE, Interrupted, SignalWatcher, die_of
from lmcli.cli.target import connect
from lmcli.client.connection import Connection
from lmcli.client.images import Uploads
from lmcli.client.session import Session
from lmcli.client.waiting import Interrupt, Interrupts, no_interrupts
from lmcli.errors import ExitCode, LmError

_NAMESPACE: Final = "llm"


class Runner:
    """Runs the steps of a command, keeps their first error, and ends the process with it.

    Args:
        options: name the server.
        env: the environment.
        messages: writes messages to stderr.

    Attributes:
        signals: watched inside `watched`.
        output: stdout.
        connection: the connection, inside `connected`.
        uploads: uploads images to the server.
        error: the first error.
        messages: writes messages to stderr.
        cache_model_key: stores the key of a model for completion.
        length_check: refuses prompts that are too long.
        more_interrupts: what ends a wait for the server besides a signal and a closed stdout.
    """

    connection: Connection
    uploads: Uploads

    def __init__(self, options: ServerOptions, env: Environment, messages: Messages) -> None:
        self.signals = SignalWatcher()
        self.output = Output(env.stdout, self.signals)
        self.error: LmError | None = None
        self.messages = messages
        messages.watch(self.signals)
        self.more_interrupts: Interrupts = no_interrupts
        self.length_check = PromptLengthCheck()
        self._has_lost_reader = False
        self._connect: Callable[[], AbstractContextManager[Connection]]
        self._connect = lambda: connect(options, env, messages, interrupts=self._interrupts)
        self.cache_model_key: Callable[[str], None] = cache(lambda key: add(KEYS, key, options, env))

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Open a connection for the duration of the block.

        Raises:
            LmError: no server can be reached. Signals are not watched yet, so they end the process at once.
        """
        with self._connect() as connection:
            self.connection = connection
            self.uploads = Uploads(lambda: connection.session("files"))
            connection.session(_NAMESPACE)
            yield

    @contextmanager
    def watched(self) -> Iterator[None]:
        """For the duration of the block, let signals and a closed stdout end the step, not the process."""
        self.error, self._has_lost_reader = None, False
        self.output.begin()
        with self.signals:
            yield

    @property
    def session(self) -> Session:
        """The session for the next prediction or load."""
        return self.connection.session(_NAMESPACE)

    @property
    def signum(self) -> int | None:
        """The signal that the process is to die of, if any; SIGPIPE if the reader of stdout has left."""
        return self.signals.signum or (BROKEN_PIPE if self._has_lost_reader else None)

    def _interrupts(self) -> Sequence[Interrupt]:
        return (*self.output.interrupts(), *self.more_interrupts())

    def attempt(self, step: Callable[..., None], *arguments: object) -> None:
        """Run one step; keep what ends it early."""
        try:
            step(*arguments)
        except Interrupted:
            pass  # `signals` has the number
        except ReaderLeft:
            self._has_lost_reader = True
        except LmError as error:
            self._has_lost_reader = self.output.is_left
            self.error = self.error or error
        finally:
            self.signals.acknowledge()

    def deliver(self, session: Session, rounds: Iterable[Sequence[Consumer]], *, tick: float | None = None) -> None:
        """Deliver the values of a session's channels until the rounds end, see `delivery`."""
        deliver(session, rounds, self.output, self.signals, tick=tick)

    def end(self) -> ExitCode:
        """Die of the signal that came, if any; else return the status of success.

        Raises:
            LmError: the first error, if no signal came.
        """
        if self.signum is not None:
            die_of(self.signum)
        if self.error is not None:
            raise self.error
        return ExitCode.OK
