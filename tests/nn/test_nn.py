"""Norms, rotary positions and attention: what must hold whatever the weights."""

from __future__ import annotations

import pytest
import torch

import fourstroke.nn.attention as attention
from fourstroke.nn import Attention, RMSNorm, Span, SwiGLU, ZeroCentredRMSNorm, feedforward, rotary_table, rotate
from fourstroke.nn.attention import norm_rotate

AXES = (4, 6, 6)


def positions(count: int, offset: int = 0) -> torch.Tensor:
    return (torch.arange(count) + offset)[None, :, None].expand(1, -1, 3)


def test_norms_are_the_same_function_with_shifted_weights():
    x = torch.randn(2, 3, 8) * 5
    plain, centred = RMSNorm(8), ZeroCentredRMSNorm(8)
    torch.testing.assert_close(plain(x).square().mean(-1), torch.ones(2, 3), rtol=1e-4, atol=1e-4)
    torch.nn.init.normal_(centred.weight)
    plain.weight.data = centred.weight.data + 1
    torch.testing.assert_close(plain(x), centred(x))


def test_centred_norm_keeps_small_scales_in_bfloat16():
    norm = ZeroCentredRMSNorm(4).bfloat16()
    norm.weight.data.fill_(1e-3)
    x = torch.full((1, 4), 3000.0, dtype=torch.bfloat16)
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x).float(), torch.ones(1, 4), rtol=0.01, atol=0)


def test_rotation_keeps_lengths_and_depends_on_differences_only():
    q, k = torch.randn(2, 1, 7, 2, 16)
    near, far = (rotary_table(positions(7, offset), AXES) for offset in (-3, 200))
    torch.testing.assert_close(rotate(q, near).norm(dim=-1), q.norm(dim=-1))
    scores = [torch.einsum("bqhd,bkhd->bhqk", rotate(q, table), rotate(k, table)) for table in (near, far)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-3)


def test_rotation_at_zero_is_the_identity():
    x = torch.randn(2, 3, 2, 16, dtype=torch.bfloat16)
    assert torch.equal(rotate(x, rotary_table(torch.zeros(1, 3, 3), AXES)), x)


def test_spans_equal_one_block_causal_mask():
    torch.manual_seed(0)
    attention = Attention(32, 2, 16)
    x, rotary = torch.randn(2, 9, 32), rotary_table(positions(9), AXES)
    block = torch.tensor([-1, -1, 0, 0, 0, 1, 1, -1, -1])
    allowed = torch.ones(9, 9).tril().bool() | ((block[:, None] == block) & (block >= 0))
    spans = (Span(0, 2, causal=True), Span(2, 5), Span(5, 7), Span(7, 9, mask=allowed[7:]))
    expected = attention(x, rotary, key_mask=allowed[None, None])[0]
    torch.testing.assert_close(attention(x, rotary, spans=spans)[0], expected)


@pytest.mark.parametrize("kind", ["all", "causal", "masked"])
def test_small_training_in_bfloat16_attends_as_the_fused_function_does(kind, monkeypatch):
    torch.manual_seed(0)
    mask = (torch.rand(3, 1, 1, 7) < 0.6) | (torch.arange(7) == 0)
    span = Span(0, 7, causal=kind == "causal", mask=mask if kind == "masked" else None)

    def attend() -> list[torch.Tensor]:
        torch.manual_seed(1)
        qkv = [torch.randn(3, 7, 2, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        out = attention._attend(*qkv, span)
        out.square().sum().backward()
        return [out.detach(), *(tensor.grad for tensor in qkv)]

    asked = []
    whole = attention._multiply
    monkeypatch.setattr(attention, "_multiply", lambda *a, **b: asked.append(1) or whole(*a, **b))
    own = attend()
    assert asked
    monkeypatch.setattr(attention, "LARGE", 0)
    fused = attend()
    assert len(asked) == 1
    for ours, theirs in zip(own, fused, strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), atol=0.03, rtol=0.03)


def test_a_shared_past_equals_a_repeated_one():
    torch.manual_seed(0)
    attention = Attention(32, 2, 16)
    past = attention.keys_values(torch.randn(2, 4, 32), rotary_table(positions(4), AXES))
    x, rotary = torch.randn(6, 3, 32), rotary_table(positions(3, 4), AXES)
    repeated = type(past)(*(part.repeat_interleave(3, 0) for part in past))
    assert torch.equal(attention(x, rotary, past=past)[0], attention(x, rotary, past=repeated)[0])


def test_swiglu_keeps_the_shape_and_has_no_bias():
    layer = SwiGLU(8, 24)
    assert layer(torch.zeros(2, 3, 8)).abs().max() == 0
    assert sum(p.numel() for p in layer.parameters()) == 3 * 8 * 24


def test_without_gradients_swiglu_takes_many_tokens_part_by_part(monkeypatch):
    torch.manual_seed(0)
    layer, x, passed = SwiGLU(8, 24), torch.randn(2, 13, 8), []
    whole = layer(x)
    layer.out.register_forward_hook(lambda module, inputs, out: passed.append(len(inputs[0])))
    monkeypatch.setattr(feedforward, "ROWS", 10)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), whole)
    assert passed == [10, 10, 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_norm_and_rotation_are_the_same_in_fewer_steps(dtype):
    torch.manual_seed(0)
    x, norm = 3 * torch.randn(2, 5, 3, 12), RMSNorm(12)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    rotary = rotary_table(torch.randint(-9, 99, (2, 5, 3)), (4, 4, 4))
    exact = rotate(norm(x.to(dtype).float()), rotary).detach()
    norm.to(dtype)
    before = (x := x.to(dtype)).clone()
    stepwise = norm_rotate(x, norm, rotary)
    with torch.no_grad():
        fused = norm_rotate(x, norm, rotary)
    assert torch.equal(x, before)
    assert fused.dtype == dtype
    assert stepwise.requires_grad
    if dtype == torch.float32:
        torch.testing.assert_close(fused, stepwise.detach(), rtol=1e-6, atol=1e-6)
    else:
        errors = [(way.float() - exact).norm() for way in (fused, stepwise)]
        assert errors[0] <= errors[1]
