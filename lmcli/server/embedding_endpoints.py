"""The endpoint of `/embedding` that the other namespaces lack.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/embeddingBackendInterface.ts
"""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from lmcli.server import model_endpoints
from lmcli.server.endpoints import SPECIFIER, TEXT, CallEndpoint, Context, Field
from lmcli.server.engine import EmbeddingModel
from lmcli.server.model_instance import COMPUTING_EMBEDDING
from lmcli.values import JsonObject


async def embed_string(context: Context, parameter: JsonObject) -> Any:
    """Return the vector of a text."""
    instance = context.registry.require(parameter["modelSpecifier"], context.domain)
    model = cast("EmbeddingModel", instance.model)  # it is of the domain `embedding`
    async with context.registry.predicting(instance, asyncio.Event(), COMPUTING_EMBEDDING):
        return {"embedding": list(await model.embed(parameter["inputString"]))}


CALLS: Mapping[str, CallEndpoint] = {
    **model_endpoints.CALLS,
    "embedString": CallEndpoint({"modelSpecifier": Field(SPECIFIER), "inputString": Field(TEXT)}, embed_string),
}
