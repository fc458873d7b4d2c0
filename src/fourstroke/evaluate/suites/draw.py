"""Draws a suite of prompts into a folder, on one process or many; a killed run goes on where it was.

A picture depends on its prompt's number in the suite, on its own number and on the first seed, and on nothing else:
what is drawn together is always the same, so that a resumed run and one on more processes give the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fourstroke.evaluate.drawn import RECIPE, DrawnPicture, append, append_row, read_drawn, read_recipe
from fourstroke.evaluate.suites.drawers import Drawer, Look, open_drawer
from fourstroke.evaluate.suites.suite import Language, Suite, SuitePrompt, Wanted, find_suite, read_suite
from fourstroke.files import atomic_file, save_image, write_json
from fourstroke.image_io import ImageError, open_image
from fourstroke.pictures import save_picture, slug
from fourstroke.progress import OnPicture
from fourstroke.seeds import check_seed, following
from fourstroke.version import __version__

SEEDS = 1000
"""Seeds of one prompt; the next prompt's begin after them."""
REFUSED = "refused.jsonl"
MOST_REFUSED = 20
"""Pictures in a row that cannot be drawn, after which something else must be wrong."""
GRID_COLUMNS = 2


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """What is drawn, by whom, how and where; all of it can be sent to another process."""

    suite: str
    """Its name, or a file of prompts."""
    out: Path
    source: Path | None = None
    model: str | None = None
    device: str | None = None
    language: Language = "en"
    n: int | None = None
    repeats: int | None = None
    """Pictures of each prompt; None is the suite's own number."""
    seed: int = 0
    batch: int = 8
    look: Look = field(default_factory=Look)
    enhance: bool = False
    """Draw everything twice, into `plain` and into `enhanced`."""

    def folders(self) -> dict[Path, bool]:
        """Where pictures go, and whether their prompts are rewritten."""
        return {self.out / "plain": False, self.out / "enhanced": True} if self.enhance else {self.out: False}


@dataclass(frozen=True)
class Job:
    """One picture."""

    prompt: SuitePrompt
    repeat: int
    seed: int
    file: str


@dataclass(frozen=True)
class Plan:
    """All pictures of a run, in groups that are drawn together."""

    suite: Suite
    source: Path | None
    batches: list[list[Job]]
    repeats: int
    skipped: dict[str, int]

    @property
    def jobs(self) -> list[Job]:
        """All of them, one by one."""
        return [job for batch in self.batches for job in batch]


def plan(options: DrawOptions) -> Plan:
    """Read the suite and say what there is to draw.

    Raises:
        ValueError: as `read_suite`, or for seeds out of range.
    """
    suite, file = find_suite(options.suite)
    if file is not None and options.source is not None:
        raise ValueError(f"{file} is the file of prompts itself; leave --source out")
    source = file or options.source
    found = read_suite(suite, Wanted(source=source, model=options.model, language=options.language, n=options.n))
    repeats = suite.repeats if options.repeats is None else options.repeats
    if not 1 <= repeats <= SEEDS:
        raise ValueError(f"{repeats} pictures of each prompt; at least 1, at most {SEEDS}")
    first = check_seed(options.seed)
    groups: dict[Any, list[Job]] = {}
    for number, prompt in found.prompts:
        for repeat in range(repeats):
            seed, file_name = following(first, SEEDS * number + repeat), suite.place(prompt, repeat, repeats)
            key = prompt.size, prompt.transparent, prompt.inputs
            groups.setdefault(key, []).append(Job(prompt, repeat, seed, file_name))
    size = options.batch
    batches = [jobs[start : start + size] for jobs in groups.values() for start in range(0, len(jobs), size)]
    return Plan(suite, source, batches, repeats, found.skipped)


def prepare(options: DrawOptions, planned: Plan) -> None:
    """Write the recipe of each folder; raises ValueError if one holds pictures that were drawn otherwise."""
    for folder, enhanced in options.folders().items():
        told = _recipe(options, planned, enhanced)
        earlier = read_recipe(folder)
        for key in DECIDING if earlier else ():
            if earlier.get(key) != told[key]:
                raise ValueError(
                    f"{folder} holds pictures of another {key} ({earlier.get(key)}, now {told[key]}); "
                    "name another --out, or delete it"
                )
        if not earlier and folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty, and no suite was drawn there; name another --out")
        write_json(folder / RECIPE, told)


