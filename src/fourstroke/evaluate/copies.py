"""Folders of reconstructions against their originals, whoever made them, as OmniDoc-TokenBench's script has it.

The originals are the pictures of one folder, the reconstructions those of the same names in another; one of another
size is resized. PSNR, SSIM, LPIPS, rFID and NED are means over pictures, as in the VAE-2.0 report's table. NED compares
all that RapidOCR reads, in place of PaddleOCR (both run PP-OCR); an original without text counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from fourstroke import progress
from fourstroke.data.images import Images
from fourstroke.device import Device, find_device
from fourstroke.evaluate.frechet import Moments, frechet_distance
from fourstroke.evaluate.inception import Inception
from fourstroke.evaluate.models import as_tensor
from fourstroke.evaluate.reading import can_read, read_lines, similarity
from fourstroke.evaluate.reconstruction import SSIM_WINDOW, ssim
from fourstroke.files import write_json
from fourstroke.image_io import ImageError, open_image
from fourstroke.vae.losses import psnr
from fourstroke.vae.lpips import SMALLEST, Lpips

Mode = Literal["ned", "pixel", "all"]
COLUMNS = ("PSNR", "SSIM", "LPIPS", "rFID", "NED")
OFFICIAL = {"rFID": "FID"}
"""Names in the benchmark's `results.json` that are others than the report's."""


@dataclass
class Pairs:
    """Metrics of pairs, one after the other."""

    lpips: Lpips | None = None
    inception: Inception | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    pixel: bool = True
    read: bool = True
    count: int = 0
    details: list[dict[str, Any]] = field(default_factory=list)
    """Of each original with text: what was read on both sides, and NED."""
    _values: dict[str, list[float]] = field(default_factory=dict)
    _moments: tuple[Moments, Moments] = field(default_factory=lambda: (Moments(), Moments()))

    @torch.inference_mode()
    def add(self, name: str, original: np.ndarray, copy: np.ndarray) -> None:
        """One pair of (H, W, 3 or 4) uint8 pictures of one size."""
        self.count += 1
        if self.pixel:
            x, y = (as_tensor(picture)[None, :3].to(self.device) for picture in (original, copy))
            found = {"PSNR": psnr(y, x), "SSIM": ssim(y, x)} | (
                {} if self.lpips is None else {"LPIPS": self.lpips(y, x)}
            )
            for key, value in found.items():
                if math.isfinite(value.item()):  # PSNR of equal pictures is not
                    self._values.setdefault(key, []).append(value.item())
            if self.inception is not None:
                for moments, picture in zip(self._moments, (x, y), strict=True):
                    moments.add(self.inception((picture + 1) / 2).cpu())
        if self.read:
            first, second = ("".join(read_lines(picture[..., :3])) for picture in (original, copy))
            if first:
                ned = similarity(first, second)
                self._values.setdefault("NED", []).append(ned)
                self.details.append({"file": name, "gt_ocr": first, "recon_ocr": second, "ned": round(ned, 4)})

    def results(self) -> dict[str, float]:
        """By column, the mean; what was not measured is left out."""
        found = {key: float(np.mean(values)) for key, values in self._values.items()}
        if self.inception is not None and self.pixel:
            found["rFID"] = rfid(*self._moments)
        return {key: found[key] for key in COLUMNS if key in found}


def rfid(originals: Moments, copies: Moments) -> float:
    """Fréchet's distance between originals and reconstructions; raises ValueError for fewer than two pictures."""
    return frechet_distance(originals.result(), copies.result())


