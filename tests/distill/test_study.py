"""The studies of training runs, end to end and tiny: which prompts to distil with, how the transformer learns."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fourstroke.recipe import resolved
from fourstroke.train.distill import WarmConfig
from fourstroke.train.dit import train_dit
from fourstroke.world.judging.kinds import WorldValidator

from ..train.conftest import WORLD, dit_recipe, vae_recipe  # noqa: F401

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "studies"))


@pytest.mark.slow
def test_prompts_of_every_kind_make_a_student_each(recipe, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    import prompts

    world = dataclasses.replace(recipe.data.world, count_weights=(0.3, 0.3, 0.4))
    plain = {"kind": "world", "world": dataclasses.asdict(world)}
    Path(recipe.teacher, "data.json").write_text(json.dumps(plain), "utf-8")
    file = tmp_path / "distill.yaml"
    file.write_text(yaml.safe_dump(resolved(recipe)["recipe"]))
    sizes = ["--prompts", "8", "--steps", "2", "--warm", "0", "--seeds", "1", "--n", "16"]
    where = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "docs" / "prompts")]
    command = ["--teacher", recipe.teacher, "--recipe", str(file), *sizes, *where]
    prompts.main(command)
    found = json.loads((tmp_path / "docs" / "prompts.json").read_text())
    assert list(found["results"]) == list(prompts.KINDS)
    for results in found["results"].values():
        assert 0 <= results[0]["all"] <= 1
        assert results[0]["diversity"] > 0
    page = (tmp_path / "docs" / "prompts.md").read_text()
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 120
    monkeypatch.setattr(prompts, "train_distill", lambda *_: pytest.fail("a finished arm was trained again"))
    prompts.main(command)
    trained = []
    monkeypatch.setattr(prompts, "train_distill", lambda recipe: trained.append(recipe) or Path(recipe.teacher))
    file.write_text(file.read_text() + "# another recipe\n")
    prompts.main(command)
    assert len(trained) == len(prompts.KINDS)


def test_composition_is_the_mean_of_what_is_asked():
    from steps import composition

    lone = [SimpleNamespace(objects=[hit], colours=[], relations=[]) for hit in (True, False)]
    found = composition(lone)
    assert found["value"] == 0.5
    assert 0 <= found["low"] <= found["high"] <= 1
    pair = SimpleNamespace(objects=[True, True], colours=[True], relations=[False])
    assert composition([pair, *lone])["value"] == pytest.approx((0.75 + 1 + 0) / 3)


def test_judged_samples_make_a_learning_curve(dit_recipe, tmp_path, capsys):  # noqa: F811
    pytest.importorskip("matplotlib")
    import learning

    validator = WorldValidator(world=WORLD, prompts=4, steps=2)
    train_dit(dataclasses.replace(dit_recipe, validators=(validator,)))
    learning.main(["--log", str(dit_recipe.run.out / "log.jsonl"), "--out", str(tmp_path / "docs" / "learning")])
    (row,) = json.loads((tmp_path / "docs" / "learning.json").read_text())["scores"]
    assert row["step"] == dit_recipe.run.steps
    assert 0 <= row["objects"] <= 1
    assert "| 6 |" in capsys.readouterr().out

    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"step": 1, "seconds": 1.0, "scores": {"heldout": 1.0}}\n')
    with pytest.raises(SystemExit, match="judged"):
        learning.main(["--log", str(bare)])


@pytest.mark.slow
def test_three_ways_make_a_student_each_and_finished_ones_are_kept(recipe, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    import distillation

    plain = {"kind": "world", "world": dataclasses.asdict(recipe.data.world)}
    Path(recipe.teacher, "data.json").write_text(json.dumps(plain), "utf-8")
    warm = WarmConfig(steps=1, substeps=2, optimizer=recipe.student)
    file = tmp_path / "distill.yaml"
    file.write_text(yaml.safe_dump(resolved(dataclasses.replace(recipe, warm=warm))["recipe"]))
    where = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "docs" / "distillation")]
    command = ["--teacher", recipe.teacher, "--recipe", str(file), "--steps", "2", "--seeds", "1", "--n", "4", *where]
    distillation.main(command)
    found = json.loads((tmp_path / "docs" / "distillation.json").read_text())
    assert list(found["arms"]) == ["path", "matching", "segments"]
    assert all(arm["minutes"] > 0 for (arm,) in found["arms"].values())
    logs = {name: (next((tmp_path / "runs").glob(f"*/{name}/0")) / "log.jsonl").read_text() for name in found["arms"]}
    assert "fake_loss" in logs["matching"]
    assert "fake_loss" not in logs["segments"]
    assert "student_gap" in logs["segments"]
    assert "student_loss" not in logs["path"]
    page = (tmp_path / "docs" / "distillation.md").read_text()
    assert max(len(line) for line in page.splitlines() if not line.startswith(("|", "    "))) <= 120
    monkeypatch.setattr(distillation, "train_distill", lambda *_: pytest.fail("a finished arm was trained again"))
    monkeypatch.setattr(distillation, "scores", lambda *_: pytest.fail("a finished arm was measured again"))
    distillation.main(command)


@pytest.mark.parametrize(("steps", "warmed"), [(30, 30), (70, 40)])
def test_the_steps_of_an_arm_fill_its_minutes_a_third_at_most_with_the_warm_up(
    recipe, tmp_path, monkeypatch, steps, warmed
):
    import distillation

    clock = iter(range(0, 10_000, distillation.CLOCK))  # every step takes a second
    monkeypatch.setattr(distillation.time, "process_time", lambda: next(clock))
    warm = WarmConfig(steps=steps, optimizer=recipe.student)
    chosen = dataclasses.replace(recipe, warm=warm)
    arms = {name: distillation.arm(chosen, name, 1, tmp_path, 2.0) for name in distillation.ARMS}
    assert {name: each.run.steps for name, each in arms.items()} == {"path": 120, "matching": 120, "segments": 120}
    assert [each.warm.steps for each in arms.values()] == [120, warmed, warmed]
    assert arms["segments"].fake is None
    assert distillation.arm(chosen, "path", 1, tmp_path, 99.0).run.steps == 120  # decided once
