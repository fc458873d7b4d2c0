"""Prompts to features: templates, tokenizer, and Qwen3-VL as the condition encoder."""

from fourstroke.text.encoder import PromptTooLong, TextEncoder, TextFeatures, Tokens
from fourstroke.text.small import SmallTextConfig, build_text_encoder, train_tokenizer
from fourstroke.text.templates import transparent

__all__ = [
    "PromptTooLong",
    "SmallTextConfig",
    "TextEncoder",
    "TextFeatures",
    "Tokens",
    "build_text_encoder",
    "train_tokenizer",
    "transparent",
]
