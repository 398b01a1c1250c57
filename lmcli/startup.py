"""Fast startup and exit, which matter because `lm` runs in loops and pipelines.

Measured with CPython 3.11: `lm respond hi` takes 61 ms. Without stand-ins for modules it would take 30 ms more, with
garbage collection while modules are loaded 5 ms more, with the finalization of the interpreter 11 ms more.
"""

import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final, NoReturn

UNUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "difflib": ("get_close_matches",),  # 1.0 ms with heapq, for Typer's suggestions and short options
    "gettext": ("gettext",),  # 0.5 ms, for Typer's help and errors
    "hashlib": (),  # 2.9 ms with OpenSSL, for the one SHA-1 of websockets' handshake
    "http": ("HTTPStatus",),  # 0.5 ms, a type in websockets
    "importlib.metadata": (),  # 12 ms, for websockets' version, in a git checkout of it only
    "ipaddress": (),  # 0.9 ms, for urllib.parse: addresses in brackets
    "linecache": (),  # 0.8 ms with tokenize, for what inspect says of sources
    "locale": (),  # 0.7 ms, for programs that subprocess runs
    "logging": ("DEBUG", "Logger", "LoggerAdapter"),  # 2.9 ms with string, for websockets; `websocket` logs nothing
    "platform": (),  # 1.3 ms, for uuid, which asks whether this is AIX
    "random": (),  # 0.7 ms, for websockets' reconnecting
    "secrets": (),  # 0.6 ms with hmac, for websockets' masks
    "selectors": (),  # 0.4 ms, for sending files over sockets, and for discovery
    "shellingham": (),  # 0.2 ms, for Typer's completion, which is off
    "shlex": (),  # 0.2 ms, for hints
    "shutil": ("get_terminal_size",),  # 1.9 ms with compression, for Typer's help
    "subprocess": (),  # 1.2 ms, for Typer's completion and editors
    "textwrap": (),  # 0.6 ms, for Typer's help
    "tokenize": (),  # see linecache
    "traceback": ("FrameSummary", "StackSummary"),  # 0.4 ms, for Typer's tracebacks, which are off
}
"""Modules that others import and that few commands use, with the names that are taken from them meanwhile."""


def _sha1(data: bytes) -> Any:
    """The same without OpenSSL, if this Python has a SHA-1 of its own; so does the standard library's `random`."""
    try:
        from _sha1 import sha1  # type: ignore[import-not-found]  # noqa: PLC0415  only a handshake needs it
    except ImportError:
        sha1 = loaded("hashlib").sha1
    return sha1(data)


_ANSWERS: Final[Mapping[str, Callable[..., Any]]] = {
    "hashlib.sha1": _sha1,
    "platform.system": lambda: os.uname().sysname,
    "secrets.token_bytes": os.urandom,
}
"""What every run calls of them, and what it gets without loading the module."""


def before_imports() -> None:
    """Disable garbage collection while modules are loaded, and let Ctrl-C end the process silently."""
    gc.disable()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for name in UNUSED:
        if name not in sys.modules:
            _register(name, _StandIn(name))


def after_imports() -> None:
    """Enable garbage collection, except for the objects of the loaded modules."""
    gc.freeze()
    gc.enable()


def load(name: str) -> ModuleType:
    """Import a module, and what it needs, without garbage collection."""
    gc.disable()
    module = importlib.import_module(name)
    after_imports()
    return module


def loaded(name: str) -> ModuleType:
    """A module itself, not its stand-in."""
    if isinstance(sys.modules.get(name), _StandIn):
        del sys.modules[name]
        _register(name, importlib.import_module(name))
    return importlib.import_module(name)


def exit_now(status: int) -> NoReturn:
    """Flush the standard streams and end the process without finalizing the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # closed or full: an error has been reported already
    os._exit(status)


class _StandIn(ModuleType):
    """Stands for a module until one of its names is used, which loads it.

    It must have no loader: `importlib.util.LazyLoader` defers nothing, because the import statement itself reads the
    module's `__spec__`, which loads it. Nor may `__path__` load it, which `from X import name` looks for.
    """

    def __getattr__(self, attribute: str) -> Any:
        name = self.__name__
        if sys.modules.get(name) is self:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            if attribute in UNUSED[name]:
                return _Name(name, attribute)
            if answer := _ANSWERS.get(f"{name}.{attribute}"):
                return answer
        return getattr(loaded(name), attribute)


class _Name:
    """Stands for a function, which loads its module when it is called, or for a type in an annotation."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return getattr(loaded(self._module), self._name)(*arguments, **keywords)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(getattr(loaded(self._module), self._name), attribute)

    def __or__(self, _: object) -> "_Name":
        return self

    def __getitem__(self, _: object) -> "_Name":
        return self


def _register(name: str, module: ModuleType) -> None:
    """Register a module by its name and in its package, if it is in one."""
    package, _, attribute = name.rpartition(".")
    sys.modules[name] = module
    if package:
        setattr(importlib.import_module(package), attribute, module)
