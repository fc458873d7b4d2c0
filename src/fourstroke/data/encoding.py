"""Encodes jobs: pictures to latents and captions to features, of one size at a time, into a cache (`encoded`)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.data
from PIL import Image
from torch import Tensor

from fourstroke.checkpoint import read_json
from fourstroke.data.buckets import BucketConfig, Buckets, Crop, show
from fourstroke.data.encoded import FeatureStore, LatentStore, open_cache
from fourstroke.data.filters import encodable
from fourstroke.data.frames import Bucketed, Frames
from fourstroke.data.loader import LoaderConfig
from fourstroke.data.report import Report
from fourstroke.data.sample import Data, SampleError, Shape, Split
from fourstroke.data.survey import shapes_of, survey
from fourstroke.device import find_device, weights_dtype
from fourstroke.folder import ModelInfo, find_model, lineage, part, read_info
from fourstroke.sizes import multiple
from fourstroke.text import TextEncoder
from fourstroke.text.encoder import PromptTooLong
from fourstroke.vae import Autoencoder
from fourstroke.vae.autoencoder import AutoencoderConfig

CHUNK = 256
BATCH_PIXELS = 1 << 22
"""Of the pictures that are encoded together."""
CAPTIONS = 32
"""That are encoded together."""


@dataclass(frozen=True, kw_only=True)
class PrepareRecipe:
    """What is read of a stage's recipe; its other keys are the stage's."""

    data: Data
    cache: Path
    """Folder of the latents and features."""
    buckets: BucketConfig | None = None
    """Sizes of the pictures; None is the model's own."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    init: str | None = None
    """Checkpoint of the encoders."""
    vae: Path | None = None
    text_from: Path | None = None
    info: ModelInfo | None = None
    freeze_text: bool = True
    """Features of a text encoder that is trained are not kept."""
    cache_features: bool = True
    """Keep features of captions beside latents; a rich caption's take some ten times the room."""
    bf16: bool | None = None

    def __post_init__(self) -> None:
        if self.vae is None and self.init is None:
            raise ValueError("there is no autoencoder: name its folder, vae, or a checkpoint, init")


@dataclass(frozen=True)
class Job:
    """Samples of one size."""

    target: Shape
    indices: Sequence[int]


@dataclass
class Read:
    """What is to be encoded of a job: by key, pictures (h, w, 4) uint8, and captions with their input images."""

    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    captions: dict[str, tuple[str, list[np.ndarray]]] = field(default_factory=dict)
    skipped: list[tuple[str, SampleError]] = field(default_factory=list)


