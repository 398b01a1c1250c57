"""One server, one identity, a socket for each namespace that is used."""

from lmcli.client.address import Address
from lmcli.client.session import Session, Trace
from lmcli.client.waiting import Interrupt
from lmcli.closing import Closing
from lmcli.wire.protocol import Credentials


class Connection(Closing):
    """Sessions by namespace: opened when first asked for, opened again where they were lost, closed together.

    The same credentials are used for all, because a server ties uploaded files to them.

    Args:
        address: where.
        credentials: who.
        timeout: the longest silence of the server, in seconds.
        trace: told what is sent, see `Session.open`.
    """

    def __init__(
        self,
        address: Address,
        credentials: Credentials,
        *,
        timeout: float | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.address = address
        self._credentials = credentials
        self._timeout = timeout
        self._trace = trace
        self._sessions: dict[str, Session] = {}
        self._interrupts: tuple[Interrupt, ...] = ()

    @property
    def interrupts(self) -> tuple[Interrupt, ...]:
        """What ends a wait for the server on any of the sockets, see `waiting`."""
        return self._interrupts

    @interrupts.setter
    def interrupts(self, interrupts: tuple[Interrupt, ...]) -> None:
        self._interrupts = interrupts
        for session in self._sessions.values():
            session.interrupts = interrupts

    def session(self, namespace: str) -> Session:
        """The socket to a namespace.

        Raises:
            CannotConnect, NotAllowed, TimedOut: see `Session.open`.
        """
        session = self._sessions.get(namespace)
        if session is None or not session.is_open:
            if session is not None:
                session.close()
            session = Session.open(
                self.address,
                namespace,
                self._credentials,
                timeout=self._timeout,
                trace=self._trace,
                interrupts=self._interrupts,
            )
            self._sessions[namespace] = session
        return session

    def close(self) -> None:
        """Close all sockets; files that were uploaded are forgotten by the server."""
        while self._sessions:
            self._sessions.popitem()[1].close()
