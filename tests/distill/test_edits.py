"""Edits in the batch: what the pipeline would compute, in the share that was asked for, and refused when broken."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourstroke import Pipeline
from fourstroke.data.datasets.mixture import Mixture
from fourstroke.data.prompts import PromptLine, Prompts, PromptsData
from fourstroke.data.sample import Caption, Hints, Record, Sample
from fourstroke.distill.batch import Batches, is_edit
from fourstroke.distill.teachers import SpecialistConfig, Teacher
from fourstroke.dit import condition
from fourstroke.flow.sampler import guided, seeded_noise
from fourstroke.train.distill import DistillStage
from fourstroke.train.loop import Trainer

from .conftest import small_pipeline

LINES = [PromptLine("a cat to the left", "a cat"), PromptLine("a green dog", "a dog")]
WORDS = Prompts(Path("words.txt"), LINES)


def _picture(colour: tuple[int, ...], size: tuple[int, int]) -> Image.Image:
    """A picture with some structure, so that its latents differ from place to place."""
    image = Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour)
    image.paste((250, 240, 10), (0, 0, size[0] // 2, size[1] // 3))
    return image


@pytest.fixture
def edits(tmp_path):
    """Four edits of two shapes: one input image each of 64 x 64 pixels' area, square or wide, and one with two."""
    (tmp_path / "in").mkdir()
    _picture((200, 30, 40), (80, 80)).save(tmp_path / "in" / "a.png")
    _picture((20, 30, 140), (64, 64)).save(tmp_path / "in" / "b.jpg")
    _picture((20, 230, 140, 90), (200, 90)).save(tmp_path / "wide.png")
    rows = [
        {"prompt": "make it blue", "images": ["in/a.png"]},
        {"prompt": "make the square green, please", "images": ["in/b.jpg"]},
        {"prompt": "add a cat", "images": ["wide.png"]},
        {"prompt": "put the first into the second", "images": ["in/a.png", "wide.png"]},
    ]
    file = tmp_path / "edits.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return file


@pytest.fixture
def edit_recipe(recipe, edits):
    return dataclasses.replace(recipe, edits=PromptsData(path=edits), edit_share=0.5)


def _batches(pipe, count, edits, share):
    return Batches(pipe, WORDS, [(64, 64)], count, PromptsData(path=edits).open(), share)


def _names(batches, steps):
    """How often each dataset's prompts came."""
    made = (batches.make(step, torch.Generator().manual_seed(step)) for step in range(steps))
    return Counter(prompt.split()[0] for batch in made for prompt in batch.prompts)


def test_parts_of_a_mixture_are_drawn_from_by_their_weights_one_in_a_batch():
    few, many = Prompts(Path("few.txt"), LINES[:1]), Prompts(Path("many.txt"), [PromptLine("two", "two")] * 50)
    never = Prompts(Path("never.txt"), [PromptLine("never", "never")])
    batches = Batches(small_pipeline(), Mixture([few, many, never], [3.0, 1.0, 0.0]), [(64, 64)], 2)
    found = _names(batches, 60)
    assert set(found) == {"a", "two"}
    assert 72 < found["a"] < 108
    assert {count % 2 for count in found.values()} == {0}


def test_prompts_are_drawn_at_several_sizes_one_in_a_batch_and_edits_at_the_first(edits):
    pipe, sizes = small_pipeline(), [(64, 64), (96, 64), (96, 64)]
    batches, plain = (Batches(pipe, WORDS, some, 2, PromptsData(path=edits).open(), 0.5) for some in (sizes, sizes[:1]))
    made, at_one = (
        [each.make(step, torch.Generator().manual_seed(step)) for step in range(60)] for each in (batches, plain)
    )
    grids = Counter(batch.grid for batch in made if not batch.pictures)
    assert set(grids) == {pipe.info.grid(64, 64), pipe.info.grid(96, 64)}
    assert 12 < grids[pipe.info.grid(96, 64)] < 28
    assert [batch.grid for batch in made if batch.pictures] == [batch.grid for batch in at_one if batch.pictures]
    with pytest.raises(ValueError, match="100 is no side of a picture here"):
        Batches(pipe, WORDS, [(64, 64), (100, 64)], 2)


