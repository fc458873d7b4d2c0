"""A latent cache: samples of the world, rendered and encoded once by a frozen autoencoder.

A folder of chunks, each complete or absent, so that building it can be interrupted and goes on where it stopped.
`cache.json` holds the fingerprint of what it was made from; another world or autoencoder is refused, not mixed in.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fourstroke.checkpoint import CheckpointError, pick, read_file, read_json, read_rows
from fourstroke.data.stream import batches, pixels
from fourstroke.files import FolderError, atomic_file, write_json, write_text
from fourstroke.vae import Autoencoder
from fourstroke.world import Sample, WorldConfig
from fourstroke.world.graph import Split
from fourstroke.world.world import SCENES

CHUNK, BATCH = 256, 32


@dataclass(frozen=True)
class LatentCache:
    """Encoded samples in memory: `latents` (N, tokens, C) float16, and a short and a rich caption for each."""

    latents: Tensor
    short: list[str]
    rich: list[str]
    grid: tuple[int, int]

    def __len__(self) -> int:
        return len(self.latents)


def build_cache(
    folder: Path,
    autoencoder: Autoencoder,
    config: WorldConfig,
    count: int,
    *,
    seed: int = 0,
    split: Split = "train",
    workers: int = 0,
) -> LatentCache:
    """Make (or complete) a cache of `count` samples and load it.

    Raises:
        FolderError: if the folder holds other things than a cache.
        ValueError: if it holds a cache of something else.
        WriteError: if it cannot be written; what is complete stays.
    """
    own = fingerprint(autoencoder, config, seed, split)
    if (folder / "cache.json").exists():
        if read_json(folder / "cache.json") != own:
            raise ValueError(f"{folder} was made with another world or autoencoder; delete it or choose another folder")
    elif folder.exists() and any(folder.iterdir()):
        raise FolderError(f"{folder} is not empty and holds no latents; choose an empty or a new folder")
    else:
        write_json(folder / "cache.json", own)
    chunks = -(-count // CHUNK)  # a chunk is always whole, so that asking for more later goes on from here
    first = next((chunk for chunk in range(chunks) if not _file(folder, chunk).exists()), chunks)
    stream = batches(config, BATCH, start=first * CHUNK // BATCH, seed=seed, split=split, workers=workers)
    start = time.perf_counter()
    for chunk in range(first, chunks):
        _encode_chunk(_file(folder, chunk), autoencoder, itertools.islice(stream, CHUNK // BATCH))
        rate = (chunk + 1 - first) / (time.perf_counter() - start)
        if chunk % 16 == 15 or chunk + 1 == chunks:
            left = (chunks - chunk - 1) / rate
            print(f"latents {chunk + 1}/{chunks} chunks, {rate * CHUNK:.0f} samples/s, {left:.0f} s left", flush=True)
    factor = autoencoder.config.factor
    return load_cache(folder, count, (config.height // factor, config.width // factor))


def load_cache(folder: Path, count: int, grid: tuple[int, int]) -> LatentCache:
    """Read the first `count` samples of a complete cache."""
    latents: list[Tensor] = []
    short: list[str] = []
    rich: list[str] = []
    for chunk in range(-(-count // CHUNK)):
        file = _file(folder, chunk)
        tensors, rows = read_file(file), read_rows(file.with_suffix(".jsonl"))
        if "latents" not in tensors or len(rows) != len(tensors["latents"]):
            raise CheckpointError(
                f"{file} does not hold the latents of the {len(rows)} captions beside it; delete {folder}"
            )
        latents.append(tensors["latents"])
        short += [pick(row, "short", str, file.with_suffix(".jsonl")) for row in rows]
        rich += [pick(row, "rich", str, file.with_suffix(".jsonl")) for row in rows]
    return LatentCache(torch.cat(latents)[:count], short[:count], rich[:count], grid)


def fingerprint(autoencoder: Autoencoder, config: WorldConfig, seed: int, split: Split) -> dict[str, Any]:
    """What a cache depends on: the world, the encoder's weights, the seed and the split."""
    digest = hashlib.sha256()
    for name, p in sorted(autoencoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(p.detach().float().cpu().numpy().tobytes())
    world = json.loads(json.dumps(dataclasses.asdict(config)))
    return {"world": world, "scenes": SCENES, "autoencoder": digest.hexdigest(), "seed": seed, "split": split}


@torch.inference_mode()
def _encode_chunk(path: Path, autoencoder: Autoencoder, stream: Iterable[list[Sample]]) -> None:
    parameter = next(autoencoder.parameters())
    latents, lines = [], []
    for samples in stream:
        z = autoencoder.encode(pixels(samples).to(parameter.device, parameter.dtype))
        latents.append(z.flatten(2).mT.half().cpu())
        lines += [json.dumps({"short": s.short, "rich": s.rich}, ensure_ascii=False) for s in samples]
    write_text(path.with_suffix(".jsonl"), "\n".join(lines) + "\n")
    with atomic_file(path) as partial:
        save_file({"latents": torch.cat(latents).contiguous()}, partial)


def _file(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:06d}.safetensors"
