"""Adapters of a pipeline: loaded from wherever they are, several at once, set, merged, unloaded."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fourstroke import Pipeline
from fourstroke.checkpoint import CheckpointError
from fourstroke.lora import LoraConfig, LoraSource, add_lora, find_lora, lora_parameters, remove_lora, save_lora

from ..conftest import build_tiny_pipeline


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two adapters of the tiny pipeline."""
    pipe, folder = build_tiny_pipeline(), tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("one", "two")):
        add_lora(pipe.transformer, LoraConfig(rank=2), name)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for factor in lora_parameters(pipe.transformer, name).values():
                factor.copy_(0.15 * torch.randn(factor.shape, generator=generator))
        save_lora(folder / f"{name}.safetensors", pipe.transformer, name)
        remove_lora(pipe.transformer)
    return folder


@pytest.fixture
def pipe(tiny_folder) -> Pipeline:
    return Pipeline.from_pretrained(tiny_folder)


def _drawn(pipe: Pipeline) -> np.ndarray:
    return np.asarray(pipe("a cat", seed=3).images[0]).astype(int)


def _differ(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a - b).max())


def test_adapters_come_and_go(pipe, files):
    plain, state = _drawn(pipe), {key: value.clone() for key, value in pipe.transformer.state_dict().items()}
    assert pipe.load_lora(files / "one.safetensors", strength=0.8) == "one"
    one = _drawn(pipe)
    assert _differ(one, plain) > 5
    pipe.load_lora(str(files / "two.safetensors"), name="second")
    assert pipe.loras == {"one": 0.8, "second": 1.0}
    both = _drawn(pipe)
    assert _differ(both, one) > 5
    pipe.set_lora("second", 0)
    assert _differ(_drawn(pipe), one) == 0
    pipe.set_lora("one", 0)
    assert _differ(_drawn(pipe), plain) == 0
    pipe.set_lora("one", 0.8)
    pipe.unload_lora("second")
    assert _differ(_drawn(pipe), one) == 0
    pipe.unload_lora()
    assert pipe.loras == {}
    assert pipe.transformer.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in pipe.transformer.state_dict().items())


def test_a_merged_pipeline_draws_the_same_and_is_saved_whole(pipe, files, tmp_path):
    state = {key: value.clone() for key, value in pipe.transformer.state_dict().items()}
    pipe.load_lora(files / "one.safetensors", strength=0.8)
    apart = _drawn(pipe)
    with pytest.raises(ValueError, match=r"does not hold the loaded adapters \(one\): merge_lora"):
        pipe.save_pretrained(tmp_path / "m")
    pipe.merge_lora()
    assert _differ(_drawn(pipe), apart) <= 1
    pipe.save_pretrained(tmp_path / "m")
    assert _differ(_drawn(Pipeline.from_pretrained(tmp_path / "m")), apart) <= 1
    with pytest.raises(ValueError, match="unmerge them first"):
        pipe.unload_lora()
    pipe.unmerge_lora()
    assert _differ(_drawn(pipe), apart) == 0
    pipe.unload_lora()
    assert all(torch.equal(value, state[key]) for key, value in pipe.transformer.state_dict().items())


def test_in_bfloat16_merged_is_unmerged_within_its_grain(tiny_folder, files):
    pipe = Pipeline.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    plain = _drawn(pipe)
    pipe.load_lora(files / "one.safetensors")
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.bfloat16}
    apart = _drawn(pipe)
    pipe.merge_lora()
    change, grain = np.abs(apart - plain).mean(), np.abs(_drawn(pipe) - apart).mean()
    assert grain < 0.1 * change


def test_a_key_that_fits_nothing_is_named_and_nothing_is_loaded(pipe, files, tmp_path):
    tensors = load_file(files / "one.safetensors")
    tensors["transformer.transformer_blocks.9.attn.to_q.lora_A.weight"] = torch.ones(2, 64)
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=r"odd\.safetensors has transformer\.transformer_blocks\.9\.attn\.to_q"):
        pipe.load_lora(tmp_path / "odd.safetensors")
    assert pipe.loras == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": "1"}, "strength is '1'; it must be a number"),
        ({"strength": 11}, "from -10 to 10"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"name": "a.b"}, "cannot be called 'a.b'"),
        ({"name": "one"}, "an adapter called 'one' already"),
    ],
)
def test_bad_requests_are_refused(pipe, files, options, message):
    pipe.load_lora(files / "one.safetensors")
    with pytest.raises(ValueError, match=message):
        pipe.load_lora(files / "two.safetensors", **options)
    with pytest.raises(ValueError, match="no adapter called 'three'; there is one"):
        pipe.set_lora("three", 1)
    assert pipe.loras == {"one": 1.0}


