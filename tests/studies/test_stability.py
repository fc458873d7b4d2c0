"""The study of stability: both ways have the same size, shifts shift, and a tiny study writes what it should."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from fourstroke.dit import Layout, TransformerConfig

TINY = TransformerConfig(
    num_layers=2, num_attention_heads=2, attention_head_dim=32, axes_dims_rope=(8, 12, 12), context_in_dim=32
)


def test_both_ways_have_the_same_number_of_parameters():
    import stability

    for config in stability.SHAPES.values():
        with torch.device("meta"):
            models = stability.Transformer(config), stability.AffineTransformer(config)
        ours, theirs = (sum(p.numel() for p in model.parameters()) for model in models)
        assert abs(ours / theirs - 1) < 0.001
    sizes = [c.num_layers * c.width**2 for c in stability.SHAPES.values()]
    assert max(sizes) == min(sizes)


def test_shifts_depend_on_the_time_and_begin_at_nothing():
    import stability

    torch.manual_seed(0)
    model = stability.AffineTransformer(TINY)
    torch.nn.init.normal_(model.proj_out.weight)
    layout = Layout.build([3, 2], (2, 2))
    inputs = torch.randn(2, 4, 64), torch.tensor([0.2, 0.9]), torch.randn(2, 3, 32), layout
    before = model(*inputs)
    assert all(not part.any() for block in model.transformer_blocks for part in block.shifts)
    torch.nn.init.normal_(model.shift_modulation[1].weight)
    after = model(*inputs)
    assert not torch.allclose(before, after, atol=1e-3)
    first, second = model.transformer_blocks[0].shifts
    assert first.shape == second.shape == (2, 1, 64)  # the target's, of its own times; the prefix is done by then
    after.square().mean().backward()
    assert model.shift_modulation[1].weight.grad.any()


def test_spikes_are_far_above_what_was_before():
    import stability

    calm = [1.0 + 0.1 * (step % 3) for step in range(300)]
    assert stability.spikes(calm) == 0
    calm[150], calm[200] = 9.0, float("nan")
    assert stability.spikes(calm) == 2
    assert stability.massive({"stream": [4.0, 50.0], "median": [1.0, 0.5]}) == 100


def test_sums_in_float32_are_what_bfloat16_products_give():
    import stability

    torch.manual_seed(0)
    x, w = torch.randn(64, 48), torch.nn.Parameter(torch.randn(32, 48))
    with stability.SummedInFloat32(), torch.autocast("cpu", torch.bfloat16):
        out = torch.nn.functional.linear(x, w)
        out.sum().backward()
    exact = x.bfloat16().double() @ w.detach().bfloat16().double().T
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, exact.bfloat16())
    torch.testing.assert_close(w.grad, x.bfloat16().float().sum(0).expand(32, -1), rtol=0.01, atol=0.01)


def test_a_tiny_study_writes_curves_tables_and_a_plot_and_keeps_runs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    import small_flow
    import stability

    for name, value in {"SCENES": 16, "PROMPTS": 2}.items():
        monkeypatch.setattr(small_flow, name, value)
    monkeypatch.setattr(stability, "BATCH", 4)
    monkeypatch.setattr(stability, "SHAPES", {"today's": TINY})
    arms = tuple(
        stability.Arm(shape="today's", kind=k, precision=p) for k, p in (("scale", "fp32"), ("affine", "bf16"))
    )
    monkeypatch.setattr(stability, "ARMS", arms)
    monkeypatch.setattr(stability, "MANY", 5)
    words = ["--steps", "3", "--seeds", "1", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "stability")]
    stability.main(words)
    found = json.loads((tmp_path / "stability.json").read_text())
    assert list(found) == ["todays-scale-fp32", "todays-affine-bf16"]
    for (result,) in found.values():
        assert [point["step"] for point in result["curve"]] == [1, 2, 3]
        assert len(result["curve"][-1]["stream"]) == len(result["curve"][-1]["hidden"]) == 2
        assert min(result["curve"][-1]["stream"]) > 0
        assert 0 <= result["composition_4"] <= 1
        assert result["kept"] > 5
    page = (tmp_path / "stability.md").read_text()
    assert "GELU, scale and shift" in page
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 120
    assert (tmp_path / "stability.png").stat().st_size > 5_000
    monkeypatch.setattr(stability, "Trained", lambda *_: pytest.fail("a finished run was made again"))
    stability.main(words)
    shutil.rmtree(tmp_path / "runs")
    stability.main(words)
    stability.main([*words, "--precisions", "fp32"])
    assert json.loads((tmp_path / "stability.json").read_text()) == found
    with pytest.raises(pytest.fail.Exception):
        stability.main([*words, "--steps", "4"])
    assert dataclasses.asdict(arms[0])["precision"] == "fp32"
