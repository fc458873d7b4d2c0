"""A language model of transformers in this process: how it is asked, sampled and stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from fourstroke.enhance import protocol
from fourstroke.enhance.checks import Lexicon, hopeless, problems
from fourstroke.enhance.images import TextImageProcessor, images_in
from fourstroke.ranges import Count, Finite, Natural, NonNegative, Positive, PositiveFraction, check_ranges

SMALL = 50_000_000
"""Parameters of a model below which one thread is enough for one turn."""
_THREADS = threading.Lock()
LOOK_EVERY = 4
"""Tokens between two looks at a turn that is being written."""


@dataclass(frozen=True, kw_only=True)
class EnhancerConfig:
    """How an enhancer is asked; the defaults are those of Qwen-Image-2.1's text-to-image enhancer."""

    max_new_tokens: Count = 16_256
    """Of one try."""
    token_budget: Count | None = None
    """Of all tries in-process together; None sets no further bound."""
    temperature: NonNegative = 1.0
    """0 is greedy."""
    top_p: PositiveFraction = 0.95
    top_k: Natural = 20
    presence_penalty: Finite = 1.5
    max_seconds: Positive = 120.0
    """For a request: generation in-process stops then, and no try begins later. An endpoint has its own limit too."""
    max_characters: Count = 4000
    """Longer requests say enough already: they come back as they are."""
    attempts: Count = 2
    """Tries, each from a seed of its own, until a rewrite passes the checks."""
    edits: bool = False
    """Whether a model that sees no images has learnt edits from words: it then answers requests with images."""
    things: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    """What a small generator can draw; a request that names none of it comes back as it is."""
    plurals: tuple[tuple[str, str], ...] = ()
    others: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """See `checks.Lexicon`; a request that names a thing by another word comes back as it is."""

    def __post_init__(self) -> None:
        check_ranges(self)


class LocalModel:
    """A causal language model in this process; with an `image_processor` it also sees."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Qwen2VLImageProcessorPil | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.processor = None if image_processor is None else TextImageProcessor(tokenizer, image_processor)

    def complete(
        self, messages: list[dict[str, Any]], config: EnhancerConfig, seed: int, stop: HopelessCriteria | None = None
    ) -> str:
        """Sample one turn, to its end or until `stop` ends it; torch's global generators are left as they were."""
        return self.complete_many([messages], config, seed, [stop] if stop else [])[0]

    def complete_many(
        self,
        conversations: Sequence[Sequence[dict[str, Any]]],
        config: EnhancerConfig,
        seed: int,
        stop: Sequence[StoppingCriteria] = (),
    ) -> list[str]:
        """A turn for each conversation, in one batch; where it samples, a turn depends on the batch it is in."""
        texts = [render(self.tokenizer, messages) for messages in conversations]
        images = [images_in(messages) for messages in conversations]
        options = {"return_tensors": "pt", "padding": True, "padding_side": "left", "add_special_tokens": False}
        if self.processor is not None:
            inputs = self.processor(text=texts, images=images, **options).to(self.model.device)
        elif any(images):
            raise ValueError("this model sees no images")
        else:
            inputs = self.tokenizer(texts, **options).to(self.model.device)
        length = inputs["input_ids"].shape[1]
        sampling: dict[str, Any] = {"do_sample": False}
        if config.temperature > 0:
            sampling = {"do_sample": True, "temperature": config.temperature}
            sampling |= {"top_p": config.top_p, "top_k": config.top_k}
        penalty = [PresencePenalty(config.presence_penalty, length)] if config.presence_penalty else []
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        alone = len(conversations) == 1 and not devices and self.model.num_parameters() < SMALL
        with _one_thread() if alone else nullcontext(), torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed)
            out = self.model.generate(
                **{name: value for name, value in inputs.items() if name != "token_type_ids"},
                max_new_tokens=config.max_new_tokens,
                max_time=config.max_seconds,
                logits_processor=LogitsProcessorList(penalty),
                stopping_criteria=StoppingCriteriaList(stop),
                **sampling,
            )
        return [str(text) for text in self.tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for what is too little work to be divided: several would wait for one another, long on a busy machine.

    The number is torch's for the whole process, so that one caller at a time may change it.
    """
    with _THREADS:
        number = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(number)


class HopelessCriteria(StoppingCriteria):
    """Ends a small enhancer's turn at a request as soon as it can no longer be right, and counts tokens."""

    def __init__(self, request: str, lexicon: Lexicon, tokenizer: PreTrainedTokenizerBase) -> None:
        self.request, self.lexicon, self.tokenizer = request, lexicon, tokenizer
        self.found: list[str] = []
        """What is wrong with the turn."""
        self.tokens = 0
        """Of all turns at this request."""
        self._prompt = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """(1, N) tokens, the request's turns first, to (1,): whether to stop."""
        self._prompt = self._prompt or input_ids.shape[1] - 1
        written = input_ids[0, self._prompt :]
        self.tokens += 1
        if len(written) == 1:
            self.found = []
        if self.lexicon and len(written) % LOOK_EVERY == 0:
            self._look(str(self.tokenizer.decode(written, skip_special_tokens=True)))
        return torch.full((1,), bool(self.found), device=input_ids.device)

    def _look(self, turn: str) -> None:
        thoughts, prompt, complete = protocol.unfinished(turn)
        self.found = hopeless(self.request, thoughts, prompt, self.lexicon)
        if complete and not self.found:
            self.found = problems(self.request, prompt, self.lexicon)


class PresencePenalty(LogitsProcessor):
    """Lowers the logits of tokens that the answer already holds, each once (OpenAI's `presence_penalty`)."""

    def __init__(self, penalty: float, prompt_length: int) -> None:
        self.penalty, self.prompt_length = penalty, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(B, N) tokens so far and (B, V) logits to logits."""
        present = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, input_ids[:, self.prompt_length :], True)
        return scores - self.penalty * present


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]]) -> str:
    """A conversation in the model's own template, thinking on, the assistant's turn open behind `<think>`."""
    text = str(
        tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=True)
    )
    return text if text.rstrip().endswith(protocol.THINK_OPEN) else f"{text}{protocol.THINK_OPEN}\n"
