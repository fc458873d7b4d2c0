"""Reconstruction: PSNR and SSIM of an autoencoder on held-out scenes, and on photographs that it may never have seen.

The photographs are those inside scikit-image's package, centre-cropped to squares of 256 pixels. RGB on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fourstroke.data.sheet import contact_sheet
from fourstroke.data.world import World, WorldConfig
from fourstroke.evaluate.composition import progress
from fourstroke.evaluate.world import find_world
from fourstroke.pipeline import find_model, read_info
from fourstroke.vae import Autoencoder
from fourstroke.vae.losses import psnr

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field")
PHOTOGRAPH_SIDE = 256
SHEET_COLUMNS = 8
Coder = Callable[[Tensor], Tensor]
"""Pictures (B, 4, H, W) in [-1, 1] to their reconstructions."""


def measure(coder: Coder, pictures: Sequence[np.ndarray], batch: int = 8, label: str = "coding") -> dict[str, Any]:
    """Mean PSNR in dB and SSIM over pictures (H, W, 3 or 4) uint8 of one size; `copies` are (H, W, 3) uint8."""
    scores: list[tuple[float, float]] = []
    copies: list[np.ndarray] = []
    tell = progress(label)
    for start in range(0, len(pictures), batch):
        x = torch.stack([as_tensor(picture) for picture in pictures[start : start + batch]])
        with torch.inference_mode():
            y = coder(x).float().cpu().clamp(-1, 1)[:, :3]
        y = ((y + 1) * 127.5).round() / 127.5 - 1  # what a file would hold
        scores += zip(psnr(y, x[:, :3]).tolist(), ssim(y, x[:, :3]).tolist(), strict=True)
        copies += list(((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
        tell(len(copies), len(pictures))
    mean = np.mean(scores, axis=0)
    return {"psnr": float(mean[0]), "ssim": float(mean[1]), "each": scores, "copies": copies}


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each picture (b, c, H, W) in [-1, 1], (b,); 1 is equal.

    Wang et al. 2004: a Gaussian window of 11 pixels, standard deviation 1.5, K = (0.01, 0.03), channels averaged.
    Sides must be 11 or more.
    """
    if prediction.shape != target.shape or min(target.shape[2:]) < 11:
        raise ValueError(f"SSIM needs equal shapes of 11 pixels and more: {prediction.shape}, {target.shape}")
    axis = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(axis**2) / (2 * 1.5**2))
    line = line / line.sum()
    channels = target.shape[1]
    window = (line[:, None] * line).expand(channels, 1, 11, 11)
    x, y = ((t.double() + 1) / 2 for t in (prediction, target))
    mean_x, mean_y, xx, yy, xy = (F.conv2d(t, window, groups=channels) for t in (x, y, x * x, y * y, x * y))
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (xx - mean_x**2 + yy - mean_y**2 + c2)
    return (top / bottom).flatten(1).mean(1).float()


def photographs() -> dict[str, np.ndarray]:
    """Five photographs, (256, 256, 3) uint8.

    Raises:
        ValueError: if scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        raise ValueError("the photographs come with scikit-image: pip install fourstroke[eval]") from None
    pictures = {}
    for name in PHOTOGRAPHS:
        picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        pictures[name] = np.asarray(square.resize((PHOTOGRAPH_SIDE,) * 2, Image.Resampling.LANCZOS))
    return pictures


def evaluate_reconstruction(
    model: str | Path | None = None,
    *,
    world: WorldConfig | Path | None = None,
    n: int = 200,
    device: str | None = None,
    sheet: Path | None = None,
) -> dict[str, Any]:
    """Measure an autoencoder on n held-out scenes of a world and on five photographs; write a sheet of some.

    `model` is a checkpoint (folder, hub id, or None for the best bundled one) or the folder of an autoencoder alone;
    `world` a configuration, a recipe, or None for the checkpoint's own. PSNR in dB, SSIM at most 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    autoencoder, folder, family = load_autoencoder(model, device)
    config = world if isinstance(world, WorldConfig) else find_world(world, folder, family)
    parameter = next(autoencoder.parameters())

    def code(x: Tensor) -> Tensor:
        return autoencoder.decode_raw(autoencoder.encode_raw(x.to(parameter)))

    drawn, photos = World(config), photographs()
    scenes = [drawn.render(drawn.scene(seed, "heldout")) for seed in range(n)]
    on_scenes = measure(code, scenes, label="scenes")
    on_photos = measure(code, list(photos.values()), label="photographs", batch=1)
    if sheet is not None:
        _pairs(scenes, on_scenes["copies"], list(photos.values()), on_photos["copies"]).save(sheet)
    each = {name: {"psnr": p, "ssim": s} for name, (p, s) in zip(photos, on_photos["each"], strict=True)}
    return {
        "model": family,
        "n": n,
        "scenes": {key: on_scenes[key] for key in ("psnr", "ssim")},
        "photographs": each | {"mean": {key: on_photos[key] for key in ("psnr", "ssim")}},
    }


def load_autoencoder(model: str | Path | None, device: str | None = None) -> tuple[Autoencoder, Path, str]:
    """An autoencoder, its checkpoint's folder and family; `model` may be a whole checkpoint or an autoencoder alone."""
    if model is not None and (Path(model) / "config.json").is_file():
        part = Path(model)
        whole = part.parent if (part.parent / "model_index.json").is_file() else None
    else:
        whole = find_model(model)
        part = whole / "vae"
    folder, family = (whole, read_info(whole).name) if whole else (part, part.name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Autoencoder.from_pretrained(part, device=device), folder, family


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate_reconstruction` as lines of text."""
    rows = {f"{result['n']} held-out scenes": result["scenes"]} | result["photographs"]
    lines = [f"{result['model']}: reconstruction", f"{'':<24} {'PSNR':>8} {'SSIM':>7}"]
    lines += [f"{name:<24} {row['psnr']:>5.2f} dB {row['ssim']:>7.4f}" for name, row in rows.items()]
    return "\n".join(lines)


def as_tensor(picture: np.ndarray) -> Tensor:
    """(H, W, 3 or 4) uint8 -> (4, H, W) in [-1, 1]; RGB gets alpha 1."""
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
    return x if len(x) == 4 else torch.cat([x, torch.ones_like(x[:1])])


def _pairs(
    scenes: list[np.ndarray], scene_copies: list[np.ndarray], photos: list[np.ndarray], photo_copies: list[np.ndarray]
) -> Image.Image:
    """Rows of originals, each above a row of reconstructions; scenes first."""
    shown: list[np.ndarray] = []
    labels: list[str] = []
    for originals, copies in ((scenes[:SHEET_COLUMNS], scene_copies), (photos, photo_copies)):
        for label, row in (("original", originals), ("reconstruction", copies[: len(originals)])):
            blank = [np.full_like(row[0][..., :3], 255)] * (SHEET_COLUMNS - len(row))
            shown += [picture[..., :3] for picture in (*row, *blank)]
            labels += [label] * len(row) + [""] * len(blank)
    return contact_sheet(shown, labels, columns=SHEET_COLUMNS)
