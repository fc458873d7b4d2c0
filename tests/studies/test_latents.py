"""Descent on latents finds what the encoder left lying, and touches no weight."""

from __future__ import annotations

import copy

import torch
from studies.latents import descend


def test_descent_wins_and_leaves_the_weights(tiny):
    autoencoder = copy.deepcopy(tiny.autoencoder).requires_grad_(False)
    before = {key: value.clone() for key, value in autoencoder.state_dict().items()}
    x = torch.rand(2, 4, 32, 32) * 2 - 1
    encoded, descended = descend(autoencoder, x, steps=30, lr=0.05)
    assert encoded.shape == (2,)
    assert (descended > encoded).all()
    assert all(torch.equal(value, before[key]) for key, value in autoencoder.state_dict().items())
    alone = descend(autoencoder, x[:1], steps=30, lr=0.05)[1]
    torch.testing.assert_close(alone, descended[:1], rtol=1e-3, atol=1e-2)
