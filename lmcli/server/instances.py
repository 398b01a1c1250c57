"""The loaded models: their identifiers, who uses them, and when they have been idle for too long."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from lmcli.server.failures import Refused, model_unloaded, no_model_matching
from lmcli.server.load_tasks import Load, LoadOrder
from lmcli.server.model_instance import Instance, Use
from lmcli.values import ModelInfo

_log: Final = logging.getLogger(__name__)
Outcome = TypeVar("Outcome")


class Instances:
    """All loaded models, in the order of loading."""

    def __init__(self) -> None:
        self._all: dict[str, Instance] = {}
        self._reserved: set[str] = set()
        self._loads: dict[str, Load] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[Instance]:
        return iter(tuple(self._all.values()))

    def named(self, identifier: str) -> Instance | None:
        """The instance of an identifier."""
        return self._all.get(identifier)

    def reserve(self, model: ModelInfo, wanted: str | None) -> str:
        """Take an identifier for a model that is going to be loaded: the wanted, or the first free one.

        Raises:
            Refused: the wanted identifier is taken.
        Source: lmstudio-python tests/sync/test_model_catalog_sync.py: a duplicate gets a number after a colon.
        """
        taken = self._all.keys() | self._reserved
        if wanted is not None and wanted in taken:
            raise Refused(f"A model with the identifier '{wanted}' already exists")
        numbered = (f"{model.model_key}:{number}" for number in itertools.count(2))
        names = itertools.chain((wanted or model.model_key,), numbered)
        identifier = next(name for name in names if name not in taken)
        self._reserved.add(identifier)
        return identifier

    def release(self, identifier: str) -> None:
        """Give a reserved identifier back, whether or not the model came."""
        self._reserved.discard(identifier)

    def load(self, order: LoadOrder, wanted: str | None, after: Load | None = None) -> Load:
        """Begin to load a model.

        Args:
            order: which, and how.
            wanted: the identifier for it, if not any will do.
            after: a load that must be over first.

        Raises:
            Refused: the wanted identifier is taken.
        """
        load = Load(self.reserve(order.model_info, wanted), self.release)

        async def run() -> Instance:
            try:
                if after is not None:
                    await asyncio.wait((after.task,))
                return self.add(await load.run(order))
            finally:
                load.release()

        load.task = self._keep(run())
        load.task.add_done_callback(load.end)
        return load

    def load_once(self, order: LoadOrder) -> Load:
        """Begin to load a model, or join those who load it already."""
        key = order.model_info.model_key
        last = self._loads.get(key)
        if last is not None and last.can_be_joined:
            return last
        load = self._loads[key] = self.load(order, None, after=last)
        load.task.add_done_callback(lambda _: self._loads.pop(key) if self._loads.get(key) is load else None)
        return load

    def add(self, instance: Instance) -> Instance:
        """Take a loaded model in."""
        self._all[instance.identifier] = instance
        self.rest(instance)
        return instance

    def find(self, specifier: Mapping[str, Any], domain: str) -> Instance | None:
        """The instance that a specifier means; of several the one used last, then the one loaded first.

        Source: lmstudio-js 6ec11db, lms-shared-types/src/ModelSpecifier.ts
        """
        fitting = [instance for instance in self if _fits(instance, specifier, domain)]
        return max(fitting, key=lambda instance: instance.last_used_time or 0, default=None)

    def require(self, specifier: Mapping[str, Any], domain: str) -> Instance:
        """The instance that a specifier means.

        Raises:
            Refused: there is none.
        """
        instance = self.find(specifier, domain)
        if instance is not None:
            return instance
        if specifier["type"] == "instanceReference":
            raise model_unloaded()
        raise no_model_matching({"domain": domain, **specifier["query"]}, list(self._all))

    @asynccontextmanager
    async def use(self, instance: Instance, cancelled: asyncio.Event) -> AsyncIterator[Use]:
        """Keep a model loaded for one prediction."""
        use = Use(cancelled)
        instance.uses.append(use)
        instance.last_used_time = int(time.time() * 1000)
        if instance.expiry:
            instance.expiry.cancel()
        try:
            yield use
        finally:
            instance.uses.remove(use)
            if not instance.is_unloaded:
                self.rest(instance)
            elif not instance.uses:
                await instance.model.unload()

    def rest(self, instance: Instance) -> None:
        """Start the time after which an unused model is unloaded."""
        if instance.expiry:
            instance.expiry.cancel()
        if instance.ttl_ms is not None and not instance.uses:
            loop = asyncio.get_running_loop()
            instance.expiry = loop.call_later(instance.ttl_ms / 1000, self._expire, instance)

    async def unload(self, instance: Instance) -> None:
        """Forget a model at once; what it is doing ends with what it has, and then its memory is given back."""
        self._all.pop(instance.identifier, None)
        instance.is_unloaded = True
        if instance.expiry:
            instance.expiry.cancel()
        for use in instance.uses:
            use.cancelled.set()
        if not instance.uses:
            await instance.model.unload()

    async def close(self) -> None:
        """Unload all models, when those that are still loading have given up."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        for instance in self:
            await self.unload(instance)

    def _expire(self, instance: Instance) -> None:
        self._keep(self.unload(instance))

    def _keep(self, work: Coroutine[Any, Any, Outcome]) -> asyncio.Task[Outcome]:
        """Do something that belongs to no client."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _fits(instance: Instance, specifier: Mapping[str, Any], domain: str) -> bool:
    if instance.model_info.type != domain:
        return False
    if specifier["type"] == "instanceReference":
        return bool(instance.reference == specifier["instanceReference"])
    query = specifier["query"]
    has = {
        "domain": instance.model_info.type,
        "deviceIdentifier": None,
        "identifier": instance.identifier,
        "path": instance.model_info.path,
        "vision": instance.model_info.vision,
    }
    return all(has.get(key, wanted) == wanted for key, wanted in query.items())
