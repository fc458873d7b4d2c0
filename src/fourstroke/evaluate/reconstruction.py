"""Reconstruction: how much of a picture an autoencoder keeps, ours beside others, on the same pictures in one run.

VAE-2.0 report, section Evaluation: PSNR, SSIM and LPIPS on RGB, and NED, the similarity of what is read in the original
and in the reconstruction. Pictures are the held-out ones of datasets, those of the checkpoint or others, and five
photographs inside scikit-image's package, centre-cropped to squares of 256 pixels; or a folder or webdataset shards of
one's own. All but the photographs are centre-cropped to what all models can take.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fourstroke import progress
from fourstroke.data.images import Images, crop_to_multiple, square
from fourstroke.data.sample import DatasetConfig, SampleError
from fourstroke.data.sheet import contact_sheet
from fourstroke.device import Device
from fourstroke.evaluate import reading
from fourstroke.evaluate.data import find_data, parts
from fourstroke.evaluate.frechet import Moments, frechet_distance
from fourstroke.evaluate.inception import Inception
from fourstroke.evaluate.models import (
    ReconstructionModel,
    as_tensor,
    forget_peak,
    load_autoencoder,
    load_reconstruction_model,
    peak_memory,
)
from fourstroke.evaluate.reading import read_lines
from fourstroke.files import save_image
from fourstroke.image_io import ImageError
from fourstroke.vae.autoencoder import to_pixels
from fourstroke.vae.losses import psnr
from fourstroke.vae.lpips import SMALLEST, Lpips

__all__ = ["evaluate_reconstruction", "load_autoencoder", "measure", "photographs", "ssim", "table"]

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field")
PHOTOGRAPH_SIDE = 256
SSIM_WINDOW = 11
"""Pixels a side of the window that SSIM looks through; pictures have at least that."""
SHEET_COLUMNS = 8
DIFFERENCE = 4
"""How many times a difference is enlarged to be seen."""
Code = Callable[[Tensor], Tensor]
"""Pictures (B, 4, H, W) in [-1, 1] to their reconstructions."""


@dataclass(frozen=True)
class Group:
    """Pictures that are measured together: a way to go through them, again for each model."""

    name: str
    pictures: Callable[[], Iterable[np.ndarray]]
    count: int
    batch: int = 8


def measure(
    code: Code,
    pictures: Iterable[np.ndarray],
    batch: int = 8,
    label: str = "coding",
    *,
    total: int | None = None,
    keep: int | None = None,
    read: bool = False,
    lpips: Lpips | None = None,
    inception: Inception | None = None,
    on_copy: Callable[[int, np.ndarray], None] | None = None,
) -> dict[str, Any]:
    """Mean PSNR in dB, SSIM and, where asked, LPIPS, rFID and NED over pictures (H, W, 3 or 4) uint8 of sides >= 11.

    The mean PSNR is that of the pictures that have a finite one, infinite if none has: exact copies have not.
    `on_copy` gets each reconstruction with its number; `copies` holds the first `keep` of them (None: all), (H, W, 3)
    uint8. `megapixels` a second are those of encoding and decoding alone. Pictures in a row that have the same size are
    coded together.
    """
    scores: list[tuple[float, float]] = []
    copies: list[np.ndarray] = []
    similar: list[float] = []
    distances: list[float] = []
    moments = Moments(), Moments()
    seconds = pixels = 0.0
    tell = progress.pictures(label)
    total = total or (len(pictures) if isinstance(pictures, Sequence) else 0)
    for group in _batches(pictures, batch):
        x = torch.stack([as_tensor(picture) for picture in group])
        start = time.perf_counter()
        with torch.inference_mode():
            y = code(x).float().cpu().clamp(-1, 1)[:, :3]
        seconds += time.perf_counter() - start
        pixels += len(x) * x.shape[2] * x.shape[3]
        y = ((y + 1) * 127.5).round() / 127.5 - 1  # what a file would hold
        scores += zip(psnr(y, x[:, :3]).tolist(), ssim(y, x[:, :3]).tolist(), strict=True)
        if lpips is not None:
            distances += lpips(y, x[:, :3]).tolist()
        if inception is not None:
            for own, shown in zip(moments, (x[:, :3], y), strict=True):
                own.add(inception((shown + 1) / 2))
        made = list(to_pixels(y))
        for number, copy in enumerate(made, len(scores) - len(made)):
            if on_copy is not None:
                on_copy(number, copy)
        copies += made[: max(0, len(made) if keep is None else keep - len(copies))]
        if read:
            similar += [s for pair in zip(group, made, strict=True) if (s := similarity(*pair)) is not None]
        tell(len(scores), total)
    if not scores:
        raise ValueError("there is no picture to measure")
    ratios = [ratio for ratio, _ in scores if math.isfinite(ratio)]
    result: dict[str, Any] = {"psnr": float(np.mean(ratios)) if ratios else math.inf}
    result |= {"ssim": float(np.mean([alike for _, alike in scores])), "each": scores, "copies": copies}
    if lpips is not None:
        result["lpips"] = float(np.mean(distances))
    if inception is not None:
        result["rfid"] = frechet_distance(moments[0].result(), moments[1].result())
    if read:
        result |= {"ned": float(np.mean(similar)) if similar else None, "with_words": len(similar)}
    return result | {"megapixels": pixels / 1e6 / max(seconds, 1e-9)}


def read_all(picture: np.ndarray) -> str:
    """All words in (H, W, 3) uint8, from top to bottom; raises ValueError if RapidOCR is not installed."""
    return " ".join(read_lines(picture))


def similarity(original: np.ndarray, copy: np.ndarray) -> float | None:
    """NED of what two pictures say: 1 - levenshtein / longer length, words as they are; None if both have none."""
    first, second = (read_all(picture[..., :3]) for picture in (original, copy))
    return reading.similarity(first, second) if first or second else None


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each picture (b, c, H, W) in [-1, 1], (b,); 1 is equal.

    Wang et al. 2004: a Gaussian window of 11 pixels, standard deviation 1.5, K = (0.01, 0.03), channels averaged.
    Sides must be 11 or more.
    """
    if prediction.shape != target.shape or min(target.shape[2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs equal shapes of 11 pixels and more: {prediction.shape}, {target.shape}")
    axis = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=target.device) - SSIM_WINDOW // 2
    line = torch.exp(-(axis**2) / (2 * 1.5**2))
    line = line / line.sum()
    channels = target.shape[1]
    window = (line[:, None] * line).expand(channels, 1, SSIM_WINDOW, SSIM_WINDOW)
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
        raise ValueError("the photographs come with scikit-image: pip install '.[eval]'") from None
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
    data: DatasetConfig | Sequence[Path] = (),
    images: Path | None = None,
    peers: Sequence[str | Path] = (),
    n: int = 200,
    read: bool = False,
    lpips: Path | None = None,
    inception: Path | None = None,
    size: int | None = None,
    save: Path | None = None,
    device: Device | None = None,
    sheet: Path | None = None,
) -> dict[str, Any]:
    """Measure autoencoders on the same pictures; write a sheet of some with reconstructions and differences.

    Args:
        model: a checkpoint (folder, hub id, or None for the best bundled one), or the folder of an autoencoder alone.
        data: a dataset, files of datasets, or nothing for the checkpoint's own: n held-out pictures of each, and five
            photographs. Each part of a mixture is a group of its own.
        images: instead, n pictures that can be read of a folder, a picture, or webdataset shards, spread over them.
        peers: autoencoders beside it, of the same kinds, or in diffusers' layout.
        read: also read what is written, with RapidOCR.
        lpips: also compare features, with the published weights that lie in this folder or file (`vae.lpips`).
        inception: also measure rFID, with pytorch-fid's weights in this file (`evaluate.inception`).
        size: of `images`, scaled and cut to squares of this side as ImageNet's are measured.
        save: a folder for the reconstructions of `images` by `model`, PNGs of the pictures' names.
        sheet: where to write the picture, for `model`.

    PSNR in dB, None where it is infinite, SSIM and NED at most 1; `megapixels` a second; `peak_mb` is the GPU's, or all
    of the process on a CPU.
    Raises ValueError if there is nothing to measure or to measure with.
    """
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    if images is None and (size is not None or save is not None):
        raise ValueError("a size, and a folder to save to, are for pictures of your own: give --images")
    distance = None if lpips is None else Lpips.from_pretrained(lpips)
    network = None if inception is None else Inception.from_pretrained(inception)
    models = [load_reconstruction_model(name, device) for name in (model, *peers)]
    source, names = None if images is None else Images(images), list[str]()
    multiple = math.lcm(*(each.multiple for each in models))
    if source is not None:
        source.spread(n)
        groups = [_own(source, n, multiple, SSIM_WINDOW if lpips is None else SMALLEST, size, names)]
    else:
        groups = [_held_out(config, n, multiple) for config in _datasets(data, models[0])]
        photos = list(photographs().values())
        groups.append(Group("photographs", lambda: photos, len(photos), 1))
    results: list[dict[str, Any]] = []
    for each in models:
        forget_peak(each.device)
        extra: dict[str, Any] = {"read": read, "lpips": distance, "inception": network}
        extra["keep"] = SHEET_COLUMNS if sheet is not None and not results else 0
        if save is not None and not results:
            extra["on_copy"] = partial(_save, save, names)
        found = {g.name: measure(each.code, g.pictures(), g.batch, g.name, total=g.count, **extra) for g in groups}
        results.append(found | {"peak_mb": round(peak_memory(each.device), 1)})
    if sheet is not None:
        shown = [(list(itertools.islice(g.pictures(), SHEET_COLUMNS)), results[0][g.name]["copies"]) for g in groups]
        save_image(_sheet(shown), sheet)
    answers = [{"model": each.name, "n": n} | _plain(found) for each, found in zip(models, results, strict=True)]
    result = answers[0] | ({"peers": answers[1:]} if peers else {})
    if source is not None:
        result |= {"source": str(images), "skipped": source.report.skipped}
    return result


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate_reconstruction` as lines of text."""
    lines = []
    for answer in (result, *result.get("peers", ())):
        if "images" in answer:
            rows = {"images": answer["images"]}
        else:
            rows = {f"{answer[name]['n']} of {name}": answer[name] for name in answer["datasets"]}
            rows |= answer["photographs"]
        speed = f"{next(iter(rows.values()))['megapixels']:.2f} megapixels a second, at most {answer['peak_mb']:.0f} MB"
        known = {"LPIPS": "lpips", "rFID": "rfid", "NED": "ned"}  # in the report's order
        columns = {head: key for head, key in known.items() if any(key in row for row in rows.values())}
        heads = "".join(f" {head:>7}" for head in columns)
        lines += [f"{answer['model']}: reconstruction; {speed}", f"{'':<24} {'PSNR':>8} {'SSIM':>7}{heads}"]
        for name, row in rows.items():
            more = "".join(f" {'' if row.get(k) is None else format(row[k], '.4f'):>7}" for k in columns.values())
            ratio = "inf" if row["psnr"] is None else f"{row['psnr']:.2f}"
            lines.append(f"{name:<24} {ratio:>5} dB {row['ssim']:>7.4f}{more}".rstrip())
    if skipped := result.get("skipped"):
        lines += [f"skipped {len(skipped)}:", *(f"  {name}: {reason}" for name, reason in skipped.items())]
    return "\n".join(lines)


def _datasets(data: DatasetConfig | Sequence[Path], model: ReconstructionModel) -> list[DatasetConfig]:
    """The datasets to measure on, each kind once."""
    if isinstance(data, Sequence):
        files: Sequence[Path | None] = data or [None]
        chosen = [find_data(path, model.folder, model.name) for path in files]
    else:
        chosen = [data]
    found = [part for config in chosen for part in parts(config)]
    names = [config.kind for config in found]
    if len(set(names)) < len(names):
        raise ValueError(f"the datasets are of kinds {', '.join(names)}; give each kind once")
    return found


def _held_out(config: DatasetConfig, n: int, multiple: int) -> Group:
    """The first n held-out pictures of a dataset that can be used, cut to the multiple."""
    data = config.open("heldout")

    def pictures() -> Iterator[np.ndarray]:
        for index in range(len(data)):
            with contextlib.suppress(SampleError, ImageError):
                yield crop_to_multiple(data.sample(index).image, multiple)

    return Group(config.kind, lambda: itertools.islice(pictures(), n), min(n, len(data)))


def _save(folder: Path, names: Sequence[str], number: int, copy: np.ndarray) -> None:
    """Write a reconstruction under the name of its picture, as PNG."""
    save_image(Image.fromarray(copy), folder / Path(names[number]).with_suffix(".png"))


def _own(source: Images, n: int, multiple: int, least: int, size: int | None, names: list[str]) -> Group:
    """The first n pictures of one's own that can be used: those of `least` pixels a side, cut to the multiple.

    `names` becomes theirs, and the pictures squares of `size` if there is one. Going through them raises ValueError
    with the reasons if there is none.
    """

    def pictures() -> Iterator[np.ndarray]:
        names.clear()
        for name, picture in source:
            try:
                whole = crop_to_multiple(picture if size is None else square(picture, size), multiple)
            except ImageError as error:
                source.skip(name, str(error))
                continue
            if min(whole.shape[:2]) < least:
                source.skip(name, f"{whole.shape[1]} x {whole.shape[0]} pixels, less than {least} a side")
                continue
            names.append(name)
            yield whole
        if not names:
            raise ValueError(f"there is no picture to measure: {source.report}")

    return Group("images", lambda: itertools.islice(pictures(), n), min(n, len(source)))


def _batches(pictures: Iterable[np.ndarray], batch: int) -> Iterator[list[np.ndarray]]:
    """Pictures of one size in a row, at most `batch` and about a megapixel."""
    for shape, same in itertools.groupby(pictures, key=lambda picture: picture.shape[:2]):
        size = max(1, min(batch, 2**20 // (shape[0] * shape[1])))
        while part := list(itertools.islice(same, size)):
            yield part


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Results without pictures; photographs one by one."""
    keys = ("psnr", "ssim", "lpips", "rfid", "ned", "with_words", "megapixels")
    plain: dict[str, Any] = {"peak_mb": found["peak_mb"]}
    for name, group in found.items():
        if name == "peak_mb":
            continue
        mean = {key: group[key] for key in keys if key in group} | {"psnr": _finite(group["psnr"])}
        if name == "photographs":
            each = zip(PHOTOGRAPHS, group["each"], strict=True)
            plain[name] = {title: {"psnr": _finite(p), "ssim": s} for title, (p, s) in each} | {"mean": mean}
        else:
            plain[name] = mean | {"n": len(group["each"])}
    if "photographs" in plain:
        plain["datasets"] = [name for name in found if name not in ("peak_mb", "photographs")]
    return plain


def _finite(value: float) -> float | None:
    """As JSON has it: it knows no infinity."""
    return value if math.isfinite(value) else None


def _sheet(groups: list[tuple[list[np.ndarray], list[np.ndarray]]]) -> Image.Image:
    """For each group a row of originals, one of reconstructions and one of differences, all at most 256 pixels."""
    shown: list[np.ndarray] = []
    labels: list[str] = []
    for originals, copies in groups:
        before = [_centre(picture[..., :3]) for picture in originals]
        after = [_centre(picture) for picture in copies[: len(before)]]
        off = [np.abs(a.astype(int) - b) * DIFFERENCE for a, b in zip(after, before, strict=True)]
        differences = [picture.clip(0, 255).astype(np.uint8) for picture in off]
        rows = {"original": before, "reconstruction": after, f"difference x {DIFFERENCE}": differences}
        for label, row in rows.items():
            blank = [np.full_like(row[0], 255)] * (SHEET_COLUMNS - len(row))
            shown += [*row, *blank]
            labels += [label] * len(row) + [""] * len(blank)
    return contact_sheet(shown, labels, columns=SHEET_COLUMNS)


def _centre(picture: np.ndarray, side: int = 256) -> np.ndarray:
    """The middle of a big picture; a small one enlarged by whole pixels, so that its letters can be seen."""
    top, left = (max(0, (length - side) // 2) for length in picture.shape[:2])
    part = picture[top : top + side, left : left + side]
    times = max(1, side // max(part.shape[:2]))
    return part.repeat(times, axis=0).repeat(times, axis=1)
