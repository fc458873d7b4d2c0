"""The text side of the small families, from nothing: a Qwen3-VL of a few million parameters and its tokenizer.

The tokenizer is Qwen's in form (byte-level BPE, the same pre-tokenising rule and special tokens) with one addition:
text in double quotes is spelled out, a character a token, so that a small model can learn to draw words letter by
letter. The reports do not need this: a model of billions knows the spelling of its tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from fourstroke.ranges import Count, Natural, Positive, check_ranges
from fourstroke.text import templates, vision
from fourstroke.text.encoder import TextEncoder

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QUOTED = r'"[^"]*"|“[^”]*”'
# \G holds where the last match ended, so it walks only through a piece whose first character matched: a quotation.
SPELLED = r'\A"(?=[^"]*"\z)|\A“(?=[^”]*”\z)|\G(?!\A)[\s\S]'
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, kw_only=True)
class SmallTextConfig:
    """Sizes of a small text encoder; recipes of micro and mini set their own.

    `head_dim` is a multiple of 4, so that rotary pairs divide among time, height and width; `vision_positions` is the
    square of the learned position grid's side, 64 for images of 128 px, larger images are interpolated.
    """

    vocab_size: Count = 2048
    hidden_size: Count = 192
    num_layers: Count = 3
    num_heads: Count = 3
    num_kv_heads: Count = 3
    head_dim: Count = 64
    intermediate_size: Count = 512
    rope_theta: Positive = 10_000.0
    vision_hidden_size: Count = 96
    vision_depth: Count = 2
    vision_num_heads: Count = 2
    vision_intermediate_size: Count = 256
    vision_positions: Count = 64
    deepstack_layers: tuple[Natural, ...] = (0,)
    min_pixels: Count = vision.SLOT_SIZE**2
    max_tokens: Count = 1000

    def __post_init__(self) -> None:
        """Reject sizes that Qwen3-VL cannot have."""
        check_ranges(self)
        if self.head_dim % 4 or self.num_heads % self.num_kv_heads:
            raise ValueError("head_dim must be a multiple of 4 and num_heads a multiple of num_kv_heads")
        if self.vision_hidden_size % (4 * self.vision_num_heads):
            raise ValueError("vision_hidden_size must be a multiple of 4 * vision_num_heads")
        if round(self.vision_positions**0.5) ** 2 != self.vision_positions:
            raise ValueError(f"vision_positions must be a square, got {self.vision_positions}")
        if max(self.deepstack_layers, default=0) >= self.vision_depth or len(self.deepstack_layers) > self.num_layers:
            raise ValueError("deepstack_layers must be vision layers, no more of them than num_layers")


def build_text_encoder(config: SmallTextConfig, tokenizer: PreTrainedTokenizerFast) -> TextEncoder:
    """A text encoder with random weights from torch's generator, frozen; call `trainable()` to train it."""
    parts = sizes(config)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            image_token_id=tokenizer.convert_tokens_to_ids(templates.IMAGE_TOKEN),
            video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
            vision_start_token_id=ids["vision_start"],
            vision_end_token_id=ids["vision_end"],
            tie_word_embeddings=True,
            text_config={
                "vocab_size": len(tokenizer),
                "max_position_embeddings": 32_768,
                "tie_word_embeddings": True,
                **parts["text_config"],
            },
            vision_config={
                "patch_size": vision.PATCH_SIZE,
                "spatial_merge_size": vision.MERGE_SIZE,
                "temporal_patch_size": 2,
                **parts["vision_config"],
            },
        )
    )
    return TextEncoder(model, tokenizer, vision.image_processor(config.min_pixels), config.max_tokens)


def sizes(config: SmallTextConfig) -> dict[str, dict[str, Any]]:
    """The sizes as Qwen3-VL's configuration names them; the vocabulary's is the tokenizer's."""
    side = config.head_dim // 2 * 5 // 16  # the open model's split: 24, 20, 20 of 64 pairs
    return {
        "text_config": {
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": config.rope_theta,
                "mrope_section": [config.head_dim // 2 - 2 * side, side, side],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": config.vision_depth,
            "hidden_size": config.vision_hidden_size,
            "intermediate_size": config.vision_intermediate_size,
            "num_heads": config.vision_num_heads,
            "out_hidden_size": config.hidden_size,
            "num_position_embeddings": config.vision_positions,
            "deepstack_visual_indexes": list(config.deepstack_layers),
        },
    }


def train_tokenizer(captions: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Learn a tokenizer of at most `vocab_size` tokens from captions; any text in NFC round-trips.

    It is saved as tokenizer.json with Qwen's settings, so `AutoTokenizer` and `Qwen3VLProcessor` read it. The class is
    the plain fast tokenizer, because Qwen's own would put its pre-tokenising rule in the place of ours.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size must be at least {smallest}: 256 bytes and {len(SPECIAL_TOKENS)} special tokens")
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QUOTED), "isolated"),
            pre_tokenizers.Split(Regex(SPELLED), "isolated"),
            pre_tokenizers.Split(Regex(QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(captions), trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=32_768,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = templates.CHAT_TEMPLATE
    return fast


def _corpus(captions: Iterable[str]) -> Iterator[str]:
    """Each caption with the words of the templates, so that those cost few tokens too."""
    words = [f"system\n{templates.SYSTEM_PROMPT}", "user\n", "assistant\n", "<image1>", templates.transparent("")]
    for caption in captions:
        yield caption
        yield from words
