"""However a prediction is left, the server is asked to stop once, and the program leaves nothing behind.

The programs run with warnings as errors, in Python's development mode and the debug mode of asyncio: a task, a socket
or a callback that is left is reported on stderr, which must be empty.
"""

import pytest
from conftest import LOOPS
from loops import cancels, child, recording_server

WAYS = {
    "break": """
        async for fragment in model.respond_stream("hi"):
            break
    """,
    "break of an awaited stream with a name": """
        stream = await model.respond_stream("hi")
        async for fragment in stream:
            break
        result = await stream.wait_for_result()
        assert (result.content, result.stats.stop_reason) == ("0 ", "userStopped")
    """,
    "return": """
        async def first():
            async for fragment in model.complete_stream("hi"):
                return fragment.content
        assert await first() == "0 "
    """,
    "an exception in the loop": """
        try:
            async for fragment in model.respond_stream("hi"):
                1 / 0
        except ZeroDivisionError:
            pass
    """,
    "an exception in a callback": """
        try:
            await model.respond("hi", on_prediction_fragment=lambda _: 1 / 0)
        except ZeroDivisionError:
            pass
    """,
    "a cancelled task that waits for a result": """
        begun = asyncio.Event()
        task = asyncio.create_task(model.respond("hi", on_first_token=begun.set))
        await begun.wait()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
    """,
    "a cancelled task that waits for a fragment": """
        async def read():
            async for fragment in model.respond_stream("hi"):
                if fragment.content == "2 ":
                    all_here.set()
        all_here = asyncio.Event()
        task = asyncio.create_task(read())
        await all_here.wait()
        task.cancel()
        await asyncio.wait([task])
    """,
    "a timeout": """
        try:
            async with asyncio.timeout(0.2):
                await model.respond("hi")
        except TimeoutError:
            pass
    """,
    "a timeout of the client": """
        async with lms.AsyncClient(sys.argv[1], "", timeout=0.2) as other:
            try:
                await (await other.llm.model()).respond("hi")
            except lms.TimedOut as error:
                assert str(error) == "the server was silent for 0.2 s"
    """,
    "a task group that fails": """
        async def fail():
            await begun.wait()
            1 / 0
        begun = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(model.respond("hi", on_first_token=begun.set))
                group.create_task(fail())
        except* ZeroDivisionError:
            pass
    """,
    "a stream that is dropped": """
        await model.respond_stream("hi")
    """,
    "a stream that is closed": """
        stream = await model.respond_stream("hi")
        await stream.aclose()
        await stream.aclose()
        assert stream.result().stats.stop_reason == "userStopped"
    """,
    "a block that is left": """
        async with model.respond_stream("hi") as stream:
            await anext(aiter(stream))
    """,
    "cancel": """
        stream = await model.respond_stream("hi")
        async for fragment in stream:
            await stream.cancel()
            await stream.cancel()
        assert (stream.result().content, stream.result().stats.stop_reason) == ("0 ", "userStopped")
    """,
    "a client that is closed": """
        begun = asyncio.Event()
        task = asyncio.create_task(model.respond("hi", on_first_token=begun.set))
        await begun.wait()
        await client.aclose()
        try:
            await task
        except lms.ConnectionLost as error:
            assert "it was closed" in str(error)
    """,
    "a client that is left with a stream": """
        global kept
        kept = await model.respond_stream("hi")
    """,
    "a load": """
        begun = asyncio.Event()
        task = asyncio.create_task(client.llm.model("tiny", on_load_progress=lambda _: begun.set()))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
    """,
    "an exception in the callback of a load": """
        try:
            await client.llm.model("tiny", on_load_progress=lambda _: 1 / 0)
        except ZeroDivisionError:
            pass
    """,
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", WAYS)
def test_leaving_cancels_once(way: str, loop: str) -> None:
    """Each way out of a prediction or a load asks the server once to stop; no task, socket or warning is left."""
    with recording_server() as (server, received):
        child(loop, server.port, WAYS[way])
        count = cancels(received)
        if way == "a timeout of the client":
            count += cancels(received)
    assert count == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_many_are_cancelled_at_once(loop: str) -> None:
    """A group of predictions on one connection ends with its first failure: each is cancelled once."""
    with recording_server() as (server, received):
        child(
            loop,
            server.port,
            """
            async def fail():
                for event in begun:
                    await event.wait()
                1 / 0
            begun = [asyncio.Event() for _ in range(50)]
            try:
                async with asyncio.TaskGroup() as group:
                    for event in begun:
                        group.create_task(model.respond("hi", on_first_token=event.set))
                    group.create_task(fail())
            except* ZeroDivisionError:
                pass
            """,
        )
        assert cancels(received) == 50


@pytest.mark.parametrize("loop", LOOPS)
def test_the_connection_goes_on(loop: str) -> None:
    """What a cancelled prediction still sends is dropped, and the next ones get their answers on the same socket."""
    with recording_server(fragments=2000) as (server, received):
        child(
            loop,
            server.port,
            """
            for _ in range(20):
                async for fragment in model.respond_stream("hi"):
                    break
            assert await model.count_tokens("hi") == 1
            """,
        )
        assert cancels(received) == 20
