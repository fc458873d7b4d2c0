"""Offloading: the same result, and weights that are there only while they are used."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from fourstroke import Pipeline, offload
from fourstroke.offload import BlockStream, Mover, keep_on_cpu, weights_of
from fourstroke.quantized import quantized

from .conftest import build_tiny_pipeline

CPU = torch.device("cpu")


def _blocks():
    torch.manual_seed(0)
    blocks = nn.ModuleList(nn.Linear(128, 128) for _ in range(4))
    blocks[2].weight = nn.Parameter(quantized(blocks[2].weight, "int8"), requires_grad=False)
    return blocks.requires_grad_(False)


@torch.inference_mode()
def _run(blocks, x):
    for block in blocks:
        x = block(x)
    return x


class Counting(Mover):
    """Copies to the CPU, and knows what was brought."""

    def __init__(self):
        super().__init__(CPU)
        self.brought = []

    def bring(self, weights):
        self.brought.append({weight.data_ptr() for weight in weights})
        return super().bring(weights)


def test_streamed_blocks_compute_the_same_on_copies():
    blocks, x = _blocks(), torch.ones(2, 128)
    expected, home = _run(blocks, x), [weight.data_ptr() for weight in weights_of(blocks)]
    used = []
    for block in blocks:
        block.register_forward_pre_hook(lambda block, _: used.append(weights_of(block)[0].data_ptr()))
    stream = BlockStream(blocks, CPU, again=True)
    for block in blocks:
        block.register_forward_pre_hook(lambda block, _: used.append(weights_of(block)[0].data_ptr()))
    stream.mover = Counting()
    for _ in range(2):
        assert torch.equal(_run(blocks, x), expected)
        assert [weight.data_ptr() for weight in weights_of(blocks)] == home
    assert used[0] == home[0]  # before it came
    assert used[1] not in home  # while it ran
    assert len(stream.mover.brought) == 9  # each once a turn, and the next turn's first
    assert len(stream.coming) == 1


def test_what_runs_once_brings_nothing_for_later():
    blocks = _blocks()
    stream = BlockStream(blocks, CPU, again=False)
    stream.mover = Counting()
    _run(blocks, torch.ones(2, 128))
    assert len(stream.mover.brought) == 4
    assert not stream.coming


def test_a_block_that_fails_goes_home():
    blocks = _blocks()
    home = [weight.data_ptr() for weight in weights_of(blocks)]
    stream = BlockStream(blocks, CPU, again=True)
    stream.mover = Mover(CPU)
    with pytest.raises(RuntimeError):
        blocks[0](torch.ones(2, 3))
    assert [weight.data_ptr() for weight in weights_of(blocks)] == home


def test_rows_are_looked_up_where_the_table_is():
    table = nn.Embedding(5, 4)
    keep_on_cpu(table, torch.device("meta"))
    assert table(torch.tensor([1, 2])).is_meta


def test_the_first_blocks_that_have_room_stay_in_the_file_cache(monkeypatch):
    blocks, x, dropped = _blocks(), torch.ones(2, 128), []
    expected, first = _run(blocks, x), [weights_of(block)[0].data_ptr() for block in blocks]
    monkeypatch.setattr(offload, "RESERVE", 1000)
    monkeypatch.setattr(offload, "evict", lambda weight: dropped.append(weight.data_ptr()))
    cache = offload.FileCache(blocks)
    size, few = (sum(weight.nbytes for weight in weights_of(block)) for block in (blocks[0], blocks[2]))
    for free, kept in (
        (3 * size + few + 1000, 4),  # all
        (3 * size + few + 999, 1),  # one is missing: two places are for what runs and what comes
        (4 * size + 1000, 4),
        (3 * size - 1 + 1000, 0),
        (0, 0),
    ):
        monkeypatch.setattr(offload, "free_memory", lambda free=free: free)
        dropped.clear()
        assert torch.equal(_run(blocks, x), expected)
        assert cache.kept == kept
        assert [weight for weight in dropped if weight in first] == first[kept:]


def test_a_limit_leaves_the_rest_of_the_memory_to_others(monkeypatch):
    blocks = _blocks()
    size, few = (sum(weight.nbytes for weight in weights_of(block)) for block in (blocks[0], blocks[2]))
    monkeypatch.setattr(offload, "RESERVE", 0)
    for limit, free, kept in (
        (3 * size + few, sys.maxsize, 4),
        (3 * size + few - 1, sys.maxsize, 1),
        (0, sys.maxsize, 0),
        (sys.maxsize, 3 * size, 1),  # no more than there is
    ):
        assert offload.FileCache(blocks, limit).fitting(free) == kept


def test_a_small_model_is_limited_where_one_asks_for_it(tmp_path, monkeypatch):
    build_tiny_pipeline().save_pretrained(tmp_path / "model")
    seen, evicted = [], []
    monkeypatch.setattr(offload, "evict", evicted.append)
    real = offload.FileCache.fitting
    monkeypatch.setattr(offload.FileCache, "fitting", lambda cache, free: seen.append(real(cache, free)) or seen[-1])
    pictures = [
        Pipeline.from_pretrained(tmp_path / "model", device="cpu", file_cache=limit)("a cat", seed=0).images[0]
        for limit in (None, 0, 1)
    ]
    assert pictures[0].tobytes() == pictures[1].tobytes() == pictures[2].tobytes()
    steps, blocks = len(seen) // 2, seen[-1]
    assert seen == [0] * steps + [blocks] * steps
    assert blocks > 1
    assert evicted
    for wrong in (-1, float("nan"), "much"):
        with pytest.raises(ValueError, match="file_cache"):
            Pipeline.from_pretrained(tmp_path / "model", file_cache=wrong)


def test_free_memory_is_what_the_system_says():
    assert 2**20 < offload.free_memory() <= sys.maxsize
