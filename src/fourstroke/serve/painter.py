"""The model's side of serving: pictures as rows that join and leave a running batch between any two steps.

With a block-causal transformer everything before the target is computed once for a picture (its prefix); a batch then
is the joined prefixes of its rows, and each row walks its own noise levels. A guided row holds two prefixes and is
evaluated twice in the same pass. A fully joint transformer has no prefix, so its rows are evaluated one by one.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from fourstroke.dit import Layout, PrefixCache
from fourstroke.flow.path import clean
from fourstroke.flow.sampler import Velocity, check_finite, seeded_noise
from fourstroke.pipeline import PATCH, Pipeline
from fourstroke.text.templates import transparent as transparent_prompt

Condition = PrefixCache | Velocity


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """One picture to draw; sizes are pixels, `inputs` are already fitted to the model (`pipeline.fit`)."""

    prompt: str
    width: int
    height: int
    seed: int
    num_inference_steps: int | None = None
    guidance_scale: float = 1.0
    negative_prompt: str = ""
    transparent: bool = False
    inputs: tuple[Image.Image, ...] = ()

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) in latents."""
        return self.height // PATCH, self.width // PATCH

    @property
    def evaluations(self) -> int:
        """Rows that a step of this picture takes: two under guidance."""
        return 1 if self.guidance_scale == 1 else 2


class Shape(NamedTuple):
    """What pictures of one batch share: with much longer prefixes, the short ones would pay for the long ones."""

    grid: tuple[int, int]
    image_tokens: int


