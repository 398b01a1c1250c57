"""The registry of loaded models: their identifiers, their predictions, and their time to live."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

from lmcli.server.limits import MAX_INSTANCES
from lmcli.server.model_instance import ActivePrediction, Instance
from lmcli.server.model_load import LoadParameters, ModelLoad
from lmcli.server.model_names import is_named
from lmcli.server.request_errors import RequestFailed, model_unloaded, no_model_matching
from lmcli.values import ModelInfo

_log: Final = logging.getLogger(__name__)
Result = TypeVar("Result")


class ModelRegistry:
    """All loaded models, in the order of loading."""

    def __init__(self) -> None:
        self._instances: dict[str, Instance] = {}
        self._reserved: set[str] = set()
        self._shared_loads: dict[str, ModelLoad] = {}
        self._startup: ModelLoad | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[Instance]:
        return iter(tuple(self._instances.values()))

    def get(self, identifier: str) -> Instance | None:
        """The instance with an identifier."""
        return self._instances.get(identifier)

    def reserve(self, model: ModelInfo, identifier: str | None) -> str:
        """Reserve an identifier for a model to be loaded: the given one, or the first free one.

        Raises:
            RequestFailed: the given identifier is in use, or MAX_INSTANCES are.
        Source: lmstudio-python tests/sync/test_model_catalog_sync.py: duplicates are numbered, after a colon.
        """
        used = self._instances.keys() | self._reserved
        if len(used) >= MAX_INSTANCES:
            raise RequestFailed(f"There are {MAX_INSTANCES} loaded models", suggestion="Unload one of them")
        if identifier is not None and identifier in used:
            raise RequestFailed(f"A model with the identifier '{identifier}' already exists")
        numbered = (f"{model.model_key}:{number}" for number in itertools.count(2))
        candidates = itertools.chain((identifier or model.model_key,), numbered)
        free = next(candidate for candidate in candidates if candidate not in used)
        self._reserved.add(free)
        return free

    def release(self, identifier: str) -> None:
        """End the reservation of an identifier."""
        self._reserved.discard(identifier)

    def load(self, parameters: LoadParameters, identifier: str | None, after: ModelLoad | None = None) -> ModelLoad:
        """Start to load a model.

        Args:
            parameters: which model, and how.
            identifier: of the instance; None chooses one.
            after: a load that has to finish first.

        Raises:
            RequestFailed: the identifier is in use.
        """
        load = ModelLoad(self.reserve(parameters.model_info, identifier), self.release)

        async def run() -> Instance:
            try:
                if after is not None:
                    await asyncio.wait((after.task,))
                return self.add(await load.run(parameters))
            finally:
                load.release()

        load.task = self._start(run())
        load.task.add_done_callback(load.on_done)
        return load

    def load_once(self, parameters: LoadParameters) -> ModelLoad:
        """Start to load a model, or return the active load of it."""
        key = parameters.model_info.model_key
        last = self._shared_loads.get(key)
        if last is not None and last.is_active:
            return last
        load = self._shared_loads[key] = self.load(parameters, None, after=last)
        load.task.add_done_callback(
            lambda _: self._shared_loads.pop(key) if self._shared_loads.get(key) is load else None
        )
        return load

    def load_at_startup(self, parameters: LoadParameters) -> ModelLoad:
        """Start to load the model that the server is started for; see `wait_for_startup`."""
        self._startup = self.load_once(parameters)
        return self._startup

    async def wait_for_startup(self, cancelled: asyncio.Event | None = None) -> None:
        """Wait for the load at the start, if there is one, as what depends on the loaded models has to."""
        if self._startup is not None and not self._startup.task.done():
            waits: list[asyncio.Future[Any]] = [self._startup.task]
            if cancelled is not None:
                waits.append(asyncio.ensure_future(cancelled.wait()))
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits[1:]:
                wait.cancel()

    def add(self, instance: Instance) -> Instance:
        """Register a loaded model."""
        self._instances[instance.identifier] = instance
        self.restart_ttl(instance)
        instance.model.on_lost(partial(self._lose, instance))
        return instance

    def idle_jit_instances(self) -> list[Instance]:
        """The models that were loaded on request, with a time to live, and predict nothing."""
        return [instance for instance in self if instance.is_jit and not instance.predictions]

    def find(self, specifier: Mapping[str, Any], domain: str) -> Instance | None:
        """The instance that matches a specifier; of several the one used last, then the one loaded first.

        One whose identifier is exactly that of the query precedes those that match in another way.
        Source: lmstudio-js 6ec11db, lms-shared-types/src/ModelSpecifier.ts
        """
        matching = [instance for instance in self if _matches(instance, specifier, domain)]
        identifier = specifier.get("query", {}).get("identifier")
        matching = [instance for instance in matching if instance.identifier == identifier] or matching
        return max(matching, key=lambda instance: instance.last_used_time or 0, default=None)

    def require(self, specifier: Mapping[str, Any], domain: str) -> Instance:
        """The instance that matches a specifier.

        Raises:
            RequestFailed: there is none.
        """
        instance = self.find(specifier, domain)
        if instance is not None:
            return instance
        if specifier["type"] == "instanceReference":
            raise model_unloaded()
        raise no_model_matching({"domain": domain, **specifier["query"]}, list(self._instances))

    @asynccontextmanager
    async def predicting(self, instance: Instance, cancelled: asyncio.Event) -> AsyncIterator[ActivePrediction]:
        """Keep a model in memory during a prediction."""
        prediction = ActivePrediction(cancelled)
        instance.predictions.append(prediction)
        instance.last_used_time = int(time.time() * 1000)
        if instance.expiry:
            instance.expiry.cancel()
        try:
            yield prediction
        finally:
            instance.predictions.remove(prediction)
            if not instance.is_unloaded:
                self.restart_ttl(instance)
            elif not instance.predictions:
                await instance.model.unload()

    def restart_ttl(self, instance: Instance) -> None:
        """Restart the time to live of an idle model."""
        if instance.expiry:
            instance.expiry.cancel()
        if instance.ttl_ms is not None and not instance.predictions:
            loop = asyncio.get_running_loop()
            instance.expiry = loop.call_later(instance.ttl_ms / 1000, self._expire, instance)

    async def unload(self, instance: Instance) -> None:
        """Remove a model at once and cancel its predictions; the last of them frees the memory."""
        self._remove(instance)
        for prediction in instance.predictions:
            prediction.cancelled.set()
        if not instance.predictions:
            await instance.model.unload()

    async def close(self) -> None:
        """Wait for the loads, then unload all models."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        for instance in self:
            await self.unload(instance)

    def _remove(self, instance: Instance) -> None:
        self._instances.pop(instance.identifier, None)
        instance.is_unloaded = True
        if instance.expiry:
            instance.expiry.cancel()

    def _lose(self, instance: Instance) -> None:
        """Remove a model that is lost, so that the next request for it loads it; its predictions fail by themselves."""
        self._remove(instance)
        if not instance.predictions:
            self._start(instance.model.unload())

    def _expire(self, instance: Instance) -> None:
        self._start(self.unload(instance))

    def _start(self, coroutine: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Start a task that does not end with a connection."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _matches(instance: Instance, specifier: Mapping[str, Any], domain: str) -> bool:
    if instance.model_info.type != domain:
        return False
    if specifier["type"] == "instanceReference":
        return bool(instance.reference == specifier["instanceReference"])
    return all(_PROPERTIES[key](instance, value) for key, value in specifier["query"].items() if key in _PROPERTIES)


_PROPERTIES: Final[Mapping[str, Callable[[Instance, Any], bool]]] = {
    "domain": lambda instance, domain: instance.model_info.type == domain,
    "deviceIdentifier": lambda instance, device: instance.model_info.device_identifier == device,
    "identifier": lambda instance, name: (
        instance.identifier.casefold() == name.casefold() or is_named(instance.model_info, name)
    ),
    "path": lambda instance, path: is_named(instance.model_info, path),
    "vision": lambda instance, vision: instance.model_info.vision == vision,
}
"""The keys of a query, each with what it requires of an instance."""
