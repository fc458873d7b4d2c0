"""The semantic network, its labels from the scene graph, and training with it and with pictures of one's own."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourstroke.checkpoint import CheckpointError
from fourstroke.data.datasets.folder import FolderData
from fourstroke.data.datasets.mixture import MixtureData, Part
from fourstroke.data.loader import LoaderConfig
from fourstroke.recipe import RecipeError, build, load_recipe
from fourstroke.train.features import FeaturesRecipe, FeaturesStage, train_features
from fourstroke.train.loop import RunConfig, Trainer
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.vae import VaeRecipe, VaeStage, train_vae
from fourstroke.vae import Autoencoder, AutoencoderConfig
from fourstroke.vae.features import SemanticConfig, SemanticNetwork
from fourstroke.vae.objective import DEFAULT_LOSSES
from fourstroke.vae.objective.alignment import AlignmentConfig, AlignmentTerm
from fourstroke.vae.objective.pictures import L1, Edge, Squared
from fourstroke.world import Background, Object, Scene, Sign, World, WorldConfig
from fourstroke.world.cells import UNKNOWN, CellNames, cell_labels
from fourstroke.world.dataset import PosterData, WorldData
from fourstroke.world.labels import WorldLabels
from fourstroke.world.pages import PageConfig

WORLD = WorldConfig(width=32, height=32, sprites=0)  # shapes alone need no fonts
SMALL = SemanticConfig(widths=(4, 4, 4, 8, 8), outputs=7)
NAMES = CellNames(("background", "sign", "circle", "square"), ("red", "white", "grey"))


@pytest.fixture
def features(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    SemanticNetwork(SMALL).save_pretrained(tmp_path / "features")
    return tmp_path / "features"


@pytest.fixture
def recipe(tmp_path: Path) -> VaeRecipe:
    flat = (False,) * 4
    return VaeRecipe(
        data=WorldData(world=WORLD),
        sizes=((32, 32),),
        loader=LoaderConfig(workers=0),
        model=AutoencoderConfig(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=8,
            num_res_blocks=1,
            dim_mult=(1, 1, 2, 2, 2),
            temperal_downsample=flat,
        ),
        run=RunConfig(out=tmp_path / "vae", steps=4, log_seconds=0),
        optimizer=OptimizerConfig(lr=2e-3, warmup=2),
        batch_size=4,
        statistics=32,
    )


def test_labels_by_hand() -> None:
    scene = Scene(
        width=64,
        height=64,
        layout="pair",
        background=Background(kind="horizon", colour="white", second="grey", horizon=0.5),
        objects=(
            Object(name="circle", kind="shape", colour="red", x=0.25, y=0.25, size=0.5),
            Object(name="square", kind="sprite", x=0.25, y=0.125, size=0.2),
        ),
        sign=Sign(word="a", script="latin", font="f", board="white", ink="red", x=0.5, y=0.875, width=1.0, height=0.25),
    )
    things, colours, styles = (part[0].tolist() for part in cell_labels([scene], NAMES))
    assert things == [[2, 2, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]  # the square lies between cell centres
    assert styles == [[UNKNOWN] * 4] * 4
    assert colours == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2], [1, 1, 1, 1]]  # a sign has its board's


def test_features_halve_and_come_back_frozen(features: Path) -> None:
    network = SemanticNetwork.from_pretrained(features)
    maps = network.features(torch.rand(2, 4, 32, 48))
    assert [tuple(m.shape) for m in maps] == [(2, 4, 16, 24), (2, 4, 8, 12), (2, 8, 4, 6), (2, 8, 2, 3)]
    assert network(torch.rand(1, 3, 16, 32)).shape == (1, 7, 1, 2)
    assert not any(p.requires_grad for p in network.parameters())
    assert network.config == SMALL
    with pytest.raises(ValueError, match="sides in 16s"):
        network.features(torch.rand(1, 3, 24, 16))
    (features / "config.json").write_text('{"depth": 3}')
    with pytest.raises(CheckpointError, match="no semantic network"):
        SemanticNetwork.from_pretrained(features)


def test_the_network_learns_what_cells_show(tmp_path: Path) -> None:
    recipe = FeaturesRecipe(
        data=WorldData(world=WORLD),
        labels=WorldLabels(world=WORLD),
        model=SemanticConfig(widths=(8, 8, 16, 16, 16)),
        run=RunConfig(out=tmp_path / "features", steps=40, log_seconds=0),
        optimizer=OptimizerConfig(lr=3e-3, warmup=2),
        batch_size=8,
    )
    stage = FeaturesStage(recipe)
    first = stage._batch(0)
    assert first.images is not None
    world = World(WORLD)
    for image, record in zip(first.images, first.records, strict=True):  # whole pictures, as labels need them
        assert (image.permute(1, 2, 0).numpy() == world.render(record.meta["scene"])).all()
    stage._batch = lambda step: first  # type: ignore[method-assign]
    trainer = Trainer(stage, recipe.run, recipe.optimizer, {})
    losses = [trainer.update()["loss"].item() for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]
    assert stage.sample(tmp_path, 0).keys() == {"things", "colours"}
    folder = train_features(dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, steps=2)))
    outputs = WorldLabels(world=WORLD).open().outputs
    assert SemanticNetwork.from_pretrained(folder).config.outputs == outputs == stage.config.outputs


def test_pictures_of_several_sizes_are_refused(tmp_path: Path) -> None:
    sizes = PosterData(pages=PageConfig(width=64, height=64), sizes=((64, 64), (64, 96)))
    recipe = FeaturesRecipe(
        data=sizes,
        labels=WorldLabels(world=WORLD),
        model=SemanticConfig(widths=(4, 4, 4, 8, 8)),
        run=RunConfig(out=tmp_path / "features", steps=2),
        optimizer=OptimizerConfig(),
        batch_size=8,
    )
    with pytest.raises(ValueError, match="whole pictures of one size"):
        FeaturesStage(recipe).loss(0)


def test_margins_open_from_strict_to_loose() -> None:
    config = AlignmentConfig(features=Path("x"), cosine_margins=(0.1, 0.5), distance_margins=(0.0, 0.2), steps=10)
    assert config.margins(0) == (0.1, 0.0)
    assert config.margins(5) == pytest.approx((0.3, 0.1))
    assert config.margins(10) == config.margins(999) == (0.5, 0.2)


@pytest.mark.parametrize("adaptive", [False, True])
def test_alignment_moves_the_map_and_leaves_the_network(recipe: VaeRecipe, features: Path, adaptive: bool) -> None:
    aligned = AlignmentConfig(features=features, steps=4, perceptual=0.1, adaptive=adaptive)
    stage = VaeStage(dataclasses.replace(recipe, losses=(*DEFAULT_LOSSES, aligned)))
    term = stage.objective.terms[-1]
    assert isinstance(term, AlignmentTerm)
    assert list(stage.models) == ["vae", "alignment"]
    before = term.map.weight.clone()
    network = {k: v.clone() for k, v in term.network.state_dict().items()}
    scalars = Trainer(stage, recipe.run, recipe.optimizer, {}).update()
    assert {"align", "perceptual", "l1"} <= scalars.keys()
    assert scalars["align"] > 0
    assert not torch.equal(before, term.map.weight)
    assert all(torch.equal(v, network[k]) for k, v in term.network.state_dict().items())


def test_without_alignment_nothing_is_added(recipe: VaeRecipe) -> None:
    stage = VaeStage(recipe)
    assert list(stage.models) == ["vae"]
    assert stage.loss(0).keys() == {"loss", "l1", "edge"}


def test_pictures_of_ones_own_are_trained_on_and_broken_ones_named(recipe: VaeRecipe, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(own / f"{index}.png")
    (own / "broken.jpg").write_bytes(b"no")
    parts = Part(data=recipe.data), Part(data=FolderData(path=own))
    recipe = dataclasses.replace(recipe, data=MixtureData(parts=parts, by="sample"))
    folder = train_vae(recipe)
    assert Autoencoder.from_pretrained(folder).config.latents_std is not None
    report = json.loads((recipe.run.out / "data.json").read_text())
    assert report["skipped"] == {"broken": {"1-own/broken.jpg": "not a picture of a known kind or depth"}}

    losses = VaeStage(recipe), VaeStage(recipe)
    straight = [losses[0].loss(step)["l1"].item() for step in range(3)]
    assert losses[1].loss(2)["l1"].item() == straight[2]  # the stream of pictures can be taken up anywhere


def test_recipes_are_read(tmp_path: Path) -> None:
    recipes = Path(__file__).parents[2] / "recipes"
    assert load_recipe(FeaturesRecipe, recipes / "micro" / "features.yaml").model.factor == 16
    words = ["losses.alignment.features=f", "losses.alignment.weight=0.2", "data={kind: folder, path: photos}"]
    recipe = load_recipe(VaeRecipe, recipes / "micro" / "vae.yaml", words)
    assert recipe.losses == (
        L1(),
        Edge(weight=0.5),
        Squared(weight=10.0),
        AlignmentConfig(features=Path("f"), weight=0.2),
    )
    assert recipe.data == FolderData(path=Path("photos"))
    with pytest.raises(RecipeError, match="steps=0"):
        build(AlignmentConfig, {"features": "f", "steps": 0})
