"""How a model is to be loaded, as programs for the SDK say it."""

import math
from typing import Any

import pytest
from properties import fields_of

from lmcli.errors import UsageError
from lmcli.wire.load_config import LoadConfig, load_config, load_stack, unknown_load_options


def sent(options: Any) -> dict[str, Any]:
    """The fields that a server gets."""
    return fields_of(load_stack(load_config(options)))


AUTO_FIT = {"llm.load.llama.autoFit": False, "llm.load.mlx.autoFit": False}
SPLIT = {"strategy": "evenly", "disabledGpus": [], "priority": [], "customRatio": []}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"contextLength": 8192}, {"llm.load.contextLength": 8192} | AUTO_FIT),
        ({"context_length": 8192.0}, {"llm.load.contextLength": 8192} | AUTO_FIT),
        ({"gpu": {"ratio": 0.5}}, {"llm.load.llama.acceleration.offloadRatio": 0.5} | AUTO_FIT),
        ({"gpu": {"ratio": "max"}}, {"llm.load.llama.acceleration.offloadRatio": "max"} | AUTO_FIT),
        ({"gpu": {"disabledGpus": [1]}}, {"load.gpuSplitConfig": SPLIT | {"disabledGpus": [1]}}),
        (
            {"gpu": {"mainGpu": 1, "splitStrategy": "favorMainGpu"}},
            {"load.gpuSplitConfig": SPLIT | {"strategy": "priorityOrder", "priority": [1]}} | AUTO_FIT,
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
        ({"gpuStrictVramCap": True}, {"load.gpuStrictVramCap": True} | AUTO_FIT),
        ({"contextLength": None, "gpu": None}, {}),
        (
            LoadConfig(context_length=4096, gpu_ratio="off"),
            {"llm.load.contextLength": 4096, "llm.load.llama.acceleration.offloadRatio": "off"} | AUTO_FIT,
        ),
        (None, {}),
    ],
)
def test_the_names_of_the_sdk(options: Any, fields: dict[str, Any]) -> None:
    """Each option has the key, and the switch if it has one, that servers know."""
    assert sent(options) == fields


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contextLength": 0}, "context length must be at least 1, not 0"),
        ({"contextLength": "8k"}, "context length cannot be '8k'"),
        ({"gpu": 0.5}, "gpu must be an object, not '0.5'"),
        ({"gpu": {"ratio": 2}}, "gpu ratio must be at most 1, not 2"),
        ({"gpu": {"ratio": -0.1}}, "gpu ratio must be at least 0, not -0.1"),
        ({"gpu": {"ratio": math.nan}}, "gpu ratio cannot be 'nan'"),
        ({"gpu": {"ratio": "full"}}, "gpu ratio must be one of a number, max, off, not 'full'"),
        ({"gpu": {"splitStrategy": "oddly"}}, "evenly or favorMainGpu"),
        ({"gpu": {"disabledGpus": ["first"]}}, "disabledGpus, numbers"),
        ({"flashAttention": 1}, "flash attention cannot be '1'"),
        ({"llamaVCacheQuantizationType": "q1"}, "must be one of f32, f16"),
        ({"raw": {"llm.load.seed": 5}}, 'llm.load.seed must be {"checked": true or false, "value": …}, not \'5\''),
        ({"raw": 5}, "raw must be an object of config keys, not '5'"),
        (5, "the configuration of a load must be an object, not '5'"),
    ],
)
def test_what_cannot_be_meant(options: Any, message: str) -> None:
    """An impossible value is refused before anything is sent."""
    with pytest.raises(UsageError) as refused:
        sent(options)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"contextLenght": 5}, "unknown load option 'contextLenght', did you mean context_length?"),
        ({"gpu": {"ration": 1}}, "unknown gpu option 'ration', did you mean ratio?"),
        (
            {"raw": {"llm.load.flashAttention": True}},
            "unknown config key 'llm.load.flashAttention', did you mean llm.load.llama.flashAttention?",
        ),
    ],
)
def test_what_was_mistyped(options: Any, sentence: str) -> None:
    """It has no effect, as in the official SDK, and the nearest name is proposed."""
    assert list(unknown_load_options(options)) == [sentence]
    assert "raw" in options or sent(options) == {}


@pytest.mark.parametrize(
    ("options", "is_manual"),
    [
        ({"contextLength": 64}, True),
        ({"gpu": {"ratio": "max"}}, True),
        ({"gpu": {"numCpuExpertLayersRatio": "off"}}, True),
        ({"gpu": {"mainGpu": 0, "splitStrategy": "favorMainGpu"}}, True),
        ({"gpu": {"splitStrategy": "evenly"}}, True),
        ({"gpuStrictVramCap": False}, True),
        ({"raw": {"llm.load.contextLength": 64}}, True),
        ({"gpu": {"disabledGpus": [1]}}, False),
        ({"flashAttention": True}, False),
        ({}, False),
    ],
)
def test_a_size_that_is_chosen_is_not_fitted(options: Any, *, is_manual: bool) -> None:
    """With `autoFit`, its default, a server would choose another context or other GPU layers than were asked for."""
    assert (sent(options).items() >= AUTO_FIT.items()) is is_manual
    assert is_manual or not AUTO_FIT.keys() & sent(options).keys()


@pytest.mark.parametrize("is_on", [True, False])
def test_auto_fit_may_be_chosen(*, is_on: bool) -> None:
    """The option counts, whatever else is given; so does a raw key."""
    expected = dict.fromkeys(AUTO_FIT, is_on)
    assert sent({"autoFit": is_on}) == expected
    assert sent({"autoFit": is_on, "contextLength": 64}) == {"llm.load.contextLength": 64} | expected
    assert sent({"contextLength": 64, "raw": {"llm.load.llama.autoFit": is_on}}) == sent(
        {"autoFit": is_on, "contextLength": 64}
    )
    raw = {"llm.load.mlx.autoFit": True}
    assert sent({"contextLength": 64, "raw": raw}) == {"llm.load.contextLength": 64} | AUTO_FIT | raw


def test_a_config_passes_as_it_is() -> None:
    """A LoadConfig needs no reading."""
    config = LoadConfig(flash_attention=True)
    assert load_config(config) is config
    assert list(unknown_load_options(config)) == []
