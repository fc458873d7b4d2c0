"""Latents and text features on disk, made once by frozen encoders (`data.prepare`) and read by any number of runs.

A folder of safetensors shards, mapped into memory, not read. A latent is known by the content of its picture, the size
at which it is shown, and the crop. A feature is known by its caption, and for edits by the input images too. So a
changed picture or caption is not found, and is encoded anew. `cache.json` holds the digests of the encoders' weights
and their precision: what another model made is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fourstroke.checkpoint import CheckpointError, read_json
from fourstroke.data.buckets import Crop
from fourstroke.data.sample import Dataset, Shape
from fourstroke.files import FolderError, atomic_file, user_path, write_json

RECORD = "cache.json"
LATENTS, FEATURES = "latents", "features"
PARTS = {"vae": LATENTS, "text": FEATURES}
"""What is made by which encoder."""
BLOCK = 1 << 24


class TensorStore:
    """Tensors by key, in the shards of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: dict[str, Path] = {}
        self._open: dict[tuple[int, Path], Any] = {}
        self._digests: dict[tuple[int, int], str] = {}
        for path in sorted(folder.glob("[0-9a-f]*.safetensors")):
            self._shards |= dict.fromkeys(self._handle(path).keys(), path)

    def __len__(self) -> int:
        return len(self._shards)

    def __contains__(self, key: str) -> bool:
        return key in self._shards

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def get(self, key: str) -> Tensor | None:
        """The tensor of a key; raises CheckpointError if its file is damaged."""
        path = self._shards.get(key)
        return None if path is None else self._handle(path).get_tensor(key)

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Write a shard, whole or not at all; raises WriteError if it cannot be written."""
        if not tensors:
            return
        path = self.folder / f"{_digest(*sorted(tensors))}.safetensors"
        with atomic_file(path) as partial:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, partial)
        self._shards |= dict.fromkeys(tensors, path)

    def digest(self, dataset: Dataset, index: int) -> str:
        """`dataset.digest(index)`, taken once in each process."""
        key = id(dataset), index
        if key not in self._digests:
            self._digests[key] = dataset.digest(index)
        return self._digests[key]

    def _handle(self, path: Path) -> Any:
        key = os.getpid(), path
        if key not in self._open:
            try:
                self._open[key] = safe_open(path, "pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} is damaged ({error}); delete it and prepare the data again") from None
        return self._open[key]


class LatentStore(TensorStore):
    """Latents of pictures and of the images they were edited from, each (tokens, channels) float16."""

    @staticmethod
    def keys(digest: str, sizes: Shape, crops: Sequence[Crop]) -> list[str]:
        """Of a sample's picture and inputs, by the digest of its content."""
        shown = zip((sizes[0], *sizes[1]), crops, strict=True)
        return [
            _digest(digest, part, size, [round(edge, 6) for edge in crop]) for part, (size, crop) in enumerate(shown)
        ]

    def find(self, dataset: Dataset, index: int, sizes: Shape, crops: Sequence[Crop]) -> list[Tensor] | None:
        """The latents of a sample; None if one is not there."""
        found = [self.get(key) for key in self.keys(self.digest(dataset, index), sizes, crops)]
        return None if any(one is None for one in found) else [one for one in found if one is not None]


class FeatureStore(TensorStore):
    """Features of captions, (length, channels) in the encoder's precision."""

    @staticmethod
    def key(caption: str, digest: str = "", sizes: Shape | None = None, crops: Sequence[Crop] = ()) -> str:
        """Of a caption; for an edit, of the content of its images and how they are shown, too."""
        if sizes is None or not sizes[1]:
            return _digest(caption)
        return _digest(caption, digest, sizes[1], [[round(edge, 6) for edge in crop] for crop in crops[1:]])

    def find(self, dataset: Dataset, index: int, caption: str, sizes: Shape, crops: Sequence[Crop]) -> Tensor | None:
        """The features of one of a sample's captions, or None."""
        digest = self.digest(dataset, index) if sizes[1] else ""
        return self.get(self.key(caption, digest, sizes, crops))


def open_cache(
    folder: Path,
    vae: Path | None = None,
    text: Path | None = None,
    dtype: torch.dtype | None = None,
    *,
    create: bool = False,
) -> tuple[LatentStore | None, FeatureStore | None]:
    """The latents of the autoencoder in the folder `vae`, and the features of the encoder and processor in `text`.

    Args:
        folder: the cache.
        vae: holds `config.json` and weights; None opens no latents.
        text: holds `text_encoder` and `processor`; None opens no features.
        dtype: precision of the encoders; None takes whatever was used.
        create: make what is not there.

    Raises:
        ValueError: in one line, if the folder holds no cache, or one of another model or precision.
    """
    folder, wanted = user_path(folder), {"vae": vae, "text": text}
    if not (folder / RECORD).exists():
        if not create:
            raise ValueError(f"{folder} holds no cache; `fourstroke data prepare --recipe …` makes it")
        if folder.exists() and any(folder.iterdir()):
            raise FolderError(f"{folder} is not empty and holds no cache; choose an empty or a new folder")
    record = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
    before = json.dumps(record)
    for part, path in wanted.items():
        if path is None:
            continue
        known, stamp = record.get(part, {}), _stamp(path)
        if not isinstance(known, dict) or (known and not {"weights", "dtype"} <= known.keys()):
            raise CheckpointError(f"{folder / RECORD} is damaged; delete the cache and prepare the data again")
        own = known["weights"] if known.get("stamp") == stamp else weights_digest(path)
        if known and known["weights"] != own:
            raise ValueError(f"{folder} holds {PARTS[part]} of another model than {path}: name another cache")
        if known and dtype is not None and known["dtype"] != str(dtype).removeprefix("torch."):
            raise ValueError(
                f"{folder} holds {PARTS[part]} made in {known['dtype']}, not in {str(dtype).removeprefix('torch.')}: "
                "name another cache"
            )
        if not known and not create:
            raise ValueError(f"{folder} holds no {PARTS[part]}; `fourstroke data prepare --recipe …` makes them")
        name = known.get("dtype") or str(dtype or torch.float32).removeprefix("torch.")
        record[part] = {"weights": own, "dtype": name, "stamp": stamp}
    if json.dumps(record) != before:
        with contextlib.suppress(OSError) if not create else contextlib.nullcontext():
            write_json(folder / RECORD, record)  # with the stamp, by which the digest need not be taken again
    latents = None if vae is None else LatentStore(folder / LATENTS)
    return latents, None if text is None else FeatureStore(folder / FEATURES)


def weights_digest(folder: Path) -> str:
    """Of the weights, configurations and tokenizers in a folder and those below it."""
    digest = hashlib.blake2b(digest_size=16)
    for path in _files(folder):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """What an encoder is made of: its own folder, or `text_encoder` and `processor` of a checkpoint."""
    parts = [part for name in ("text_encoder", "processor") if (part := folder / name).is_dir()] or [folder]
    found = [path for part in parts for path in part.iterdir() if path.suffix in (".json", ".safetensors", ".jinja")]
    if not found:
        raise CheckpointError(f"{folder} holds no weights")
    return sorted(found)


def _stamp(folder: Path) -> list[Any]:
    """By which files are known not to have changed, as make knows it."""
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in _files(folder)]


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
