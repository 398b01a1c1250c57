"""One loaded model: its identifier, who uses it, and how it is described."""

import asyncio
import secrets
from dataclasses import dataclass, field

from lmcli.server.engine import LoadedModel
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
