"""The model's side of serving: encodes orders into rows, decodes their latents into pictures, rewrites prompts.

With a block-causal transformer everything before the target is computed once for a picture (its prefix); a batch then
is the joined prefixes of its rows, and each row walks its own noise levels. A guided row holds two prefixes and is
evaluated twice in the same pass. A fully joint transformer has no prefix, so its rows are evaluated one by one.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from weakref import WeakValueDictionary

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from fourstroke.dit import PrefixCache, condition, prefill
from fourstroke.enhance.enhancer import Enhanced
from fourstroke.flow.sampler import check_finite, seeded_noise
from fourstroke.pipeline import Pipeline
from fourstroke.serve.memory import Space
from fourstroke.serve.model import Facts
from fourstroke.serve.prefixes import Key, PrefixStore, fingerprint
from fourstroke.serve.rows import Batch, Condition, Conditions, Hold, Order, Row
from fourstroke.serve.sketch import Sketch
from fourstroke.sizes import tokens_per_slot
from fourstroke.text import templates

PIXELS = 2**16
"""Of pictures decoded at once: small ones gain by it, and none waits long for the others."""
SOFT = 3
"""Pixels over which a masked picture goes over into what is drawn."""


class Painter:
    """One loaded model: begins rows and decodes pictures. Only `count_tokens`, `prefix_tokens` and `enhance` may be
    called from elsewhere than the thread that draws.

    Args:
        pipe: the model.
        cache_bytes: for prefixes that may come again.
        kv_bytes: for keys and values of what is under way; None is half of what is free on a GPU.
    """

    def __init__(self, pipe: Pipeline, cache_bytes: int = 2**29, kv_bytes: int | None = None) -> None:
        self.pipe = pipe
        self.space = Space.of(pipe.transformer, kv_bytes)
        self.prefixes = PrefixStore(cache_bytes)
        self._alive: WeakValueDictionary[Key, PrefixCache] = WeakValueDictionary()  # too large to keep, but in use
        self.version = fingerprint(pipe)
        self.sketch: Sketch | None = None
        self.decode_steps = 0.0  # how many steps of a picture one decoding takes
        _ = pipe.enhancer  # read now, not at the first request
        self._tokenizing, self._enhancing = threading.Lock(), threading.Lock()

    @property
    def facts(self) -> Facts:
        """What the model is."""
        limit, enhances = self.pipe.text_encoder.max_tokens, self.pipe.enhancer is not None
        return Facts(
            info=self.pipe.info, version=self.version, max_prompt_tokens=limit, enhances=enhances, space=self.space
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

    def prefix_tokens(self, prompt: str, slots: Sequence[int]) -> int:
        """Tokens before the target, for a prompt of any length and input images of so many vision slots."""
        encoder = self.pipe.text_encoder
        with self._tokenizing:
            words = len(encoder.tokenizer(templates.chat(prompt, slots))["input_ids"])
        return words - encoder.system_length + (tokens_per_slot(self.pipe.info) - 1) * sum(slots)

    def enhance(self, prompt: str, images: Sequence[Image.Image], seed: int) -> Enhanced:
        """The rewrite of a prompt, or the prompt itself with a warning.

        Raises:
            ValueError: the model has no enhancer.
        """
        with self._enhancing:  # one at a time: it shares the processor with the drawing
            enhancer = self.pipe.enhancer
            if enhancer is None:
                raise ValueError(f"{self.pipe.info.name} has no prompt enhancer")
            return enhancer(prompt, images, seed=seed)

    def begin(self, order: Order, conditions: Conditions | None = None) -> Row:
        """Encode the words and input images, unless `conditions` of the same request hold them, and draw the noise."""
        conditions = conditions or Conditions()
        if conditions.positive is None:
            guided = order.evaluations == 2
            negative = self._condition(order.negative_prompt, order) if guided else None
            conditions.positive, conditions.negative = self._condition(order.asked, order), negative
        noise = seeded_noise([order.seed], order.tokens, self.pipe.transformer.config.in_channels).to(self.pipe.device)
        return Row(
            order=order,
            latent=noise,
            levels=self.pipe.sigmas(order.num_inference_steps, order.tokens).tolist(),
            conditions=conditions,
            hold=self._hold(order, noise),
        )

    def pictures(self, latents: Sequence[Tensor], orders: Sequence[Order]) -> list[Image.Image]:
        """Decode clean latents (1, T, C) of one grid together."""
        z = check_finite(torch.cat(list(latents)), "denoising").to(next(self.pipe.autoencoder.parameters()).dtype)
        x = self.pipe.autoencoder.decode(z.mT.unflatten(2, orders[0].grid))
        return _images(check_finite(x, "decoding"), orders)

    def at_once(self, order: Order) -> int:
        """How many pictures of this size are decoded together."""
        return max(1, PIXELS // (order.width * order.height))

    def hurried(self, row: Row) -> bool:
        """Whether decoding the first preview would take so long that a sketch serves better."""
        return self.sketch is not None and self.decode_steps > row.steps / 4

    def sketched(self, latents: Sequence[Tensor], orders: Sequence[Order]) -> list[Image.Image]:
        """Rough pictures of clean latents (1, T, C) of one grid, at almost no cost."""
        assert self.sketch is not None
        z = check_finite(torch.cat(list(latents)), "denoising")
        return _images(self.sketch(z.mT.unflatten(2, orders[0].grid)), orders)

    def warm_up(self) -> None:
        """Draw one picture of the model's own size, so that the first request pays for no set-up; load the enhancer;
        and where a picture takes few steps beside its decoding, learn to sketch.
        """
        info = self.pipe.info
        row = self.begin(
            Order(
                prompt="warm-up", width=info.width, height=info.height, seed=0, num_inference_steps=2,
                factor=info.factor,
            )
        )  # fmt: skip
        batch = Batch(self.pipe)
        batch.add(row)
        batch.step()
        start = time.perf_counter()
        latents = [latent.cpu().to(latent.device) for latent in batch.step()]  # waits for a GPU
        stepped = time.perf_counter()
        self.pictures(latents, [row.order])
        start_again = time.perf_counter()
        self.pictures(latents, [row.order])
        self.decode_steps = (time.perf_counter() - start_again) / (stepped - start)
        if self.decode_steps > self.facts.info.own_steps / 4:
            self.sketch = Sketch.fit(self.pipe.autoencoder)

    def _condition(self, prompt: str, order: Order) -> Condition:
        images = tuple(hashlib.sha256(f"{i.mode}{i.size}".encode() + i.tobytes()).digest() for i in order.inputs)
        key = (self.version, prompt, images, order.grid)
        if (found := self.prefixes.get(key) or self._alive.get(key)) is not None:
            return found
        condition = self._encode(prompt, order)
        if isinstance(condition, PrefixCache):
            self.prefixes.put(key, condition)
            self._alive[key] = condition
        return condition

    def _encode(self, prompt: str, order: Order) -> Condition:
        pipe, inputs = self.pipe, list(order.inputs)
        with self._tokenizing:
            words = pipe.text_encoder.tokenize([prompt], [inputs] if inputs else None)
        text = pipe.text_encoder(words)
        check_finite(text.features, "the text encoder")
        bind = prefill if pipe.transformer.config.causal_condition else condition
        return bind(pipe.transformer, text, order.grid, pipe.input_images(inputs))

    def _hold(self, order: Order, noise: Tensor) -> Hold | None:
        """A latent is free as soon as the mask touches its square."""
        if order.mask is None:
            return None
        (height, width), side = order.grid, order.factor
        mask = torch.from_numpy(np.array(order.mask, dtype=np.float32)).reshape(height, side, width, side)
        free = mask.amax(dim=(1, 3)).reshape(1, -1, 1).to(noise.device) > 0
        return Hold(self.pipe.input_tokens(order.inputs[0]).to(noise.dtype), noise, free)


def _images(x: Tensor, orders: Sequence[Order]) -> list[Image.Image]:
    """(B, 4, H, W) in [-1, 1] as pictures, as each was ordered."""
    pixels = ((x.float().permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
    pictures = []
    for order, values in zip(orders, pixels, strict=True):
        image = Image.fromarray(values if order.transparent else values[..., :3].copy())
        pictures.append(image if order.mask is None else _kept(image, order))
    return pictures


def _kept(image: Image.Image, order: Order) -> Image.Image:
    """The picture inside the mask, and outside it the input's own pixels; the seam lies inside."""
    assert order.mask is not None
    soft = ImageChops.darker(order.mask, order.mask.filter(ImageFilter.GaussianBlur(SOFT)))
    return Image.composite(image, order.inputs[0].convert(image.mode), soft)
