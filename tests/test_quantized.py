"""Weights in fewer bits: how near they are, that they are as small as they say, and what stands beside them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fourstroke.choices import METHODS
from fourstroke.lora.adapters import attach_lora, remove_lora
from fourstroke.lora.layers import LowRank
from fourstroke.placement import place
from fourstroke.quantized import BYTES, GROUP, QuantizedWeight, _rounded_product, fits, packed, quantized, unpacked

ERRORS = {"int8": 0.008, "fp8": 0.03, "int4": 0.1, "w8a8": 0.008}


def _weight(dtype=torch.float32, rows=192, columns=256):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(dtype)


def _far(a, b):
    return float((a.float() - b.float()).norm() / b.float().norm())


@pytest.mark.parametrize("method", METHODS)
def test_near_and_small(method):
    weight = _weight(torch.bfloat16)
    few = quantized(weight, method)
    assert (few.shape, few.dtype) == (weight.shape, weight.dtype)
    assert 0 < _far(few.plain(), weight) < ERRORS[method]
    assert few.held <= BYTES[method] * weight.numel() * 1.02
    x = torch.randn(2, 33, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert _far(F.linear(x, few), F.linear(x, weight)) < (2 if method == "w8a8" else 1.2) * ERRORS[method]


def test_what_has_few_values_is_kept_exactly():
    numbers = torch.arange(256).remainder(16) - 8.0
    weight = (numbers * torch.tensor([0.5, -2.0, 0.0])[:, None]).contiguous()
    assert torch.equal(quantized(weight, "int4").plain(), weight)
    rows = torch.arange(-127.0, 128.0)[None] * 0.25
    assert torch.equal(quantized(rows, "int8").plain(), rows)


def test_int4_needs_whole_groups():
    assert fits(_weight(), "int4")
    assert not fits(_weight(columns=GROUP), "int4")
    assert fits(_weight(columns=GROUP), "int8")


@pytest.mark.parametrize("method", METHODS)
def test_a_file_gives_back_what_it_was_given(method):
    few = quantized(_weight(torch.bfloat16), method)
    stored = packed({"x.weight": few, "y": torch.ones(2)})
    assert not any(isinstance(tensor, QuantizedWeight) for tensor in stored.values())
    back = unpacked(stored, torch.bfloat16)
    assert back.keys() == {"x.weight", "y"}
    assert back["x.weight"].method == ("int8" if method == "w8a8" else method)
    assert torch.equal(back["x.weight"].plain(), few.plain())


def test_scales_that_belong_to_nothing_are_refused():
    stored = packed({"x.weight": quantized(_weight(), "int8")})
    with pytest.raises(ValueError, match="it should be"):
        unpacked(stored | {"x.weight_scale": torch.ones(3, 1)})
    with pytest.raises(ValueError, match="no way of ours"):
        unpacked(stored | {"x.weight": torch.ones(192, 256)})


def test_activations_rounded_too():
    weight, x = _weight(), torch.randn(40, 256, generator=torch.Generator().manual_seed(1))
    assert _far(_rounded_product(x, quantized(weight, "int8")), x @ weight.T) < 0.015


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this CPU has no int8 products")
def test_activations_are_rounded_where_that_was_asked_for():
    weight, x = _weight(torch.bfloat16), torch.randn(40, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    layers = nn.ModuleList([nn.Linear(256, 192, bias=False).requires_grad_(False) for _ in range(2)])
    for layer in layers:
        layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    here = {"dtype": torch.bfloat16, "device": torch.device("cpu")}
    place(layers, **here, method="int8", blocks=layers)
    spread = layers[0](x)
    assert torch.equal(spread, layers[1](x))
    place(layers, **here, method="w8a8", blocks=layers[1:])  # the numbers of int8 stay, and are multiplied
    rounded = layers[1](x)
    assert torch.equal(layers[0](x), spread)
    assert torch.equal(rounded, _rounded_product(x, layers[1].weight).bfloat16())
    assert 0 < _far(rounded, spread) < 0.015


def test_a_layer_moves_and_takes_gradients():
    layer = nn.Linear(256, 192, bias=False)
    layer.weight = nn.Parameter(quantized(_weight(), "int8"), requires_grad=False)
    x = torch.randn(3, 256, requires_grad=True)
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.plain().sum(0).expand(3, -1), atol=1e-4)
    assert layer.to("meta").weight.numbers.is_meta


def test_adapters_stand_beside():
    model = nn.Sequential(nn.Linear(256, 192, bias=False))
    model[0].weight = nn.Parameter(quantized(_weight(), "int4"), requires_grad=False)
    x = torch.randn(5, 256)
    before = model(x)
    change = LowRank(torch.randn(4, 256), torch.randn(192, 4), 0.5)
    attach_lora(model, "style", {"0": change})
    assert torch.allclose(model(x), before + 0.5 * x @ change.down.T @ change.up.T, atol=1e-3)
    remove_lora(model)
    assert torch.equal(model(x), before)


def test_placed_one_at_a_time_and_only_where_it_may_be():
    model = nn.ModuleDict({"in": nn.Linear(128, 128), "blocks": nn.ModuleList([nn.Linear(128, 128)])})
    model["tied"] = nn.Linear(128, 128)
    model["tied"].weight = model["in"].weight
    model.register_buffer("angles", torch.ones(3))
    place(model, dtype=torch.bfloat16, device=torch.device("cpu"), method="int8", blocks=model["blocks"])
    assert isinstance(model["blocks"][0].weight, QuantizedWeight)
    assert not isinstance(model["in"].weight, QuantizedWeight)
    assert model["in"].weight.dtype == model["blocks"][0].bias.dtype == torch.bfloat16
    assert model["tied"].weight is model["in"].weight
    assert model.angles.dtype == torch.float32
    place(model, dtype=torch.float32, device=torch.device("cpu"))
    assert isinstance(model["blocks"][0].weight, QuantizedWeight)  # stays so, and answers in another type
    assert model["blocks"][0].weight.dtype == torch.float32
