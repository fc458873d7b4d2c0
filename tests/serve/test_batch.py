"""Sequences that the server draws side by side go where the sampler goes alone, in half precision too."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from fourstroke.flow.sampler import Velocity, euler, guided
from fourstroke.serve.batch import Batch, Conditions, GenerationRequest, InpaintState, Sequence

from .test_engine import assert_same, draw, request

LEVELS = [1.0, 0.7, 0.3, 0.0]


def _velocity(slope: float) -> Velocity:
    """A flow that a bfloat16 model might have."""
    return lambda x, t: (slope * x.bfloat16() + t.bfloat16().view(-1, 1, 1)).sin()


def test_guidance_in_half_precision_is_that_of_the_sampler():
    requests = [
        GenerationRequest(prompt="a", width=32, height=32, seed=0, guidance_scale=scale) for scale in (4.0, 1.0, 2.5)
    ]
    noise = torch.randn(3, 1, 4, 64, generator=torch.Generator().manual_seed(0))
    towards, away = _velocity(0.9), _velocity(-0.4)
    batch = Batch(SimpleNamespace(transformer=torch.nn.Linear(1, 1).bfloat16()))
    for one, x in zip(requests, noise, strict=True):
        batch.add(Sequence(one, x, LEVELS, Conditions(towards, None if one.guidance_scale == 1 else away)))
    for _ in LEVELS[1:]:
        drawn = batch.step()
    for one, x, found in zip(requests, noise, drawn, strict=True):
        expected = euler(guided(towards, away, one.guidance_scale), x, torch.tensor(LEVELS))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_what_a_mask_keeps_has_the_noise_of_its_level():
    """While the picture is drawn, kept latents lie on their own way from noise to what they are, and end there."""
    noise, known = torch.randn(2, 1, 4, 64, generator=torch.Generator().manual_seed(1))
    free = torch.tensor([True, False, True, False]).reshape(1, 4, 1)
    batch = Batch(SimpleNamespace(transformer=torch.nn.Linear(1, 1)))
    one = GenerationRequest(prompt="a", width=32, height=32, seed=0, guidance_scale=1)
    batch.add(sequence := Sequence(one, noise, LEVELS, Conditions(_velocity(0.9)), InpaintState(known, noise, free)))
    for level in LEVELS[1:]:
        (seen,) = batch.step()
        torch.testing.assert_close(sequence.latent[:, 1::2], ((1 - level) * known + level * noise)[:, 1::2])
        assert not torch.equal(sequence.latent[:, ::2], ((1 - level) * known + level * noise)[:, ::2])
        torch.testing.assert_close(seen[:, 1::2], known[:, 1::2])


def test_pictures_that_skip_blocks_share_a_server_with_those_that_do_not(engine_of_tiny, tiny):
    """Each is what it is alone in the pipeline; only those that ask skip."""
    few = {"num_inference_steps": 12}
    wanted = [
        request(seed=1, step_cache=0.5, **few),
        request("a red circle", 2, **few),
        request("a red circle", 3, guidance_scale=3.0, step_cache=0.5, negative_prompt="a cat", **few),
        request(seed=4, guidance_scale=2.0, **few),
    ]
    for one, events in zip(wanted, draw(engine_of_tiny, wanted), strict=True):
        options = {"guidance_scale": one.guidance_scale, "negative_prompt": one.negative_prompt or None}
        size = {"width": 64, "height": 32, "seed": one.seed}
        own = tiny(one.prompt, step_cache=one.step_cache, **options, **size, **few).images[0]
        assert_same(events[-1].image, own)
        whole = tiny(one.prompt, **options, **size, **few).images[0]
        assert (np.asarray(own) == np.asarray(whole)).all() == (one.step_cache == 0)
