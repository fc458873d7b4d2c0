"""Edits are judged by pixels: the true picture is right, the one before is not, nor is that of another edit."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fourstroke.data.sample import SampleError
from fourstroke.evaluate.statistics import mean
from fourstroke.folder import ModelInfo
from fourstroke.pipeline import Output, Pipeline
from fourstroke.recipe import load_recipe
from fourstroke.world import WorldConfig, split_of
from fourstroke.world.captions.wordings import wordings_of
from fourstroke.world.dataset import WorldData
from fourstroke.world.edits import KINDS, EditConfig, Edits, allowed
from fourstroke.world.edits.dataset import EditData
from fourstroke.world.judging import edits as judging
from fourstroke.world.judging.edits import (
    EditPrompt,
    autoencoder_psnrs,
    draw_edits,
    evaluate_edits,
    held_out_edits,
    judge_edit,
    judge_edits,
    reword,
    summarise_edits,
    table,
)
from fourstroke.world.judging.judge import Detection, Judge
from fourstroke.world.judging.kinds import Editing

WORLD = WorldConfig(
    width=96, height=96, things=18, count_weights=(0.5, 0.42, 0.08), words=0.0, textures=0.25, lights=0.25, sizes=0.2
)
CONFIG = EditConfig(world=WORLD, kinds=tuple(float(kind not in ("words", "restyle")) for kind in KINDS))
JUDGE = Judge(WORLD)


@pytest.fixture(scope="module")
def prompts() -> list[EditPrompt]:
    return held_out_edits(Edits(CONFIG), 14)


def changed(prompts, pictures, judge=JUDGE) -> float:
    verdicts = judge_edits(judge, prompts, pictures)
    return sum(bool(v.changed) for v in verdicts) / len(verdicts)


def test_a_thing_that_stayed_where_it_was_has_not_moved():
    """However near its new place is."""
    world = load_recipe(WorldConfig, Path(__file__).parents[3] / "recipes" / "micro" / "world.yaml")
    moves = EditConfig(world=world, kinds=tuple(float(kind == "move") for kind in KINDS))
    drawn = held_out_edits(Edits(moves), 120)
    places = [[(thing.x, thing.y) for thing in (e.edit.before[0].objects[0], e.edit.after.objects[0])] for e in drawn]
    near = [e for e, (a, b) in zip(drawn, places, strict=True) if max(abs(a[0] - b[0]), abs(a[1] - b[1])) < 0.15]
    assert len(near) > 5
    judge = Judge(world)
    assert changed(near, [edit.before[0] for edit in near], judge) == 0
    assert changed(near, [edit.after for edit in near], judge) > 0.95


def test_edits_are_fixed_and_held_out(prompts):
    again = held_out_edits(Edits(CONFIG), 2, first=4)
    assert [p.instruction for p in again] == [p.instruction for p in prompts[4:6]]
    assert {split_of(prompt.edit.after) for prompt in prompts} == {"heldout"}
    assert {prompt.edit.kind for prompt in prompts} == set(KINDS) - {"words", "restyle"}
    short, rich = (held_out_edits(Edits(CONFIG), 1, captions)[0].instruction for captions in ("short", "rich"))
    assert len(rich) > len(short)


def test_held_out_wordings_ask_for_the_same_in_other_sentences(prompts):
    edits, captions = Edits(CONFIG), "short"
    other = held_out_edits(edits, 4, captions, wordings="heldout")
    trained = held_out_edits(edits, 4, captions)
    assert [p.edit for p in other] == [p.edit for p in trained]
    assert [p.instruction for p in reword(edits, trained, "heldout", captions)] == [p.instruction for p in other]
    for prompt in other:
        lines = map(re.escape, wordings_of("edits-en", prompt.edit.kind, "heldout"))
        assert any(re.fullmatch(re.sub(r"\\{\w+\\}", ".+", line), prompt.instruction) for line in lines)
    rich = reword(edits, prompts, "heldout")
    assert all(len(new.instruction) > 0.5 * len(old.instruction) for new, old in zip(rich, prompts, strict=True))
    assert all(new.instruction != old.instruction for new, old in zip(rich, prompts, strict=True))


def test_seeds_without_an_edit_are_passed_over(monkeypatch, prompts):
    edit = Edits.edit

    def lacking(self, seed, split="train"):
        if seed % 3 == 1:
            raise ValueError("found no edit")
        return edit(self, seed, split)

    monkeypatch.setattr(Edits, "edit", lacking)
    assert [p.seed for p in held_out_edits(Edits(CONFIG), 4)] == [0, 2, 3, 5]
    with pytest.raises(SampleError, match="found no edit"):
        EditData(edits=CONFIG).open("heldout").record(1)
    monkeypatch.setattr(Edits, "edit", lambda *_: lacking(None, 1))
    with pytest.raises(ValueError, match="found no edit"):
        held_out_edits(Edits(CONFIG), 2)


def test_the_true_picture_is_right(prompts):
    verdicts = judge_edits(JUDGE, prompts, [p.after for p in prompts])
    assert all(verdict.changed for verdict in verdicts)
    assert min(verdict.outside_psnr for verdict in verdicts) > 35


def test_the_picture_before_is_not(prompts):
    verdicts = judge_edits(JUDGE, prompts, [p.before[0] for p in prompts])
    assert sum(bool(v.changed) for v in verdicts) / len(verdicts) == 0
    assert {v.outside_psnr for v in verdicts} == {60.0}


def test_the_picture_of_another_edit_is_not(prompts):
    verdicts = judge_edits(JUDGE, prompts, [p.after for p in prompts[1:] + prompts[:1]])
    assert sum(bool(v.changed) for v in verdicts) <= 1
    assert sum(v.outside_psnr for v in verdicts) / len(verdicts) < 20


def test_what_covers_a_thing_has_not_removed_it(prompts):
    prompt = next(prompt for prompt in prompts if prompt.edit.kind == "remove")
    picture = prompt.after.copy()
    picture[allowed(prompt.edit) > 0] = 0, 0, 0, 255
    assert judge_edit(JUDGE, prompt, picture).changed is False


def test_a_thing_seen_in_letters_is_not_the_one_that_was_removed(monkeypatch):
    world = load_recipe(WorldConfig, Path(__file__).parents[3] / "recipes" / "micro" / "world.yaml")
    signs = dataclasses.replace(world, words=1.0, transparent=0.0)
    (prompt,) = held_out_edits(Edits(EditConfig(world=signs, kinds=tuple(float(k == "remove") for k in KINDS))), 1)
    before = prompt.edit.before[0]
    entry, sign = before.objects[prompt.edit.old[0]], before.sign
    at = {"letters": (sign.x + 0.4 * sign.width, sign.y), "place": (entry.x, entry.y), "elsewhere": (0.5, 0.55)}
    for name, (x, y) in at.items():
        seen = Detection(name=entry.name, kind=entry.kind, style=entry.style, colour=entry.colour, x=x, y=y, size=0.2,
                         score=0.6)  # fmt: skip
        monkeypatch.setattr(JUDGE, "find", lambda *_, seen=seen: ([seen], False))
        assert judge_edit(JUDGE, prompt, prompt.after).changed is (name == "letters"), name


def test_made_with_the_rest_ruined_is_not_right(prompts):
    prompt = next(p for p in prompts if p.edit.kind == "recolour" and (allowed(p.edit) == 0).mean() > 0.3)
    picture = prompt.after.copy()
    assert judge_edit(JUDGE, prompt, picture).right is True
    picture[allowed(prompt.edit) == 0, :3] += 80
    verdict = judge_edit(JUDGE, prompt, picture)
    assert (verdict.changed, verdict.right) == (True, False)
    row = summarise_edits([prompt, prompt], [verdict, judge_edit(JUDGE, prompt, prompt.after)])["all"]
    assert (row["changed"]["value"], row["right"]["value"]) == (1.0, 0.5)


def test_pictures_a_little_off_are_right(prompts):
    moved = [np.roll(p.after, (2, -2), (0, 1)) for p in prompts]
    assert changed(prompts, moved) > 0.9


def test_only_what_may_not_change_counts_outside(prompts):
    prompt = prompts[0]
    inside = allowed(prompt.edit) > 0
    picture = prompt.before[0].copy()
    picture[inside] = 0, 0, 0, 255
    assert judge_edit(JUDGE, prompt, picture).outside_psnr == 60.0
    picture = prompt.before[0].copy()
    picture[~inside, :3] = np.where(picture[~inside, :3] < 128, picture[~inside, :3] + 25, picture[~inside, :3] - 25)
    assert judge_edit(JUDGE, prompt, picture).outside_psnr == pytest.approx(20 * math.log10(255 / 25), abs=0.01)


def test_things_restyled_and_in_groups_are_judged():
    world = load_recipe(WorldConfig, Path(__file__).parents[3] / "recipes" / "micro" / "world.yaml")
    world = dataclasses.replace(world, words=0.0, things=24, transparent=0.0)
    config = EditConfig(world=world, kinds=(1, 1, 0, 0, 0, 0, 2, 0, 0, 0))
    prompts = held_out_edits(Edits(config), 8)
    judge = Judge(world)
    assert changed(prompts, [p.after for p in prompts], judge) > 0.9
    assert changed(prompts, [p.before[0] for p in prompts], judge) < 0.1


def test_words_are_read_where_that_is_possible(monkeypatch):
    world = dataclasses.replace(WORLD, words=1.0, width=256, height=256)
    config = EditConfig(world=world, kinds=tuple(float(kind == "words") for kind in KINDS))
    (prompt,) = held_out_edits(Edits(config), 1)
    word = prompt.edit.after.sign.word
    monkeypatch.setattr(judging, "can_read", lambda script: True)
    monkeypatch.setattr(judging, "read_line", lambda pixels, script: word)
    assert judge_edit(JUDGE, prompt, prompt.after).changed is True
    monkeypatch.setattr(judging, "read_line", lambda pixels, script: prompt.edit.before[0].sign.word)
    assert judge_edit(JUDGE, prompt, prompt.after).changed is False
    monkeypatch.setattr(judging, "can_read", lambda script: False)
    verdict = judge_edit(JUDGE, prompt, prompt.after)
    assert verdict.changed is None
    result = summarise_edits([prompt], [verdict])
    assert result["words"]["changed"] is None
    assert result["words"]["edits"] == 1


class Dimming(nn.Module):
    """An autoencoder that leaves every colour 16 levels darker."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, x):
        return x

    def decode(self, z):
        return torch.cat([z[:, :3] - 16 / 127.5, z[:, 3:]], 1)


