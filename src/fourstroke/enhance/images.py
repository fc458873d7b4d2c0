"""Input images of a request, for language models of Qwen's that see: placeholders in the text, patches beside it.

The processor of transformers for these models needs torchvision, which is not a dependency of ours; this one needs
Pillow alone, and TRL takes it for what it is.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils.hub import cached_file

from fourstroke.pretrained import readable
from fourstroke.text.vision import over_white

IMAGE_TOKEN = "<|image_pad|>"
PREPROCESSOR = "preprocessor_config.json"
DATA_URL = "data:image/png;base64,"
QUIET = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_gated_repo": False,
    "_raise_exceptions_for_connection_errors": False,
}
"""A file that is not there is None."""


class TextImageProcessor(ProcessorMixin):
    """Texts with placeholders and their images, to ids and patches."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_processor: Qwen2VLImageProcessorPil) -> None:
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.chat_template = tokenizer.chat_template

    def __call__(
        self, text: Sequence[str], images: Sequence[Sequence[Image.Image]] | None = None, **options: Any
    ) -> BatchFeature:
        """`images` holds those of each text, in order; each stands for one placeholder.

        Raises:
            ValueError: if there are more or fewer placeholders than images.
        """
        flat = [over_white(image) for row in images or () for image in row]
        patches = self.image_processor(images=flat, return_tensors="pt") if flat else {}
        merged = self.image_processor.merge_size**2
        counts = [int(grid.prod()) // merged for grid in patches["image_grid_thw"]] if flat else []
        texts = []
        for row in text:
            first, *rest = row.split(IMAGE_TOKEN)
            if len(rest) > len(counts):
                raise ValueError(f"{len(rest)} placeholders for {len(counts)} images")
            texts.append(first + "".join(IMAGE_TOKEN * counts.pop(0) + part for part in rest))
        if counts:
            raise ValueError(f"{len(counts)} images have no placeholder: the chat template knows none")
        batch = self.tokenizer(texts, **options)
        kinds = {"mm_token_type_ids": (batch["input_ids"] == self.image_token_id).int()} if flat else {}
        return BatchFeature({**batch, **patches, **kinds})

    def apply_chat_template(self, *arguments: Any, **options: Any) -> Any:
        """The tokenizer's."""
        return self.tokenizer.apply_chat_template(*arguments, **options)

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """The files of both parts."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


def images_in(messages: Sequence[dict[str, Any]]) -> list[Image.Image]:
    """The pictures that a conversation of `protocol.messages` holds as `data:` URLs."""
    parts = [part for turn in messages if isinstance(turn["content"], list) for part in turn["content"]]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.removeprefix(DATA_URL)))) for url in urls]


def load_image_processor(name: str | Path) -> Qwen2VLImageProcessorPil | None:
    """That of a model that sees, in a folder or on the hub; None if its config has no vision, or nothing says how
    images are prepared.

    Raises:
        CheckpointError: if a file is missing or damaged.
    """
    with readable(f"the config of {name} (config.json, {PREPROCESSOR})"):
        config, _ = PreTrainedConfig.get_config_dict(name)
        if "vision_config" not in config or cached_file(name, PREPROCESSOR, **QUIET) is None:
            return None
        return Qwen2VLImageProcessorPil.from_pretrained(name)
