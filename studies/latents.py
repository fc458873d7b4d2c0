"""What limits a trained autoencoder: its encoder, or its decoder? Gradient descent on latents says.

    python studies/latents.py

Latents of held-out scenes, from the encoder, are moved by Adam until the frozen decoder's copies are as near as it can
make them. What copies win so is what the encoder leaves lying.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from scenes import pixels
from torch import Tensor

from fourstroke.vae import Autoencoder
from fourstroke.vae.losses import psnr
from fourstroke.world import World
from fourstroke.world.find import find_world


def main() -> None:
    """Descend and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/micro"), help="folder of a whole model")
    parser.add_argument("--n", type=int, default=8, help="held-out scenes")
    parser.add_argument("--steps", type=int, default=120, help="of Adam, on each")
    parser.add_argument("--lr", type=float, default=0.02, help="in deviations of the latents")
    arguments = parser.parse_args()
    world = World(find_world(None, arguments.model, arguments.model.name))
    autoencoder = Autoencoder.from_pretrained(arguments.model / "vae").eval().requires_grad_(False)
    scenes = pixels([world.sample(seed, "heldout") for seed in range(arguments.n)])
    before, after = descend(autoencoder, scenes, arguments.steps, arguments.lr)
    won = after - before
    print(
        f"{arguments.n} held-out scenes, {arguments.steps} steps: {before.mean():.2f} dB as encoded, "
        f"{after.mean():.2f} dB descended, {won.mean():.2f} dB won ({won.min():.2f} to {won.max():.2f})"
    )


def descend(autoencoder: Autoencoder, x: Tensor, steps: int, lr: float) -> tuple[Tensor, Tensor]:
    """PSNR (B,) of the copies of pictures (B, 4, H, W) from their own latents, and from those that were moved."""
    z = autoencoder.encode(x).detach().requires_grad_()
    with torch.no_grad():
        before = psnr(autoencoder.decode(z)[:, :3].clamp(-1, 1), x[:, :3])
    adam = torch.optim.Adam([z], lr=lr)
    for _ in range(steps):
        adam.zero_grad()
        (autoencoder.decode(z) - x).square().flatten(1).mean(1).sum().backward()
        adam.step()
    with torch.no_grad():
        return before, psnr(autoencoder.decode(z)[:, :3].clamp(-1, 1), x[:, :3])


if __name__ == "__main__":
    main()
