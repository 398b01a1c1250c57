"""The faults: what each does, in which stages it makes sense, and what a client has to make of it.

A fault is a line of a table. What is expected of the client follows from the protocol alone, never from our code: a
connection that ends is an error, a ping is not, and where the protocol is silent the client is free, as long as what
it reports is true.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum, auto
from pathlib import Path
from typing import Final, NamedTuple

from places import Place
from stage_server import MESSAGES, Fault, Stage


class Expect(Enum):
    """What the client has to make of a fault."""

    COMPLETE = auto()
    """It is harmless: the whole answer, and status 0."""
    ERROR = auto()
    """An error, and all that was sent before."""
    WAIT = auto()
    """It waits, until a signal or its timeout ends it."""
    FREE = auto()
    """An answer, an error or a wait: whatever it reports has to be true."""


COMPLETE, ERROR, WAIT, FREE = Expect


class Damage(NamedTuple):
    """One fault.

    Attributes:
        group: the kind, a column of the table.
        name: what it is, unique within its group.
        run: does it.
        expect: what the client has to make of it.
        stages: where it makes sense.
        is_common: whether every form of every command meets it; the others meet the main forms only.
        is_field: the forms that show what is in the fields meet it, and no others.
        is_noisy: it goes on sending, which is not the silence that a timeout ends.
        place: the address of a client that reaches no server at all; None is that of the server.
        needs_linux: it cannot be made elsewhere.
    """

    group: str
    name: str
    run: Fault
    expect: Expect
    stages: frozenset[Stage]
    is_common: bool = False
    is_field: bool = False
    is_noisy: bool = False
    place: Callable[[Path], AbstractContextManager[Place]] | None = None
    needs_linux: bool = False


LINKED: Final = frozenset({Stage.CONNECT, Stage.TLS, Stage.UPGRADE}) | MESSAGES
"""The stages in which there is a connection."""
