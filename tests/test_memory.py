"""Memory as a choice: the same pictures, folders of fewer bits, and one line, early, for what cannot be."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from fourstroke import Pipeline, memory
from fourstroke.checkpoint import CheckpointError
from fourstroke.cli import main
from fourstroke.dit import Transformer
from fourstroke.folder import read_info
from fourstroke.memory import DoesNotFit, MemoryWarning, ModelSize, check_memory
from fourstroke.quantized import QuantizedWeight

from .conftest import build_tiny_pipeline

CPU = torch.device("cpu")


def _draw(pipe):
    return np.asarray(pipe("a cat", seed=3).images[0]).astype(int)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose matrices have whole groups of int4."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    pipe = build_tiny_pipeline(heads=4)
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("offload", ["model", "layers"])
def test_offload_changes_nothing(folder, offload):
    plain = _draw(Pipeline.from_pretrained(folder, dtype="float32", device="cpu"))
    pipe = Pipeline.from_pretrained(folder, dtype="float32", device="cpu", offload=offload)
    for _ in range(2):  # pages that were given back are read again
        assert np.array_equal(_draw(pipe), plain)


@pytest.mark.parametrize(("quantize", "most"), [("int8", 2), ("fp8", 6), ("int4", 16)])
def test_fewer_bits_draw_nearly_the_same_and_are_saved(folder, tmp_path, quantize, most):
    plain = _draw(Pipeline.from_pretrained(folder, dtype="float32", device="cpu"))
    pipe = Pipeline.from_pretrained(folder, dtype="float32", device="cpu", quantize=quantize)
    kept = [name for name, p in pipe.transformer.named_parameters() if isinstance(p, QuantizedWeight)]
    assert len(kept) == 14
    assert all("transformer_blocks" in name for name in kept)
    drawn = _draw(pipe)
    assert 0 < np.abs(drawn - plain).mean() < most
    pipe.save_pretrained(tmp_path / "few")
    config = json.loads((tmp_path / "few" / "transformer" / "config.json").read_text())
    assert config["quantization"] == {"method": quantize}
    again = Pipeline.from_pretrained(tmp_path / "few", dtype="float32", device="cpu", offload="layers")
    assert np.array_equal(_draw(again), drawn)
    sizes = [
        (f / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size for f in (tmp_path / "few", folder)
    ]
    assert sizes[0] < 0.6 * sizes[1]


def test_adapters_go_with_fewer_bits_and_offload(folder, tmp_path):
    pipe = Pipeline.from_pretrained(folder, dtype="float32", device="cpu", quantize="int8", offload="layers")
    before = _draw(pipe)
    from safetensors.torch import save_file

    layer = "transformer_blocks.0.attn.to_q"
    width = pipe.transformer.config.width
    factors = {f"{layer}.lora_A.weight": torch.randn(2, width), f"{layer}.lora_B.weight": torch.randn(width, 2)}
    save_file(factors, tmp_path / "style.safetensors")
    pipe.load_lora(tmp_path / "style.safetensors")
    assert not np.array_equal(_draw(pipe), before)
    with pytest.raises(ValueError, match="not merged into quantised weights"):
        pipe.merge_lora()
    pipe.unload_lora()
    assert np.array_equal(_draw(pipe), before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantize": "int3"}, "quantize is 'int3'; it must be one of None, int8, int4, fp8"),
        ({"offload": "disk"}, "offload is 'disk'; it must be one of none, model, layers"),
        ({"device": "cuda:9", "quantize": "int8"}, "there is no device 'cuda:9'"),
    ],
)
def test_choices_that_are_none(folder, options, said):
    with pytest.raises(ValueError, match=said):
        Pipeline.from_pretrained(folder, **{"device": "cpu", **options})


def _shard(folder):
    """The text encoder's weights as two shards with their index."""
    from safetensors.torch import load_file, save_file

    part = folder / "text_encoder"
    tensors = load_file(part / "model.safetensors")
    (part / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in halves.items():
        save_file({key: tensors[key] for key in keys}, part / file)
    weight_map = {key: file for file, keys in halves.items() for key in keys}
    (part / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return part


def _missing(part):
    (part / "model-00002-of-00002.safetensors").unlink()


def _truncated(part):
    file = part / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _renamed(part):
    file = part / "model.safetensors.index.json"
    file.write_text(file.read_text().replace("00002-of", "00003-of"))


@pytest.mark.parametrize("damage", [_missing, _truncated, _renamed])
def test_a_damaged_shard_is_found_before_anything_is_loaded(folder, tmp_path, monkeypatch, damage):
    shutil.copytree(folder, tmp_path / "x")
    part = _shard(tmp_path / "x")
    whole = Pipeline.from_pretrained(tmp_path / "x", dtype="float32", device="cpu")
    assert np.array_equal(_draw(whole), _draw(Pipeline.from_pretrained(folder, dtype="float32", device="cpu")))
    damage(part)
    monkeypatch.setattr(Transformer, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(CheckpointError, match=r"text_encoder.*(lacks the shards|damaged or truncated)") as caught:
        Pipeline.from_pretrained(tmp_path / "x", device="cpu", quantize="int8")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", memory.PARTS)
def test_weights_of_whole_numbers_are_refused_before_anything_is_loaded(folder, tmp_path, monkeypatch, part):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "x")
    file = tmp_path / "x" / part / memory.PARTS[part]
    tensors = load_file(file)
    save_file(tensors | {key: tensors[key].to(torch.int32) for key in sorted(tensors)[:1]}, file)
    monkeypatch.setattr(Transformer, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(CheckpointError, match=rf"{part}: .* is torch.int32; weights have a point"):
        Pipeline.from_pretrained(tmp_path / "x", device="cpu")


def test_int4_of_narrow_rows_is_refused_before_anything_is_loaded(tiny_folder, monkeypatch):
    monkeypatch.setattr(Transformer, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="int4 keeps numbers in pairs of 64, and tiny's rows have 64: take int8"):
        Pipeline.from_pretrained(tiny_folder, device="cpu", quantize="int4")


@pytest.mark.parametrize(("options", "said"), [
    (["--device", "cuda:9"], "there is no device 'cuda:9'"),
    (["--quantize", "int4"], "int4 keeps numbers in pairs"),
    (["--offload", "layers"], "no dtype, quantize and offload is enough; the smallest choice needs"),
    (["--transformer", "no.safetensors"], "no.safetensors is missing"),
])  # fmt: skip
def test_the_command_line_says_in_one_line_what_cannot_be(tiny_folder, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Transformer, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    if "--offload" in options:
        monkeypatch.setattr(memory, "_room", lambda _: (0.01, "this machine has free"))
    assert main(["generate", "a cat", "--model", str(tiny_folder), "--device", "cpu", *options]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert said in error[0]


def test_a_way_of_fewer_bits_that_is_not_ours(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "x")
    file = tmp_path / "x" / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization": {"method": "nf4"}}))
    with pytest.raises(CheckpointError, match="its one key is method, one of int8, int4, fp8"):
        Pipeline.from_pretrained(tmp_path / "x", device="cpu")


def test_needs_are_those_of_the_files(folder):
    model = ModelSize.read(folder, read_info(folder))
    pipe = Pipeline.from_pretrained(folder, dtype="float32", device="cpu")
    numbers = sum(p.numel() for p in pipe.transformer.parameters())
    assert (
        model.transformer.inner(torch.float32, None) + model.transformer.outer(torch.float32)
    ) * 2**30 == 4 * numbers
    few = Pipeline.from_pretrained(folder, dtype="bfloat16", device="cpu", quantize="int4").transformer
    held = sum(p.held if isinstance(p, QuantizedWeight) else p.nbytes for p in few.parameters())
    counted = (model.transformer.inner(torch.bfloat16, "int4") + model.transformer.outer(torch.bfloat16)) * 2**30
    assert counted == pytest.approx(held, rel=1e-3)


def test_what_does_not_fit_is_refused_with_what_would(folder, monkeypatch):
    model = ModelSize.read(folder, read_info(folder))
    gpu = torch.device("cuda")
    asked = [
        sum(model.needs(gpu, torch.bfloat16, None, offload)[0].values()) for offload in ("none", "model", "layers")
    ]
    assert asked == sorted(asked, reverse=True)
    room = (asked[0] + asked[1]) / 2
    monkeypatch.setattr(memory, "_room", lambda _: (room, "the GPU has free"))
    with pytest.raises(DoesNotFit, match=r"the GPU has free .*: offload model fits"):
        check_memory(model, gpu, torch.bfloat16, None, "none")
    assert check_memory(model, gpu, torch.bfloat16, None, "model") is None
    monkeypatch.setattr(memory, "_room", lambda _: (0.01, "the GPU has free"))
    with pytest.raises(DoesNotFit, match="no dtype, quantize and offload is enough; the smallest choice needs"):
        check_memory(model, gpu, torch.bfloat16, "int4", "layers")


def test_files_that_have_no_room_are_warned_of(folder, monkeypatch):
    model = ModelSize.read(folder, read_info(folder))
    here, files = model.needs(CPU, torch.float32, None, "layers")
    assert files > 0
    monkeypatch.setattr(memory, "_room", lambda _: (sum(here.values()) * 1.0001, "this machine has free"))
    with pytest.warns(MemoryWarning, match="comes from the disk at every step"):
        Pipeline.from_pretrained(folder, dtype="float32", device="cpu", offload="layers")
