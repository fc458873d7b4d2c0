"""A processor for diffusers' pipeline class; transformers' own does not load without torchvision."""

from __future__ import annotations

import re

from PIL import Image
from transformers import BatchEncoding, ProcessorMixin

from fourstroke.text import TextEncoder


class Processor(ProcessorMixin):
    """What the pipeline needs of Qwen3VLProcessor."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.tokenizer, self.encoder = encoder.tokenizer, encoder

    def apply_chat_template(self, messages: list, tokenize: bool, return_dict: bool) -> list[list[int]]:
        return [self.tokenizer.apply_chat_template(messages, tokenize=tokenize, return_dict=return_dict)]

    def __call__(self, text: list[str], images: list[Image.Image] | None = None, **padding: object) -> BatchEncoding:
        inputs = self.encoder.image_processor(images=images, return_tensors="pt") if images else {}
        counts = iter((inputs["image_grid_thw"].prod(-1) // 4).tolist() if images else [])
        pad = "<|image_pad|>"
        text = [re.sub(re.escape(pad), lambda match: pad * next(counts), row) for row in text]
        batch = self.tokenizer(text, **padding)
        kinds = (batch["input_ids"] == self.encoder.image_token_id).int()
        return BatchEncoding({**batch, **inputs, "mm_token_type_ids": kinds})
