"""Batches follow from (seed, step, rank) alone: resumed, cut among ranks, with workers, killed; each epoch is whole."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fourstroke.data.buckets import BucketConfig, Buckets
from fourstroke.data.datasets.edits import EditsData
from fourstroke.data.datasets.folder import FolderData
from fourstroke.data.datasets.leaves import LeavesData
from fourstroke.data.datasets.mixture import MixtureData, Part
from fourstroke.data.datasets.webdataset import WebDatasetData
from fourstroke.data.frames import Bucketed, Windows
from fourstroke.data.loader import Loader, LoaderConfig
from fourstroke.data.reader import BatchReader, Plan, PlannedSample, choose
from fourstroke.data.sample import Batch, Caption, Dataset, Record, Sample
from fourstroke.data.schedule import SHARDS, Schedule, ShuffledIndices
from tests.data.pictures import encoded, noise, write_shard

SIZES = ((64, 64), (96, 64), (64, 96), (48, 64))


def write_folder(folder: Path, count: int = 20, sizes: tuple[tuple[int, int], ...] = SIZES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise(number, *sizes[number % len(sizes)]).save(folder / f"{number:03}.png")
        text = {"captions": {"short": f"short {number}", "rich": [f"rich {number}", f"longer {number}"]}}
        (folder / f"{number:03}.json").write_text(json.dumps(text))
    return folder


def mixture(folder: Path) -> MixtureData:
    """A folder, two shards and dead leaves, of four shapes."""
    write_folder(folder / "pictures")
    for shard in range(2):
        members = {f"{i}.jpg": encoded(noise(100 + 10 * shard + i, *SIZES[i % 4]), "JPEG") for i in range(8)}
        members |= {f"{i}.txt": f"shard {shard} {i}".encode() for i in range(8)}
        write_shard(folder / f"{shard}.tar", members)
    return MixtureData(
        parts=(
            Part(data=FolderData(path=folder / "pictures"), weight=4),
            Part(data=WebDatasetData(shards=str(folder / "*.tar")), weight=2),
            Part(data=LeavesData(samples=50, size=64), weight=1),
        )
    )


def loader(dataset: Dataset, *, batch: int = 4, workers: int = 0, rank: int = 0, ranks: int = 1, **more) -> Loader:
    frames = more.pop("frames", None) or Bucketed(Buckets(BucketConfig(areas=(64,), crop="random"), 16))
    config = LoaderConfig(workers=workers, prefetch=2, **more)
    return Loader(dataset, frames, batch, config=config, seed=5, rank=rank, ranks=ranks)


def same(first: Batch, second: Batch) -> bool:
    pixels = torch.equal(first.images, second.images)
    inputs = all(torch.equal(a, b) for x, y in zip(first.inputs, second.inputs, strict=True) for a, b in zip(x, y))
    said = (first.prompts, first.crops, first.records, first.size) == (
        second.prompts,
        second.crops,
        second.records,
        second.size,
    )
    return pixels and inputs and said


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_on_from_any_step(tmp_path: Path, workers: int) -> None:
    dataset = mixture(tmp_path).open()
    straight = list(itertools.islice(loader(dataset).batches(), 30))
    assert len({batch.size for batch in straight}) == 4
    assert len({batch.records[0].name.split("/")[0] for batch in straight}) == 3
    for start in (0, 7, 29):
        resumed = itertools.islice(loader(mixture(tmp_path).open(), workers=workers).batches(start), 30 - start)
        assert all(same(a, b) for a, b in zip(resumed, straight[start:], strict=True))
    assert not same(straight[0], straight[7])


def test_ranks_cut_the_batch_of_one(tmp_path: Path) -> None:
    dataset = mixture(tmp_path).open()
    whole = loader(dataset, batch=6).batches(3)
    parts = [loader(dataset, batch=2, rank=rank, ranks=3).batches(3) for rank in range(3)]
    for _ in range(8):
        batch = next(whole)
        for rank, part in enumerate(parts):
            own = next(part)
            assert torch.equal(own.images, batch.images[rank::3])
            assert own.prompts == batch.prompts[rank::3]


def test_every_picture_of_a_bucket_comes_once_before_any_comes_again(tmp_path: Path) -> None:
    made = loader(FolderData(path=write_folder(tmp_path, 22)).open(), batch=3)
    seen: dict[tuple[int, int], list[str]] = collections.defaultdict(list)
    for batch in itertools.islice(made.batches(), 80):
        seen[batch.size] += [record.name for record in batch.records]
    assert len(seen) == 4
    for (size, _), count in made.sizes.items():
        rounds = [seen[size][i : i + count] for i in range(0, len(seen[size]) - count + 1, count)]
        assert len(rounds) > 5
        assert all(len(set(names)) == count for names in rounds)
        assert len({tuple(names) for names in rounds}) > 1
    drawn = collections.Counter(name for names in seen.values() for name in names)
    assert max(drawn.values()) - min(drawn.values()) <= 3  # buckets keep step with one another


def test_parts_and_areas_come_as_their_weights_say(tmp_path: Path) -> None:
    dataset = mixture(tmp_path).open()
    config = BucketConfig(areas=(32, 64), weights=(1, 3))
    made = loader(dataset, frames=Bucketed(Buckets(config, 16)))
    batches = list(itertools.islice(made.batches(), 140))
    parts = collections.Counter(batch.records[0].name[0] for batch in batches)
    assert {key: round(count / 20) for key, count in parts.items()} == {"0": 4, "1": 2, "2": 1}
    large = sum(batch.size[0] * batch.size[1] >= 48 * 64 for batch in batches)
    assert abs(large / 140 - 0.75) < 0.05
    assert all(len({record.name[0] for record in batch.records}) == 1 for batch in batches)


def test_a_mixture_by_sample_fills_each_batch_from_all_parts(tmp_path: Path) -> None:
    parts = (
        Part(data=LeavesData(samples=10, size=48), weight=3),
        Part(data=FolderData(path=write_folder(tmp_path)), weight=1),
    )
    made = loader(MixtureData(parts=parts, by="sample").open(), batch=8, frames=Windows([(32, 32), (48, 16)]))
    counts = [sum(record.name[0] == "0" for record in batch.records) for batch in itertools.islice(made.batches(), 20)]
    assert set(counts) <= {5, 6, 7}
    assert sum(counts) == pytest.approx(120, abs=3)
    again = loader(MixtureData(parts=parts, by="sample").open(), batch=8, frames=Windows([(32, 32), (48, 16)]))
    assert same(next(again.batches(11)), list(itertools.islice(made.batches(), 12))[11])


def test_repeats_come_as_often_as_they_say(tmp_path: Path) -> None:
    for name in ("5_dog/a.png", "b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise(len(name)).save(tmp_path / name)
    made = loader(FolderData(path=tmp_path).open(), batch=6)
    batch = next(made.batches())
    assert collections.Counter(record.name for record in batch.records) == {"5_dog/a.png": 5, "b.png": 1}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_found_broken_gives_its_place_away_and_is_named(tmp_path: Path, workers: int) -> None:
    folder = write_folder(tmp_path, 12, ((256, 256),))
    (folder / "004.png").write_bytes((folder / "004.png").read_bytes()[:3000])
    frames = Bucketed(Buckets(BucketConfig(areas=(64,)), 16))
    made = loader(FolderData(path=folder).open(), workers=workers, frames=frames)
    assert made.report.used == 12  # its header is whole
    names = [record.name for batch in itertools.islice(made.batches(), 6) for record in batch.records]
    assert len(names) == 24
    assert "004.png" not in names
    assert made.report.skipped["004.png"][0] == "broken"
    assert all(same(a, b) for a, b in zip(itertools.islice(made.batches(), 6), made.batches()))


def test_a_set_that_breaks_under_way_ends_in_one_line(tmp_path: Path) -> None:
    made = loader(FolderData(path=write_folder(tmp_path, 4)).open(), workers=1)
    for file in tmp_path.glob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match=r"^9 samples in a row cannot be used: .*No such file") as caught:
        next(made.batches())
    assert "\n" not in str(caught.value)


def test_pictures_that_fit_no_bucket_are_named_before_anything_is_drawn(tmp_path: Path) -> None:
    noise(0, 20, 20).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"no sample .* can be used: 0 samples, 1 skipped: small 1 \(small\.png: 20 x"):
        loader(FolderData(path=tmp_path).open())
    noise(1).save(tmp_path / "fits.png")
    report = loader(FolderData(path=tmp_path).open()).report
    assert (report.used, list(report.skipped)) == (1, ["small.png"])


def test_each_area_may_have_a_batch_size_of_its_own_and_captions_are_dropped(tmp_path: Path) -> None:
    dataset = FolderData(path=write_folder(tmp_path)).open()
    frames = Bucketed(Buckets(BucketConfig(areas=(32, 64)), 16))
    made = Loader(dataset, frames, (6, 2), config=LoaderConfig(workers=0), drop=0.25)
    batches = list(itertools.islice(made.batches(), 60))
    assert {len(batch.records) for batch in batches if batch.size[0] * batch.size[1] < 48 * 64} == {6}
    assert {len(batch.records) for batch in batches if batch.size[0] * batch.size[1] >= 48 * 64} == {2}
    prompts = [prompt for batch in batches for prompt in batch.prompts]
    assert abs(prompts.count("") / len(prompts) - 0.25) < 0.1
    assert made.steps_per_epoch == 5
    assert batches[40].prompts == next(made.batches(40)).prompts


def test_edits_come_with_inputs_of_equal_sizes(tmp_path: Path) -> None:
    write_folder(tmp_path, 12)
    rows = [{"source": f"{i:03}.png", "instruction": f"do {i}", "target": f"{(i + 4) % 12:03}.png"} for i in range(12)]
    rows += [{"source": ["000.png", "001.png"], "instruction": "both", "target": "004.png"}]
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = loader(EditsData(path=tmp_path / "edits.jsonl").open(), batch=3)
    for batch in itertools.islice(made.batches(), 10):
        shapes = {tuple(tuple(x.shape) for x in row) for row in batch.inputs}
        assert len(shapes) == 1
        assert batch.images.shape == (3, 4, batch.size[1], batch.size[0])
        assert all(x.dtype == torch.uint8 for row in batch.inputs for x in row)
        assert all(prompt.startswith(("do", "both")) for prompt in batch.prompts)


def test_captions_are_chosen_by_the_weights_of_their_kinds() -> None:
    captions = [Caption("a", "short"), Caption("b", "rich"), Caption("c", "rich"), Caption("d", "tags")]
    drawn = collections.Counter(
        choose(captions, {"short": 3, "rich": 1, "tags": 0}, np.random.default_rng(seed), (seed + 0.5) / 800)
        for seed in range(800)
    )
    assert set(drawn) == {"a", "b", "c"}
    assert abs(drawn["a"] / 800 - 0.75) < 0.05
    assert abs(drawn["b"] - drawn["c"]) < 50
    assert choose([], {}, np.random.default_rng(0), 0.5) == ""


def test_a_schedule_is_even_and_can_be_entered_anywhere() -> None:
    schedule = Schedule([5, 1, 0, 2.5, 1e-3], (7,))
    drawn = list(itertools.islice(schedule.draws(), 600))
    for start in (1, 13, 599):
        assert list(itertools.islice(schedule.draws(start), 600 - start)) == drawn[start:]
    for part in range(0, 600, 100):
        counts = collections.Counter(stream for stream, _ in drawn[part : part + 100])
        for stream, rate in enumerate(schedule.rates):
            assert abs(counts[stream] - 100 * rate) <= 3
    assert all(turn == sum(s == stream for s, _ in drawn[:i]) for i, (stream, turn) in enumerate(drawn))


def test_shards_are_read_a_few_at_a_time() -> None:
    order = ShuffledIndices(np.arange(1000), (3,), blocks=list(range(0, 1000, 50)))
    drawn = [order[position] for position in range(2000)]
    assert sorted(drawn[:1000]) == sorted(drawn[1000:]) == list(range(1000))
    assert drawn[:1000] != drawn[1000:]
    for start in range(0, 1000, 50 * SHARDS):
        assert len({index // 50 for index in drawn[start : start + 50 * SHARDS]}) == SHARDS
    assert drawn[:20] != sorted(drawn[:20])


CHILD = """
import hashlib, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.data.test_loader import loader, mixture, digest
made = loader(mixture(Path({folder!r})).open(), workers=2)
log = Path({log!r})
start = len(log.read_text().splitlines()) if log.exists() else 0
for batch in made.batches(start):
    with log.open("a") as file:
        file.write(digest(batch) + "\\n")
