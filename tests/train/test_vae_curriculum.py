"""Phases of the autoencoder's curriculum: what each step sees, resumption inside and between them, and refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourstroke.data.datasets.folder import FolderData
from fourstroke.data.datasets.mixture import MixtureData, Part
from fourstroke.data.loader import LoaderConfig
from fourstroke.data.sample import Batch
from fourstroke.recipe import RecipeError, build, load_recipe
from fourstroke.train.curriculum import Phase
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.vae import VaeRecipe, VaeStage, balance, train_vae
from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.vae.features import SemanticConfig, SemanticNetwork
from fourstroke.vae.losses import l1
from fourstroke.vae.objective import DEFAULT_LOSSES
from fourstroke.vae.objective.alignment import AlignmentConfig
from fourstroke.vae.objective.anchor import AnchorConfig
from fourstroke.vae.objective.pictures import L1, Squared
from fourstroke.world import WorldConfig
from fourstroke.world.dataset import SmallTextData, WorldData

RECIPES = Path(__file__).parents[2] / "recipes"
WORLD = WorldConfig(width=32, height=32, sprites=0)  # shapes alone need no fonts
SMALL = AutoencoderConfig(
    base_dim=4,
    decoder_base_dim=4,
    z_dim=8,
    dim_mult=(1, 1, 2, 2, 2),
    num_res_blocks=1,
    temperal_downsample=(False,) * 4,
)


@pytest.fixture
def recipe(tmp_path: Path) -> VaeRecipe:
    return VaeRecipe(
        data=WorldData(world=WORLD),
        sizes=((32, 32),),
        loader=LoaderConfig(workers=0),
        model=SMALL,
        run=RunConfig(out=tmp_path / "vae", steps=10, log_seconds=0),
        optimizer=OptimizerConfig(lr=2e-3, warmup=2),
        batch_size=4,
        latent_noise=0.1,
        statistics=32,
        phases=(
            Phase(until=0.4, batch_size=6, sizes=((16, 16),)),
            Phase(until=1.0, sizes=((48, 32), (32, 48), (64, 32)), batch_size=3),
        ),
    )


def shapes(stage: VaeStage, steps: range) -> list[tuple[int, ...]]:
    seen = []
    for step in steps:
        stage.loss(step)
        seen.append(stage.last_shape)  # type: ignore[attr-defined]
    return seen


class Watched(VaeStage):
    """Remembers what a step saw."""

    def __init__(self, recipe: VaeRecipe) -> None:
        super().__init__(recipe)
        inner = self.curriculum.batch

        def batch(step: int, progress: float) -> Batch:
            self.batch = inner(step, progress)
            self.last = self.batch.images
            self.last_shape = tuple(self.last.shape)
            return self.batch

        self.curriculum.batch = batch  # type: ignore[method-assign]


def own_pictures(folder: Path) -> FolderData:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (70, 50, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return FolderData(path=folder)


def test_phases_change_sizes_and_batches(recipe: VaeRecipe) -> None:
    seen = shapes(Watched(recipe), range(8))
    assert seen[:4] == [(6, 4, 16, 16)] * 4
    assert set(seen[4:]) <= {(3, 4, 48, 32), (3, 4, 32, 64), (3, 4, 32, 48)}
    assert len(set(seen[4:])) > 1


def test_without_phases_nothing_changes(recipe: VaeRecipe) -> None:
    flat = dataclasses.replace(recipe, phases=())
    one = dataclasses.replace(recipe, phases=(Phase(until=1.0),))
    assert flat.schedule == one.schedule
    assert flat.schedule[0].sizes == ((32, 32),)
    assert VaeStage(flat).loss(3)["loss"].item() == VaeStage(one).loss(3)["loss"].item()


def test_any_step_can_be_taken_up(recipe: VaeRecipe) -> None:
    stage = Watched(recipe)
    straight = []
    for step in range(10):
        stage.loss(step)
        straight.append(stage.last)
    for step in (2, 5, 9):
        other = Watched(recipe)
        other.loss(step)
        assert torch.equal(other.last, straight[step])
    assert not torch.equal(straight[1], straight[3])  # one size, another batch


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.stage.models["vae"].parameters()]


@pytest.mark.parametrize("split", [3, 6])
def test_a_resumed_run_equals_an_uninterrupted_one_by_the_clock_too(recipe: VaeRecipe, split: int) -> None:
    """The phase goes by minutes, which the state keeps; a step of 6 seconds, then the limit is a minute."""
    run = dataclasses.replace(recipe.run, steps=10**6, max_minutes=1.0)
    recipe = dataclasses.replace(recipe, run=run)

    def trained(steps: int, state: Path | None = None) -> tuple[Trainer, list[int]]:
        stage = Watched(recipe)
        trainer = Trainer(stage, recipe.run, recipe.optimizer, {})
        stage.progress = lambda step: trainer.progress
        if state is not None:
            trainer.load(state)
        batches = []
        for _ in range(steps):
            trainer.update()
            trainer.seconds += 6.0
            batches.append(stage.last_shape[0])
        return trainer, batches

    straight, seen = trained(8)
    first, before = trained(split)
    first.save(recipe.run.out / "state")
    second, after = trained(8 - split, recipe.run.out / "state")
    assert seen == before + after == [6] * 4 + [3] * 4
    assert all(torch.equal(a, b) for a, b in zip(weights(straight), weights(second), strict=True))


def test_a_whole_run_goes_by_the_trainers_progress(recipe: VaeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    loss = VaeStage.loss

    def watched(self: VaeStage, step: int) -> dict[str, torch.Tensor]:
        told.append(self.progress(step))
        return loss(self, step)

    monkeypatch.setattr(VaeStage, "loss", watched)
    train_vae(dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, steps=4, max_minutes=0.001)))
    assert told[0] == 0
    assert all(share > step / 4 for step, share in enumerate(told) if step)  # ahead of the steps: the clock leads


def test_margins_open_with_the_run(recipe: VaeRecipe, tmp_path: Path) -> None:
    torch.manual_seed(0)
    SemanticNetwork(SemanticConfig(widths=(4, 4, 4, 8, 8))).save_pretrained(tmp_path / "features")
    config = AlignmentConfig(features=tmp_path / "features", until=0.5, cosine_margins=(0.0, 2.0))
    assert config.margins(7, 0.0) == (0.0, 0.0)
    assert config.margins(7, 0.25) == pytest.approx((1.0, 0.125))
    assert config.margins(7, 0.9) == (2.0, 0.25)
    stage = VaeStage(dataclasses.replace(recipe, losses=(*DEFAULT_LOSSES, config)))
    strict = stage.loss(0)["align"].item()
    stage.progress = lambda step: 1.0
    assert stage.loss(0)["align"].item() < strict
    with pytest.raises(ValueError, match=r"until=1\.5"):
        AlignmentConfig(features=tmp_path, until=1.5)


def test_pictures_of_ones_own_follow_sizes_and_weights(recipe: VaeRecipe, tmp_path: Path) -> None:
    parts = Part(data=recipe.data, weight=1), Part(data=own_pictures(tmp_path / "own"), weight=1)
    first, last = recipe.phases
    recipe = dataclasses.replace(
        recipe,
        data=MixtureData(parts=parts, by="sample"),
        phases=(first, dataclasses.replace(last, weights=(1.0, 2.0))),
    )
    stage = Watched(recipe)
    counts = []
    for step in range(10):
        stage.loss(step)
        counts.append(sum(stage.batch.parts))
    assert abs(sum(counts[:4]) - 12) <= 2
    assert abs(sum(counts[4:]) - 12) <= 2  # of 24, and of 18 pictures
    assert stage.last_shape[2:] in ((48, 32), (32, 48), (32, 64))


def test_parts_come_and_go_with_the_phases(recipe: VaeRecipe) -> None:
    pages = SmallTextData(width=32, height=32, sizes=(8, 12))
    recipe = dataclasses.replace(
        recipe,
        data=MixtureData(parts=(Part(data=recipe.data), Part(data=pages)), by="sample"),
        phases=(Phase(until=0.5, weights=(1.0, 0.0)), Phase(until=1.0, weights=(0.0, 1.0))),
    )
    stage = Watched(recipe)
    stage.loss(1)
    assert set(stage.batch.parts) == {0}
    stage.loss(6)
    assert set(stage.batch.parts) == {1}
    assert [len(part) for part in stage.held_out] == [32]  # of the part that the last phase sees


def test_a_set_that_holds_nothing_out_is_watched_itself(
    recipe: VaeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = VaeStage(dataclasses.replace(recipe, data=own_pictures(tmp_path / "own"), phases=()))
    assert "pictures of the training set are watched" in capsys.readouterr().out
    assert [len(part) for part in stage.held_out] == [3]


def test_statistics_are_those_of_what_is_trained_on(recipe: VaeRecipe, tmp_path: Path) -> None:
    (tmp_path / "grey").mkdir()
    Image.new("RGB", (64, 64), (90, 90, 90)).save(tmp_path / "grey" / "a.png")
    grey = FolderData(path=tmp_path / "grey")
    mixture = MixtureData(parts=(Part(data=recipe.data), Part(data=grey)), by="sample")
    recipe = dataclasses.replace(recipe, data=mixture, phases=(Phase(until=1.0, weights=(0.0, 1.0)),))
    stage = VaeStage(recipe)
    stage._measure()
    flat = torch.full((1, 4, 32, 32), 90 / 127.5 - 1)
    flat[:, 3] = 1
    with torch.no_grad():
        z = stage.model.encode_raw(flat)
    torch.testing.assert_close(torch.tensor(stage.model.config.latents_mean), z.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)


def test_a_run_starts_from_another_ones_weights(recipe: VaeRecipe, tmp_path: Path) -> None:
    torch.manual_seed(3)
    other = Autoencoder(dataclasses.replace(SMALL, base_dim=8, z_dim=4))
    other.save_pretrained(tmp_path / "other")
    stage = VaeStage(dataclasses.replace(recipe, model=None, init=tmp_path / "other"))
    assert stage.model.config.base_dim == 8
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in stage.model.state_dict().items())
    assert stage.model.training
    assert stage.loss(0)["loss"].isfinite()  # the noise has the other's four channels


def test_balanced_pictures_have_the_gradient_of_the_mean_logarithm() -> None:
    x = torch.zeros(3, 4, 8, 8)
    y = (torch.rand(3, 4, 8, 8) * torch.tensor([0.01, 0.1, 1.0]).view(3, 1, 1, 1)).requires_grad_()
    errors = (y - x).abs().mean((1, 2, 3))
    (wanted,) = torch.autograd.grad(errors.log().mean(), y)
    (found,) = torch.autograd.grad(l1(balance(y, x), x), y)
    torch.testing.assert_close(found / errors.log().mean().exp(), wanted)


def test_squared_errors_count_where_asked(recipe: VaeRecipe) -> None:
    lists = DEFAULT_LOSSES, (*DEFAULT_LOSSES, Squared(weight=10.0))
    plain, asked = (VaeStage(dataclasses.replace(recipe, losses=losses)).loss(0) for losses in lists)
    assert "squared" not in plain
    assert asked["squared"] > asked["l1"] ** 2  # the mean of squares is at least the square of the mean
    torch.testing.assert_close(asked["loss"] - plain["loss"], 10 * asked["squared"])


def finished(folder: Path, **changes: object) -> Autoencoder:
    """An autoencoder with statistics, in a folder."""
    torch.manual_seed(3)
    other = Autoencoder(dataclasses.replace(SMALL, **changes))
    other.set_statistics(torch.full((8,), 0.5), torch.full((8,), 2.0))
    other.save_pretrained(folder)
    return other


def test_a_frozen_encoder_keeps_latents_and_statistics(recipe: VaeRecipe, tmp_path: Path) -> None:
    other, x = finished(tmp_path / "other"), torch.rand(2, 4, 32, 32) * 2 - 1
    trained = train_vae(dataclasses.replace(recipe, init=tmp_path / "other", freeze_encoder=True))
    model = Autoencoder.from_pretrained(trained)
    with torch.no_grad():
        assert torch.equal(model.encode(x), other.encode(x))
        assert not torch.allclose(model.decode(model.encode(x)), other.decode(other.encode(x)))
    with pytest.raises(ValueError, match="freeze_encoder=true: it needs init"):
        dataclasses.replace(recipe, freeze_encoder=True)
    anchored = (L1(), AnchorConfig(folder=tmp_path / "other"))
    with pytest.raises(ValueError, match=r"leaves nothing to losses of latents \(anchor\)"):
        dataclasses.replace(recipe, init=tmp_path / "other", freeze_encoder=True, losses=anchored)
    adaptive = (L1(), AlignmentConfig(features=tmp_path, adaptive=True))
    with pytest.raises(ValueError, match="alignment goes through the graph twice"):
        dataclasses.replace(recipe, compile=True, losses=adaptive)


def test_anchored_latents_come_near_those_of_another_architecture(recipe: VaeRecipe, tmp_path: Path) -> None:
    finished(tmp_path / "other", base_dim=8)
    patched = dataclasses.replace(
        SMALL, dim_mult=(1, 2, 2), temperal_downsample=(False,) * 2, in_channels=64, out_channels=64, patch_size=4
    )
    anchor = AnchorConfig(folder=tmp_path / "other", weight=1.0)
    run = dataclasses.replace(recipe.run, steps=60)
    recipe = dataclasses.replace(recipe, model=patched, run=run, phases=(), losses=(*DEFAULT_LOSSES, anchor))
    stage = VaeStage(recipe)
    trainer = Trainer(stage, run, recipe.optimizer, {})
    found = [float(trainer.update()["anchor"]) for _ in range(60)]
    assert sum(found[-5:]) < 0.5 * sum(found[:5])
    fewer = dataclasses.replace(SMALL, z_dim=4)
    with pytest.raises(ValueError, match="8 channels at 1/16 of 4-channel pictures, those of the new model 4 at 1/16"):
        VaeStage(dataclasses.replace(recipe, model=fewer))


def test_pages_are_free_of_the_anchor(recipe: VaeRecipe, tmp_path: Path) -> None:
    finished(tmp_path / "other")
    parts = Part(data=recipe.data), Part(data=SmallTextData(width=32, height=32, sizes=(8, 12)))
    anchor = AnchorConfig(folder=tmp_path / "other", weight=1.0, parts=(0,))
    recipe = dataclasses.replace(
        recipe,
        data=MixtureData(parts=parts),
        phases=(Phase(until=1.0, weights=(0.0, 1.0)),),
        losses=(*DEFAULT_LOSSES, anchor),
    )
    assert VaeStage(recipe).loss(0)["anchor"].item() == 0
    scenes = dataclasses.replace(recipe, phases=())
    assert VaeStage(scenes).loss(0)["anchor"].item() > 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"phases": [{"until": 0.5}]}, "the last at 1"),
        ({"phases": [{"until": 0.5}, {"until": 0.5}, {"until": 1.0}]}, "each later"),
        ({"phases": [{"until": 1.0, "batch_size": 0}]}, "batch_size=0"),
        ({"phases": [{"until": 1.0, "weights": [1.0]}]}, "the data is a mixture of 0 parts"),
        ({"phases": [{"until": 1.0, "weights": [0.0]}]}, "one must be above 0"),
        ({"phases": [{"until": 1.0, "sizes": []}]}, "at least one"),
        ({"phases": [{"until": 1.0, "size": [32, 32]}]}, "did you mean 'sizes'"),
        ({"sizes": []}, "there are no sizes"),
        ({"data": {"kind": "folder"}}, "the key 'path' is missing"),
    ],
)
def test_impossible_curricula_are_refused_at_once(changes: dict[str, object], reason: str, tmp_path: Path) -> None:
    tree = {
        "data": {"kind": "world", "world": {"width": 32, "height": 32}},
        "sizes": [[32, 32]],
        "model": {},
        "run": {"out": str(tmp_path), "steps": 2},
        "optimizer": {},
        "batch_size": 4,
    }
    build(VaeRecipe, tree)
    with pytest.raises(RecipeError, match=reason):
        build(VaeRecipe, tree | changes)


def test_sizes_that_latents_cannot_tile_are_refused_before_the_first_step(recipe: VaeRecipe) -> None:
    phases = (Phase(until=0.9), Phase(until=1.0, sizes=((32, 40),)))
    with pytest.raises(ValueError, match=r"^sizes: 32 x 40 pixels; sides must be divisible by 16"):
        VaeStage(dataclasses.replace(recipe, phases=phases))


FULL = {"vae": (16, 64), "vae-f16c128": (16, 128), "vae-f32c192": (32, 192)}


@pytest.mark.parametrize("name", FULL)
def test_the_full_recipes_describe_their_models(name: str) -> None:
    recipe = load_recipe(VaeRecipe, RECIPES / "7b" / f"{name}.yaml")
    factor, channels = FULL[name]
    with torch.device("meta"):
        model = Autoencoder(recipe.model)
        z = model.encode_raw(torch.empty(1, 4, 128, 64))
        assert z.shape == (1, channels, 128 // factor, 64 // factor)
        assert model.decode_raw(z).shape == (1, 4, 128, 64)
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder)]
    if name == "vae":
        assert counts == [78_675_680, 259_044_052]  # 78.7 M and 259.0 M
    sides = {side for plan in recipe.schedule for size in plan.sizes for side in size}
    assert not any(side % factor for side in sides)
    assert max(sides) == 1280
    assert [term.kind for term in recipe.losses] == ["l1", "lpips", "alignment"]


@pytest.mark.parametrize("name", FULL)
def test_the_full_recipes_run_when_made_small(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(VaeRecipe, RECIPES / "7b" / f"{name}.yaml")
    wanted, factor = recipe.model, FULL[name][0]
    model = dataclasses.replace(
        wanted,
        base_dim=4,
        decoder_base_dim=4,
        num_res_blocks=1,
        temperal_downsample=(False,) * len(wanted.dim_mult[1:]),
    )
    SemanticNetwork(SemanticConfig(widths=(4,) * len(wanted.dim_mult))).save_pretrained(tmp_path / "features")
    _, _, aligned = recipe.losses
    phases = tuple(dataclasses.replace(phase, sizes=((64, 2 * factor),), batch_size=2) for phase in recipe.phases)
    photos = dataclasses.replace(recipe.data.parts[0], data=own_pictures(tmp_path / "photos"))
    small = dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, parts=(photos, *recipe.data.parts[1:])),
        model=model,
        run=RunConfig(out=tmp_path / "run", steps=len(phases), log_seconds=0),
        losses=(L1(), dataclasses.replace(aligned, features=tmp_path / "features")),
        phases=phases,
        compile=False,
        loader=LoaderConfig(workers=0),
        statistics=2,
    )
    assert Autoencoder.from_pretrained(train_vae(small)).config.latents_std is not None


def test_the_variants_are_small_changes_of_the_published_model() -> None:
    plain = load_recipe(VaeRecipe, RECIPES / "7b" / "vae.yaml")
    for name in ("vae-f16c128", "vae-f32c192"):
        variant = load_recipe(VaeRecipe, RECIPES / "7b" / f"{name}.yaml")
        changed = {f.name for f in dataclasses.fields(VaeRecipe) if getattr(plain, f.name) != getattr(variant, f.name)}
        assert changed <= {"model", "run"}
