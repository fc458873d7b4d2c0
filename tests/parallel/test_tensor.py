"""Two processes that share a transformer's heads draw what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fourstroke import Pipeline
from fourstroke.dit import Layout, Transformer, TransformerConfig
from fourstroke.lora import LoraConfig, add_lora
from fourstroke.parallel.mesh import process_group, rank
from fourstroke.parallel.sharding import local_tensor
from fourstroke.parallel.tensor import INTO, OUT_OF, tensor_parallel

CONFIG = TransformerConfig(
    num_layers=3, attention_head_dim=16, num_attention_heads=4, context_in_dim=24, in_channels=8, out_channels=8,
    axes_dims_rope=(4, 6, 6),
)  # fmt: skip
CALL = {"prompt": "a frog above a red circle", "seed": 3, "num_images": 2}


def _model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.15 if p.ndim > 1 else 0.5)
    return model


@torch.no_grad()
def _edits(model: Transformer) -> Tensor:
    """Velocities of two prompts of other lengths, with an input image, over cached prefixes that serve two rows."""
    generator = torch.Generator().manual_seed(1)
    slots = torch.tensor([0, 0, 1, 1, 0, 0, 0, 0, 0]).bool()
    layout = Layout.build([9, 6], (3, 5), slots, [(2, 4)])
    text, images = torch.randn(2, 9, 24, generator=generator), torch.randn(2, 8, 8, generator=generator)
    cache = model.prefill(text, layout, images).repeat(2)
    x = torch.randn(4, 15, 8, generator=generator)
    return model.denoise(x, torch.tensor([0.9, 0.1, 0.5, 0.2]), cache)


def _two_ranks(folder: Path) -> None:
    with process_group():
        model, pipe = _model(), Pipeline.from_pretrained(device="cpu")
        for transformer in (model, pipe.transformer):
            tensor_parallel(transformer)
        held = {name: local_tensor(p).numel() for name, p in model.named_parameters()}
        velocity, images = _edits(model), pipe(**CALL).images
        if rank() == 1:  # both have all of it
            torch.save(velocity, folder / "velocity.pt")
            np.save(folder / "images.npy", np.stack([np.asarray(image) for image in images]))
            (folder / "held.json").write_text(json.dumps(held))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_velocities_are_those_of_one_process(folder):
    torch.testing.assert_close(torch.load(folder / "velocity.pt"), _edits(_model()), rtol=1e-4, atol=1e-5)


def test_pictures_are_those_of_one_process(folder):
    images = Pipeline.from_pretrained(device="cpu")(**CALL).images
    difference = np.stack([np.asarray(image) for image in images]).astype(int) - np.load(folder / "images.npy")
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.01


def test_each_process_holds_half_of_the_blocks(folder):
    held = json.loads((folder / "held.json").read_text())
    whole = {name: p.numel() for name, p in _model().named_parameters()}
    cut = {name for name in whole if any(name.endswith(f"{part}.weight") for part in (*INTO, *OUT_OF))}
    assert len(cut) == 7 * CONFIG.num_layers
    assert held == {name: n // 2 if name in cut else n for name, n in whole.items()}


def test_alone_nothing_is_cut_and_what_cannot_be_cut_is_refused():
    model = _model()
    before = [type(p) for p in model.parameters()]
    tensor_parallel(model)
    assert [type(p) for p in model.parameters()] == before

    class Mesh:
        def size(self):
            return 3

    with pytest.raises(ValueError, match="4 heads cannot be shared out over 3"):
        tensor_parallel(model, Mesh())
    add_lora(model, LoraConfig(rank=2))
    Mesh.size = lambda self: 2
    with pytest.raises(ValueError, match="adapters"):
        tensor_parallel(model, Mesh())


if __name__ == "__main__":
    _two_ranks(Path(sys.argv[1]))
