"""Inception v3 as FID is defined with it (Heusel et al. 2017), from published weights; nothing is downloaded.

The weights are those of pytorch-fid (`pt_inception-2015-12-05-6726825d.pth`), which carried TensorFlow's network over:
torchvision's names of layers, and pools that leave the border out. Pictures are enlarged or reduced to 299 pixels a
side by bilinear interpolation without antialiasing, as pytorch-fid does. Widths are those of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourstroke.checkpoint import CheckpointError, read_file, read_pickle

SIDE = 299
EPSILON = 1e-3
VALID = {
    "Conv2d_1a_3x3": 2, "Conv2d_2a_3x3": 1, "Conv2d_4a_3x3": 1, "Mixed_6a.branch3x3": 2, "Mixed_6a.branch3x3dbl_3": 2,
    "Mixed_7a.branch3x3_2": 2, "Mixed_7a.branch7x7x3_4": 2,
}  # fmt: skip
"""Convolutions without a border, and their strides; all others keep the size."""
STEM = (("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"), ("Conv2d_3b_1x1", "Conv2d_4a_3x3"))
"""Each part ends with a pool."""
A = (("branch1x1",), ("branch5x5_1", "branch5x5_2"), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
B = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
C = (
    ("branch1x1",),
    tuple(f"branch7x7_{k}" for k in (1, 2, 3)),
    tuple(f"branch7x7dbl_{k}" for k in (1, 2, 3, 4, 5)),
)
D = (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{k}" for k in (1, 2, 3, 4)))
BLOCKS = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), A), "Mixed_6a": B,
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), C), "Mixed_7a": D,
}  # fmt: skip
"""By block, its branches; with a pool beside them, which is followed by a convolution where sizes stay."""
ENDS = ("Mixed_7b", "Mixed_7c")
FORKS = {"branch3x3": ("1",), "branch3x3dbl": ("1", "2")}
"""Of the last blocks: branches that fork at their end, and what comes before."""
NEEDED = "FID needs pt_inception-2015-12-05-6726825d.pth of pytorch-fid"


class Inception(nn.Module):
    """Pictures (b, 3, H, W) in [0, 1] to the 2048 numbers before the last layer, (b, 2048); frozen."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        """Raises CheckpointError if a layer is missing."""
        super().__init__()
        for name in layers():
            try:
                weight, scale, shift, mean, variance = (
                    state[f"{name}.{part}"].float()
                    for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
                )
            except KeyError as error:
                raise CheckpointError(f"the weights have no {error.args[0]}: {NEEDED}") from None
            factor = scale / (variance + EPSILON).sqrt()
            self.register_buffer(_own(name, "weight"), weight * factor[:, None, None, None])
            self.register_buffer(_own(name, "bias"), shift - mean * factor)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Any size; each picture for itself."""
        x = 2 * F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1
        for part in STEM:
            x = F.max_pool2d(self._along(x, part), 3, 2)
        for block, branches in BLOCKS.items():
            found = [self._along(x, [f"{block}.{name}" for name in branch]) for branch in branches]
            if block in ("Mixed_6a", "Mixed_7a"):
                found.append(F.max_pool2d(x, 3, 2))
            else:
                pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
                found.append(self._convolve(pooled, f"{block}.branch_pool"))
            x = torch.cat(found, 1)
        for block in ENDS:
            found = [self._convolve(x, f"{block}.branch1x1")]
            for branch, first in FORKS.items():
                h = self._along(x, [f"{block}.{branch}_{k}" for k in first])
                last = len(first) + 1
                found += [self._convolve(h, f"{block}.{branch}_{last}{way}") for way in "ab"]
            mean = block == "Mixed_7b"  # TensorFlow's last block has another pool than the one before it
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) if mean else F.max_pool2d(x, 3, 1, 1)
            x = torch.cat([*found, self._convolve(pooled, f"{block}.branch_pool")], 1)
        return x.mean((2, 3))

    def _along(self, x: Tensor, names: list[str] | tuple[str, ...]) -> Tensor:
        for name in names:
            x = self._convolve(x, name)
        return x

    def _convolve(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.get_buffer(_own(name, "weight")), self.get_buffer(_own(name, "bias"))
        border = (0, 0) if name in VALID else (weight.shape[2] // 2, weight.shape[3] // 2)
        return F.relu(F.conv2d(x, weight, bias, VALID.get(name, 1), border))

    @classmethod
    def from_pretrained(cls, file: str | Path) -> Self:
        """From a file of weights; raises CheckpointError if it is missing, damaged or of another network."""
        file = Path(file)
        if not file.is_file():
            raise CheckpointError(f"no Inception weights at {file}: {NEEDED}")
        state = read_file(file) if file.suffix == ".safetensors" else read_pickle(file)
        return cls({key: value for key, value in state.items() if isinstance(value, Tensor)})


def layers() -> list[str]:
    """The names of all convolutions."""
    found = [name for part in STEM for name in part]
    for block, branches in BLOCKS.items():
        found += [f"{block}.{name}" for branch in branches for name in branch]
        found += [f"{block}.branch_pool"] if block not in ("Mixed_6a", "Mixed_7a") else []
    for block in ENDS:
        found += [f"{block}.branch1x1", f"{block}.branch_pool"]
        for branch, first in FORKS.items():
            found += [f"{block}.{branch}_{k}" for k in (*first, f"{len(first) + 1}a", f"{len(first) + 1}b")]
    return found


def _own(name: str, part: str) -> str:
    return f"{name}.{part}".replace(".", "_")
