"""What the transformer sees of a batch: latents, input images and prompt features, from caches or the frozen models."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from fourstroke.data.sample import Batch
from fourstroke.dit import InputImages
from fourstroke.dit.layout import Grid
from fourstroke.flow.sampler import check_finite
from fourstroke.folder import ModelInfo
from fourstroke.sizes import tokens_per_slot
from fourstroke.text import TextEncoder, TextFeatures
from fourstroke.text.encoder import vision_slots
from fourstroke.text.vision import SLOT_SIZE
from fourstroke.vae import Autoencoder

M = TypeVar("M", bound=nn.Module)


class Frozen(Generic[M]):
    """A frozen model that is loaded when it is first needed: with caches that hold everything, training needs none.

    Args:
        load: reads it.
        model: it, where it is there already, open for training perhaps.
    """

    def __init__(self, load: Callable[[], M], model: M | None = None) -> None:
        self._load, self._model, self._kept = load, model, model is not None

    def __call__(self, keep: bool = True) -> M:
        """The model; with `keep` it stays until the end of the run."""
        if self._model is None:
            self._model = self._load().requires_grad_(False).eval()
        self._kept |= keep
        return self._model

    def release(self) -> None:
        """Let go of it, unless somebody asked to keep it."""
        if not self._kept:
            self._model = None


class BatchEncoder:
    """Encodes batches on a device."""

    def __init__(
        self,
        autoencoder: Frozen[Autoencoder],
        text_encoder: Frozen[TextEncoder],
        info: ModelInfo,
        device: torch.device,
        tokenizer: Callable[[], PreTrainedTokenizerBase],
        train_text: bool = False,
    ) -> None:
        self.autoencoder, self.text_encoder, self.info, self.device = autoencoder, text_encoder, info, device
        self.tokenizer, self.train_text = functools.cache(tokenizer), train_text

    def grid(self, batch: Batch) -> Grid:
        """(rows, columns) of the batch's latents."""
        return self.info.grid(*batch.size)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Tensor:
        """The clean pictures, (b, tokens, channels) float32."""
        if batch.latents is not None:
            return batch.latents.to(self.device, non_blocking=True).float()
        assert batch.images is not None
        return check_finite(self._encode(batch.images), "encoding the pictures")

    @torch.no_grad()
    def images(self, batch: Batch) -> InputImages | None:
        """The input images, None for text to image."""
        if not batch.input_sizes:
            return None
        if batch.input_latents is not None:
            tokens = batch.input_latents.to(self.device, non_blocking=True).float()
        else:
            columns = [torch.stack(column) for column in zip(*batch.inputs, strict=True)]
            tokens = check_finite(
                torch.cat([self._encode(column) for column in columns], dim=1), "encoding the input images"
            )
        grids = tuple(self.info.grid(*size) for size in batch.input_sizes)
        return InputImages(tokens=tokens, grids=grids, tokens_per_slot=tokens_per_slot(self.info))

    def text(self, batch: Batch) -> TextFeatures:
        """Features of the batch's prompts, with gradients if the text encoder is trained."""
        if batch.features is not None and not self.train_text:
            lengths = torch.tensor([len(row) for row in batch.features])
            features = pad_sequence(list(batch.features), batch_first=True).to(self.device, non_blocking=True)
            return TextFeatures(features, lengths, self._slots(batch, features.shape[1]))
        encoder = self.text_encoder()
        with contextlib.nullcontext() if self.train_text else torch.no_grad():
            return encoder(encoder.tokenize(batch.prompts, pictures(batch) or None))

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.autoencoder().encode_tokens(pixels).float()

    def _slots(self, batch: Batch, length: int) -> Tensor | None:
        """Where the vision slots of cached features are, (b, length); they stand at the same place in all prompts."""
        if not batch.input_sizes:
            return None
        slots = [(width // SLOT_SIZE) * (height // SLOT_SIZE) for width, height in batch.input_sizes]
        row = vision_slots(self.tokenizer(), slots)
        return F.pad(row, (0, length - len(row))).expand(len(batch.records), -1)


def pictures(batch: Batch) -> list[list[Image.Image]]:
    """The input images of a batch's records; empty for text to image, or where only their latents are there."""
    if not batch.input_sizes:
        return []
    return [[Image.fromarray(image.permute(1, 2, 0).numpy(), "RGBA") for image in row] for row in batch.inputs]
