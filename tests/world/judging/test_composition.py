"""Composition from any list of pictures: shares, tables, sheets, and the world that belongs to a checkpoint."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from fourstroke.evaluate.reading import compare
from fourstroke.folder import ModelInfo
from fourstroke.pipeline import Output, Pipeline
from fourstroke.world import World, WorldConfig, split_of
from fourstroke.world.captions import LANGUAGES, Language
from fourstroke.world.captions.saying import read_words
from fourstroke.world.dataset import WorldData
from fourstroke.world.find import find_world
from fourstroke.world.judging.composition import (
    ROWS,
    Prompt,
    evaluate_composition,
    held_out_prompts,
    judge_pictures,
    plain,
    states_background,
    summarise,
    table,
    verdict_sheet,
)
from fourstroke.world.judging.judge import Judge, Verdict

SHAPES_ONLY = WorldConfig(sprites=0)
WORLD = World(SHAPES_ONLY)


def test_prompts_are_fixed_held_out_and_half_rich() -> None:
    prompts = held_out_prompts(WORLD, 6)
    assert prompts == held_out_prompts(WORLD, 6)
    assert [prompt.rich for prompt in prompts] == [False, True] * 3
    assert prompts[0].scene == WORLD.scene(0, "heldout")
    assert not any(prompt.rich for prompt in held_out_prompts(WORLD, 4, "short"))
    with pytest.raises(ValueError, match="at least 1"):
        held_out_prompts(WORLD, 0)
    assert {split_of(prompt.scene) for prompt in prompts} == {"heldout"}
    assert held_out_prompts(WORLD, 2, first=4) == prompts[4:]
    known = held_out_prompts(WORLD, 4, split="train")
    assert {split_of(prompt.scene) for prompt in known} == {"train"}
    assert [prompt.rich for prompt in known] == [False, True] * 2


def test_a_background_counts_only_where_it_is_stated() -> None:
    for prompt in held_out_prompts(WORLD, 60, "short"):
        colours = prompt.scene.background.colours
        assert states_background(prompt) == any(colour in prompt.caption for colour in colours)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_background_is_stated_in_any_language(language: Language) -> None:
    world = World(WorldConfig(things=12, shapes=False, backgrounds=(1, 1, 1)))
    seen = set()
    for prompt in held_out_prompts(world, 80, language=language):
        background = prompt.scene.background
        words = read_words()["backgrounds"][background.colour]
        colour = {
            "en": background.colour,
            "es": words["es"].removeprefix("fondo "),
            "ru": words["ru"]["nominative"].split()[0][:-2],  # without its ending
            "zh": words["zh"].removesuffix("背景"),
        }[language]
        assert states_background(prompt) == (colour in prompt.caption), prompt.caption
        seen.add((background.kind, states_background(prompt)))
    assert len(seen) == 6


def test_ground_truth_makes_a_table_and_a_sheet() -> None:
    prompts = held_out_prompts(WORLD, 5)
    pictures = [WORLD.render(prompt.scene) for prompt in prompts]
    verdicts = judge_pictures(Judge(SHAPES_ONLY), prompts, pictures)
    result = {name: plain(value) for name, value in summarise(prompts, verdicts).items()} | {"all_right": None}
    assert set(result) == {*ROWS, "all_right"}
    json.dumps(result)
    head = {
        "model": "truth",
        "n": 5,
        "captions": "mixed",
        "split": "heldout",
        "steps": 4,
        "guidance": 1.0,
        "seconds_per_picture": 0.1,
    }
    text = table(result | head)
    assert "half short, half rich" in text
    assert "objects      100.0 %" in text
    assert "words" not in text
    assert verdict_sheet(prompts, pictures, verdicts).width > 4 * 192


def test_words_are_summed() -> None:
    (prompt,) = held_out_prompts(WORLD, 1)
    verdicts = [
        Verdict(objects=(), colours=(), relations=(), backgrounds=(), word=compare(text, "cat"))
        for text in ("cat", "car")
    ]
    shares = summarise([prompt, prompt], verdicts)
    exact, ned = shares["words_exact"], shares["words_ned"]
    assert exact is not None
    assert ned is not None
    assert exact.value == 0.5
    assert ned.value == pytest.approx(5 / 6)


class Truth(Pipeline):
    """Stands in for a pipeline: draws what was asked."""

    def __init__(self, prompts: list[Prompt]) -> None:
        self.scenes = {prompt.caption: prompt.scene for prompt in prompts}
        self.info = ModelInfo(name="truth", num_inference_steps=3)
        self.transformer = SimpleNamespace(config=SimpleNamespace(in_channels=64))  # type: ignore[assignment]
        self.noise: list[torch.Tensor] = []

    def __call__(self, prompts: list[str], **options: Any) -> Output:  # type: ignore[override]
        transparent = options["transparent"]
        self.noise += list(options["latents"])
        pictures = [WORLD.render(self.scenes[prompt]) for prompt in prompts]
        assert all((self.scenes[p].background.kind == "transparent") == transparent for p in prompts)
        return Output([Image.fromarray(p[..., : 3 + transparent]) for p in pictures], prompts, [0] * len(prompts))


def test_a_perfect_model_scores_full_marks_whatever_the_batch(tmp_path: Path) -> None:
    config = dataclasses.replace(SHAPES_ONLY, transparent=0.3)
    prompts = held_out_prompts(World(config), 7)
    results, noises = [], []
    for batch in (2, 7):
        pipe = Truth(prompts)
        result = evaluate_composition(
            pipe, data=WorldData(world=config), n=7, batch=batch, sheet=tmp_path / "sheet.png"
        )
        results.append({key: value for key, value in result.items() if key != "seconds_per_picture"})
        noises.append(torch.stack(sorted(pipe.noise, key=lambda row: row[0, 0].item())))
    assert results[0] == results[1]
    assert torch.equal(*noises)
    assert results[0]["steps"] == 3
    assert results[0]["all_right"]["value"] == 1.0
    assert results[0]["words_exact"] is None
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_prompts_and_pictures_must_pair_up() -> None:
    prompts: list[Prompt] = held_out_prompts(WORLD, 2)
    with pytest.raises(ValueError, match="2 prompts"):
        judge_pictures(Judge(SHAPES_ONLY), prompts, [])


def test_the_world_of_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--data"):
        find_world(None, tmp_path, "no-such-family")
    assert find_world(None, tmp_path, "micro").width == 128
    (tmp_path / "data.json").write_text(json.dumps({"kind": "world", "world": {"width": 96}}))
    assert find_world(None, tmp_path, "micro").width == 96
    with pytest.raises(ValueError, match="no recipe"):
        find_world(tmp_path / "missing.yaml", tmp_path, "micro")
    (tmp_path / "data.json").write_text(json.dumps({"kind": "world_pages"}))
    with pytest.raises(ValueError, match="no drawn world in data of kind world_pages"):
        find_world(None, tmp_path, "micro")
