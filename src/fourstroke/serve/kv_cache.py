"""Keys and values: what they take, how much of it there may be at once, and the prefixes that are kept.

Every token of a prefix leaves keys and values in every layer; with large input images that is more than the weights
(8 GiB for one of 2048 x 2048 pixels in the open model). A prefix stays as long as a picture of its request is under
way. While a batch takes its step, one layer at a time also lays prefix and picture side by side for each row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fourstroke.dit import PrefixCache, Transformer
from fourstroke.mapped import release
from fourstroke.pipeline import Pipeline
from fourstroke.placement import parts
from fourstroke.serve.batch import GenerationRequest, Strengths
from fourstroke.text.vision import SLOT_SIZE


class NeverFits(ValueError):  # noqa: N818 - reads as the sentence it is
    """A picture that takes more memory than the server has for any."""


class KVBytes(NamedTuple):
    """Bytes of keys and values: `kept` for all pictures of a request together, `step` for each one under way."""

    kept: int
    step: int


Count = Callable[[str, Sequence[int]], int]
"""Tokens of a prompt with input images of so many vision slots."""


@dataclass(frozen=True, kw_only=True)
class KVBudget:
    """Bytes for keys and values: the budget of all that is under way, and those of one token in all layers."""

    budget: int
    token_bytes: int
    layers: int
    keeps: bool  # a fully joint transformer keeps no prefix: it computes all of it in every step

    @classmethod
    def of(cls, transformer: Transformer, budget: int | None = None) -> KVBudget:
        """The budget of a model; without a budget half of what a GPU has free now, or a quarter of the machine's own
        memory where it draws on that.
        """
        weight = next(transformer.parameters())
        token = 2 * transformer.config.num_layers * transformer.config.width * weight.element_size()
        return cls(
            budget=_available(weight.device) if budget is None else budget, token_bytes=token,
            layers=transformer.config.num_layers, keeps=transformer.config.causal_condition,
        )  # fmt: skip

    def need(self, request: GenerationRequest, count: Count) -> KVBytes:
        """What a picture takes; `count` says how many tokens a prompt and images of so many vision slots have."""
        slots = [image.width * image.height // SLOT_SIZE**2 for image in request.inputs]
        prefix = count(request.asked, slots)
        if request.evaluations == 2:
            prefix += count(request.negative_prompt, slots)
        step = (prefix + request.evaluations * request.tokens) * self.token_bytes // self.layers
        return KVBytes(prefix * self.token_bytes if self.keeps else 0, step)

    def check(self, request: GenerationRequest, need: KVBytes, count: Count) -> None:
        """Raise `NeverFits` for a picture that has no room even alone, with what would have; `count` as in `need`."""
        if sum(need) <= self.budget:
            return
        fitting = [self._fitting(others, count) for others in _smaller(request)]
        advice = " or ".join(words for words in fitting if words) or "no single change of it"
        raise NeverFits(
            f"keys and values of the prompt, of input images ({len(request.inputs)}) and of a picture of "
            f"{request.width}x{request.height} take {_said(sum(need))}, and this server has {_said(self.budget)} for "
            f"them; what would fit: {advice}"
        )

    def _fitting(self, requests: Iterable[tuple[str, GenerationRequest]], count: Count) -> str:
        """The first of some requests that has room, with what it takes; "" if none has."""
        for words, request in requests:
            if (taken := sum(self.need(request, count))) <= self.budget:
                return f"{words} ({_said(taken)})"
        return ""


def _smaller(request: GenerationRequest) -> Iterator[list[tuple[str, GenerationRequest]]]:
    """By kind of change, requests that take less, the largest first, and what to call them."""
    few, step = len(request.inputs), max(SLOT_SIZE, request.factor)
    kept = [(f"{n} of the {few} input images" if n else "no input image", request.inputs[:n]) for n in range(few)]
    yield [(words, dataclasses.replace(request, inputs=inputs, mask=None)) for words, inputs in kept[::-1]]
    if request.evaluations == 2:
        yield [("no guidance (guidance_scale 1)", dataclasses.replace(request, guidance_scale=1.0))]
    sizes = [(request.width >> halvings, request.height >> halvings) for halvings in range(1, 5)]
    whole = [(width // step * step, height // step * step) for width, height in sizes if min(width, height) >= step]
    yield [(f"a picture of {w}x{h}", dataclasses.replace(request, width=w, height=h, mask=None)) for w, h in whole]


Key = tuple[str, str, tuple[bytes, ...], tuple[int, int], Strengths]


class PrefixStore:
    """Prefixes by (model version, prompt, input images, grid, adapters); the least recently used go when it is full."""

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
            for tensor in parts(parameter):
                values = tensor.detach().flatten()
                sample = values[:: max(1, len(values) // 4096)].float().cpu().contiguous()
                digest.update(name.encode() + sample.numpy().tobytes())
                release(tensor)
    return digest.hexdigest()[:12]


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def _said(nbytes: int) -> str:
    return f"{nbytes} bytes, {nbytes / 2**30:.2f} GiB"
