"""The loop with a small stage of its own: micro-batches, the checkpoint that is kept, precision, trackers, the page."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
import types
import xml.etree.ElementTree as ET
from typing import ClassVar

import pytest
import torch
from PIL import Image
from torch import nn

from fourstroke.device import autocast
from fourstroke.evaluate.validation import CheckpointPolicy
from fourstroke.files import WriteError
from fourstroke.parallel.checkpoint import read_state
from fourstroke.parallel.mesh import data_shard
from fourstroke.parallel.noise import batch_rows, row_noise
from fourstroke.recipe import RecipeError, build
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.report import curves, write_report

ADAMW = OptimizerConfig(kind="adamw", lr=0.01, warmup=1, cooldown=0.0, weight_decay=0.0)


class Slope:
    """Learns a linear map from noise; its sheet is a grey square."""

    accumulates = True
    policy: CheckpointPolicy | None = None
    scores: ClassVar[list[float]] = []

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.asked = batch_size, []
        torch.manual_seed(0)
        self.model = nn.Linear(8, 8)
        self.models: dict[str, nn.Module] = {"slope": self.model}

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        self.asked.append((step, data_shard().index))
        x = row_noise(3, step, batch_rows(self.batch_size), (8,))
        with autocast(torch.device("cpu")):
            y = self.model(x)
        self.dtype = y.dtype
        return {"loss": (y.float() - x.flip(1)).square().mean()}

    def sample(self, folder, step):
        Image.new("RGB", (8, 8), "grey").save(folder / f"step-{step:06d}.png")
        return {"quality": self.scores[step] if self.scores else 1.0}

    def export(self, folder):
        torch.save(self.model.weight.detach().clone(), folder / "weight.pt")


def _run(tmp_path, **changes) -> RunConfig:
    return RunConfig(**{"out": tmp_path / "run", "steps": 4, "log_seconds": 0.0} | changes)


def _weights(batch_size: int, run: RunConfig) -> torch.Tensor:
    trainer = Trainer(Slope(batch_size), run, ADAMW, {})
    for _ in range(3):
        trainer.update()
    return trainer.stage.model.weight.detach()


def test_micro_batches_make_the_step_of_their_whole_batch(tmp_path):
    whole = _weights(12, _run(tmp_path))
    torch.testing.assert_close(_weights(4, _run(tmp_path, accumulate=3)), whole, rtol=1e-4, atol=1e-6)
    assert (_weights(4, _run(tmp_path)) - whole).abs().max() > 1e-3


def test_a_stage_that_has_one_batch_a_step_refuses_several(tmp_path):
    stage = Slope(4)
    stage.accumulates = False
    with pytest.raises(RecipeError, match="accumulate"):
        Trainer(stage, _run(tmp_path, accumulate=2), ADAMW, {})


@pytest.mark.parametrize(("ties", "kept"), [("first", 1), ("last", 3)])
def test_the_best_checkpoint_is_exported(tmp_path, ties, kept):
    stage = Slope(4)
    stage.policy = CheckpointPolicy(metric="quality", ties=ties)
    stage.scores = [0.1, 0.9, 0.5, 0.9, 0.2]
    exported = {}
    export = stage.export
    stage.export = lambda folder: (
        exported.setdefault(trainer.step, stage.model.weight.detach().clone()),
        export(folder),
    )
    run = _run(tmp_path, sample_first=True, sample_minutes=0.0)
    trainer = Trainer(stage, run, ADAMW, {})
    folder = trainer.run()
    assert torch.equal(torch.load(folder / "weight.pt"), exported[kept])
    again = Trainer(stage, dataclasses.replace(run, steps=5), ADAMW, {})
    stage.scores = [*stage.scores, 0.3]
    again.run(resume=True)  # what was best before is still known
    assert torch.equal(torch.load(folder / "weight.pt"), exported[kept])


class Measured(Slope):
    """Says how far its map is from what it learns, at the step it is at."""

    def held_out_scores(self):
        return {"distance": float((self.model.weight - torch.eye(8).flip(0)).norm())}


def test_what_later_looks_are_compared_with_is_told_before_the_first_step_alone(tmp_path, capsys):
    stage = Measured(4)
    before = stage.held_out_scores()["distance"]
    run = _run(tmp_path)
    Trainer(stage, run, ADAMW, {}).run()
    assert f"held out, before training: distance {before:.4f}" in capsys.readouterr().out
    rows = [json.loads(line) for line in (run.out / "log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["scores"]) for row in rows if "scores" in row] == [
        (0, {"distance": before}),
        (4, {"quality": 1.0}),
    ]
    assert not (run.out / "samples" / "step-000000.png").exists()
    Trainer(stage, dataclasses.replace(run, steps=5), ADAMW, {}).run(resume=True)
    Trainer(stage, _run(tmp_path / "drawn", sample_first=True), ADAMW, {}).run()
    Trainer(stage, _run(tmp_path / "none", max_minutes=0.0), ADAMW, {}).run()
    assert "before training" not in capsys.readouterr().out


def test_the_precision_of_a_run_reaches_its_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    found = {}
    for precision in ("auto", "fp32", "bf16"):
        trainer = Trainer(Slope(4), _run(tmp_path, precision=precision), ADAMW, {})
        trainer.update()
        found[precision] = trainer.stage.dtype
        assert trainer.stage.model.weight.dtype == torch.float32
    assert found == {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}


def test_a_processor_without_bfloat16_goes_on_in_float32_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    stage, told = Slope(4), {}
    for supported in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        Trainer(stage, _run(tmp_path / str(supported), precision="bf16"), ADAMW, {}).run()
        told[stage.dtype] = "it multiplies in float32" in capsys.readouterr().out
    assert told == {torch.bfloat16: False, torch.float32: True}


def test_a_save_that_failed_ends_the_run_at_the_next_step(tmp_path, monkeypatch):
    run = _run(tmp_path, steps=2000, save_minutes=0.0)
    trainer = Trainer(Slope(4), run, ADAMW, {})
    write, states = trainer.checkpointer._write, []

    def full(place, partial, staged, values):
        states.append(values["step"])
        if values["step"] == 3:
            object.__setattr__(run, "save_minutes", 60.0)  # no other save finds it out
            with place:
                raise OSError(28, "No space left on device")
        write(place, partial, staged, values)

    monkeypatch.setattr(trainer.checkpointer, "_write", full)
    with pytest.raises(WriteError, match="No space left"):
        trainer.run()
    assert states == [1, 2, 3]
    assert trainer.step < 1000
    assert read_state(tmp_path / "run" / "state")["optimizer.adamw.slope.weight.step"] == 2
    assert not [*(tmp_path / "run").glob("*partial*")]


class _Recorder(types.ModuleType):
    """Stands in for a tracker's package."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.rows, self.open = [], None
        self.__spec__ = types.SimpleNamespace()

    def init(self, **options):
        self.open, self.name = options, options["name"]

    def log(self, values, step):
        self.rows.append((step, values))

    def finish(self):
        self.open = None

    def picture(self, path):
        return path

    Image = picture