class Truth(Pipeline):
    """Draws the picture that each instruction asks for, and keeps what it was given."""

    def __init__(self, prompts):
        self.transformer = self.autoencoder = Dimming()
        self.offload = "none"
        self.info = ModelInfo(name="truth", width=96, height=96, num_inference_steps=4)
        self.after = {prompt.instruction: prompt.after for prompt in prompts}
        self.given = []

    def __call__(self, prompt, **options):
        self.given.append(options["images"])
        return Output([Image.fromarray(self.after[prompt])], [prompt], [options["seed"]])


def test_an_evaluation_tells_of_every_kind(prompts, tmp_path):
    pipe = Truth(prompts[:6])
    data = EditData(edits=CONFIG)
    reworded = evaluate_edits(Truth(reword(Edits(CONFIG), prompts[:2], "heldout")), data=data, n=2, wordings="heldout")
    assert "2 held-out edits, held-out wordings" in table(reworded)
    result = evaluate_edits(pipe, data=data, n=6, sheet=tmp_path / "sheet.png")
    assert result["edits"]["all"]["changed"]["value"] == 1.0
    assert sum(row["edits"] for name, row in result["edits"].items() if name != "all") == 6
    assert [len(images) for images in pipe.given] == [len(p.before) for p in prompts[:6]]
    combined = next(prompt for prompt in prompts if prompt.edit.kind == "combine")
    draw_edits(lent := Truth([combined]), [combined])
    assert [len(images) for images in lent.given] == [2]
    json.dumps(result, allow_nan=False)
    assert autoencoder_psnrs(pipe, prompts, batch=4) == pytest.approx([20 * math.log10(255 / 16)] * 14, abs=0.5)
    assert result["autoencoder_psnr"]["value"] < result["outside_psnr"]["value"] - 10
    assert result["edits"]["all"]["autoencoder_psnr"] == result["autoencoder_psnr"]
    text = table(result)
    assert "6 held-out edits" in text
    assert text.splitlines()[2].endswith(f"{result['autoencoder_psnr']['value']:.1f} dB")
    assert {"all", *result["edits"]} <= {line.split()[0] for line in text.splitlines()[2:]}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * 192
    with pytest.raises(ValueError, match="no edits in data of kind world;"):
        evaluate_edits(pipe, data=WorldData())


def test_the_command_is_checked():
    with pytest.raises(ValueError, match="n"):
        Editing(n=0)
    assert Editing(n=4, first=2).kind == "edits"


def test_a_mean_has_an_interval_of_any_scale():
    found = mean([20.0, 30.0, 40.0] * 10)
    assert found.value == pytest.approx(30)
    assert 25 < found.low < 30 < found.high < 35
    assert found.count == 30
