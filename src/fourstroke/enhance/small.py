"""An enhancer from nothing for the small families: a Qwen3.5 of a few million parameters and its tokenizer.

The tokenizer is that of the small text encoders (`text.small`): it spells quoted words letter by letter. The quotation
marks of the JSON answer would make it spell the whole rewrite, so the answer's frame is a token of its own, and so
are the marks of thinking. All layers have full attention, as every fourth of Qwen3.5's has: the recurrence of its
linear-attention layers runs token by token in plain torch, which at this size costs more than it saves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast, Qwen3_5ForCausalLM, Qwen3_5TextConfig

from fourstroke.enhance.protocol import ANSWER_CLOSE, ANSWER_MIDDLE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from fourstroke.ranges import Count, NonNegative, Positive, PositiveFraction, check_ranges
from fourstroke.text.small import train_tokenizer

SYSTEM_PROMPT = "Rewrite the request."
"""Short, because a small model learns what to do from its examples and every token costs it time."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n<think>\n' -}}
{%- endif -%}
"""


@dataclass(frozen=True, kw_only=True)
class SmallEnhancerConfig:
    """Sizes of a small enhancer; recipes of micro and mini set their own."""

    vocab_size: Count = 1024
    hidden_size: Count = 192
    num_layers: Count = 4
    num_heads: Count = 4
    num_kv_heads: Count = 4
    head_dim: Count = 48
    intermediate_size: Count = 512
    rope_theta: Positive = 10_000.0
    rotary_share: PositiveFraction = 0.5
    """Share of each head's dimensions that is rotated by position."""
    initializer_range: NonNegative = 0.04

    def __post_init__(self) -> None:
        check_ranges(self)


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn a tokenizer of at most `vocab_size` tokens from prompts, thoughts and captions (not from JSON)."""
    frame = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_MIDDLE, ANSWER_CLOSE)
    tokenizer = train_tokenizer(texts, vocab_size - len(frame))
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in frame])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def build_model(config: SmallEnhancerConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3_5ForCausalLM:
    """A model with random weights from torch's generator."""
    model = Qwen3_5ForCausalLM(
        Qwen3_5TextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=32_768,
            tie_word_embeddings=True,
            **sizes(config),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def sizes(config: SmallEnhancerConfig) -> dict[str, Any]:
    """The sizes as Qwen3.5's configuration names them; the vocabulary's is the tokenizer's."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "layer_types": ["full_attention"] * config.num_layers,
        "initializer_range": config.initializer_range,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": config.rotary_share,
            "mrope_section": [0, 0, 0],
            "mrope_interleaved": True,
        },
    }
