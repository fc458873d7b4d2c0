"""Autoencoders to compare: ours, or a peer's folder in diffusers' layout, each a function from pictures to pictures.

VAE-2.0 report, section Evaluation, sets f16 models beside f8 ones and video ones. Peers need diffusers, which is a tool
of tests and benchmarks, not a dependency; their weights are read from safetensors alone.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourstroke.checkpoint import read_json
from fourstroke.device import Device, find_device
from fourstroke.folder import find_model, lineage, read_info
from fourstroke.pretrained import readable
from fourstroke.vae import Autoencoder
from fourstroke.vae.autoencoder import to_pixels

OURS = "AutoencoderKLQwenImage21"


@dataclass(frozen=True, kw_only=True)
class ReconstructionModel:
    """An autoencoder as it is measured."""

    name: str
    code: Callable[[Tensor], Tensor]
    """Pictures (b, 4, H, W) in [-1, 1] to reconstructions, (b, 3 or 4, H, W)."""
    multiple: int
    """What the sides of pictures must divide by: pixels per latent position."""
    device: torch.device
    folder: Path
    """Of its checkpoint, or its own."""


def load_reconstruction_model(model: str | Path | None, device: Device | None = None) -> ReconstructionModel:
    """Load a checkpoint's autoencoder, or an autoencoder's own folder, ours or a peer's.

    Raises:
        ValueError: if there is none, a peer's needs diffusers and that is missing or does not know it, or this machine
            does not have the device.
    """
    chosen = find_device(device)
    if model is not None:
        for part in (Path(model), Path(model) / "vae"):
            kind = read_json(part / "config.json").get("_class_name") if (part / "config.json").is_file() else OURS
            if kind != OURS:
                return _peer(part, str(kind), chosen)
    autoencoder, folder, name = load_autoencoder(model, chosen)
    parameter = next(autoencoder.parameters())

    def code(x: Tensor) -> Tensor:
        return autoencoder.decode_raw(autoencoder.encode_raw(x.to(parameter)))

    return ReconstructionModel(name=name, code=code, multiple=autoencoder.config.factor, device=chosen, folder=folder)


def load_autoencoder(model: str | Path | None, device: Device | None = None) -> tuple[Autoencoder, Path, str]:
    """An autoencoder, its checkpoint's folder and family; `model` may be a whole checkpoint or an autoencoder alone."""
    if model is not None and (Path(model) / "config.json").is_file():
        part = Path(model)
        whole = part.parent if (part.parent / "model_index.json").is_file() else None
    else:
        whole = find_model(model)
        part = lineage(whole)[-1] / "vae"
    folder, family = (whole, read_info(whole).name) if whole else (part, part.name)
    return Autoencoder.from_pretrained(part, device=device), folder, family


def _peer(folder: Path, kind: str, device: torch.device) -> ReconstructionModel:
    try:
        import diffusers
    except ImportError:
        raise ValueError(f"{folder} holds a {kind}: to measure it, pip install diffusers") from None
    if not hasattr(diffusers, kind):
        raise ValueError(f"{folder} holds a {kind}, which diffusers {diffusers.__version__} does not know")
    with readable(f"the {kind} in {folder}"):
        model: Any = getattr(diffusers, kind).from_pretrained(folder, use_safetensors=True).eval()
    model.to(device)
    if not hasattr(model, "encode") or not hasattr(model, "decode"):
        raise ValueError(f"{folder} holds a {kind}, which is no autoencoder")
    video = any(p.ndim == 5 for p in model.parameters()) or "Image" in kind
    config = model.config
    channels = config.get("in_channels") or config.get("input_channels") or 3

    def code(x: Tensor) -> Tensor:
        x = x[:, :channels].to(next(model.parameters()))
        encoded = model.encode(x.unsqueeze(2) if video else x)
        z = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        y: Tensor = model.decode(z).sample
        return y.squeeze(2) if video else y

    return ReconstructionModel(name=folder.name, code=code, multiple=_factor(model), device=device, folder=folder)


def _factor(model: Any) -> int:
    """Pixels per latent position, from whatever a class calls it; 32 where it does not say."""
    config = model.config
    for key in ("scale_factor_spatial", "spatial_compression_ratio"):
        if value := config.get(key) or getattr(model, key, None):
            return int(value)
    if widths := config.get("block_out_channels"):
        return int(2 ** (len(widths) - 1))
    return 32


def as_tensor(picture: np.ndarray) -> Tensor:
    """(H, W, 3 or 4) uint8 -> (4, H, W) in [-1, 1]; RGB gets alpha 1."""
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
    return x if len(x) == 4 else torch.cat([x, torch.ones_like(x[:1])])


@torch.inference_mode()
def copies(model: Autoencoder, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """What an autoencoder makes of pictures of one size, each (H, W, 3 or 4) uint8 -> (n, H, W, 4) uint8."""
    weight = next(model.parameters())
    x = torch.stack([as_tensor(picture) for picture in pictures]).to(weight.device, weight.dtype)
    return to_pixels(model.decode(model.encode(x)))


def forget_peak(device: torch.device) -> None:
    """Begin to measure the peak of memory anew, where the system lets us."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # then the peak is that of the process so far
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """Megabytes at most since `forget_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
