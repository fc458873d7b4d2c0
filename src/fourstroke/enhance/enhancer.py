"""`PromptEnhancer`: a short request to the full description of one picture, and its shape.

Qwen-Image-2.0 report, prompt enhancer; protocol of Qwen-Image-2.1 (`protocol`). A model behind it is either loaded
here with transformers or asked at an OpenAI-compatible endpoint. Whatever goes wrong, the user's own words come back
with a warning: an endpoint that is silent, an answer that is no JSON, a rewrite that lost quoted words, the language
or a named thing.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from fourstroke.checkpoint import config_of, read_json, read_text
from fourstroke.device import Device, find_device, weights_dtype
from fourstroke.enhance import protocol
from fourstroke.enhance.checks import Lexicon, is_english, problems, quoted, wants_transparent
from fourstroke.enhance.endpoint import Endpoint, EndpointError, data_url
from fourstroke.enhance.images import load_image_processor
from fourstroke.enhance.local import EnhancerConfig, HopelessCriteria, LocalModel
from fourstroke.files import model_folder, write_json
from fourstroke.folder import ENHANCER, find_model, lineage, part
from fourstroke.pretrained import load_model, load_tokenizer
from fourstroke.seeds import check_seed, following

TRANSPARENT = ", on a transparent background"
"""What a request for a transparent picture says last."""
SETTINGS, SYSTEM_FILE = "enhancer.json", "system_prompt.txt"


class RefusedError(ValueError):
    """A rewrite that does not keep what was asked for; the message says what."""


class EnhancerWarning(UserWarning):
    """The user's own words are drawn; the message says why."""


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
        own = self.config
        self.lexicon = Lexicon(own.things, own.colours, own.plurals, own.others, frozenset(own.words))

    def __call__(
        self,
        request: str | bytes,
        images: Sequence[Image.Image] = (),
        *,
        seed: int = 0,
        transparent: bool = False,
    ) -> Enhanced:
        """The rewrite of a request, or the request itself with a warning; never an error of the model's making.

        Args:
            request: what the user wrote; control characters and broken UTF-8 are cleaned away.
            images: of an editing request; they need a model that sees, here or behind an endpoint, or one that has
                learnt edits from words alone (`EnhancerConfig.edits`).
            seed: of the sampling, 0 to `seeds.MAX_SEED`.
            transparent: ask for a transparent background, where the request does not say so itself.

        Raises:
            ValueError: for a seed that is none.
        """
        seed, start = check_seed(seed), time.perf_counter()
        request = protocol.clean(request)
        reason = self._unfit(request, images)
        asked = f"{request.rstrip(' .,!?')}{TRANSPARENT}" if transparent and not wants_transparent(request) else request
        lexicon = self.lexicon
        kept = asked if lexicon else request  # which may be in any language
        if images and self._blind:
            asked, kept, images, lexicon = protocol.unseen(request), request, (), Lexicon()
        stop = HopelessCriteria(kept, lexicon, self.backend.tokenizer) if isinstance(self.backend, LocalModel) else None
        for attempt in range(0 if reason else self.config.attempts):
            config = self._left(time.perf_counter() - start, stop.tokens if stop else 0)
            if config is None:
                reason = f"its limits were reached before an answer passed ({reason or 'none came'})"
                break
            try:
                answer = self._ask(asked, images, config, following(seed, attempt * 1_000_003), stop)
                self._check(kept, answer, lexicon)
            except protocol.AnswerError as error:
                reason = f"the answer cannot be used: {error}"
            except RefusedError as error:
                reason = f"the rewrite was refused: {error}"
            except (EndpointError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                break
            else:
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
        if images and self._blind and not self.config.edits:
            return "this enhancer sees no images; name an endpoint that does"
        if self.lexicon and not is_english(request):
            return "this small enhancer knows English alone"
        if self.lexicon and not images and not self.lexicon.titles(request) and not quoted(request):
            return "they name nothing that this small enhancer knows"
        if strange := self.lexicon.strange(request):
            return f"this small enhancer has not learnt {' and '.join(strange)}"
        return ""

    def _left(self, seconds: float, tokens: int) -> EnhancerConfig | None:
        """The settings of the next try, within what is left after so many seconds and tokens; None if nothing is."""
        config = self.config
        seconds, tokens = config.max_seconds - seconds, (config.token_budget or sys.maxsize) - tokens
        if seconds <= 0 or tokens <= 0:
            return None
        return dataclasses.replace(
            config, max_seconds=seconds, max_new_tokens=min(config.max_new_tokens, tokens), token_budget=None
        )

    def _ask(
        self,
        request: str,
        images: Sequence[Image.Image],
        config: EnhancerConfig,
        seed: int,
        stop: HopelessCriteria | None,
    ) -> protocol.Answer:
        """One answer; raises `AnswerError` where there is none, `RefusedError` where it was ended as hopeless."""
        conversation = protocol.messages(request, self.system_prompt, [data_url(image) for image in images])
        if isinstance(self.backend, LocalModel):
            turn = self.backend.complete(conversation, config, seed, stop)
        else:
            turn = self.backend.complete(conversation, config, seed)
        if stop and stop.found:
            raise RefusedError(", ".join(stop.found))
        return protocol.parse_answer(turn)

    def _check(self, kept: str, answer: protocol.Answer, lexicon: Lexicon) -> None:
        """Raises `RefusedError` for a rewrite that does not keep what was asked for."""
        if found := problems(kept, answer.prompt, lexicon):
            raise RefusedError(", ".join(found))

    @property
    def _blind(self) -> bool:
        """Whether the model sees no images."""
        return isinstance(self.backend, LocalModel) and self.backend.processor is None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        device: Device | None = None,
    ) -> PromptEnhancer:
        """Read an enhancer, ours or an official one; on a CPU in float32, on a GPU in bfloat16.

        Args:
            folder: a `prompt_enhancer/` folder, or the model that holds it; None is that of the best bundled model.
            dtype: of the weights.
            device: None is the GPU if there is one.

        Raises:
            CheckpointError: for missing or damaged files.
            ValueError: for a device that this machine does not have, or a dtype that is none.
        """
        folder = find_model(None) if folder is None else Path(folder)
        if (folder / "model_index.json").exists():
            folder = part(lineage(folder), ENHANCER)
        device = find_device(device)
        dtype = weights_dtype(dtype, device)
        read_json(folder / "config.json")  # whoever names a folder means no hub id
        images = load_image_processor(folder)
        kind = AutoModelForCausalLM if images is None else AutoModelForImageTextToText
        model = load_model(kind, folder, dtype, surplus=True)
        local = LocalModel(model.to(device).eval(), load_tokenizer(folder), images)
        return cls(local, read_config(folder), read_system_prompt(folder))

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
            if self.backend.processor is not None:
                self.backend.processor.image_processor.save_pretrained(partial)
            (partial / SYSTEM_FILE).write_text(self.system_prompt + "\n", encoding="utf-8")
            write_json(partial / SETTINGS, dataclasses.asdict(self.config))


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


def read_system_prompt(folder: Path) -> str:
    """The system prompt beside an enhancer, without the byte order mark of an editor; ours where there is none."""
    file = folder / SYSTEM_FILE
    return read_text(file).removeprefix("\ufeff").strip() if file.exists() else protocol.SYSTEM_PROMPT


def read_config(folder: Path) -> EnhancerConfig:
    """The settings beside an enhancer; the defaults where there are none, as in official checkpoints."""
    file = folder / SETTINGS
    return config_of(EnhancerConfig, read_json(file) if file.exists() else {}, file)
