"""The f16c64 autoencoder: RGBA pictures to 64-channel latents and back, in the layout of Qwen-Image-2.1.

Qwen-Image-2.0 report, VAE section, and VAE-2.0 report, section Architecture: light encoder, heavy decoder, residual
shortcuts, no KL term, so the latent is the mean of the posterior and its log-variance half is kept only for the layout.
Latents are normalised by one mean and one deviation per channel that live in the config; without them we refuse.

Assumed, where the reports are silent, for `shortcut="global"`: in the encoder, the input image in squares of 16 x 16 is
averaged to the deepest width and added after the last stage (for RGB at full width a plain reshape, 3 * 16 * 16 = 768;
where widths do not divide, by area along the channel axis); in the decoder, the features that enter the first stage are
repeated to the base width at full size and added after the last stage. Stages then have no shortcuts of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourstroke.checkpoint import config_of, fill_weights, map_tensors, read_json, save_weights
from fourstroke.device import Device, find_device
from fourstroke.files import model_folder
from fourstroke.placement import place
from fourstroke.ranges import Count, check_ranges
from fourstroke.vae import tiling
from fourstroke.vae.blocks import (
    ChannelRMSNorm,
    ChannelToSpace,
    DownStage,
    MiddleBlock,
    ResidualBlock,
    SpaceToChannel,
    UpStage,
)

CLASS_NAME = "AutoencoderKLQwenImage21"


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """What `vae/config.json` says; the defaults are Qwen-Image-2.1's widths, without its latent statistics.

    Field names, misspelling included, are the published keys. `temperal_downsample` (one flag for each halving) only
    matters to load the published weights; new models leave it all false. Raises ValueError for shapes that cannot be.
    """

    base_dim: Count = 96
    """Encoder width at full resolution."""
    decoder_base_dim: Count = 144
    """Decoder width at full resolution."""
    z_dim: Count = 64
    """Latent channels."""
    dim_mult: tuple[Count, ...] = (1, 2, 4, 8, 8)
    """Width of each stage in base widths; all stages but the last halve the resolution."""
    num_res_blocks: Count = 2
    """Residual blocks in an encoder stage; a decoder stage has one more."""
    temperal_downsample: tuple[bool, ...] = (False, True, True, True)
    in_channels: Count = 4
    """What the first convolution reads: the picture's channels times patch_size ** 2; `out_channels` likewise."""
    out_channels: Count = 4
    patch_size: Count | None = None
    """Side of the squares of pixels that the networks see as one position; None: each pixel is one.

    The published key, null in Qwen-Image-2.1. Small models gain by it: the same work in fewer and wider layers."""
    shortcut: Literal["local", "global"] = "local"
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"temperal_downsample needs one flag less than dim_mult has stages: {len(self.dim_mult) - 1}"
            )
        if self.in_channels % self.patch**2 or self.out_channels % self.patch**2:
            raise ValueError(
                f"in_channels={self.in_channels} and out_channels={self.out_channels} count each pixel of a patch: "
                f"with patch_size={self.patch_size} both must be multiples of {self.patch**2}"
            )
        if self.shortcut not in ("local", "global"):
            raise ValueError(f"shortcut must be 'local' or 'global', not {self.shortcut!r}")
        if (self.latents_mean is None) != (self.latents_std is None):
            raise ValueError("latents_mean and latents_std come together; give both or neither")
        if self.latents_mean is not None and self.latents_std is not None:
            if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
                raise ValueError(f"latents_mean and latents_std need z_dim = {self.z_dim} values each")
            if not all(map(isfinite, self.latents_mean)) or not all(isfinite(s) and s > 0 for s in self.latents_std):
                raise ValueError("latents_mean must be finite and latents_std finite and positive")

    @property
    def factor(self) -> int:
        """Pixels per latent position, along each side."""
        return self.patch * self.depth

    @property
    def depth(self) -> int:
        """How often the stages halve each side, as a factor."""
        return int(2 ** (len(self.dim_mult) - 1))

    @property
    def patch(self) -> int:
        """`patch_size`, as a number."""
        return 1 if self.patch_size is None else self.patch_size

    @property
    def channels(self) -> int:
        """Channels of the pictures that it reads."""
        return self.in_channels // self.patch**2

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str | Path = "the autoencoder's config.json") -> Self:
        """From a `config.json`; raises `CheckpointError` for a key, the video ancestor's too, that it cannot follow."""
        only: dict[str, list[Any]] = {"_class_name": [CLASS_NAME], "attn_scales": [[], None], "dropout": [0.0, None]}
        only["is_residual"] = [values.get("shortcut") != "global"]
        if values.get("decoder_base_dim", 0) is None:
            values = values | {"decoder_base_dim": values.get("base_dim", cls.base_dim)}
        return config_of(cls, values, source, only=only, notes=("scale_factor_spatial", "scale_factor_temporal"))

    def to_json(self) -> dict[str, Any]:
        """Every key of the published layout, the ancestor's among them; `shortcut` only where it is "global"."""
        own = asdict(self)
        shortcut = own.pop("shortcut")
        history = {
            "attn_scales": [],
            "dropout": 0.0,
            "is_residual": shortcut == "local",
            "scale_factor_spatial": self.factor,
            "scale_factor_temporal": 2 ** sum(self.temperal_downsample),
        }
        extra = {"shortcut": shortcut} if shortcut != "local" else {}
        return {"_class_name": CLASS_NAME, **own, **history, **extra}


