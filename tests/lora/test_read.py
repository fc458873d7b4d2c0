"""Adapters from elsewhere are merged as their makers mean it, or refused by the name of what they hold."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fourstroke.checkpoint import CheckpointError, write_json
from fourstroke.lora import LowRank, merge, read_lora

LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_out.0")
RANK = 4


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_out = nn.Linear(6, 8, bias=False), nn.ModuleList([nn.Linear(8, 5, bias=False)])


def _model() -> nn.Module:
    torch.manual_seed(0)
    block = nn.ModuleDict({"attn": Attention()})
    return nn.ModuleDict({"transformer_blocks": nn.ModuleList([block])})


def _factors() -> dict[str, torch.Tensor]:
    """Factors by diffusers' names."""
    torch.manual_seed(1)
    model, tensors = _model(), {}
    for name in LAYERS:
        outputs, inputs = model.get_parameter(f"{name}.weight").shape
        tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(RANK, inputs)
        tensors[f"transformer.{name}.lora_B.weight"] = torch.randn(outputs, RANK)
    return tensors


def _named(tensors, change):
    return {change(key): value for key, value in tensors.items()}


def _kohya(key: str) -> str:
    layer, _, part = key.removeprefix("transformer.").rpartition(".lora_")
    name = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[part]
    return f"lora_unet_{layer.replace('.', '_')}.{name}"


def _merged(folder, tensors, metadata=None, config=None):
    file = folder / "pytorch_lora_weights.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata=metadata)
    if config is not None:
        write_json(folder / "adapter_config.json", config)
    model = _model()
    merge(model, [read_lora(file, model)])
    return model


def _assert_scaled(model, scales):
    plain, tensors = _model(), _factors()
    for name, scale in zip(LAYERS, scales, strict=True):
        change = tensors[f"transformer.{name}.lora_B.weight"] @ tensors[f"transformer.{name}.lora_A.weight"]
        wanted = plain.get_parameter(f"{name}.weight") + scale * change
        torch.testing.assert_close(model.get_parameter(f"{name}.weight"), wanted)


@pytest.mark.parametrize(
    "name",
    [
        lambda key: key,
        lambda key: key.removeprefix("transformer."),
        lambda key: key.replace("transformer.", "diffusion_model.", 1),
        lambda key: key.replace("transformer.", "base_model.model.", 1),
        lambda key: f"base_model.model.{key}",
        lambda key: key.replace(".weight", ".default.weight"),
        lambda key: key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"),
        _kohya,
    ],
)
def test_every_naming_is_the_same_adapter(tmp_path, name):
    _assert_scaled(_merged(tmp_path, _named(_factors(), name)), (1, 1))


@pytest.mark.parametrize("name", [lambda key: key, _kohya])
def test_alpha_tensors_scale_their_layer(tmp_path, name):
    tensors = _named(_factors(), name)
    first = next(key for key in tensors if "to_q" in key)
    tensors[first.rpartition(".lora_")[0] + ".alpha"] = torch.tensor(8.0)
    _assert_scaled(_merged(tmp_path, tensors), (2, 1))


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({"r": 4, "lora_alpha": 8}, (2, 2)),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, (4, 4)),
        ({"r": 4, "lora_alpha": 2, "alpha_pattern": {"to_q": 12}}, (3, 0.5)),
        ({"r": 4, "lora_alpha": 2, "alpha_pattern": {"q": 12}}, (0.5, 0.5)),  # a pattern begins at a name
        ({"r": 2, "lora_alpha": 4, "rank_pattern": {r".*attn\.to_.+": 4}}, (1, 1)),
        ({"r": 4, "lora_alpha": 0.0}, (0, 0)),
    ],
)
@pytest.mark.parametrize("where", ["metadata", "beside"])
def test_config_sets_the_strength(tmp_path, where, config, scales):
    if where == "metadata":
        values = {f"transformer.{key}": value for key, value in config.items()}
        metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(values)}
        _assert_scaled(_merged(tmp_path, _factors(), metadata), scales)
    else:
        _assert_scaled(_merged(tmp_path, _factors(), config={"peft_type": "LORA", "bias": "none", **config}), scales)


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"alpha_pattern": {"to_q": 3}, "rank_pattern": {"0": 2}}]
)
def test_merged_is_what_peft_merges(tmp_path, options):
    peft = pytest.importorskip("peft")
    torch.manual_seed(2)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "to_out.0"], init_lora_weights=False, **options)
    adapted = peft.get_peft_model(_model(), config)
    adapted.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    write_json(tmp_path / "adapter_config.json", saved | {"init_lora_weights": True})  # random here, to have a change
    model = _model()
    merge(model, [read_lora(tmp_path / "adapter_model.safetensors", model)])
    theirs = adapted.merge_and_unload().state_dict()
    assert any(not torch.equal(theirs[key], value) for key, value in _model().state_dict().items())
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, theirs[key])


def _with(key, value):
    return lambda tensors: {**tensors, key: value}


