"""What keys and values take, and how much of it there may be at once.

Every token of a prefix leaves keys and values in every layer; with large input images that is more than the weights
(8 GiB for one of 2048 x 2048 pixels in the open model). A prefix stays as long as a picture of its request is under
way. While a batch takes its step, one layer at a time also lays prefix and picture side by side for each row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fourstroke.dit import Transformer
from fourstroke.serve.rows import Order
from fourstroke.text.vision import SLOT_SIZE


class NeverFits(ValueError):  # noqa: N818 - reads as the sentence it is
    """A picture that takes more memory than the server has for any."""


class Need(NamedTuple):
    """Bytes of keys and values: `kept` for all pictures of a request together, `step` for each one under way."""

    kept: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Space:
    """Bytes for keys and values: the budget of all that is under way, and those of one token in all layers."""

    budget: int
    token_bytes: int
    layers: int
    keeps: bool  # a fully joint transformer keeps no prefix: it computes all of it in every step

    @classmethod
    def of(cls, transformer: Transformer, budget: int | None = None) -> Space:
        """The space of a model; without a budget half of what a GPU has free now, or a quarter of the machine's own
        memory where it draws on that.
        """
        weight = next(transformer.parameters())
        token = 2 * transformer.config.num_layers * transformer.config.width * weight.element_size()
        return cls(
            budget=_available(weight.device) if budget is None else budget, token_bytes=token,
            layers=transformer.config.num_layers, keeps=transformer.config.causal_condition,
        )  # fmt: skip

    def need(self, order: Order, count: Callable[[str, Sequence[int]], int]) -> Need:
        """What a picture takes; `count` says how many tokens a prompt and images of so many vision slots have."""
        slots = [image.width * image.height // SLOT_SIZE**2 for image in order.inputs]
        prefix = count(order.asked, slots)
        if order.evaluations == 2:
            prefix += count(order.negative_prompt, slots)
        step = (prefix + order.evaluations * order.tokens) * self.token_bytes // self.layers
        return Need(prefix * self.token_bytes if self.keeps else 0, step)

    def check(self, order: Order, need: Need) -> None:
        """Raise `NeverFits` for a picture that has no room even alone."""
        if sum(need) <= self.budget:
            return
        advice = ["send fewer images"] if len(order.inputs) > 1 else []
        advice += ["ask without guidance (guidance_scale 1)"] if order.evaluations == 2 else []
        advice += ["ask for a smaller picture or shorten the prompt"]
        raise NeverFits(
            f"keys and values of the prompt, of input images ({len(order.inputs)}) and of a picture of "
            f"{order.width}x{order.height} take {_said(sum(need))}, and this server has {_said(self.budget)} for them: "
            + ", or ".join(advice)
        )


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def _said(nbytes: int) -> str:
    return f"{nbytes} bytes ({nbytes / 2**30:.2f} GiB)"
