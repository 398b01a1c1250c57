"""One server, one identity, a socket for each namespace that is used."""

from lmcli.client.address import Address
from lmcli.client.session import Session, Trace
from lmcli.client.waiting import Interrupts, no_interrupts
from lmcli.closing import Closing
from lmcli.errors import TokenExposed
from lmcli.wire.protocol import Credentials


class Connection(Closing):
    """Sessions by namespace: opened when first asked for, closed together.

    A session that was lost is opened again; so is one whose server has used up its warnings, beside the old one, which
    is closed when its channels have ended. The same credentials are used for all, because a server ties uploaded files
    to them, and to the socket that they came over.

    Args:
        address: the server.
        credentials: the identity of the client.
        timeout: the longest silence of the server, in seconds.
        trace: called with what is sent, see `Session.open`.
        interrupts: what ends a wait on any of the sockets, see `waiting`.
        insecure_token: whether an API token may be sent unencrypted over a network.

    Raises:
        TokenExposed: it would be, and may not.
    """

    def __init__(
        self,
        address: Address,
        credentials: Credentials,
        *,
        timeout: float | None = None,
        trace: Trace | None = None,
        interrupts: Interrupts = no_interrupts,
        insecure_token: bool = False,
    ) -> None:
        if not insecure_token:
            refuse_exposed_token(address, credentials)
        self.address = address
        self._credentials = credentials
        self._timeout = timeout
        self._trace = trace
        self._interrupts = interrupts
        self._sessions: dict[str, Session] = {}
        self._replaced: list[Session] = []

    def session(self, namespace: str) -> Session:
        """The socket to a namespace, for the next request.

        Raises:
            CannotConnect, NotAllowed, TimedOut: see `Session.open`.
        """
        session = self._sessions.get(namespace)
        if session is not None and session.takes_requests:
            return session
        if session is not None:
            self._replaced.append(session)
            if namespace != "files":
                session.close_when_idle()
        session = self._sessions[namespace] = Session.open(
            self.address,
            namespace,
            self._credentials,
            timeout=self._timeout,
            trace=self._trace,
            interrupts=self._interrupts,
        )
        return session

    def close(self) -> None:
        """Close all sockets; files that were uploaded are forgotten by the server."""
        for session in (*self._replaced, *self._sessions.values()):
            session.close()
        self._replaced.clear()
        self._sessions.clear()


def refuse_exposed_token(address: Address, credentials: Credentials) -> None:
    """Keep an API token from where others could read it; the credentials of a guest may go anywhere.

    Raises:
        TokenExposed: they hold a token, and the server is on another machine and not addressed over TLS.
    """
    if not (credentials.is_guest or address.is_private):
        raise TokenExposed(
            f"the API token is not sent to {address}: the connection is not encrypted",
            f"{address._replace(secure=True)} encrypts it, if the server has TLS",
        )
