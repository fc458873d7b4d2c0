"""The model's side of serving: encodes requests, decodes latents into pictures, rewrites prompts.

With a block-causal transformer everything before the target is computed once for a picture (its prefix); a batch then
is the joined prefixes of its sequences, and each walks its own noise levels. A guided sequence holds two prefixes and
is evaluated twice in the same pass. A fully joint transformer has no prefix, so its sequences are evaluated one by one.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import abc
from weakref import WeakValueDictionary

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from fourstroke.device import trim_heap
from fourstroke.dit import FirstBlockCache, PrefixCache, condition, prefill
from fourstroke.enhance.enhancer import Enhanced
from fourstroke.flow.sampler import check_finite, seeded_noise
from fourstroke.lora import lora_adapters
from fourstroke.pipeline import Pipeline
from fourstroke.serve.batch import Batch, Condition, Conditions, GenerationRequest, InpaintState, Sequence, Strengths
from fourstroke.serve.kv_cache import Key, KVBudget, PrefixStore, fingerprint
from fourstroke.serve.model_card import ModelCard
from fourstroke.serve.preview import LatentPreview
from fourstroke.sizes import tokens_per_slot
from fourstroke.text import templates
from fourstroke.vae import to_pixels

PIXELS = 2**16
"""Of pictures decoded at once: small ones gain by it, and none waits long for the others."""
SOFT = 3
"""Pixels over which a masked picture goes over into what is drawn."""


class ModelRunner:
    """One loaded model: begins sequences and decodes pictures.

    Only `count_tokens`, `prefix_tokens` and `enhance` may be called from elsewhere than the engine's thread.

    Args:
        pipe: the model.
        cache_bytes: for prefixes that may come again.
        kv_bytes: for keys and values of what is under way; None is half of what is free on a GPU.
    """

    def __init__(self, pipe: Pipeline, cache_bytes: int = 2**29, kv_bytes: int | None = None) -> None:
        self.pipe = pipe
        self.kv_budget = KVBudget.of(pipe.transformer, kv_bytes)
        self.prefixes = PrefixStore(cache_bytes)
        self.loras = pipe.loras
        self._used: Strengths | None = None
        self._adapters = {name: [*lora_adapters(pipe.transformer, name).values()] for name in self.loras}
        self._alive: WeakValueDictionary[Key, PrefixCache] = WeakValueDictionary()  # too large to keep, but in use
        self.version = fingerprint(pipe)
        self.latent_preview: LatentPreview | None = None
        self.decode_steps = 0.0  # how many steps of a picture one decoding takes
        _ = pipe.enhancer  # read now, not at the first request
        self._tokenizing, self._enhancing = threading.Lock(), threading.Lock()

    @property
    def card(self) -> ModelCard:
        """What the model is."""
        limit, enhances = self.pipe.text_encoder.max_tokens, self.pipe.enhancer is not None
        return ModelCard(
            info=self.pipe.info,
            version=self.version,
            max_prompt_tokens=limit,
            enhances=enhances,
            kv_budget=self.kv_budget,
            loras=self.loras,
        )

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt in its template.

        Raises:
            ValueError: for an empty prompt, or one over the limit (`PromptTooLong`).
        """
        if not prompt.strip():
            raise ValueError("the prompt is empty; say what to draw")
        encoder = self.pipe.text_encoder
        with self._tokenizing:
            return int(encoder.tokenize([prompt]).lengths[0]) - encoder.system_length

    def prefix_tokens(self, prompt: str, slots: abc.Sequence[int]) -> int:
        """Tokens before the target, for a prompt of any length and input images of so many vision slots."""
        encoder = self.pipe.text_encoder
        with self._tokenizing:
            words = len(encoder.tokenizer(templates.chat(prompt, slots))["input_ids"])
        return words - encoder.system_length + (tokens_per_slot(self.pipe.info) - 1) * sum(slots)

    def enhance(self, prompt: str, images: abc.Sequence[Image.Image], seed: int, transparent: bool = False) -> Enhanced:
        """The rewrite of a prompt, or the prompt itself with a warning.

        Raises:
            ValueError: the model has no enhancer.
        """
        with self._enhancing:  # one at a time: it shares the processor with the drawing
            enhancer = self.pipe.enhancer
            if enhancer is None:
                raise ValueError(f"{self.pipe.info.name} has no prompt enhancer")
            return enhancer(prompt, images, seed=seed, transparent=transparent)

    def use_lora(self, lora: Strengths) -> None:
        """Evaluate with these adapters from now on; they stand beside the weights, so that no weight is touched."""
        if lora == self._used:
            return
        strengths, self._used = dict(lora), lora
        for name, parts in self._adapters.items():
            for adapter in parts:
                adapter.strength = strengths.get(name, 0.0)

    def begin(self, request: GenerationRequest, conditions: Conditions | None = None) -> Sequence:
        """Encode the words and input images, unless `conditions` of the same request hold them, and draw the noise."""
        self.use_lora(request.lora)
        caches = FirstBlockCache(request.step_cache), FirstBlockCache(request.step_cache)
        if request.step_cache and not self.pipe.transformer.config.causal_condition:
            raise ValueError("step_cache is for transformers with causal_condition; leave it out")
        conditions = conditions or Conditions()
        if conditions.positive is None:
            guided = request.evaluations == 2
            negative = self._condition(request.negative_prompt, request) if guided else None
            conditions.positive, conditions.negative = self._condition(request.asked, request), negative
        noise = seeded_noise([request.seed], request.tokens, self.pipe.transformer.config.in_channels).to(
            self.pipe.device
        )
        return Sequence(
            request=request,
            latent=noise,
            levels=self.pipe.sigmas(request.num_inference_steps, request.tokens).tolist(),
            conditions=conditions,
            inpaint=self._inpaint(request, noise),
            caches=caches if request.step_cache else None,
        )

    def pictures(self, latents: abc.Sequence[Tensor], requests: abc.Sequence[GenerationRequest]) -> list[Image.Image]:
        """Decode clean latents (1, T, C) of one grid together."""
        z = check_finite(torch.cat(list(latents)), "denoising").to(next(self.pipe.autoencoder.parameters()).dtype)
        trim_heap(requests[0].width * requests[0].height)  # of what the steps left
        with self.pipe.autoencoder_there():
            x = self.pipe.autoencoder.decode(z.mT.unflatten(2, requests[0].grid))
        return _images(check_finite(x, "decoding"), requests)

    def at_once(self, request: GenerationRequest) -> int:
        """How many pictures of this size are decoded together."""
        return max(1, PIXELS // (request.width * request.height))

    def prefers_latent_preview(self, sequence: Sequence) -> bool:
        """Whether decoding the first preview would take so long that a rough one at once serves better."""
        return self.latent_preview is not None and self.decode_steps > sequence.steps / 4

    def latent_previews(
        self, latents: abc.Sequence[Tensor], requests: abc.Sequence[GenerationRequest]
    ) -> list[Image.Image]:
        """Rough pictures of clean latents (1, T, C) of one grid, at almost no cost."""
        assert self.latent_preview is not None
        z = check_finite(torch.cat(list(latents)), "denoising")
        return _images(self.latent_preview(z.mT.unflatten(2, requests[0].grid)), requests)

    def warm_up(self) -> None:
        """Draw one picture of the model's own size, so that the first request pays for no set-up; load the enhancer;
        and where a picture takes few steps beside its decoding, fit rough previews.
        """
        info = self.pipe.info
        sequence = self.begin(
            GenerationRequest(
                prompt="warm-up", width=info.width, height=info.height, seed=0, num_inference_steps=2,
                factor=info.factor,
            )
        )  # fmt: skip
        batch = Batch(self.pipe)
        batch.add(sequence)
        batch.step()
        start = time.perf_counter()
        latents = [latent.cpu().to(latent.device) for latent in batch.step()]  # waits for a GPU
        stepped = time.perf_counter()
        self.pictures(latents, [sequence.request])
        start_again = time.perf_counter()
        self.pictures(latents, [sequence.request])
        self.decode_steps = (time.perf_counter() - start_again) / (stepped - start)
        if self.decode_steps > self.card.info.own_steps / 4:
            with self.pipe.autoencoder_there():
                self.latent_preview = LatentPreview.fit(self.pipe.autoencoder)

    def _condition(self, prompt: str, request: GenerationRequest) -> Condition:
        images = tuple(hashlib.sha256(f"{i.mode}{i.size}".encode() + i.tobytes()).digest() for i in request.inputs)
        key = (self.version, prompt, images, request.grid, request.lora)
        if (found := self.prefixes.get(key) or self._alive.get(key)) is not None:
            return found
        condition = self._encode(prompt, request)
        if isinstance(condition, PrefixCache):
            self.prefixes.put(key, condition)
            self._alive[key] = condition
        return condition

    def _encode(self, prompt: str, request: GenerationRequest) -> Condition:
        pipe, inputs = self.pipe, list(request.inputs)
        with self._tokenizing:
            words = pipe.text_encoder.tokenize([prompt], [inputs] if inputs else None)
        text = pipe.text_encoder(words)
        check_finite(text.features, "the text encoder")
        bind = prefill if pipe.transformer.config.causal_condition else condition
        return bind(pipe.transformer, text, request.grid, pipe.input_images(inputs))

    def _inpaint(self, request: GenerationRequest, noise: Tensor) -> InpaintState | None:
        """A latent is free as soon as the mask touches its square."""
        if request.mask is None:
            return None
        (height, width), side = request.grid, request.factor
        mask = torch.from_numpy(np.array(request.mask, dtype=np.float32)).reshape(height, side, width, side)
        free = mask.amax(dim=(1, 3)).reshape(1, -1, 1).to(noise.device) > 0
        return InpaintState(self.pipe.input_tokens(request.inputs[0]).to(noise.dtype), noise, free)


def _images(x: Tensor, requests: abc.Sequence[GenerationRequest]) -> list[Image.Image]:
    """(B, 4, H, W) in [-1, 1] as pictures, as each was asked for."""
    pictures = []
    for request, values in zip(requests, to_pixels(x), strict=True):
        image = Image.fromarray(values if request.transparent else values[..., :3].copy())
        pictures.append(image if request.mask is None else _kept(image, request))
    return pictures


def _kept(image: Image.Image, request: GenerationRequest) -> Image.Image:
    """The picture inside the mask, and outside it the input's own pixels; the seam lies inside."""
    assert request.mask is not None
    soft = ImageChops.darker(request.mask, request.mask.filter(ImageFilter.GaussianBlur(SOFT)))
    return Image.composite(image, request.inputs[0].convert(image.mode), soft)
