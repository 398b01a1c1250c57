"""A Python client writing an answer as it streams: `python python_client.py MODULE PORT PROMPT [--async]`.

The module is `lmcli` or the official SDK, `lmstudio`: the same program runs with either.
"""

import sys
from importlib import import_module
from typing import Any


def write(fragment: Any) -> None:
    """Write one fragment, at once."""
    sys.stdout.write(fragment.content)
    sys.stdout.flush()


def answer(library: Any, address: str, prompt: str) -> None:
    """Ask, and write what comes."""
    with library.Client(address) as client:
        for fragment in client.llm.model("echo").respond_stream(prompt):
            write(fragment)


async def answer_asynchronously(library: Any, address: str, prompt: str) -> None:
    """The same on an event loop."""
    async with library.AsyncClient(address) as client:
        model = await client.llm.model("echo")
        async for fragment in await model.respond_stream(prompt):
            write(fragment)


def main(module: str, port: str, prompt: str, *options: str) -> None:
    """Answer one prompt."""
    library, address = import_module(module), f"127.0.0.1:{port}"
    if options:
        import asyncio  # the start of the synchronous client is measured, too

        asyncio.run(answer_asynchronously(library, address, prompt))
    else:
        answer(library, address, prompt)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
