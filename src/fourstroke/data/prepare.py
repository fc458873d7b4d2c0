"""Prepares a recipe's data: looks at every sample, and encodes pictures and captions into a cache (`encoded`).

Work goes in chunks of pictures of one size. What is there already is passed over, so that it can be interrupted at any
moment and goes on. On one machine, workers read while this process encodes; with Ray, actors on many machines do both,
by Ray Data, with the same code, into one folder that all of them see.
"""

from __future__ import annotations

import functools
import sys
import time
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
from fourstroke.files import write_json
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
class _Read:
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
        self.text = text if recipe.freeze_text else None
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

    def read(self, job: Job) -> _Read:
        """Decode what is not in the cache yet."""
        read = _Read()
        for index in job.indices:
            try:
                self._read(job.target, index, read)
            except SampleError as error:
                read.skipped.append((str(index), error))
        return read

    def encode(self, read: _Read) -> list[tuple[str, SampleError]]:
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

    def _read(self, target: Shape, index: int, read: _Read) -> None:
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


def prepare(
    recipe: PrepareRecipe, splits: Sequence[Split] = ("train",), ray: str | None = None, actors: int = 1
) -> dict[str, Any]:
    """Look at a recipe's data and encode it; returns the report as plain data, which lies in the cache too.

    Args:
        recipe: what to prepare.
        splits: of the data.
        ray: address of a Ray cluster, `auto`, or `local`; None works here.
        actors: that encode at a time on the cluster, each on a GPU where there are any.

    Raises:
        ValueError: in one line, if nothing can be used, or the cache is another model's.
    """
    answer: dict[str, Any] = {"cache": str(recipe.cache)}
    for split in splits:
        try:
            encoder, report = Encoder(recipe, split), Report()
            jobs = encoder.jobs(report)
        except ValueError as error:
            if split == splits[0]:
                raise
            print(f"{split}: {error}", file=sys.stderr, flush=True)  # many sets hold nothing out
            continue
        progress = Progress(sum(len(job.indices) for job in jobs), split)
        work = _here(encoder, jobs) if ray is None else _on_ray(recipe, split, jobs, ray, actors)
        for count, skipped in work:
            for name, why in skipped:
                report.skip(name, why)
                report.used -= why.stage != "caption"
            progress(count)
        answer[split] = report.plain()
        print(f"{split}: {report}", file=sys.stderr, flush=True)
    write_json(recipe.cache / "report.json", answer)
    return answer


def own_size(info: ModelInfo) -> BucketConfig:
    """The model's own size as the only one."""
    area = round((info.width * info.height) ** 0.5)
    return BucketConfig(areas=(area,), ratios=((info.width, info.height),))


def _here(encoder: Encoder, jobs: Sequence[Job]) -> Iterator[tuple[int, list[tuple[str, SampleError]]]]:
    workers = encoder.recipe.loader.workers
    loader: Any = torch.utils.data.DataLoader(_Jobs(encoder, jobs), batch_size=None, num_workers=workers)
    for job, read in zip(jobs, loader, strict=True):
        yield len(job.indices), encoder.encode(read)


class _Jobs(torch.utils.data.Dataset[_Read]):
    def __init__(self, encoder: Encoder, jobs: Sequence[Job]) -> None:
        self.encoder, self.jobs = encoder, jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, place: int) -> _Read:
        return self.encoder.read(self.jobs[place])


def _on_ray(
    recipe: PrepareRecipe, split: Split, jobs: Sequence[Job], address: str, actors: int
) -> Iterator[tuple[int, list[tuple[str, SampleError]]]]:
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray: pip install 'fourstroke[cluster]'") from None
    if not ray.is_initialized():
        ray.init(address=None if address == "local" else address, log_to_driver=False)
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    rows = [{"job": (job.target, list(job.indices))} for job in jobs]
    done = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map(
        Encoder, fn_constructor_args=(recipe, split), concurrency=actors, num_gpus=gpus
    )
    for row in done.iter_rows():
        yield int(row["samples"]), [(name, SampleError(why, stage, own)) for name, why, stage, own in row["skipped"]]


class Progress:
    """A line on standard error: how many samples are done, how fast, and how long the others take."""

    def __init__(self, whole: int, what: str) -> None:
        self.whole, self.what, self.done = whole, what, 0
        self.start = self.told = time.monotonic()

    def __call__(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        now, live = time.monotonic(), sys.stderr.isatty()
        if self.done < self.whole and now - self.told < (0.5 if live else 10):
            return
        self.told, rate = now, self.done / max(now - self.start, 1e-9)
        left = (self.whole - self.done) / rate
        end = "\n" if not live or self.done == self.whole else ""
        text = f"{self.what}: {self.done}/{self.whole} pictures, {rate:.0f} a second, {left:.0f} s left"
        print(f"\r{text}" if live else text, end=end, file=sys.stderr, flush=True)
