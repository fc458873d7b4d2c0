"""Model folders: every key is honoured or refused by name, adapters find their base, and errors are one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fourstroke import Pipeline, folder
from fourstroke.checkpoint import CheckpointError
from fourstroke.cli import main
from fourstroke.estimate import estimate_recipe
from fourstroke.evaluate.models import load_reconstruction_model
from fourstroke.folder import ADAPTER, ADAPTER_WEIGHTS, read_info, write_base, write_info

LAYER = "transformer_blocks.0.attn.to_q"
A, B = (f"transformer.{LAYER}.lora_{side}.weight" for side in "AB")
KOHYA = "lora_unet_" + LAYER.replace(".", "_")


def _adapter(where: Path, base: str | Path, tiny: Pipeline, size: float = 0.1) -> Path:
    torch.manual_seed(3)
    width = tiny.transformer.config.width
    tensors = {A: torch.randn(2, width), B: size * torch.randn(width, 2)}
    write_base(where, str(base))
    write_info(where, tiny.info)
    save_file(tensors, where / ADAPTER / ADAPTER_WEIGHTS)
    return where


def _point(adapter: Path, base: str) -> None:
    (adapter / ADAPTER / "adapter.json").write_text(json.dumps({"base": base}))


def _weight(pipe: Pipeline) -> torch.Tensor:
    return pipe.transformer.get_parameter(f"{LAYER}.weight")


def _change(adapter: Path) -> torch.Tensor:
    tensors = load_file(adapter / ADAPTER / ADAPTER_WEIGHTS)
    return tensors[B] @ tensors[A]


@pytest.mark.parametrize(
    ("change", "metadata", "scale"),
    [
        (lambda t: t, {}, 1),
        (lambda t: t, {"lora_adapter_metadata": '{"transformer.r": 2, "transformer.lora_alpha": 8}'}, 4),
        (lambda t: {**t, f"transformer.{LAYER}.alpha": torch.tensor(3.0)}, {}, 1.5),
        (
            lambda t: {
                f"{KOHYA}.lora_down.weight": t[A],
                f"{KOHYA}.lora_up.weight": t[B],
                f"{KOHYA}.alpha": torch.tensor(1.0),
            },
            {},
            0.5,
        ),
        (lambda t: {**t, f"transformer.{LAYER}.lora_magnitude_vector": torch.ones(64)}, {}, "lora_magnitude_vector"),
        (lambda t: {**t, f"transformer.{LAYER}.lora_B.bias": torch.ones(64)}, {}, r"lora_B\.bias"),
        (lambda t: {}, {}, "holds no tensor"),
    ],
    ids=["plain", "metadata", "alpha", "kohya", "dora", "bias", "empty"],
)
def test_adapters_are_drawn_as_their_makers_mean_them(tiny, tiny_folder, tmp_path, change, metadata, scale):
    adapter = _adapter(tmp_path / "student", tiny_folder, tiny)
    file, plain = adapter / ADAPTER / ADAPTER_WEIGHTS, _change(adapter)
    tensors = load_file(file)
    file.unlink()
    save_file(change(tensors), file, metadata=metadata or None)
    if isinstance(scale, str):
        with pytest.raises(CheckpointError, match=scale):
            Pipeline.from_pretrained(adapter)
    else:
        torch.testing.assert_close(_weight(Pipeline.from_pretrained(adapter)), _weight(tiny) + scale * plain)


def test_alpha_may_be_in_pefts_config(tiny, tiny_folder, tmp_path):
    adapter = _adapter(tmp_path / "student", tiny_folder, tiny)
    (adapter / ADAPTER / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 6}')
    torch.testing.assert_close(_weight(Pipeline.from_pretrained(adapter)), _weight(tiny) + 3 * _change(adapter))


def test_an_adapter_finds_its_base_from_anywhere(tiny, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_folder.parent)
    adapter = _adapter(tmp_path / "student", tiny_folder.name, tiny)
    monkeypatch.chdir(tmp_path)
    assert folder.lineage(Path("student"))[-1].samefile(tiny_folder)
    torch.testing.assert_close(_weight(Pipeline.from_pretrained("student")), _weight(tiny) + _change(adapter))


def test_a_relative_base_is_seen_from_the_adapter(tiny, tiny_folder, tmp_path, monkeypatch):
    shutil.copytree(tiny_folder, tmp_path / "models" / "base")
    adapter = _adapter(tmp_path / "models" / "student", "x", tiny)
    _point(adapter, "../base")
    monkeypatch.chdir("/")
    assert folder.lineage(adapter)[-1].samefile(tmp_path / "models" / "base")


def test_a_bundled_base_is_named(tiny, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FOURSTROKE_MODELS", str(tiny_folder.parent))
    for base in (tiny_folder, tiny_folder.name):
        adapter = _adapter(tmp_path / "student", base, tiny)
        assert json.loads((adapter / ADAPTER / "adapter.json").read_text()) == {"base": "tiny"}
        assert folder.lineage(adapter) == [adapter, tiny_folder]


@pytest.mark.parametrize("base", ["models/gone", "/models/gone", "nobody/nothing"])
def test_a_base_that_is_gone_is_told(tiny, tmp_path, base):
    adapter = _adapter(tmp_path / "student", base, tiny)
    with pytest.raises(CheckpointError, match=f"student is an adapter of {base}, which is not to be found") as error:
        Pipeline.from_pretrained(adapter)
    assert str(adapter / ADAPTER / "adapter.json") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "the key base is missing"),
        ({"base": 3}, "base should be text"),
        ({"base": " "}, "base is empty"),
        ({"base": "x", "strength": 2}, "the key strength is not supported"),
    ],
)
def test_what_an_adapter_says_is_read_strictly(tiny, tiny_folder, tmp_path, content, message):
    adapter = _adapter(tmp_path / "student", tiny_folder, tiny)
    (adapter / ADAPTER / "adapter.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        Pipeline.from_pretrained(adapter)
    (adapter / ADAPTER / "adapter.json").unlink()
    with pytest.raises(CheckpointError, match=r"adapter\.json is missing"):  # not drawn without what it changes
        Pipeline.from_pretrained(adapter)


def test_circles_of_adapters_are_told(tiny, tmp_path):
    one = _adapter(tmp_path / "one", "x", tiny)
    two = _adapter(tmp_path / "two", one, tiny)
    for base in (one, two):
        _point(one, str(base))
        with pytest.raises(CheckpointError, match=r"is an adapter of .*: there is no whole model"):
            Pipeline.from_pretrained(two)


def test_adapters_of_adapters_add_up_and_are_rounded_once(tiny, tiny_folder, tmp_path):
    one = _adapter(tmp_path / "one", tiny_folder, tiny, 1e-4)
    two = _adapter(tmp_path / "two", one, tiny, 2e-4)
    wanted = _weight(tiny) + _change(one) + _change(two)
    pipe = Pipeline.from_pretrained(two, dtype=torch.bfloat16)
    assert torch.equal(_weight(pipe), wanted.bfloat16())
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.bfloat16}


def test_what_an_adapter_lacks_is_its_bases(tiny, tiny_folder, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(tiny_folder, whole)
    adapter = _adapter(tmp_path / "student", whole, tiny)
    (whole / "prompt_enhancer").mkdir()
    (whole / "prompt_enhancer" / "config.json").write_text("{}")
    assert Pipeline.from_pretrained(adapter)._enhancer == whole / "prompt_enhancer"
    shutil.copytree(whole / "scheduler", adapter / "scheduler")
    file = adapter / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_shift": 0.25}))
    assert Pipeline.from_pretrained(adapter).schedule.base_shift == 0.25
    assert load_reconstruction_model(adapter, "cpu").folder == adapter  # its autoencoder is read too


def test_what_is_needed_is_estimated_for_an_adapter(tiny, tiny_folder, tmp_path):
    adapter = _adapter(tmp_path / "student", tiny_folder, tiny)
    recipe = Path(__file__).parents[1] / "recipes" / "micro" / "distill.yaml"
    estimates = [estimate_recipe(recipe, [f"teacher={model}"], 40, 400)[1] for model in (tiny_folder, adapter)]
    assert estimates[0] == estimates[1]


def _changed(model: Path, file: str, **keys) -> None:
    path = model / file
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


INDEX = "model_index.json"
OWN = {"name": "tiny", "width": 64, "height": 32, "max_side": 96, "num_inference_steps": 3, "guidance_scale": 1.0}


@pytest.mark.parametrize(
    ("file", "keys", "message"),
    [
        (INDEX, {"_class_name": "QwenImagePipeline"}, "_class_name"),
        (INDEX, {"scheduler": ["diffusers", "FlowMatchHeunDiscreteScheduler"]}, "scheduler"),
        (INDEX, {"transformer_2": ["diffusers", "QwenImage21Transformer2DModel"]}, "transformer_2"),
        (INDEX, {"is_distilled": True}, "is_distilled"),
        (INDEX, {"sample_sigmas": ["1.0", "0.5"]}, "sample_sigmas"),
        (INDEX, {"sample_sigmas": [0.5, 1.0]}, "sample_sigmas"),
        (INDEX, {"sample_sigmas": []}, "sample_sigmas"),
        (INDEX, {"sample_sigmas": 4}, "sample_sigmas"),
        (INDEX, {"fourstroke": []}, "fourstroke"),
        (INDEX, {"fourstroke": OWN | {"width": "64"}}, "width"),
        (INDEX, {"fourstroke": OWN | {"width": -64}}, "width"),
        (INDEX, {"fourstroke": OWN | {"num_inference_steps": 0}}, "num_inference_steps"),
        (INDEX, {"fourstroke": OWN | {"guidance_scale": None}}, "guidance_scale"),
        (INDEX, {"fourstroke": OWN | {"colour": 1}}, "colour"),
        ("transformer/config.json", {"num_layers": "2"}, "num_layers"),
        ("transformer/config.json", {"num_layers": True}, "num_layers"),
        ("transformer/config.json", {"num_layers": 0}, "num_layers"),
        ("transformer/config.json", {"axes_dims_rope": 32}, "axes_dims_rope"),
        ("transformer/config.json", {"axes_dims_rope": ["8", 12, 12]}, "axes_dims_rope"),
        ("transformer/config.json", {"eps": "1e-6"}, "eps"),
        ("transformer/config.json", {"causal_condition": 1}, "causal_condition"),
        ("transformer/config.json", {"zero_cond_t": True}, "zero_cond_t"),
        ("transformer/config.json", {"_class_name": "QwenImageTransformer2DModel"}, "_class_name"),
        ("transformer/config.json", {"patch_size": 2, "in_channels": 16, "out_channels": 16}, "patch_size"),
        ("vae/config.json", {"z_dim": "64"}, "z_dim"),
        ("vae/config.json", {"dim_mult": [1, 2, 4, 8, "16"]}, "dim_mult"),
        ("vae/config.json", {"latents_std": [0.0] * 64}, "latents_std"),
        ("vae/config.json", {"latents_mean": [None] * 64}, "latents_mean"),
        ("vae/config.json", {"scaling_factor": 0.5}, "scaling_factor"),
        ("vae/config.json", {"shift_factor": 0.5}, "shift_factor"),
        ("vae/config.json", {"base_dim": 0}, "base_dim"),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "_class_name"),
        ("scheduler/scheduler_config.json", {"base_shift": "0.5"}, "base_shift"),
        ("scheduler/scheduler_config.json", {"use_karras_sigmas": True}, "use_karras_sigmas"),
        ("text_encoder/config.json", {"model_type": "qwen2_vl"}, "model_type"),
        ("text_encoder/config.json", {"image_token_id": "4"}, "image_token_id"),
        ("text_encoder/config.json", {"num_experts": 4}, "num_experts"),
        ("text_encoder/config.json", {"text_config": []}, "text_config"),
        ("processor/preprocessor_config.json", {"patch_size": "16"}, "patch_size"),
        ("processor/preprocessor_config.json", {"patch_size": 14}, "patch_size"),
        ("processor/preprocessor_config.json", {"size": 1024}, "size"),
        ("processor/preprocessor_config.json", {"image_mean": ["0.5", 0.5, 0.5]}, "image_mean"),
        ("processor/preprocessor_config.json", {"gamma": 2.2}, "gamma"),
        ("processor/tokenizer_config.json", {"pad_token": None}, "pad_token"),
    ],
)
def test_keys_are_honoured_or_refused(tiny_folder, tmp_path, file, keys, message):
    shutil.copytree(tiny_folder, tmp_path / "m")
    _changed(tmp_path / "m", file, **keys)
    with pytest.raises(CheckpointError, match=message) as error:
        Pipeline.from_pretrained(tmp_path / "m")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "m" / Path(file).parent) in str(error.value)


def test_notes_of_the_writer_pass(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "m")
    for file in (INDEX, "transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        _changed(tmp_path / "m", file, _diffusers_version="0.42.1", _name_or_path="x")
    _changed(tmp_path / "m", "text_encoder/config.json", _name_or_path="x", transformers_version="5.0")
    assert Pipeline.from_pretrained(tmp_path / "m").info == read_info(tiny_folder)


JSON_FILES = [
    INDEX,
    "transformer/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/generation_config.json",
    "processor/tokenizer.json",
    "processor/tokenizer_config.json",
    "processor/preprocessor_config.json",
    "processor/processor_config.json",
]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xef\xbb\xbf{}", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("file", JSON_FILES)
def test_damaged_json_names_its_file(tiny_folder, tmp_path, file, content):
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / file).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        Pipeline.from_pretrained(tmp_path / "m")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "m" / file) in str(error.value)


@pytest.mark.parametrize("content", [b"{}", b'{"added_tokens": []}', b'{"model": 3, "added_tokens": [{}]}'])
def test_a_tokenizer_of_another_kind_names_its_file(tiny_folder, tmp_path, content):
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "processor" / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m/processor .*tokenizer\.json") as error:
        Pipeline.from_pretrained(tmp_path / "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_missing_processor_files_are_named(tiny_folder, tmp_path, file):
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "processor" / file).unlink()
    with pytest.raises(CheckpointError, match=f"processor/{file} is missing"):
        Pipeline.from_pretrained(tmp_path / "m")


WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"metadata": {}}, "the key weight_map is missing"),
        ([], "should hold a JSON object"),
        ({"weight_map": ["a.safetensors"]}, "weight_map should be an object"),
        ({"weight_map": {"a": 3}}, "weight_map: a should be text"),
        ({"weight_map": {}}, "at least one"),
        ({"weight_map": {"a": "../vae/x.safetensors"}}, "weight_map should name files of"),
        ({"weight_map": {"a": "gone.safetensors"}}, r"lacks the shards gone\.safetensors"),
    ],
)
@pytest.mark.parametrize("part", WEIGHTS)
def test_an_index_that_is_none_is_told(tiny_folder, tmp_path, part, index, message):
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / part / WEIGHTS[part]).unlink()
    (tmp_path / "m" / part / f"{WEIGHTS[part]}.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message) as error:
        Pipeline.from_pretrained(tmp_path / "m")
    assert str(tmp_path / "m" / part) in str(error.value)


@pytest.mark.parametrize("damage", ["empty", "header", "truncated", "json", "folder"])
@pytest.mark.parametrize("part", WEIGHTS)
def test_damaged_tensors_name_their_file(tiny_folder, tmp_path, part, damage):
    shutil.copytree(tiny_folder, tmp_path / "m")
    file = tmp_path / "m" / part / WEIGHTS[part]
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        whole = file.read_bytes()
        file.write_bytes({"empty": b"", "header": whole[:20], "truncated": whole[:-4], "json": b"{}" * 99}[damage])
    with pytest.raises(CheckpointError, match=str(file)) as error:
        Pipeline.from_pretrained(tmp_path / "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_integers_are_no_weights(tiny_folder, tmp_path, part):
    shutil.copytree(tiny_folder, tmp_path / "m")
    file = tmp_path / "m" / part / WEIGHTS[part]
    save_file({key: value.to(torch.int8) for key, value in load_file(file).items()}, file)
    with pytest.raises(CheckpointError, match=rf"{file.parent}: .* is torch.int8; weights have a point, or a scale"):
        Pipeline.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers"])
def test_a_text_encoder_of_another_shape_says_which_tensor(tiny_folder, tmp_path, key):
    shutil.copytree(tiny_folder, tmp_path / "m")
    file = tmp_path / "m" / "text_encoder" / "config.json"
    values = json.loads(file.read_text())
    values["text_config"][key] *= 2
    file.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"text_encoder do not fit its config\.json, first model\.") as error:
        Pipeline.from_pretrained(tmp_path / "m")
    assert "\n" not in str(error.value)


def test_parts_of_several_models_are_refused(tiny, tiny_folder, tmp_path):
    from .conftest import build_tiny_pipeline

    other = build_tiny_pipeline()
    other.transformer = type(other.transformer)(
        type(other.transformer.config)(
            num_layers=1, num_attention_heads=1, attention_head_dim=8, axes_dims_rope=(2, 2, 4), context_in_dim=32
        )
    )
    other.save_pretrained(tmp_path / "m")
    with pytest.raises(
        CheckpointError, match=r"m/transformer: .* context_in_dim 32, and the text encoder's width is 64"
    ):
        Pipeline.from_pretrained(tmp_path / "m")


def test_the_command_line_says_it_in_one_line(tiny_folder, tmp_path, capsys):
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "processor" / "tokenizer.json").write_text("[]")
    assert main(["generate", "a cat", "--model", os.fspath(tmp_path / "m"), "--out", os.fspath(tmp_path)]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    (line,) = [row for row in found.err.splitlines() if row.startswith("fourstroke:")]
    assert "tokenizer.json should hold a JSON object" in line
