"""One picture drawn by several processes: each has its share of every block's heads and hidden channels.

Tensor parallelism by torch's own plan: the projections into a block are cut by their outputs, those out of it by their
inputs, and two sums over the processes join a block's parts. A process thus keeps 1 / n of the blocks' weights and of
the prefix's keys and values, does 1 / n of their work, and holds every token. What stands outside the blocks (4 % of
the open weights) is whole everywhere.
"""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from fourstroke.dit import Transformer
from fourstroke.lora import lora_layers
from fourstroke.parallel.mesh import device_mesh, world_size

INTO = ("attn.to_q", "attn.to_k", "attn.to_v", "img_mlp.proj", "img_mlp.gate_layer")
OUT_OF = ("attn.to_out.0", "img_mlp.out")


def tensor_parallel(model: Transformer, mesh: DeviceMesh | None = None) -> None:
    """Cut a transformer's blocks over the processes of a mesh (None: all), in place, for drawing alone.

    Every process calls it with the same weights, and then draws the same: the same prompts, sizes and seeds. In one
    process nothing happens.

    Raises:
        ValueError: heads that cannot be shared out evenly, or adapters are loaded.
    """
    if mesh is None and world_size() == 1:
        return
    mesh = mesh or device_mesh()
    heads, processes = model.config.num_attention_heads, mesh.size()
    if heads % processes:
        raise ValueError(
            f"{heads} heads cannot be shared out over {processes} processes; start as many as divide {heads}"
        )
    if lora_layers(model):
        raise ValueError("loaded adapters cannot be cut over processes: draw with a saved checkpoint that holds them")
    plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in INTO}
    plan |= {name: RowwiseParallel() for name in OUT_OF}
    for block in model.transformer_blocks:
        parallelize_module(block, mesh, plan)
