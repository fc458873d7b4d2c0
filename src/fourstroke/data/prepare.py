"""Prepares a recipe's data: looks at every sample, and encodes pictures and captions into a cache (`encoded`).

Work goes in chunks of pictures of one size. What is there already is passed over, so that it can be interrupted at any
moment and goes on. On one machine, workers read while this process encodes; with Ray, actors on many machines do both,
by Ray Data, with the same code, into one folder that all of them see.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.utils.data

from fourstroke.data.encoding import Encoder, Job, PrepareRecipe, Read
from fourstroke.data.report import Report
from fourstroke.data.sample import SampleError, Split
from fourstroke.files import write_json
from fourstroke.progress import Progress


def prepare(
    recipe: PrepareRecipe, splits: Sequence[Split] = ("train",), ray: str | None = None, actors: int = 1
) -> dict[str, Any]:
    """Look at a recipe's data and encode it; returns the report as plain data, which lies in the cache too.

    Args:
        recipe: what to prepare.
        splits: of the data.
        ray: address of a Ray cluster, `auto`, or `local`; None works here.
        actors: that encode at a time on the cluster, each on a GPU where there are any.

    Raises:
        ValueError: in one line, if nothing can be used, or the cache is another model's.
    """
    answer: dict[str, Any] = {"cache": str(recipe.cache)}
    for split in splits:
        try:
            encoder, report = Encoder(recipe, split), Report()
            jobs = encoder.jobs(report)
        except ValueError as error:
            if split == splits[0]:
                raise
            print(f"{split}: {error}", file=sys.stderr, flush=True)  # many sets hold nothing out
            continue
        progress = Progress(split, sum(len(job.indices) for job in jobs))
        work = _here(encoder, jobs) if ray is None else _on_ray(recipe, split, jobs, ray, actors)
        for count, skipped in work:
            for name, why in skipped:
                report.skip(name, why)
                report.used -= why.stage != "caption"
            progress.add(count)
        answer[split] = report.plain()
        print(f"{split}: {report}", file=sys.stderr, flush=True)
    write_json(recipe.cache / "report.json", answer)
    return answer


def _here(encoder: Encoder, jobs: Sequence[Job]) -> Iterator[tuple[int, list[tuple[str, SampleError]]]]:
    workers = encoder.recipe.loader.workers
    loader: Any = torch.utils.data.DataLoader(_Jobs(encoder, jobs), batch_size=None, num_workers=workers)
    for job, read in zip(jobs, loader, strict=True):
        yield len(job.indices), encoder.encode(read)


class _Jobs(torch.utils.data.Dataset[Read]):
    def __init__(self, encoder: Encoder, jobs: Sequence[Job]) -> None:
        self.encoder, self.jobs = encoder, jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, place: int) -> Read:
        return self.encoder.read(self.jobs[place])


def _on_ray(
    recipe: PrepareRecipe, split: Split, jobs: Sequence[Job], address: str, actors: int
) -> Iterator[tuple[int, list[tuple[str, SampleError]]]]:
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray: pip install 'fourstroke[cluster]'") from None
    if not ray.is_initialized():
        ray.init(address=None if address == "local" else address, log_to_driver=False)
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    rows = [{"job": (job.target, list(job.indices))} for job in jobs]
    done = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map(
        Encoder, fn_constructor_args=(recipe, split), concurrency=actors, num_gpus=gpus
    )
    for row in done.iter_rows():
        yield int(row["samples"]), [(name, SampleError(why, stage, own)) for name, why, stage, own in row["skipped"]]
