"""`PromptEnhancer`: a short request to the full description of one picture, and its shape.

Qwen-Image-2.0 report, prompt enhancer; protocol of Qwen-Image-2.1 (`protocol`). A model behind it is either loaded
here with transformers or asked at an OpenAI-compatible endpoint. Whatever goes wrong, the user's own words come back
with a warning: an endpoint that is silent, an answer that is no JSON, a rewrite that lost quoted words, the language
or a named thing.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fourstroke.checkpoint import config_of, read_json, read_text
from fourstroke.device import Device, find_device, weights_dtype
from fourstroke.enhance import protocol
from fourstroke.enhance.checks import Lexicon, problems, quoted
from fourstroke.enhance.endpoint import Endpoint, EndpointError, data_url
from fourstroke.files import model_folder, write_json
from fourstroke.pretrained import load_model, load_tokenizer
from fourstroke.ranges import Count, Finite, Natural, NonNegative, Positive, PositiveFraction, check_ranges
from fourstroke.seeds import check_seed, following

SETTINGS, SYSTEM_FILE = "enhancer.json", "system_prompt.txt"


class EnhancerWarning(UserWarning):
    """The user's own words are drawn; the message says why."""


@dataclass(frozen=True, kw_only=True)
class EnhancerConfig:
    """How an enhancer is asked; the defaults are those of Qwen-Image-2.1's text-to-image enhancer."""

    max_new_tokens: Count = 16_256
    temperature: NonNegative = 1.0
    """0 is greedy."""
    top_p: PositiveFraction = 0.95
    top_k: Natural = 20
    presence_penalty: Finite = 1.5
    max_seconds: Positive = 120.0
    """Generation in-process stops here; an endpoint has its own limit."""
    max_characters: Count = 4000
    """Longer requests say enough already: they come back as they are."""
    attempts: Count = 2
    """Tries, each from a seed of its own, until a rewrite passes the checks."""
    things: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    """What a small generator can draw; a request that names none of it comes back as it is."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Enhanced:
    """`prompt` is what to draw: the rewrite, or the request where there is a `warning`."""

    request: str
    prompt: str
    ratio: float | None = None
    """Width over height that the enhancer chose."""
    ratio_follow: int | None = None
    reasoning: str = ""
    warning: str | None = None
    seconds: float = 0.0


class Backend(Protocol):
    """Completes a conversation."""

    def complete(self, messages: list[dict[str, Any]], config: EnhancerConfig, seed: int) -> str:
        """The assistant's turn, thoughts included. Raises `EndpointError` or `RuntimeError`."""