class Encoder:
    """Encodes jobs of a recipe; models are loaded when something is to be encoded.

    Raises:
        ValueError: in one line, for a cache of another model, or data of which nothing can be used.
    """

    def __init__(self, recipe: PrepareRecipe, split: Split = "train", device: str | None = None) -> None:
        self.recipe, self.dataset, self.device = recipe, recipe.data.open(split), find_device(device)
        folders = [] if recipe.init is None else lineage(find_model(recipe.init))
        self.vae = recipe.vae or part(folders, "vae")
        text = recipe.text_from or (folders[-1] if folders else None)
        self.text = text if recipe.freeze_text and recipe.cache_features else None
        info = recipe.info or (read_info(folders[0]) if folders else ModelInfo())
        self.dtype = weights_dtype({None: None, True: "bfloat16", False: "float32"}[recipe.bf16], self.device)
        latents, self.features = open_cache(recipe.cache, self.vae, self.text, self.dtype, create=True)
        assert latents is not None
        self.latents: LatentStore = latents
        self.frames = frames_of(recipe, info, self.vae)

    def jobs(self, report: Report | None = None) -> list[Job]:
        """What there is to do; `report` is filled with what cannot be used."""
        config = self.recipe.loader
        filters = encodable(config.filters, self.text)
        found, own = survey(self.dataset, filters, captioned=False, workers=config.workers)
        jobs = [
            Job(target, indices[first : first + CHUNK].tolist())
            for surveyed in found
            for indices, shape in shapes_of(surveyed)
            for target in self._targets(indices, shape, own)
            for first in range(0, len(indices), CHUNK)
        ]
        if report is not None:
            report.used, report.skipped, report.uncaptioned = own.used, own.skipped, own.uncaptioned
        return jobs

    def read(self, job: Job) -> Read:
        """Decode what is not in the cache yet."""
        read = Read()
        for index in job.indices:
            try:
                self._read(job.target, index, read)
            except SampleError as error:
                read.skipped.append((str(index), error))
        return read

    def encode(self, read: Read) -> list[tuple[str, SampleError]]:
        """Encode and write; returns what cannot be used."""
        skipped = list(read.skipped)
        self.latents.add(dict(self._latents(read.pictures)))
        if self.features is not None:
            self.features.add(dict(self._features(read.captions, skipped)))
        return skipped

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A job as Ray Data hands it over, done; what cannot be used comes back."""
        skipped = self.encode(self.read(Job(*row["job"])))
        return {"samples": len(row["job"][1]), "skipped": [(name, str(e), e.stage, e.name) for name, e in skipped]}

    def _targets(self, indices: np.ndarray, shape: Shape, report: Report) -> list[Shape]:
        try:
            return sorted(set(self.frames.place(shape).values()))
        except SampleError as error:
            report.used -= len(indices)
            for index in indices.tolist():
                report.skip(self.dataset.record(index).name, error)
            return []

    def _read(self, target: Shape, index: int, read: Read) -> None:
        record, digest = self.dataset.record(index), self.latents.digest(self.dataset, index)
        shape = record.size, record.inputs
        crops = self.frames.crops(shape, target, False, np.random.default_rng(0))
        keys = self.latents.keys(digest, target, crops)
        said: dict[str, str] = {}
        if self.features is not None:
            texts = {caption.text for caption in record.captions} | {""}  # the empty one is that of dropped prompts
            said = {FeatureStore.key(text, digest, target, crops): text for text in sorted(texts)}
            said = {key: text for key, text in said.items() if key not in self.features}
        wanted = [key for key in keys if key not in self.latents and key not in read.pictures]
        shown: list[np.ndarray] = []
        if wanted or (said and target[1]):
            shown = self._shown(index, target, crops)
        read.pictures |= {key: picture for key, picture in zip(keys, shown, strict=False) if key in wanted}
        read.captions |= {key: (text, shown[1:] if target[1] else []) for key, text in said.items()}

    def _shown(self, index: int, target: Shape, crops: Sequence[Crop]) -> list[np.ndarray]:
        sample = self.dataset.sample(index)
        parts = zip((sample.image, *sample.inputs), (target[0], *target[1]), crops, strict=True)
        return [show(*one) for one in parts]

    @torch.inference_mode()
    def _latents(self, pictures: dict[str, np.ndarray]) -> Iterator[tuple[str, Tensor]]:
        by_size: dict[tuple[int, ...], list[str]] = {}
        for key, picture in pictures.items():
            by_size.setdefault(picture.shape, []).append(key)
        for shape, keys in by_size.items():
            size = max(1, BATCH_PIXELS // (shape[0] * shape[1]))
            for first in range(0, len(keys), size):
                part = keys[first : first + size]
                pixels = torch.from_numpy(np.stack([pictures[key] for key in part])).permute(0, 3, 1, 2)
                z = self._autoencoder.encode_tokens(pixels.to(self.device)).half().cpu()
                yield from zip(part, z, strict=True)

    def _features(
        self, captions: dict[str, tuple[str, list[np.ndarray]]], skipped: list[tuple[str, SampleError]]
    ) -> Iterator[tuple[str, Tensor]]:
        keys = sorted(captions, key=lambda key: len(captions[key][0]))  # little padding
        for first in range(0, len(keys), CAPTIONS):
            part = keys[first : first + CAPTIONS]
            try:
                yield from zip(part, self._encoded([captions[key] for key in part]), strict=True)
            except PromptTooLong:
                for key in part:
                    try:
                        yield key, self._encoded([captions[key]])[0]
                    except PromptTooLong as error:
                        skipped.append((captions[key][0][:40], SampleError(str(error), "caption")))

    def _encoded(self, rows: Sequence[tuple[str, list[np.ndarray]]]) -> list[Tensor]:
        images = [[Image.fromarray(picture, "RGBA") for picture in pictures] for _, pictures in rows]
        encoded = self._text_encoder.encode([text for text, _ in rows], images if any(images) else None)
        features = encoded.features.to(self.dtype).cpu()
        return [row[:length].clone() for row, length in zip(features, encoded.lengths.tolist(), strict=True)]

    @functools.cached_property
    def _autoencoder(self) -> Autoencoder:
        return Autoencoder.from_pretrained(self.vae, dtype=self.dtype, device=self.device)

    @functools.cached_property
    def _text_encoder(self) -> TextEncoder:
        assert self.text is not None
        folders = self.text / "text_encoder", self.text / "processor"
        return TextEncoder.from_pretrained(*folders, dtype=self.dtype, device=self.device)


def frames_of(recipe: PrepareRecipe, info: ModelInfo, vae: Path) -> Frames:
    """The recipe's sizes; raises ValueError if their crops are random, for those cannot be kept."""
    factor = AutoencoderConfig.from_json(read_json(vae / "config.json"), vae / "config.json").factor
    config = recipe.buckets or own_size(info)
    if config.crop != "center":
        raise ValueError("buckets.crop=random: latents are those of one crop; set it to center, or train without cache")
    return Bucketed(Buckets(config, multiple(replace(info, factor=factor))))


def own_size(info: ModelInfo) -> BucketConfig:
    """The model's own size as the only one."""
    area = round((info.width * info.height) ** 0.5)
    return BucketConfig(areas=(area,), ratios=((info.width, info.height),))
