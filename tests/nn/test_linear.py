"""Linear layers are those of PyTorch, whichever library multiplies."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fourstroke.nn import Linear, linear
from fourstroke.nn.linear import LARGE, ONEDNN

onednn = pytest.mark.skipif(not ONEDNN, reason="PyTorch without MKL or oneDNN")


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = Linear(LARGE // 512, 512)
    assert layer.weight.numel() == LARGE
    return layer


@pytest.fixture
def calls(monkeypatch):
    """Shapes that oneDNN multiplied."""
    seen, real = [], torch.ops.mkldnn._linear_pointwise

    def spy(x, *rest):
        seen.append(tuple(x.shape))
        return real(x, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", spy)
    return seen


@onednn
@torch.no_grad()
def test_large_products_are_those_of_pytorch_by_another_library(layer, calls):
    for shape in ((1, 1), (2, 7), (3,)):
        x = torch.randn(*shape, layer.in_features)
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight), rtol=1e-5, atol=1e-5)
    strided = torch.randn(layer.in_features, 5).T
    torch.testing.assert_close(layer(strided), F.linear(strided, layer.weight), rtol=1e-5, atol=1e-5)
    bias = torch.randn(512)
    torch.testing.assert_close(linear(x, layer.weight, bias), F.linear(x, layer.weight, bias), rtol=1e-5, atol=1e-5)
    assert len(calls) == 5


@onednn
def test_training_small_weights_other_types_and_subclasses_are_left_to_pytorch(layer, calls):
    x = torch.randn(4, layer.in_features)
    assert torch.equal(layer(x), F.linear(x, layer.weight))
    with torch.no_grad():
        small = Linear(8, 8)
        assert torch.equal(small(x[:, :8]), F.linear(x[:, :8], small.weight))
        with torch.autocast("cpu"):
            assert layer(x).dtype == torch.bfloat16

        class Quantised(torch.Tensor):
            pass

        layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised))
        layer(x)
        assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert calls == []