@dataclass(eq=False)
class Row:
    """A picture in the making."""

    order: Order
    latent: Tensor  # (1, T, C), float32
    levels: list[float]
    condition: Condition
    negative: Condition | None
    step: int = 0

    @property
    def steps(self) -> int:
        """How many there will be."""
        return len(self.levels) - 1

    @property
    def shape(self) -> Shape:
        """The batch it belongs to."""
        return Shape(self.order.grid, sum(i.width * i.height for i in self.order.inputs) // PATCH**2)


class Painter:
    """One loaded model: begins rows, steps batches, decodes pictures. Only `count_tokens` may be called from elsewhere
    than the thread that draws.
    """

    def __init__(self, pipe: Pipeline, cache_bytes: int = 2**29) -> None:
        self.pipe = pipe
        self.prefixes = PrefixStore(cache_bytes)
        self.version = fingerprint(pipe)
        self._tokenizing = threading.Lock()

    def refresh(self) -> None:
        """Take note of changed weights: prefixes of the old ones are no longer used."""
        self.version = fingerprint(self.pipe)

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

    def begin(self, order: Order) -> Row:
        """Encode the words and input images, and draw the noise."""
        tokens = order.grid[0] * order.grid[1]
        asked = transparent_prompt(order.prompt) if order.transparent else order.prompt
        guided = order.evaluations == 2
        return Row(
            order=order,
            latent=seeded_noise([order.seed], tokens, self.pipe.transformer.config.in_channels).to(self.pipe.device),
            levels=self.pipe._sigmas(order.num_inference_steps, tokens).tolist(),
            condition=self._condition(asked, order),
            negative=self._condition(order.negative_prompt, order) if guided else None,
        )

    def steps(self, order: Order) -> int:
        """How many steps a picture takes."""
        return len(self.pipe._sigmas(order.num_inference_steps, order.grid[0] * order.grid[1])) - 1

    def picture(self, latent: Tensor, order: Order) -> Image.Image:
        """Decode one clean latent (1, T, C)."""
        return self.pipe.decode(check_finite(latent, "denoising"), order.grid, order.transparent)[0]

    def warm_up(self) -> None:
        """Draw one picture of the model's own size in one step, so that the first request pays for no set-up."""
        info = self.pipe.info
        row = self.begin(Order(prompt="warm-up", width=info.width, height=info.height, seed=0, num_inference_steps=1))
        batch = Batch(self.pipe)
        batch.add(row)
        self.picture(batch.step()[0], row.order)

    def _condition(self, prompt: str, order: Order) -> Condition:
        images = tuple(hashlib.sha256(f"{i.mode}{i.size}".encode() + i.tobytes()).digest() for i in order.inputs)
        key = (self.version, prompt, images, order.grid)
        if (found := self.prefixes.get(key)) is not None:
            return found
        condition = self._encode(prompt, order)
        if isinstance(condition, PrefixCache):
            self.prefixes.put(key, condition)
        return condition

    def _encode(self, prompt: str, order: Order) -> Condition:
        pipe, inputs = self.pipe, list(order.inputs)
        with self._tokenizing:
            words = pipe.text_encoder.tokenize([prompt], [inputs] if inputs else None)
        text = pipe.text_encoder(words)
        dtype = next(pipe.transformer.parameters()).dtype
        features = check_finite(text.features, "the text encoder").to(dtype)
        grids = tuple((image.height // PATCH, image.width // PATCH) for image in inputs)
        images = torch.cat([pipe._tokens(image) for image in inputs], dim=1).to(dtype) if inputs else None
        layout = Layout.build(text.lengths, order.grid, text.slots, grids)
        if pipe.transformer.config.causal_condition:
            return pipe.transformer.prefill(features, layout, images)
        return lambda x, t: pipe.transformer(x, t, features, layout, images)


class Batch:
    """Rows of one shape that take their steps together; each at its own noise level."""

    def __init__(self, pipe: Pipeline) -> None:
        self.pipe = pipe
        self.rows: list[Row] = []
        self._joined: PrefixCache | None = None

    def add(self, row: Row) -> None:
        """Let a row join; it starts at its own first level."""
        self.rows.append(row)
        self._joined = None

    def discard(self, row: Row) -> None:
        """Let a row go, finished or not."""
        self.rows.remove(row)
        self._joined = None

    def step(self) -> list[Tensor]:
        """Advance every row by one step; returns the clean latent that each predicts, (1, T, C).

        On a row's last step that is its picture.
        """
        rows = self.rows
        x = torch.cat([row.latent for row in rows])
        now = torch.tensor([row.levels[row.step] for row in rows], device=x.device)
        then = torch.tensor([row.levels[row.step + 1] for row in rows], device=x.device)
        v = self._velocity(x, now)
        predicted = clean(x, v, now)
        x = x + (then - now)[:, None, None] * v
        for row, latent in zip(rows, x.split(1)):
            row.latent, row.step = latent, row.step + 1
        return [guess if row.step < row.steps else row.latent for row, guess in zip(rows, predicted.split(1))]

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        guided = [index for index, row in enumerate(self.rows) if row.negative is not None]
        conditions = [row.condition for row in self.rows]
        conditions += [row.negative for row in self.rows if row.negative is not None]
        v = self._evaluate(torch.cat((x, x[guided])), torch.cat((t, t[guided])), conditions)
        out, away = v[: len(self.rows)].clone(), v[len(self.rows) :]
        if guided:
            scales = torch.tensor([self.rows[index].order.guidance_scale for index in guided], device=x.device)
            out[guided] = away + scales[:, None, None] * (out[guided] - away)
        return out

    def _evaluate(self, x: Tensor, t: Tensor, conditions: Sequence[Condition]) -> Tensor:
        transformer = self.pipe.transformer
        inputs = x.to(next(transformer.parameters()).dtype)
        prefixes = [condition for condition in conditions if isinstance(condition, PrefixCache)]
        if len(prefixes) == len(conditions):
            self._joined = self._joined or PrefixCache.join(prefixes)
            return transformer.denoise(inputs, t, self._joined).to(x.dtype)
        singles = [c for c in conditions if not isinstance(c, PrefixCache)]
        return torch.cat([c(inputs[i : i + 1], t[i : i + 1]) for i, c in enumerate(singles)]).to(x.dtype)


Key = tuple[str, str, tuple[bytes, ...], tuple[int, int]]


class PrefixStore:
    """Prefixes by (model version, prompt, input images, grid); the least recently used go first when it is full."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = self.hits = self.misses = 0
        self._entries: OrderedDict[Key, PrefixCache] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> PrefixCache | None:
        """The prefix, which then counts as just used; None if it is not here."""
        if key not in self._entries:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: Key, prefix: PrefixCache) -> None:
        """Keep a prefix, unless it alone is over the capacity."""
        if prefix.nbytes > self.capacity:
            return
        self._entries[key] = prefix
        self.nbytes += prefix.nbytes
        while self.nbytes > self.capacity:
            self.nbytes -= self._entries.popitem(last=False)[1].nbytes


def fingerprint(pipe: Pipeline) -> str:
    """Twelve hex digits that change with the weights: a hash of up to 4,096 numbers of every parameter."""
    digest = hashlib.sha256()
    for part in (pipe.transformer, pipe.autoencoder, pipe.text_encoder):
        for name, parameter in part.named_parameters():
            values = parameter.detach().flatten()
            sample = values[:: max(1, len(values) // 4096)].float().cpu().contiguous()
            digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:12]