def test_a_tracker_gets_curves_rates_memory_and_sheets(tmp_path, monkeypatch):
    package = _Recorder()
    monkeypatch.setitem(sys.modules, "trackio", package)
    run = build(RunConfig, {"out": str(tmp_path / "run"), "steps": 4, "log_seconds": 0, "tracker": {"kind": "trackio"}})
    Trainer(Slope(4), run, ADAMW, {"recipe": {"a": 1}}).run()
    steps = [step for step, values in package.rows if "loss" in values]
    assert steps == [1, 2, 3, 4]
    assert {"loss", "grad_norm", "lr", "rate", "memory"} <= package.rows[0][1].keys()
    assert package.rows[-2:] == [
        (4, {"quality": 1.0}),
        (4, {"samples": str(tmp_path / "run" / "samples" / "step-000004.png")}),
    ]
    assert package.open is None
    assert package.name == f"{tmp_path.name}-run", "runs of two families are two"


def test_a_tracker_that_is_not_installed_is_told_with_the_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="wandb is not installed"):
        build(RunConfig, {"out": str(tmp_path), "steps": 4, "tracker": {"kind": "wandb"}})


def test_the_page_of_a_run_has_its_curves_and_sheets(tmp_path):
    out = Trainer(Slope(4), _run(tmp_path, sample_minutes=0.0), ADAMW, {"recipe": {"a": "<b>"}}).run().parent
    page = (out / "index.html").read_text()
    charts = [
        ET.fromstring(part.split("</svg>")[0] + "</svg>")
        for part in page.split("<figcaption>")
        if "<svg" in part
        for part in [part[part.index("<svg") :]]
    ]
    assert {chart.get("aria-label") for chart in charts} >= {"loss", "quality", "lr"}
    for chart in charts:
        for point in chart.find("polyline").get("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 360
            assert 0 <= y <= 190
    assert page.count('<img src="samples/step-') == 4
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


def test_the_page_takes_what_a_log_may_hold(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": NaN}\n{"step": 1, "loss": 3}\n{"step": 1, "loss": 2.5}\n')
    write_report(tmp_path)
    assert "loss" in (tmp_path / "index.html").read_text()
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 1, "loss": 2.5, "note": "x", "ok": True}]
    assert curves(rows) == {"loss": [(1, 2.5), (2, 2.0)]}
