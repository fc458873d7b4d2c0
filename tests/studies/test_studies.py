"""Each study, end to end, with a few steps of its arms: what it trains, keeps and writes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

STEPS = 3


def _run(study, tmp_path, *more: str) -> dict:
    """Run a study for a few steps of one seed; its JSON. Table, plot and page must be there too."""
    out = tmp_path / "docs" / "study"
    study.main(["--steps", str(STEPS), "--seeds", "1", "--runs", str(tmp_path / "runs"), "--out", str(out), *more])
    assert out.with_suffix(".png").stat().st_size > 5_000
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "| " in page
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 120
    return json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", sorted((Path(__file__).parents[2] / "studies").glob("*.py")), ids=lambda p: p.stem)
def test_a_study_finds_what_it_imports(script):
    pytest.importorskip("matplotlib")
    importlib.import_module(script.stem)


@pytest.mark.slow
def test_shortcuts_differ_in_shortcuts_alone_and_finished_arms_are_kept(tmp_path, small, monkeypatch):
    import arms
    import shortcuts

    found = _run(shortcuts, tmp_path)
    sizes = {json.dumps(results[0]["parameters"]) for results in found.values()}
    assert len(found) == 3
    assert len(sizes) == 1
    assert len({results[0]["scenes"]["psnr"] for results in found.values()}) == 3
    for results in found.values():
        assert [point["step"] for point in results[0]["curve"]] == [1, 2, 3]

    monkeypatch.setattr(arms, "train", lambda *_: pytest.fail("a finished arm was trained again"))
    assert _run(shortcuts, tmp_path) == found


def test_an_arm_is_a_function_of_its_seed(small):
    import arms

    (first, result), (second, again), (_, other) = (arms.train(arms.BASE, seed, STEPS) for seed in (0, 0, 1))
    assert result["scenes"] == again["scenes"] != other["scenes"]
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_an_arm_of_another_note_is_trained_again(tmp_path, small):
    import dataclasses

    import arms

    before = arms.finished(arms.BASE, 0, 1, tmp_path)
    after = arms.finished(dataclasses.replace(arms.BASE, note="other numbers"), 0, 1, tmp_path)
    assert (before["setting"]["note"], after["setting"]["note"]) == ("", "other numbers")


def test_no_shortcuts_means_none(small):
    import shortcuts

    model = shortcuts.WithoutShortcuts(shortcuts.F16C64)
    stages = [*model.encoder.stages(), *model.decoder.stages()]
    assert all(stage.avg_shortcut is None for stage in stages)
    x = torch.rand(1, 4, 32, 32)
    with torch.no_grad():  # strips and modules must agree about it
        strips = model.encode_raw(x)
    assert torch.allclose(model.encode_raw(x), strips, atol=1e-5)


@pytest.mark.slow
def test_compression_has_twins_and_costs(tmp_path, small, monkeypatch):
    import compression

    monkeypatch.setattr(compression, "SMALL_SIDE", 64)
    monkeypatch.setattr(compression, "ROUNDS", 1)
    monkeypatch.setattr(compression.linear_fidelity, "__defaults__", (20,))
    found = _run(compression, tmp_path, "--pages", "0")
    ours, twin = (sum(found["arms"][name][0]["parameters"].values()) for name in ("f16c64", "f8c16"))
    assert abs(ours / twin - 1) < 0.03
    assert 15 < found["linear"]["f8c16"]["scenes"] < 40
    f16, f8, packed = found["transformer"]
    assert (f16["small_tokens"], f8["small_tokens"], packed["small_tokens"]) == (16, 64, 16)
    assert f8["large_flops"] > 4 * f16["large_flops"] == 4 * packed["large_flops"]
    assert f8["small_flops"] > f16["small_flops"] > 0


def test_flops_are_counted_as_written_down():
    import compression
    from torch import nn

    layer = nn.Linear(8, 16, bias=False)
    assert compression.count(layer, (torch.rand(4, 8),), backward=False) == 2 * 4 * 8 * 16


def test_penalties_have_their_parts(tmp_path, small):
    import penalties

    found = _run(penalties, tmp_path)
    assert 0 < found["kl"][0]["own"]["kl"] < 100
    assert 0 <= found["adversarial"][0]["own"]["discriminator_right"] <= 1
    assert found["kl"][0]["parameters"] == found["f16c64"][0]["parameters"]


def test_kl_is_zero_at_the_standard_normal_and_right_elsewhere():
    import penalties
    from torch.distributions import Normal, kl_divergence

    zeros = torch.zeros(2, 3)
    assert float(penalties.kl(zeros, zeros)) == 0
    mean, log_variance = torch.randn(2, 3), torch.randn(2, 3)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(zeros, zeros + 1)).mean()
    assert torch.allclose(penalties.kl(mean, log_variance), expected, atol=1e-6)


def test_the_discriminator_learns_to_tell_and_leaves_the_autoencoder_alone(small):
    import penalties

    torch.manual_seed(0)
    objective = penalties.Adversarial(steps=0)
    x, y = torch.full((2, 4, 64, 64), 0.5), torch.full((2, 4, 64, 64), -0.5, requires_grad=True)
    for step in range(30):
        objective.turn(x + 0.1 * torch.randn(x.shape), y.detach() + 0.1 * torch.randn(x.shape), step)
    assert objective.verdicts[-1] == 1
    assert all(p.requires_grad for p in objective.discriminator.parameters())
    assert y.grad is None


@pytest.mark.slow
def test_alignment_trains_features_autoencoders_and_transformers(tmp_path, small, monkeypatch):
    import alignment
    import small_flow

    for name, value in {"SCENES": 8, "HELD_OUT": 4, "PROMPTS": 2, "SAMPLING_STEPS": 2}.items():
        monkeypatch.setattr(small_flow, name, value)
    found = _run(alignment, tmp_path, "--feature-steps", "2", "--flow-steps", "2")
    assert list(found) == ["f16c64", "aligned", "aligned-loosening"]
    for results in found.values():
        assert 0 <= results[0]["flow"]["composition"] <= 1
        assert 0 < results[0]["flow"]["normalised_loss"] < 10
    assert not found["f16c64"][0]["own"]
    assert -1 <= found["aligned"][0]["own"]["cosine"] <= 1
    strict, loosening = (found[name][0]["setting"]["note"] for name in ("aligned", "aligned-loosening"))
    assert strict != loosening


def test_the_linear_guess_of_white_latents_is_right():
    import small_flow

    white = torch.randn(64, 64, 4, generator=torch.Generator().manual_seed(0))
    # with eigenvalues of 1 the residual is 2 - (2 t - 1)^2 / (t^2 + (1 - t)^2) = 1 / (t^2 + (1 - t)^2)
    t = small_flow.path.sample_times(512, generator=torch.Generator().manual_seed(0))
    expected = (1 / (t**2 + (1 - t) ** 2)).mean()
    assert small_flow.gaussian_loss(white) == pytest.approx(float(expected), rel=0.02)


def test_words_do_not_depend_on_their_neighbours_padding():
    import small_flow

    words = small_flow.Words(["a red circle", "a cat"], 8)
    alone, lengths = words(["a cat"])
    padded, _ = words(["a cat", "a red circle, red and red"])
    assert lengths == [3]
    assert torch.equal(padded[0, :3], alone[0])
    assert words([""])[1] == [1]


def test_the_enhancer_study_reads_curves_from_a_log(tmp_path):
    pytest.importorskip("matplotlib")
    from enhance import curves

    rows = [
        {"step": 0, "scores": {"held_out": 0.4, "held_out/consistency": 0.5}},
        {"step": 1, "reward": 0.1, "kl": 0.0, "rewards/consistency/mean": 0.25},
        {"step": 2, "reward": 0.2, "kl": 0.01, "rewards/consistency/mean": 0.75},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = curves(tmp_path / "log.jsonl")
    assert found["reward"] == [(1, 0.1), (2, 0.2)]
    assert found["held_out/consistency"] == [(0, 0.5)]
    assert found["rewards/consistency"] == [(1, 0.25), (2, 0.75)]