Q = f"transformer.{LAYERS[0]}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: {}, "holds no tensor"),
        (_with(f"{Q}.lora_magnitude_vector", torch.ones(8)), r"to_q\.lora_magnitude_vector: magnitudes \(DoRA\)"),
        (_with(f"{Q}.dora_scale", torch.ones(8, 1)), r"dora_scale: magnitudes"),
        (_with(f"{Q}.lora_B.bias", torch.ones(8)), r"to_q\.lora_B\.bias: biases"),
        (_with(f"{Q}.hada_w1_a", torch.ones(8, 2)), "LoHa"),
        (_with(f"{Q}.lokr_w1", torch.ones(8, 2)), "LoKr"),
        (_with(f"{Q}.diff", torch.ones(8, 6)), "full differences"),
        (_with(f"{Q}.weight", torch.ones(8, 6)), r"to_q\.weight: it is no part of a LoRA"),
        (_with("text_encoder.layers.0.q_proj.lora_A.weight", torch.ones(4, 6)), "only the transformer"),
        (_with("lora_te_text_model_q.lora_down.weight", torch.ones(4, 6)), "only the transformer"),
        (_with("transformer.transformer_blocks.7.attn.to_q.lora_A.weight", torch.ones(4, 6)), "no such linear layer"),
        (_with(f"{LAYERS[0]}.lora_A.weight", torch.ones(4, 6)), "another tensor is the same part"),
        (_with(f"{Q}.lora_A.weight", torch.full((4, 6), math.nan)), "not finite"),
        (_with(f"{Q}.lora_A.weight", torch.ones(4, 6, dtype=torch.int8)), "not finite"),
        (_with(f"{Q}.alpha", torch.tensor(math.inf)), "not finite"),
        (_with(f"{Q}.alpha", torch.ones(2)), "no single number"),
        (_with(f"{Q}.lora_A.weight", torch.ones(3, 6)), r"\(3, 6\) and \(8, 4\) of .*to_q, which is \(8, 6\)"),
        (_with(f"{Q}.lora_A.weight", torch.ones(4, 6, 1, 1)), "which is"),
        (lambda t: {k: v for k, v in t.items() if "to_q.lora_A" not in k}, "incomplete: .*to_q lacks lora_A"),
        (lambda t: {k: v for k, v in t.items() if "to_q.lora_B" not in k}, "incomplete: .*to_q lacks lora_B"),
    ],
)
def test_what_is_not_merged_is_named(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        _merged(tmp_path, change(_factors()))
    assert "\n" not in str(error.value)
    assert "pytorch_lora_weights.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 4, "lora_alpha": 8, "use_dora": True}, "use_dora"),
        ({"r": 4, "lora_alpha": 8, "lora_bias": True}, "lora_bias"),
        ({"r": 4, "lora_alpha": 8, "bias": "all"}, "bias"),
        ({"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"r": 4, "lora_alpha": 8, "peft_type": "LOHA"}, "peft_type"),
        ({"r": 4, "lora_alpha": "8"}, "lora_alpha should be a finite number"),
        ({"r": 4}, "lora_alpha come together"),
        ({"r": 2, "lora_alpha": 8}, "of rank 4, and of rank 2 by its config"),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"(": 2}}, "pattern"),
        ({"r": 4, "lora_alpha": 8, "fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"r": 4, "lora_alpha": 8, "modules_to_save": ["proj_out"]}, "modules_to_save"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused(tmp_path, config, message):
    with pytest.raises(CheckpointError, match=message):
        _merged(tmp_path, _factors(), config=config)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"lora_adapter_metadata": "{"}, "not valid JSON"),
        ({"lora_adapter_metadata": "[]"}, "should hold a JSON object"),
        ({"lora_adapter_metadata": '{"text_encoder.r": 4}'}, "text_encoder.r"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"ss_network_alpha": "8", "ss_network_dim": "4"}, "ss_network_alpha 8"),
    ],
)
def test_metadata_that_cannot_be_honoured_is_refused(tmp_path, metadata, message):
    with pytest.raises(CheckpointError, match=message):
        _merged(tmp_path, _factors(), metadata)


def test_two_statements_of_strength_must_agree(tmp_path):
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})}
    with pytest.raises(CheckpointError, match="another strength"):
        _merged(tmp_path, _factors(), metadata, {"r": 4, "lora_alpha": 4})
    _assert_scaled(_merged(tmp_path, _factors(), metadata, {"r": 4, "lora_alpha": 8}), (2, 2))
    with pytest.raises(CheckpointError, match="alpha both as tensors"):
        _merged(tmp_path, _with(f"{Q}.alpha", torch.tensor(4.0))(_factors()), metadata)


def test_adapters_are_summed_in_float32_and_rounded_once():
    """Weights of .02 in bfloat16 are 1e-4 apart: most of the changes here are lost if the weights are rounded first."""
    torch.manual_seed(0)
    layer = nn.ModuleDict({"a": nn.Linear(64, 64, bias=False)})
    layer["a"].weight.data.normal_(std=0.02)
    before = layer["a"].weight.detach().clone()
    changes = [LowRank(torch.randn(2, 64), 5e-5 * torch.randn(64, 2), scale) for scale in (1.0, 0.5)]
    merge(layer, [{"a": change} for change in changes], torch.bfloat16)
    total = before + sum(change.scale * (change.up @ change.down) for change in changes)
    assert layer["a"].weight.dtype == torch.bfloat16
    assert torch.equal(layer["a"].weight, total.bfloat16())
