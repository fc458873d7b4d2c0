"""Adapters of a model that is sharded over two ranks before it has memory."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from fourstroke.dit import Transformer, TransformerConfig
from fourstroke.lora import LoraConfig, add_lora, lora_parameters, lora_state_dict, reset_lora

from .test_layers import LAYERS, plain_model


class Model(nn.Module):
    """The blocks and the last layer in a row; FSDP asks for a `forward`."""

    def __init__(self) -> None:
        super().__init__()
        parts = plain_model()
        self.transformer_blocks, self.out = parts["transformer_blocks"], parts["out"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.transformer_blocks(x))


CONFIG = LoraConfig(rank=2, alpha=6.0, targets=LAYERS)


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh, source = init_device_mesh("cpu", (2,)), Model().state_dict()
    with torch.device("meta"):
        model = Model()
    add_lora(model, CONFIG)
    for part in (*model.transformer_blocks, model):
        if [*part.parameters()]:
            fully_shard(part, mesh=mesh)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no average
    model.to_empty(device="cpu")
    for name, p in model.named_parameters():
        if name in source:
            assert isinstance(p, DTensor)
            with torch.no_grad():
                p.copy_(distribute_tensor(source[name], mesh, p.placements, src_data_rank=None))
    reset_lora(model)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.SGD(lora_parameters(model).values(), lr=0.1)
    for _ in range(2):
        model(x[rank::2]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    state = lora_state_dict(model)  # all ranks gather together
    if rank == 0:
        torch.save(state, f"{folder}/state.pt")
    dist.destroy_process_group()


def test_two_ranks_from_nothing_train_the_adapter_that_one_does(tmp_path: Path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    model = Model()
    add_lora(model, CONFIG)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.SGD(lora_parameters(model).values(), lr=0.1)
    for _ in range(2):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    found, wanted = torch.load(tmp_path / "state.pt", weights_only=True), lora_state_dict(model)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, msg=key)
        assert value.any()


def test_the_transformer_is_adapted_on_the_meta_device():
    with torch.device("meta"):
        model = Transformer(TransformerConfig(num_layers=2))
    add_lora(model, LoraConfig())
    assert len(lora_parameters(model)) == 2 * 7 * 2
    assert all(p.is_meta for p in model.parameters())
