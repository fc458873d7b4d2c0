"""Writes an autoencoder whose decoder draws the outlines of stickers sharper: its alpha is scaled about one half.

    python scripts/sharpen_outlines.py runs/micro/vae-decoder/model runs/micro/vae-sharp --by 1.5

Mean errors, and latents that are drawn and not encoded, leave outlines blurred. Only the rows of the last convolution
that make the alpha change, so that colours stay what they are, in any tool that reads the weights.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from fourstroke.checkpoint import CheckpointError
from fourstroke.vae.autoencoder import Autoencoder, unpatchify


def main(argv: Sequence[str] | None = None) -> None:
    """Read one, write the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of an autoencoder")
    parser.add_argument("out", type=Path, help="folder to write, new")
    parser.add_argument("--by", type=float, default=1.5, help="factor, above 0; below 1 outlines get softer")
    arguments = parser.parse_args(argv)
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists")
    try:
        model = Autoencoder.from_pretrained(arguments.folder)
        sharpen(model, arguments.by)
    except (CheckpointError, ValueError) as error:
        parser.error(str(error))
    model.save_pretrained(arguments.out)


@torch.no_grad()
def sharpen(model: Autoencoder, by: float) -> None:
    """Multiply what the decoder says of alpha, in [-1, 1], by a factor.

    Raises:
        ValueError: `by` is not above 0, or the pictures have no alpha.
    """
    if not 0 < by < math.inf:
        raise ValueError(f"by is a factor above 0, not {by:g}")
    if model.config.channels != 4:
        raise ValueError(f"pictures of {model.config.channels} channels have no alpha")
    last = model.decoder.conv_out
    rows = unpatchify(torch.arange(last.out_channels).view(1, -1, 1, 1), model.config.patch)[:, 3].flatten()
    for parameter in last.parameters():
        parameter[rows] *= by


if __name__ == "__main__":
    main()
