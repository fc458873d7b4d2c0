"""A processor for diffusers' pipeline class; transformers' own does not load without torchvision."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoTokenizer, BatchEncoding, ProcessorMixin

from fourstroke.text import templates, vision


class Processor(ProcessorMixin):
    """What the pipeline needs of Qwen3VLProcessor."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "processor", local_files_only=True)
        self.images = vision.image_processor(vision.SLOT_SIZE**2)

    def apply_chat_template(self, messages: list[Any], tokenize: bool, return_dict: bool) -> list[list[int]]:
        """The pipeline asks for the system turn, to know its length."""
        return [self.tokenizer.apply_chat_template(messages, tokenize=tokenize, return_dict=return_dict)]

    def __call__(self, text: list[str], images: list[Image.Image] | None = None, **padding: Any) -> BatchEncoding:
        """Texts with their images' slots spread out, as ids; and the images as patches."""
        inputs = self.images(images=images, return_tensors="pt") if images else {}
        counts = iter((inputs["image_grid_thw"].prod(-1) // 4).tolist() if images else [])
        pad = templates.IMAGE_TOKEN
        rows = [re.sub(re.escape(pad), lambda match: pad * next(counts), row) for row in text]
        batch = self.tokenizer(rows, **padding)
        kinds = (batch["input_ids"] == self.tokenizer.convert_tokens_to_ids(pad)).int()
        return BatchEncoding({**batch, **inputs, "mm_token_type_ids": kinds})
