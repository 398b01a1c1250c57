"""One loaded model: its identifier, its predictions, and its description."""

import asyncio
import secrets
from dataclasses import dataclass, field

from lmcli.server.engine import LoadedModel
from lmcli.values import JsonObject, ModelInfo, ModelInstance

IDLE = "idle"
PROCESSING_PROMPT = "processingPrompt"
GENERATING = "generating"
COMPUTING_EMBEDDING = "computingEmbedding"


@dataclass(slots=True, eq=False)
class ActivePrediction:
    """A prediction or an embedding that an instance is running.

    Attributes:
        cancelled: set to cancel it.
        phase: PROCESSING_PROMPT, GENERATING or COMPUTING_EMBEDDING.
    """

    cancelled: asyncio.Event
    phase: str = PROCESSING_PROMPT


@dataclass(slots=True, eq=False, kw_only=True)
class Instance:
    """A loaded model under an identifier; `is_jit` if it was loaded on request, with a time to live.

    Units: ttl_ms and last_used_time in milliseconds, the latter since 1970.
    """

    model_info: ModelInfo
    model: LoadedModel
    identifier: str
    ttl_ms: int | None = None
    is_jit: bool = False
    reference: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    last_used_time: int | None = None
    is_unloaded: bool = False
    predictions: list[ActivePrediction] = field(default_factory=list)
    expiry: asyncio.TimerHandle | None = None

    def describe(self) -> ModelInstance:
        """Its description for clients."""
        common = {name: getattr(self.model_info, name) for name in ModelInfo.fields}
        return ModelInstance(
            **common,
            identifier=self.identifier,
            instance_reference=self.reference,
            context_length=self.model.context_length,
            ttl_ms=self.ttl_ms,
            last_used_time=self.last_used_time,
        )

    def processing_state(self) -> JsonObject:
        """Its state, and the number of its predictions.

        Source: lmstudio-js 6ec11db, lms-shared-types/src/ModelProcessingStatus.ts
        """
        return {"status": self.predictions[0].phase if self.predictions else IDLE, "queued": len(self.predictions)}
