"""Single files of weights: ComfyUI's names in and out, fewer bits, and one line for what is no part of a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import QwenImage21Transformer2DModel
from safetensors.torch import load_file, save_file

from fourstroke import Pipeline
from fourstroke.checkpoint import CheckpointError, map_tensors
from fourstroke.cli import main
from fourstroke.convert import convert, to_file, to_folder
from fourstroke.mapped import _maps, map_file
from fourstroke.memory import PARTS
from fourstroke.quantized import QuantizedWeight
from fourstroke.single_file import PartFile, hadamard
from fourstroke.streamed import write_tensors

from .conftest import build_tiny_pipeline
from .test_mapped import _resident


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model whose widths are multiples of 64."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    build_tiny_pipeline(heads=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(wide, tmp_path_factory):
    """Its parts as single files."""
    out = tmp_path_factory.mktemp("files")
    return {part: to_file(wide, out / f"{part}.safetensors", part) for part in PARTS}


def _draw(pipe):
    return np.asarray(pipe("a cat", seed=3).images[0]).astype(int)


def _load(folder, **options):
    return Pipeline.from_pretrained(folder, dtype="float32", device="cpu", **options)


@pytest.fixture(scope="module")
def plain(wide):
    return _draw(_load(wide))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_comes_back_byte_for_byte(wide, files, tmp_path, part):
    to_folder([files[part]], tmp_path / "model", wide)
    for own in (wide / part).iterdir():
        assert (tmp_path / "model" / part / own.name).read_bytes() == own.read_bytes(), own
    again = to_file(tmp_path / "model", tmp_path / "again.safetensors", part)
    assert again.read_bytes() == files[part].read_bytes()


def test_a_part_of_video_shape_comes_back(tmp_path):
    """Convolutions over time, which the published autoencoder has and never uses."""
    from fourstroke.vae import Autoencoder, AutoencoderConfig

    config = AutoencoderConfig(base_dim=4, decoder_base_dim=4, latents_mean=(0.0,) * 64, latents_std=(1.0,) * 64)
    pipe = build_tiny_pipeline()
    pipe.autoencoder = Autoencoder(config)
    pipe.save_pretrained(tmp_path / "model")
    file = to_file(tmp_path / "model", tmp_path / "vae.safetensors", "vae")
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(file).items()}
    assert shapes["encoder.downsamples.1.downsamples.2.time_conv.weight"] == (8, 8, 1, 1, 1)
    assert shapes["decoder.upsamples.0.upsamples.3.resample.1.weight"] == (32, 32, 3, 3)
    own = map_tensors(tmp_path / "model" / "vae")
    assert PartFile.read(file, "vae").weights.keys() == own.keys()


def test_names_are_those_of_comfyui(files):
    transformer, text, vae = (load_file(files[part]) for part in PARTS)
    width = transformer["transformer_blocks.0.attn.to_q.weight"].shape[1]
    assert transformer["transformer_blocks.0.img_mlp.gate_up.weight"].shape == (6 * width, width)
    assert not any("gate_layer" in name or ".img_mlp.proj" in name for name in transformer)
    assert {"model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight", "model.norm.weight"} <= text.keys()
    assert "model.visual.deepstack_merger_list.0.norm.weight" in text
    assert vae["decoder.middle.0.residual.0.gamma"].ndim == 4
    assert vae["decoder.conv1.weight"].shape[2] == vae["conv2.weight"].shape[2] == 1
    assert vae["decoder.middle.1.to_qkv.weight"].ndim == 4
    assert {"encoder.head.2.weight", "decoder.upsamples.0.upsamples.1.residual.6.bias"} <= vae.keys()
    assert {"conv1.bias", "encoder.downsamples.0.downsamples.1.resample.1.weight"} <= vae.keys()


def test_diffusers_reads_the_file(wide, files):
    theirs = QwenImage21Transformer2DModel.from_single_file(
        str(files["transformer"]), config=str(wide), subfolder="transformer"
    )
    own = map_tensors(wide / "transformer")
    found = theirs.state_dict()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in own.items())


def test_files_draw_as_the_folder(wide, files, plain, tmp_path):
    for part, file in files.items():
        pipe = _load(wide, **{part: file})
        assert np.array_equal(_draw(pipe), plain)
        model = {"transformer": pipe.transformer, "text_encoder": pipe.text_encoder, "vae": pipe.autoencoder}[part]
        mapped = [p for p in model.parameters() if p.untyped_storage().data_ptr() in _maps]
        assert len(mapped) == len([*model.parameters()])  # nothing was copied
    prefixes = {
        "transformer": "model.diffusion_model.",
        "text_encoder": "text_encoders.qwen3vl_8b.transformer.",
        "vae": "vae.",
    }
    whole = {prefixes[p] + name: tensor for p, file in files.items() for name, tensor in load_file(file).items()}
    save_file(whole, tmp_path / "whole.safetensors")
    pipe = _load(wide, **dict.fromkeys(PARTS, tmp_path / "whole.safetensors"), offload="layers")
    assert np.array_equal(_draw(pipe), plain)


def _few(file, out, way):
    """A file as ComfyUI's with fewer bits: matrices of blocks, and the embedding."""
    tensors = {}
    for name, weight in load_file(file).items():
        if weight.ndim != 2 or not ("blocks." in name or "layers." in name or "embed_tokens" in name):
            tensors[name] = weight
            continue
        stem, group = name.removesuffix(".weight"), 16
        said = {"format": "int8_tensorwise" if "int8" in way else "float8_e4m3fn"}
        if "rotated" in way:
            said |= {"convrot": True, "convrot_groupsize": group}
            weight = (weight.unflatten(-1, (-1, group)) @ hadamard(group)).flatten(-2)
        kind, largest = (torch.int8, 127) if "int8" in way else (torch.float8_e4m3fn, 448)
        scale = weight.abs().amax(1, keepdim=True) / largest if "int8" in way else weight.abs().max() / largest
        numbers = weight / scale
        tensors[name] = (numbers.round() if kind == torch.int8 else numbers).to(kind)
        old = way == "fp8, as once"
        tensors[f"{stem}.scale_weight" if old else f"{stem}.weight_scale"] = scale
        tensors[f"{stem}.scale_input" if old else f"{stem}.input_scale"] = torch.ones(())
        if old:
            tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        else:
            tensors[f"{stem}.comfy_quant"] = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
    save_file(tensors, out)
    return out