DECIDING = "suite", "source", "language", "model", "seed", "repeats", "n", "batch", "look", "enhanced"
"""What of a recipe decides about pictures."""


def _recipe(options: DrawOptions, planned: Plan, enhanced: bool) -> dict[str, Any]:
    source = planned.source if planned.source is None else str(planned.source.resolve())
    return {
        "suite": planned.suite.kind,
        "source": source,
        "language": options.language,
        "model": options.model,
        "seed": options.seed,
        "repeats": planned.repeats,
        "n": options.n,
        "batch": options.batch,
        "look": dataclasses.asdict(options.look),
        "enhanced": enhanced,
        "pictures": len(planned.jobs),
        "skipped": planned.skipped,
        "fourstroke": __version__,
        "torch": torch.__version__,
    }


def draw_share(
    options: DrawOptions,
    rank: int,
    ranks: int,
    on_picture: OnPicture | None = None,
    claim: Callable[[], int] | None = None,
) -> None:
    """Draw every picture of this process that is not there yet, each whole with its row.

    Its batches are every `ranks`-th from `rank` on; or, with `claim`, those whose numbers that gives it in turn, so
    that a process which began earlier draws more.

    Raises:
        ValueError: if the model cannot be loaded, or does not draw what is asked.
        RuntimeError: if an endpoint fails, or many pictures in a row cannot be drawn.
    """
    planned = plan(options)
    work = [(folder, enhanced, batch) for folder, enhanced in options.folders().items() for batch in planned.batches]
    there = {folder: drawn_files(folder) for folder in options.folders()}
    missing = [any(job.file not in there[folder] for job in batch) for folder, _, batch in work]
    own = range(rank, len(work), ranks) if claim is None else claimed(claim, len(work))
    total = sum(len(work[number][2]) for number in range(rank, len(work), ranks) if missing[number])
    hand, done = None, 0
    for number in own:
        if not missing[number]:
            continue
        hand = hand or Hand(open_drawer(options.model, options.device, options.look), planned)
        folder, enhanced, batch = work[number]
        hand.draw(folder, batch, enhanced, there[folder])
        done += len(batch)
        if on_picture is not None:
            on_picture(min(done, total), total)


def claimed(claim: Callable[[], int], count: int) -> Iterator[int]:
    """Numbers below `count`, until they are all taken."""
    while (number := claim()) < count:
        yield number


def drawn_files(folder: Path) -> set[str]:
    """The pictures of a folder that have a row, and are there."""
    try:
        return {picture.file for picture in read_drawn(folder) if picture.path.is_file()}
    except ValueError as error:
        if "holds no drawn picture" in str(error) or "there is no folder" in str(error):
            return set()
        raise