class Autoencoder(nn.Module):
    """Pictures (b, 4, H, W) in [-1, 1] to normalised latents (b, z_dim, H/f, W/f) and back; f is the config's `factor`.

    Without gradients big pictures are computed in strips that memory allows (`tiling`), to the same result.
    """

    strip_bytes: int | None = None
    """Bytes of a strip; None chooses by the memory that is free."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Start as a linear autoencoder: residual blocks add nothing, the narrow layers keep what passes through them.

        Torch's default shrinks the signal at each of the five layers around the latent, which leaves training on the
        plateau of the mean picture for hundreds of steps: L1 after 100 steps of a trial .140 against .178.
        """
        for name, layer in self.named_modules():
            if isinstance(layer, ResidualBlock):
                nn.init.zeros_(layer.conv2.weight)
                nn.init.zeros_(layer.conv2.bias)  # type: ignore[arg-type]
            elif isinstance(layer, nn.Conv2d) and name.endswith(("conv_in", "conv_out", "quant_conv")):
                _pass_through(layer)

    def encode(self, x: Tensor) -> Tensor:
        """(b, 4 or 3, H, W) in [-1, 1] -> (b, z_dim, H/f, W/f), zero mean and unit deviation per channel.

        RGB gets alpha 1. Raises ValueError for sizes not divisible by f and for a model without latent statistics.
        """
        self._statistics(x)
        return self.normalise(self.encode_raw(x))

    def encode_tokens(self, pixels: Tensor) -> Tensor:
        """Pictures (b, 4, H, W) uint8 as the transformer's tokens (b, H/f * W/f, z_dim), row by row; see `encode`."""
        weight = self.quant_conv.weight
        return self.encode(pixels.to(weight.device, weight.dtype) / 127.5 - 1).flatten(2).mT

    def normalise(self, z: Tensor) -> Tensor:
        """`encode_raw`'s latents (b, z_dim, h, w) as `encode` gives them; raises ValueError without statistics."""
        mean, std = self._statistics(z)
        return (z - mean) / std

    def decode(self, z: Tensor) -> Tensor:
        """(b, z_dim, h, w), normalised -> (b, 4, fh, fw) in [-1, 1]; raises ValueError without latent statistics."""
        mean, std = self._statistics(z)
        return self.decode_raw(z * std + mean).clamp(-1, 1)

    def encode_raw(self, x: Tensor) -> Tensor:
        """As `encode`, not normalised: the mean of the posterior. For training and for measuring the statistics."""
        if x.ndim != 4 or x.shape[2] % self.config.factor or x.shape[3] % self.config.factor or 0 in x.shape:
            raise ValueError(
                f"pictures must be (batch, channels, height, width) with both sides divisible by {self.config.factor}, "
                f"found {tuple(x.shape)}; resize or crop them first"
            )
        if x.shape[1] == 3 and self.config.channels == 4:
            x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)
        if x.shape[1] != self.config.channels:
            raise ValueError(f"this autoencoder reads {self.config.channels} channels, found {tuple(x.shape)}")
        z_dim, bias = self.config.z_dim, self.quant_conv.bias
        assert bias is not None
        h = tiling.encode(self.encoder, patchify(x, self.config.patch), self.strip_bytes)
        return F.conv2d(h, self.quant_conv.weight[:z_dim], bias[:z_dim])

    def decode_raw(self, z: Tensor) -> Tensor:
        """As `decode`, from unnormalised latents, not clamped: losses want gradients beyond the range."""
        if z.ndim != 4 or z.shape[1] != self.config.z_dim or 0 in z.shape:
            raise ValueError(f"latents must be (batch, {self.config.z_dim}, height, width), found {tuple(z.shape)}")
        return unpatchify(tiling.decode(self.decoder, self.post_quant_conv(z), self.strip_bytes), self.config.patch)

    def set_statistics(self, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> None:
        """Store the mean and standard deviation of `encode_raw`'s channels, z_dim values each, in the config."""
        mean, std = (tuple(torch.as_tensor(v, dtype=torch.float64).flatten().tolist()) for v in (mean, std))
        self.config = replace(self.config, latents_mean=mean, latents_std=std)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.latents_mean is None or self.config.latents_std is None:
            raise ValueError(
                "this autoencoder has no latent statistics (latents_mean, latents_std in vae/config.json): run the "
                "statistics step of its training, or use encode_raw and decode_raw"
            )
        mean, std = like.new_tensor(self.config.latents_mean), like.new_tensor(self.config.latents_std)
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        dtype: torch.dtype = torch.float32,
        device: Device | None = "cpu",
        weights: tuple[Path, Mapping[str, Tensor]] | None = None,
    ) -> Self:
        """Load a folder of `config.json` and safetensors; a `device` of None is the GPU if there is one. `weights` of
        another file take the place of the folder's.

        Raises:
            CheckpointError: files are missing or disagree.
            ValueError: this machine does not have the device.
        """
        folder, device = Path(folder), find_device(device)
        config = AutoencoderConfig.from_json(read_json(folder / "config.json"), folder / "config.json")
        with torch.device("meta"):
            model = cls(config)
        source, tensors = (folder, map_tensors(folder)) if weights is None else weights
        fill_weights(model, tensors, source)
        place(model, dtype=dtype, device=device)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and the weights, complete or not at all; diffusers reads it too (local shortcuts)."""
        with model_folder(folder, "config.json", "_class_name") as partial:
            save_weights(self, partial, self.config.to_json())


def to_pixels(x: Tensor) -> np.ndarray:
    """Decoded pictures (..., c, H, W) in [-1, 1] as bytes (..., H, W, c); at most one wide copy of them is held."""
    wide = x.to(torch.float32, copy=True).add_(1).mul_(127.5).round_().clamp_(0, 255)
    return np.ascontiguousarray(wide.byte().movedim(-3, -1).cpu().numpy())


def patchify(x: Tensor, side: int) -> Tensor:
    """b c (h s) (w s) -> b (c s s) h w, of a square's pixels column after column, as the published layout has it."""
    if side == 1:
        return x
    return F.pixel_unshuffle(x, side).unflatten(1, (x.shape[1], side, side)).transpose(2, 3).flatten(1, 3)


