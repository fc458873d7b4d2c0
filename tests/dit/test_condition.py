"""A bound transformer: rows side by side, cached or joint, are what each prompt gives alone."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from fourstroke.dit import InputImages, Transformer, TransformerConfig, condition, prefill, together

SIZES = {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 16, "context_in_dim": 24}
GRID = (2, 3)


def model(causal: bool = True) -> Transformer:
    """A small transformer whose velocity is not zero."""
    torch.manual_seed(0)
    found = Transformer(TransformerConfig(causal_condition=causal, axes_dims_rope=(4, 6, 6), **SIZES))
    torch.nn.init.normal_(found.proj_out.weight, std=0.1)
    torch.nn.init.normal_(found.norm_out["linear"].weight, std=0.1)
    return found


def words(*lengths: int, slots: torch.Tensor | None = None) -> SimpleNamespace:
    """Features of prompts of these lengths, padded."""
    features = torch.randn(len(lengths), max(lengths), 24, generator=torch.Generator().manual_seed(1))
    return SimpleNamespace(features=features, lengths=torch.tensor(lengths), slots=slots)


def edits() -> tuple[SimpleNamespace, InputImages]:
    """Two instructions, each with an input image of 2 x 4 latents in its two slots."""
    slots = torch.tensor([False, True, True, False, False]).expand(2, -1)
    tokens = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(2))
    return words(5, 4, slots=slots), InputImages(tokens=tokens, grids=((2, 4),))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("edit", [True, False])
def test_rows_side_by_side_are_those_of_each_prompt_alone(causal, edit):
    transformer = model(causal)
    text, images = edits() if edit else (words(5, 3), None)
    x, t = torch.randn(6, 6, 64), torch.rand(6)
    with torch.no_grad():
        found = condition(transformer, text, GRID, images, repeats=3)(x, t)
        for row in range(2):
            length = int(text.lengths[row])
            one = SimpleNamespace(
                features=text.features[row : row + 1, :length],
                lengths=text.lengths[row : row + 1],
                slots=None if text.slots is None else text.slots[row : row + 1, :length],
            )
            own = images and InputImages(tokens=images.tokens[row : row + 1], grids=images.grids)
            here = slice(3 * row, 3 * row + 3)
            alone = condition(transformer, one, GRID, own, repeats=3)(x[here], t[here])
            torch.testing.assert_close(found[here], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_one_pass_computes_the_prefix_with_the_first_velocity():
    transformer, runs = model(), []
    transformer.transformer_blocks[0].register_forward_hook(lambda block, inputs, output: runs.append(inputs[0].shape))
    text, images = edits()
    x, t = torch.randn(2, 6, 64), torch.rand(2)
    walk = condition(transformer, text, GRID, images, one_pass=True)
    assert runs == []
    found = [walk(x, t), walk(x - 0.1, t / 2)]
    assert [shape[1] for shape in runs] == [11 + 6, 6]  # 3 words and 8 latents before the target
    whole = condition(transformer, text, GRID, images)
    torch.testing.assert_close(found, [whole(x, t), whole(x - 0.1, t / 2)], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_reach_words_and_input_images(causal):
    transformer, (text, images) = model(causal), edits()
    text.features.requires_grad_()
    images.tokens.requires_grad_()
    condition(transformer, text, GRID, images, 2)(torch.randn(4, 6, 64), torch.rand(4)).square().mean().backward()
    assert text.features.grad[:, [0, 3]].abs().amin((0, 2)).gt(0).all()
    assert text.features.grad[:, 1:3].abs().max() == 0  # slots give way to the image
    assert images.tokens.grad.abs().amin((0, 2)).gt(0).all()


def test_input_images_that_all_prompts_share_are_given_once():
    transformer, (text, images) = model(), edits()
    x, t = torch.randn(2, 6, 64), torch.rand(2)
    shared = InputImages(tokens=images.tokens[:1], grids=images.grids)
    twice = InputImages(tokens=images.tokens[:1].expand(2, -1, -1), grids=images.grids)
    found = condition(transformer, text, GRID, shared)(x, t)
    torch.testing.assert_close(found, condition(transformer, text, GRID, twice)(x, t))


def test_slots_without_input_images_are_refused():
    text, _ = edits()
    with pytest.raises(ValueError, match="need 0 vision slots, found 2"):
        condition(model(), text, GRID)


@torch.no_grad()
def test_a_step_that_changes_little_runs_one_block_and_rows_decide_alone():
    transformer, runs = model(), []
    transformer.transformer_blocks[1].register_forward_hook(lambda block, inputs, output: runs.append(len(output[0])))
    text = words(4, 3)
    x = torch.randn(4, 6, 64)
    moved = torch.cat((x[:3] + 1e-4 * torch.randn(3, 6, 64), torch.randn(1, 6, 64)))
    now, then = torch.full((4,), 0.5), torch.full((4,), 0.499)
    plain = condition(transformer, text, GRID, repeats=2)
    velocity = condition(transformer, text, GRID, repeats=2, step_cache=0.05)
    torch.testing.assert_close(velocity(x, now), plain(x, now), rtol=1e-5, atol=1e-5)
    runs.clear()
    skipped, whole = velocity(moved, then), plain(moved, then)
    assert runs == [1, 4]  # the row that moved far, and then all of the plain ones
    torch.testing.assert_close(skipped[3], whole[3], rtol=1e-5, atol=1e-5)
    assert not torch.equal(skipped[:3], whole[:3])
    assert (skipped - whole).norm() < 0.05 * whole.norm()


def test_skipping_needs_causal_condition():
    with pytest.raises(ValueError, match="causal_condition"):
        condition(model(causal=False), words(4), GRID, step_cache=0.1)


def test_the_hidden_state_is_that_after_so_many_blocks():
    transformer, seen = model(), []
    for block in transformer.transformer_blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    cache = prefill(transformer, words(4), GRID)
    x, t = torch.randn(1, 6, 64), torch.rand(1)
    plain = transformer.denoise(x, t, cache)
    for number in (1, 2, 3):
        seen.clear()
        v, hidden = transformer.denoise(x, t, cache, return_hidden=number)
        assert torch.equal(hidden, seen[number - 1])
        assert torch.equal(v, plain)


def test_checkpointed_blocks_give_the_same_gradients_through_a_hidden_state():
    grads = []
    for checkpointing in (False, True):
        transformer = model()
        transformer.gradient_checkpointing = checkpointing
        cache = prefill(transformer, words(4, 3), GRID)
        g = torch.Generator().manual_seed(3)
        x, t = torch.randn(2, 6, 64, generator=g), torch.rand(2, generator=g)
        v, hidden = transformer.denoise(x, t, cache, return_hidden=2)
        (v.square().mean() + hidden.square().mean()).backward()
        grads.append([p.grad for p in transformer.parameters()])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("same_time", [True, False])
@pytest.mark.parametrize("most", [24, 23, 10**6])
def test_both_sides_of_guidance_are_what_each_is_alone(monkeypatch, most, same_time):
    """In one pass up to so many latents, over prefixes of different lengths and numbers of rows."""
    transformer, passes = model(), []
    monkeypatch.setattr(sys.modules[condition.__module__], "TOGETHER", most)
    x, t = torch.randn(2, 6, 64), torch.rand(1).expand(2) if same_time else torch.rand(2)
    with torch.no_grad():
        sides = condition(transformer, words(5, 5), GRID), condition(transformer, words(2), GRID, repeats=2)
        expected = [side(x, t) for side in sides]
        real = transformer.denoise
        monkeypatch.setattr(transformer, "denoise", lambda *inputs: passes.append(len(inputs[0])) or real(*inputs))
        for found, alone in zip(together(*sides)(x, t), expected, strict=True):
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)
        assert passes == ([2, 2] if most == 23 else [4])
        later = [condition(transformer, words(n), GRID, one_pass=True) for n in (5, 2)]
        expected = [condition(transformer, words(n), GRID)(x[:1], t[:1]) for n in (5, 2)]
        for _ in range(2):  # the prefixes come with the first velocities
            for found, alone in zip(together(*later)(x[:1], t[:1]), expected, strict=True):
                torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)
    assert passes[-1] == 2


def test_sides_without_prefixes_are_evaluated_one_after_the_other():
    transformer = model(causal=False)
    x, t = torch.randn(1, 6, 64), torch.rand(1)
    with torch.no_grad():
        sides = condition(transformer, words(5), GRID), condition(transformer, words(2), GRID)
        for found, side in zip(together(*sides)(x, t), sides, strict=True):
            assert torch.equal(found, side(x, t))
