"""Asynchronous programs in tests: on a loop in this process, or as a child that reports whatever it leaves behind."""

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from conftest import PATIENCE, Packet
from faults import Left, Peer, ScriptedServer
from packets import INSTANCE, closed, piece, sent, success

T = TypeVar("T")


def run(loop: str, work: Coroutine[Any, Any, T], *, debug: bool = True) -> T:
    """Run to its end on `asyncio` or `uvloop`, whose debug mode reports what is left behind."""
    if loop == "asyncio":
        factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    else:
        from uvloop import new_event_loop as factory
    with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
        runner.get_loop().slow_callback_duration = 60
        return runner.run(asyncio.wait_for(work, PATIENCE))


PROGRAM = """
import asyncio, sys
import lmcli as lms
run = asyncio.run
if sys.argv[2] == "uvloop":
    from uvloop import run

async def scenario(client, model):
{scenario}

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60
    async with lms.AsyncClient(sys.argv[1], "") as client:
        await scenario(client, await client.llm.model())
        assert asyncio.all_tasks() == {{asyncio.current_task()}}, asyncio.all_tasks()

run(main())
"""


def child(loop: str, port: int, scenario: str) -> str:
    """Run a scenario with a client and a model in a process that warns of everything; what it printed."""
    done = subprocess.run(
        [
            *(sys.executable, "-X", "dev", "-W", "error"),
            *("-c", PROGRAM.format(scenario=textwrap.indent(textwrap.dedent(scenario), "    "))),
            *(f"127.0.0.1:{port}", loop),
        ],
        env=os.environ | {"PYTHONASYNCIODEBUG": "1"},
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


@contextmanager
def recording_server(fragments: int = 3) -> Iterator[tuple[ScriptedServer, SimpleQueue[Packet | None]]]:
    """A server that begins every prediction and ends none before it is cancelled; gives what it received.

    None stands for the end of a connection. A model that is asked for by its key loads until it is cancelled.
    """
    received: SimpleQueue[Packet | None] = SimpleQueue()

    def answer(peer: Peer, request: Packet) -> None:
        match request:
            case {"type": "rpcCall", "endpoint": "listLoaded", "callId": number}:
                peer.send({"type": "rpcResult", "callId": number, "result": [INSTANCE]})
            case {"type": "rpcCall", "callId": number}:
                peer.send({"type": "rpcResult", "callId": number, "result": {"tokenCount": 1}})
            case {"type": "channelCreate", "endpoint": "predict" | "completeRawText", "channelId": number}:
                peer.send(*(piece(f"{index} ", number) for index in range(fragments)))
            case {"type": "channelCreate", "channelId": number}:
                peer.send(sent(number, {"type": "startLoading", "identifier": "tiny", "info": INSTANCE}))
            case {"type": "channelSend", "channelId": number}:
                peer.send(success(number, "userStopped"), closed(number))

    def script(peer: Peer) -> None:
        peer.greet()
        try:
            while True:
                request = peer.receive()
                received.put(request)
                with suppress(Left, OSError):  # the client has left, and what it sent before is there to be read
                    answer(peer, request)
        finally:
            received.put(None)

    with ScriptedServer(script) as server:
        yield server, received


def cancels(received: "SimpleQueue[Packet | None]") -> int:
    """How often a server was asked to cancel, up to the end of the connection."""
    count = 0
    while (request := received.get(timeout=PATIENCE)) is not None:
        count += request["type"] == "channelSend" and request["message"] == {"type": "cancel"}
    return count
