"""The diffusion transformer: text, input images and the noised target in one stream.

Qwen-Image-2.0 report, Transformer (single stream, multiplicative modulation, SwiGLU, QK-norm), in the parameter layout
of the open Qwen-Image-2.1 checkpoint, where the reports are silent. Two kinds of attention:

- `causal_condition` (the open weights): block-causal, and everything before the target is modulated from t = 0. The
  prefix then does not depend on the step: `prefill` it once and `denoise` with it as often as you like. `first_step`
  does both in one pass over the weights, and `forward` is that without keeping the prefix.
- without it (the 2.0 report): fully joint, every token sees every valid token and is modulated from t. The reference
  implementation keeps attention block-causal under this setting; ours is joint, so such weights do not carry over.

A row never depends on the padding of its batch (see `layout`). In the reference implementation it does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fourstroke.checkpoint import config_of, fill_weights, map_tensors, read_json, read_quantization, save_weights
from fourstroke.choices import Quantize
from fourstroke.device import Device, find_device
from fourstroke.dit.block import Block, Front, Modulation, scale_norm
from fourstroke.dit.cache import PrefixCache
from fourstroke.dit.embed import TIME_CHANNELS, TextProjection, TimeEmbedding
from fourstroke.dit.layout import Layout
from fourstroke.dit.step_cache import FirstBlockCache
from fourstroke.files import model_folder
from fourstroke.nn import KeysValues, Linear, Span, rotary_table
from fourstroke.placement import place
from fourstroke.ranges import Count, Positive, check_ranges

CLASS_NAME = "QwenImage21Transformer2DModel"


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of a transformer; the defaults are the open weights (7,115,124,736 parameters).

    Width is `num_attention_heads * attention_head_dim`; `axes_dims_rope` splits a head's channels over frame, height
    and width. A token holds `patch_size ** 2` latents of `in_channels`.
    """

    patch_size: Count = 1
    in_channels: Count = 64
    out_channels: Count | None = 64
    num_layers: Count = 32
    attention_head_dim: Count = 128
    num_attention_heads: Count = 32
    context_in_dim: Count = 4096
    mlp_ratio: Count = 3
    axes_dims_rope: tuple[Count, Count, Count] = (16, 56, 56)
    eps: Positive = 1e-6
    causal_condition: bool = True

    def __post_init__(self) -> None:
        check_ranges(self)
        axes = tuple(self.axes_dims_rope)
        if len(axes) != 3 or any(axis < 2 or axis % 2 for axis in axes) or sum(axes) != self.attention_head_dim:
            raise ValueError(
                f"axes_dims_rope {axes} should be three even numbers that add up to attention_head_dim "
                f"({self.attention_head_dim})"
            )
        object.__setattr__(self, "axes_dims_rope", axes)

    @property
    def width(self) -> int:
        """Channels of the stream."""
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "config") -> Self:
        """Read the keys of a `config.json`; raises `CheckpointError` for one that no transformer can have."""
        return config_of(cls, values, source, only={"_class_name": [CLASS_NAME]})