"""


def digest(batch: Batch) -> str:
    said = json.dumps([list(batch.prompts), [r.name for r in batch.records], batch.size, list(batch.crops)])
    return hashlib.sha256(batch.images.numpy().tobytes() + said.encode()).hexdigest()


@pytest.mark.slow
def test_killed_three_times_the_batches_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    folder, log = tmp_path / "data", tmp_path / "log"
    mixture(folder)
    root = str(Path(__file__).parents[2])
    code = CHILD.format(root=root, folder=str(folder), log=str(log))
    environment = os.environ | {"PYTHONPATH": f"{root}/src"}
    for wanted in (20, 45, 60, 90):
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
        while not log.exists() or len(log.read_text().splitlines()) < wanted:
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    found = log.read_text().splitlines()
    batches = itertools.islice(loader(mixture(folder).open()).batches(), len(found))
    assert found == [digest(batch) for batch in batches]


def test_the_rows_of_a_step_have_captions_of_one_kind():
    """So that short ones are not padded to long ones; the kinds change from step to step."""
    captions = (Caption("s", "short"), Caption("r", "rich"))
    records = [Record(name=str(n), size=(32, 32), captions=captions) for n in range(16)]
    dataset = SimpleNamespace(
        name="two",
        record=records.__getitem__,
        sample=lambda index: Sample(record=records[index], image=np.zeros((32, 32, 4), np.uint8)),
    )
    rows = {step: [PlannedSample((n,), (0, 4, step, n), False, 0) for n in range(8)] for step in range(20)}
    reader = BatchReader(dataset, Bucketed(Buckets(BucketConfig(areas=(32,), ratios=((1, 1),)), 32)), {}, None, None)
    seen = [set(reader[Plan(((32, 32), ()), rows[step])].batch.prompts) for step in range(20)]
    assert all(len(prompts) == 1 for prompts in seen)
    assert set.union(*seen) == {"s", "r"}


def _told(told: signal.Signals) -> None:
    for worker in multiprocessing.active_children():  # torch knows when its own process asks
        subprocess.run(["kill", f"-{told.value}", str(worker.pid)], check=True)


def test_a_worker_that_is_told_to_end_does_not_end_the_step_of_its_run(tmp_path: Path) -> None:
    """A scheduler tells all processes of a run; the one that trains ends its step and saves."""
    batches = loader(FolderData(path=write_folder(tmp_path, 4)).open(), workers=1).batches()
    next(batches)
    workers = multiprocessing.active_children()
    _told(signal.SIGTERM)
    for worker in workers:
        worker.join(10)
    time.sleep(0.1)  # torch looks at ended workers when the signal of their end comes, and raises if one failed
    assert [worker.exitcode for worker in workers] == [0]


def test_an_interrupt_of_a_terminal_leaves_workers_at_work(tmp_path: Path) -> None:
    """It goes to all processes; the one that trains may still wait for the batch of its last step."""
    batches = loader(FolderData(path=write_folder(tmp_path, 4)).open(), workers=1).batches()
    next(batches)
    _told(signal.SIGINT)
    assert len([next(batches) for _ in range(20)]) == 20