def unpatchify(x: Tensor, side: int) -> Tensor:
    """b (c s s) h w -> b c (h s) (w s), the reverse of `patchify`."""
    if side == 1:
        return x
    return F.pixel_shuffle(x.unflatten(1, (-1, side, side)).transpose(2, 3).flatten(1, 3), side)


def _pass_through(layer: nn.Conv2d) -> None:
    """An orthogonal map of each position's channels, blind to its neighbours."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    row, column = (side // 2 for side in layer.weight.shape[2:])
    nn.init.orthogonal_(center := torch.empty(layer.weight.shape[:2]))
    layer.weight[:, :, row, column] = center.to(layer.weight.device)


class Encoder(nn.Module):
    """Convolution, stages down, middle block, head to 2 z_dim channels (mean and the unused log-variance)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.base_dim * m for m in (1, *config.dim_mult)]
        halve = [True] * len(config.temperal_downsample) + [False]
        temporal = [*config.temperal_downsample, False]
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownStage(a, b, config.num_res_blocks, halve=h, temporal=t, shortcut=config.shortcut == "local")
            for a, b, h, t in zip(widths, widths[1:], halve, temporal)
        )
        self.shortcut = (
            SpaceToChannel(config.in_channels, widths[-1], config.depth) if config.shortcut == "global" else None
        )
        self.mid_block = MiddleBlock(widths[-1])
        self.norm_out = ChannelRMSNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.z_dim, 3, padding=1)

    def stages(self) -> list[DownStage]:
        """The stages from full resolution down."""
        return [stage for stage in self.down_blocks if isinstance(stage, DownStage)]

    def forward(self, x: Tensor) -> Tensor:
        """(b, in_channels, H, W) -> (b, 2 z_dim, H/f, W/f)."""
        h = self.conv_in(x)
        for stage in self.down_blocks:
            h = stage(h)
        if self.shortcut is not None:
            h = h + self.shortcut(x)
        h = self.mid_block(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """Convolution, middle block, stages up, head to the picture's channels."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.decoder_base_dim * m for m in (config.dim_mult[-1], *reversed(config.dim_mult))]
        double = [True] * len(config.temperal_downsample) + [False]
        temporal = [*reversed(config.temperal_downsample), False]
        self.conv_in = nn.Conv2d(config.z_dim, widths[0], 3, padding=1)
        self.mid_block = MiddleBlock(widths[0])
        self.up_blocks = nn.ModuleList(
            UpStage(a, b, config.num_res_blocks + 1, double=d, temporal=t, shortcut=config.shortcut == "local")
            for a, b, d, t in zip(widths, widths[1:], double, temporal)
        )
        self.shortcut = ChannelToSpace(widths[0], widths[-1], config.depth) if config.shortcut == "global" else None
        self.norm_out = ChannelRMSNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def stages(self) -> list[UpStage]:
        """The stages up to full resolution."""
        return [stage for stage in self.up_blocks if isinstance(stage, UpStage)]

    def forward(self, z: Tensor) -> Tensor:
        """(b, z_dim, h, w) -> (b, out_channels, fh, fw)."""
        h = deep = self.mid_block(self.conv_in(z))
        for stage in self.up_blocks:
            h = stage(h)
        if self.shortcut is not None:
            h = h + self.shortcut(deep)
        return self.conv_out(F.silu(self.norm_out(h)))
