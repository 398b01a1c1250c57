"""How a model is to be loaded, as programs for the SDK say it."""

from typing import Any

import pytest
from properties import fields_of

from lmcli.errors import UsageError
from lmcli.values import LoadConfig
from lmcli.wire.config import load_stack
from lmcli.wire.load_options import load_config


def sent(options: Any) -> dict[str, Any]:
    """The fields that a server gets."""
    return fields_of(load_stack(load_config(options)))


SPLIT = {"strategy": "evenly", "disabledGpus": [], "priority": [], "customRatio": []}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"contextLength": 8192}, {"llm.load.contextLength": 8192}),
        ({"context_length": 8192.0}, {"llm.load.contextLength": 8192}),
        ({"gpu": {"ratio": 0.5}}, {"llm.load.llama.acceleration.offloadRatio": 0.5}),
        ({"gpu": {"ratio": "max"}}, {"llm.load.llama.acceleration.offloadRatio": "max"}),
        ({"gpu": {"disabledGpus": [1]}}, {"load.gpuSplitConfig": SPLIT | {"disabledGpus": [1]}}),
        (
            {"gpu": {"mainGpu": 1, "splitStrategy": "favorMainGpu"}},
            {"load.gpuSplitConfig": SPLIT | {"strategy": "priorityOrder", "priority": [1]}},
        ),
        ({"seed": 5}, {"llm.load.seed": {"checked": True, "value": 5}}),
        ({"seed": False}, {"llm.load.seed": {"checked": False, "value": 0}}),
        ({"flashAttention": True}, {"llm.load.llama.flashAttention": True}),
        ({"evalBatchSize": 512}, {"llm.load.llama.evalBatchSize": 512}),
        ({"keepModelInMemory": False}, {"llm.load.llama.keepModelInMemory": False}),
        ({"offloadKVCacheToGpu": True}, {"llm.load.offloadKVCacheToGpu": True}),
        ({"useFp16ForKVCache": True}, {"llm.load.llama.useFp16ForKVCache": True}),
        ({"tryMmap": True}, {"llm.load.llama.tryMmap": True}),
        ({"numExperts": 2}, {"llm.load.numExperts": 2}),
        ({"ropeFrequencyBase": 1e4}, {"llm.load.llama.ropeFrequencyBase": {"checked": True, "value": 1e4}}),
        (
            {"llamaKCacheQuantizationType": "q8_0"},
            {"llm.load.llama.kCacheQuantizationType": {"checked": True, "value": "q8_0"}},
        ),
        ({"gpuStrictVramCap": True}, {"load.gpuStrictVramCap": True}),
        ({"contextLength": None, "gpu": None}, {}),
        (LoadConfig(4096, "off"), {"llm.load.contextLength": 4096, "llm.load.llama.acceleration.offloadRatio": "off"}),
        (None, {}),
    ],
)
def test_the_names_of_the_sdk(options: Any, fields: dict[str, Any]) -> None:
    """Each option has the key, and the switch if it has one, that servers know."""
    assert sent(options) == fields


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contextLenght": 5}, "unknown load option 'context_lenght'"),
        ({"contextLength": 0}, "context length must be at least 1, not 0"),
        ({"contextLength": "8k"}, "context length cannot be '8k'"),
        ({"gpu": 0.5}, "gpu must be an object, not '0.5'"),
        ({"gpu": {"ration": 1}}, "unknown gpu option 'ration'"),
        ({"gpu": {"ratio": 2}}, "gpu ratio must be between 0 and 1"),
        ({"gpu": {"splitStrategy": "oddly"}}, "evenly or favorMainGpu"),
        ({"gpu": {"disabledGpus": ["first"]}}, "disabledGpus, numbers"),
        ({"flashAttention": 1}, "flash attention cannot be '1'"),
        ({"llamaVCacheQuantizationType": "q1"}, "must be one of f32, f16"),
        (5, "the configuration of a load must be an object, not '5'"),
    ],
)
def test_what_cannot_be_meant(options: Any, message: str) -> None:
    """An unknown name and an impossible value are refused before anything is sent."""
    with pytest.raises(UsageError) as refused:
        sent(options)
    assert message in str(refused.value)


def test_what_was_mistyped() -> None:
    """The nearest name is proposed."""
    with pytest.raises(UsageError) as refused:
        load_config({"contextLenght": 5})
    assert refused.value.hints == ("did you mean context_length?",)
