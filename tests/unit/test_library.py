"""A model reference is a folder, a name in NBGPU_HOME/models, or a repository of the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nbgpu_backend.domain.weight_files import needed
from nbgpu_backend.errors import BadRequest, NotFound
from nbgpu_backend.home import Home
from nbgpu_backend.hub.library import (
    HubModel,
    LocalModel,
    context_length,
    locate,
    weight_bytes,
)
from nbgpu_backend.hub.rate import Rate


def make_model(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    make_model(home.models / "smollm2-135m-instruct", max_position_embeddings=8192)
    return home


def test_a_path_is_a_folder(home: Home, tmp_path: Path) -> None:
    made = make_model(tmp_path / "work" / "mine")
    assert locate(str(made), home, Path("/")) == LocalModel(made)
    assert locate("./mine", home, tmp_path / "work") == LocalModel(made)
    assert locate("mine", home, tmp_path / "work") == LocalModel(made)
    assert locate("work/mine", home, tmp_path) == LocalModel(made)


def test_a_name_is_looked_up_in_the_library(home: Home, tmp_path: Path) -> None:
    found = locate("smollm2-135m-instruct", home, tmp_path)
    assert found == LocalModel((home.models / "smollm2-135m-instruct").resolve())
    assert found.name == "smollm2-135m-instruct"


def test_a_folder_of_the_same_name_that_is_no_model_hides_nothing(
    home: Home, tmp_path: Path
) -> None:
    (tmp_path / "smollm2-135m-instruct").mkdir()
    found = locate("smollm2-135m-instruct", home, tmp_path)
    assert found == LocalModel((home.models / "smollm2-135m-instruct").resolve())


def test_what_has_a_slash_is_the_hub(home: Home, tmp_path: Path) -> None:
    assert locate("Qwen/Qwen3-0.6B", home, tmp_path) == HubModel("Qwen/Qwen3-0.6B", "main")
    assert locate("org/name@v1.0", home, tmp_path) == HubModel("org/name", "v1.0")
    assert locate("hub:org/name@refs/pr/1", home, tmp_path) == HubModel("org/name", "refs/pr/1")


@pytest.mark.parametrize("ref", ["hub:name", "a/b/c", "org/na me", "org/name@", ""])
def test_a_malformed_reference_is_refused(ref: str, home: Home, tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        locate(ref, home, tmp_path)


def test_a_misspelt_name_is_answered_with_the_near_one(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        locate("smolm2-135m-instruct", home, tmp_path)
    assert "Did you mean smollm2-135m-instruct?" in caught.value.next_step


def test_a_folder_says_what_it_lacks(home: Home, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest, match=r"no config.json and no weights"):
        locate("./empty", home, tmp_path)
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(BadRequest, match=r"has no weights"):
        locate("./empty", home, tmp_path)


def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no folder"):
        locate("./org/name", home, tmp_path)


def test_a_weight_file_is_pointed_to_its_folder(home: Home, tmp_path: Path) -> None:
    made = make_model(tmp_path / "mine")
    with pytest.raises(BadRequest) as caught:
        locate(str(made / "model.safetensors"), home, tmp_path)
    assert str(made) in caught.value.next_step


def test_weights_are_counted_once(tmp_path: Path) -> None:
    made = make_model(tmp_path / "mine")
    (made / "pytorch_model.bin").write_bytes(b"x" * 300)
    assert weight_bytes(made) == 100


def test_the_context_length_comes_from_the_config(tmp_path: Path) -> None:
    assert context_length(make_model(tmp_path / "a", max_position_embeddings=8192)) == 8192
    nested = {"text_config": {"max_position_embeddings": 32768}}
    assert context_length(make_model(tmp_path / "b", **nested)) == 32768
    assert context_length(make_model(tmp_path / "c")) is None


def test_only_one_copy_of_the_weights_is_fetched() -> None:
    names = [
        ".gitattributes", "README.md", "config.json", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json",
        "pytorch_model.bin", "original/consolidated.00.pth", "onnx/model.onnx",
        "consolidated.safetensors", "flax_model.msgpack", "model.Q4_K_M.gguf", "1_Pooling/config.json",
        "assets/plot.png",
    ]  # fmt: skip
    assert needed(names) == [
        "1_Pooling/config.json", "README.md", "config.json", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json",
    ]  # fmt: skip


def test_other_layouts_are_fetched_where_they_are_the_only_one() -> None:
    assert needed(["config.json", "pytorch_model.bin"]) == ["config.json", "pytorch_model.bin"]
    assert needed(["params.json", "consolidated.safetensors"]) == [
        "consolidated.safetensors",
        "params.json",
    ]
    assert needed(["config.json", "model.gguf"]) == []


def test_the_rate_is_smoothed_and_what_was_cached_is_no_rate() -> None:
    rate = Rate()
    rate.update(1_000_000, now=0.0)
    assert rate.seconds_left(500) is None
    for second in range(1, 30):
        rate.update(1_000_000 + second * 100, now=float(second))
    assert rate.per_s == pytest.approx(100)
    rate.update(1_000_000 + 29 * 100, now=29.2)  # a short pause moves it a little only
    assert 90 < rate.per_s < 100
    assert rate.seconds_left(1000) == pytest.approx(1000 / rate.per_s)
    assert rate.seconds_left(0) == 0.0
