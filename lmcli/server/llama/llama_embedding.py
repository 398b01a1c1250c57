"""An embedding model of llama.cpp: its load config, and its vectors."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lmcli.server.effective_config import context_length
from lmcli.server.llama.engine_errors import failing_requests
from lmcli.server.llama.engine_messages import LoadOptions
from lmcli.server.llama.load_parameters import CONTEXT_LENGTH_KEY
from lmcli.server.llama.model_files import LocalModel
from lmcli.server.llama.model_types import MEAN_POOLING
from lmcli.server.llama.process_model import ProcessModel
from lmcli.wire.load_config import LOAD_PREFIX

EMBEDDING_LOAD_PREFIX: Final = "embedding.load."
EMBEDDING_CONTEXT_LENGTH_KEY: Final = EMBEDDING_LOAD_PREFIX + "contextLength"
# In tokens, as in LM Studio.
DEFAULT_CONTEXT_LENGTH: Final = 2048
# A text is read at once, whatever size of the batches is requested.
_BATCH_SIZE_KEY: Final = EMBEDDING_LOAD_PREFIX + "llama.evalBatchSize"


class LlamaEmbedding(ProcessModel):
    """An embedding model in memory."""

    prediction_values: Mapping[str, Any] = {}

    async def tokenize(self, text: str) -> Sequence[int]:
        """The token numbers of a text, between those that the model adds, which `count_tokens` leaves out."""
        with failing_requests():
            return await self._process.tokenize(text, add_special=True)

    async def embed(self, text: str) -> Sequence[float]:
        """The vector of a text.

        Raises:
            RequestFailed: the text exceeds the context, or llama.cpp failed.
        """
        with failing_requests():
            return await self._process.embed(text)


def as_language_model(local: LocalModel, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The load config of an embedding model in the keys that language models have for the same.

    Raises:
        RequestFailed: the length of the context is invalid.
    """
    most = local.info.max_context_length or DEFAULT_CONTEXT_LENGTH
    length = context_length(values, EMBEDDING_CONTEXT_LENGTH_KEY, min(DEFAULT_CONTEXT_LENGTH, most), most)
    renamed = {
        key.replace(EMBEDDING_LOAD_PREFIX, LOAD_PREFIX, 1): value
        for key, value in values.items()
        if key != _BATCH_SIZE_KEY
    }
    return {**renamed, CONTEXT_LENGTH_KEY: length}


def embedding_options(local: LocalModel, options: LoadOptions) -> LoadOptions:
    """How to load an embedding model: as a language model with these options, but for vectors."""
    parameters = {name: value for name, value in options.parameters.items() if name != "n_batch"}
    if not local.has_pooling:
        parameters["pooling_type"] = MEAN_POOLING
    return options._replace(parameters=parameters, is_embedding=True)
