"""Networks that turn pictures, and texts where they read, into vectors: CLIP, SigLIP, DINOv2 and their kin, Inception.

From a folder or hub id in transformers' layout; from a file, Inception v3 with the weights by which FID is defined.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fourstroke.checkpoint import CheckpointError
from fourstroke.device import find_device
from fourstroke.evaluate.inception import Inception
from fourstroke.pretrained import load_fitting, readable
from fourstroke.text.vision import over_white

TOGETHER = 32
"""Pictures that pass through a network at a time."""


class FeatureNetwork:
    """Vectors of pictures and texts, (n, d) float32 on the CPU, as the network gives them: not of length 1."""

    def __init__(self, name: str | Path, device: str | None = None) -> None:
        """Raises ValueError, in one line, if the weights or a package that they need are missing."""
        self.name, self.device = str(name), find_device(device)
        self._tokenizer: Any = None
        if Path(name).is_file():
            self.model: Any = Inception.from_pretrained(name).to(self.device)
            return
        from transformers import AutoImageProcessor, AutoModel

        try:
            with readable(f"how {name} takes pictures (preprocessor_config.json)"):
                self.processor = AutoImageProcessor.from_pretrained(name)
        except CheckpointError as error:
            if "torchvision" in str(error):
                raise ValueError(f"{name} takes pictures by torchvision: pip install torchvision") from None
            raise
        self.model = load_fitting(AutoModel, name, dtype=torch.float32).eval().to(self.device)

    @property
    def reads(self) -> bool:
        """Whether it takes texts."""
        return hasattr(self.model, "get_text_features")

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """(n, d) of pictures (height, width, 3 or 4) uint8, transparent parts over white."""
        found = []
        for start in range(0, len(pictures), TOGETHER):
            images = [over_white(Image.fromarray(picture)) for picture in pictures[start : start + TOGETHER]]
            if isinstance(self.model, Inception):
                found += [self.model(_batch(image).to(self.device)) for image in images]  # of whatever sizes
                continue
            inputs = self.processor(images=images, return_tensors="pt").to(self.device)
            found.append(_pooled(self.model.get_image_features(**inputs) if self.reads else self.model(**inputs)))
        return torch.cat(found).float().cpu()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(n, d) of texts, cut to what the network takes; raises ValueError if it takes none."""
        if not self.reads:
            raise ValueError(f"{self.name} has no part that reads texts; name a CLIP or SigLIP")
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            with readable(f"the tokenizer of {self.name}"):
                self._tokenizer = AutoTokenizer.from_pretrained(self.name)
        longest = self.model.config.text_config.max_position_embeddings
        found = []
        for start in range(0, len(texts), TOGETHER):
            tokens = self._tokenizer(
                list(texts[start : start + TOGETHER]), padding="max_length", truncation=True, max_length=longest,
                return_tensors="pt",
            )  # fmt: skip
            known = inspect.signature(self.model.get_text_features).parameters
            inputs = {key: value.to(self.device) for key, value in tokens.items() if key in known}
            found.append(_pooled(self.model.get_text_features(**inputs)))
        return torch.cat(found).float().cpu()


class DreamSim:
    """DreamSim's vectors (Fu et al. 2023), by its own package; their cosines are its similarities."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        """`folder` holds the weights, or the package puts them there; raises ValueError if it is not installed."""
        try:
            from dreamsim import dreamsim
        except ImportError as error:
            raise ValueError(f"DreamSim needs {error.name or 'its package'}: pip install dreamsim") from None
        self.device = find_device(device)
        self.model, self.preprocess = dreamsim(pretrained=True, device=str(self.device), cache_dir=str(folder))

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """(n, d) of pictures (height, width, 3 or 4) uint8, transparent parts over white."""
        images = [over_white(Image.fromarray(picture)) for picture in pictures]
        return torch.cat([self.model.embed(self.preprocess(image).to(self.device)) for image in images]).float().cpu()


def unit(vectors: Tensor) -> Tensor:
    """(…, d) at length 1."""
    return torch.nn.functional.normalize(vectors, dim=-1)


def _pooled(output: Any) -> Tensor:
    """One vector a picture or text, of whatever a model of transformers returns."""
    pooled = getattr(output, "pooler_output", None)
    if isinstance(pooled, Tensor):
        return pooled
    return output if isinstance(output, Tensor) else output.last_hidden_state[:, 0]


def _batch(image: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
