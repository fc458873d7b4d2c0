"""Joining prefix caches: strangers share a batch and stay what they are alone."""

from __future__ import annotations

import pytest
import torch

from fourstroke.dit import Layout, PrefixCache

from .test_transformer import make_batch, make_ours


@torch.no_grad()
def test_joined_rows_equal_each_cache_alone():
    model, grid = make_ours(), (4, 2)
    caches, alone, rows = [], [], []
    for lengths, images, copies in (([9], (), 1), ([7, 3], (), 1), ([12], ((2, 4),), 1), ([5], (), 3)):
        x_t, t, text, slots, tokens = make_batch(grid, images, lengths)
        cache = model.prefill(text, Layout.build(lengths, grid, slots, images), tokens).repeat(copies)
        x_t = torch.randn(cache.rows, *x_t.shape[1:])
        t = torch.rand(cache.rows)
        caches.append(cache)
        rows.append((x_t, t))
        alone.append(model.denoise(x_t, t, cache))
    joined = PrefixCache.join(caches)
    together = model.denoise(torch.cat([x for x, _ in rows]), torch.cat([t for _, t in rows]), joined)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert joined.rows == 7
    assert joined.nbytes == sum(cache.nbytes for cache in caches)


@torch.no_grad()
def test_rows_that_share_a_prefix_hold_it_once():
    model, grid = make_ours(), (2, 4)
    x_t, t, text, slots, tokens = make_batch(grid, ((4, 4),), [12])
    cache = model.prefill(text, Layout.build([12], grid, slots, ((4, 4),)), tokens)
    _, _, short, _, _ = make_batch(grid, (), [3])
    other = model.prefill(short, Layout.build([3], grid))
    joined = PrefixCache.join([cache, cache, other, cache])
    assert joined.nbytes == cache.nbytes + other.nbytes
    x_t, t = torch.randn(4, *x_t.shape[1:]), torch.rand(4)
    together = model.denoise(x_t, t, joined)
    alone = [model.denoise(x_t[i : i + 1], t[i : i + 1], c) for i, c in enumerate((cache, cache, other, cache))]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    again = joined.repeat(2)
    doubled = model.denoise(x_t.repeat_interleave(2, 0), t.repeat_interleave(2), again)
    torch.testing.assert_close(doubled, together.repeat_interleave(2, 0), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="cannot be joined again"):
        PrefixCache.join([joined, cache])


@torch.no_grad()
def test_equal_lengths_need_no_mask_and_one_cache_stays_itself():
    model, grid = make_ours(), (2, 2)
    _, _, text, slots, _ = make_batch(grid, (), [6])
    cache = model.prefill(text, Layout.build([6], grid, slots))
    assert PrefixCache.join([cache, cache]).key_mask is None
    assert PrefixCache.join([cache]) is cache


@torch.no_grad()
def test_different_targets_do_not_join():
    model = make_ours()
    _, _, text, slots, _ = make_batch((2, 2), (), [6])
    caches = [model.prefill(text, Layout.build([6], grid, slots)) for grid in ((2, 2), (4, 2))]
    with pytest.raises(ValueError, match="one target size"):
        PrefixCache.join(caches)
    with pytest.raises(ValueError, match="one target size"):
        PrefixCache.join([])