class PromptEnhancer:
    """Rewrites requests; the same request and seed give the same rewrite, as far as the backend can promise it."""

    def __init__(
        self, backend: Backend, config: EnhancerConfig | None = None, system_prompt: str = protocol.SYSTEM_PROMPT
    ) -> None:
        self.backend, self.config, self.system_prompt = backend, config or EnhancerConfig(), system_prompt
        self.lexicon = Lexicon(self.config.things, self.config.colours)

    def __call__(self, request: str | bytes, images: Sequence[Image.Image] = (), *, seed: int = 0) -> Enhanced:
        """The rewrite of a request, or the request itself with a warning; never an error of the model's making.

        Args:
            request: what the user wrote; control characters and broken UTF-8 are cleaned away.
            images: of an editing request; they need an endpoint whose model sees.
            seed: of the sampling, 0 to `seeds.MAX_SEED`.

        Raises:
            ValueError: for a seed that is none.
        """
        seed, start = check_seed(seed), time.perf_counter()
        request = protocol.clean(request)
        reason = self._unfit(request, images)
        for attempt in range(0 if reason else self.config.attempts):
            try:
                answer = self._ask(request, images, following(seed, attempt * 1_000_003))
            except protocol.AnswerError as error:
                reason = f"the answer cannot be used: {error}"
                continue
            except (EndpointError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                break
            if found := problems(request, answer.prompt, self.lexicon):
                reason = f"the rewrite was refused: {', '.join(found)}"
                continue
            return Enhanced(
                request=request,
                prompt=answer.prompt,
                ratio=answer.ratio,
                ratio_follow=answer.ratio_follow,
                reasoning=answer.reasoning,
                seconds=time.perf_counter() - start,
            )
        warning = f"drawing your own words: {reason}"
        warnings.warn(warning, EnhancerWarning, stacklevel=2)
        return Enhanced(request=request, prompt=request, warning=warning, seconds=time.perf_counter() - start)

    def _unfit(self, request: str, images: Sequence[Image.Image]) -> str:
        """Why a request is not worth asking about; empty if it is."""
        if not request:
            return "there are none"
        if len(request) > self.config.max_characters:
            return f"{len(request)} characters need no enhancing (the limit is {self.config.max_characters})"
        if images and isinstance(self.backend, LocalModel):
            return "this enhancer sees no images; name an endpoint that does"
        if self.lexicon and not self.lexicon.titles(request) and not quoted(request):
            return "they name nothing that this small enhancer knows"
        return ""

    def _ask(self, request: str, images: Sequence[Image.Image], seed: int) -> protocol.Answer:
        urls = [data_url(image) for image in images]
        conversation = protocol.messages(request, self.system_prompt, urls)
        return protocol.parse_answer(self.backend.complete(conversation, self.config, seed))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype | str | None = None, device: Device | None = None
    ) -> PromptEnhancer:
        """Read a `prompt_enhancer/` folder, ours or an official one; on a CPU in float32, on a GPU in bfloat16.

        Raises:
            CheckpointError: for missing or damaged files.
            ValueError: for a device that this machine does not have, or a dtype that is none.
        """
        folder = Path(folder)
        device = find_device(device)
        dtype = weights_dtype(dtype, device)
        model = load_model(AutoModelForCausalLM, folder, dtype, surplus=True)
        tokenizer = load_tokenizer(folder)
        return cls(LocalModel(model.to(device).eval(), tokenizer), read_config(folder), read_system_prompt(folder))

    @classmethod
    def from_endpoint(
        cls, endpoint: Endpoint, config: EnhancerConfig | None = None, system_prompt: str = protocol.SYSTEM_PROMPT
    ) -> PromptEnhancer:
        """An enhancer that asks a server, for example vLLM with an official checkpoint and its system prompt."""
        return cls(RemoteModel(endpoint), config, system_prompt)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write model, tokenizer, system prompt and settings, complete or not at all; `dtype` is that of the file.

        Raises:
            ValueError: if the model is behind an endpoint.
        """
        if not isinstance(self.backend, LocalModel):
            raise ValueError("an enhancer behind an endpoint has no weights to save")
        model = self.backend.model
        with model_folder(folder, SETTINGS, "max_new_tokens") as partial:
            own = model.dtype
            model.to(dtype or own).save_pretrained(partial)
            model.to(own)
            self.backend.tokenizer.save_pretrained(partial)
            (partial / SYSTEM_FILE).write_text(self.system_prompt + "\n", encoding="utf-8")
            write_json(partial / SETTINGS, dataclasses.asdict(self.config))


class LocalModel:
    """A causal language model in this process."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    def complete(self, messages: list[dict[str, Any]], config: EnhancerConfig, seed: int) -> str:
        """Sample one turn; torch's global generators are left as they were."""
        return self.complete_many([messages], config, seed)[0]

    def complete_many(
        self, conversations: Sequence[Sequence[dict[str, Any]]], config: EnhancerConfig, seed: int
    ) -> list[str]:
        """A turn for each conversation, in one batch; where it samples, a turn depends on the batch it is in."""
        texts = [render(self.tokenizer, messages) for messages in conversations]
        inputs = self.tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        ).to(self.model.device)
        length = inputs["input_ids"].shape[1]
        sampling: dict[str, Any] = {"do_sample": False}
        if config.temperature > 0:
            sampling = {"do_sample": True, "temperature": config.temperature}
            sampling |= {"top_p": config.top_p, "top_k": config.top_k}
        penalty = [PresencePenalty(config.presence_penalty, length)] if config.presence_penalty else []
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed)
            out = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=config.max_new_tokens,
                max_time=config.max_seconds,
                logits_processor=LogitsProcessorList(penalty),
                **sampling,
            )
        return [str(text) for text in self.tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)]


class RemoteModel:
    """A model behind an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def complete(self, messages: list[dict[str, Any]], config: EnhancerConfig, seed: int) -> str:
        """Ask for one turn with the sampling of `config`; `top_k` is an extension that vLLM and SGLang know."""
        return self.endpoint.chat(
            messages,
            max_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            presence_penalty=config.presence_penalty,
            seed=seed,
        )


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


def read_system_prompt(folder: Path) -> str:
    """The system prompt beside an enhancer, without the byte order mark of an editor; ours where there is none."""
    file = folder / SYSTEM_FILE
    return read_text(file).removeprefix("\ufeff").strip() if file.exists() else protocol.SYSTEM_PROMPT


def read_config(folder: Path) -> EnhancerConfig:
    """The settings beside an enhancer; the defaults where there are none, as in official checkpoints."""
    file = folder / SETTINGS
    return config_of(EnhancerConfig, read_json(file) if file.exists() else {}, file)