@pytest.mark.parametrize(("way", "most"), [("fp8", 6), ("fp8, as once", 6), ("int8", 2), ("int8, rotated", 2)])
def test_fewer_bits_stay_so_and_draw_nearly_the_same(wide, files, plain, tmp_path, way, most):
    few = {part: _few(files[part], tmp_path / f"{part}.safetensors", way) for part in ("transformer", "text_encoder")}
    pipe = _load(wide, **few)
    kept = [p for p in pipe.transformer.transformer_blocks.parameters() if p.ndim == 2]
    assert all(isinstance(p, QuantizedWeight) for p in kept) == ("rotated" not in way)
    assert not isinstance(pipe.text_encoder.model.model.language_model.embed_tokens.weight, QuantizedWeight)
    assert 0 < np.abs(_draw(pipe) - plain).mean() < most
    again = _load(wide, **few, quantize="int8")
    assert all(isinstance(p, QuantizedWeight) for p in again.transformer.transformer_blocks.parameters() if p.ndim == 2)
    to_folder([few["transformer"]], tmp_path / "model", wide)
    theirs = QwenImage21Transformer2DModel.from_pretrained(tmp_path / "model" / "transformer")
    exact, found = map_tensors(wide / "transformer"), theirs.state_dict()
    off = [(found[n].float() - t).norm() / t.norm() for n, t in exact.items() if t.ndim == 2]
    assert 0 < max(off) < (0.04 if "fp8" in way else 0.02)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_fp8_goes_out_as_comfyui_has_it_and_comes_back_within_its_grain(wide, plain, tmp_path, part):
    file = to_file(wide, tmp_path / "fp8.safetensors", part, fp8=True)
    held, exact = load_file(file), map_tensors(wide / part, PARTS[part])
    few = {name.removesuffix(".weight") for name, t in held.items() if t.dtype == torch.float8_e4m3fn}
    assert few
    for stem in few:
        assert held[f"{stem}.weight_scale"].shape == ()
        assert held[f"{stem}.weight_scale"].dtype == torch.float32
        assert held[f"{stem}.weight"].float().abs().max() == 448
        assert json.loads(bytes(held[f"{stem}.comfy_quant"].tolist())) == {"format": "float8_e4m3fn"}
    found = PartFile.read(file, part).weights
    assert found.keys() == exact.keys()
    for name, weight in exact.items():
        inner = weight.ndim == 2 and (".layers." in name or "transformer_blocks." in name) and ".visual." not in name
        assert isinstance(found[name], QuantizedWeight) == inner
        if not inner:
            assert torch.equal(found[name], weight)
            continue
        off = (found[name].numbers.float() * found[name].scale - weight.float()).abs()
        assert bool((off <= (weight.float().abs() / 16).clamp(min=float(found[name].scale[0]) / 1000)).all())
    assert 0 < np.abs(_draw(_load(wide, **{part: file})) - plain).mean() < 6


