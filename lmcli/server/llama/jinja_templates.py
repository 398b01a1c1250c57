"""Prompt templates of clients, in Jinja, which are applied in a process of their own."""

import asyncio
import json
import subprocess
from typing import Any, Final

from lmcli.server.llama.engine_errors import EngineError
from lmcli.server.llama.engine_process import python_command, python_environment
from lmcli.server.llama.installation import command_to_install
from lmcli.values import JsonObject

_MAIN: Final = "lmcli.server.llama.jinja_main"
_SECONDS: Final = 20.0
_MAX_ERROR_CHARACTERS: Final = 300


async def render(template: str, variables: JsonObject) -> str:
    """Apply a template.

    Raises:
        EngineError: the template is not valid, does not accept the conversation, or does not end.
    """
    data = json.dumps({"template": template, "variables": variables}).encode()
    process = await asyncio.create_subprocess_exec(
        *python_command(_MAIN),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=python_environment(),
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate(data)
    except TimeoutError as error:
        raise EngineError(f"the prompt template does not end within {_SECONDS:g} seconds") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _text(output)


def _text(output: bytes) -> str:
    try:
        answer: Any = json.loads(output)
    except ValueError as error:
        raise EngineError("the prompt template takes too much memory") from error
    if "missing" in answer:
        package = answer["missing"]
        raise EngineError(f"prompt templates of clients require {package}: {command_to_install(package)} installs it")
    if "error" in answer:
        raise EngineError(f"the prompt template cannot be applied: {answer['error'][:_MAX_ERROR_CHARACTERS]}")
    return str(answer["text"])
