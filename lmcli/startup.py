"""Fast startup and exit, which matter because `lm` runs in loops and pipelines.

Measured with CPython 3.11 for the modules of `lm respond`, of 78 ms: garbage collection while they are loaded 5 ms,
`importlib.metadata` 12 ms, finalizing the interpreter 11 ms.
"""

import gc
import importlib
import os
import signal
import sys
from types import ModuleType
from typing import Any, Final, NoReturn

_DEFERRED: Final = (
    "importlib.metadata",  # websockets imports it for its own version, and uses it in a git checkout only
    "linecache",  # what Typer and inspect import: for tracebacks, sources, programs that they run, help
    "locale",
    "subprocess",
    "textwrap",
    "tokenize",
)
"""Modules that others import, and use for a few commands only or never."""


def before_imports() -> None:
    """Disable garbage collection while modules are loaded, and let Ctrl-C end the process silently."""
    gc.disable()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for name in _DEFERRED:
        _defer(name)


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


def exit_now(status: int) -> NoReturn:
    """Flush the standard streams and end the process without finalizing the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # closed or full: an error has been reported already
    os._exit(status)


def _defer(name: str) -> None:
    """Load a module when one of its names is used, not when it is imported.

    The placeholder must have no loader: `importlib.util.LazyLoader` defers nothing, because the import statement itself
    reads the module's `__spec__`, which loads it.
    """
    if name not in sys.modules:
        _register(name, _Deferred(name))


class _Deferred(ModuleType):
    """A placeholder for a module that is not loaded yet."""

    def __getattr__(self, attribute: str) -> Any:
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        module = importlib.import_module(name)
        _register(name, module)
        return getattr(module, attribute)


def _register(name: str, module: ModuleType) -> None:
    """Register a module by its name and in its package, if it is in one."""
    package, _, attribute = name.rpartition(".")
    sys.modules[name] = module
    if package:
        setattr(importlib.import_module(package), attribute, module)
