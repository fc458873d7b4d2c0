"""The transformer trains on pictures and edits of anybody, whole or by an adapter, and goes on as if never stopped."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fourstroke import Pipeline
from fourstroke.data.buckets import BucketConfig
from fourstroke.data.datasets.edits import EditsData
from fourstroke.data.datasets.folder import FolderData
from fourstroke.data.datasets.mixture import MixtureData, Part
from fourstroke.data.encoding import PrepareRecipe
from fourstroke.data.loader import LoaderConfig
from fourstroke.data.prepare import prepare
from fourstroke.files import write_json
from fourstroke.flow.schedule import ScheduleConfig, shift_factor
from fourstroke.folder import ModelInfo, read_info
from fourstroke.lora import LoraConfig
from fourstroke.recipe import RecipeError
from fourstroke.train.dit import DitStage, train_dit
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.pictures import draw_sheet
from fourstroke.train.repa import SemanticsConfig
from fourstroke.train.start import Start, guidance_note, settle_info
from fourstroke.world.labels import WorldLabels

from ..conftest import build_tiny_pipeline
from .conftest import WORLD

SIZES = BucketConfig(areas=(32, 64), ratios=((1, 1), (2, 1)), enlarge=4.0)


@pytest.fixture
def folder(tmp_path):
    """Pictures of several shapes with captions, two of them held out by hash, and edits of them."""
    rng = np.random.default_rng(0)
    place = tmp_path / "pictures"
    place.mkdir()
    for number in range(24):
        size = ((64, 64), (128, 64), (70, 90))[number % 3]
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        Image.new("RGB", size, colour).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(f"a red circle number {number}")
    rows = [
        f'{{"source": "{n}.png", "target": "{n + 3}.png", "instruction": "make it a green square {n}"}}'
        for n in range(20)
    ]
    (place / "edits.jsonl").write_text("\n".join(rows))
    return place


@pytest.fixture
def base(tmp_path):
    """A tiny checkpoint on disk."""
    build_tiny_pipeline().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def own(folder, base, tmp_path, dit_recipe):
    """A recipe that goes on from the checkpoint with pictures and edits, in buckets."""
    parts = (
        Part(data=FolderData(path=folder, held_out=0.2)),
        Part(data=EditsData(path=folder / "edits.jsonl", held_out=0.2)),
    )
    return dataclasses.replace(
        dit_recipe,
        data=MixtureData(parts=parts),
        buckets=SIZES,
        loader=LoaderConfig(workers=0),
        held_out=8,
        init=str(base),
        model=None,
        text=None,
        vae=None,
        info=None,
        freeze_text=True,
        run=RunConfig(out=tmp_path / "own", steps=6, log_seconds=0),
        optimizer=OptimizerConfig(kind="adamw", lr=1e-3, warmup=2),
        batch_size=2,
    )


def _weights(trainer):
    live = {f"{k}.{n}": v.clone() for k, m in trainer.stage.models.items() for n, v in m.state_dict().items()}
    return live | {f"average.{n}": v.clone() for n, v in trainer.average.weights.items()}


def _trainer(recipe):
    return Trainer(DitStage(recipe), recipe.run, recipe.optimizer, {})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, dropout=0.2)])
def test_interrupted_and_resumed_equals_uninterrupted(own, workers, lora):
    own = dataclasses.replace(own, loader=LoaderConfig(workers=workers), lora=lora)
    straight, first, second = (_trainer(own) for _ in range(3))
    for _ in range(6):
        straight.update()
    for _ in range(3):
        first.update()
    first.save(own.run.out / "state")
    second.load(own.run.out / "state")
    for _ in range(3):
        second.update()
    expected, found = _weights(straight), _weights(second)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_micro_batches_make_the_step_of_their_whole_batch(own):
    whole = _trainer(dataclasses.replace(own, batch_size=4))
    parts = _trainer(dataclasses.replace(own, run=dataclasses.replace(own.run, accumulate=2)))
    for _ in range(3):
        whole.update()
        parts.update()
    expected, found = _weights(whole), _weights(parts)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5, msg=key)


def test_a_run_on_the_world_ends_in_a_pipeline_that_draws(dit_recipe):
    pipe = Pipeline.from_pretrained(train_dit(dit_recipe))
    assert pipe("a red circle", seed=3).images[0].size == (32, 32)
    assert pipe.info.name == "tiny"
    assert list((dit_recipe.run.out / "samples").glob("step-*.png"))


def test_a_run_on_own_pictures_keeps_what_was_not_trained(own, base):
    folder = train_dit(own)
    assert read_info(folder) == read_info(base)
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (folder / part).read_bytes() == (base / part).read_bytes()
    assert Pipeline.from_pretrained(folder)("a red circle", seed=3).images[0].size == (64, 32)


def test_the_held_out_loss_is_a_mean_over_samples_and_the_same_at_every_look(own):
    stage = DitStage(own)
    moved = torch.get_rng_state()
    first = stage.held_out_scores()
    assert first.keys() == {"heldout", "heldout_edit"}
    assert torch.equal(torch.get_rng_state(), moved)
    assert stage.held_out_scores() == first
    stage.pictures.held_out = [_rows(2), _rows(1)]
    stage._error = lambda batch, t, noise: (torch.full((len(t),), 1.0 if len(t) > 2 else 4.0), None)
    assert stage.held_out_scores() == {"heldout": pytest.approx((1 + 1 + 4) / 3)}


def _rows(count):
    return SimpleNamespace(records=[None] * count, size=(32, 32), input_sizes=())


def test_a_sheet_says_how_far_it_is_and_has_the_same_seeds_at_every_look(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fourstroke.train.pictures.pictures", lambda batch: [])
    drawn = []

    class Pipe:
        info = SimpleNamespace(num_inference_steps=4)

        def __call__(self, prompt, *, seed, **_):
            drawn.append((prompt, seed))
            return SimpleNamespace(images=[Image.new("RGB", (32, 32))])

    batch = SimpleNamespace(prompts=["a cat", "", "a frog", "a car"], input_sizes=(), size=(32, 32))
    draw_sheet(Pipe(), [batch, batch], 4, tmp_path / "sheet.png")
    assert drawn == [("a cat", 3), ("a frog", 2), ("a car", 1), ("a cat", 0)]
    assert capsys.readouterr().err.splitlines()[-1].startswith("drawing held-out prompts: 4/4 pictures")
    assert (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("edits", [False, True])
def test_the_transformer_overfits_a_batch(own, edits):
    stage = DitStage(dataclasses.replace(own, drop_prompt=0.0, noise_samples=4))
    step = next(step for step in range(50) if bool(stage.pictures.batch(step).input_sizes) is edits)
    batch = stage.pictures.batch(step)
    stage.pictures.batch = lambda step: batch
    config = OptimizerConfig(lr=3e-3, warmup=2)
    trainer = Trainer(stage, dataclasses.replace(own.run, steps=10_000), config, {})
    losses = [trainer.update()["loss"].item() for _ in range(60)]
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])


def test_edits_reach_the_prefix(own):
    """What the input image shows changes the velocity, and gradients come back through its place in the prefix."""
    stage = DitStage(dataclasses.replace(own, drop_prompt=0.0))
    step = next(step for step in range(50) if stage.pictures.batch(step).input_sizes)
    batch = stage.pictures.batch(step)
    stage.pictures.batch = lambda step: batch
    for p in stage.transformer.parameters():
        torch.nn.init.normal_(p, std=0.1)  # a new model's last layer is zero
    seen = []
    images = stage.encoder.images
    stage.encoder.images = lambda batch: seen.append(images(batch)) or _open(seen[-1])
    stage.loss(0)["loss"].backward()
    assert seen[-1].tokens.grad.abs().amin((0, 2)).gt(0).all()
    other = dataclasses.replace(batch, inputs=[[255 - image for image in row] for row in batch.inputs])
    with torch.no_grad():
        before = stage.loss(0)["loss"]
        stage.pictures.batch = lambda step: other
        assert abs(stage.loss(0)["loss"] - before) > 1e-5


def _open(images):
    images.tokens.requires_grad_()
    return images


@pytest.mark.parametrize("features", [True, False])
def test_a_prepared_cache_trains_as_what_is_encoded_without_a_frozen_model(own, tmp_path, features):
    recipe = dataclasses.replace(own, drop_prompt=0.3, cache=tmp_path / "cache", cache_features=features)
    with pytest.raises(ValueError, match="fourstroke data prepare"):
        DitStage(recipe)
    names = {field.name for field in dataclasses.fields(PrepareRecipe)} & {f.name for f in dataclasses.fields(recipe)}
    prepare(PrepareRecipe(**{name: getattr(recipe, name) for name in names}), ("train", "heldout"))
    plain, cached = DitStage(dataclasses.replace(recipe, cache=None)), DitStage(recipe)
    assert (recipe.cache / "features").exists() is features
    cached.autoencoder._load = _refuse
    if features:
        cached.text_encoder._load = _refuse
    for step in range(8):
        torch.testing.assert_close(cached.loss(step)["loss"], plain.loss(step)["loss"], rtol=2e-3, atol=1e-4)
    found, expected = cached.held_out_scores(), plain.held_out_scores()
    assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("edits", [False, True])
def test_what_caches_hold_trains_as_what_is_encoded(own, edits):
    stage = DitStage(own)
    step = next(step for step in range(50) if bool(stage.pictures.batch(step).input_sizes) is edits)
    batch = stage.pictures.batch(step)
    text, images = stage.encoder.text(batch), stage.encoder.images(batch)
    kept = dataclasses.replace(
        batch,
        images=None,
        inputs=(),
        latents=stage.encoder.latents(batch),
        input_latents=images and images.tokens,
        features=[row[:length] for row, length in zip(text.features, text.lengths, strict=True)],
    )
    found = []
    for one in (batch, kept):
        stage.pictures.batch = lambda step, one=one: one
        stage.encoder.autoencoder = stage.encoder.text_encoder = _refuse if one is kept else stage.autoencoder
        stage.encoder.text_encoder = _refuse if one is kept else stage.text_encoder
        loss = stage.loss(step)["loss"]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in stage.transformer.parameters())])
        stage.transformer.zero_grad()
    torch.testing.assert_close(*found)


def _refuse(keep=True):
    raise AssertionError("a frozen model was asked for, and the caches have everything")


def test_training_changes_every_part_and_the_frozen_one_stays(dit_recipe):
    stage = DitStage(dit_recipe)
    before = {k: v.clone() for k, v in stage.transformer.state_dict().items()}
    words = stage.text_encoder().model.model.language_model.embed_tokens.weight.clone()
    latent = {k: v.clone() for k, v in stage.autoencoder().state_dict().items()}
    trainer = Trainer(stage, dit_recipe.run, dit_recipe.optimizer, {})
    for _ in range(6):
        trainer.update()
    assert not [k for k, v in stage.transformer.state_dict().items() if torch.equal(v, before[k])]
    assert not torch.equal(words, stage.text_encoder().model.model.language_model.embed_tokens.weight)
    assert all(torch.equal(v, latent[k]) for k, v in stage.autoencoder().state_dict().items())
    assert all(p.grad is None for p in stage.autoencoder().parameters())


def test_frozen_models_are_let_go_unless_training_needs_them(own):
    stage = DitStage(own)
    stage.autoencoder(keep=False)
    stage.autoencoder.release()
    assert stage.autoencoder._model is None
    stage.loss(0)
    kept = stage.autoencoder()
    stage.autoencoder.release()
    assert stage.autoencoder() is kept


def test_a_share_of_prompts_is_dropped_and_times_have_their_mean_and_deviation(dit_recipe, monkeypatch):
    """What the transformer is asked: empty prompts in `drop_prompt` of the rows, logits of t as the recipe says."""
    stage = DitStage(dataclasses.replace(dit_recipe, drop_prompt=0.25, time_mean=-2.0, time_std=0.5))
    prompts, times = [], []
    error = stage._error
    monkeypatch.setattr(
        stage, "_error", lambda b, t, *rest: (prompts.extend(b.prompts), times.append(t), error(b, t, *rest))[2]
    )
    with torch.no_grad():
        for step in range(128):
            stage.loss(step)
    dropped = sum(not prompt for prompt in prompts) / len(prompts)
    assert 0.17 < dropped < 0.33  # of 512, four deviations
    logits = torch.cat(times).logit()
    assert logits.mean() == pytest.approx(-2.0, abs=0.1)
    assert logits.std() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("size", [(32, 32), (128, 64)])
def test_times_are_shifted_by_the_size_of_the_picture(own, size):
    stages = [DitStage(dataclasses.replace(own, time_shift=shift)) for shift in (False, True)]
    batch = SimpleNamespace(records=[None] * 4, size=size)
    plain, shifted = (stage._times(batch, 2, torch.Generator().manual_seed(0)) for stage in stages)
    factor = shift_factor(math.prod(size) // 256, ScheduleConfig())
    torch.testing.assert_close(shifted, factor * plain / (1 + (factor - 1) * plain))


def test_every_row_has_noise_of_its_own_and_every_step(dit_recipe, monkeypatch):
    seen = []
    stage = DitStage(dit_recipe)
    condition = stage._velocity
    monkeypatch.setattr(stage, "_velocity", lambda x, *rest: (seen.append(x.flatten(1)), condition(x, *rest))[1])
    with torch.no_grad():
        for step in (0, 1, 0):
            stage.loss(step)
    assert torch.equal(seen[0], seen[2])
    rows = torch.cat(seen[:2])
    assert (torch.corrcoef(rows) - torch.eye(len(rows))).abs().max() < 0.9


@pytest.mark.parametrize("every", [1, 2])
def test_recomputed_blocks_give_the_same_gradients(own, every):
    grads = []
    for checkpointing in (0, every):
        stage = DitStage(dataclasses.replace(own, gradient_checkpointing=checkpointing))
        stage.loss(0)["loss"].backward()
        grads.append([p.grad for p in stage.transformer.parameters()])
    torch.testing.assert_close(*grads)


def test_bfloat16_multiplies_and_float32_keeps(own, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    losses = []
    for bf16 in (False, True):
        run = dataclasses.replace(own.run, precision="bf16" if bf16 else "fp32")
        trainer = _trainer(dataclasses.replace(own, run=run))
        losses.append(trainer.update()["loss"].item())
        assert all(p.dtype == torch.float32 for p in trainer.stage.transformer.parameters())
        assert trainer.stage.text_encoder().model.dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_compiled_blocks_train_with_semantics(dit_recipe):
    recipe = dataclasses.replace(
        dit_recipe, semantics=SemanticsConfig(labels=WorldLabels(world=WORLD), block=1), drop_prompt=0.0
    )
    plain, compiled = (_trainer(dataclasses.replace(recipe, compile=on)) for on in (False, True))
    for _ in range(2):
        expected, found = plain.update(), compiled.update()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_hidden_states_learn_to_name_what_the_scene_shows(dit_recipe):
    semantics = SemanticsConfig(labels=WorldLabels(world=WORLD), block=2, weight=1.0)
    recipe = dataclasses.replace(dit_recipe, drop_prompt=0.0, semantics=semantics)
    stage = DitStage(recipe)
    batch = stage.pictures.batch(0)
    stage.pictures.batch = lambda step: batch  # always the same pictures
    trainer = Trainer(stage, dataclasses.replace(recipe.run, steps=10_000), recipe.optimizer, {})
    updates = [trainer.update() for _ in range(60)]
    named = [(update["things"] + update["colours"]).item() for update in updates]
    assert sum(named[-10:]) < 0.5 * sum(named[:10])
    assert "semantics" not in {p.name for p in (train_dit(recipe)).iterdir()}  # the head is not part of the model


def test_a_new_head_first_learns_alone(dit_recipe):
    """Until then the transformer learns what it would without one, and then something else; the head always learns."""
    labels = WorldLabels(world=WORLD)

    def gradients(step, semantics):
        stage = DitStage(dataclasses.replace(dit_recipe, semantics=semantics, drop_prompt=0.0))
        stage.loss(step)["loss"].backward()
        head = 0.0 if semantics is None else float(stage.semantics.head.weight.grad.abs().max())
        return stage.transformer.transformer_blocks[0].attn.to_q.weight.grad, head

    for step, same in ((1, True), (2, False)):
        plain, _ = gradients(step, None)
        named, head = gradients(step, SemanticsConfig(labels=labels, block=2, alone=2))
        assert head > 0
        assert torch.allclose(plain, named, rtol=1e-4, atol=1e-7) == same


def test_a_head_asks_nothing_of_dropped_prompts_and_of_cropped_scenes(dit_recipe):
    semantics = SemanticsConfig(labels=WorldLabels(world=WORLD), block=1)
    stage = DitStage(dataclasses.replace(dit_recipe, semantics=semantics, drop_prompt=0.0))
    records = stage.pictures.batch(0).records
    hidden = torch.randn(8, 4, stage.transformer.config.width)

    def losses(records, dropped):
        return sum(stage.semantics.losses(hidden, records, (32, 32), dropped, 2).values()).item()

    assert losses(records, [False] * 4) > 0
    assert losses(records, [True] * 4) == 0
    assert losses([dataclasses.replace(record, size=(64, 32)) for record in records], [False] * 4) == 0


def test_semantics_of_a_block_that_is_not_there_is_refused(dit_recipe):
    semantics = SemanticsConfig(labels=WorldLabels(world=WORLD), block=3)
    with pytest.raises(ValueError, match="there are 2 blocks"):
        DitStage(dataclasses.replace(dit_recipe, semantics=semantics))


def test_an_adapter_is_all_that_moves_and_draws_again_when_it_is_loaded(own, base):
    recipe = dataclasses.replace(
        own, lora=LoraConfig(rank=2, alpha=4), optimizer=dataclasses.replace(own.optimizer, ema=0.0, cooldown=0.0)
    )
    trainer = _trainer(recipe)
    stage = trainer.stage
    before = {k: v.clone() for k, v in stage.transformer.state_dict().items()}
    for _ in range(2):  # B is zero at first, and then so is the gradient of A
        trainer.update()
    stage.loss(2)["loss"].backward()
    grads = [p.grad for p in stage.models["transformer"].parameters()]
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads)
    after = stage.transformer.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {k for k in before if "lora_" in k}
    stage.transformer.eval()
    stage.export(recipe.run.out / "model")
    found = Pipeline.from_pretrained(recipe.run.out / "model")("a red circle", seed=1).images[0]
    expected = stage.pipeline()("a red circle", seed=1).images[0]
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 1
    plain = Pipeline.from_pretrained(base)("a red circle", seed=1).images[0]
    assert not np.array_equal(np.asarray(plain), np.asarray(found))


def test_rank_zero_trains_all_weights(own):
    assert dataclasses.replace(own, lora=LoraConfig(rank=0)).lora is None


def test_a_student_is_trained_only_by_whoever_says_how_it_is_to_draw(own, base):
    info = read_info(base)
    index = base / "model_index.json"
    write_json(index, {**_index(index), "sample_sigmas": [1.0, 0.5]})
    with pytest.raises(RecipeError, match="is a student of 2 strokes"):
        DitStage(own)
    stage = DitStage(dataclasses.replace(own, info=dataclasses.replace(info, num_inference_steps=7)))
    assert (stage.info.own_steps, stage.info.sample_sigmas) == (7, None)


def _index(file):
    import json

    return json.loads(file.read_text())


def test_a_base_that_needs_no_guidance_is_told(own, base, capsys):
    start = Start(str(base), None, None)
    info = settle_info(None, start)
    assert info.guidance_scale == 1
    note = guidance_note(start, info, 0.1)
    assert note is not None
    assert "drop_prompt above 0 (it is 0.1)" in note
    assert "\n" not in note
    assert guidance_note(start, dataclasses.replace(info, guidance_scale=2.0), 0.1) is None
    DitStage(own)
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": None, "model": None}, "there is no transformer"),
        ({"init": None}, "there is no transformer"),
        ({"batch_sizes": (2, 2, 2)}, "one for each of 2 areas"),
        ({"lora": LoraConfig(rank=2), "freeze_text": False}, "leave freeze_text true"),
        ({"info": ModelInfo(factor=8)}, "leave it out"),
    ],
)
def test_recipes_that_cannot_be_are_refused(own, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(own, **change)


def test_areas_have_batches_of_their_own_size(own):
    squares = dataclasses.replace(SIZES, ratios=((1, 1),))
    stage = DitStage(dataclasses.replace(own, buckets=squares, batch_sizes=(4, 1)))
    seen = {(batch.size, len(batch.records)) for batch in map(stage.pictures.batch, range(30))}
    assert seen == {((32, 32), 4), ((64, 64), 1)}


def test_a_run_says_what_it_reads_and_skips_and_no_caption_ends_it(own, folder, capsys):
    captions = {"0": "purple elephant " * 2500, "1": "a <|image_pad|> pad", "2": "", "3": "Käse".encode("latin-1")}
    for name, caption in captions.items():
        (folder / f"{name}.txt").write_bytes(caption if isinstance(caption, bytes) else caption.encode())
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:100])  # its header is whole
    run = dataclasses.replace(own.run, steps=3)
    train_dit(dataclasses.replace(own, data=FolderData(path=folder), run=run, batch_size=6, held_out=0))
    said = capsys.readouterr().out
    assert "train: 21 samples (1 without a caption: 2.png), 3 skipped: caption 3 (" in said
    assert f"all that is skipped: {run.out / 'data.json'}" in said
    report = json.loads((run.out / "data.json").read_text())["train"]
    assert report["uncaptioned"] == ["2.png"]
    assert report["skipped"]["caption"]["0.png"].endswith("tokens, more than 1000: shorten it")
    assert "which stands for input images" in report["skipped"]["caption"]["1.png"]
    assert report["skipped"]["caption"]["3.png"].endswith("3.txt is not UTF-8, from byte 2 on: save it as UTF-8")
    assert list(report["skipped"]["broken"]) == ["4.png"]  # found under way


def test_data_that_holds_nothing_out_is_told_how_to_train_without(own, folder):
    recipe = dataclasses.replace(own, data=FolderData(path=folder, held_out=0.001))
    with pytest.raises(
        ValueError, match=r"^held-out samples: .*raise held_out to .*; or train without any, held_out=0$"
    ):
        DitStage(recipe)
