"""Needs of the diffusion transformer, counted by PyTorch itself on fake tensors: nothing is allocated."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fourstroke.dit import Layout, Transformer, TransformerConfig
from fourstroke.dit.layout import Grid
from fourstroke.lora import LoraConfig, add_lora, lora_module
from fourstroke.train.optimizer import _is_block_matrix


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one forward pass sees: `prompts` of `text_tokens`, each with input images, and `rows` targets of a grid."""

    grid: Grid
    prompts: int
    rows: int
    text_tokens: int
    inputs: Sequence[Grid] = ()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One forward pass: operations of the prefix and of the rows, and bytes kept for its backward pass."""

    prefix: float
    rows: float
    kept: int


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Types of the weights and of what is multiplied; they differ where float32 weights train under autocast."""

    weights: torch.dtype
    compute: torch.dtype

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within the block tensors are made and multiplied so."""
        default = torch.get_default_dtype()
        try:
            torch.set_default_dtype(self.weights)
            with torch.autocast("cpu", self.compute, enabled=self.compute != self.weights):
                yield
        finally:
            torch.set_default_dtype(default)


def forward_cost(
    config: TransformerConfig,
    work: Work,
    precision: Precision,
    lora: LoraConfig | None = None,
    checkpointing: int = 0,
) -> Cost:
    """Operations and kept bytes of a forward pass; `checkpointing` recomputes every n-th block, 0 none."""
    layout = Layout.build([work.text_tokens + _slots(work)] * work.prompts, work.grid, _marks(work), tuple(work.inputs))
    with precision.active(), FakeTensorMode(allow_non_fake_inputs=True):
        kept, prefix, target = _run(config, work, layout, lora, checkpointing)
        inner = 0
        if checkpointing:  # while one block is recomputed, its inside is there too
            one = dataclasses.replace(config, num_layers=1)
            inner = _run(one, work, layout, lora, 0)[0]
    return Cost(prefix=prefix, rows=target, kept=kept + inner)


def count(config: TransformerConfig) -> int:
    """Parameters of a transformer."""
    return sum(p.numel() for p in _empty(config).parameters())


def block_matrices(config: TransformerConfig) -> int:
    """Parameters that Muon moves."""
    return sum(p.numel() for name, p in _empty(config).named_parameters() if _is_block_matrix(name, p))


def count_lora(config: TransformerConfig, lora: LoraConfig) -> int:
    """Parameters of one adapter."""
    model = _empty(config)
    with torch.device("meta"):
        add_lora(model, lora)
    return sum(p.numel() for p in lora_module(model).parameters())


def block_parameters(config: TransformerConfig) -> int:
    """Parameters of one block: what a sharded model gathers while it runs."""
    return sum(p.numel() for p in _empty(config).transformer_blocks[0].parameters())


def _empty(config: TransformerConfig) -> Transformer:
    with torch.device("meta"):
        return Transformer(config)


def _run(
    config: TransformerConfig, work: Work, layout: Layout, lora: LoraConfig | None, checkpointing: int
) -> tuple[int, float, float]:
    """Bytes kept, operations of the prefix and of the target, on fake tensors."""
    model = Transformer(config)
    if lora is not None:
        add_lora(model, lora)
    model.gradient_checkpointing = checkpointing
    text = torch.empty(work.prompts, layout.text_tokens, config.context_in_dim)
    images = torch.empty(work.prompts, layout.image_tokens, config.in_channels) if work.inputs else None
    x, t = torch.empty(work.rows, work.grid[0] * work.grid[1], config.in_channels), torch.empty(work.rows)
    kept = SavedBytes(model)
    with kept, FlopCounterMode(display=False) as prefix:
        cache = model.prefill(text, layout, images)
    with kept, FlopCounterMode(display=False) as target:
        model.denoise(x, t, cache.repeat(work.rows // work.prompts))
    return kept.nbytes, float(prefix.get_total_flops()), float(target.get_total_flops())


def _slots(work: Work) -> int:
    return sum(height * width for height, width in work.inputs) // 4


def _marks(work: Work) -> Tensor | None:
    """Which text tokens are vision slots: the last ones."""
    if not work.inputs:
        return None
    return torch.arange(work.text_tokens + _slots(work)).ge(work.text_tokens)[None]


class SavedBytes:
    """Counts the bytes that autograd keeps, each storage once and parameters not at all."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._own = {p.untyped_storage()._cdata for p in model.parameters()}
        self._found: dict[int, tuple[int, Tensor]] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    @property
    def nbytes(self) -> int:
        """Of all that was kept so far."""
        return sum(size for size, _ in self._found.values())

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._found[storage._cdata] = (storage.nbytes(), tensor)  # the tensor keeps the number from being reused
        return tensor