def test_edits_whose_shapes_are_known_are_not_read_beforehand(edits):
    class Known:
        name = "known"
        hints = Hints(shapes=[((64, 64), ((64, 64),)), ((64, 64), ((64, 64), (64, 64)))])

        def __init__(self):
            self.read = []

        def __len__(self):
            return 30_000

        def record(self, index):
            self.read.append(index)
            return Record(name=str(index), size=(64, 64), captions=(Caption("go on"),), inputs=((64, 64),))

        def sample(self, index):
            picture = np.zeros((64, 64, 4), np.uint8)
            return Sample(record=self.record(index), image=picture, inputs=(picture,) * (1 + index % 2))

    known, pipe = Known(), small_pipeline()
    batches = Batches(pipe, WORDS, [(64, 64)], 2, Mixture([known, PromptsData(path=edits).open()], [1.0, 0.0]), 1.0)
    assert not known.read
    made = [batches.make(step, torch.Generator().manual_seed(step)) for step in range(12)]
    assert {prompt for batch in made for prompt in batch.prompts} == {"go on"}
    assert {len(pictures) for batch in made for pictures in batch.pictures} == {1, 2}
    assert len(known.read) < 100


def test_edits_among_the_prompts_are_refused(edits):
    both = Mixture([WORDS, PromptsData(path=edits).open()], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"data holds edits \(edits\): give them as `edits`"):
        Batches(small_pipeline(), both, [(64, 64)], 2)


@pytest.mark.parametrize("causal", [True, False])
def test_an_edit_is_what_the_pipeline_makes_of_it(edits, causal):
    pipe = small_pipeline(causal)
    pipe.info = dataclasses.replace(pipe.info, width=64, height=64)
    batches, shapes, found = _batches(pipe, 3, edits, 1.0), set(), []
    opened = {row["prompt"]: row["images"] for row in map(json.loads, edits.read_text().split("\n")[:4])}
    for step in range(12):
        batch = batches.make(step, torch.Generator().manual_seed(step))
        shapes.add((batch.grid, batch.inputs.grids))
        tokens = batch.grid[0] * batch.grid[1]
        noise = seeded_noise(range(6), tokens, 64)
        with torch.no_grad():
            v = condition(pipe.transformer, batch.text, batch.grid, batch.inputs, 2)(noise, torch.ones(6))
        for row, prompt in enumerate(batch.prompts):
            images = [Image.open(edits.parent / name) for name in opened[prompt]]
            found.clear()  # the first step of the pipeline: the clean latent that it sees in the noise
            start = noise[2 * row : 2 * row + 2]
            pipe(
                prompt,
                images=images,
                num_images=2,
                latents=start,
                guidance_scale=1.0,
                on_step=lambda step, steps, x: found.append(x),
            )
            torch.testing.assert_close(start - v[2 * row : 2 * row + 2], found[0], atol=1e-5, rtol=1e-4)
    assert len(shapes) == 3


@pytest.mark.parametrize("causal", [True, False])
def test_the_teacher_of_an_edit_is_guided_as_the_pipeline_is(edits, causal):
    pipe = small_pipeline(causal)
    pipe.info = dataclasses.replace(pipe.info, width=64, height=64)
    batch = _batches(pipe, 1, edits, 1.0).make(0, torch.Generator().manual_seed(3))
    noise, found = seeded_noise([1], batch.grid[0] * batch.grid[1], 64), []
    velocity = Teacher(pipe, 3.0).velocity(batch.prompts, batch.grid, 1, None, batch.pictures, batch.inputs)
    pipe(
        batch.prompts[0],
        images=batch.pictures[0],
        latents=noise,
        guidance_scale=3.0,
        on_step=lambda step, steps, x: found.append(x),
    )
    torch.testing.assert_close(noise - velocity(noise, torch.ones(1)), found[0], atol=1e-5, rtol=1e-4)
    words = condition(pipe.transformer, batch.text, batch.grid, batch.inputs)
    blind = condition(pipe.transformer, pipe.text_encoder.encode([""]), batch.grid)
    assert not torch.allclose(
        velocity(noise, torch.ones(1)), guided(words, blind, 3.0)(noise, torch.ones(1)), atol=1e-4
    )


