"""Rows of noise: every rank and micro-batch draws its own, and all together draw those of one process."""

from __future__ import annotations

import pytest
import torch

from fourstroke.parallel import mesh
from fourstroke.parallel.collectives import local_rows
from fourstroke.parallel.mesh import data_shard, micro_batch
from fourstroke.parallel.noise import batch_rows, row_noise


@pytest.fixture
def on_rank(monkeypatch):
    def become(rank: int, size: int) -> None:
        monkeypatch.setattr(mesh, "rank", lambda: rank)
        monkeypatch.setattr(mesh, "world_size", lambda: size)

    return become


@pytest.mark.parametrize(("ranks", "micro"), [(1, 3), (2, 1), (2, 3)])
def test_ranks_and_micro_batches_together_have_the_rows_of_one_batch(on_rank, ranks, micro):
    whole = row_noise(7, 3, batch_rows(6, each=2), (4, 2))
    everyone = torch.arange(12)
    parts, seen = torch.zeros_like(whole), []
    for rank in range(ranks):
        on_rank(rank, ranks)
        for index in range(micro):
            with micro_batch(index, micro):
                rows = batch_rows(6 // (ranks * micro), each=2)
                assert rows == local_rows(everyone, each=2).tolist()
                parts[rows] = row_noise(7, 3, rows, (4, 2))
                seen += rows
    assert sorted(seen) == list(range(12))
    assert torch.equal(parts, whole)
    assert data_shard().count == ranks


def test_noise_is_normal_and_differs_by_seed_step_and_row():
    noise = row_noise(1, 2, range(64), (256,))
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
    assert (noise @ noise.T / 256).fill_diagonal_(0).abs().max() < 0.35  # five deviations and a half
    for other in (row_noise(2, 2, [0], (256,)), row_noise(1, 3, [0], (256,)), row_noise(1, 2, [1], (256,))):
        assert not torch.equal(other[0], noise[0])
