"""The loaded models: their identifiers, who uses them, and when they have been idle for too long."""

import asyncio
import itertools
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from lmcli.server.engine import LoadedModel
from lmcli.server.failures import Refused, model_unloaded, no_model_matching
from lmcli.values import JsonObject, ModelInfo, ModelInstance

IDLE = "idle"
READING = "processingPrompt"
GENERATING = "generating"


@dataclass(slots=True, eq=False)
class Use:
    """One prediction on an instance.

    Attributes:
        cancelled: the prediction's own; an unload sets it.
        phase: READING or GENERATING.
    """

    cancelled: asyncio.Event
    phase: str = READING


@dataclass(slots=True, eq=False, kw_only=True)
class Instance:
    """A loaded model under an identifier.

    Units: ttl_ms and last_used_time in milliseconds, the latter since 1970.
    """

    model_info: ModelInfo
    model: LoadedModel
    identifier: str
    ttl_ms: int | None = None
    reference: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    last_used_time: int | None = None
    is_unloaded: bool = False
    uses: list[Use] = field(default_factory=list)
    expiry: asyncio.TimerHandle | None = None

    def describe(self) -> ModelInstance:
        """What clients are told about it."""
        known = {name: getattr(self.model_info, name) for name in ModelInfo.fields}
        return ModelInstance(
            **known,
            identifier=self.identifier,
            instance_reference=self.reference,
            context_length=self.model.context_length,
            ttl_ms=self.ttl_ms,
            last_used_time=self.last_used_time,
        )

    def processing_state(self) -> JsonObject:
        """What it is doing.

        Source: lmstudio-js 6ec11db, lms-shared-types/src/ModelProcessingStatus.ts
        """
        return {"status": self.uses[0].phase if self.uses else IDLE, "queued": len(self.uses)}


class Instances:
    """All loaded models, in the order of loading."""

    def __init__(self) -> None:
        self._all: dict[str, Instance] = {}
        self._reserved: set[str] = set()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._unloading: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Instance]:
        return iter(tuple(self._all.values()))

    def named(self, identifier: str) -> Instance | None:
        """The instance of an identifier."""
        return self._all.get(identifier)

    def lock(self, key: str) -> asyncio.Lock:
        """Two who want the same model at once load it once."""
        return self._locks[key]

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

    def _expire(self, instance: Instance) -> None:
        task = asyncio.create_task(self.unload(instance))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)


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
