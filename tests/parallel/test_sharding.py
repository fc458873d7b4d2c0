"""On two ranks a sharded model beside a whole one trains as both do in one process, from slices of a checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fourstroke.checkpoint import CheckpointError
from fourstroke.nn.norm import ZeroCentredRMSNorm
from fourstroke.parallel import sharding
from fourstroke.parallel.checkpoint import Checkpointer, fill, load_tensors, read_state
from fourstroke.parallel.collectives import local_rows
from fourstroke.parallel.mesh import process_group, rank
from fourstroke.parallel.sharding import Sharded, full_tensor, local_tensor
from fourstroke.train.optimizer import OptimizerConfig, OptimizerGroup

CONFIG = OptimizerConfig(lr=0.02, warmup=1, cooldown=0.0, clip=0.1)
LAYERS, WIDTH = 3, 16
CLOSE = 5e-5
"""A four-hundredth of a step: where gradients are tiny, optimisers make steps of rounding errors."""


class Tower(nn.Module):
    """Blocks of a norm and two matrices; what goes in and out is tied."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(ZeroCentredRMSNorm(WIDTH), nn.Linear(WIDTH, 24), nn.GELU(), nn.Linear(24, WIDTH))
            for _ in range(LAYERS)
        )
        self.last = nn.Linear(WIDTH, WIDTH, bias=False)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        """`b d -> b d`."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def _head() -> nn.Linear:
    torch.manual_seed(5)
    return nn.Linear(WIDTH, 4)


def _steps(tower: nn.Module, head: nn.Module, group: OptimizerGroup, steps: range) -> None:
    for step in steps:
        x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(step))
        loss = head(tower(local_rows(x))).square().mean()
        group.update({"loss": loss}, 0.0)


def _weights(folder: Path) -> Tower:
    """A tower whose weights lie in two files, as large checkpoints do."""
    torch.manual_seed(1)
    tower = Tower()
    with torch.no_grad():
        for p in tower.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    tensors = {name: x for name, x in tower.state_dict().items() if name != "last.weight"}
    names = sorted(tensors)
    folder.mkdir()
    for index, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name].contiguous() for name in part}, folder / f"model-{index}.safetensors")
    return tower


def _two_ranks(folder: Path) -> None:
    """What each of the ranks does."""
    sharding.SHARD_THRESHOLD = 1000
    with process_group():
        with torch.device("meta"):
            tower = Tower()
        sharded = Sharded(tower)
        fill(tower, folder / "weights", torch.device("cpu"))
        kinds = {name: p is not local_tensor(p) for name, p in tower.named_parameters()}
        held = sum(local_tensor(p).numel() for p in tower.parameters() if p is not local_tensor(p))
        head = Sharded(_head())
        group = OptimizerGroup({"tower": tower, "head": head.model}, CONFIG)
        _steps(tower, head.model, group, range(3))
        state = {name: x for name, x in tower.state_dict(keep_vars=True).items() if name != "last.weight"}
        moments = dict(group.state())
        checkpointer = Checkpointer()
        checkpointer.save(folder / "state", [*state.items(), *moments.items()], {"step": 3}, wait=True)
        with sharded.gathered() as whole:
            if rank() == 0:
                torch.save({name: x.detach() for name, x in whole.state_dict().items()}, folder / "gathered.pt")
                told = {"kinds": kinds, "held": held, "whole": not head.sharded}
                (folder / "told.json").write_text(json.dumps(told))
        for x in state.values():
            local_tensor(x.detach()).zero_()
        load_tensors(folder / "state", {name: x.detach() for name, x in state.items()})
        checks = {name: full_tensor(x.detach()) for name, x in state.items()}
        if rank() == 0:
            torch.save(checks, folder / "loaded.pt")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    tower = _weights(folder / "weights")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, tower


def test_two_ranks_train_what_one_process_does(ran):
    folder, tower = ran
    head = _head()
    group = OptimizerGroup({"tower": tower, "head": head}, CONFIG)
    _steps(tower, head, group, range(3))
    gathered = torch.load(folder / "gathered.pt")
    assert gathered.keys() == tower.state_dict().keys()
    for name, x in tower.state_dict().items():
        torch.testing.assert_close(gathered[name], x, rtol=1e-4, atol=CLOSE, msg=lambda m, n=name: n + m)
    state = read_state(folder / "state")
    for name, x in group.state():
        torch.testing.assert_close(state[name], x, rtol=1e-3, atol=1e-6, msg=name)


def test_no_rank_holds_more_than_its_part_of_the_matrices(ran):
    folder, tower = ran
    told = json.loads((folder / "told.json").read_text())
    assert told["whole"]
    assert told["kinds"] == {name: p.ndim > 1 for name, p in tower.named_parameters()}
    assert told["held"] == sum(p.numel() for p in tower.parameters() if p.ndim > 1) // 2


def test_a_state_of_two_ranks_is_taken_up_by_two_and_by_one(ran):
    folder, _ = ran
    state, loaded, gathered = (
        read_state(folder / "state"),
        *(torch.load(folder / f) for f in ("loaded.pt", "gathered.pt")),
    )
    assert len([*(folder / "state").glob("*.safetensors")]) == 2
    for name, x in loaded.items():
        assert torch.equal(x, gathered[name])
        assert torch.equal(x, state[name])


def test_one_process_fills_a_model_too_and_refuses_what_does_not_fit(tmp_path):
    tower = _weights(tmp_path / "weights")
    with torch.device("meta"):
        model = Tower()
    fill(model, tmp_path / "weights", torch.device("cpu"))
    x = torch.randn(2, WIDTH)
    assert torch.equal(model(x), tower(x))
    with torch.device("meta"):
        other = nn.Linear(3, 3)
    with pytest.raises(CheckpointError, match="do not fit"):
        fill(other, tmp_path / "weights", torch.device("cpu"))
    (tmp_path / "weights" / "model-0.safetensors").write_bytes(b"no tensors")
    with torch.device("meta"):
        broken = Tower()
    with pytest.raises(CheckpointError, match="is damaged"):
        fill(broken, tmp_path / "weights", torch.device("cpu"))


if __name__ == "__main__":
    _two_ranks(Path(sys.argv[1]))
