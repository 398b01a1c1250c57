"""The process that applies a prompt template of a client: `python -m lmcli.server.llama.jinja_main`.

A template is a program: one that does not end, or takes all memory, ends with this process, and nothing else does.
It reads {"template", "variables"} from stdin and writes {"text"}, {"error"} or {"missing"} to stdout.
"""

import json
import os
import sys
from typing import Any, Final, NoReturn

# The memory that a template may take, in bytes.
_MAX_MEMORY: Final = 512 * 1024 * 1024


def _limit_memory() -> None:
    if sys.platform == "linux":  # elsewhere there is no such limit
        import resource  # noqa: PLC0415

        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))


def _raise(message: Any) -> NoReturn:
    """What templates call for conversations that they do not accept."""
    from jinja2.exceptions import TemplateError  # noqa: PLC0415

    raise TemplateError(str(message))


def rendered(template: str, variables: dict[str, Any]) -> str:
    """Apply a template, with what the templates of models expect.

    Source: transformers, utils/chat_template_utils.py
    """
    from jinja2.ext import loopcontrols  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return str(environment.from_string(template).render(variables))


def _now(form: str) -> str:
    from datetime import datetime  # noqa: PLC0415

    return datetime.now().strftime(form)  # noqa: DTZ005  the user's own time


def main() -> None:
    """Read a template and its variables, write the text."""
    os.nice(10)  # models come first
    _limit_memory()
    request = json.load(sys.stdin)
    try:
        answer = {"text": rendered(request["template"], request["variables"])}
    except ImportError:
        answer = {"missing": "jinja2"}
    except Exception as error:  # noqa: BLE001  a template can raise anything
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
