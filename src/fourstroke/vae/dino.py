"""DINOv2 as the frozen network that latents are aligned with: one middle layer, brought to the latent grid.

VAE-2.0 report, section Objective: DINOv2-L, a middle layer, which the report does not number; ours is half of the
depth unless a recipe says otherwise. Its patches are 14 pixels wide, latents 16 or 32: pictures are resized so that a
patch falls on each latent position (as VA-VAE does).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourstroke.checkpoint import CheckpointError
from fourstroke.pretrained import load_fitting, readable
from fourstroke.vae.features import over_grey

KINDS = ("dinov2", "dinov2_with_registers")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1], as DINOv2 was trained with."""


class DinoFeatures(nn.Module):
    """Pictures (b, 3 or 4, H, W) in [-1, 1], laid over grey, to one map (b, width, H / factor, W / factor)."""

    def __init__(self, model: Any, layer: int | None, factor: int) -> None:
        super().__init__()
        config = model.config
        layer = config.num_hidden_layers // 2 if layer is None else layer
        if not 1 <= layer <= config.num_hidden_layers:
            raise ValueError(f"layer={layer}: this network has layers 1 to {config.num_hidden_layers}")
        self.factor, self.width = factor, int(config.hidden_size)
        self.patch, self.registers = int(config.patch_size), int(getattr(config, "num_register_tokens", 0))
        model.encoder.layer = model.encoder.layer[:layer]  # what comes after is neither computed nor held
        model.layernorm = nn.Identity()
        self.model = model
        self.register_buffer("mean", torch.tensor(MEAN).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(-1, 1, 1))
        self.eval().requires_grad_(False)

    def features(self, x: Tensor) -> list[Tensor]:
        """The layer's map, alone in a list; raises ValueError for sides that `factor` does not divide."""
        if x.ndim != 4 or x.shape[1] not in (3, 4) or any(side % self.factor for side in x.shape[2:]):
            raise ValueError(f"pictures must be (b, 3 or 4, H, W), sides in {self.factor}s, not {tuple(x.shape)}")
        rows, columns = (side // self.factor for side in x.shape[2:])
        size = rows * self.patch, columns * self.patch
        x = F.interpolate(over_grey(x), size=size, mode="bicubic", align_corners=False, antialias=True)
        x = ((x + 1) / 2 - self.get_buffer("mean")) / self.get_buffer("deviation")
        tokens = self.model(x).last_hidden_state[:, 1 + self.registers :]
        return [tokens.transpose(1, 2).unflatten(2, (rows, columns))]

    @classmethod
    def from_pretrained(
        cls, name: str | Path, factor: int, layer: int | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """Load a folder or hub id through transformers, frozen; raises `CheckpointError` if it is no DINOv2."""
        from transformers import AutoConfig, AutoModel

        name = Path(name).as_posix()
        with readable(f"the network {name}"):
            config = AutoConfig.from_pretrained(name)
        if config.model_type not in KINDS:
            raise CheckpointError(f"{name} holds a {config.model_type}, not one of {', '.join(KINDS)}")
        model = load_fitting(AutoModel, name, config=config)
        return cls(model, layer, factor).to(device)
