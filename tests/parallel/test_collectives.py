"""What the first rank makes for all, with the threads of those that wait."""

from __future__ import annotations

import pytest
import torch

from fourstroke.parallel import collectives


def test_the_first_rank_has_the_threads_of_those_that_wait(monkeypatch):
    told = []
    monkeypatch.setattr(collectives, "world_size", lambda: 3)
    monkeypatch.setattr(collectives, "rank", lambda: 0)
    monkeypatch.setattr(collectives.dist, "broadcast_object_list", lambda found, device: told.append(list(found)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for cores, threads in ((8, 3), (2, 2), (1, 1)):
            monkeypatch.setattr(collectives.os, "cpu_count", lambda cores=cores: cores)
            assert collectives.on_rank0(torch.get_num_threads) == threads
            assert torch.get_num_threads() == 1
        with pytest.raises(ZeroDivisionError):
            collectives.on_rank0(lambda: 1 // 0)
        assert torch.get_num_threads() == 1
        assert told[:2] == [[3, None], [2, None]]
    finally:
        torch.set_num_threads(before)