class Transformer(nn.Module):
    """Predicts the velocity of the target's latents from prompt features, input images and the time.

    `gradient_checkpointing = n` recomputes every n-th block in the backward pass instead of keeping its activations:
    1 (or True) all of them, 0 none.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size**2
        self.img_in = Linear(patch * config.in_channels, width)
        self.txt_in = TextProjection(config.context_in_dim, width, config.eps)
        self.time_text_embed = TimeEmbedding(width)
        self.modulation = nn.Sequential(nn.SiLU(), Linear(width, 4 * width))
        self.transformer_blocks = nn.ModuleList(
            Block(config.num_attention_heads, config.attention_head_dim, config.mlp_ratio, config.eps)
            for _ in range(config.num_layers)
        )
        self.norm_out = nn.ModuleDict({"linear": Linear(width, width)})
        self.proj_out = Linear(width, patch * (config.out_channels or config.in_channels))
        self.gradient_checkpointing: int = 0
        self.initialise()

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor, layout: Layout, images: Tensor | None = None) -> Tensor:
        """Velocity of the target, `b (h w) c -> b (h w) c`.

        Args:
            x_t: noised latents (B, h * w, 64), row by row.
            t: time (B,) in [0, 1]; 1 is noise.
            text: features (B, L, context), padded on the right; what stands at vision slots and in the padding has no
                effect.
            layout: of this batch, on the same device.
            images: latents of the input images (B, tokens of all images, 64), image by image, row by row.

        Raises:
            ValueError: a shape that is not the layout's.
        """
        _check("x_t", x_t, (layout.batch_size, layout.target_tokens))
        if self.config.causal_condition:
            return self._both(x_t, t, text, layout, images)[0]
        x = torch.cat((self._embed_prefix(text, layout, images), self.img_in(x_t)), dim=1)
        rotary = rotary_table(layout.positions, self.config.axes_dims_rope)
        time = self.time_text_embed(t, x_t.dtype)
        modulation = Modulation.of(self.modulation(time))
        for number, block in enumerate(self.transformer_blocks, 1):
            x, _ = self._run(number, block, x, modulation, rotary, (), None, layout.key_mask)
        return self._velocity(x[:, layout.target], time)

    def prefill(self, text: Tensor, layout: Layout, images: Tensor | None = None) -> PrefixCache:
        """Run the prompt and the input images once, at t = 0, and keep their keys and values; arguments as `forward`.

        Raises:
            ValueError: a shape that is not the layout's, or a transformer without `causal_condition`.
        """
        self._check_causal()
        x = self._embed_prefix(text, layout, images)
        rotary = rotary_table(layout.prefix_positions, self.config.axes_dims_rope)
        modulation = Modulation.of(self.modulation(self.time_text_embed(x.new_zeros(1), text.dtype)))
        layers = []
        for number, block in enumerate(self.transformer_blocks, 1):
            last = number == self.config.num_layers
            x, keys_values = self._run(number, block, x, modulation, rotary, layout.spans, None, None, last)
            layers.append(keys_values)
        return self._cache(layers, layout)

    def first_step(
        self, x_t: Tensor, t: Tensor, text: Tensor, layout: Layout, images: Tensor | None = None
    ) -> tuple[Tensor, PrefixCache]:
        """`prefill` and the first `denoise` in one pass over the weights; arguments as `forward`.

        Few tokens cost little more than reading the weights does, so that two passes would take longer.

        Raises:
            ValueError: as `prefill`.
        """
        self._check_causal()
        _check("x_t", x_t, (layout.batch_size, layout.target_tokens))
        velocity, layers = self._both(x_t, t, text, layout, images, keep=True)
        return velocity, self._cache(layers, layout)

    def _both(
        self, x_t: Tensor, t: Tensor, text: Tensor, layout: Layout, images: Tensor | None, keep: bool = False
    ) -> tuple[Tensor, list[KeysValues]]:
        """The velocity, and the prefix's keys and values of each layer where they are to be kept."""
        prefix = layout.prefix_tokens
        x = torch.cat((self._embed_prefix(text, layout, images), self.img_in(x_t)), dim=1)
        rotary = rotary_table(layout.positions, self.config.axes_dims_rope)
        zero = self.time_text_embed(x.new_zeros(1), x_t.dtype)
        t = t[:1] if t.stride() == (0,) else t  # as in `denoise`
        time = self.time_text_embed(t, x_t.dtype)
        front = Front(prefix, Modulation.of(self.modulation(zero)))
        modulation = Modulation.of(self.modulation(time))
        spans = (*layout.spans, Span(prefix, x.shape[1], mask=layout.key_mask))
        layers = []
        for number, block in enumerate(self.transformer_blocks, 1):
            last = number == self.config.num_layers
            x, own = self._run(number, block, x, modulation, rotary, spans, None, None, last, front)
            if keep:  # copies, lest the target's would be kept too
                layers.append(KeysValues(own.keys[:, :prefix].clone(), own.values[:, :prefix].clone()))
        return self._velocity(x, time), layers

    def _cache(self, layers: Sequence[KeysValues], layout: Layout) -> PrefixCache:
        return PrefixCache(
            layers=tuple(layers),
            rotary=rotary_table(layout.target_positions, self.config.axes_dims_rope),
            key_mask=layout.key_mask,
            rows=layout.batch_size,
            target_tokens=layout.target_tokens,
        )

    def _check_causal(self) -> None:
        if not self.config.causal_condition:
            raise ValueError("this transformer has causal_condition=False: its prefix changes with t; call forward")

    @overload
    def denoise(
        self, x_t: Tensor, t: Tensor, cache: PrefixCache, *, steps: FirstBlockCache | None = None
    ) -> Tensor: ...

    @overload
    def denoise(self, x_t: Tensor, t: Tensor, cache: PrefixCache, return_hidden: int) -> tuple[Tensor, Tensor]: ...

    def denoise(
        self,
        x_t: Tensor,
        t: Tensor,
        cache: PrefixCache,
        return_hidden: int | None = None,
        steps: FirstBlockCache | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Velocity of the target given its prefix, `b (h w) c -> b (h w) c`; the same result as `forward`.

        After `cache.repeat(n)` the batch is n times that of the prefix, the n rows of a sample side by side. With
        `return_hidden` comes the target's hidden state (B, h * w, width) after so many blocks, 1 or more. `steps` may
        skip blocks.
        """
        _check("x_t", x_t, (cache.rows, cache.target_tokens))
        x = self.img_in(x_t)
        t = t[:1] if t.stride() == (0,) else t  # one time, expanded: its factors are computed once
        time = self.time_text_embed(t, x_t.dtype)
        modulation = Modulation.of(self.modulation(time))
        hidden = start = x
        for number, (block, past) in enumerate(zip(self.transformer_blocks, cache.layers, strict=True), 1):
            x, _ = self._run(number, block, x, modulation, cache.rotary, (), past, cache.key_mask)
            hidden = x if number == return_hidden else hidden
            if number == 1 and steps is not None:
                rest, start = steps.recall(x - start), x
                if rest is not None:
                    x = x + rest
                    break
        else:
            if steps is not None:
                steps.keep(x - start)
        velocity = self._velocity(x, time)
        return velocity if return_hidden is None else (velocity, hidden)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and of the velocity."""
        return next(self.parameters()).dtype

    def _embed_prefix(self, text: Tensor, layout: Layout, images: Tensor | None) -> Tensor:
        """`b l context, b i c -> b p d`."""
        if text.shape[0] != layout.batch_size or text.shape[1] < layout.text_tokens:
            raise ValueError(
                f"text is {tuple(text.shape)}, the layout expects {layout.batch_size} x {layout.text_tokens} tokens"
            )
        found = 0 if images is None else images.shape[1]
        if found != layout.image_tokens:
            raise ValueError(f"images have {found} tokens, the layout expects {layout.image_tokens}")
        return layout.join(self.txt_in(text), None if images is None else self.img_in(images))

    def _velocity(self, x: Tensor, time: Tensor) -> Tensor:
        """Final norm with its scale, then the projection to latents."""
        scale = self.norm_out["linear"](F.silu(time)).unsqueeze(1)
        return self.proj_out(scale_norm(x, 1 + scale, self.config.eps))

    def _run(self, number: int, block: nn.Module, *inputs: Any) -> tuple[Tensor, KeysValues]:
        """The `number`-th block, counted from 1."""
        if self.gradient_checkpointing and number % self.gradient_checkpointing == 0 and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights to start training from: a velocity of zero, branches open at the same gate for every t.

        There are no biases, so a zero modulation would close all gates, and a random one would give every channel
        gates that change sign with t. Instead the slowest cosine of the time, which is 1 for all t to half a percent,
        serves as the missing bias: through it every gate starts at tanh(1) = 0.76, with scales near zero and a little
        noise around both for the time to be learnt from. The other linear layers are normal with deviation 0.02, those
        that write to the stream smaller by sqrt(2 * num_layers), and the last one is zero.
        """
        width = self.config.width
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                writes = name.endswith(("attn.to_out.0", "img_mlp.out"))
                nn.init.normal_(module.weight, std=0.02 / (2 * self.config.num_layers) ** 0.5 if writes else 0.02)
        first, second = self.time_text_embed.parameters()
        (projection,) = self.modulation.parameters()
        nn.init.normal_(first, std=TIME_CHANNELS**-0.5)
        nn.init.normal_(second, std=0.5 * width**-0.5)
        nn.init.normal_(projection, std=0.1 * width**-0.5)
        first[:, TIME_CHANNELS // 2 - 1].add_(2)
        second.add_(1 / (_silu(2.0) * width))
        projection.unflatten(0, (4, width))[1::2].add_(1 / (_silu(1.0) * width))
        for last in (*self.norm_out.parameters(), *self.proj_out.parameters()):
            nn.init.zeros_(last)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        dtype: torch.dtype | None = torch.float32,
        device: Device | None = "cpu",
        quantize: Quantize | None = None,
        weights: tuple[Path, Mapping[str, Tensor]] | None = None,
    ) -> Self:
        """Load a `transformer/` folder, ours or Qwen-Image-2.1's; a `device` of None is the GPU if there is one, a
        `dtype` of None that of the file. `quantize` keeps the linear layers of the blocks in fewer bits. `weights` of
        another file take the place of the folder's.

        Raises:
            CheckpointError: a file is missing or damaged, or names and shapes are not those of the config.
            ValueError: this machine does not have the device.
        """
        folder, device = Path(folder), find_device(device)
        file = folder / "config.json"
        config = TransformerConfig.from_dict(read_quantization(read_json(file), file), str(file))
        with torch.device("meta"):
            model = cls(config)
        source, tensors = (folder, map_tensors(folder)) if weights is None else weights
        fill_weights(model, tensors, source)
        place(model, dtype=dtype, device=device, method=quantize, blocks=model.transformer_blocks)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and safetensors so that diffusers loads them too; complete or not at all."""
        with model_folder(folder, "config.json", "_class_name") as partial:
            save_weights(self, partial, {"_class_name": CLASS_NAME, **dataclasses.asdict(self.config)})


def _silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def _check(name: str, tensor: Tensor, leading: tuple[int, int]) -> None:
    if tensor.shape[:2] != leading:
        raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {leading[0]} x {leading[1]} tokens")