class Hand:
    """Draws batches into folders."""

    def __init__(self, drawer: Drawer, planned: Plan) -> None:
        self.drawer, self.plan, self.refused = drawer, planned, 0

    def draw(self, folder: Path, batch: Sequence[Job], enhanced: bool, there: set[str]) -> None:
        """Draw a batch, and write those of it that are not there; what cannot be drawn is told in `REFUSED`."""
        try:
            inputs = self._inputs(folder, batch)
        except ImageError as error:
            self._refuse(folder, batch, f"a picture to edit: {error}")
            return
        texts = [self._text(job, inputs, enhanced) for job in batch]
        for job, text, picture in zip(batch, texts, self._drawn(folder, batch, texts, inputs), strict=True):
            if picture is not None and job.file not in there:
                self._keep(folder, job, text, picture)

    def _drawn(
        self, folder: Path, batch: Sequence[Job], texts: Sequence[str], inputs: Sequence[Image.Image]
    ) -> list[Image.Image | None]:
        """The pictures of a batch; of one that cannot be drawn together, one by one, None for those that cannot."""
        first = batch[0].prompt
        try:
            found = self.drawer.draw(texts, [job.seed for job in batch], first.size, inputs, first.transparent)
            self.refused = 0
            return list(found)
        except (ValueError, RuntimeError) as error:
            if len(batch) > 1:
                return [
                    picture
                    for job, text in zip(batch, texts, strict=True)
                    for picture in self._drawn(folder, [job], [text], inputs)
                ]
            self._refuse(folder, batch, " ".join(str(error).split()))
            if self.refused >= MOST_REFUSED:
                raise
            return [None]

    def _inputs(self, folder: Path, batch: Sequence[Job]) -> list[Image.Image]:
        """Write what stands beside the pictures, and open those that they share to edit; raises ImageError."""
        for prompt in {job.prompt.id: job.prompt for job in batch}.values():
            for name, read in prompt.beside.items():
                if not (folder / name).is_file():
                    data = read()
                    with atomic_file(folder / name) as partial:
                        partial.write_bytes(data)
        return [open_image(folder / name) for name in batch[0].prompt.inputs]  # of an absolute name, itself

    def _text(self, job: Job, inputs: Sequence[Image.Image], enhanced: bool) -> str:
        return self.drawer.rewrite(job.prompt.text, inputs, job.seed - job.repeat) if enhanced else job.prompt.text

    def _keep(self, folder: Path, job: Job, text: str, picture: Image.Image) -> None:
        asked = job.prompt.text
        told: dict[str, Any] = {
            "prompt": text,
            "seed": job.seed,
            "model": self.drawer.name,
            "width": picture.width,
            "height": picture.height,
            "num_inference_steps": self.drawer.steps,
            "guidance_scale": self.drawer.guidance,
        } | ({"request": asked} if asked != text else {})
        save_picture(picture, folder / job.file, told)
        append(
            folder,
            DrawnPicture(
                file=job.file,
                id=job.prompt.id,
                prompt=text,
                asked=asked if asked != text else "",
                seed=job.seed,
                inputs=job.prompt.inputs,
                suite=self.plan.suite.kind,
                meta=job.prompt.meta,
                model=self.drawer.name,
                steps=self.drawer.steps,
                guidance=self.drawer.guidance,
            ),
        )

    def _refuse(self, folder: Path, batch: Sequence[Job], why: str) -> None:
        self.refused += len(batch)
        for job in batch:
            append_row(folder / REFUSED, {"file": job.file, "id": job.prompt.id, "reason": why})


def finish(options: DrawOptions, planned: Plan) -> dict[str, Any]:
    """Put grids together and write what the scorer wants; what was drawn and what was not, by folder."""
    told = {}
    for folder, enhanced in options.folders().items():
        files = drawn_files(folder)
        pictures = [picture for picture in read_drawn(folder) if picture.file in files] if files else []
        for place, own in _grids(planned, pictures):
            if all(job.file in files for job in own) and not (folder / place).is_file():
                _write_grid(folder, place, own)
        planned.suite.finish(folder, pictures)
        missing = [job.file for job in planned.jobs if job.file not in files]
        told[str(folder)] = {
            "pictures": len(planned.jobs) - len(missing),
            "missing": len(missing),
            "refused": _reasons(folder, set(missing)),
            "as_asked": sum(not picture.asked for picture in pictures) if enhanced else 0,
        }
    return told


def _grids(planned: Plan, pictures: Sequence[DrawnPicture]) -> Iterator[tuple[str, list[Job]]]:
    """Where each grid stands, and the pictures in it."""
    model = slug(pictures[0].model, 60) if pictures else "model"
    own: dict[str, list[Job]] = {}
    for job in planned.jobs:
        if job.prompt.grid:
            own.setdefault(job.prompt.grid, []).append(job)
    for place, jobs in own.items():
        yield place.replace("{model}", model), sorted(jobs, key=lambda job: job.repeat)


def _write_grid(folder: Path, place: str, jobs: Sequence[Job]) -> None:
    tiles = [Image.open(folder / job.file).convert("RGB") for job in jobs]
    columns = 1 if len(tiles) == 1 else GRID_COLUMNS
    width, height = tiles[0].size
    grid = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    for number, tile in enumerate(tiles):
        grid.paste(tile, (number % columns * width, number // columns * height))
    save_image(grid, folder / place, **({"lossless": True} if place.endswith(".webp") else {}))


def _reasons(folder: Path, missing: set[str]) -> dict[str, int]:
    """Why pictures are not there, with how many."""
    last: dict[str, str] = {}
    if (folder / REFUSED).is_file():
        for line in (folder / REFUSED).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            last[row["file"]] = row["reason"]
    reasons = [why for file, why in last.items() if file in missing]
    return {why: reasons.count(why) for why in dict.fromkeys(reasons)}


def share_of_launcher() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