def evaluate_copies(
    originals: Path,
    copies: Path,
    *,
    mode: Mode = "all",
    lpips: Path | None = None,
    inception: Path | None = None,
    save: Path | None = None,
    n: int | None = None,
    device: Device | None = None,
) -> dict[str, Any]:
    """Measure a folder of reconstructions.

    Args:
        originals: a folder of pictures, with all below it.
        copies: a folder with pictures of the same names; suffixes may differ.
        mode: `ned` reads alone, `pixel` compares pixels and features alone.
        lpips: published LPIPS weights (the report's network is VGG-16).
        inception: pytorch-fid's Inception weights, for rFID.
        save: a folder for `results.json` and `ned_details.json` in the benchmark's form.
        n: pictures at most, spread over the folder.
        device: of LPIPS and Inception.

    Raises:
        ValueError: if there is no pair, or weights or RapidOCR are missing.
    """
    if mode != "pixel" and not can_read():
        raise ValueError("NED needs RapidOCR: pip install '.[eval]', or choose --mode pixel")
    chosen = find_device(device)
    pixel = mode != "ned"
    pairs = Pairs(
        lpips=Lpips.from_pretrained(lpips, chosen) if pixel and lpips is not None else None,
        inception=Inception.from_pretrained(inception).to(chosen) if pixel and inception is not None else None,
        device=chosen, pixel=pixel, read=mode != "pixel",
    )  # fmt: skip
    least = SMALLEST if pairs.lpips is not None else SSIM_WINDOW if pixel else 1
    images = Images(originals)
    if n is not None:
        images.spread(n)
    skipped: dict[str, str] = {}
    tell = progress.pictures("comparing")
    for name, original in images:
        if n is not None and pairs.count >= n:
            break
        try:
            if min(original.shape[:2]) < least:
                raise ImageError(f"{original.shape[1]} x {original.shape[0]} pixels, less than {least} a side")
            copy = _copy_of(copies, name, original.shape[1], original.shape[0])
        except ImageError as error:
            skipped[name] = str(error)
            continue
        pairs.add(name, original, copy)
        tell(pairs.count, min(len(images), n or len(images)))
    skipped |= images.report.skipped
    if not pairs.count:
        first = next(iter(skipped.items()), ("", "nothing is there"))
        raise ValueError(f"no picture of {originals} has a reconstruction in {copies}: {first[0]} {first[1]}")
    result = {"originals": str(originals), "copies": str(copies), "mode": mode, "n": pairs.count, "skipped": skipped}
    result |= {"results": pairs.results(), "with_words": len(pairs.details)}
    if save is not None:
        _save(save, pairs)
    return result


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate_copies` in the report's columns."""
    columns = [column for column in COLUMNS if column in result["results"]]
    values = "".join(f" {result['results'][column]:>8.{2 if column == 'PSNR' else 4}f}" for column in columns)
    lines = [
        f"{result['n']} reconstructions of {result['originals']}",
        f"{'':<24}{''.join(f' {column:>8}' for column in columns)}",
        f"{Path(result['copies']).name:<24}{values}",
    ]
    if skipped := result["skipped"]:
        lines += [f"skipped {len(skipped)}:", *(f"  {name}: {reason}" for name, reason in skipped.items())]
    return "\n".join(lines)


def _copy_of(folder: Path, name: str, width: int, height: int) -> np.ndarray:
    """Raises ImageError if there is none that can be read."""
    path = folder / name
    if not path.is_file():
        path = next(_others(path), path)
    if not path.is_file():
        raise ImageError("has no reconstruction")
    try:
        image = open_image(path)
    except ImageError as error:
        raise ImageError(f"reconstruction: {error}") from None
    if image.size != (width, height):
        image = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _others(path: Path) -> Iterator[Path]:
    """Files of the same stem with another suffix."""
    return iter(sorted(path.parent.glob(f"{_literal(path.stem)}.*")) if path.parent.is_dir() else ())


def _literal(text: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


def _save(folder: Path, pairs: Pairs) -> None:
    results = {OFFICIAL.get(key, key): round(value, 4) for key, value in pairs.results().items()}
    told = {"num_samples": pairs.count, **results} | ({"NED_samples": len(pairs.details)} if pairs.read else {})
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", told)
    if pairs.read:
        counts = {"avg_ned": results.get("NED", 0.0), "total_samples": pairs.count, "valid_samples": len(pairs.details)}
        write_json(folder / "ned_details.json", counts | {"details": pairs.details})
