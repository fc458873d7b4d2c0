"""How many pictures a second the loader gives, from shards of JPEGs.

    python benchmarks/loader.py

Writes shards into a temporary folder, and reads them into batches with no worker (one core) and with some. Nothing else
is measured: no model, no transfer.
"""

from __future__ import annotations

import argparse
import io
import itertools
import tarfile
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from fourstroke.data.buckets import BucketConfig, Buckets
from fourstroke.data.datasets.leaves import draw
from fourstroke.data.datasets.webdataset import WebDatasetData
from fourstroke.data.frames import Bucketed
from fourstroke.data.loader import Loader, LoaderConfig


def main() -> None:
    """Write, time and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=256, help="of the pictures, in pixels")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=128, help="in each shard")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), arguments.shards, arguments.pictures, arguments.side)
        dataset = WebDatasetData(shards=f"{folder}/*.tar").open()
        for workers in arguments.workers:
            frames = Bucketed(Buckets(BucketConfig(areas=(arguments.side,)), 16))
            loader = Loader(dataset, frames, arguments.batch, config=LoaderConfig(workers=workers))
            batches = loader.batches()
            next(batches)
            start, count = time.perf_counter(), 0
            while (seconds := time.perf_counter() - start) < arguments.seconds:
                count += len(next(batches).records)
            print(f"{workers} workers: {count / seconds:.0f} pictures a second")


def write(folder: Path, shards: int, pictures: int, side: int) -> None:
    """Shards of dead leaves, whose detail is that of photographs, each with a caption; a few are drawn and turned."""
    drawn = [Image.fromarray(draw(number, side)) for number in range(8)]
    turns = [None, *Image.Transpose]
    kinds = itertools.cycle(itertools.product(drawn, turns))
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as file:
            for number in range(pictures):
                image, turn = next(kinds)
                data = io.BytesIO()
                (image if turn is None else image.transpose(turn)).save(data, "JPEG", quality=90)
                for suffix, content in (("jpg", data.getvalue()), ("txt", f"picture {number}".encode())):
                    member = tarfile.TarInfo(f"{number:05}.{suffix}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