def test_edits_may_have_a_guidance_of_their_own(edits, edit_recipe):
    stage = DistillStage(dataclasses.replace(edit_recipe, guidance=3.0, edit_guidance=1.5))
    pipe, turns = stage.base.pipe, {}
    for step in range(2):
        batch = stage.batches.make(step, torch.Generator().manual_seed(step))
        noise, t = seeded_noise(range(6), batch.grid[0] * batch.grid[1], 64), torch.ones(6)
        found, pictures = stage.teachers(batch, 0)(noise, t), batch.pictures
        for guidance in (1.5, 3.0):
            alone = Teacher(pipe, guidance).velocity(batch.prompts, batch.grid, 2, batch.text, pictures, batch.inputs)
            turns[pictures is not None, guidance] = torch.allclose(found, alone(noise, t), atol=1e-5)
    assert turns == {(False, 1.5): False, (False, 3.0): True, (True, 1.5): True, (True, 3.0): False}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.7, 1.0])
def test_the_ratio_is_kept_in_every_stretch_of_steps(share):
    turns = [is_edit(step, share) for step in range(1000)]
    for start, length in ((0, 1000), (17, 10), (500, 100), (333, 33)):
        assert abs(sum(turns[start : start + length]) - share * length) <= 1


def test_short_and_rich_captions_take_turns_between_edits(edits):
    pipe = small_pipeline()
    batches = _batches(pipe, 1, edits, 0.5)
    made = [batches.make(step, torch.Generator().manual_seed(step)) for step in range(8)]
    assert [batch.inputs is not None for batch in made] == [False, True] * 4
    plain = [batch.prompts[0] for batch in made if batch.inputs is None]
    assert [prompt in {line.short for line in LINES} for prompt in plain] == [True, False] * 2
    assert {batch.categories[0] for batch in made} == {"General", "Edit"}


@pytest.mark.parametrize("rank", [0, 2])
def test_resume_is_exact_with_edits(edit_recipe, rank):
    recipe = dataclasses.replace(edit_recipe, lora_rank=rank)

    def trainer() -> Trainer:
        torch.manual_seed(0)
        return Trainer(DistillStage(recipe), recipe.run, recipe.optimizers, {})

    straight, first, second = trainer(), trainer(), trainer()
    for _ in range(4):
        straight.update()
    for _ in range(2):
        first.update()
    first.save(recipe.run.out / "state")
    second.load(recipe.run.out / "state")
    for _ in range(2):
        second.update()
    for key, model in straight.stage.models.items():
        other = second.stage.models[key].state_dict()
        assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("causal", "rank"), [(True, 0), (False, 0), (True, 2), (False, 2)])
def test_gradients_flow_through_edits(edit_recipe, causal, rank, tmp_path):
    small_pipeline(causal).save_pretrained(tmp_path / "teacher")
    changes = {"teacher": str(tmp_path / "teacher"), "edit_share": 1.0, "lora_rank": rank}
    stage = DistillStage(dataclasses.replace(edit_recipe, **changes))
    seen = []
    for name, scalars in stage.losses(0):
        scalars["loss"].backward()
        seen.append(name)
        gradients = {n: p.grad for n, p in stage.models[name].named_parameters()}
        if not rank:
            assert not [n for n, g in gradients.items() if g is None]
        assert any(g is not None and g.abs().sum() > 0 for g in gradients.values())
    assert seen == ["fake", "fake", "student"]
    frozen = stage.base.pipe
    parts = [frozen.text_encoder, frozen.autoencoder] + ([] if rank else [frozen.transformer])
    assert all(p.grad is None for part in parts for p in part.parameters())


