"""Adapters: nothing changes until one is active, each is apart, and merging gives the same model."""

from __future__ import annotations

import copy

import pytest
import torch

from fourstroke.nn.lora import LowRank, active, adapter_tensors, adapters, add_adapters, factors, merge


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    blocks = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5, bias=False))
    return torch.nn.ModuleDict({"transformer_blocks": blocks, "out": torch.nn.Linear(5, 5)})


def _forward(model, x):
    return model["out"](model["transformer_blocks"](x))


def _changes(model, name):
    tensors = adapter_tensors(model, name, prefix="")
    names = {key.rpartition(".lora_")[0] for key in tensors}
    return {n: LowRank(tensors[f"{n}.lora_A.weight"], tensors[f"{n}.lora_B.weight"]) for n in names}


def test_adapters_start_as_nothing_and_stay_apart():
    model, x = _model(), torch.randn(3, 6)
    plain = _forward(model, x)
    add_adapters(model, 2, ("a", "b"))
    assert set(adapters(model)) == {"transformer_blocks.0", "transformer_blocks.2"}
    with active(model, "a"):
        assert torch.equal(_forward(model, x), plain)
        with torch.no_grad():
            for factor in factors(model, "a").values():
                factor.add_(0.3)
        changed = _forward(model, x)
        assert not torch.allclose(changed, plain)
        with active(model, "b"):
            assert torch.equal(_forward(model, x), plain)
        assert torch.equal(_forward(model, x), changed)
    assert torch.equal(_forward(model, x), plain)


def test_only_the_active_adapter_learns():
    model = _model().requires_grad_(False)
    add_adapters(model, 2, ("a", "b"))
    with active(model, "b"):
        _forward(model, torch.randn(3, 6)).square().sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {f"transformer_blocks.{i}.up.b" for i in (0, 2)}  # the other factor waits for this one
    assert all(".base." not in name for name, p in model.named_parameters() if p.requires_grad)


def test_merged_is_active():
    model, x = _model(), torch.randn(3, 6)
    plain = copy.deepcopy(model)
    add_adapters(model, 3, ("a",))
    with torch.no_grad():
        for factor in factors(model, "a").values():
            factor.normal_()
    merge(plain, [_changes(model, "a")])
    with active(model, "a"):
        torch.testing.assert_close(_forward(plain, x), _forward(model, x))


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        add_adapters(_model(), 0, ("a",))
    with pytest.raises(ValueError, match="no linear layer"):
        add_adapters(_model(), 1, ("a",), within="nothing.")
