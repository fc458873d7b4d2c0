"""Writes a model between two: what one training has changed, taken only in part.

    python scripts/mix_transformers.py runs/micro/distill/carried runs/micro/distill/model runs/micro/distill/mixed

The folder OUT is the second model's, its transformer (1 - share) of the first's weights and `share` of its own. Between
a student carried over and the same one matched it gives up part of what matching added, and of what it cost:
docs/guides/distill.md.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from fourstroke.checkpoint import WEIGHTS, CheckpointError, check_fit, map_tensors
from fourstroke.files import atomic_folder


def main(argv: Sequence[str] | None = None) -> None:
    """Read both, write the mixture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("first", type=Path, help="folder of a model")
    parser.add_argument("second", type=Path, help="folder of a model with the same transformer")
    parser.add_argument("out", type=Path, help="folder to write, new")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1")
    arguments = parser.parse_args(argv)
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists")
    try:
        mix(arguments.first, arguments.second, arguments.out, arguments.share)
    except (CheckpointError, ValueError) as error:
        parser.error(str(error))


def mix(first: Path, second: Path, out: Path, share: float = 0.5) -> None:
    """Write `second` as `out`, its transformer mixed with `first`'s in float32, in the second's types.

    Raises:
        CheckpointError: a transformer is missing, or they are not alike.
        ValueError: `share` is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is from 0 to 1, not {share:g}")
    one, two = (map_tensors(model / "transformer") for model in (first, second))
    check_fit(two, one, first / "transformer")
    mixed = {name: one[name].float().lerp(two[name].float(), share).to(two[name].dtype) for name in two}
    with atomic_folder(out) as partial:
        shutil.copytree(second, partial, dirs_exist_ok=True)
        for file in (partial / "transformer").glob("*.safetensors*"):  # shards and their index
            file.unlink()
        save_file(mixed, partial / "transformer" / WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