def test_a_specialist_may_teach_edits_alone(edit_recipe, teacher_folder):
    specialist = SpecialistConfig(model=teacher_folder, shares=(1.0,) * 4, categories=("Edit",), guidance=1.0)
    stage = DistillStage(dataclasses.replace(edit_recipe, specialists=(specialist,)))
    plain = Pipeline.from_pretrained(teacher_folder)
    for step, guidance in ((0, 2.0), (1, 1.0)):
        batch = stage.batches.make(step, torch.Generator().manual_seed(step))
        x = seeded_noise(range(6), batch.grid[0] * batch.grid[1], 64)
        seen = batch.prompts, batch.grid, 2, None, batch.pictures, batch.inputs
        expected = Teacher(plain, guidance).velocity(*seen)(x, torch.full((6,), 0.5))
        torch.testing.assert_close(stage.teachers(batch, 0)(x, torch.full((6,), 0.5)), expected)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "make it blue", "images": "in/a.png"}', "line 2 names its input images otherwise"),
        ('{"prompt": " ", "images": ["in/a.png"]}', "line 2 has neither 'rich' nor 'prompt'"),
        ('{"prompt": "make it', "line 2 is not JSON"),
    ],
)
def test_a_broken_row_is_named_before_the_run_starts(edit_recipe, row, message):
    file = edit_recipe.edits.path
    file.write_text('{"prompt": "fine", "images": ["in/a.png"]}\n' + row)
    with pytest.raises(ValueError, match=message) as error:
        DistillStage(edit_recipe)
    assert "\n" not in str(error.value)
    assert "edits.jsonl" in str(error.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"prompt": "make it blue", "images": ["gone.png"]}', "gone.png: cannot be read"),
        ('{"prompt": "make it blue", "images": ["none.png"]}', "none.png: "),
        ('{"prompt": "make it blue", "images": []}', "needs an input image"),
        ("make it blue", "needs an input image"),
        (json.dumps({"prompt": "blue " * 2000, "images": ["in/a.png"]}), "tokens and the limit"),
        ('{"prompt": "<|image_pad|>", "images": ["in/a.png"]}', "stands for input images"),
    ],
)
def test_an_edit_that_cannot_be_used_is_skipped_and_named(edits, row, reason, capsys):
    (edits.parent / "none.png").write_bytes(b"no picture")
    edits.write_text(row + '\n{"prompt": "fine", "images": ["in/a.png"]}')
    batches = _batches(small_pipeline(), 2, edits, 1.0)
    said = capsys.readouterr().out
    assert said.startswith("skipped edits, sample 0: ")
    assert reason in said
    for step in range(3):
        assert batches.make(step, torch.Generator().manual_seed(step)).prompts == ["fine", "fine"]
    edits.write_text(row)
    with pytest.raises(ValueError, match="no edit that can be used"):
        _batches(small_pipeline(), 2, edits, 1.0)


def test_a_file_that_goes_amiss_while_the_run_goes_on_does_not_end_it(edits, capsys):
    edits.write_text("\n".join(edits.read_text().splitlines()[:2]))
    batches = _batches(small_pipeline(), 4, edits, 1.0)
    assert set(batches.make(0, torch.Generator().manual_seed(0)).prompts) == set(
        batches_prompts := ["make it blue", "make the square green, please"]
    )
    picture = edits.parent / "in" / "a.png"
    picture.write_bytes(picture.read_bytes()[:60])
    assert set(batches.make(0, torch.Generator().manual_seed(0)).prompts) == {batches_prompts[1]}
    assert capsys.readouterr().out.count("skipped") == 1  # named once
    (edits.parent / "in" / "b.jpg").unlink()
    with pytest.raises(ValueError, match="in a row cannot be used"):
        batches.make(0, torch.Generator().manual_seed(0))


def test_edits_that_are_not_there_or_never_asked_for_are_refused(edit_recipe, tmp_path):
    with pytest.raises(ValueError, match="cannot read the prompts"):
        DistillStage(dataclasses.replace(edit_recipe, edits=PromptsData(path=tmp_path / "none.jsonl")))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no prompt"):
        DistillStage(dataclasses.replace(edit_recipe, edits=PromptsData(path=tmp_path / "empty.jsonl")))
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="edit_share"):
            dataclasses.replace(edit_recipe, edit_share=share)
