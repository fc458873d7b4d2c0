"""Weights from GGUF files."""

from __future__ import annotations

import builtins

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fourstroke import Pipeline
from fourstroke.checkpoint import CheckpointError, map_tensors
from fourstroke.convert import to_file, to_folder
from fourstroke.quantized import QuantizedWeight
from fourstroke.single_file import PartFile

from .conftest import build_tiny_pipeline
from .test_single_file import _draw, _load

KINDS = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "wide"
    build_tiny_pipeline(heads=4).save_pretrained(folder)
    return folder


def _write(wide, out, kind):
    """The transformer as a GGUF file: matrices of its blocks as `kind`, a few others as F16 and BF16, the rest F32."""
    file = to_file(wide, out.with_suffix(".safetensors"))
    writer = gguf.GGUFWriter(out, "qwen_image")
    for name, weight in load_file(file).items():
        own = KINDS.F16 if "txt_in.in" in name else KINDS.BF16 if "txt_in.out" in name else KINDS.F32
        own = kind if "blocks." in name and weight.ndim == 2 else own
        data = gguf.quants.quantize(weight.numpy(), own)
        writer.add_tensor("model.diffusion_model." + name, data, raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize(("kind", "most"), [(KINDS.F32, 0.01), (KINDS.Q8_0, 0.01), (KINDS.Q4_0, 0.2)])
def test_a_transformer_is_read_as_it_was_kept(wide, tmp_path, kind, most):
    file, exact = _write(wide, tmp_path / "t.gguf", kind), map_tensors(wide / "transformer")
    found = PartFile.read(file, "transformer").tensors(torch.float32)
    assert found.keys() == exact.keys()
    for name, weight in exact.items():
        off = float((found[name].float() - weight).norm() / weight.norm().clamp(min=1))
        assert off < most, name
        assert (off > 1e-4) == (kind != KINDS.F32) or "blocks." not in name or weight.ndim < 2
    if most < 0.02:
        plain = Pipeline.from_pretrained(wide, dtype="float32", device="cpu")
        assert np.abs(_draw(_load(wide, transformer=file)) - _draw(plain)).mean() < 2
    to_folder([file], tmp_path / "model", wide)
    kept = map_tensors(tmp_path / "model" / "transformer")
    name = "transformer_blocks.1.img_mlp.proj.weight"
    expected = found[name].bfloat16().float() if kind != KINDS.F32 else found[name]
    assert torch.equal(kept[name].float(), expected)


def test_numbers_go_at_once_into_few_bits(wide, tmp_path):
    file = _write(wide, tmp_path / "t.gguf", KINDS.Q8_0)
    pipe = _load(wide, transformer=file, quantize="int8")
    inner = [p for p in pipe.transformer.transformer_blocks.parameters() if p.ndim == 2]
    assert all(isinstance(weight, QuantizedWeight) for weight in inner)


def test_what_cannot_be_read_is_one_line(wide, tmp_path, monkeypatch):
    file = _write(wide, tmp_path / "t.gguf", KINDS.Q8_0)
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 100, 5000, file.stat().st_size - 50_000):
        cut.write_bytes(file.read_bytes()[:size])
        with pytest.raises(CheckpointError, match=r"cut\.gguf is damaged or no GGUF file") as error:
            _load(wide, transformer=cut)
        assert "\n" not in str(error.value)
    monkeypatch.delitem(gguf.quants._type_traits, KINDS.Q8_0)
    with pytest.raises(CheckpointError, match="is of the type Q8_0, which gguf cannot spread out"):
        _load(wide, transformer=file)
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("gguf"):
            raise ModuleNotFoundError(name="gguf")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(CheckpointError, match=r"needs the package gguf: pip install"):
        _load(wide, transformer=file)
