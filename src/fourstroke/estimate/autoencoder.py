"""Needs of training the autoencoder, by its largest batch of the curriculum."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fourstroke.checkpoint import read_json
from fourstroke.estimate.needs import GIB, Needs, Trained
from fourstroke.estimate.stages import autoencoder_parameters, compute_type
from fourstroke.estimate.transformer import Precision, SavedBytes
from fourstroke.train.optimizer import _is_block_matrix
from fourstroke.train.vae import VaeRecipe
from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.vae.objective import PictureLoss


def vae_needs(recipe: VaeRecipe, text_tokens: int = 0, ranks: int = 1) -> Needs:
    """The needs of a run; `text_tokens` is of no account.

    What LPIPS and DINO keep is left out: their weights are in files that need not be here yet.

    Raises:
        CheckpointError: if `init` holds no autoencoder.
    """
    if recipe.model is not None:
        config = recipe.model
    else:
        assert recipe.init is not None
        file = recipe.init / "config.json"
        config = AutoencoderConfig.from_json(read_json(file), file)
    parameters = autoencoder_parameters(config)
    precision = Precision(weights=torch.float32, compute=compute_type(recipe.run, parameters))
    batches = {shape: pass_cost(config, *shape, precision, recipe.freeze_encoder) for shape in set(_shapes(recipe))}
    with torch.device("meta"):
        model = Autoencoder(config)
    named = [
        (name, p.numel(), _is_block_matrix(name, p))
        for name, p in model.named_parameters()
        if not (recipe.freeze_encoder and not name.startswith("decoder"))
    ]
    trained = Trained(numbers=sum(n for _, n, _ in named), matrices=sum(n for _, n, matrix in named if matrix))
    kept = max(cost[0] for cost in batches.values())
    memory = trained.memory("autoencoder", recipe.optimizer.kind, eight_bit=recipe.optimizer.eight_bit)
    memory["autoencoder, frozen"] = (parameters - trained.numbers) * 4 / GIB
    memory |= trained.passing(kept, recipe.run.accumulate)
    operations = sum(
        share * sum(batches[shape][1] for shape in shapes) / len(shapes) for share, shapes in _phases(recipe)
    )
    notes = [f"largest batch {max(batches, key=lambda shape: batches[shape][0])}, as pictures, width and height"]
    if any(term.weight and not isinstance(term, PictureLoss) for term in recipe.losses):
        notes.append("without the frozen networks that pictures and latents are compared in")
    return Needs(
        memory=memory,
        teraflops=3 * operations * recipe.run.accumulate / 1e12,
        steps=recipe.run.steps,
        ranks=ranks,
        notes=tuple(notes),
    )


def pass_cost(
    config: AutoencoderConfig,
    pictures: int,
    width: int,
    height: int,
    precision: Precision,
    frozen_encoder: bool,
) -> tuple[int, float]:
    """Bytes that encoding and decoding keep for the backward pass, and operations of the forward pass."""
    with precision.active(), FakeTensorMode(allow_non_fake_inputs=True):
        model = Autoencoder(config)
        kept = SavedBytes(model)
        x = torch.empty(pictures, 4, height, width)
        with kept, FlopCounterMode(display=False) as counter:
            with torch.set_grad_enabled(not frozen_encoder):
                z = model.encode_raw(x)
            model.decode_raw(z)
    return kept.nbytes, float(counter.get_total_flops())


def _phases(recipe: VaeRecipe) -> Iterator[tuple[float, list[tuple[int, int, int]]]]:
    """Share of the run and shapes of the batches (pictures, width, height) of each phase."""
    before = 0.0
    for mixture, until in zip(recipe.schedule, [phase.until for phase in recipe.phases] or [1.0], strict=True):
        yield until - before, [(mixture.batch_size, width, height) for width, height in mixture.sizes]
        before = until


def _shapes(recipe: VaeRecipe) -> Iterator[tuple[int, int, int]]:
    for _, shapes in _phases(recipe):
        yield from shapes
