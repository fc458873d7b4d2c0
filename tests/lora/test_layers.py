"""Adapters of a model: nothing changes until one does something, each is apart, merging is exact and can be undone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fourstroke.lora import (
    LoraConfig,
    LowRank,
    active_lora,
    add_lora,
    attach_lora,
    lora_adapters,
    lora_layers,
    lora_module,
    lora_parameters,
    lora_strengths,
    merge,
    merge_lora,
    remove_lora,
    reset_lora,
    set_lora,
    unmerge_lora,
    without_factors,
)

LAYERS = ("transformer_blocks.*",)


def plain_model() -> nn.Module:
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5, bias=False))
    return nn.ModuleDict({"transformer_blocks": blocks, "out": nn.Linear(5, 5)})


def _forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model["out"](model["transformer_blocks"](x))


def _add(model: nn.Module, *names: str, rank: int = 2, **options) -> None:
    for name in names:
        add_lora(model, LoraConfig(rank=rank, targets=LAYERS, **options), name)


def _change(model: nn.Module, name: str, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for factor in lora_parameters(model, name).values():
            factor.copy_(torch.randn(factor.shape, generator=generator))


def test_adapters_start_as_nothing_and_stay_apart():
    model, x = plain_model(), torch.randn(3, 6)
    plain = _forward(model, x)
    _add(model, "a", "b")
    assert set(lora_layers(model)) == {"transformer_blocks.0", "transformer_blocks.2"}
    assert torch.equal(_forward(model, x), plain)
    _change(model, "a")
    with active_lora(model, "a"):
        changed = _forward(model, x)
        assert not torch.allclose(changed, plain)
        with active_lora(model, "b"):
            assert torch.equal(_forward(model, x), plain)
        assert torch.equal(_forward(model, x), changed)
    with active_lora(model, None):
        assert torch.equal(_forward(model, x), plain)


def test_the_base_keeps_its_names_and_its_weights():
    model = plain_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    _add(model, "a")
    state = model.state_dict()
    assert {key for key in state if ".lora_" not in key} == before.keys()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    model.load_state_dict({key: value + 1 for key, value in before.items()}, strict=False)  # as a checkpoint loads
    assert torch.equal(model.get_parameter("transformer_blocks.0.weight"), before["transformer_blocks.0.weight"] + 1)


@pytest.mark.parametrize("again", [False, True])
def test_only_the_adapter_in_use_learns_with_checkpointing_and_without(again):
    model = plain_model()
    _add(model, "a", "b")
    _change(model, "a")
    _change(model, "b")
    with active_lora(model, "b"):
        x = torch.randn(3, 6)
        out = checkpoint(_forward, model, x, use_reentrant=False) if again else _forward(model, x)
        out.square().sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {f"transformer_blocks.{i}.lora_b.lora_{side}.weight" for i in (0, 2) for side in "AB"}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"transformer_blocks.{i}.lora_{n}.lora_{s}.weight" for i in (0, 2) for s in "AB" for n in "ab"}


def test_alpha_and_strength_scale_and_several_add_up():
    model, x = plain_model(), torch.randn(3, 6)
    _add(model, "a", alpha=6.0)
    _add(model, "b", rank=1)
    _change(model, "a", 1)
    _change(model, "b", 2)
    layer, weight = lora_layers(model)["transformer_blocks.0"], model.get_parameter("transformer_blocks.0.weight")
    parts = {name: a.lora_B.weight @ a.lora_A.weight for name, a in layer.adapters.items()}
    set_lora(model, {"a": 0.5, "b": -2.0})
    wanted = nn.functional.linear(x, weight + 0.5 * 3 * parts["a"] - 2 * parts["b"], layer.bias)
    torch.testing.assert_close(layer(x), wanted)
    set_lora(model, {"a": 0.0, "b": 1.0})
    assert lora_strengths(model) == {"a": 0.0, "b": 1.0}
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight + parts["b"], layer.bias))


def test_dropout_hides_inputs_from_the_adapter_in_training_alone():
    model = plain_model()
    _add(model, "a", dropout=0.5)
    _change(model, "a")
    layer = lora_layers(model)["transformer_blocks.0"].eval()
    x = torch.ones(1, 6)
    assert torch.equal(layer(x), layer(x))
    change = layer(x) - nn.functional.linear(x, layer.weight, layer.bias)
    layer.train()
    drawn = torch.stack([layer(x) for _ in range(2000)])
    assert drawn.std(0).max() > 0.1
    mean = drawn.mean(0) - nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(mean, change, atol=0.3, rtol=0.1)  # the rest is scaled up
    torch.manual_seed(1)
    first = checkpoint(layer, x, use_reentrant=False)
    first.sum().backward()  # recomputed with the same inputs hidden, else this raises or differs
    assert layer.adapters["a"].lora_A.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_is_unmerged_and_unmerging_restores_the_weights(dtype):
    model = plain_model().to(dtype)
    _add(model, "a", "b")
    for seed, name in enumerate("ab"):
        _change(model, name, seed)
    set_lora(model, {"a": 0.3, "b": 0.2})
    x = torch.randn(64, 6, dtype=dtype)
    before, apart = copy.deepcopy(model.state_dict()), _forward(model, x)
    merge_lora(model)
    assert not torch.equal(model.get_parameter("transformer_blocks.0.weight"), before["transformer_blocks.0.weight"])
    grain = 3e-2 if dtype == torch.bfloat16 else 1e-5
    assert (_forward(model, x) - apart).float().abs().max() < grain * apart.float().abs().max()
    with pytest.raises(ValueError, match="unmerge them first"):
        set_lora(model, {"a": 1.0})
    merge_lora(model)  # nothing is added twice
    unmerge_lora(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(_forward(model, x), apart)


def test_a_merge_in_bfloat16_keeps_small_changes_in_the_mean():
    """Weights of .02 stand 1.2e-4 apart there: a change of 1e-4 moves one by nothing or by a whole step."""
    torch.manual_seed(0)
    layer = nn.ModuleDict({"a": nn.Linear(256, 256, bias=False)}).bfloat16()
    layer["a"].weight.data.normal_(std=0.02)
    before = layer["a"].weight.detach().float()
    parts = [LowRank(torch.randn(4, 256), torch.randn(256, 4), scale) for scale in (1.0, 0.5, 0.5)]
    total = sum(part.scale * (part.up @ part.down) for part in parts)
    parts = [LowRank(part.down, part.up * (1e-4 / total.std()), part.scale) for part in parts]
    wanted = total * (1e-4 / total.std())
    merge(layer, [{"a": part} for part in parts])
    assert torch.equal(layer["a"].weight, (before + wanted).bfloat16())  # one rounding, of the sum
    found = layer["a"].weight.detach().float() - before
    assert ((found * wanted).sum() / wanted.square().sum()).item() == pytest.approx(1.0, abs=0.02)
    assert found.mean().item() == pytest.approx(wanted.mean().item(), abs=2e-6)


def test_merging_for_good_is_merging():
    model, x = plain_model(), torch.randn(3, 6)
    plain = copy.deepcopy(model)
    _add(model, "a", rank=3, alpha=1.5)
    _change(model, "a")
    merge(plain, [{path: adapter.change for path, adapter in lora_adapters(model, "a").items()}])
    torch.testing.assert_close(_forward(plain, x), _forward(model, x))


def test_what_is_removed_leaves_the_model_as_it_was():
    model, x = plain_model().eval(), torch.randn(3, 6)
    plain, modules = _forward(model, x), {name: type(m) for name, m in model.named_modules()}
    keys = list(model.state_dict())
    _add(model, "a", "b")
    _change(model, "a")
    remove_lora(model, "b")
    assert lora_strengths(model) == {"a": 1.0}
    with without_factors(model):
        assert list(model.state_dict()) == keys
        assert torch.equal(_forward(model, x), plain)
    assert lora_strengths(model) == {"a": 1.0}
    remove_lora(model)
    assert {name: type(m) for name, m in model.named_modules()} == modules
    assert torch.equal(_forward(model, x), plain)


def test_an_adapter_is_a_module_of_its_own_with_the_names_of_peft():
    model = plain_model()
    _add(model, "a", "b")
    own = lora_module(model, "a")
    assert list(own.state_dict()) == [f"transformer_blocks.{i}.lora_{side}.weight" for i in (0, 2) for side in "AB"]
    _change(model, "a")
    state = {key: value.clone() for key, value in own.state_dict().items()}
    _change(model, "a", 5)
    own.load_state_dict(state)  # the model's own factors
    assert torch.equal(model.get_parameter("transformer_blocks.0.lora_a.lora_A.weight"), next(iter(state.values())))


def test_factors_start_the_same_everywhere_and_differ_by_layer_name_and_seed():
    first, second = plain_model(), plain_model()
    torch.manual_seed(1)
    _add(first, "a", "b")
    torch.manual_seed(2)
    _add(second, "a")
    a, b = lora_parameters(first, "a"), lora_parameters(first, "b")
    assert all(torch.equal(p, a[key]) for key, p in lora_parameters(second, "a").items())
    down = "transformer_blocks.0.lora_A.weight"
    assert not torch.equal(a[down], b[down])
    assert not a[down.replace("_A", "_B")].any()
    start = a[down].clone()
    reset_lora(first, "a", seed=1)
    assert not torch.equal(a[down], start)


def test_adapters_come_to_models_without_memory():
    with torch.device("meta"):
        model = plain_model()
    _add(model, "a")
    assert all(p.is_meta for p in model.parameters())
    model.to_empty(device="cpu")
    with_memory = plain_model()
    model.load_state_dict(with_memory.state_dict(), strict=False)
    reset_lora(model, "a")
    _add(with_memory, "a")
    state = with_memory.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_targets_are_the_ends_of_names():
    model = plain_model()
    add_lora(model, LoraConfig(rank=1, targets=("0", "out")))
    assert set(lora_layers(model)) == {"transformer_blocks.0", "out"}
    with pytest.raises(ValueError, match="ends in 'blocks'"):
        add_lora(plain_model(), LoraConfig(targets=("0", "blocks")))
    with pytest.raises(ValueError, match="ends in 'ut'"):
        add_lora(plain_model(), LoraConfig(targets=("ut",)))


@pytest.mark.parametrize("name", ["", "a.b"])
def test_names_that_cannot_be_are_refused(name):
    with pytest.raises(ValueError, match="cannot be called"):
        attach_lora(plain_model(), name, {})


@pytest.mark.parametrize("name", ["half", "weight", "train", "A", "keys", "猫 2"])
def test_names_may_be_any_words(name):
    model = plain_model()
    _add(model, name)
    assert lora_strengths(model) == {name: 1.0}
    assert len(lora_parameters(model, name)) == 4


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        add_lora(plain_model(), LoraConfig(rank=0))
    for options in ({"rank": -1}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": ()}):
        with pytest.raises(ValueError, match=next(iter(options))):
            LoraConfig(**options)
    model = plain_model()
    _add(model, "a")
    with pytest.raises(ValueError, match="'a' already"):
        _add(model, "a")
    for ask in (lambda: set_lora(model, {"b": 1.0}), lambda: remove_lora(model, "b"), lambda: lora_module(model, "b")):
        with pytest.raises(ValueError, match="no adapter called 'b'; there is a"):
            ask()