def test_fp8_of_what_has_no_matrices_is_refused(wide, files, tmp_path):
    with pytest.raises(ValueError, match="fp8 is for the transformer and the text encoder"):
        to_file(wide, tmp_path / "vae.safetensors", "vae", fp8=True)
    with pytest.raises(ValueError, match="perhaps --fp8"):
        convert([files["transformer"], tmp_path / "model"], wide, "transformer", fp8=True)


def test_rotation_is_its_own_inverse():
    matrix = hadamard(64)
    assert torch.allclose(matrix @ matrix, torch.eye(64), atol=1e-6)
    assert matrix.abs().unique().numel() == 1


def _refused(match, action):
    with pytest.raises(CheckpointError, match=match) as error:
        action()
    assert "\n" not in str(error.value)


def test_what_is_no_part_of_the_model_is_one_line(wide, files, tmp_path):
    other, cut = tmp_path / "other.safetensors", tmp_path / "cut.safetensors"
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.ones(2, 2)}, other)
    _refused("no part of a Qwen-Image-2.1 model.*double_blocks", lambda: _load(wide, transformer=other))
    _refused("holds an autoencoder, and not a transformer", lambda: _load(wide, transformer=files["vae"]))
    cut.write_bytes(files["vae"].read_bytes()[:-10])
    _refused("cut.safetensors is damaged or truncated", lambda: _load(wide, vae=cut))
    _refused("is missing", lambda: _load(wide, vae=tmp_path / "no.safetensors"))
    save_file({"transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 2)}, other)
    _refused("is an adapter", lambda: _load(wide, transformer=other))
    _refused("is one file: name the model", lambda: _load(files["transformer"]))
    tensors = load_file(files["transformer"])
    save_file(tensors | {"modulation.1.weight": torch.ones(3, 3)}, other)
    _refused(r"modulation.1.weight is \(3, 3\) in the file", lambda: _load(wide, transformer=other))
    _refused(r"modulation.1.weight is \(3, 3\) in the file", lambda: to_folder([other], tmp_path / "new", wide))
    said = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    save_file(tensors | {"modulation.1.comfy_quant": said}, other)
    _refused("modulation.1.weight is kept as nvfp4", lambda: _load(wide, transformer=other))
    assert not (tmp_path / "new").exists()


def test_the_command_converts_both_ways(wide, tmp_path, capsys):
    file, folder = str(tmp_path / "t.safetensors"), str(tmp_path / "model")
    assert main(["convert", str(wide), file]) == 0
    assert main(["convert", str(wide), str(tmp_path / "few.safetensors"), "--fp8"]) == 0
    assert (tmp_path / "few.safetensors").stat().st_size < 0.7 * (tmp_path / "t.safetensors").stat().st_size
    assert main(["convert", file, folder, "--base", str(wide), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"written": folder}
    for wrong in ([str(wide), file], [file, folder], [str(wide)], [str(wide), folder, file]):
        assert main(["convert", *wrong]) == 2
        error = capsys.readouterr().err.splitlines()
        assert len([line for line in error if line.startswith("fourstroke: ")]) == 1
    draw = ["generate", "a cat", "--model", str(wide), "--seed", "1", "--out", str(tmp_path / "out"), "--json"]
    assert main([*draw, "--transformer", file]) == 0


def test_writing_holds_one_tensor_at_a_time(tmp_path):
    source = tmp_path / "source.safetensors"
    save_file({f"{i}": torch.full((256, 1024), float(i)) for i in range(12)}, source, metadata={"format": "pt"})
    tensors, seen = map_file(source), []
    pieces = {name: [tensor] for name, tensor in tensors.items()}
    write_tensors(tmp_path / "copy.safetensors", pieces, lambda _: seen.append(_resident(source)))
    assert (tmp_path / "copy.safetensors").read_bytes() == source.read_bytes()
    assert max(seen) < 3 * 1024  # KiB, of 12 MiB


def test_whole_numbers_and_scalars_are_written_as_safetensors_does(tmp_path):
    tensors = {
        "b": torch.ones(3, dtype=torch.bfloat16),
        "a": torch.tensor(2.5),
        "c": torch.arange(4),
        "d": torch.ones(0, 2),
    }
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    write_tensors(tmp_path / "ours.safetensors", {k: [v] for k, v in tensors.items()})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
