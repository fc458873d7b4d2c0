"""The transformer as it was before SwiGLU and scale-only modulation: a GELU, and norms that are shifted too."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourstroke.dit import Transformer, TransformerConfig
from fourstroke.dit.block import Block, Modulation, scale_norm
from fourstroke.dit.cache import PrefixCache
from fourstroke.dit.layout import Layout
from fourstroke.nn import Linear


class Gelu(nn.Module):
    """Two linear layers with a GELU (tanh) between them, without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj, self.out = Linear(width, hidden), Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """`... d -> ... d`."""
        return self.out(F.gelu(self.proj(x), approximate="tanh"))


class AffineBlock(Block):
    """The product's block with a GELU, whose norms are shifted too; its owner sets `shifts` for the time."""

    def __init__(self, config: TransformerConfig, hidden: int) -> None:
        super().__init__(config.num_attention_heads, config.attention_head_dim, config.mlp_ratio, config.eps)
        self.img_mlp = Gelu(config.width, hidden)  # type: ignore[assignment]
        self.shifts: tuple[Tensor, Tensor] | None = None

    def forward(
        self, x: Tensor, modulation: Modulation, rotary: Any, spans: Any = (), past: Any = None, key_mask: Any = None,
        keys_only: bool = False,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """As `Block.forward`."""
        assert self.shifts is not None
        h = scale_norm(x, modulation.scale_attn, self.eps) + self.shifts[0]
        if keys_only:
            return x, self.attn.keys_values(h, rotary)
        attended, own = self.attn(h, rotary, spans=spans, past=past, key_mask=key_mask)
        x = torch.addcmul(x, modulation.gate_attn, attended)
        hidden = self.img_mlp(scale_norm(x, modulation.scale_mlp, self.eps) + self.shifts[1])
        return torch.addcmul(x, modulation.gate_mlp, hidden), own


class AffineTransformer(Transformer):
    """The product's transformer with GELU and affine modulation, of the same number of parameters.

    The shift's projection takes 2 d^2 of the 9 d^2 that a block has for its feed-forward, shared over the blocks.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        width, layers = config.width, config.num_layers
        hidden = round(width * (3 * config.mlp_ratio * layers - 2) / (2 * layers))
        self.transformer_blocks = nn.ModuleList(AffineBlock(config, hidden) for _ in range(layers))
        self.initialise()
        self.shift_modulation = nn.Sequential(nn.SiLU(), Linear(width, 2 * width))
        nn.init.zeros_(self.shift_modulation[1].weight)  # type: ignore[arg-type]
        self.time_text_embed.register_forward_hook(self._shift)

    def first_step(
        self, x_t: Tensor, t: Tensor, text: Tensor, layout: Layout, images: Tensor | None = None
    ) -> tuple[Tensor, PrefixCache]:
        """In two passes: the blocks have the shifts of one time at a time."""
        cache = self.prefill(text, layout, images)
        return self.denoise(x_t, t, cache), cache

    def _both(
        self, x_t: Tensor, t: Tensor, text: Tensor, layout: Layout, images: Tensor | None, keep: bool = False
    ) -> tuple[Tensor, list[Any]]:
        return self.first_step(x_t, t, text, layout, images)[0], []

    def _shift(self, module: nn.Module, inputs: Any, time: Tensor) -> None:
        """The time is embedded before the blocks run: these are their shifts."""
        first, second = self.shift_modulation(time).unsqueeze(1).chunk(2, dim=-1)
        for block in self.transformer_blocks:
            block.shifts = first, second  # type: ignore[assignment]
