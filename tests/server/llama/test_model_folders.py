"""The models in folders: which files are models, and the keys that they have."""

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import Shape, make_model

from lmcli.errors import NoInput, UsageError
from lmcli.server.llama.model_files import local_models
from lmcli.server.llama.model_keys import possible_keys, unique_keys
from lmcli.server.model_names import find_models

Put = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid file."""
    return make_model(tmp_path_factory.mktemp("models") / "model.gguf", Shape(layers=1))


@pytest.fixture
def put(tmp_path: Path, model: Path) -> Put:
    """Puts files with a model, or with other bytes, into a folder."""

    def put(*names: str, content: bytes | None = None) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                shutil.copyfile(model, tmp_path / name)
            else:
                (tmp_path / name).write_bytes(content)
        return tmp_path

    return put


def keys(folder: Path) -> list[str]:
    """The keys of the models in a folder."""
    return [model.info.model_key for model in local_models([folder])]


def test_layout_of_lm_studio(put: Put) -> None:
    """Publisher and repository are the names of the folders; the key is that of the repository."""
    (found,) = local_models([put("lmstudio-community/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf")])
    info = found.info
    assert (info.model_key, info.publisher) == ("qwen3-4b", "lmstudio-community")
    assert info.path == info.indexed_model_identifier == "lmstudio-community/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf"
    assert info.quantization is not None
    assert (info.quantization.name, info.quantization.bits) == ("Q4_K_M", 4)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/M-GGUF/M-Q4_K_M.gguf", "a/M-GGUF/M-Q8_0.gguf"], ["m@q4_k_m", "m@q8_0"]),
        (["a/M-GGUF/M-Q4_K_M.gguf", "b/M-GGUF/M-Q4_K_M.gguf"], ["a/m", "b/m"]),
        (["a/M-GGUF/M-Q4_0.gguf", "a/M-GGUF/M-Q8_0.gguf", "b/M/M-Q4_0.gguf"], ["a/m@q4_0", "m@q8_0", "b/m"]),
        (["a/M/one-Q4_0.gguf", "a/M/two-Q4_0.gguf"], ["a/m/one-q4_0", "a/m/two-q4_0"]),
        (["a/M/M-UD-Q4_K_XL.gguf", "a/M/M-BF16.gguf"], ["m@bf16", "m@q4_k_xl"]),
        (["M-Q4_0.gguf", "folder/N.gguf", "folder/N.Q8_0.GGUF"], ["n@f32", "n@q8_0", "m"]),
        (["a/M/Q4_0/M-Q4_0-00001-of-00002.gguf", "a/M/Q4_0/M-Q4_0-00002-of-00002.gguf"], ["m"]),
        (["spaced out/My Model/My Model-Q4_0.gguf", "é/☕/☕.gguf"], ["my model", "☕"]),
    ],
)
def test_keys_are_those_of_lm_studio(put: Put, names: Sequence[str], expected: Sequence[str]) -> None:
    """Models that would have the same key have their quantization in it, their publisher, or both."""
    assert keys(put(*names)) == expected


NAMES = st.sampled_from(["m", "M", "m-2", "m@q4_0", "n", "-GGUF", "m-GGUF", "m-Q4_0", "-Q4_0"])
PLACES = st.none() | st.builds("{}/{}/{}.gguf".format, NAMES, NAMES, NAMES)
QUANTIZATIONS = st.none() | st.sampled_from(["Q4_0", "Q8_0"])


@given(st.lists(st.builds(possible_keys, NAMES, PLACES, QUANTIZATIONS), max_size=20))
def test_keys_are_unique(models: list[Sequence[str]]) -> None:
    """Whatever the files are called, each model has a key of its own that is not empty."""
    keys = list(unique_keys(models))
    assert len(keys) == len(set(keys)) == len(models)
    assert all(keys)


def test_two_quantizations_of_a_repository(put: Put) -> None:
    """Its name, its path or its key stands for both, the quantization in any case for one."""
    folder = put("Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf", "Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q8_0.gguf")
    both = [model.info for model in local_models([folder])]
    for name in ("qwen3-4b", "Qwen3-4B", "qwen/qwen3-4b-gguf"):
        assert find_models(both, name) == both
        assert find_models(both, f"{name}@Q8_0") == both[1:]
    assert find_models(both, "qwen3-4b@q4_k_m") == both[:1]
    assert find_models(both, "Qwen/qwen3-4b-gguf/QWEN3-4B-q8_0.gguf") == both[1:]
    assert not find_models(both, "qwen3-4b@q6_k")


def test_cache_of_hugging_face(put: Put, model: Path) -> None:
    """A link of a snapshot is a model of its repository; of several revisions, the latest."""
    folder = put("hub/models--Qwen--Qwen3-4B-GGUF/blobs/0123abcd")
    repository = folder / "hub" / "models--Qwen--Qwen3-4B-GGUF"
    (repository / "blobs" / "4567cdef").write_bytes(model.read_bytes())
    for age, (revision, blob) in enumerate({"bbb": "4567cdef", "aaa": "0123abcd"}.items()):
        (repository / "snapshots" / revision).mkdir(parents=True)
        (repository / "snapshots" / revision / "Qwen3-4B-Q4_K_M.gguf").symlink_to(f"../../blobs/{blob}")
        os.utime(repository / "snapshots" / revision, (0, 1000 - age))
    (found,) = local_models([folder / "hub"])
    assert (found.info.model_key, found.info.path) == ("qwen3-4b", "Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf")
    assert found.file.parent.name == "bbb"
    (named,) = local_models([found.file])
    assert named.info == found.info


def test_what_is_not_a_language_model_is_left_out(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    """Quietly: projectors, adapters, embedding models, what is not a GGUF file."""
    folder = put("a/M/M-Q4_0.gguf", "a/M/mmproj-M-F16.gguf")
    put("a/M/README.md", "a/M/M.gguf.part", content=b"")
    for name, architecture, kind in (("lora", "llama", "adapter"), ("embed", "nomic-bert", "model")):
        writer = gguf.GGUFWriter(folder / "a" / "M" / f"{name}.gguf", architecture)
        writer.add_type(kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    assert keys(folder) == ["m"]
    assert caplog.text == ""
    with pytest.raises(UsageError, match="its type is adapter"):
        local_models([folder / "a" / "M" / "lora.gguf"])


def test_invalid_file_in_a_folder_is_a_warning(put: Put, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is truncated, a part without the others: the rest of the folder is served."""
    folder = put("a/M/M-Q4_0.gguf", "a/N/N-00002-of-00002.gguf", "a/O/O-00001-of-00002.gguf")
    put("a/P/P.gguf", content=model.read_bytes()[:-1])
    put("a/Q/Q.gguf", content=b"")
    assert keys(folder) == ["m"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 4
    for name, why in (
        ("N-00001-of", "missing"),
        ("O-00002-of", "no such file"),
        ("P.gguf", "truncated"),
        ("Q.gguf", ""),
    ):
        assert any(name in text and why in text for text in texts), (name, texts)


def test_links(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that is a link is searched, a loop ends, a model with two names is one, a lost link is a warning."""
    folder = put("disk/M-Q4_0.gguf", "models/x.txt")
    models = folder / "models"
    (models / "a").mkdir()
    (models / "a" / "M").symlink_to(folder / "disk")
    (models / "a" / "M2").symlink_to(folder / "disk")
    (models / "loop").symlink_to(models)
    (models / "itself.gguf").symlink_to(models / "itself.gguf")
    (models / "again.gguf").symlink_to(folder / "disk" / "M-Q4_0.gguf")
    (models / "lost.gguf").symlink_to(folder / "nothing")
    (models / "lost").symlink_to(folder / "nothing")
    found = local_models([models])
    assert [model.info.path for model in found] == ["a/M/M-Q4_0.gguf"]
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert all("itself.gguf" in text or "lost.gguf" in text for text in texts)


def test_folders_without_a_model(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    """An error if there is no model at all; else a warning that names the folder."""
    folder = put("full/M.gguf", "empty/x.txt")
    with pytest.raises(NoInput, match=r"no language model in '.*empty'"):
        local_models([folder / "empty"])
    assert len(local_models([folder / "full", folder / "empty"])) == 1
    assert "no language model in" in caplog.text
    with pytest.raises(NoInput, match="no such file"):
        local_models([folder / "nothing"])


def test_a_file_that_is_named_twice(put: Put) -> None:
    """It is one model, also by a link or in a folder."""
    folder = put("M.gguf")
    assert len(local_models([folder, folder / "M.gguf", folder])) == 1


def test_key_of_a_single_model(put: Put) -> None:
    """It may be chosen, if it is an identifier; not for several models."""
    folder = put("M.gguf")
    assert local_models([folder], key="Mine")[0].info.model_key == "Mine"
    for invalid in ("", "a\nb", "x" * 1025):
        with pytest.raises(UsageError, match="identifier"):
            local_models([folder], key=invalid)
    put("N.gguf")
    with pytest.raises(UsageError, match="2 models"):
        local_models([folder], key="mine")


def test_names_with_control_characters(put: Put) -> None:
    """They cannot be sent as they are: what must not be in an identifier is replaced."""
    (found,) = local_models([put("a\tb/c\x1b[31m/d.gguf")])
    assert (found.info.model_key, found.info.path) == ("c_[31m", "a_b/c_[31m/d.gguf")
    (found,) = local_models([put("a\tb/c\x1b[31m/d.gguf") / "a\tb" / "c\x1b[31m" / "d.gguf"])
    assert found.info.model_key == "d"