def test_folders_are_searched(files, tmp_path):
    def put(folder: str, *names: str) -> None:
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            shutil.copyfile(files / "one.safetensors", tmp_path / folder / name)

    put("theirs", "pytorch_lora_weights.safetensors", "other.safetensors")
    put("peft", "adapter_model.safetensors")
    put("single", "style.safetensors")
    put("student/lora", "pytorch_lora_weights.safetensors")
    put("several", "a.safetensors", "b.safetensors")
    put("nothing")
    found = {name: find_lora(tmp_path / name).relative_to(tmp_path).as_posix() for name in ("theirs", "peft", "single")}
    assert found["theirs"] == "theirs/pytorch_lora_weights.safetensors"
    assert found["peft"] == "peft/adapter_model.safetensors"
    assert found["single"] == "single/style.safetensors"
    assert find_lora(tmp_path / "student").parent.name == "lora"
    for name, message in (("several", "holds 2 adapters; name the"), ("nothing", "holds no adapter")):
        with pytest.raises(CheckpointError, match=message):
            find_lora(tmp_path / name)
    for name in (str(tmp_path / "gone.safetensors"), "gone.safetensors", "./gone/it", "word"):
        with pytest.raises(CheckpointError, match=f"no adapter at {name}"):
            find_lora(name)


def test_adapters_come_from_the_hub(files, tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        for file in (f for f in allow_patterns if f in ("style/v1.safetensors", "adapter_model.safetensors")):
            target = tmp_path / repository / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files / "one.safetensors", target)
        (tmp_path / repository).mkdir(parents=True, exist_ok=True)
        return str(tmp_path / repository)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert find_lora("me/cats") == tmp_path / "me/cats/adapter_model.safetensors"
    assert find_lora("me/more/style/v1.safetensors") == tmp_path / "me/more/style/v1.safetensors"
    assert asked[1] == ("me/more", ["style/v1.safetensors", "style/adapter_config.json"])
    with pytest.raises(CheckpointError, match=r"me/less on the hub has no v2\.safetensors"):
        find_lora("me/less/v2.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(CheckpointError, match=r"holds no adapter; name one, as in me/none/style\.safetensors"):
        find_lora("me/none")


@pytest.mark.parametrize(
    ("text", "file", "strength", "name", "called"),
    [
        ("style.safetensors", "style.safetensors", 1.0, None, "style"),
        ("~/my style.v2.safetensors:0.8", "~/my style.v2.safetensors", 0.8, None, "my-style-v2"),
        ("cat=me/cats:-1", "me/cats", -1.0, "cat", "cat"),
        ("me/cats/style/v1.safetensors", "me/cats/style/v1.safetensors", 1.0, None, "v1"),
        ("a:b/c:.5", "a:b/c", 0.5, None, "c"),
    ],
)
def test_words_of_a_command_are_read(text, file, strength, name, called):
    source = LoraSource.parse(text)
    assert (source.file, source.strength, source.name, source.called) == (file, strength, name, called)


def test_a_file_of_strange_a_name_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b:2").touch()
    assert LoraSource.parse("a=b:2") == LoraSource("a=b:2")
    with pytest.raises(ValueError, match=r"1\.2\.3 is no strength"):
        LoraSource.parse("style.safetensors:1.2.3")


def test_a_config_beside_the_file_counts(pipe, files, tmp_path):
    tensors = load_file(files / "one.safetensors")
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 1.0}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    pipe.load_lora(tmp_path, name="half")
    half = _drawn(pipe)
    pipe.unload_lora()
    pipe.load_lora(files / "one.safetensors", 0.5)
    assert _differ(_drawn(pipe), half) <= 1
